"""What a process inside an LXC sandbox sees and may do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from lxcbuild.errors import InputError, LimitRefusedError, SandboxError
from lxcbuild.policy import NetworkMode
from lxcbuild.sandbox.base import Bind, Step, User
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.sandbox.lxc_instance import LxcInstance
from lxcbuild.state.paths import StateDirs
from tests.integration.lxc_sandboxes import POLICY, shell, spec

pytestmark = pytest.mark.root


def test_steps_run_as_the_build_user_without_capabilities(running: LxcInstance) -> None:
    result, out = shell(running, "id -u; id -g; grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status")
    assert result.ok
    assert out.split() == [
        "1000", "1000", "CapEff:", "0" * 16, "CapBnd:", "0" * 16, "CapAmb:", "0" * 16, "NoNewPrivs:", "1",
    ]  # fmt: skip


def test_inner_root_has_exactly_the_capabilities_of_an_installer(running: LxcInstance) -> None:
    _, out = shell(running, "grep -E '^Cap(Eff|Bnd)' /proc/self/status", user=User.ROOT)
    assert [int(word, 16) for word in out.split()[1::2]] == [0x1FB, 0x1FB]


def test_every_namespace_is_its_own(running: LxcInstance) -> None:
    names = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    _, out = shell(running, " ".join(["readlink", *(f"/proc/self/ns/{name}" for name in names)]))
    inside = out.split()
    assert len(inside) == len(names)
    assert not set(inside) & {os.fspath(Path(f"/proc/self/ns/{name}").readlink()) for name in names}


def test_ids_are_a_range_of_the_host_that_is_not_its_own(running: LxcInstance) -> None:
    _, out = shell(running, "cat /proc/self/uid_map /proc/self/gid_map")
    numbers = [int(word) for word in out.split()]
    assert numbers == [0, running._id_start, 65536] * 2
    assert running._id_start >= 65536


def test_the_mount_table_inside_names_nothing_of_the_host(running: LxcInstance, rootfs: Path, dirs: StateDirs) -> None:
    _, out = shell(running, "cat /proc/self/mountinfo /proc/self/cgroup /proc/1/environ")
    for secret in (os.fspath(rootfs), os.fspath(dirs.run), dirs.tag, "lxcbuild", "instances"):
        assert secret not in out
    assert all(line.endswith(":/") for line in out.splitlines() if line.count(":") == 2 and " " not in line)


def test_device_directory_is_exactly_the_allowed_one_and_cannot_be_changed(running: LxcInstance) -> None:
    _, out = shell(
        running, "cd /dev && ls -A && find . -type c -not -path './pts/*' | sort; echo x >/dev/new; rm -f /dev/null"
    )
    listed = set(out.split())
    assert {"full", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"} <= listed
    assert {"./full", "./null", "./random", "./tty", "./urandom", "./zero"} == {w for w in listed if w.startswith("./")}
    assert out.count("Read-only file system") == 2


def test_proc_sys_and_sysrq_are_read_only_and_sys_is_empty(running: LxcInstance) -> None:
    script = "for f in sys/kernel/hostname sys/vm/drop_caches sysrq-trigger; do (echo x > /proc/$f) 2>&1; done; ls -A /sys | wc -l"
    _, out = shell(running, script, user=User.ROOT)
    assert out.count("cannot create") == 3  # a kernel without sysrq has no such file
    assert out.split()[-1] == "0"


def test_the_runners_script_cannot_be_overwritten(running: LxcInstance) -> None:
    _, out = shell(
        running, "(echo x > /dev/.runner) 2>&1; mount -o remount,rw /dev 2>&1; rm -f /dev/.runner 2>&1", user=User.ROOT
    )
    assert out.count("Read-only file system") == 2
    assert shell(running, "true")[0].ok


def test_there_is_no_network_but_lo(running: LxcInstance) -> None:
    _, out = shell(running, "tail -n +3 /proc/net/dev | cut -d: -f1; tail -n +2 /proc/net/route")
    assert out.split() == ["lo"]


def test_pseudo_terminals_work_for_the_build_user(running: LxcInstance) -> None:
    script = "import os, pty; a, b = pty.openpty(); print(os.ttyname(b)); os.write(a, b'x'); print(os.stat(os.ttyname(b)).st_gid)"
    parts: list[bytes] = []
    assert running.run(Step(argv=("python3", "-c", script)), parts.append).ok
    name, gid = b"".join(parts).decode().split()
    assert name.startswith("/dev/pts/")
    assert gid == "5"


def test_the_sandbox_offers_what_builds_take_for_granted(running: LxcInstance) -> None:
    script = """
        set -e
        touch /build/a /out/a /tmp/a /dev/shm/a /var/tmp/a
        echo x > /dev/null; head -c 4 /dev/urandom | wc -c; head -c 4 /dev/zero | wc -c
        python3 -c "import multiprocessing as m; m.Lock(); print(m.Pool(2).map(abs, [-1]))"
        pwd; hostname; mkfifo /build/fifo; ln -s a /build/link
    """
    result, out = shell(running, script)
    assert result.ok
    assert out.split() == ["4", "4", "[1]", "/build", "build"]


@pytest.mark.parametrize(("mode", "up"), [(NetworkMode.NONE, False), (NetworkMode.LOOPBACK, True)])
def test_lo_is_up_when_the_policy_says_so(backend: LxcBackend, rootfs: Path, mode: NetworkMode, *, up: bool) -> None:
    probe = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); socket.create_connection(s.getsockname())"
    with backend.create(spec(rootfs, policy=replace(POLICY, network=mode))) as instance:
        instance.start()
        assert instance.run(Step(argv=("python3", "-c", probe)), lambda _: None).ok is up


def test_binds_are_read_only_and_owned_by_inner_root(backend: LxcBackend, rootfs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("from a directory")
    (tmp_path / "file").write_text("from a file")
    binds = (Bind(host=folder, inside="/in/folder"), Bind(host=tmp_path / "file", inside="/in/deep/file"))
    with backend.create(spec(rootfs, binds=binds)) as instance:
        instance.start()
        script = "cat /in/folder/a /in/deep/file; stat -c %u:%g /in/folder/a /in/deep/file; cat /proc/self/mountinfo"
        _, out = shell(instance, script)
        assert out.startswith("from a directoryfrom a file0:0\n0:0\n")
        assert os.fspath(tmp_path) not in out
        _, out = shell(instance, "echo x >/in/folder/a; echo x >/in/deep/file; rm -f /in/folder/a", user=User.ROOT)
        assert out.count("Read-only file system") == 3
    assert (folder / "a").read_text() == "from a directory"
    assert (tmp_path / "file").read_text() == "from a file"


def test_inputs_on_a_file_system_without_id_maps_are_still_readable(
    backend: LxcBackend, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # sysfs cannot be id-mapped, as NFS cannot; relative and linked paths are resolved on the host.
    (tmp_path / "link").symlink_to("/sys/kernel/mm")
    monkeypatch.chdir(tmp_path)
    with backend.create(spec(rootfs, binds=(Bind(host=Path("link"), inside="/in/odd"),))) as instance:
        instance.start()
        assert shell(instance, "ls /in/odd")[1].strip()


@pytest.mark.parametrize(
    ("host", "inside"), [("/missing", "/in/a"), ("/dev/null", "/in/a"), ("/etc", "in"), ("/etc", "/in/../x")]
)
def test_inputs_that_cannot_be_shown_are_refused(backend: LxcBackend, rootfs: Path, host: str, inside: str) -> None:
    with pytest.raises(InputError):
        backend.create(spec(rootfs, binds=(Bind(host=Path(host), inside=inside),)))


@pytest.mark.parametrize("place", ["dev", "proc", "build", "in", "tmp", "sys"])
def test_an_image_with_a_link_where_we_mount_is_refused(
    backend: LxcBackend, rootfs: Path, tmp_path: Path, place: str
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / place).symlink_to(canary)
    with backend.create(spec(rootfs, lowers=(layer, rootfs))) as instance, pytest.raises(SandboxError) as caught:
        instance.start()
    assert f"/{place} of the image is not a plain directory" in str(caught.value)
    assert list(canary.iterdir()) == []


DENIED = """
import ctypes, errno, fcntl, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "allowed"
print("unshare-user", call(272, 0x10000000))
print("clone-user", call(56, 0x10000000 | 17, 0, 0, 0, 0))
print("clone3", call(435, 0, 0))
print("keyctl", call(250, 0, 0))
print("bpf", call(321, 0, 0, 0))
print("io_uring_setup", call(425, 1, 0))
print("mount", call(165, b"none", b"/tmp", b"tmpfs", 0, None))
for family in (38, 40):
    try:
        socket.socket(family, socket.SOCK_SEQPACKET)
        print("socket", family, "allowed")
    except OSError as error:
        print("socket", family, errno.errorcode[error.errno])
