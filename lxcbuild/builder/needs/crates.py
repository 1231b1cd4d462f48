"""Rust crates for one build: from its own archive, from Debian's packages, or from the administrator's registry.

:func:`relations` decides before the build layer is made, :func:`ensure_crates` has cargo try the decision in a sandbox on that
layer, or fetches. What cannot be had ends the build here, with the crates named; while it compiles, nothing is fetched.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from lxcbuild.builder.facts import Inspected, Provisioned
from lxcbuild.builder.failures import PhaseFailedError, fail
from lxcbuild.builder.jobs import result_bytes, run_job
from lxcbuild.builder.work import Work
from lxcbuild.config.cargo import CargoSettings, load_cargo_settings, settings_path
from lxcbuild.config.overrides import Patch
from lxcbuild.debian.source import cratejobs, crates
from lxcbuild.debian.source.crates import Crates, CrateSupply, LockedCrate, Supply
from lxcbuild.debian.steps import SOURCE, InsideJob
from lxcbuild.errors import DependencyError
from lxcbuild.files import sha256_of, write_whole
from lxcbuild.images.crates import CrateFile, CrateLayers, crates_key
from lxcbuild.images.image import Image
from lxcbuild.images.layer import Layer
from lxcbuild.model import FailureClass, Phase, Source
from lxcbuild.policy import NetworkMode, OutputLimits, Policy
from lxcbuild.sandbox.base import Bind, ExtractedFile

_PATCH = "crates-of-the-suite.patch"
_NAMED = 12
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_LIMITS = OutputLimits(max_files=1000, max_bytes=1024**3, max_file_bytes=256 * 1024**2, max_depth=1)


def relations(
    work: Work, project: Inspected, supply: CrateSupply | None, wanted: Sequence[str]
) -> tuple[tuple[str, ...], CrateSupply | None]:
    """``wanted`` with the chosen Rust in place of the usual one, and Debian's packages of crates behind.

    And how the build gets its crates, which is decided here where it was not before."""
    found = project.inspection.crates
    if not {"cargo", "rustc"}.intersection(wanted):
        return tuple(wanted), supply
    if supply is None:
        _require_rust(work, found)
        supply = _decide(work, project.resolved.image, found) if found else CrateSupply(supply=Supply.NONE)
    names = dict(zip(("rustc", "cargo"), _toolchain(work, found, supply), strict=True))
    return tuple(dict.fromkeys((*(names.get(item, item) for item in wanted), *supply.relations))), supply


def ensure_crates(work: Work, project: Inspected, provided: Provisioned) -> Provisioned:
    """On the finished build layer: make sure that cargo finds every crate, so that nothing is compiled in vain.

    Where Debian's crates turn out not to fit together, the lessons have another supply, and the layer has to be made again.
    """
    supply, found = provided.lessons.crates, project.inspection.crates
    if supply is None or found is None:
        return provided
    if supply.supply is Supply.FETCHED:
        return _with_fetched(work, project, found, provided)
    if supply.supply is Supply.SUITE and not supply.tried:
        supply = _try_suite(work, project, found, provided, supply)
        return replace(provided, lessons=replace(provided.lessons, crates=supply))
    return provided


def is_same_supply(first: CrateSupply | None, second: CrateSupply | None) -> bool:
    """Whether both get their crates from the same place, or neither has any."""
    return (first and first.supply) is (second and second.supply)


# -- before the layer -----------------------------------------------------------------------------------------------


def _candidates(work: Work) -> Mapping[str, str]:
    return work.archive.candidates([name for pair in crates.TOOLCHAINS for name in pair])


def _require_rust(work: Work, found: Crates | None) -> None:
    """A build whose own words exclude the newest Rust of the suite ends here."""
    chosen = crates.choose_toolchain(_candidates(work))
    # A lock file that is too new matters where it is used: Debian's crates are resolved without it.
    if chosen is None or found is None or found.optional or found.needed_rust <= chosen[1]:
        return
    raise fail(
        FailureClass.BUILD_DEP_MISSING,
        Phase.PROVISION,
        f"the project needs Rust {_dotted(found.needed_rust)}, and {work.request.target} has {_dotted(chosen[1])}",
        details=f"the newest of the suite is {chosen[0][0]}",
    )


def _toolchain(work: Work, found: Crates | None, supply: CrateSupply) -> tuple[str, str]:
    """The suite's own Rust for the suite's crates, where it is new enough; otherwise the newest there is."""
    enough = found.needed_rust if supply.supply is Supply.SUITE and found is not None else None
    chosen = crates.choose_toolchain(_candidates(work), enough=enough)
    return chosen[0] if chosen is not None else crates.TOOLCHAINS[0]  # apt says that there is none


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _decide(work: Work, image: Image, found: Crates) -> CrateSupply:
    if found.vendored is not None:
        work.note(f"the source archive brings its crates: {found.vendored}")
        return CrateSupply(supply=Supply.VENDORED)
    architecture = work.request.target.architecture
    wanted = crates.wanted_from_registry(found, architecture)
    if not wanted:
        return CrateSupply(supply=Supply.NONE)
    match = crates.match_suite(wanted, work.archive.candidates(crates.package_names(wanted)))
    if match.missing:
        shown = ", ".join(map(str, match.missing[:_NAMED])) + (" ..." if len(match.missing) > _NAMED else "")
        brief = f"{work.request.target} has no packages of the Rust crates {shown}"
        return _elsewhere(work, found, brief, "\n".join(map(str, match.missing)), missing=())
    impossible = _impossible(work, image, match.relations)
    if impossible is not None:
        brief = f"{work.request.target} has crates that cannot be installed"
        return _elsewhere(work, found, brief, impossible, missing=())
    for name, changes in sorted(match.relaxed.items()):
        for before, after in sorted(changes.items()):
            work.note(f"the crate {name} {before} is asked for: taken as {after}, which the suite has")
    return CrateSupply(
        supply=Supply.SUITE, relations=match.relations, relaxed=match.relaxed, dropped_lock=found.lock_path
    )


def _impossible(work: Work, image: Image, wanted: Sequence[str]) -> str | None:
    layers = work.context.layers
    try:
        layers.resolve(image, layers.base(image), work.archive, wanted)
    except DependencyError as error:
        return error.details or error.brief
    return None


def _elsewhere(work: Work, found: Crates, brief: str, details: str, *, missing: Sequence[str]) -> CrateSupply:
    """What is left when the suite does not have the crates: the registry, doing without, or the end."""
    if missing:
        brief = f"{brief}: {', '.join(missing)}"
    if not work.request.strict_debian and load_cargo_settings() is not None:
        work.note(f"{brief}: all crates are fetched from the registry")
        return CrateSupply(supply=Supply.FETCHED)
    if found.optional:
        work.note(f"{brief}: built without its Rust parts, which it calls optional", warning=True)
        return CrateSupply(supply=Supply.NONE)
    raise fail(
        FailureClass.BUILD_DEP_MISSING,
        Phase.PROVISION,
        brief,
        details=details,
        resolution="build without --strict-debian: the registry of crates that is configured may have them"
        if work.request.strict_debian
        else f"name a registry of crates in {settings_path()} (docs/how-to/rust-crates.md); or build from a source archive "
        "that carries its crates (cargo vendor)",
    )


# -- on the layer ---------------------------------------------------------------------------------------------------


def _try_suite(
    work: Work, project: Inspected, found: Crates, provided: Provisioned, supply: CrateSupply
) -> CrateSupply:
    """Let cargo resolve from Debian's crates; with the patch, or another supply where cargo says something against it."""
    job = cratejobs.suite_job(
        found,
        project.source.path.name,
        relaxed=supply.relaxed,
        architecture=work.request.target.architecture,
        patches=work.override.patches,
    )
    files = _run(work, project.source, provided.layer, job, work.policy)
    answer = cratejobs.parse_answer(result_bytes(files, cratejobs.RESULT))
    if answer.error is not None:
        brief = f"{work.request.target} has no set of crates that satisfies cargo"
        return _elsewhere(work, found, brief, answer.error, missing=cratejobs.crate_names(answer.error))
    patch = Patch(_PATCH, answer.patch) if answer.patch else None
    return replace(supply, patch=patch, tried=True)


