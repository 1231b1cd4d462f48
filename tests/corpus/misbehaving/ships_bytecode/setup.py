"""Ships what its maker's Python once compiled."""

from setuptools import setup

setup(
    name="ships_bytecode",
    version="1.0",
    py_modules=["ships_bytecode"],
    packages=["shipsbytecode"],
    package_data={"shipsbytecode": ["*.pyc", "__pycache__/*"]},
)
