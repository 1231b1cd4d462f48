"""What a worker offers when the disk of its state is full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.cli.verbs.machine.farm import own_engine
from lxcbuild.errors import DiskFullError
from lxcbuild.farm.offer import LEAST_DISK_BYTES, Share
from lxcbuild.state.paths import StateDirs

pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that has hardly more room than a worker must have."""
    place = tmp_path / "state"
    place.mkdir()
    size = LEAST_DISK_BYTES + (4 << 20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "disk", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_worker_offers_nothing_while_its_disk_is_full(disk: Path) -> None:
    engine = own_engine(StateDirs.choose(disk), Share(cpus=1.0), lambda _: None, dedicated=True)
    try:
        assert [worker.cpus for worker in engine.workers()] == [1.0]
        (disk / "filler").write_bytes(bytes(8 << 20))
        with pytest.raises(DiskFullError, match=f"disk is full: {(LEAST_DISK_BYTES >> 20) - 4} MiB left"):
            engine.workers()
        (disk / "filler").unlink()
        assert len(engine.workers()) == 1
    finally:
        engine.close()