def _run(
    work: Work, source: Source, layer: Layer, job: InsideJob, policy: Policy, *, binds: Sequence[Bind] = ()
) -> dict[str, ExtractedFile]:
    shown = Bind(host=source.path, inside=f"{SOURCE}/{source.path.name}")
    instance = work.open_sandbox(layer.lowers, binds=(shown, *binds), policy=policy)
    run_job(work, instance, job)
    destination = work.workspace / "crates"
    shutil.rmtree(destination, ignore_errors=True)
    instance.stop()
    files = {file.name: file for file in instance.extract("/out", destination, _LIMITS)}
    work.finish_sandbox()
    return files


# -- from the registry ----------------------------------------------------------------------------------------------


def _with_fetched(work: Work, project: Inspected, found: Crates, provided: Provisioned) -> Provisioned:
    """Put the crates of the lock file on top of the build layer, from the cache or from the registry."""
    settings = load_cargo_settings()
    assert settings is not None, "without a registry nothing is fetched"
    files = _from_cache(work, found) or _from_registry(work, project.source, provided.layer, found, settings)
    layers = CrateLayers(work.context.layers, work.context.backend, work.monitor)
    layer = work.using(layers.provide(project.resolved.image, provided.layer, files))
    digest = crates_key("", files)[:16]
    work.note(f"{len(files)} crates from the registry, set {digest}; the log has the list")
    for file in files:
        work.log.remark(f"crate from the registry: {file.name} {file.version} sha256:{file.sha256}")
    return replace(provided, layer=layer, registry_crates=tuple(files))


