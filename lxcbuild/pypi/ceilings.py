"""Where the newest release of something that others need cannot be built: which older ones are tried instead. Pure.

Nobody asked for that release by name, and an older one may satisfy them as well. The releases just below the one that has failed
share its trouble more often than not (a backend that is not there, a language that is too new), so that each try goes twice as far
down as the one before. After 5 tries 31 releases are behind; then the project counts as one that cannot be built, and who needs it
may be there in a release that does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.version import InvalidVersion, Version

from lxcbuild.model import FailureClass
from lxcbuild.pypi.selection import ReleaseFiles
from lxcbuild.values import dataclass

MAX_TRIES = 5

#: Failures that are about the release and the suite, and not about the machine, a limit or what the package tries to do.
_OF_THE_RELEASE = frozenset(
    {
        FailureClass.BROKEN_SDIST,
        FailureClass.BUILD_DEP_MISSING,
        FailureClass.DEP_MISSING,
        FailureClass.UNSATISFIABLE,
        FailureClass.CONVERT_FAILED,
        FailureClass.COMPILE_FAILED,
        FailureClass.IMPORT_FAILED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Releases from ``version`` on are left out, and the ``passed_over`` newest below it; all of them after ``MAX_TRIES``.
    ``newest`` failed first, for ``why``."""

    version: str
    tries: int
    newest: str
    why: str

    @property
    def passed_over(self) -> int:
        """0, 1, 3, 7, 15."""
        return (1 << (self.tries - 1)) - 1

    def below(self, releases: Sequence[ReleaseFiles]) -> list[ReleaseFiles]:
        """What is left of releases, the oldest first."""
        if self.tries > MAX_TRIES:
            return []
        lower = [release for release in releases if release.version < Version(self.version)]
        return lower[: max(0, len(lower) - self.passed_over)]

    def __str__(self) -> str:
        return f"{self.newest} cannot be built ({self.why})"


Ceilings = Mapping[str, Ceiling]


def lowered(before: Ceiling | None, version: str, *, failure_class: FailureClass, why: str) -> Ceiling | None:
    """The ceiling after a release has failed; None when no older one is tried."""
    if failure_class not in _OF_THE_RELEASE:
        return None
    try:
        failed = Version(version)
    except InvalidVersion:
        return None
    if before is None:
        return Ceiling(version=version, tries=1, newest=version, why=why)
    if before.tries > MAX_TRIES:
        return None
    lower = str(min(failed, Version(before.version)))
    return Ceiling(version=lower, tries=before.tries + 1, newest=before.newest, why=before.why)
