"""Which layers go when there are too many: those that save least seconds per byte, never one that a build uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from lxcbuild import files
from lxcbuild.config.retention import load_retention
from lxcbuild.images.layer_records import Shelved
from lxcbuild.images.layers import LayerStore


class Evicted(Struct, frozen=True, kw_only=True):
    """A layer that went, and what that freed; ``archive`` is False where only its unpacked tree went."""

    key: str
    bytes: int
    archive: bool


def budgets() -> tuple[int, int]:
    """Bytes for archives on disk and for trees in memory: the administrator's, or for the latter a quarter of the machine's."""
    kept = load_retention().layers
    return kept.max_bytes, files.memory()["MemTotal"] // 4 if kept.hot_bytes is None else kept.hot_bytes


def doomed(
    layers: Mapping[str, Shelved], *, budget_bytes: int, size: Callable[[Shelved], int], tops_only: bool = True
) -> list[Shelved]:
    """The layers to drop, in order, so that what stays fits: lowest value first, (seconds saved x reuse) / bytes.

    A layer that others stand on is only dropped after them (``tops_only``): without it they could not be used.
    """
    left = dict(layers)
    total = sum(size(layer) for layer in left.values())
    found: list[Shelved] = []
    while total > budget_bytes:
        carrying = {layer.parent for layer in left.values()} if tops_only else set()
        free = [layer for layer in left.values() if layer.key not in carrying and size(layer)]
        if not free:
            break
        worst = min(free, key=lambda layer: (layer.value, layer.created_at, layer.key))
        found.append(left.pop(worst.key))
        total -= size(worst)
    return found


def evict(store: LayerStore, *, cold_bytes: int, hot_bytes: int, dry_run: bool = False) -> list[Evicted]:
    """Bring the archives below ``cold_bytes``, and the unpacked trees below ``hot_bytes``; what builds use stays."""
    layers = store.layer_records.layers()
    gone = [
        Evicted(key=layer.key, bytes=layer.archive_bytes, archive=True)
        for layer in doomed(layers, budget_bytes=cold_bytes, size=lambda layer: layer.archive_bytes)
        if dry_run or store.remove(layer.key)
    ]
    unpacked = store.hot.digests()
    dropped = {each.key for each in gone}
    hot = {key: layer for key, layer in layers.items() if key[:16] in unpacked and key not in dropped}
    gone += [
        Evicted(key=layer.key, bytes=layer.unpacked_bytes, archive=False)
        for layer in doomed(hot, budget_bytes=hot_bytes, size=lambda layer: layer.unpacked_bytes, tops_only=False)
        if dry_run or store.hot.drop(layer.key)
    ]
    return gone
