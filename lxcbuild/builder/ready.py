"""Builds that need not be done again: the ledger knows them as built, and their packages lie in the store as they were sealed."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from lxcbuild import __version__
from lxcbuild.builder.request import BuildRequest
from lxcbuild.errors import UnknownBuildError
from lxcbuild.files import sha256_of
from lxcbuild.ledger.records import BuildRecord, Records
from lxcbuild.model import Artifact, Outcome, Source, Status, Target
from lxcbuild.state.paths import StateDirs

#: How many earlier builds of a project are looked at.
_LOOK_BACK = 20


class Ready(Struct, frozen=True, kw_only=True):
    """An earlier build: its record, and its packages where the store has them."""

    record: BuildRecord
    artifacts: tuple[Artifact, ...]

    def has(self, package: str) -> bool:
        """Whether a package of that name is among them."""
        return any(artifact.path.name.startswith(f"{package}_") for artifact in self.artifacts)

    def outcome(self) -> Outcome:
        """The earlier outcome, with the packages where they lie now."""
        return replace(self.record.outcome(), artifacts=self.artifacts, reused=True)


def influences(request: BuildRequest) -> dict[str, object]:
    """What of a request decides what comes out, as the ledger keeps it: a build with other values is another build."""
    return {
        "converter": request.converter.value,
        "maintainer": request.maintainer,
        "strict_debian": request.strict_debian,
        "hashes": [list(pair) for pair in request.hashes],
        "with_deps": request.with_deps,
        "newer_than_official": request.newer_than_official,
    }


def recorded_request(
    request: BuildRequest,
    *,
    source: Source | None = None,
    dependencies: Mapping[str, str] | None = None,
    override: str = "",
) -> dict[str, object]:
    """What the ledger keeps of a request; ``dependencies`` are the builds of what it needs, id by project; ``override`` is the
    digest of the hand-made override that applied."""
    return {
        "requirement": request.requirement,
        "force": request.force,
        "kind": request.kind.value,
        **influences(request),
        **({"needed_by": request.needed_by} if request.needed_by else {}),
        **({"source": {"sha256": source.sha256, "url": source.url}} if source is not None else {}),
        **({"dependencies": dict(dependencies)} if dependencies is not None else {}),
        **({"override": override} if override else {}),
    }


def find_ready(
    ledger: Records,
    dirs: StateDirs,
    *,
    name: str,
    version: str,
    target: Target,
    sha256: str,
    like: Mapping[str, object] | None = None,
    override: str = "",
    package: str | None = None,
) -> Ready | None:
    """The newest sound build of that release for that target, or None.

    ``sha256`` is the source archive's. ``like`` asks for equal values in the recorded request; another ``override`` made another
    package. What was built from local files is never the same as a release. ``package`` is what others know it by now: the suite
    may have taken its former name.
    """
    found = ledger.recent(limit=_LOOK_BACK, target=str(target), status=Status.BUILT.value, name=name, details=True)
    for record in found:
        source = record.request.get("source")
        if not isinstance(source, Mapping) or not source.get("url"):
            continue
        if source.get("sha256") != sha256:
            continue
        if record.request.get("override", "") != override:
            continue
        same_making = record.lxcbuild_version == __version__ and record.target == target and record.version == version
        if same_making and all(record.request.get(key) == value for key, value in (like or {}).items()):
            ready = sound(record, dirs)
            if ready is not None and (package is None or ready.has(package)):
                return ready
    return None


def dependencies_of(ready: Ready, ledger: Records, dirs: StateDirs) -> tuple[Ready, ...] | None:
    """The builds that an earlier build needs; None when one of them is gone, or nobody recorded them."""
    recorded = ready.record.request.get("dependencies")
    if not isinstance(recorded, Mapping):
        return None
    found = []
    for build_id in recorded.values():
        try:
            needed = sound(ledger.find(str(build_id)), dirs)
        except UnknownBuildError:
            return None
        if needed is None:
            return None
        found.append(needed)
    return tuple(found)


def sound(record: BuildRecord, dirs: StateDirs) -> Ready | None:
    """The build with its packages as the store has them; None when one is gone or is not what was sealed."""
    if not record.artifacts:
        return None
    kept = []
    for artifact in record.artifacts:
        # The recorded path may be that of the user's own directory, where anything may have happened since.
        path = dirs.artifacts / record.build_id / artifact.path.name
        if not path.is_file() or path.is_symlink() or sha256_of(path) != artifact.sha256:
            return None
        kept.append(replace(artifact, path=path))
    return Ready(record=record, artifacts=tuple(kept))
