"""What projects need at run time: the distribution's packages where they satisfy, else releases with sources, or a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

from lxcbuild.debian.relations import TargetPython
from lxcbuild.errors import DependencyError
from lxcbuild.model import FailureClass
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.pypi.index.config import PipConfig
from lxcbuild.pypi.index.model import IndexFile
from lxcbuild.pypi.versions.runtimeset import Root, RuntimeRules, RuntimeSet, Shipped, resolve_runtime_set
from lxcbuild.pypi.versions.version_caps import MAX_TRIES, VersionCap, lowered
from lxcbuild.state.paths import StateDirs
from tests.support.index_server import File, Index, serve


@pytest.fixture
def index() -> Iterator[Index]:
    with serve() as running:
        yield running


class World:
    """An index, and a distribution that ships a few projects."""

    def __init__(self, index: Index, dirs: StateDirs) -> None:
        self.index, self.dirs = index, dirs
        self.shipped: dict[str, str | None] = {}
        self.allow_newer = True
        self.caps: dict[str, VersionCap] = {}
        self.sources_read: list[str] = []
        self.in_sources: dict[str, tuple[str, ...] | None] = {}

    def release(
        self, name: str, version: str, *requires: str, wheel: bool = True, sdist: bool = True, **facts: str
    ) -> None:
        """A release whose wheel's metadata is offered alone."""
        stem = f"{name.replace('-', '_')}-{version}"
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {item}" for item in requires)]
        metadata = "\n".join(["Metadata-Version: 2.1", *lines, ""]).encode()
        if sdist:
            self.index.add(name, File(f"{stem}.tar.gz", stem.encode(), **facts))  # type: ignore[arg-type]
        if wheel:
            self.index.add(name, File(f"{stem}-py3-none-any.whl", b"no zip", metadata=metadata, **facts))  # type: ignore[arg-type]

    def resolve(self, *requires: str, name: str = "app", version: str = "1.0") -> RuntimeSet:
        """For one root that has these requirements."""
        return self.resolve_all(Root(name=name, version=Version(version), requires=requires))

    def resolve_all(self, *roots: Root) -> RuntimeSet:
        rules = RuntimeRules(
            markers=TargetPython("3.11.2").environment(),
            shipped=self._shipped,
            read_sdist=self._read,
            distribution="debian/bookworm",
            allow_newer=self.allow_newer,
            caps=self.caps,
        )
        config = PipConfig(indexes=(f"{self.index.url}/simple",))
        with IndexClient(self.dirs, config=config) as client:
            return resolve_runtime_set(roots, index=client, rules=rules)

    def _shipped(self, name: str) -> Shipped | None:
        if name not in self.shipped:
            return None
        text = self.shipped[name]
        return Shipped(version=Version(text) if text else None, text=f"{text} (python3-{name})")

    def _read(self, file: IndexFile) -> tuple[str, ...] | None:
        self.sources_read.append(file.filename)
        return self.in_sources[file.filename]


@pytest.fixture
def world(index: Index, tmp_path: Path) -> World:
    return World(index, StateDirs.choose(tmp_path))


def versions(found: RuntimeSet) -> dict[str, str]:
    return {name: item.version for name, item in found.pinned.items()}


def test_a_satisfying_distribution_package_is_preferred_to_a_newer_release(world: World) -> None:
    world.shipped["lib"] = "1.5"
    world.release("lib", "2.0")
    assert versions(world.resolve("lib>=1")) == {}
    assert not world.index.paths(), "nobody asks an index for what the distribution has"


def test_what_is_too_old_or_missing_is_built_with_what_it_needs_itself(world: World) -> None:
    world.shipped |= {"lib": "1.5", "base": "3"}
    world.release("lib", "2.0", "base", "other>=1")
    world.release("lib", "2.1", "base", "other>=1")
    world.release("other", "1.0")
    found = world.resolve("lib>=2")
    assert versions(found) == {"lib": "2.1", "other": "1.0"}
    assert found.needs == {"app": {"lib"}, "lib": {"other"}, "other": frozenset()}
    assert found.pinned["lib"].shipped == Shipped(version=Version("1.5"), text="1.5 (python3-lib)")
    assert found.pinned["lib"].wanted == ("lib>=2 (wanted by app 1.0)",)


def test_a_version_that_nobody_can_tell_satisfies(world: World) -> None:
    world.shipped["lib"] = None
    assert versions(world.resolve("lib>=2")) == {}


