"""What an attack could have changed on the host, as one value that can be compared before and after."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.sandbox import registry
from lxcbuild.state.paths import StateDirs

#: Settings of the host that attacks of ours aim at; a file that this kernel lacks is left out.
SETTINGS = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/ngroups_max",
    "/proc/sys/fs/file-max",
    "/proc/sys/fs/suid_dumpable",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/swappiness",
    "/proc/swaps",
    "/proc/modules",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
)


@dataclass(frozen=True)
class HostState:
    """Compare two with ``==``."""

    mounts: tuple[str, ...]
    cgroups: tuple[str, ...]
    instances: tuple[str, ...]
    descriptors: int
    interfaces: tuple[str, ...]
    children: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, dirs: StateDirs) -> HostState:
        """Look now. Only what is ours or machine-wide: other tests may run beside this one."""
        return cls(
            mounts=tuple(line for line in _lines("/proc/self/mountinfo") if os.fspath(dirs.run.parent) in line),
            cgroups=tuple(CgroupHost.detect().list(dirs.cgroup)),
            instances=tuple(record.instance_id for record in registry.list_instances(dirs)),
            descriptors=len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - one descriptor, closed by then
            # Wires of sandboxes that run beside us come and go; what is left has a name of the machine's own.
            interfaces=tuple(sorted(name for name in os.listdir("/sys/class/net") if not name.startswith("veth"))),  # noqa: PTH208
            children=_children(),
            settings=_settings(),
        )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _children() -> tuple[str, ...]:
    """Processes that this one has started and that still exist, dead and unreaped ones included."""
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    return tuple(listing.read_text().split()) if listing.exists() else ()


def _settings() -> tuple[tuple[str, str], ...]:
    found = []
    for name in SETTINGS:
        path = Path(name)
        if path.exists():
            found.append((name, path.read_text()))
    return tuple(found)


def processes_in_range(id_start: int) -> list[int]:
    """Living processes whose user is one of a sandbox's 65,536 ids."""
    return [pid for pid, uid in users_of_processes() if id_start <= uid < id_start + 65536]


def users_of_processes(read: Callable[[Path], str] = Path.read_text) -> list[tuple[int, int]]:
    """Pid and real user of every process that is not a zombie."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            lines = read(entry / "status").splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        if not fields["State"].strip().startswith("Z"):
            found.append((int(entry.name), int(fields["Uid"].split()[0])))
    return found
