"""Compile: the commands that turn a debianized tree into packages, and what the end of a failed log says."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from lxcbuild.debian import steps
from lxcbuild.debian.documents import DocumentError, load
from lxcbuild.debian.source.decisive import decisive_lines
from lxcbuild.debian.steps import InsideJob, InsideStep, MissingInLog, StepFailure
from lxcbuild.debian.tables import requirement_table
from lxcbuild.model import FailureClass
from lxcbuild.text import for_documents

#: What a build is told about the world; nothing of the host's environment comes along.
BASE_ENVIRONMENT: Mapping[str, str] = {
    "HOME": "/build",
    "LC_ALL": "C.UTF-8",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "DEB_RULES_REQUIRES_ROOT": "no",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PIP_NO_INDEX": "1",
    # The suite's list of classifiers is as old as the suite: a Python that came later is no mistake of the project.
    "HATCH_METADATA_CLASSIFIERS_NO_VERIFY": "1",
}


_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def compile_job(
    tree: str,
    *,
    timestamp_s: int,
    parallel: int,
    nocheck: bool = True,
    binary_only: bool = False,
    program_paths: Sequence[str] = (),
    profiles: Collection[str] = (),
    offline: bool = True,
    fork_server: bool = True,
) -> InsideJob:
    """``dpkg-buildpackage`` in ``tree``, then its results to /out. ``parallel`` is the CPU entitlement, at least 1.

    The job that has laid the tree out has left our scripts in the sandbox.

    ``program_paths`` are directories of programs before the suite's own. ``nocheck`` leaves tests to their own phase; a
    foreign Debian source package gets it too unless asked otherwise. ``profiles`` are build profiles, for the build itself and
    for its check of build dependencies. ``fork_server``: see :func:`steps.fork_server_files`.
    """
    options = [f"parallel={max(1, parallel)}", "noautodbgsym"]
    if nocheck:
        options.append("nocheck")
    env = {
        **BASE_ENVIRONMENT,
        **path_environment(program_paths),
        # Cargo then names the crate that it lacks, instead of a host that it cannot reach.
        **({"CARGO_NET_OFFLINE": "true"} if offline else {}),
        "DEB_BUILD_OPTIONS": " ".join(options),
        "SOURCE_DATE_EPOCH": str(timestamp_s),
        "DPKG_DEB_THREADS_MAX": str(max(1, parallel)),
    }
    if profiles:
        env["DEB_BUILD_PROFILES"] = " ".join(sorted(profiles))
    kind = "-b" if binary_only else "-F"
    # The tree is fresh: cleaning it (-nc leaves that out) could only run more of the package's code.
    build = ("dpkg-buildpackage", "-us", "-uc", "-nc", "-sa", kind, f"-j{max(1, parallel)}")
    parent = tree.rsplit("/", 1)[0]
    return InsideJob(
        files=steps.fork_server_files() if fork_server else {},
        steps=(
            InsideStep(argv=build, env=env, cwd=tree, fork_served=fork_server),
            steps.python_step("collect", parent),
        ),
    )


def path_environment(program_paths: Sequence[str]) -> dict[str, str]:
    """PATH with these directories first; nothing where there are none."""
    return {"PATH": ":".join((*program_paths, _DEFAULT_PATH))} if program_paths else {}


class _Marker(Struct, frozen=True):
    text: str
    failure_class: FailureClass
    brief: str
    missing: str | None  # the kind of thing that ``what`` names, see steps.Missing

    @property
    def pattern(self) -> re.Pattern[str]:
        """Compiled when a build has failed, which most do not; ``re`` keeps it."""
        return re.compile(self.text)


def _marker(pattern: str, failure_class: FailureClass, brief: str, missing: str | None = None) -> _Marker:
    return _Marker(pattern, failure_class, brief, missing)


#: What a successful build left for people to know: see :func:`parse_observed`.
OBSERVED = "observed.json"
_COMPILER = re.compile(rb"\b(?:cc|gcc|[cg]\+\+|clang(?:\+\+)?|rustc)(?!\w)")
_NATIVE_OPTION = re.compile(rb"-m(?:arch|cpu)=native|target-cpu=native")
#: How much of a log is read for that.
_MAX_LOG_BYTES = 128 * 1024 * 1024
#: How much of a failed log's end patterns get, and how much of each line: they are about messages, not about data.
_TAIL_BYTES, _LINE_LENGTH = 256 * 1024, 2000

#: Things learned from one log.
_MAX_MISSING = 40
_BUILD_DEP = FailureClass.BUILD_DEP_MISSING
_COMPILE = FailureClass.COMPILE_FAILED
# The order is from the most telling to the least. Texts are those of the programs named in the comments. A build may print
# anything: a pattern begins with fixed letters, or with ``(?<!...)`` where a word begins, so that no part of a line is read
# again for every letter before it.
_MARKERS = (
    _marker(r"Unmet build dependencies: (?P<what>[^\n]+)", _BUILD_DEP, "build dependencies are not installed: {what}"),
    _marker(r"ModuleNotFoundError: No module named '(?P<what>[\w.]{1,200})'", _BUILD_DEP,
            "the build needs the Python module {what}", "module"),
    _marker(r"Backend '(?P<what>[\w.:]{1,200})' is not available", _BUILD_DEP,
            "the build backend {what} is not there", "backend"),  # build
    _marker(r"BackendUnavailable: (?P<what>[^\n]{0,200})", _BUILD_DEP, "the build backend is not there: {what}", "backend"),
    _marker(r"fatal error: (?P<what>[^\s:]{1,200}): No such file or directory", _BUILD_DEP,
            "the C header {what} is missing", "header"),
    _marker(r"(?:/usr/bin/)?ld: cannot find -l(?P<what>[\w.+-]{1,100})", _BUILD_DEP, "the library {what} is missing", "library"),
    _marker(r"Package '?(?P<what>[\w.+-]{1,100})'?,? .{0,60}not found", _BUILD_DEP, "pkg-config finds no {what}", "pkgconfig"),
    _marker(r"No package '(?P<what>[^'\n]{1,100})' found", _BUILD_DEP, "pkg-config finds no {what}", "pkgconfig"),
    _marker(r"(?:sh|make|bash): (?:\d+: )?(?P<what>[\w.+-]{1,60}): (?:command )?not found", _BUILD_DEP,
            "the program {what} is missing", "program"),
    _marker(r"Program '(?P<what>[\w.+-]{1,60})' not found", _BUILD_DEP, "the program {what} is missing", "program"),  # meson
    _marker(r"FileNotFoundError: \[Errno 2\] No such file or directory: '(?P<what>[\w+-]{1,60})'", _COMPILE,
            "the build raised FileNotFoundError: there is no {what}", "program"),
    _marker(r"Dependency \"?(?P<what>[\w.+-]{1,100})\"? not found", _BUILD_DEP,
            "the library {what} is missing", "pkgconfig"),  # meson
    _marker(r"(?:cffi|fatal)[^\n]{0,80}?(?<![\w./+-])(?P<what>[\w./+-]{1,100}\.h(?:pp)?): No such file", _BUILD_DEP,
            "the C header {what} is missing", "header"),
    _marker(r"no matching package (?:named )?`(?P<what>[\w-]{1,100})`", _BUILD_DEP,
            "the Rust crate {what} is not here, and builds have no network", "crate"),
    _marker(r"failed to get `(?P<what>[\w-]{1,100})` as a dependency", _BUILD_DEP,
            "the Rust crate {what} is not here, and builds have no network", "crate"),
    _marker(r"failed to (?:download|fetch)[^\n]{0,60}`(?P<what>[\w.-]{1,100})[^`\n]{0,60}`", _BUILD_DEP,
            "the Rust crate {what} is not here, and builds have no network", "crate"),
    _marker(r"(?P<what>lock file version `\d+` was found, but this version of Cargo does not understand this lock file)",
            _BUILD_DEP, "the suite's Rust is too old: {what}"),
    _marker(r"(?P<what>(?:package `[^`\n]{1,100}`|(?<![\w@.-])[\w@.-]{1,80}(?: v[\d.]{1,40})?) "
            r"(?:cannot be built because it )?requires rustc [\d.]{1,40})", _BUILD_DEP, "the suite's Rust is too old: {what}"),
    _marker(r"(?P<what>feature `edition20\d\d` is required)", _BUILD_DEP, "the suite's Rust is too old: {what}"),
    _marker(r"can't find Rust compiler|(?:cargo|rustc)\b.{0,40}not (?:found|installed)", _BUILD_DEP, "the build needs Rust"),
    _marker(r"error: Could not find suitable distribution for Requirement\.parse\('(?P<what>[^'\n]{1,200})'\)", _BUILD_DEP,
            "setup.py asks the index for {what}", "requirement"),
    _marker(r"(?i:install|requires?|needs?) [`'\"](?P<what>[\w.-]{1,60} {0,2}(?:[<>]=?|==|~=) {0,2}[\w.]{1,30})[`'\"]", _BUILD_DEP,
            "the build asks for {what}", "advice"),
    _marker(r"invalid pyproject\.toml config: (?P<what>[^\n]{0,200})", _BUILD_DEP,
            "the backend does not take this pyproject.toml: {what}", "backend"),
    _marker(r"configuration error: (?P<what>[^\n]{0,200})", _BUILD_DEP,
            "the backend does not take this pyproject.toml: {what}", "backend"),
    _marker(r"(?:flit_core\.config\.)?ConfigError: (?P<what>[^\n]{0,200})", _BUILD_DEP,
            "the backend does not take this pyproject.toml: {what}", "backend"),
    _marker(r"(?:Value|Type)Error: (?P<what>[^\n]{0,120}(?:`project\.license|license-files|license expression)[^\n]{0,200})",
            _BUILD_DEP,
            "the backend is too old: {what}", "backend"),
    # The suite's list of classifiers is as old as the suite, and not every hatchling lets itself be told not to look.
    _marker(r"ValueError: (?P<what>Unknown classifier in field [^\n]{0,200})", _BUILD_DEP,
            "the backend is too old: {what}", "backend"),
    _marker(r"lxcbuild: nothing was installed", _COMPILE,
            "the build ended without an error and made nothing: there is no wheel, or it holds no project"),
    _marker(r"(?P<what>does not appear to be a Python project: no pyproject\.toml or setup\.py)", FailureClass.BROKEN_SDIST,
            "the archive {what}"),
    _marker(r"FileNotFoundError: [^\n]{0,60}'/tmp/[^'\n]{1,60}/output\.json'", _COMPILE,
            "setup.py or the build backend ended by itself (sys.exit or the like) before it had made anything"),
    _marker(r"(?:ValueError|ERROR)[: ]{1,2}paths must be inside source tree", FailureClass.BROKEN_SDIST,
            "backend-path in pyproject.toml leads out of the sources: paths must be inside source tree"),
    _marker(r"SyntaxError: (?P<what>Missing parentheses in call to '(?:print|exec)'|"
            r"multiple exception types must be parenthesized|leading zeros in decimal integer literals)", _COMPILE,
            "the project is written for Python 2: SyntaxError: {what}"),
    _marker(r"dh\w{0,40}: error: open\(debian/[^\n]{0,80}failed: No such file|make: debian/rules: No such file", _COMPILE,
            "the build removed the packaging around it (the directory debian/)"),
    _marker(r"UNKNOWN wheel found", _BUILD_DEP, "the backend does not read this project's metadata", "backend"),
    _marker(r"FileNotFoundError: \[Errno 2\] No such file or directory: "
            r"'(?P<what>(?!/(?!build/[^/'\n]+/))[^'\n]{1,200}\.\w{1,10})'",
            FailureClass.BROKEN_SDIST, "the archive lacks {what}, which its build reads"),
    _marker(r"(?:PermissionError|OSError): \[Errno (?:13|30)\] (?:Permission denied|Read-only file system): "
            r"'(?P<what>/(?!(?:build|out|tmp|var/tmp)/)[^'\n]{1,200})'",
            FailureClass.WROTE_OUTSIDE, "the build reaches outside its own directories: {what}"),
    _marker(r"(?:mkdir|touch|cp|install|ln|mv|tee)\b[^\n]{0,80} "
            r"['\u2018]?(?P<what>/(?!(?:build|out|tmp|var/tmp)/)[^'\u2019\n:]{1,200}+)['\u2019]?: "
            r"(?:Permission denied|Read-only file system)",
            FailureClass.WROTE_OUTSIDE, "the build reaches outside its own directories: {what}"),
    _marker(r"dpkg-source: error: (?P<what>[^\n]{1,300})", _COMPILE, "the source package cannot be made: {what}"),
    _marker(r"dh_python3[^\n]{0,200}error|E: dh_python3[^\n]{0,200}", _COMPILE, "dh_python3 refuses the package"),
    _marker(r"(?<![\w.])(?P<what>[\w.]{1,120}(?:Error|Exception): [^\n]{1,250})", _COMPILE, "the build raised {what}"),
    _marker(r"E: pybuild [^\n]{1,60}failed with: (?!exit code)(?P<what>[^\n]{1,250})", _COMPILE, "pybuild says {what}"),
    _marker(r"(?<![^\s:])(?P<what>[^\s:]{1,250}:\d{1,9}(?::\d{1,9})?: error: [^\n]{1,200})", _COMPILE, "the compiler says {what}"),
)  # fmt: skip
#: The wheel holds what pybuild's plugin cannot place: dh-python before 6 knows no C headers in wheels.
_PLUGIN_UNFIT = re.compile(rb"plugin pyproject failed with: '(?:headers|include)'")


def plugin_is_unfit(tail: bytes) -> bool:
    """Whether pybuild's pyproject plugin made the wheel and could not take it apart: plain commands can (see conversion)."""
    return _PLUGIN_UNFIT.search(tail) is not None


