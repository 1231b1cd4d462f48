"""Base images and dependency layers for neighbours: signed documents and archives in a store that nobody has to trust.

What is offered was made by trusted installations alone. A document names the archives by SHA-256 and is signed with Ed25519 (RFC
8032); who fetches checks the signature against the keys that its administrator trusts, each layer's key against the packages that
it claims to hold, and each archive against its hash before anything unpacks it. What fails is not used, and told.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from lxcbuild.debian.archive.apt import ResolvedPackage, ResolvedSet
from lxcbuild.errors import FarmError, ImageError, LxcbuildError
from lxcbuild.events import Monitor, Note, NullMonitor
from lxcbuild.farm.artifacts import ArtifactStore
from lxcbuild.farm.engines.engine import StoredFile
from lxcbuild.files import write_whole
from lxcbuild.images.image import ImageRecord
from lxcbuild.images.layer import layer_key
from lxcbuild.images.layer_records import LayerRecords
from lxcbuild.model import Target
from lxcbuild.state.paths import StateDirs

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_VERSION = 1


class RefusedError(FarmError):
    """Something in the store is not what a trusted key signed."""


# -- keys -----------------------------------------------------------------------------------------------------


def own_key(dirs: StateDirs) -> Ed25519PrivateKey:
    """The key with which this state directory signs; made at first use, readable by its owner only."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = dirs.lib / "layers.key"
    if not path.exists():
        raw = Ed25519PrivateKey.generate().private_bytes(form.Encoding.Raw, form.PrivateFormat.Raw, form.NoEncryption())
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(raw)
        try:
            os.link(fresh, path)  # two processes at once: the first one's key is everybody's
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return Ed25519PrivateKey.from_private_bytes(path.read_bytes())


def public_text(key: Ed25519PrivateKey) -> str:
    """The public half as ``layers.yaml`` takes it: 32 bytes in base64."""
    from cryptography.hazmat.primitives import serialization as form

    return base64.b64encode(key.public_key().public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)).decode()


def _sign(key: Ed25519PrivateKey, body: bytes) -> bytes:
    sealed = {
        "body": base64.b64encode(body).decode(),
        "key": public_text(key),
        "signature": base64.b64encode(key.sign(body)).decode(),
    }
    return json.dumps(sealed, indent=1).encode() + b"\n"


