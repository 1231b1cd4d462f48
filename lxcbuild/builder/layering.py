"""Puts the decision of :mod:`lxcbuild.plan.layers` behind the layer store: what a new dependency set starts from."""

from __future__ import annotations

from collections.abc import Mapping

from lxcbuild.images.layer_records import Stack
from lxcbuild.plan.layers import KnownLayer, nearest


def nearest_stack(wanted: Mapping[str, int], stacks: Mapping[str, Stack]) -> str | None:
    """Key of the topmost layer of the stack that leaves least to install; ``wanted`` has compressed bytes by package."""
    known = (
        KnownLayer(key=key, packages=frozenset(stack.packages), depth=len(stack.way)) for key, stack in stacks.items()
    )
    found = nearest(frozenset(wanted), known, wanted)
    return found.key if found else None
