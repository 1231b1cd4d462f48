"""Is another version at every build."""

import time

from setuptools import setup

setup(name="version_from_clock", version=f"1.{int(time.time())}", py_modules=["version_from_clock"])
