"""A pytest plugin for guests: one JSON line per test, on the port that leads to the host."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

PORT = os.environ.get("LXCBUILD_GUEST_PORT", "/dev/stdout")


def tell(**facts: Any) -> None:
    """Send one line to the host, at once: a guest that dies later has said it."""
    with Path(PORT).open("w") as port:
        port.write(json.dumps(facts) + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Set-ups and tear-downs are told only when they did not go well."""
    if report.when == "call" or report.outcome != "passed":
        reason = "" if report.outcome == "passed" else str(report.longrepr)[-6000:]
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2]
        tell(
            test=report.nodeid,
            when=report.when,
            outcome=report.outcome,
            seconds=round(report.duration, 2),
            reason=reason,
        )
