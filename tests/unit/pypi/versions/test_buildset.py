"""Wheels for a target that is not this machine, and the set of releases that build requirements mean there."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from lxcbuild.debian.relations import TargetPython
from lxcbuild.errors import BrokenSdistError, DependencyError
from lxcbuild.images.wheels import wheels_key
from lxcbuild.pypi.files.wheels import best_wheel, read_wheel_metadata, target_tags
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.pypi.index.model import IndexFile
from lxcbuild.pypi.versions.buildset import Chosen, TargetEnvironment, resolve_build_set
from tests.support.index_server import File, Index

BOOKWORM = target_tags(python_version="3.11.2", machine="x86_64", glibc=(2, 36))


def target(python: str = "3.11.2", machine: str = "amd64", glibc: tuple[int, int] = (2, 36)) -> TargetEnvironment:
    markers = TargetPython(python, machine).environment()
    tags = target_tags(python_version=python, machine=markers["platform_machine"], glibc=glibc)
    return TargetEnvironment(markers=markers, tags=tags)


def metadata(name: str, version: str, *requires: str) -> bytes:
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    return ("\n".join(lines) + "\n\nRequires-Dist: not-this-one\n").encode()


def wheel(name: str, version: str, *requires: str, tag: str = "py3-none-any", alone: bool = False) -> File:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", metadata(name, version, *requires))
        archive.writestr(f"{name}/__init__.py", "")
    offered = metadata(name, version, *requires) if alone else None
    return File(f"{name}-{version}-{tag}.whl", buffer.getvalue(), metadata=offered)


def no_sdists(file: IndexFile) -> Path:
    raise AssertionError(f"{file.filename} must not be built")


def resolve(
    client: IndexClient, *requirements: str, where: TargetEnvironment | None = None, **rest: object
) -> list[str]:
    found = resolve_build_set(
        requirements,
        index=client,
        target=where or target(),
        **{"make_wheel": no_sdists, **rest},  # type: ignore[arg-type]
    )
    return [f"{chosen.name} {chosen.version}" for chosen in found]


# -- wheels that fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp311-cp311-manylinux_2_36_x86_64", True),
        ("cp311-cp311-manylinux_2_37_x86_64", False),
        ("cp311-cp311-manylinux2014_x86_64", True),
        ("cp311-cp311-manylinux1_x86_64", True),
        ("cp37-abi3-manylinux_2_17_x86_64", True),
        ("cp312-abi3-manylinux_2_17_x86_64", False),
        ("cp312-cp312-manylinux_2_17_x86_64", False),
        ("py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
        ("cp311-cp311-manylinux_2_17_aarch64", False),
        ("cp311-cp311-macosx_11_0_arm64", False),
    ],
)
def test_a_wheel_fits_by_python_abi_machine_and_c_library(tag: str, fits: bool) -> None:
    assert (best_wheel([IndexFile(filename=f"x-1-{tag}.whl", url="")], BOOKWORM) is not None) is fits


def test_without_a_known_c_library_only_pure_wheels_fit() -> None:
    tags = target_tags(python_version="3.11", machine="x86_64", glibc=None)
    assert best_wheel([IndexFile(filename="x-1-py3-none-manylinux_2_17_x86_64.whl", url="")], tags) is None
    assert best_wheel([IndexFile(filename="x-1-py3-none-any.whl", url="")], tags) is not None


def test_the_most_specific_wheel_is_taken() -> None:
    names = [
        "x-1-py3-none-any.whl",
        "x-1-cp311-cp311-manylinux_2_17_x86_64.whl",
        "x-1-cp37-abi3-manylinux_2_17_x86_64.whl",
    ]
    best = best_wheel([IndexFile(filename=name, url="") for name in names], BOOKWORM)
    assert best is not None
    assert best.filename == names[1]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"\x00" * 100])
def test_what_is_no_wheel_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x-1-py3-none-any.whl"
    path.write_bytes(content)
    with pytest.raises(BrokenSdistError):
        read_wheel_metadata(path)


def test_metadata_is_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x-1.dist-info/METADATA", "Name: x\nVersion: 1\n\n" + "a" * (5 * 1024 * 1024))
    with pytest.raises(BrokenSdistError, match="longer"):
        read_wheel_metadata(path)


# -- sets of releases ------------------------------------------------------------------------------------------------


def test_requirements_of_requirements_are_chosen_too(index: Index, client: IndexClient) -> None:
    index.add(
        "backend", wheel("backend", "1.0", "helper<1"), wheel("backend", "2.0", "helper>=2", "old; python_version<'3'")
    )
    index.add("helper", wheel("helper", "0.9"), wheel("helper", "2.5"), wheel("helper", "3.0b1"))
    assert resolve(client, "backend>=1.5") == ["backend 2.0", "helper 2.5"]


def test_versions_are_given_up_where_they_do_not_go_together(index: Index, client: IndexClient) -> None:
    index.add("backend", wheel("backend", "1.0", "helper"), wheel("backend", "2.0", "helper>=2"))
    index.add("helper", wheel("helper", "1.0"), wheel("helper", "2.0"))
    assert resolve(client, "backend", constraints=["helper<2", "unused>=7"]) == ["backend 1.0", "helper 1.0"]


def test_extras_are_followed(index: Index, client: IndexClient) -> None:
    index.add("backend", wheel("backend", "1.0", "toml-reader; extra == 'toml'", "never; extra == 'other'"))
    index.add("toml-reader", wheel("toml_reader", "1.1"))
    assert resolve(client, "Backend[toml]") == ["backend 1.0", "toml-reader 1.1"]


def test_a_wheel_of_an_older_release_is_better_than_building_one(index: Index, client: IndexClient) -> None:
    index.add("backend", wheel("backend", "1.0"), File("backend-2.0.tar.gz", b"sdist"))
    assert resolve(client, "backend") == ["backend 1.0"]


def test_a_source_archive_is_built_where_no_wheel_satisfies(index: Index, client: IndexClient, tmp_path: Path) -> None:
    index.add("backend", wheel("backend", "1.0"), File("backend-2.0.tar.gz", b"sdist"))
    made = tmp_path / "backend-2.0-py3-none-any.whl"
    made.write_bytes(wheel("backend", "2.0", "helper").data)
    index.add("helper", wheel("helper", "1.0"))
    asked: list[str] = []

    def make(file: IndexFile) -> Path:
        asked.append(file.filename)
        return made

    assert resolve(client, "backend>=2", make_wheel=make) == ["backend 2.0", "helper 1.0"]
    assert asked == ["backend-2.0.tar.gz"]


def test_releases_for_another_python_are_passed_over(index: Index, client: IndexClient) -> None:
    newer = wheel("backend", "2.0")
    newer.requires_python = ">=3.13"
    index.add("backend", wheel("backend", "1.0"), newer)
    assert resolve(client, "backend") == ["backend 1.0"]
    assert resolve(client, "backend", where=target("3.13.5", glibc=(2, 41))) == ["backend 2.0"]


def test_metadata_alone_spares_downloads(index: Index, client: IndexClient) -> None:
    index.add("backend", wheel("backend", "2.0", "helper>=9", alone=True), wheel("backend", "1.0", alone=True))
    index.add("helper", wheel("helper", "1.0"))
    assert resolve(client, "backend") == ["backend 1.0"]
    assert not any("backend-2.0" in path and path.endswith(".whl") for path in index.paths())


def test_what_cannot_be_satisfied_says_who_asked(index: Index, client: IndexClient) -> None:
    index.add("backend", wheel("backend", "1.0", "helper>=9"))
    index.add("helper", wheel("helper", "1.0"))
    with pytest.raises(DependencyError) as caught:
        resolve(client, "backend")
    assert "helper>=9 (asked for by backend 1.0)" in (caught.value.details or "")


def test_a_wheel_that_is_another_release_is_refused(index: Index, client: IndexClient) -> None:
    liar = wheel("other", "1.0")
    liar.name = "backend-1.0-py3-none-any.whl"
    index.add("backend", liar)
    with pytest.raises(DependencyError, match="says that it is other"):
        resolve(client, "backend")


# -- keys ------------------------------------------------------------------------------------------------------------


def chosen(name: str, version: str = "1", sha256: str = "00") -> Chosen:
    file = IndexFile(filename=f"{name}-{version}.whl", url="", hashes={"sha256": sha256})
    return Chosen(name=name, version=version, file=file, wheel=Path("/nowhere"))


def test_a_layers_key_depends_on_content_and_not_on_order() -> None:
    key = wheels_key("parent", {"3.11": [chosen("a"), chosen("b")]})
    assert key == wheels_key("parent", {"3.11": [chosen("b"), chosen("a")]})
    others = [
        wheels_key("other", {"3.11": [chosen("a"), chosen("b")]}),
        wheels_key("parent", {"3.12": [chosen("a"), chosen("b")]}),
        wheels_key("parent", {"3.11": [chosen("a"), chosen("b", "2")]}),
        wheels_key("parent", {"3.11": [chosen("a"), chosen("b", sha256="01")]}),
        wheels_key("parent", {"3.11": [chosen("a")]}),
    ]
    assert len({key, *others}) == 6
