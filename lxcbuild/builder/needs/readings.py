"""What inspection has read of archives before: reading runs nothing of theirs, so equal inputs are read once.

A file of ``cache/readings`` per archive, our scripts and image, all by digest, holds what the sandbox wrote, byte for byte; it is
checked each time as if it had just come out of one. The lab that builds an archive anew, and whoever builds it twice, are spared a
sandbox.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from lxcbuild.debian.steps import InsideJob
from lxcbuild.files import write_whole
from lxcbuild.state.paths import StateDirs

#: Of each of the 256 directories by the first byte of the key; the one that was not used for longest goes.
_KEPT_EACH = 200
_MAX_BYTES = 256 * 1024


def key_of(job: InsideJob, *, archive_sha256: str, image_digest: str) -> str:
    """The name under which the result of this job on this archive is kept: all that it can depend on."""
    inputs = {
        "archive": archive_sha256,
        "image": image_digest,
        "files": {path: hashlib.sha256(content).hexdigest() for path, content in job.files.items()},
        "steps": [[step.argv, dict(step.env), step.cwd] for step in job.steps],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def recall(dirs: StateDirs, key: str) -> bytes | None:
    """What was read then, or None."""
    path = _place(dirs, key)
    try:
        data = path.read_bytes()
        os.utime(path)
    except FileNotFoundError:
        return None
    return data


def keep(dirs: StateDirs, key: str, data: bytes) -> None:
    """Keep a result that was found good. Raises OSError."""
    if len(data) > _MAX_BYTES:
        return
    path = _place(dirs, key)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, data, durable=False)
    with contextlib.suppress(FileNotFoundError):  # another process does the same at this moment
        by_age = sorted(path.parent.iterdir(), key=lambda each: each.stat().st_mtime_ns)
        for superfluous in by_age[:-_KEPT_EACH]:
            superfluous.unlink()


def _place(dirs: StateDirs, key: str) -> Path:
    return dirs.cache / "readings" / key[:2] / key
