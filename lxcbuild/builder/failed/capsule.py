"""A failed state as one file that opens on another machine: a plain tar of what a kept state holds, its log and record, and
(unless slim) the images and layers below.

The first member, ``capsule.json``, names every other one with size and SHA-256. Whoever opens a capsule takes all of it as
hostile: members have names of a fixed form, trees are unpacked by :mod:`lxcbuild.images.untar` only and never enter the image
store, and limits are never wider than those of a policy of the opening machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import secrets
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild import __version__
from lxcbuild.builder.failed import failedstate, reopen
from lxcbuild.builder.failed.failedstate import BINDS, STATE, UPPER, FailedState, LowerRef
from lxcbuild.builder.failed.reopen import Reopened
from lxcbuild.errors import ExtractionError, InputError, StateGoneError
from lxcbuild.files import sha256_of
from lxcbuild.images.hot import HotStore
from lxcbuild.images.image import ImageRecord
from lxcbuild.images.untar import TarLimits, entries
from lxcbuild.policy import NetworkMode, Policy
from lxcbuild.sandbox.base import Backend
from lxcbuild.state import locks
from lxcbuild.state.claims import Claim
from lxcbuild.state.paths import StateDirs

SUFFIX = ".capsule"
MANIFEST = "capsule.json"
FORMAT = 1
_RECORD, _LOG, _LOWERS = "record.json", "log", "lowers"
_MAX_DOCUMENT = 1 << 20
_MAX_LOWERS = 64
_LIMITS = TarLimits(max_bytes=32 * 1024**3, max_entries=2000)
_FILE = r"[A-Za-z0-9][A-Za-z0-9.+~_%:!-]{0,250}"
_MEMBER = re.compile(
    rf"state\.json|record\.json|log|upper\.tar\.zst|lowers/\d{{1,2}}\.tar\.zst|binds/\d{{1,2}}/{_FILE}"
)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN_AT = re.compile(rf"/in(?:/{_FILE}){{1,4}}")
_CHUNK = 1 << 20
_LEAST_MEMORY, _PAGE = 64 << 20, 4096


# -- saving ---------------------------------------------------------------------------------------------------------


def default_name(state: FailedState) -> str:
    """``<name>_<version>_<id>.capsule``, of characters that every file system takes."""
    text = f"{state.name}_{state.version or 'unknown'}_{state.build_id}"
    return re.sub(r"[^A-Za-z0-9.+_~-]", "-", text)[:200] + SUFFIX


def save(
    dirs: StateDirs,
    build_id: str,
    destination: Path | None = None,
    *,
    record: Mapping[str, object],
    log: Path | None,
    slim: bool = False,
) -> Path:
    """Write the kept state of a build to a file, or into a directory; the file's path. It is complete or not there.

    Raises :class:`StateGoneError`, also when an image or layer below is gone and the capsule is not ``slim``.
    """
    with locks.shared(failedstate.use_lock(dirs, build_id)):
        place = failedstate.place_of(dirs, build_id)
        state = failedstate.read(place)
        wanted = destination or Path()
        path = wanted / default_name(state) if wanted.is_dir() else wanted
        members: dict[str, Path | bytes] = {
            STATE: place / STATE,
            _RECORD: json.dumps(record, indent=1, default=str).encode(),
            **({_LOG: log} if log is not None and log.is_file() else {}),
            **{f"{BINDS}/{b.name}/{name}": place / BINDS / b.name / name for b in state.binds for name in b.files},
            UPPER: place / UPPER,
            **({} if slim else _archives(dirs, state)),
        }
        _write(path, members, slim=slim)
    return path


def _archives(dirs: StateDirs, state: FailedState) -> dict[str, Path | bytes]:
    found: dict[str, Path | bytes] = {}
    for number, ref in enumerate(state.lowers):
        archive = dirs.images / ref.archive
        if not archive.is_file():
            raise StateGoneError(
                f"the image or layer {ref.key[:16]} that the build stood on is gone",
                resolution="build it again, or save a slim capsule (--slim)",
            )
        found[f"{_LOWERS}/{number}.tar.zst"] = archive
    return found


def _write(path: Path, members: Mapping[str, Path | bytes], *, slim: bool) -> None:
    described = [{"name": name, **_describe(content)} for name, content in members.items()]
    manifest = {"format": FORMAT, "lxcbuild": __version__, "slim": slim, "members": described}
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("xb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
            for name, content in members.items():
                _add(tar, name, content)
        fresh.rename(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", resolution="name another file") from error
    finally:
        fresh.unlink(missing_ok=True)


def _describe(content: Path | bytes) -> dict[str, object]:
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return {"sha256": sha256_of(content), "bytes": content.stat().st_size}


def _add(tar: tarfile.TarFile, name: str, content: Path | bytes) -> None:
    info = tarfile.TarInfo(name)
    if isinstance(content, bytes):
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
        return
    with content.open("rb") as file:
        info.size = content.stat().st_size
        tar.addfile(info, file)


# -- reading --------------------------------------------------------------------------------------------------------


class Capsule(Struct, frozen=True, kw_only=True):
    """A capsule whose members were checked and lie in a directory of ours. Texts are hostile."""

    place: Path
    state: FailedState
    record: Mapping[str, Any]
    made_with: str
    slim: bool
    members: Mapping[str, int]  # name to bytes


@contextlib.contextmanager
def read(dirs: StateDirs, file: Path, *, documents_only: bool = False) -> Iterator[Capsule]:
    """Take a capsule apart into a directory for root alone, which is gone at the end of the block.

    ``documents_only`` leaves trees and archives out. Raises :class:`ExtractionError` for anything but a sound capsule.
    """
    claim = Claim(dirs.run, dirs.lib / "work" / f"capsule-{secrets.token_hex(6)}")
    try:
        try:
            with file.open("rb") as stream:
                manifest = _take_apart(stream, claim.directory, documents_only=documents_only)
        except OSError as error:
            if error.filename is not None and Path(error.filename) == file:
                raise InputError(f"{file} cannot be read: {error.strerror}", resolution="check the path") from error
            raise
        sizes = {name: size for name, (_digest, size) in manifest.members.items()}
        state, record = _documents(claim.directory)
        _check_state(state, sizes)
        yield Capsule(
            place=claim.directory,
            state=state,
            record=record,
            made_with=manifest.made_with,
            slim=manifest.slim,
            members=sizes,
        )
    finally:
        claim.release()


class _Manifest(Struct, frozen=True, kw_only=True):
    members: Mapping[str, tuple[str, int]]  # name to SHA-256 and size
    slim: bool
    made_with: str


def _take_apart(stream: IO[bytes], folder: Path, *, documents_only: bool) -> _Manifest:
    manifest: _Manifest | None = None
    seen: set[str] = set()
    for entry, read_content in entries(stream, _LIMITS):
        name = entry.name.decode("ascii", "replace")
        if entry.kind != b"0":
            raise ExtractionError(f"the capsule holds something other than plain files: {name[:80]!r}")
        if manifest is None:
            if name != MANIFEST or entry.size_bytes > _MAX_DOCUMENT:
                raise ExtractionError("this is not a capsule: its first member is not capsule.json")
            manifest = _parse_manifest(read_content(_MAX_DOCUMENT))
            continue
        if name not in manifest.members or name in seen or entry.size_bytes != manifest.members[name][1]:
            raise ExtractionError(f"the capsule holds {name[:80]!r}, which does not match capsule.json")
        seen.add(name)
        if not (documents_only and name.endswith(".zst")):
            _take(name, read_content, folder, manifest.members[name][0])
    if manifest is None or seen != set(manifest.members):
        raise ExtractionError("the capsule is not complete")
    return manifest


def _take(name: str, read_content: Callable[[int], bytes], folder: Path, sha256: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    digest = hashlib.sha256()
    with path.open("xb") as out:
        while data := read_content(_CHUNK):
            digest.update(data)
            out.write(data)
    if digest.hexdigest() != sha256:
        raise ExtractionError(f"the capsule is damaged: {name} is not what capsule.json says")


def _parse_manifest(data: bytes) -> _Manifest:
    try:
        raw = json.loads(data)
        if raw["format"] != FORMAT:
            raise ExtractionError(
                f"the capsule has format {str(raw['format'])[:20]}, and this lxcbuild reads format {FORMAT}",
                resolution="open it with the lxcbuild that made it, or a newer one",
            )
        members = {str(item["name"]): (str(item["sha256"]), int(item["bytes"])) for item in raw["members"]}
        made_with, slim = str(raw["lxcbuild"])[:40], raw["slim"] is True
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ExtractionError("this is not a capsule: capsule.json cannot be read") from error
    for name, (digest, _size) in members.items():
        if not _MEMBER.fullmatch(name) or not _DIGEST.fullmatch(digest):
            raise ExtractionError(f"the capsule names an invalid member: {name[:80]!r}")
    for name, most in ((STATE, _MAX_DOCUMENT), (_RECORD, _MAX_DOCUMENT), (UPPER, _LIMITS.max_bytes)):
        if name not in members or members[name][1] > most:
            raise ExtractionError(f"the capsule has no {name}, or one of unreasonable size")
    return _Manifest(members=members, slim=slim, made_with=made_with)


def _documents(folder: Path) -> tuple[FailedState, Mapping[str, Any]]:
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        state = FailedState.from_json((folder / STATE).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ExtractionError("the documents of the capsule cannot be read", details=str(error)[:1000]) from error
    return state, record if isinstance(record, dict) else {}


def _check_state(state: FailedState, members: Mapping[str, int]) -> None:
    """What of the document becomes a path, a size or a command of ours."""
    command, problem = state.command, None
    texts = (*command.argv, *command.env, *command.env.values(), command.cwd)
    if not command.argv or any("\0" in text for text in texts) or not command.cwd.startswith("/"):
        problem = "its command is invalid"
    elif any(not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,200}", name) for name in command.env):
        problem = "its environment has an invalid name"
    elif not 0 < len(state.lowers) <= _MAX_LOWERS or not all(_DIGEST.fullmatch(ref.key) for ref in state.lowers):
        problem = "it names no images, or too many"
    elif not all(0 <= ref.unpacked_bytes <= _LIMITS.max_bytes for ref in state.lowers):
        problem = "an image is of unreasonable size"
    elif not 0 <= state.upper_bytes <= _LIMITS.max_bytes:
        problem = "the changes are of unreasonable size"
    for bind in state.binds:
        names = [f"{BINDS}/{bind.name}/{name}" for name in bind.files]
        if not re.fullmatch(r"\d{1,2}", bind.name):
            problem = "it shows files of another place"
        if not _SHOWN_AT.fullmatch(bind.inside) or ".." in bind.inside or any(n not in members for n in names):
            problem = "it shows files that are not in it"
        if not bind.directory and len(names) != 1:
            problem = "it shows one file that are several"
    if problem is not None:
        raise ExtractionError(f"the capsule makes no sense: {problem}")


# -- opening --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(dirs: StateDirs, capsule: Capsule, *, backend: Backend, hot: HotStore, cap: Policy) -> Iterator[Reopened]:
    """A sandbox in the capsule's state, its limits narrowed to those of ``cap``.

    Images and layers that are here in the same digest are used; the others come out of the capsule, for this block only.
    """
    with contextlib.ExitStack() as stack:
        lowers = [
            _local(dirs, hot, ref) or stack.enter_context(_carried(capsule, hot, ref, number))
            for number, ref in enumerate(capsule.state.lowers)
        ]
        for bind in capsule.state.binds:
            (capsule.place / BINDS / bind.name).mkdir(parents=True, exist_ok=True)
        limits = narrowed(capsule.state.limits, cap)
        yield stack.enter_context(
            reopen.opened(capsule.place, capsule.state, backend=backend, hot=hot, lowers=lowers, limits=limits)
        )


def _local(dirs: StateDirs, hot: HotStore, ref: LowerRef) -> Path | None:
    """Our own image or layer of that key and digest, if there is one; never a file that the capsule chooses."""
    layer = dirs.images / "layers" / f"{ref.key[:16]}.json"
    archive, record = f"layers/{ref.key[:16]}.tar.zst", None
    if layer.is_file():
        record = json.loads(layer.read_text())
    else:
        for path in sorted(dirs.images.glob("*.json")):
            image = ImageRecord.from_json(path.read_text())
            if image.digest == ref.key:
                archive = f"{image.name}-{image.digest[:16]}.tar.zst"
                record = {"key": image.digest, "digest": image.digest, "unpacked_bytes": image.unpacked_bytes}
    if record is None or (record["key"], record["digest"]) != (ref.key, ref.digest):
        return None
    if not (dirs.images / archive).is_file():
        return None
    own = LowerRef(key=ref.key, digest=ref.digest, archive=archive, unpacked_bytes=record["unpacked_bytes"])
    return reopen.local_lower(dirs, hot, own)


@contextlib.contextmanager
def _carried(capsule: Capsule, hot: HotStore, ref: LowerRef, number: int) -> Iterator[Path]:
    name = f"{_LOWERS}/{number}.tar.zst"
    archive = capsule.place / name
    if not archive.is_file():
        raise StateGoneError(
            f"the capsule is slim, and the image or layer {ref.key[:16]} is not here",
            details=f"wanted: key {ref.key}, content sha256:{ref.digest}, for {capsule.state.target}",
            resolution="ask for a capsule that was saved without --slim",
        )
    digest = sha256_of(archive)
    limits = TarLimits(max_bytes=ref.unpacked_bytes)
    with reopen.unpacked(hot, archive, digest, what="an image of the capsule", limits=limits) as path:
        yield path


def narrowed(theirs: Policy, ours: Policy) -> Policy:
    """The capsule's limits where they are tighter than ours, ours elsewhere; the network only where it leads nowhere."""

    def least(first: float | None, second: float | None) -> float | None:
        given = [value for value in (first, second) if value is not None and value > 0]
        return min(given, default=None)

    def within(value: int, most: int, *, least: int) -> int:
        return min(max(value, least), most)

    harmless = (NetworkMode.NONE, NetworkMode.LOOPBACK, NetworkMode.SINKHOLE)
    memory = within(theirs.memory.max_bytes, ours.memory.max_bytes, least=_LEAST_MEMORY)
    return replace(
        ours,
        memory=replace(ours.memory, max_bytes=memory // _PAGE * _PAGE, high_bytes=None),
        disk=replace(
            ours.disk,
            max_bytes=within(theirs.disk.max_bytes, ours.disk.max_bytes, least=1 << 20) // _PAGE * _PAGE,
            max_inodes=within(theirs.disk.max_inodes, ours.disk.max_inodes, least=1000),
        ),
        time=replace(
            ours.time,
            wall_s=least(theirs.time.wall_s, ours.time.wall_s) or ours.time.wall_s,
            silence_s=least(theirs.time.silence_s, ours.time.silence_s),
            cpu_s=least(theirs.time.cpu_s, ours.time.cpu_s),
        ),
        pids_max=within(theirs.pids_max, ours.pids_max, least=16),
        log=replace(ours.log, max_bytes=within(theirs.log.max_bytes, ours.log.max_bytes, least=1 << 16)),
        network=theirs.network if theirs.network in harmless else ours.network,
    )
