"""Schemas and loading of YAML; the places where state lives."""
