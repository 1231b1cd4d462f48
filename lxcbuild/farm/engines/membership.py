"""Who may build for whom: what a member of a farm says of itself, and why a head gives a worker no work. Knows no Dask.

A farm is right when its workers give what its head would give. So every member says which lxcbuild it is, down to the code, and
which configuration it has: policies, recipes and overrides decide what comes out as much as code does. Base images are compared for
each target, because a worker may well have those of some targets only.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

import lxcbuild
from lxcbuild.errors import InputError
from lxcbuild.farm.certificates import Certificates
from lxcbuild.state.data import configuration_directory, shipped_directory


class WorkerMember(Struct, frozen=True, kw_only=True):
    """A machine as others of the farm see it: version with the digest of the code, and the digest of the configuration."""

    code: str
    configuration: str

    def refusal(self, worker: WorkerMember) -> str | None:
        """Why a head that is this member gives that worker no work; None when it does."""
        if worker.code != self.code:
            return f"it has lxcbuild {worker.code}, and this machine has {self.code}"
        if worker.configuration != self.configuration:
            place = configuration_directory()
            return f"its configuration in {place} ({worker.configuration}) differs from the one here ({self.configuration})"
        return None


def this_member() -> WorkerMember:
    """What this machine is."""
    package = Path(lxcbuild.__file__).parent
    shipped = [path for kind in ("rootfs", "cgroups") for path in _data(shipped_directory(kind))]
    code = _digest([(path, path.relative_to(package).as_posix()) for path in package.rglob("*.py")])
    data = _digest([(path, f"{path.parent.name}/{path.name}") for path in shipped])
    place = configuration_directory()
    own = _digest([(path, path.relative_to(place).as_posix()) for path in _data(place)])
    return WorkerMember(code=f"{lxcbuild.__version__}+{code}.{data}", configuration=own)


def _data(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()] if directory.is_dir() else []


def _digest(files: Iterable[tuple[Path, str]]) -> str:
    """Eight hexadecimal digits that differ where a file's name or content does."""
    digest = hashlib.sha256()
    for path, name in sorted(files, key=lambda pair: pair[1]):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:8]


def checked_address(address: str, certificates: Certificates | None, *, insecure: bool) -> str:
    """An address as Dask wants it, with its scheme; raises InputError for one that would be used without TLS."""
    text = address if "://" in address else f"{'tls' if certificates is not None else 'tcp'}://{address}"
    parts = urlsplit(text)
    if parts.scheme not in ("tls", "tcp") or not parts.hostname:
        raise InputError(
            f"{address[:200]!r} is not the address of a scheduler", resolution="for example: tls://head:8786"
        )
    if parts.scheme == "tls" and certificates is None:
        raise InputError(
            f"{address} needs certificates",
            resolution="use --certificates DIR; make them once: lxcbuild farm certificates DIR",
        )
    if parts.scheme == "tcp" and not insecure and not _is_loopback(parts.hostname):
        raise InputError(
            f"{address} would be used without TLS: whoever reaches it could run anything on every worker",
            resolution="make certificates (lxcbuild farm certificates DIR), copy them, and use --certificates DIR",
        )
    return text


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
