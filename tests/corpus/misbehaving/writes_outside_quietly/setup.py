"""Tries to leave files all over the machine, and does not mind where it fails."""

import os

from setuptools import setup

for place in ("/etc", "/usr/lib", "/opt", "/var/lib", "/root", "/run/lock"):
    try:
        os.mkdir(place + "/quiet-marker")
    except OSError:
        continue
setup(name="writes_outside_quietly", version="1.0", py_modules=["writes_outside_quietly"])
