"""Where trees lie when the kernel cannot id-map a tmpfs (Debian 12's own kernel); the real kernel is asked under QEMU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lxcbuild.events import Event, Note
from lxcbuild.images import tmpfs_maps
from lxcbuild.images.hot import HotStore
from lxcbuild.images.image import Storage
from lxcbuild.linux import ids, probe
from lxcbuild.state.paths import StateDirs

WHY = "this kernel cannot id-map a tmpfs (EINVAL)"


class Ears:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(event.text)


def answered(dirs: StateDirs, refusal: str | None, *, boot_id: str | None = None) -> None:
    """An answer of this boot, as the first question leaves it."""
    boot = boot_id or Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    dirs.run.mkdir(parents=True)
    (dirs.run / "tmpfs-maps.json").write_text(json.dumps({"boot_id": boot, "refusal": refusal}))


def test_trees_go_to_disk_where_a_tmpfs_cannot_be_mapped_and_a_note_says_so(fresh_state: StateDirs) -> None:
    answered(fresh_state, WHY)
    ears = Ears()
    store = HotStore(fresh_state, ears)
    for _ in range(2):
        path, storage = store.place("a" * 64, size_bytes=1, what="the image x", fill=lambda t: (t / "f").touch())
        assert storage is Storage.DISK
        assert path.is_relative_to(fresh_state.cache)
    store.close()
    assert ears.notes == [f"the image x is unpacked on disk, not in memory: {WHY}"]
    assert not fresh_state.hot.exists()
    assert tmpfs_maps.known_refusal(fresh_state) == WHY


def test_the_answer_of_another_boot_does_not_count(fresh_state: StateDirs, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(fresh_state, WHY, boot_id="another")
    assert tmpfs_maps.known_refusal(fresh_state) is None
    asked: list[int] = []

    def works(place: Path | None, *, id_base: int) -> None:
        asked.append(id_base)

    monkeypatch.setattr(probe, "overlay_on_idmapped", works)
    monkeypatch.setattr(ids.IdAllocator, "starts", lambda self: (1 << 20,))
    assert [tmpfs_maps.refusal(fresh_state) for _ in range(3)] == [None] * 3
    assert asked == [1 << 20], "asked once per boot"
