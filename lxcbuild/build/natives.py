"""What an import needs and no Python requirement can name: shared libraries that are opened by name (ctypes, cffi, typelibs),
and programs. Debian's own package of the project says it; else what the error names is looked up in what the suite ships.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from packaging.utils import canonicalize_name

from lxcbuild.build.naming import names
from lxcbuild.build.work import Work
from lxcbuild.debian.apt import AptArchive
from lxcbuild.debian.names import binary_package
from lxcbuild.debian.steps import StepFailure
from lxcbuild.debian.verification import natives_in
from lxcbuild.errors import LxcbuildError
from lxcbuild.model import FailureClass

#: The interpreter and what it is linked with: always there.
_ALWAYS = re.compile(r"(?:python|pypy).*|libc6|libgcc-s1|libgcc1|libstdc\+\+6")
#: A text that nobody vouches for names what it likes.
_MOST_NAMED = 3
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")


def learn(work: Work, problem: StepFailure) -> tuple[str, ...]:
    """Packages that the failed import may have lacked, none of which it depends on yet; kept in ``work.native_depends``."""
    if problem.failure_class is not FailureClass.IMPORT_FAILED:
        return ()
    assert work.conversion is not None
    known = {relation.split(" ")[0] for relation in work.conversion.depends} | work.native_depends
    for source in (_of_debian, _named):
        found = tuple(package for package in source(work, problem) if package not in known)
        if found:
            work.native_depends |= set(found)
            return found
    return ()


def _named(work: Work, problem: StepFailure) -> Sequence[str]:
    contents = work.facilities.contents_for(work.request.target)
    found: dict[str, None] = {}
    for item in natives_in(f"{problem.brief}\n{problem.details or ''}"):
        look_up = contents.executables if item.kind == "program" else contents.shared_libraries
        found.update((package, None) for package in look_up(item.name)[:1] if not _ALWAYS.fullmatch(package))
    return tuple(found)[:_MOST_NAMED]


def _of_debian(work: Work, _problem: StepFailure) -> Sequence[str]:
    target = work.request.target
    mapped = work.facilities.contents_for(target).find_distribution(canonicalize_name(work.name)) or names(work).find(
        work.name
    )
    binary = mapped.package if mapped is not None and mapped.package else binary_package(work.name)
    own = work.facilities.archive_for(target)
    for archive in (own, *work.facilities.images.other_archives(target)):
        try:
            found = _native_depends(archive, binary)
        except LxcbuildError as error:
            work.note(f"what {archive.name} says of {binary} cannot be read: {error.brief}")
            continue
        if found:
            available = own.candidates(found)
            return tuple(package for package in found if package in available)
    return ()


def _native_depends(archive: AptArchive, binary: str) -> tuple[str, ...]:
    """What is not Python in the Depends of a package, first alternatives; without its siblings, which would hold its own files."""
    fields = archive.show(binary)
    source = _source(fields, binary)
    first = (clause.partition("|")[0] for clause in fields.get("Depends", "").split(","))
    wanted = [match[0] for clause in first if (match := _NAME.match(clause.strip())) is not None]
    return tuple(
        package
        for package in dict.fromkeys(wanted)
        if not _ALWAYS.fullmatch(package) and _source(archive.show(package), package) != source
    )


def _source(fields: Mapping[str, str], binary: str) -> str:
    return fields.get("Source", binary).partition(" ")[0]
