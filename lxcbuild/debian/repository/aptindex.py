"""The texts of an APT repository: stanzas of packages and sources, which of them stay, Packages, Sources, Release, sources and pin.

Pure: bytes of files are read elsewhere (:mod:`lxcbuild.debian.repository.aptrepo`). What a .deb or .dsc says of itself is
copied field by field from a list of known ones, so that no package can say where it lies, what it hashes to, or that it is
essential. Formats: deb-control(5), dsc(5), https://wiki.debian.org/DebianRepository/Format, apt_preferences(5).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.utils import format_datetime

from debian.debian_support import NativeVersion
from msgspec import Struct

from lxcbuild.debian.source import control
from lxcbuild.debian.stanza import ArtifactError
from lxcbuild.errors import BadNameError
from lxcbuild.model import Target

COMPONENT = "main"
_VERSION = re.compile(r"(?:\d{1,9}:)?[0-9][A-Za-z0-9.+~-]{0,200}")
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9-]{1,60}")
_SOURCE = re.compile(r"(\S+)(?: \((\S+)\))?")
#: What apt and people need of a binary package. Essential, Protected, Important, Filename, hashes and the like are not among them.
_BINARY_FIELDS = (
    "Package", "Source", "Version", "Architecture", "Maintainer", "Installed-Size", "Multi-Arch", "Pre-Depends", "Depends",
    "Recommends", "Suggests", "Enhances", "Breaks", "Conflicts", "Replaces", "Provides", "Built-Using", "Static-Built-Using",
    "Section", "Priority", "Homepage", "Description",
)  # fmt: skip
_FORBIDDEN = ("Essential", "Protected", "Important", "Build-Essential")
_SOURCE_FIELDS = (
    "Binary", "Version", "Maintainer", "Architecture", "Standards-Version", "Format", "Build-Depends", "Build-Depends-Indep",
    "Build-Depends-Arch", "Build-Conflicts", "Testsuite", "Homepage", "Vcs-Browser", "Vcs-Git",
)  # fmt: skip


class PoolFile(Struct, frozen=True):
    """A file of the pool; ``path`` is relative to the repository."""

    path: str
    sha256: str
    size_bytes: int


class IndexEntry(Struct, frozen=True, kw_only=True):
    """One binary package, or one source package (``architecture`` is ``source``), as its index knows it."""

    package: str
    version: str
    architecture: str
    source: str
    source_version: str
    files: tuple[PoolFile, ...]
    text: str  # its stanza, without the empty line that ends it

    @property
    def key(self) -> tuple[str, str, str]:
        """What may exist once in a suite."""
        return self.package, self.version, self.architecture

    @property
    def sums(self) -> list[tuple[str, str]]:
        """Names and hashes of its files: equal for equal content, wherever that lies."""
        return sorted((file.path.rpartition("/")[2], file.sha256) for file in self.files)


class Identity(Struct, frozen=True, kw_only=True):
    """What a repository calls itself, the same for all its suites."""

    origin: str = "lxcbuild"
    label: str = "lxcbuild"
    valid_days: int | None = None


def codename(target: Target) -> str:
    """``bookworm-lxcbuild``: never the suite's own name, which people's pins and Default-Release mean."""
    return f"{target.suite}-lxcbuild"


def pool_directory(code: str, source: str, digest: str) -> str:
    """Where a file lies: by source, as in Debian's pool, and by content, so that a path never changes its meaning."""
    prefix = source[:4] if source.startswith("lib") else source[:1]
    return f"pool/{code}/{prefix}/{source}/{digest[:16]}"


# -- stanzas --------------------------------------------------------------------------------------------------------


