"""Phase fetch (host): the source archive, into the content-addressed cache, hash-checked. Nothing is unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lxcbuild.builder.facts import Resolved
from lxcbuild.builder.work import Work
from lxcbuild.errors import WrongHashError
from lxcbuild.files import digest_of
from lxcbuild.model import Source
from lxcbuild.pypi.files.local import from_path


def run(work: Work, resolved: Resolved) -> Source:
    """Fetch the archive; a directory is packed."""
    if isinstance(resolved.origin, Path):
        source = from_path(resolved.origin, dirs=work.context.dirs, monitor=work.monitor)
    else:
        source = work.context.index.fetch_source(resolved.origin)
        _check_pinned(source, work.request.hashes)
    work.identify(source.name, source.version)
    return source


def _check_pinned(source: Source, pinned: Sequence[tuple[str, str]]) -> None:
    """The archive has one of the hashes that the user demands (a requirements file lists those of wheels, too)."""
    algorithms = dict.fromkeys(algorithm for algorithm, _digest in pinned)
    found = [(algorithm, digest_of(source.path, algorithm)) for algorithm in algorithms]
    if pinned and not set(found) & set(pinned):
        raise WrongHashError(
            f"{source.path.name} has none of the hashes that the requirements file lists",
            details="\n".join(f"found {algorithm}:{digest}" for algorithm, digest in found),
            resolution="the file must list the hash of the source archive (sdist), not only those of wheels",
        )
