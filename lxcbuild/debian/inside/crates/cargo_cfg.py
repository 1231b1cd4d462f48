"""Whether a ``[target.X]`` table of Cargo.toml is for this machine: ``cfg(...)`` expressions and target triples."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\s*(?:([A-Za-z_][A-Za-z0-9_-]*)|\"([^\"]*)\"|([(),=]))")
_MAX_DEPTH = 20
_PLAIN = {"unix": True, "windows": False}
#: Answers to ``key = "value"`` that hold on every Debian machine that we build for.
_FACTS = {"target_os": {"linux"}, "target_family": {"unix"}, "target_env": {"gnu"}, "target_vendor": {"unknown"}}


class _UnknownError(ValueError):
    pass


def applies(target: str, machine: str) -> bool:
    """``machine`` is Rust's name of the architecture, such as ``x86_64``. What cannot be understood counts as true."""
    text = target.strip()
    if not text.startswith("cfg("):
        return text == f"{machine}-unknown-linux-gnu"
    tokens = [match[1] or match[3] or f'"{match[2]}' for match in _TOKEN.finditer(text)]
    try:
        value, rest = _expression(tokens[2:], machine, 0)
        return value is not False if rest == [")"] else True
    except (_UnknownError, IndexError):
        return True


def _expression(tokens: list[str], machine: str, depth: int) -> tuple[bool | None, list[str]]:
    """Three-valued: None where only the compiler could tell (features of the processor, options of rustc)."""
    if depth > _MAX_DEPTH:
        raise _UnknownError
    name, rest = tokens[0], tokens[1:]
    if name in ("all", "any", "not") and rest[0] == "(":
        values: list[bool | None] = []
        rest = rest[1:]
        while rest[0] != ")":
            value, rest = _expression(rest, machine, depth + 1)
            values.append(value)
            rest = rest[1:] if rest[0] == "," else rest
        return _joined(name, values), rest[1:]
    if rest[:1] == ["="]:
        return _fact(name, rest[1][1:], machine), rest[2:]
    return _PLAIN.get(name), rest


def _joined(name: str, values: list[bool | None]) -> bool | None:
    if name == "not":
        if len(values) != 1:
            raise _UnknownError
        return None if values[0] is None else not values[0]
    decisive = name == "any"
    if decisive in values:
        return decisive
    return None if None in values else not decisive


def _fact(key: str, value: str, machine: str) -> bool | None:
    if key == "target_arch":
        return value == machine
    return value in _FACTS[key] if key in _FACTS else None