def binary_entry(fields: Mapping[str, str], *, code: str, sha256: str, size_bytes: int) -> IndexEntry:
    """The entry of a .deb from its control stanza; raises :class:`ArtifactError` when no archive should hold it."""
    for name in _FORBIDDEN:
        if fields.get(name, "no") != "no":
            raise ArtifactError(f"it says {name}: {fields[name][:20]}, which no package of ours may")
    package, version = _name(fields.get("Package", "")), _version(fields.get("Version", ""))
    architecture = fields.get("Architecture", "")
    if not _ARCHITECTURE.fullmatch(architecture) or architecture in ("source", "any"):
        raise ArtifactError(f"it has the architecture {architecture[:40]!r}, which is invalid")
    source, source_version = _source(fields.get("Source", ""), package, version)
    file_name = f"{package}_{version.partition(':')[2] or version}_{architecture}.deb"
    file = PoolFile(f"{pool_directory(code, source, sha256)}/{file_name}", sha256, size_bytes)
    taken = {name: fields[name] for name in _BINARY_FIELDS if fields.get(name)}
    taken |= {"Filename": file.path, "Size": str(size_bytes), "SHA256": sha256}
    return IndexEntry(
        package=package,
        version=version,
        architecture=architecture,
        source=source,
        source_version=source_version,
        files=(file,),
        text=_stanza(taken),
    )


def source_entry(fields: Mapping[str, str], files: Mapping[str, tuple[str, int]], *, code: str, dsc: str) -> IndexEntry:
    """The entry of a source package from its .dsc's stanza; ``files`` (hash, size) holds the .dsc itself, called ``dsc``, too."""
    source, version = _name(fields.get("Source", "")), _version(fields.get("Version", ""))
    directory = pool_directory(code, source, files[dsc][0])
    taken = {"Package": source} | {name: fields[name] for name in _SOURCE_FIELDS if fields.get(name)}
    lines = [f"{sha256} {size} {name}" for name, (sha256, size) in sorted(files.items())]
    taken |= {"Directory": directory, "Checksums-Sha256": "\n".join(["", *lines])}
    return IndexEntry(
        package=source,
        version=version,
        architecture="source",
        source=source,
        source_version=version,
        files=tuple(PoolFile(f"{directory}/{name}", *files[name]) for name in sorted(files)),
        text=_stanza(taken),
    )


def read_index(text: str, *, sources: bool) -> Iterator[IndexEntry]:
    """The entries of a Packages or Sources file that :func:`index` wrote; raises ArtifactError for one that it cannot have."""
    for stanza in text.split("\n\n"):
        if stanza.strip():
            yield _read(stanza.strip("\n"), sources=sources)


def _read(stanza: str, *, sources: bool) -> IndexEntry:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.split("\n"):
        if line.startswith(" "):
            fields[name] = f"{fields.get(name, '')}\n{line[1:]}"
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    try:
        if sources:
            lines = [line.split(" ") for line in fields["Checksums-Sha256"].split("\n") if line]
            files = [PoolFile(f"{fields['Directory']}/{name}", sha256, int(size)) for sha256, size, name in lines]
        else:
            files = [PoolFile(fields["Filename"], fields["SHA256"], int(fields["Size"]))]
        package, version = fields["Package"], fields["Version"]
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"an index holds an invalid stanza: {str(error)[:80]}") from None
    source, source_version = _source("" if sources else fields.get("Source", ""), package, version)
    return IndexEntry(
        package=package,
        version=version,
        architecture="source" if sources else fields.get("Architecture", ""),
        source=source,
        source_version=source_version,
        files=tuple(files),
        text=stanza,
    )


def _stanza(fields: Mapping[str, str]) -> str:
    return "\n".join(f"{name}: {value}".replace("\n", "\n ").replace(": \n", ":\n") for name, value in fields.items())


def _name(text: str) -> str:
    try:
        return control.check_package_name(text)
    except BadNameError as error:
        raise ArtifactError(error.brief) from None


def _version(text: str) -> str:
    if not _VERSION.fullmatch(text):
        raise ArtifactError(f"it has the version {text[:80]!r}, which is invalid")
    return text


def _source(text: str, package: str, version: str) -> tuple[str, str]:
    """Name and version of the source package; the field is only there where they differ from the binary package's."""
    if not text:
        return package, version
    match = _SOURCE.fullmatch(text)
    if match is None:
        raise ArtifactError(f"it names the source {text[:80]!r}, which is invalid")
    return _name(match[1]), _version(match[2] or version)


# -- which ones stay ------------------------------------------------------------------------------------------------


