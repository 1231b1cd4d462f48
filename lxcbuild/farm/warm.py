"""Imported by the server that worker processes are forked from: what each of them would do first of all is done there, once."""

from __future__ import annotations

from lxcbuild.farm import results

results.prepare()
