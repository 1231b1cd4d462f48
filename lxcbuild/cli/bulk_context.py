"""The build context of builds in processes of their own, which inherit nothing of how the head speaks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lxcbuild.builder.context import BuildContext
from lxcbuild.cli.build_context import build_context
from lxcbuild.cli.log_setup import configure_logging
from lxcbuild.events import Monitor
from lxcbuild.state.paths import StateDirs


@contextlib.contextmanager
def bulk_build_context(dirs: StateDirs, monitor: Monitor, *, policy: str) -> Iterator[BuildContext]:
    """See :func:`~lxcbuild.cli.build context.build context`; the only records that are shown are warnings."""
    configure_logging(log_format="text", verbosity=0, plain=True)
    with build_context(dirs, monitor, policy=policy) as context:
        yield context
