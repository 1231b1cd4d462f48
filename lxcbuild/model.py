"""The nouns of the project: frozen values that every room shares. No I/O, no behaviour beyond small derived facts."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from lxcbuild.errors import BadNameError

_WORD = re.compile(r"[a-z0-9][a-z0-9.+-]{0,62}")


class Target(Struct, frozen=True, order=True):
    """What packages are built for: one suite of one distribution on one architecture, written ``debian/bookworm``."""

    distribution: str
    suite: str
    architecture: str = "amd64"

    @classmethod
    def parse(cls, text: str, *, architecture: str = "amd64") -> Target:
        """Read ``debian/bookworm`` or ``debian/bookworm/amd64``; raises :class:`BadNameError` on anything else."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(_WORD.fullmatch(part) for part in parts):
            raise BadNameError(
                f"{text[:80]!r} is not a target",
                resolution="write it as distribution/suite, for example debian/bookworm",
            )
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else architecture)

    @property
    def image_name(self) -> str:
        """The name of the base image recipe, for example ``debian-bookworm``."""
        return f"{self.distribution}-{self.suite}"

    def __str__(self) -> str:
        return f"{self.distribution}/{self.suite}"


class SourceKind(enum.StrEnum):
    """Where the sources of a build come from."""

    SDIST = "sdist"  # a source archive of the package index, or a local one
    TREE = "tree"  # a local project directory, packed by the host without reading it
    DSC = "dsc"  # a Debian source package


class Source(Struct, frozen=True, kw_only=True):
    """One input of a build: a file in the download cache, with what is known of it without opening it."""

    kind: SourceKind
    name: str  # normalised (PEP 503) for Python projects, the source package's name for DSC
    version: str  # PEP 440 text, or the Debian version for DSC; empty when only the archive knows it
    path: Path  # the archive (SDIST, TREE) or the .dsc
    sha256: str
    size_bytes: int
    url: str | None = None
    requires_python: str | None = None
    uploaded_at: str | None = None  # ISO 8601
    extra_files: tuple[Path, ...] = ()  # the files that a .dsc names


# -- results ----------------------------------------------------------------------------------------------------


class FailureClass(enum.StrEnum):
    """The closed vocabulary of why a build failed."""

    NO_SDIST = "no-sdist"
    BROKEN_SDIST = "broken-sdist"
    OFFICIAL = "official"
    UNSATISFIABLE = "unsatisfiable"
    DEP_MISSING = "dep-missing"
    BUILD_DEP_MISSING = "build-dep-missing"
    CONVERT_FAILED = "convert-failed"
    COMPILE_FAILED = "compile-failed"
    TESTS_FAILED = "tests-failed"
    NETWORK_DENIED = "network-denied"
    WROTE_OUTSIDE = "wrote-outside"
    GATE_REJECTED = "gate-rejected"
    INSTALL_FAILED = "install-failed"
    IMPORT_FAILED = "import-failed"
    OOM = "oom"
    DISK_FULL = "disk-full"
    PIDS_EXHAUSTED = "pids-exhausted"
    TIMEOUT = "timeout"
    SILENT = "silent"
    LOG_FLOOD = "log-flood"
    SANDBOX_FAILED = "sandbox-failed"
    CANCELLED = "cancelled"
    HOST_REFUSED = "host-refused"

    @property
    def retryable(self) -> bool:
        """Whether the same build can succeed when it is tried again (possibly with raised limits or on a quiet host)."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        FailureClass.OOM,
        FailureClass.DISK_FULL,
        FailureClass.PIDS_EXHAUSTED,
        FailureClass.TIMEOUT,
        FailureClass.SILENT,
        FailureClass.SANDBOX_FAILED,
        FailureClass.CANCELLED,
        FailureClass.HOST_REFUSED,
    }
)


class Converter(enum.StrEnum):
    """What writes ``debian/`` for a Python project."""

    PYPROJECT = "pyproject"
    STDEB = "stdeb"


class Phase(enum.StrEnum):
    """The phases of one build, in their order."""

    RESOLVE = "resolve"
    FETCH = "fetch"
    INSPECT = "inspect"
    PROVISION = "provision"
    DEBIANIZE = "debianize"
    COMPILE = "compile"
    VERIFY = "verify"
    COLLECT = "collect"


class Usage(Struct, frozen=True, kw_only=True):
    """What a sandbox or phase consumed, from kernel counters."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    peak_pids: int = 0
    throttled_s: float = 0.0
    oom_kills: int = 0
    pids_denied: int = 0
    peak_disk_bytes: int = 0


