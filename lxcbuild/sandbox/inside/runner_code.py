"""The runner as it is laid into /dev of a sandbox: its source, and both halves compiled by the Python that runs this.

Standard library only: the launcher pool calls it once, and its launchers find the result in their memory. For images with
another Python see compiled.py.
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
from pathlib import Path
from types import CodeType

_HERE = Path(__file__).parent
_BOOT, _RUNNER, _STEP = "runner_boot.py", "runner.py", "runner_step.py"
#: The modules that are compiled, in the order in which runner_boot.py takes them out.
HALVES = (_RUNNER, _STEP)
#: As much as runner_boot.py reads of one file.
MAX_BYTES = 1 << 20


@functools.cache
def files() -> dict[str, bytes]:
    """Suffix of the name in /dev to content; the one without a suffix is what Python is told to run."""
    return {
        "": (_HERE / _BOOT).read_bytes(),
        ".py": (_HERE / _RUNNER).read_bytes(),
        ".code": importlib.util.MAGIC_NUMBER + marshal.dumps(tuple(_compiled(name) for name in HALVES)),
    }


def sources() -> dict[str, bytes]:
    """Name to source of :data:`HALVES`."""
    return {name: (_HERE / name).read_bytes() for name in HALVES}


def _compiled(name: str) -> CodeType:
    # Level 2 leaves documentation strings out; there are no assertions.
    return compile((_HERE / name).read_bytes(), name, "exec", optimize=2, dont_inherit=True)
