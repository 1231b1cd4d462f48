"""The files of system-call filters and their schema; see ``seccomp_profiles.py``.

Order of strength, weakest first: what ``inherits`` names, the shipped file, the administrator's file of the same name. The stronger
file has the last word on every call that it names.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lxcbuild.config.documents import nearest, read_document, validate
from lxcbuild.config.seccomp_profiles import KIND, Conditions, Rule, SeccompProfile, Test
from lxcbuild.errors import ConfigError, LimitRefusedError


def _names(value: object) -> object:
    return value.split() if isinstance(value, str) else value


def _answer(value: object) -> object:
    if value == "allow" or value in errno.errorcode.values():
        return value
    raise ValueError(f"{str(value)[:40]!r} is neither 'allow' nor the name of an error such as EPERM")


Names = Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")], ...], BeforeValidator(_names)]
Answer = Annotated[str, BeforeValidator(_answer)]
ErrnoName = Literal["EPERM", "ENOSYS", "EACCES", "EINVAL", "ENOTSUP", "EAFNOSUPPORT"]
Word = Annotated[int, Field(ge=0, le=0xFFFFFFFF, strict=True)]


class _Table(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)


class TestFile(_Table):
    """See :class:`Test`."""

    argument: Annotated[int, Field(ge=0, le=5, strict=True)]
    mask: Word = 0xFFFFFFFF
    is_: Annotated[tuple[Word, ...], Field(alias="is")] = ()
    any_bit: Annotated[Word, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _tests_something(self) -> Self:
        if not self.is_ and self.any_bit is None:
            raise ValueError("needs 'is' or 'any_bit'")
        return self


class RuleFile(_Table):
    """See :class:`Rule`."""

    when: Annotated[tuple[TestFile, ...], Field(min_length=1, max_length=6)]
    answer: Answer


class ConditionsFile(_Table):
    """See :class:`Conditions`."""

    rules: tuple[RuleFile, ...]
    otherwise: Answer

    def settle(self) -> Conditions:
        """As a plain value."""
        rules = (
            Rule(
                when=tuple(Test(argument=t.argument, mask=t.mask, is_=t.is_, any_bit=t.any_bit) for t in rule.when),
                answer=rule.answer,
            )
            for rule in self.rules
        )
        return Conditions(rules=tuple(rules), otherwise=self.otherwise)


class SeccompFile(_Table):
    """One file of ``cgroups/seccomp/``. The names of groups are for readers only."""

    description: str | None = None
    inherits: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] | None = None
    otherwise: ErrnoName | None = None
    allow: Mapping[str, Names] = {}
    deny: Mapping[ErrnoName, Mapping[str, Names]] = {}
    conditions: Mapping[str, ConditionsFile] = {}
    first: Mapping[ErrnoName, Names] = {}


def read_seccomp(name: str, known: Mapping[str, list[Path]]) -> SeccompProfile:
    """The profile of that name from these files. Raises as :func:`load_seccomp`."""
    calls: dict[str, str | Conditions] = {}
    first: dict[str, str] = {}
    otherwise = None
    for path in _chain(name, known):
        document = read_document(path)
        file = validate(document, SeccompFile)
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
        calls |= own
        calls |= {call: conditions.settle() for call, conditions in file.conditions.items()}
        first |= {call: error for error, names in file.first.items() for call in names}
        otherwise = file.otherwise or otherwise
    if otherwise is None:
        raise ConfigError(f"{KIND}/{name}.yaml: otherwise: is missing", resolution="add otherwise: ENOSYS")
    return SeccompProfile(name=name, otherwise=otherwise, calls=calls, first=first)


def _chain(name: str, known: Mapping[str, list[Path]], seen: tuple[str, ...] = ()) -> list[Path]:
    """The files that make up the profile, weakest first."""
    if name in seen:
        raise ConfigError(f"seccomp profiles inherit from each other in a circle: {' -> '.join([*seen, name])}")
    if name not in known:
        raise LimitRefusedError(
            f"there is no seccomp profile {name[:80]!r}.{nearest(name, known)}",
            resolution=f"profiles are: {', '.join([*known, 'none'])}",
        )
    own = known[name]
    parents = {validate(read_document(path), SeccompFile).inherits for path in own} - {None}
    if len(parents) > 1:
        raise ConfigError(f"the files of seccomp profile {name} disagree about inherits:")
    return [*(_chain(parent, known, (*seen, name)) if (parent := next(iter(parents), None)) else []), *own]
