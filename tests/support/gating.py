"""Packages before the output gate: the request for an honest one, and what the gate says of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec.structs

from lxcbuild.debian.gate.gate import GateReport, GateRequest, RuleSet, check
from tests.support import debs
from tests.support.debs import Entry

SITE = "./usr/lib/python3/dist-packages"
REQUEST = GateRequest(
    rules=RuleSet.PYTHON,
    source="python-demo",
    version="1.0-0~lxcbuild1~deb12",
    suite="bookworm",
    architecture="amd64",
    package="python3-demo",
    project="Demo",
    project_version="1.0",
)


def judge(
    tmp_path: Path,
    package: bytes | None = None,
    *,
    base: GateRequest = REQUEST,
    changes: dict[str, str] | None = None,
    **request: Any,
) -> GateReport:
    """What is said of this package, or of an honest one with changes to its set."""
    return check(msgspec.structs.replace(base, **request), debs.build(tmp_path, package, **(changes or {})))


def judged(
    tmp_path: Path,
    *entries: Entry,
    control: str = debs.CONTROL,
    scripts: dict[str, str] | None = None,
    **request: Any,
) -> GateReport:
    """What is said of an honest package with these entries more."""
    return judge(tmp_path, debs.deb(tree=[*debs.TREE, *entries], control=control, scripts=scripts), **request)


def rules(report: GateReport) -> set[str]:
    """The rules of what is fatal."""
    return {finding.rule for finding in report.findings if finding.fatal}
