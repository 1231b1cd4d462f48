"""Numbers as people read them: the one place where bytes, seconds and times become text."""

from __future__ import annotations

from datetime import UTC, datetime


def bytes_text(count: float) -> str:
    """Bytes in binary units: ``512 B``, ``1.5 MiB``, ``20 GiB``."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 10 else f"{value:.1f} {unit}"


def seconds_text(seconds: float) -> str:
    """A duration: ``4 ms``, ``3.2 s``, ``2 min 05 s``, ``1 h 02 min``, ``3 d 04 h``."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"


def time_text(moment: str) -> str:
    """An ISO 8601 moment in the reader's own time zone, to the second; text that is no moment is returned as it is."""
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return parsed.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age_text(moment: str, *, now: datetime | None = None) -> str:
    """How long ago an ISO 8601 moment was."""
    past = (now or datetime.now(UTC)) - datetime.fromisoformat(moment)
    return f"{seconds_text(max(0.0, past.total_seconds()))} ago"
