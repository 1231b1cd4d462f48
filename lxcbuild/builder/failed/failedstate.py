"""The state at the failing command of a failed build, kept for a while: ``lib/failed/<build id>/``.

``upper.tar.zst`` is the writable layer as the command left it, with owners from 0 and without set-user-id bits, devices and
foreign attributes (see :mod:`lxcbuild.sandbox.delta`); ``binds/`` what was shown read-only; ``state.json`` everything else. The
lowers are named, not kept. A build that succeeds costs nothing here.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from lxcbuild.builder.work import Work
from lxcbuild.config.retention import FailedStates, load_retention
from lxcbuild.errors import ImageError, LxcbuildError, StateGoneError
from lxcbuild.files import sha256_of
from lxcbuild.images import pack
from lxcbuild.images.image import ImageRecord
from lxcbuild.ledger.records import is_id_part
from lxcbuild.model import Converter, Failure, Phase, Target
from lxcbuild.policy import Policy
from lxcbuild.sandbox.base import Bind, Instance, Step, User
from lxcbuild.state import locks
from lxcbuild.state.paths import StateDirs

UPPER = "upper.tar.zst"
STATE = "state.json"
BINDS = "binds"


class KeptCommand(Struct, frozen=True, kw_only=True):
    """The command that failed. ``env`` is what it got beyond the sandbox's own variables."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/build"
    as_root: bool = False


class LowerRef(Struct, frozen=True, kw_only=True):
    """An image or layer below: its key (an image's is its digest), the SHA-256 of its plain tar, its archive below ``images``."""

    key: str
    digest: str
    archive: str
    unpacked_bytes: int


class KeptBind(Struct, frozen=True, kw_only=True):
    """Files that were shown at ``inside``: a directory, or the one file."""

    name: str
    inside: str
    directory: bool
    files: tuple[str, ...]

    def host_path(self, place: Path) -> Path:
        """Where it lies, given the directory of the state."""
        folder = place / BINDS / self.name
        return folder if self.directory else folder / self.files[0]


class FailedState(Struct, frozen=True, kw_only=True):
    """What ``state.json`` says. ``limits`` is the policy as it was resolved; ``lowers`` has the topmost first."""

    build_id: str
    name: str
    version: str
    target: Target
    phase: Phase
    converter: Converter
    failure: Failure
    command: KeptCommand
    limits: Policy
    lowers: tuple[LowerRef, ...]
    binds: tuple[KeptBind, ...]
    upper_sha256: str
    upper_bytes: int  # unpacked
    kept_at: str  # ISO 8601, UTC
    requirement: str = ""

    def to_json(self) -> bytes:
        """As ``state.json`` has it."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> FailedState:
        """Check and read; raises ValueError for anything that :meth:`to_json` does not write."""
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error


# -- keeping --------------------------------------------------------------------------------------------------------


def keep(work: Work, failure: Failure) -> None:
    """Keep the state of the sandbox that is still open after its command failed; a note says so where that is not possible.

    Everything in it is dead afterwards. Older states make room as the retention says.
    """
    if work.instance is None or work.last_step is None:
        return
    dirs = work.context.dirs
    try:
        retention = load_retention().failed_states
        if retention.count == 0:
            return
        work.instance.stop()
        fresh = work.workspace / "failed-state"
        shutil.rmtree(fresh, ignore_errors=True)  # of an attempt before this one
        fresh.mkdir(mode=0o700)
        _fill(work, work.instance, work.last_step, failure, fresh, retention)
        dirs.failed.mkdir(parents=True, exist_ok=True, mode=0o700)
        final = dirs.failed / work.build_id
        if final.exists():
            shutil.rmtree(final)
        fresh.rename(final)
        prune(dirs, retention)
    except (LxcbuildError, OSError) as error:
        work.note(f"the state of the failure is not kept: {error}")


def _fill(work: Work, instance: Instance, step: Step, failure: Failure, fresh: Path, retention: FailedStates) -> None:
    lowers = tuple(_lower_ref(work.context.dirs, path) for path in instance.spec.lowers)
    upper = work.workspace / "failed-upper"
    try:
        instance.save_delta(upper, max_bytes=retention.max_each_bytes)
        upper_bytes = pack.tree_bytes(upper)
        pack.pack_tree(upper, fresh / UPPER)
    finally:
        shutil.rmtree(upper, ignore_errors=True)
    binds = tuple(_keep_bind(bind, fresh, str(number)) for number, bind in enumerate(instance.spec.binds))
    state = FailedState(
        build_id=work.build_id,
        name=work.name,
        version=work.version,
        target=work.request.target,
        phase=failure.phase,
        converter=work.converter,
        failure=failure,
        command=KeptCommand(argv=step.argv, env=dict(step.env), cwd=step.cwd, as_root=step.user is User.ROOT),
        limits=instance.spec.policy,
        lowers=lowers,
        binds=binds,
        upper_sha256=sha256_of(fresh / UPPER),
        upper_bytes=upper_bytes,
        kept_at=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        requirement=work.request.requirement,
    )
    (fresh / STATE).write_bytes(state.to_json())


def _lower_ref(dirs: StateDirs, path: Path) -> LowerRef:
    """What is unpacked at ``path``: trees are named by the first digits of their key."""
    record = dirs.images / "layers" / f"{path.name}.json"
    if record.is_file():
        found: dict[str, Any] = json.loads(record.read_text())
        archive = f"layers/{path.name}.tar.zst"
        return LowerRef(
            key=found["key"], digest=found["digest"], archive=archive, unpacked_bytes=found["unpacked_bytes"]
        )
    for candidate in sorted(dirs.images.glob("*.json")):
        image = ImageRecord.from_json(candidate.read_text())
        if image.digest[:16] == path.name:
            archive = f"{image.name}-{path.name}.tar.zst"
            return LowerRef(key=image.digest, digest=image.digest, archive=archive, unpacked_bytes=image.unpacked_bytes)
    raise ImageError(f"the image or layer {path.name} has been replaced meanwhile")


def _keep_bind(bind: Bind, fresh: Path, name: str) -> KeptBind:
    folder = fresh / BINDS / name
    folder.mkdir(parents=True, mode=0o755)
    directory = bind.host.is_dir()
    files = sorted(path for path in bind.host.iterdir() if path.is_file()) if directory else [bind.host]
    for path in files:
        _same_file(path, folder / path.name)
    return KeptBind(name=name, inside=bind.inside, directory=directory, files=tuple(path.name for path in files))


def _same_file(source: Path, destination: Path) -> None:
    """A hard link where that is possible: what is shown to sandboxes is never changed in place."""
    try:
        destination.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, destination)


# -- finding --------------------------------------------------------------------------------------------------------


def place_of(dirs: StateDirs, build_id: str) -> Path:
    """The directory of a kept state; raises :class:`StateGoneError`."""
    place = dirs.failed / build_id
    if not is_id_part(build_id) or not (place / STATE).is_file():
        raise StateGoneError(
            f"the state of build {build_id[:64]} is not kept",
            details="kept are the newest failures in a sandbox, for a limited time (retention.yaml: failed_states)",
            resolution="build it again; then: lxcbuild shell --failed",
        )
    return place


def is_kept(dirs: StateDirs, build_id: str) -> bool:
    """Whether ``lxcbuild shell --failed`` can open that build's state."""
    return (dirs.failed / build_id / STATE).is_file()


