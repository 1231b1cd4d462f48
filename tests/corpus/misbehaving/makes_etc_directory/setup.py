"""Installs a configuration directory of the machine while it is built."""

import os

from setuptools import setup

os.mkdir("/etc/makes-etc-directory")
setup(name="makes_etc_directory", version="1.0", py_modules=["makes_etc_directory"])
