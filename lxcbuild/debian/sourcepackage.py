"""Debian source packages as inputs: what a .dsc names, what debian/ says, which relations a build needs.

The .dsc is the only file of a source package that the host reads, within bounds and without trust; debian/ is read in a sandbox and
comes back as one checked document. Formats: dsc(5), deb-src-control(5); restriction lists: Debian Policy 7.1 and the
specification of build profiles (https://wiki.debian.org/BuildProfileSpec).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild.debian import documents, steps
from lxcbuild.debian.archive import apt
from lxcbuild.debian.documents import DocumentError, Reader
from lxcbuild.debian.gate.artifacts import ArtifactError, checksums, parse_stanza
from lxcbuild.debian.source import control, conversion
from lxcbuild.debian.steps import InsideJob, StepFailure
from lxcbuild.errors import BadNameError
from lxcbuild.model import FailureClass

RESULT = "source.json"
MAX_DSC_BYTES = 1024 * 1024
MAX_FILES = 50
#: A build without tests needs nothing that is only there for tests.
PROFILES = frozenset({"nocheck"})

_FORMATS = ("1.0", "3.0 (quilt)", "3.0 (native)")
_VERSION = re.compile(r"(?:\d{1,9}:)?[0-9][A-Za-z0-9.+~-]{0,200}")
_FILE_NAME = re.compile(r"[a-z0-9][A-Za-z0-9.+~_-]{1,240}")
_DISTRIBUTION = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,60}")
_ARCHITECTURE = re.compile(r"[a-z0-9-]{1,60}")
_RESTRICTIONS = re.compile(r"<([^<>]*)>")
_MAX_RELATIONS = 2000
_SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
_SIGNATURE = b"-----BEGIN PGP SIGNATURE-----"
_DEBIANIZED = ("control", "changelog", "rules")


class Dsc(Struct, frozen=True, kw_only=True):
    """What a .dsc claims. ``files`` maps names (without any path) to SHA-256 and size."""

    source: str
    version: str
    files: dict[str, tuple[str, int]]


class Binary(Struct, frozen=True, kw_only=True):
    """One binary package that a source package declares; ``architectures`` as written (``any``, ``all``, ``linux-any`` ...)."""

    name: str
    architectures: tuple[str, ...]


class SourcePackage(Struct, frozen=True, kw_only=True):
    """What debian/ of an unpacked source package says; everything checked, but still the package's own words."""

    source: str
    version: str
    distribution: str  # of the newest changelog entry
    timestamp_s: int
    build_depends: tuple[str, ...]  # for the host's own architecture lists: apt decides those
    binaries: tuple[Binary, ...]

    @property
    def upstream(self) -> str:
        """The version without epoch and revision."""
        bare = self.version.partition(":")[2] or self.version
        return bare.rpartition("-")[0] or bare

    @property
    def tree(self) -> str:
        """Where the unpacked tree stands when it is built."""
        return f"/build/{self.source}-{self.upstream}"

    def made_for(self, architecture: str) -> tuple[Binary, ...]:
        """The binary packages that a build on that architecture makes."""
        return tuple(item for item in self.binaries if any(_covers(word, architecture) for word in item.architectures))


# -- the .dsc -------------------------------------------------------------------------------------------------------


