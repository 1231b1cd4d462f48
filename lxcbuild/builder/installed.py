"""Sandboxes in which the packages just built are installed: what verification and a project's tests start from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from lxcbuild.builder.jobs import raise_failure, run_job
from lxcbuild.builder.work import Work
from lxcbuild.debian.checks import verification
from lxcbuild.debian.steps import DEBS
from lxcbuild.sandbox.base import Bind, ExtractedFile, Instance


def open_installed(
    work: Work,
    lowers: Sequence[Path],
    shown: Path,
    *,
    binds: Sequence[Bind] = (),
    reinstall: bool = False,
) -> Instance:
    """A sandbox above ``lowers``, and in it all packages of the directory ``shown``. Raises PhaseFailedError.

    What they declare is there, so that dpkg alone installs nearly all of them. Where it cannot, apt is asked in a fresh sandbox:
    it takes away what conflicts, knows the order that Pre-Depends want, and names what is missing.
    """
    binds = (Bind(host=shown, inside=DEBS), *binds)
    names = sorted(path.name for path in shown.iterdir())
    instance = work.open_sandbox(lowers, binds=binds)
    if run_job(work, instance, verification.install_job(names)).ok:
        return instance
    work.finish_sandbox()
    work.hear(b"lxcbuild: dpkg alone cannot install it; apt, in a fresh sandbox:\n")
    instance = work.open_sandbox(lowers, binds=binds)
    end = run_job(work, instance, verification.apt_install_job(names, reinstall=reinstall))
    if not end.ok:
        status = f"exit status {end.result.exit_status}"
        raise_failure(work, verification.classify_install_failure(end.tail, status=status))
    return instance


def hand_in(work: Work, debs: Sequence[ExtractedFile], *, name: str) -> Path:
    """A directory of that name with the binary packages only: all that the sandbox gets to see."""
    shown = work.workspace / name
    if shown.exists():  # what it forgot was learned, and it was built again
        shutil.rmtree(shown)
    shown.mkdir(mode=0o755)
    for item in debs:
        (shown / item.path.name).hardlink_to(item.path)
    return shown
