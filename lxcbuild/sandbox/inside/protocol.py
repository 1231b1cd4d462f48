"""The messages of the runner's byte stream: what the host writes, and a reader that believes nothing of what comes back.

JSON objects, one a line; :mod:`lxcbuild.sandbox.inside.runner` is the other end. A line longer than :data:`MAX_LINE_BYTES`, a
field of another type, range or name than stated here is a :class:`ProtocolError`, after which nothing more is read from that
stream.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from lxcbuild.errors import SandboxError

#: Output comes in chunks of 64 KiB, which base64 makes 4/3 as long.
MAX_LINE_BYTES = 128 * 1024
#: What can be put inside through the stream; bigger things are bind-mounted.
MAX_PUT_BYTES = 16 * 1024 * 1024


class ProtocolError(SandboxError):
    """The runner, or whoever speaks in its place, sent something that it never sends."""


class RunnerReady(Struct, frozen=True, kw_only=True):
    """What the runner says about itself when it is up: its Python, capabilities, seccomp mode and no-new-privileges bit."""

    python: tuple[int, int, int]
    cap_eff: int
    cap_bnd: int
    seccomp: int
    no_new_privs: int


class StepOutput(Struct, frozen=True):
    """Bytes that the step printed."""

    data: bytes


class Exited(Struct, frozen=True, kw_only=True):
    """The step is over and nothing of it is left."""

    id: int
    status: int | None
    signal: int | None


class Done(Struct, frozen=True):
    """A ``put`` or ``ping`` of that number is done."""

    id: int


class StepRefused(Struct, frozen=True, kw_only=True):
    """A request could not be carried out."""

    id: int
    errno: int
    text: str


class Took(Struct, frozen=True):
    """The step has read all that was typed so far."""


class Fatal(Struct, frozen=True):
    """The runner gives up."""

    text: str


Message = RunnerReady | StepOutput | Exited | Done | StepRefused | Took | Fatal
_Fields = Mapping[str, object]


def encode(op: str, **fields: object) -> bytes:
    """One line for the runner."""
    return json.dumps({"op": op, **fields}, separators=(",", ":")).encode() + b"\n"


def encode_bytes(data: bytes) -> str:
    """Bytes as they stand in a message."""
    return binascii.b2a_base64(data, newline=False).decode()


class LineReader:
    """Cuts a hostile byte stream into lines, holding at most :data:`MAX_LINE_BYTES`."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that ``data`` completes. Raises :class:`ProtocolError` for one that is too long."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line = bytes(self._held) + data[start:end]
            self._held.clear()
            start = end + 1
            if len(line) > MAX_LINE_BYTES:
                raise ProtocolError("the runner sent a line that is too long")
            yield line
        self._held += data[start:]
        if len(self._held) > MAX_LINE_BYTES:
            raise ProtocolError("the runner sent a line that is too long")


def parse(line: bytes) -> Message:
    """Read one line. Raises :class:`ProtocolError`."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError("the runner sent a line that is not JSON") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("op"), str):
        raise ProtocolError("the runner sent something that is not a message")
    maker = _MAKERS.get(fields["op"])
    if maker is None:
        raise ProtocolError(f"the runner sent an unknown message: {fields['op'][:40]!r}")
    return maker(fields)


def _number(fields: _Fields, name: str, *, low: int = 0, high: int = 2**53) -> int:
    value = fields.get(name)
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"the runner sent a bad {name}")
    return value


def _text(fields: _Fields, name: str, *, longest: int) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > longest:
        raise ProtocolError(f"the runner sent a bad {name}")
    return value


def _bits(fields: _Fields, name: str) -> int:
    try:
        return int(_text(fields, name, longest=16), 16)
    except ValueError:
        raise ProtocolError(f"the runner sent a bad {name}") from None


def _ready(fields: _Fields) -> RunnerReady:
    version = fields.get("python")
    if not isinstance(version, list) or len(version) != 3 or not all(type(n) is int and 0 <= n < 1000 for n in version):
        raise ProtocolError("the runner sent a bad python")
    return RunnerReady(
        python=(version[0], version[1], version[2]),
        cap_eff=_bits(fields, "cap_eff"),
        cap_bnd=_bits(fields, "cap_bnd"),
        seccomp=_number(fields, "seccomp", high=2),
        no_new_privs=_number(fields, "no_new_privs", high=1),
    )


def _output(fields: _Fields) -> StepOutput:
    try:
        return StepOutput(binascii.a2b_base64(_text(fields, "data", longest=MAX_LINE_BYTES), strict_mode=True))
    except ValueError:  # binascii.Error is one; so is text that is not ASCII
        raise ProtocolError("the runner sent a bad data") from None


def _exited(fields: _Fields) -> Exited:
    if (fields.get("status") is None) == (fields.get("signal") is None):
        raise ProtocolError("the runner sent a bad status")
    return Exited(
        id=_number(fields, "id"),
        status=None if fields.get("status") is None else _number(fields, "status", high=255),
        signal=None if fields.get("signal") is None else _number(fields, "signal", low=1, high=64),
    )


def _refused(fields: _Fields) -> StepRefused:
    return StepRefused(
        id=_number(fields, "id"), errno=_number(fields, "errno", high=4095), text=_text(fields, "text", longest=500)
    )


_MAKERS: dict[str, Callable[[_Fields], Message]] = {
    "ready": _ready,
    "out": _output,
    "exit": _exited,
    "done": lambda fields: Done(_number(fields, "id")),
    "pong": lambda fields: Done(_number(fields, "id")),
    "error": _refused,
    "took": lambda _fields: Took(),
    "fatal": lambda fields: Fatal(_text(fields, "text", longest=1000)),
}
