"""Who says what a setuptools project consists of: its configuration, or setuptools by looking at the directories.

Looking, setuptools takes every directory beside the project's own for a package, ``debian`` too, and refuses two or takes the wrong
one (https://setuptools.pypa.io/en/stable/userguide/package_discovery.html#flat-layout). Nothing of the project is run here.
"""

from __future__ import annotations

import re
from typing import Any

_TOLD_BY_TABLE = ("packages", "py-modules", "package-dir", "ext-modules")
_TOLD_BY_SETUP_CFG = re.compile(r"^\s*(?:packages|py[_-]modules|package[_-]dir)\s*=", re.MULTILINE)
#: Anything of the kind in a setup.py counts, also what is computed; pbr and others bring lists of their own.
_TOLD_BY_SETUP_PY = re.compile(r"\b(?:packages|py_modules|package_dir|ext_modules|pbr|skbuild|configuration)\b")


def is_left_to_setuptools(table: dict[str, Any], setup_cfg: str, setup_py: str, *, src: bool) -> bool:
    """Whether packages are found by looking at the top level: nothing names them, and there is no ``src`` to look into instead.

    ``table`` is ``[tool.setuptools]``; the texts are empty for files that are not there.
    """
    told = any(key in table for key in _TOLD_BY_TABLE)
    return not (src or told or _TOLD_BY_SETUP_CFG.search(setup_cfg) or _TOLD_BY_SETUP_PY.search(setup_py))
