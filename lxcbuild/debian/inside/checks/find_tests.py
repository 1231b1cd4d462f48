"""Find a project's own tests and what they need, without running anything of it; leaves /out/tests-found.json."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.report import answer, clip_all, read_request
from lxcbuild.debian.inside.unpack import unpack

_TREE = Path("/build/src")
_GROUPS = ("test", "tests", "testing")
_FILES = (
    "requirements-test.txt", "requirements-tests.txt", "requirements_test.txt", "test-requirements.txt", "test_requirements.txt",
    "tests/requirements.txt", "test/requirements.txt", "requirements/test.txt", "requirements/tests.txt",
    "requirements/testing.txt",
)  # fmt: skip
_MAX_FILE = 256 * 1024
_MAX_DEPTH = 5


def main(arguments: list[str]) -> int:
    """Entry point; the request names the archive."""
    assert not arguments
    return answer("tests-found.json", _find, fallback_class="broken-sdist")


def _find() -> dict[str, Any]:
    request = read_request()
    unpack(Path(request["archive"]), _TREE)
    document = _pyproject()
    groups = document.get("dependency-groups")
    groups = groups if isinstance(groups, dict) else {}
    required: list[str] = []
    for name in _GROUPS:
        required += _group(groups, name)
    required += _tox()
    for name in _FILES:
        required += _requirements_file(_TREE / name)
    if not required:
        required = _group(groups, "dev")
    return {
        "requires": clip_all(list(dict.fromkeys(required)), count=200),
        "found": any(_is_test(path) for path in _TREE.rglob("*.py")),
    }


def _is_test(path: Path) -> bool:
    return bool(re.fullmatch(r"test_.*\.py|.*_test\.py|tests?\.py", path.name)) and path.is_file()


def _pyproject() -> dict[str, Any]:
    path = _TREE / "pyproject.toml"
    if not path.is_file():
        return {}
    import tomli

    try:
        return tomli.loads(_read(path))
    except (tomli.TOMLDecodeError, RecursionError):
        return {}


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_FILE).decode("utf-8", "replace")


def _group(groups: dict[str, Any], name: str, depth: int = 0) -> list[str]:
    """PEP 735, with the groups that it includes."""
    wanted = re.sub(r"[-_.]+", "-", name).lower()
    items = next((v for k, v in groups.items() if re.sub(r"[-_.]+", "-", str(k)).lower() == wanted), None)
    found: list[str] = []
    for item in items if isinstance(items, list) and depth < _MAX_DEPTH else ():
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict) and isinstance(item.get("include-group"), str):
            found += _group(groups, item["include-group"], depth + 1)
    return found


def _tox() -> list[str]:
    for name in ("tox.ini", "setup.cfg"):
        path = _TREE / name
        if not path.is_file():
            continue
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(_read(path))
        except configparser.Error:
            continue
        section = "testenv" if name == "tox.ini" else "tox:testenv"
        if parser.has_option(section, "deps"):
            return _lines(parser.get(section, "deps"), _TREE, 0)
    return []


def _requirements_file(path: Path, depth: int = 0) -> list[str]:
    if depth >= _MAX_DEPTH or not path.is_file() or not path.resolve().is_relative_to(_TREE.resolve()):
        return []
    return _lines(_read(path), path.parent, depth)


def _lines(text: str, place: Path, depth: int) -> list[str]:
    """Requirements of a file or of tox's ``deps``; lines for one factor of tox, and options of pip, are left out."""
    found: list[str] = []
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip().removesuffix("\\").strip()
        include = re.fullmatch(r"(?:-r|--requirement)[ =]?\s*(\S+)", line)
        if include is not None:
            found += _requirements_file(place / include[1].replace("{toxinidir}/", ""), depth + 1)
        elif re.match(r"[A-Za-z0-9]", line) and "{" not in line and not re.match(r"[\w!,.-]+: ", line):
            found.append(re.sub(r"\s--hash=\S+", "", line))
    return found