class NetworkAttempt(Struct, frozen=True, kw_only=True):
    """Something inside wanted the network. Texts are the build's own words: bounded, printable, not to be believed."""

    protocol: str  # tcp, udp, icmp ...; dns: a name was asked for and not used; proxy: a request to the policy's proxy
    name: str | None  # of the host, where it was asked for by name
    address: str | None  # otherwise
    port: int | None
    allowed: bool = False  # let through by the policy's proxy
    pid: int | None = None  # inside; None: the process was gone before it could be looked up
    program: str | None = None  # short, such as "git clone"
    argv: tuple[str, ...] = ()
    count: int = 1
    at: str = ""  # the first time; ISO 8601 in UTC

    @property
    def target(self) -> str:
        """Such as ``github.com:443``."""
        host = self.name or self.address or "?"
        if self.port is None:
            return host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def __str__(self) -> str:
        times = f", {self.count} times" if self.count > 1 else ""
        verdict = " allowed" if self.allowed else ""
        return f"{self.target}{f' ({self.program})' if self.program else ''}, {self.protocol}{verdict}{times}"


class PhaseRecord(Struct, frozen=True, kw_only=True):
    """One finished phase. ``started_at`` is ISO 8601 in UTC."""

    phase: Phase
    started_at: str
    usage: Usage


class Failure(Struct, frozen=True, kw_only=True):
    """Why a build failed: data, with prose only for people."""

    failure_class: FailureClass
    phase: Phase
    brief: str
    details: str | None = None
    resolution: str | None = None

    @property
    def retryable(self) -> bool:
        """See :attr:`FailureClass.retryable`."""
        return self.failure_class.retryable


class Artifact(Struct, frozen=True, kw_only=True):
    """One sealed result file."""

    path: Path
    sha256: str
    size_bytes: int


class BuiltPackages(Struct, frozen=True, kw_only=True):
    """What another build made, which the packages of this one need."""

    build_id: str
    name: str
    version: str
    artifacts: tuple[Artifact, ...]


class Status(enum.StrEnum):
    """How a build ended."""

    BUILT = "built"
    OFFICIAL = "official"
    FAILED = "failed"


class LayerUse(Struct, frozen=True, kw_only=True):
    """What dependency layers did for a build. ``saved_s``: seconds that making those had taken that were there already;
    ``relations``: what its build layer was asked for on top of the toolchain, in Debian's syntax."""

    saved_s: float = 0.0
    known: int = 0
    made: int = 0
    relations: tuple[str, ...] = ()


class Outcome(Struct, frozen=True, kw_only=True):
    """The whole result of one build, as recorded in the ledger and printed by ``--json``."""

    build_id: str
    name: str
    version: str
    target: Target
    status: Status
    failure: Failure | None = None
    artifacts: tuple[Artifact, ...] = ()
    phases: tuple[PhaseRecord, ...] = ()
    log_path: Path | None = None
    limits_in_force: Mapping[str, object] = field(default_factory=dict)
    dependencies: tuple[BuiltPackages, ...] = ()  # what has to be installed with it: built as well, or before
    reused: bool = False  # nothing was done: an earlier build with the same inputs
    notes: tuple[str, ...] = ()  # things a user should know although the build went on (dropped bounds, files outside)
    checks: Mapping[str, object] = field(default_factory=dict)  # what checks on request found, by check
    layers: LayerUse | None = None  # None where it came to no layer
