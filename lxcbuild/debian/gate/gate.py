"""The output gate: what a build made is what was asked for, lies where it may, and brings no maintainer script of its own.

It reads bytes only (:mod:`lxcbuild.debian.gate.artifacts`) and says what it found as data. Rules come from Debian's
Python policy (where modules lie), Debian Policy 9.1 (the file system's layout) and the shapes of debhelper's own snippets.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from lxcbuild.debian.gate import layout, startup
from lxcbuild.debian.gate.artifacts import ArtifactError, Budget, Deb, checksums, parse_stanza, read_deb
from lxcbuild.debian.gate.ownership import Owners, OwnSources, Sources
from lxcbuild.debian.gate.scripts import foreign_text, is_obeyed
from lxcbuild.debian.source.control import is_relation_field
from lxcbuild.files import sha256_of

_MAX_FINDINGS = 200
_ARTIFACT = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9.+~_-]{1,250}\.(?:u?deb|ddeb|dsc|changes|buildinfo|(?:orig(?:-[a-z0-9-]+)?|debian)\.tar\.(?:gz|bz2|xz|zst)"
    r"|diff\.gz|tar\.(?:gz|bz2|xz))"
)
_MAX_FIELD = 20_000
#: What dpkg-gencontrol writes of the control file that we made; anything else may be an old name of something (dpkg's own sources).
_FIELDS = frozenset(
    {
        "Package",
        "Source",
        "Version",
        "Architecture",
        "Maintainer",
        "Installed-Size",
        "Depends",
        "Recommends",
        "Suggests",
        "Provides",
        "Homepage",
        "Description",
    }
)
#: Old names that dpkg still obeys (a Revision becomes part of the version), and fields of its own database and of archives.
_NEVER_FIELDS = (
    "Revision",
    "Package-Revision",
    "Recommended",
    "Optional",
    "Class",
    "Status",
    "Config-Version",
    "Conffiles",
    "Triggers-Pending",
    "Triggers-Awaited",
    "Msdos-Filename",
    "Filename",
    "Size",
    "Md5sum",
)
_FLAGS = ("Essential", "Protected", "Important")
_CONTROL_FILES = frozenset(
    {"md5sums", "shlibs", "symbols", "triggers", "postinst", "prerm", "preinst", "postrm", "conffiles"}
)
_SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "config")


class RuleSet(enum.StrEnum):
    """How strict the layout is."""

    PYTHON = "python"  # a source package that we generated: one binary package, Python policy
    ANY = "any"  # any Debian source package: several binaries, own maintainer scripts, the whole of /usr, /etc, /var


class GateRequest(Struct, frozen=True, kw_only=True):
    """What was asked for. ``owners`` names the packages of the suite that own a path (``usr/bin/x``), ``sources`` the source
    packages that it makes packages from; None: not known.
    """

    rules: RuleSet
    source: str
    version: str
    suite: str
    architecture: str
    package: str | None = None  # PYTHON: the one binary package
    compiled: bool = False  # PYTHON: Architecture any
    project: str | None = None  # PYTHON: the project's name
    project_version: str | None = None
    owners: Owners | None = None
    sources: Sources | None = None  # ANY
    #: PYTHON: packages of the suite that the asked for one takes the place of, and so may own its paths.
    supersedes: tuple[str, ...] = ()


class Finding(Struct, frozen=True, kw_only=True):
    """One observation. ``rule`` is a stable word; a ``fatal`` one rejects the package. Texts are bounded, but hostile."""

    rule: str
    subject: str
    message: str
    fatal: bool = True
    owners: tuple[str, ...] = ()  # rule "owned": whose path it is


class GateReport(Struct, frozen=True, kw_only=True):
    """The verdict. ``relations`` maps each binary package to its Depends field, for the caller to resolve; ``stanzas`` maps the
    name of each readable .deb to its control fields.
    """

    findings: tuple[Finding, ...]
    relations: Mapping[str, str]
    stanzas: Mapping[str, Mapping[str, str]] = msgspec.field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether nothing fatal was found."""
        return not any(finding.fatal for finding in self.findings)

    def summary(self) -> str:
        """One line for people."""
        fatal = [finding for finding in self.findings if finding.fatal]
        if not fatal:
            return "accepted"
        more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
        return f"{fatal[0].subject}: {fatal[0].message}{more}"


