"""``lxcbuild layers``: dependency layers, what they save, and sharing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from lxcbuild.cli.options import TargetType, json_option, pass_ui, require_root
from lxcbuild.cli.render import Ui
from lxcbuild.config.ranges import age_text, bytes_text, seconds_text
from lxcbuild.errors import ConfigError, InputError
from lxcbuild.model import Target

if TYPE_CHECKING:
    from lxcbuild.farm.layershare import LayerShare
    from lxcbuild.images.layer_records import LayerRecords, Shelved

_store_option = click.option(
    "--store", metavar="URL", help="Path or URL of the shared store  [default: from layers.yaml]"
)


@click.group()
def layers() -> None:
    """List, explain, evict and share layers."""


@layers.command("list")
@json_option
@pass_ui
def list_(ui: Ui, /, *, as_json: bool) -> None:
    """List layers, in the order of their value.

    The layer that saves most per byte is first, and is kept longest.
    """
    known = sorted(_layer_records(ui).layers().values(), key=lambda layer: (-layer.value, layer.key))
    unpacked = _unpacked(ui)
    if as_json:
        ui.emit_json({"layers": [_document(layer, unpacked) for layer in known]})
        return
    ui.table(
        ("key", "kind", "holds", "state", "hits", "saved", "made in", "on disk", "unpacked", "age"),
        [_row(layer, unpacked) for layer in known],
        right=("hits", "saved", "made in", "on disk", "unpacked"),
    )
    saved = sum(layer.seconds_saved for layer in known)
    size = sum(layer.archive_bytes for layer in known)
    ui.line(f"{len(known)} layers, {bytes_text(size)} on disk; {seconds_text(saved)} of installing saved")
    if not known:
        ui.hint("layers come with builds: lxcbuild build idna --force")


@layers.command()
@click.argument("key")
@json_option
@pass_ui
def show(ui: Ui, /, *, key: str, as_json: bool) -> None:
    """Show the layer KEY and its packages.

    KEY is the start of a layer's key.
    """
    known = _layer_records(ui).layers()
    layer = _find(known, key)
    unpacked = _unpacked(ui)
    if as_json:
        ui.emit_json({**_document(layer, unpacked), "packages": sorted(layer.packages), "names": list(layer.names)})
        return
    for name, value in _document(layer, unpacked).items():
        ui.line(f"{name:<15} {value}")
    ui.line()
    rows = [identity.split("=", 2) for identity in sorted(layer.packages)]
    if rows:
        ui.table(("package", "version", "sha256"), rows)
    else:
        ui.line(", ".join(sorted(layer.names)))


@layers.command()
@json_option
@pass_ui
def tree(ui: Ui, /, *, as_json: bool) -> None:
    """Draw which layer stands on which.

    The roots of the trees are base images.
    """
    layer_records = _layer_records(ui)
    known, above = layer_records.layers(), layer_records.grounds()
    children: dict[str, list[str]] = {}
    for layer in sorted(known.values(), key=lambda each: (each.created_at, each.key)):
        children.setdefault(above.get(layer.parent, layer.parent), []).append(layer.key)
    images = _images(ui)
    roots = [key for key in children if key not in known]
    if as_json:
        ui.emit_json({"images": images, "children": children, "roots": roots})
        return
    for root in roots:
        ui.line(f"{images.get(root, 'an image that is gone')} {root[:16]}")
        _draw(ui, root, children, known, indent="")
    if not roots:
        ui.hint("layers come with builds: lxcbuild build idna --force")


@layers.command()
@click.argument("key")
@json_option
@pass_ui
def why(ui: Ui, /, *, key: str, as_json: bool) -> None:
    """Explain what sets the layer KEY apart.

    The parts of its key are compared with those of the nearest layer that stands on the same layer or image.
    """
    known = _layer_records(ui).layers()
    layer = _find(known, key)
    others = [each for each in known.values() if each.key != layer.key and each.kind == layer.kind]
    beside = [each for each in others if each.parent == layer.parent]
    document: dict[str, Any] = {"key": layer.key, "parent": layer.parent, "nearest": None}
    if beside:
        near = min(beside, key=lambda each: (len(set(each.packages) ^ set(layer.packages)), each.key))
        only, theirs = (
            sorted(set(layer.packages) - set(near.packages)),
            sorted(set(near.packages) - set(layer.packages)),
        )
        document.update(nearest=near.key, only_here=only, only_there=theirs)
    same = [each.key for each in others if each.packages == layer.packages and each.parent != layer.parent]
    document["same_packages_on_other_grounds"] = sorted(same)
    if as_json:
        ui.emit_json(document)
        return
    ui.line(f"{layer.key[:16]} stands on {layer.parent[:16]} ({_images(ui).get(layer.parent, 'a layer')})")
    if document["nearest"] is None:
        ui.line("no other layer of its kind stands there")
    else:
        ui.line(f"the nearest beside it is {document['nearest'][:16]}")
        for sign, identities in (("+", document["only_here"]), ("-", document["only_there"])):
            for identity in identities:
                ui.line(f"  {sign} {' '.join(identity.split('=')[:2])}")
    for other in document["same_packages_on_other_grounds"]:
        ui.line(f"{other[:16]} holds the same packages on another ground, {known[other].parent[:16]}")


@layers.command()
@click.option("--dry-run", "-n", is_flag=True, help="Show what would be removed, and remove nothing")
@json_option
@pass_ui
def gc(ui: Ui, /, *, dry_run: bool, as_json: bool) -> None:
    """Remove layers until the rest fit.

    Layers without an image go first, then those that save least per byte. retention.yaml sets the size.
    """
    from lxcbuild.images.eviction import Evicted, budgets, evict
    from lxcbuild.images.layers import LayerStore
    from lxcbuild.sandbox.lxc import LxcBackend

    require_root("remove layers")
    store = LayerStore(ui.dirs, LxcBackend(ui.dirs))
    known = store.layer_records.layers()
    gone = [
        Evicted(key=key, bytes=known[key].archive_bytes, archive=True)
        for key in store.orphans(_images(ui))
        if dry_run or store.remove(key)
    ]
    cold, hot = budgets()
    gone += evict(store, cold_bytes=cold, hot_bytes=hot, dry_run=dry_run)
    if as_json:
        ui.emit_json(
            {
                "dry_run": dry_run,
                "removed": [{"key": each.key, "bytes": each.bytes, "archive": each.archive} for each in gone],
            }
        )
        return
    for each in gone:
        what = "layer" if each.archive else "unpacked layer"
        ui.verdict("ok", f"{'would remove' if dry_run else 'removed'} {what} {each.key[:16]}, {bytes_text(each.bytes)}")
    if not gone:
        ui.verdict("ok", "everything fits")


@layers.command("key")
@json_option
@pass_ui
def key_(ui: Ui, /, *, as_json: bool) -> None:
    """Print the public key of this machine.

    It verifies layers of this machine, and belongs to ``trusted`` in the layers.yaml of other machines.
    """
    from lxcbuild.farm.layershare import own_key, public_text

    require_root("read the key of its layers")
    text = public_text(own_key(ui.dirs))
    if as_json:
        ui.emit_json({"key": text})
    else:
        ui.line(text)


@layers.command()
@_store_option
@json_option
@pass_ui
def push(ui: Ui, /, *, store: str | None, as_json: bool) -> None:
    """Put images and layers into the shared store.

    The store gets all base images and layers that it lacks, signed.
    """
    from lxcbuild.images.store import ImageStore

    require_root("sign layers")
    share, layer_records = _share(ui, store), _layer_records(ui)
    images = [
        str(listed.target)
        for listed in ImageStore(ui.dirs).list()
        if listed.record is not None and share.give_image(listed.target, listed.record)
    ]
    shareable = {document["key"] for document in layer_records.documents() if "architecture" in document}
    ways = {key: layer_records.way(key) for key in (*shareable, *layer_records.grounds())}
    given = [key for key, way in sorted(ways.items()) if way and shareable.issuperset(way) and share.give(key, way)]
    if as_json:
        ui.emit_json({"images": images, "layers": given})
        return
    ui.verdict("ok", f"{len(given)} layers and {len(images)} images were new to the store")


@layers.command()
@click.argument("targets", metavar="[TARGET]...", type=TargetType(), nargs=-1)
@_store_option
@json_option
@pass_ui
def pull(ui: Ui, /, *, targets: tuple[Target, ...], store: str | None, as_json: bool) -> None:
    """Fetch images and layers from the store.

    Base images of TARGETs (default: all) are fetched if the store has newer ones, and all layers on images of this machine.
    """
    from lxcbuild.images.store import ImageStore

    require_root("fetch layers")
    share = _share(ui, store)
    listed = [each for each in ImageStore(ui.dirs).list() if not targets or each.target in targets]
    images = [str(each.target) for each in listed if share.take_image(each.target, newer_than=each.record)]
    here = {*_images(ui), *_layer_records(ui).layers(), *_layer_records(ui).grounds()}
    waiting = {key: share.ground_of(key) for key in share.offered() if key not in here}
    taken: list[str] = []
    while ready := [key for key, ground in sorted(waiting.items()) if ground in here]:
        for key in ready:
            if share.take(key, waiting.pop(key)):
                taken.append(key)
            here.add(key)
    if as_json:
        ui.emit_json({"images": images, "layers": taken})
        return
    ui.verdict("ok", f"fetched {len(taken)} layers and {len(images)} images")


# -- helpers --------------------------------------------------------------------------------------------------


def _layer_records(ui: Ui) -> LayerRecords:
    from lxcbuild.images.layer_records import LayerRecords

    return LayerRecords(ui.dirs.images / "layers")


def _share(ui: Ui, store: str | None) -> LayerShare:
    from lxcbuild.config.sharing import load_sharing
    from lxcbuild.farm.artifacts import open_store
    from lxcbuild.farm.layershare import LayerShare

    settings = load_sharing()
    url = store or (settings.store if settings else None)
    if url is None:
        raise ConfigError("no shared store is configured", resolution="name one: --store URL, or store: in layers.yaml")
    if not (url.startswith("/") or "://" in url):
        raise InputError(f"{url!r} is not a store", resolution="write an absolute path or a URL")
    trusted = settings.trusted if settings else ()
    return LayerShare(dirs=ui.dirs, store=open_store(url), trusted=trusted, push=True)


def _images(ui: Ui) -> dict[str, str]:
    """Digests of the base images that are here, and their targets."""
    from lxcbuild.images.store import ImageStore

    return {each.record.digest: str(each.target) for each in ImageStore(ui.dirs).list() if each.record is not None}


def _unpacked(ui: Ui) -> Mapping[str, Any]:
    from lxcbuild.events import NullMonitor
    from lxcbuild.images.hot import HotStore

    return HotStore(ui.dirs, NullMonitor()).digests()


def _find(known: Mapping[str, Shelved], key: str) -> Shelved:
    found = [layer for each, layer in known.items() if key and each.startswith(key.lower())]
    if len(found) != 1:
        text = "no layer" if not found else f"{len(found)} layers"
        raise InputError(f"{text} whose key starts with {key[:70]!r}", resolution="lxcbuild layers list")
    return found[0]


def _row(layer: Shelved, unpacked: Mapping[str, Any]) -> tuple[object, ...]:
    names = ", ".join(layer.names[:3]) + (f" and {len(layer.names) - 3} more" if len(layer.names) > 3 else "")
    return (
        layer.key[:16],
        layer.kind,
        names,
        "in memory" if layer.key[:16] in unpacked else "on disk",
        layer.hits,
        seconds_text(layer.seconds_saved),
        seconds_text(layer.made_in_s),
        bytes_text(layer.archive_bytes),
        bytes_text(layer.unpacked_bytes),
        age_text(layer.created_at),
    )


def _document(layer: Shelved, unpacked: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": layer.key,
        "parent": layer.parent,
        "kind": layer.kind,
        "hot": layer.key[:16] in unpacked,
        "hits": layer.hits,
        "seconds_saved": round(layer.seconds_saved, 3),
        "made_in_s": layer.made_in_s,
        "archive_bytes": layer.archive_bytes,
        "unpacked_bytes": layer.unpacked_bytes,
        "created_at": layer.created_at,
        "last_hit": layer.last_hit.isoformat() if layer.last_hit else None,
        "digest": layer.digest,
    }


def _draw(
    ui: Ui, key: str, children: Mapping[str, Sequence[str]], known: Mapping[str, Shelved], *, indent: str
) -> None:
    below = children.get(key, ())
    for number, child in enumerate(below):
        last = number == len(below) - 1
        layer = known[child]
        names = ", ".join(layer.names[:4]) + (f" and {len(layer.names) - 4} more" if len(layer.names) > 4 else "")
        ui.line(f"{indent}{'└─' if last else '├─'} {child[:16]} {names}; {layer.hits} hits")
        _draw(ui, child, children, known, indent=indent + ("   " if last else "│  "))
