"""Which cgroup hierarchies this host has mounted, and where in each of them cgroups of ours may be made.

The rule for the place: the topmost directory, on the way from the mount down to our own cgroup, that we may write to. For root
that is the root of the hierarchy; inside a container, the container's own root; for a user of systemd, the delegated
``user@UID.service``. Under systemd the root belongs to PID 1 (its "single writer" rule): it never touches directories that it
did not make, and it cannot take controllers away while cgroups of ours use them (EBUSY), so a directory of our own is safe there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lxcbuild.linux.cgroups.fs import Hierarchy, Version

V1_CONTROLLERS = frozenset({"cpu", "cpuacct", "cpuset", "memory", "blkio", "pids", "devices", "freezer"})
V2_CONTROLLERS = frozenset({"cpu", "cpuset", "memory", "io", "pids"})
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class _Mount:
    root: str
    point: Path
    fstype: str
    options: frozenset[str]


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """The cgroup mounts; format in proc(5): id parent major:minor root point options [tags] - fstype source superoptions."""
    for line in mountinfo.splitlines():
        head, separator, tail = line.partition(" - ")
        fields, last = head.split(" "), tail.split(" ")
        if separator and len(fields) >= 6 and len(last) >= 3 and last[0] in ("cgroup", "cgroup2"):
            point, root = (_OCTAL.sub(lambda m: chr(int(m[1], 8)), text) for text in (fields[4], fields[3]))
            yield _Mount(root, Path(point), last[0], frozenset(last[2].split(",")))


def own_cgroups(text: str) -> dict[str, str]:
    """``/proc/self/cgroup`` as controller list (empty for v2) to path."""
    table: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        table[controllers] = path
    return table


def _base(mount: _Mount, own: str) -> Path:
    """The topmost writable directory between the mount and our own cgroup (see the module's text)."""
    relative = os.path.relpath(own, mount.root) if own else "."
    steps = [] if relative.startswith("..") or relative == "." else relative.split("/")
    place = mount.point
    for step in ["", *steps]:
        place = place / step if step else place
        if os.access(place, os.W_OK):
            return place
    return mount.point


def detect(mountinfo: str, self_cgroup: str) -> list[Hierarchy]:
    """Every mounted hierarchy (v1, named v1, v2), with the controllers of ours in it; pure but for looking at directories."""
    own = own_cgroups(self_cgroup)
    found: dict[tuple[str, frozenset[str]], Hierarchy] = {}
    for mount in _mounts(mountinfo):
        if mount.fstype == "cgroup2":
            base = _base(mount, own.get("", "/"))
            offered = base / "cgroup.controllers"
            controllers = frozenset(offered.read_text().split()) & V2_CONTROLLERS if offered.exists() else frozenset()
            hierarchy = Hierarchy(Version.V2, mount.point, base, controllers, "unified")
            key: tuple[str, frozenset[str]] = ("v2", frozenset())
        else:
            listed, path = next(
                ((names, path) for names, path in own.items() if names and set(names.split(",")) <= mount.options),
                ("", "/"),
            )
            hierarchy = Hierarchy(
                Version.V1, mount.point, _base(mount, path), mount.options & V1_CONTROLLERS, listed or str(mount.point)
            )
            key = ("v1", mount.options & V1_CONTROLLERS or frozenset({hierarchy.label}))
        if (
            key not in found and mount.point.is_dir()
        ):  # the same hierarchy may be mounted more than once; the first is as good
            found[key] = hierarchy
    return list(found.values())


def claimed(hierarchies: list[Hierarchy]) -> dict[str, Hierarchy]:
    """Controller name to hierarchy. A controller lives in one hierarchy only, so nothing can be claimed twice."""
    return {name: hierarchy for hierarchy in hierarchies for name in sorted(hierarchy.controllers)}
