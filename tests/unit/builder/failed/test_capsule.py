"""Capsules: what was saved is what is read, and nothing that a stranger wrote into one leaves its place."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from lxcbuild.builder.failed import capsule
from lxcbuild.builder.failed.failedstate import FailedState, KeptBind, KeptCommand
from lxcbuild.errors import ExtractionError, InputError, StateGoneError
from lxcbuild.policy import MemoryLimits, NetworkMode
from lxcbuild.state.paths import StateDirs
from tests.support.capsules import GIB, KEY, POLICY, keep, state

Members = dict[str, bytes]


@pytest.fixture
def saved(fresh_state: StateDirs, tmp_path: Path) -> Path:
    kept = state()
    keep(fresh_state, kept)
    log = tmp_path / "x.log"
    log.write_text("=== compile ===\nit broke\n")
    return capsule.save(fresh_state, kept.build_id, tmp_path, record={"id": kept.build_id}, log=log)


def members_of(path: Path) -> Members:
    with tarfile.open(path) as tar:
        found = {}
        for info in tar:
            content = tar.extractfile(info)
            assert content is not None
            found[info.name] = content.read()
        return found


def rewrite(path: Path, members: Members, *, manifest: Callable[[dict[str, Any]], None] | None = None) -> None:
    """A capsule of these members, whose capsule.json is honest unless ``manifest`` changes it."""
    own = {name: data for name, data in members.items() if name != capsule.MANIFEST}
    described = [{"name": n, "sha256": hashlib.sha256(d).hexdigest(), "bytes": len(d)} for n, d in own.items()]
    document: dict[str, Any] = {"format": 1, "lxcbuild": "0", "slim": False, "members": described}
    if manifest is not None:
        manifest(document)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in {capsule.MANIFEST: json.dumps(document).encode(), **own}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def refused(dirs: StateDirs, path: Path) -> str:
    with pytest.raises(ExtractionError) as caught, capsule.read(dirs, path):
        pass
    assert not list((dirs.lib / "work").iterdir())
    return caught.value.brief


def test_what_was_saved_is_what_is_read(fresh_state: StateDirs, saved: Path) -> None:
    assert saved.name == "some-project_1.0_20261121-010203-0001aabbcc.capsule"
    with capsule.read(fresh_state, saved) as found:
        assert found.state == state()
        assert not found.slim
        assert (found.place / "log").read_text() == "=== compile ===\nit broke\n"
        assert (found.place / "binds/0/some-1.0.tar.gz").read_bytes() == b"source"
        assert (found.place / "lowers/0.tar.zst").read_bytes() == b"layer"
        assert found.place.stat().st_mode & 0o777 == 0o700
        place = found.place
    assert not place.exists()


def test_a_slim_one_has_no_images(fresh_state: StateDirs, tmp_path: Path) -> None:
    keep(fresh_state, state())
    path = capsule.save(fresh_state, state().build_id, tmp_path / "s.capsule", record={}, log=None, slim=True)
    with capsule.read(fresh_state, path) as found:
        assert found.slim
        assert not any(name.startswith("lowers") for name in found.members)


def test_saving_says_when_the_image_is_gone(fresh_state: StateDirs, tmp_path: Path) -> None:
    keep(fresh_state, state())
    (fresh_state.images / "layers" / f"{KEY[:16]}.tar.zst").unlink()
    with pytest.raises(StateGoneError, match="is gone"):
        capsule.save(fresh_state, state().build_id, tmp_path, record={}, log=None)
    assert list(tmp_path.glob("*.capsule")) == []


def test_a_file_that_is_not_there_is_the_users_mistake(fresh_state: StateDirs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"), capsule.read(fresh_state, tmp_path / "no.capsule"):
        pass


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "binds/0/../../evil", "binds/0/.hidden", "lowers/x", "state.json/x", "other"]
)
def test_members_have_names_of_a_fixed_form(fresh_state: StateDirs, saved: Path, name: str) -> None:
    rewrite(saved, {**members_of(saved), name: b"evil"})
    assert "names an invalid member" in refused(fresh_state, saved)


def test_a_changed_byte_is_found(fresh_state: StateDirs, saved: Path) -> None:
    data = saved.read_bytes()
    at = data.index(b"it broke\n")
    saved.write_bytes(data[:at] + b"X" + data[at + 1 :])
    assert "damaged" in refused(fresh_state, saved) or "not what" in refused(fresh_state, saved)


def test_links_are_no_members(fresh_state: StateDirs, saved: Path) -> None:
    info = tarfile.TarInfo("log")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/shadow"
    with tarfile.open(saved, "w") as tar:
        tar.addfile(info)
    assert "something other than plain files" in refused(fresh_state, saved)


@pytest.mark.parametrize("cut", [0, 100, 700, 3000])
def test_an_incomplete_one_is_refused(fresh_state: StateDirs, saved: Path, cut: int) -> None:
    saved.write_bytes(saved.read_bytes()[:cut])
    assert refused(fresh_state, saved)


def test_sizes_are_those_of_the_manifest(fresh_state: StateDirs, saved: Path) -> None:
    def lie(document: dict[str, Any]) -> None:
        document["members"][0]["bytes"] += 1

    rewrite(saved, members_of(saved), manifest=lie)
    assert "does not match capsule.json" in refused(fresh_state, saved)


@pytest.mark.parametrize("size", [-1, float("inf"), float("nan"), "9" * 5000, None, [1]])
def test_sizes_that_are_none_are_refused(fresh_state: StateDirs, saved: Path, size: object) -> None:
    def lie(document: dict[str, Any]) -> None:
        document["members"][0]["bytes"] = size

    rewrite(saved, members_of(saved), manifest=lie)
    assert refused(fresh_state, saved)


def test_another_format_is_said(fresh_state: StateDirs, saved: Path) -> None:
    rewrite(saved, members_of(saved), manifest=lambda document: document.update(format=2))
    assert "format 2" in refused(fresh_state, saved)


def shown(**fields: object) -> tuple[KeptBind, ...]:
    return (replace(state().binds[0], **fields),)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        replace(state(), binds=shown(inside="/usr/bin")),
        replace(state(), binds=shown(inside="/in/../usr")),
        replace(state(), binds=shown(name="../../..", directory=True, files=())),
        replace(state(), binds=shown(files=("some-1.0.tar.gz", "../../../etc/shadow"))),
        replace(state(), command=KeptCommand(argv=())),
        replace(state(), command=KeptCommand(argv=("x",), env={"A;B": ""})),
        replace(state(), command=KeptCommand(argv=("x",), cwd="relative")),
        replace(state(), lowers=()),
        replace(state(), lowers=(replace(state().lowers[0], key="../../../etc"),)),
        replace(state(), lowers=(replace(state().lowers[0], unpacked_bytes=1 << 60),)),
        replace(state(), upper_bytes=-1),
    ],
)
def test_documents_that_make_no_sense_are_refused(fresh_state: StateDirs, saved: Path, changed: FailedState) -> None:
    rewrite(saved, {**members_of(saved), "state.json": changed.to_json()})
    assert "makes no sense" in refused(fresh_state, saved)


def test_hostile_json_is_refused(fresh_state: StateDirs, saved: Path) -> None:
    for document in (b"[" * 100_000, b"{}", b"\xff", b'{"build_id": 1}'):
        rewrite(saved, {**members_of(saved), "state.json": document})
        assert "cannot be read" in refused(fresh_state, saved)


def test_limits_of_a_stranger_are_never_wider_than_ours() -> None:
    ours = replace(POLICY, pids_max=100, network=NetworkMode.NONE)
    theirs = replace(
        POLICY,
        memory=MemoryLimits(max_bytes=1 << 50),
        pids_max=10**6,
        network=NetworkMode.PROXY,
        proxy_hosts=("evil.example",),
        seccomp="none",
        best_effort=frozenset({"*"}),
    )
    found = capsule.narrowed(theirs, ours)
    assert (found.memory.max_bytes, found.pids_max, found.network) == (GIB, 100, NetworkMode.NONE)
    assert (found.seccomp, found.proxy_hosts, found.best_effort) == (ours.seccomp, (), ours.best_effort)
    tight = replace(POLICY, pids_max=40, network=NetworkMode.LOOPBACK, memory=MemoryLimits(max_bytes=-5))
    found = capsule.narrowed(tight, ours)
    assert (found.pids_max, found.network) == (40, NetworkMode.LOOPBACK)
    assert found.memory.max_bytes >= 1 << 20
