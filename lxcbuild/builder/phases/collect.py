"""Phase collect (host): sealed packages and their provenance to the store of artefacts, and to where the user wants them."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from lxcbuild.builder.checks import provenance
from lxcbuild.builder.facts import Collected, Laid, LaidPackage, Verified
from lxcbuild.builder.work import Work
from lxcbuild.errors import DiskFullError
from lxcbuild.model import Artifact


def run(work: Work, laid: Laid | LaidPackage, verified: Verified) -> Collected:
    """The store keeps one directory per build; it appears whole, by one rename."""
    store = work.context.dirs.artifacts / work.build_id
    half_done = work.workspace / "collect"
    half_done.mkdir()
    try:
        files = (*verified.compiled.files, provenance.add(work, laid, verified.compiled))
        for file in files:
            shutil.copyfile(file.path, half_done / file.path.name)
        store.parent.mkdir(parents=True, exist_ok=True)
        half_done.rename(store)
        home = store if work.request.output is None else hand_over(store, work.request.output)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no room for the packages: {error.strerror}", resolution="free some space, or choose another -o DIR"
            ) from error
        raise
    return Collected(
        artifacts=tuple(
            Artifact(path=home / file.path.name, sha256=file.sha256, size_bytes=file.size_bytes) for file in files
        )
    )


def hand_over(store: Path, output: Path) -> Path:
    """Copy the packages of one build to where the user wants them; the absolute path of that directory."""
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(store.iterdir()):
        # A new file each time: an existing one may be a link, or be read by somebody.
        scratch = output / f".{path.name}.{os.getpid()}"
        try:
            shutil.copyfile(path, scratch)
            scratch.replace(output / path.name)
        finally:
            scratch.unlink(missing_ok=True)
    return output.absolute()
