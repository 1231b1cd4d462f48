"""Retries for ever, and says so."""

import time

from setuptools import setup

while True:
    print("still waiting for the licence server", flush=True)
    time.sleep(0.2)
setup(name="spins_loudly", version="1.0", py_modules=["spins_loudly"])
