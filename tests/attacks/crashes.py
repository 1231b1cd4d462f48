"""Real builds that are killed: starting one, finding its processes, and looking at what stays."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

from lxcbuild.host.leftovers import find_leftovers
from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.linux.mounts import mount_table
from lxcbuild.state.paths import StateDirs
from tests.support.command import argv
from tests.support.timing import quick

TARGET = "debian/bookworm"
LAUNCHER = "lxcbuild/sandbox/start/launcher.py"


def tiny_sdist(folder: Path) -> Path:
    """A project of one module."""
    path = folder / "tinyone-1.0.tar.gz"
    members = {
        "setup.py": "from setuptools import setup\nsetup(name='tinyone', version='1.0', py_modules=['tinyone'])\n",
        "tinyone.py": "X = 1\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: tinyone\nVersion: 1.0\n",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"tinyone-1.0/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


class RunningBuild:
    """``lxcbuild build`` of the tiny project, in a process group of its own. A context manager."""

    def __init__(self, state: StateDirs, folder: Path) -> None:
        self.state = state
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.errors: list[str] = []
        self.begun_at = time.monotonic()
        archive = folder / "tinyone-1.0.tar.gz"
        self.process = subprocess.Popen(
            argv(
                state,
                "--log-format",
                "json",
                "build",
                archive if archive.exists() else tiny_sdist(folder),
                "-t",
                TARGET,
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> RunningBuild:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self._events.put(json.loads(line))
            else:
                self.errors.append(line)
        self._events.put(None)

    def wait(self, timeout_s: float = 60) -> int:
        """The exit status, negative for a signal."""
        status = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def until_phase(self, phase: str) -> str:
        """Wait until the phase begins; the build's id."""
        while (event := self._events.get(timeout=120)) is not None:
            if event.get("event") == "PhaseStarted" and event["phase"] == phase:
                return str(event["build_id"])
        raise AssertionError(f"the build ended before {phase}: {self.errors}")

    def find(self, who: str) -> int | None:
        """The pid of the orchestrator, the launcher pool, a launcher with a sandbox, or the runner in it; None if none is there."""
        if who == "orchestrator":
            return self.process.pid
        for launchers in children(self.process.pid):
            if LAUNCHER not in command_line(launchers):
                continue
            if who == "launcher pool":
                return launchers
            for launcher in children(launchers):
                for runner in children(launcher):
                    return launcher if who == "launcher" else runner
        return None

    def kill(self, who: str) -> None:
        """SIGKILL, as soon as there is such a process."""
        deadline = time.monotonic() + 20
        while (pid := self.find(who)) is None:
            assert time.monotonic() < deadline, f"no {who}"
            assert self.process.poll() is None, f"the build ended before there was a {who}"
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Children of all threads of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += [int(word) for word in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(state: StateDirs, owner_pid: int) -> list[str]:
    """What must be gone by itself after a crash: mounts, processes in cgroups of ours, nurseries and launchers of the dead."""
    found = [f"mount {entry.mount_point}" for entry in mount_table() if _is_sandbox_mount(entry.mount_point, state)]
    host = CgroupHost.detect()
    for name in host.list(state.cgroup):
        if mark_of(owner_pid) not in name:  # somebody else's build
            continue
        try:
            group = host.open(name)
        except FileNotFoundError:
            continue
        try:
            found += [f"process {pid} in {name}" for node in group.nodes.values() for pid in node.pids()]
        except (FileNotFoundError, OSError):
            continue
        finally:
            group.close()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            words = command_line(int(entry.name)).split()
            if any(word.endswith(LAUNCHER) for word in words[:5]) and str(owner_pid) in words:
                found.append(f"process {entry.name}: {' '.join(words)[:100]}")
    return found


def mark_of(owner_pid: int) -> str:
    """What the ids of all builds of one process have in common."""
    return f"-{owner_pid % 0x10000:04x}"


def _is_sandbox_mount(point: str, state: StateDirs) -> bool:
    return point.startswith(f"{state.run}/") and Path(point) != state.hot


def until_gone(state: StateDirs, owner_pid: int, timeout_s: float) -> float:
    """Wait until nothing is alive any more; the seconds that took. Fails with what is left."""
    begun = time.monotonic()
    while left := alive(state, owner_pid):
        assert quick(time.monotonic() - begun, timeout_s), left
        time.sleep(0.02)
    return time.monotonic() - begun


def leftovers(state: StateDirs) -> list[str]:
    """What ``lxcbuild doctor --leftovers`` would say."""
    return [f"{each.kind} {each.what}" for each in find_leftovers(state)]
