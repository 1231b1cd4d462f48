"""The LXC backend against the real kernel: what is inside, what is outside, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lxcbuild.config.paths import StateDirs
from lxcbuild.errors import BadNameError, CancelledError, ExtractionError, LimitRefusedError, SandboxError
from lxcbuild.linux.cgroup import CgroupHost
from lxcbuild.model import (
    CpuLimits,
    DiskLimits,
    FailureClass,
    MemoryLimits,
    NetworkMode,
    OutputLimits,
    Policy,
    TimeLimits,
)
from lxcbuild.sandbox import registry
from lxcbuild.sandbox.base import Bind, InstanceSpec, Step, StepResult, User
from lxcbuild.sandbox.lxc import LxcBackend, LxcInstance

pytestmark = pytest.mark.root

MIB = 1 << 20
POLICY = Policy(
    name="test",
    memory=MemoryLimits(max_bytes=256 * MIB),
    disk=DiskLimits(max_bytes=64 * MIB, max_inodes=5000),
    time=TimeLimits(wall_s=30),
    cpu=CpuLimits(quota_percent=150),
    pids_max=64,
    network=NetworkMode.LOOPBACK,
    best_effort=frozenset({"*"}),
)


@pytest.fixture(scope="session")
def rootfs(state: StateDirs) -> Path:
    """A small Debian tree with Python, made once and kept with the other images of the tests."""
    if given := os.environ.get("LXCBUILD_TEST_ROOTFS"):
        return Path(given)
    tree = state.cache / "test-rootfs"
    if not tree.exists():
        tree.parent.mkdir(parents=True, exist_ok=True)
        new = tree.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        suite = next(
            line.partition("=")[2].strip()
            for line in Path("/etc/os-release").read_text().splitlines()
            if line.startswith("VERSION_CODENAME=")
        )
        command = ["mmdebstrap", "--variant=minbase", "--include=python3", suite, os.fspath(new)]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        new.rename(tree)
    return tree


@dataclass
class Traces:
    """What a sandbox could leave behind on the host."""

    mounts: list[str]
    cgroups: list[str]
    instances: list[str]
    descriptors: int

    @classmethod
    def of(cls, dirs: StateDirs) -> Traces:
        return cls(
            # Ours have the source "none" or lie below the state directory; others may come and go while the tests run.
            mounts=[line for line in Path("/proc/self/mountinfo").read_text().splitlines() if _ours(line, dirs)],
            cgroups=CgroupHost.detect().list(dirs.cgroup),
            instances=[record.instance_id for record in registry.list_instances(dirs)],
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        )


def _ours(line: str, dirs: StateDirs) -> bool:
    return line.partition(" - ")[2].split()[1] == "none" or os.fspath(dirs.run.parent) in line


@pytest.fixture
def dirs(fresh_state: StateDirs) -> Iterator[StateDirs]:
    """A state directory of one test; nothing of it may be on the host afterwards."""
    before = Traces.of(fresh_state)
    yield fresh_state
    assert Traces.of(fresh_state) == before


@pytest.fixture
def backend(dirs: StateDirs) -> Iterator[LxcBackend]:
    with LxcBackend(dirs) as made:
        yield made


def spec(rootfs: Path, name: str = "one", **fields: object) -> InstanceSpec:
    return replace(InstanceSpec(instance_id=name, lowers=(rootfs,), policy=POLICY), **fields)  # type: ignore[arg-type]


def shell(instance: LxcInstance, script: str, *, user: User = User.BUILD) -> tuple[StepResult, str]:
    parts: list[bytes] = []
    result = instance.run(Step(argv=("/bin/sh", "-c", script), user=user), parts.append)
    return result, b"".join(parts).decode(errors="replace")


def processes_of(id_start: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                status = (entry / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "\nState:\tZ" in status:
                continue
            uid = int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1])
            if id_start <= uid < id_start + 65536:
                found.append(int(entry.name))
    return found


@pytest.fixture
def running(backend: LxcBackend, rootfs: Path) -> Iterator[LxcInstance]:
    with backend.create(spec(rootfs)) as instance:
        instance.start()
        yield instance


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


def test_limits_are_those_of_the_policy_and_read_from_the_kernel(running: LxcInstance) -> None:
    limits = running.limits_in_force
    by_name = {name: value.get("value") for name, value in limits.items() if isinstance(value, dict)}
    assert by_name["memory.max"] == 256 * MIB
    assert by_name["pids.max"] == 64
    json.dumps(limits)


def test_memory_of_the_writable_layer_counts_and_a_hog_dies_alone(backend: LxcBackend, rootfs: Path) -> None:
    small = replace(
        POLICY, memory=MemoryLimits(max_bytes=64 * MIB), disk=DiskLimits(max_bytes=512 * MIB, max_inodes=1000)
    )
    with backend.create(spec(rootfs, policy=small)) as instance:
        instance.start()
        result, _ = shell(instance, "head -c 200M /dev/zero > /build/big")
        assert result.stopped_by is FailureClass.OOM


def test_the_tmpfs_is_full_at_its_size(running: LxcInstance) -> None:
    result, out = shell(running, "head -c 100M /dev/zero > /build/big; s=$?; df /build >&2; exit $s")
    assert "No space left" in out
    assert result.stopped_by is FailureClass.DISK_FULL


def test_output_is_extracted_after_everything_is_dead(running: LxcInstance, tmp_path: Path) -> None:
    script = "mkdir /out/sub; echo one > /out/sub/f; (setsid sh -c 'while :; do date > /out/late; done' &) ; sleep 0.1"
    assert shell(running, script)[0].exit_status == 0
    usage = running.stop()
    assert processes_of(running._id_start) == []
    files = {file.name: file for file in running.extract("/out", tmp_path / "got", OutputLimits())}
    assert files["sub/f"].path.read_bytes() == b"one\n"
    assert files["sub/f"].path.stat().st_uid == 0
    assert usage.cpu_s > 0
    assert usage.peak_memory_bytes > MIB
    assert any(change.path == "/out/sub/f" for change in running.changes(prefixes=("/out",)))


def test_a_link_in_the_output_is_refused(running: LxcInstance, tmp_path: Path) -> None:
    shell(running, "ln -s /etc/passwd /out/link")
    running.stop()
    with pytest.raises(ExtractionError):
        running.extract("/out", tmp_path / "got", OutputLimits())


def test_the_writable_layer_becomes_a_lower_of_the_next_sandbox(
    backend: LxcBackend, rootfs: Path, tmp_path: Path
) -> None:
    with backend.create(spec(rootfs)) as instance:
        instance.start()
        assert shell(instance, "echo layered > /etc/layered; rm /etc/issue", user=User.ROOT)[0].ok
        instance.stop()
        instance.save_delta(tmp_path / "layer")
    with backend.create(spec(rootfs, "two", lowers=(tmp_path / "layer", rootfs))) as instance:
        instance.start()
        result, out = shell(instance, "cat /etc/layered; stat -c %u /etc/layered; test ! -e /etc/issue")
        assert (result.ok, out) == (True, "layered\n0\n")


def test_the_image_is_unchanged_whatever_root_does(running: LxcInstance, rootfs: Path) -> None:
    before = (rootfs / "etc/passwd").stat()
    assert shell(running, "echo x >> /etc/passwd; rm -rf /usr/share; chmod 777 /etc", user=User.ROOT)[0].ok
    after = (rootfs / "etc/passwd").stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert (rootfs / "usr/share").is_dir()


def test_two_at_once_are_disjoint(backend: LxcBackend, rootfs: Path) -> None:
    with backend.create(spec(rootfs, "a")) as one, backend.create(spec(rootfs, "b")) as two:
        one.start()
        two.start()
        assert abs(one._id_start - two._id_start) >= 65536
        shell(one, "echo secret > /tmp/shared; echo secret > /dev/shm/shared")
        result, out = shell(two, "ls -A /tmp /dev/shm; ps 2>/dev/null; ls /proc | grep -c '^[0-9]'")
        assert result.ok
        assert "shared" not in out


def test_cancel_from_another_thread_ends_a_step_at_once(running: LxcInstance) -> None:
    threading.Timer(0.3, running.cancel).start()
    begun = time.monotonic()
    result, _ = shell(running, "trap '' TERM INT; sleep 60")
    assert result.stopped_by is FailureClass.CANCELLED
    assert time.monotonic() - begun < 2


def test_a_killed_launcher_takes_everything_with_it(running: LxcInstance) -> None:
    assert running._launcher is not None
    threading.Timer(0.3, running._launcher.kill).start()
    result, _ = shell(running, "setsid sleep 60 & sleep 60")
    assert result.stopped_by is not None
    deadline = time.monotonic() + 2
    while (left := processes_of(running._id_start)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == []


def test_a_killed_orchestrator_leaves_only_what_sweep_removes(dirs: StateDirs, rootfs: Path) -> None:
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {os.fspath(Path(__file__).parent)!r})
        from pathlib import Path
        from test_lxc_backend import *
        backend = LxcBackend(StateDirs.choose({os.fspath(dirs.run.parent)!r}))
        instance = backend.create(spec(Path({os.fspath(rootfs)!r}), "doomed"))
        instance.start()
        print(instance._id_start, flush=True)
        shell(instance, "setsid sleep 60 & sleep 60")
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip().isdigit():
                id_start = int(line)
                break
        time.sleep(0.2)
        assert len(processes_of(id_start)) >= 2
        (record,) = registry.list_instances(dirs)
        assert registry.is_live(record)
        assert registry.sweep(record) == []
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 2
    while (left := processes_of(id_start)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == []
    assert not registry.is_live(record)
    assert any(what.startswith("cgroup") for what in registry.sweep(record))
    assert registry.list_instances(dirs) == []


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


def test_an_image_without_python_is_refused_in_words(backend: LxcBackend, tmp_path: Path) -> None:
    with backend.create(spec(tmp_path)) as instance, pytest.raises(SandboxError, match="no /usr/bin/python3"):
        instance.start()


def test_a_python_that_does_not_start_is_refused(backend: LxcBackend, tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").write_text("not a program")
    (tmp_path / "usr/bin/python3").chmod(0o755)
    with backend.create(spec(tmp_path)) as instance, pytest.raises(SandboxError) as caught:
        instance.start()
    assert "python3" in (caught.value.details or "")


def test_an_id_in_use_and_a_bad_id_are_refused(running: LxcInstance, backend: LxcBackend, rootfs: Path) -> None:
    with backend.create(spec(rootfs)) as second, pytest.raises(SandboxError, match="already"):
        second.start()
    with backend.create(spec(rootfs, "../up")) as third, pytest.raises(BadNameError):
        third.start()
    assert shell(running, "true")[0].ok


def test_a_limit_that_cannot_be_enforced_is_refused_before_anything_starts(backend: LxcBackend, rootfs: Path) -> None:
    impossible = replace(POLICY, cpu=CpuLimits(cpuset="4000-4001"), best_effort=frozenset())
    with pytest.raises(LimitRefusedError):
        backend.create(spec(rootfs, policy=impossible))


def test_cancel_before_start_refuses_to_start(backend: LxcBackend, rootfs: Path) -> None:
    with backend.create(spec(rootfs)) as instance:
        instance.cancel()
        with pytest.raises(CancelledError):
            instance.start()


def test_descriptors_stay_flat_over_many_sandboxes(backend: LxcBackend, rootfs: Path) -> None:
    def one(number: int) -> None:
        with backend.create(spec(rootfs, f"n{number}")) as instance:
            instance.start()
            assert shell(instance, "true")[0].ok
        backend._behind.join()

    one(0)
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for number in range(1, 6):
        one(number)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


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
