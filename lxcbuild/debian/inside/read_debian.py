"""Read debian/control and the newest entry of debian/changelog of an unpacked source package; leaves /out/source.json."""

from __future__ import annotations

import re
import subprocess  # noqa: TID251 (inside the sandbox there is no lxcbuild.process)
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.report import answer, clip, clip_all, refuse

_MAX_CONTROL = 4 * 1024 * 1024
_RELATION_FIELDS = ("build-depends", "build-depends-arch", "build-depends-indep")
_FIELD = re.compile(r"([!-9;-~]+):[ \t]*(.*)")


def main(arguments: list[str]) -> int:
    """Entry point; the one argument is the unpacked tree."""
    (tree,) = arguments
    return answer("source.json", lambda: _read(Path(tree)), fallback_class="broken-sdist")


def _read(tree: Path) -> dict[str, Any]:
    stanzas = _stanzas(_text(tree / "debian" / "control"))
    if not stanzas or "source" not in stanzas[0]:
        refuse("broken-sdist", "debian/control does not begin with a source package")
    source = stanzas[0]
    clauses = [clause for field in _RELATION_FIELDS for clause in _clauses(source.get(field, ""))]
    entry = _changelog(tree)
    if entry["Source"] != source["source"]:
        refuse("broken-sdist", f"debian/changelog is of {entry['Source']!r}, debian/control of {source['source']!r}")
    return {
        "source": clip(source["source"], 300),
        "version": clip(entry["Version"], 300),
        "distribution": clip(entry["Distribution"].split(" ")[0], 100),
        "timestamp": int(entry["Timestamp"]),
        "build_depends": clip_all(clauses, count=2000, limit=2000),
        "binaries": [
            {
                "name": clip(stanza["package"], 300),
                "architectures": clip_all(stanza.get("architecture", "").split(), count=200, limit=60),
            }
            for stanza in stanzas[1:1001]
            if "package" in stanza
        ],
    }


def _text(path: Path) -> str:
    if not path.is_file():
        refuse("broken-sdist", f"the sources hold no {path.parent.name}/{path.name}")
    with path.open("rb") as file:
        data = file.read(_MAX_CONTROL + 1)
    if len(data) > _MAX_CONTROL:
        refuse("broken-sdist", f"debian/{path.name} has more than {_MAX_CONTROL} bytes")
    return data.decode("utf-8", "replace")


def _stanzas(text: str) -> list[dict[str, str]]:
    """deb822 with comments, as debian/control may have; field names in lower case."""
    stanzas: list[dict[str, str]] = [{}]
    name = ""
    for line in text.split("\n"):
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanzas[-1]:
                stanzas.append({})
            name = ""
        elif line[0] in " \t":
            if not name:
                refuse("broken-sdist", "debian/control begins a stanza with a continuation line")
            stanzas[-1][name] += f"\n{line.strip()}"
        else:
            match = _FIELD.fullmatch(line.rstrip())
            if match is None:
                refuse("broken-sdist", f"debian/control holds a line that is not a field: {line[:100]!r}")
                return []
            name = match.group(1).lower()
            stanzas[-1][name] = match.group(2).strip()
    return [stanza for stanza in stanzas if stanza]


def _clauses(value: str) -> list[str]:
    return [" ".join(clause.split()) for clause in value.split(",") if clause.strip()]


def _changelog(tree: Path) -> dict[str, str]:
    """What dpkg's own parser makes of the newest entry."""
    path = tree / "debian" / "changelog"
    if not path.is_file():
        refuse("broken-sdist", "the sources hold no debian/changelog")
    done = subprocess.run(
        ["/usr/bin/dpkg-parsechangelog", "-l", str(path)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    text = done.stdout.decode("utf-8", "replace")
    found = {name: value for name, _, value in (line.partition(": ") for line in text.split("\n")) if name}
    missing = [name for name in ("Source", "Version", "Distribution", "Timestamp") if not found.get(name)]
    if done.returncode != 0 or missing:
        refuse("broken-sdist", "debian/changelog cannot be read", text[-2000:])
    return found
