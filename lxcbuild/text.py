"""The one wall for text that hostile code had a hand in: what each door lets through, from one table of characters.

Standard library only: the guard of a sandbox's network runs without other packages. None of the results is HTML-safe.
"""

from __future__ import annotations

import functools
import re

# The table, as parts of a character class. What shows text as another one than it is:
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but newline and tab, DEL, C1
_SURROGATES = "\ud800-\udfff"  # no database and no UTF-8 holds them
_BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides and isolates
# Line and paragraph separators, interlinear and tag characters; what has no width or is drawn as nothing (soft hyphen, joiners,
# fillers, zero-width spaces): Unicode's Default_Ignorable_Code_Point but the variation selectors of emoji.
_HIDDEN = (
    "\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2028\u2029\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# ECMA-48: control sequences (CSI), control strings (OSC, DCS, SOS, PM, APC) ended by ST or BEL, and two- or three-byte escapes.
# Strings are bounded: an unterminated one is not allowed to swallow what follows, and none goes beyond the beginning of another
# (so that nothing is read again and again, however many begin and none ends).
_SEQUENCE = (
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x1b\x07\n\x90\x98\x9b-\x9f]{0,4096}(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]{1,4}[0-~]"
    r"|\x1b[0-OQ-WYZ\\`-~]"
)
_NEWLINE = r"\r+\n?"
PATTERNS = (_SEQUENCE, _NEWLINE)
_PLAIN = bytes(range(0x20, 0x7F)) + b"\n\t"


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compiled when first needed: 1 ms that a launcher, which tames words of ASCII only, does not spend."""
    return re.compile(pattern)


def for_log(data: bytes | str) -> str:
    """``data`` as lines that cannot do anything to a terminal, for logs and pages.

    Of the control characters only newline and tab remain (carriage returns become newlines); escape sequences are left out,
    other controls, invalid UTF-8 and characters that reorder or hide text are shown as backslash escapes. The result is
    always encodable as UTF-8.
    """
    if isinstance(data, bytes):
        if not data.translate(None, _PLAIN):
            return data.decode("ascii")
        if b"\n" in data[:-1]:  # nothing to be replaced goes beyond a newline, and most lines are plain
            return "".join(map(for_log, split_lines(data)))
    text = data.decode("utf-8", "backslashreplace") if isinstance(data, bytes) else data
    return _unhidden(_compiled(_NEWLINE).sub("\n", _compiled(_SEQUENCE).sub("", text)))


def for_terminal(text: str) -> str:
    """Text that a terminal shows and never obeys: whatever is not printable but a newline is a backslash escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in _unhidden(text))


def one_line(data: bytes | str, *, longest: int = 200) -> str:
    """``data`` as a single safe line of at most ``longest`` characters, for error messages and tables."""
    text = " ".join(for_log(data[: longest * 8]).split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def for_documents(text: str) -> str:
    """Text for packages and results: controls, bidirectional overrides and lone surrogates are left out.

    Newlines and tabs stay, and so do characters without width: scripts and emoji are written with joiners.
    """
    return _compiled(f"[{_CONTROLS}{_BIDIRECTIONAL}{_SURROGATES}]").sub("", text)


def for_storage(text: str, *, longest: int) -> str:
    """Text of at most ``longest`` characters that every database stores: no NUL, no lone surrogates, else as it was."""
    return text[:longest].replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def in_ascii(text: str, *, longest: int) -> str:
    """At most ``longest`` characters of printable ASCII; every other one is a question mark."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:longest])


def split_lines(data: bytes) -> list[bytes]:
    """Split after newlines only (``bytes.splitlines`` also splits at carriage returns and more)."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _unhidden(text: str) -> str:
    return _compiled(f"[{_CONTROLS}{_BIDIRECTIONAL}{_SURROGATES}{_HIDDEN}]").sub(lambda match: _escape(match[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
