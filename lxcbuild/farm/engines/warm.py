"""Imported by the server that worker processes are forked from: what each of them would do first of all is done there, once.

Single builds import these where they need them; each worker of a run would, too, for 0.1 s of CPU.
"""

from __future__ import annotations

import importlib

for _name in ("urllib3", "email.parser", "urllib.request", "lxcbuild.pypi.index.anchors", "lxcbuild.farm.results"):
    importlib.import_module(_name)
