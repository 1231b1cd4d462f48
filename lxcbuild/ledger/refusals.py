"""What SQLite and the file system refuse, in our words, with what to do about each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lxcbuild.errors import DiskFullError, LedgerError

#: For how long a writer waits for others, in seconds.
BUSY_S = 30


def named(error: BaseException | None, path: Path | str) -> LedgerError | DiskFullError:
    """Our error for one of the driver's, by SQLite's name of it (sqlite.org/rescode.html)."""
    code = str(getattr(error, "sqlite_errorname", ""))
    said = f"{error}"
    if code == "SQLITE_FULL":
        return DiskFullError(
            f"no space left for the ledger {path}", resolution="free some space, or choose another --state-dir"
        )
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return LedgerError(
            f"the ledger {path} is damaged: {said}",
            resolution=f"move it away (mv {path} {path}.damaged): a new one is made; packages and logs are not in it",
        )
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return LedgerError(f"the ledger {path} cannot be opened: {said}", resolution="run the same command with sudo")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LedgerError(
            f"the ledger {path} was busy for {BUSY_S} s: {said}", resolution=f"see who holds it: fuser -v {path}"
        )
    return LedgerError(f"the ledger {path} failed: {said}", details=str(error))


@contextmanager
def os_errors(path: Path | str) -> Iterator[None]:
    """Turn refusals of the file system into ledger errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no space left for the ledger {path}", resolution="free some space, or choose another --state-dir"
            ) from error
        raise LedgerError(
            f"the ledger {path} cannot be opened: {error.strerror}: {error.filename}",
            resolution="run the same command with sudo, or choose another --state-dir",
        ) from error
