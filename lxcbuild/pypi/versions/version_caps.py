"""Where the newest release of something that others need cannot be built: which older ones are tried instead. Pure.

Nobody asked for that release by name, and an older one may satisfy them as well. The releases just below the one that has failed
share its trouble more often than not (a backend that is not there, a language that is too new), so that each try goes twice as far
down as the one before. After 5 tries 31 releases are behind; then the project counts as one that cannot be built, and who needs it
may be there in a release that does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from packaging.version import InvalidVersion, Version

from lxcbuild.model import FailureClass
from lxcbuild.pypi.versions.selection import ReleaseFiles

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


class VersionCap(Struct, frozen=True, kw_only=True):
    """Releases from ``version`` to ``newest`` are left out, and the ``passed_over`` newest below; after ``MAX_TRIES``, all below.

    ``why`` says what ``newest`` failed for. What is newer still, nobody has tried: it came out since, or who tried it bears none.
    """

    version: str
    tries: int
    newest: str
    why: str

    @property
    def passed_over(self) -> int:
        """0, 1, 3, 7, 15."""
        return (1 << (self.tries - 1)) - 1

    def leaves(self, releases: Sequence[ReleaseFiles]) -> list[ReleaseFiles]:
        """What is left of releases, the oldest first."""
        newer = [release for release in releases if release.version > Version(self.newest)]
        if self.tries > MAX_TRIES:
            return newer
        lower = [release for release in releases if release.version < Version(self.version)]
        return lower[: max(0, len(lower) - self.passed_over)] + newer

    def covers(self, version: str) -> bool:
        """Whether a release was tried, or lies between two that were."""
        return Version(self.version) <= Version(version) <= Version(self.newest)

    def __str__(self) -> str:
        return f"{self.newest} cannot be built ({self.why})"


Ceilings = Mapping[str, VersionCap]


def lowered(before: VersionCap | None, version: str, *, failure_class: FailureClass, why: str) -> VersionCap | None:
    """The cap after a release has failed; None when no other one is tried. A failure that was known changes nothing."""
    if failure_class not in _OF_THE_RELEASE:
        return None
    try:
        failed = Version(version)
    except InvalidVersion:
        return None
    if before is None:
        return VersionCap(version=version, tries=1, newest=version, why=why)
    if failed > Version(before.newest):
        return VersionCap(version=before.version, tries=before.tries, newest=version, why=why)
    if before.tries > MAX_TRIES:
        return None
    if failed >= Version(before.version):
        return before
    return VersionCap(version=version, tries=before.tries + 1, newest=before.newest, why=before.why)
