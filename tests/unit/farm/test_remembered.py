"""What the ledger says of releases that earlier runs could not build."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from lxcbuild.farm.jobs import DAYS, remembered
from lxcbuild.ledger.records import NewBuild
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Failure, FailureClass, Outcome, Phase, Status, Target
from lxcbuild.state.paths import StateDirs

TARGET = Target.parse("debian/bookworm")
IMAGE = "sha256:" + "a" * 64


@pytest.fixture
def ledger(fresh_state: StateDirs) -> Iterator[Ledger]:
    with Ledger.open(fresh_state) as opened:
        yield opened


def record(
    ledger: Ledger, version: str, failure: FailureClass | None = FailureClass.COMPILE_FAILED, **about: object
) -> str:
    """A build of "part" that others needed and that failed, or was built where no failure is given; its id."""
    count = len(ledger.recent(limit=None))
    build_id, now = f"b{count}", datetime.now(UTC) - timedelta(hours=1) + timedelta(seconds=count)
    request = {"requirement": f"part=={version}", "needed_by": "app 1.0", **about.pop("request", {})}  # type: ignore[dict-item]
    ledger.begin(NewBuild(build_id=build_id, name="part", target=TARGET, policy="default", request=request))
    ledger.learn(build_id, version=version, image_digest=IMAGE)
    why = Failure(failure_class=failure, phase=Phase.COMPILE, brief="gcc") if failure else None
    ended = Outcome(
        build_id=build_id,
        name="part",
        version=version,
        target=TARGET,
        status=Status.FAILED if failure else Status.BUILT,
        failure=why,
    )
    ledger.finish(ended)
    values = {"started_at": now.isoformat(), **about}
    with ledger._database.writing() as transaction:
        transaction.update_builds(values, "id = ?", (build_id,))
    return build_id


def known(ledger: Ledger, *, policy: str = "default", image: str | None = IMAGE) -> list[tuple[str, str, int]]:
    found = remembered(ledger, TARGET, policy=policy, image=image)
    return [(item.version, item.newest, item.tries) for item in found.values()]


def test_failures_of_what_others_needed_count_in_their_order(ledger: Ledger) -> None:
    record(ledger, "2.0")
    record(ledger, "1.9")
    last = record(ledger, "2.0")
    assert known(ledger) == [("1.9", "2.0", 2)]
    assert remembered(ledger, TARGET, policy="default", image=IMAGE)["part"].why == (
        f"compile-failed in compile: gcc; build {last}"
    )
    assert known(ledger, image=None) == [("1.9", "2.0", 2)]


@pytest.mark.parametrize(
    "about",
    [
        {"policy": "paranoid"},
        {"lxcbuild_version": "0.0.1"},
        {"image_digest": "sha256:" + "b" * 64},
        {"target": "debian/trixie"},
        {"started_at": (datetime.now(UTC) - timedelta(days=DAYS, minutes=1)).isoformat()},
        {"request": {"needed_by": ""}},
        {"request": {"override": "some"}},
        {"failure": FailureClass.OOM},
        {"failure": FailureClass.CANCELLED},
    ],
    ids=lambda about: next(iter(about)),
)
def test_what_could_go_another_way_now_does_not(ledger: Ledger, about: dict[str, object]) -> None:
    record(ledger, "2.0", **about)  # type: ignore[arg-type]
    assert known(ledger) == []


def test_what_was_built_since_is_no_failure(ledger: Ledger) -> None:
    record(ledger, "2.0")
    record(ledger, "1.9")
    record(ledger, "2.0", failure=None)
    assert known(ledger) == [("1.9", "1.9", 1)]