def parse_observed(data: bytes) -> tuple[str, ...]:
    """Warnings for people, from what a build left in ``OBSERVED``: forged or broken documents give none, and harm nobody."""
    try:
        reader = load(data)
        left_out, native = reader.texts("left_out", count=100), reader.texts("native", count=20)
    except DocumentError:
        return ()
    found = []
    modules = [name for name in left_out if not name.endswith(".pth")]
    startup = [name for name in left_out if name.endswith(".pth")]
    if modules:
        found.append(
            f"left out, because every project would have them: the top-level modules {', '.join(modules)[:300]} "
            "(tests and the like belong into the project's own package, or nowhere)"
        )
    if startup:
        found.append(f"left out, because every start of Python would run them as any user: {', '.join(startup)[:300]}")
    if native:
        found.append(_native(f"(-march=native made it {', '.join(native)[:200]})"))
    return tuple(found)


def native_in_log(log: Iterable[bytes]) -> str | None:
    """The same warning where compiler commands in the log ask for the processor at hand."""
    left = _MAX_LOG_BYTES
    for line in log:
        compiler = _COMPILER.search(line) if b"native" in line else None
        option = _NATIVE_OPTION.search(line, compiler.end()) if compiler is not None else None
        if option is not None:
            return _native(f"({option[0].decode('ascii')})")
        left -= len(line)
        if left < 0:
            break
    return None


