"""Checks on request, once a package has passed phase verify: lintian, the project's own tests, and a second build.

They look at sealed packages and never change them; what was sealed is hashed again afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

from lxcbuild.builder.work import Work
from lxcbuild.errors import GateError
from lxcbuild.files import sha256_of


def after(verify: Callable[[Work], None]) -> Callable[[Work], None]:
    """Phase verify, and then what the user asked for besides. What is only needed by something else gets no such checks."""

    def run(work: Work) -> None:
        verify(work)
        asked = work.request
        if not asked.wants_checks or asked.needed_by:
            return
        from lxcbuild.builder.checks import lint, reproduce, upstream_tests

        if asked.lintian:
            lint.run(work)
        if asked.tests:
            upstream_tests.run(work)
        if asked.check_reproducible:
            reproduce.run(work)
        ensure_untouched(work)

    return run


def ensure_untouched(work: Work) -> None:
    """Raise :class:`GateError` where a sealed file is not what was sealed: no sandbox has ever had it writable."""
    for item in work.sealed:
        if sha256_of(item.path) != item.sha256:
            raise GateError(f"{item.name} has changed since it was sealed")
