"""Installs a cron job, wherever it is installed."""

from setuptools import setup

setup(
    name="absolute_data_files",
    version="1.0",
    py_modules=["absolute_data_files"],
    data_files=[("/etc/cron.d", ["absolute_data_files.py"])],
)
