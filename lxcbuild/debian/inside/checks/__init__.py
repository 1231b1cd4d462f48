"""Checks inside a sandbox: of installed packages, and by the tests of a project."""
