"""Runs inside a guest, as a service of its systemd: uses lxcbuild as users do, runs our own tests, tells the host in JSON."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATE = "/var/tmp/state"
os.environ["LXCBUILD_GUEST_PORT"] = os.fspath(next(Path("/dev").glob("vport*p1")))
from guest_report import tell  # noqa: E402 - it looks for the port when it is loaded

TARGET = ("-t", "debian/bookworm")
#: What the tests of limits and of isolation are: the same files that run on the host.
TESTS = (
    "tests/integration/test_cgroup.py",
    "tests/integration/test_devices.py",
    "tests/integration/test_lxc_backend.py",
    "tests/integration/test_lxc_confinement.py",
)
FORKS = """
import os, time
n = 0
try:
    while n < 3000:
        if os.fork() == 0:
            time.sleep(600)
        n += 1
except OSError:
    print(n)
    raise
"""


def call(*argv: str, before: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run lxcbuild; its document and how it ended."""
    began_at = time.monotonic()
    command = [*before, sys.executable, "-m", "lxcbuild", "--state-dir", STATE, *argv]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        document = {"text": done.stdout[-4000:]}
    return {
        "status": done.returncode,
        "document": document,
        "said": done.stderr[-4000:],
        "seconds": round(time.monotonic() - began_at, 2),
    }


def facts() -> dict[str, Any]:
    """What kind of host this is."""
    script = "import sys; sys.path.append('/usr/lib/python3/dist-packages'); import lxc; print(lxc.version)"
    done = subprocess.run(["/usr/bin/python3", "-I", "-S", "-c", script], capture_output=True, text=True)
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "liblxc": done.stdout.strip(),
        "pid_1": Path("/proc/1/comm").read_text().strip(),
        "cgroup": Path("/proc/self/cgroup").read_text(),
        "uptime_s": float(Path("/proc/uptime").read_text().split()[0]),
    }


def beside_systemd() -> dict[str, Any]:
    """What systemd does to a sandbox that runs while it reloads and while it starts and ends units with limits of their own."""
    endless = ("--", "sh", "-c", "echo up; exec sleep 600")
    command = [sys.executable, "-m", "lxcbuild", "--state-dir", STATE, "run", *TARGET, *endless]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        try:
            (group,) = Path("/sys/fs/cgroup").glob("lxcbuild-*/run-*")
            subprocess.run(["systemctl", "daemon-reload"], check=True)
            limits = ("-p", "CPUWeight=50", "-p", "MemoryMax=100M", "-p", "TasksMax=20", "-p", "IOWeight=50")
            subprocess.run(["systemd-run", "--quiet", "--scope", *limits, "true"], check=True)
            files = ("cgroup.controllers", "memory.max", "pids.max")
            found = {name: (group / name).read_text().strip() for name in files}
        finally:
            child.send_signal(signal.SIGINT)
    return {"status": child.returncode, "group": os.fspath(group), "still_there": group.exists(), **found}


def eat(megabytes: int) -> tuple[str, ...]:
    """A command that touches that much memory."""
    return ("--", "/usr/bin/python3", "-c", f"print(len(bytearray({megabytes} << 20)))")


def own_tests(image: str) -> None:
    """Our own tests; the plugin tells of each."""
    environment = {
        **os.environ,
        "LXCBUILD_TEST_STATE_DIR": STATE,
        "LXCBUILD_TEST_ROOTFS": image,
        "PYTHONPATH": f"{os.environ['PYTHONPATH']}:tests/qemu",
    }
    more = Path("/var/tmp/more-tests").read_text().split()
    # On ext4: Debian 13 has a tmpfs with nodev on /tmp, where no device could be opened anyway.
    options = ("-q", "--basetemp=/var/tmp/t", "-p", "no:cacheprovider", "-p", "guest_report", "--timeout=300")
    command = [sys.executable, "-m", "pytest", *options, *TESTS, *more]
    began_at = time.monotonic()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    seconds = round(time.monotonic() - began_at, 1)
    tell(check="tests", status=done.returncode, seconds=seconds, tail=done.stdout[-3000:] if done.returncode else "")


def main() -> None:
    """Everything, each told when it is done."""
    tell(check="facts", **facts())
    tell(check="run", **call("run", *TARGET, "--json", "--", "id", "-u"))
    show = call("rootfs", "show", "debian/bookworm", "--json")
    show["document"].pop("packages", None)
    tell(check="rootfs", **show)
    own_tests(show["document"]["loaded"])
    tell(check="systemd", **beside_systemd())
    tell(check="doctor", **call("doctor", "--json"))
    tell(check="again", **call("run", *TARGET, "--json", "--", "id", "-u"))
    # As from a login shell: a scope below user.slice, in which no controller is delegated to us.
    shell = ("systemd-run", "--quiet", "--scope", "--slice=user.slice")
    tell(check="shell", **call("run", *TARGET, "--json", "--", "id", "-u", before=shell))
    tell(check="memory", **call("run", *TARGET, "--json", *eat(2200)))
    tell(check="little-memory", **call("run", *TARGET, "--json", *eat(20)))
    tell(check="forks", **call("run", *TARGET, "--json", "--", "/usr/bin/python3", "-c", FORKS))
    tell(check="leftovers", **call("doctor", "--leftovers", "--json"))
    tell(check="end", uptime_s=float(Path("/proc/uptime").read_text().split()[0]))


if __name__ == "__main__":
    main()
