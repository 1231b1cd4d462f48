"""``lxcbuild rebuild``: carries out a plan of many builds, on this machine or a farm; can be killed and resumed at any moment."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from lxcbuild.cli.options import (
    FILE,
    PLAN_OPTIONS,
    host_target,
    json_option,
    pass_ui,
    plan_options,
    request_like,
    require_root,
    run_options,
)
from lxcbuild.cli.render import Ui
from lxcbuild.cli.results import conclude_run
from lxcbuild.errors import InputError
from lxcbuild.files import write_whole
from lxcbuild.model import Target

if TYPE_CHECKING:
    from lxcbuild.cli.bulk_view import View
    from lxcbuild.farm.engines.engine import Engine, Listener
    from lxcbuild.farm.publishing import Publisher
    from lxcbuild.farm.run import Head
    from lxcbuild.ledger.store import Ledger
    from lxcbuild.plan.document import Plan


@click.command()
@click.argument("plan_file", required=False, type=FILE, metavar="[PLAN]")
@plan_options
@run_options
@click.option(
    "--keep-going/--stop-on-failure",
    default=True,
    show_default=True,
    help="Continue with builds that do not need a failed one",
)
@click.option("--resume", is_flag=True, help="Continue the same run without retrying what failed in it")
@click.option("--rebuild", "again", is_flag=True, help="Build again what was built, and retry what failed")
@json_option
@pass_ui
def rebuild(
    ui: Ui,
    /,
    *,
    plan_file: Path | None,
    files: Sequence[Path],
    targets: Sequence[Target],
    policy: str,
    resume: bool,
    repo: Path | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Carry out a plan of many builds.

    The plan is PLAN, or is made from requirements. A build starts as soon as what it needs is built. One Ctrl-C finishes the
    running builds and starts no others; a second one stops everything. The same command with --resume continues the run, even
    after a crash: no finished build is lost or done twice.
    """
    if (plan_file is None) == (not files):
        raise click.UsageError("give either a plan or -r FILE")
    require_root("start sandboxes")
    from lxcbuild.cli.bulk_view import View
    from lxcbuild.farm.journal import Journal
    from lxcbuild.ledger.store import Ledger

    own = {name: given.pop(name) for name in PLAN_OPTIONS}
    targets = list(dict.fromkeys(targets)) or [host_target()]
    run = _run_name(plan_file, files, targets, {**own, "policy": policy})
    directory = ui.dirs.bulk / run
    with Ledger.open(ui.dirs) as ledger, Journal(directory, resume=resume) as journal:
        anew = bool(given["again"])
        made = _plan(ui, ledger, directory, plan_file, files, targets, own, policy, resume=resume, anew=anew)
        _layers_first(ui, made, policy=policy, here=given["engine_name"] == "local")
        view = View(ui, quiet=as_json)
        with contextlib.ExitStack() as stack:
            head, flush = _head(ui, stack, made, run, ledger, journal, view, policy=policy, repo=repo, **given)
            with view.shown(), _interrupts(head, view):
                tally = head.run()
            flush()
    return conclude_run(ui, tally, view.picture(), again=_again(plan_file, files), as_json=as_json)


