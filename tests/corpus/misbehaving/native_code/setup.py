"""Compiles for the processor of the machine that builds it."""

from setuptools import Extension, setup

setup(
    name="native_code",
    version="1.0",
    py_modules=["native_code"],
    ext_modules=[Extension("_native_code", ["native_code.c"], extra_compile_args=["-O3", "-march=native"])],
)