try:
    fcntl.ioctl(0, 0x5412, b"x")
    print("TIOCSTI allowed")
except OSError as error:
    print("TIOCSTI", errno.errorcode[error.errno])
print("Seccomp", [line.split()[1] for line in open("/proc/self/status") if line.startswith("Seccomp:")][0])
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="system call numbers of x86_64")
def test_the_seccomp_profile_denies_what_no_build_needs(running: LxcInstance) -> None:
    parts: list[bytes] = []
    assert running.run(Step(argv=("python3", "-c", DENIED)), parts.append).ok
    assert b"".join(parts).decode().splitlines() == [
        "unshare-user EPERM",
        "clone-user EPERM",
        "clone3 ENOSYS",
        "keyctl EPERM",
        "bpf EPERM",
        "io_uring_setup ENOSYS",
        "mount EPERM",
        "socket 38 EAFNOSUPPORT",
        "socket 40 EAFNOSUPPORT",
        "TIOCSTI EPERM",
        "Seccomp 2",
    ]


def test_without_a_profile_the_same_calls_pass(backend: LxcBackend, rootfs: Path) -> None:
    with backend.create(spec(rootfs, policy=replace(POLICY, seccomp="none"))) as instance:
        instance.start()
        parts: list[bytes] = []
        instance.run(Step(argv=("python3", "-c", DENIED)), parts.append)
        text = b"".join(parts).decode()
        assert "unshare-user allowed" in text
        assert "Seccomp 0" in text
    with pytest.raises(LimitRefusedError, match="no seccomp profile 'mistyped'"):
        backend.create(spec(rootfs, policy=replace(POLICY, seccomp="mistyped")))
