"""Maintainer scripts of the blocks that dh-python writes, whole ones: anything else in a generated package is foreign code.

Their blocks act on the names of the package's files, so those are bounded as well.
"""

from __future__ import annotations

import re

_HEAD = "#!/bin/sh\nset -e\n"
#: What stands between blocks.
_BETWEEN = r"\n|# Automatically added by dh_python3\n|# End automatically added section\n"
_ARGUMENTS = (
    r"{package}(?::[a-z0-9]+)?"
    r"(?: +(?:-V \d+\.\d+(?:-(?:\d+\.\d+)?)?|/usr/(?:lib|share)/{package}(?:/[\w+-][\w.+-]*)*))* *"
)
_COMPILE = (
    r"if (?:command -v|which) (?P<program>(?:pypy|py)3compile) >/dev/null 2>&1; then\n"
    rf"\t(?P=program) -p {_ARGUMENTS}(?:\|\| true)?\nfi\n"
)
_REMOVALS = (
    # By sed's shell what the names of the package's files say; by dh-python before version 5 what they match as patterns of perl's.
    r"""sed -En -e '/^(.*)\/(.+)\.py$/s,,rm "\1/__pycache__/\2".*,e'""",
    r"perl -ne 's,/([^/]*)\.py$,/__pycache__/\1.*, or next; unlink $_ or die $! foreach glob($_)'",
)
_EMPTY = "find /usr/lib/python3/dist-packages/ -type d -name __pycache__ -empty -print0 | xargs --null --no-run-if-empty rmdir"
_CLEAN = (
    r"if (?:command -v|which) py3clean >/dev/null 2>&1(?: && python3 -c 'pass' 2>/dev/null)?; then\n"  # the latter: dh-python 7
    rf"\tpy3clean -p {_ARGUMENTS}\n"
    rf"(?:else\n\tdpkg -L {{package}}(?::[a-z0-9]+)? \| (?:{'|'.join(map(re.escape, _REMOVALS))})\n\t{re.escape(_EMPTY)}\n)?fi\n"
)
_BLOCKS = {"postinst": (_COMPILE,), "prerm": (_CLEAN,)}
_TRIGGERS = frozenset({"activate-noawait ldconfig"})
_MAX_BYTES = 64 * 1024
#: Characters below U+0080 in names of files. Where the blocks above act on the name, none that a shell expands or that ends a word
#: or a string; elsewhere those that usual packages have: templates of projects (``{{ name }}``), web pages (``$id.js``).
_NAME = re.compile(r"[A-Za-z0-9 ._+,:=@%~#!()\[\]{}$'&^/\x80-\U0010ffff-]*")
_NAME_ACTED_ON = re.compile(r"[A-Za-z0-9._+,:=@%/\x80-\U0010ffff-]*")


def foreign_text(name: str, data: bytes, *, package: str) -> str | None:
    """What a maintainer script (or ``triggers``) holds but the blocks known for it, from its first line on; None: nothing."""
    if len(data) > _MAX_BYTES:
        return f"more than {_MAX_BYTES} bytes"
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return "characters beyond ASCII"
    if name == "triggers":
        lines = [line.strip() for line in text.split("\n")]
        return next((line for line in lines if line and not line.startswith("#") and line not in _TRIGGERS), None)
    if not text.startswith(_HEAD):
        return text[:80]
    blocks = re.compile("|".join((_BETWEEN, *_BLOCKS.get(name, ()))).replace("{package}", re.escape(package)))
    at = len(_HEAD)
    while at < len(text):
        match = blocks.match(text, at)
        if match is None:
            return text[at:]
        at = match.end()
    return None


def is_obeyed(path: str) -> bool:
    """Whether a file's name, or one of a directory above it, holds what shells or patterns obey, or what cannot be seen."""
    allowed = _NAME_ACTED_ON if path.endswith(".py") else _NAME
    return not path.isprintable() or allowed.fullmatch(path) is None
