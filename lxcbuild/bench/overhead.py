"""What the orchestrator itself costs: the CPU time of ``lxcbuild build``, without the programs and sandboxes that it starts."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct, field

from lxcbuild import process
from lxcbuild.bench.samples import Spread

#: The budget (docs/reference/performance.md).
MAX_CPU_MS = 400.0
_LIMIT_S = 1800.0
#: One command line as a process of its own; its CPU time, children not counted, goes to the file named first.
_CHILD = """\
import json, resource, sys
from lxcbuild.__main__ import main
where, *arguments = sys.argv[1:]
status = main(arguments)
used = resource.getrusage(resource.RUSAGE_SELF)
with open(where, "w") as file:
    json.dump([used.ru_utime, used.ru_stime], file)
sys.exit(status)
"""


class Overhead(Struct):
    """CPU milliseconds, one value a round: of whole builds, and of importing what every build imports."""

    build: list[float] = field(default_factory=list)
    imports: list[float] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether the budget is kept, by the median."""
        return Spread.of(self.build).median <= MAX_CPU_MS


def measure(arguments: Sequence[str], *, runs: int) -> Overhead:
    """``lxcbuild`` with these arguments, again and again, after one run that does not count: it fills caches and bytecode.

    Bytecode is kept in a directory of the measurement's own, as an installed package has it, whatever the environment says.
    Raises CommandError when a run fails.
    """
    found = Overhead()
    with tempfile.TemporaryDirectory(prefix="lxcbuild-bench-") as scratch:
        for number in range(runs + 1):
            build = _cpu_ms(arguments, Path(scratch))
            imports = _cpu_ms(["build", "--help"], Path(scratch))
            if number:
                found.build.append(build)
                found.imports.append(imports)
    return found


def _cpu_ms(arguments: Sequence[str], scratch: Path) -> float:
    told = scratch / "cpu.json"
    extra = {
        "PYTHONPYCACHEPREFIX": os.fspath(scratch / "bytecode"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    argv = (sys.executable, "-c", _CHILD, os.fspath(told), *arguments)
    done = process.run(argv, env=process.host_environment(extra), timeout_s=_LIMIT_S, check=False)
    if done.status != 0:
        raise process.failed(done)
    return float(sum(json.loads(told.read_text()))) * 1000
