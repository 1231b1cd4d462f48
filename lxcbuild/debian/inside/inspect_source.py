"""Look at a source archive without running anything of it; leaves /out/inspection.json."""

from __future__ import annotations

import configparser
import os
import re
import sys
from email.parser import Parser
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.crates.rust_project import read_rust
from lxcbuild.debian.inside.patches import apply_patches
from lxcbuild.debian.inside.report import answer, clip, clip_all, read_request, refuse
from lxcbuild.debian.inside.setup_reading import read_setup_py
from lxcbuild.debian.inside.unpack import unpack

if sys.version_info >= (3, 11):  # noqa: UP036 (older suites have older Pythons)
    import tomllib
else:
    import tomli as tomllib

_MAX_TEXT = 4 * 1024 * 1024
_MAX_LICENCE = 64 * 1024
_LICENCE_NAME = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense|authors)([._-].*)?", re.IGNORECASE)
_NO_MODULES = {
    "setup", "conftest", "noxfile", "tasks", "fabfile", "versioneer", "ez_setup", "distribute_setup", "pdm_build", "hatch_build",
}  # fmt: skip
_NO_PACKAGES = {"doc", "docs", "example", "examples", "benchmark", "benchmarks", "tools", "scripts", "debian"}
_SUFFIXES = {
    ".c": "c", ".i": "c", ".cc": "cxx", ".cpp": "cxx", ".cxx": "cxx", ".pyx": "cython", ".pxd": "cython", ".rs": "rust",
    ".f": "fortran", ".f90": "fortran", ".pyc": "pyc", ".pyo": "pyc", ".so": "binary", ".pyd": "binary", ".dll": "binary",
}  # fmt: skip
_TOLD_BY_TABLE = ("packages", "py-modules", "package-dir", "ext-modules")
_TOLD_BY_SETUP_CFG = re.compile(r"^\s*(?:packages|py[_-]modules|package[_-]dir)\s*=", re.MULTILINE)
#: Anything of the kind in a setup.py counts, also what is computed; pbr and others bring lists of their own.
_TOLD_BY_SETUP_PY = re.compile(r"\b(?:packages|py_modules|package_dir|ext_modules|pbr|skbuild|configuration)\b")
_ASIDE = {"test", "tests", "testing", "doc", "docs", "example", "examples", "benchmark", "benchmarks"}


def main(arguments: list[str]) -> int:
    """Entry point; the archive is named in the request."""
    assert not arguments
    return answer("inspection.json", _inspect, fallback_class="broken-sdist")


def _inspect() -> dict[str, Any]:
    request = read_request()
    tree = Path(request["tree"])
    unpacked = unpack(Path(request["archive"]), tree)
    apply_patches(tree)
    counts = _count(tree)
    pyproject = _pyproject(tree)
    setup_py = tree / "setup.py"
    has_setup_cfg = (tree / "setup.cfg").is_file()
    if not (pyproject or setup_py.is_file() or has_setup_cfg or (tree / "PKG-INFO").is_file()):
        refuse("broken-sdist", "the archive holds no setup.py, pyproject.toml, setup.cfg or PKG-INFO")
    finds_packages = is_left_to_setuptools(
        (pyproject or {}).pop("setuptools", {}),
        _text(tree / "setup.cfg") if has_setup_cfg else "",
        _text(setup_py) if setup_py.is_file() else "",
        src=(tree / "src").is_dir(),
    )
    return {
        "archive": {"format": unpacked.archive_format, "top_level": clip(unpacked.top_level, 255)},
        "metadata": _pkg_info(tree),
        "pyproject": pyproject,
        "setup_py": read_setup_py(_read(setup_py)) if setup_py.is_file() else None,
        "setup_cfg": _setup_cfg(tree) if has_setup_cfg else None,
        "egg_requires": _egg_requires(tree),
        "modules": _modules(tree),
        "sources": counts,
        "finds_packages": finds_packages,
        "licence_texts": _licence_texts(tree),
        "crates": read_rust(tree),
    }  # fmt: skip


def _read(path: Path) -> bytes:
    if path.is_symlink() and not path.exists():
        return b""
    with path.open("rb") as file:
        return file.read(_MAX_TEXT)


def _text(path: Path) -> str:
    return _read(path).decode("utf-8", "replace")


