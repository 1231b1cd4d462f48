"""A build that fills its disk is tried once more with more room, and how much that is."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from lxcbuild.builder import room
from lxcbuild.builder.machine import BuildMachine, ConverterChoice, ConverterFacts, Finish, Lessons, RunPhase
from lxcbuild.config.policies import load_policy
from lxcbuild.model import Converter, Failure, FailureClass, Phase

FULL = Failure(failure_class=FailureClass.DISK_FULL, phase=Phase.COMPILE, brief="full")
ROOMIER = Lessons(roomier=room.enlarged(load_policy("default")))


def at(phase: Phase) -> BuildMachine:
    machine = BuildMachine(ConverterChoice.AUTO)
    step = machine.start()
    while isinstance(step, RunPhase) and step.phase is not phase:
        facts = ConverterFacts(has_setup_py=True, suite_has_pyproject_plugin=True)
        step = machine.inspected(facts) if step.phase is Phase.INSPECT else machine.succeeded()
    return machine


def test_a_full_disk_is_tried_once_more_from_the_debianized_tree_on() -> None:
    machine = at(Phase.COMPILE)
    again = machine.failed(FULL, ROOMIER)
    assert again == RunPhase(phase=Phase.DEBIANIZE, converter=Converter.PYPROJECT)
    machine.succeeded()
    assert machine.lessons == ROOMIER
    roomier_still = Lessons(roomier=room.enlarged(load_policy("untrusted")))
    assert machine.failed(FULL, roomier_still) == Finish(status=again_failed().status, failure=FULL)


def again_failed() -> Finish:
    end = at(Phase.COMPILE).failed(FULL)
    assert isinstance(end, Finish)
    return end


def test_sources_that_fill_the_disk_while_they_are_read_get_no_second_try() -> None:
    full = replace(FULL, phase=Phase.INSPECT)
    assert isinstance(at(Phase.INSPECT).failed(full, ROOMIER), Finish)


def test_more_room_is_files_bytes_and_memory_and_never_more_again() -> None:
    policy = load_policy("default")
    assert policy.disk.retry_factor == 2
    bigger = room.enlarged(policy)
    more = bigger.disk.max_bytes - policy.disk.max_bytes
    assert bigger.disk.max_bytes == 2 * policy.disk.max_bytes
    assert bigger.disk.max_inodes == 2 * policy.disk.max_inodes
    assert bigger.memory.max_bytes == policy.memory.max_bytes + more
    assert bigger.disk.retry_factor == 1


@pytest.mark.parametrize("name", ["untrusted", "paranoid"])
def test_strangers_get_one_disk(name: str) -> None:
    assert load_policy(name).disk.retry_factor == 1
