"""Phase fetch (host): the source archive, into the content-addressed cache, hash-checked. Nothing is unpacked."""

from __future__ import annotations

from lxcbuild.build.work import Work
from lxcbuild.pypi.local import from_path


def run(work: Work) -> None:
    """Set ``work.source``."""
    if work.request.path is not None:
        work.source = from_path(work.request.path, dirs=work.facilities.dirs, monitor=work.monitor)
        return
    assert work.release is not None
    work.source = work.facilities.index.fetch_source(work.release)