def read(place: Path) -> FailedState:
    """The document of a state directory of ours; raises :class:`StateGoneError` for a damaged one."""
    try:
        return FailedState.from_json((place / STATE).read_bytes())
    except (OSError, ValueError) as error:
        raise StateGoneError(
            f"the kept state {place.name} cannot be read", details=str(error)[:2000], resolution="build it again"
        ) from error


def kept(dirs: StateDirs) -> list[Path]:
    """The directories of all kept states, the newest first."""
    if not dirs.failed.is_dir():
        return []
    return sorted((path for path in dirs.failed.iterdir() if is_id_part(path.name)), key=lambda p: p.name, reverse=True)


# -- removing -------------------------------------------------------------------------------------------------------


def use_lock(dirs: StateDirs, build_id: str) -> Path:
    """Held (shared) while a state is in use."""
    return dirs.locks / f"failed-{build_id}.lock"


def size_bytes(place: Path) -> int:
    """What a state takes on disk; files that are elsewhere too are not counted."""
    infos = (path.lstat() for path in place.rglob("*"))
    return sum(info.st_size for info in infos if info.st_nlink == 1)


def superfluous(dirs: StateDirs, retention: FailedStates) -> Iterator[Path]:
    """Kept states that are too many, too large together, or too old."""
    total = 0
    for number, place in enumerate(kept(dirs)):
        try:
            size, age_s = size_bytes(place), time.time() - place.stat().st_mtime
        except FileNotFoundError:  # another process has just removed it
            continue
        total += size
        if number >= retention.count or total > retention.max_bytes or age_s > retention.age_s:
            total -= size
            yield place


def prune(dirs: StateDirs, retention: FailedStates | None = None) -> list[Path]:
    """Remove what is superfluous and not in use; what was removed."""
    wanted = retention or load_retention().failed_states
    return [place for place in superfluous(dirs, wanted) if remove(dirs, place)]


def remove(dirs: StateDirs, place: Path) -> bool:
    """Remove one kept state; False when somebody looks around in it."""
    lock = use_lock(dirs, place.name)
    with locks.try_exclusive(lock) as alone:
        if alone:
            doomed = place.with_name(f".old-{place.name}.{os.getpid()}")
            try:
                place.rename(doomed)
            except FileNotFoundError:
                return False
            shutil.rmtree(doomed)
            lock.unlink(missing_ok=True)
    return alone


def discard(dirs: StateDirs, build_id: str) -> None:
    """Forget the state of a failure that the build has overcome, if one was kept."""
    if is_kept(dirs, build_id):
        remove(dirs, dirs.failed / build_id)


def half_removed(dirs: StateDirs) -> list[Path]:
    """What a removal left that was interrupted and whose process is gone."""
    found = dirs.failed.glob(".old-*") if dirs.failed.is_dir() else ()
    return [path for path in found if not Path("/proc", path.name.rpartition(".")[2]).exists()]
