"""The runner that an image's own Python compiled: made in a sandbox, used from then on, forgotten with the image."""

from __future__ import annotations

import importlib.util
import marshal
from pathlib import Path

import pytest

from lxcbuild.errors import SandboxError
from lxcbuild.sandbox.inside import compiled, runner_code
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state.paths import StateDirs
from tests.integration.lxc_sandboxes import shell, spec

pytestmark = pytest.mark.root
DIGEST = "0123456789abcdef"


@pytest.fixture
def image(dirs: StateDirs, rootfs: Path) -> Path:
    """The test image under a name as the store gives it."""
    place = dirs.cache / "unpacked" / DIGEST
    place.parent.mkdir(parents=True)
    place.symlink_to(rootfs)
    return place


def test_an_image_with_the_hosts_python_needs_none(dirs: StateDirs, image: Path) -> None:
    with LxcBackend(dirs) as backend:
        compiled.provide(dirs, backend, image)
    host, inside = (Path(root, "usr/bin/python3").readlink() for root in ("/", image))
    assert (compiled.find(dirs, image) is None) == (host == inside)


def test_directories_of_others_have_none(dirs: StateDirs, rootfs: Path) -> None:
    with LxcBackend(dirs) as backend:
        compiled.provide(dirs, backend, rootfs)
    assert compiled.find(dirs, rootfs) is None
    assert not (dirs.cache / "runners").exists()


def test_it_is_made_inside_and_used_and_forgotten(
    dirs: StateDirs, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_same_python", lambda _image: False)  # whatever this host has
    with LxcBackend(dirs) as backend:
        compiled.provide(dirs, backend, image)
        made = compiled.find(dirs, image)
        assert made is not None
        assert [path.name for path in made.parent.iterdir()] == [made.name]  # and no scratch
        content = made.read_bytes()
        if content.startswith(importlib.util.MAGIC_NUMBER):  # an image of this very Python: it must say the same
            ours = marshal.loads(runner_code.files()[".code"][4:])
            assert [half.co_code for half in marshal.loads(content[4:])] == [half.co_code for half in ours]
        with backend.create(spec(image, "used")) as instance:
            instance.start()
            assert shell(instance, "echo here")[1] == "here\n"

        # Bytecode of another version is left alone: the source is there too.
        made.chmod(0o644)
        made.write_bytes(b"\0\0\r\n" + content[4:])
        with backend.create(spec(image, "other")) as instance:
            instance.start()
            assert shell(instance, "echo here")[1] == "here\n"

        # Proof that it is this file that PID 1 reads: a damaged one is noticed.
        made.write_bytes(content[:4])
        with backend.create(spec(image, "damaged")) as instance, pytest.raises(SandboxError):
            instance.start()

    compiled.forget(dirs, f"{DIGEST}and more")
    assert compiled.find(dirs, image) is None
