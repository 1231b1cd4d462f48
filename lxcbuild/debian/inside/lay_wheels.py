"""Lay wheels out as a directory that a Python can have on its path; leaves them below /build/wheels, and /out/wheels.json.

Nothing of a wheel is run. Per Python: importable files at the top, programs in ``bin``, data in ``share`` or wherever the wheel
says, headers in ``include``. Programs of entry points are written as installers do.
"""

from __future__ import annotations

import configparser
import re
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.report import answer, read_request, refuse
from lxcbuild.debian.inside.unpack import split_name

_MAX_MEMBERS = 200_000
_MAX_BYTES = 4 * 1024**3
_ENTRY = re.compile(r"([\w.]{1,300})\s*:\s*([\w.]{1,300})\s*(?:\[.*\])?")
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,100}")
_SCRIPT = """\
#!{python}
import sys
from {module} import {first}
sys.exit({attribute}())
"""


def main(arguments: list[str]) -> int:
    """Entry point."""
    assert not arguments
    return answer("wheels.json", _lay_all, fallback_class="build-dep-missing")


def _lay_all() -> dict[str, Any]:
    request = read_request()
    laid = []
    for python, names in sorted(request["sets"].items()):
        root = Path(request["destination"]) / python
        root.mkdir(parents=True)
        for name in names:
            laid.append(name)
            _lay(Path(request["wheels"]) / name, root, python)
    return {"laid": laid}


def _lay(path: Path, root: Path, python: str) -> None:
    try:
        with zipfile.ZipFile(path) as wheel:
            members = wheel.infolist()
            if len(members) > _MAX_MEMBERS or sum(member.file_size for member in members) > _MAX_BYTES:
                refuse("build-dep-missing", f"{path.name} is too large")
            for member in members:
                if not member.is_dir():
                    _lay_member(wheel, member, root, python)
            _write_programs(wheel, members, root, python)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        refuse("build-dep-missing", f"{path.name} cannot be unpacked: {type(error).__name__}: {str(error)[:200]}")


def _lay_member(wheel: zipfile.ZipFile, member: zipfile.ZipInfo, root: Path, python: str) -> None:
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        refuse("build-dep-missing", f"{wheel.filename} holds something other than files: {member.filename[:200]!r}")
    parts = split_name(member.filename)
    place, is_program = _place(parts)
    target = root.joinpath(*place)
    target.parent.mkdir(parents=True, exist_ok=True)
    with wheel.open(member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    if is_program:
        _fix_interpreter(target, python)
    target.chmod(0o755 if is_program or mode & 0o100 else 0o644)


def _place(parts: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """PEP 427: what lies below ``<name>.data`` is for other places than the importable one."""
    if len(parts) < 3 or not parts[0].endswith(".data"):
        return parts, False
    kind, rest = parts[1], parts[2:]
    if kind in ("purelib", "platlib"):
        return rest, False
    if kind == "scripts":
        return ("bin", *rest), True
    if kind == "headers":
        return ("include", parts[0].partition("-")[0], *rest), False
    return rest, False  # data: below the prefix


def _fix_interpreter(path: Path, python: str) -> None:
    with path.open("rb") as file:
        if not file.read(8).startswith(b"#!python"):
            return
    content = path.read_bytes()
    path.write_bytes(f"#!/usr/bin/python{python}\n".encode() + content.partition(b"\n")[2])


def _write_programs(wheel: zipfile.ZipFile, members: list[zipfile.ZipInfo], root: Path, python: str) -> None:
    table = next((m for m in members if m.filename.endswith(".dist-info/entry_points.txt")), None)
    if table is None or table.file_size > 1024 * 1024:
        return
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(wheel.read(table).decode("utf-8", "replace"))
    except configparser.Error:
        return
    if not parser.has_section("console_scripts"):
        return
    for name, value in parser.items("console_scripts"):
        match = _ENTRY.fullmatch(value.strip())
        if match is None or not _PROGRAM.fullmatch(name):
            continue
        path = root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            _SCRIPT.format(
                python=f"/usr/bin/python{python}", module=match[1], first=match[2].partition(".")[0], attribute=match[2]
            ),
            "utf-8",
        )
        path.chmod(0o755)