def test_only_unyanked_releases_with_sources_for_the_targets_python_count(world: World) -> None:
    world.release("lib", "1.0")
    world.release("lib", "2.0", requires_python=">=3.12")
    world.release("lib", "3.0", yanked="broken")
    world.release("lib", "4.0", sdist=False)
    world.release("lib", "5.0rc1")
    assert versions(world.resolve("lib")) == {"lib": "1.0"}


def test_pre_releases_are_taken_when_there_is_nothing_else_or_when_asked_for(world: World) -> None:
    world.release("beta", "0.1b0")
    world.release("beta", "0.2b0")
    world.release("lib", "1.0")
    world.release("lib", "2.0b1")
    assert versions(world.resolve("beta", "lib>=2.0b1")) == {"beta": "0.2b0", "lib": "2.0b1"}


def test_markers_are_those_of_the_target(world: World) -> None:
    world.release("old", "1.0")
    world.release("here", "1.0")
    found = world.resolve(
        'old; python_version < "3.9"', 'here; sys_platform == "linux"', 'win; platform_system == "Windows"'
    )
    assert versions(found) == {"here": "1.0"}


def test_extras_of_others_bring_what_they_add(world: World) -> None:
    world.shipped["web"] = "1.0"
    world.release("web", "1.0", "plain", 'fast; extra == "speed"', 'slow; extra == "docs"')
    world.release("lib", "1.0", "base", 'more; extra == "all"', 'lib[all2]; extra == "all"', 'deep; extra == "all2"')
    for name in ("fast", "more", "deep", "base"):
        world.release(name, "1.0")
    found = world.resolve("web[speed]", "lib[all]")
    assert versions(found) == dict.fromkeys(("fast", "lib", "more", "deep", "base"), "1.0")
    assert found.extras["web", "speed"] == ('fast; extra == "speed"',)
    assert found.needs["app"] == {"fast", "lib", "more", "deep"}
    assert found.needs["lib"] == {"base"}


def test_cycles_are_no_trouble(world: World) -> None:
    world.release("one", "1.0", "two")
    world.release("two", "1.0", "one", "app")
    found = world.resolve("one")
    assert found.needs == {"app": {"one"}, "one": {"two"}, "two": {"one", "app"}}
    assert "app" not in found.pinned, "a root is never taken from the index"


def test_several_roots_share_one_set(world: World) -> None:
    for version in ("1.0", "2.0"):
        world.release("lib", version)
    roots = [Root(name="a", version=Version("1"), requires=("lib", "b"))]
    roots += [Root(name="b", version=Version("1"), requires=("lib<2",))]
    found = world.resolve_all(*roots)
    assert versions(found) == {"lib": "1.0"}
    assert found.needs["a"] == {"lib", "b"}


def test_older_releases_are_tried_where_the_newest_excludes_another(world: World) -> None:
    world.release("lib", "1.0", "base<2")
    world.release("lib", "2.0", "base>=2")
    world.release("base", "1.0")
    world.release("base", "2.0")
    assert versions(world.resolve("lib", "base<2")) == {"lib": "1.0", "base": "1.0"}


def test_a_release_that_cannot_be_used_gives_way_to_an_older_one(world: World) -> None:
    world.release("lib", "1.0")
    world.release("lib", "2.0", "else @ https://example.invalid/else.tar.gz")
    assert versions(world.resolve("lib")) == {"lib": "1.0"}


def test_sources_are_looked_into_where_there_is_no_wheel(world: World) -> None:
    world.release("lib", "1.0", wheel=False)
    world.release("base", "1.0")
    world.in_sources["lib-1.0.tar.gz"] = ("base",)
    assert versions(world.resolve("lib")) == {"lib": "1.0", "base": "1.0"}
    assert world.sources_read == ["lib-1.0.tar.gz"]


def refused(world: World, *requires: str) -> DependencyError:
    with pytest.raises(DependencyError) as caught:
        world.resolve(*requires)
    return caught.value


def test_a_project_without_sources_is_said_to_be_so(world: World) -> None:
    world.release("lib", "3.0", sdist=False)
    error = refused(world, "lib>=3")
    assert "nothing satisfies lib>=3 (wanted by app 1.0): lib 3.0 is published as wheels only" in error.brief


def test_an_unknown_project_is_said_to_be_so(world: World) -> None:
    assert "the package index knows no project nothing-of-that-name" in refused(world, "nothing-of-that-name").brief


def test_versions_that_there_are_not_are_told_with_those_that_there_are(world: World) -> None:
    world.shipped["lib"] = "1.5"
    world.release("lib", "2.0")
    error = refused(world, "lib>=3")
    assert "debian/bookworm has lib 1.5 (python3-lib)" in error.brief
    assert "with sources for Python 3.11: 2.0" in error.brief


