"""What an import needs and the project's metadata does not name: shared libraries that are opened by name (ctypes, cffi, typelibs)
and programs, for which it has no words, and modules that upstream forgot. Debian's own package of the project says it; else
libraries and programs that the error names are looked up in what the suite ships.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from packaging.utils import canonicalize_name

from lxcbuild.builder.facts import Laid
from lxcbuild.builder.needs.naming import names
from lxcbuild.builder.work import Work
from lxcbuild.debian.archive.apt import AptArchive
from lxcbuild.debian.checks.verification import natives_in
from lxcbuild.debian.names import binary_package
from lxcbuild.debian.sourcepackage import first_names
from lxcbuild.debian.steps import StepFailure
from lxcbuild.errors import LxcbuildError
from lxcbuild.images.layer import Layer
from lxcbuild.model import FailureClass

#: The interpreter and what it is linked with: always there.
_ALWAYS = re.compile(r"(?:python|pypy).*|libc6|libgcc-s1|libgcc1|libstdc\+\+6")
#: A text that nobody vouches for names what it likes.
_MOST_NAMED = 3


def lacking(work: Work, laid: Laid, problem: StepFailure) -> tuple[str, ...]:
    """Packages that the failed import may have lacked, none of which it depends on yet."""
    sources = {
        FailureClass.IMPORT_FAILED: (_natives_of_debian, _named),
        FailureClass.DEP_MISSING: (_modules_of_debian,),
    }.get(problem.failure_class, ())
    known = {relation.split(" ")[0] for relation in laid.plan.depends} | laid.provided.lessons.natives
    for source in sources:
        found = tuple(package for package in source(work, laid.provided.layer, problem) if package not in known)
        if found:
            return found
    return ()


def _named(work: Work, _layer: Layer, problem: StepFailure) -> Sequence[str]:
    contents = work.contents
    found: dict[str, None] = {}
    for item in natives_in(f"{problem.brief}\n{problem.details or ''}"):
        look_up = contents.executables if item.kind == "program" else contents.shared_libraries
        found.update((package, None) for package in look_up(item.name)[:1] if not _ALWAYS.fullmatch(package))
    return tuple(found)[:_MOST_NAMED]


def _natives_of_debian(work: Work, layer: Layer, _problem: StepFailure) -> Sequence[str]:
    return [package for package in _of_debian(work, layer) if not _ALWAYS.fullmatch(package)]


def _modules_of_debian(work: Work, layer: Layer, problem: StepFailure) -> Sequence[str]:
    """Upstream forgot a requirement, and Debian did not."""
    wanted = [item.name.partition(".")[0] for item in problem.missing if item.kind == "module"]
    owners = {package for module in wanted for package in work.contents.modules(module)}
    return [package for package in _of_debian(work, layer) if package in owners] if owners else []


def _of_debian(work: Work, layer: Layer) -> Sequence[str]:
    """What Debian's own package of the project depends on, there or in the archive of another image, as far as the suite has it."""
    found = work.contents.find_distribution(canonicalize_name(work.name))
    mapped = found or names(work, layer).find(work.name)
    binary = mapped.package if mapped is not None and mapped.package else binary_package(work.name)
    own = work.archive
    for archive in (own, *work.context.images.other_archives(work.request.target)):
        try:
            depends = _depends(archive, binary)
        except LxcbuildError as error:
            work.note(f"what {archive.name} says of {binary} cannot be read: {error.brief}")
            continue
        if depends:
            available = own.candidates(depends)
            return [package for package in depends if package in available]
    return []


def _depends(archive: AptArchive, binary: str) -> list[str]:
    """First alternatives, without siblings of the package, which would hold its own files."""
    fields = archive.show(binary)
    source = _source(fields, binary)
    named = archive.show_all(first_names(fields.get("Depends", "")))
    return [package for package, its in named.items() if _source(its, package) != source]


def _source(fields: Mapping[str, str], binary: str) -> str:
    return fields.get("Source", binary).partition(" ")[0]
