"""Packages of a run into an APT repository, many at a time: each publication signs and replaces the suite's lists."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from lxcbuild.builder.ready import Ready
from lxcbuild.debian.repository.aptrepo import Repository
from lxcbuild.model import Target
from lxcbuild.state.paths import StateDirs

#: Seconds between two publications of a suite. What a killed run has not published is published when it goes on.
_EVERY_S = 20.0


class Publisher:
    """Collects what was built, and publishes it now and then, and at the end. The repository is made when there is none."""

    def __init__(self, directory: Path, dirs: StateDirs) -> None:
        """Raises RepositoryError for a directory that is something else."""
        self._repository = Repository.open_or_init(directory, key_home=dirs.lib / "repo-keys" / secrets.token_hex(8))
        self._waiting: dict[Target, list[Path]] = {}
        self._last = time.monotonic()

    def add(self, target: str, builds: Sequence[Ready]) -> None:
        """These builds are to be published."""
        paths = [artifact.path for ready in builds for artifact in ready.artifacts]
        self._waiting.setdefault(Target.parse(target), []).extend(paths)
        if time.monotonic() - self._last >= _EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Publish what waits. A project that was built again takes the place of its older packages."""
        waiting, self._waiting = self._waiting, {}
        for target, paths in waiting.items():
            self._repository.publish(target, paths, replace=True)
        self._last = time.monotonic()
