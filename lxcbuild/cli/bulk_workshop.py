"""The workshop of builds in processes of their own, which inherit nothing of how the head speaks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lxcbuild.builder.context import Facilities
from lxcbuild.cli.log_setup import configure_logging
from lxcbuild.cli.workshop import workshop
from lxcbuild.events import Monitor
from lxcbuild.state.paths import StateDirs


@contextlib.contextmanager
def bulk_workshop(dirs: StateDirs, monitor: Monitor, *, policy: str) -> Iterator[Facilities]:
    """See :func:`~lxcbuild.cli.workshop.workshop`; the only records that are shown are warnings."""
    configure_logging(log_format="text", verbosity=0, plain=True)
    with workshop(dirs, monitor, policy=policy) as facilities:
        yield facilities
