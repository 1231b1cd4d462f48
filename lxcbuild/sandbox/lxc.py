"""The LXC backend: makes instances, with one launcher pool and one clean-up thread for all of them."""

from __future__ import annotations

import contextlib
import os

from lxcbuild.errors import InputError, LxcbuildError, NotRootError, SandboxError
from lxcbuild.files import Closing
from lxcbuild.linux import block, mounts
from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.sandbox.background import BackgroundWork
from lxcbuild.sandbox.base import BackendVerdict, InstanceSpec
from lxcbuild.sandbox.limits import enforcement
from lxcbuild.sandbox.lxc_instance import LxcInstance
from lxcbuild.sandbox.start.launcher_pool import LauncherPool
from lxcbuild.state.paths import StateDirs


class LxcBackend(Closing):
    """Makes sandboxes that are LXC containers, for any number of threads; close it at the end, and with it ``launcher pool``."""

    name = "lxc"

    def __init__(self, dirs: StateDirs, *, launchers: LauncherPool | None = None) -> None:
        self._dirs = dirs
        self._launchers = launchers or LauncherPool(dirs.run)
        self._background = BackgroundWork()
        self._host: CgroupHost | None = None

    def probe(self) -> BackendVerdict:
        """Whether this host can run LXC sandboxes, by trying what is cheap to try; ``lxcbuild doctor`` tries the rest."""
        try:
            if os.geteuid() != 0:
                raise NotRootError("LXC sandboxes need root", resolution="run it with sudo")
            CgroupHost.detect()
            self._launchers.prepare()
        except LxcbuildError as error:
            return BackendVerdict(usable=False, reason=error.brief, resolution=error.resolution)
        return BackendVerdict(usable=True)

    def prestart(self) -> None:
        """Make ready in the background what the next sandbox needs (a launcher, ids, a user namespace); call it any time."""

        def prepare() -> None:
            with contextlib.suppress(LxcbuildError):  # the start that comes next meets the same trouble, and says so
                self._launchers.prepare()

        self._launchers.warm()
        self._background.run("prestart", prepare)

    def create(self, spec: InstanceSpec) -> LxcInstance:
        """An instance that is not yet started. Raises LimitRefusedError for a limit that this host cannot enforce."""
        if self._host is None:
            self._host = CgroupHost.detect()  # a millisecond; hierarchies do not come and go while we run
            if (disk := block.below(self._dirs.lib)) is not None:
                self._host.count_io(disk.numbers)
        host = self._host
        plan = enforcement.plan_limits(spec.policy, host, state_dir=self._dirs.lib)
        plan.require()
        _check_paths(spec)
        return LxcInstance(
            spec, dirs=self._dirs, plan=plan, host=host, launchers=self._launchers, background=self._background
        )

    def settle(self) -> None:
        """Wait for what is being prepared or cleaned up behind."""
        self._background.join()

    def close(self) -> None:
        """Wait for what is being cleaned up behind, and end the launcher pool."""
        self.settle()
        self._launchers.close()


def _check_paths(spec: InstanceSpec) -> None:
    """Refuse what cannot be shown inside, in words, before anything is made."""
    for bind in spec.binds:
        if not bind.host.is_dir() and not bind.host.is_file():
            raise InputError(f"{bind.host} is not a file or directory", resolution="check the path")
        try:
            mounts.split_inside(bind.inside)
        except ValueError as error:
            raise InputError(str(error)) from error
    for lower in spec.lowers:
        if not lower.is_dir():
            raise SandboxError(f"{lower} is not a directory", resolution="run: lxcbuild rootfs list")
