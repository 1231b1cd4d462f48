"""The runner as it is laid into /dev of a sandbox: its source, and both halves compiled by the Python that runs this.

Standard library only: the nursery calls it once, and its launchers find the result in their memory.
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
from pathlib import Path
from types import CodeType

_HERE = Path(__file__).parent
_BOOT, _RUNNER, _STEP = "runner_boot.py", "runner.py", "runner_step.py"


@functools.cache
def files() -> dict[str, bytes]:
    """Suffix of the name in /dev to content; the one without a suffix is what Python is told to run."""
    return {
        "": (_HERE / _BOOT).read_bytes(),
        ".py": (_HERE / _RUNNER).read_bytes(),
        ".code": importlib.util.MAGIC_NUMBER + marshal.dumps((_compiled(_RUNNER), _compiled(_STEP))),
    }


def _compiled(name: str) -> CodeType:
    # Level 2 leaves documentation strings out; there are no assertions.
    return compile((_HERE / name).read_bytes(), name, "exec", optimize=2, dont_inherit=True)
