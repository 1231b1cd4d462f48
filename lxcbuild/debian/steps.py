"""What this room asks a sandbox to run, as plain data: files to put inside, commands, and the name of the result they leave.

This room knows no sandbox: the caller turns an :class:`InsideJob` into the sandbox's own steps. Scripts of ours travel in one
uncompressed zip (:func:`tools_archive`), which CPython imports from directly, so that nothing of the host is mounted for them.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from lxcbuild.config.overrides import Patch
from lxcbuild.errors import ToolMissingError
from lxcbuild.model import FailureClass

#: Where things are inside.
TOOLS = "/lxcbuild/tools.zip"
REQUEST = "/lxcbuild/request.json"
PATCHES = "/lxcbuild/patches"
OUT = "/out"
SOURCE = "/in/source"
DEBS = "/in/debs"
SOURCE_TREE = "/build/src"
#: See :func:`fork_server_files`.
_FORK_SERVERS = {"/lxcbuild/forkserver.pl": "forkserver.pl", "/lxcbuild/forkserver.py": "forkserver.py"}

_LAUNCH = (
    "import sys;sys.path.insert(0,{tools!r});from lxcbuild.debian.inside.{module} import main;"
    "sys.exit(main(sys.argv[1:]))"
)
_PACKAGES = ("tomli", "stdeb")


class InsideStep(Struct, frozen=True, kw_only=True):
    """One command inside. ``as_root`` marks trusted installs: all else runs as the unprivileged build user.

    ``fork_served`` lets the programs of debhelper and dpkg that it starts be forks of one process (:func:`fork_server_files`, which
    must be among the job's files). It changes how long the command takes and nothing else.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/build"
    as_root: bool = False
    fork_served: bool = False

    @property
    def command(self) -> tuple[str, ...]:
        """What is executed for ``argv``."""
        return ("/usr/bin/perl", next(iter(_FORK_SERVERS)), *self.argv) if self.fork_served else self.argv


class InsideJob(Struct, frozen=True, kw_only=True):
    """Files to put inside (absolute path to content), then steps in order, each only if the one before succeeded.

    ``results`` are names below ``/out`` to read afterwards. A step may fail and still leave its result: it says why.
    """

    files: Mapping[str, bytes]
    steps: tuple[InsideStep, ...]
    results: tuple[str, ...] = ()


class MissingInLog(Struct, frozen=True):
    """One thing that a log says is not there.

    ``kind``: ``module``, ``header``, ``library`` (of ``-l``), ``pkgconfig``, ``program``, ``requirement`` (PEP 508), ``advice``
    (one in a message), ``crate``, ``phrase`` (the log's words), or ``backend`` (too old, or unfit).
    """

    kind: str
    name: str


class StepFailure(Struct, frozen=True, kw_only=True):
    """Why a script inside gave up, in the closed vocabulary. Texts are hostile, bounded and free of control characters."""

    failure_class: FailureClass
    brief: str
    details: str | None = None
    missing: tuple[MissingInLog, ...] = ()


def python_step(
    module: str, *arguments: str, env: Mapping[str, str] | None = None, as_root: bool = False, site: bool = False
) -> InsideStep:
    """The step that runs ``lxcbuild.debian.inside.<module>``; ``site`` keeps dist-packages importable."""
    flags = ("-I",) if site else ("-I", "-S")
    launch = _LAUNCH.format(tools=TOOLS, module=module)
    return InsideStep(argv=("/usr/bin/python3", *flags, "-c", launch, *arguments), env=dict(env or {}), as_root=as_root)


@functools.cache
def fork_server_files() -> Mapping[str, bytes]:
    """The two servers of which commands marked ``fork_served`` fork their programs: Perl's and Python's."""
    return {
        inside: (Path(__file__).parent / "inside/forkserver" / name).read_bytes()
        for inside, name in _FORK_SERVERS.items()
    }


def request(document: Mapping[str, object]) -> dict[str, bytes]:
    """The two files that most jobs put inside: the tools, and what is asked of them."""
    return {TOOLS: tools_archive(), REQUEST: json.dumps(document, indent=1, sort_keys=True).encode()}


def patch_files(patches: Sequence[Patch]) -> dict[str, bytes]:
    """The patches of an override, where the scripts inside look for them; nothing where there are none."""
    if not patches:
        return {}
    series = "".join(f"{patch.name}\n" for patch in patches)
    return {f"{PATCHES}/series": series.encode(), **{f"{PATCHES}/{p.name}": p.text.encode() for p in patches}}


def support_library_paths() -> dict[str, Path]:
    """Directories of the pure-Python packages that the scripts inside use, by import name. Raises ToolMissingError."""
    found = {}
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ToolMissingError(
                f"the Python package {name} is not installed", resolution="run: sudo scripts/quickstart"
            )
        found[name] = Path(spec.submodule_search_locations[0])
    return found


@functools.cache
def tools_archive() -> bytes:
    """The zip of our scripts, tomli and stdeb: stored, with fixed times, so that equal tools are equal bytes."""
    roots = {"lxcbuild/debian/inside": Path(__file__).parent / "inside", **support_library_paths()}
    content: dict[str, bytes] = {"lxcbuild/__init__.py": b"", "lxcbuild/debian/__init__.py": b""}
    for inside, root in roots.items():
        for path in root.rglob("*.py"):
            content[f"{inside}/{path.relative_to(root).as_posix()}"] = path.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content[name])
    return buffer.getvalue()
