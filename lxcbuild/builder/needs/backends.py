"""Build backends from the package index: which releases a build needs for the target's Pythons, and what a backend itself asks for.

Everything that runs a project's code (the hook, a wheel built from a source archive) runs in a sandbox as the build user.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from lxcbuild.builder.facts import Inspected, Provisioned, Resolved
from lxcbuild.builder.jobs import result_bytes, run_job, take_output
from lxcbuild.builder.work import Work
from lxcbuild.config.overrides import Override
from lxcbuild.debian.relations import TargetPython
from lxcbuild.debian.source import backend as asking
from lxcbuild.debian.source import inspection as inspecting
from lxcbuild.debian.source.backend import BackendAnswer
from lxcbuild.debian.source.compilation import BASE_ENVIRONMENT, path_environment
from lxcbuild.debian.source.conversion import version_environment
from lxcbuild.debian.source.inspection import Inspection
from lxcbuild.debian.steps import SOURCE, StepFailure
from lxcbuild.errors import DependencyError
from lxcbuild.files import write_whole
from lxcbuild.images.image import Image
from lxcbuild.images.layer import Layer
from lxcbuild.images.wheels import LAYOUT_VERSION
from lxcbuild.pypi.files.identity import split_sdist_name
from lxcbuild.pypi.files.wheels import target_tags
from lxcbuild.pypi.index.model import IndexFile
from lxcbuild.pypi.versions.buildset import Chosen, TargetEnvironment, resolve_build_set
from lxcbuild.sandbox.base import Bind

#: A backend that needs a backend that needs a backend ...: how many may have to be built from their sources.
_MAX_DEPTH = 3
_MAX_HOOK_ROUNDS = 3
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{1,250}\.whl")


def choose(
    work: Work, project: Inspected, below: Layer, roots: Sequence[str], *, constraints: Sequence[str]
) -> dict[str, tuple[Chosen, ...]]:
    """By Python (``3.11``), the releases that the roots need; ``below`` says which Pythons and C library there are.

    Raises :class:`DependencyError` and what fetching raises.
    """
    sets = {}
    for version in pythons(project, below):
        environment = target_environment(project.resolved.image, below, version)

        def make(file: IndexFile, version: str = version) -> Path:
            return _wheel_of_source(work, project.resolved, file, version, depth=1)

        sets[_short(version)] = resolve_build_set(
            roots,
            constraints=_plain(constraints),
            index=work.context.index,
            target=environment,
            make_wheel=make,
        )
    return sets


def pythons(project: Inspected, layer: Layer) -> tuple[str, ...]:
    """Versions of the Pythons that the project will be built for: one serves pure projects, the default comes first."""
    default = project.resolved.image.python_version
    if not project.inspection.compiled:
        return (default,)
    installed = {match[1] for p in layer.packages if (match := re.fullmatch(r"python(3\.\d+)", p.name))}
    others = sorted(installed - {_short(default)}, key=lambda text: int(text.partition(".")[2]))
    return (default, *others)


def target_environment(image: Image, layer: Layer, version: str) -> TargetEnvironment:
    """Markers and tags of one Python of the target."""
    markers = TargetPython(version, image.target.architecture).environment()
    return TargetEnvironment(
        markers=markers,
        tags=target_tags(python_version=version, machine=markers["platform_machine"], glibc=_glibc(layer)),
    )


def _short(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _glibc(layer: Layer) -> tuple[int, int] | None:
    for package in layer.packages:
        match = re.match(r"(?:\d+:)?(\d+)\.(\d+)", package.version) if package.name == "libc6" else None
        if match is not None:
            return int(match[1]), int(match[2])
    return None


def _plain(requirements: Sequence[str]) -> tuple[str, ...]:
    """Those that are requirements without a URL; the others have been told of elsewhere."""
    return tuple(item for item in requirements if asking.is_requirement(item))


# -- what a backend asks for ----------------------------------------------------------------------------------------


def ask(work: Work, project: Inspected, provided: Provisioned) -> BackendAnswer:
    """What the project's backend wants beyond what is written down, on the layers so far."""
    source, layer, paths = project.source, provided.layer, provided.program_paths
    answer, _ = _run_backend(
        work, source.path, project.inspection, layer, paths, version=source.version, by_hand=work.override
    )
    return answer


