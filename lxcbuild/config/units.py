"""Human units of configuration files: ``2GiB``, ``64KiB``, ``150%``, ``20min``, ``1h30min``.

Errors are ValueError and say what to write instead.
"""

from __future__ import annotations

import math
import re

_SIZES = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZES |= {f"{prefix}iB": 2 ** (10 * power) for power, prefix in enumerate("KMGT", start=1)}
_SIZES |= {"kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SECONDS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})", re.ASCII)
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([a-z]{1,3})\s*", re.ASCII)
_PERCENT = re.compile(r"(\d{1,7}(?:\.\d{1,6})?)\s*%", re.ASCII)
_CPU_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_MAX_BYTES = 2**60  # an EiB: beyond it is a slip of the pen, and cgroup v1 counts in signed 64 bits


def parse_bytes(value: object) -> int:
    """Bytes from ``2GiB``, ``64KiB``, ``10MB`` (powers of ten), ``512M`` (powers of two, as systemd has it) or a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{_shown(value)} is not a size; write bytes, or a unit such as 64KiB or 2GiB")
    match = _SIZE.fullmatch(str(value).strip())
    if match is None or match[2] not in _SIZES:
        raise ValueError(f"{_shown(value)} is not a size; write bytes, or a unit such as 64KiB or 2GiB")
    number = float(match[1]) * _SIZES[match[2]] if "." in match[1] else int(match[1]) * _SIZES[match[2]]
    if number > _MAX_BYTES:
        raise ValueError(f"{_shown(value)} is more than any machine has")
    return int(number)


def parse_percent(value: object) -> float:
    """Per cent from ``150%``; a bare number is refused, because nobody knows what it means."""
    match = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{_shown(value)} is not a percentage; write it as 150%")
    return float(match[1])


def parse_seconds(value: object) -> float:
    """Seconds from ``20min``, ``1h30min``, ``90s``, ``500ms``, ``7d``; a bare number counts seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{_shown(value)} is not a duration; write it as 90s, 20min or 1h30min")
    if isinstance(value, int | float):
        if not 0 <= value < 2**40 or math.isnan(value):
            raise ValueError(f"{_shown(value)} is not a number of seconds")
        return float(value)
    text, place, total, smallest = value.strip(), 0, 0.0, math.inf
    while place < len(text):
        match = _PART.match(text, place)
        if match is None or match[2] not in _SECONDS or _SECONDS[match[2]] >= smallest:
            raise ValueError(f"{_shown(value)} is not a duration; write it as 90s, 20min or 1h30min")
        smallest = _SECONDS[match[2]]
        total += float(match[1]) * smallest
        place = match.end()
    if not text or total >= 2**40:
        raise ValueError(f"{_shown(value)} is not a duration; write it as 90s, 20min or 1h30min")
    return total


def parse_cpu_list(text: str) -> frozenset[int]:
    """The kernel's list format, ``0-3,7``; raises ValueError on anything else."""
    found: set[int] = set()
    for part in text.split(","):
        match = _CPU_RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"{_shown(text)} is not a set of CPUs; write 0-3,7 or all-1 (all but one)")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise ValueError(f"{part} runs backwards")
        found.update(range(low, high + 1))
    return frozenset(found)


def bytes_text(count: int) -> str:
    """Bytes as configuration files write them, without loss: the largest binary unit that divides the number."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)


def seconds_text(seconds: float) -> str:
    """A duration as configuration files write it: ``1h30min``, ``90s`` becomes ``1min30s``; below a second, ``500ms``."""
    if seconds <= 0 or seconds != round(seconds, 3):
        return f"{seconds:g}s"
    rest = round(seconds * 1000)
    parts: list[str] = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def _shown(value: object) -> str:
    return repr(value)[:60]
