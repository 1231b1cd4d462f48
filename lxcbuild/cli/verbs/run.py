"""``lxcbuild run``: any command in a fresh sandbox."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from lxcbuild.cli.options import json_option, pass_ui, policy_option, target_option
from lxcbuild.cli.render import Ui
from lxcbuild.errors import CancelledError, InputError, StoppedError
from lxcbuild.model import FailureClass, Target
from lxcbuild.policy import Policy
from lxcbuild.sandbox.base import ExtractedFile, Instance, Step, StepResult

_KEPT_BYTES = 1024 * 1024  # of the output, in the JSON document

_ADVICE = {
    FailureClass.TIMEOUT: "time.wall",
    FailureClass.SILENT: "time.silence",
    FailureClass.OOM: "memory.max",
    FailureClass.DISK_FULL: "disk.max or disk.max_inodes",
    FailureClass.PIDS_EXHAUSTED: "pids.max",
    FailureClass.LOG_FLOOD: "log.max",
}


@click.command(context_settings={"allow_interspersed_args": False})
@target_option
@policy_option
@click.option(
    "--in",
    "inputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="File or directory to show read-only as /in/NAME",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for the files that the command leaves in /out",
)
@json_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@pass_ui
def run(
    ui: Ui,
    /,
    *,
    target: Target | None,
    policy: str,
    inputs: Sequence[Path],
    out: Path | None,
    as_json: bool,
    command: Sequence[str],
) -> int:
    """Run a command in a fresh sandbox.

    It runs as an unprivileged user, without network. Its output is passed on as it comes. Its exit status is that of lxcbuild
    (128 + N after signal N).
    """
    from lxcbuild.cli.sandboxes import fresh_sandbox

    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is not a directory")
    with fresh_sandbox(ui, target=target, policy=policy, inputs=inputs, purpose="run") as (instance, image):
        show = Show(as_json=as_json)
        result = instance.run(Step(argv=tuple(command)), show.feed)
        show.finish()
        usage = instance.stop()
        files = [] if out is None else _collect(instance, out, instance.spec.policy)
        if as_json:
            ui.emit_json(
                {
                    "target": str(image.target),
                    "image_digest": image.digest,
                    "command": list(command),
                    "exit_status": result.exit_status,
                    "signal": result.signal,
                    "stopped_by": None if result.stopped_by is None else result.stopped_by.value,
                    "output": bytes(show.kept).decode(errors="replace"),
                    "output_bytes": result.output_bytes,
                    "output_truncated": result.output_truncated or result.output_bytes > len(show.kept),
                    "files": files,
                    "usage": msgspec.to_builtins(usage),
                    "limits_in_force": dict(instance.limits_in_force),
                }
            )
    return exit_status(result, policy)


class Show:
    """Passes output on: as it is to files and pipes, filtered to a terminal, and kept for the JSON document."""

    def __init__(self, *, as_json: bool) -> None:
        self.kept = bytearray()
        self._finish: Callable[[], str] | None = None
        if as_json:
            self.feed: Callable[[bytes], None] = self._keep
        elif sys.stdout.isatty():
            from lxcbuild.sandbox.logs import PrintableStream

            stream = PrintableStream()
            self._finish = stream.finish
            self.feed = lambda data: self._write_text(stream.feed(data))
        else:
            self.feed = self._write_bytes

    def finish(self) -> None:
        """Show an unfinished last line."""
        if self._finish is not None:
            self._write_text(self._finish())

    def _keep(self, data: bytes) -> None:
        self.kept += data[: max(0, _KEPT_BYTES - len(self.kept))]

    @staticmethod
    def _write_bytes(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    @staticmethod
    def _write_text(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _collect(instance: Instance, out: Path, policy: Policy) -> list[dict[str, Any]]:
    """Take /out, first to a directory of ours beside the wanted one, then by rename: nothing half-copied is seen."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".lxcbuild-") as scratch:
        found = instance.extract("/out", Path(scratch) / "out", policy.output)
        return [_place(file, out) for file in found]


def _place(file: ExtractedFile, out: Path) -> dict[str, Any]:
    destination = out / file.name
    destination.parent.mkdir(parents=True, exist_ok=True)
    file.path.replace(destination)
    return {"name": file.name, "path": str(destination), "sha256": file.sha256, "bytes": file.size_bytes}


def exit_status(result: StepResult, policy: str) -> int:
    """The command's own exit status, unless a limit or the user ended it."""
    if result.stopped_by is FailureClass.CANCELLED:
        raise CancelledError("cancelled")
    if result.stopped_by is not None:
        key = _ADVICE.get(result.stopped_by)
        raise StoppedError(
            f"the command was ended: {result.stopped_by.value}",
            resolution=f"choose a policy with a higher {key} than {policy!r} (--policy)"
            if key
            else "run: lxcbuild doctor",
        )
    return 128 + result.signal if result.signal else result.exit_status or 0
