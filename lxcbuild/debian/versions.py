"""PEP 440 versions as Debian versions, so that dpkg puts releases in the order that the Python world puts them in.

The encoding, and why (dpkg's rule, Debian Policy 5.6.12: ``~`` sorts before the end, letters before other characters, and
``+`` before ``.``):

=============  ===============  ==========================================================================
PEP 440        Debian           because
=============  ===============  ==========================================================================
``1.0a1``      ``1.0~a1``       sorts before ``1.0``; a, b, rc are in alphabetical order already
``1.0.dev1``   ``1.0~~dev1``    before ``1.0~a1``, which one tilde would not be
``1.0a1.dev1`` ``1.0~a1~dev1``  before ``1.0~a1``, after every ``1.0~~dev``
``1.0.post1``  ``1.0+post1``    ``1.0.post1`` would sort after ``1.0.1``
``1.0+abc``    ``1.0+~abc``     after ``1.0``, before ``1.0+post1``
``1!2.0``      ``2.0``          an epoch, once used in an archive, can never be taken back: never one of ours
=============  ===============  ==========================================================================

What cannot be carried over: PEP 440 pads with zeros (``1.0`` equals ``1.0.0``), dpkg does not; the order of two local
parts of one release follows dpkg's rule for strings.
"""

from __future__ import annotations

import re

from packaging.version import InvalidVersion, Version

from lxcbuild.errors import BadNameError
from lxcbuild.model import Target

#: Release numbers, because code names do not sort. A suite that is not here keeps its name, which sorts after any number.
_RELEASES = {
    ("debian", "buster"): "10",
    ("debian", "bullseye"): "11",
    ("debian", "bookworm"): "12",
    ("debian", "trixie"): "13",
    ("debian", "forky"): "14",
    ("debian", "duke"): "15",
    ("ubuntu", "focal"): "20.04",
    ("ubuntu", "jammy"): "22.04",
    ("ubuntu", "noble"): "24.04",
}
_SHORT = {"debian": "deb"}


def parse_version(text: str) -> Version:
    """Read a PEP 440 version; raises :class:`BadNameError` on anything else."""
    try:
        if len(text) > 200:
            raise InvalidVersion(text)
        return Version(text)
    except InvalidVersion:
        raise BadNameError(
            f"{text[:80]!r} is not a version", resolution="versions follow PEP 440, for example 1.0 or 2.1rc1"
        ) from None


def upstream_version(version: str | Version) -> str:
    """The Debian upstream version of a PEP 440 version, by the table of this module; raises :class:`BadNameError`."""
    parsed = version if isinstance(version, Version) else parse_version(version)
    text = ".".join(str(number) for number in parsed.release)
    if parsed.pre is not None:
        text += f"~{parsed.pre[0]}{parsed.pre[1]}"
    if parsed.post is not None:
        text += f"+post{parsed.post}"
    if parsed.dev is not None:
        text += f"~dev{parsed.dev}" if parsed.pre is not None or parsed.post is not None else f"~~dev{parsed.dev}"
    if parsed.local is not None:
        text += f"+~{parsed.local}"
    return text


def upstream_of(debian_version: str) -> str:
    """What upstream calls a version of the archive: without epoch, revision and marks of repacking."""
    upstream = debian_version.rpartition(":")[2]
    return re.split(r"[+~]", upstream.rpartition("-")[0] or upstream)[0]


def target_suffix(target: Target) -> str:
    """The part of a version that tells suites apart and sorts newer releases higher: ``deb12``, ``ubuntu24.04``, ``debsid``."""
    release = _RELEASES.get((target.distribution, target.suite), target.suite.replace("-", "."))
    return f"{_SHORT.get(target.distribution, target.distribution)}{release}"


def package_version(version: str | Version, target: Target, *, revision: int = 1) -> str:
    """The full version of a package made here, ``<upstream>-0~lxcbuild<revision>~<suite>``: any official revision is higher."""
    return f"{upstream_version(version)}-0~lxcbuild{revision}~{target_suffix(target)}"
