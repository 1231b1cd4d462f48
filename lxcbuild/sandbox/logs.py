"""Hostile output on its way to people and files: caps on bytes and line lengths, filters for terminals, the build's log file."""

from __future__ import annotations

from pathlib import Path

from lxcbuild.model import LogLimits


def printable(data: bytes | str) -> str:
    """``data`` as text that cannot do anything to a terminal (only newline and tab remain of the controls)."""
    ...


class LogWriter:
    """Writes one build's log file: phase headings, commands, output; always valid UTF-8 without control sequences."""

    def __init__(self, path: Path, *, limits: LogLimits | None = None) -> None: ...

    def heading(self, title: str) -> None:
        """Start a section, with the time of day in UTC."""
        ...

    def write(self, data: bytes) -> None:
        """Take output as it comes (an ``OutputSink``)."""
        ...

    def close(self) -> None:
        """Flush and close. Idempotent."""
        ...
