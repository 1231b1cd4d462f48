"""``lxcbuild farm``: the members of a lab that builds together: certificates, the scheduler, workers."""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lxcbuild.cli.options import AliasedOption, json_option, pass_ui, require_root
from lxcbuild.cli.render import Ui
from lxcbuild.errors import ToolMissingError

if TYPE_CHECKING:
    from lxcbuild.farm.certificates import Certificates
    from lxcbuild.farm.engines.dask import DaskEngine
    from lxcbuild.farm.engines.engine import Engine, Listener
    from lxcbuild.state.paths import StateDirs

Command = TypeVar("Command", bound=Any)
_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


class Bytes(click.ParamType[int]):
    """An amount such as ``48GiB``."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        from lxcbuild.config.units import parse_bytes

        try:
            return value if isinstance(value, int) else parse_bytes(str(value).replace(" ", ""))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def connection_options(command: Command) -> Command:
    """``--certificates`` and ``--insecure``."""
    for option in (
        click.option("--insecure", is_flag=True, help="Allow connections without TLS"),
        click.option(
            "--certificates",
            type=_DIRECTORY,
            envvar="LXCBUILD_FARM_CERTIFICATES",
            help="Directory with the farm's TLS certificates",
        ),
    ):
        command = option(command)
    return command


@click.group()
def farm() -> None:
    """Build on many machines.

    A farm has a certificate authority, one scheduler, and workers. It needs the Dask libraries: pip install 'lxcbuild[dask]'.
    """


@farm.command()
@click.argument("directory", type=_DIRECTORY)
@click.option(
    "--days", type=click.IntRange(1, 3650), default=825, show_default=True, help="Days that the certificates are valid"
)
@json_option
@pass_ui
def certificates(ui: Ui, /, *, directory: Path, days: int, as_json: bool) -> None:
    """Make the farm's certificates in DIRECTORY.

    DIRECTORY gets a certificate authority and a certificate for the members. Copy it without authority.key to every machine
    of the farm, readable by root only: whoever has it is a member.
    """
    from lxcbuild.farm.certificates import make_certificates

    made = make_certificates(directory, days=days)
    if as_json:
        ui.emit_json({"authority": str(made.authority), "certificate": str(made.certificate), "key": str(made.key)})
        return
    for path in (made.authority, made.certificate, made.key):
        ui.line(str(path))
    ui.hint(f"copy these three to every machine of the farm; {directory / 'authority.key'} stays here")


@farm.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8786,
    show_default=True,
    help="Port to listen at; 0 is any free one",
)
@connection_options
@pass_ui
def scheduler(ui: Ui, /, *, host: str, port: int, certificates: Path | None, insecure: bool) -> None:
    """Run the scheduler of a farm.

    It passes jobs from heads to workers. It keeps nothing and can be restarted at any time. It needs --certificates, except on
    the loopback address.
    """
    known = _certificates(certificates)
    with _dask(), _until_told_to_stop() as stop:
        from lxcbuild.farm.engines.daskmembers import run_scheduler

        run_scheduler(
            host=host,
            port=port,
            certificates=known,
            insecure=insecure,
            started=lambda address: _started(ui, address),
            stop=stop,
        )


def _started(ui: Ui, address: str) -> None:
    import sys

    ui.line(address)
    sys.stdout.flush()
    ui.hint(f"on each machine that builds: lxcbuild farm worker {address}")


@farm.command()
@click.argument("scheduler")
@click.option(
    "--name", default=socket.gethostname(), help="Name of the worker, unique in the farm  [default: the host's]"
)
@click.option(
    "--cpus",
    cls=AliasedOption,
    aliases=("--nthreads",),
    type=click.FloatRange(0.5),
    help="Number of processors to build on  [default: all]",
)
@click.option(
    "--memory",
    cls=AliasedOption,
    aliases=("--memory-limit",),
    type=Bytes(),
    help="Maximum memory of the builds  [default: what is free]",
)
@click.option("--dedicated", is_flag=True, help="Ignore other builds: nothing else builds on this machine")
@click.option("--host", help="Address of this machine for the scheduler  [default: detected]")
@connection_options
# What batch systems' launchers add (dask-jobqueue): see docs/how-to/lab.md.
@click.option("--tls-ca-file", type=_FILE, hidden=True)
@click.option("--tls-cert", type=_FILE, hidden=True)
@click.option("--tls-key", type=_FILE, hidden=True)
@click.option("--death-timeout", hidden=True, expose_value=False)
@click.option("--local-directory", hidden=True, expose_value=False)
@click.option("--protocol", hidden=True, expose_value=False)
@pass_ui
def worker(
    ui: Ui,
    /,
    *,
    scheduler: str,
    name: str,
    cpus: float | None,
    memory: int | None,
    dedicated: bool,
    host: str | None,
    certificates: Path | None,
    insecure: bool,
    **tls: Path | None,
) -> None:
    """Build for a scheduler until told to stop.

    SCHEDULER is an address such as tls://head:8786. It needs --certificates, except on the loopback address. A worker that
    loses its scheduler keeps looking for it. Packages and logs travel through the store that the head names.
    """
    require_root("start sandboxes")
    from lxcbuild.farm.engines.membership import this_member
    from lxcbuild.farm.offer import Share

    known = _certificates(certificates, **tls)
    share = Share(cpus=cpus, memory_bytes=memory)
    with _dask(), _until_told_to_stop() as stop:
        from lxcbuild.farm.engines.daskmembers import run_worker

        run_worker(
            scheduler,
            this_member(),
            functools.partial(own_engine, ui.dirs, share, dedicated=dedicated),
            certificates=known,
            insecure=insecure,
            name=name,
            host=host,
            stop=stop,
        )


def own_engine(dirs: StateDirs, share: Any, listener: Listener, *, dedicated: bool) -> Engine:
    """What a worker builds with."""
    from lxcbuild.cli.build_context import build_context
    from lxcbuild.farm.engines.local import LocalEngine
    from lxcbuild.farm.offer import OfferedEngine

    jobs = int(share.cpus) if share.cpus is not None else None
    engine = LocalEngine(dirs, build_context, listener=listener, jobs=jobs, courteous=not dedicated, shares_state=False)
    for place in (dirs.lib, dirs.cache):
        place.mkdir(parents=True, exist_ok=True)
    return OfferedEngine(engine, share, functools.partial(_images, dirs), disks=(dirs.lib, dirs.cache))


def _images(dirs: StateDirs) -> Mapping[str, str]:
    from lxcbuild.images.store import ImageStore

    store = ImageStore(dirs)
    try:
        return {str(listed.target): listed.record.digest for listed in store.list() if listed.record is not None}
    finally:
        store.close()


def dask_engine(
    ui: Ui, address: str, *, listener: Listener, monitor: Any, certificates: Path | None, insecure: bool
) -> DaskEngine:
    """The engine of a head; raises InputError, FarmError, ToolMissingError."""
    from lxcbuild.farm.engines.membership import this_member

    del ui
    known = _certificates(certificates)
    with _dask():
        from lxcbuild.farm.engines.dask import DaskEngine

        return DaskEngine(
            address, this_member(), listener=listener, monitor=monitor, certificates=known, insecure=insecure
        )


def _certificates(directory: Path | None, **tls: Path | None) -> Certificates | None:
    from lxcbuild.farm.certificates import Certificates

    authority, certificate, key = tls.get("tls_ca_file"), tls.get("tls_cert"), tls.get("tls_key")
    if authority is not None and certificate is not None and key is not None:
        return Certificates(authority, certificate, key)
    return Certificates.of(directory) if directory is not None else None


@contextlib.contextmanager
def _dask() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        raise ToolMissingError(
            "the Python library distributed (Dask) is not installed", resolution="pip install 'lxcbuild[dask]'"
        ) from None


@contextlib.contextmanager
def _until_told_to_stop() -> Iterator[threading.Event]:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets: these services end well when they are told to."""
    stop = threading.Event()
    chosen = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in chosen}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
