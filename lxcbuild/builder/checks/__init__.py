"""Checks on request, and the provenance of what was built."""
