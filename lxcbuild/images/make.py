"""Making a base image: one run of mmdebstrap, configured by us, cut off from the rest of the host."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from lxcbuild import files, process
from lxcbuild.config.recipes import Recipe
from lxcbuild.debian.archive import sources
from lxcbuild.debian.archive.aptroot import unreachable
from lxcbuild.errors import ConfigError, DiskFullError, HostError, ImageError, LxcbuildError, NetworkError
from lxcbuild.events import Monitor, Note
from lxcbuild.images import pack
from lxcbuild.images.hot import GIB, memory_floor_bytes
from lxcbuild.images.image import STATUS_FILE, ImageRecord, python_version_of, read_status
from lxcbuild.model import Target

#: What is left out of images and layers alike. The directories stay (postinst scripts of some packages want them), licences stay,
#: and so do the object inventories that documentation builds refer to.
DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-include=/usr/share/doc/*.inv",
    "path-exclude=/usr/share/locale/*/LC_MESSAGES/*",
)

_KEYRING_PACKAGES = {"debian": "debian-archive-keyring", "ubuntu": "ubuntu-keyring"}

#: Lets usr-is-merged be installed instead of usrmerge, whose Perl would hide missing dependencies of packages.
_MERGED_USR_HOOKS = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")

#: Space for the unpacked tree and the downloaded packages while an image is made.
_WORK_BYTES = 2 * GIB

# Dies with its caller, takes all its descendants along, and unpacks into a tmpfs of its own: a killed make leaves nothing.
_PRIVATE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")
_IN_TMPFS = 'mount -t tmpfs -o size=2g,mode=1777,nosuid,nodev lxcbuild-make /mnt && TMPDIR=/mnt exec "$@"'
_SOURCE_MARK = "lxcbuild-source: "
_ON_DISK = 'TMPDIR=/var/tmp exec "$@"'


class MakePlan(Struct, frozen=True, kw_only=True):
    """All that decides what an image becomes; pure data, so that it can be shown without making anything."""

    recipe: Recipe
    target: Target
    mode: str
    keyring: Path | None
    sources: tuple[str, ...]  # empty: mmdebstrap's built-in defaults
    options: tuple[str, ...]
    hooks: tuple[str, ...]  # shell text

    def argv(self) -> list[str]:
        """The mmdebstrap command: sources on standard input, a tar on standard output."""
        recipe = self.recipe
        command = [
            "mmdebstrap",
            f"--mode={self.mode}",
            "--format=tar",
            f"--variant={recipe.variant}",
            f"--architectures={self.target.architecture}",
            f"--components={','.join(recipe.components)}",
            # LXC makes /dev; device nodes in an image would only be a risk.
            "--skip=output/dev",
        ]
        if recipe.packages:
            command.append(f"--include={','.join(recipe.packages)}")
        if "usr-is-merged" in recipe.packages and _MERGED_USR_HOOKS.is_dir():
            command.append(f"--hook-dir={_MERGED_USR_HOOKS}")
        if self.keyring is not None:
            command.append(f"--keyring={self.keyring}")
        command += [f"--aptopt={option}" for option in (*self.options, 'Acquire::Languages "none"')]
        command += [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
        # Before the hooks that clean up: the sources that were really used, defaults included, go into the record.
        command.append(f"--customize-hook=sed 's/^/{_SOURCE_MARK}/' \"$1/etc/apt/sources.list\" >&2")
        command += [f"--customize-hook={hook}" for hook in self.hooks]
        command.append(recipe.suite)
        command.append("-")
        if self.sources:
            command.append("-")
        return command


def plan(recipe: Recipe, target: Target) -> MakePlan:
    """Decide how the image will be made on this host; raises ConfigError, ToolMissingError."""
    keyring = sources.keyring_path(recipe)
    if recipe.keyring and keyring is None:
        raise HostError(
            f"the keyring {recipe.keyring} of {target} is not on this host",
            resolution=f"install {_KEYRING_PACKAGES.get(recipe.distribution, 'the package that has it')}, or name another "
            f"keyring in /etc/lxcbuild/rootfs/{target.image_name}.yaml",
        )
    return MakePlan(
        recipe=recipe,
        target=target,
        mode=choose_mode(),
        keyring=keyring,
        sources=sources.source_lines(recipe, sources.host_mirrors(), keyring=keyring),
        options=tuple(option.rstrip(";") for option in sources.inherited_options()),
        hooks=tuple(_hook_text(path) for path in recipe.hook_paths()),
    )


def _hook_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigError(f"the hook {path} of a recipe cannot be read: {error.strerror}") from error


def choose_mode() -> str:
    """``unshare`` where root has subordinate ids and user namespaces (maintainer scripts are not root), else ``root``."""
    if not any(line.startswith(("root:", "0:")) for line in _lines("/etc/subuid")):
        return "root"
    done = process.run(["unshare", "--user", "true"], check=False)
    return "unshare" if done.status == 0 else "root"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 over the recipe and the text of its hooks: another recipe makes another image."""
    hashed = hashlib.sha256(recipe.to_json().encode())
    for option in DPKG_OPTIONS:
        hashed.update(option.encode())
    for path in recipe.hook_paths():
        hashed.update(_hook_text(path).encode())
    return hashed.hexdigest()


