"""The tests: ``unit`` mirrors the rooms of ``lxcbuild``, ``support`` has what several folders share."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The project's top level."""
