"""Verify: install built packages in a fresh base, import them, and hold their metadata against what is installed there."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from msgspec import Struct
from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from lxcbuild.debian import documents, steps
from lxcbuild.debian.documents import DocumentError, Reader
from lxcbuild.debian.source.control import check_package_name
from lxcbuild.debian.steps import InsideJob, InsideStep, MissingInLog, StepFailure
from lxcbuild.errors import BadNameError
from lxcbuild.model import FailureClass
from lxcbuild.text import for_documents

RESULT = "verification.json"
_DEB_NAME = re.compile(r"[a-z0-9][A-Za-z0-9.+~_%-]{1,250}\.deb")
_DPKG = ("dpkg", "--install", "--force-unsafe-io", "--force-confold")
# apt takes what is in the files and what is installed, and nothing else: no lists, no sources, no network, no second user.
_APT = (
    "apt-get", "install", "--yes", "--no-install-recommends", "--allow-downgrades",
    "-o", "Dir::Etc::SourceList=/dev/null", "-o", "Dir::Etc::SourceParts=/dev/null", "-o", "APT::Sandbox::User=root",
    "-o", "APT::Get::List-Cleanup=false", "-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-unsafe-io",
    "-o", "Dpkg::Options::=--force-confold",
)  # fmt: skip
_INSTALLING = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "HOME": "/root"}
_UNMET = re.compile(
    r"^ [a-z0-9][a-z0-9+.:-]* : (?:Pre)?Depends: (?P<what>.{1,500}?)(?: but .*)?$"
    r"|^ +(?:Pre)?Depends: (?P<more>.{1,500}?)(?: but .*)?$",
    re.MULTILINE,
)
#: What ctypes, cffi, dlopen and the projects themselves say of what they do not find.
_NATIVES = (
    ("library", re.compile(r"\b(lib[A-Za-z0-9][\w+-]{0,60}(?:\.\d+)*\.so(?:\.\d+)*)")),
    ("library", re.compile(r"\b(lib[A-Za-z][\w+-]{1,60})\b(?!\.\w|/|\()")),
    ("library", re.compile(r"\blibrar(?:y|ies) (?:called |named |for )?['\"]?([A-Za-z][\w+-]{1,60})\b(?!\.\w|/|\()")),
    ("library", re.compile(r"\b([A-Za-z][\w+-]{1,60})['\"]? (?:C |shared )?library\b")),
    ("program", re.compile(r"No such file or directory: '([\w+-]{1,60})'")),
)
_MAX_NATIVES = 20
#: What py3compile shows when a package is configured.
_SYNTAX = re.compile(
    r'^  File "(?P<file>[^"\n]+)", line (?P<line>\d+)\n(?:.*\n){0,3}?(?P<what>(?:Syntax|Indentation|Tab)Error: .*)$',
    re.M,
)
_DPKG_UNMET = re.compile(r"^ [a-z0-9][a-z0-9+.:-]* depends on (?P<what>[^;\n]+)", re.MULTILINE)


class Trial(Struct, frozen=True, kw_only=True):
    """One module or command that was tried; ``error`` is None when it works."""

    name: str
    error: str | None
    details: str | None


class InstalledDistribution(Struct, frozen=True, kw_only=True):
    """What a dist-info or egg-info directory of the package says."""

    name: str
    version: str
    requires: tuple[str, ...]


class Verification(Struct, frozen=True, kw_only=True):
    """What was seen in the fresh base. ``problems`` of it are found by :func:`judge`."""

    modules: tuple[Trial, ...]
    loose: frozenset[str]  # names of those that are single files of a namespace package
    scripts: tuple[Trial, ...]
    entry_points: tuple[Trial, ...]
    distributions: tuple[InstalledDistribution, ...]
    installed: Mapping[str, str]
    environment: Mapping[str, str]
    companions: tuple[InstalledDistribution, ...] = ()  # of packages that were made here and handed in as well
    dependents: tuple[InstalledDistribution, ...] = ()  # the suite's, as far as they require any of these


def install_job(deb_names: Sequence[str]) -> InsideJob:
    """As the inner root, before anything of the package can run as another user: install ``/in/debs/<name>`` with dpkg.

    Half the time that apt takes, and enough where all that they declare is installed. Raises BadNameError.
    """
    return _installing((*_DPKG, *_paths(deb_names)))


def apt_install_job(deb_names: Sequence[str], *, reinstall: bool = False) -> InsideJob:
    """The same with apt, offline, which also removes what conflicts and says what is missing. Raises BadNameError.

    ``reinstall``: the suite's package of the same name and version may be there already.
    """
    return _installing((*_APT, *(("--reinstall",) if reinstall else ()), *_paths(deb_names)))


def _paths(deb_names: Sequence[str]) -> list[str]:
    for name in deb_names:
        if not _DEB_NAME.fullmatch(name):
            raise BadNameError(f"{name[:80]!r} is not the file name of a Debian package")
    return [f"{steps.DEBS}/{name}" for name in deb_names]


def _installing(argv: tuple[str, ...]) -> InsideJob:
    return InsideJob(files={}, steps=(InsideStep(argv=argv, env=_INSTALLING, cwd="/", as_root=True),))


def check_job(packages: Sequence[str], *, companions: Sequence[str] = ()) -> InsideJob:
    """As the build user: import the packages' modules and so on; the result goes to :func:`parse_verification`.

    ``companions`` were made here, too, and are installed with them: of those only the metadata is read.
    """
    asked = {
        "packages": [check_package_name(name) for name in packages],
        "companions": [check_package_name(name) for name in companions],
    }
    return InsideJob(files=steps.request(asked), steps=(steps.python_step("checks.verify"),), results=(RESULT,))


def classify_install_failure(tail: bytes, *, status: str) -> StepFailure:
    """``dep-missing`` when apt or dpkg names a relation that nothing here satisfies, else ``install-failed``."""
    text = for_documents(tail[-32 * 1024 :].decode("utf-8", "replace"))
    details = "\n".join(text.strip().splitlines()[-20:])
    unmet = [match["what"] or match["more"] for match in _UNMET.finditer(text)]
    unmet += [match["what"] for match in _DPKG_UNMET.finditer(text)]
    if unmet:
        named = ", ".join(dict.fromkeys(item.strip() for item in unmet))[:400]
        return StepFailure(
            failure_class=FailureClass.DEP_MISSING, brief=f"nothing here provides: {named}", details=details
        )
    syntax = _SYNTAX.search(text)
    if syntax is not None:
        brief = (
            f"its code is not for this Python: {syntax['file'][:200]}, line {syntax['line']}: {syntax['what'][:200]}"
        )
        return StepFailure(failure_class=FailureClass.INSTALL_FAILED, brief=brief, details=details)
    last = next((line for line in reversed(text.splitlines()) if line.startswith(("E: ", "dpkg: error"))), status)
    return StepFailure(
        failure_class=FailureClass.INSTALL_FAILED, brief=f"apt cannot install it: {last[:300]}", details=details
    )


def parse_verification(data: bytes) -> Verification | StepFailure:
    """Check what came back; a result that is not ours is class ``install-failed``."""
    try:
        reader = documents.load(data)
        failure = documents.failure_in(reader, allowed=documents.allow(FailureClass.INSTALL_FAILED))
        if failure is not None:
            return failure
        return Verification(
            modules=_trials(reader, "modules"),
            loose=frozenset(reader.texts("loose", count=1000)),
            scripts=_trials(reader, "scripts"),
            entry_points=_trials(reader, "entry_points"),
            distributions=_distributions(reader, "distributions", count=100),
            companions=_distributions(reader, "companions", count=1000),
            dependents=_distributions(reader, "dependents", count=1000),
            installed=reader.pairs("installed", count=5000),
            environment=reader.pairs("environment", count=20),
        )
    except DocumentError as error:
        return documents.broken(error, failure_class=FailureClass.INSTALL_FAILED)


def _distributions(reader: Reader, key: str, *, count: int) -> tuple[InstalledDistribution, ...]:
    return tuple(
        InstalledDistribution(
            name=item.line("name") or "", version=item.line("version") or "", requires=item.texts("requires")
        )
        for item in reader.tables(key, count=count)
    )


def _trials(reader: Reader, key: str) -> tuple[Trial, ...]:
    return tuple(
        Trial(name=item.line("name") or "", error=item.line("error"), details=item.text("details", limit=4000))
        for item in reader.tables(key, count=1000)
    )


def judge(seen: Verification, *, distribution: str, version: str, modules: Sequence[str]) -> StepFailure | None:
    """Whether the package counts as built: right project, nothing undeclared or missing, every module imports, commands exist.

    A missing requirement is named before the import that fails of it, because it is the cause. ``modules`` are those of the
    sources: a project that has none, and requires others, is only a name for those.
    """
    wanted = _normal(distribution)
    ours = [item for item in seen.distributions if _normal(item.name) == wanted]
    if seen.distributions and not ours:
        named = ", ".join(item.name for item in seen.distributions)[:200]
        return _failed(FailureClass.GATE_REJECTED, f"the package holds the project {named}, not {distribution}")
    if not seen.distributions:
        return _failed(FailureClass.INSTALL_FAILED, "the package holds no metadata of a Python project")
    if not _same_version(ours[0].version, version):
        return _failed(FailureClass.GATE_REJECTED, f"the package holds version {ours[0].version[:80]}, not {version}")
    missing = [problem for item in seen.distributions for problem in unmet_requirements(item, seen)]
    if missing:
        return _failed(FailureClass.DEP_MISSING, f"its metadata asks for {'; '.join(missing)[:400]}")
    clashes = _clashes(seen.companions, seen)
    if clashes:
        return _failed(FailureClass.DEP_MISSING, f"what it needs does not fit together: {'; '.join(clashes)[:400]}")
    failed = _first_failure(seen, (("command", seen.scripts), ("entry point", seen.entry_points)))
    if failed is not None:
        return failed
    if not seen.modules and (modules or not ours[0].requires):
        return _failed(FailureClass.IMPORT_FAILED, "the package holds no Python module")
    return None


def _optional(seen: Verification) -> list[Trial]:
    """Single files of a namespace package that want a module of somebody else, beside others that import: what an extra is for
    (``google/longrunning/operations_grpc.py`` without grpc). One that is all the project has is not optional."""
    if not any(trial.error is None for trial in seen.modules):
        return []
    return [trial for trial in seen.modules if trial.name in seen.loose and _foreign_module(trial) is not None]


def optional_parts(seen: Verification) -> list[str]:
    """What people should know of them."""
    return [
        f"{trial.name} works only with the module {_foreign_module(trial)}, which it does not depend on"
        for trial in _optional(seen)
    ][:20]


def _foreign_module(trial: Trial) -> str | None:
    """The module of another project that an import did not find."""
    absent = re.search(r"ModuleNotFoundError: No module named '([\w.]{1,200})'", trial.error or "")
    own = trial.name.partition(".")[0]
    return absent[1] if absent is not None and absent[1].partition(".")[0] != own else None


def judge_debian(seen: Verification) -> StepFailure | None:
    """The same for Python packages that Debian's own debian/ made: their modules import, and their commands are there.

    Their metadata may ask for less or more than they declare: maintainers patch one and not always the other.
    """
    return _first_failure(seen, (("command", seen.scripts),))


def _first_failure(seen: Verification, others: Sequence[tuple[str, Sequence[Trial]]]) -> StepFailure | None:
    excused = {trial.name for trial in _optional(seen)}
    modules = [trial for trial in seen.modules if trial.name not in excused]
    for kind, trials in (("import of", modules), *others):
        for trial in trials:
            if trial.error is not None:
                return _import_failure(kind, trial)
    return None


def _import_failure(kind: str, trial: Trial) -> StepFailure:
    """An import that fails for want of another module is a dependency that upstream did not declare."""
    absent = _foreign_module(trial)
    if absent is not None:
        parent, dot, _ = absent.rpartition(".")
        # Python names the first part that it does not find: the parent of a dotted name is there, in a version without that part.
        why = f"which the installed {parent} does not have" if dot else "which no declared dependency brings"
        brief = f"{kind} {trial.name} needs the module {absent}, {why}"
        return StepFailure(
            failure_class=FailureClass.DEP_MISSING,
            brief=brief,
            details=trial.details,
            missing=(MissingInLog("module", absent),),
        )
    brief = f"{kind} {trial.name} fails: {trial.error}"
    return StepFailure(failure_class=FailureClass.IMPORT_FAILED, brief=brief, details=trial.details)


def natives_in(text: str) -> tuple[MissingInLog, ...]:
    """Shared libraries and programs that the error of a failed import names, each once: those named most exactly come first."""
    found: dict[MissingInLog, None] = {}
    for kind, pattern in _NATIVES:
        for match in itertools.islice(pattern.finditer(text), _MAX_NATIVES):
            found[MissingInLog(kind, match[1])] = None
    return tuple(found)[:_MAX_NATIVES]


def unmet_requirements(item: InstalledDistribution, seen: Verification) -> list[str]:
    """Requirements (without extras, for the sandbox's own Python) that the installed versions do not satisfy."""
    installed = {_normal(name): version for name, version in seen.installed.items()}
    problems = []
    for text in item.requires:
        try:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({**seen.environment, "extra": ""}):
                continue
            version = installed.get(_normal(requirement.name))
            if version is None:
                problems.append(f"{requirement.name}{requirement.specifier}, which is not installed")
            elif not requirement.specifier.contains(Version(version), prereleases=True):
                problems.append(f"{requirement.name}{requirement.specifier}, and {version[:60]} is installed")
        except (InvalidRequirement, InvalidVersion, UndefinedComparison, UndefinedEnvironmentName):
            # pip would not understand it either; what matters then is whether the package imports.
            continue
    return problems


def strained(seen: Verification) -> list[str]:
    """Packages of the suite whose metadata asks for other versions than those that were made here: told, no failure.

    Debian's packages are patched and their metadata not always; what matters here is that the relations hold.
    """
    return [f"a package of the suite may not like this: {text}" for text in _clashes(seen.dependents, seen)][:20]


def _clashes(distributions: Sequence[InstalledDistribution], seen: Verification) -> list[str]:
    return [
        f"{item.name[:80]} {item.version[:60]} asks for {problem}"
        for item in distributions
        for problem in unmet_requirements(item, seen)
    ]


def _failed(failure_class: FailureClass, brief: str) -> StepFailure:
    return StepFailure(failure_class=failure_class, brief=brief)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _same_version(left: str, right: str) -> bool:
    try:
        return Version(left) == Version(right)
    except InvalidVersion:
        return left == right
