"""What a file is, by its name alone: sdist (PEP 625 and the older styles) or wheel, of which project and version."""

from __future__ import annotations

import re

from packaging.version import InvalidVersion, Version

_SEPARATORS = re.compile(r"[-_.]+")
#: In the order of preference when a release has several.
SDIST_SUFFIXES = (".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".txz", ".tar")


def sdist_suffix(filename: str) -> str | None:
    """The archive suffix of a name that can be an sdist, or None."""
    lowered = filename.lower()
    return next((suffix for suffix in SDIST_SUFFIXES if lowered.endswith(suffix)), None)


def sdist_version(filename: str, name: str) -> Version | None:
    """The version in an sdist's file name, or None when the file is no sdist of the project ``name`` (normalised).

    Older tools wrote the project's name with dashes, dots or capitals, so the dash that ends the name is the first one
    before which the text normalises to ``name`` (the rule that pip uses).
    """
    suffix = sdist_suffix(filename)
    if suffix is None:
        return None
    stem = filename[: -len(suffix)]
    for place, character in enumerate(stem):
        if character == "-" and canonical(stem[:place]) == name:
            return version_or_none(stem[place + 1 :])
    return None


def split_sdist_name(filename: str) -> tuple[str, Version] | None:
    """Name and version of an sdist whose project is not known: split at the last dash that is followed by a version."""
    suffix = sdist_suffix(filename)
    if suffix is None:
        return None
    stem = filename[: -len(suffix)]
    for place in range(len(stem) - 1, 0, -1):
        if stem[place] == "-":
            version = version_or_none(stem[place + 1 :])
            if version is not None:
                return canonical(stem[:place]), version
    return None


def wheel_version(filename: str, name: str) -> Version | None:
    """The version in a wheel's file name, or None when the file is no wheel of the project ``name`` (normalised)."""
    if not filename.endswith(".whl"):
        return None
    parts = filename[:-4].split("-")
    if len(parts) not in (5, 6) or canonical(parts[0]) != name:
        return None
    return version_or_none(parts[1])


def canonical(text: str) -> str:
    """PEP 503 normalisation, without judging whether the text is a name."""
    return _SEPARATORS.sub("-", text).lower()


def version_or_none(text: str) -> Version | None:
    """The PEP 440 version of a text, or None."""
    if len(text) > 200:
        return None
    try:
        return Version(text)
    except InvalidVersion:
        return None
