"""Which process inside holds a socket: walks the processes below a launcher, reads what they say they are. Standard library only.

Runs outside the sandbox, on the host's /proc. All texts are the build's own words: bounded and printable here, believed nowhere.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lxcbuild.text import in_ascii

_ARGUMENTS, _ARGUMENT_CHARS, _ANCESTORS = 8, 160, 6
#: How long one search may take: a build with very many processes and descriptors stays anonymous then.
_SEARCH_S = 0.2


@dataclass(frozen=True)
class Culprit:
    """One process: its number inside, its name, its arguments, and the arguments of its ancestors, parent first."""

    pid: int
    comm: str
    argv: tuple[str, ...]
    ancestors: tuple[tuple[str, ...], ...]


def holder(inode: int, *, root_pid: int) -> Culprit | None:
    """The youngest process below ``root_pid`` that has this socket open; None when there is none, or it is gone already."""
    wanted = f"socket:[{inode}]"
    deadline = time.monotonic() + _SEARCH_S
    for pid in reversed(list(_below(root_pid))):
        if time.monotonic() > deadline:
            return None
        if _holds(pid, wanted, deadline):
            return describe(pid, root_pid=root_pid)
    return None


def _below(root_pid: int) -> Iterator[int]:
    """All descendants but the caller, oldest generation first."""
    queue = [root_pid]
    own = os.getpid()
    while queue:
        pid = queue.pop(0)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                children = (task / "children").read_text()
                found = [int(word) for word in children.split() if int(word) != own]
                queue += found
                yield from found


def _holds(pid: int, wanted: str, deadline: float) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), os.scandir(f"/proc/{pid}/fd") as entries:
        for number, entry in enumerate(entries):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if os.readlink(entry.path) == wanted:  # noqa: PTH115 - thousands of them
                    return True
            if not number % 256 and time.monotonic() > deadline:
                break
    return False


def describe(pid: int, *, root_pid: int) -> Culprit | None:
    """What a process says about itself; None when it is gone."""
    try:
        status = _status(pid)
        ancestors: list[tuple[str, ...]] = []
        parent = int(status["PPid"])
        # Not PID 1 inside: that is our runner, the launcher's child.
        while len(ancestors) < _ANCESTORS and parent > 1:
            above = int(_status(parent)["PPid"])
            if above in (root_pid, 0):
                break
            ancestors.append(_arguments(parent))
            parent = above
        return Culprit(
            int(status["NSpid"].split()[-1]),
            in_ascii(status["Name"], longest=_ARGUMENT_CHARS),
            _arguments(pid),
            tuple(ancestors),
        )
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return None


def _status(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _arguments(pid: int) -> tuple[str, ...]:
    with Path(f"/proc/{pid}/cmdline").open("rb") as file:
        words = file.read(8192).split(b"\0")[:_ARGUMENTS]
    return tuple(in_ascii(word.decode(errors="replace"), longest=_ARGUMENT_CHARS) for word in words if word)
