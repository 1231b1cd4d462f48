"""Opens the kept state of a failed build again: the same lowers, what the failing command had changed, limits and network mode."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from lxcbuild.builder.failed import failedstate
from lxcbuild.builder.failed.failedstate import UPPER, FailedState, KeptCommand, LowerRef
from lxcbuild.errors import ExtractionError, SandboxError, StateGoneError
from lxcbuild.files import sha256_of
from lxcbuild.images import pack
from lxcbuild.images.hot import HotStore
from lxcbuild.images.untar import TarLimits, untar_file
from lxcbuild.policy import Policy
from lxcbuild.sandbox.base import Backend, Bind, Instance, InstanceSpec, Step, User
from lxcbuild.state import locks
from lxcbuild.state.paths import StateDirs

#: A script inside that repeats the failing command as it was.
AGAIN = "/lxcbuild/again"


class Reopened(Struct, frozen=True, kw_only=True):
    """A started sandbox in the state of the failure. ``again``: the script :data:`AGAIN` is there."""

    state: FailedState
    instance: Instance
    again: bool

    def step(self, argv: Sequence[str] | None = None, *, extra_env: dict[str, str] | None = None) -> Step:
        """A command with environment, directory and user of the one that failed; that one itself when none is given."""
        command = self.state.command
        return Step(
            argv=tuple(argv) if argv else command.argv,
            env={**command.env, **(extra_env or {})},
            cwd=command.cwd,
            user=User.ROOT if command.as_root else User.BUILD,
        )


@contextlib.contextmanager
def reopened(dirs: StateDirs, backend: Backend, hot: HotStore, build_id: str) -> Iterator[Reopened]:
    """The kept state of one build of this state directory. Raises :class:`StateGoneError`."""
    with locks.shared(failedstate.use_lock(dirs, build_id)):
        place = failedstate.place_of(dirs, build_id)
        state = failedstate.read(place)
        lowers = [local_lower(dirs, hot, ref) for ref in state.lowers]
        with opened(place, state, backend=backend, hot=hot, lowers=lowers, limits=state.limits) as found:
            yield found


def local_lower(dirs: StateDirs, hot: HotStore, ref: LowerRef) -> Path:
    """The image or layer of this state directory, unpacked; raises :class:`StateGoneError` when it is here no more."""
    found = hot.find(ref.key)
    if found is not None:
        return found[0]
    archive = dirs.images / ref.archive
    if not archive.is_file():
        raise StateGoneError(
            f"the image or layer {ref.key[:16]} that the build stood on is gone",
            details="images go when they are renewed (lxcbuild rootfs refresh), and layers with them",
            resolution="build it again; a capsule (lxcbuild build --capsule) carries its images with it",
        )
    path, _ = hot.place(
        ref.key, size_bytes=ref.unpacked_bytes, what="a layer", fill=lambda tree: pack.unpack(archive, tree)
    )
    return path


@contextlib.contextmanager
def opened(
    place: Path, state: FailedState, *, backend: Backend, hot: HotStore, lowers: Sequence[Path], limits: Policy
) -> Iterator[Reopened]:
    """A sandbox whose topmost lower is the kept upper of ``place``; that is unpacked for this block only."""
    archive = place / UPPER
    if sha256_of(archive) != state.upper_sha256:
        raise ExtractionError(f"{UPPER} is not the file that it was", resolution="build it again")
    bounds = TarLimits(max_bytes=state.upper_bytes)
    with unpacked(hot, archive, state.upper_sha256, what="the failed state", limits=bounds) as upper:
        spec = InstanceSpec(
            instance_id=f"failed-{os.getpid()}-{secrets.token_hex(3)}",
            lowers=(upper, *lowers),
            policy=limits,
            binds=tuple(Bind(host=bind.host_path(place), inside=bind.inside) for bind in state.binds),
        )
        with backend.create(spec) as instance:
            instance.start()
            yield Reopened(state=state, instance=instance, again=_put_again(instance, state))


@contextlib.contextmanager
def unpacked(hot: HotStore, archive: Path, sha256: str, *, what: str, limits: TarLimits) -> Iterator[Path]:
    """A tree of hostile origin, unpacked by our own reader beside the images, and gone at the end of the block."""
    key = hashlib.sha256(f"not from here: {sha256}".encode()).hexdigest()
    path, _ = hot.place(
        key, size_bytes=limits.max_bytes, what=what, fill=lambda tree: untar_file(archive, tree, limits)
    )
    try:
        yield path
    finally:
        hot.drop(key)


def _put_again(instance: Instance, state: FailedState) -> bool:
    try:
        instance.put(AGAIN, again_script(state.command).encode(), mode=0o755)
    except SandboxError:  # the build has left something in the way: the command itself can still be typed
        return False
    return True


def again_script(command: KeptCommand) -> str:
    """A shell script that repeats the command with its environment, its directory, and nothing to read."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(command.env.items())]
    return "\n".join(
        [
            "#!/bin/sh",
            *exports,
            f"cd {shlex.quote(command.cwd)} || exit",
            f"exec {shlex.join(command.argv)} </dev/null",
            "",
        ]
    )
