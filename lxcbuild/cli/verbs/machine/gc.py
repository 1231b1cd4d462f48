"""``lxcbuild gc``: remove what no live build owns."""

from __future__ import annotations

import click

from lxcbuild.cli.options import json_option, pass_ui, require_root
from lxcbuild.cli.render import Ui
from lxcbuild.errors import LeftoversError, LxcbuildError


@click.command()
@click.option("--dry-run", "-n", is_flag=True, help="Show what would be removed, and remove nothing")
@click.option("--hot", is_flag=True, help="Remove unpacked images that no build uses, from memory and disk")
@click.option("--failed", is_flag=True, help="Remove the kept states of all failed builds, not only old ones")
@json_option
@pass_ui
def gc(ui: Ui, /, *, dry_run: bool, hot: bool, failed: bool, as_json: bool) -> None:
    """Remove leftovers that no live build owns.

    Kept states of failed builds are removed where they are too many or too old. What is removed is listed.
    """
    from lxcbuild.host.leftovers import find_leftovers

    require_root("remove leftovers")
    removed: list[dict[str, str]] = []
    stuck: list[str] = []
    for each in find_leftovers(ui.dirs):
        try:
            if not dry_run:
                each.remove()
        except (LxcbuildError, OSError) as error:
            stuck.append(f"{each.kind} {each.what}: {error}")
            continue
        removed.append({"kind": each.kind, "what": each.what})
    removed += [
        {"kind": "failed state", "what": what} for what in _failed_states(ui, everything=failed, dry_run=dry_run)
    ]
    if hot:
        removed += [{"kind": "unpacked image", "what": what} for what in _free_images(ui, dry_run=dry_run)]
    if as_json:
        ui.emit_json({"dry_run": dry_run, "removed": removed, "stuck": stuck})
    else:
        for thing in removed:
            ui.verdict("ok", f"{'would remove' if dry_run else 'removed'} {thing['kind']} {thing['what']}")
        if not removed and not stuck:
            ui.verdict("ok", "there is nothing to remove")
    if stuck:
        raise LeftoversError(
            f"{len(stuck)} leftovers could not be removed",
            details="\n".join(stuck),
            resolution="end what uses them, then run it again",
        )


def _failed_states(ui: Ui, *, everything: bool, dry_run: bool) -> list[str]:
    """Forget what the retention does not keep (``lxcbuild shell --failed``), or everything, unless somebody looks at it."""
    from lxcbuild.builder.failed import failedstate
    from lxcbuild.config.retention import load_retention

    places = failedstate.kept(ui.dirs)
    if not everything:
        places = list(failedstate.superfluous(ui.dirs, load_retention().failed_states))
    return [str(place) for place in places if dry_run or failedstate.remove(ui.dirs, place)]


def _free_images(ui: Ui, *, dry_run: bool) -> list[str]:
    """Drop unpacked images and layers unless a build uses them (their archives stay); unmount the tmpfs when it is empty."""
    from lxcbuild.events import NullMonitor
    from lxcbuild.images.hot import HotStore
    from lxcbuild.linux import syscalls

    store = HotStore(ui.dirs, NullMonitor())
    freed = []
    for digest, path in store.digests().items():
        if dry_run or store.drop(digest):
            freed.append(str(path))
    if not dry_run and ui.dirs.hot.is_mount() and not any(ui.dirs.hot.iterdir()):
        syscalls.umount(str(ui.dirs.hot))
        freed.append(f"{ui.dirs.hot} (the tmpfs)")
    return freed