def read_dsc(data: bytes, *, what: str) -> Dsc:
    """The checked claims of a .dsc, signed or not: who signed is for its owner to judge. Raises :class:`ArtifactError`."""
    if len(data) > MAX_DSC_BYTES:
        raise ArtifactError(f"{what} has more than {MAX_DSC_BYTES} bytes")
    fields = parse_stanza(_without_signature(data, what=what), what=what)
    if fields.get("Format") not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise ArtifactError(f"{what} is of the format {fields.get('Format', '')[:40]!r}, and known ones are {known}")
    files = checksums(fields, what=what)
    if not files:
        raise ArtifactError(f"{what} names no files with SHA-256 checksums")
    if len(files) > MAX_FILES:
        raise ArtifactError(f"{what} names more than {MAX_FILES} files")
    for name in files:
        if not _FILE_NAME.fullmatch(name) or name.endswith(".dsc"):
            raise ArtifactError(f"{what} names {name[:80]!r}, which is not a file of a source package")
    source, version = fields.get("Source", ""), fields.get("Version", "")
    try:
        control.check_package_name(source)
    except BadNameError as error:
        raise ArtifactError(f"{what}: {error.brief}") from None
    if not _VERSION.fullmatch(version):
        raise ArtifactError(f"{what} has the version {version[:80]!r}, which is invalid")
    return Dsc(source=source, version=version, files=files)


def dsc_fields(data: bytes, *, what: str) -> dict[str, str]:
    """All fields of a .dsc that :func:`read_dsc` took."""
    return parse_stanza(_without_signature(data, what=what), what=what)


def _without_signature(data: bytes, *, what: str) -> bytes:
    """The text of a clear-signed message (RFC 4880, 7); nothing may stand before or after it, or two readers see two texts."""
    lines = data.replace(b"\r\n", b"\n").strip(b"\n").split(b"\n")
    if lines[0] != _SIGNED:
        return data
    end = lines.index(_SIGNATURE) if _SIGNATURE in lines else -1
    if b"" not in lines[:end] or lines[-1] != b"-----END PGP SIGNATURE-----" or lines.count(_SIGNED) != 1:
        raise ArtifactError(f"{what} has a broken signature")
    signed = lines[lines.index(b"") + 1 : end]
    return b"\n".join(line.removeprefix(b"- ") for line in signed).strip(b"\n") + b"\n"


def is_file_name(name: str) -> bool:
    """Whether a file of a source package may be called so."""
    return _FILE_NAME.fullmatch(name) is not None


def is_debianized(names: Collection[str]) -> bool:
    """Whether a directory ``debian`` that holds these names is that of a source package."""
    return set(_DEBIANIZED) <= set(names)


# -- inspection in a sandbox ----------------------------------------------------------------------------------------


def inspect_job(file_name: str) -> InsideJob:
    """Unpack ``/in/source/<file_name>`` (a .dsc, or a tar archive of a tree) and read debian/; see :func:`parse`."""
    unpacking = unpack_job(file_name, tree=steps.SOURCE_TREE)
    reading = steps.python_step("read_debian", steps.SOURCE_TREE)
    return replace(unpacking, steps=(*unpacking.steps, reading), results=(RESULT,))


def unpack_job(file_name: str, *, tree: str) -> InsideJob:
    """Unpack ``/in/source/<file_name>`` to ``tree``: by dpkg-source what is a .dsc, else by our own careful reader."""
    if not _FILE_NAME.fullmatch(file_name):
        raise BadNameError(f"{file_name[:80]!r} is not the file name of a source package")
    if file_name.endswith(".dsc"):
        job = conversion.unpack_dsc_job(file_name, tree=tree)
        return replace(job, files={**job.files, **steps.request({})})
    asked = {"archive": f"{steps.SOURCE}/{file_name}", "tree": tree}
    return InsideJob(files=steps.request(asked), steps=(steps.python_step("unpack_tree"),), results=(RESULT,))


def parse(data: bytes) -> SourcePackage | StepFailure:
    """Check what came back from :func:`inspect_job`; a result that is not ours is class ``broken-sdist``."""
    try:
        reader = documents.load(data)
        failure = documents.failure_in(reader, allowed=documents.allow(FailureClass.BROKEN_SDIST))
        if failure is not None:
            return failure
        return _source_package(reader)
    except DocumentError as error:
        return documents.broken(error, failure_class=FailureClass.BROKEN_SDIST)
    except BadNameError as error:
        return StepFailure(failure_class=FailureClass.BROKEN_SDIST, brief=f"debian/control: {error.brief}")


