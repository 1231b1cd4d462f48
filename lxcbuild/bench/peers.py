"""Other programs that start something in namespaces, for comparison: each runs one command on the same image and ends.

None of them does what our sandboxes do (limits, an id-mapped overlay with a size, a filter of system calls, a watched network):
they show what the machine can do at best.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from lxcbuild import process
from lxcbuild.errors import CommandError
from lxcbuild.linux.mounts import mount_table

#: The measured command: its first byte says that it runs.
COMMAND = ("/bin/echo", "here")
_NAME = "lxcbuild-bench"
_LIMIT_S = 20.0
_LINKS = ("bin", "lib", "lib64")  # of a merged /usr; images have no mount points, and most of these programs want them
_PIPE, _STDOUT = -1, -2  # as Popen calls them; the module that names them belongs to process.py


class Life(Struct, frozen=True, kw_only=True):
    """One run: milliseconds from the request to the first byte of output, and to the end."""

    first_ms: float
    whole_ms: float


class Peer(Struct, frozen=True, kw_only=True):
    """``prepare`` gets the image and an empty directory, and returns the command line to measure."""

    name: str
    program: str
    what: str
    prepare: Callable[[Path, Path], Sequence[str]]


def run_once(argv: Sequence[str]) -> Life:
    """Start it and wait for its end. Raises ToolMissingError, CommandError."""
    began = time.perf_counter()
    with process.spawn(argv, stdout=_PIPE, stderr=_STDOUT) as child:
        output = process.piped(child.stdout).fileno()
        said = os.read(output, 4096)
        first = time.perf_counter()
        while more := os.read(output, 4096):
            said += more
        status = child.wait(_LIMIT_S)
        done = time.perf_counter()
    if status != 0 or said.strip() != b"here":
        raise CommandError(f"{argv[0]} failed: {said.decode(errors='replace').strip()[-300:]}")
    return Life(first_ms=(first - began) * 1000, whole_ms=(done - began) * 1000)


@contextlib.contextmanager
def swept() -> Iterator[None]:
    """Around runs of peers: liblxc leaves ``lxc.pivot`` behind, an empty cgroup; one that was not there before is removed."""
    places = [Path(mount.mount_point) / "lxc.pivot" for mount in mount_table() if mount.fstype in ("cgroup", "cgroup2")]
    ours = [place for place in places if not place.exists()]
    try:
        yield
    finally:
        for place in ours:
            try:
                place.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EBUSY:  # another LXC of this machine is passing through
                    raise


def _lxc(image: Path, scratch: Path) -> Sequence[str]:
    config = scratch / "config"
    (scratch / "upper").mkdir()
    lines = (
        f"lxc.rootfs.path = overlay:{image}:{scratch / 'upper'}",
        f"lxc.uts.name = {_NAME}",
        "lxc.net.0.type = empty",
        "lxc.mount.auto = proc",
        "lxc.pty.max = 0",
        "lxc.tty.max = 0",
        "lxc.console.path = none",
        "lxc.apparmor.profile = unconfined",
    )
    config.write_text("\n".join(lines) + "\n")
    return ("lxc-execute", "-n", f"{_NAME}-{os.getpid()}", "-P", str(scratch), "-f", str(config), "--", *COMMAND)


def _bubblewrap(image: Path, _scratch: Path) -> Sequence[str]:
    links = [word for name in _LINKS for word in ("--symlink", f"usr/{name}", f"/{name}")]
    binds = ("--ro-bind", str(image / "usr"), "/usr", *links, "--proc", "/proc", "--dev", "/dev")
    return ("bwrap", "--unshare-all", *binds, *COMMAND)


def _oci(program: str) -> Callable[[Path, Path], Sequence[str]]:
    def prepare(image: Path, scratch: Path) -> Sequence[str]:
        root = scratch / "root"
        for name in ("usr", "proc"):
            (root / name).mkdir(parents=True)
        for name in _LINKS:
            (root / name).symlink_to(f"usr/{name}")
        spec = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": list(COMMAND),
                "env": ["PATH=/usr/bin:/bin"],
                "cwd": "/",
                "noNewPrivileges": True,
            },
            "root": {"path": str(root), "readonly": True},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/usr", "type": "bind", "source": str(image / "usr"), "options": ["bind", "ro"]},
            ],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
        }
        (scratch / "config.json").write_text(json.dumps(spec))
        name = f"{_NAME}-{os.getpid()}"
        return (program, "--root", str(scratch / "state"), "run", "--bundle", str(scratch), name)

    return prepare


def _unshare(image: Path, _scratch: Path) -> Sequence[str]:
    kinds = ("--mount", "--pid", "--net", "--ipc", "--uts", "--fork")
    return ("unshare", *kinds, f"--root={image}", *COMMAND)


#: In the order of the table; the first one is what our budget refers to.
PEERS = (
    Peer(name="lxc-execute", program="lxc-execute", what="bare container: overlay, empty network", prepare=_lxc),
    Peer(name="bubblewrap", program="bwrap", what="all namespaces, /usr read-only", prepare=_bubblewrap),
    Peer(name="runc", program="runc", what="namespaces, /usr read-only, cgroups", prepare=_oci("runc")),
    Peer(name="crun", program="crun", what="namespaces, /usr read-only, cgroups", prepare=_oci("crun")),
    Peer(name="unshare", program="unshare", what="namespaces and chroot, nothing else", prepare=_unshare),
)
