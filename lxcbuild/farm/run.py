"""The head of a run: starts what is ready where there is room, records what comes back, and is the only one that writes the ledger.

What a job's builds need is published, recorded and checked before the job starts. A build is first in the store or the state
directory, then in the ledger, then in the journal: killed at any moment, a run that goes on finds every finished build.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from pathlib import Path

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from lxcbuild.builder.failures import failure_of
from lxcbuild.builder.ready import Ready
from lxcbuild.builder.request import BuildRequest
from lxcbuild.config.overrides import Overrides
from lxcbuild.config.policies import load_policy
from lxcbuild.errors import CancelledError, LxcbuildError, WorkerLostError
from lxcbuild.farm import results
from lxcbuild.farm.artifacts import ArtifactStore, walk_results
from lxcbuild.farm.engines.engine import Engine, Job, JobResult, Raised
from lxcbuild.farm.jobs import BuildCache, KnownFailures, lower_cap, provided, request_for, task_for
from lxcbuild.farm.journal import NoJournal
from lxcbuild.farm.planning.widen import places, widened
from lxcbuild.farm.records import reason, record_report, record_without_build
from lxcbuild.farm.runs import Made, Publish, Settings, Tally, Watcher
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Failure, FailureClass, Phase, Status, Target
from lxcbuild.plan.capacity import Room
from lxcbuild.plan.dependencies import components, reachable
from lxcbuild.plan.document import Plan, PlannedJob
from lxcbuild.plan.schedule import Schedule, Start, Task
from lxcbuild.state import locks
from lxcbuild.state.paths import StateDirs

#: Seconds between two looks at the room that there is, which others of the machine change.
_LOOK_S = 0.5
#: How often a job may turn out to need something more.
_MAX_HOLDS = 20


class Head(Struct, kw_only=True):
    """One run of a plan. ``publish`` is called with each job's builds before anything that needs them starts."""

    plan: Plan
    settings: Settings
    dirs: StateDirs
    ledger: Ledger
    engine: Engine
    store: ArtifactStore
    journal: NoJournal
    overrides: Overrides
    watcher: Watcher
    publish: Publish | None = None
    caps: KnownFailures
    requests: dict[str, tuple[BuildRequest, ...]] = field(default_factory=dict)  # in place of those that the plan makes
    _schedule: Schedule = field(default_factory=Schedule)
    _made: Made = field(default_factory=Made)
    _reused: set[str] = field(default_factory=set)
    _holds: dict[str, int] = field(default_factory=dict)
    _pins: dict[str, Mapping[str, str]] = field(default_factory=dict)  # chosen by who asked for a job on the way
    _given: dict[str, frozenset[str]] = field(default_factory=dict)  # what a running job has got of what it needs
    _came: queue.SimpleQueue[tuple[Start, Future[JobResult]] | None] = field(default_factory=queue.SimpleQueue)
    _asked_to_drain: bool = False
    _draining: threading.Event = field(default_factory=threading.Event)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _worker_cpu_s: float = 0.0
    _worker_jobs: int = 0
    # kept up to date, because it is asked for with every job: which job has a release
    _places: dict[tuple[str, str, str], str] = field(default_factory=dict)

    # -- from outside -----------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Start nothing more, and end when what runs has ended. May be called from a signal handler."""
        self._asked_to_drain = True
        self._draining.set()
        self._came.put(None)

    def stop(self) -> None:
        """End what runs, too. May be called from a signal handler."""
        self._draining.set()
        self._stopping.set()
        self._came.put(None)

    def run(self) -> Tally:
        """Carry out the plan to its end, or until it is drained or stopped."""
        self._prepare()
        stopped = False
        while not self._schedule.done:
            if self._stopping.is_set() and not stopped:
                stopped = True
                self.engine.stop()
            if self._asked_to_drain:
                self._asked_to_drain = False
                running = len(self._schedule.running())
                self.watcher.note(
                    f"no more builds start, and {running} running ones are finished; Ctrl-C again stops them"
                )
            if not self._draining.is_set():
                self._start()
            if self._schedule.done or (self._draining.is_set() and not self._schedule.running()):
                break
            self._take_one()
        interrupted = not self._schedule.done
        self._schedule.cancel()
        return Tally(
            states=self._schedule.states(),
            failures=self._made.failures,
            builds=self._made.builds,
            reused=frozenset(self._reused),
            interrupted=interrupted,
            worker_cpu_s=self._worker_cpu_s,
            worker_jobs=self._worker_jobs,
            outcomes=self._made.outcomes,
        )

    # -- what is there already --------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self.journal.directory is not None:
            self._wait_for_old_workers(self.journal.directory)
            for place, data in walk_results(self.store, self.settings.run):
                self._record_all(results.parse(data, place=place))
                self.store.remove(place)
        self.plan = replace(self.plan, jobs=dict(self.plan.jobs))  # it may grow
        self._places = places(self.plan.jobs)
        ended: dict[str, Mapping[str, object]] = {}
        for entry in self.journal.earlier:
            if entry["event"] == "added":
                jobs = {key: msgspec.convert(job, PlannedJob) for key, job in entry["jobs"].items()}
                self._widen_plan(jobs, entry["key"])
            elif entry["event"] in ("built", "failed"):
                ended[str(entry["key"])] = entry
        self._pruned(self._schedule.add(self._task(key) for key in self.plan.jobs))
        for key, job in self.plan.jobs.items():
            self.watcher.known(key, job.estimate.seconds)
        for item in self.plan.refused if not self.journal.earlier else ():
            failure = Failure(failure_class=FailureClass(item.failure), phase=Phase.RESOLVE, brief=item.brief)
            name = item.requirement.split("=")[0]
            record_without_build(self.ledger, self.settings.policy, item.target, (name, ""), failure)
        for key in self.plan.order():
            if not self._schedule.state(key).ended:
                self._recall(key, ended.get(key))

    def _wait_for_old_workers(self, directory: Path) -> None:
        """Those of a head that was killed end within moments; nothing may be built by two at once."""
        with locks.exclusive(
            directory / "workers", on_wait=lambda: self.watcher.note("waiting for the workers of a run that was killed")
        ):
            pass

    def _recall(self, key: str, entry: Mapping[str, object] | None) -> None:
        """Settle what need not be done (again)."""
        build_cache = BuildCache(dirs=self.dirs, ledger=self.ledger, overrides=self.overrides)
        if entry is not None and entry["event"] == "failed":
            failure = Failure(
                failure_class=FailureClass(str(entry["class"])),
                phase=Phase(str(entry["phase"])),
                brief=str(entry["brief"]),
            )
            self._fail(key, failure, final=True, journal=False)
            return
        ready = None
        if entry is not None:
            builds = entry["builds"]
            assert isinstance(builds, list)
            ready = build_cache.load(map(str, builds))
        if ready is None and key not in self.requests and not (self.settings.rebuild and not self.journal.earlier):
            ready = build_cache.find(self.plan, key)
        if ready is not None:
            self._built(key, ready, reused=True, journal=entry is None)

    # -- starting ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        while True:
            workers = self.engine.workers()
            rooms = {info.name: Room(memory_bytes=info.memory_bytes, cpus=info.cpus) for info in workers}
            started = self._schedule.start(rooms, limit=self.settings.limit)
            again = False
            for start in started:
                ready = self._made.all_of(self.plan.jobs[start.key])
                if ready is not None:  # as part of a cycle that was found on the way
                    self._built(start.key, ready, reused=True, journal=True)
                    again = True
                    continue
                self._submit(start)
            if not again:
                return

    def _submit(self, start: Start) -> None:
        planned = self.plan.jobs[start.key]
        attempt = start.attempt
        below = sorted(reachable(self.plan.needs(), [start.key]) - {start.key})
        chosen = self._pins.get(start.key, {})
        image = self.plan.targets[planned.target].image if planned.target in self.plan.targets else ""
        job = Job(
            key=start.key,
            run=self.settings.run,
            target=Target.parse(planned.target),
            requests=self.requests.get(start.key)
            or tuple(request_for(member, planned, self.plan.options) for member in planned.members),
            policy=planned.policy,
            store=self.settings.store,
            attempt=attempt.number,
            raised=Raised(memory=attempt.memory, disk=attempt.disk, pids=attempt.pids),
            pins={**chosen, **self.plan.pins(start.key)},
            provided=tuple(provided(ready) for ready in self._made.builds_for(planned.target, below, chosen)),
            memory_bytes=start.need.memory_bytes,
            cpus=start.need.cpus,
            seconds=planned.estimate.seconds,
            image_digest=image if self.settings.check_images else "",
            caps={} if self.settings.attended else dict(self.caps[planned.target]),
            failed=self._made.failed_among(below, self.plan) if self.settings.attended else {},
        )
        self._given[start.key] = frozenset(key for key in below if key in self._made.builds)
        self.watcher.started(start, planned.estimate.seconds)
        future = self.engine.submit(job, worker=start.worker)
        future.add_done_callback(lambda done: self._came.put((start, done)))

    # -- ends -------------------------------------------------------------------------------------------------------

    def _take_one(self) -> None:
        try:
            came = self._came.get(timeout=_LOOK_S)
        except queue.Empty:
            return
        if came is None:
            return
        start, future = came
        try:
            result = future.result()
        except WorkerLostError as error:
            self._lost(start.key, error)
        except (CancelledError, FutureCancelledError):
            self._schedule.put_back(start.key)
            self.watcher.stopped(start.key)
            self._draining.set()
        except LxcbuildError as error:
            self._fail(start.key, failure_of(error, Phase.RESOLVE))
        else:
            self._take(start, result)

    def _take(self, start: Start, result: JobResult) -> None:
        key = start.key
        self._worker_cpu_s += result.cpu_s
        self._worker_jobs += 1
        if result.wanted:
            self._hold(key, result)
            return
        built = self._record_all(result)
        self._made.outcomes[key] = result.outcomes
        if result.failure is not None:
            self._fail(key, result.failure)
        elif built is not None:
            self._built(key, built, reused=False, journal=True)
        else:
            self._fail(key, reason(result.outcomes), builds=[outcome.build_id for outcome in result.outcomes])
        if result.reports:
            self.store.remove(results.place_of(result.run, key, result.attempt))

    def _record_all(self, result: JobResult) -> tuple[Ready, ...] | None:
        """Record what came back; the builds, if all of them ended well."""
        for report in result.reports:
            record_report(report, ledger=self.ledger, dirs=self.dirs, store=self.store)
        outcomes = result.outcomes
        if not outcomes or any(outcome.status is Status.FAILED for outcome in outcomes):
            return None
        if result.recorded and result.key not in self._pins:
            return ()  # nobody needs what was asked for of this process
        build_cache = BuildCache(dirs=self.dirs, ledger=self.ledger, overrides=self.overrides)
        return build_cache.load(outcome.build_id for outcome in outcomes if outcome.status is Status.BUILT)

    def _built(self, key: str, ready: tuple[Ready, ...], *, reused: bool, journal: bool) -> None:
        if self.publish is not None:
            self.publish(self.plan.jobs[key].target, ready)
        self._made.add(key, ready)
        if reused:
            self._reused.add(key)
        if journal:
            self.journal.write("built", key=key, builds=[item.record.build_id for item in ready])
        self._schedule.built(key)
        self.watcher.built(key, reused=reused)

    def _fail(
        self, key: str, failure: Failure, *, final: bool = False, journal: bool = True, builds: Sequence[str] = ()
    ) -> None:
        attended = self.settings.attended
        lower = lower_cap(self.plan.jobs[key], failure, self._made.outcomes.get(key, ()), self.caps, attended=attended)
        attempt, pruned = self._schedule.failed(
            key, failure.failure_class, final=final or attended, spare=lower or attended
        )
        if attempt is not None:
            how = "alone on its machine" if attempt.alone else "with more room"
            self.watcher.stopped(key)
            self.watcher.note(f"{key}: {failure.failure_class}: {failure.brief}; it is tried once more, {how}")
            return
        self._end_badly(key, failure, pruned, journal=journal, builds=builds)
        if not self.settings.keep_going and journal:
            self._draining.set()

    def _end_badly(
        self, key: str, failure: Failure, pruned: Sequence[str], *, journal: bool = True, builds: Sequence[str] = ()
    ) -> None:
        self._made.failures[key] = failure
        if journal:
            said = {"class": failure.failure_class.value, "phase": failure.phase.value, "brief": failure.brief[:1000]}
            self.journal.write("failed", key=key, builds=list(builds), **said)
            if not builds:
                self._record_without_build(key, failure)
        self.watcher.failed(key, failure, earlier=not journal)
        self._pruned(pruned, journal=journal)

    def _record_without_build(self, key: str, failure: Failure) -> None:
        job = self.plan.jobs[key]
        self._made.outcomes[key] = tuple(
            record_without_build(self.ledger, self.settings.policy, job.target, (member.name, member.version), failure)
            for member in job.members
        )

    def _lost(self, key: str, error: WorkerLostError) -> None:
        attempt, pruned = self._schedule.lost(key)
        self.watcher.stopped(key)
        if attempt is not None:
            self.watcher.note(f"{error.brief}; it is tried again")
            return
        failure = Failure(
            failure_class=FailureClass.SANDBOX_FAILED,
            phase=Phase.RESOLVE,
            brief=f"its workers died, one after another: {error.brief}",
            resolution=error.resolution,
        )
        self._end_badly(key, failure, pruned)

    def _pruned(self, keys: Sequence[str], *, journal: bool = True) -> None:
        for key in keys:
            culprit = self._schedule.culprit(key)
            self.watcher.pruned(key, earlier=not journal)
            why = self._made.failures.get(culprit)
            said = f": {why.failure_class} in {why.phase}: {why.brief}" if why is not None else ""
            failure = Failure(
                failure_class=FailureClass.DEP_MISSING,
                phase=Phase.RESOLVE,
                brief=f"{culprit.rpartition('/')[2]} is needed and cannot be built{said}"[:1000],
            )
            self._made.failures[key] = failure
            if journal:
                self._record_without_build(key, failure)

    # -- plans grow -------------------------------------------------------------------------------------------------

    def _hold(self, key: str, result: JobResult) -> None:
        """The job turned out to need what the plan did not know of."""
        self._holds[key] = self._holds.get(key, 0) + 1
        made = widened(self.plan, key, result.wanted, self._places)
        if self._given[key].issuperset(made.needs) or (self._holds[key] > _MAX_HOLDS and not self.settings.attended):
            wanted = ", ".join(f"{item.name} {item.version}" for item in result.wanted)
            self._fail(
                key,
                Failure(
                    failure_class=FailureClass.DEP_MISSING,
                    phase=Phase.INSPECT,
                    brief=f"it needs {wanted}, and the versions in the plan do not satisfy that",
                    resolution="make the plan again: lxcbuild plan",
                ),
                final=True,
            )
            return
        names = ", ".join(sorted(f"{item.name} {item.version}" for item in result.wanted))
        self.watcher.note(f"{key} also needs {names}")
        asked_for = {item.name: item.request for item in result.wanted}
        for name, job in made.jobs.items():
            self._pins[name] = result.pins
            requests = tuple(r for m in job.members if (r := asked_for.get(m.name)) is not None)
            if len(requests) == len(job.members):
                self.requests[name] = requests
        jobs = {name: msgspec.to_builtins(job) for name, job in made.jobs.items()}
        jobs[key] = msgspec.to_builtins(self._with_needs(key, made.needs))
        self.journal.write("added", key=key, jobs=jobs)
        self._widen_plan({**made.jobs, key: self._with_needs(key, made.needs)}, key)
        pruned = self._schedule.add(self._task(name) for name in made.jobs)
        for name, job in made.jobs.items():
            self.watcher.known(name, job.estimate.seconds)
        self.watcher.stopped(key)
        self._pruned([*pruned, *self._schedule.hold(key, made.needs)])
        for component in components({name: made.jobs.keys() & set(job.needs) for name, job in made.jobs.items()}):
            for name in component:
                if not self._schedule.state(name).ended:
                    self._recall(name, None)

    def _with_needs(self, key: str, needs: Sequence[str]) -> PlannedJob:
        job = self.plan.jobs[key]
        return replace(job, needs=tuple(sorted({*job.needs, *needs})))

    def _widen_plan(self, jobs: Mapping[str, PlannedJob], key: str) -> None:
        assert key in jobs, key
        self._places.update(places({name: job for name, job in jobs.items() if name not in self.plan.jobs}))
        self.plan.jobs.update(jobs)

    def _task(self, key: str) -> Task:
        job = self.plan.jobs[key]
        return task_for(
            key,
            job,
            limit_bytes=lambda: load_policy(job.policy, package=job.members[0].name).memory.max_bytes,
        )
