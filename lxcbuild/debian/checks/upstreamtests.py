"""A project's own tests: what they need, the jobs that find and run them, and what came out, as plain data."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

from msgspec import Struct
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lxcbuild.debian import documents, steps
from lxcbuild.debian.documents import DocumentError
from lxcbuild.debian.source.conversion import RESERVED_MODULES
from lxcbuild.debian.steps import SOURCE, InsideJob, StepFailure
from lxcbuild.errors import BadNameError
from lxcbuild.model import FailureClass
from lxcbuild.text import for_documents

FOUND, RESULT = "tests-found.json", "tests.json"
#: Extras for tests; ``dev`` only where a project has none of the others.
EXTRAS = ("test", "tests", "testing")
LAST_EXTRA = "dev"
_INSTALLED = re.compile(r"/usr/lib/python3(?:\.\d+)?/dist-packages/.+")
#: Programs and tables of a usual system, which tests start or read and no Python requirement can name.
COMMON = ("less", "netbase", "procps", "tzdata")
#: What projects list beside their test requirements, and no test imports.
_NOT_FOR_TESTS = frozenset(
    {
        "tox", "nox", "pre-commit", "black", "ruff", "flake8", "isort", "mypy", "pyright", "pylint", "sphinx", "furo", "twine",
        "build", "bump2version", "bumpver", "check-manifest", "codecov", "coveralls", "towncrier", "interrogate", "uv", "pip",
    }
)  # fmt: skip
_ARCHIVE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!~-]{0,250}")


class TestsFound(Struct, frozen=True, kw_only=True):
    """What the tree says without being run."""

    __test__ = False

    requires: tuple[str, ...]
    found: bool


class Verdict(enum.StrEnum):
    """What a run of tests says."""

    PASSED = "passed"
    FAILED = "failed"
    NONE = "none"  # nothing to run
    FOREIGN = "not-the-package"  # something else than the installed package was imported
    NOT_LOADED = "not-loaded"  # no test failed, but test modules cannot be imported
    USAGE = "usage-error"  # pytest does not take the project's options or configuration
    CRASHED = "crashed"  # pytest itself ended by an error or a signal


#: Exit statuses of pytest (its reference, "Exit codes"); of a process that a signal ended.
_NO_TESTS, _SIGNALS = 5, 128


class TestsRun(Struct, frozen=True, kw_only=True):
    """What pytest counted. The package's own code ran beside the counting, so this says nothing of a package that lies."""

    __test__ = False

    status: int  # of pytest
    passed: int
    failed: int
    errors: int
    skipped: int
    failing: tuple[str, ...]
    foreign: tuple[str, ...]  # modules that were not imported from the installed package
    unloadable: tuple[str, ...] = ()  # test modules that could not be imported, and why; they are errors, too
    unloadable_count: int = 0

    @property
    def verdict(self) -> Verdict:
        """Whether tests failed, or could not be run at all: pytest's exit status, and what it counted."""
        if self.status == _NO_TESTS:
            return Verdict.NONE
        if self.foreign:
            return Verdict.FOREIGN
        if self.status == 0:
            return Verdict.PASSED
        if self.failed or self.errors > self.unloadable_count:
            return Verdict.FAILED
        if self.unloadable_count:
            return Verdict.NOT_LOADED
        return {3: Verdict.CRASHED, 4: Verdict.USAGE}.get(
            self.status, Verdict.CRASHED if self.status > _SIGNALS else Verdict.FAILED
        )

    @property
    def none(self) -> bool:
        """Whether there was nothing to run."""
        return self.verdict is Verdict.NONE

    @property
    def ok(self) -> bool:
        """Whether tests ran on the installed package, and none failed."""
        return self.verdict is Verdict.PASSED

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.errors} errors, {self.skipped} skipped"


def find_job(archive_name: str) -> InsideJob:
    """Look for tests and their requirements in ``/in/source/<archive_name>``."""
    asked = {"archive": f"{SOURCE}/{_checked(archive_name)}"}
    return InsideJob(files=steps.request(asked), steps=(steps.python_step("checks.find_tests"),), results=(FOUND,))


def run_job(archive_name: str, modules: Sequence[str], *, command: str | None = None) -> InsideJob:
    """As the build user: run them on what is installed; the archive's own modules are set aside. ``command`` goes in pytest's
    place."""
    own = [name for name in modules if name not in RESERVED_MODULES]
    asked = {"archive": f"{SOURCE}/{_checked(archive_name)}", "modules": own, "command": command}
    return InsideJob(
        files=steps.request(asked), steps=(steps.python_step("checks.run_tests", site=True),), results=(RESULT,)
    )


