"""Needs more temporary space than there is, and leaves none of it behind when it fails."""

import tempfile

from setuptools import setup

with tempfile.TemporaryFile(buffering=0) as scratch:
    for _ in range(1 << 14):
        scratch.write(bytes(1 << 16))
setup(name="fills_tmp_and_cleans_up", version="1.0", py_modules=["fills_tmp_and_cleans_up"])
