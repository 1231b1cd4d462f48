"""Maintainer scripts that debhelper and dh-python write, line by line: anything else in a generated package is foreign code."""

from __future__ import annotations

import re

_PLAIN = frozenset(
    {
        "#!/bin/sh", "set -e", "fi", "else", "exit 0",
        "if command -v py3compile >/dev/null 2>&1; then", "if which py3compile >/dev/null 2>&1; then",
        "if command -v pypy3compile >/dev/null 2>&1; then", "if which pypy3compile >/dev/null 2>&1; then",
        "if command -v py3clean >/dev/null 2>&1; then",
        "if command -v py3clean >/dev/null 2>&1 && python3 -c 'pass' 2>/dev/null; then",  # dh-python 7
        "if which py3clean >/dev/null 2>&1; then",
        "find /usr/lib/python3/dist-packages/ -type d -name __pycache__ -empty -print0 | xargs --null --no-run-if-empty rmdir",
    }
)  # fmt: skip
_OLD_CLEAN = r"perl -ne 's,/([^/]*)\.py$,/__pycache__/\1.*, or next; unlink $_ or die $! foreach glob($_)'"
_ARGUMENTS = r"(?: (?:-V \d+\.\d+(?:-(?:\d+\.\d+)?)?|/usr/(?:lib|share)/{package}(?:/[\w.+-]+)*))*"
_WITH_PACKAGE = (
    rf"py3compile -p {{package}}(?::[a-z0-9]+)?{_ARGUMENTS}(?: \|\| true)?",
    rf"pypy3compile -p {{package}}(?::[a-z0-9]+)?{_ARGUMENTS} \|\| true",
    rf"py3clean -p {{package}}(?::[a-z0-9]+)?{_ARGUMENTS}",
    r"""dpkg -L {package}(?::[a-z0-9]+)? \| sed -En -e '/\^\(\.\*\)\\/\(\.\+\)\\\.py\$/s,,rm "\\1/__pycache__/\\2"\.\*,e'""",
    r"dpkg -L {package}(?::[a-z0-9]+)? \| " + re.escape(_OLD_CLEAN),
)  # fmt: skip
_TRIGGERS = frozenset({"activate-noawait ldconfig"})
_MAX_BYTES = 64 * 1024


def unknown_lines(name: str, data: bytes, *, package: str) -> list[str]:
    """The lines of a maintainer script (or of ``triggers``) that debhelper's known snippets do not consist of."""
    if len(data) > _MAX_BYTES:
        return [f"more than {_MAX_BYTES} bytes"]
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return ["characters beyond ASCII"]
    if "\r" in text or "\0" in text or "\\\n" in text:
        return ["control characters or continued lines"]
    # dh_python3 leaves two blanks where it has no arguments to write.
    lines = [re.sub(" +", " ", line.strip(" \t")) for line in text.split("\n")]
    if name == "triggers":
        return [line for line in lines if line and not line.startswith("#") and line not in _TRIGGERS]
    if not lines[0].startswith("#!"):
        return ["no interpreter in the first line"]
    patterns = [re.compile(pattern.replace("{package}", re.escape(package))) for pattern in _WITH_PACKAGE]
    return [
        line
        for number, line in enumerate(lines)
        if line
        and not (line.startswith("#") and number > 0)
        and line not in _PLAIN
        and not any(pattern.fullmatch(line.rstrip()) for pattern in patterns)
    ]
