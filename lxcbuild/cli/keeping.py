"""How much room dependency layers may take: the administrator's retention, or a share of the machine."""

from __future__ import annotations


def layer_budgets() -> tuple[int, int]:
    """Bytes for compressed layers on disk, and for unpacked ones in memory (without a setting a quarter of the machine's)."""
    from lxcbuild.config.retention import load_retention
    from lxcbuild.images.hot import memory_info

    kept = load_retention().layers
    hot = kept.hot_bytes if kept.hot_bytes is not None else memory_info()["MemTotal"] // 4
    return kept.max_bytes, hot
