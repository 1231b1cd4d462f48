"""Needs half as much again as the disk of the tests has, and gives it back."""

import os

from setuptools import setup

with open("/tmp/tables", "wb", buffering=0) as tables:
    for _ in range(180):
        tables.write(bytes(1 << 20))
os.unlink("/tmp/tables")
setup(name="needs_more_room", version="1.0", py_modules=["needs_more_room"])
