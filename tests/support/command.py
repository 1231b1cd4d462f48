"""How tests call the command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxcbuild.state.paths import StateDirs


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """What a ``--json`` run printed."""
        parsed: dict[str, Any] = json.loads(self.stdout)
        return parsed


LxcBuild = Callable[..., Ended]


def argv(state: StateDirs, *arguments: str | Path) -> list[str]:
    """The command line that runs this very code on a state directory."""
    own = [sys.executable, "-m", "lxcbuild", "--state-dir", os.fspath(state.lib.parent)]
    return [*own, *(os.fspath(item) for item in arguments)]