def _cache(work: Work, sha256: str) -> Path:
    return work.context.dirs.downloads / "crates" / sha256[:2] / f"{sha256}.crate"


def _from_cache(work: Work, found: Crates) -> list[CrateFile]:
    """All of them or none."""
    files = []
    for item in found.locked:
        if item.checksum is None or not (path := _cache(work, item.checksum)).is_file():
            return []
        files.append(CrateFile(name=item.name, version=item.version, sha256=item.checksum, path=path))
    return files


def _from_registry(work: Work, source: Source, layer: Layer, found: Crates, settings: CargoSettings) -> list[CrateFile]:
    policy = replace(work.policy, network=NetworkMode.PROXY, proxy_hosts=settings.proxy_hosts)
    certificates = _CERTIFICATES if _CERTIFICATES.is_file() else None
    job = cratejobs.fetch_job(
        found,
        source.path.name,
        registry=settings.registry,
        certificates=certificates is not None,
        patches=work.override.patches,
    )
    binds = (Bind(host=certificates, inside=cratejobs.CERTIFICATES),) if certificates is not None else ()
    try:
        extracted = _run(work, source, layer, job, policy, binds=binds)
    except PhaseFailedError as error:
        if error.failure.failure_class is not FailureClass.NETWORK_DENIED:
            raise
        raise _unfetched(work, error.failure.brief, error.failure.details or "") from None
    answer = cratejobs.parse_answer(result_bytes(extracted, cratejobs.RESULT))
    if answer.error is not None:
        raise _unfetched(work, cratejobs.first_error(answer.error), answer.error)
    # Where the archive has a lock file, its checksums decide, read before anything could change it.
    stated = {(item.name, item.version): item for item in (*answer.locked, *found.locked)}
    absent = [item for item in found.locked if not _is_there(item, extracted)]
    if absent:
        names = ", ".join(f"{item.name} {item.version}" for item in absent[:_NAMED])
        raise _unfetched(work, f"cargo left out {names}", "")
    return [_accept(work, item, extracted) for item in stated.values() if _is_there(item, extracted)]


def _is_there(item: LockedCrate, extracted: dict[str, ExtractedFile]) -> bool:
    return f"{item.name}-{item.version}.crate" in extracted


def _unfetched(work: Work, why: str, details: str) -> PhaseFailedError:
    return fail(
        FailureClass.BUILD_DEP_MISSING,
        work.phase,
        f"crates cannot be fetched from the registry: {why}"[:400],
        details=details,
        resolution=f"look at registry and hosts in {settings_path()}; crates that come from repositories cannot be fetched",
    )


def _accept(work: Work, item: LockedCrate, extracted: dict[str, ExtractedFile]) -> CrateFile:
    """Hash the file here, whatever was said inside, and keep it under its hash."""
    file = extracted[f"{item.name}-{item.version}.crate"]
    sha256 = sha256_of(file.path)
    if item.checksum is not None and sha256 != item.checksum:
        raise _unfetched(
            work, f"{item.name} {item.version} is not what Cargo.lock says", f"{item.checksum} and not {sha256}"
        )
    kept = _cache(work, sha256)
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with file.path.open("rb") as content:
            write_whole(kept, content, durable=False)
    return CrateFile(name=item.name, version=item.version, sha256=sha256, path=kept)
