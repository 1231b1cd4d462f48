"""What builds of one process share, put together: stores, index, archives, backend, policies. Used by every verb that builds."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from lxcbuild.builder.context import BuildContext
from lxcbuild.builder.layering import nearest_stack
from lxcbuild.cli.main import configure_logging
from lxcbuild.config.overrides import Overrides, load_overrides
from lxcbuild.config.policies import load_policy
from lxcbuild.config.recipes import load_recipe
from lxcbuild.config.sharing import load_sharing
from lxcbuild.debian.archive.apt import AptArchive
from lxcbuild.debian.archive.contents import ContentsIndex
from lxcbuild.events import BuildEnded, Event, Monitor, PhaseEnded
from lxcbuild.images.layer import NeighbourLayers
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.images.wheels import WheelLayers
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Target
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.sandbox.start.launcher_pool import LauncherPool
from lxcbuild.state.paths import StateDirs


@contextlib.contextmanager
def build_context(
    dirs: StateDirs,
    monitor: Monitor,
    *,
    policy: str,
    overrides: Overrides | None = None,
    launchers: LauncherPool | None = None,
) -> Iterator[BuildContext]:
    """Everything that a build needs; given back at the end of the block. Raises UnknownPolicyError, ConfigError, HostError.

    ``launcher pool`` is for who wants it to start while the modules of this one are still loading.
    """
    load_policy(policy)  # a mistake in it is told before anything is started
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(LxcBackend(dirs, launchers=launchers))
        backend.prestart()
        images = ImageStore(dirs, monitor)
        stack.callback(images.close)
        index = stack.enter_context(IndexClient(dirs, monitor=monitor))

        @functools.cache
        def archive_for(target: Target) -> AptArchive:
            return images.archive(images.get(target))

        @functools.cache
        def contents_for(target: Target) -> ContentsIndex:
            return stack.enter_context(ContentsIndex.of_archive(dirs, target, archive_for(target), monitor=monitor))

        layers = LayerStore(dirs, backend, monitor, choose=nearest_stack, share=_share(dirs, monitor))
        stack.callback(_keep_within_budget, layers)
        stack.callback(layers.close)
        yield BuildContext(
            dirs=dirs,
            monitor=monitor,
            index=index,
            images=images,
            layers=layers,
            wheels=WheelLayers(layers, backend, monitor),
            backend=backend,
            recipe_for=functools.cache(load_recipe),
            archive_for=archive_for,
            contents_for=contents_for,
            policy_for=functools.cache(lambda package: load_policy(policy, package=package)),
            overrides=load_overrides() if overrides is None else overrides,
        )


def _share(dirs: StateDirs, monitor: Monitor) -> NeighbourLayers | None:
    """The store of ``layers.yaml``, where there is one."""
    settings = load_sharing()
    if settings is None:
        return None
    from lxcbuild.farm.artifacts import open_store
    from lxcbuild.farm.layershare import LayerShare

    store = open_store(settings.store)
    return LayerShare(dirs=dirs, store=store, trusted=settings.trusted, push=settings.push, monitor=monitor)


def _keep_within_budget(layers: LayerStore) -> None:
    """After builds that made layers: what saves least goes, so that the store does not grow for ever."""
    if layers.made:
        from lxcbuild.images.eviction import budgets, evict

        cold, hot = budgets()
        evict(layers, cold_bytes=cold, hot_bytes=hot)


@contextlib.contextmanager
def bulk_build_context(dirs: StateDirs, monitor: Monitor, *, policy: str) -> Iterator[BuildContext]:
    """The same in a process of its own, which inherits nothing of how the head speaks: only warnings are shown."""
    configure_logging(log_format="text", verbosity=0, plain=True)
    with build_context(dirs, monitor, policy=policy) as context:
        yield context


class Recorder:
    """A monitor that writes finished phases and builds into the ledger, as they happen."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def emit(self, event: Event) -> None:
        """Record it, if there is anything to record."""
        if isinstance(event, PhaseEnded):
            self._ledger.phase(event.build_id, event.record)
        elif isinstance(event, BuildEnded):
            self._ledger.finish(event.outcome)
