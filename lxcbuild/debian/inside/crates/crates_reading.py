"""Read what a project says of its Rust parts (Cargo.toml, Cargo.lock, .cargo/config.toml) without running cargo."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.report import clip, clip_all

if sys.version_info >= (3, 11):  # noqa: UP036 (older suites have older Pythons)
    import tomllib
else:
    import tomli as tomllib

_MAX_FILE_BYTES = 4 * 1024 * 1024
_MAX_MANIFESTS = 200
_MAX_DEPENDENCIES = 2000
_MAX_LOCKED = 4000
KINDS = {"dependencies": "normal", "build-dependencies": "build", "dev-dependencies": "dev"}


def read_crates(tree: Path, roots: list[str]) -> dict[str, Any] | None:
    """The manifests that cargo reads from ``roots`` on (paths below the tree), their lock file, and what replaces the registry.

    None where no root is there.
    """
    found: dict[str, dict[str, Any]] = {}
    present = []
    for name in roots:
        path = inside(tree, Path(name))
        if path is not None and path.is_file():
            present.append(name)
            _gather(tree, path, found)
    if not present:
        return None
    # A workspace's lock file lies beside the workspace's manifest, which is found first.
    places = [Path(present[0]).parent, Path(next(iter(found))).parent]
    top = next((place for place in places if (tree / place / "Cargo.lock").is_file()), places[-1])
    lock = _lock(tree, tree / top / "Cargo.lock")
    dependencies = [item for document in found.values() for item in _dependencies(document, found)]
    return {
        "manifests": sorted(found),
        "roots": present,
        "lock_path": None if lock is None else (top / "Cargo.lock").as_posix(),
        "locked": lock or [],
        "rust_versions": clip_all(_rust_versions(found), limit=40),
        "editions": clip_all([str(_inherited(document, "edition", found) or "2015") for document in found.values()], limit=10),
        "dependencies": dependencies[:_MAX_DEPENDENCIES],
        "vendored": _vendored(tree, tree / top),
    }  # fmt: skip


def inside(tree: Path, path: Path) -> Path | None:
    """The path below the tree, symbolic links followed; None for one that leaves it."""
    try:
        real = (tree / path).resolve()
    except (OSError, RuntimeError, ValueError):
        return None
    return real if real.is_relative_to(tree.resolve()) else None


def load(path: Path) -> dict[str, Any]:
    """A TOML document; an empty one for what cannot be read: cargo says so better than we could."""
    try:
        with path.open("rb") as file:
            return tomllib.loads(file.read(_MAX_FILE_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def table(value: object) -> dict[str, Any]:
    """The value where it is a table."""
    return value if isinstance(value, dict) else {}


def _gather(tree: Path, path: Path, found: dict[str, dict[str, Any]]) -> None:
    """The manifest, the workspace that it belongs to, that workspace's members, and what they depend on by path."""
    base = tree.resolve()
    waiting = [*_workspaces_above(base, path), path]
    while waiting and len(found) < _MAX_MANIFESTS:
        manifest = waiting.pop(0)
        name = manifest.relative_to(base).as_posix()
        if name in found:
            continue
        found[name] = document = load(manifest)
        for relative in _named_directories(manifest.parent, document):
            member = (
                inside(tree, (relative / "Cargo.toml").relative_to(base)) if relative.is_relative_to(base) else None
            )
            if member is not None and member.is_file():
                waiting.append(member)


def _workspaces_above(base: Path, path: Path) -> list[Path]:
    for place in path.parent.parents:
        if not place.is_relative_to(base):
            break
        candidate = place / "Cargo.toml"
        if candidate.is_file() and "workspace" in load(candidate):
            return [candidate]
    return []


