"""The orchestrator's side of a sandbox's network: what the launcher is told, what the guard tells (see sinkhole.py)."""

from __future__ import annotations

import json
import posixpath
import re
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from lxcbuild.errors import SandboxError
from lxcbuild.model import NetworkAttempt
from lxcbuild.policy import NetworkMode
from lxcbuild.sandbox.base import StepResult
from lxcbuild.sandbox.network.sinkhole import PROXY_PORT

#: Modes in which a guard watches.
GUARDED = frozenset({NetworkMode.SINKHOLE, NetworkMode.PROXY})
_ANSWER_S = 10.0
_MESSAGE_BYTES = 1 << 17
_PROGRAM_CHARS = 60
_VERB = re.compile(r"[\w.+/][\w.+/-]{0,150}", re.ASCII)
#: Scripts that only call what comes behind them: the hook runners of pyproject_hooks and of pep517, its former name.
_WRAPPERS = frozenset({"_in_process.py"})
_NO_PROXY = "localhost,127.0.0.1,::1"


def environment(mode: NetworkMode) -> Mapping[str, str]:
    """Variables that lead programs to the proxy, in mode proxy; in mode sinkhole, straight into the trap.

    dh-python's pybuild sets a proxy that does not exist (127.0.0.1:9) where these variables are not set, and removes empty ones:
    then the trap learns names and ports, where a refused proxy would hide them.
    """
    if mode is NetworkMode.SINKHOLE:
        return {"http_proxy": "", "https_proxy": ""}
    if mode is not NetworkMode.PROXY:
        return {}
    url = f"http://127.0.0.1:{PROXY_PORT}"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    return dict.fromkeys(names, url) | {"no_proxy": _NO_PROXY, "NO_PROXY": _NO_PROXY}


class GuardLine:
    """Our end of the line to a guard; ``theirs`` goes to the launcher, and must be closed here then."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(_ANSWER_S)

    def close(self) -> None:
        """Close our end: the guard ends. Idempotent."""
        self._ours.close()
        self.theirs.close()

    def complete(self, result: StepResult) -> StepResult:
        """The result with what the guard saw since the last one. Raises SandboxError when there is no guard any more."""
        seen = self.drain()
        if seen is not None:
            return replace(result, network=seen[0], network_lost=seen[1])
        if result.stopped_by is None:  # it dies with the sandbox, and nothing else may kill it
            raise SandboxError("the guard of the sandbox's network died")
        return result

    def drain(self) -> tuple[tuple[NetworkAttempt, ...], int] | None:
        """What was tried since the last call, and how many different attempts more; None when the guard is dead.

        Raises SandboxError when it does not answer.
        """
        attempts: list[NetworkAttempt] = []
        try:
            self._ours.send(b'{"op": "drain"}')
            while data := self._ours.recv(_MESSAGE_BYTES):
                message = json.loads(data)
                attempts += map(_attempt, message["attempts"])
                if message["end"]:
                    return tuple(attempts), message["lost"]
        except (BrokenPipeError, ConnectionResetError):
            return None
        except TimeoutError as error:
            raise SandboxError("the guard of the sandbox's network does not answer") from error
        return None


def _attempt(record: Mapping[str, Any]) -> NetworkAttempt:
    argv = tuple(record["argv"])
    return NetworkAttempt(
        protocol=record["protocol"],
        name=record["name"],
        address=record["address"],
        port=record["port"],
        allowed=record["allowed"],
        pid=record["pid"],
        program=program(argv, record["ancestors"]) or record["comm"] or None,
        argv=argv,
        count=record["count"],
        at=datetime.fromtimestamp(record["at"], UTC).isoformat(timespec="milliseconds"),
    )


def program(argv: Sequence[str], ancestors: Sequence[Sequence[str]]) -> str:
    """How people call the program: its name and what it does, such as ``git clone`` or ``python3 setup.py``.

    git gets from the network through helpers (git-remote-https), so that the command is an ancestor's.
    """
    words = list(argv)
    above = iter(ancestors)
    while words and _base(words[0]).startswith("git") and (parent := next(above, None)):
        if _base(parent[0]) != "git":
            break
        words = list(parent)
    if not words:
        return ""
    # The first word that is no option and looks like a command or a script says most.
    verb = next((word for word in words[1:] if _VERB.fullmatch(word) and _base(word) not in _WRAPPERS), "")
    return f"{_base(words[0])} {_base(verb)}".strip()[:_PROGRAM_CHARS]


def _base(word: str) -> str:
    return posixpath.basename(word.rstrip("/")) or word
