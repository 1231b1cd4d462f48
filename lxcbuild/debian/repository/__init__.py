"""Signed APT repositories: pool, indexes, signatures, checks."""
