"""The wall for hostile text: what each door lets through."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild import text

_DIRECTIONS = {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI", "FSI", "PDI", "PDF"}
#: Format characters that are drawn: signs before numbers of some scripts, joiners of hieroglyphs.
_DRAWN = (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440))
_VISIBLE = frozenset(map(chr, _DRAWN))
#: Any text and any bytes, with much of what is dangerous.
HOSTILE = st.one_of(
    st.binary(),
    st.text(),
    st.text(st.sampled_from("ab \x1b[]0;m\x07\r\n\t\x00\x9b\x9d\u202e\u2066\u200b\u2028\ufeff\udcff\U000e0041\u00e9")),
)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain text\n\tindented", "plain text\n\tindented"),
        ("käse ✓ 日本".encode(), "käse ✓ 日本"),
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b[2J\x1b[1;1Hcleared", "cleared"),
        (b"\x1b]0;title\x07x\x1b]52;c;aGk=\x1b\\y", "xy"),
        (b"\x1bP+q544e\x1b\\z", "z"),
        (b"\x1bc\x1b(0reset", "reset"),
        (b"\x1b]0;never ended", "\\x1b]0;never ended"),
        (b"a\x1b", "a\\x1b"),
        (b"\x00\x07\x08\x7f", "\\x00\\x07\\x08\\x7f"),
        ("\x9b31mred \x85 \x9d0;t\x9cx".encode(), "red \\x85 x"),
        (b"\xff\xfe\xc3", "\\xff\\xfe\\xc3"),
        (b"10%\r20%\r\n", "10%\n20%\n"),
        ("user\u202egnp.exe \u2066x\u2069 \u200f".encode(), "user\\u202egnp.exe \\u2066x\\u2069 \\u200f"),
        ("a\u2028b\ufeff\U000e0041".encode(), "a\\u2028b\\ufeff\\U000e0041"),
        ("re\u200bqu\u200dest\u2060s \xad\u3164\u180e".encode(), "re\\u200bqu\\u200dest\\u2060s \\xad\\u3164\\u180e"),
        ("\u2714\ufe0f done".encode(), "\u2714\ufe0f done"),
        ("str with \udcff surrogate", "str with \\udcff surrogate"),
    ],
)
def test_log_lines_obey_nobody(raw: bytes | str, shown: str) -> None:
    assert text.for_log(raw) == shown


@given(HOSTILE)
def test_no_door_lets_hostile_characters_through(raw: bytes | str) -> None:
    string = raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw
    doors = {
        "log": text.for_log(raw),
        "terminal": text.for_terminal(string),
        "line": text.one_line(raw, longest=60),
        "documents": text.for_documents(string),
        "storage": text.for_storage(string, longest=60),
        "ascii": text.in_ascii(string, longest=60),
    }
    for door, shown in doors.items():
        shown.encode("utf-8")
        assert "\0" not in shown, door
        if door == "storage":
            continue
        assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\n\t"], door
        assert not [c for c in shown if unicodedata.bidirectional(c) in _DIRECTIONS], door
        if door != "documents":
            assert not [c for c in shown if unicodedata.category(c) in ("Cf", "Zl", "Zp") and c not in _VISIBLE], door
    assert all(c.isprintable() or c == "\n" for c in doors["terminal"])
    assert doors["line"].isprintable() or not doors["line"].isascii()
    assert "\n" not in doors["line"]
    assert max(len(doors[name]) for name in ("line", "storage", "ascii")) <= 60
    assert doors["ascii"].isascii()
    for door in (text.for_log, text.for_terminal, text.for_documents):
        assert door(door(string)) == door(string)


@given(st.text(st.characters(categories=("L", "N", "P", "Mn", "Sc"), exclude_characters="\u115f\u1160\u3164\uffa0")))
def test_harmless_text_stays_as_it_is(harmless: str) -> None:
    assert text.for_documents(harmless) == harmless
    assert text.for_storage(harmless, longest=1000) == harmless[:1000]
    if not any(c in "\u034f\u17b4\u17b5\u180b\u180c\u180d\u180f" or ord(c) >= 0xE0000 for c in harmless):
        assert text.for_log(harmless) == harmless
        assert text.for_terminal(harmless) == harmless


def test_documents_keep_what_scripts_and_emoji_are_written_with() -> None:
    for kept in ("\U0001f469\u200d\U0001f4bb", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "a\u00a0b\tc\n"):
        assert text.for_documents(kept) == kept


def test_a_terminal_is_shown_what_it_must_not_obey() -> None:
    shown = text.for_terminal("a\x1b[31mb\r\x07\u202e\u2028\t\u200b\xa0c\n")
    assert shown == "a\\x1b[31mb\\x0d\\x07\\u202e\\u2028\\x09\\u200b\\xa0c\n"


def test_storage_replaces_what_no_database_holds_and_cuts() -> None:
    assert text.for_storage("a\0b\udcffc\x1b", longest=5) == "a\ufffdb?c"


def test_one_line() -> None:
    assert text.one_line("a\n  b\tc\x1b[1m") == "a b c"
    assert text.one_line("x" * 300) == "x" * 197 + "..."
