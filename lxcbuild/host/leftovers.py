"""What a crash can leave behind, and how each piece is removed: sandboxes, processes, cgroups, mounts, interfaces, files.

A thing is ours when its name carries the tag of this state directory (or it lies below it), and left over when nobody who
could own it lives: owners hold file locks, which the kernel takes from the dead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from msgspec import Struct

from lxcbuild.builder.failed import failedstate
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.ledger.store import Ledger
from lxcbuild.linux import syscalls
from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.linux.mounts import mount_table
from lxcbuild.sandbox import registry
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state import claims, locks
from lxcbuild.state.paths import StateDirs

_LAUNCHER = "lxcbuild/sandbox/start/launcher.py"
_NEWBORN_S = 5.0
#: Where iproute2 and pyroute2 keep named namespaces (ip-netns(8)).
NAMED = Path("/run/netns")


class Leftover(Struct, frozen=True, kw_only=True):
    """One thing that nobody owns. ``remove`` raises HostError or OSError when it cannot."""

    kind: str  # sandbox, process, cgroup, mount, interface, namespace or file
    what: str
    remove: Callable[[], object]


def find_leftovers(dirs: StateDirs) -> Iterator[Leftover]:
    """Everything of this state directory that no live build owns, in an order in which it can be removed."""
    records = registry.list_instances(dirs)
    dead = [record for record in records if not registry.is_live(record) and not _newborn(record)]
    for record in dead:
        what = f"{record.instance_id} (its owner, pid {record.owner_pid}, is gone)"
        yield Leftover(kind="sandbox", what=what, remove=partial(registry.sweep, record))
    yield from _processes(dirs)
    yield from _cgroups(dirs)
    yield from _mounts(dirs, live={record.directory for record in records if record not in dead})
    yield from _network(dirs)
    yield from _files(dirs)


def _newborn(record: registry.Record) -> bool:
    """Whether somebody may be writing this record right now: the first milliseconds, before there is a lock to look at."""
    if record.owner_pid:
        return False
    with contextlib.suppress(FileNotFoundError):
        return time.time() - record.directory.stat().st_mtime < _NEWBORN_S
    return True


def _processes(dirs: StateDirs) -> Iterator[Leftover]:
    """Launchers of this state directory whose orchestrator is gone. What runs inside a sandbox cannot leave its cgroup, and is
    found there. A launcher's last arguments are the pid that it works for and the run directory; both mean something only where
    we see the same processes as it does."""
    ours = Path("/proc/self/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            argv = (entry / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            if not any(part.endswith(_LAUNCHER) for part in argv[:5]) or argv[-1] != os.fspath(dirs.run):
                continue
            if (entry / "ns" / "pid").readlink() == ours and not Path("/proc", argv[-2]).exists():
                pid = int(entry.name)
                what = f"{pid} ({' '.join(argv)[:80]})"
                yield Leftover(kind="process", what=what, remove=partial(_kill, pid))


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _cgroups(dirs: StateDirs) -> Iterator[Leftover]:
    """Cgroups without a record. A record is made before its cgroup and removed after it, so one that is seen twice, with no
    record in between, has none."""
    host = CgroupHost.detect()
    # Children first: the common parent goes last, and only when no sandbox is recorded.
    for name in sorted(host.list(dirs.cgroup), reverse=True):
        if name == dirs.cgroup:
            recorded = bool(registry.list_instances(dirs))
        elif name.startswith(f"{dirs.cgroup}/"):
            recorded = (dirs.instances / name.rpartition("/")[2]).exists()
        else:
            continue
        if not recorded and name in host.list(dirs.cgroup):
            yield Leftover(kind="cgroup", what=name, remove=partial(_remove_cgroup, name))


def _remove_cgroup(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        group = CgroupHost.detect().open(name)
        group.kill()
        group.remove()


def _mounts(dirs: StateDirs, *, live: set[Path]) -> Iterator[Leftover]:
    """Mounts below the state directory, innermost first. The memory of the images is owned by the directory itself."""
    roots = [f"{os.fspath(root)}/" for root in (dirs.run, dirs.cache, dirs.lib)]
    for entry in reversed(mount_table()):
        point = Path(entry.mount_point)
        ours = any(entry.mount_point.startswith(root) for root in roots)
        if ours and point != dirs.hot and not any(point.is_relative_to(directory) for directory in live):
            yield Leftover(
                kind="mount", what=f"{entry.fstype} on {point}", remove=partial(syscalls.umount, entry.mount_point)
            )


def _network(dirs: StateDirs) -> Iterator[Leftover]:
    """Sandboxes' interfaces are nameless and die with them; anything that carries our tag is from another release."""
    for kind, name in tagged_networks(dirs.tag):
        yield Leftover(kind=kind, what=name, remove=partial(remove_network, kind, name))


def tagged_networks(part: str) -> Iterator[tuple[str, str]]:
    """Kind (``interface`` or ``namespace``) and name of everything here whose name begins with ``lxcb`` and holds ``part``."""
    for place, kind in ((Path("/sys/class/net"), "interface"), (NAMED, "namespace")):
        with contextlib.suppress(FileNotFoundError):
            yield from ((kind, path.name) for path in sorted(place.glob(f"lxcb*{part}*")))


def remove_network(kind: str, name: str) -> None:
    """Remove an interface or a named namespace; one that is gone already is no error."""
    if kind == "namespace":
        from pyroute2 import netns  # 112 ms, here and below: gc loads it only where there is something to remove

        with contextlib.suppress(FileNotFoundError):
            netns.remove(name)
        return
    from pyroute2 import IPRoute

    with IPRoute() as here:
        for index in here.link_lookup(ifname=name):
            here.link("del", index=index)


def _files(dirs: StateDirs) -> Iterator[Leftover]:
    for path in (*ImageStore(dirs).stale(), *LayerStore(dirs, LxcBackend(dirs)).stale()):
        yield Leftover(
            kind="file", what=f"{path} (an image or layer that was not finished)", remove=partial(_remove_tree, path)
        )
    for path in registry.half_made(dirs):
        yield Leftover(
            kind="file", what=f"{path} (a record of a sandbox, half made)", remove=partial(_remove_tree, path)
        )
    for path in failedstate.half_removed(dirs):
        yield Leftover(kind="file", what=f"{path} (a failed state, half removed)", remove=partial(_remove_tree, path))
    yield from _workspaces(dirs)
    if dirs.locks.is_dir():
        for path in dirs.locks.glob("owner-*"):
            if locks.is_free(path):
                yield Leftover(
                    kind="file", what=f"{path} (a dead process's claim on builds)", remove=partial(_settle, dirs)
                )


def _workspaces(dirs: StateDirs) -> Iterator[Leftover]:
    """Directories that builds worked in and whose owner is dead."""
    for claim, directory in claims.abandoned(dirs.run):
        what = f"{directory} (a build worked in it)"
        yield Leftover(kind="file", what=what, remove=partial(claims.remove, claim, directory))


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path)


def _settle(dirs: StateDirs) -> None:
    """Let the ledger mark the builds of dead owners; it removes their claims."""
    Ledger.open(dirs).close()
    for path in dirs.locks.glob("owner-*"):
        if locks.is_free(path):
            path.unlink(missing_ok=True)
