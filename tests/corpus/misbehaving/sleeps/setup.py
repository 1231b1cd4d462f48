"""Waits for a daemon that is not there."""

import time

from setuptools import setup

time.sleep(100_000)
setup(name="sleeps", version="1.0", py_modules=["sleeps"])
