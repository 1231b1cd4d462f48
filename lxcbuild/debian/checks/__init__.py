"""Checks of what was built: installation, lintian, tests, reproducibility."""
