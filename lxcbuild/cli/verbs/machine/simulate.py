"""``lxcbuild simulate``: how long a whole index would take on labs of several sizes, and what would hold it up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from lxcbuild.cli.options import json_option, pass_ui
from lxcbuild.cli.render import Ui
from lxcbuild.cli.verbs.machine.farm import Bytes
from lxcbuild.config.ranges import bytes_text, seconds_text

if TYPE_CHECKING:
    from lxcbuild.farm.simulation.simulate import Measured, Simulated


class Counts(click.ParamType[tuple[int, ...]]):
    """Numbers with commas between them."""

    name = "N,N..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read them."""
        try:
            found = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers with commas between them", param, ctx)
        if min(found) < 1:
            self.fail("a lab has at least one machine", param, ctx)
        return found


_COLUMNS = ("machines", "makespan", "CPUs busy", "at once", "builds/s", "busiest minute", "head CPU/build", "results/s")


@click.command()
@click.option(
    "--projects", type=click.IntRange(1, 5_000_000), default=600_000, show_default=True, help="Size of the index"
)
@click.option("--machines", type=Counts(), default="1,10,100", show_default=True, help="Numbers of machines")
@click.option("--cpus", type=click.FloatRange(1), default=16.0, show_default=True, help="Processors of each machine")
@click.option("--memory", type=Bytes(), default="64GiB", show_default=True, help="Memory of each machine")
@click.option("--more-needs", type=click.FloatRange(0), default=1.0, show_default=True, help="Factor on dependencies")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed from which the index is invented")
@click.option("--own-ledger", is_flag=True, help="Builds of the ledger instead of the shipped ones")
@json_option
@pass_ui
def simulate(
    ui: Ui,
    /,
    *,
    projects: int,
    machines: tuple[int, ...],
    cpus: float,
    memory: int,
    more_needs: float,
    seed: int,
    own_ledger: bool,
    as_json: bool,
) -> None:
    """Simulate the build of a whole index.

    The projects are invented and their builds come from measured ones. The planner and the schedule are the real ones.
    """
    from lxcbuild.farm.simulation import simulate as simulation

    measured = _measured(ui, own=own_ledger)
    begun = time.monotonic()
    index = simulation.invent_index(projects, measured, seed=seed, more_needs=more_needs)
    tasks, builds = simulation.plan_jobs(index, cpus=cpus)
    planning_s = time.monotonic() - begun
    found = []
    for count in machines:
        lab = simulation.Lab(machines=count, cpus=cpus, memory_bytes=memory)
        ui.say(f"{len(tasks)} jobs on {count} machines ...")
        found.append((count, simulation.simulate(tasks, builds, lab)))
    if as_json:
        runs = [{"machines": count, **msgspec.to_builtins(run)} for count, run in found]
        peak = simulation.peak_memory_bytes()
        ui.emit_json({"projects": projects, "planning_s": planning_s, "peak_memory_bytes": peak, "runs": runs})
        return
    rows = [_row(count, run) for count, run in found]
    ui.table(_COLUMNS, rows, right=_COLUMNS)
    run = found[0][1]
    ui.say(f"planned in {seconds_text(planning_s)}; the longest chain takes {seconds_text(run.longest_chain_s)}")
    ui.say("ended: " + ", ".join(f"{name} {count}" for name, count in run.ended.items()))
    ui.say(f"this process used {bytes_text(simulation.peak_memory_bytes())} of memory at most")


def _row(count: int, run: Simulated) -> tuple[object, ...]:
    return (
        count,
        seconds_text(run.makespan_s),
        f"{run.utilisation:.0%}",
        run.most_at_once,
        f"{run.builds_per_s:.2f}",
        run.busiest_minute,
        f"{run.head_cpu_s / run.starts * 1000:.2f} ms",
        bytes_text(run.result_bytes / run.makespan_s),
    )


def _measured(ui: Ui, *, own: bool) -> Measured:
    from lxcbuild.errors import InputError
    from lxcbuild.farm.simulation.simulate import Measured

    if not own:
        return Measured.shipped()
    from lxcbuild.ledger.store import Ledger

    with Ledger.open(ui.dirs) as ledger:
        measured = Measured.of(ledger.recent(limit=None, details=True))
    if not measured.builds or not measured.needs:
        raise InputError("this ledger has no finished builds to draw from", resolution="leave --own-ledger away")
    return measured
