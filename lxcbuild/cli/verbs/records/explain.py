"""``lxcbuild explain``: why a build failed, what that means, and what helps."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from lxcbuild.cli.options import json_option, pass_ui
from lxcbuild.cli.render import Ui
from lxcbuild.config.ranges import bytes_text, seconds_text
from lxcbuild.errors import UnknownBuildError
from lxcbuild.ledger.records import BuildRecord
from lxcbuild.model import Failure, FailureClass, Phase, Status, Usage

_TAIL_BYTES = 1024 * 1024
_LINES = 10
#: Classes that say that a limit of the policy was met.
_LIMITS = frozenset(
    {
        FailureClass.OOM,
        FailureClass.DISK_FULL,
        FailureClass.PIDS_EXHAUSTED,
        FailureClass.TIMEOUT,
        FailureClass.SILENT,
        FailureClass.LOG_FLOOD,
    }
)
_HEADING = re.compile(r"^=== ([a-z]+) === \d{4}-\d{2}-\d{2}T[0-9:]{8}Z$", re.MULTILINE)


@click.command()
@click.argument("build_id", required=False, metavar="[ID]")
@json_option
@pass_ui
def explain(ui: Ui, /, *, build_id: str | None, as_json: bool) -> None:
    """Explain why a build failed and what helps.

    The explanation has the failure class, its meaning, the decisive lines of the log, and advice. ID is a build's id or the
    start of it. Without ID, the newest failed build is explained.
    """
    record = _record(ui, build_id)
    lines = decisive(record.log_path, record.failure) if record.failure is not None else []
    if as_json:
        ui.emit_json(_document(record, lines))
    else:
        _print(ui, record, lines)


def _record(ui: Ui, build_id: str | None) -> BuildRecord:
    if ui.dirs.has_ledger:
        from lxcbuild.ledger.store import Ledger

        with Ledger.open(ui.dirs) as ledger:
            if build_id is not None:
                return ledger.find(build_id)
            if newest := ledger.recent(limit=1, status=Status.FAILED.value, details=True):
                return newest[0]
    raise UnknownBuildError(
        "no failed build is recorded" if build_id is None else f"the ledger knows no build {build_id[:40]!r}",
        resolution="list the recorded ones: lxcbuild history",
    )


def decisive(log: Path | None, failure: Failure) -> list[str]:
    """At most ten lines that say why: of the failed phase's part of the log where it has any, else of the failure's details."""
    from lxcbuild.debian.source.decisive import decisive_lines

    text = "" if log is None else last_section(_tail(log), failure.phase)
    found = decisive_lines(text)[-_LINES:]
    return found or (failure.details or "").splitlines()[-_LINES:]


def _tail(path: Path) -> str:
    """The end of a log, as it was printed: hostile, and bounded here."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read(_TAIL_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def last_section(text: str, phase: Phase) -> str:
    """What stands below the last heading of that phase, up to the next heading; all of it where the heading is not there.

    What a build prints like a heading is marked in its log, and is none (sandbox/logs.py).
    """
    headings = list(_HEADING.finditer(text))
    for number in range(len(headings) - 1, -1, -1):
        if headings[number][1] == phase.value:
            end = headings[number + 1].start() if number + 1 < len(headings) else len(text)
            return text[headings[number].end() : end]
    return text


def _document(record: BuildRecord, lines: list[str]) -> dict[str, Any]:
    from lxcbuild.builder.failed.explanations import EXPLANATIONS

    failure = record.failure
    document: dict[str, Any] = {
        "id": record.build_id,
        "name": record.name,
        "version": record.version,
        "target": str(record.target),
        "status": record.status,
        "failure": None,
    }
    if failure is not None:
        text = EXPLANATIONS[failure.failure_class]
        document["failure"] = {
            "class": failure.failure_class.value,
            "phase": failure.phase.value,
            "brief": failure.brief,
            "details": failure.details,
            "lines": lines,
            "meaning": text.meaning,
            "retryable": failure.retryable,
            "retry": text.retry,
            "fix": failure.resolution or text.fix,
            "general_fix": text.fix,
        }
    return document | {"log": None if record.log_path is None else str(record.log_path)}


def _print(ui: Ui, record: BuildRecord, lines: list[str]) -> None:
    from lxcbuild.builder.failed.explanations import EXPLANATIONS

    ui.line(f"{record.name} {record.version} for {record.target}, build {record.build_id}: {record.status}")
    failure = record.failure
    if failure is None:
        ui.line("nothing failed")
        for note in _notes(record):
            ui.line(f"note:     {note}")
        return
    text = EXPLANATIONS[failure.failure_class]
    ui.line(f"{failure.failure_class.value} in {failure.phase.value}: {failure.brief}")
    for line in lines:
        ui.line(f"    {line}")
    ui.line(f"meaning:  {text.meaning}")
    ui.line(f"retry:    {text.retry}")
    if failure.failure_class in _LIMITS:
        ui.line(f"measured: {_measured(record)}")
    fixes = [failure.resolution or text.fix]
    if failure.resolution and failure.failure_class not in _LIMITS:  # where the one says all that the other does
        fixes.append(text.fix)
    for label, fix in zip(("fix:     ", "or:      "), fixes, strict=False):
        ui.line(f"{label} {fix}")
    for note in _notes(record):
        ui.line(f"note:     {note}")
    ui.hint(f"lxcbuild log {record.build_id}")
    if _state_is_kept(ui, record):
        ui.hint(f"look around where it failed: lxcbuild shell --failed {record.build_id}")


def _notes(record: BuildRecord) -> list[str]:
    """What helps to understand; what was fetched is one line, because the log and the provenance document list it."""
    fetched = [note for note in record.notes if " requirement from the index: " in note[:40]]
    told = [note for note in record.notes if note not in fetched]
    count = [f"requirements from the index: {len(fetched)}, listed in the log"] if fetched else []
    return [*told[-_LINES:], *count]


def _measured(record: BuildRecord) -> str:
    """What the failed phase took, by the kernel's counters."""
    usage = record.phases[-1].usage if record.phases else Usage()
    killed = f", {usage.oom_kills} killed for want of memory" if usage.oom_kills else ""
    return (
        f"{seconds_text(usage.wall_s)} ({seconds_text(usage.cpu_s)} of CPU), {bytes_text(usage.peak_memory_bytes)} of memory"
        f"{killed}, {bytes_text(usage.peak_disk_bytes)} written, {usage.peak_pids} processes"
    )


def _state_is_kept(ui: Ui, record: BuildRecord) -> bool:
    try:
        return (ui.dirs.failed / record.build_id / "state.json").exists()
    except PermissionError:  # what is kept is root's alone; the verb itself says what it needs
        return True
