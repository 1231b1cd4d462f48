"""Fixtures of the tests that start sandboxes: an image, a backend, and proof that nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lxcbuild.cli.options import host_target
from lxcbuild.images.store import ImageStore
from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.sandbox import registry
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.sandbox.lxc_instance import LxcInstance
from lxcbuild.state.paths import StateDirs
from tests.integration.lxc_sandboxes import spec
from tests.integration.runner_bench import Bench, pythons, started


@pytest.fixture(scope="session")
def rootfs(state: StateDirs) -> Iterator[Path]:
    """The base image of this host's own suite, made once and kept from run to run."""
    if given := os.environ.get("LXCBUILD_TEST_ROOTFS"):
        yield Path(given)
        return
    store = ImageStore(state)
    image = store.ensure(host_target())
    yield image.path
    store.close()  # until here its lock keeps the image in place


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


@pytest.fixture
def running(backend: LxcBackend, rootfs: Path) -> Iterator[LxcInstance]:
    with backend.create(spec(rootfs)) as instance:
        instance.start()
        yield instance


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A runner without a sandbox around it."""
    with started(pythons()[0]) as bench:
        yield bench
