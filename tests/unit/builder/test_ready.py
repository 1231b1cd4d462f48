"""Builds that need not be done again, and packages that are handed to the verification of others."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest

from lxcbuild.builder.closure import Closure
from lxcbuild.builder.machine import ConverterChoice
from lxcbuild.builder.ready import dependencies_of, find_ready, influences, recorded_request
from lxcbuild.builder.request import BuildRequest
from lxcbuild.cli.already_built import already_built
from lxcbuild.errors import DependencyError, GateError
from lxcbuild.events import NullMonitor
from lxcbuild.ledger.records import NewBuild
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Artifact, Outcome, Source, SourceKind, Status, Target
from lxcbuild.state.paths import StateDirs
from tests.support.debs import CONTROL, deb

BOOKWORM = Target("debian", "bookworm")
SHA256 = "a" * 64
WISH = BuildRequest(requirement="demo==1.0", target=BOOKWORM, force=True)


def source(*, sha256: str = SHA256, url: str | None = "https://index.invalid/demo-1.0.tar.gz") -> Source:
    return Source(
        kind=SourceKind.SDIST, name="demo", version="1.0", path=Path("/x"), sha256=sha256, size_bytes=1, url=url
    )


class Builds:
    """A ledger with builds, and the store with their packages."""

    def __init__(self, ledger: Ledger, dirs: StateDirs) -> None:
        self.ledger, self.dirs = ledger, dirs

    def add(self, build_id: str, *, name: str = "demo", request: BuildRequest = WISH, **facts: Any) -> Path:
        """Record a build as the build itself does; the package in the store."""
        facts = {"source": source(), "dependencies": {}, **facts}
        recorded = recorded_request(request, **facts)
        self.ledger.begin(
            NewBuild(build_id=build_id, name=name, target=request.target, policy="default", request=recorded)
        )
        path = self.dirs.artifacts / build_id / f"python3-{name}_1.0_all.deb"
        path.parent.mkdir(parents=True)
        path.write_bytes(build_id.encode())
        # What is recorded is where the user wanted it; what counts is the store's own copy.
        artifact = Artifact(
            path=Path("/elsewhere") / path.name,
            sha256=hashlib.sha256(build_id.encode()).hexdigest(),
            size_bytes=len(build_id),
        )
        self.ledger.finish(
            Outcome(
                build_id=build_id,
                name=name,
                version="1.0",
                target=request.target,
                status=Status.BUILT,
                artifacts=(artifact,),
            )
        )
        return path

    def find(self, **changes: Any) -> str | None:
        """The id of the build that is found for the release."""
        asked = {"name": "demo", "version": "1.0", "target": BOOKWORM, "sha256": SHA256, **changes}
        found = find_ready(self.ledger, self.dirs, **asked)
        return None if found is None else found.record.build_id


@pytest.fixture
def builds(fresh_state: StateDirs) -> Any:
    with Ledger.open(fresh_state) as ledger:
        yield Builds(ledger, fresh_state)


def test_a_build_is_not_used_under_a_name_that_it_no_longer_gets(builds: Builds) -> None:
    builds.add("20261121-000000-aaaaaaaaaa")
    assert builds.find(package="python3-demo") == builds.find() == "20261121-000000-aaaaaaaaaa"
    assert builds.find(package="python3-demo.pypi") is None


def test_the_newest_build_of_the_same_sources_is_found_with_its_packages(builds: Builds) -> None:
    builds.add("20260101-000000-a")
    path = builds.add("20260102-000000-b")
    assert builds.find() == "20260102-000000-b"
    ready = find_ready(builds.ledger, builds.dirs, name="demo", version="1.0", target=BOOKWORM, sha256=SHA256)
    assert ready is not None
    assert [item.path for item in ready.outcome().artifacts] == [path]
    assert ready.outcome().reused


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "2.0"},
        {"sha256": "b" * 64},
        {"target": Target("debian", "trixie")},
        {"target": Target("debian", "bookworm", "arm64")},
        {"name": "other"},
        {"override": "of somebody"},
        {"like": {"converter": "stdeb"}},
    ],
)
def test_what_differs_in_anything_that_matters_is_another_build(builds: Builds, changes: dict[str, Any]) -> None:
    builds.add("20260101-000000-a")
    assert builds.find() is not None
    assert builds.find(**changes) is None


def test_what_was_built_from_local_files_is_no_release(builds: Builds) -> None:
    builds.add("20260101-000000-a", source=source(url=None))
    assert builds.find() is None


@pytest.mark.parametrize("damage", ["gone", "changed", "link"])
def test_packages_that_are_not_what_was_sealed_are_not_used(builds: Builds, damage: str) -> None:
    path = builds.add("20260101-000000-a")
    content = path.read_bytes()
    path.unlink()
    if damage == "changed":
        path.write_bytes(b"something else")
    elif damage == "link":
        (path.parent.parent / "copy").write_bytes(content)
        path.symlink_to("../copy")
    assert builds.find() is None


@pytest.mark.parametrize(
    "other",
    [
        {"converter": ConverterChoice.STDEB},
        {"maintainer": "Somebody <s@example.org>"},
        {"strict_debian": True},
        {"with_deps": False},
        {"newer_than_official": False},
        {"hashes": (("sha256", "c" * 64),)},
    ],
)
def test_options_that_decide_what_comes_out_are_compared(builds: Builds, other: dict[str, Any]) -> None:

    builds.add("20260101-000000-a")
    assert builds.find(like=influences(WISH)) is not None
    assert builds.find(like=influences(msgspec.structs.replace(WISH, **other))) is None


def test_a_build_is_only_as_good_as_what_it_needs(builds: Builds) -> None:
    needed = builds.add("20260101-000000-n", name="needed")
    builds.add("20260102-000000-a", dependencies={"needed": "20260101-000000-n"})
    ready = find_ready(builds.ledger, builds.dirs, name="demo", version="1.0", target=BOOKWORM, sha256=SHA256)
    assert ready is not None
    found = dependencies_of(ready, builds.ledger, builds.dirs)
    assert found is not None
    assert [item.record.name for item in found] == ["needed"]
    needed.unlink()
    assert dependencies_of(ready, builds.ledger, builds.dirs) is None


@pytest.mark.parametrize("changes", [{"rebuild": True}, {"path": Path()}, {"tests": True}])
def test_rebuilds_local_files_and_checks_are_never_answered_from_the_ledger(
    builds: Builds, changes: dict[str, Any]
) -> None:

    builds.add("20260101-000000-a")
    asked = msgspec.structs.replace(WISH, **changes)
    assert already_built(asked, dirs=builds.dirs, ledger=builds.ledger, monitor=NullMonitor(), overrides=None) is None


# -- packages beside the one that is verified ------------------------------------------------------------------------


def package(directory: Path, name: str, depends: str) -> Artifact:
    control = CONTROL.replace("python3-demo", name).replace("python3:any", depends)
    data = deb(control=control)
    path = directory / f"{name}_1.0_all.deb"
    path.write_bytes(data)
    return Artifact(path=path, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def test_companions_are_what_is_needed_directly_or_not_and_nothing_else(tmp_path: Path) -> None:
    closure = Closure()
    closure.add(
        [
            package(tmp_path, "python3-one", "python3:any, python3-two (>= 1.0-0~)"),
            package(tmp_path, "python3-two", "python3-one, libc6"),
            package(tmp_path, "python3-else", "python3-one"),
        ]
    )
    own = {"Package": "python3-app", "Depends": "python3-one (>= 1), python3-six | python3-none"}
    assert [deb.package for deb in closure.companions([own])] == ["python3-one", "python3-two"]
    member = closure.debs["python3-one"].stanza
    assert [deb.package for deb in closure.companions([member])] == ["python3-two"]


def test_what_is_no_package_is_refused_before_anything_is_installed_with_it(tmp_path: Path) -> None:
    path = tmp_path / "python3-one_1.0_all.deb"
    path.write_bytes(b"!<arch>\nno package")
    artifact = Artifact(path=path, sha256="0" * 64, size_bytes=18)
    with pytest.raises(GateError, match="not an installable package"):
        Closure().add([artifact])


def test_a_package_that_changed_since_it_was_sealed_is_not_handed_in(tmp_path: Path) -> None:
    closure = Closure()
    closure.add([package(tmp_path, "python3-one", "libc6")])
    one = closure.debs["python3-one"]
    (tmp_path / "in").mkdir()
    one.copy_to(tmp_path / "in")
    assert (tmp_path / "in" / one.path.name).read_bytes() == one.path.read_bytes()
    one.path.write_bytes(b"something else")
    (tmp_path / "again").mkdir()
    with pytest.raises(DependencyError, match="has changed"):
        one.copy_to(tmp_path / "again")
