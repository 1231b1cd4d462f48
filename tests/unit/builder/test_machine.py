"""The course of a build, without running one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from lxcbuild.builder.machine import (
    MAX_DEPENDENCY_ROUNDS,
    BuildMachine,
    ConverterChoice,
    ConverterFacts,
    Finish,
    Instruction,
    Lessons,
    RunPhase,
)
from lxcbuild.model import Converter, Failure, FailureClass, Phase, Status


def failure(failure_class: FailureClass, phase: Phase, brief: str = "it broke") -> Failure:
    return Failure(failure_class=failure_class, phase=phase, brief=brief)


def advance(machine: BuildMachine, until: Phase, facts: ConverterFacts) -> Instruction:
    instruction = machine.start()
    while isinstance(instruction, RunPhase) and instruction.phase is not until:
        instruction = machine.inspected(facts) if instruction.phase is Phase.INSPECT else machine.succeeded()
    return instruction


MODERN = ConverterFacts(has_setup_py=True, suite_has_pyproject_plugin=True)


def test_a_good_build_runs_every_phase_once_in_order() -> None:
    machine = BuildMachine(ConverterChoice.AUTO)
    seen = []
    instruction = machine.start()
    while isinstance(instruction, RunPhase):
        seen.append(instruction.phase)
        instruction = machine.inspected(MODERN) if instruction.phase is Phase.INSPECT else machine.succeeded()
    assert seen == list(Phase)
    assert instruction == Finish(status=Status.BUILT)


def test_an_official_project_ends_at_once() -> None:
    machine = BuildMachine(ConverterChoice.AUTO)
    machine.start()
    assert machine.official() == Finish(status=Status.OFFICIAL)


@pytest.mark.parametrize(
    ("choice", "facts", "expected"),
    [
        (ConverterChoice.AUTO, MODERN, Converter.PYPROJECT),
        (ConverterChoice.AUTO, ConverterFacts(has_setup_py=True, suite_has_pyproject_plugin=False), Converter.STDEB),
        (ConverterChoice.STDEB, MODERN, Converter.STDEB),
        (
            ConverterChoice.PYPROJECT,
            ConverterFacts(has_setup_py=False, suite_has_pyproject_plugin=True),
            Converter.PYPROJECT,
        ),
    ],
)
def test_the_converter_follows_suite_project_and_wish(
    choice: ConverterChoice, facts: ConverterFacts, expected: Converter
) -> None:
    instruction = advance(BuildMachine(choice), Phase.DEBIANIZE, facts)
    assert instruction == RunPhase(phase=Phase.DEBIANIZE, converter=expected)


@pytest.mark.parametrize(
    ("choice", "facts"),
    [
        (ConverterChoice.AUTO, ConverterFacts(has_setup_py=False, suite_has_pyproject_plugin=False)),
        (ConverterChoice.STDEB, ConverterFacts(has_setup_py=False, suite_has_pyproject_plugin=True)),
    ],
)
def test_without_a_possible_converter_the_build_fails_with_advice(
    choice: ConverterChoice, facts: ConverterFacts
) -> None:
    end = advance(BuildMachine(choice), Phase.COLLECT, facts)
    assert isinstance(end, Finish)
    assert end.failure is not None
    assert end.failure.failure_class is FailureClass.CONVERT_FAILED
    assert end.failure.resolution


def test_auto_tries_both_converters_and_reports_the_first_failure() -> None:
    machine = BuildMachine(ConverterChoice.AUTO)
    advance(machine, Phase.DEBIANIZE, MODERN)
    again = machine.failed(failure(FailureClass.CONVERT_FAILED, Phase.DEBIANIZE, "first"))
    assert again == RunPhase(phase=Phase.PROVISION, converter=Converter.STDEB)
    end = machine.failed(failure(FailureClass.CONVERT_FAILED, Phase.DEBIANIZE, "second"))
    assert isinstance(end, Finish)
    assert end.failure is not None
    assert end.failure.brief == "first"
    assert any("stdeb is tried" in line for line in machine.story)


def test_a_chosen_converter_has_no_fallback() -> None:
    machine = BuildMachine(ConverterChoice.PYPROJECT)
    advance(machine, Phase.DEBIANIZE, MODERN)
    end = machine.failed(failure(FailureClass.CONVERT_FAILED, Phase.DEBIANIZE))
    assert isinstance(end, Finish)
    assert end.status is Status.FAILED


def test_missing_build_dependencies_are_provided_in_bounded_rounds() -> None:
    machine = BuildMachine(ConverterChoice.AUTO)
    missing = failure(FailureClass.BUILD_DEP_MISSING, Phase.COMPILE)
    advance(machine, Phase.COMPILE, MODERN)
    for number in range(MAX_DEPENDENCY_ROUNDS):
        again = machine.failed(missing, Lessons(packages=frozenset({"libdemo-dev", f"lib{number}-dev"})))
        assert again == RunPhase(phase=Phase.PROVISION, converter=Converter.PYPROJECT)
        machine.succeeded()
        machine.succeeded()
    end = machine.failed(missing, Lessons(packages=frozenset({"libmore-dev"})))
    assert end == Finish(status=Status.FAILED, failure=missing)


def test_other_failures_end_the_build() -> None:
    machine = BuildMachine(ConverterChoice.AUTO)
    advance(machine, Phase.COMPILE, MODERN)
    oom = failure(FailureClass.OOM, Phase.COMPILE)
    assert machine.failed(oom) == Finish(status=Status.FAILED, failure=oom)
    assert oom.retryable


def test_the_story_tells_what_each_failure_has_taught() -> None:
    machine = BuildMachine(ConverterChoice.AUTO)
    advance(machine, Phase.COMPILE, MODERN)
    first = Lessons(packages=frozenset({"libdemo-dev"}))
    machine.failed(failure(FailureClass.BUILD_DEP_MISSING, Phase.COMPILE), first)
    machine.provided(replace(first, requirements=("demo>=2",)))
    machine.succeeded()
    machine.succeeded()
    second = replace(machine.lessons, promoted=frozenset({"python3-sphinx"}), plugin_unfit=True)
    machine.failed(failure(FailureClass.IMPORT_FAILED, Phase.VERIFY), second)
    assert [line for line in machine.story if "learned" in line] == [
        "compile: learned packages: libdemo-dev",
        "provision: learned requirements: demo>=2",
        "verify: learned plugin_unfit; promoted: python3-sphinx",
    ]
    assert machine.lessons == second


def test_a_failure_that_taught_nothing_ends_the_build() -> None:
    machine = BuildMachine(ConverterChoice.AUTO)
    advance(machine, Phase.COMPILE, MODERN)
    missing = failure(FailureClass.BUILD_DEP_MISSING, Phase.COMPILE)
    assert machine.failed(missing) == Finish(status=Status.FAILED, failure=missing)
    assert not any("learned" in line for line in machine.story)
