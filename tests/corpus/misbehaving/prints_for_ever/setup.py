"""Reports its progress, all of it."""

from setuptools import setup

for number in range(1 << 40):
    print("checking whether step", number, "has been checked... yes", flush=number % 1000 == 0)
setup(name="prints_for_ever", version="1.0", py_modules=["prints_for_ever"])
