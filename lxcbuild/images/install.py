"""One trusted installation: packages that the archive signed, in a sandbox without network, as the inner root."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from lxcbuild import files
from lxcbuild.errors import DiskFullError, ImageError
from lxcbuild.images.hot import GIB
from lxcbuild.model import FailureClass
from lxcbuild.policy import CpuLimits, DiskLimits, MemoryLimits, NetworkMode, Policy, TimeLimits
from lxcbuild.sandbox.base import Backend, Bind, InstanceSpec, Step, User

#: Goes into every layer's key: raise it when the installation below changes what ends up in a layer.
INSTALLER_VERSION = 1

#: The options of apt and dpkg that decide about the content of a layer.
OPTIONS = (
    "APT::Sandbox::User=root",
    "APT::Install-Recommends=false",
    "APT::Keep-Downloaded-Packages=false",
    "Dir::Cache::pkgcache=",
    "Dir::Cache::srcpkgcache=",
    "Dpkg::Use-Pty=false",
    "Dpkg::Options::=--force-unsafe-io",
    "Dpkg::Options::=--force-confold",
)

# Caches, logs and backups are not part of what was installed; the same packages must give the same layer.
_CLEAN = (
    "rm -rf /var/cache/apt/archives/*.deb /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old"
    " /var/cache/ldconfig/aux-cache /var/cache/man/* /etc/.pwd.lock"
    " && find /var/log -type f -delete && find /tmp /var/tmp -mindepth 1 -delete"
)


def provision_policy(download_bytes: int) -> Policy:
    """Limits of an installation of packages with that many compressed bytes: roomy, because the packages are trusted, but real."""
    total = files.memory()["MemTotal"]
    disk = max(GIB, download_bytes * 12)
    return Policy(
        name="provision",
        memory=MemoryLimits(max_bytes=min(disk + 2 * GIB, total * 3 // 4)),
        disk=DiskLimits(max_bytes=min(disk, total * 3 // 4), max_inodes=1_000_000),
        time=TimeLimits(wall_s=3600, silence_s=900),
        cpu=CpuLimits(weight=100),
        pids_max=4096,
        network=NetworkMode.NONE,
        seccomp="trusted",
        best_effort=frozenset({"*"}),
    )


@contextlib.contextmanager
def install(
    backend: Backend,
    *,
    instance_id: str,
    lowers: tuple[Path, ...],
    debs: Path,
    names: tuple[str, ...],
    download_bytes: int,
) -> Iterator[Callable[[Path], None]]:
    """Install the named files of ``debs`` on top of ``lowers``; yields the function that saves the difference to a directory.

    Raises :class:`ImageError` with the end of dpkg's output when the installation fails, :class:`DiskFullError`.
    """
    spec = InstanceSpec(
        instance_id=instance_id,
        lowers=lowers,
        policy=provision_policy(download_bytes),
        binds=(Bind(host=debs, inside="/in/debs"),),
    )
    tail: list[bytes] = []

    def hear(data: bytes) -> None:
        tail.append(data)
        del tail[:-200]

    with backend.create(spec) as instance:
        instance.start()
        result = instance.run(_step(names), hear)
        instance.stop()
        if not result.ok:
            said = b"".join(tail).decode(errors="replace")
            ended = result.stopped_by or f"status {result.exit_status}"
            kind = DiskFullError if result.stopped_by is FailureClass.DISK_FULL else ImageError
            raise kind(f"installing packages failed ({ended})", details="\n".join(said.splitlines()[-40:]))
        yield instance.save_delta


def _step(names: tuple[str, ...]) -> Step:
    options = " ".join(f"-o {option}" for option in OPTIONS)
    script = f'cd /in/debs && apt-get -y --no-remove --allow-downgrades {options} install "$@" && {_CLEAN}'
    return Step(
        argv=("/bin/sh", "-ec", script, "install", *(f"./{name}" for name in names)),
        env={"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true", "HOME": "/root"},
        cwd="/",
        user=User.ROOT,
    )
