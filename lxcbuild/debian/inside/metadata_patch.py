"""Rewrite what older backends refuse in ``pyproject.toml`` (PEP 639's licence fields, PEP 794's import names) as a quilt patch.

The licence keeps its text, in the table form that every backend knows. The rewritten file must parse to the same document
but for these keys; where it does not, nothing is patched.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):  # noqa: UP036 (older suites have older Pythons)
    import tomllib
else:
    import tomli as tomllib

PATCH = "metadata-for-older-backends.patch"
_DROPPED = ("license-files", "import-names", "import-namespaces")
_HEADER = """\
Description: Write the licence as older build backends read it
 The suite's backend does not know the licence fields of PEP 639, which change nothing in what is built.
Author: lxcbuild
Forwarded: not-needed

"""


def metadata_patch(tree: Path) -> str | None:
    """The patch's text, or None when the file needs none or cannot be rewritten safely."""
    path = tree / "pyproject.toml"
    if path.is_symlink() or not path.is_file() or path.stat().st_size > 1024 * 1024:
        return None
    try:
        before = path.read_bytes().decode("utf-8")
        document = tomllib.loads(before)
    except ValueError:
        return None
    after = _rewritten(before)
    if after == before or "\r" in before:
        return None
    try:
        same = _without_licence(tomllib.loads(after)) == _without_licence(document)
    except ValueError:
        return None
    if not same:
        return None
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), "a/pyproject.toml", "b/pyproject.toml"
    )
    text = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return _HEADER + text


def _rewritten(text: str) -> str:
    out: list[str] = []
    table = ""
    open_key = False
    for line in text.splitlines(keepends=True):
        if open_key:
            # The rest of an array of several lines that is left out.
            open_key = "]" not in line.split("#")[0]
            continue
        header = re.match(r"\[([^\[\]]+)\]\s*(?:#.*)?$", line.strip())
        if header and not line[:1].isspace():
            table = header.group(1).strip()
        key, equals, value = line.partition("=")
        key = key.strip().strip("\"'")
        if table == "project" and equals and key in _DROPPED:
            bare = value.split("#")[0].strip()
            open_key = bare.startswith("[") and "]" not in bare
            continue
        licence = re.match(r"""\s*("[^"\\]*"|'[^']*')\s*(?:#.*)?$""", value)
        if table == "project" and key == "license" and licence:
            out.append(f"license = {{text = {licence.group(1)}}}\n")
        else:
            out.append(line)
    return "".join(out)


def _without_licence(document: dict[str, Any]) -> dict[str, Any]:
    project = document.get("project")
    if not isinstance(project, dict):
        return document
    kept = {key: value for key, value in project.items() if key not in (*_DROPPED, "license")}
    return {**document, "project": kept}