def _run_backend(
    work: Work,
    archive: Path,
    inspection: Inspection,
    layer: Layer,
    program_paths: Sequence[str],
    *,
    version: str,
    by_hand: Override,
    keep_wheel: Path | None = None,
) -> tuple[BackendAnswer, Path | None]:
    environment = {**BASE_ENVIRONMENT, **version_environment(version), **path_environment(program_paths)}
    job = asking.ask_job(
        inspection,
        archive_name=archive.name,
        environment={**environment, **by_hand.environment},
        make_wheel=keep_wheel is not None,
        patches=by_hand.patches,
    )
    bind = Bind(host=archive, inside=f"{SOURCE}/{archive.name}")
    instance = work.open_sandbox(layer.lowers, binds=(bind,))
    run_job(work, instance, job)
    destination = work.workspace / "backend"
    shutil.rmtree(destination, ignore_errors=True)
    files = take_output(work, instance, destination)
    work.finish_sandbox()
    answer = asking.parse_answer(result_bytes(files, asking.RESULT))
    wheel = next((item.path for name, item in sorted(files.items()) if _WHEEL.fullmatch(name)), None)
    if keep_wheel is None or wheel is None:
        return answer, None
    keep_wheel.mkdir(parents=True, exist_ok=True)
    kept = keep_wheel / wheel.name
    with wheel.open("rb") as content:
        write_whole(kept, content, durable=False)
    return answer, kept


# -- wheels of source archives --------------------------------------------------------------------------------------


def _wheel_of_source(work: Work, resolved: Resolved, file: IndexFile, version: str, *, depth: int) -> Path:
    """Build the wheel of a release that has none which fits; its own build requirements come from the index as well."""
    image = resolved.image
    if depth > _MAX_DEPTH:
        raise DependencyError(f"{file.filename} would be a third level of nested builds, which is too deep")
    if _short(version) != _short(image.python_version):
        raise DependencyError(f"{file.filename} can be built for the suite's default Python only")
    archive = work.context.index.fetch(file)
    facts = ["wheel", archive.parent.name, image.digest, version, LAYOUT_VERSION]
    kept = work.context.dirs.downloads / "built-wheels" / hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    made = sorted(kept.glob("*.whl"))
    if made:
        return made[0]
    work.note(f"{file.filename} has no wheel for {work.request.target}: one is built in a sandbox")
    inspection = _inspect(work, image, archive)
    asked: dict[str, None] = dict.fromkeys(_plain(inspection.build_requires))
    for _ in range(_MAX_HOOK_ROUNDS):
        layer, paths = _layer_for(work, resolved, tuple(asked), depth)
        release = split_sdist_name(file.filename)
        text = str(release[1]) if release else inspection.version or "0"
        answer, wheel = _run_backend(
            work, archive, inspection, layer, paths, version=text, by_hand=Override(), keep_wheel=kept
        )
        if wheel is not None:
            return wheel
        fresh = [item for item in answer.requires if item not in asked]
        if not fresh:
            break
        asked.update(dict.fromkeys(fresh))
    raise DependencyError(f"no wheel can be built of {file.filename}", details=answer.error)


def _inspect(work: Work, image: Image, archive: Path) -> Inspection:
    bind = Bind(host=archive, inside=f"{SOURCE}/{archive.name}")
    instance = work.open_sandbox((image.path,), binds=(bind,))
    run_job(work, instance, inspecting.inspect_job(archive.name))
    destination = work.workspace / "inspect-requirement"
    shutil.rmtree(destination, ignore_errors=True)
    files = take_output(work, instance, destination)
    work.finish_sandbox()
    found = inspecting.parse_inspection(result_bytes(files, inspecting.RESULT))
    if isinstance(found, StepFailure):
        raise DependencyError(f"{archive.name} cannot be used: {found.brief}", details=found.details)
    return found


def _layer_for(
    work: Work, resolved: Resolved, requirements: Sequence[str], depth: int
) -> tuple[Layer, tuple[str, ...]]:
    below = work.provide(resolved.image, resolved.recipe.toolchain, ("build-essential", "python3-all-dev"))
    default = resolved.image.python_version

    def make(file: IndexFile) -> Path:
        return _wheel_of_source(work, resolved, file, default, depth=depth + 1)

    sets: Mapping[str, tuple[Chosen, ...]] = {
        _short(default): resolve_build_set(
            requirements,
            index=work.context.index,
            target=target_environment(resolved.image, below, default),
            make_wheel=make,
        )
    }
    made = work.context.wheels.provide(resolved.image, below, sets)
    return made.layer, made.program_paths
