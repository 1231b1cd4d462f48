"""How lxcbuild speaks: data on standard output, talk on standard error; rich on a terminal, plain lines elsewhere.

Text that hostile code may have touched (log lines, names, failure details) goes through ``text.for_terminal`` only.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field

from lxcbuild.cli.documents import error_document, plain_value
from lxcbuild.errors import LxcbuildError
from lxcbuild.state.paths import StateDirs
from lxcbuild.text import for_terminal

if TYPE_CHECKING:
    import click

    from lxcbuild.events import Monitor
    from lxcbuild.model import Failure

Mark = Literal["ok", "warn", "fail", "info"]
_MARKS: dict[str, tuple[str, str]] = {"ok": ("✓", "32"), "warn": ("!", "33"), "fail": ("✗", "31"), "info": ("·", "2")}
_SHORT_DETAILS = 4  # lines of details that are shown without -v


class Ui(Struct):
    """What every verb gets: where state lives, and how to speak. One per command line."""

    json: bool = False
    dirs: StateDirs = field(default_factory=StateDirs.choose)
    log_format: str = "text"
    verbosity: int = 0
    plain: bool = field(default_factory=lambda: bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb")
    printed_document: bool = False

    # -- data: standard output ----------------------------------------------------------------------------------

    def emit_json(self, document: Mapping[str, Any]) -> None:
        """Print the one JSON document of a ``--json`` run."""
        assert not self.printed_document, "a command prints one document"
        self.printed_document = True
        json.dump(document, sys.stdout, indent=2, default=plain_value, ensure_ascii=not _is_utf8(sys.stdout))
        sys.stdout.write("\n")

    def line(self, text: str = "") -> None:
        """Print one line of data."""
        sys.stdout.write(f"{for_terminal(text)}\n")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
        """Print a table: aligned for people on a terminal, tab-separated without decoration elsewhere.

        ``right`` names the columns that are set flush right (numbers).
        """
        cells = [[for_terminal(str(cell)).replace("\n", " ") for cell in row] for row in rows]
        if not sys.stdout.isatty():
            for row in ([*columns], *cells):
                sys.stdout.write("\t".join(row) + "\n")
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold" if not self.plain else "")
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        Console(no_color=self.plain, highlight=False).print(table)

    # -- talk: standard error -----------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Tell people something, on standard error."""
        self._talk("note", text, None)

    def warn(self, text: str) -> None:
        """Tell people something that they should act on."""
        self._talk("warning", text, "33")

    def hint(self, text: str) -> None:
        """Tell people what to do next."""
        self._talk("hint", text, "36")

    def verdict(self, mark: Mark, text: str) -> None:
        """Print one line with a mark of success or failure, as data."""
        sign, colour = _MARKS[mark]
        shown = self._paint(sign, colour, sys.stdout) if _is_utf8(sys.stdout) else f"[{mark}]"
        sys.stdout.write(f"{shown} {for_terminal(text)}\n")

    def error(self, error: LxcbuildError) -> None:
        """Print an error: what is wrong, details when short or asked for, and how to mend it."""
        if self.json and not self.printed_document:
            self.emit_json({"error": error_document(error)})
        if self.log_format == "json":
            self._json_line({"event": "error", **error_document(error)})
            return
        self._explain(error.brief, error.details, error.resolution)

    def failure(self, failure: Failure) -> None:
        """Print why a build failed: its class and phase, what is known, how to mend it. The log is the caller's to name."""
        where = f"{failure.failure_class.value} in {failure.phase.value}: {failure.brief}"
        self._explain(where, failure.details, failure.resolution)

    def _explain(self, brief: str, details: str | None, resolution: str | None) -> None:
        self._talk("error", brief, "31;1")
        lines = (details or "").splitlines()
        if lines and (self.verbosity or len(lines) <= _SHORT_DETAILS):
            for detail in lines:
                sys.stderr.write(f"  {for_terminal(detail)}\n")
        elif lines:
            sys.stderr.write(
                f"  {for_terminal(lines[-1])[:200]}\n  ({len(lines)} lines of details: run again with -v)\n"
            )
        if resolution:
            self.hint(resolution)

    def usage_error(self, error: click.ClickException) -> None:
        """Print what is wrong with the command line itself."""
        import click

        message = error.format_message()
        document = {"reference": "usage", "brief": message, "details": None, "resolution": None, "exit_code": 2}
        if self.json and not self.printed_document:
            self.emit_json({"error": document})
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            sys.stderr.write(f"{message}\n")
            return
        self._talk("error", message, "31;1")
        context = getattr(error, "ctx", None)
        if context is not None:
            self.hint(f"run: {context.command_path} --help")

    @contextlib.contextmanager
    def monitor(self) -> Iterator[Monitor]:
        """A monitor that shows builds as they go: live on a terminal, lines elsewhere, JSON lines on request."""
        from lxcbuild.cli import monitors

        if self.log_format == "json":
            yield monitors.JsonLines(sys.stderr)
        elif sys.stderr.isatty() and not self.plain:
            from lxcbuild.cli.live import Live

            with Live(verbose=self.verbosity > 0) as live:
                yield live
        else:
            yield monitors.PlainLines(sys.stderr, verbose=self.verbosity > 0)

    # -- inner --------------------------------------------------------------------------------------------------

    def _talk(self, kind: str, text: str, colour: str | None) -> None:
        if self.log_format == "json":
            self._json_line({"event": kind, "text": text})
            return
        first, *rest = for_terminal(text).split("\n")
        label = "" if kind == "note" else self._paint(f"{kind}:", colour, sys.stderr) + " "
        sys.stderr.write("\n".join([f"{label}{first}", *(f"  {line}" for line in rest)]) + "\n")
        sys.stderr.flush()

    @staticmethod
    def _json_line(document: Mapping[str, Any]) -> None:
        sys.stderr.write(json.dumps(document, default=plain_value) + "\n")
        sys.stderr.flush()

    def _paint(self, text: str, colour: str | None, stream: Any) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if colour and not self.plain and stream.isatty() else text


def _is_utf8(stream: Any) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