def _count(tree: Path) -> dict[str, int]:
    counts: dict[str, int] = {"c": 0, "cxx": 0, "cython": 0, "rust": 0, "fortran": 0, "pyc": 0, "binary": 0}
    for place, directories, files in os.walk(tree):
        relative = Path(place).relative_to(tree).parts
        aside = bool(_ASIDE.intersection(relative))
        directories.sort()
        for name in files:
            kind = _SUFFIXES.get(Path(name).suffix.lower())
            if kind is not None and (kind in ("pyc", "binary") or not aside):
                counts[kind] += 1
    for build in ("meson.build", "CMakeLists.txt", "Cargo.toml"):
        counts[build.split(".")[0].lower()] = int((tree / build).is_file())
    return counts


# -- metadata -----------------------------------------------------------------------------------------------------


def _pkg_info(tree: Path) -> dict[str, Any] | None:
    path = tree / "PKG-INFO"
    if not path.is_file():
        found = sorted(tree.glob("*.egg-info/PKG-INFO")) + sorted(tree.glob("*/*.egg-info/PKG-INFO"))
        if not found:
            return None
        path = found[0]
    message = Parser().parsestr(_text(path))

    def one(field: str, limit: int = 1000) -> str | None:
        value = message.get(field)
        return None if value is None or value.strip() in ("", "UNKNOWN") else clip(str(value).strip(), limit)

    def several(field: str) -> list[str]:
        return clip_all([str(value).strip() for value in message.get_all(field) or []])

    body = message.get_payload()
    description = one("Description", 200_000) or (body if isinstance(body, str) else "")
    return {
        "metadata_version": one("Metadata-Version", 20), "name": one("Name", 300), "version": one("Version", 300),
        "summary": one("Summary", 2000), "description": clip(description, 60_000), "home_page": one("Home-page"),
        "project_urls": several("Project-URL")[:50], "author": one("Author"), "author_email": one("Author-email"),
        "maintainer": one("Maintainer"), "maintainer_email": one("Maintainer-email"), "license": one("License", 20_000),
        "license_expression": one("License-Expression"), "classifiers": several("Classifier"),
        "requires_python": one("Requires-Python"), "requires_dist": several("Requires-Dist"), "dynamic": several("Dynamic"),
    }  # fmt: skip


