"""Local sources: sdists and project directories, packed without following or reading what they should not."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from lxcbuild import process
from lxcbuild.errors import InputError, WrongHashError
from lxcbuild.model import Source, SourceKind
from lxcbuild.pypi.files.local import copy_into_cache, from_path
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.pypi.index.config import PipConfig
from lxcbuild.state.paths import StateDirs


def names(source: Source) -> list[str]:
    with tarfile.open(source.path) as archive:
        return archive.getnames()


def git(tree: Path, *arguments: str) -> None:
    process.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.invalid", "-C", tree, *arguments])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "My.Project"
    for name in ("pyproject.toml", "src/mine/__init__.py", "build.log", "src/mine/__pycache__/x.pyc"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / ".gitignore").write_text("*.log\n__pycache__/\n")
    return root


def test_sdist_is_copied_and_named_after_its_file(tmp_path: Path, fresh_state: StateDirs) -> None:
    path = tmp_path / "My_Pkg-1.0rc1.tar.gz"
    path.write_bytes(b"anything")
    source = from_path(path, fresh_state)
    assert (source.kind, source.name, source.version) == (SourceKind.SDIST, "my-pkg", "1.0rc1")
    assert source.sha256 == hashlib.sha256(b"anything").hexdigest()
    assert source.path.read_bytes() == b"anything"
    assert source.path.name == path.name
    assert list((fresh_state.downloads / "partial").iterdir()) == []


def test_a_file_that_is_not_the_described_one_never_enters_the_cache(tmp_path: Path, fresh_state: StateDirs) -> None:
    secret, link = tmp_path / "secret", tmp_path / "x.tar.gz"
    secret.write_bytes(b"for root only")
    link.symlink_to(secret)
    right = hashlib.sha256(b"for root only").hexdigest()
    for described in (("0" * 64, 13), (right, 12), (right, 14), (right, 0)):
        with pytest.raises(WrongHashError):
            copy_into_cache(link, fresh_state, name="x.tar.gz", expected=described)
    assert [path for path in fresh_state.downloads.rglob("*") if path.is_file()] == []
    place, digest, size = copy_into_cache(link, fresh_state, name="x.tar.gz", expected=(right, 13))
    assert (place.read_bytes(), digest, size) == (b"for root only", right, 13)
    with pytest.raises(InputError, match="more than 5 bytes"):
        copy_into_cache(secret, fresh_state, name="y", max_bytes=5)


@pytest.mark.parametrize("name", ["x.txt", "x-1.0-py3-none-any.whl", "missing-1.0.tar.gz"])
def test_what_is_no_source_is_refused(tmp_path: Path, fresh_state: StateDirs, name: str) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError):
        from_path(tmp_path / name, fresh_state)


def test_fifo_and_oversize_are_refused(tmp_path: Path, fresh_state: StateDirs) -> None:
    os.mkfifo(tmp_path / "x-1.0.tar.gz")
    with pytest.raises(InputError, match="regular"):
        from_path(tmp_path / "x-1.0.tar.gz", fresh_state)
    (tmp_path / "y-1.0.tar.gz").write_bytes(b"12345")
    with pytest.raises(InputError, match="more than 4"):
        from_path(tmp_path / "y-1.0.tar.gz", fresh_state, max_bytes=4)


def test_plain_directory_leaves_caches_out(tree: Path, fresh_state: StateDirs) -> None:
    source = from_path(tree, fresh_state)
    assert (source.kind, source.name, source.version) == (SourceKind.TREE, "my-project", "")
    assert source.path.name == "My.Project.tar"
    assert names(source) == [
        "My.Project",
        "My.Project/.gitignore",
        "My.Project/build.log",
        "My.Project/pyproject.toml",
        "My.Project/src/mine/__init__.py",
    ]


def test_git_tree_takes_changed_and_new_files_but_no_ignored_ones(tree: Path, fresh_state: StateDirs) -> None:
    git(tree, "init", "-q")
    git(tree, "add", "pyproject.toml", ".gitignore", "src/mine/__init__.py")
    git(tree, "commit", "-q", "-m", "x")
    (tree / "new file").write_text("new")
    (tree / "pyproject.toml").write_text("changed")
    (tree / "src/mine/__init__.py").unlink()
    source = from_path(tree, fresh_state)
    assert names(source) == ["My.Project", "My.Project/.gitignore", "My.Project/new file", "My.Project/pyproject.toml"]
    with tarfile.open(source.path) as archive:
        stream = archive.extractfile("My.Project/pyproject.toml")
        assert stream is not None
        assert stream.read() == b"changed"


def test_packing_is_reproducible(tree: Path, fresh_state: StateDirs) -> None:
    first = from_path(tree, fresh_state)
    for path in tree.rglob("*"):
        os.utime(path, (time.time() - 5000, time.time() - 5000))
    (tree / "pyproject.toml").chmod(0o600)
    assert from_path(tree, fresh_state).sha256 == first.sha256
    (tree / "pyproject.toml").chmod(0o700)
    assert from_path(tree, fresh_state).sha256 != first.sha256
    with tarfile.open(first.path) as archive:
        assert {(m.uid, m.gid, m.uname, m.mtime) for m in archive} == {(0, 0, "root", 315532800)}


def test_links_are_kept_as_links_and_never_followed(tree: Path, tmp_path: Path, fresh_state: StateDirs) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("CANARY")
    (tree / "link").symlink_to(secret / "key")
    (tree / "directory").symlink_to(secret)
    os.mkfifo(tree / "fifo")
    source = from_path(tree, fresh_state)
    assert b"CANARY" not in source.path.read_bytes()
    with tarfile.open(source.path) as archive:
        assert archive.getmember("My.Project/link").issym()
        assert archive.getmember("My.Project/directory").issym()
        assert "My.Project/fifo" not in archive.getnames()


def test_configuration_of_a_hostile_tree_runs_nothing(tree: Path, tmp_path: Path, fresh_state: StateDirs) -> None:
    git(tree, "init", "-q")
    git(tree, "add", "pyproject.toml")
    git(tree, "commit", "-q", "-m", "x")
    marker = tmp_path / "marker"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {marker}\n")
    script.chmod(0o755)
    hooks = tree / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-index-change", "fsmonitor-watchman", "post-checkout"):
        (hooks / hook).write_bytes(script.read_bytes())
        (hooks / hook).chmod(0o755)
    (tree / ".gitattributes").write_text("* filter=evil diff=evil\n")
    with (tree / ".git/config").open("a") as config:
        config.write(f'[core]\n\tfsmonitor = "{script}"\n\tpager = "{script}"\n\tsshCommand = "{script}"\n')
        config.write(
            f'[filter "evil"]\n\tclean = "{script}"\n\tprocess = "{script}"\n[diff "evil"]\n\tcommand = "{script}"\n'
        )
        config.write(f'[gpg]\n\tprogram = "{script}"\n[log]\n\tshowSignature = true\n')
    (tree / "pyproject.toml").write_text("changed")
    assert "My.Project/pyproject.toml" in names(from_path(tree, fresh_state))
    assert not marker.exists()


def test_a_commit_that_is_missing_is_not_fetched(tree: Path, tmp_path: Path, fresh_state: StateDirs) -> None:
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", "pyproject.toml")
    git(tree, "commit", "-q", "-m", "x")
    marker = tmp_path / "marker"
    shutil.rmtree(tree / ".git/objects")
    (tree / ".git/objects").mkdir()
    (tree / ".git/config").write_text(
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tpartialClone = origin\n"
        f'[remote "origin"]\n\turl = "ext::sh -c touch% {marker}"\n\tpromisor = true\n'
        '[protocol "ext"]\n\tallow = always\n'
    )
    assert "My.Project/pyproject.toml" in names(from_path(tree, fresh_state))
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"[[[ no configuration", b"[include]\n\tpath = /dev/full\n", None])
def test_what_a_repository_configures_is_not_even_read(
    tree: Path, fresh_state: StateDirs, content: bytes | None
) -> None:
    git(tree, "init", "-q")
    git(tree, "add", "pyproject.toml")
    config = tree / ".git/config"
    config.unlink()
    if content is None:
        os.mkfifo(config)
    else:
        config.write_bytes(content)
    assert "My.Project/build.log" not in names(from_path(tree, fresh_state))


def test_tree_of_another_user_is_packed_too(tree: Path, fresh_state: StateDirs) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give files away")
    git(tree, "init", "-q")
    git(tree, "add", "pyproject.toml")
    for path in (tree, *tree.rglob("*")):
        os.lchown(path, 12345, 12345)
    assert "My.Project/build.log" not in names(from_path(tree, fresh_state))


def test_deeper_than_any_name_may_be_is_the_users_mistake(tree: Path, fresh_state: StateDirs) -> None:
    deep = os.open(tree, os.O_DIRECTORY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=deep)
        inner = os.open("d" * 250, os.O_DIRECTORY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
    os.close(deep)
    with pytest.raises(InputError, match="too long"):
        from_path(tree, fresh_state)
    with pytest.raises(InputError, match="too long"):
        from_path(tree / ("x" * 300), fresh_state)
    git(tree, "init", "-q")
    assert "My.Project/pyproject.toml" in names(from_path(tree, fresh_state))


def test_local_index_and_links_need_no_network(tmp_path: Path, fresh_state: StateDirs) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "pkg-1.0.tar.gz").write_bytes(b"from links")
    (wheels / "other-9.0.tar.gz").write_bytes(b"x")
    simple = tmp_path / "simple/pkg"
    simple.mkdir(parents=True)
    (simple / "pkg-2.0.tar.gz").write_bytes(b"from index")
    digest = hashlib.sha256(b"from index").hexdigest()
    (simple / "index.html").write_text(f'<a href="pkg-2.0.tar.gz#sha256={digest}">x</a>')
    config = PipConfig(indexes=(f"file://{tmp_path}/simple",), find_links=(f"file://{wheels}",))
    with IndexClient(fresh_state, config=config) as client:
        new = client.fetch_source(client.resolve("pkg", python_version="3.11"))
        old = client.fetch_source(client.resolve("pkg<2", python_version="3.11"))
        assert (new.version, new.path.read_bytes()) == ("2.0", b"from index")
        assert (old.version, old.path.read_bytes()) == ("1.0", b"from links")
        (wheels / "pkg-1.0.tar.gz").write_bytes(b"made anew")
        assert client.fetch_source(client.resolve("pkg<2", python_version="3.11")).path.read_bytes() == b"made anew"
