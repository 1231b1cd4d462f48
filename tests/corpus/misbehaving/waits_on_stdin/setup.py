"""Asks a question that nobody is there to answer."""

from setuptools import setup

name = input("What shall the project be called? ")
setup(name=name, version="1.0", py_modules=["waits_on_stdin"])
