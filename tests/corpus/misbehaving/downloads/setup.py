"""Fetches a part of itself from the network, and cannot do without."""

import sys
import urllib.request

from setuptools import setup

if {"build", "bdist_wheel", "install"} & set(sys.argv):
    urllib.request.urlopen("https://github.com/example/data/archive/main.tar.gz").read()
setup(name="downloads", version="1.0", py_modules=["downloads"])