class _Gate:
    def __init__(self, request: GateRequest, files: Sequence[Path]) -> None:
        self.request = request
        self.files = {path.name: path for path in files}
        self.findings: list[Finding] = []
        self.relations: dict[str, str] = {}
        self.stanzas: dict[str, dict[str, str]] = {}
        self.strict = request.rules is RuleSet.PYTHON
        self.own: OwnSources | None = None
        if not self.strict and request.owners is not None and request.sources is not None:
            self.own = OwnSources(request.source, owners=request.owners, sources=request.sources)

    def find(self, rule: str, subject: str, message: str, *, fatal: bool = True, owners: tuple[str, ...] = ()) -> None:
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(
                Finding(rule=rule, subject=subject[:300], message=message[:500], fatal=fatal, owners=owners)
            )
        elif fatal and all(not finding.fatal for finding in self.findings):
            self.findings[-1] = Finding(rule=rule, subject=subject[:300], message=message[:500])

    @property
    def refused(self) -> bool:
        """Whether something fatal was found."""
        return any(finding.fatal for finding in self.findings)

    # -- the set of files

    def check_set(self) -> None:
        for name in self.files:
            if not _ARTIFACT.fullmatch(name):
                self.find("name", name, "is not an artefact of a package build")
        by_end = {
            end: [name for name in self.files if name.endswith(end)]
            for end in (".changes", ".dsc", ".buildinfo", ".deb")
        }
        for end in (".changes", ".buildinfo"):
            if len(by_end[end]) != 1:
                self.find("set", end, f"there must be exactly one, and there are {len(by_end[end])}")
        if len(by_end[".dsc"]) > 1 or (self.strict and not by_end[".dsc"]):
            self.find("set", ".dsc", f"there must be exactly one, and there are {len(by_end['.dsc'])}")
        if not by_end[".deb"]:
            self.find("set", ".deb", "there is no binary package")
        for name in self.files:
            if self.strict and name.endswith((".udeb", ".ddeb")):
                self.find("set", name, "is another kind of binary package than the one that was asked for")
        for name in (*by_end[".changes"], *by_end[".dsc"], *by_end[".buildinfo"]):
            try:
                self.check_document(name)
            except ArtifactError as error:
                self.find("document", name, str(error))

    def check_document(self, name: str) -> None:
        path = self.files[name]
        if path.stat().st_size > 1024 * 1024:
            raise ArtifactError("is larger than any such file")
        fields = parse_stanza(path.read_bytes(), what=name)
        request = self.request
        self.expect(name, "Source", fields.get("Source", "").split(" ")[0], request.source)
        self.expect(name, "Version", fields.get("Version", ""), request.version)
        if name.endswith(".changes"):
            self.expect(name, "Distribution", fields.get("Distribution", ""), request.suite)
            listed = checksums(fields, what=name)
            for missing in sorted(set(self.files) - set(listed) - {name}):
                self.find("set", missing, "is not listed in the .changes file")
        listed = checksums(fields, what=name)
        if self.strict and "Binary" in fields and fields["Binary"].split() != [request.package]:
            self.find("field", name, "names another set of binary packages than the one that was asked for")
        for file, (digest, size) in listed.items():
            known = self.files.get(file)
            if known is None:
                self.find("hash", file, f"is listed in {name} and is not there")
            elif known.stat().st_size != size or sha256_of(known) != digest:
                self.find("hash", file, f"is not the file that {name} describes")

    def expect(self, subject: str, field: str, value: str, wanted: str) -> None:
        if value != wanted:
            self.find("field", subject, f"{field} is {value[:100]!r}, and {wanted!r} was asked for")

    # -- binary packages

    def check_debs(self) -> None:
        if self.own is not None:
            self.own.learn(name.partition("_")[0] for name in self.files)
        budget = Budget()
        for name in sorted(self.files):
            if self.refused:
                return  # a small file can take seconds to read, and there may be a thousand
            if name.endswith((".deb", ".ddeb", ".udeb")):
                try:
                    deb = read_deb(self.files[name], budget=budget)
                except ArtifactError as error:
                    self.find("format", name, str(error))
                    continue
                self.stanzas[name] = deb.control
                self.check_control(deb)
                self.check_scripts(deb)
                for finding in layout.check_tree(deb, self.request_layout()):
                    self.find(finding.rule, finding.subject, finding.message, fatal=finding.fatal)
                self.check_owners(deb)
                if not self.strict:
                    self.check_acted_on(deb)

    def request_layout(self) -> layout.Layout:
        request = self.request
        return layout.Layout(
            strict=self.strict,
            package=request.package or "",
            project=request.project,
            project_version=request.project_version,
            compiled=request.compiled,
        )

    def check_control(self, deb: Deb) -> None:
        request, control, name = self.request, deb.control, deb.path.name
        package = control.get("Package", "")
        self.relations[package[:200]] = control.get("Depends", "")[:_MAX_FIELD]
        architecture = control.get("Architecture", "")
        source, _, source_version = control.get("Source", package).partition(" ")
        self.expect(name, "Source", source, request.source)
        # A binary package may have a version of its own, and names the source's then; a generated one never has.
        version = (
            control.get("Version", "") if self.strict else source_version.strip("()") or control.get("Version", "")
        )
        self.expect(name, "Version", version, request.version)
        file_version = re.sub(r"^\d+:", "", control.get("Version", ""))
        if name.rpartition(".")[0] != f"{package}_{file_version}_{architecture}":
            self.find("name", name, "is not named after its package, version and architecture")
        if architecture not in ("all", request.architecture):
            self.find("field", name, f"Architecture is {architecture[:50]!r}")
        for field, value in control.items():
            if len(value) > _MAX_FIELD:
                self.find("field", name, f"{field} has more than {_MAX_FIELD} characters")
        for field in ("Depends", "Recommends", "Suggests"):
            if not is_relation_field(control.get(field, "")):
                self.find("field", name, f"{field} is not a list of relations")
        if self.strict:
            self.check_strict_control(deb, package, architecture)
        else:
            self.check_any_control(deb, package)

    def check_any_control(self, deb: Deb, package: str) -> None:
        for field in _FLAGS:
            # dpkg reads these in any case (parse_booleanflag of lib/dpkg/fields.c).
            if deb.control.get(field, "no").lower() != "no":
                self.find("field", deb.path.name, f"{field} is {deb.control[field][:20]!r}")
        for field in sorted(deb.control.keys() & set(_NEVER_FIELDS)):
            self.find(
                "field", deb.path.name, f"{field} is {deb.control[field][:100]!r}, which is not a field of a package"
            )
        source = self.own.source_of(package) if self.own is not None else None
        if source not in (None, self.request.source):
            self.find("name", deb.path.name, f"is called like a package that the suite makes from the source {source}")

    def check_strict_control(self, deb: Deb, package: str, architecture: str) -> None:
        request, control, name = self.request, deb.control, deb.path.name
        self.expect(name, "Package", package, request.package or "")
        self.expect(name, "Architecture", architecture, request.architecture if request.compiled else "all")
        planned = {"Section": "python", "Priority": "optional"}
        if request.supersedes:
            planned |= dict.fromkeys(("Conflicts", "Replaces"), ", ".join(request.supersedes))
        for field, value in control.items():
            if field in planned:
                self.expect(name, field, value, planned[field])
            elif field not in _FIELDS:
                self.find("field", name, f"{field} is {value[:100]!r}, and a generated package has none")
        if not re.match(r"https?://|$", control.get("Homepage", "")):
            self.find("field", name, f"Homepage is {control['Homepage'][:100]!r}")
        stem = re.escape((request.package or "").removeprefix("python3-"))
        for item in filter(None, control.get("Provides", "").split(",")):
            if not re.fullmatch(rf"python3(?:\.\d+)?-{stem}(?: \(= [^)]{{1,200}}\))?", item.strip()):
                self.find("field", name, f"Provides {item.strip()[:100]!r}")
        for file in sorted(set(deb.control_files) - _CONTROL_FILES):
            self.find("control-file", name, f"holds the control file {file[:80]!r}")
        self.check_conffiles(deb)

    def check_conffiles(self, deb: Deb) -> None:
        """debhelper lists every file below /etc, and nothing else; dpkg would also take flags (deb-conffiles(5))."""
        files = {
            f"/{member.name}" for member in deb.members if member.kind == "file" and member.name.startswith("etc/")
        }
        for line in deb.control_files.get("conffiles", b"").decode("utf-8", "replace").splitlines():
            if line not in files:
                self.find(
                    "control-file", deb.path.name, f"conffiles names {line[:80]!r}, which is not a file below /etc"
                )

    def check_scripts(self, deb: Deb) -> None:
        package = deb.control.get("Package", "")
        for file in sorted(set(deb.control_files).intersection((*_SCRIPTS, "triggers"))):
            foreign = foreign_text(file, deb.control_files[file], package=package)
            if foreign is not None:
                message = f"is not of debhelper's shapes: {foreign[:200]!r}"
                self.find("script", f"{deb.path.name}:{file}", message, fatal=self.strict)
        for member in deb.members if self.strict else ():
            if is_obeyed(member.name):
                self.find("name", member.name, "has characters in its name that a shell or a pattern would obey")

    def check_owners(self, deb: Deb) -> None:
        if self.request.owners is None:
            return
        package = deb.control.get("Package", "")
        for member, name in startup.search_names(deb.members):
            if member.kind == "dir":
                continue
            if self.own is not None:
                owners = self.own.foreign_owners(name)
            else:
                owners = tuple(sorted(self.request.owners(name)))
                # A module may be spread over several packages of the suite; where ours is one of them, it is ours to replace.
                if package in owners or not set(owners).difference(self.request.supersedes):
                    continue
            if owners:
                message = f"belongs to the package {', '.join(owners)[:200]} of the suite"
                self.find("owned", member.name, message, owners=owners)

    def check_acted_on(self, deb: Deb) -> None:
        """What runs by itself is a new package's in no case, and an official one's where the suite has the same file."""
        for member, message in startup.check_start(deb.members):
            if self.own is None or not self.own.owns(member.name):
                self.find("startup", member.name, message)
        for member in deb.members:
            acted_on = member.kind != "dir" and layout.is_acted_on(member.name)
            if acted_on and (self.own is None or not self.own.owns(member.name)):
                self.find("layout", member.name, "is acted on by the system, and none of the suite's own files")


def check(request: GateRequest, files: Sequence[Path]) -> GateReport:
    """Judge all artefacts of one build (sealed files on the host). Raises nothing for what the files hold."""
    assert request.rules is RuleSet.ANY or request.package is not None
    gate = _Gate(request, files)
    gate.check_set()
    gate.check_debs()
    return GateReport(findings=tuple(gate.findings), relations=gate.relations, stanzas=gate.stanzas)
