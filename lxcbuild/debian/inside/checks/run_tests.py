"""Run a project's own tests on the package that is installed here; leaves /out/tests.json.

The tree is copied without the project's own modules, so that nothing but the installed package can be imported under their names.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shlex
import shutil
import subprocess  # noqa: TID251 (inside the sandbox there is no lxcbuild.process)
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lxcbuild.debian.inside.report import answer, clip, clip_all, read_request, say
from lxcbuild.debian.inside.unpack import unpack

_SOURCE, _PLACE, _JUNIT = Path("/build/src"), Path("/build/tests-of-project"), Path("/build/junit.xml")
_OURS = ("src", "lib", "build", "dist", ".tox", ".git")
# Options of the project's own configuration ask for plugins of its CI, such as coverage.
_PYTEST = (
    "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "required_plugins=", "-r", "fE",
    "--continue-on-collection-errors", f"--junit-xml={_JUNIT}",
)  # fmt: skip
_CHOOSING = ("-m", "-k", "--ignore", "--ignore-glob", "--deselect", "--import-mode")
_WHERE = "import importlib,sys;m=importlib.import_module(sys.argv[1]);print(getattr(m,'__file__',None) or list(m.__path__)[0])"


def main(arguments: list[str]) -> int:
    """Entry point; the request names the archive and the project's modules."""
    assert not arguments
    return answer("tests.json", _run, fallback_class="tests-failed")


def _run() -> dict[str, Any]:
    request = read_request()
    unpack(Path(request["archive"]), _SOURCE)
    modules = [name for name in request["modules"] if re.fullmatch(r"[A-Za-z_]\w*", name)]
    _copy(modules)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/build"}
    where = {name: _origin(name, environment) for name in modules}
    argv = [sys.executable, *_PYTEST, *_chosen(), *_targets(modules)]
    if request["command"] is not None:
        argv = ["/bin/sh", "-c", request["command"]]
    say(f"tests: {' '.join(argv)}")
    done = subprocess.run(argv, cwd=_PLACE, env=environment, stdin=subprocess.DEVNULL, check=False)
    return {"status": done.returncode if done.returncode >= 0 else 128 - done.returncode, "origins": where, **_counts()}


def _copy(modules: list[str]) -> None:
    """Everything but the project's own code: neither at the top nor below src/ or lib/."""
    own = {*modules, *(f"{name}.py" for name in modules)}

    def leave(place: str, names: list[str]) -> list[str]:
        if Path(place) != _SOURCE:
            return []
        return [name for name in names if name in own or name in _OURS or name.endswith(".egg-info")]

    shutil.copytree(_SOURCE, _PLACE, symlinks=True, ignore=leave)


def _chosen() -> list[str]:
    """Of the project's own options those that say which tests are meant (``-m "not stress"``); plugins of its CI are not here."""
    words = shlex.split(_addopts())
    kept: list[str] = []
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name in _CHOOSING and equals:
            kept.append(word)
        elif name in _CHOOSING:
            kept += words[place : place + 2]
    return kept


def _addopts() -> str:
    """pytest's ``addopts``, from the first of its files that has any."""
    path = _PLACE / "pyproject.toml"
    if path.is_file():
        import tomli

        table = tomli.loads(path.read_text("utf-8", "replace")).get("tool", {}).get("pytest", {})
        found = table.get("ini_options", table).get("addopts")
        if found:
            return found if isinstance(found, str) else shlex.join(map(str, found))
    for name, section in (("pytest.ini", "pytest"), ("tox.ini", "pytest"), ("setup.cfg", "tool:pytest")):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        with contextlib.suppress(configparser.Error):
            parser.read(_PLACE / name, "utf-8")
            if parser.has_option(section, "addopts"):
                return parser.get(section, "addopts")
    return ""


def _targets(modules: list[str]) -> list[str]:
    """Tests beside the code, else what the package itself has installed."""
    beside = [name for name in ("tests", "test", "testing") if (_PLACE / name).is_dir()]
    beside += sorted(path.name for path in _PLACE.glob("test*.py"))
    if beside:
        return beside
    inside = [name for name in modules if any((place / name).is_dir() for place in map(Path, sys.path))]
    return ["--pyargs", *inside] if inside else ["."]


def _origin(name: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _WHERE, name], cwd=_PLACE, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return clip(lines[-1] if lines else "", 500) or ""


def _counts() -> dict[str, Any]:
    total = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    failing: list[str] = []
    unloadable: list[str] = []
    if _JUNIT.is_file():
        for suite in ElementTree.parse(_JUNIT).getroot().iter("testsuite"):  # noqa: S314
            for key in total:
                total[key] += int(suite.get(key, "0"))
            for case in suite.iter("testcase"):
                name = f"{case.get('classname', '')}::{case.get('name', '')}"
                error = case.find("error")
                if error is not None and error.get("message", "").startswith("collection failure"):
                    unloadable.append(f"{name.strip(':')}: {_last_error(error.text or '')}")
                elif error is not None or case.find("failure") is not None:
                    failing.append(name)
    return {
        **total,
        "failing": clip_all(failing, count=50, limit=300),
        "unloadable": clip_all(unloadable, count=50, limit=400),
        "unloadable_count": len(unloadable),
    }


def _last_error(text: str) -> str:
    """The exception of a traceback as pytest shows it: its last line that begins with E."""
    found = re.findall(r"(?m)^E\s+(\S.*)$", text)
    lines = text.strip().splitlines()
    return str(found[-1]) if found else lines[-1] if lines else ""
