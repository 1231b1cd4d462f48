"""What YAML files come to, kept beside our bytecode as Python keeps that: reading them anew takes longer than a sandbox to start.

PyYAML and pydantic take 0.15 s of CPU to load, and most commands find every file as they left it. What is kept counts for the very
bytes of all files, this machine, and this version of the code that read them; anything else is read again. Whoever can write there
can change our code as well, so what is kept needs no more trust than that.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from lxcbuild import __version__

Value = TypeVar("Value")
_DIGEST_BYTES = 32
#: The modules that read, and the classes of what they read, as they are when this process loads them: one that was started before
#: an update keeps nothing that those of after it would take.
_CODE = [
    (code.name, (found := code.stat()).st_mtime_ns, found.st_size)
    for code in (*sorted(Path(__file__).parent.glob("*.py")), Path(__file__).parents[1] / "model.py")
]


def settled(
    kind: str, name: str, sources: Iterable[Path], make: Callable[[], Value], *, given: Sequence[object] = ()
) -> Value:
    """What ``make`` gives, from what an earlier process kept where possible; its errors are raised and never kept.

    ``sources`` are all files that it reads, ``given`` is what else decides. The value has to be picklable, of modules that load
    quickly. One value is kept per kind and name.
    """
    files = tuple(sources)
    key = _key(files, given)
    path = _place(kind, name)
    try:
        kept = path.read_bytes()
    except OSError:
        kept = b""
    head, body = kept[: 2 * _DIGEST_BYTES], kept[2 * _DIGEST_BYTES :]
    if head == key + hashlib.sha256(body).digest():  # it may have been cut by a power failure
        found: Value = pickle.loads(body)  # noqa: S301 - as bytecode, see above
        return found
    value = make()
    if not sys.dont_write_bytecode and key == _key(files, given):
        body = pickle.dumps(value)
        with contextlib.suppress(OSError):  # as Python does where it cannot write bytecode
            fresh = path.with_name(f"{path.name}.{os.getpid()}")
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(key + hashlib.sha256(body).digest() + body)
            fresh.replace(path)
    return value


def _place(kind: str, name: str) -> Path:
    plain = re.sub(r"[^a-z0-9.-]", "_", name.lower())[:100]
    stem = os.fspath(Path(__file__).with_name(f"settled-{kind}-{plain}.py"))
    return Path(importlib.util.cache_from_source(stem)).with_suffix(".settled")


def _key(files: Sequence[Path], given: Sequence[object]) -> bytes:
    hashed = hashlib.sha256(repr((__version__, _CODE, [os.fspath(path) for path in files], *given)).encode())
    for path in files:
        try:
            hashed.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            hashed.update(str(error.errno).encode())  # whoever reads it says what is wrong
    return hashed.digest()
