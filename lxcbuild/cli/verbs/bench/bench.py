"""``lxcbuild bench``: measures this installation beside other programs, in one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from lxcbuild.bench.machine import describe
from lxcbuild.cli.options import host_target, json_option, pass_ui, policy_option, require_root, target_option
from lxcbuild.cli.render import Ui
from lxcbuild.cli.verbs.bench.bench_parallel import parallel
from lxcbuild.events import Note
from lxcbuild.model import Target

if TYPE_CHECKING:
    from lxcbuild.bench.start import Starts

_ROOMS = ("sbuild", "pbuilder", "cowbuilder")
_KINDS = ("pure", "extension", "debian")
_PEERS = ("lxc-execute", "bubblewrap", "runc", "crun", "unshare")


@click.group()
def bench() -> None:
    """Measure speed against budgets and peers.

    The budgets are those of docs/reference/performance.md.
    """


@bench.command()
@target_option
@policy_option
@click.option("--runs", type=click.IntRange(1, 1000), default=20, show_default=True, help="Number of measured rounds")
@click.option(
    "--peer", "peers", multiple=True, type=click.Choice(_PEERS), help="Program to compare with; can be repeated"
)
@json_option
@pass_ui
def start(ui: Ui, /, *, target: Target | None, policy: str, runs: int, peers: Sequence[str], as_json: bool) -> None:
    """Start sandboxes, beside other programs.

    Each sandbox is ended again; the others start containers, too. Each round runs every program once, so
    that a disturbance of the machine hits all. Exit status 0 means measured, not fast enough: the last table says which budgets
    hold.
    """
    from lxcbuild.bench.start import measure
    from lxcbuild.config.policies import load_policy
    from lxcbuild.images.store import ImageStore

    require_root("start sandboxes")
    limits = load_policy(policy)
    with ui.monitor() as monitor:
        images = ImageStore(ui.dirs, monitor)
        try:
            image = images.ensure(target or host_target())
            before = os.getloadavg()[0]
            found = measure(ui.dirs, image=image.path, policy=limits, runs=runs, peers=peers or _PEERS)
        finally:
            images.close()
    machine = {**describe(), "load_before": before, "load_after": os.getloadavg()[0]}
    if as_json:
        ui.emit_json(_document(found, machine=machine, target=str(image.target), policy=policy))
    else:
        _show(ui, found, machine)


@bench.command()
@click.argument("requirement", default="idna==3.10")
@target_option
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="Number of measured rounds")
@json_option
@pass_ui
def overhead(ui: Ui, /, *, requirement: str, target: Target | None, runs: int, as_json: bool) -> None:
    """Measure CPU time of the orchestrator alone.

    REQUIREMENT, a project or a directory, is built again and again. Programs and sandboxes that are started do not count. The
    builds are recorded like any other.
    """
    from lxcbuild.bench.overhead import MAX_CPU_MS, measure
    from lxcbuild.bench.samples import Spread
    from lxcbuild.state.paths import StateDirs

    require_root("start sandboxes")
    chosen = ("--target", str(target)) if target else ()
    root = ui.dirs.lib.parent
    place = ("--state-dir", str(root)) if StateDirs.choose(root) == ui.dirs else ()
    found = measure((*place, "build", requirement, "--force", "--rebuild", *chosen), runs=runs)
    series = {"build": Spread.of(found.build), "build --help": Spread.of(found.imports)}
    if as_json:
        document = {name: msgspec.to_builtins(spread) for name, spread in series.items()}
        ui.emit_json({"machine": describe(), "unit": "ms", "cpu": document, "limit": MAX_CPU_MS, "holds": found.holds})
        return
    columns = ("CPU ms", "min", "q1", "median", "q3", "max")
    ui.table(columns, [(name, *spread.texts()) for name, spread in series.items()], right=columns[1:])
    median = series["build"].median
    ui.verdict(
        "ok" if found.holds else "fail", f"orchestrator CPU per build: {median:.0f} ms (at most {MAX_CPU_MS:.0f} ms)"
    )


@bench.command(name="build")
@target_option
@click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True, help="Number of measured rounds")
@click.option(
    "--peer", "peers", multiple=True, type=click.Choice(_ROOMS), help="Program to compare with; can be repeated"
)
@click.option(
    "--sample", "kinds", multiple=True, type=click.Choice(_KINDS), help="Kind of package to build; can be repeated"
)
@click.option("--cold", is_flag=True, help="Start without layers, and with bare bases of other programs")
@json_option
@pass_ui
def builds(
    ui: Ui,
    /,
    *,
    target: Target | None,
    runs: int,
    peers: Sequence[str],
    kinds: Sequence[str],
    cold: bool,
    as_json: bool,
) -> None:
    """Build packages, beside other clean rooms.

    The packages are a pure Python project, one with a C extension, and a Debian source package. Each round builds each of them
    once bare, once here, and once in each clean room. Tests, lintian and debug packages are off everywhere. Exit status 0 means
    measured, not fast enough.
    """
    from lxcbuild.bench.builds import SAMPLES, measure
    from lxcbuild.cli.verbs.bench import bench_build

    require_root("start sandboxes")
    before = os.getloadavg()[0]
    with ui.monitor() as monitor:
        found = measure(
            ui.dirs,
            monitor,
            target=target or host_target(),
            runs=runs,
            peers=tuple(dict.fromkeys(peers)),
            samples=[sample for sample in SAMPLES if not kinds or sample.kind in kinds],
            cold=cold,
            progress=lambda text: monitor.emit(Note(text=text)),
        )
    machine = {**describe(), "load_before": before, "load_after": os.getloadavg()[0]}
    if as_json:
        ui.emit_json(bench_build.document(found, machine=machine, target=str(target or host_target())))
    else:
        bench_build.show(ui, found, machine)


bench.add_command(parallel)


def _document(found: Starts, *, machine: dict[str, Any], target: str, policy: str) -> dict[str, Any]:
    from lxcbuild.bench.samples import document

    return {
        "machine": machine,
        "target": target,
        "policy": policy,
        "unit": "ms",
        "lxcbuild": {name: document(series) for name, series in found.ours.items()},
        "without_network_first": document(found.without_network) if found.without_network else None,
        "guard": msgspec.to_builtins(guard) if (guard := found.guard()) else None,
        "memory_bytes": max(found.memory_bytes),
        "peers": {
            name: {
                "first": document(series),
                "whole": document(found.whole[name]),
                "ratio_first": msgspec.to_builtins(ratio) if (ratio := found.ratio(name)) else None,
            }
            for name, series in found.first.items()
        },
        "absent": list(found.absent),
        "budgets": [{**msgspec.to_builtins(budget), "holds": budget.holds} for budget in found.budgets()],
    }


def _show(ui: Ui, found: Starts, machine: dict[str, Any]) -> None:
    from lxcbuild.bench.samples import Spread
    from lxcbuild.bench.start import OURS

    ui.line(
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_gib']} GiB, Linux {machine['kernel']}, "
        f"load {machine['load_before']:.1f} to {machine['load_after']:.1f}; milliseconds"
    )
    columns = ("what", "min", "q1", "median", "q3", "max", "ours/theirs", "meaning")
    rows = [(f"lxcbuild {name}", *Spread.of(series).texts(), "", OURS[name]) for name, series in found.ours.items()]
    if (guard := found.guard()) is not None:
        rows.append(("network none, first", *Spread.of(found.without_network).texts(), "", "as first, without a guard"))
        rows.append(("guard", *guard.texts(), "", "the difference, round by round"))
    for name, series in found.first.items():
        ratio = found.ratio(name)
        rows.append((f"{name} first", *Spread.of(series).texts(), f"{ratio.median:.2f}" if ratio else "", "first byte"))
        rows.append((f"{name} whole", *Spread.of(found.whole[name]).texts(), "", "to its end"))
    rows += [(name, "-", "-", "-", "-", "-", "", "absent: not installed here") for name in found.absent]
    ui.table(columns, rows, right=columns[1:7])
    for budget in found.budgets():
        value = "not measured" if budget.value is None else f"{budget.value:.2f} {budget.unit}"
        mark = {True: "ok", False: "fail", None: "warn"}[budget.holds]
        ui.verdict(mark, f"{budget.name}: {value} (at most {budget.limit:g} {budget.unit})")  # type: ignore[arg-type]
