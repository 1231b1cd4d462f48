"""What ``lxcbuild rebuild`` says in the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from lxcbuild.cli.bulk_view import numbers, summary
from lxcbuild.cli.render import Ui, seconds_text
from lxcbuild.errors import BuildsFailedError, CancelledError

if TYPE_CHECKING:
    from lxcbuild.farm.progress import Picture
    from lxcbuild.farm.runs import Tally

#: Of each failure class, so many are named; the ledger has all.
_NAMED = 10


def conclude(ui: Ui, tally: Tally, picture: Picture, *, again: str, as_json: bool) -> int:
    """Print how the run has ended; the exit status."""
    if as_json:
        ui.emit_json(document(tally, picture))
    else:
        _print(ui, tally, picture, again)
    if tally.interrupted:
        return CancelledError.exit_code
    return BuildsFailedError.exit_code if tally.failures else 0


def document(tally: Tally, picture: Picture) -> dict[str, Any]:
    """The run as data."""
    return {
        "interrupted": tally.interrupted,
        "totals": {name: value for name, value in numbers(picture).items() if name not in ("running", "left_s")},
        "worker_cpu_s": round(tally.worker_cpu_s, 3),
        "worker_jobs": tally.worker_jobs,
        "jobs": {
            key: {
                "state": state.value,
                "reused": key in tally.reused,
                "builds": [ready.record.build_id for ready in tally.builds.get(key, ())],
                "failure": tally.failures[key].failure_class.value if key in tally.failures else None,
                "brief": tally.failures[key].brief if key in tally.failures else None,
            }
            for key, state in sorted(tally.states.items())
        },
    }


def _print(ui: Ui, tally: Tally, picture: Picture, again: str) -> None:
    by_class: dict[str, list[str]] = {}
    for key, failure in sorted(tally.failures.items()):
        by_class.setdefault(failure.failure_class.value, []).append(key)
    for name, keys in sorted(by_class.items(), key=lambda item: -len(item[1])):
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        ui.line(f"{name} {len(keys)}: {', '.join(keys[:_NAMED])}{more}")
    states = Counter(state.value for state in tally.states.values())
    ui.line(", ".join(f"{name} {count}" for name, count in sorted(states.items())) or "nothing to build")
    ui.say(f"{summary(picture)}; took {seconds_text(picture.elapsed_s)}")
    if tally.interrupted:
        ui.hint(again)
    elif tally.failures:
        ui.hint("lxcbuild history --status failed")
