"""Set-up of log records: standard error only, text or JSON lines, quiet unless asked."""

from __future__ import annotations

import functools
import logging
import sys

from lxcbuild import log


def configure_logging(*, log_format: str, verbosity: int, plain: bool) -> None:
    """Send log records to standard error: warnings always, more with each ``-v``."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    configure = functools.partial(_configure_structlog, log_format=log_format, level=level, plain=plain)
    log.configure(level=level, configure_structlog=configure)


def _configure_structlog(*, log_format: str, level: int, plain: bool) -> None:
    import structlog

    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=not plain, exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks if log_format == "json" else structlog.dev.set_exc_info,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
