"""Hostile output on its way to people and files: caps on bytes and line lengths, and the build's log file."""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path

from lxcbuild.files import Closing
from lxcbuild.policy import LogLimits
from lxcbuild.text import for_log, one_line, split_lines

#: What is kept of the end of an output that was too long, and of the end of a line.
TAIL_BYTES = 64 * 1024
_LINE_TAIL_BYTES = 1024

#: How our own lines in a log begin (LogWriter), and what comes before lines of the output that begin so.
_OURS = re.compile(r"^(?==== |\[lxcbuild: )", re.MULTILINE)
_MARK = "| "


class PrintableStream:
    """:func:`for_log` for output that comes in pieces: sequences and characters that straddle two pieces are seen whole."""

    def __init__(self, *, longest_line_bytes: int = 256 * 1024) -> None:
        self._held = bytearray()
        self._longest = longest_line_bytes

    def feed(self, data: bytes) -> str:
        """The safe text of all lines that are complete by now."""
        end = data.rfind(b"\n") + 1
        if end == 0 and len(self._held) + len(data) <= self._longest:
            self._held += data
            return ""
        end = end or len(data)
        ready = bytes(self._held) + data[:end]
        self._held = bytearray(data[end:])
        return for_log(ready)

    def finish(self) -> str:
        """The safe text of what is left, an incomplete last line."""
        rest, self._held = bytes(self._held), bytearray()
        return for_log(rest)


class LogCap:
    """Keeps of an endless output what its limits allow: the beginning, the last :data:`TAIL_BYTES`, a marker between them.

    Lines longer than ``max_line_bytes`` lose their middle. Holds at most the tail and one line's tail in memory.
    """

    def __init__(self, limits: LogLimits) -> None:
        self._limits = limits
        self.total_bytes = 0
        self.truncated = False
        self._kept = 0
        self._line = 0  # bytes of the current line so far
        self._line_tail = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    @property
    def flooded(self) -> bool:
        """Whether more came than the limit allows."""
        return self.total_bytes > self._limits.max_bytes

    def feed(self, data: bytes) -> bytes:
        """What to keep of ``data`` now."""
        self.total_bytes += len(data)
        shortened = self._shorten_lines(data)
        room = max(0, self._limits.max_bytes - self._kept)
        head, rest = shortened[:room], shortened[room:]
        self._kept += len(head)
        if rest:
            self.truncated = True
            self._tail += rest
            excess = len(self._tail) - TAIL_BYTES
            if excess > 0:
                del self._tail[:excess]
                self._dropped += excess
        return head

    def finish(self) -> bytes:
        """What to keep at the end: the rest of a line that was cut, a marker, the tail."""
        last = self._end_of_line() if self._line > self._limits.max_line_bytes else b""
        if not self._tail:
            return last
        marker = b"\n[lxcbuild: the log is longer than %d bytes: %d bytes are left out here]\n" % (
            self._limits.max_bytes,
            self._dropped,
        )
        return marker + bytes(self._tail) + last

    def _shorten_lines(self, data: bytes) -> bytes:
        longest = self._limits.max_line_bytes
        if self._line + len(data) <= longest:  # nothing to cut, wherever the newlines are
            newline = data.rfind(b"\n")
            self._line = self._line + len(data) if newline < 0 else len(data) - newline - 1
            return data
        first = data.find(b"\n")
        if 0 <= first <= longest - self._line and len(data) - first - 1 <= longest:
            self._line = len(data) - data.rfind(b"\n") - 1
            return data
        out = bytearray()
        for part in split_lines(data):
            whole = part.endswith(b"\n")
            body = part[:-1] if whole else part
            room = max(0, longest - self._line)
            out += body[:room]
            self._line += len(body)
            if len(body) > room:
                self.truncated = True
                self._line_tail = (self._line_tail + body[room:][-_LINE_TAIL_BYTES:])[-_LINE_TAIL_BYTES:]
            if whole:
                if self._line > longest:
                    out += self._end_of_line()
                out += b"\n"
                self._line = 0
        return bytes(out)

    def _end_of_line(self) -> bytes:
        missing = self._line - self._limits.max_line_bytes - len(self._line_tail)
        marker = b"[lxcbuild: %d bytes of this line are left out]" % missing if missing > 0 else b""
        end = marker + bytes(self._line_tail)
        self._line_tail = bytearray()
        return end


class LogWriter(Closing):
    """Writes one build's log file: headings, remarks and output; valid UTF-8, safe to print, written line by line.

    Lines of the output that begin like a heading or a remark get ``| `` before them.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending, making its directory. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self.path = path
        self._fd: int | None = os.open(path, flags, 0o644)
        self._stream = PrintableStream()
        self._at_line_start = True

    def heading(self, title: str) -> None:
        """Start a section, with the date and time of day in UTC."""
        self._break_line()
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._put(f"=== {one_line(title)} === {now}\n")

    def remark(self, text: str) -> None:
        """Add one line of our own between the output."""
        self._break_line()
        self._put(f"[lxcbuild: {one_line(text, longest=2000)}]\n")

    def write(self, data: bytes) -> None:
        """Take output as it comes (an ``OutputSink``)."""
        self._put_output(self._stream.feed(data))

    def close(self) -> None:
        """Write what is left and close. Idempotent."""
        if self._fd is None:
            return
        self._break_line()
        os.close(self._fd)
        self._fd = None

    def _break_line(self) -> None:
        self._put_output(self._stream.finish())
        if not self._at_line_start:
            self._put("\n")

    def _put_output(self, text: str) -> None:
        rest = 0 if self._at_line_start else text.find("\n") + 1 or len(text)  # of a line that has begun before
        self._put(text[:rest] + _OURS.sub(_MARK, text[rest:]))

    def _put(self, text: str) -> None:
        if not text or self._fd is None:
            return
        self._at_line_start = text.endswith("\n")
        data = memoryview(text.encode("utf-8"))
        while data:
            data = data[os.write(self._fd, data) :]
