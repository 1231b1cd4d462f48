"""The first thing that PID 1 executes: finds the runner compiled, or compiles it.

To compile ``runner.py`` and ``runner_step.py`` takes 6 ms of every start. So the launcher lays both beside this script, compiled by
the host's Python; they are used when the image's Python has the same bytecode, else the source is. ``marshal`` is safe here:
the directory is read-only, and what lies there is ours (see tree.py).
"""

import posix
from _frozen_importlib_external import MAGIC_NUMBER


def read(name: str) -> bytes:
    """A whole file, without the layers of ``open``."""
    fd = posix.open(name, posix.O_RDONLY | posix.O_CLOEXEC)
    data = posix.read(fd, 1 << 20)
    posix.close(fd)
    return data


compiled = read(__file__ + ".code")
if compiled[:4] == MAGIC_NUMBER:
    from marshal import loads

    runner, step = loads(compiled[4:])  # noqa: S302
    exec(runner, {"__name__": "__main__", "STEP_CODE": step})  # noqa: S102
else:
    exec(compile(read(__file__ + ".py"), "runner.py", "exec"), {"__name__": "__main__"})  # noqa: S102
