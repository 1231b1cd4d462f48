"""The provenance document beside every package: what it was made of, by whom and under which limits.

The fields are those of an in-toto statement with SLSA's provenance predicate, version 1; docs/reference/provenance.md describes
them. Everything but ``runDetails`` follows from the inputs, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from lxcbuild import __version__
from lxcbuild.builder.facts import Compiled, Laid, LaidPackage, Provisioned
from lxcbuild.builder.work import Work
from lxcbuild.config.seccomp_profiles import load_seccomp
from lxcbuild.files import sha256_of, write_whole
from lxcbuild.images.image import Image
from lxcbuild.images.layer import LayerRecord
from lxcbuild.images.wheels import describe
from lxcbuild.model import Source
from lxcbuild.sandbox.base import ExtractedFile

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:lxcbuild:build:1"
BUILDER_ID = "urn:lxcbuild:builder"
SUFFIX = ".provenance.json"
_NO_PROFILE = "none"


def add(work: Work, laid: Laid | LaidPackage, compiled: Compiled) -> ExtractedFile:
    """Write the document beside the sealed files."""
    path = compiled.directory / file_name(laid)
    data = (json.dumps(document(work, laid, compiled), indent=1, sort_keys=True) + "\n").encode()
    write_whole(path, data, durable=False)
    return ExtractedFile(name=path.name, path=path, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def file_name(laid: Laid | LaidPackage) -> str:
    """``<source>_<version>_<architecture>.provenance.json``; the version without its epoch, as in all file names."""
    if isinstance(laid, LaidPackage):
        source, version = laid.project.package.source, laid.project.package.version
    else:
        source, version = laid.plan.source, laid.plan.debian_version
    return f"{source}_{version.rpartition(':')[2]}_{laid.project.resolved.image.target.architecture}{SUFFIX}"


def document(work: Work, laid: Laid | LaidPackage, compiled: Compiled) -> dict[str, object]:
    """The statement about what was compiled."""
    subjects = sorted((item.name, item.sha256) for item in compiled.files)
    layers = work.context.layers.records(laid.provided.layer)  # that the build stood on, the lowest first
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": _external(work),
                "internalParameters": _internal(work, laid),
                "resolvedDependencies": [
                    *_source(laid.project.source),
                    *_image(laid.project.resolved.image),
                    *_packages(layers),
                    *_wheels(laid.provided),
                    *_crates(laid.provided),
                ],
            },
            "runDetails": _run(work, layers),
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


def _internal(work: Work, laid: Laid | LaidPackage) -> dict[str, object]:
    """What was decided: how it was converted, and the limits that were asked for."""
    policy = work.policy
    return {
        "converter": laid.plan.converter.value if isinstance(laid, Laid) else None,
        "build_depends": sorted(laid.provided.build_relations),
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


def _source(source: Source) -> Iterator[dict[str, object]]:
    yield {
        "name": source.path.name,
        "digest": {"sha256": source.sha256},
        **({"uri": source.url} if source.url else {}),
        "annotations": {"kind": "source"},
    }
    for path in source.extra_files:
        yield {"name": path.name, "digest": {"sha256": sha256_of(path)}, "annotations": {"kind": "source"}}


def _image(image: Image) -> Iterator[dict[str, object]]:
    yield {"name": image.name, "digest": {"sha256": image.digest}, "annotations": {"kind": "image"}}


def _packages(layers: Sequence[LayerRecord]) -> Iterator[dict[str, object]]:
    """Every package of the suite that was installed on the image."""
    for record in layers:
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


def _wheels(provided: Provisioned) -> Iterator[dict[str, object]]:
    told = {c.file.filename: describe(c) for chosen in provided.index_wheels.values() for c in chosen}
    for _, item in sorted(told.items()):
        yield {
            "name": item["filename"],
            "digest": {"sha256": item["sha256"]},
            "uri": item["url"],
            "annotations": {"kind": "index", "project": item["name"], "version": item["version"]},
        }


def _crates(provided: Provisioned) -> Iterator[dict[str, object]]:
    for file in sorted(provided.registry_crates):
        yield {
            "name": f"{file.stem}.crate",
            "digest": {"sha256": file.sha256},
            "annotations": {"kind": "crate", "project": file.name, "version": file.version},
        }


# -- this run -------------------------------------------------------------------------------------------------------


def _run(work: Work, layers: Sequence[LayerRecord]) -> dict[str, object]:
    """All that differs between two runs with the same inputs."""
    return {
        "builder": {"id": BUILDER_ID, "version": {"lxcbuild": __version__}},
        "metadata": {
            "invocationId": work.build_id,
            "startedOn": _moment(work.phases[0].started_at if work.phases else None),
            "finishedOn": _moment(None),
        },
        "byproducts": [
            {"name": "layers", "content": {record.key: record.digest for record in layers}},
            {"name": "limits-in-force", "content": dict(work.limits_in_force)},
            {"name": "checks", "content": work.checks},
            {"name": "notes", "content": list(work.notes)},
        ],
    }


def _moment(text: str | None) -> str:
    moment = datetime.now(UTC) if text is None else datetime.fromisoformat(text)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