def _source_package(reader: Reader) -> SourcePackage:
    version, distribution = reader.line("version") or "", reader.line("distribution") or ""
    if not _VERSION.fullmatch(version):
        raise DocumentError("debian/changelog names no version")
    if not _DISTRIBUTION.fullmatch(distribution):
        raise DocumentError("debian/changelog names no distribution")
    binaries = tuple(
        Binary(
            name=control.check_package_name(item.line("name") or ""),
            architectures=tuple(a for a in item.texts("architectures", count=200) if _ARCHITECTURE.fullmatch(a)),
        )
        for item in reader.tables("binaries", count=1000)
    )
    if not binaries:
        raise DocumentError("debian/control declares no binary package")
    return SourcePackage(
        source=control.check_package_name(reader.line("source") or ""),
        version=version,
        distribution=distribution,
        timestamp_s=reader.number("timestamp", limit=2**33),
        build_depends=build_relations(reader.texts("build_depends", count=_MAX_RELATIONS)),
        binaries=binaries,
    )


# -- relations ------------------------------------------------------------------------------------------------------


def build_relations(clauses: Sequence[str], *, profiles: Collection[str] = PROFILES) -> tuple[str, ...]:
    """Clauses of Build-Depends that hold with these profiles, without restriction lists; lists of architectures stay, for apt.

    Raises :class:`BadNameError` for what is no relation: nothing else reaches apt.
    """
    apt.check_relations(clauses)
    kept: list[str] = []
    for clause in clauses:
        alternatives = [_restricted(part, profiles) for part in clause.split("|")]
        relation = " | ".join(part for part in alternatives if part)
        if relation:
            kept.append(relation)
    return apt.check_relations(kept)


def _restricted(alternative: str, profiles: Collection[str]) -> str:
    """The alternative without its restriction formula, or nothing when the formula is false: an OR of ANDs."""
    lists = _RESTRICTIONS.findall(alternative)
    holds = not lists or any(
        all((word.removeprefix("!") in profiles) != word.startswith("!") for word in terms.split()) for terms in lists
    )
    # This is no cross build: the native architecture is the only one.
    bare = _RESTRICTIONS.sub("", alternative).strip()
    return re.sub(r"^([a-z0-9][a-z0-9+.-]*):native\b", r"\1", bare) if holds else ""


def _covers(word: str, architecture: str) -> bool:
    return word in ("any", "all", "linux-any", architecture, f"any-{architecture}", f"linux-{architecture}")


def relations_on_others(field: str, own: Collection[str]) -> tuple[str, ...]:
    """The clauses of a built package's Depends that packages of the same build cannot satisfy.

    ``own`` are the names of those packages and of what they provide. Raises :class:`BadNameError` for what is no relation.
    """
    clauses = [" ".join(clause.split()) for clause in field.split(",")]
    others = [
        clause
        for clause in clauses
        if clause and not any(re.split(r"[ (:]", part.strip(), maxsplit=1)[0] in own for part in clause.split("|"))
    ]
    return apt.check_relations(others)


def names_provided(stanzas: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """The names under which built packages answer: their own, and what they provide."""
    found: set[str] = set()
    for stanza in stanzas:
        found.add(stanza.get("Package", ""))
        found.update(re.findall(r"(?:^|,)\s*([a-z0-9][a-z0-9+.-]*)", stanza.get("Provides", "")))
    return frozenset(found)


def first_names(field: str) -> tuple[str, ...]:
    """The package that each clause of a relation field names first, each once; what has no name is passed over."""
    found = (re.match(r"\s*([a-z0-9][a-z0-9+.-]+)", clause) for clause in field.split(","))
    return tuple(dict.fromkeys(match[1] for match in found if match is not None))


def names_in(field: str) -> frozenset[str]:
    """The package names that a relation field mentions without a version."""
    parts = (part.strip() for clause in field.split(",") for part in clause.split("|"))
    return frozenset(part.partition(":")[0] for part in parts if part and "(" not in part)
