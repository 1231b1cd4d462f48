"""The runner compiled by an image's own Python, for images whose Python is not the host's: done once, in a sandbox of that image.

The host cannot compile for another Python, and PID 1 that compiles its own source costs 6 ms of every start. What comes out is
executed in sandboxes of the same image only, by a Python that checks its bytecode's number first (see runner_boot.py); no process
of the host ever reads it as code.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
from pathlib import Path

from lxcbuild.errors import SandboxError
from lxcbuild.policy import CpuLimits, DiskLimits, MemoryLimits, NetworkMode, OutputLimits, Policy, TimeLimits
from lxcbuild.sandbox.base import Backend, InstanceSpec, Step
from lxcbuild.sandbox.inside import runner_code
from lxcbuild.state import claims, locks
from lxcbuild.state.paths import StateDirs

_PYTHON = "usr/bin/python3"
_RESULT = "code"
_MAX_BYTES = runner_code.MAX_BYTES
#: Runs inside; the sources lie beside it. The same as runner_code does on the host.
_SCRIPT = f"""\
import importlib.util, marshal
def compiled(name):
    with open("/build/" + name, "rb") as source:
        return compile(source.read(), name, "exec", optimize=2, dont_inherit=True)
halves = tuple(compiled(name) for name in {runner_code.HALVES!r})
with open("/out/{_RESULT}", "wb") as result:
    result.write(importlib.util.MAGIC_NUMBER + marshal.dumps(halves))
"""
_MIB = 1 << 20
_POLICY = Policy(
    name="compile-runner",
    memory=MemoryLimits(max_bytes=256 * _MIB),
    disk=DiskLimits(max_bytes=16 * _MIB, max_inodes=1000),
    time=TimeLimits(wall_s=60),
    cpu=CpuLimits(weight=100),
    output=OutputLimits(max_files=1, max_bytes=_MAX_BYTES, max_file_bytes=_MAX_BYTES, max_depth=1),
    pids_max=16,
    network=NetworkMode.NONE,
    best_effort=frozenset({"*"}),
)


def find(dirs: StateDirs, image: Path) -> Path | None:
    """The compiled runner for an image of this state directory, if there is one; for any other directory None."""
    place = _place(dirs, image)
    return place if place is not None and place.is_file() else None


def provide(dirs: StateDirs, backend: Backend, image: Path) -> None:
    """See to it that :func:`find` finds one, unless the host's own does for this image. Raises SandboxError, HostError.

    ``image`` is the lowest directory of a sandbox. Two calls of stat when there is nothing to do, else one sandbox's life.
    """
    place = _place(dirs, image)
    if place is None or place.is_file() or _same_python(image):
        return
    with locks.exclusive(dirs.locks / f"compile-{image.name}.lock"):
        if not place.is_file():
            _compile(dirs, backend, image, place)


def forget(dirs: StateDirs, digest: str) -> None:
    """Remove what was compiled for an image that is no more."""
    for path in _directory(dirs).glob(f"{digest[:16]}-*"):
        path.unlink(missing_ok=True)


def _directory(dirs: StateDirs) -> Path:
    return dirs.cache / "runners"


def _place(dirs: StateDirs, image: Path) -> Path | None:
    """Named by the image's digest, as its directory is, and by the runner's."""
    if image.parent not in (dirs.hot, dirs.cache / "unpacked"):
        return None
    return _directory(dirs) / f"{image.name}-{_runner_digest()}"


@functools.cache
def _runner_digest() -> str:
    return hashlib.sha256(b"\0".join((*runner_code.sources().values(), _SCRIPT.encode()))).hexdigest()[:16]


def _same_python(image: Path) -> bool:
    """Whether /usr/bin/python3 links to the host's version, by which the launcher pool has the runner compiled."""
    try:
        return (image / _PYTHON).readlink() == Path("/", _PYTHON).readlink()
    except OSError:  # no link: it may be anything
        return False


def _compile(dirs: StateDirs, backend: Backend, image: Path, place: Path) -> None:
    spec = InstanceSpec(
        instance_id=f"compile-{image.name}-{os.getpid()}-{secrets.token_hex(3)}", lowers=(image,), policy=_POLICY
    )
    said: list[bytes] = []
    scratch = claims.Claim(dirs.run, place.parent / f"new-{secrets.token_hex(8)}")
    try:
        with backend.create(spec) as instance:
            instance.start()
            for name, source in runner_code.sources().items():
                instance.put(f"/build/{name}", source)
            result = instance.run(Step(argv=(f"/{_PYTHON}", "-I", "-S", "-c", _SCRIPT)), said.append)
            instance.stop()
            if not result.ok:
                raise SandboxError(
                    "the image's Python cannot compile the runner",
                    details=b"".join(said).decode(errors="replace")[-2000:],
                    resolution="lxcbuild needs Python 3.9 or newer in an image",
                )
            (found,) = instance.extract("/out", scratch.directory / "out", _POLICY.output)
        found.path.chmod(0o444)
        found.path.rename(place)
    finally:
        scratch.release()
