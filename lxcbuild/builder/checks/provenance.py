"""The provenance document beside every package: what it was made of, by whom and under which limits.

The fields are those of an in-toto statement with SLSA's provenance predicate, version 1; docs/reference/provenance.md describes
them. Everything but ``runDetails`` follows from the inputs, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from lxcbuild import __version__
from lxcbuild.builder.work import Work
from lxcbuild.config.seccomp_profiles import load_seccomp
from lxcbuild.files import sha256_of, write_whole
from lxcbuild.images.layer import LayerRecord
from lxcbuild.images.wheels import describe
from lxcbuild.sandbox.base import ExtractedFile

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:lxcbuild:build:1"
BUILDER_ID = "urn:lxcbuild:builder"
SUFFIX = ".provenance.json"
_NO_PROFILE = "none"


def add(work: Work) -> None:
    """Write the document beside the sealed files and count it among them."""
    assert work.built is not None
    path = work.built / file_name(work)
    data = (json.dumps(document(work), indent=1, sort_keys=True) + "\n").encode()
    write_whole(path, data, durable=False)
    work.sealed.append(
        ExtractedFile(name=path.name, path=path, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
    )


def file_name(work: Work) -> str:
    """``<source>_<version>_<architecture>.provenance.json``; the version without its epoch, as in all file names."""
    if work.source_package is not None:
        source, version = work.source_package.source, work.source_package.version
    else:
        assert work.conversion is not None
        source, version = work.conversion.source, work.conversion.debian_version
    return f"{source}_{version.rpartition(':')[2]}_{work.request.target.architecture}{SUFFIX}"


def document(work: Work) -> dict[str, object]:
    """The statement about ``work.sealed``."""
    subjects = sorted((item.name, item.sha256) for item in work.sealed)
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": _external(work),
                "internalParameters": _internal(work),
                "resolvedDependencies": [
                    *_source(work),
                    *_image(work),
                    *_packages(work),
                    *_wheels(work),
                    *_crates(work),
                ],
            },
            "runDetails": _run(work),
        },
    }


def _external(work: Work) -> dict[str, object]:
    """What the user asked for."""
    request = work.request
    return {
        "requirement": request.requirement,
        "kind": request.kind.value,
        "target": str(request.target),
        "architecture": request.target.architecture,
        "converter": request.converter.value,
        "maintainer": request.maintainer,
        "strict_debian": request.strict_debian,
        "override": work.override.digest,
    }


def _internal(work: Work) -> dict[str, object]:
    """What was decided: how it was converted, and the limits that were asked for."""
    policy = work.policy
    return {
        "converter": None if work.source_package is not None else work.converter.value,
        "build_depends": sorted(work.build_relations),
        "policy": msgspec.to_builtins(policy, order="deterministic"),
        "seccomp": {"profile": policy.seccomp, "sha256": seccomp_digest(policy.seccomp)},
    }


def seccomp_digest(name: str) -> str | None:
    """SHA-256 of what the profile says of every system call, however its files are laid out; None where there is none."""
    if name == _NO_PROFILE:
        return None
    profile = load_seccomp(name)
    calls = {
        call: answer if isinstance(answer, str) else msgspec.to_builtins(answer)
        for call, answer in profile.calls.items()
    }
    text = json.dumps([profile.otherwise, calls, dict(profile.first)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# -- what it was made of --------------------------------------------------------------------------------------------


def _source(work: Work) -> Iterator[dict[str, object]]:
    source = work.source
    assert source is not None
    yield {
        "name": source.path.name,
        "digest": {"sha256": source.sha256},
        **({"uri": source.url} if source.url else {}),
        "annotations": {"kind": "source"},
    }
    for path in source.extra_files:
        yield {"name": path.name, "digest": {"sha256": sha256_of(path)}, "annotations": {"kind": "source"}}


def _image(work: Work) -> Iterator[dict[str, object]]:
    assert work.image is not None
    yield {"name": work.image.name, "digest": {"sha256": work.image.digest}, "annotations": {"kind": "image"}}


def _packages(work: Work) -> Iterator[dict[str, object]]:
    """Every package of the suite that was installed on the image."""
    for record in _layers(work):
        for package in record.installed:
            yield {
                "name": package["name"],
                "digest": {"sha256": package["sha256"]},
                **({"uri": package["uri"]} if package.get("uri") else {}),
                "annotations": {
                    "kind": "deb",
                    "version": package["version"],
                    "architecture": package["architecture"],
                },
            }


def _layers(work: Work) -> tuple[LayerRecord, ...]:
    """The layers that the build stood on, the lowest first."""
    assert work.layer is not None
    return work.context.layers.records(work.layer)


def _wheels(work: Work) -> Iterator[dict[str, object]]:
    told = {c.file.filename: describe(c) for chosen in work.index_wheels.values() for c in chosen}
    for _, item in sorted(told.items()):
        yield {
            "name": item["filename"],
            "digest": {"sha256": item["sha256"]},
            "uri": item["url"],
            "annotations": {"kind": "index", "project": item["name"], "version": item["version"]},
        }


def _crates(work: Work) -> Iterator[dict[str, object]]:
    for file in sorted(work.registry_crates):
        yield {
            "name": f"{file.stem}.crate",
            "digest": {"sha256": file.sha256},
            "annotations": {"kind": "crate", "project": file.name, "version": file.version},
        }


# -- this run -------------------------------------------------------------------------------------------------------


def _run(work: Work) -> dict[str, object]:
    """All that differs between two runs with the same inputs."""
    return {
        "builder": {"id": BUILDER_ID, "version": {"lxcbuild": __version__}},
        "metadata": {
            "invocationId": work.build_id,
            "startedOn": _moment(work.phases[0].started_at if work.phases else None),
            "finishedOn": _moment(None),
        },
        "byproducts": [
            {"name": "layers", "content": {record.key: record.digest for record in _layers(work)}},
            {"name": "limits-in-force", "content": dict(work.limits_in_force)},
            {"name": "checks", "content": work.checks},
            {"name": "notes", "content": list(work.notes)},
        ],
    }


def _moment(text: str | None) -> str:
    moment = datetime.now(UTC) if text is None else datetime.fromisoformat(text)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
