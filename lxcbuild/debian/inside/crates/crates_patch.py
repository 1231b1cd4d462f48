"""Rewrite what Cargo.toml files ask for beyond the build itself, so that cargo can resolve them from a directory of crates.

Cargo wants every crate that a lock file would name: also those for tests and for other operating systems. Those tables are left
out, and requirements are lowered where the host said so. Each rewritten file must parse to exactly the expected document.
"""

from __future__ import annotations

import copy
import difflib
import re
import sys
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.crates.cargo_cfg import applies
from lxcbuild.debian.inside.crates.crates_reading import KINDS, table

if sys.version_info >= (3, 11):  # noqa: UP036 (older suites have older Pythons)
    import tomllib
else:
    import tomli as tomllib

_HEADER = re.compile(r"\s*\[{1,2}\s*([^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_PART = re.compile(r"\s*(?:'([^']*)'|\"([^\"]*)\"|([A-Za-z0-9_-]+))\s*(?:\.|$)")
_KEY = re.compile(r"\s*(?:'([^']*)'|\"([^\"]*)\"|([A-Za-z0-9_-]+))\s*(?:\.\s*(version)\s*)?=")
_VERSION = re.compile(r"(\bversion\s*=\s*)(['\"])([^'\"]*)\2")
_DESCRIPTION = """\
Description: Ask for the crates that the suite has
 What only tests and other systems need is left out; lower bounds are those of the suite, within semantic versioning.
Author: lxcbuild
Forwarded: not-needed

"""

Relaxed = dict[str, dict[str, str]]  # crate -> requirement as written -> requirement instead


def crates_patch(tree: Path, manifests: list[str], relaxed: Relaxed, machine: str) -> tuple[str | None, list[str]]:
    """Rewrite manifests in place; the patch for it, None where nothing changes, and those that cannot be rewritten."""
    parts, refused = [], []
    for name in manifests:
        path = tree / name
        if path.is_symlink() or not path.is_file():
            refused.append(name)
            continue
        before = path.read_bytes().decode("utf-8", "surrogateescape")
        after = rewritten(before, relaxed, machine)
        if after is None:
            refused.append(name)
        elif after != before:
            path.write_bytes(after.encode("utf-8", "surrogateescape"))
            parts.append(_diff(name, before, after))
    return (_DESCRIPTION + "".join(parts) if parts else None), refused


def rewritten(text: str, relaxed: Relaxed, machine: str) -> str | None:
    """The manifest's text as wanted, or None where rewriting lines does not give the expected document."""
    try:
        document = tomllib.loads(text)
        expected = _expected(document, relaxed, machine)
        if expected == document:
            return text
        after = _edited(text, relaxed, machine)
        return after if tomllib.loads(after) == expected else None
    except (ValueError, RecursionError):
        return None


def _diff(name: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{name}", f"b/{name}"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


# -- the document as it should become -------------------------------------------------------------------------------


def _expected(document: dict[str, Any], relaxed: Relaxed, machine: str) -> dict[str, Any]:
    wanted = copy.deepcopy(document)
    _expect_in(wanted, relaxed)
    _lower(table(table(wanted.get("workspace")).get("dependencies")), relaxed)
    targets = table(wanted.get("target"))
    for target in list(targets):
        if not isinstance(targets[target], dict):
            continue
        if not applies(target, machine):
            for key in KINDS:
                targets[target].pop(key, None)
        _expect_in(targets[target], relaxed)
        if not targets[target]:
            del targets[target]
    if "target" in wanted and not targets:
        del wanted["target"]
    return wanted


def _expect_in(place: dict[str, Any], relaxed: Relaxed) -> None:
    place.pop("dev-dependencies", None)
    for key in ("dependencies", "build-dependencies"):
        _lower(table(place.get(key)), relaxed)


def _lower(entries: dict[str, Any], relaxed: Relaxed) -> None:
    for key, value in entries.items():
        if isinstance(value, str):
            entries[key] = relaxed.get(key, {}).get(value, value)
        elif isinstance(value, dict) and isinstance(value.get("version"), str):
            changes = relaxed.get(str(value.get("package") or key), {})
            value["version"] = changes.get(value["version"], value["version"])


# -- the lines ------------------------------------------------------------------------------------------------------


def _edited(text: str, relaxed: Relaxed, machine: str) -> str:
    out: list[str] = []
    names: list[str] = []
    entry = ""
    for line in text.splitlines(keepends=True):
        header = _HEADER.match(line)
        if header and (parts := _parts(header[1])):
            names, entry = parts, ""
        if _left_out(names, machine):
            continue
        if not header and (found := _dependency_table(names)) is not None:
            key = _KEY.match(line)
            if found:
                entry = found
            elif key:
                entry = key[1] or key[2] or key[3]
            line = _lowered(line, entry, key, relaxed, whole=not found)  # noqa: PLW2901 - the line as it goes out
        out.append(line)
    return "".join(out)


def _parts(header: str) -> list[str]:
    parts, at = [], 0
    while at < len(header):
        match = _PART.match(header, at)
        if match is None:
            return []
        parts.append(next(group for group in match.groups() if group is not None))
        at = match.end()
    return parts


def _left_out(names: list[str], machine: str) -> bool:
    if names[:1] == ["dev-dependencies"]:
        return True
    if names[:1] != ["target"] or len(names) < 3:
        return False
    return names[2] == "dev-dependencies" or (names[2] in KINDS and not applies(names[1], machine))


def _dependency_table(names: list[str]) -> str | None:
    """None outside of tables of dependencies, "" in one, the entry's key in a table of its own."""
    at = 2 if names[:1] == ["target"] else 1 if names[:1] == ["workspace"] else 0
    if len(names) <= at or names[at] not in KINDS:
        return None
    return names[at + 1] if len(names) == at + 2 else "" if len(names) == at + 1 else None


def _lowered(line: str, entry: str, key: re.Match[str] | None, relaxed: Relaxed, *, whole: bool) -> str:
    """``entry = "1.2"`` or ``version = "1.2"``, alone or in an inline table; a renamed crate goes by its ``package``."""
    package = re.search(r"\bpackage\s*=\s*['\"]([^'\"]+)['\"]", line)
    changes = relaxed.get(package[1] if package else entry, {})
    if not changes:
        return line

    def exchange(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{changes.get(match[3], match[3])}{match[2]}"

    if whole and key is not None:
        rest = line[key.end() :]
        plain = re.match(r"(\s*)(['\"])([^'\"]*)\2", rest)
        if plain:
            return line[: key.end()] + exchange(plain) + rest[plain.end() :]
    return _VERSION.sub(exchange, line)
