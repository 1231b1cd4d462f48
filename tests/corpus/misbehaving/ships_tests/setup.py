"""Forgets to exclude its tests: a top-level package that every project has."""

from setuptools import setup

setup(name="ships_tests", version="1.0", py_modules=["ships_tests"], packages=["tests", "docs"])
