"""Gets its C library with git while it is built."""

import subprocess
import sys

from setuptools import setup

if {"build", "bdist_wheel", "install"} & set(sys.argv):
    subprocess.check_call(["git", "clone", "--depth=1", "https://github.com/example/library.git", "vendor"])
setup(name="clones_repository", version="1.0", py_modules=["clones_repository"])
