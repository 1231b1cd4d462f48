"""What ``shell --failed`` and ``capsule open`` share: a sandbox in the state of a failure, for a person or for one command."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from lxcbuild.cli.options import require_root
from lxcbuild.cli.render import Ui
from lxcbuild.errors import InputError, StateGoneError

if TYPE_CHECKING:
    from lxcbuild.builder.failed.reopen import Reopened
    from lxcbuild.images.hot import HotStore
    from lxcbuild.sandbox.base import Backend

_SHELL = "exec $(command -v bash || command -v sh) -i"


class Tools(Struct, frozen=True):
    """What opening a state needs. ``stop_showing`` ends the display of progress, which would draw over a shell."""

    backend: Backend
    hot: HotStore
    stop_showing: Callable[[], None]


@contextlib.contextmanager
def tools(ui: Ui) -> Iterator[Tools]:
    """A backend and the place of unpacked images; given back at the end of the block."""
    from lxcbuild.images.hot import HotStore
    from lxcbuild.sandbox.lxc import LxcBackend

    require_root("start a sandbox")
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(LxcBackend(ui.dirs))
        backend.prestart()
        shown = stack.enter_context(contextlib.ExitStack())
        hot = HotStore(ui.dirs, shown.enter_context(ui.monitor()))
        stack.callback(hot.close)
        yield Tools(backend, hot, shown.close)


def need_terminal(command: Sequence[str], *, again: bool) -> None:
    """Raise InputError when a shell is wanted and there is nobody to type."""
    if not command and not again and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError(
            "a shell needs a terminal", resolution="without one, add --again, or: -- COMMAND to run in that state"
        )


def newest_or(ui: Ui, given: str) -> str:
    """The id of the meant build, which may be shortened; "" is the newest kept state. Raises StateGoneError, UnknownBuildError."""
    from lxcbuild.builder.failed import failedstate

    states = failedstate.kept(ui.dirs)
    if not given:
        if not states:
            raise StateGoneError(
                "no state of a failed build is kept", resolution="kept are failures in a sandbox; see lxcbuild history"
            )
        return states[0].name
    found = [place.name for place in states if place.name.startswith(given) or place.name.endswith(f"-{given}")]
    if len(found) == 1:
        return found[0]
    if ui.dirs.has_ledger:
        from lxcbuild.ledger.store import Ledger

        with Ledger.open(ui.dirs) as ledger:
            return ledger.find(given).build_id
    return given


def use(ui: Ui, opened: Reopened, command: Sequence[str], *, again: bool, as_json: bool) -> int:
    """Hand the sandbox over: to a person, or to one command whose output is passed on; the exit status."""
    from lxcbuild.builder.failed.reopen import AGAIN

    state = opened.state
    failure = state.failure
    if not (command or again):
        ui.say(
            f"{state.name} {state.version} for {state.target}, build {state.build_id}, as it was when its command failed:"
        )
        ui.say(f"{failure.failure_class.value} in {failure.phase.value}: {failure.brief}")
        ui.say(f"the command, in {state.command.cwd}: {shlex.join(state.command.argv)}")
        ui.say(
            f"to repeat it: {AGAIN if opened.again else 'type it'}; leave with exit or Ctrl-D, then this copy is gone"
        )
        step = opened.step(("/bin/sh", "-c", _SHELL), extra_env={"TERM": "xterm", "PS1": r"\u@\h:\w\$ "})
        status = opened.instance.interact(step)
        if as_json:
            ui.emit_json({**_document(opened), "exit_status": status})
        return status
    return _run(ui, opened, command, as_json=as_json)


def _run(ui: Ui, opened: Reopened, command: Sequence[str], *, as_json: bool) -> int:
    from lxcbuild.cli.verbs.run import Show, exit_status

    show = Show(as_json=as_json)
    step = opened.step(command)
    result = opened.instance.run(step, show.feed)
    show.finish()
    if as_json:
        ui.emit_json(
            {
                **_document(opened),
                "command": list(step.argv),
                "exit_status": result.exit_status,
                "signal": result.signal,
                "stopped_by": None if result.stopped_by is None else result.stopped_by.value,
                "output": bytes(show.kept).decode(errors="replace"),
            }
        )
    return exit_status(result, opened.instance.spec.policy.name)


def _document(opened: Reopened) -> dict[str, Any]:
    return state_document(opened.state)


def state_document(state: Any) -> dict[str, Any]:
    """A kept state as data."""
    return {
        "id": state.build_id,
        "name": state.name,
        "version": state.version,
        "target": str(state.target),
        "phase": state.phase.value,
        "failure": {"class": state.failure.failure_class.value, "brief": state.failure.brief},
        "failed_command": list(state.command.argv),
        "directory": state.command.cwd,
        "environment": dict(state.command.env),
        "network": state.limits.network.value,
        "policy": state.limits.name,
        "lowers": [ref.key for ref in state.lowers],
        "kept_at": state.kept_at,
    }
