"""The newest release of something that others need cannot be built: an older one is, by build and by rebuild."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.local_index import LocalIndex
from tests.support.command import Ended, LxcBuild

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.usefixtures("nothing_left")]

TARGET = "debian/bookworm"
BROKEN = "import lxcbuild_demo_nothing_of_that_name"


@pytest.fixture
def index(tmp_path: Path) -> LocalIndex:
    """An application that is asked for, a part that it needs, of which only 1.0 can be built, and something between them."""
    root = tmp_path / "index"
    root.mkdir()
    made = LocalIndex(root)
    made.sdist("lxcbuild-demo-app", "1.0", "lxcbuild-demo-part>=0.5", "lxcbuild-demo-between")
    for version, code in (("0.4", ""), ("1.0", ""), ("1.1", BROKEN), ("2.0", BROKEN), ("3.0", BROKEN)):
        made.sdist("lxcbuild-demo-part", version, code=code)
    made.sdist("lxcbuild-demo-never", "1.0", code=BROKEN)
    made.sdist("lxcbuild-demo-between", "1.0")
    made.sdist("lxcbuild-demo-between", "2.0", "lxcbuild-demo-never")
    return made


def versions(builds: list[dict[str, Any]], status: str) -> set[tuple[str, str]]:
    return {
        (item["name"].removeprefix("lxcbuild-demo-"), item["version"]) for item in builds if item["status"] == status
    }


GOOD = {("app", "1.0"), ("part", "1.0"), ("between", "1.0")}


def test_a_build_takes_what_can_be_built(index: LocalIndex, lxcbuild: LxcBuild, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ("build", "lxcbuild-demo-app", "--target", TARGET, "--rebuild", "--json", "-o", out)
    done = lxcbuild(*argv, env=index.environment)
    assert done.status == 0, done.stderr
    builds = done.document["builds"]
    assert versions(builds, "built") == GOOD
    assert {("part", "3.0"), ("part", "2.0"), ("never", "1.0")} <= versions(builds, "failed")
    (note,) = {text for text in builds[0]["notes"] if "lxcbuild-demo-part 1.0 is tried" in text}
    assert "because 3.0 cannot be built (dep-missing in verify: import of lxcbuild_demo_part" in note
    assert {(item["name"], item["version"]) for item in builds[0]["dependencies"]} == {
        ("lxcbuild-demo-part", "1.0"), ("lxcbuild-demo-between", "1.0"),
    }  # fmt: skip
    assert {path.name.split("_")[1] for path in out.glob("*.deb")} == {"1.0-0~lxcbuild1~deb12"}


def test_the_next_build_does_not_wait_for_the_same_failures(
    index: LocalIndex, lxcbuild: LxcBuild, tmp_path: Path
) -> None:
    argv = ("--target", TARGET, "--json")
    first = lxcbuild("build", "lxcbuild-demo-app", "--rebuild", *argv, env=index.environment).document["builds"]
    (failed,) = [item["id"] for item in first if item["name"] == "lxcbuild-demo-part" and item["version"] == "3.0"]
    for name, jobs in (("lxcbuild-demo-next", "1"), ("lxcbuild-demo-other", "2")):
        index.sdist(name, "1.0", "lxcbuild-demo-part>=0.5", "lxcbuild-demo-between")
        builds = lxcbuild("build", "-j", jobs, name, *argv, env=index.environment).document["builds"]
        assert (versions(builds, "failed"), builds[0]["status"]) == (set(), "built")
        (note,) = [text for text in builds[0]["notes"] if "lxcbuild-demo-part 1.0 is tried" in text]
        assert "3.0 cannot be built (dep-missing in verify: import of" in note
        assert failed in note
    index.sdist("lxcbuild-demo-third", "1.0", "lxcbuild-demo-part>=0.5")
    index.wheel("lxcbuild-demo-third", "1.0", "lxcbuild-demo-part>=0.5")
    names = tmp_path / "names.txt"
    names.write_text("lxcbuild-demo-third\n")
    jobs_of = lxcbuild("plan", "--from", names, *argv, env=index.environment).document["jobs"]
    assert {key.rpartition("-")[2] for key in jobs_of} == {"third==1.0", "part==1.0"}
    run = lxcbuild("rebuild", "--from", names, "--target", TARGET, env=index.environment)
    assert run.status == 0, run.stderr
    assert " failed  " not in run.stderr
    index.sdist("lxcbuild-demo-part", "4.0")
    index.sdist("lxcbuild-demo-last", "1.0", "lxcbuild-demo-part", "lxcbuild-demo-between")
    builds = lxcbuild("build", "lxcbuild-demo-last", *argv, env=index.environment).document["builds"]
    assert ("part", "4.0") in versions(builds, "built"), "it came out since"


def test_what_was_asked_for_by_name_and_version_has_no_older_one(index: LocalIndex, lxcbuild: LxcBuild) -> None:
    argv = ("build", "lxcbuild-demo-part", "--target", TARGET, "--rebuild", "--json")
    (only,) = lxcbuild(*argv, env=index.environment).document["builds"]
    assert (only["version"], only["status"]) == ("3.0", "failed")


def test_the_newest_is_what_is_told_where_no_older_one_does(index: LocalIndex, lxcbuild: LxcBuild) -> None:
    index.sdist("lxcbuild-demo-strict", "1.0", "lxcbuild-demo-part>1.0")
    argv = ("build", "lxcbuild-demo-strict", "--target", TARGET, "--rebuild", "--json")
    done = lxcbuild(*argv, env=index.environment)
    strict, *others = done.document["builds"]
    assert strict["failure"]["class"] == "dep-missing"
    assert "lxcbuild-demo-part 3.0 is needed and cannot be built" in strict["failure"]["brief"]
    (newest,) = [item["id"] for item in others if item["version"] == "3.0"]
    assert strict["failure"]["resolution"] == f"lxcbuild explain {newest}"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_takes_what_can_be_built_and_keeps_to_it(
    jobs: str, index: LocalIndex, lxcbuild: LxcBuild, tmp_path: Path
) -> None:
    names, repo = tmp_path / "names.txt", tmp_path / "repo"
    names.write_text(
        "lxcbuild-demo-app\nlxcbuild-demo-part\n"
    )  # the part is asked for as well, and its newest release fails
    argv = ("rebuild", "--from", names, "--target", TARGET, "--rebuild", "-j", jobs, "--repo", repo)
    first: Ended = lxcbuild(*argv, env=index.environment)
    built = {line.split()[2].rpartition("/")[2] for line in first.stderr.splitlines() if " built  " in line}
    assert built == {f"lxcbuild-demo-{name}=={version}" for name, version in GOOD}, first.stderr
    again = lxcbuild(*argv, "--resume", env=index.environment)
    assert " failed  " in first.stderr
    assert " failed  " not in again.stderr, "it was said before"
    assert f"{len(GOOD)} built before" in again.stderr, again.stderr
    assert "pruned" not in again.stderr
    listed = lxcbuild("repo", "list", repo, "--json").stdout
    assert all(f"python3-lxcbuild-demo-{name}" in listed for name, _ in GOOD)
    assert "never" not in listed
