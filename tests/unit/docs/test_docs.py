"""The documents: short pages that lead to each other, name only what exists, and hold the figures of docs/measurements."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lxcbuild.cli.main import VERBS
from tests import ROOT
from tests.support import doc_tables

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
MAX_PAGE_LINES, MAX_LINE = 150, 160
#: First parts of paths that are files of this repository. In rooms of the product, which may be named without ``lxcbuild/``,
#: only names with one of these endings are: ``debian/rules`` is a reader's own.
TOPS = {"lxcbuild", "tests", "docs", "scripts", "rootfs", "cgroups"}
ROOMS = {path.name for path in (ROOT / "lxcbuild").iterdir() if path.is_dir()}
ENDINGS = (".py", ".pl", ".yaml", ".sql", ".json", ".*")
#: Python files of other programs and of readers' projects.
FOREIGN = {"setup.py", "_build_config.py", "*.py"}


#: Made from code, whose words have rules of their own.
GENERATED = {
    DOCS / "reference" / "failure-classes.md",
    DOCS / "reference" / "policy.md",
    *(DOCS / "reference" / "cli").iterdir(),
}
MAX_WORDS = 35


def named(path: Path) -> str:
    return os.fspath(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """The page without its blocks of code and its tables."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


def sentences(path: Path) -> list[str]:
    """The sentences of paragraphs and list items, code and targets of links taken out."""
    text = re.sub(r"^(?:#|\|?<!--|Made by `|\(20).*$", "", doc_tables.without_tables(prose(path)), flags=re.MULTILINE)
    text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "CODE", text))
    return [s for block in text.split("\n\n") for s in re.split(r"(?<=[.!?:])\s+(?=[A-Z\[*])", " ".join(block.split()))]


def links(path: Path) -> list[tuple[str, str]]:
    """File and anchor of each link that stays in this repository."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as web front ends of Git write them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_is_short(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert len(lines) <= MAX_PAGE_LINES
    assert [line for line in lines if len(line) > MAX_LINE and not line.startswith("|")] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED], ids=named)
def test_sentences_are_short(page: Path) -> None:
    assert [s for s in sentences(page) if len(s.split()) > MAX_WORDS or ";" in s] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_every_page_is_reachable_from_the_index() -> None:
    seen, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            linked = ((page.parent / target).resolve() for target, _ in links(page) if target)
            waiting += [there for there in linked if there.suffix == ".md" and there.is_relative_to(DOCS)]
    assert [named(page) for page in sorted(set(DOCS.rglob("*.md")) - seen)] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=named)
def test_named_files_exist(page: Path) -> None:
    sources = {path.name for top in ("lxcbuild", "tests", "scripts") for path in (ROOT / top).rglob("*.p[yl]")}
    missing = []
    for name in re.findall(r"`([\w./*-]+)(?:\[\w+\])?`", page.read_text()):
        first, slash, rest = name.partition("/")
        ours = first in TOPS or (first in ROOMS and name.endswith(ENDINGS))
        if slash and ours and not re.search(r"[A-Z]{2}", rest):
            if not any(list(place.glob(name.rstrip("/"))) for place in (ROOT, ROOT / "lxcbuild")):
                missing.append(name)
        elif not slash and name.endswith(".py") and name not in sources | FOREIGN:
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_named_functions_exist(page: Path) -> None:
    """Written as ``debian/names.py:NameMap.binary_package``."""
    missing = []
    for file, name in re.findall(r"`([\w/]+\.py):([\w.]+)`", page.read_text()):
        text = (ROOT / "lxcbuild" / file).read_text()
        missing += [f"{file}:{name}" for part in name.split(".") if not re.search(rf"\b(def|class) {part}\b", text)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_named_verbs_exist(page: Path) -> None:
    text = page.read_text()
    fences = "\n".join(re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    said = re.findall(r"^(?:sudo )?(?:\S*bin/)?lxcbuild ([a-z][a-z-]+)", fences, re.MULTILINE)
    said += re.findall(r"`lxcbuild ([a-z][a-z-]+)", text)
    assert set(said) - set(VERBS) == set()


def test_every_room_is_in_the_picture_and_the_table_of_the_architecture() -> None:
    page = (DOCS / "architecture.md").read_text()
    picture = set(re.findall(r"\w+", page.split("```")[1]))
    folders, files = ROOMS - {"__pycache__"}, {path.name for path in (ROOT / "lxcbuild").glob("[!_]*.py")}
    assert (folders | {name.removesuffix(".py") for name in files}) - picture == set()
    assert {name for name in {f"{room}/" for room in folders} | files if f"`{name}`" not in page} == set()


def test_code_names_only_documents_that_exist() -> None:
    missing = set()
    for top in ("lxcbuild", "tests", "scripts"):
        for path in (ROOT / top).rglob("*"):
            if path.is_file() and path.suffix in {".py", ".pl", ".yaml", ".sh", ""}:
                for name in re.findall(r"\bdocs/[\w./-]+\.(?:md|json)\b", path.read_text(errors="replace")):
                    if not (ROOT / name).exists():
                        missing.add(f"{named(path)}: {name}")
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_is_a_diary(page: Path) -> None:
    """Dates belong to measurements, and these are in docs/measurements."""
    assert re.findall(r"\b20\d\d-\d\d-\d\d\b", doc_tables.without_tables(prose(page))) == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tables_hold_what_was_measured(page: Path) -> None:
    text = page.read_text()
    assert doc_tables.filled(text) == text, "run: .venv/bin/python -m tests.support.doc_tables"


def test_every_measurement_is_complete_and_shown() -> None:
    shown = {name for page in PAGES for name in doc_tables.names(page.read_text())}
    assert shown == {path.stem for path in doc_tables.MEASUREMENTS.glob("*.json")}
    for name in shown:
        found = doc_tables.load(name)
        assert set(found) == {"command", "machine", "commit", "date", "columns", "rows"}, name
        assert {len(row) for row in found["rows"]} == {len(found["columns"])}, name
