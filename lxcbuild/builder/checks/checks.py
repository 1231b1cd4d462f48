"""Checks on request, once a package has passed phase verify: lintian, the project's own tests, and a second build.

They look at sealed packages and never change them; what was sealed is hashed again afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from lxcbuild.builder.facts import Laid, LaidPackage, Verified
from lxcbuild.builder.work import Work
from lxcbuild.errors import GateError
from lxcbuild.files import sha256_of
from lxcbuild.sandbox.base import ExtractedFile


def check(work: Work, laid: Laid | LaidPackage, verified: Verified) -> Verified:
    """What the user asked for besides. What is only needed by something else gets no such checks."""
    asked, compiled = work.request, verified.compiled
    if asked.wants_checks and not asked.needed_by:
        from lxcbuild.builder.checks import lint, reproduce, upstream_tests

        if asked.lintian:
            lint.run(work, laid, compiled)
        if asked.tests:
            upstream_tests.run(work, laid, compiled)
        if asked.check_reproducible:
            reproduce.run(work, laid, compiled)
        ensure_untouched(compiled.files)
    return verified


def ensure_untouched(files: Sequence[ExtractedFile]) -> None:
    """Raise :class:`GateError` where a sealed file is not what was sealed: no sandbox has ever had it writable."""
    for item in files:
        if sha256_of(item.path) != item.sha256:
            raise GateError(f"{item.name} has changed since it was sealed")
