"""What ``run`` and ``shell`` share: a fresh sandbox of a target's base image, with files of the caller's shown in it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from lxcbuild.cli.options import host_target, require_root
from lxcbuild.cli.render import Ui
from lxcbuild.config.policies import load_policy
from lxcbuild.errors import InputError
from lxcbuild.images.image import Image
from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.sandbox.base import Bind, Instance, InstanceSpec
from lxcbuild.sandbox.inside import compiled
from lxcbuild.sandbox.lxc import LxcBackend


@contextlib.contextmanager
def fresh_sandbox(
    ui: Ui, *, target: Target | None, policy: str, inputs: Sequence[Path], purpose: str
) -> Iterator[tuple[Instance, Image]]:
    """A started sandbox, gone at the end of the block; the base image is made when there is none."""
    require_root("start a sandbox")
    binds = bind_inputs(inputs)
    limits = load_policy(policy)
    with contextlib.ExitStack() as stack:
        backend = stack.enter_context(LxcBackend(ui.dirs))
        backend.prestart()
        with ui.monitor() as monitor:
            images = ImageStore(ui.dirs, monitor)
            stack.callback(images.close)
            image = images.ensure(target or host_target())
            compiled.provide(ui.dirs, backend, image.path)
        spec = InstanceSpec(
            instance_id=f"{purpose}-{os.getpid()}-{secrets.token_hex(3)}",
            lowers=(image.path,),
            policy=limits,
            binds=binds,
            hostname=image.target.suite,
        )
        instance = stack.enter_context(backend.create(spec))
        instance.start()
        yield instance, image


def bind_inputs(inputs: Sequence[Path]) -> tuple[Bind, ...]:
    """Each file or directory as ``/in/<its name>``, read-only; raises InputError for what cannot be shown so."""
    binds: dict[str, Bind] = {}
    for given in inputs:
        try:
            host = given.resolve(strict=True)
        except OSError as error:
            raise InputError(
                f"--in {given}: {error.strerror}", resolution="name a file or directory that exists"
            ) from error
        name = given.name if given.name not in {"", ".", ".."} else host.name
        if not name:
            raise InputError(f"--in {given} has no name to show it by", resolution="name a directory below it")
        if not (host.is_file() or host.is_dir()):
            raise InputError(f"--in {given} is neither a file nor a directory")
        if name in binds:
            raise InputError(
                f"two inputs are called {name!r}, and both would be /in/{name}",
                resolution="rename one, or put both into one directory",
            )
        binds[name] = Bind(host=host, inside=f"/in/{name}")
    return tuple(binds.values())
