"""Choosing versions: specifiers, markers, candidates, requirement files."""
