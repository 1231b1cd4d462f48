"""The launcher's part of a sandbox's file system: all of its mounts, in a mount namespace of the launcher's own."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from lxcbuild.linux import mounts, syscalls
from lxcbuild.sandbox.inside import runner_code
from lxcbuild.sandbox.start import lxcconf
from lxcbuild.sandbox.start.job import LaunchJob

#: Where the launcher builds the tree in its own mount namespace: a directory that every host has and every user may enter.
PLACE = "/run"


def make_tree(job: LaunchJob, userns: int) -> tuple[int, int]:
    """All mounts of the sandbox, in a mount namespace of our own. Returns descriptors of the merged tree and the upper."""
    mounts.make_private()
    attributes = mounts.READ_ONLY
    # Everything of the host is opened before our tmpfs hides /run.
    lowers = [mounts.clone(path, attributes=attributes, userns_fd=userns) for path in job.lowers]
    bind_fds: list[tuple[int, str]] = []
    for host, inside in job.binds:
        if Path(host).is_dir():
            bind_fds.append((_clone_input(host, userns), inside))
        else:
            bind_fds.append((os.open(host, os.O_RDONLY | os.O_NOFOLLOW), inside))
    os.close(userns)
    runner = _runner(job)
    _hide_cgroups()
    base = job.id_base
    options = f"size={job.tmpfs_bytes},nr_inodes={job.tmpfs_inodes},mode=0755"
    syscalls.mount("none", PLACE, fstype="tmpfs", flags=syscalls.MS_NOSUID, data=options)
    os.chdir(PLACE)
    for name in ("u", "w", "m", "r", "l", "x", "e"):
        Path(name).mkdir()
    os.chown("u", base, base)
    for number, tree in enumerate(lowers):
        _attach_at(tree, str(number))
    # Relative names: /proc/mounts inside shows these options, and there is nothing to learn from "0:1".
    chain = ":".join(str(number) for number in range(len(lowers)))
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    data = f"lowerdir={chain},upperdir=u,workdir=w,xino=off,index=off,metacopy=off,redirect_dir=off"
    syscalls.mount("none", "m", fstype="overlay", flags=flags, data=data)
    merged = os.open("m", os.O_RDONLY | os.O_DIRECTORY)
    _make_directories(merged, job)
    _make_dev(merged, job, runner)
    for number, (fd, inside) in enumerate(bind_fds):
        _bind(merged, fd, inside, number=number, owner=base)
    _check_interpreter(merged)
    return merged, os.open("u", os.O_RDONLY | os.O_DIRECTORY)


def _clone_input(host: str, userns: int) -> int:
    """A read-only clone whose root-owned files are the inner root's, where the file system can do that.

    NFS and overlays cannot: what everybody may read there can still be read.
    """
    try:
        return mounts.clone(host, attributes=mounts.READ_ONLY, userns_fd=userns)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return mounts.clone(host, attributes=mounts.READ_ONLY)


def _hide_cgroups() -> None:
    """Show liblxc a host without cgroups.

    The launcher is in the build's cgroups already and the payload inherits them, so liblxc has nothing to do there: it would
    make two more cgroups per hierarchy and move processes between them (6 to 16 ms). It looks below this directory only
    (cgfsng.c, initialize_cgroups) and goes without what is not mounted there.
    """
    if Path("/sys/fs/cgroup").is_dir():
        syscalls.mount("none", "/sys/fs/cgroup", fstype="tmpfs", flags=syscalls.MS_RDONLY, data="size=4k,nr_inodes=2")


def _attach_at(tree: int, name: str) -> None:
    Path(name).mkdir()
    mounts.attach(tree, os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))


def _make_directories(merged: int, job: LaunchJob) -> None:
    """Directories that the sandbox needs; an image in which one is a link or a file is refused."""
    base = job.id_base
    for path, owner, mode in (
        ("/build", 1000, 0o755),
        ("/out", 1000, 0o755),
        ("/tmp", 0, 0o1777),  # noqa: S108 - the sandbox's own
        ("/in", 0, 0o755),
        ("/proc", 0, 0o555),
        ("/sys", 0, 0o555),
    ):
        os.close(mounts.make_dir(merged, mounts.split_inside(path), owner=base + owner, mode=mode))


def _runner(job: LaunchJob) -> dict[str, bytes]:
    """What is laid beside the devices: the runner compiled by the image's Python if there is that, else by ours."""
    if job.runner is not None:
        with contextlib.suppress(FileNotFoundError):  # its image was removed a moment ago
            return {**runner_code.files(), ".code": Path(job.runner).read_bytes()}
    return runner_code.files()


