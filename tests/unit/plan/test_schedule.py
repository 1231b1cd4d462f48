"""Order, packing, pruning and retries of many jobs: properties of random plans, and the odd cases."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcbuild.model import FailureClass
from lxcbuild.plan.capacity import (
    LEAST_BYTES,
    OVERHEAD_BYTES,
    Need,
    Room,
    at_once,
    cpu_need,
    memory_need,
    reserve_bytes,
    room_of,
)
from lxcbuild.plan.dependencies import reachable
from lxcbuild.plan.retries import MAX_LOST, Attempt, Resting, after_failure, after_loss
from lxcbuild.plan.schedule import PATIENCE, Schedule, State, Task

GIB = 1 << 30


def task(key: str, *needs: str, seconds: float = 1.0, memory: int = GIB, cpus: float = 1.0) -> Task:
    def need_of(attempt: Attempt) -> Need:
        return Need(memory_bytes=int(memory * attempt.memory), cpus=cpus)

    return Task(key=key, needs=frozenset(needs), seconds=seconds, need_of=need_of)


@st.composite
def plans(draw: st.DrawFn) -> list[Task]:
    """Random acyclic plans: each job needs some of those before it."""
    count = draw(st.integers(1, 25))
    tasks = []
    for number in range(count):
        needs = draw(st.sets(st.integers(0, number - 1), max_size=4)) if number else set()
        tasks.append(
            task(
                f"j{number:02}",
                *(f"j{other:02}" for other in needs),
                seconds=draw(st.floats(0.1, 100)),
                memory=draw(st.integers(1, 8)) * GIB // 2,
            )
        )
    return draw(st.permutations(tasks))


def graph(tasks: list[Task]) -> Mapping[str, frozenset[str]]:
    return {each.key: each.needs for each in tasks}


@settings(max_examples=150, deadline=None)
@given(
    plans(),
    st.integers(1, 3),
    st.sets(st.integers(0, 24), max_size=5),
    st.randoms(use_true_random=False),
)
def test_jobs_end_after_their_needs_and_failures_prune_only_dependents(
    tasks: list[Task], machines: int, bad: set[int], draw: object
) -> None:
    failing = {f"j{number:02}" for number in bad}
    needs = graph(tasks)
    schedule = Schedule(tasks)
    rooms = {f"m{number}": Room(memory_bytes=4 * GIB, cpus=3.0) for number in range(machines)}
    running: list[str] = []
    built: set[str] = set()
    while not schedule.done:
        for start in schedule.start(rooms):
            assert needs[start.key] <= built, "started before what it needs was built"
            running.append(start.key)
        assert running, "nothing runs, and the plan is not done"
        for name, room in rooms.items():
            mine = [start for start in schedule.running() if start.worker == name]
            left = room.without(start.need for start in mine)
            assert len(mine) == 1 or (left.memory_bytes >= 0 and left.cpus >= -1e-3), "packed beyond what there is"
        key = running.pop(draw.randrange(len(running)))  # type: ignore[attr-defined]
        if key in failing:
            again, pruned = schedule.failed(key, FailureClass.COMPILE_FAILED)
            assert again is None
            assert all(key in reachable(needs, [other]) for other in pruned)
        else:
            schedule.built(key)
            built.add(key)
    for key, state in schedule.states().items():
        below = reachable(needs, [key])
        if below.isdisjoint(failing):
            assert state is State.BUILT
        elif key in failing and (below - {key}).isdisjoint(failing):
            assert state is State.FAILED
        else:
            assert state is State.PRUNED
            assert schedule.culprit(key) in failing & below


@settings(max_examples=100, deadline=None)
@given(plans())
def test_paths_are_the_longest_chains_of_dependents(tasks: list[Task]) -> None:
    schedule = Schedule(tasks)
    seconds = {each.key: each.seconds for each in tasks}
    needs = graph(tasks)

    def longest(key: str) -> float:
        return seconds[key] + max((longest(other) for other in needs if key in needs[other]), default=0.0)

    for key in needs:
        assert schedule.path_s(key) == pytest.approx(longest(key))


@settings(max_examples=60, deadline=None)
@given(plans(), st.data())
def test_jobs_that_are_added_on_the_way_end_as_well(tasks: list[Task], data: st.DataObject) -> None:
    schedule = Schedule(tasks)
    room = {"m": Room(memory_bytes=64 * GIB, cpus=64.0)}
    held = False
    while not schedule.done:
        schedule.start(room)
        key = data.draw(st.sampled_from(sorted(start.key for start in schedule.running())))
        if not held:
            held = True
            assert schedule.add([task("new"), task("newer", "new")]) == []
            assert schedule.hold(key, ["newer"]) == []
            assert schedule.path_s("new") >= schedule.path_s("newer") >= schedule.path_s(key)
        else:
            schedule.built(key)
    assert set(schedule.states().values()) == {State.BUILT}


def test_the_longest_chain_goes_first() -> None:
    schedule = Schedule([task("long", seconds=1), task("short", seconds=5), task("end", "long", seconds=60)])
    first = schedule.start({"m": Room(memory_bytes=GIB, cpus=1.0)})
    assert [start.key for start in first] == ["long"]


def test_a_big_job_is_passed_by_small_ones_for_a_while_only() -> None:
    small = [task(f"s{number:03}", seconds=1) for number in range(200)]
    schedule = Schedule([*small, task("big", seconds=50, memory=4 * GIB), task("first", seconds=99)])
    room = {"m": Room(memory_bytes=4 * GIB, cpus=4.0)}
    started: list[str] = []
    while "big" not in started:
        started += [start.key for start in schedule.start(room)]
        schedule.built(next(start.key for start in schedule.running()))
    assert PATIENCE <= started.index("big") <= PATIENCE + 8


def test_a_job_that_is_bigger_than_the_machine_runs_alone() -> None:
    schedule = Schedule([task("huge", memory=99 * GIB), task("a"), task("b")])
    room = {"m": Room(memory_bytes=4 * GIB, cpus=8.0)}
    seen = []
    while not schedule.done:
        schedule.start(room)
        running = [start.key for start in schedule.running()]
        assert running == ["huge"] or "huge" not in running
        seen.append(running)
        schedule.built(running[0])
    assert ["huge"] in seen


def test_a_flaky_failure_is_tried_once_more_alone() -> None:
    schedule = Schedule([task("flaky", seconds=9), *(task(f"o{number}") for number in range(4))])
    room = {"m": Room(memory_bytes=8 * GIB, cpus=2.0)}
    schedule.start(room)
    again, pruned = schedule.failed("flaky", FailureClass.TIMEOUT)
    assert again is not None
    assert again.alone
    assert pruned == []
    schedule.start(room)
    assert "flaky" not in [start.key for start in schedule.running()], "it waits until the machine is its own"
    while [start.key for start in schedule.running()] != ["flaky"]:
        schedule.built(schedule.running()[0].key)
        schedule.start(room)
    assert schedule.start(room) == [], "nothing is started beside it"
    assert schedule.failed("flaky", FailureClass.TIMEOUT)[0] is None
    assert schedule.state("flaky") is State.FAILED


def test_jobs_added_after_their_dependency_failed_are_pruned_with_dependents() -> None:
    schedule = Schedule([task("bad"), task("held"), task("top", "held")])
    room = {"m": Room(memory_bytes=8 * GIB, cpus=8.0)}
    schedule.start(room)
    schedule.failed("bad", FailureClass.COMPILE_FAILED)
    assert sorted(schedule.hold("held", ["bad"])) == ["held", "top"]
    assert schedule.done
    assert schedule.culprit("top") == "bad"


def test_what_can_do_without_a_failed_job_runs() -> None:
    room = {"m": Room(memory_bytes=64 * GIB, cpus=64.0)}
    schedule = Schedule(
        [task("bad"), task("other"), task("one", "bad"), task("two", "bad", "other"), task("top", "one")]
    )
    assert {start.key for start in schedule.start(room)} == {"bad", "other"}
    assert schedule.failed("bad", FailureClass.BUILD_DEP_MISSING, spare=True) == (None, [])
    assert [schedule.state(key) for key in ("bad", "one", "two", "top")] == [
        State.FAILED, State.READY, State.WAITING, State.WAITING,
    ]  # fmt: skip
    schedule.built("other")
    assert {start.key for start in schedule.start(room)} == {"one", "two"}
    schedule.add([task("older")])
    assert schedule.hold("one", ["older"]) == []
    for key in ("older", "one", "two", "top"):
        if schedule.state(key) is not State.RUNNING:
            schedule.start(room)
        schedule.built(key)
    assert schedule.done


def test_a_lost_worker_is_not_the_fault_of_the_job_twice() -> None:
    schedule = Schedule([task("a")])
    room = {"m": Room(memory_bytes=8 * GIB, cpus=8.0)}
    for _ in range(MAX_LOST):
        schedule.start(room)
        assert schedule.lost("a")[0] is not None
    schedule.start(room)
    assert schedule.lost("a")[0] is None
    assert schedule.state("a") is State.FAILED


def test_what_a_worker_refused_is_tried_elsewhere() -> None:
    schedule = Schedule([task("a")])
    rooms = {"full": Room(memory_bytes=9 * GIB, cpus=8.0), "well": Room(memory_bytes=8 * GIB, cpus=8.0)}
    assert [start.worker for start in schedule.start(rooms)] == ["full"]
    assert schedule.failed("a", FailureClass.HOST_REFUSED)[0] is not None
    assert [start.worker for start in schedule.start(rooms)] == ["well"]
    assert schedule.lost("a")[0] is not None
    assert len(schedule.start(rooms)) == 1, "where all of them have refused it, any will do"


def test_a_worker_that_refuses_everything_does_not_swallow_the_run() -> None:
    schedule = Schedule([task(f"j{number:03}") for number in range(200)])
    rooms = {name: Room(memory_bytes=8 * GIB, cpus=1.0) for name in ("full", "one", "two")}
    refusals = built = 0
    while not schedule.done:
        schedule.start(rooms)
        for start in schedule.running():
            if start.worker == "full":
                refusals += 1
                assert schedule.failed(start.key, FailureClass.HOST_REFUSED)[0] is not None
            else:
                built += 1
                schedule.built(start.key)
    assert built == 200
    assert 1 <= refusals <= 10


def test_a_worker_that_works_again_gets_its_share_again() -> None:
    resting, room = Resting(), Room(memory_bytes=GIB, cpus=1.0)
    rooms = {"one": room, "two": room}
    resting.refused("one")
    assert set(resting.without(rooms)) == {"two"}
    assert set(resting.without({"one": room})) == {"one"}, "better a bad worker than none"
    for _ in range(2):
        resting.worked("two")
    assert set(resting.without(rooms)) == {"one", "two"}
    resting.refused("one")
    for _ in range(2):
        resting.worked("two")
    assert set(resting.without(rooms)) == {"two"}, "twice as long as before"
    resting.worked("one")
    resting.refused("one")
    for _ in range(2):
        resting.worked("two")
    assert set(resting.without(rooms)) == {"one", "two"}


def test_cancelling_gives_up_what_does_not_run() -> None:
    schedule = Schedule([task("a"), task("b", "a"), task("c")])
    schedule.start({"m": Room(memory_bytes=GIB, cpus=1.0)})
    schedule.cancel()
    assert not schedule.done
    schedule.built("a")
    assert schedule.done
    assert schedule.state("b") is State.CANCELLED


@pytest.mark.parametrize("failure", list(FailureClass))
def test_every_remedy_is_used_once(failure: FailureClass) -> None:
    attempt: Attempt | None = Attempt()
    tried = 0
    while attempt is not None:
        attempt = after_failure(attempt, failure)
        tried += 1
    assert tried <= 2
    assert (tried == 2) == (failure.retryable and failure is not FailureClass.CANCELLED)


def test_more_room_is_kept_when_something_else_goes_wrong_afterwards() -> None:
    raised = after_failure(Attempt(), FailureClass.OOM)
    assert raised is not None
    lost = after_loss(raised)
    assert lost is not None
    assert lost.memory == raised.memory > 1.0
    assert after_failure(lost, FailureClass.OOM) is None


@given(st.lists(st.integers(0, 64 * GIB)), st.integers(GIB // 4, 64 * GIB))
def test_reserved_memory_is_what_was_measured_up_to_the_allowed_maximum(peaks: list[int], limit: int) -> None:
    need = memory_need(peaks, limit_bytes=limit)
    assert min(LEAST_BYTES, limit) + OVERHEAD_BYTES <= need <= limit + OVERHEAD_BYTES
    assert need >= min(max(peaks, default=0), limit)
    assert memory_need(peaks, limit_bytes=limit, raised=2.0) == 2 * limit + OVERHEAD_BYTES


@given(st.integers(GIB, 512 * GIB), st.integers(0, 512 * GIB), st.lists(st.integers(0, 8 * GIB), max_size=8))
def test_the_reserve_of_the_machine_is_never_given_away(memory: int, available: int, ours: list[int]) -> None:
    needs = [Need(memory_bytes=each) for each in ours]
    room = room_of(memory_bytes=memory, available_bytes=min(available, memory), cpus=2, ours=needs)
    assert 0 <= room.memory_bytes <= memory - reserve_bytes(memory)


def test_how_many_fit() -> None:
    assert at_once(Need(memory_bytes=GIB), Room(memory_bytes=10 * GIB, cpus=4)) == 4
    assert at_once(Need(memory_bytes=3 * GIB), Room(memory_bytes=10 * GIB, cpus=40)) == 3
    assert at_once(Need(memory_bytes=30 * GIB), Room(memory_bytes=10 * GIB, cpus=40)) == 1
    assert cpu_need(8.0, 4.0, cpus=4) == 2.0
    assert cpu_need(0.1, 60.0, cpus=4) == 0.5
    assert cpu_need(0.0, 0.0, cpus=4) == 1.0