def _open_sealed(data: bytes, trusted: Sequence[str], what: str) -> dict[str, Any]:
    """The body of a sealed document. Raises RefusedError unless a trusted key signed just these bytes."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        sealed = json.loads(data)
        body, signature = (base64.b64decode(sealed[name], validate=True) for name in ("body", "signature"))
        signer = str(sealed["key"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RefusedError(f"the store's document of {what} is damaged: {error}") from error
    if signer not in trusted:
        raise RefusedError(
            f"the store's document of {what} is signed with a key that is not trusted: {signer[:60]}",
            resolution="if you know that key, add it to trusted in layers.yaml",
        )
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(signer)).verify(signature, body)
    except InvalidSignature:
        raise RefusedError(
            f"the store's document of {what} was changed after it had been signed",
            resolution="find out who writes to the store; lxcbuild layers push replaces it",
        ) from None
    document: dict[str, Any] = json.loads(body)
    if document.get("version") != _VERSION:
        raise RefusedError(f"the store's document of {what} is of another version of lxcbuild")
    return document


# -- the share ------------------------------------------------------------------------------------------------


class LayerShare(Struct, kw_only=True):
    """A state directory's door to a store. ``trusted`` has public keys beside the own one. Without ``push`` it only takes."""

    dirs: StateDirs
    store: ArtifactStore
    trusted: Sequence[str] = ()
    push: bool = False
    monitor: Monitor = field(default_factory=NullMonitor)

    @property
    def _layer_records(self) -> LayerRecords:
        return LayerRecords(self.dirs.images / "layers")

    def _keys(self) -> tuple[str, ...]:
        return (*self.trusted, public_text(own_key(self.dirs)))

    # -- layers -----------------------------------------------------------------------------------------------

    def offer(self, configuration: str, way: Sequence[str]) -> None:
        """Put a configuration into the store when this side gives; a store that is away stops no build."""
        if not self.push:
            return
        try:
            self.give(configuration, way)
        except LxcbuildError as error:
            self._tell(f"the layer {configuration[:16]} is not shared: {error}")

    def give(self, configuration: str, way: Sequence[str]) -> int:
        """Put a configuration into the store; how many of its layers were new there. Raises FarmError, DiskFullError."""
        place = _layer_place(configuration)
        if self.store.read(place) is not None:
            return 0
        layers = []
        for key in way:
            record = self._layer_records.document(key)
            if record is None:
                raise ImageError(f"the layer {key[:16]} is gone")
            stored = self.store.put(self._layer_records.archive_path(key))
            layers.append({"record": record, "sha256": stored.sha256, "bytes": stored.size_bytes})
        body = {"version": _VERSION, "configuration": configuration, "layers": layers}
        self.store.write(place, _sign(own_key(self.dirs), json.dumps(body, sort_keys=True).encode()))
        return len(layers)

    def fetch(self, configuration: str, ground: str) -> tuple[str, ...] | None:
        """The layers of a configuration from the store, recorded here; None when it has none, or they are refused (and told)."""
        try:
            return self.take(configuration, ground)
        except LxcbuildError as error:
            self._tell(f"the shared layer {configuration[:16]} is not used: {error}")
            return None

    def take(self, configuration: str, ground: str) -> tuple[str, ...] | None:
        """The same, raising RefusedError, WrongHashError, FarmError."""
        data = self.store.read(_layer_place(configuration))
        if data is None:
            return None
        document = _open_sealed(data, self._keys(), f"the layer {configuration[:16]}")
        if document["configuration"] != configuration:
            raise RefusedError(f"the store has {document['configuration'][:16]} in the place of {configuration[:16]}")
        layers = document["layers"]
        _check_way(layers, configuration, ground)
        workdir = self.dirs.images / "layers" / f"new-{configuration[:16]}"
        shutil.rmtree(workdir, ignore_errors=True)  # we hold the lock of its making, so whoever left it is dead
        try:
            for each in layers:
                self._shelve(each["record"], _stored(each), workdir)
        finally:
            shutil.rmtree(workdir, ignore_errors=True)
        way = tuple(each["record"]["key"] for each in layers)
        if way != (configuration,):
            self._layer_records.keep_way(configuration, way)
        self._tell(f"fetched the layer {configuration[:16]} from the shared store", warning=False)
        return way

    def _shelve(self, record: Mapping[str, Any], file: StoredFile, workdir: Path) -> None:
        key = record["key"]
        if self._layer_records.known(key):
            return
        archive = self.store.get(file, workdir)
        archive.rename(self._layer_records.archive_path(key))
        write_whole(self._layer_records.record_path(key), json.dumps(record, indent=1) + "\n", durable=False)

    # -- images -----------------------------------------------------------------------------------------------

    def give_image(self, target: Target, record: ImageRecord) -> bool:
        """Put a base image into the store, in place of an older one; whether that was needed."""
        place = f"images/{target.image_name}.json"
        data = self.store.read(place)
        if data is not None:
            known = _open_sealed(data, self._keys(), f"the image {target}")
            if known["record"]["created_at"] >= record.created_at:
                return False
        stored = self.store.put(self._image_archive(record.name, record.digest))
        body = {
            "version": _VERSION,
            "record": json.loads(record.to_json()),
            "sha256": stored.sha256,
            "bytes": stored.size_bytes,
        }
        self.store.write(place, _sign(own_key(self.dirs), json.dumps(body, sort_keys=True).encode()))
        return True

    def take_image(self, target: Target, *, newer_than: ImageRecord | None = None) -> ImageRecord | None:
        """The store's base image of a target, on this side's disk; None when it has none that is newer."""
        data = self.store.read(f"images/{target.image_name}.json")
        if data is None:
            return None
        document = _open_sealed(data, self._keys(), f"the image {target}")
        record = ImageRecord.from_json(json.dumps(document["record"]))
        if record.name != target.image_name:
            raise RefusedError(f"the store has {record.name} in the place of {target.image_name}")
        if newer_than is not None and record.created_at <= newer_than.created_at:
            return None
        workdir = self.dirs.images / f"new-{target.image_name}"
        try:
            archive = self.store.get(_stored(document, name="image.tar.zst"), workdir)
            archive.rename(self._image_archive(record.name, record.digest))
            write_whole(self.dirs.images / f"{target.image_name}.json", record.to_json(), durable=False)
        finally:
            shutil.rmtree(workdir, ignore_errors=True)
        return record

    def _image_archive(self, name: str, digest: str) -> Path:
        return self.dirs.images / f"{name}-{digest[:16]}.tar.zst"

    # -- all --------------------------------------------------------------------------------------------------

    def offered(self) -> Iterator[str]:
        """Configurations that the store has, by key."""
        for place in self.store.list("layers"):
            yield place.removeprefix("layers/").removesuffix(".json")

    def ground_of(self, configuration: str) -> str:
        """What a configuration of the store stands on; raises RefusedError."""
        data = self.store.read(_layer_place(configuration))
        if data is None:
            raise FarmError(f"the store has no layer {configuration[:16]}")
        document = _open_sealed(data, self._keys(), f"the layer {configuration[:16]}")
        return str(document["layers"][0]["record"]["parent"])

    def _tell(self, text: str, *, warning: bool = True) -> None:
        self.monitor.emit(Note(text=text, warning=warning))


def _layer_place(configuration: str) -> str:
    if len(configuration) != 64 or not set(configuration) <= set("0123456789abcdef"):
        raise RefusedError(f"{configuration[:70]!r} is not the key of a layer")
    return f"layers/{configuration}.json"


def _stored(document: Mapping[str, Any], *, name: str = "layer.tar.zst") -> StoredFile:
    return StoredFile(name=name, sha256=document["sha256"], size_bytes=document["bytes"])


def _check_way(layers: Sequence[Mapping[str, Any]], configuration: str, ground: str) -> None:
    """Each layer stands on the one before, its key is that of its packages, and all of them are the configuration."""
    parent = ground
    everything: list[ResolvedPackage] = []
    architecture = layers[0]["record"].get("architecture", "") if layers else ""
    for each in layers:
        record = each["record"]
        packages = tuple(ResolvedPackage(**package) for package in record["installed"])
        everything += packages
        if record["parent"] != parent or record["key"] != layer_key(
            parent, ResolvedSet(packages=packages), architecture=architecture
        ):
            raise RefusedError(f"the layer {record['key'][:16]} is not what its key says")
        parent = record["key"]
    if configuration != layer_key(ground, ResolvedSet(packages=tuple(everything)), architecture=architecture):
        raise RefusedError(f"the layers of {configuration[:16]} are not what its key says")
