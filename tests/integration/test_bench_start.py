"""``lxcbuild bench start`` on real containers: it measures, says what is absent, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcbuild.bench import parallel
from lxcbuild.bench.start import OURS, measure
from lxcbuild.config.policies import load_policy
from lxcbuild.state.paths import StateDirs

pytestmark = pytest.mark.root


def test_every_peer_is_measured_or_absent(dirs: StateDirs, rootfs: Path) -> None:
    before = set(Path("/dev/shm").iterdir())
    peers = ("lxc-execute", "bubblewrap", "runc", "crun", "unshare")
    found = measure(dirs, image=rootfs, policy=load_policy("default"), runs=2, peers=peers)
    assert {name: len(series) for name, series in found.ours.items()} == dict.fromkeys(OURS, 2)
    for position in range(2):
        assert 0 < found.ours["ready"][position] < found.ours["first"][position] < found.ours["whole"][position]
    assert {*found.first, *found.absent} == set(peers)
    assert "unshare" in found.first
    # An idle sandbox with its launcher and guard, not a whole Python per part: the promise of docs/reference/performance.md.
    assert 0 < max(found.memory_bytes) < 30 << 20
    assert {path for path in Path("/dev/shm").iterdir() if path.name.startswith("lxcbuild-bench-")} <= before


def test_sandboxes_that_live_side_by_side_start_all_and_cost_little(dirs: StateDirs, rootfs: Path) -> None:
    found = parallel.measure(dirs, image=rootfs, policy=load_policy("default"), count=8)
    assert len(found.first_ms) == len(found.memory_bytes) == 8
    assert 0 < max(found.memory_bytes) < 30 << 20
    assert found.stop_ms > 0


def test_starts_are_measured_per_tree_size_and_the_trees_are_removed(dirs: StateDirs, rootfs: Path) -> None:
    before = set(rootfs.parent.iterdir())
    found = parallel.measure_trees(dirs, image=rootfs, policy=load_policy("default"), sizes=[0, 1500], runs=2)
    assert {size: len(series) for size, series in found.items()} == {0: 2, 1500: 2}
    assert all(took_ms > 0 for series in found.values() for took_ms in series)
    assert set(rootfs.parent.iterdir()) == before