def _checked(name: str) -> str:
    if not _ARCHIVE_NAME.fullmatch(name):
        raise BadNameError(f"{name[:80]!r} is not the file name of a source archive")
    return name


def parse_found(data: bytes) -> TestsFound | StepFailure:
    """Check what came back from :func:`find_job`."""
    try:
        reader = documents.load(data)
        failure = documents.failure_in(reader, allowed=documents.allow(FailureClass.BROKEN_SDIST))
        if failure is not None:
            return failure
        return TestsFound(requires=reader.texts("requires", count=200), found=bool(reader.flag("found")))
    except DocumentError as error:
        return documents.broken(error, failure_class=FailureClass.BROKEN_SDIST)


def parse_run(data: bytes) -> TestsRun | StepFailure:
    """Check what came back from :func:`run_job`."""
    try:
        reader = documents.load(data)
        allowed = documents.allow(FailureClass.BROKEN_SDIST, FailureClass.TESTS_FAILED)
        failure = documents.failure_in(reader, allowed=allowed)
        if failure is not None:
            return failure
        tests, failures = reader.number("tests", limit=10**9), reader.number("failures", limit=10**9)
        errors, skipped = reader.number("errors", limit=10**9), reader.number("skipped", limit=10**9)
        origins = reader.pairs("origins", count=200)
        return TestsRun(
            status=reader.number("status", limit=255),
            passed=max(0, tests - failures - errors - skipped),
            failed=failures,
            errors=errors,
            skipped=skipped,
            failing=reader.texts("failing", count=50),
            unloadable=reader.texts("unloadable", count=50),
            unloadable_count=reader.number("unloadable_count", limit=10**9),
            foreign=tuple(
                f"{name} from {path}" for name, path in origins.items() if path and not _INSTALLED.fullmatch(path)
            ),
        )
    except DocumentError as error:
        return documents.broken(error, failure_class=FailureClass.TESTS_FAILED)


def usage_error(tail: bytes) -> str:
    """What pytest says of options or a configuration that it does not take; empty where it says nothing."""
    text = for_documents(tail[-16 * 1024 :].decode("utf-8", "replace"))
    found = re.findall(r"(?m)^(?:ERROR: )?(?:[\w./-]{1,100}: )?(?:error|ERROR): (\S.{0,300})$", text)
    return str(found[-1]) if found else ""


def missing_modules(tail: bytes, *, own: Sequence[str]) -> tuple[str, ...]:
    """Top-level modules that the end of a log says cannot be imported, the project's own left out."""
    found = re.findall(rb"No module named '([A-Za-z_][A-Za-z0-9_]{0,100})", tail)
    names = dict.fromkeys(name.decode("ascii") for name in found)
    return tuple(name for name in names if name not in own)[:20]


def wanted(own: str, requires_dist: Sequence[str], found: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The project's extras that tests need, and the requirements beside them (pytest in any case); tools of a CI are left out.

    A requirement on the project itself (``attrs[tests]``) is one on its extras.
    """
    named = {extra for text in requires_dist for extra in _extras(text)}
    extras = dict.fromkeys(extra for extra in EXTRAS if extra in named)
    requirements: dict[str, None] = {}
    for text in found:
        try:
            item = Requirement(text)
        except InvalidRequirement:
            continue
        if canonicalize_name(item.name) == canonicalize_name(own):
            extras.update(dict.fromkeys(sorted(item.extras)))
        elif item.url is None and is_for_tests(item.name):
            requirements[str(item)] = None
    if not extras and not requirements and LAST_EXTRA in named:
        extras[LAST_EXTRA] = None
    return tuple(extras), tuple(dict.fromkeys((*requirements, "pytest")))


def is_for_tests(name: str) -> bool:
    """Whether a test may import it, as far as its name tells."""
    plain = canonicalize_name(name)
    return plain not in _NOT_FOR_TESTS and not plain.startswith(("sphinx", "flake8-", "types-", "tox-"))


def _extras(requirement: str) -> set[str]:
    return {match[1].lower() for match in re.finditer(r"extra\s*==\s*['\"]([\w.-]+)['\"]", requirement)}
