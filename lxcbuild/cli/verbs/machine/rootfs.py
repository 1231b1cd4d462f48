"""``lxcbuild rootfs``: base images, one per target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lxcbuild.cli.options import TargetType, host_target, json_option, pass_ui, require_root
from lxcbuild.cli.render import Ui
from lxcbuild.config.ranges import bytes_text, seconds_text
from lxcbuild.model import Target

if TYPE_CHECKING:
    from lxcbuild.images.image import Image, ImageRecord
    from lxcbuild.images.store import Listed

_DAY_S = 86400.0
_target = click.argument("targets", metavar="TARGET...", type=TargetType(), nargs=-1)


@click.group()
def rootfs() -> None:
    """Make, refresh, show and remove base images."""


@rootfs.command("list")
@json_option
@pass_ui
def list_(ui: Ui, /, *, as_json: bool) -> None:
    """List recipes and the images made from them."""
    from lxcbuild.images.store import ImageStore

    listed = ImageStore(ui.dirs).list()
    if as_json:
        ui.emit_json({"images": [_listed_document(each) for each in listed]})
        return
    ui.table(
        ("target", "description", "state", "age", "python", "packages", "archive", "digest"), [_row(e) for e in listed]
    )
    if not any(each.record for each in listed):
        ui.hint(f"lxcbuild rootfs make {host_target()}")


@rootfs.command()
@_target
@json_option
@pass_ui
def make(ui: Ui, /, *, targets: tuple[Target, ...], as_json: bool) -> None:
    """Make the missing images of TARGETs.

    All images of TARGETs are loaded. Without TARGET, this host's own suite is meant.
    """
    _each(ui, targets, "ensure", as_json=as_json)


@rootfs.command()
@_target
@json_option
@pass_ui
def refresh(ui: Ui, /, *, targets: tuple[Target, ...], as_json: bool) -> None:
    """Make the images of TARGETs again.

    Running builds keep the old images until they end.
    """
    _each(ui, targets, "refresh", as_json=as_json)


def _each(ui: Ui, targets: tuple[Target, ...], method: str, *, as_json: bool) -> None:
    from lxcbuild.images.store import ImageStore

    require_root("make base images")
    documents = []
    with ui.monitor() as monitor:
        store = ImageStore(ui.dirs, monitor)
        try:
            for target in targets or (host_target(),):
                image: Image = getattr(store, method)(target)
                documents.append(_image_document(image))
        finally:
            store.close()
    if as_json:
        ui.emit_json({"images": documents})
        return
    for document in documents:
        ui.line(f"{document['target']} {document['path']}")


@rootfs.command()
@click.argument("target", type=TargetType())
@json_option
@pass_ui
def show(ui: Ui, /, *, target: Target, as_json: bool) -> None:
    """Show the image of TARGET and its packages."""
    from lxcbuild.images.store import ImageStore

    store = ImageStore(ui.dirs)
    record = store.record(target)
    listed = next(each for each in store.list() if each.target.image_name == target.image_name)
    if as_json:
        place = {"storage": _storage(listed), "why_on_disk": _why_on_disk(ui, listed)}
        ui.emit_json({**_listed_document(listed), **place, **_record_document(record, packages=True)})
        return
    for key, value in [*_facts(listed, record), *_storage_facts(ui, listed)]:
        ui.line(f"{key:<12} {value}")
    ui.line()
    ui.table(("package", "version", "architecture"), [(p.name, p.version, p.architecture) for p in record.packages])


@rootfs.command()
@click.argument("targets", metavar="TARGET...", type=TargetType(), nargs=-1, required=True)
@json_option
@pass_ui
def remove(ui: Ui, /, *, targets: tuple[Target, ...], as_json: bool) -> None:
    """Remove the images of TARGETs.

    An image that a build uses disappears when the build ends (lxcbuild gc --hot).
    """
    from lxcbuild.images.store import ImageStore

    require_root("remove base images")
    store = ImageStore(ui.dirs)
    done = []
    for target in targets:
        record = store.record(target)
        gone = store.remove(target)
        done.append({"target": str(target), "digest": record.digest, "in_use": not gone})
        if not gone and not as_json:
            ui.warn(f"builds still use {target}; its memory is freed by lxcbuild gc --hot when they have ended")
    if as_json:
        ui.emit_json({"removed": done})
        return
    for each in done:
        ui.verdict("ok", f"removed {each['target']}")


# -- documents ------------------------------------------------------------------------------------------------


def _state(listed: Listed) -> str:
    if listed.record is None:
        return "not made"
    kind = "expired" if listed.expired else "ready"
    if listed.loaded is None:
        return kind
    return f"{kind}, in memory" if _in_memory(listed) else f"{kind}, unpacked on disk"


def _in_memory(listed: Listed) -> bool:
    return listed.loaded is not None and listed.loaded.parent.name == "hot"


def _storage(listed: Listed) -> str | None:
    return None if listed.loaded is None else "ram" if _in_memory(listed) else "disk"


def _why_on_disk(ui: Ui, listed: Listed) -> str | None:
    from lxcbuild.images.tmpfs_maps import known_refusal

    if _storage(listed) != "disk":
        return None
    return known_refusal(ui.dirs) or "memory was short when it was unpacked"


def _storage_facts(ui: Ui, listed: Listed) -> list[tuple[str, str]]:
    why = _why_on_disk(ui, listed)
    return [] if why is None else [("on disk", why)]


def _row(listed: Listed) -> tuple[str, ...]:
    record = listed.record
    start = (str(listed.target), listed.recipe.description, _state(listed))
    if record is None:
        return (*start, "", "", "", "", "")
    return (
        *start,
        _age_text(record),
        record.python_version,
        str(len(record.packages)),
        bytes_text(record.archive_bytes),
        record.digest[:12],
    )


def _age_text(record: ImageRecord) -> str:
    days = record.age_s / _DAY_S
    return f"{days:.0f} days" if days >= 2 else seconds_text(record.age_s)


def _facts(listed: Listed, record: ImageRecord) -> list[tuple[str, str]]:
    return [
        ("target", str(listed.target)),
        ("state", _state(listed)),
        ("made", f"{record.created_at} ({_age_text(record)} ago)"),
        ("digest", record.digest),
        ("python", record.python_version),
        ("unpacked", f"{bytes_text(record.unpacked_bytes)} at {listed.loaded or 'nowhere: loaded on next use'}"),
        ("archive", bytes_text(record.archive_bytes)),
        ("made as", "user namespace" if record.mode == "unshare" else record.mode),
        ("keyring", record.keyring or "apt's own"),
        *(("source", line) for line in record.sources),
    ]


def _listed_document(listed: Listed) -> dict[str, Any]:
    document: dict[str, Any] = {
        "target": str(listed.target),
        "description": listed.recipe.description,
        "made": listed.record is not None,
        "expired": listed.expired,
        "loaded": None if listed.loaded is None else str(listed.loaded),
    }
    return document if listed.record is None else {**document, **_record_document(listed.record, packages=False)}


def _record_document(record: ImageRecord, *, packages: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": record.name,
        "digest": record.digest,
        "created_at": record.created_at,
        "age_s": round(record.age_s),
        "architecture": record.architecture,
        "python_version": record.python_version,
        "unpacked_bytes": record.unpacked_bytes,
        "archive_bytes": record.archive_bytes,
        "recipe_hash": record.recipe_hash,
        "keyring": record.keyring,
        "sources": list(record.sources),
        "mode": record.mode,
    }
    if packages:
        document["packages"] = [
            {"name": p.name, "version": p.version, "architecture": p.architecture} for p in record.packages
        ]
    return document


def _image_document(image: Image) -> dict[str, Any]:
    return {
        "target": str(image.target),
        "path": str(image.path),
        "storage": image.storage.value,
        "expired": image.expired,
        **_record_document(image.record, packages=False),
    }
