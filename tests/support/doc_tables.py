"""Tables of the documents, made from docs/measurements/*.json.

    .venv/bin/python -m tests.support.doc_tables                             # writes the tables into the pages
    COMMAND | .../python -m tests.support.doc_tables record start 'COMMAND'   # makes docs/measurements/start.json first

A table stands between ``<!-- measured: NAME -->`` and ``<!-- end -->``. A measurement is one JSON object: the command that made it,
machine, commit, date, the columns of its table, and the rows.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests import ROOT

MEASUREMENTS = ROOT / "docs" / "measurements"
_TABLE = re.compile(r"(?<=<!-- measured: )([\w-]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
Document = dict[str, Any]


def load(name: str) -> Document:
    """One measurement."""
    found: Document = json.loads((MEASUREMENTS / f"{name}.json").read_text())
    return found


def names(text: str) -> list[str]:
    """The measurements that a page shows."""
    return [name for name, _ in _TABLE.findall(text)]


def filled(text: str) -> str:
    """The page with every table made anew."""
    return _TABLE.sub(lambda found: f"{found[1]}{found[2]}{table(load(found[1]))}", text)


def without_tables(text: str) -> str:
    """The page without what is made from measurements."""
    return _TABLE.sub("", text)


def table(found: Document) -> str:
    """A table and, below it, where its figures come from."""
    cells = [found["columns"], ["---"] * len(found["columns"]), *found["rows"]]
    lines = [f"| {' | '.join('' if cell is None else str(cell) for cell in row)} |" for row in cells]
    load = f", {found['machine']['load']}" if "load" in found["machine"] else ""
    return "\n".join(
        [*lines, "", f"Made by `{found['command']}`", f"({found['date']}, commit {found['commit']}{load}).", ""]
    )


def _five(name: str, spread: Document, ratio: float | None, *, digits: int = 1) -> list[Any]:
    keys = ("minimum", "quartile1", "median", "quartile3", "maximum")
    return [name, *(round(spread[key], digits) for key in keys), None if ratio is None else round(ratio, 2)]


OURS = {
    "ready": "ready, limits read back",
    "first": "first byte of a command",
    "second": "one more command, whole",
    "stop": "stop, all dead",
    "close": "close",
    "whole": "request to dead",
}
FIVE = ["min", "lower quartile", "median", "upper quartile", "max"]


def start(found: Document) -> tuple[list[str], list[list[Any]]]:
    """Of ``lxcbuild bench start --json``."""
    rows = [_five(f"lxcbuild: {OURS[name]}", spread, None) for name, spread in found["lxcbuild"].items()]
    for name, peer in found["peers"].items():
        rows.append(_five(f"{name}: first byte", peer["first"], peer["ratio_first"]["median"]))
    return ["ms", *FIVE, "ours / theirs"], rows


def build(found: Document) -> tuple[list[str], list[list[Any]]]:
    """Of ``lxcbuild bench build --sample pure --json``."""
    ((name, sample),) = found["samples"].items()
    series = {key: value for key, value in sample.items() if isinstance(value, dict) and "median" in value}
    plain = series["bare, plain rules"]["median"]
    return [f"{name}, s", *FIVE, "/ plain"], [
        _five(key, value, value["median"] / plain, digits=2) for key, value in series.items()
    ]


def overhead(found: Document) -> tuple[list[str], list[list[Any]]]:
    """Of ``lxcbuild bench overhead --json``."""
    keys = ("minimum", "median", "maximum")
    rows = [[name, *(round(spread[key]) for key in keys)] for name, spread in found["cpu"].items()]
    return ["CPU, ms", "min", "median", "max"], rows


#: How to read what a command prints, by the measurement's name.
READERS: dict[str, Callable[[Document], tuple[list[str], list[list[Any]]]]] = {
    "start": start,
    "build": build,
    "overhead": overhead,
}


def record(name: str, command: str, found: Document) -> None:
    """Keep what a command printed as the measurement of that name."""
    columns, rows = READERS[name](found)
    machine = dict(found["machine"])
    loads = [round(machine.pop(key), 1) for key in ("load_before", "load_after") if key in machine]
    if loads:
        machine["load"] = f"load {' to '.join(map(str, loads))}"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    described = {
        "command": command,
        "machine": machine,
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "columns": columns,
        "rows": rows,
    }
    (MEASUREMENTS / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")


def main() -> None:
    """Record what standard input holds, if asked to; then write every table."""
    if sys.argv[1:2] == ["record"]:
        record(sys.argv[2], sys.argv[3], json.load(sys.stdin))
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text()
        if (new := filled(text)) != text:
            page.write_text(new)


if __name__ == "__main__":
    main()
