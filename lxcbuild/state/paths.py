"""Where lxcbuild keeps things: one object that every path comes from, so that two state directories never meet."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT_VARIABLE = "LXCBUILD_STATE_DIR"
LEDGER_VARIABLE = "LXCBUILD_LEDGER"

#: The one place that all state directories of a machine share: who builds here at the moment, see slots.py.
MACHINE_SLOTS = Path("/run/lock/lxcbuild")


@dataclass(frozen=True, slots=True)
class StateDirs:
    """Three roots: ``lib`` (ledger, logs, artefacts; worth a backup), ``cache`` (can be made again), ``run`` (gone at boot)."""

    lib: Path
    cache: Path
    run: Path
    ledger_url: str | None = None  # of a server that keeps the ledger instead of the file

    @classmethod
    def choose(cls, state_dir: Path | str | None = None, *, ledger: str | None = None) -> StateDirs:
        """The one directory given, else ``LXCBUILD_STATE_DIR``, else the system's ``/var/lib``, ``/var/cache``, ``/run``.

        ``ledger``, else ``LXCBUILD_LEDGER``, is the URL of a database server.
        """
        url = ledger or os.environ.get(LEDGER_VARIABLE) or None
        chosen = state_dir or os.environ.get(ENVIRONMENT_VARIABLE)
        if not chosen:
            return cls(Path("/var/lib/lxcbuild"), Path("/var/cache/lxcbuild"), Path("/run/lxcbuild"), url)
        root = Path(chosen).absolute()
        return cls(root / "lib", root / "cache", root / "run", url)

    @property
    def has_ledger(self) -> bool:
        """Whether anything can have been recorded yet."""
        return self.ledger_url is not None or self.ledger.exists()

    @property
    def tag(self) -> str:
        """Eight hexadecimal digits that differ between state directories: part of every cgroup and mount name of ours."""
        import hashlib  # brings OpenSSL in: 3 ms, which --version and --help do not pay

        return hashlib.sha256(os.fsencode(self.run)).hexdigest()[:8]

    @property
    def cgroup(self) -> str:
        """Name of the cgroup, below each hierarchy's root, that holds all sandboxes of this state directory."""
        return f"lxcbuild-{self.tag}"

    @property
    def ledger(self) -> Path:
        """The SQLite file."""
        return self.lib / "ledger.sqlite"

    @property
    def logs(self) -> Path:
        """One log file per build: ``<build id>.log``."""
        return self.lib / "logs"

    @property
    def artifacts(self) -> Path:
        """Sealed results, one directory per build."""
        return self.lib / "artifacts"

    @property
    def bulk(self) -> Path:
        """Bulk runs, one directory each: plan, journal, results that are not yet recorded."""
        return self.lib / "bulk"

    @property
    def failed(self) -> Path:
        """States of failed builds, one directory per build, for a while."""
        return self.lib / "failed"

    @property
    def downloads(self) -> Path:
        """Content-addressed cache of fetched files."""
        return self.cache / "downloads"

    @property
    def images(self) -> Path:
        """Cold form of base images and layers: compressed archives and their records."""
        return self.cache / "images"

    @property
    def archives(self) -> Path:
        """Per suite: package lists, contents index, downloaded .deb files."""
        return self.cache / "archives"

    @property
    def hot(self) -> Path:
        """Mount point of the tmpfs that holds unpacked images and layers, shared read-only by all builds."""
        return self.run / "hot"

    @property
    def instances(self) -> Path:
        """One directory per live sandbox."""
        return self.run / "instances"

    @property
    def locks(self) -> Path:
        """Lock files; they vanish at boot, as their holders do."""
        return self.run / "locks"
