"""One worker per file, and no end of files."""

import os
import sys
import time

from setuptools import setup

try:
    for _ in range(100_000):
        if os.fork() == 0:
            os.closerange(0, 100)
            time.sleep(600)
            os._exit(0)
except OSError:
    sys.exit("cannot start a worker")
setup(name="forks_without_end", version="1.0", py_modules=["forks_without_end"])
