"""How a script inside says what it found: one bounded JSON file in /out, also when it gives up."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

TYPE_CHECKING = False  # typing's own needs its import, which costs more than most of these scripts do
if TYPE_CHECKING:
    from typing import Any, NoReturn

REQUEST = Path("/lxcbuild/request.json")
OUT = Path("/out")
CLASSED_EXIT_STATUS = 3


class Refusal(Exception):  # noqa: N818 (it is an answer, not a bug)
    """The step ends here for a reason of the closed vocabulary."""

    def __init__(self, failure_class: str, brief: str, details: str | None = None) -> None:
        super().__init__(brief)
        self.failure_class = failure_class
        self.brief = brief
        self.details = details


def refuse(failure_class: str, brief: str, details: str | None = None) -> NoReturn:
    """Give up with a class of the closed vocabulary."""
    raise Refusal(failure_class, brief, details)


def clip(value: object, limit: int = 4000) -> str | None:
    """A text of at most ``limit`` characters that any JSON reader takes, or None for what is no text."""
    if not isinstance(value, str):
        return None
    return value[:limit].encode("utf-8", "replace").decode("utf-8")


def clip_all(values: object, *, count: int = 500, limit: int = 1000) -> list[str]:
    """The texts of a list, bounded in number and size."""
    if not isinstance(values, (list, tuple)):
        return []
    return [text for text in (clip(value, limit) for value in values[:count]) if text is not None]


def say(text: str) -> None:
    """A line for the build log."""
    sys.stderr.write(f"lxcbuild: {text}\n")
    sys.stderr.flush()


def read_request() -> dict[str, Any]:
    """What the host asked for."""
    document = json.loads(REQUEST.read_text("utf-8"))
    assert isinstance(document, dict)
    return document


def write_result(name: str, document: dict[str, Any]) -> None:
    """Leave the result where the host collects it."""
    (OUT / name).write_text(json.dumps(document, ensure_ascii=True), "ascii")


def answer(result_name: str, work: Callable[[], dict[str, Any]], *, fallback_class: str) -> int:
    """Run ``work`` and leave its result; exit status 0, or 3 with the failure in the result.

    A lack of room is no property of the package, so ENOSPC and MemoryError pass through: the sandbox counts those itself.
    """
    os.umask(0o022)
    try:
        document = work()
    except Refusal as refusal:
        say(refusal.brief)
        failure = {
            "class": refusal.failure_class,
            "brief": clip(refusal.brief, 500),
            "details": clip(refusal.details, 8000),
        }
        write_result(result_name, {"schema": 1, "failure": failure})
        return CLASSED_EXIT_STATUS
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EIO):
            raise
        import traceback

        traceback.print_exc()
        brief = f"{type(error).__name__}: {error}"
        write_result(
            result_name,
            {"schema": 1, "failure": {"class": fallback_class, "brief": clip(brief, 500), "details": None}},
        )
        return CLASSED_EXIT_STATUS
    write_result(result_name, {"schema": 1, **document})
    return 0
