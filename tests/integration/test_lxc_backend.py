"""One sandbox's life on the real kernel: limits, output, death of any of its processes, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from lxcbuild.errors import BadNameError, CancelledError, ExtractionError, LimitRefusedError, SandboxError
from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.model import FailureClass
from lxcbuild.policy import CpuLimits, DiskLimits, MemoryLimits, OutputLimits
from lxcbuild.sandbox import registry
from lxcbuild.sandbox.base import User
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.sandbox.lxc_instance import LxcInstance
from lxcbuild.state.paths import StateDirs
from tests import ROOT
from tests.integration.lxc_sandboxes import MIB, POLICY, processes_of, shell, spec
from tests.support.timing import quick

pytestmark = pytest.mark.root


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


def test_one_backend_serves_many_threads(backend: LxcBackend, rootfs: Path) -> None:
    def one(number: int) -> str:
        with backend.create(spec(rootfs, f"t{number}")) as instance:
            instance.start()
            result, out = shell(instance, f"echo {number} > /out/n; cat /out/n; cut -d' ' -f1-11 /proc/self/uid_map")
            assert result.ok
            instance.stop()
        return out

    with ThreadPoolExecutor(6) as pool:
        outputs = list(pool.map(one, range(12)))
    assert [out.split()[0] for out in outputs] == [str(number) for number in range(12)]


def test_cancel_from_another_thread_ends_a_step_at_once(running: LxcInstance) -> None:
    threading.Timer(0.3, running.cancel).start()
    begun = time.monotonic()
    result, _ = shell(running, "trap '' TERM INT; sleep 60")
    assert result.stopped_by is FailureClass.CANCELLED
    assert quick(time.monotonic() - begun, 2)


@pytest.mark.parametrize("who", ["launcher", "runner", "launcher pool"])
def test_whoever_is_killed_everything_inside_is_dead(running: LxcInstance, backend: LxcBackend, who: str) -> None:
    assert running._launcher is not None
    pid = running._launcher.pid
    victim = {
        "launcher": pid,
        "runner": int(Path(f"/proc/{pid}/task/{pid}/children").read_text()),
        "launcher pool": int(
            next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("PPid")).split()[1]
        ),
    }[who]
    threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
    result, _ = shell(running, "setsid sleep 60 & sleep 60")
    assert result.stopped_by is not None
    deadline = time.monotonic() + 20
    while (left := processes_of(running._id_start)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == []


def test_a_backend_recovers_from_a_killed_nursery(backend: LxcBackend, rootfs: Path) -> None:
    backend._launchers.prepare()
    spare = backend._launchers._spare
    assert spare is not None
    status = Path(f"/proc/{spare.pid}/status").read_text()
    os.kill(int(next(line for line in status.splitlines() if line.startswith("PPid")).split()[1]), signal.SIGKILL)
    assert spare.wait(20)
    with backend.create(spec(rootfs)) as instance:
        instance.start()
        assert shell(instance, "true")[0].ok


def test_the_inner_root_can_install_a_package(running: LxcInstance) -> None:
    script = """
        set -e
        mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/p
        printf 'Package: p\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: p\n' > /tmp/p/DEBIAN/control
        printf '#!/bin/sh\nchown 33:33 /usr/share/p\nid -u > /usr/share/p/who\n' > /tmp/p/DEBIAN/postinst
        chmod 755 /tmp/p/DEBIAN/postinst
        dpkg-deb --build /tmp/p /tmp/p.deb >/dev/null
        dpkg -i /tmp/p.deb >/dev/null
        stat -c %u /usr/share/p; cat /usr/share/p/who; dpkg -s p | grep ^Status
    """
    result, out = shell(running, script, user=User.ROOT)
    assert (result.exit_status, out) == (0, "33\n0\nStatus: install ok installed\n")


@pytest.mark.parametrize("nursery_too", [False, True])
def test_a_killed_orchestrator_leaves_nothing_or_what_sweep_removes(
    dirs: StateDirs, rootfs: Path, *, nursery_too: bool
) -> None:
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {os.fspath(ROOT)!r})
        from pathlib import Path
        from tests.integration.lxc_sandboxes import *
        from lxcbuild.state.paths import StateDirs
        from lxcbuild.sandbox.lxc import LxcBackend
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
        deadline = time.monotonic() + 20
        while len(processes_of(id_start)) < 3:  # the runner and two sleepers
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (record,) = registry.list_instances(dirs)
        assert registry.is_live(record)
        assert registry.sweep(record) == []
        if nursery_too:  # nobody is there to clean up
            child.send_signal(signal.SIGSTOP)
            assert record.launcher_pid is not None
            stat = Path("/proc", str(record.launcher_pid), "stat").read_text()
            os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (left := processes_of(id_start)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == []
    assert not registry.is_live(record)
    if nursery_too:
        assert any(what.startswith("cgroup") for what in registry.sweep(record))
    while registry.list_instances(dirs) and time.monotonic() < deadline + 8:
        time.sleep(0.01)
    assert registry.list_instances(dirs) == []
    assert record.cgroup not in CgroupHost.detect().list(dirs.cgroup)


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
        backend._background.join()

    one(0)
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for number in range(1, 6):
        one(number)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
