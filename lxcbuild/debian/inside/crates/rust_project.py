"""Where a Python project keeps its Rust parts, and whether it can do without them: maturin's and setuptools-rust's own words."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.crates.crates_reading import inside, load, read_crates, table
from lxcbuild.debian.inside.report import clip_all

_MAX_BYTES = 2 * 1024 * 1024
_CALLS = {"RustExtension", "RustBin"}


def read_rust(tree: Path) -> dict[str, Any] | None:
    """What is known of the crates that the build compiles; None where the build compiles no Rust."""
    document = load(tree / "pyproject.toml")
    tools = table(document.get("tool"))
    backend = str(table(document.get("build-system")).get("build-backend") or "")
    named = clip_all(table(document.get("build-system")).get("requires"))
    roots: list[str] = []
    optional: list[bool] = []
    if backend.startswith("maturin"):
        roots.append(_text(table(tools.get("maturin")).get("manifest-path")) or "Cargo.toml")
        optional.append(False)
    settings = table(tools.get("setuptools-rust"))
    for entry in [*_tables(settings.get("ext-modules")), *_tables(settings.get("bins"))]:
        roots.append(_text(entry.get("path")) or "Cargo.toml")
        optional.append(entry.get("optional") is True)
    for path, may_fail in _calls(tree / "setup.py"):
        roots.append(path)
        optional.append(may_fail)
    if not roots and any(item.lower().replace("_", "-").startswith("setuptools-rust") for item in named):
        roots, optional = ["Cargo.toml"], [False]
    known = [_below(tree, root) for root in dict.fromkeys(roots)]
    found = read_crates(tree, [root for root in known if root is not None])
    return None if found is None else {**found, "optional": all(optional)}


def _below(tree: Path, root: str) -> str | None:
    path = inside(tree, Path(root))
    return None if path is None else path.relative_to(tree.resolve()).as_posix()


def _text(value: object) -> str | None:
    return value[:400] if isinstance(value, str) and value else None


def _tables(value: object) -> list[dict[str, Any]]:
    return [item for item in value[:100] if isinstance(item, dict)] if isinstance(value, list) else []


def _calls(path: Path) -> list[tuple[str, bool]]:
    """Path and optionality of each ``RustExtension(...)`` of a setup.py whose arguments are literals."""
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        return []
    try:
        parsed = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return []
    found = []
    for node in ast.walk(parsed):
        if isinstance(node, ast.Call) and _name(node.func) in _CALLS:
            keywords = {word.arg: word.value for word in node.keywords if word.arg is not None}
            place = keywords.get("path") or (node.args[1] if len(node.args) > 1 else None)
            optional = keywords.get("optional")
            text = place.value if isinstance(place, ast.Constant) and isinstance(place.value, str) else "Cargo.toml"
            found.append((text[:400], isinstance(optional, ast.Constant) and optional.value is True))
    return found[:100]


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None
