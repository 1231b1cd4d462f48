"""What the phases of one build work with. What they find out is in :mod:`lxcbuild.builder.facts`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from lxcbuild.builder.closure import Closure
from lxcbuild.builder.context import BuildContext
from lxcbuild.builder.request import BuildRequest, new_build_id
from lxcbuild.config.overrides import Override
from lxcbuild.debian.archive.apt import AptArchive
from lxcbuild.debian.archive.contents import ContentsIndex
from lxcbuild.events import Monitor, Note, Output
from lxcbuild.images.image import Image
from lxcbuild.images.layer import Layer
from lxcbuild.model import Converter, LayerUse, Phase, PhaseRecord, Usage
from lxcbuild.policy import Policy
from lxcbuild.sandbox.base import Bind, Instance, InstanceSpec, Step
from lxcbuild.sandbox.logs import LogWriter
from lxcbuild.state.claims import Claim
from lxcbuild.text import one_line


class Work(Struct, kw_only=True):
    """What the phases of one build share: its request, log, workspace and sandbox, and the account of what was done."""

    request: BuildRequest
    context: BuildContext
    build_id: str = field(default_factory=new_build_id)
    closure: Closure = field(default_factory=Closure)  # what is built together with this
    roomier: Policy | None = None  # of a second attempt, after the first one had filled its disk
    version: str = ""  # the upstream version, once known; what the distribution ships if that is the answer
    # for the outcome
    phases: list[PhaseRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checks: dict[str, object] = field(default_factory=dict)  # what checks on request found, by check
    limits_in_force: dict[str, object] = field(default_factory=dict)
    # what runs now
    phase: Phase = Phase.RESOLVE
    converter: Converter = Converter.PYPROJECT
    instance: Instance | None = None
    last_step: Step | None = None  # the newest command in that sandbox
    # private
    _name: str = ""
    _claim: Claim | None = None
    _log: LogWriter | None = None
    _usage: Usage = field(default_factory=Usage)
    _sandboxes: int = 0
    _savings: dict[str, float] = field(default_factory=dict)  # by layer, as when it was first used
    _layer_relations: tuple[str, ...] = ()

    # -- naming ---------------------------------------------------------------------------------------------

    @property
    def monitor(self) -> Monitor:
        """Who watches."""
        return self.context.monitor

    @property
    def name(self) -> str:
        """The best name known so far."""
        return self._name or self.request.display_name

    def identify(self, name: str, version: str) -> None:
        """Name and version are better known now; empty ones say nothing."""
        self._name, self.version = name or self._name, version or self.version

    @property
    def policy(self) -> Policy:
        """The limits for this package."""
        policy = self.roomier or self.context.policy_for(self.name)
        return policy if self.request.fork_server else replace(policy, fork_server=False)

    @property
    def override(self) -> Override:
        """What an administrator says of this project by hand."""
        return self.context.overrides.find(self.name, self.version, self.request.target)

    @property
    def archive(self) -> AptArchive:
        """The packages of the target."""
        return self.context.archive_for(self.request.target)

    @property
    def contents(self) -> ContentsIndex:
        """The files of the packages of the target."""
        return self.context.contents_for(self.request.target)

    @property
    def workspace(self) -> Path:
        """A directory of the host for this build alone; gone when the build ends, or its process."""
        if self._claim is None:
            dirs = self.context.dirs
            self._claim = Claim(dirs.run, dirs.lib / "work" / self.build_id)
        return self._claim.directory

    # -- talking --------------------------------------------------------------------------------------------

    @property
    def log_path(self) -> Path:
        """The build's log file."""
        return self.context.dirs.logs / f"{self.build_id}.log"

    @property
    def log(self) -> LogWriter:
        """Writes the build's log; opened when first used."""
        if self._log is None:
            self._log = LogWriter(self.log_path)
        return self._log

    def enter(self, phase: Phase, converter: Converter) -> None:
        """A phase begins."""
        self.phase, self.converter = phase, converter
        self.log.heading(str(phase))

    def note(self, text: str, *, warning: bool = False) -> None:
        """Tell people something that does not stop the build; kept in the record, as one safe line whatever it was made of."""
        text = one_line(text, longest=2000)
        if text not in self.notes:
            self.notes.append(text)
            self.log.remark(text)
            self.monitor.emit(Note(text=text, build_id=self.build_id, warning=warning))

    def hear(self, data: bytes) -> None:
        """Output of a step: to the log and to those who watch."""
        self.log.write(data)
        self.monitor.emit(Output(build_id=self.build_id, phase=self.phase, data=data))

    # -- sandboxes ------------------------------------------------------------------------------------------

    def open_sandbox(
        self,
        lowers: Sequence[Path],
        *,
        binds: Sequence[Bind] = (),
        hostname: str = "build",
        policy: Policy | None = None,
    ) -> Instance:
        """A started sandbox of this build; the driver gives it back when the phase fails or ``finish_sandbox`` is called.

        ``policy`` is for a step of ours whose network differs from the build's.
        """
        assert self.instance is None, "the last sandbox was not given back"
        self._sandboxes += 1
        self.last_step = None
        spec = InstanceSpec(
            instance_id=f"{self.build_id}.{self._sandboxes}",
            lowers=tuple(lowers),
            policy=policy or self.policy,
            binds=tuple(binds),
            hostname=hostname,
        )
        self.instance = self.context.backend.create(spec)
        self.instance.start()
        self.limits_in_force = dict(self.instance.limits_in_force)
        if self.phase is not Phase.VERIFY:
            self.context.backend.prestart()  # for the next phase, while this one works
        return self.instance

    def provide(self, image: Image, *groups: Sequence[str]) -> Layer:
        """The image with packages of the target on top, in groups that each stand on the one before; raises DependencyError."""
        return self.context.layers.provide(image, self.archive, *groups)

    def using(self, layer: Layer, *, relations: tuple[str, ...] | None = None) -> Layer:
        """Count what its layers save this build, each once, as it was when it was asked for first.

        ``relations``: what the build layer holds on top of the toolchain was asked for by these.
        """
        self._savings = {**layer.savings, **self._savings}
        if relations is not None:
            self._layer_relations = relations
        return layer

    def layer_use(self) -> LayerUse | None:
        """What layers did so far; None before there was any."""
        if not self._savings:
            return None
        known = sum(seconds > 0 for seconds in self._savings.values())
        return LayerUse(
            saved_s=round(sum(self._savings.values()), 3),
            known=known,
            made=len(self._savings) - known,
            relations=self._layer_relations,
        )

    def charge(self, usage: Usage) -> None:
        """Add what a sandbox consumed to the running phase: sums add up, peaks are the larger one."""
        self._usage = add_usage(self._usage, usage)

    def take_usage(self) -> Usage:
        """What the sandboxes of the phase consumed, and start anew."""
        taken, self._usage = self._usage, Usage()
        return taken

    def finish_sandbox(self) -> None:
        """Give the sandbox back."""
        if self.instance is not None:
            instance, self.instance = self.instance, None
            instance.close()

    def close(self) -> None:
        """Give everything back. Idempotent."""
        self.finish_sandbox()
        if self._log is not None:
            self._log.close()
        if self._claim is not None:
            self._claim.release()


def add_usage(first: Usage, second: Usage) -> Usage:
    """The cost of two things after each other: sums, and for peaks the larger one."""
    return replace(
        first,
        wall_s=first.wall_s + second.wall_s,
        cpu_s=first.cpu_s + second.cpu_s,
        peak_memory_bytes=max(first.peak_memory_bytes, second.peak_memory_bytes),
        read_bytes=first.read_bytes + second.read_bytes,
        written_bytes=first.written_bytes + second.written_bytes,
        peak_pids=max(first.peak_pids, second.peak_pids),
        throttled_s=first.throttled_s + second.throttled_s,
        oom_kills=first.oom_kills + second.oom_kills,
        pids_denied=first.pids_denied + second.pids_denied,
        peak_disk_bytes=max(first.peak_disk_bytes, second.peak_disk_bytes),
    )
