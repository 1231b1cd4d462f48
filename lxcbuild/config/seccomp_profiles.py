"""System-call filters: ``cgroups/seccomp/*.yaml`` and the administrator's, merged by name and resolved to one answer per call.

Order of strength, weakest first: what ``inherits`` names, the shipped file, the administrator's file of the same name. The stronger
file has the last word on every call that it names.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from lxcbuild.config.documents import Document, read_document, validate
from lxcbuild.config.structs import nearest
from lxcbuild.errors import ConfigError, LimitRefusedError
from lxcbuild.state import data

KIND = "cgroups/seccomp"


def _names(value: object) -> object:
    return value.split() if isinstance(value, str) else value


def _answer(value: object) -> object:
    if value == "allow" or value in errno.errorcode.values():
        return value
    raise ValueError(f"{str(value)[:40]!r} is neither 'allow' nor the name of an error such as EPERM")


Names = Annotated[tuple[Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,40}\Z")], ...], Meta(extra={"parse": _names})]
Answer = Annotated[str, Meta(extra={"parse": _answer})]
ErrnoName = Literal["EPERM", "ENOSYS", "EACCES", "EINVAL", "ENOTSUP", "EAFNOSUPPORT"]
Word = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]


class Test(Struct, frozen=True, kw_only=True):
    """About the low 32 bits of one argument: after ``mask`` it is one of ``is_``, or it has a bit of ``any_bit``."""

    argument: Annotated[int, Meta(ge=0, le=5)]
    mask: Word = 0xFFFFFFFF
    is_: tuple[Word, ...] = ()
    any_bit: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)] | None = None

    def __post_init__(self) -> None:
        if not self.is_ and self.any_bit is None:
            raise ValueError("needs 'is' or 'any_bit'")


class Rule(Struct, frozen=True, kw_only=True):
    """The answer when all the tests hold."""

    when: Annotated[tuple[Test, ...], Meta(min_length=1, max_length=6)]
    answer: Answer


class Conditions(Struct, frozen=True, kw_only=True):
    """The first rule that holds answers, else ``otherwise``."""

    rules: tuple[Rule, ...]
    otherwise: Answer


class SeccompProfile(Struct, frozen=True, kw_only=True):
    """What every system call is answered: ``"allow"``, the name of an error, or conditions on its arguments."""

    name: str
    otherwise: str
    calls: Mapping[str, str | Conditions]
    first: Mapping[str, str]  # refused before our own PID 1 is up; to names of errors


class SeccompFile(Struct, frozen=True, kw_only=True):
    """One file of ``cgroups/seccomp/``. The names of groups are for readers only."""

    description: str | None = None
    inherits: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")] | None = None
    otherwise: ErrnoName | None = None
    allow: dict[str, Names] = field(default_factory=dict)
    deny: dict[ErrnoName, dict[str, Names]] = field(default_factory=dict)
    conditions: dict[str, Conditions] = field(default_factory=dict)
    first: dict[ErrnoName, Names] = field(default_factory=dict)


def load_seccomp(name: str, *, places: tuple[Path, ...] | None = None) -> SeccompProfile:
    """The profile of that name. Raises :class:`LimitRefusedError` for an unknown name, :class:`ConfigError` for a mistake."""
    calls: dict[str, str | Conditions] = {}
    first: dict[str, str] = {}
    otherwise: str | None = None
    for document, file in _chain(name, data.files(KIND, places=places)):
        calls |= _answers(document, file)
        first |= {call: error for error, names in file.first.items() for call in names}
        otherwise = file.otherwise or otherwise
    if otherwise is None:
        raise ConfigError(f"{KIND}/{name}.yaml: otherwise: is missing", resolution="add otherwise: ENOSYS")
    return SeccompProfile(name=name, otherwise=otherwise, calls=calls, first=first)


def _answers(document: Document, file: SeccompFile) -> dict[str, str | Conditions]:
    """What one file says of every call that it names."""
    own: dict[str, str | Conditions] = {}
    stated = [(("allow", group), "allow", names) for group, names in file.allow.items()]
    stated += [(("deny", error), error, names) for error, groups in file.deny.items() for names in groups.values()]
    for at, answer, names in stated:
        for call in names:
            if call in own:
                raise document.error(at, f"{call} is named twice in this file")
            own[call] = answer
    if twice := own.keys() & file.conditions.keys():
        raise document.error(("conditions", min(twice)), "is also named under allow or deny")
    return own | file.conditions


def _chain(
    name: str, known: Mapping[str, list[Path]], seen: tuple[str, ...] = ()
) -> list[tuple[Document, SeccompFile]]:
    """The files that make up the profile, weakest first."""
    if name in seen:
        raise ConfigError(f"seccomp profiles inherit from each other in a circle: {' -> '.join([*seen, name])}")
    if name not in known:
        raise LimitRefusedError(
            f"there is no seccomp profile {name[:80]!r}.{nearest(name, known)}",
            resolution=f"profiles are: {', '.join([*known, 'none'])}",
        )
    documents = [read_document(path) for path in known[name]]
    own = [(document, validate(document, SeccompFile)) for document in documents]
    parents = {file.inherits for _, file in own} - {None}
    if len(parents) > 1:
        raise ConfigError(f"the files of seccomp profile {name} disagree about inherits:")
    return [*(each for parent in parents if parent for each in _chain(parent, known, (*seen, name))), *own]
