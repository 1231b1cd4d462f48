"""One private apt root: its directories, its configuration file, its runs of apt's programs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from lxcbuild import process
from lxcbuild.errors import CommandError, DiskFullError, NetworkError
from lxcbuild.files import write_whole
from lxcbuild.process import Completed

#: Which index files a root fetches; see apt-transport documentation "acquire-additional-files". Contents files lie below the
#: component in Debian and at the top of the suite in Ubuntu; what a suite lacks is skipped.
_TARGETS = {
    "packages": "",
    "contents": """
Acquire::IndexTargets {
  deb::Packages::DefaultEnabled "false";
  deb::Contents-arch { MetaKey "$(COMPONENT)/Contents-$(ARCHITECTURE)"; ShortDescription "Contents"; Description "Contents";
    KeepCompressed "true"; KeepCompressedAs "gz"; PDiffs "false"; Optional "true"; };
  deb::Contents-top { MetaKey "Contents-$(ARCHITECTURE)"; ShortDescription "Contents"; Description "Contents";
    KeepCompressed "true"; KeepCompressedAs "gz"; PDiffs "false"; Optional "true"; };
};
""",
    "sources": "",
}

_UNREACHABLE = (
    "Temporary failure resolving", "Could not resolve", "Could not connect", "Connection failed", "Connection timed out",
    "Unable to connect", "Failed to fetch", "Network is unreachable", "Cannot initiate the connection", "Connection refused",
    "Could not handshake", "Certificate verification failed", "404  Not Found", "Some index files failed to download",
)  # fmt: skip


class AptRoot:
    """A directory that holds everything apt reads and writes for one purpose."""

    def __init__(
        self, path: Path, *, architecture: str, targets: Literal["packages", "contents", "sources"] = "packages"
    ) -> None:
        self.path = path
        self._architecture = architecture
        self._targets = targets

    @property
    def _stamp(self) -> Path:
        return self.path / "updated"

    def age_s(self) -> float:
        """Seconds since the lists were fetched; infinite when they never were, or only in part."""
        try:
            return max(0.0, time.time() - self._stamp.stat().st_mtime)
        except FileNotFoundError:
            return float("inf")

    def is_fresh(self, *, max_age_s: float) -> bool:
        """Whether lists were fetched, and no longer ago than ``max_age_s``."""
        age_s = self.age_s()
        return age_s != float("inf") and age_s <= max_age_s

    def digest(self) -> str:
        """SHA-256 over the signed Release files, as recorded when the lists were fetched."""
        return self._stamp.read_text().strip()

    def update(self, source_lines: Sequence[str], inherited: Sequence[str]) -> str | None:
        """Fetch the lists; the caller holds the lock. Raises :class:`NetworkError`; then the lists are as they were.

        Contents files may be incomplete (mirrors are late with those of small suites): then what failed is returned. Those of the
        suite itself, which the first line names, have to be there, if only from an earlier time.
        """
        self._write_configuration(source_lines, inherited)
        failed = None
        try:
            with network_or("package lists"):
                self.run("apt-get", ["-q", "update", "-o", "APT::Update::Error-Mode=any"])
        except NetworkError as error:
            suite = source_lines[0].split("]")[-1].split()[-2] if source_lines else ""
            if self._targets != "contents" or not any((self.path / "lists").glob(f"*_dists_{suite}_*Contents*")):
                raise
            failed = next(
                (line for line in (error.details or "").splitlines() if "Failed to fetch" in line), error.brief
            )
        hashed = hashlib.sha256()
        for release in sorted((self.path / "lists").glob("*Release")):
            hashed.update(release.read_bytes())
        write_whole(self._stamp, hashed.hexdigest() + "\n", durable=False)
        return failed

    def _write_configuration(self, source_lines: Sequence[str], inherited: Sequence[str]) -> None:
        for name in ("lists/partial", "archives/partial", "empty", "state"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        (self.path / "status").touch()
        lines = source_lines
        if self._targets == "sources":
            lines = [line.replace("deb ", "deb-src ", 1) for line in source_lines]
        write_whole(self.path / "sources.list", "".join(f"{line}\n" for line in lines), durable=False)
        write_whole(self.path / "apt.conf", self._configuration(inherited), durable=False)

    def _configuration(self, inherited: Sequence[str]) -> str:
        """APT_CONFIG is read before Dir::Etc::parts and ::main (apt.conf(5)): pointing those at nothing keeps the host out."""
        at, empty = self.path, self.path / "empty"
        own = [
            f'APT::Architecture "{self._architecture}";',
            f'APT::Architectures {{ "{self._architecture}"; }};',
            f'Dir::Etc::parts "{empty}";',
            f'Dir::Etc::main "{empty}/apt.conf";',
            f'Dir::Etc::preferences "{empty}/preferences";',
            f'Dir::Etc::preferencesparts "{empty}";',
            f'Dir::Etc::sourcelist "{at}/sources.list";',
            f'Dir::Etc::sourceparts "{empty}";',
            f'Dir::State "{at}/state";',
            f'Dir::State::lists "{at}/lists";',
            f'Dir::State::status "{at}/status";',
            f'Dir::Cache "{at}";',
            f'Dir::Cache::archives "{at}/archives";',
            f'Dir::Log "{at}/state";',
            'Acquire::Languages "none";',
            'Acquire::PDiffs "false";',
            'APT::Get::Always-Include-Phased-Updates "true";',
            'Debug::NoLocking "true";',  # our own locks do it
        ]
        return "\n".join([*inherited, *own]) + "\n" + _TARGETS[self._targets]

    def run(
        self, program: str, arguments: Sequence[str], *, status: Path | None = None, check: bool = True
    ) -> Completed:
        """Run one of apt's programs on this root, with another dpkg status file if one is given."""
        options = [] if status is None else ["-o", f"Dir::State::status={os.fspath(status)}"]
        return process.run(
            [program, *options, *arguments], env={"APT_CONFIG": os.fspath(self.path / "apt.conf")}, check=check
        )

    def remove(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.path, ignore_errors=True)


def unreachable(said: str) -> bool:
    """Whether what apt printed means that a mirror could not be reached or lacked a file."""
    return any(phrase in said for phrase in _UNREACHABLE)


@contextlib.contextmanager
def network_or(what: str) -> Iterator[None]:
    """Turn the errors of a program that fetches into :class:`NetworkError` or :class:`DiskFullError` where they are one."""
    try:
        yield
    except CommandError as error:
        said = error.details or ""
        if "No space left on device" in said:
            raise DiskFullError(
                f"no space left on device while fetching {what}", resolution="free some space: lxcbuild gc"
            ) from error
        if unreachable(said):
            raise NetworkError(
                f"cannot fetch {what}: a mirror cannot be reached or lacks the file",
                details=said,
                resolution="check the network and the host's apt sources with: apt-get update",
            ) from error
        raise
