"""``lxcbuild doctor``: is this host fit, and did anything stay behind?"""

from __future__ import annotations

import click
import msgspec

from lxcbuild.cli.options import json_option, pass_ui, require_root
from lxcbuild.cli.render import Ui
from lxcbuild.errors import HostError, LeftoversError


@click.command()
@click.option("--leftovers", is_flag=True, help="Look for leftovers that no live build owns, instead")
@json_option
@pass_ui
def doctor(ui: Ui, /, *, leftovers: bool, as_json: bool) -> None:
    """Check this host, or look for leftovers.

    Exit status 0 means that nothing is missing (a warning is no failure), or that nothing was left behind.
    """
    if leftovers:
        _leftovers(ui, as_json=as_json)
    else:
        _host(ui, as_json=as_json)


def _host(ui: Ui, *, as_json: bool) -> None:
    from lxcbuild.host.checks import Check, check_host

    checks: list[Check] = []
    for check in check_host(ui.dirs):
        checks.append(check)
        if not as_json:
            ui.verdict(check.verdict, f"{check.name:<11} {check.says}")
            if check.fix is not None:
                ui.line(f"  {'':<11} fix: {check.fix}")
    failed = [check for check in checks if check.verdict == "fail"]
    if as_json:
        ui.emit_json({"ok": not failed, "checks": [msgspec.to_builtins(check) for check in checks]})
    if failed:
        needs = ", ".join(check.name for check in failed)
        raise HostError(f"this host is not ready: {needs}", resolution=failed[0].fix)
    if not as_json:
        ui.hint("this host is ready: lxcbuild build idna --force")


def _leftovers(ui: Ui, *, as_json: bool) -> None:
    from lxcbuild.host.leftovers import find_leftovers

    require_root("look into other processes")
    found = list(find_leftovers(ui.dirs))
    if as_json:
        listed = [{"kind": each.kind, "what": each.what} for each in found]
        ui.emit_json({"leftovers": listed, "failed_states": _failed_states(ui)})
    else:
        for each in found:
            ui.verdict("fail", f"{each.kind:<9} {each.what}")
    if ui.verbosity and ui.dirs.hot.is_mount():
        ui.say(f"{ui.dirs.hot} holds the images in memory, which is no leftover (lxcbuild gc --hot frees it)")
    _tell_failed_states(ui)
    if found:
        raise LeftoversError(f"{len(found)} leftovers were found", resolution="sudo lxcbuild gc")
    if not as_json:
        ui.verdict("ok", "nothing was left behind")


def _failed_states(ui: Ui) -> dict[str, int]:
    from lxcbuild.builder.failed import failedstate

    places = failedstate.kept(ui.dirs)
    return {"count": len(places), "bytes": sum(failedstate.size_bytes(place) for place in places)}


def _tell_failed_states(ui: Ui) -> None:
    """They are ours and on purpose, but whoever looks for what we keep should see them."""
    from lxcbuild.config.ranges import bytes_text

    kept = _failed_states(ui)
    if kept["count"]:
        ui.say(f"{kept['count']} failed states are kept on purpose, {bytes_text(kept['bytes'])} (lxcbuild gc --failed)")
