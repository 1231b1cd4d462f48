"""What inspection read is kept by all that it depends on, within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from lxcbuild.builder.needs import readings
from lxcbuild.debian.source.inspection import inspect_job
from lxcbuild.state.paths import StateDirs


@pytest.fixture
def dirs(tmp_path: Path) -> StateDirs:
    return StateDirs.choose(tmp_path)


def test_what_was_kept_is_found_again_by_equal_inputs_only(dirs: StateDirs) -> None:
    job = inspect_job("demo-1.0.tar.gz")
    key = readings.key_of(job, archive_sha256="a" * 64, image_digest="b" * 64)
    assert readings.recall(dirs, key) is None
    readings.keep(dirs, key, b"{}")
    assert readings.recall(dirs, key) == b"{}"
    assert key == readings.key_of(inspect_job("demo-1.0.tar.gz"), archive_sha256="a" * 64, image_digest="b" * 64)
    others = [
        readings.key_of(job, archive_sha256="c" * 64, image_digest="b" * 64),
        readings.key_of(job, archive_sha256="a" * 64, image_digest="c" * 64),
        readings.key_of(inspect_job("demo-1.1.tar.gz"), archive_sha256="a" * 64, image_digest="b" * 64),
        readings.key_of(
            replace(job, files={**job.files, "/lxcbuild/tools.zip": b"changed"}),
            archive_sha256="a" * 64,
            image_digest="b" * 64,
        ),
    ]
    assert len({key, *others}) == 5
    assert all(readings.recall(dirs, other) is None for other in others)


def test_too_many_and_too_large_ones_go(dirs: StateDirs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "_KEPT_EACH", 3)
    keys = [f"00{number:062x}" for number in range(5)]
    for age, key in enumerate(keys[:3]):
        readings.keep(dirs, key, b"x")
        os.utime(dirs.cache / "readings" / "00" / key, (age, age))
    assert readings.recall(dirs, keys[0]) == b"x"  # it is the newest now
    readings.keep(dirs, keys[3], b"x")
    assert [key for key in keys if readings.recall(dirs, key) is not None] == [keys[0], keys[2], keys[3]]
    readings.keep(dirs, keys[4], b"x" * (readings._MAX_BYTES + 1))
    assert readings.recall(dirs, keys[4]) is None