def _make_dev(merged: int, job: LaunchJob, runner: Mapping[str, bytes]) -> None:
    """/dev: a read-only directory of the build's tmpfs with exactly these entries; the runner's script lies there too."""
    base = job.id_base
    Path("d").mkdir()
    for name, major, minor in lxcconf.DEVICES:
        node = f"d/{name}"
        os.mknod(node, 0o020666, os.makedev(major, minor))
        Path(node).chmod(0o666)
        os.chown(node, base, base)
    for name, target in lxcconf.DEVICE_LINKS:
        Path(f"d/{name}").symlink_to(target)
    Path("d/pts").mkdir()
    Path("d/shm").mkdir()
    for suffix, content in runner.items():
        script = Path(f"d/{lxcconf.RUNNER_NAME}{suffix}")
        script.write_bytes(content)
        script.chmod(0o444)
    Path("x/null").touch(0o444)
    Path("s").mkdir()
    os.chown("s", base, base)
    Path("s").chmod(0o1777)
    devices = mounts.clone(
        "d", attributes=syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
    )
    mounts.attach(devices, mounts.make_dir(merged, ["dev"], owner=base))
    shared = mounts.clone("s", attributes=syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV)
    mounts.attach(shared, mounts.make_dir(merged, ["dev", "shm"], owner=base))
    # A new instance of its own since Linux 4.7; group 5 is tty in Debian's base-passwd.
    data = f"ptmxmode=0666,mode=0620,gid={base + 5},max={job.max_ptys}"
    syscalls.mount("none", "m/dev/pts", fstype="devpts", flags=syscalls.MS_NOSUID | syscalls.MS_NOEXEC, data=data)


def _bind(merged: int, source: int, inside: str, *, number: int, owner: int) -> None:
    """Show a directory or a file read-only at ``inside``, with no path of the host in mountinfo.

    A bare bind mount would show where it comes from (the root field of proc_pid_mountinfo(5)), so a directory becomes the lower
    of a read-only overlay, and a file is copied into the build's tmpfs.
    """
    parts = mounts.split_inside(inside)
    if os.fstat(source).st_mode & 0o170000 == 0o040000:
        _attach_at(source, f"b{number}")
        Path(f"i{number}").mkdir()
        flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount("none", f"i{number}", fstype="overlay", flags=flags, data=f"lowerdir=b{number}:e,xino=off")
        tree = mounts.clone(f"i{number}", attributes=mounts.READ_ONLY)
        mounts.attach(tree, mounts.make_dir(merged, parts, owner=owner))
        return
    with open(source, "rb") as reader, Path(f"b{number}").open("xb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        os.fchown(writer.fileno(), owner, owner)
        os.fchmod(writer.fileno(), 0o444)
    parent = mounts.make_dir(merged, parts[:-1], owner=owner)
    try:
        target = mounts.make_file(parent, parts[-1], owner=owner)
    finally:
        os.close(parent)
    mounts.attach(mounts.clone(f"b{number}", attributes=mounts.READ_ONLY), target)


def _check_interpreter(merged: int) -> None:
    """Fail in words when the image has no Python: the runner needs one."""
    try:
        flags = syscalls.RESOLVE_IN_ROOT
        os.close(syscalls.openat2("usr/bin/python3", dir_fd=merged, flags=os.O_PATH, resolve=flags))
    except OSError as error:
        raise ValueError("the image has no /usr/bin/python3, which the runner needs") from error
