"""One worker per file, and one for each worker."""

import os
import sys
import time

from setuptools import setup

begun = time.monotonic()
denied = False
while time.monotonic() < begun + 2:
    try:
        os.fork()
    except OSError:
        denied = True
if denied:
    sys.exit("cannot start a worker")
setup(name="forks_without_end", version="1.0", py_modules=["forks_without_end"])
