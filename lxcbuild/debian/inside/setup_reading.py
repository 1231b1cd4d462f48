"""Read ``setup.py`` without running it: the arguments of ``setup()`` that are literals, or names bound once to literals."""

from __future__ import annotations

import ast
from typing import Any

from lxcbuild.debian.inside.report import clip, clip_all

_MAX_BYTES = 2 * 1024 * 1024
_EXTENSION_CALLS = {"Extension", "cythonize", "RustExtension", "CMakeExtension", "Pybind11Extension", "mypycify"}
_EXTENSION_KEYWORDS = ("ext_modules", "cffi_modules", "rust_extensions", "libraries")
_UNKNOWN = object()


def read_setup_py(data: bytes) -> dict[str, Any]:
    """The facts of a setup.py. A value that is not a literal is None; so are all where the file does not parse."""
    facts: dict[str, Any] = {
        "name": None, "version": None, "install_requires": None, "setup_requires": None, "python_requires": None,
        "extension": None, "imports": [],
    }  # fmt: skip
    if len(data) > _MAX_BYTES:
        return facts
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError):
        return facts
    nodes = list(ast.walk(tree))
    facts["imports"] = sorted(_imports(nodes))[:200]
    names = _literal_names(nodes)
    call = next((node for node in nodes if isinstance(node, ast.Call) and _called(node) == "setup"), None)
    keywords = {} if call is None else {kw.arg: kw.value for kw in call.keywords if kw.arg is not None}
    opaque = call is None or any(kw.arg is None for kw in call.keywords)
    for key, limit in (("name", 200), ("version", 200), ("python_requires", 500)):
        facts[key] = clip(_value(keywords.get(key), names), limit)
    for key in ("install_requires", "setup_requires"):
        facts[key] = _texts(keywords.get(key), names, absent=None if opaque else [])
    facts["extension"] = _extension(nodes, keywords, names, opaque=opaque)
    return facts


def _extension(
    nodes: list[ast.AST], keywords: dict[str, ast.expr], names: dict[str, Any], *, opaque: bool
) -> bool | None:
    """True when extension modules are certain or likely, False when there can be none, None when nobody can tell."""
    if any(isinstance(node, ast.Call) and _called(node) in _EXTENSION_CALLS for node in nodes):
        return True
    given = [keywords[key] for key in _EXTENSION_KEYWORDS if key in keywords]
    if any(_value(node, names) is _UNKNOWN or _value(node, names) for node in given):
        return True
    return None if opaque else False


def _called(node: ast.Call) -> str | None:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else None


def _imports(nodes: list[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0][:100] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0][:100])
    return found


def _literal_names(nodes: list[ast.AST]) -> dict[str, Any]:
    """Names that are bound exactly once, to a literal that nothing changes afterwards."""
    bound: dict[str, int] = {}
    changed = _changed(nodes)
    values: dict[str, Any] = {}
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound[node.id] = bound.get(node.id, 0) + 1
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = _value(node.value, {})
            if value is not _UNKNOWN:
                values[node.targets[0].id] = value
    return {
        name: value
        for name, value in values.items()
        if bound.get(name) == 1 and not (name in changed and isinstance(value, (list, dict, set)))
    }


def _changed(nodes: list[ast.AST]) -> set[str]:
    """Names of what a method is called of (``extensions.append``), or an item is set or deleted of."""
    found: set[str] = set()
    for node in nodes:
        place: ast.expr | None = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            place = node.func.value
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            place = node.value
        if isinstance(place, ast.Name):
            found.add(place.id)
    return found


def _value(node: ast.expr | None, names: dict[str, Any]) -> Any:
    if node is None:
        return None
    if isinstance(node, ast.Name):
        return names.get(node.id, _UNKNOWN)
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_value(item, names) for item in node.elts]
        return _UNKNOWN if any(item is _UNKNOWN for item in items) else items
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _value(node.left, names), _value(node.right, names)
        if type(left) is type(right) and isinstance(left, (str, list)):
            return left + right
        return _UNKNOWN
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _UNKNOWN


def _texts(node: ast.expr | None, names: dict[str, Any], *, absent: list[str] | None) -> list[str] | None:
    if node is None:
        return absent
    value = _value(node, names)
    if isinstance(value, str):
        return clip_all([line for line in value.splitlines() if line.strip()])
    return clip_all(value) if isinstance(value, (list, tuple)) else None