def _pyproject(tree: Path) -> dict[str, Any] | None:
    path = tree / "pyproject.toml"
    if not path.is_file():
        return None
    try:
        document = tomllib.loads(_read(path).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        refuse("broken-sdist", f"pyproject.toml cannot be read: {type(error).__name__}: {str(error)[:300]}")
    build = _table(document.get("build-system"))
    project = _table(document.get("project"))
    tools = _table(document.get("tool"))
    dependencies = project.get("dependencies")
    return {
        "requires": clip_all(build.get("requires")) if "requires" in build else None,
        "backend": clip(build.get("build-backend"), 300),
        "backend_path": clip_all(build.get("backend-path")),
        "has_project": bool(project),
        "name": clip(project.get("name"), 300),
        "version": clip(project.get("version"), 300),
        "description": clip(project.get("description"), 2000),
        "dynamic": clip_all(project.get("dynamic")),
        "requires_python": clip(project.get("requires-python"), 500),
        "dependencies": None if dependencies is None else clip_all(dependencies),
        "optional_dependencies": {
            str(key)[:200]: clip_all(value)
            for key, value in list(_table(project.get("optional-dependencies")).items())[:200]
        },
        "scripts": _entries(project.get("scripts")),
        "gui_scripts": _entries(project.get("gui-scripts")),
        "license": _licence(project.get("license")),
        "newer_fields": _newer_fields(project),
        "setuptools": _table(tools.get("setuptools")),
        "tools": clip_all(sorted(tools), count=100, limit=100),
        "compiles": _pyproject_compiles(tools),
    }


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(value: object) -> dict[str, str]:
    return {str(key)[:200]: str(entry)[:500] for key, entry in list(_table(value).items())[:500]}


def _newer_fields(project: dict[str, Any]) -> list[str]:
    """Fields of PEP 639 and PEP 794, which backends older than them refuse."""
    found = ["license-expression"] if isinstance(project.get("license"), str) else []
    found += ["license-files"] if "license-files" in project else []
    found += ["import-names"] if "import-names" in project or "import-namespaces" in project else []
    return found


def _licence(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("text")
    return clip(value, 20_000)


def _pyproject_compiles(tools: dict[str, Any]) -> bool:
    """Whether a tool's table says that the project has compiled parts (each backend has its own way)."""
    setuptools = _table(tools.get("setuptools"))
    hatch_hooks = _table(_table(_table(tools.get("hatch")).get("build")).get("hooks"))
    wheel_hooks = _table(
        _table(_table(_table(_table(tools.get("hatch")).get("build")).get("targets")).get("wheel")).get("hooks")
    )
    return bool(
        setuptools.get("ext-modules")
        or "setuptools-rust" in tools
        or "maturin" in tools
        or "meson-python" in tools
        or {"cython", "mypyc", "scikit-build"}.intersection([*hatch_hooks, *wheel_hooks])
        or _table(_table(tools.get("poetry")).get("build")).get("script")
        or _table(_table(tools.get("pdm")).get("build")).get("run-setuptools")
    )


def _setup_cfg(tree: Path) -> dict[str, Any]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(_text(tree / "setup.cfg"))
    except (configparser.Error, ValueError):
        return {}

    def lines(section: str, key: str) -> list[str] | None:
        value = parser.get(section, key, fallback=None) or parser.get(section, key.replace("_", "-"), fallback=None)
        if value is None:
            return None
        if value.strip().startswith(("file:", "find:", "attr:")):
            return None
        return clip_all([line.split(" #")[0].strip() for line in value.splitlines() if line.strip()])

    return {
        "name": clip(parser.get("metadata", "name", fallback=None), 300),
        "version": clip(parser.get("metadata", "version", fallback=None), 300),
        "install_requires": lines("options", "install_requires"),
        "setup_requires": lines("options", "setup_requires"),
        "python_requires": clip(parser.get("options", "python_requires", fallback=None), 500),
    }


def is_left_to_setuptools(table: dict[str, Any], setup_cfg: str, setup_py: str, *, src: bool) -> bool:
    """Whether setuptools looks for packages at the top level: nothing names them, and there is no ``src``.

    Looking, setuptools takes every directory beside the project's own for a package, ``debian`` too, and refuses two or takes the
    wrong one (https://setuptools.pypa.io/en/stable/userguide/package_discovery.html#flat-layout). ``table`` is
    ``[tool.setuptools]``; the texts are empty for files that are not there.
    """
    told = any(key in table for key in _TOLD_BY_TABLE)
    return not (src or told or _TOLD_BY_SETUP_CFG.search(setup_cfg) or _TOLD_BY_SETUP_PY.search(setup_py))


def _egg_requires(tree: Path) -> list[str] | None:
    """``requires.txt`` of the egg-info that setuptools ships in an sdist, as Requires-Dist lines; None without it.

    An egg-info without that file, beside a SOURCES.txt, means: no requirements.
    """
    eggs = sorted(tree.glob("*.egg-info")) + sorted(tree.glob("*/*.egg-info"))
    if not eggs or not (eggs[0] / "SOURCES.txt").is_file():
        return None
    path = eggs[0] / "requires.txt"
    if not path.is_file():
        return []
    found, extra, marker = [], "", ""
    for line in (raw.strip() for raw in _text(path).splitlines()[:2000]):
        if line.startswith("[") and line.endswith("]"):
            extra, _, marker = line[1:-1].partition(":")
        elif line and not line.startswith("#"):
            terms = [f"({marker})" if marker and extra else marker, f'extra == "{extra}"' if extra else ""]
            joined = " and ".join(term for term in terms if term)
            found.append(f"{line} ; {joined}" if joined else line)
    return clip_all(found, count=1000)


# -- files --------------------------------------------------------------------------------------------------------


def _modules(tree: Path) -> list[str]:
    """Top-level importable names, as far as they show without building."""
    for path in sorted(tree.glob("*.egg-info/top_level.txt")) + sorted(tree.glob("*/*.egg-info/top_level.txt")):
        names = [line.strip() for line in _text(path).splitlines() if line.strip()]
        return clip_all(names, count=200, limit=200)
    found: set[str] = set()
    for base in (tree / "src", tree / "lib", tree):
        if not base.is_dir():
            continue
        for path in sorted(base.iterdir()):
            if path.is_dir() and (path / "__init__.py").is_file() and path.name not in _NO_PACKAGES:
                found.add(path.name)
            elif path.suffix == ".py" and path.stem not in _NO_MODULES and path.is_file():
                found.add(path.stem)
        if found:
            break
    return clip_all(sorted(found), count=200, limit=200)


def _licence_texts(tree: Path) -> list[dict[str, str | None]]:
    places = [tree, tree / "LICENSES", tree / "licenses", tree / "LICENSE"]
    found: list[dict[str, str | None]] = []
    for place in places:
        if not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            named = _LICENCE_NAME.fullmatch(path.name) or place != tree
            if named and path.is_file() and not path.is_symlink() and len(found) < 12:
                text = clip(_text(path), _MAX_LICENCE)
                found.append({"path": clip(path.relative_to(tree).as_posix(), 300), "text": text})
    return found