def test_conflicting_requirements_are_both_named_with_their_origins(world: World) -> None:
    world.release("lib", "1.0")
    world.release("lib", "2.0")
    world.release("other", "1.0", "lib<2")
    error = refused(world, "lib>=2", "other")
    assert "lib>=2 (wanted by app 1.0)" in error.brief
    assert "lib<2 (wanted by other 1.0)" in error.brief


def test_newer_than_official_can_be_forbidden(world: World) -> None:
    world.shipped["lib"] = "1.5"
    world.release("lib", "2.0")
    world.release("new", "1.0")
    world.allow_newer = False
    assert versions(world.resolve("new", "lib")) == {"new": "1.0"}
    error = refused(world, "lib>=2")
    assert "debian/bookworm has lib 1.5 (python3-lib), and nothing newer than official packages" in error.brief


def test_a_requirement_of_the_root_by_url_is_refused(world: World) -> None:
    assert "app 1.0: lib is asked for by URL" in refused(world, "lib @ https://example.invalid/lib.tar.gz").brief


def test_a_dependency_that_needs_another_version_of_the_root_is_refused(world: World) -> None:
    world.release("one", "1.0", "app>=2")
    error = refused(world, "one")
    assert "app>=2 (wanted by one 1.0)" in error.brief + str(error.details)


def test_each_try_goes_twice_as_far_down(world: World) -> None:
    for number in range(50):
        world.release("part", f"1.{number}")
    world.release("app2", "1.0")
    tried = []
    for _ in range(MAX_TRIES + 1):
        tried.append(world.resolve("part>=1.5").pinned["part"].version)
        said = lowered(world.caps.get("part"), tried[-1], failure_class=FailureClass.COMPILE_FAILED, why="old")
        assert said is not None
        world.caps["part"] = said
    assert tried == ["1.49", "1.48", "1.46", "1.42", "1.34", "1.18"]
    with pytest.raises(DependencyError, match=r"nothing satisfies part>=1\.5 .*part 1\.49 cannot be built \(old\)"):
        world.resolve("part>=1.5")


def test_who_needs_what_cannot_be_built_may_have_a_release_that_does_not(world: World) -> None:
    for number in range(3):
        world.release("core", f"1.{number}")
        world.release("between", f"2.{number}", f"core==1.{number}")
    world.release("between", "1.0")
    for _ in range(2):
        version = world.resolve("between").pinned["core"].version
        said = lowered(world.caps.get("core"), version, failure_class=FailureClass.BUILD_DEP_MISSING, why="no Rust")
        assert said is not None
        world.caps["core"] = said
    assert version == "1.1"
    assert {name: item.version for name, item in world.resolve("between").pinned.items()} == {"between": "1.0"}


@pytest.mark.parametrize(
    "failure", [FailureClass.OOM, FailureClass.TIMEOUT, FailureClass.GATE_REJECTED, FailureClass.CANCELLED]
)
def test_what_is_not_the_releases_fault_tries_no_other(failure: FailureClass) -> None:
    assert lowered(None, "1.0", failure_class=failure, why="") is None


def ceiling_after(*versions: str) -> VersionCap:
    known = None
    for version in versions:
        known = lowered(known, version, failure_class=FailureClass.COMPILE_FAILED, why=version)
    assert known is not None
    return known


def test_failures_may_come_in_any_order_and_twice() -> None:
    assert ceiling_after("1.5", "2.0") == VersionCap(version="1.5", newest="2.0", tries=1, why="2.0")
    assert ceiling_after("2.0", "1.5", "2.0", "1.7") == VersionCap(version="1.5", newest="2.0", tries=2, why="2.0")


def test_what_is_newer_than_all_that_failed_is_tried(world: World) -> None:
    for version in ("1.0", "1.1", "1.2", "2.0"):
        world.release("part", version)
    world.caps["part"] = ceiling_after("1.2")
    assert world.resolve("part").pinned["part"].version == "2.0"
    assert world.resolve("part<2").pinned["part"].version == "1.1"
    world.caps["part"] = ceiling_after("1.2", "2.0")
    assert world.resolve("part").pinned["part"].version == "1.1"
    world.caps["part"] = ceiling_after(*(f"1.{number}" for number in range(MAX_TRIES + 1, 0, -1)))
    assert world.resolve("part").pinned["part"].version == "2.0"
    assert lowered(None, "no version", failure_class=FailureClass.COMPILE_FAILED, why="") is None
