"""A plan on a lab: a scheduler and three workers with state directories of their own give what one machine gives, byte for byte."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from command import Ended, argv
from synthetic import World, make_world

from lxcbuild.config.paths import StateDirs

pytestmark = [pytest.mark.root, pytest.mark.slow]
TARGET = "debian/bookworm"


@dataclass
class Lab:
    """Machines are state directories beside the tests' own one, with the same images."""

    state: StateDirs
    home: Path
    world: World
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def dirs(self, name: str) -> StateDirs:
        """A machine's state, made when it is not there: what was downloaded and made is shared as hard links."""
        root = self.home / name
        if not root.exists():
            root.mkdir(parents=True)
            shutil.copytree(self.state.cache, root / "cache", copy_function=os.link, symlinks=True)
        return StateDirs.choose(root)

    def run(self, name: str, *arguments: str | Path) -> Ended:
        done = subprocess.run(
            argv(self.dirs(name), *arguments), capture_output=True, text=True, env=self.environment, timeout=550
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, name: str, *arguments: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            command = argv(self.dirs(name), *arguments)
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )

    def start_scheduler(self) -> None:
        self.start("scheduler", "farm", "scheduler", "--port", str(self.port), "--certificates", str(self.certificates))

    def start_worker(self, name: str) -> None:
        own = ("--name", name, "--cpus", "1", "--dedicated", "--certificates", str(self.certificates))
        self.start(name, "farm", "worker", self.address, *own)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    @property
    def certificates(self) -> Path:
        return self.home / "certificates"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.world.environment, "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s"}

    def on_the_lab(self, plan: Path) -> tuple[str | Path, ...]:
        own = ("--scheduler", self.address, "--certificates", self.certificates, "--store", self.home / "store")
        return ("rebuild", plan, "--engine", "dask", *own)

    def packages(self, name: str) -> dict[str, str]:
        """Digests of all packages that a machine's store has, by file name."""
        found = self.dirs(name).artifacts.glob("*/*.deb")
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def plan(self) -> Path:
        names = self.home / "names.txt"
        names.write_text("".join(f"{name}\n" for name in self.world.needs))
        plan = self.home / "plan.json"
        made = self.run("head", "plan", "--from", names, "-t", TARGET, "-o", plan)
        assert made.status == 0, made.stderr
        return plan

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(timeout=60)
        for place in [path for path in self.home.iterdir() if (path / "cache").is_dir()]:
            cleaned = self.run(place.name, "gc", "--hot", "--failed")
            assert cleaned.status == 0, cleaned.stderr
        shutil.rmtree(self.home)


@pytest.fixture
def make_lab(state: StateDirs, made_image: Callable[[str], None], tmp_path: Path) -> Iterator[Callable[[int], Lab]]:
    made_image(TARGET)
    labs: list[Lab] = []

    def make(count: int) -> Lab:
        salt = f"lab{secrets.token_hex(3)}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = make_world(tmp_path / "index", count, seed=count, failing=0, salt=salt)
        lab = Lab(state, state.lib.parent / f"lab-{salt}", world, port)
        labs.append(lab)
        assert lab.run("head", "farm", "certificates", lab.certificates).status == 0
        lab.start_scheduler()
        for name in ("one", "two", "three"):
            lab.start_worker(name)
        return lab

    yield make
    for lab in labs:
        lab.end()


def test_three_workers_give_what_one_machine_gives(make_lab: Callable[[int], Lab]) -> None:
    lab = make_lab(3)
    plan = lab.plan()
    spread = lab.run("head", *lab.on_the_lab(plan))
    assert spread.status == 0, spread.stdout + spread.stderr
    alone = lab.run("alone", "rebuild", plan)
    assert alone.status == 0, alone.stdout + alone.stderr
    assert len(lab.packages("head")) == 3
    assert lab.packages("head") == lab.packages("alone")
    workers = {name: lab.packages(name) for name in ("one", "two", "three")}
    assert sum(bool(found) for found in workers.values()) >= 1
    # The head itself has built nothing: its packages came through the store.
    assert set().union(*workers.values()) == set(lab.packages("head"))


def test_a_killed_worker_and_a_restarted_scheduler_change_nothing(make_lab: Callable[[int], Lab]) -> None:
    lab = make_lab(12)
    plan = lab.plan()
    begun = time.monotonic()
    with (lab.home / "head.log").open("wb") as log:
        command = argv(lab.dirs("head"), *lab.on_the_lab(plan))
        head = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=lab.environment)

    def wait_for_packages(count: int) -> None:
        while len(lab.packages("head")) < count and head.poll() is None:
            assert time.monotonic() - begun < 500, (lab.home / "head.log").read_text()
            time.sleep(0.2)

    wait_for_packages(2)
    lab.kill("one")
    wait_for_packages(4)
    lab.kill("scheduler")
    lab.start_scheduler()
    assert head.wait(timeout=550) == 0, (lab.home / "head.log").read_text()
    alone = lab.run("alone", "rebuild", plan)
    assert alone.status == 0, alone.stderr
    assert len(lab.packages("head")) == 12
    assert lab.packages("head") == lab.packages("alone")
