"""From a plan to jobs that workers understand, and from what the ledger has to what a job need not do again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from lxcbuild.builder.ready import Ready, find_ready, influences, sound
from lxcbuild.builder.remembered import remembered
from lxcbuild.builder.request import BuildOptions, BuildRequest
from lxcbuild.config.overrides import Overrides
from lxcbuild.errors import InputError, UnknownBuildError
from lxcbuild.farm.engines.engine import Provided, StoredFile
from lxcbuild.ledger.records import Records
from lxcbuild.model import Target
from lxcbuild.plan.capacity import Need, cpu_need, memory_need
from lxcbuild.plan.document import Estimate, Member, Plan, PlannedJob
from lxcbuild.plan.retries import Attempt
from lxcbuild.plan.schedule import Task
from lxcbuild.pypi.versions.version_caps import VersionCap
from lxcbuild.state.paths import StateDirs

#: Of a request, what concerns one project and not the whole run.
_OWN = ("hashes", "with_deps")


def options_text(options: BuildOptions) -> dict[str, str | bool | None]:
    """The options of builds as a plan's file keeps them."""
    return cast("dict[str, str | bool | None]", msgspec.to_builtins(options))


def options_from(kept: Mapping[str, str | bool | None]) -> BuildOptions:
    """The options of a plan's file, which people may edit; raises :class:`InputError`."""
    try:
        return msgspec.convert({name: value for name, value in kept.items() if value is not None}, BuildOptions)
    except msgspec.ValidationError as error:
        raise InputError(
            f"the options of the plan: {error}", resolution="mend them there, or make the plan again: lxcbuild plan"
        ) from None


def request_for(member: Member, job: PlannedJob, options: Mapping[str, str | bool | None]) -> BuildRequest:
    """The request of one build. The plan has settled already that the suite does not ship it."""
    return BuildRequest(
        **asdict(options_from(options)),
        requirement=member.requirement,
        target=Target.parse(job.target),
        force=True,
        needed_by="" if member.asked else "others of a plan",
        hashes=(("sha256", member.sha256),) if member.sha256 else (),
    )


def known_failures(ledger: Records, plan: Plan, *, policy: str) -> dict[str, dict[str, VersionCap]]:
    """What earlier runs could not build, by target and project, for the targets of a plan."""
    targets = {job.target for job in plan.jobs.values()}
    images = {target: plan.targets[target].image or None if target in plan.targets else None for target in targets}
    return {t: remembered(ledger, Target.parse(t), policy=policy, image=image) for t, image in images.items()}


class BuildCache(Struct, frozen=True, kw_only=True):
    """Where earlier builds are found."""

    dirs: StateDirs
    ledger: Records
    overrides: Overrides

    def find(self, plan: Plan, key: str) -> tuple[Ready, ...] | None:
        """All builds of a job, if each of them was made before with the same inputs."""
        job = plan.jobs[key]
        found = []
        for member in job.members:
            request = request_for(member, job, plan.options)
            if not member.sha256 or request.wants_checks:
                return None
            like = {name: value for name, value in influences(request).items() if name not in _OWN}
            ready = find_ready(
                self.ledger,
                self.dirs,
                name=member.name,
                version=member.version,
                target=request.target,
                sha256=member.sha256,
                like=like,
                override=self.overrides.find(member.name, member.version, request.target).digest,
            )
            if ready is None:
                return None
            found.append(ready)
        return tuple(found)

    def load(self, build_ids: Iterable[str]) -> tuple[Ready, ...] | None:
        """Recorded builds with their packages; None when one of them is gone."""
        found = []
        for build_id in build_ids:
            try:
                ready = sound(self.ledger.find(build_id), self.dirs)
            except UnknownBuildError:
                return None
            if ready is None:
                return None
            found.append(ready)
        return tuple(found)


def provided(ready: Ready) -> Provided:
    """An earlier build as jobs carry it: without what only people read."""
    record = replace(
        ready.record,
        phases=(),
        notes=(),
        limits_in_force={},
        log_path=None,
        artifacts=ready.artifacts,
    )
    files = tuple(StoredFile(name=a.path.name, sha256=a.sha256, size_bytes=a.size_bytes) for a in ready.artifacts)
    return Provided(record=record, files=files)


def task_for(key: str, job: PlannedJob, *, limit_bytes: int) -> Task:
    """A job as the schedule sees it; ``limit_bytes`` is what its policy allows."""
    estimate = job.estimate

    def need_of(attempt: Attempt) -> Need:
        if attempt.is_raised:
            memory = memory_need((), limit_bytes=limit_bytes, raised=max(attempt.memory, 1.0))
        else:
            memory = estimate.memory_bytes
        return Need(memory_bytes=memory, cpus=estimate.cpus)

    return Task(key=key, needs=frozenset(job.needs), seconds=max(estimate.seconds, 0.001), need_of=need_of)


#: Until something was measured: what a small pure Python project takes.
UNMEASURED_S = 20.0


def estimate_for(costs: Iterable[tuple[float, float, int]], *, members: int, limit_bytes: int, cpus: float) -> Estimate:
    """An estimate from (seconds, CPU seconds, peak bytes) of earlier builds of a job's members, as far as there are any."""
    known = list(costs)
    unknown = members - len(known)
    seconds = sum(cost[0] for cost in known) + unknown * UNMEASURED_S
    busy = cpu_need(sum(cost[1] for cost in known), sum(cost[0] for cost in known), cpus=cpus) if known else 1.0
    peaks = [cost[2] for cost in known] if not unknown else []
    return Estimate(
        seconds=round(seconds, 2),
        cpus=float(busy),
        memory_bytes=memory_need(peaks, limit_bytes=limit_bytes),
        measured=not unknown,
    )
