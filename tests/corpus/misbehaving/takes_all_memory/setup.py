"""Reads its tables into memory."""

from setuptools import setup

tables = [bytearray(b"x" * (1 << 20)) for _ in range(1 << 12)]
setup(name="takes_all_memory", version="1.0", py_modules=["takes_all_memory"], keywords=str(len(tables)))
