"""Lintian on request: in a sandbox of its own, because it reads what hostile code has made."""

from __future__ import annotations

from lxcbuild.builder.facts import Compiled, Laid, LaidPackage
from lxcbuild.builder.failures import fail
from lxcbuild.builder.jobs import result_bytes, run_job, take_output
from lxcbuild.builder.work import Work
from lxcbuild.debian.checks import lintian
from lxcbuild.model import FailureClass, Phase
from lxcbuild.sandbox.base import Bind

_TOLD = 20


def run(work: Work, laid: Laid | LaidPackage, compiled: Compiled) -> None:
    """Set ``work.checks["lintian"]``; raises ``gate-rejected`` for errors about packaging that was generated here."""
    layer = work.provide(laid.project.resolved.image, lintian.PACKAGES)
    place = work.workspace / "lintian-in"
    place.mkdir(mode=0o755)
    for item in compiled.files:  # a .dsc is judged with the files that it names
        (place / item.path.name).hardlink_to(item.path)
    names = [item.name for item in compiled.files if item.name.endswith((".deb", ".dsc"))]
    instance = work.open_sandbox(layer.lowers, binds=(Bind(host=place, inside=lintian.BUILT),))
    end = run_job(work, instance, lintian.lintian_job(names))
    files = take_output(work, instance, work.workspace / "lintian")
    if not end.ok:
        raise fail(
            FailureClass.SANDBOX_FAILED,
            Phase.VERIFY,
            f"lintian itself failed (exit status {end.result.exit_status})",
            details=end.tail.decode("utf-8", "replace")[-2000:],
        )
    work.finish_sandbox()
    found = lintian.parse_lintian(result_bytes(files, lintian.RESULT))
    _judge(work, found, ours=isinstance(laid, Laid))


def _judge(work: Work, found: tuple[lintian.LintianHint, ...], *, ours: bool) -> None:
    errors = [item for item in found if item.level == "E"]
    warnings = [item for item in found if item.level == "W"]
    # Of a package that brings its own debian/ nothing is our fault.
    fatal = [item for item in errors if item.fatal and ours]
    work.checks["lintian"] = {
        "errors": [str(item) for item in errors],
        "warnings": [str(item) for item in warnings],
        "fatal": [str(item) for item in fatal],
    }
    work.note(f"lintian: {len(errors)} errors, {len(warnings)} warnings")
    for item in errors[:_TOLD]:
        work.note(f"lintian: {item}", warning=True)
    if fatal:
        raise fail(
            FailureClass.GATE_REJECTED,
            Phase.VERIFY,
            f"lintian refuses the packaging: {fatal[0]}",
            details="\n".join(str(item) for item in fatal),
            resolution="report it: the packaging is lxcbuild's own; without --lintian the package is built",
        )
