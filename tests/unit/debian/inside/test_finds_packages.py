"""Whether setuptools finds a project's packages by looking: then it must not see debian/."""

from __future__ import annotations

import pytest

from lxcbuild.debian.inside.inspect_source import is_left_to_setuptools


@pytest.mark.parametrize(
    ("table", "setup_cfg", "setup_py", "src", "left"),
    [
        ({}, "", "", False, True),
        ({"zip-safe": False}, "[metadata]\nname = x\n", "from setuptools import setup\nsetup()\n", False, True),
        ({}, "", "", True, False),
        ({"packages": ["x"]}, "", "", False, False),
        ({"packages": {"find": {}}}, "", "", False, False),
        ({"py-modules": ["x"]}, "", "", False, False),
        ({}, "[options]\npackages = find:\n", "", False, False),
        ({}, "[options]\npy_modules = x\n", "", False, False),
        ({}, "", "setup(packages=find_packages())", False, False),
        ({}, "", "setup(setup_requires=['pbr'], pbr=True)", False, False),
        ({}, "", "setup(**configuration(top_path='').todict())", False, False),
    ],
)
def test_nothing_names_the_packages(table, setup_cfg, setup_py, src, left) -> None:
    assert is_left_to_setuptools(table, setup_cfg, setup_py, src=src) is left
