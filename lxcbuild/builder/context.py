"""What builds of one process may use: values that the command line or the farm puts together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct, field

from lxcbuild.config.overrides import Overrides
from lxcbuild.config.recipes import Recipe
from lxcbuild.debian.archive.apt import AptArchive
from lxcbuild.debian.archive.contents import ContentsIndex
from lxcbuild.events import Monitor
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.images.wheels import WheelLayers
from lxcbuild.model import Target
from lxcbuild.policy import Policy
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.pypi.versions.version_caps import Ceilings
from lxcbuild.sandbox.base import Backend
from lxcbuild.state.paths import StateDirs


class BuildContext(Struct, frozen=True, kw_only=True):
    """What all builds of one process share. ``policy_for`` gives the policy of a package (per-package overrides applied)."""

    dirs: StateDirs
    monitor: Monitor
    index: IndexClient
    images: ImageStore
    layers: LayerStore
    wheels: WheelLayers
    backend: Backend
    recipe_for: Callable[[Target], Recipe]
    archive_for: Callable[[Target], AptArchive]
    contents_for: Callable[[Target], ContentsIndex]
    policy_for: Callable[[str | None], Policy]
    overrides: Overrides = field(default_factory=Overrides)  # hand-made, per project
    pins: Mapping[str, str] = field(default_factory=dict)  # versions that a plan has chosen, by project
    caps: Ceilings = field(default_factory=dict)  # releases that a run has tried and that cannot be built, by project