def _native(how: str) -> str:
    return f"native-code: compiled for the processor of this machine {how}: on an older one the package may crash"


def classify_compile_failure(tail: bytes, *, status: str) -> StepFailure:
    """Name the failure from the log's end (at most 256 KiB are read); ``status`` is how the command ended, for people.

    What the kernel counted (memory, disk, time) is decided elsewhere and wins over this.
    """
    text = _readable(tail)
    details = "\n".join(decisive_lines(text))
    missing = missing_things(text)
    for marker in _MARKERS:
        match = marker.pattern.search(text)
        if match is not None:
            what = (match.groupdict().get("what") or "").strip()
            brief = marker.brief.format(what=what)[:400]
            return StepFailure(failure_class=marker.failure_class, brief=brief, details=details, missing=missing)
    return StepFailure(
        failure_class=_COMPILE, brief=f"dpkg-buildpackage failed ({status})", details=details, missing=missing
    )


def missing_in_tail(tail: bytes) -> tuple[MissingInLog, ...]:
    """The same for the end of a log as it was printed."""
    return missing_things(_readable(tail))


def _readable(tail: bytes) -> str:
    """The end of a log for patterns: bounded, without control characters, long lines without their ends."""
    lines = for_documents(tail[-_TAIL_BYTES:].decode("utf-8", "replace")).split("\n")
    return "\n".join(line[:_LINE_LENGTH] for line in lines)


def missing_things(text: str) -> tuple[MissingInLog, ...]:
    """Everything that a log says is not there, each once, in the order of the markers."""
    found = [
        MissingInLog(marker.missing, (match.groupdict().get("what") or "").strip())
        for marker in _MARKERS
        if marker.missing is not None
        for match in itertools.islice(marker.pattern.finditer(text), _MAX_MISSING)
    ]
    found += [MissingInLog("phrase", phrase) for phrase in requirement_table().phrases if re.search(phrase, text)]
    return tuple(dict.fromkeys(found))[:_MAX_MISSING]
