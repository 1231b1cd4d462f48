"""The house rules, run as tests: lint, format, types, import contracts, sizes, and documents that must match the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lxcbuild
from lxcbuild import errors
from lxcbuild.cli import main as cli_main
from lxcbuild.cli.main import BugError
from lxcbuild.cli.reference import pages
from tests import ROOT

PYTHON_FILES = sorted((ROOT / "lxcbuild").rglob("*.py"))
MAX_LINES, MAX_FUNCTION_LINES = 420, 48  # "about 400" and "about 40"


def run_tool(*argv: str) -> None:
    tool = Path(sys.executable).with_name(argv[0])
    if not tool.exists():
        pytest.fail(f"{argv[0]} is not installed beside {sys.executable}: run scripts/test")
    done = subprocess.run([tool, *argv[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    run_tool("ruff", "check", "--no-cache", ".")


def test_every_file_is_formatted() -> None:
    run_tool("ruff", "format", "--no-cache", "--check", ".")


def test_types_are_strict() -> None:
    run_tool("mypy")


def test_imports_go_down_only() -> None:
    run_tool("lint-imports", "--no-cache")


def test_files_and_functions_stay_small() -> None:
    too_long = []
    for path in PYTHON_FILES:
        text = path.read_text()
        if (lines := text.count("\n")) > MAX_LINES:
            too_long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    too_long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert too_long == []


def test_starting_is_cheap() -> None:
    heavy = ["psycopg", "rich", "structlog", "yaml", "urllib3", "networkx", "asyncio"]
    script = f"import sys, lxcbuild.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_asking_the_version_costs_little_more_than_python() -> None:
    # Modules are counted, because they do not depend on what else this machine does.
    script = "import sys; before = set(sys.modules); from lxcbuild.__main__ import main; main(['--version']); "
    script += "print(sorted({*sys.modules} - before))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    said, modules = done.stdout.splitlines()
    assert said == f"lxcbuild {lxcbuild.__version__}"
    assert {name for name in ast.literal_eval(modules) if name.startswith("lxcbuild")} == {
        "lxcbuild",
        "lxcbuild.__main__",
    }
    assert len(ast.literal_eval(modules)) < 15


@pytest.mark.parametrize("name", cli_main.VERBS)
def test_every_listed_verb_exists_and_explains_itself(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", "lxcbuild", name, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: lxcbuild {name}")


def error_classes() -> set[type[errors.LxcbuildError]]:
    return {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LxcbuildError)}


def test_exit_codes_are_documented_as_they_are() -> None:
    text = (ROOT / "docs/reference/exit-codes.md").read_text()
    documented = {(int(code), ref) for code, ref in re.findall(r"^\| (\d+) \| `([a-z-]+)` \|", text, re.MULTILINE)}
    actual = {(c.exit_code, c.reference) for c in error_classes() - {errors.LxcbuildError}}
    actual |= {
        (0, "ok"),
        (cli_main.EXIT_USAGE, "usage"),
        (BugError.exit_code, BugError.reference),
        (cli_main.EXIT_BROKEN_PIPE, "broken-pipe"),
    }
    assert documented == actual


def test_the_command_line_is_documented_as_it_is() -> None:
    written = {path.name: path.read_text() for path in (ROOT / "docs/reference/cli").iterdir()}
    assert written == pages(), "run: .venv/bin/python -m lxcbuild.cli.reference docs/reference/cli"
