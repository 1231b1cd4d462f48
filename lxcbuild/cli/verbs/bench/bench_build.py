"""What ``lxcbuild bench build`` found, as a document and as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from lxcbuild.bench import samples
from lxcbuild.bench.builds import SAMPLES, Series
from lxcbuild.bench.samples import Spread, ratios
from lxcbuild.cli.render import Ui

if TYPE_CHECKING:
    from lxcbuild.bench.builds import Builds

_KIND = {sample.name: sample.kind for sample in SAMPLES}


def document(found: Builds, *, machine: dict[str, Any], target: str) -> dict[str, Any]:
    """Everything, with every single value."""
    return {
        "machine": machine,
        "target": target,
        "cold": any(series.cold for series in found.series.values()),
        "unit": "s",
        "samples": {
            name: {
                "kind": _KIND[name],
                **{key: samples.document(values) for key, values in _rows(series)},
                "phases": {phase: samples.document(values) for phase, values in series.phases.items()},
                "same_packages_as_plain": series.identical,
                "budgets": [{**msgspec.to_builtins(b), "holds": b.holds} for b in series.budgets(_KIND[name])],
            }
            for name, series in found.series.items()
        },
        "peers_made_in_s": found.peers_made_in_s,
        "absent": list(found.absent),
    }


def show(ui: Ui, found: Builds, machine: dict[str, Any]) -> None:
    """For people."""
    ui.line(
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['memory_gib']} GiB, Linux {machine['kernel']}, "
        f"load {machine['load_before']:.1f} to {machine['load_after']:.1f}; seconds"
    )
    columns = ("what", "min", "q1", "median", "q3", "max", "/ plain")
    for name, series in found.series.items():
        rows = []
        for key, values in (*_rows(series), *((f"  {phase}", v) for phase, v in series.phases.items())):
            ratio = f"{ratios(values, series.plain).median:.2f}"
            rows.append((f"{name} {key}", *Spread.of(values).texts(), ratio))
        ui.table(columns, rows, right=columns[1:])
        for budget in series.budgets(_KIND[name]):
            mark = "ok" if budget.holds else "fail"
            ui.verdict(mark, f"{name}: {budget.name}: {budget.value:.3f} (at most {budget.limit:.3f})")  # type: ignore[arg-type]
        same = "the plain build gave the same packages, bit for bit"
        ui.verdict("ok" if series.identical else "fail", f"{name}: {same}")
    for name in found.absent:
        ui.line(f"{name}: absent: not installed here")


def _rows(series: Series) -> Iterator[tuple[str, Sequence[float]]]:
    yield "whole", series.whole
    yield "without verification", series.unverified
    yield "bare, plain rules", series.plain
    yield "bare, lean rules", series.lean
    yield from series.peers.items()
