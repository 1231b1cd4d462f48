"""Layers through a store: one machine makes them, another fetches and checks them; what was tampered with is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.builder.layering import nearest_stack
from lxcbuild.errors import WrongHashError
from lxcbuild.events import Event, Note
from lxcbuild.farm.artifacts import DirectoryStore, object_place
from lxcbuild.farm.layershare import LayerShare, RefusedError, own_key, public_text
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.linux import syscalls
from lxcbuild.model import Target
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state.paths import StateDirs

pytestmark = [pytest.mark.root, pytest.mark.network]

BOOKWORM = Target("debian", "bookworm")


class Ears:
    """A monitor that remembers the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(event.text)


@pytest.fixture
def made(state: StateDirs, tmp_path: Path) -> Iterator[tuple[LayerShare, str, tuple[str, ...]]]:
    """The giving side: an image and a configuration of two steps in a store."""
    share = LayerShare(dirs=state, store=DirectoryStore(tmp_path / "store"), push=True)
    images = ImageStore(state)
    with LxcBackend(state) as backend:
        image = images.ensure(BOOKWORM)
        store = LayerStore(state, backend, choose=nearest_stack, share=share)
        before = set(store.layer_records.layers())
        archive = images.archive(image)
        store.provide(image, archive, ["python3-docopt"])
        top = store.provide(image, archive, ["python3-docopt", "python3-lockfile"])
        assert top.hit is False
        way = store.layer_records.way(top.key)
        assert way is not None
        assert len(way) == 2
        share.give_image(BOOKWORM, images.record(BOOKWORM))
        yield share, top.key, way
        store.close()
        images.close()
        for key in set(store.layer_records.layers()) - before:
            store.remove(key)


def taker(share: LayerShare, dirs: StateDirs, *, trusted: tuple[str, ...], ears: Ears | None = None) -> LayerShare:
    return LayerShare(dirs=dirs, store=share.store, trusted=trusted, monitor=ears or Ears())


def test_another_machine_takes_what_one_made_and_refuses_what_was_changed(
    made: tuple[LayerShare, str, tuple[str, ...]], fresh_state: StateDirs, state: StateDirs, tmp_path: Path
) -> None:
    giver, key, way = made
    trusted = (public_text(own_key(state)),)
    with pytest.raises(RefusedError, match="not trusted"):
        taker(giver, fresh_state, trusted=()).take_image(BOOKWORM)

    share = taker(giver, fresh_state, trusted=trusted, ears=(ears := Ears()))
    assert share.take_image(BOOKWORM) is not None
    assert share.take_image(BOOKWORM, newer_than=ImageStore(fresh_state).record(BOOKWORM)) is None
    images = ImageStore(fresh_state)
    ground = images.record(BOOKWORM).digest

    for change in (cut_short, other_packages, another_place, other_archive):
        shutil.copytree(tmp_path / "store", tmp_path / change.__name__)
        bad = LayerShare(dirs=fresh_state, store=DirectoryStore(tmp_path / change.__name__), trusted=trusted)
        change(tmp_path / change.__name__, key)
        with pytest.raises((RefusedError, WrongHashError)):
            bad.take(key, ground)
        assert bad.fetch(key, ground) is None
    with pytest.raises(RefusedError, match="not what its key says"):
        share.take(key, "0" * 64)
    assert list((fresh_state.images / "layers").glob("*")) == []

    with LxcBackend(fresh_state) as backend:
        image = images.get(BOOKWORM)
        store = LayerStore(fresh_state, backend, ears, choose=nearest_stack, share=share)
        archive = images.archive(image)
        taken = store.provide(image, archive, ["python3-lockfile", "python3-docopt"])
        assert (taken.key, taken.hit, store.made) == (key, True, 0)
        assert [lower.name for lower in reversed(taken.lowers[:-1])] == [step[:16] for step in way]
        assert any("fetched the layer" in note for note in ears.notes)
        assert not any(note.startswith("installing") for note in ears.notes)
        for step in way:
            theirs, ours = (LayerStore(dirs, backend).layer_records.document(step) for dirs in (state, fresh_state))
            assert theirs == ours
        store.close()
        images.close()
        for digest in store.hot.digests():
            assert store.hot.drop(digest)
        syscalls.umount(str(fresh_state.hot))


def cut_short(store: Path, key: str) -> None:
    path = store / "layers" / f"{key}.json"
    path.write_bytes(path.read_bytes()[:-200])


def other_packages(store: Path, key: str) -> None:
    """Somebody without the key changes what a signed document says."""
    import base64

    path = store / "layers" / f"{key}.json"
    sealed = json.loads(path.read_text())
    body = base64.b64decode(sealed["body"]).replace(b"lockfile", b"lockpick")
    path.write_text(json.dumps({**sealed, "body": base64.b64encode(body).decode()}))


def another_place(store: Path, key: str) -> None:
    """A good document, but of another configuration."""
    (other,) = (path for path in (store / "layers").iterdir() if path.stem != key)
    (store / "layers" / f"{key}.json").write_bytes(other.read_bytes())


def other_archive(store: Path, key: str) -> None:
    """The document is good, and an archive is not what it names."""
    import base64

    body = json.loads(base64.b64decode(json.loads((store / "layers" / f"{key}.json").read_text())["body"]))
    path = store / object_place(body["layers"][0]["sha256"])
    path.write_bytes(path.read_bytes()[:-1] + b"?")
