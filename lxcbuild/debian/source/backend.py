"""What a build backend says when it is asked inside a sandbox: the step that asks, and its checked answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from packaging.requirements import InvalidRequirement, Requirement

from lxcbuild.config.overrides import Patch
from lxcbuild.debian import documents, steps
from lxcbuild.debian.documents import DocumentError
from lxcbuild.debian.source.inspection import Inspection
from lxcbuild.debian.steps import InsideJob

RESULT = "backend.json"
#: Where wheels of the index lie inside, one directory per Python, and where they are laid out before they become a layer.
BUILD_PYTHON = "/usr/lib/lxcbuild/build-python"
LAID_WHEELS = "/build/wheels"
_WHEELS = "/in/wheels"
_MAX_REQUIRES = 200


class BackendAnswer(Struct, frozen=True, kw_only=True):
    """Requirements that the backend asked for (those that are requirements at all), or why it could not be asked."""

    requires: tuple[str, ...] = ()
    error: str | None = None


def ask_job(
    inspection: Inspection,
    *,
    archive_name: str,
    environment: Mapping[str, str],
    make_wheel: bool = False,
    patches: Sequence[Patch] = (),
) -> InsideJob:
    """Run the backend's requirements hook on ``/in/source/<archive_name>``; with ``make_wheel`` also build a wheel to /out."""
    asked = {
        "archive": f"{steps.SOURCE}/{archive_name}",
        "tree": steps.SOURCE_TREE,
        "backend": inspection.build_backend,
        "backend_path": list(inspection.backend_path),
        "make_wheel": make_wheel,
    }
    step = steps.python_step("ask_backend", env=environment, site=True)
    files = {**steps.request(asked), **steps.patch_files(patches)}
    return InsideJob(files=files, steps=(step,), results=(RESULT,))


def parse_answer(data: bytes) -> BackendAnswer:
    """Check what came back; an answer that is not one counts as an error of the backend."""
    try:
        reader = documents.load(data)
        if reader.table("failure") is not None:
            failure = reader.table("failure")
            assert failure is not None
            return BackendAnswer(error=failure.line("brief", limit=2000) or "the backend could not be asked")
        requires = reader.texts("requires", count=_MAX_REQUIRES)
        error = reader.line("error", limit=4000)
    except DocumentError as problem:
        return BackendAnswer(error=f"what the backend left is unusable: {problem}")
    return BackendAnswer(requires=tuple(item for item in requires if is_requirement(item)), error=error)


def is_requirement(text: str) -> bool:
    """Whether a text is a requirement that names versions and no URL."""
    try:
        return Requirement(text).url is None
    except InvalidRequirement:
        return False


def lay_wheels_job(sets: Mapping[str, tuple[str, ...]]) -> InsideJob:
    """Lay the named files of ``/in/wheels`` out per Python (``3.11``) below :data:`LAID_WHEELS`."""
    asked = {
        "wheels": _WHEELS,
        "destination": LAID_WHEELS,
        "sets": {python: list(names) for python, names in sets.items()},
    }
    return InsideJob(files=steps.request(asked), steps=(steps.python_step("lay_wheels"),), results=("wheels.json",))
