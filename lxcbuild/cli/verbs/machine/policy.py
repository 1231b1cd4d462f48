"""``lxcbuild policy``: which isolation policies there are, what they say, and what this host makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lxcbuild.cli.options import json_option, pass_ui
from lxcbuild.cli.render import Ui
from lxcbuild.errors import ConfigError, LimitRefusedError, LxcbuildError

if TYPE_CHECKING:
    from lxcbuild.policy import Policy
    from lxcbuild.sandbox.limits.enforcement import Limit, LimitPlan

_package = click.option("--package", metavar="NAME", help="Package whose overrides apply")


@click.group()
def policy() -> None:
    """Show, explain and check isolation policies.

    Policies are the files cgroups/*.yaml.
    """


@policy.command("list")
@json_option
@pass_ui
def list_(ui: Ui, /, *, as_json: bool) -> None:
    """List all policies.

    Those of the administrator are included.
    """
    from lxcbuild.config.policies import list_policies

    found = list_policies()
    if as_json:
        ui.emit_json({"policies": [_info(each) for each in found]})
        return
    rows = [(each.name, each.inherits or "-", str(each.files[-1]), each.description) for each in found]
    ui.table(("policy", "inherits", "file", "description"), rows)


@policy.command()
@click.argument("name", default="default")
@_package
@json_option
@pass_ui
def show(ui: Ui, /, *, name: str, package: str | None, as_json: bool) -> None:
    """Show a policy and what it inherits.

    Relative values are resolved for this machine.
    """
    from lxcbuild.config.policy_text import flat, value_text

    found = _load(name, package)
    table = flat(found)
    if as_json:
        ui.emit_json({"policy": found.name, "package": package, "limits": table})
        return
    ui.table(("limit", "value"), [(key, value_text(key, value)) for key, value in table.items()])


@policy.command()
@click.argument("name", default="default")
@_package
@json_option
@pass_ui
def explain(ui: Ui, /, *, name: str, package: str | None, as_json: bool) -> None:
    """Explain how this host enforces each limit.

    It also says why a limit cannot be enforced. Nothing is started. The record of a build says what was in force
    (lxcbuild history).
    """
    found = _load(name, package)
    plan, layout = _plan(ui, found)
    if as_json:
        ui.emit_json(
            {
                "policy": found.name,
                "package": package,
                "cgroup": layout,
                "enforceable": not plan.refused,
                "limits": [_limit(plan, each) for each in plan],
            }
        )
        return
    rows = [(each.name, _shown(each), _verdict(plan, each), each.how) for each in plan]
    ui.table(("limit", "value", "here", "how"), rows)
    for each in plan:
        if each.problem:
            ui.warn(f"{each.name}: {each.problem}")
            if each.fix:
                ui.hint(each.fix)
        elif each.note and ui.verbosity:
            ui.say(f"{each.name}: {each.note}")


@policy.command()
@click.argument("names", nargs=-1, metavar="[NAME|FILE]...")
@json_option
@pass_ui
def check(ui: Ui, /, *, names: tuple[str, ...], as_json: bool) -> None:
    """Check policies, by name or as files.

    A policy must be well-formed, and this host must be able to enforce it. Without arguments, all policies are checked. Exit
    status 0 means that everything is right.
    """
    from lxcbuild.state import data

    results: list[tuple[str, LxcbuildError | None]] = []
    for name in names or tuple(data.files("cgroups")):
        try:
            plan, _ = _plan(ui, _load(name, None))
            plan.require()
            results.append((name, None))
        except (ConfigError, LimitRefusedError) as error:
            results.append((name, error))
    failed = [wrong for _, wrong in results if wrong is not None]
    if as_json:
        from lxcbuild.cli.documents import error_document

        ui.emit_json(
            {
                "ok": not failed,
                "policies": [{"policy": name, "error": wrong and error_document(wrong)} for name, wrong in results],
            }
        )
    else:
        for name, wrong in results:
            ui.verdict("fail" if wrong else "ok", f"{name}: {wrong.brief}" if wrong else name)
    if failed:
        raise failed[0]


@policy.command()
@click.argument("first")
@click.argument("second")
@_package
@json_option
@pass_ui
def diff(ui: Ui, /, *, first: str, second: str, package: str | None, as_json: bool) -> None:
    """Show where two policies differ."""
    from lxcbuild.config.policy_text import flat, value_text

    one, two = flat(_load(first, package)), flat(_load(second, package))
    changed = [key for key in one if one[key] != two[key]]
    if as_json:
        ui.emit_json({"policies": [first, second], "differences": {key: [one[key], two[key]] for key in changed}})
        return
    rows = [(key, value_text(key, one[key]), value_text(key, two[key])) for key in changed]
    ui.table(("limit", first, second), rows)


def _load(name: str, package: str | None) -> Policy:
    """A policy by name, or from a file when the word is a path."""
    from lxcbuild.config.policies import load_policy, load_policy_file

    if "/" in name or name.endswith((".yaml", ".yml")):
        return load_policy_file(Path(name), package=package)
    return load_policy(name, package=package)


def _plan(ui: Ui, found: Policy) -> tuple[LimitPlan, str]:
    from lxcbuild.linux.cgroups.cgroup import CgroupHost
    from lxcbuild.sandbox.limits.enforcement import plan_limits

    host = CgroupHost.detect()
    return plan_limits(found, host, state_dir=ui.dirs.lib), host.layout


def _verdict(plan: LimitPlan, limit: Limit) -> str:
    if not limit.problem:
        return "enforced" if limit.value is not None else "-"
    return "best effort: not enforced" if plan.tolerates(limit.name) else "REFUSED"


def _shown(limit: Limit) -> str:
    from lxcbuild.config.policy_text import value_text
    from lxcbuild.linux.cgroups.cgroup import DEVICES

    return " ".join(DEVICES.values()) if limit.name == "devices" else value_text(limit.name, limit.plain)


def _limit(plan: LimitPlan, limit: Limit) -> dict[str, Any]:
    return {
        "name": limit.name,
        "value": limit.plain,
        "mechanism": limit.mechanism.value,
        "how": limit.how,
        "enforced": limit.problem is None and limit.value is not None,
        "best_effort": plan.tolerates(limit.name),
        "writes": [{"controller": w.controller, "file": w.file, "text": w.text} for w in limit.writes],
        "problem": limit.problem,
        "fix": limit.fix,
        "note": limit.note,
    }


def _info(info: Any) -> dict[str, Any]:
    return {
        "name": info.name,
        "description": info.description,
        "inherits": info.inherits,
        "files": [str(path) for path in info.files],
    }
