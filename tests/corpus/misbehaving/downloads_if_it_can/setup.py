"""Would like a file from the network, and does without where there is none."""

import urllib.request

from setuptools import setup

try:
    urllib.request.urlopen("http://stats.example.org:8080/count").read()
except OSError as error:
    print("no statistics:", error)
setup(name="downloads_if_it_can", version="1.0", py_modules=["downloads_if_it_can"])
