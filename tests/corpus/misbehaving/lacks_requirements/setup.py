"""Reads a file that MANIFEST.in forgot."""

from setuptools import setup

with open("requirements.txt") as file:
    requirements = file.read().splitlines()
setup(name="lacks_requirements", version="1.0", py_modules=["lacks_requirements"], install_requires=requirements)
