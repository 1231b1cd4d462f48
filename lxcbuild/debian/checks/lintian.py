"""Lintian over built packages, as plain data: the command, and its errors sorted into ours and upstream's."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import yaml
from msgspec import Struct

from lxcbuild.debian.steps import OUT, InsideJob, InsideStep
from lxcbuild.errors import BadNameError
from lxcbuild.text import for_documents

RESULT = "lintian.txt"
PACKAGES = ("lintian",)
BUILT = "/in/built"
_TAGS = Path(__file__).with_name("lintian.yaml")
_FILE = re.compile(r"[a-z0-9][A-Za-z0-9.+~_%-]{1,250}\.(?:deb|dsc)")
_LINE = re.compile(
    r"(?P<level>[EWIPXO]): (?P<package>[a-z0-9][a-z0-9+.-]*)(?: (?:source|udeb|changes|buildinfo))?: "
    r"(?P<tag>[a-zA-Z0-9+_.-]{1,200})(?P<more>.*)"
)
_MAX_FINDINGS = 200
_MAX_BYTES = 1 << 20
_RUN = f'lintian --no-cfg --fail-on none --color never --no-tag-display-limit "$@" >{OUT}/{RESULT}'


@functools.cache
def fatal_tags() -> frozenset[str]:
    """The tags of ``lintian.yaml`` beside this file; a mistake in it is a bug and raises."""
    return msgspec.convert(yaml.safe_load(_TAGS.read_text("utf-8")), dict[Literal["fatal"], frozenset[str]])["fatal"]


class LintianHint(Struct, frozen=True, kw_only=True):
    """One error or warning of lintian. Texts are bounded and free of control characters; a package may have chosen them."""

    level: str  # E or W
    package: str
    tag: str
    more: str

    @property
    def fatal(self) -> bool:
        """Whether it is an error about the packaging itself."""
        return self.level == "E" and self.tag in fatal_tags()

    def __str__(self) -> str:
        return f"{self.level}: {self.package}: {self.tag} {self.more}".strip()


def lintian_job(names: Sequence[str]) -> InsideJob:
    """Run lintian as the build user over files of ``/in/built``. It ends well whatever it finds."""
    for name in names:
        if not _FILE.fullmatch(name):
            raise BadNameError(f"{name[:80]!r} is not the file name of a package")
    argv = ("/bin/sh", "-c", _RUN, "lintian", *(f"{BUILT}/{name}" for name in names))
    return InsideJob(files={}, steps=(InsideStep(argv=argv),), results=(RESULT,))


def parse_lintian(data: bytes) -> tuple[LintianHint, ...]:
    """Errors, then warnings, each in lintian's order; at most 200 of each."""
    text = for_documents(data[:_MAX_BYTES].decode("utf-8", "replace"))
    found = [
        LintianHint(level=match["level"], package=match["package"], tag=match["tag"], more=match["more"].strip()[:300])
        for line in text.splitlines()
        if (match := _LINE.fullmatch(line)) is not None
    ]
    return tuple(item for level in "EW" for item in [f for f in found if f.level == level][:_MAX_FINDINGS])
