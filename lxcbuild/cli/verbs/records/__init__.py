"""Verbs that read what was recorded, and publish it."""
