"""From a plan to jobs that workers understand, and what the ledger knows of them: builds, and failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from lxcbuild import __version__
from lxcbuild.builder.ready import Ready, find_ready, influences, sound
from lxcbuild.builder.request import BuildOptions, BuildRequest
from lxcbuild.config.overrides import Overrides
from lxcbuild.errors import InputError, UnknownBuildError
from lxcbuild.farm.engines.engine import Provided, StoredFile
from lxcbuild.images.store import ImageStore
from lxcbuild.ledger.records import BuildRecord, Records
from lxcbuild.model import Failure, Outcome, Status, Target
from lxcbuild.plan.capacity import Need, cpu_need, memory_need
from lxcbuild.plan.document import Estimate, Member, Plan, PlannedJob
from lxcbuild.plan.retries import Attempt
from lxcbuild.plan.schedule import Task
from lxcbuild.pypi.versions.version_caps import VersionCap, lowered
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
            f"the options of the plan: {error}", resolution="fix them there, or make the plan again: lxcbuild plan"
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


#: So long a failure is believed: what was lacking may have come to the index meanwhile.
DAYS = 7
_LOOK_BACK = 1000


class KnownFailures(dict[str, dict[str, VersionCap]]):
    """Releases that cannot be built, by target and project. A run adds to what earlier ones found out.

    ``look`` asks the ledger about a target, when that is asked for first.
    """

    def __init__(self, look: Callable[[str], dict[str, VersionCap]]) -> None:
        super().__init__()
        self._look = look

    def __missing__(self, target: str) -> dict[str, VersionCap]:
        self[target] = self._look(target)
        return self[target]


def known_failures(ledger: Records, plan: Plan, *, policy: str) -> KnownFailures:
    """What earlier runs could not build, for the targets of a plan."""

    def look(target: str) -> dict[str, VersionCap]:
        image = plan.targets[target].image or None if target in plan.targets else None
        return remembered(ledger, Target.parse(target), policy=policy, image=image)

    return KnownFailures(look)


def image_failures(ledger: Records, images: ImageStore, *, policy: str, anew: bool) -> KnownFailures:
    """What earlier runs could not build on the images of now; ``anew``: nothing of that counts."""

    def look(target: str) -> dict[str, VersionCap]:
        place = Target.parse(target)
        return {} if anew else remembered(ledger, place, policy=policy, image=images.get(place).digest)

    return KnownFailures(look)


def remembered(ledger: Records, target: Target, *, policy: str, image: str | None) -> dict[str, VersionCap]:
    """By project: what the newest failures of that target say of releases that nobody had asked for by name.

    Only those count that would go the same way now: of this version of lxcbuild, under this policy, on this image (None: any),
    and not built since. ``--rebuild`` looks at none of them.
    """
    since = (datetime.now(UTC) - timedelta(days=DAYS)).isoformat()

    def counts(record: BuildRecord) -> bool:
        same = record.lxcbuild_version == __version__ and record.policy == policy
        return (
            same
            and record.started_at >= since
            and (None in (image, record.image_digest) or record.image_digest == image)
        )

    found = ledger.recent(limit=_LOOK_BACK, target=str(target), status=Status.FAILED.value)
    failed = [
        r for r in found if counts(r) and r.version and r.request.get("needed_by") and not r.request.get("override")
    ]
    built = {
        (record.name, record.version)
        for name in {record.name for record in failed}
        for record in ledger.recent(target=str(target), status=Status.BUILT.value, name=name)
        if counts(record)
    }
    known: dict[str, VersionCap] = {}
    latest = {
        (record.name, record.version): record for record in reversed(failed)
    }  # in the order of their first failures
    for release, record in latest.items():
        if record.failure is None or release in built:
            continue
        why = f"{record.failure.failure_class} in {record.failure.phase}: {record.failure.brief[:120]}; build {record.build_id}"
        lower = lowered(known.get(record.name), record.version, failure_class=record.failure.failure_class, why=why)
        if lower is not None:
            known[record.name] = lower
    return known


def lower_cap(
    job: PlannedJob, failure: Failure, outcomes: Sequence[Outcome], caps: KnownFailures, *, attended: bool
) -> bool:
    """Whether those who need a job that has failed are to look for an older release of it.

    Of several builds, where somebody attends to them, it is that of the one that failed.
    """
    member = job.members[0]
    if len(job.members) > 1:
        if not attended:
            return False
        ended = zip(job.members, outcomes, strict=False)
        member = next((other for other, outcome in ended if outcome.failure == failure), member)
    if not member.has_older:
        return False
    known, why = caps[job.target], f"{failure.failure_class} in {failure.phase}: {failure.brief[:120]}"
    lower = lowered(known.get(member.name), member.version, failure_class=failure.failure_class, why=why)
    if lower is not None:
        known[member.name] = lower
    return lower is not None


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


def task_for(key: str, job: PlannedJob, *, limit_bytes: Callable[[], int]) -> Task:
    """A job as the schedule sees it; ``limit_bytes`` gives what its policy allows."""
    estimate = job.estimate

    def need_of(attempt: Attempt) -> Need:
        if attempt.is_raised:
            memory = memory_need((), limit_bytes=limit_bytes(), raised=max(attempt.memory, 1.0))
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
