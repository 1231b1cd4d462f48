"""The entry point of ``lxcbuild`` and ``python -m lxcbuild``: the only place that turns errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status (see docs/reference/exit-codes.md)."""
    from lxcbuild.cli.main import run_command_line

    return run_command_line(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
