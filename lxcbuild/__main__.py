"""The entry point of ``lxcbuild`` and ``python -m lxcbuild``: the only place that turns errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status (see docs/reference/exit-codes.md)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:  # scripts ask it, and click alone takes longer than Python's start
        from lxcbuild import __version__

        sys.stdout.write(f"lxcbuild {__version__}\n")
        return 0
    from lxcbuild.cli.main import run_command_line

    return run_command_line(arguments)


if __name__ == "__main__":
    sys.exit(main())
