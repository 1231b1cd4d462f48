"""Fixtures of the attack tests: sandboxes of any backend, scripts that attack from inside, and the host's state around them.

An attack is a script of ``scripts/`` (standard library only) that runs inside as the build user and prints one JSON document
as its last line: what it tried, and what came of it. The test states the results that are right, and what must still be true of
the host. A *weakened* sandbox lacks one guard: the same script must succeed there, or the test could not fail.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.policy import Policy
from lxcbuild.sandbox.base import Backend, Bind, Instance, InstanceSpec, User
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state.paths import StateDirs
from tests.attacks.attacking import POLICY, run_script
from tests.attacks.host_state import HostState

SandboxFactory = Callable[..., Instance]
AttackRunner = Callable[..., Any]


@pytest.fixture(scope="session")
def rootfs(state: StateDirs) -> Iterator[Path]:
    """The base image that attacks run on; ``LXCBUILD_TEST_ROOTFS`` names another tree."""
    if given := os.environ.get("LXCBUILD_TEST_ROOTFS"):
        yield Path(given)
        return
    store = ImageStore(state)
    try:
        yield store.ensure(Target("debian", "bookworm")).path
    finally:
        store.close()


@pytest.fixture
def dirs(fresh_state: StateDirs) -> StateDirs:
    """A state directory of one test."""
    return fresh_state


@pytest.fixture(autouse=True)
def host_state(dirs: StateDirs) -> Iterator[Callable[[], HostState]]:
    """Around every attack: mounts, cgroups, records, processes, interfaces, settings and descriptors are what they were.

    Yields the function that looks again, for tests that compare at some moment of their own.
    """

    def look() -> HostState:
        return HostState.of(dirs)

    before = look()
    yield look
    assert look() == before


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that any user may enter."""
    place = Path(tempfile.mkdtemp(prefix="lxcbuild-attack-", dir="/var/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture(params=["lxc"])
def backend(request: pytest.FixtureRequest, host_state: object, dirs: StateDirs) -> Iterator[Backend]:
    """Each backend that is available here; the reason is printed for one that is not."""
    makers: dict[str, Callable[[StateDirs], Any]] = {"lxc": LxcBackend}
    with makers[request.param](dirs) as made:
        verdict = made.probe()
        if not verdict.usable:
            pytest.skip(f"backend {request.param}: {verdict.reason}")
        yield made


@pytest.fixture
def sandbox(backend: Backend, rootfs: Path) -> Iterator[SandboxFactory]:
    """``sandbox(policy=..., lowers=..., binds=..., name=..., **policy fields)``: a started sandbox, closed after the test."""
    made: list[Instance] = []

    def make(
        *,
        policy: Policy = POLICY,
        lowers: tuple[Path, ...] | None = None,
        binds: tuple[Bind, ...] = (),
        name: str | None = None,
        **overrides: Any,
    ) -> Instance:
        instance = backend.create(
            InstanceSpec(
                instance_id=name or f"attack-{len(made)}",
                lowers=lowers or (rootfs,),
                policy=replace(policy, **overrides),
                binds=binds,
            )
        )
        made.append(instance)
        instance.start()
        return instance

    yield make
    for instance in made:
        instance.close()


@pytest.fixture
def run_attack(sandbox: SandboxFactory) -> AttackRunner:
    """``run_attack(script, *arguments, instance=None, user=..., **overrides)``: the parsed JSON of a script that ended well."""

    def run(
        script: str, *arguments: str, instance: Instance | None = None, user: User = User.BUILD, **fields: Any
    ) -> Any:
        target = instance or sandbox(**fields)
        said = run_script(target, script, *arguments, user=user)
        assert said.result.ok, f"{said.result}\n{said.text[-4000:]}"
        return said.document

    return run