def make(plan_: MakePlan, workdir: Path, monitor: Monitor) -> tuple[Path, ImageRecord]:
    """Make the image: a compressed archive in ``workdir`` and its record.

    Raises NetworkError, DiskFullError, ImageError. The caller removes ``workdir`` whatever happens.
    """
    plain, compressed = workdir / "image.tar", workdir / "image.tar.zst"
    started = datetime.now(UTC)
    used = _bootstrap(plan_, plain, started, monitor)
    packages = read_status(_read_status(plain))
    unpacked = pack.tar_bytes(plain)
    python_version = python_version_of(packages)
    digest = pack.compress(plain, compressed)
    record = ImageRecord(
        name=plan_.target.image_name,
        digest=digest,
        created_at=started.isoformat(timespec="seconds"),
        architecture=plan_.target.architecture,
        recipe_hash=recipe_hash(plan_.recipe),
        packages=packages,
        python_version=python_version,
        unpacked_bytes=unpacked,
        archive_bytes=compressed.stat().st_size,
        keyring=None if plan_.keyring is None else os.fspath(plan_.keyring),
        sources=plan_.sources or used,
        mode=plan_.mode,
    )
    return compressed, record


def _bootstrap(plan_: MakePlan, plain: Path, started: datetime, monitor: Monitor) -> tuple[str, ...]:
    """Run mmdebstrap; returns the apt sources that it used."""
    memory = files.memory()
    in_memory = memory["MemAvailable"] - _WORK_BYTES > memory_floor_bytes(memory["MemTotal"])
    script = _IN_TMPFS if in_memory else _ON_DISK
    argv = [*_PRIVATE, "--propagation", "private", "--", "/bin/sh", "-ec", script, "sh", *plan_.argv()]
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        if line.startswith("I: ") and not line.startswith(
            ("I: running --", "I: chroot arch", "I: skipping", "I: using")
        ):
            monitor.emit(Note(text=f"{plan_.target}: {line[3:]}"))

    text = "".join(f"{line}\n" for line in plan_.sources)
    with plain.open("wb") as out, _anonymous_file(text) as stdin:
        # Clamped to the day: file times in the image do not tell the minute, and a remade image of the same day is the same.
        epoch = int(time.mktime(started.date().timetuple()))
        status = _run_heard(argv, stdin=stdin, stdout=out.fileno(), epoch=epoch, hear=hear)
    if status != 0:
        raise _explained(plan_, argv, status, said)
    return tuple(line.removeprefix(_SOURCE_MARK) for line in said if line.startswith(f"{_SOURCE_MARK}deb "))


def _explained(plan_: MakePlan, argv: Sequence[str], status: int, said: Sequence[str]) -> LxcbuildError:
    errors = [line for line in said if line.startswith(("E: ", "W: ", "Err:", "dpkg: ", "  "))] or said
    details = "\n".join(errors[-25:])
    if any("No space left on device" in line for line in said):
        return DiskFullError(f"no space left on device while making {plan_.target}", details=details)
    if unreachable("\n".join(said)):
        return NetworkError(
            f"the packages of {plan_.target} cannot be fetched",
            details=details,
            resolution="check the network and the host's apt sources with: apt-get update",
        )
    return ImageError(
        f"the image {plan_.target} cannot be made (mmdebstrap ended with status {status})",
        details=f"{process.replay(argv)[:2000]}\n{details}",
    )


def _run_heard(argv: Sequence[str], *, stdin: int, stdout: int, epoch: int, hear: Callable[[str], None]) -> int:
    """Run a program and hand each line of its standard error to ``hear`` as it comes; returns its status."""
    read_end, write_end = os.pipe()
    with contextlib.ExitStack() as stack:
        pipe = stack.enter_context(os.fdopen(read_end, "rb"))
        reader = threading.Thread(target=_listen, args=(pipe, hear), daemon=True)
        # Left in this order: the program is dead, so the pipe ends, so the reader does.
        stack.callback(lambda: reader.join() if reader.is_alive() else None)
        try:
            running = stack.enter_context(
                process.spawn(argv, env={"SOURCE_DATE_EPOCH": str(epoch)}, stdin=stdin, stdout=stdout, stderr=write_end)
            )
        finally:
            os.close(write_end)
        reader.start()
        status = running.wait()
        reader.join()
        return status


def _listen(pipe: Iterable[bytes], hear: Callable[[str], None]) -> None:
    for raw in pipe:
        hear(raw.decode(errors="replace").rstrip())


@contextlib.contextmanager
def _anonymous_file(text: str) -> Iterator[int]:
    """A file without a name, ready to be read: nothing to remove."""
    fd = os.memfd_create("sources")
    try:
        os.write(fd, text.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _read_status(plain: Path) -> str:
    """dpkg's status file out of an uncompressed tar of ours."""
    return process.run(["tar", "--extract", "--to-stdout", f"--file={plain}", f"./{STATUS_FILE}"]).stdout.decode()
