"""What is known on disk of each live sandbox, so that whoever comes after a crash can tell the living from the left-over.

One directory per sandbox, ``<run>/instances/<instance id>/``, holds two files:

``lock``
    flock'd exclusively by the process that owns the sandbox, for as long as it lives. A lock that can be taken means: the owner is
    gone, however it went.
``record.json``
    ``{"version": 1, "instance_id", "owner_pid", "owner_started", "launcher_pid", "launcher_started", "cgroup", "id_start",
    "created_at"}``. ``*_started`` are start times in clock ticks since boot (field 22 of proc_pid_stat(5)), which make a pid
    unmistakable; ``launcher_*`` and ``id_start`` are null until there is one; ``cgroup`` is the name below each hierarchy's base;
    ``created_at`` is ISO 8601 in UTC. The file is replaced atomically, never rewritten.

The mounts of a sandbox are in its launcher's own mount namespace and its files in a tmpfs of that namespace: both go with the
launcher, so neither needs a record.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lxcbuild.errors import BadNameError, SandboxError
from lxcbuild.files import write_whole
from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.state.paths import StateDirs

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The content of one ``record.json``, and the directory that it lies in."""

    directory: Path
    instance_id: str
    owner_pid: int
    owner_started: int
    cgroup: str
    created_at: str
    launcher_pid: int | None = None
    launcher_started: int | None = None
    id_start: int | None = None


def started_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot; raises ProcessLookupError when there is no such process."""
    try:
        text = (Path("/proc") / str(pid) / "stat").read_text()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    return int(text.rpartition(")")[2].split()[19])


class Registration:
    """The owner's hold on the record of one sandbox. ``release`` removes it."""

    def __init__(self, record: Record, lock_fd: int) -> None:
        self.record = record
        self._lock_fd = lock_fd

    @classmethod
    def create(cls, dirs: StateDirs, instance_id: str) -> Registration:
        """Enter a new sandbox. Raises :class:`SandboxError` when the id is in use, BadNameError when it is no plain word."""
        if not _ID.fullmatch(instance_id):
            raise BadNameError(f"{instance_id[:80]!r} is not an instance id")
        directory = dirs.instances / instance_id
        directory.parent.mkdir(parents=True, exist_ok=True)
        pid = os.getpid()
        record = Record(
            directory=directory,
            instance_id=instance_id,
            owner_pid=pid,
            owner_started=started_ticks(pid),
            cgroup=f"{dirs.cgroup}/{instance_id}",
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        )
        # Complete and locked before it gets its name: whoever finds a record can tell whose it is, whenever we are killed.
        fresh = _aside(directory)
        lock_fd = -1
        try:
            fresh.mkdir(mode=0o700)
            lock_fd = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock_fd, fcntl.LOCK_EX)
            registration = cls(replace(record, directory=fresh), lock_fd)
            registration._write()
            fresh.rename(directory)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if lock_fd >= 0:
                os.close(lock_fd)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise SandboxError(
                f"there is a sandbox {instance_id} already",
                resolution="run: lxcbuild gc (removes those whose owner died)",
            ) from None
        registration.record = record
        return registration

    def update(self, *, launcher_pid: int, id_start: int) -> None:
        """Add what is known once the launcher runs."""
        started = started_ticks(launcher_pid)
        self.record = replace(self.record, launcher_pid=launcher_pid, launcher_started=started, id_start=id_start)
        self._write()

    def release(self) -> None:
        """Remove the record: everything of the sandbox is gone. A second call does nothing."""
        if self._lock_fd < 0:
            return
        gone = _aside(self.record.directory)
        with contextlib.suppress(FileNotFoundError):
            self.record.directory.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        os.close(self._lock_fd)
        self._lock_fd = -1

    def _write(self) -> None:
        content = {name: value for name, value in asdict(self.record).items() if name != "directory"}
        text = json.dumps({"version": VERSION, **content})
        write_whole(self.record.directory / "record.json", text, durable=False)


def list_instances(dirs: StateDirs) -> list[Record]:
    """Every sandbox that is recorded below this state directory, live or left over, oldest first.

    A directory without a readable record (its owner died within the first milliseconds) is listed with ``owner_pid`` 0.
    """
    records = []
    with contextlib.suppress(FileNotFoundError):
        records = [_read(e, dirs) for e in dirs.instances.iterdir() if e.is_dir() and not e.name.startswith(".")]
    return sorted(records, key=lambda record: (record.created_at, record.instance_id))


def half_made(dirs: StateDirs, *, dead_pid: int | None = None) -> list[Path]:
    """Records that were being made or removed when their process died: that of ``dead_pid``, or any that does not exist."""
    found = []
    for path in dirs.instances.glob(".*.*"):
        pid = path.name.split(".")[1]
        if pid == str(dead_pid) or not Path("/proc", pid).exists():
            found.append(path)
    return found


def _aside(directory: Path) -> Path:
    """Where a record is put together and taken apart: a name that is no instance id and tells whose it is."""
    return directory.with_name(f".{os.getpid()}.{threading.get_native_id()}.{directory.name}")


def is_live(record: Record) -> bool:
    """Whether the process that owns the sandbox is alive: it holds the lock."""
    try:
        fd = os.open(record.directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return _same_process(record.owner_pid, record.owner_started)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def sweep(record: Record) -> list[str]:
    """Remove all that a dead owner's sandbox left: launcher, cgroups and all in them, record. Returns what was removed.

    Does nothing for a live one. Raises :class:`HostError` when processes or cgroups cannot be removed; the record stays then.
    """
    if is_live(record):
        return []
    removed = []
    if record.launcher_pid and record.launcher_started and _kill(record.launcher_pid, record.launcher_started):
        removed.append(f"process {record.launcher_pid}")
    with contextlib.suppress(FileNotFoundError):
        group = CgroupHost.detect().open(record.cgroup)
        group.kill()
        group.remove()
        removed.append(f"cgroup {record.cgroup}")
    shutil.rmtree(record.directory)
    return [*removed, f"record {record.directory}"]


def _read(directory: Path, dirs: StateDirs) -> Record:
    try:
        content = json.loads((directory / "record.json").read_text())
        if content.pop("version") != VERSION:
            raise ValueError("another version")
        return Record(directory=directory, **content)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return Record(
            directory=directory,
            instance_id=directory.name,
            owner_pid=0,
            owner_started=0,
            cgroup=f"{dirs.cgroup}/{directory.name}",
            created_at="",
        )


def _same_process(pid: int, started: int) -> bool:
    try:
        return pid > 0 and started_ticks(pid) == started
    except ProcessLookupError:
        return False


def _kill(pid: int, started: int) -> bool:
    """Kill exactly that process, if it still lives; a pid that was given to another process meanwhile is spared."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not _same_process(pid, started):
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    finally:
        os.close(pidfd)
