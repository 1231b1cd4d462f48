"""Which binary packages of one build can be installed together, and which of them are Python's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lxcbuild.debian.sourcepackage import names_in, names_provided

Stanza = Mapping[str, str]


def install_sets(stanzas: Mapping[str, Stanza]) -> tuple[tuple[str, ...], ...]:
    """File names of .deb files in sets whose members do not exclude each other; each is in one at least, the first is the largest.

    Only exclusions without a version count: those are of alternatives of each other. A package that is left out of the first
    set comes with those of the others that it needs.
    """
    left = sorted(stanzas)
    sets: list[tuple[str, ...]] = []
    while left:
        chosen: list[str] = []
        wanted = [*left, *(name for name in sorted(stanzas) if name not in left and _is_needed(name, left, stanzas))]
        for name in wanted:
            if not any(_exclude(stanzas[name], stanzas[other]) for other in chosen):
                chosen.append(name)
        sets.append(tuple(sorted(chosen)))
        left = [name for name in left if name not in chosen]
    return tuple(sets)


def _is_needed(name: str, by: Iterable[str], stanzas: Mapping[str, Stanza]) -> bool:
    """Whether a package is needed by one of the others, directly or through further ones of the same build."""
    todo, seen = list(by), set(by)
    while todo:
        stanza = stanzas[todo.pop()]
        mentioned = _mentioned(stanza)
        for other, facts in stanzas.items():
            if other not in seen and mentioned & names_provided([facts]):
                seen.add(other)
                todo.append(other)
    return name in seen


def needed_packages(stanzas: Iterable[Stanza], available: Mapping[str, Stanza]) -> tuple[str, ...]:
    """The names of those of ``available`` (by package name) that the packages need, directly or through each other; sorted."""
    todo, found = list(stanzas), set()
    provides = {name: names_provided([stanza]) for name, stanza in available.items()}
    while todo:
        mentioned = _mentioned(todo.pop())
        for name, provided in provides.items():
            if name not in found and mentioned & provided:
                found.add(name)
                todo.append(available[name])
    return tuple(sorted(found))


def _mentioned(stanza: Stanza) -> set[str]:
    fields = f"{stanza.get('Pre-Depends', '')},{stanza.get('Depends', '')}"
    return {re.split(r"[ (:]", part.strip(), maxsplit=1)[0] for part in re.split(r"[,|]", fields) if part.strip()}


def _exclude(first: Stanza, second: Stanza) -> bool:
    return _excludes(first, second) or _excludes(second, first)


def _excludes(first: Stanza, second: Stanza) -> bool:
    against = names_in(first.get("Conflicts", "")) | names_in(first.get("Breaks", ""))
    return bool(against & names_provided([second]))


def python_packages(stanzas: Iterable[Stanza]) -> tuple[str, ...]:
    """Names of the packages that hold Python modules for everybody's use (Debian's Python policy, 3.3)."""
    names = (stanza.get("Package", "") for stanza in stanzas)
    return tuple(sorted(name for name in names if name.startswith("python3-") and not name.endswith("-doc")))
