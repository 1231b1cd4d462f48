"""The entry point of ``lxcbuild`` and ``python -m lxcbuild``: the only place that turns errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status (see docs/reference/exit-codes.md).

    Without ``argv`` this is the whole program: it takes the process's arguments, and ends the process.
    """
    if argv is not None:
        return _run(list(argv))
    _open_missing_streams()
    status = _run(sys.argv[1:])
    _end(status)
    return status


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:  # scripts ask it, and click alone takes longer than Python's start
        from lxcbuild import __version__

        try:
            sys.stdout.write(f"lxcbuild {__version__}\n")
            sys.stdout.flush()
        except OSError:
            pass  # what is wrong with the output is said below
        else:
            return 0
    from lxcbuild.cli.main import run_command_line

    return run_command_line(arguments)


def _open_missing_streams() -> None:
    """Standard streams that the caller has closed lead nowhere; the next file to be opened must not become one of them."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    import os

    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest free one
        os.set_inheritable(fd, True)  # noqa: FBT003 - takes no name
    os.close(fd)
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


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
