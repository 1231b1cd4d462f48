"""Does this kernel do what sandboxes need? Each feature is tried for real, in a child that leaves nothing behind.

Standard library only. Must be called from a single-threaded process (it forks, and user namespaces are made in the children).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from lxcbuild.linux import idmap, mounts, syscalls

# clone(2)
_NAMESPACES = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "user": 0x10000000,
}
_TRIAL_PLACE = "/sys"  # covered by a tmpfs of the child's own: no lower of anybody lies there
_TRIAL_LOWER = f"{_TRIAL_PLACE}/l"


def namespaces() -> dict[str, str | None]:
    """Each kind of namespace to None, or to why it cannot be made."""
    return {name: _in_child(lambda flag=flag: syscalls.unshare(flag)) for name, flag in _NAMESPACES.items()}  # type: ignore[misc]


def overlay_on_idmapped(place: Path | None, *, id_base: int) -> str | None:
    """Try an overlay in tmpfs over an id-mapped lower; None when it works, else why not.

    The lower lies in a tmpfs (``place`` None; Linux 6.3 and later) or in a scratch directory below ``place`` on its file
    system (ext4, xfs and btrfs: Linux 5.12 to 5.15); overlayfs takes id-mapped lowers since Linux 5.19.
    """
    return _in_child(lambda: _overlay_trial(place, id_base))


def pidfd() -> str | None:
    """Whether processes can be watched and signalled by descriptor (pidfd_open(2), Linux 5.3)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return _said(error)
    return None


def openat2() -> str | None:
    """Whether paths can be opened without following links (openat2(2), Linux 5.6)."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        os.close(syscalls.openat2("proc", dir_fd=root, flags=os.O_PATH, resolve=syscalls.RESOLVE_BENEATH))
    except OSError as error:
        return _said(error)
    finally:
        os.close(root)
    return None


def seccomp() -> str | None:
    """Whether system calls can be filtered (seccomp(2)); the file lists what a filter may answer."""
    try:
        actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    except OSError as error:
        return _said(error)
    missing = {"errno", "kill_process", "allow"} - set(actions)
    return f"the kernel's filters lack {', '.join(sorted(missing))}" if missing else None


def _overlay_trial(place: Path | None, id_base: int) -> None:
    with contextlib.ExitStack() as stack:
        userns = idmap.open_userns(id_base)
        stack.callback(os.close, userns)
        mounts.make_private()
        lower = _TRIAL_LOWER
        if place is not None:
            lower = stack.enter_context(tempfile.TemporaryDirectory(dir=place, prefix="lxcbuild-probe-"))
            Path(lower).chmod(0o755)
        syscalls.mount("none", _TRIAL_PLACE, fstype="tmpfs", data="size=1m,mode=0755")
        os.chdir(_TRIAL_PLACE)
        for name in ("l", "i", "u", "w", "m"):
            Path(name).mkdir()
        Path(lower, "file").touch()
        tree = mounts.clone(lower, attributes=mounts.READ_ONLY, userns_fd=userns)
        mounts.attach(tree, os.open("i", os.O_PATH | os.O_DIRECTORY))
        syscalls.mount("none", "m", fstype="overlay", data="lowerdir=i,upperdir=u,workdir=w")
        seen = Path("m/file").stat().st_uid
        if seen != id_base:
            raise OSError(errno.EINVAL, f"the overlay shows owner {seen} instead of {id_base}")
        Path("m/file").unlink()  # needs a working upper


def _in_child(work: Callable[[], None]) -> str | None:
    """Run something in a forked child; None, or the error that it raised."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            work()
            said: str | None = None
        except OSError as error:
            said = _said(error)
        except BaseException as error:  # noqa: BLE001 - the child has no other voice, and must not return
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(write, json.dumps(said).encode()[:4096])
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
        text = pipe.read()
    os.waitpid(pid, 0)
    result: str | None = json.loads(text) if text else "the trial's process died"
    return result


def _said(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "error")
    return f"{name}: {error.strerror or error}"
