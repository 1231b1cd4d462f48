"""The schema of one policy file: everything optional, because files inherit from and override each other; see policies.py."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from lxcbuild.config.documents import nearest
from lxcbuild.config.units import parse_bytes, parse_percent, parse_seconds

#: Dotted names of limits that ``best_effort`` may hold, besides the names of their groups and ``*``.
LIMITS = (
    "cpu.weight", "cpu.quota", "cpu.cpuset", "memory.max", "memory.high", "memory.swap_max", "pids.max", "io.weight", "io.devices",
    "devices", "disk.max", "disk.max_inodes", "disk.retry_factor", "time.wall", "time.silence", "time.cpu", "network", "seccomp",
    "backend",
)  # fmt: skip
_CPU_LIST = re.compile(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", re.ASCII)
_ALL_BUT = re.compile(r"all(?:\s*-\s*(\d{1,4}))?", re.ASCII)


class Size(BaseModel):
    """Bytes, possibly relative: the least of ``terms``, each a number of bytes or a percentage of something."""

    model_config = ConfigDict(defer_build=True, frozen=True)

    terms: tuple[int | float, ...]  # int: bytes; float: per cent

    def resolve(self, whole_bytes: int) -> int:
        """The bytes, where percentages are of ``whole_bytes``."""
        return min(term if isinstance(term, int) else int(whole_bytes * term / 100) for term in self.terms)


def _size(value: object) -> object:
    """``2GiB``, ``50%`` or ``min(4GiB, 50%)``."""
    if isinstance(value, Size):
        return value
    text = value.strip() if isinstance(value, str) else ""
    inner = text[4:-1].split(",") if text.startswith("min(") and text.endswith(")") else [value]
    terms: list[int | float] = []
    for term in inner:
        if isinstance(term, str) and term.strip().endswith("%"):
            percent = parse_percent(term)
            if not 0 < percent <= 100:
                raise ValueError(f"{term.strip()} is not between 0% and 100%")
            terms.append(percent)
        else:
            terms.append(parse_bytes(term.strip() if isinstance(term, str) else term))
    return Size(terms=tuple(terms))


def _rate(value: object) -> int:
    return parse_bytes(value.strip().removesuffix("/s") if isinstance(value, str) else value)


def _cpuset(value: object) -> str:
    """The kernel's list, or ``all``, or ``all-1`` (leave one CPU alone; at least one stays)."""
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if match := _ALL_BUT.fullmatch(text):
        cpus = sorted(os.sched_getaffinity(0))
        kept = cpus[min(int(match[1] or 0), len(cpus) - 1) :]
        return ",".join(map(str, kept))
    if not _CPU_LIST.fullmatch(text):
        raise ValueError(f"{value!r} is not a set of CPUs; write 0-3,7 or all-1 (all but one)")
    for part in text.split(","):
        low, _, high = part.partition("-")
        if high and int(high) < int(low):
            raise ValueError(f"{part} runs backwards")
    return text


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=1)]
RelativeBytes = Annotated[Size, BeforeValidator(_size)]
Rate = Annotated[int, BeforeValidator(_rate), Field(ge=1)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0)]
Weight = Annotated[int, Field(ge=1, le=10000, strict=True)]
Count = Annotated[int, Field(ge=1, le=2**31, strict=True)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Host = Annotated[str, Field(pattern=r"^(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(:\d{1,5})?$")]


class _Group(BaseModel):
    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True)


class Cpu(_Group):
    """Shares of the processors."""

    weight: Weight | None = None
    quota: Annotated[float, BeforeValidator(parse_percent), Field(ge=1)] | None = None
    cpuset: Annotated[str, BeforeValidator(_cpuset)] | None = None


class Memory(_Group):
    """Percentages are of the machine's memory."""

    max: RelativeBytes | None = None
    high: RelativeBytes | None = None
    swap_max: Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)] | None = None


class IoDevice(_Group):
    """Rates for one disk, per second."""

    device: Annotated[str, Field(pattern=r"^(state|\d{1,4}:\d{1,7}|/dev/[A-Za-z0-9/_.:-]{1,200})$")]
    read: Rate | None = None
    write: Rate | None = None
    read_ops: Count | None = None
    write_ops: Count | None = None


class Io(_Group):
    """Shares and rates of block I/O."""

    weight: Weight | None = None
    devices: tuple[IoDevice, ...] | None = None


class Pids(_Group):
    """Processes and threads. Fewer than 16 and not even a shell pipeline starts."""

    max: Annotated[int, Field(ge=16, le=4_194_304, strict=True)] | None = None


class Disk(_Group):
    """The writable layer, a tmpfs. Percentages are of memory.max."""

    max: RelativeBytes | None = None
    max_inodes: Count | None = None
    retry_factor: Annotated[float, Field(ge=1, le=16)] | None = None


class Time(_Group):
    """Durations of one step."""

    wall: Seconds | None = None
    silence: Seconds | None = None
    cpu: Seconds | None = None


class Log(_Group):
    """What is kept of the output."""

    max: Bytes | None = None
    max_line: Bytes | None = None


class Output(_Group):
    """What may be taken out."""

    max_files: Count | None = None
    max: Bytes | None = None
    max_file: Bytes | None = None
    max_depth: Annotated[int, Field(ge=1, le=64, strict=True)] | None = None


class Limits(_Group):
    """What a policy and a per-package override have in common."""

    cpu: Cpu | None = None
    memory: Memory | None = None
    io: Io | None = None
    pids: Pids | None = None
    disk: Disk | None = None
    time: Time | None = None
    log: Log | None = None
    output: Output | None = None
    network: Literal["none", "loopback", "sinkhole", "proxy"] | None = None
    proxy_hosts: tuple[Host, ...] | None = None
    seccomp: Name | None = None
    backend: Literal["lxc", "kvm", "auto"] | None = None
    fork_server: Annotated[bool, Field(strict=True)] | None = None


class Override(Limits):
    """Other limits for packages whose name matches one of the patterns (``torch*``)."""

    match: tuple[str, ...]

    @field_validator("match", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class PolicyFile(Limits):
    """One file of ``cgroups/``."""

    description: str | None = None
    inherits: Name | None = None
    best_effort: tuple[str, ...] | None = None
    packages: tuple[Override, ...] | None = None

    @field_validator("best_effort", mode="before")
    @classmethod
    def _known_limits(cls, value: Any) -> Any:
        names = (value,) if isinstance(value, str) else value
        known = {"*", *LIMITS, *(name.split(".")[0] for name in LIMITS)}
        for name in names if isinstance(names, list | tuple) else ():
            if name not in known:
                raise ValueError(f"there is no limit {str(name)[:60]!r}.{nearest(str(name), known)}")
        return names
