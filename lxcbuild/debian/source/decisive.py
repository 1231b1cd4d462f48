"""The lines of a failed log that decide: what raised, where in the project, what a compiler or a program said; at most ten."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

LINES = 10
_LINE_LENGTH = 300
_TRACEBACK = "Traceback (most recent call last):"
_FRAME = re.compile(r'\s*File "(?P<file>[^"\n]{1,300})", line \d+')
#: Whose frames tell nothing of the project: the interpreter's and the distribution's own files.
_FOREIGN = re.compile(r"/usr/lib/|/usr/local/lib/|<frozen|/lxcbuild/")
_TELLING = re.compile(
    r"(?i)\b(?:error|exception|fatal|cannot find|can't|could not|not found|no such file|undefined reference|unmet|unable|"
    r"failed|failure|denied|killed|refused|unsupported|incompatible|no space left)\b"
)
_RAISED = re.compile(r"^[A-Za-z_][\w.]{0,120}(?:Error|Exception): \S")
#: Programs that only say that the program below them has failed, and headings of what is shown in short.
_ECHOES = re.compile(
    r"^(?:g?make(?:\[\d+\])?: \*\*\*|dpkg-buildpackage: error: debian/rules|dh_auto_\w+: error: |"
    r"E: pybuild [^\n]{0,80}failed with: exit code|ERROR Backend sub-?process exited|error: subprocess-exited-with-error|"
    r"subprocess\.CalledProcessError: Command|(?:During handling of|The above exception was)|Traceback \(most recent call last\))"
)
#: What every build prints, also one that succeeds.
_CHATTER = re.compile(
    r"dpkg-(?:source|buildpackage): (?:info|warning: building a source)|"
    r"\s+(?:dpkg-source|debian/rules|dh_\w+) |dh binary |I: pybuild |\* Building wheel"
)
#: setuptools runs setup.py as a text, and Python then knows no name for it.
_RUNS_SETUP_PY = "/setuptools/build_meta.py"


def decisive_lines(text: str) -> list[str]:
    """At most ten lines that say why; the last lines where none does, lines that repeat once with their count."""
    lines = [line.rstrip()[:_LINE_LENGTH] for line in text.splitlines() if line.strip()]
    found = list(dict.fromkeys(_telling(lines)))
    if found:
        return (
            found if len(found) <= LINES else [*found[:1], *found[1 - LINES :]]
        )  # compilers: all follows from the first
    talk = [line for line in lines if not _ECHOES.match(line.strip())] or lines
    return _folded([line for line in talk if not _CHATTER.match(line)] or talk)[-LINES:]


def _telling(lines: list[str]) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at]
        if _TRACEBACK in line:
            block = _traceback(lines, at)
            yield from block.told
            at = block.end
            continue
        if not _ECHOES.match(line.strip()) and (_TELLING.search(line) or _RAISED.match(line.strip())):
            yield line
        at += 1


class _Block(Struct, frozen=True):
    told: tuple[str, ...]
    end: int


def _traceback(lines: list[str], start: int) -> _Block:
    """The innermost frame of the project (of anybody, where the project has none) with its code, and the exception."""
    said, _, _ = lines[start].partition(_TRACEBACK)
    indent = len(said) - len(said.lstrip()) if not said.strip() else 0
    frame: list[str] = []
    foreign: list[str] = []
    caller = ""
    at = start + 1
    while at < len(lines) and len(lines[at]) - len(lines[at].lstrip()) > indent:
        match = _FRAME.match(lines[at])
        if match is not None:
            code = lines[at + 1 : at + 2]
            line = lines[at]
            if match["file"] == "<string>" and _RUNS_SETUP_PY in caller:
                line = line.replace('"<string>"', '"setup.py"')
            caller = match["file"]
            here = [line, *(c for c in code if not _FRAME.match(c) and c.startswith(" " * (indent + 3)))]
            if _FOREIGN.search(match["file"]):
                foreign = here
            else:
                frame = here
        at += 1
    told = [said.rstrip()] if said.strip() else []
    told += frame or foreign
    # The message may go on below; the exception's name says where it begins.
    if at < len(lines) and not _ECHOES.match(lines[at].strip()):
        told.append(lines[at])
        at += 1
    return _Block(tuple(told), at)


def _folded(lines: list[str]) -> list[str]:
    """Lines that follow each other and are the same become one with their count."""
    found: list[tuple[str, int]] = []
    for line in lines:
        if found and found[-1][0] == line:
            found[-1] = (line, found[-1][1] + 1)
        else:
            found.append((line, 1))
    return [line if count == 1 else f"{line}   ({count} times)" for line, count in found]
