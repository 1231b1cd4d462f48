"""A private PostgreSQL server for tests: its own directory, a unix socket and nothing else, never as root."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def programs() -> Path | None:
    """Where initdb lies; Debian keeps it out of PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]), reverse=True)
    found = shutil.which("initdb")
    return places[0].parent if places else Path(found).parent if found else None


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Start one and give the URL of its database ``postgres``; stopped and removed at the end of the block."""
    place = programs()
    assert place is not None
    user = _somebody() if os.geteuid() == 0 else None
    root = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short: a socket's path has 107 bytes at most
    try:
        if user is not None:
            shutil.chown(root, user)

        def run(*argv: str | Path) -> None:
            done = subprocess.run(
                argv, user=user, group=None, extra_groups=[] if user else None, cwd=root, capture_output=True, text=True,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr

        data = root / "data"
        # A dictionary's order, where there is one: what we ask for must not depend on it.
        run(place / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync",
            "--locale-provider=icu", "--icu-locale=en-US")  # fmt: skip
        options = f"-c listen_addresses='' -c unix_socket_directories={root} -c fsync=off"
        run(place / "pg_ctl", "-D", data, "-w", "-l", root / "log", "-o", options, "start")
        try:
            yield f"postgresql://postgres@/postgres?host={root}"
        finally:
            run(place / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(root)


def _somebody() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
