"""What a host must have, each need with a verdict and the exact fix. Tried for real wherever trying is cheap."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from lxcbuild import files, process
from lxcbuild.config.ranges import bytes_text
from lxcbuild.errors import LxcbuildError
from lxcbuild.linux import ids, probe
from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.state.paths import StateDirs

Verdict = Literal["ok", "warn", "fail"]

_GIB = 1024**3
_MIN_KERNEL = (5, 19)  # overlayfs over id-mapped lowers
_MIN_MEMORY, _GOOD_MEMORY = _GIB, 3 * _GIB  # one image in memory and one build; two builds
_MIN_DISK, _GOOD_DISK = _GIB, 5 * _GIB  # an image, its archive, packages and logs; several suites
_NEEDED_CONTROLLERS = ("cpu", "memory", "pids")
_BLOCK_IO = ("io", "blkio")

#: Programs of the host that lxcbuild starts, and the Debian package of each.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "apt-get": "apt",
    "dpkg": "dpkg",
    "tar": "tar",
    "zstd": "zstd",
    "gpgv": "gpgv",
}
_KEYRINGS = {
    "debian": ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    "ubuntu": ("/usr/share/keyrings/ubuntu-archive-keyring.gpg", "ubuntu-keyring"),
}


class Check(Struct, frozen=True, kw_only=True):
    """One need of the host: what was found, and what mends it."""

    name: str
    verdict: Verdict
    says: str
    fix: str | None = None


def check_host(dirs: StateDirs) -> Iterator[Check]:
    """All checks, in the order in which a person would mend things."""
    parts: tuple[Callable[[], Iterator[Check]], ...] = (
        _root,
        _python,
        _kernel,
        _features,
        _ids,
        lambda: _idmapped_overlay(dirs),
        _cgroups,
        _lxc,
        _tools,
        _keyrings,
        _memory,
        lambda: _disk(dirs),
        _kvm,
    )
    for part in parts:
        yield from part()


def _ok(name: str, says: str) -> Check:
    return Check(name=name, verdict="ok", says=says)


def _root() -> Iterator[Check]:
    if os.geteuid() == 0:
        yield _ok("root", "running as root")
    else:
        yield Check(name="root", verdict="fail", says="not root; sandboxes need it", fix="run it with sudo")


def _python() -> Iterator[Check]:
    yield _ok("python", f"Python {platform.python_version()} ({sys.executable})")


def _kernel() -> Iterator[Check]:
    release = platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version >= _MIN_KERNEL:
        yield _ok("kernel", f"Linux {release}")
    else:
        fix = "boot the distribution's current kernel: Linux 5.19 or newer (Debian 12 has 6.1)"
        yield Check(name="kernel", verdict="fail", says=f"Linux {release} is too old for id-mapped overlays", fix=fix)


def _features() -> Iterator[Check]:
    refused = {name: why for name, why in probe.namespaces().items() if why} if os.geteuid() == 0 else {}
    if refused:
        says = "; ".join(f"{name}: {why}" for name, why in refused.items())
        fix = "sysctl -w user.max_user_namespaces=15000 (and the other user.max_*_namespaces); in a container, allow nesting"
        yield Check(name="namespaces", verdict="fail", says=f"cannot be made: {says}", fix=fix)
    elif os.geteuid() == 0:
        yield _ok("namespaces", "mount, cgroup, uts, ipc, pid, network, user")
    for name, why in (("seccomp", probe.seccomp()), ("pidfd", probe.pidfd()), ("openat2", probe.openat2())):
        fix = "boot a kernel with it: every Debian and Ubuntu kernel since 5.10 has it"
        yield _ok(name, "works") if why is None else Check(name=name, verdict="fail", says=why, fix=fix)


def _ids() -> Iterator[Check]:
    allocator = ids.IdAllocator()
    starts = allocator.starts()
    if starts:
        yield _ok("subuid", f"{len(starts)} ranges of {ids.RANGE} ids for root, {_in_use(allocator)} in use")
        return
    try:
        allocator.acquire().release()
    except LxcbuildError as error:
        yield Check(name="subuid", verdict="fail", says=error.brief, fix=error.resolution)
    except PermissionError:
        fix = "echo root:100000:65536000 | sudo tee -a /etc/subuid /etc/subgid"
        yield Check(name="subuid", verdict="fail", says="root has no range of subordinate ids", fix=fix)


def _in_use(allocator: ids.IdAllocator) -> int | str:
    return allocator.in_use() if os.geteuid() == 0 else "unknown (not root)"


def _idmapped_overlay(dirs: StateDirs) -> Iterator[Check]:
    starts = ids.IdAllocator().starts()
    if os.geteuid() != 0 or not starts:
        return
    in_tmpfs = probe.overlay_on_idmapped(None, id_base=starts[0])
    if in_tmpfs is None:
        yield _ok("overlay", "an overlay in tmpfs over an id-mapped tmpfs works")
        return
    on_disk = probe.overlay_on_idmapped(_existing(dirs.cache), id_base=starts[0])
    if on_disk is None:
        says = f"a tmpfs cannot be id-mapped ({in_tmpfs}), so images stay on disk (which works; first reads are slower)"
        yield Check(
            name="overlay", verdict="warn", says=says, fix="boot Linux 6.3 or newer (bookworm-backports has one)"
        )
        return
    says = f"overlays over id-mapped file systems do not work: in tmpfs {in_tmpfs}; on disk {on_disk}"
    yield Check(
        name="overlay", verdict="fail", says=says, fix="boot Linux 6.3 or newer with overlayfs (modprobe overlay)"
    )


def _cgroups() -> Iterator[Check]:
    try:
        host = CgroupHost.detect()
    except LxcbuildError as error:
        yield Check(name="cgroups", verdict="fail", says=error.brief, fix=error.resolution)
        return
    missing = [name for name in _NEEDED_CONTROLLERS if host.version(name) is None]
    if not any(host.version(name) for name in _BLOCK_IO):
        missing.append("io")
    shown = ", ".join(
        f"{name} ({version.value})" for name in sorted(host.controllers) if (version := host.version(name))
    )
    if missing:
        fix = "boot without cgroup_disable= and, for memory on some ARM boards, with cgroup_enable=memory"
        yield Check(
            name="cgroups", verdict="fail", says=f"{host.layout} lacks {', '.join(missing)}; has {shown}", fix=fix
        )
        return
    killing = (
        "cgroup.kill" if host.layout == "v2" and list(Path("/sys/fs/cgroup").glob("*/cgroup.kill")) else "the freezer"
    )
    yield _ok("cgroups", f"{host.layout}: {shown}; ended through {killing}")


def _lxc() -> Iterator[Check]:
    script = "import sys; sys.path.append('/usr/lib/python3/dist-packages'); import lxc; print(lxc.version)"
    fix = "sudo apt-get install --no-install-recommends lxc python3-lxc"
    try:
        library = process.run(["/usr/bin/python3", "-I", "-S", "-c", script], timeout_s=30).stdout.decode().strip()
    except LxcbuildError as error:
        yield Check(name="lxc", verdict="fail", says=f"/usr/bin/python3 cannot import lxc: {error.brief}", fix=fix)
        return
    binding = process.run(["dpkg-query", "-W", "-f", "${Version}", "python3-lxc"], check=False).stdout.decode().strip()
    trouble = known_trouble(library, binding, layout=_layout())
    says = f"liblxc {library}, python3-lxc {binding or 'not from a package'}"
    if trouble is None:
        yield _ok("lxc", says)
    else:
        yield Check(name="lxc", verdict="fail", says=f"{says}: {trouble[0]}", fix=trouble[1])


def known_trouble(library: str, binding: str, *, layout: str) -> tuple[str, str] | None:
    """Pairs of versions that are known not to work, with the reason and the fix.

    ``library`` is liblxc's version, ``binding`` the package version of python3-lxc (may be empty), ``layout`` that of the
    cgroups. liblxc 7 dropped cgroup v1; the binding is compiled against one major version of the library.
    """
    major = int(library.partition(".")[0]) if library[:1].isdecimal() else 0
    if major < 4:
        return "liblxc 4 or newer is needed", "use Debian 12 or newer"
    if major >= 7 and layout != "v2":
        return (
            f"liblxc {major} has dropped cgroup v1, which this host has",
            "boot with systemd.unified_cgroup_hierarchy=1, or install liblxc 5 or 6",
        )
    packaged = re.match(r"(?:\d+:)?(\d+)\.", binding)
    if packaged is not None and int(packaged[1]) < 4:
        return "python3-lxc is older than liblxc's current interface", "install the distribution's own python3-lxc"
    return None


def _layout() -> str:
    try:
        return CgroupHost.detect().layout
    except LxcbuildError:
        return "none"


def _tools() -> Iterator[Check]:
    missing = {tool: package for tool, package in TOOLS.items() if shutil.which(tool, path=_search_path()) is None}
    if missing:
        fix = f"sudo apt-get install --no-install-recommends {' '.join(sorted(set(missing.values())))}"
        yield Check(name="tools", verdict="fail", says=f"not installed: {', '.join(missing)}", fix=fix)
    else:
        yield _ok("tools", ", ".join(TOOLS))


def _search_path() -> str:
    return process.host_environment()["PATH"]


def _keyrings() -> Iterator[Check]:
    missing = [(family, package) for family, (path, package) in _KEYRINGS.items() if not Path(path).exists()]
    if not missing:
        yield _ok("keyrings", "debian, ubuntu")
        return
    families = ", ".join(family for family, _ in missing)
    fix = f"sudo apt-get install --no-install-recommends {' '.join(package for _, package in missing)}"
    fatal = len(missing) == len(_KEYRINGS)
    says = f"no keys of {families}: images of it cannot be made"
    yield Check(name="keyrings", verdict="fail" if fatal else "warn", says=says, fix=fix)


def _memory() -> Iterator[Check]:
    available = files.memory()["MemAvailable"]
    says = f"{bytes_text(available)} available"
    fix = "stop other programs, or use a policy with a smaller memory.max"
    verdict: Verdict = "ok" if available >= _GOOD_MEMORY else "warn" if available >= _MIN_MEMORY else "fail"
    yield Check(name="memory", verdict=verdict, says=says, fix=None if verdict == "ok" else fix)


def _disk(dirs: StateDirs) -> Iterator[Check]:
    devices: dict[int, tuple[Path, os.statvfs_result]] = {}
    for root in (dirs.lib, dirs.cache):
        place = _existing(root)
        devices.setdefault(place.stat().st_dev, (root, os.statvfs(place)))
    for root, status in devices.values():
        free = status.f_bavail * status.f_frsize
        verdict: Verdict = "ok" if free >= _GOOD_DISK else "warn" if free >= _MIN_DISK else "fail"
        fix = (
            None if verdict == "ok" else "free some space (lxcbuild gc helps), or choose another place with --state-dir"
        )
        yield Check(name="disk", verdict=verdict, says=f"{bytes_text(free)} free for {root}", fix=fix)


def _existing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _kvm() -> Iterator[Check]:
    """Only booting proves KVM: some nested hypervisors accept every call and still cannot run a stock kernel."""
    kvm = Path("/dev/kvm")
    if not kvm.exists():
        yield _ok("kvm", "no /dev/kvm: builds run in containers")
    elif not os.access(kvm, os.R_OK | os.W_OK):
        yield _ok("kvm", "/dev/kvm is there, but not for this user: builds run in containers")
    else:
        yield _ok("kvm", "/dev/kvm is there, not yet proven by booting; builds run in containers")
