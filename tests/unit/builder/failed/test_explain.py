"""Explanations: every failure class has one, the page says the same, and the lines shown are those that decide."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lxcbuild.builder.failed.explanations import EXPLANATIONS, markdown
from lxcbuild.cli.verbs.records.explain import decisive, last_section
from lxcbuild.errors import UnknownBuildError
from lxcbuild.ledger.records import NewBuild
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Failure, FailureClass, Outcome, Phase, Status, Target
from lxcbuild.state.paths import StateDirs
from tests import ROOT
from tests.support.command import argv

LOG = """\
=== provision === 2026-01-01T00:00:00Z
error: of an earlier phase
=== compile === 2026-01-01T00:00:01Z
error: of the first round
=== provision === 2026-01-01T00:00:02Z
=== compile === 2026-01-01T00:00:03Z
gcc -c x.c
\x1b]0;owned\x07x.c:1:10: fatal error: foo.h: No such file or directory
make: *** [Makefile:1: all] Error 1
"""


def test_every_failure_class_is_explained() -> None:
    assert set(EXPLANATIONS) == set(FailureClass)
    for item, text in EXPLANATIONS.items():
        assert min(len(text.meaning), len(text.fix), len(text.retry)) > 3, item


def test_what_is_said_about_retries_agrees_with_the_class() -> None:
    for item, text in EXPLANATIONS.items():
        if text.retry == "Yes.":
            assert item.retryable, item
        if text.retry.startswith("No: the same inputs"):
            assert not item.retryable, item


def test_the_page_of_failure_classes_is_as_the_code() -> None:
    page = (ROOT / "docs" / "reference" / "failure-classes.md").read_text()
    assert page == markdown(), "run: python -m lxcbuild.builder.failed.explanations > docs/reference/failure-classes.md"


def test_only_the_last_round_of_the_failed_phase_counts() -> None:
    section = last_section(LOG, Phase.COMPILE)
    assert "fatal error: foo.h" in section
    assert "first round" not in section
    assert "earlier phase" in last_section("no headings, earlier phase", Phase.COMPILE)


def test_at_most_ten_lines_are_shown_and_of_a_huge_log_only_the_end_is_read(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    failure = Failure(failure_class=FailureClass.COMPILE_FAILED, phase=Phase.COMPILE, brief="x", details="said before")
    log.write_text("error: at the beginning\n" + "x" * 2_000_000 + "\n" + "".join(f"error: {n}\n" for n in range(30)))
    assert decisive(log, failure) == [f"error: {n}" for n in (0, *range(21, 30))]
    assert decisive(tmp_path / "gone.log", failure) == ["said before"]


@pytest.fixture
def failed(fresh_state: StateDirs) -> StateDirs:
    fresh_state.logs.mkdir(parents=True)
    log = fresh_state.logs / "x.log"
    log.write_text(LOG)
    target = Target("debian", "bookworm")
    failure = Failure(
        failure_class=FailureClass.BUILD_DEP_MISSING, phase=Phase.COMPILE, brief="the C header foo.h is missing"
    )
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(NewBuild(build_id="20260101-0001", name="six", target=target, policy="default", log_path=log))
        ledger.finish(
            Outcome(
                build_id="20260101-0001",
                name="six",
                version="1.0",
                target=target,
                status=Status.FAILED,
                failure=failure,
                log_path=log,
            )
        )
    return fresh_state


def explain(state: StateDirs, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv(state, "explain", *arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_explain_tells_class_lines_meaning_retry_and_fix(failed: StateDirs) -> None:
    done = explain(failed)
    assert done.returncode == 0, done.stderr
    assert "build-dep-missing in compile: the C header foo.h is missing" in done.stdout
    assert "x.c:1:10: fatal error: foo.h" in done.stdout
    assert EXPLANATIONS[FailureClass.BUILD_DEP_MISSING].meaning in done.stdout
    assert "retry:" in done.stdout
    assert "fix:" in done.stdout
    assert "\x1b" not in done.stdout


def test_explain_as_json_is_one_document(failed: StateDirs) -> None:
    document = json.loads(explain(failed, "2026", "--json").stdout)
    assert document["failure"]["class"] == "build-dep-missing"
    assert document["failure"]["retryable"] is False
    assert any("foo.h" in line for line in document["failure"]["lines"])
    assert document["failure"]["fix"] == EXPLANATIONS[FailureClass.BUILD_DEP_MISSING].fix


def test_explain_without_any_failure_says_so(fresh_state: StateDirs) -> None:
    done = explain(fresh_state)
    assert done.returncode == UnknownBuildError.exit_code
