"""Look at an installed package as a user would: import it, find its commands, read its metadata; leaves /out/verification.json."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess  # noqa: TID251 (inside the sandbox there is no lxcbuild.process)
import sys
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.report import answer, clip, clip_all, read_request, say

_DIST_PACKAGES = "/usr/lib/python3/dist-packages"
_PACKAGES_DIRECTORY = re.compile(r"/usr/lib/python3(?:\.\d+)?/dist-packages/(.+)")
_MODULE_FILE = re.compile(r"([A-Za-z_]\w*)(?:\.py|(?:\.cpython-\w+(?:-[\w-]+)?|\.abi3)?\.so)")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_MAX_MODULES = 60
_IMPORT_TIMEOUT_S = 120
_IMPORT = "import importlib,sys;importlib.import_module(sys.argv[1])"
_LOAD = "import importlib,functools,sys;m=importlib.import_module(sys.argv[1]);functools.reduce(getattr,sys.argv[2].split('.'),m)"


def main(arguments: list[str]) -> int:
    """Entry point; the request names the binary packages."""
    assert not arguments
    # No site: what a start of Python runs would run here, and could speak for the package.
    sys.path += [f"/usr/lib/python{sys.version_info.major}.{sys.version_info.minor}/dist-packages", _DIST_PACKAGES]
    return answer("verification.json", _verify, fallback_class="install-failed")


def _verify() -> dict[str, Any]:
    request = read_request()
    files = _files(request["packages"])
    companions = [_distribution(path) for path in sorted(_metadata_directories(_files(request["companions"])))]
    distributions = [_distribution(path) for path in sorted(_metadata_directories(files))]
    scripts = [_script(path) for path in files if re.fullmatch(r"/usr/s?bin/[^/]+", path)][:500]
    scripts.extend(_missing_scripts(distributions, files))
    modules, loose = _modules(files)
    facts = {
        "distributions": [_facts(distribution) for distribution in distributions],
        "companions": [_facts(distribution) for distribution in companions][:1000],
        "dependents": _dependents([*distributions, *companions])[:1000],
        "installed": _installed(),
        "environment": _marker_environment(),
    }
    # From here on the package's code runs, and may change what is to be seen.
    return {
        **facts,
        "modules": [_try(name, [_IMPORT, name]) for name in modules[:_MAX_MODULES]],
        "loose": sorted(loose.intersection(modules[:_MAX_MODULES])),
        "scripts": scripts,
        "entry_points": [entry for distribution in distributions for entry in _entry_points(distribution)][:100],
    }


def _files(packages: list[str]) -> list[str]:
    found: list[str] = []
    for package in packages:
        listed = subprocess.run(
            ["/usr/bin/dpkg", "-L", package], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True
        )
        found.extend(os.fsdecode(line) for line in listed.stdout.splitlines())
    return found


def _facts(distribution: importlib.metadata.Distribution) -> dict[str, Any]:
    return {
        "name": clip(distribution.metadata["Name"], 300),
        "version": clip(distribution.version, 300),
        "requires": clip_all(distribution.requires or [], count=1000),
    }


def _dependents(made_here: list[importlib.metadata.Distribution]) -> list[dict[str, Any]]:
    """Distributions of the suite with those of their requirements that name one of ours."""
    ours = {_normal(distribution.metadata["Name"]) for distribution in made_here}
    found = []
    for distribution in importlib.metadata.distributions():
        if _normal(distribution.metadata["Name"]) in ours:
            continue
        about = [text for text in distribution.requires or [] if _normal(re.split(r"[^\w.-]", text.strip())[0]) in ours]
        if about:
            found.append({**_facts(distribution), "requires": clip_all(about, count=100)})
    return found


def _normal(name: str | None) -> str:
    return re.sub(r"[-_.]+", "-", name or "").lower()


def _modules(files: list[str]) -> tuple[list[str], set[str]]:
    """Importable names: top-level modules and packages; of a namespace package the first level that has code.

    Second, those of them that are single files of a namespace: parts that stand beside each other, not what the project is.
    """
    inside = [match.group(1) for match in map(_PACKAGES_DIRECTORY.fullmatch, files) if match]
    with_code = {name.rpartition("/")[0] for name in inside if name.endswith("/__init__.py") or "/__init__." in name}
    found, loose = set(), set()
    for name in inside:
        directory, _, base = name.rpartition("/")
        module = _MODULE_FILE.fullmatch(base)
        if module is None or "-info" in name.split("/")[0].lower():
            continue
        parts = directory.split("/") if directory else []
        if not all(_IDENTIFIER.fullmatch(part) for part in parts):
            continue
        above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        owner = next((place for place in above if place in with_code), None)
        if owner is not None:
            found.add(owner.replace("/", "."))
        elif len(parts) <= 3:
            found.add(".".join([*parts, module.group(1)]))
            if parts:
                loose.add(".".join([*parts, module.group(1)]))
    return sorted(found), loose


def _metadata_directories(files: list[str]) -> set[Path]:
    found = set()
    for name in files:
        match = re.match(r"(/usr/lib/python3(?:\.\d+)?/dist-packages/[^/]+\.(?i:dist-info|egg-info))(?:/|$)", name)
        if match:
            found.add(Path(match.group(1)))
    return found


def _distribution(path: Path) -> importlib.metadata.Distribution:
    return importlib.metadata.Distribution.at(path)


def _try(name: str, arguments: list[str]) -> dict[str, Any]:
    """Run a line of Python that uses the package, in a process of its own with nothing on its standard input."""
    argv = [sys.executable, "-I", "-X", "faulthandler", "-c", *arguments]
    try:
        done = subprocess.run(
            argv, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=_IMPORT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"name": clip(name, 300), "error": f"took longer than {_IMPORT_TIMEOUT_S} s", "details": None}
    if done.returncode == 0:
        return {"name": clip(name, 300), "error": None, "details": None}
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"]
    say(f"{name}: {lines[-1]}")
    return {"name": clip(name, 300), "error": clip(lines[-1], 500), "details": clip("\n".join(lines[-10:]), 4000)}


def _script(path: str) -> dict[str, Any]:
    error = None
    if not os.access(path, os.X_OK):
        error = "is not executable"
    else:
        with Path(path).open("rb") as file:
            first = file.readline(500)
        if first.startswith(b"#!"):
            words = first[2:].split()
            if not words or not Path(os.fsdecode(words[0])).exists():
                error = f"wants the interpreter {os.fsdecode(words[0]) if words else 'nothing'}, which is not installed"
    return {"name": clip(path, 300), "error": clip(error, 500), "details": None}


def _missing_scripts(distributions: list[importlib.metadata.Distribution], files: list[str]) -> list[dict[str, Any]]:
    present = {path.rpartition("/")[2] for path in files if path.startswith(("/usr/bin/", "/usr/sbin/"))}
    return [
        {
            "name": clip(entry.name, 300),
            "error": "the metadata promises this command and the package lacks it",
            "details": None,
        }
        for distribution in distributions
        for entry in distribution.entry_points
        if entry.group in ("console_scripts", "gui_scripts") and entry.name not in present
    ]


def _entry_points(distribution: importlib.metadata.Distribution) -> list[dict[str, Any]]:
    """Whether what a command calls is there; one that wants an extra is not tried."""
    found = []
    for entry in distribution.entry_points:
        if entry.group == "console_scripts" and "[" not in entry.value:
            module, _, attribute = entry.value.partition(":")
            arguments = [_LOAD, module.strip(), attribute.strip()] if attribute else [_IMPORT, module.strip()]
            found.append(_try(entry.name, arguments))
    return found


def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name, version = clip(distribution.metadata["Name"], 300), clip(distribution.version, 300)
        if name and version and len(found) < 5000:
            found.setdefault(name, version)
    return found


def _marker_environment() -> dict[str, str]:
    """PEP 508's variables for this interpreter."""
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": "",
        "platform_system": platform.system(),
        "platform_version": "",
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    }
