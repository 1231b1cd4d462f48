"""Requirements that the suite does not have: resolved, built first, installed together, used again; or refused with the reason."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.local_index import LocalIndex
from tests.support.command import Ended, LxcBuild

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.usefixtures("nothing_left")]

TARGET = "debian/bookworm"


@pytest.fixture
def index(tmp_path: Path) -> LocalIndex:
    root = tmp_path / "index"
    root.mkdir()
    return LocalIndex(root)


@pytest.fixture
def build(lxcbuild: LxcBuild, index: LocalIndex) -> Callable[..., Ended]:
    def run(*arguments: str | Path) -> Ended:
        return lxcbuild("build", *arguments, "--target", TARGET, env=index.environment)

    return run


def depends(deb: str | Path) -> str:
    return subprocess.run(["dpkg-deb", "-f", deb, "Depends"], capture_output=True, text=True, check=True).stdout.strip()


def test_what_is_missing_is_built_first_and_cycles_are_verified_together(
    build: Callable[..., Ended], index: LocalIndex, tmp_path: Path, lxcbuild: LxcBuild
) -> None:
    # The version is new in each run, so that nothing is there already.
    version = f"1.{secrets.randbits(32)}"
    one, two = "lxcbuild-demo-one", "lxcbuild-demo-two"
    index.sdist(one, version, f"{two}=={version}", fast=["packaging"])
    index.sdist(two, version, one, code="import lxcbuild_demo_one")
    needs = (f"{one}[fast]>={version}", 'lxcbuild-demo-nowhere; python_version < "3"')
    index.sdist("lxcbuild-demo-app", version, *needs, code="import lxcbuild_demo_two, packaging")

    first = build("lxcbuild-demo-app", "-o", tmp_path / "out", "--json")
    assert first.status == 0, first.stdout + first.stderr
    app, *others = first.document["builds"]
    assert [item["name"] for item in others] == [one, two]
    assert {item["id"] for item in app["dependencies"]} == {item["id"] for item in others}
    assert all((item["status"], item["version"]) == ("built", version) for item in (app, *others))
    recorded = lxcbuild("history", "--json", "--limit", "1", env={}).document["builds"]
    assert recorded[0]["request"]["needed_by"].startswith("lxcbuild-demo-app ")
    debs = {path.name.partition("_")[0]: path for path in (tmp_path / "out").glob("*.deb")}
    assert f"python3-{one} (>= {version}-0~)" in depends(debs["python3-lxcbuild-demo-app"])
    assert "python3-packaging" in depends(debs["python3-lxcbuild-demo-app"])
    assert "nowhere" not in depends(debs["python3-lxcbuild-demo-app"])

    again = build("lxcbuild-demo-app")
    assert again.status == 0, again.stderr
    assert "is built already" in again.stderr
    (hint,) = re.findall(r"sudo apt install (.*)", again.stderr)
    assert {Path(word).name for word in hint.split()} == {path.name for path in debs.values()}
    # What the hint says was done, by apt and without a network, when the package was verified.
    log = lxcbuild("log", app["id"]).stdout
    for package in debs:
        assert f"Setting up {package} ({version}-0~lxcbuild1~deb12)" in log


def refused(done: Ended) -> dict[str, Any]:
    assert done.status != 0
    (outcome,) = done.document["builds"]
    failure = outcome["failure"]
    assert failure["class"] == "dep-missing", failure
    assert failure["resolution"]
    assert isinstance(failure, dict)
    return failure


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (("--no-deps",), "debian/bookworm lacks lxcbuild-demo-lib>=1, six>=99", "--no-deps"),
        (("--no-newer-than-official",), "debian/bookworm has six 1.16.0 (python3-six)", "--newer-than-official"),
    ],
    ids=["no-deps", "no-newer-than-official"],
)
def test_what_may_not_be_built_is_listed(
    arguments: tuple[str, ...], said: str, hint: str, build: Callable[..., Ended], index: LocalIndex
) -> None:
    index.sdist("lxcbuild-demo-app", "1.0", "lxcbuild-demo-lib>=1", "six>=99")
    index.sdist("lxcbuild-demo-lib", "1.0")
    index.sdist("six", "99.0")
    failure = refused(build("lxcbuild-demo-app", "--rebuild", "--json", *arguments))
    assert said in failure["brief"]
    assert hint in failure["resolution"]


def test_a_requirement_without_sources_is_said_to_be_so(build: Callable[..., Ended], index: LocalIndex) -> None:
    index.sdist("lxcbuild-demo-app", "1.0", "lxcbuild-demo-closed")
    index.wheel("lxcbuild-demo-closed", "1.0")
    failure = refused(build("lxcbuild-demo-app", "--rebuild", "--json"))
    assert "lxcbuild-demo-closed 1.0 is published as wheels only" in failure["brief"]


def test_requirements_that_exclude_each_other_are_told(build: Callable[..., Ended], index: LocalIndex) -> None:
    index.sdist("lxcbuild-demo-app", "1.0", "lxcbuild-demo-old", "lxcbuild-demo-lib>=2")
    index.sdist("lxcbuild-demo-old", "1.0", "lxcbuild-demo-lib<2")
    for version in ("1.0", "2.0"):
        index.sdist("lxcbuild-demo-lib", version)
    failure = refused(build("lxcbuild-demo-app", "--rebuild", "--json"))
    assert "lxcbuild-demo-lib>=2 (wanted by lxcbuild-demo-app 1.0)" in failure["brief"]
    assert "lxcbuild-demo-lib<2 (wanted by lxcbuild-demo-old 1.0)" in failure["brief"]


def test_a_requirement_that_cannot_be_built_is_named_with_its_build(
    build: Callable[..., Ended], index: LocalIndex
) -> None:
    index.sdist("lxcbuild-demo-app", "1.0", "lxcbuild-demo-broken")
    index.sdist("lxcbuild-demo-broken", "1.0", code="import lxcbuild_demo_nothing_of_that_name")
    done = build("lxcbuild-demo-app", "--rebuild", "--json")
    app, broken = done.document["builds"]
    assert (app["failure"]["class"], broken["status"]) == ("dep-missing", "failed")
    assert "lxcbuild-demo-broken 1.0 is needed and cannot be built" in app["failure"]["brief"]
    assert app["failure"]["resolution"] == f"lxcbuild explain {broken['id']}"
