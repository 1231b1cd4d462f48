"""Builds packages with and without the fork servers and compares them bit for bit. Run by scripts/compare-fork-servers.

For each suite: two pure Python projects (one with a setup.py), one with an extension module, and a Debian source package. What is
compared is all that a build publishes, but for the lines that say when it was made. More processes at a time tell that the servers
really ran.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from lxcbuild.bench.builds import SAMPLES, Sample, fetch_source
from lxcbuild.config.recipes import load_recipes
from lxcbuild.errors import LxcbuildError
from lxcbuild.model import Target

#: What tells when a build was made: all of its provenance, and in these files the lines that say so.
_DATED = {
    ".buildinfo": re.compile(rb"^Build-Date: .*\n", re.MULTILINE),
    ".changes": re.compile(rb"^ .*\.buildinfo\n", re.MULTILINE),
}
_IMITATED = ("dpkg", "debhelper", "dh-python")
_SAMPLES = (Sample(kind="setup.py", name="six", requirement="six==1.17.0"), *SAMPLES)
_LIMIT_S = 3600.0
Row = dict[str, Any]


def content(path: Path) -> bytes:
    """What has to be the same in both ways."""
    dated = _DATED.get(path.suffix)
    return path.read_bytes() if dated is None else dated.sub(b"", path.read_bytes())


def differing(served: Mapping[str, Path], alone: Mapping[str, Path]) -> list[str]:
    """The names of files that only one of the ways made, or made otherwise."""
    names = sorted(served.keys() | alone.keys())
    return [n for n in names if n not in served or n not in alone or content(served[n]) != content(alone[n])]


class NotForThisSuiteError(Exception):
    """The suite has not what is to be built, or not what its build needs: nothing was built in either way."""


def lxcbuild(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command on the state directory of this process's environment."""
    own = [sys.executable, "-m", "lxcbuild", *arguments]
    return subprocess.run(own, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S)


def _told(done: subprocess.CompletedProcess[str]) -> str:
    """Why it failed, as far as one line says that."""
    lines = done.stderr.strip().splitlines() or ["no word of why"]
    return next((line for line in lines if line.startswith("error: ")), lines[-1])


def compare(what: str, target: str) -> Row:
    """Build it in both ways. Raises RuntimeError for a build that fails, NotForThisSuiteError where none can be made."""
    files: dict[str, dict[str, Path]] = {}
    row: Row = {}
    for way in ("served", "alone"):
        switch = "--fork-server" if way == "served" else "--no-fork-server"
        done = lxcbuild("build", "--target", target, "--force", "--rebuild", "--json", switch, what)
        built = next(iter(json.loads(done.stdout or "{}").get("builds", ())), None)
        if built is not None and built["failure"] and built["failure"]["class"] == "convert-failed":
            raise NotForThisSuiteError(built["failure"]["brief"])
        if done.returncode != 0 or built is None:
            raise RuntimeError(f"{switch}: {_told(done)}")
        paths = [Path(item["path"]) for item in built["artifacts"]]
        files[way] = {path.name: path for path in paths if not path.name.endswith(".provenance.json")}
        compiled = next(phase for phase in built["phases"] if phase["name"] == "compile")
        row[way] = {name: round(compiled[name], 2) for name in ("wall_s", "cpu_s", "peak_pids")}
    row["differing"] = differing(files["served"], files["alone"])
    row["files"] = len(files["served"])
    buildinfo = next(path for name, path in files["alone"].items() if name.endswith(".buildinfo"))
    row["imitated"] = dict(re.findall(rf"^ ({'|'.join(_IMITATED)}) \(= (\S+?)\)", buildinfo.read_text(), re.MULTILINE))
    return row


def compare_suite(target: str, samples: Sequence[Sample]) -> Iterator[Row]:
    """One row for each sample, or one that says why there are none."""
    made = lxcbuild("rootfs", "make", target)
    if made.returncode != 0:
        yield {"target": target, "absent": _told(made)}
        return
    for sample in samples:
        row: Row = {"target": target, "sample": sample.name, "kind": sample.kind}
        with tempfile.TemporaryDirectory(prefix="lxcbuild-compare-") as scratch:
            try:
                yield row | compare(sample.requirement or _source_package(sample.name, target, Path(scratch)), target)
            except NotForThisSuiteError as error:
                yield row | {"absent": str(error)}
            except RuntimeError as error:
                yield row | {"error": str(error)}


def _source_package(name: str, target: str, scratch: Path) -> str:
    """The .dsc of that name. Raises NotForThisSuiteError where no mirror has it."""
    try:
        return os.fspath(fetch_source(name, Target.parse(target), scratch / name))
    except LxcbuildError as error:
        raise NotForThisSuiteError(f"no source package {name}: {error}") from error


def line(row: Row) -> str:
    """A row of the table."""
    head = f"| {row['target']} | {row['kind']}: {row['sample']} " if "sample" in row else f"| {row['target']} | "
    if "absent" in row:
        return f"{head}| | | | | not compared: {_short(row['absent'])} |"
    if "error" in row:
        return f"{head}| | | | | FAILED: {_short(row['error'])} |"
    versions = ", ".join(f"{name} {version}" for name, version in row["imitated"].items())
    served, alone = row["served"], row["alone"]
    verdict = f"DIFFER: {', '.join(row['differing'])}" if row["differing"] else f"the same {row['files']} files"
    return (
        f"{head}| {versions} | {alone['wall_s']} s | {served['wall_s']} s "
        f"| {alone['peak_pids']}, {served['peak_pids']} | {verdict} |"
    )


def _short(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:200]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/compare-fork-servers", description="Compare packages built with and without the fork servers."
    )
    parser.add_argument("--state-dir", type=Path, help="a state directory of lxcbuild's; default: the system's")
    parser.add_argument(
        "--target", action="append", metavar="DISTRIBUTION/SUITE", help="default: all that have recipes"
    )
    kinds = [sample.kind for sample in _SAMPLES]
    parser.add_argument("--sample", action="append", choices=kinds, help="default: all")
    parser.add_argument(
        "--source-package", metavar="NAME", default="hello", help="the Debian source package (default: hello)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    return parser.parse_args()


def main() -> int:
    """Compare, print the table. Exit status 1 for a difference, a failed build, or a named suite that cannot be had."""
    wanted = options()
    if wanted.state_dir is not None:
        os.environ["LXCBUILD_STATE_DIR"] = os.fspath(wanted.state_dir.resolve())
    samples = [sample for sample in _SAMPLES if sample.kind in (wanted.sample or (sample.kind,))]
    samples = [sample if sample.requirement else replace(sample, name=wanted.source_package) for sample in samples]
    targets = wanted.target or [str(recipe.target()) for recipe in load_recipes()]
    print("| suite | sample | programs | compile alone | served | processes at most | packages |")
    print("|---" * 7 + "|", flush=True)
    rows: list[Row] = []
    for target in targets:
        for row in compare_suite(target, samples):
            rows.append(row)
            print(line(row), flush=True)
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(rows, indent=1) + "\n")
    compared = {row["target"] for row in rows if "differing" in row}
    bad = any(row.get("differing") or "error" in row for row in rows)
    return 1 if bad or not compared or (wanted.target and compared != set(targets)) else 0


if __name__ == "__main__":
    sys.exit(main())
