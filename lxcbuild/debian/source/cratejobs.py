"""The steps in which cargo resolves or fetches crates in a sandbox, what comes back, and the configuration that builds get."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from lxcbuild.config.overrides import Patch
from lxcbuild.debian import documents, steps
from lxcbuild.debian.documents import DocumentError
from lxcbuild.debian.source.crates import SUITE_REGISTRY, Crates, LockedCrate, parse_locked, rust_architecture
from lxcbuild.debian.steps import InsideJob

RESULT = "crates.json"
#: Where the host's certificates are inside, for registries behind TLS.
CERTIFICATES = "/in/certificates.crt"
_MISSING = (
    re.compile(r"no matching package (?:named )?`([\w-]{1,64})`"),
    re.compile(r"failed to select a version for (?:the requirement )?`([\w-]{1,64})"),
    re.compile(r"no matching versions for `([\w-]{1,64})`"),
    re.compile(r"package `[^`]{1,200}` depends on `([\w-]{1,64})`, with features"),
)


class CratesAnswer(Struct, frozen=True, kw_only=True):
    """What cargo said: an error, or a patch of the manifests, or the crates of the lock file."""

    error: str | None = None
    patch: str | None = None
    locked: tuple[LockedCrate, ...] = ()


def suite_job(
    found: Crates,
    archive_name: str,
    *,
    relaxed: Mapping[str, Mapping[str, str]],
    architecture: str,
    patches: Sequence[Patch] = (),
) -> InsideJob:
    """Make the manifests ask for what the suite has, and let cargo resolve them from its directory."""
    asked = {
        "mode": "suite",
        "relaxed": {name: dict(changes) for name, changes in relaxed.items()},
        "machine": rust_architecture(architecture),
        "config": configuration(SUITE_REGISTRY),
    }
    return _job(found, archive_name, asked, patches)


def fetch_job(
    found: Crates, archive_name: str, *, registry: str, certificates: bool, patches: Sequence[Patch] = ()
) -> InsideJob:
    """Let cargo vendor from the registry, through the sandbox's proxy; the files of the crates go to /out."""
    config = (
        '[source.crates-io]\nreplace-with = "configured"\n\n'
        f'[source.configured]\nregistry = "{registry}"\n\n[http]\nmultiplexing = false\n'
    )
    if certificates:
        config += f'cainfo = "{CERTIFICATES}"\n'
    # Any host name may be the proxy's to reach, this machine's own included: its list of hosts decides.
    env = {"no_proxy": "", "NO_PROXY": ""}
    return _job(found, archive_name, {"mode": "fetch", "config": config}, patches, env=env)


def _job(
    found: Crates,
    archive_name: str,
    asked: Mapping[str, object],
    patches: Sequence[Patch],
    *,
    env: Mapping[str, str] | None = None,
) -> InsideJob:
    complete = {
        **asked,
        "archive": f"{steps.SOURCE}/{archive_name}",
        "tree": steps.SOURCE_TREE,
        "manifests": list(found.manifests),
        "roots": list(found.roots),
        "lock_path": found.lock_path,
    }
    files = {**steps.request(complete), **steps.patch_files(patches)}
    return InsideJob(files=files, steps=(steps.python_step("crates.prepare_crates", env=env),), results=(RESULT,))


def configuration(registry: str) -> str:
    """cargo's configuration of a build: all crates from that directory, and no network."""
    return (
        '[source.crates-io]\nreplace-with = "provided"\n\n'
        f'[source.provided]\ndirectory = "{registry}"\n\n[net]\noffline = true\n'
    )


def parse_answer(data: bytes) -> CratesAnswer:
    """Check what came back; an answer that is not one counts as an error."""
    try:
        reader = documents.load(data)
        failure = reader.table("failure")
        if failure is not None:
            return CratesAnswer(error=failure.line("brief", limit=2000) or "cargo could not be asked")
        return CratesAnswer(
            error=reader.text("error", limit=8000),
            patch=reader.text("patch", limit=2_000_000),
            locked=parse_locked(reader.tables("crates", count=4000)),
        )
    except DocumentError as problem:
        return CratesAnswer(error=f"what cargo left is unusable: {problem}")


def crate_names(said: str) -> tuple[str, ...]:
    """The crates that cargo's error says are not there or not fitting."""
    return tuple(dict.fromkeys(match for pattern in _MISSING for match in pattern.findall(said)))[:10]


def first_error(said: str) -> str:
    """The line of cargo's error that says most."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error")), lines[-1] if lines else "no reason was given")[
        :300
    ]
