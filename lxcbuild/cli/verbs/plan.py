"""``lxcbuild plan``: what would be built, in which order, and what it would cost; as a file that ``rebuild`` carries out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lxcbuild.cli.options import FILE, host_target, json_option, pass_ui, plan_options, request_like, require_root
from lxcbuild.cli.render import Ui
from lxcbuild.config.ranges import bytes_text, seconds_text
from lxcbuild.files import write_whole
from lxcbuild.model import Target

if TYPE_CHECKING:
    from lxcbuild.plan.document import Plan

#: Of the layers that come first, so many are told one by one.
_LAYERS_SHOWN = 10


@click.command()
@click.argument("requirements", nargs=-1, metavar="[REQUIREMENT]...")
@plan_options
@click.option("-o", "--output", type=FILE, help="File to write the plan to")
@click.option("--graph", type=FILE, help="SVG file to draw the graph of dependencies to")
@json_option
@pass_ui
def plan(
    ui: Ui,
    /,
    *,
    requirements: Sequence[str],
    files: Sequence[Path],
    targets: Sequence[Target],
    policy: str,
    output: Path | None,
    graph: Path | None,
    as_json: bool,
    **wanted: Any,
) -> int:
    """Plan many builds: versions, order, cost.

    A plan also says which projects are official and which need which. Read, edit or compare the file that -o writes;
    lxcbuild rebuild FILE carries it out.
    """
    if not requirements and not files:
        raise click.UsageError("nothing to plan: give projects or -r FILE")
    require_root("look into images")
    from lxcbuild.cli.planner import plan_for
    from lxcbuild.ledger.store import Ledger
    from lxcbuild.plan.document import dump_plan

    if graph is not None:
        from lxcbuild.farm.planning.graph import require

        require()  # told before the work, not after it
    targets = list(dict.fromkeys(targets)) or [host_target()]
    with ui.monitor() as monitor, Ledger.open(ui.dirs) as ledger:
        made = plan_for(
            requirements,
            files,
            targets,
            like=request_like({**wanted, "target": targets[0]}),
            policy=policy,
            dirs=ui.dirs,
            monitor=monitor,
            ledger=ledger,
        )
    text = dump_plan(made)
    _write(made, text, output, graph)
    _tell(ui, made, text, output, as_json=as_json)
    return 0


def _tell(ui: Ui, made: Plan, text: str, output: Path | None, *, as_json: bool) -> None:
    if as_json:
        import json

        ui.emit_json(json.loads(text))
    else:
        show(ui, made)
        if output is not None:
            ui.hint(f"lxcbuild rebuild {output}")


def _write(made: Plan, text: str, output: Path | None, graph: Path | None) -> None:
    if output is not None:
        write_whole(output, text, durable=False)
    if graph is not None:
        from lxcbuild.farm.planning.graph import draw

        draw(made, graph)


def show(ui: Ui, made: Plan) -> None:
    """The plan in some lines."""
    rows = []
    for target in made.targets:
        jobs = [job for job in made.jobs.values() if job.target == target]
        members = [member for job in jobs for member in job.members]
        rows.append(
            (
                target,
                len(members),
                sum(not member.asked for member in members),
                sum(len(job.members) > 1 for job in jobs),
                sum(item.target == target for item in made.official),
                sum(item.target == target for item in made.refused),
                seconds_text(sum(job.estimate.seconds for job in jobs)),
                bytes_text(max((job.estimate.memory_bytes for job in jobs), default=0)),
            )
        )
    columns = ("target", "builds", "only needed", "cycles", "official", "refused", "work", "hungriest")
    ui.table(columns, rows, right=columns[1:])
    for item in made.refused:
        ui.warn(f"{item.requirement} for {item.target}: {item.failure}: {item.brief}")
    classes = Counter(item.failure for item in made.refused)
    if len(made.refused) > 10:
        ui.say(f"refused: {', '.join(f'{name} {count}' for name, count in classes.most_common())}")
    unknown = sum(not member.requirements_known for job in made.jobs.values() for member in job.members)
    if unknown:
        ui.say(f"what {unknown} of them need is only known when they are built: more builds may follow")
    _show_layers(ui, made)
    if made.jobs:
        _say_how_long(ui, made)


def _show_layers(ui: Ui, made: Plan) -> None:
    """Which layers come first; the file has all packages of each."""
    for layer in made.layers[:_LAYERS_SHOWN]:
        below = set() if layer.parent is None else set(made.layers[layer.parent].packages)
        names = [each.partition("=")[0] for each in layer.packages if each not in below]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        on = "" if layer.parent is None else f" on layer {layer.parent + 1}"
        ui.say(
            f"layer to make first for {layer.target}{on}: {', '.join(names[:5])}{more}; "
            f"{layer.builds} builds use it, which saves about {seconds_text(layer.seconds_saved)}"
        )
    if len(made.layers) > _LAYERS_SHOWN:
        ui.say(f"and {len(made.layers) - _LAYERS_SHOWN} more layers, see the plan")


def _say_how_long(ui: Ui, made: Plan) -> None:
    """How long it would take here, by running the schedule against an estimate instead of a clock."""
    from lxcbuild.farm.simulation.makespan import makespan_here

    found = makespan_here(made)
    ui.say(f"about {seconds_text(found.seconds)} on this machine, {found.at_once} at once at most")
    ui.say(f"the longest chain takes {seconds_text(found.longest_s)}: {' > '.join(found.chain[:6])}")
