"""State that version 0.1 left on disk is read: images, layers, kept states, plans and repositories. Ledgers: ``tests/unit/ledger``.

The files below ``released/`` were written by the released commands; mirrors and paths of the machine have other names.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from lxcbuild.builder.failed.failedstate import FailedState
from lxcbuild.images.image import ImageRecord
from lxcbuild.images.layer_records import LayerRecords
from lxcbuild.model import FailureClass, Phase
from lxcbuild.plan.document import dump_plan, parse_plan
from lxcbuild.policy import NetworkMode

RELEASED = Path(__file__).with_name("released")


def test_released_image_record() -> None:
    text = (RELEASED / "debian-bookworm.json").read_text()
    record = ImageRecord.from_json(text)
    assert (record.name, record.python_version) == ("debian-bookworm", "3.11.2")
    assert len(record.packages) == 110
    assert record.to_json() == text


def test_released_layer_records(tmp_path: Path) -> None:
    shutil.copytree(RELEASED / "layers", tmp_path / "layers")
    found = LayerRecords(tmp_path / "layers")
    toolchain, above = "f15913838671b520", "b99fae5b618b585e"
    for key in (toolchain, above):
        document = found.document(key)
        assert document == json.loads((RELEASED / "layers" / f"{key}.json").read_text())
    assert {key[:16] for key in found.layers()} == {toolchain, above}
    image = ImageRecord.from_json((RELEASED / "debian-bookworm.json").read_text())
    stacks = found.stacks(image.digest)
    assert sorted(len(stack.way) for stack in stacks.values()) == [1, 2], (
        "the one stands on the other, both on the image"
    )


def test_released_failed_state() -> None:
    data = (RELEASED / "failed-state.json").read_bytes()
    state = FailedState.from_json(data)
    assert (state.name, state.phase, state.failure.failure_class) == (
        "brokenx",
        Phase.COMPILE,
        FailureClass.COMPILE_FAILED,
    )
    assert state.limits.network is NetworkMode.SINKHOLE
    old, new = json.loads(data), json.loads(state.to_json())
    assert old.pop("limits").items() <= new.pop("limits").items(), "a limit may be new, none is lost"
    assert old == new


def test_released_plan_keeps_its_jobs() -> None:
    text = (RELEASED / "plan.json").read_text()
    plan = parse_plan(text)
    assert sorted(plan.jobs) == ["debian/bookworm/idna==3.20", "debian/bookworm/six==1.17.0"]
    assert json.loads(dump_plan(plan)) == json.loads(text)


def test_released_repository_verifies() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lxcbuild", "repo", "verify", RELEASED / "repository", "--json"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert done.returncode == 0, done.stderr
