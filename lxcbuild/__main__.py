"""The entry point of ``lxcbuild`` and ``python -m lxcbuild``: the only place that turns errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status (see docs/reference/exit-codes.md).

    Without ``argv`` this is the whole program: it takes the process's arguments, and ends the process.
    """
    status = _run(sys.argv[1:] if argv is None else list(argv))
    if argv is None:
        _end(status)
    return status


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:  # scripts ask it, and click alone takes longer than Python's start
        from lxcbuild import __version__

        sys.stdout.write(f"lxcbuild {__version__}\n")
        return 0
    from lxcbuild.cli.main import run_command_line

    return run_command_line(arguments)


def _end(status: int) -> None:
    """End as an interpreter does, but without freeing some hundred modules first: 40 ms of every command.

    Threads are waited for and what was registered is called, as in ``Py_FinalizeEx``; its exit status for a full disk is 120.
    """
    import atexit
    import os

    if (threading := sys.modules.get("threading")) is not None:
        threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    except OSError:
        status = status or 120
    os._exit(status)


if __name__ == "__main__":
    main()
