"""Loggers that bring structlog in with the first record that somebody will see.

``import structlog`` brings rich and asyncio along: 0.1 s of CPU, which the many runs that have nothing to say need not pay.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

_level = logging.WARNING  # also in processes that nobody has told yet: workers of a farm, helpers
_configure: Callable[[], None] | None = None
_lock = threading.Lock()


def configure(*, level: int, configure_structlog: Callable[[], None]) -> None:
    """Drop what is below ``level``; ``configure_structlog`` is called before the first record that is not."""
    global _level, _configure
    _level, _configure = level, configure_structlog


class Logger:
    """The part of structlog's loggers that we use. Any number of threads."""

    def debug(self, event: str, **values: object) -> None:
        """For ``-vv``."""
        self._emit("debug", logging.DEBUG, event, values)

    def warning(self, event: str, **values: object) -> None:
        """Seen without asking."""
        self._emit("warning", logging.WARNING, event, values)

    def exception(self, event: str, **values: object) -> None:
        """With the traceback of the exception that is being handled."""
        self._emit("exception", logging.ERROR, event, values)

    @staticmethod
    def _emit(method: str, level: int, event: str, values: dict[str, Any]) -> None:
        global _configure  # noqa: PLW0603 - see above
        if level < _level:
            return
        import structlog  # 75 ms with rich and asyncio

        with _lock:  # nobody writes before it is configured
            if _configure is not None:
                _configure()
                _configure = None
        getattr(structlog.get_logger(), method)(event, **values)