def _named_directories(place: Path, document: dict[str, Any]) -> list[Path]:
    named: list[Path] = []
    workspace = table(document.get("workspace"))
    excluded = {os.path.normpath(place / str(item)) for item in clip_all(workspace.get("exclude"))}
    for pattern in clip_all(workspace.get("members")):
        if pattern and not pattern.startswith("/") and ".." not in pattern.split("/"):
            named += [hit for hit in sorted(place.glob(pattern)) if os.fspath(hit) not in excluded]
    tables = [entry for _kind, _target, entry in dependency_tables(document)] + [table(workspace.get("dependencies"))]
    for entries in tables:
        for value in entries.values():
            path = table(value).get("path")
            if isinstance(path, str):
                named.append(Path(os.path.normpath(place / path)))
    return named[:_MAX_MANIFESTS]


def dependency_tables(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every table of dependencies of a manifest: key such as ``build-dependencies``, target ("" for all), entries."""
    found = [(key, "", table(document.get(key))) for key in KINDS]
    for target, content in table(document.get("target")).items():
        found += [(key, str(target), table(table(content).get(key))) for key in KINDS]
    return [item for item in found if item[2]]


def _dependencies(document: dict[str, Any], found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    shared: dict[str, Any] = {}
    for other in found.values():
        shared.update(table(table(other.get("workspace")).get("dependencies")))
    listed = []
    for key, target, entries in dependency_tables(document):
        for name, value in entries.items():
            entry = table(value) if isinstance(value, dict) else {"version": value}
            above = shared.get(name) if entry.get("workspace") is True else None
            merged = {**(table(above) if isinstance(above, dict) else {"version": above} if above else {}), **entry}
            listed.append(
                {
                    "name": clip(str(merged.get("package") or name), 200),
                    "requirement": clip(merged.get("version"), 200) or "*", "kind": KINDS[key],
                    "target": clip(target, 300), "optional": bool(merged.get("optional")),
                    "features": clip_all([*clip_all(table(above).get("features")), *clip_all(entry.get("features"))], limit=100),
                    "place": "path" if "path" in merged else "git" if "git" in merged else "registry",
                }
            )  # fmt: skip
    return listed


def _inherited(document: dict[str, Any], key: str, found: dict[str, dict[str, Any]]) -> Any:
    value = table(document.get("package")).get(key)
    if isinstance(value, dict):
        return next(
            (
                own[key]
                for other in found.values()
                if key in (own := table(table(other.get("workspace")).get("package")))
            ),
            None,
        )
    return value


def _rust_versions(found: dict[str, dict[str, Any]]) -> list[str]:
    versions = {_inherited(document, "rust-version", found) for document in found.values()}
    return sorted(version for version in versions if isinstance(version, str))


def _lock(tree: Path, path: Path) -> list[dict[str, Any]] | None:
    real = inside(tree, path.relative_to(tree))
    if real is None or not real.is_file():
        return None
    packages = load(real).get("package")
    return [
        {
            "name": clip(str(item.get("name")), 200), "version": clip(str(item.get("version")), 200),
            "checksum": clip(item.get("checksum"), 64), "source": clip(item.get("source"), 500),
        }
        for item in (packages if isinstance(packages, list) else [])[:_MAX_LOCKED]
        if isinstance(item, dict)
    ]  # fmt: skip


def _vendored(tree: Path, place: Path) -> str | None:
    """The directory (below the tree) that the project's own cargo configuration takes all crates from, if it is there."""
    for folder in dict.fromkeys((place, tree)):
        for name in ("config.toml", "config"):
            sources = table(load(folder / ".cargo" / name).get("source"))
            wanted = table(sources.get("crates-io")).get("replace-with")
            directory = table(sources.get(wanted)).get("directory") if isinstance(wanted, str) else None
            if not isinstance(directory, str):
                continue
            real = inside(tree, Path(os.path.normpath(folder.relative_to(tree) / directory)))
            if real is not None and real.is_dir() and any((entry / "Cargo.toml").is_file() for entry in real.iterdir()):
                return clip(real.relative_to(tree.resolve()).as_posix(), 300)
    return None
