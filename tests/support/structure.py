"""What the house rules count in ``lxcbuild``, and what of it is still allowed: ``tests/unit/house/allowed.yaml``.

``python -m tests.support.structure`` takes off that file what is not there any more.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests import ROOT

ALLOWED = ROOT / "tests/unit/house/allowed.yaml"
MAX_FILES, CRUMB_LINES, MAX_NAME, MAX_WORDS = 15, 60, 72, 20


@cache
def modules() -> dict[str, Path]:
    """Every module of ``lxcbuild`` by its dotted name."""
    found = {}
    for path in sorted((ROOT / "lxcbuild").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of each."""
    return {name: ast.parse(path.read_text()) for name, path in modules().items()}


def imports(node: ast.AST, *, inside: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Each import of a tree, and whether it stands in a function; imports for type checkers are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield from imports(
            child, inside=inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        )


@cache
def graph() -> dict[str, set[str]]:
    """Which modules of ``lxcbuild`` each of them imports, inside functions too."""
    found: dict[str, set[str]] = {name: set() for name in modules()}
    for name, tree in trees().items():
        for node, _inside in imports(tree):
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            else:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                wanted = [each if each in modules() else str(node.module) for each in whole]
            found[name] |= {each for each in wanted if each in modules()} - {name}
    return found


def reached(start: str) -> set[str]:
    """Every module that one imports, directly or not."""
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        for name in graph()[ahead.pop()] - seen:
            seen.add(name)
            ahead.append(name)
    return seen


def import_circles() -> dict[str, int]:
    """Modules that import each other; each circle once, by the names of its members."""
    below = {name: reached(name) for name in modules()}
    circles = {
        frozenset(other for other in below[name] if name in below[other]) for name in modules() if name in below[name]
    }
    return {" ".join(sorted(circle)): len(circle) for circle in circles}


def imports_in_functions() -> dict[str, int]:
    """Modules with imports inside functions, and how many; the command line may have them, since a run needs one verb."""
    counted = Counter(name for name, tree in trees().items() for _node, inside in imports(tree) if inside)
    return {name: count for name, count in counted.items() if not name.startswith("lxcbuild.cli.")}


def class_names() -> dict[str, int]:
    """Public class names that stand in more than one module, and in how many."""
    counted = Counter(node.name for tree in trees().values() for node in tree.body if isinstance(node, ast.ClassDef))
    return {name: count for name, count in counted.items() if count > 1 and not name.startswith("_")}


def large_folders() -> dict[str, int]:
    """Folders with more files than a newcomer can take in."""
    counted = Counter(str(path.relative_to(ROOT).parent) for path in modules().values() if path.name != "__init__.py")
    return {folder: count for folder, count in counted.items() if count > MAX_FILES}


def asserted_attributes() -> dict[str, int]:
    """Modules with ``assert x.y is not None``: a type that admits too much."""

    def is_one(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Assert)
            and isinstance(node.test, ast.Compare)
            and isinstance(node.test.left, ast.Attribute)
            and isinstance(node.test.ops[0], ast.IsNot)
            and ast.unparse(node.test.comparators[0]) == "None"
        )

    return dict(Counter(name for name, tree in trees().items() for node in ast.walk(tree) if is_one(node)))


def crumbs() -> dict[str, int]:
    """Small modules that one other module alone imports: they could be a part of it."""
    importers: dict[str, set[str]] = defaultdict(set)
    for name, wanted in graph().items():
        for each in wanted:
            importers[each].add(name)
    lines = {name: path.read_text().count("\n") for name, path in modules().items() if path.name != "__init__.py"}
    return {name: 1 for name, count in lines.items() if count < CRUMB_LINES and len(importers[name]) == 1}


def long_first_sentences() -> dict[str, int]:
    """Modules with public docstrings whose first sentence has too many words, and how many."""

    def is_long(node: ast.AST) -> bool:
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            return False
        if not isinstance(node, ast.Module) and node.name.startswith("_"):
            return False
        first = re.split(r"(?<=[.!?])\s|\n\n", ast.get_docstring(node) or "")[0]
        return len(first.split()) > MAX_WORDS

    return dict(Counter(name for name, tree in trees().items() for node in ast.walk(tree) if is_long(node)))


def long_test_names() -> dict[str, int]:
    """Tests whose names are longer than a line of a report."""
    found = re.compile(rf"^\s*(?:async )?def (test_\w{{{MAX_NAME - 4},}})\(", re.MULTILINE)
    return {
        name: len(name)
        for path in (ROOT / "tests").rglob("test_*.py")
        if "misbehaving" not in path.parts
        for name in found.findall(path.read_text())
    }


RULES: dict[str, Callable[[], dict[str, int]]] = {
    rule.__name__: rule
    for rule in (
        import_circles, imports_in_functions, class_names, large_folders, asserted_attributes, crumbs, long_first_sentences,
        long_test_names,
    )
}  # fmt: skip


def allowed() -> dict[str, dict[str, Any]]:
    """Per rule what is still there, and how often; imports in functions have a reason with a figure."""
    return {rule: dict(found or {}) for rule, found in yaml.safe_load(ALLOWED.read_text()).items()}


def counts(entries: dict[str, Any]) -> dict[str, int]:
    """The numbers of a rule's entries, without reasons."""
    return {name: entry["count"] if isinstance(entry, dict) else entry for name, entry in entries.items()}


def shrunk() -> dict[str, dict[str, Any]]:
    """What is allowed and still there; nothing is added and no number grows."""
    kept: dict[str, dict[str, Any]] = {}
    for rule, entries in allowed().items():
        found = RULES[rule]()
        kept[rule] = {}
        for name, entry in entries.items():
            if name in found:
                count = min(found[name], counts({name: entry})[name])
                kept[rule][name] = {**entry, "count": count} if isinstance(entry, dict) else count
    return kept


if __name__ == "__main__":
    head = "".join(line for line in ALLOWED.read_text().splitlines(keepends=True) if line.startswith("#"))
    ALLOWED.write_text(head + yaml.safe_dump(shrunk(), sort_keys=False, width=130))
