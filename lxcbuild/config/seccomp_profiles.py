"""System-call filters: ``cgroups/seccomp/*.yaml`` and the administrator's, merged by name and resolved to one answer per call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from lxcbuild.config.settled import settled
from lxcbuild.state import data

KIND = "cgroups/seccomp"


class Test(Struct, frozen=True, kw_only=True):
    """About the low 32 bits of one argument: after ``mask`` it is one of ``is_``, or it has a bit of ``any_bit``."""

    argument: int
    mask: int
    is_: tuple[int, ...]
    any_bit: int | None


class Rule(Struct, frozen=True, kw_only=True):
    """The answer when all the tests hold."""

    when: tuple[Test, ...]
    answer: str


class Conditions(Struct, frozen=True, kw_only=True):
    """The first rule that holds answers, else ``otherwise``."""

    rules: tuple[Rule, ...]
    otherwise: str


class SeccompProfile(Struct, frozen=True, kw_only=True):
    """What every system call is answered: ``"allow"``, the name of an error, or conditions on its arguments."""

    name: str
    otherwise: str
    calls: Mapping[str, str | Conditions]
    first: Mapping[str, str]  # refused before our own PID 1 is up; to names of errors


def load_seccomp(name: str, *, places: tuple[Path, ...] | None = None) -> SeccompProfile:
    """The profile of that name. Raises :class:`LimitRefusedError` for an unknown name, :class:`ConfigError` for a mistake."""
    known = data.files(KIND, places=places)

    def read() -> SeccompProfile:
        from lxcbuild.config.seccomp_files import read_seccomp

        return read_seccomp(name, known)

    return settled("seccomp", name, [path for paths in known.values() for path in paths], read)
