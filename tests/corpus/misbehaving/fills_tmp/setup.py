"""Keeps a cache in /tmp and never looks at its size."""

import os

from setuptools import setup

with open(f"/tmp/cache-{os.getpid()}", "wb", buffering=0) as cache:
    for _ in range(1 << 14):
        cache.write(bytes(1 << 16))
setup(name="fills_tmp", version="1.0", py_modules=["fills_tmp"])
