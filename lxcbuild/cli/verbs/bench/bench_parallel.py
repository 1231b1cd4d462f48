"""``lxcbuild bench parallel``: how the start of a sandbox grows with those that live, and with the files below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from lxcbuild.cli.options import host_target, json_option, pass_ui, policy_option, require_root, target_option
from lxcbuild.cli.render import Ui

if TYPE_CHECKING:
    from lxcbuild.bench.parallel import ParallelRuns
    from lxcbuild.model import Target


@click.command()
@target_option
@policy_option
@click.option(
    "--count", type=click.IntRange(1, 500), default=40, show_default=True, help="Number of sandboxes that live at once"
)
@click.option(
    "--files",
    "sizes",
    multiple=True,
    type=click.IntRange(0, 2_000_000),
    help="Start single sandboxes with this many more files; can be repeated",
)
@click.option("--runs", type=click.IntRange(1, 1000), default=10, show_default=True, help="Number of measured rounds")
@json_option
@pass_ui
def parallel(
    ui: Ui,
    /,
    *,
    target: Target | None,
    policy: str,
    count: int,
    sizes: Sequence[int],
    runs: int,
    as_json: bool,
) -> None:
    """Start many sandboxes that stay.

    Measured is what one more costs beside those that live, and the memory of each. --runs belongs to --files.
    """
    from lxcbuild.bench.machine import describe
    from lxcbuild.bench.parallel import measure, measure_trees
    from lxcbuild.config.policies import load_policy
    from lxcbuild.images.store import ImageStore

    require_root("start sandboxes")
    limits = load_policy(policy)
    with ui.monitor() as monitor:
        images = ImageStore(ui.dirs, monitor)
        try:
            image = images.ensure(target or host_target())
            if sizes:
                chosen = sorted(set(sizes))
                trees = measure_trees(ui.dirs, image=image.path, policy=limits, sizes=chosen, runs=runs)
            else:
                found = measure(ui.dirs, image=image.path, policy=limits, count=count)
        finally:
            images.close()
    machine = {"machine": describe(), "target": str(image.target)}
    if as_json:
        of_trees = {str(size): series for size, series in trees.items()} if sizes else {}
        ui.emit_json({**machine, "first_ms_by_files": of_trees} if sizes else {**machine, **msgspec.to_builtins(found)})
    elif sizes:
        _show_trees(ui, trees)
    else:
        _show_crowd(ui, found)


def _show_crowd(ui: Ui, found: ParallelRuns) -> None:
    count = len(found.first_ms)
    tenth = max(count // 10, 1)
    rows = [
        (
            f"{start + 1} to {min(start + tenth, count)}",
            f"{sum(part) / len(part):.1f}",
            f"{max(part):.1f}",
            f"{max(found.memory_bytes[start : start + tenth]) / (1 << 20):.1f}",
        )
        for start in range(0, count, tenth)
        if (part := found.first_ms[start : start + tenth])
    ]
    columns = ("live", "start ms", "slowest ms", "memory MiB")
    ui.table(columns, rows, right=columns[1:])
    ui.line(f"{found.host_bytes / (1 << 20):.1f} MiB of the machine for each; all stopped in {found.stop_ms:.0f} ms")


def _show_trees(ui: Ui, trees: Mapping[int, Sequence[float]]) -> None:
    from lxcbuild.bench.samples import Spread

    columns = ("more files", "min", "q1", "median ms", "q3", "max")
    rows = [(str(size), *Spread.of(series).texts(1)) for size, series in trees.items()]
    ui.table(columns, rows, right=columns[1:])
