"""The two nouns of this room: a backend says whether it can run here and makes instances; an instance lives one sandbox's life.

Order of an instance's life: ``start``, any number of ``run`` (or ``interact``), ``stop`` (everything inside is dead from here
on), then ``extract``, ``changes``, ``save_delta``, and ``close``. Instances are context managers; leaving the block closes them.
``cancel`` may be called from any thread at any moment.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct, field

from lxcbuild.model import FailureClass, NetworkAttempt, Usage
from lxcbuild.policy import OutputLimits, Policy

OutputSink = Callable[[bytes], None]


class User(enum.StrEnum):
    """Who a step runs as, inside."""

    BUILD = "build"  # uid and gid 1000, no capabilities, empty bounding set
    ROOT = "root"  # the inner root; for trusted installs only


class Bind(Struct, frozen=True, kw_only=True):
    """A host file or directory, shown read-only inside at an absolute path (normally below ``/in``)."""

    host: Path
    inside: str


class InstanceSpec(Struct, frozen=True, kw_only=True):
    """All that a backend needs to make an instance. ``lowers`` are root-owned directories, topmost layer first."""

    instance_id: str
    lowers: tuple[Path, ...]
    policy: Policy
    binds: tuple[Bind, ...] = ()
    hostname: str = "build"


class Step(Struct, frozen=True, kw_only=True):
    """One command. The environment inside starts from PATH, HOME, LANG=C.UTF-8 and TMPDIR; ``env`` is put on top.

    Time limits are the policy's unless given. ``stdin`` is /dev/null unless bytes are given.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/build"
    user: User = User.BUILD
    stdin: bytes | None = None
    wall_s: float | None = None
    silence_s: float | None = None


class StepResult(Struct, frozen=True, kw_only=True):
    """How a step ended: an exit status or a signal, and the limit that ended it, if one did.

    ``stopped_by`` is one of timeout, silent, oom, disk-full, pids-exhausted, log-flood, sandbox-failed, cancelled, or None.
    It is decided from kernel counters and our own clocks, never from the text of the output. A step that failed while the
    tmpfs was full, or forks were denied, carries that class too.
    """

    exit_status: int | None
    signal: int | None
    stopped_by: FailureClass | None
    usage: Usage
    output_bytes: int
    output_truncated: bool
    network: tuple[NetworkAttempt, ...] = ()  # what was tried, in the modes sinkhole and proxy; in order of time
    network_lost: int = 0  # different attempts beyond those that are remembered

    @property
    def ok(self) -> bool:
        """Whether the command itself succeeded."""
        return self.exit_status == 0 and self.stopped_by is None


class ExtractedFile(Struct, frozen=True, kw_only=True):
    """One regular file taken out of a sandbox. ``name`` is relative, with ``/``."""

    name: str
    path: Path
    sha256: str
    size_bytes: int


class ChangeKind(enum.StrEnum):
    """What a path of the writable layer says about the image below."""

    WRITTEN = "written"
    DELETED = "deleted"


class TreeChange(Struct, frozen=True, kw_only=True):
    """One path (absolute, as seen inside) that differs from the image."""

    path: str
    kind: ChangeKind


class Instance(Protocol):
    """One sandbox."""

    spec: InstanceSpec

    def start(self) -> None:
        """Make and boot it; returns when the runner inside answers. Raises SandboxError or HostError."""

    @property
    def limits_in_force(self) -> Mapping[str, object]:
        """Limits as read back from the kernel after start: dotted policy name to value (and the file it was read from)."""

    def put(self, inside: str, data: bytes, *, mode: int = 0o644, user: User = User.BUILD) -> None:
        """Write one small file inside (parents are made); for scripts and configuration of ours."""

    def run(self, step: Step, on_output: OutputSink) -> StepResult:
        """Run one command to its end, handing its output (stdout and stderr together) to ``on_output`` as it comes."""

    def interact(self, step: Step) -> int:
        """Run one command on a pseudo-terminal inside, joined to the caller's terminal; returns its exit status."""

    def cancel(self) -> None:
        """Kill everything inside at once; a ``run`` in another thread returns with ``stopped_by`` cancelled."""

    def stop(self) -> Usage:
        """Kill everything inside, wait until it is dead, return what the whole life cost."""

    def extract(self, inside_dir: str, destination: Path, limits: OutputLimits) -> Sequence[ExtractedFile]:
        """Copy regular files out, only after ``stop``; raises ExtractionError on anything that is not allowed."""

    def changes(self, *, prefixes: Sequence[str] = ("/",)) -> Iterable[TreeChange]:
        """What the writable layer holds below the prefixes; only after ``stop``."""

    def save_delta(self, destination: Path, *, max_bytes: int | None = None) -> None:
        """Copy the writable layer to a new directory as an overlay lower: owners shifted back to 0-based ids, whiteouts and
        opaque marks kept, every other overlay attribute, setuid bits of untrusted origin and ACLs dropped; only after ``stop``.
        Raises ExtractionError for files of more than ``max_bytes`` together."""

    def close(self) -> None:
        """Give everything back. Idempotent; never raises for what is already gone."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BackendVerdict(Struct, frozen=True, kw_only=True):
    """Whether a backend can run here; ``reason`` and ``resolution`` when it cannot."""

    usable: bool
    reason: str | None = None
    resolution: str | None = None


class Backend(Protocol):
    """A way of making sandboxes."""

    name: str

    def probe(self) -> BackendVerdict:
        """Say whether instances can be made on this host, by trying what matters."""

    def prestart(self) -> None:
        """Prepare the next instance's start in the background; idempotent, never waits."""

    def create(self, spec: InstanceSpec) -> Instance:
        """Make an instance that is not yet started. Raises LimitRefusedError for a limit that cannot be enforced."""
