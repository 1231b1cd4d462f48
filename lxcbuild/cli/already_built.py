"""The answer to a build that was done before with the same inputs, given before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from lxcbuild.builder.ready import dependencies_of, find_ready, influences
from lxcbuild.errors import LxcbuildError
from lxcbuild.model import BuiltPackages, Outcome, SourceKind, Status

if TYPE_CHECKING:
    from pathlib import Path

    from packaging.requirements import Requirement

    from lxcbuild.builder.ready import Ready
    from lxcbuild.builder.request import BuildRequest
    from lxcbuild.events import Monitor
    from lxcbuild.ledger.store import Ledger
    from lxcbuild.model import Target
    from lxcbuild.state.paths import StateDirs


def already_built(
    request: BuildRequest, *, dirs: StateDirs, ledger: Ledger, monitor: Monitor, overrides: Path | None
) -> Outcome | None:
    """The earlier outcome if the index still means the same source archive, and all packages lie in the store; else None.

    The index is asked for the newest release where the request leaves that open (its answer may be some minutes old). Directories
    and files always build.
    """
    if request.path is not None or request.rebuild or request.wants_checks or request.kind is not SourceKind.SDIST:
        return None
    earlier = ledger.recent(limit=1, target=str(request.target), status=Status.BUILT.value, name=request.project_name)
    if not earlier:
        return None
    try:
        ready = _same_release(request, dirs=dirs, ledger=ledger, monitor=monitor, overrides=overrides)
    except LxcbuildError:
        return None  # the build itself says what is wrong
    needed = None if ready is None else dependencies_of(ready, ledger, dirs)
    return None if ready is None or needed is None else _handed_over(request, ready, needed, dirs)


def _same_release(
    request: BuildRequest, *, dirs: StateDirs, ledger: Ledger, monitor: Monitor, overrides: Path | None
) -> Ready | None:
    from lxcbuild.pypi.index.client import IndexClient, parse_requirement

    requirement = parse_requirement(request.requirement)
    python = _python_version(request.target, dirs)
    if python is None:
        return None
    if requirement.marker is not None:
        from lxcbuild.debian.relations import TargetPython

        if not TargetPython(python, request.target.architecture).applies(requirement):
            return None
    if not request.force and _may_be_official(request, requirement, dirs):
        return None
    with IndexClient(dirs, monitor=monitor) as index:
        release = index.resolve(requirement, python_version=python)
    sha256 = release.sdist.hashes.get("sha256")
    if sha256 is None:
        return None
    return find_ready(
        ledger,
        dirs,
        name=release.name,
        version=release.version,
        target=request.target,
        sha256=sha256,
        like=influences(request),
        override=_override(release.name, release.version, request.target, overrides),
    )


def _python_version(target: Target, dirs: StateDirs) -> str | None:
    """The Python of the target's image, without everything that making and loading images needs."""
    from lxcbuild.images.image import ImageRecord

    try:
        return ImageRecord.from_json((dirs.images / f"{target.image_name}.json").read_text()).python_version
    except FileNotFoundError:
        return None


def _override(name: str, version: str, target: Target, directory: Path | None) -> str:
    """The digest of the hand-made override that applies. Where there is no such file, none has to be understood."""
    from lxcbuild.state import data

    if directory is None and not data.files("packages"):
        return ""
    from lxcbuild.config.overrides import load_overrides

    return load_overrides(directory).find(name, version, target).digest


def _may_be_official(request: BuildRequest, requirement: Requirement, dirs: StateDirs) -> bool:
    """Whether the distribution ships the project in any version, or nobody knows yet: then phase resolve decides."""
    from lxcbuild.debian.archive.contents import ContentsIndex, database_path

    path = database_path(dirs, request.target)
    if not path.is_file():
        return True
    contents = ContentsIndex(path)
    try:
        return contents.find_distribution(requirement.name) is not None
    finally:
        contents.close()


def _handed_over(request: BuildRequest, ready: Ready, needed: tuple[Ready, ...], dirs: StateDirs) -> Outcome:
    outcomes = [item.outcome() for item in (ready, *needed)]
    if request.output is not None:
        from lxcbuild.builder.phases.collect import hand_over

        for place, outcome in enumerate(outcomes):
            home = hand_over(dirs.artifacts / outcome.build_id, request.output)
            moved = tuple(replace(item, path=home / item.path.name) for item in outcome.artifacts)
            outcomes[place] = replace(outcome, artifacts=moved)
    first, *others = outcomes
    made = (BuiltPackages(build_id=o.build_id, name=o.name, version=o.version, artifacts=o.artifacts) for o in others)
    return replace(first, dependencies=tuple(made))
