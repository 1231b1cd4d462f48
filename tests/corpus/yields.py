"""Builds the corpus for real and counts what comes out: the table of docs/reference/yield.md. Run by scripts/corpus.

Every project is one ``lxcbuild build`` of its newest release, as a user would type it. Results are kept line by line, so that an
interrupted run goes on where it stopped. ``--stdeb-alone`` counts for how many projects stdeb by itself makes any package at
all: in the same sandboxes, with the suite's own build tools and nothing else.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name

from lxcbuild.errors import LxcbuildError
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.state.paths import StateDirs

HERE = Path(__file__).parent
CORPUS = HERE / "corpus.yaml"
#: Phases before anything is compiled: a failure there is one of conversion.
CONVERSION = ("resolve", "fetch", "inspect", "provision", "debianize")
#: What a suite's python3 is: releases that exclude it are not for that suite.
PYTHONS = {"debian/bullseye": "3.9", "debian/bookworm": "3.11", "debian/trixie": "3.13", "debian/sid": "3.13"}
#: Exit statuses of the script below.
STDEB_ENDS = {0: ("built", None), 3: ("failed", "no-setup.py")}
Row = dict[str, Any]
STDEB_PACKAGES = (
    "build-essential",
    "debhelper",
    "dh-python",
    "fakeroot",
    "python3-all-dev",
    "python3-setuptools",
    "python3-stdeb",
    "python3-wheel",
)
STDEB_SCRIPT = """
set -e
export DEB_BUILD_OPTIONS=nocheck
cd /build
tar -xf /in/* 2>/dev/null || python3 -m zipfile -e /in/* .
cd "$(find . -mindepth 1 -maxdepth 1 -type d | head -n 1)"
[ -e setup.py ] || { echo no-setup.py; exit 3; }
python3 setup.py --command-packages=stdeb.command bdist_deb >/build/log 2>&1 || { tail -n 5 /build/log; exit 4; }
ls deb_dist/*.deb
"""


def corpus(lists: Sequence[str]) -> Iterator[Row]:
    """The projects of these lists."""
    document = yaml.safe_load(CORPUS.read_text())
    for name in lists:
        yield from document[name]


def lxcbuild(state: Path, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str, float]:
    """Run it; exit status, standard output, standard error, seconds."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "lxcbuild", "--state-dir", os.fspath(state), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
    )
    return done.returncode, done.stdout, done.stderr, round(time.monotonic() - begun, 1)


def build(state: Path, project: Row, target: str, options: Sequence[str]) -> Row:
    """One project for one target: what happened to it."""
    name = project["name"]
    row: Row = {"name": name, "kind": project["kind"], "target": target, "expect": project.get("expect")}
    status, stdout, stderr, row["seconds"] = lxcbuild(
        state, "build", name, "--target", target, "--force", "--json", *options
    )
    try:
        builds = json.loads(stdout)["builds"]
    except (ValueError, KeyError):
        return {**row, "status": "error", "class": "no-document", "brief": stderr[-500:], "exit": status}
    mine = next((one for one in builds if canonicalize_name(one["name"]) == canonicalize_name(name)), builds[-1])
    failure = mine["failure"] or {}
    return {
        **row,
        "version": mine["version"],
        "status": mine["status"],
        "class": failure.get("class"),
        "phase": failure.get("phase"),
        "brief": failure.get("brief"),
        "id": mine["id"],
        "exit": status,
    }


def stdeb(state: Path, project: Row, target: str, environment: dict[str, str]) -> Row:
    """One project through stdeb alone: whether any package came out."""
    name = project["name"]
    row: Row = {"name": name, "kind": project["kind"], "target": target, "expect": project.get("expect")}
    dirs = StateDirs.choose(state)
    try:
        with IndexClient(dirs) as index:
            release = index.resolve(name, python_version=PYTHONS[target])
            archive = index.fetch_source(release).path
    except LxcbuildError as error:
        return {**row, "status": "failed", "class": "no-sdist", "brief": str(error), "seconds": 0}
    arguments = ("run", "--target", target, "--in", os.fspath(archive), "--", "sh", "-c", STDEB_SCRIPT)
    status, stdout, stderr, row["seconds"] = lxcbuild(state, *arguments, environment=environment)
    said = (stdout.strip().splitlines() or stderr.strip().splitlines() or [""])[-1]
    row["status"], row["class"] = STDEB_ENDS.get(status, ("failed", "stdeb-failed"))
    return {**row, "version": release.version, "phase": "compile", "brief": said[:200], "exit": status}


def stdeb_config(state: Path, targets: Iterable[str]) -> dict[str, str]:
    """Recipes whose images have stdeb in them, and the environment in which lxcbuild finds them."""
    place = state / "config" / "rootfs"
    place.mkdir(parents=True, exist_ok=True)
    for target in targets:
        shipped = HERE.parents[1] / "rootfs" / f"{target.replace('/', '-')}.yaml"
        recipe = yaml.safe_load(shipped.read_text())
        recipe["packages"] = [*recipe["packages"], *STDEB_PACKAGES]
        (place / shipped.name).write_text(yaml.safe_dump(recipe))
        (place / "hooks").mkdir(exist_ok=True)
        for hook in recipe["hooks"]:
            (place / "hooks" / hook).write_bytes((shipped.parent / "hooks" / hook).read_bytes())
            (place / "hooks" / hook).chmod(0o755)
    return {"LXCBUILD_CONFIG_DIR": os.fspath(place.parent)}


# -- the table ---------------------------------------------------------------------------------------------------


def lacks_crates(row: Row) -> bool:
    """Whether Rust crates, or a compiler for them, are what was missing, here or in a dependency."""
    return row["status"] != "built" and re.search(r"\b(?:Rust|crates?)\b", str(row.get("brief"))) is not None


def table(rows: Sequence[Row]) -> str:
    """Markdown: the yield per suite, then every failure by class."""
    head = "projects|with an sdist|without crates|built, installed, imported|yield|conversion failed|build failed"
    lines = ["| suite | " + head.replace("|", " | ") + " |", "|---" * 8 + "|"]
    for target in dict.fromkeys(row["target"] for row in rows):
        mine = [row for row in rows if row["target"] == target]
        convertible = [row for row in mine if row["class"] != "no-sdist"]
        possible = [row for row in convertible if not lacks_crates(row)]
        bad = [row for row in possible if row["status"] != "built"]
        early = sum(row.get("phase") in CONVERSION for row in bad)
        good = len(possible) - len(bad)
        share = f"{100 * good / max(1, len(possible)):.1f} %"
        counts = (len(mine), len(convertible), len(convertible) - len(possible), good, share, early, len(bad) - early)
        lines.append(f"| {target} | " + " | ".join(map(str, counts)) + " |")
    lines += ["", "| suite | project | kind | version | class | what was said |", "|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: (row["target"], str(row["class"]), row["name"])):
        if row["status"] != "built":
            said = str(row.get("brief") or "").replace("|", "/").replace("\n", " ")[:160]
            cells = (row["target"], row["name"], row["kind"], row.get("version") or "", row["class"], said)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def known(path: Path) -> dict[tuple[str, str], Row]:
    """What earlier runs found, by project and target."""
    if not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text().splitlines())
    return {(row["name"], row["target"]): row for row in rows}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/corpus", description="Build the corpus for real and print the yield."
    )
    parser.add_argument(
        "--state-dir", type=Path, required=True, help="a state directory of lxcbuild's; kept between runs"
    )
    parser.add_argument("--target", action="append", help="default: debian/bookworm and debian/trixie")
    parser.add_argument("--list", action="append", choices=["fast", "full"], help="default: both")
    parser.add_argument("--only", action="append", metavar="NAME", help="these projects only, known or not")
    parser.add_argument("--jobs", type=int, default=1, help="builds at once (default: 1)")
    parser.add_argument("--stdeb-alone", action="store_true", help="count what stdeb by itself makes packages of")
    parser.add_argument("--again", action="store_true", help="repeat what failed in earlier runs")
    parser.add_argument(
        "--option", action="append", default=[], help="handed to lxcbuild build, such as --option=--no-deps"
    )
    return parser.parse_args()


def main() -> int:
    """Build what is not known yet, tell each result, print the table. Exit status 1 when the yield is below 95 %."""
    wanted = options()
    state = wanted.state_dir.resolve() / ("stdeb" if wanted.stdeb_alone else "lxcbuild")
    state.mkdir(parents=True, exist_ok=True)
    targets = wanted.target or ["debian/bookworm", "debian/trixie"]
    projects = list(corpus(wanted.list or ["fast", "full"]))
    if wanted.only:
        found = {project["name"]: project for project in projects}
        projects = [found.get(name, {"name": name, "kind": "asked for"}) for name in wanted.only]
    results = state / "results.jsonl"
    earlier = known(results)
    environment = stdeb_config(state, targets) if wanted.stdeb_alone else {}
    for target in targets:
        status, _, stderr, _ = lxcbuild(state, "rootfs", "make", target, environment=environment)
        if status != 0:
            sys.exit(f"no image of {target}: {stderr}")

    def one(job: tuple[Row, str]) -> Row:
        project, target = job
        if wanted.stdeb_alone:
            return stdeb(state, project, target, environment)
        return build(state, project, target, wanted.option)

    jobs = [(project, target) for target in targets for project in projects]
    fresh = [job for job in jobs if _is_open(earlier.get((job[0]["name"], job[1])), again=wanted.again)]
    with concurrent.futures.ThreadPoolExecutor(wanted.jobs) as pool, results.open("a") as file:
        for number, row in enumerate(pool.map(one, fresh), start=1):
            row["date"] = datetime.now(UTC).date().isoformat()
            print(json.dumps(row), file=file, flush=True)
            verdict = "built" if row["status"] == "built" else f"{row['class']}: {row['brief']}"
            print(
                f"{number}/{len(fresh)} {row['target']} {row['name']} {row['seconds']} s: {verdict}"[:240], flush=True
            )
            earlier[row["name"], row["target"]] = row
    rows = [earlier[project["name"], target] for project, target in jobs]
    print(f"\n{table(rows)}\n{dict(Counter(row['class'] or 'built' for row in rows))}")
    convertible = [row for row in rows if row["class"] != "no-sdist" and not lacks_crates(row)]
    return 0 if sum(row["status"] == "built" for row in convertible) >= 0.95 * len(convertible) else 1


def _is_open(row: Row | None, *, again: bool) -> bool:
    return row is None or (again and row["status"] != "built")


if __name__ == "__main__":
    sys.exit(main())
