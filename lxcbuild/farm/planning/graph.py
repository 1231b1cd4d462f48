"""Who needs whom in a plan, as an SVG drawn by graphviz."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from lxcbuild import process
from lxcbuild.errors import ToolMissingError
from lxcbuild.plan.document import Plan

#: Beyond this many nodes nobody sees anything, and dot takes minutes.
_MAX_NODES = 2000


def require() -> None:
    """Raises ToolMissingError where graphviz is not installed."""
    if shutil.which("dot") is None:
        raise ToolMissingError(
            "graphs are drawn by graphviz's dot, which is not installed", resolution="run: sudo apt install graphviz"
        )


def draw(plan: Plan, path: Path) -> None:
    """Write the drawing; raises CommandError when dot fails."""
    done = process.run(["dot", "-Tsvg"], input_bytes=to_dot(plan).encode(), timeout_s=300)
    path.write_bytes(done.stdout)


def to_dot(plan: Plan) -> str:
    """The graph in dot's language. In plans of many jobs, those that neither need anything nor are needed are left out."""
    needed = {other for job in plan.jobs.values() for other in job.needs}
    shown = [key for key, job in sorted(plan.jobs.items()) if len(plan.jobs) <= 60 or job.needs or key in needed]
    lines = ["digraph plan {", 'rankdir=LR; node [shape=box, fontname="sans-serif", fontsize=10];']
    for key in shown[:_MAX_NODES]:
        job = plan.jobs[key]
        label = "\n".join(f"{member.name} {member.version}" for member in job.members)
        style = ', style=filled, fillcolor="#f4d9a8"' if len(job.members) > 1 else ""
        dashed = "" if any(member.asked for member in job.members) else ", color=gray"
        lines.append(f"{json.dumps(key)} [label={json.dumps(label)}{style}{dashed}];")
    kept = frozenset(shown[:_MAX_NODES])
    for key in shown[:_MAX_NODES]:
        lines += [
            f"{json.dumps(key)} -> {json.dumps(other)};" for other in sorted(plan.jobs[key].needs) if other in kept
        ]
    return "\n".join([*lines, "}", ""])
