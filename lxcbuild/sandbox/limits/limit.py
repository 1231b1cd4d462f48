"""What one limit of a policy is on one host, and the facts that decide how it is enforced."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from lxcbuild.linux import block
from lxcbuild.linux.cgroups.cgroup import CgroupHost, Version


class Mechanism(enum.StrEnum):
    """What keeps a limit."""

    CGROUP = "cgroup"
    TMPFS = "tmpfs"
    CLOCK = "clock"  # a clock of ours
    READER = "reader"  # a bounded reader of ours on the host's side
    SECCOMP = "seccomp"
    NAMESPACE = "namespace"
    BACKEND = "backend"
    NOTHING = "nothing"  # it holds by itself


class Write(Struct, frozen=True):
    """One value for one control file."""

    controller: str
    file: str
    text: str


class Limit(Struct, frozen=True, kw_only=True):
    """One limit of a policy on this host. ``problem`` says why it cannot be enforced; None when it is."""

    name: str  # dotted, as in the policy file
    value: object
    mechanism: Mechanism
    how: str  # for people
    writes: tuple[Write, ...] = ()
    read: tuple[tuple[str, str], ...] = ()  # (controller, file) to read back
    interpret: Callable[..., object] | None = None  # texts of ``read`` to a value in the policy's unit
    problem: str | None = None
    fix: str | None = None
    note: str | None = None

    @property
    def plain(self) -> object:
        """The value as JSON can hold it."""
        return self.value if isinstance(self.value, int | float | str | list | dict | None) else str(self.value)

    @property
    def text(self) -> str:
        """The value for a message."""
        return str(self.value)


class Facts(Struct, frozen=True, kw_only=True):
    """What the decisions depend on."""

    host: CgroupHost
    cpus: frozenset[int]
    swap_bytes: int
    state_dir: Path
    state_device: block.BlockDevice | None

    def version(self, controller: str) -> Version | None:
        """See :meth:`CgroupHost.version`."""
        return self.host.version(controller)


def missing(name: str, value: object, *, controller: str) -> Limit:
    """The limit of a controller that this host does not have."""
    return Limit(
        name=name,
        value=value,
        mechanism=Mechanism.CGROUP,
        how="nothing",
        problem=f"the kernel offers no {controller} controller here",
        fix=f"enable it: remove cgroup_disable={controller} from the kernel's command line, or let the container that "
        "this runs in have it",
    )
