"""A plan on a lab: a scheduler and three workers, each in a network namespace with a state directory of its own, give what one
machine gives, byte for byte, whatever happens to them meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lxcbuild.ledger.store import Ledger
from lxcbuild.state.paths import StateDirs
from tests.e2e.synthetic import World, make_world
from tests.support.command import Ended, argv
from tests.support.farm_networks import Network

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(3600)]
TARGET = "debian/bookworm"
PORT = 8786
#: Of the disk of a worker that becomes full: more than a worker must have to take jobs.
DISK_BYTES = 320 << 20


@dataclass
class Lab:
    """Machines are state directories beside the tests' own one, with the same images; the head is this machine."""

    state: StateDirs
    home: Path
    world: World
    network: Network
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
            argv(self.dirs(name), *arguments), capture_output=True, text=True, env=self.environment, timeout=1500
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, name: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """A command of a machine, where its network is, in the background."""
        prefix = self.network.prefix(name) if name in self.network.members else ()
        with (self.home / f"{name}.log").open("ab") as log:
            command = [*prefix, *argv(self.dirs(name), *arguments)]
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        return self.processes[name]

    def said(self, name: str) -> str:
        """What the commands of a machine have printed."""
        return (self.home / f"{name}.log").read_text()

    def start_scheduler(self) -> None:
        place = ("--host", self.network.members["scheduler"], "--port", str(PORT))
        self.start("scheduler", "farm", "scheduler", *place, "--certificates", str(self.certificates))

    def start_worker(self, name: str) -> None:
        own = ("--name", name, "--cpus", "1", "--dedicated", "--certificates", str(self.certificates))
        self.start(name, "farm", "worker", self.address, *own)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    @property
    def address(self) -> str:
        return f"tls://{self.network.members['scheduler']}:{PORT}"

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

    def begin(self, plan: Path) -> subprocess.Popen[bytes]:
        """The head, in the background."""
        return self.start("head", *self.on_the_lab(plan))

    def wait_for(self, head: subprocess.Popen[bytes], what: Callable[[], bool]) -> None:
        """Until something is true; fails when the head ends before, or after ten minutes."""
        end = time.monotonic() + 600
        while not what():
            assert head.poll() is None, self.said("head")
            assert time.monotonic() < end, self.said("head")
            time.sleep(0.1)

    def wait_for_packages(self, head: subprocess.Popen[bytes], count: int) -> None:
        self.wait_for(head, lambda: len(self.packages("head")) >= count)

    def compare(self, plan: Path) -> None:
        """A machine alone makes the same packages of the same plan."""
        alone = self.run("alone", "rebuild", plan)
        assert alone.status == 0, alone.stdout + alone.stderr
        assert self.packages("head") == self.packages("alone")

    def finish(self, head: subprocess.Popen[bytes]) -> None:
        """The head ends well, with everything built, and recorded once."""
        assert head.wait(timeout=1500) == 0, self.said("head")
        assert len(self.packages("head")) == len(self.world.needs)
        with Ledger.open(self.dirs("head")) as ledger:
            built = Counter(record.name for record in ledger.recent(limit=None, status="built"))
        assert built == Counter(self.world.needs.keys())

    def end(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(timeout=60)
        for place in [path for path in self.home.iterdir() if (path / "cache").is_dir()]:
            cleaned = self.run(place.name, "gc", "--hot", "--failed")
            assert cleaned.status == 0, cleaned.stderr
        for place in self.home.glob("*/lib"):
            if place.is_mount():
                subprocess.run(["umount", place], check=True)
        shutil.rmtree(self.home)


@pytest.fixture
def make_lab(state: StateDirs, made_image: Callable[[str], None], tmp_path: Path) -> Iterator[Callable[[int], Lab]]:
    made_image(TARGET)
    labs: list[Lab] = []

    def make(count: int) -> Lab:
        salt = f"lab{secrets.token_hex(3)}"
        world = make_world(tmp_path / "index", count, seed=count, failing=0, salt=salt)
        lab = Lab(state, state.lib.parent / f"lab-{salt}", world, network)
        labs.append(lab)
        assert lab.run("head", "farm", "certificates", lab.certificates).status == 0
        network.add("scheduler")
        lab.start_scheduler()
        for name in ("one", "two", "three"):
            network.add(name)
            small_disk(lab.dirs(name).lib)
            lab.start_worker(name)
        return lab

    with Network() as network:
        yield make
        for lab in labs:
            lab.end()


def small_disk(place: Path) -> None:
    """A disk of its own, and a small one, for what a worker builds."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "lab", place], check=True)


def test_three_workers_give_what_one_machine_gives(make_lab: Callable[[int], Lab]) -> None:
    lab = make_lab(9)
    plan = lab.plan()
    lab.finish(lab.begin(plan))
    lab.compare(plan)
    workers = {name: lab.packages(name) for name in ("one", "two", "three")}
    assert all(workers.values()), "each has built something"
    # The head itself has built nothing: its packages came through the store.
    assert set().union(*workers.values()) == set(lab.packages("head"))


def test_a_killed_worker_and_a_restarted_scheduler_change_nothing(make_lab: Callable[[int], Lab]) -> None:
    lab = make_lab(12)
    plan = lab.plan()
    head = lab.begin(plan)
    lab.wait_for_packages(head, 2)
    lab.kill("one")
    lab.wait_for_packages(head, 4)
    lab.kill("scheduler")
    lab.start_scheduler()
    lab.finish(head)
    lab.compare(plan)
    assert "is away" in lab.said("head")
    assert "is back" in lab.said("head")


def test_a_worker_that_is_cut_off_and_comes_back_changes_nothing(make_lab: Callable[[int], Lab]) -> None:
    lab = make_lab(24)
    plan = lab.plan()
    head = lab.begin(plan)
    lab.wait_for(head, lambda: bool(lab.packages("one")))
    lab.network.cut("one")
    lab.wait_for(head, lambda: "worker one was lost" in lab.said("head"))
    before = len(lab.packages("one"))
    lab.network.mend("one")
    lab.wait_for(head, lambda: len(lab.packages("one")) > before)
    lab.finish(head)


def test_a_worker_whose_disk_becomes_full_is_done_without_until_it_has_room(make_lab: Callable[[int], Lab]) -> None:
    lab = make_lab(24)
    plan = lab.plan()
    filler = lab.dirs("one").lib / "filler"
    head = lab.begin(plan)
    lab.wait_for(head, lambda: bool(lab.packages("one")))
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
    lab.wait_for(head, lambda: "no space left" in lab.said("head") or "disk is full" in lab.said("head"))
    before = len(lab.packages("one"))
    lab.wait_for_packages(head, len(lab.packages("head")) + 3)
    assert len(lab.packages("one")) == before
    filler.unlink()
    lab.finish(head)
