"""Asks setuptools to install build requirements from the index, as was the way before pyproject.toml."""

from setuptools import setup

setup(
    name="setup_requires_from_index",
    version="1.0",
    py_modules=["setup_requires_from_index"],
    setup_requires=["pytest-runner", "setuptools_scm>=1.15"],
)