def _run_name(plan_file: Path | None, files: Sequence[Path], targets: Sequence[Target], own: dict[str, Any]) -> str:
    """The same question is the same run."""
    try:
        if plan_file is not None:
            return hashlib.sha256(plan_file.read_bytes()).hexdigest()[:16]
        asked = [path.read_text("utf-8", "replace") for path in files]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}", resolution="check the path") from error
    said = json.dumps([asked, sorted(map(str, targets)), own], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _plan(
    ui: Ui,
    ledger: Ledger,
    directory: Path,
    plan_file: Path | None,
    files: Sequence[Path],
    targets: Sequence[Target],
    own: dict[str, Any],
    policy: str,
    *,
    resume: bool,
    anew: bool,
) -> Plan:
    from lxcbuild.plan.document import dump_plan, parse_plan

    kept = directory / "plan.json"
    if plan_file is not None:
        made = parse_plan(plan_file.read_bytes(), name=plan_file.name)
    elif resume and kept.is_file():
        made = parse_plan(kept.read_bytes(), name=str(kept))
    else:
        from lxcbuild.cli.planner import plan_for
        from lxcbuild.cli.verbs.plan import show

        with ui.monitor() as monitor:
            made = plan_for(
                (),
                files,
                targets,
                like=request_like({**own, "target": targets[0]}),
                policy=policy,
                dirs=ui.dirs,
                monitor=monitor,
                ledger=ledger,
                anew=anew,
            )
        if not ui.json:
            show(ui, made)
    write_whole(kept, dump_plan(made), durable=False)
    return made


def _layers_first(ui: Ui, made: Plan, *, policy: str, here: bool) -> None:
    """Make the plan's layers before the first build asks for one, and say what became of them."""
    if not made.layers:
        return
    from lxcbuild.cli.build_context import build_context
    from lxcbuild.cli.planner import ground_of
    from lxcbuild.config.sharing import load_sharing
    from lxcbuild.farm.planning.layerplan import make_first

    sharing = load_sharing()
    if not here and (sharing is None or not sharing.push):
        ui.say(
            f"{len(made.layers)} layers of the plan are not made first: no layers.yaml shares "
            "the layers of this machine with the workers"
        )
        return
    with ui.monitor() as monitor, build_context(ui.dirs, monitor, policy=policy) as context:
        done = make_first(made, functools.cache(lambda t: ground_of(Target.parse(t), context.images)), context.layers)
    ui.say(f"layers made first: {done.made}; there already: {done.known}; left to the builds: {len(done.left_out)}")
    for text in done.left_out[:5]:
        ui.warn(f"layer not made first: {text}")


def _head(
    ui: Ui,
    stack: contextlib.ExitStack,
    made: Plan,
    run: str,
    ledger: Ledger,
    journal: Any,
    view: View,
    *,
    policy: str,
    repo: Path | None,
    store: str | None,
    jobs: int | None,
    keep_going: bool,
    again: bool,
    **where: Any,
) -> tuple[Head, Callable[[], None]]:
    from lxcbuild.config.overrides import load_overrides
    from lxcbuild.farm.artifacts import open_store
    from lxcbuild.farm.jobs import KnownFailures, known_failures
    from lxcbuild.farm.run import Head
    from lxcbuild.farm.runs import Settings

    place = store or str(ui.dirs.bulk)
    engine = _engine(ui, stack, view.heard, jobs=jobs, alive=ui.dirs.bulk / run / "workers", store=store, **where)
    publisher = _publisher(ui, repo)
    head = Head(
        plan=made,
        settings=Settings(
            run=run,
            store=place,
            policy=policy,
            limit=jobs,
            keep_going=keep_going,
            rebuild=again,
            check_images=engine.name != "local",
        ),
        dirs=ui.dirs,
        ledger=ledger,
        engine=engine,
        store=open_store(place),
        journal=journal,
        overrides=load_overrides(),
        watcher=view,
        publish=publisher.add if publisher is not None else None,
        caps=KnownFailures(lambda _: {}) if again else known_failures(ledger, made, policy=policy),
    )
    return head, publisher.flush if publisher is not None else lambda: None


def _publisher(ui: Ui, repo: Path | None) -> Publisher | None:
    if repo is None:
        return None
    from lxcbuild.farm.publishing import Publisher

    return Publisher(repo, ui.dirs)


def _engine(
    ui: Ui,
    stack: contextlib.ExitStack,
    listener: Listener,
    *,
    engine_name: str,
    scheduler: str | None,
    certificates: Path | None,
    insecure: bool,
    store: str | None,
    jobs: int | None,
    alive: Path,
) -> Engine:
    from lxcbuild.cli.build_context import bulk_build_context

    if engine_name == "local":
        from lxcbuild.farm.engines.local import LocalEngine

        engine = LocalEngine(ui.dirs, bulk_build_context, listener=listener, jobs=jobs, alive=alive)
        stack.callback(engine.close)
        return engine
    if scheduler is None or store is None:
        raise click.UsageError(
            "--engine dask needs --scheduler ADDRESS, and --store with a place that all workers reach"
        )
    from lxcbuild.farm.certificates import Certificates
    from lxcbuild.farm.engines.dask import DaskEngine
    from lxcbuild.farm.engines.membership import this_member

    monitor = stack.enter_context(ui.monitor())
    return stack.enter_context(
        DaskEngine(
            scheduler,
            this_member(),
            listener=listener,
            monitor=monitor,
            certificates=None if certificates is None else Certificates.of(certificates),
            insecure=insecure,
        )
    )


@contextlib.contextmanager
def _interrupts(head: Head, view: View) -> Iterator[None]:
    """The first Ctrl-C drains, the second one stops; SIGTERM and SIGHUP stop."""
    count = 0

    def interrupted(number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if number == signal.SIGINT and count == 1:
            view.draining = True
            head.drain()
        else:
            head.stop()

    chosen = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    before: dict[int, Any] = {number: signal.signal(number, interrupted) for number in chosen}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _again(plan_file: Path | None, files: Sequence[Path]) -> str:
    what = str(plan_file) if plan_file is not None else " ".join(f"-r {path}" for path in files)
    return f"lxcbuild rebuild {what} --resume"
