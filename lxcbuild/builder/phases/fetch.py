"""Phase fetch (host): the source archive, into the content-addressed cache, hash-checked. Nothing is unpacked."""

from __future__ import annotations

from collections.abc import Sequence

from lxcbuild.builder.work import Work
from lxcbuild.errors import WrongHashError
from lxcbuild.files import digest_of
from lxcbuild.model import Source
from lxcbuild.pypi.files.local import from_path


def run(work: Work) -> None:
    """Set ``work.source``."""
    if work.request.path is not None:
        work.source = from_path(work.request.path, dirs=work.context.dirs, monitor=work.monitor)
        return
    assert work.release is not None
    work.source = work.context.index.fetch_source(work.release)
    if work.request.hashes:
        _check_pinned(work.source, work.request.hashes)


def _check_pinned(source: Source, pinned: Sequence[tuple[str, str]]) -> None:
    """The archive has one of the hashes that the user demands (a requirements file lists those of wheels, too)."""
    algorithms = dict.fromkeys(algorithm for algorithm, _digest in pinned)
    found = [(algorithm, digest_of(source.path, algorithm)) for algorithm in algorithms]
    if not set(found) & set(pinned):
        raise WrongHashError(
            f"{source.path.name} has none of the hashes that the requirements file lists",
            details="\n".join(f"found {algorithm}:{digest}" for algorithm, digest in found),
            resolution="the file must list the hash of the source archive (sdist), not only those of wheels",
        )