def retained(entries: Iterable[IndexEntry], *, keep: int | None) -> list[IndexEntry]:
    """The newest ``keep`` versions of every package (None: all), sorted; a source stays as long as a package made from it does.

    A source without any package in the suite is counted like a package.
    """
    every = sorted(entries, key=lambda entry: (entry.package, entry.architecture))
    binaries = _newest([entry for entry in every if entry.architecture != "source"], keep)
    used = {(entry.source, entry.source_version) for entry in binaries}
    names = {entry.source for entry in binaries}
    sources = [entry for entry in every if entry.architecture == "source"]
    kept = [entry for entry in sources if (entry.package, entry.version) in used]
    kept += _newest([entry for entry in sources if entry.package not in names], keep)
    return sorted(binaries + kept, key=lambda entry: (entry.package, NativeVersion(entry.version), entry.architecture))


def _newest(entries: Sequence[IndexEntry], keep: int | None) -> list[IndexEntry]:
    groups: dict[tuple[str, str], list[IndexEntry]] = {}
    for entry in entries:
        groups.setdefault((entry.package, entry.architecture), []).append(entry)
    found: list[IndexEntry] = []
    for group in groups.values():
        if keep is not None and len(group) > keep:
            group.sort(key=lambda entry: NativeVersion(entry.version), reverse=True)
            del group[keep:]
        found += group
    return found


def index(entries: Iterable[IndexEntry]) -> bytes:
    """A Packages or Sources file."""
    return "".join(f"{entry.text}\n\n" for entry in entries).encode()


# -- the suite ------------------------------------------------------------------------------------------------------


def release(
    identity: Identity,
    *,
    code: str,
    architectures: Sequence[str],
    date_s: int,
    files: Mapping[str, tuple[str, int]],
) -> bytes:
    """A Release file; ``files`` maps paths below the suite to hash and size.

    ``NotAutomatic`` with ``ButAutomaticUpgrades`` gives everything here the priority 100 without any pin (apt_preferences(5)):
    below whatever the distribution ships, above nothing.
    """
    lines = [
        f"Origin: {identity.origin}",
        f"Label: {identity.label}",
        f"Suite: {code}",
        f"Codename: {code}",
        f"Date: {_moment(date_s)}",
    ]
    if identity.valid_days is not None:
        lines.append(f"Valid-Until: {_moment(date_s + identity.valid_days * 86400)}")
    lines += [
        f"Architectures: {' '.join(['all', *architectures])}",
        f"Components: {COMPONENT}",
        "Description: Packages built by lxcbuild",
        "NotAutomatic: yes",
        "ButAutomaticUpgrades: yes",
        "Acquire-By-Hash: yes",
        # Packages for all architectures stand in every architecture's list.
        "No-Support-for-Architecture-all: Packages",
        "SHA256:",
    ]
    lines += [f" {sha256} {size} {path}" for path, (sha256, size) in sorted(files.items())]
    return "".join(f"{line}\n" for line in lines).encode()


def read_release(text: str) -> tuple[dict[str, str], dict[str, tuple[str, int]]]:
    """Fields and listed files of a Release file of ours; raises ArtifactError for anything else."""
    head, _, listed = text.partition("\nSHA256:\n")
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in head.split("\n"))}
    files = {}
    for line in listed.split("\n"):
        if line:
            match = re.fullmatch(r" ([0-9a-f]{64}) (\d{1,15}) (main/[A-Za-z0-9/.-]{1,200})", line)
            if match is None or ".." in match[3]:
                raise ArtifactError(f"a Release file holds the line {line[:80]!r}")
            files[match[3]] = (match[1], int(match[2]))
    return fields, files


def _moment(seconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return format_datetime(moment).replace("+0000", "UTC")


def sources_line(url: str, *, code: str, keyring: str) -> str:
    """The line for ``/etc/apt/sources.list.d/lxcbuild.list``."""
    return f"deb [signed-by={keyring}] {url.rstrip('/')} {code} {COMPONENT}"


def pin(identity: Identity) -> str:
    """The snippet for ``/etc/apt/preferences.d/lxcbuild``: what its Release file already asks for, made sure by the user."""
    return (
        "Explanation: Packages of this repository are installed where the distribution has none, and upgraded from it;\n"
        "Explanation: whatever the distribution ships comes first, whatever its version.\n"
        "Package: *\n"
        f"Pin: release o={identity.origin}\n"
        "Pin-Priority: 100\n"
    )
