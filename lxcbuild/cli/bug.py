"""What a user sees of a bug: one line, and a file with the traceback."""

from __future__ import annotations

import tempfile
import time
import traceback
from pathlib import Path
from typing import ClassVar

from lxcbuild.errors import LxcbuildError
from lxcbuild.state.paths import StateDirs


class BugError(LxcbuildError):
    """An exception that nobody expected."""

    reference: ClassVar[str] = "bug"
    exit_code: ClassVar[int] = 70


def report_bug(error: Exception, dirs: StateDirs, *, show: bool) -> BugError:
    """Save the traceback below ``lib/crashes`` (or the temporary directory, for callers who may not write there)."""
    text = "".join(traceback.format_exception(error))
    path = _save(text, dirs.lib / "crashes")
    said = str(error).partition("\n")[0][:200]
    return BugError(
        f"this is a bug in lxcbuild: {type(error).__name__}: {said}",
        details=text if show else None,
        resolution=f"please report it with the file {path}"
        if path
        else "run it again with -v and report what it prints",
    )


def _save(text: str, directory: Path) -> Path | None:
    name = time.strftime("%Y%m%d-%H%M%S-", time.gmtime())
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        directory = Path(tempfile.gettempdir())
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=directory, prefix=f"lxcbuild-crash-{name}", suffix=".txt", delete=False
        ) as file:
            file.write(text)
    except OSError:
        return None
    return Path(file.name)
