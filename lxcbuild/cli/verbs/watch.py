"""``lxcbuild watch``: builds new releases of the tracked projects as they appear in the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from lxcbuild.cli.options import host_target, pass_ui, require_root, run_options, watch_options
from lxcbuild.cli.render import Ui
from lxcbuild.config.ranges import seconds_text
from lxcbuild.errors import BuildsFailedError, CancelledError, InputError
from lxcbuild.ledger.records import now
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Status, Target

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

    from lxcbuild.farm.watch.watch import WatchSettings
    from lxcbuild.pypi.index.changes import NewRelease


class Seconds(click.ParamType[float]):
    """A duration such as ``10min``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        from lxcbuild.config.units import parse_seconds

        try:
            return float(value) if isinstance(value, int | float) else parse_seconds(str(value).replace(" ", ""))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("projects", nargs=-1, metavar="[PROJECT]...")
@watch_options
@click.option("--ledger", "from_ledger", is_flag=True, help="Track every project with a recorded build")
@click.option("--once", is_flag=True, help="Look once, build what is new, and exit")
@click.option(
    "--interval",
    type=Seconds(),
    default="10min",
    show_default=True,
    help="Time between two looks at the index",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.01, 100),
    default=5.0,
    show_default=True,
    help="Maximum number of requests to the index per second",
)
@click.option("--pre", is_flag=True, help="Build pre-releases too")
@click.option("--catch-up", is_flag=True, help="Build the newest release of newly tracked projects too")
@run_options
@pass_ui
def watch(
    ui: Ui,
    /,
    *,
    projects: Sequence[str],
    files: Sequence[Path],
    from_ledger: bool,
    targets: Sequence[Target],
    once: bool,
    interval: float,
    rate: float,
    pre: bool,
    catch_up: bool,
    **building: Any,
) -> int:
    """Build new releases as they appear.

    Tracked are the PROJECTs, and those of files or of the ledger. The first look at the index only learns what is there. The
    state directory keeps what was seen: a watch that was ended or killed is continued by the next one. One Ctrl-C ends it
    after the running builds; a second one stops these too.
    """
    if interval < 1:
        raise click.UsageError("the index is asked once a second at most: --interval 1s")
    require_root("start sandboxes")
    from lxcbuild.farm.watch.watch import WatchSettings

    tracked = _tracked(ui, projects, files, from_ledger=from_ledger)
    settings = WatchSettings(interval_s=interval, rate_per_s=rate, allow_pre=pre, catch_up=catch_up)
    builder = _Builder(ui, list(dict.fromkeys(targets)) or [host_target()], building)
    return _follow(ui, tracked, settings, builder, once=once)


def _follow(ui: Ui, tracked: dict[str, SpecifierSet], settings: WatchSettings, builder: _Builder, *, once: bool) -> int:
    """Watch until it is ended, or look once; the exit status."""
    from lxcbuild.farm.watch.watch import Watch
    from lxcbuild.farm.watch.watchstate import WatchState
    from lxcbuild.pypi.index.changes import IndexWatcher
    from lxcbuild.state import locks

    lock = ui.dirs.locks / "watch"
    with (
        locks.try_exclusive(lock) as mine,
        ui.monitor() as monitor,
        WatchState(ui.dirs.lib / "watch.sqlite") as state,
        IndexWatcher(ui.dirs) as index,
    ):
        if not mine:
            raise InputError(
                "another watch of this state directory is running", resolution=f"end it: fuser -v {lock} says which"
            )
        following = Watch(index, state, tracked, monitor, settings)
        ui.say(f"{len(tracked)} projects are tracked; {len(state.waiting())} releases wait")
        if not once:
            following.run(builder)
            return 0
        following.look_round()
        failed = following.build_waiting(builder)
        counts = ", ".join(f"{name} {count}" for name, count in sorted(state.results().items())) or "none yet"
        ui.say(f"releases so far: {counts}; the slowest was ready after {seconds_text(state.slowest_s())}")
        return BuildsFailedError.exit_code if failed else 0


def _tracked(ui: Ui, projects: Sequence[str], files: Sequence[Path], *, from_ledger: bool) -> dict[str, SpecifierSet]:
    """Projects with the versions that are wanted of each; what is named first counts."""
    from packaging.specifiers import SpecifierSet

    from lxcbuild.pypi.files.identity import canonical
    from lxcbuild.pypi.index.client import parse_requirement
    from lxcbuild.pypi.versions.requirementsfile import parse_requirements_file

    lines = list(projects)
    for path in files:
        try:
            lines += [line.requirement for line in parse_requirements_file(path.read_bytes(), name=path.name)]
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}", resolution="check the path") from error
    found: dict[str, SpecifierSet] = {}
    for line in lines:
        requirement = parse_requirement(line)
        found.setdefault(canonical(requirement.name), requirement.specifier)
    if from_ledger:
        with Ledger.open(ui.dirs) as ledger:
            for record in ledger.recent(limit=None):
                if record.request.get("kind") == "sdist" and isinstance(record.request.get("source"), Mapping):
                    found.setdefault(canonical(record.name), SpecifierSet())
    if not found:
        raise click.UsageError("nothing to track: give projects, -r FILE, or --ledger")
    return found


class _Builder(Struct):
    """Builds releases as ``lxcbuild rebuild`` does, and reads in the ledger how each ended."""

    ui: Ui
    targets: Sequence[Target]
    options: Mapping[str, Any]

    def __call__(self, releases: Sequence[NewRelease]) -> Mapping[NewRelease, str]:
        # Two versions of one project are no set: each round has one of each, the older ones first.
        results: dict[NewRelease, str] = {}
        for batch in _rounds(releases):
            results.update(self._build(batch))
        return results

    def _build(self, batch: Sequence[NewRelease]) -> dict[NewRelease, str]:
        from lxcbuild.cli.verbs.rebuild import rebuild

        self.ui.dirs.bulk.mkdir(parents=True, exist_ok=True)
        names = self.ui.dirs.bulk / "watch.txt"
        names.write_text("".join(f"{release.requirement}\n" for release in batch), "utf-8")
        begun = now()
        context = click.get_current_context()
        status = context.invoke(
            rebuild,
            plan_file=None,
            files=[names],
            targets=self.targets,
            resume=False,
            keep_going=True,
            again=False,
            as_json=False,
            **self.options,
        )
        with Ledger.open(self.ui.dirs) as ledger:
            found = {release: self._result(ledger, release, since=begun) for release in batch}
        if status == CancelledError.exit_code:
            raise CancelledError("the watch was ended; what is not built yet waits for the next one")
        # The plan says of some that there is nothing to build, and the ledger then has no build of them.
        return {release: result or Status.OFFICIAL.value for release, result in found.items()}

    def _result(self, ledger: Ledger, release: NewRelease, *, since: str) -> str | None:
        """How the builds of a release ended, the worst of all targets; None where the ledger has none."""
        seen: set[str] = set()
        for target in self.targets:
            records = ledger.recent(name=release.name, target=str(target), limit=20)
            # One that failed before its version was known is meant when it is of this batch.
            ours = [r for r in records if r.version == release.version or (not r.version and r.started_at >= since)]
            seen.update(record.status for record in ours[:1])
        return next((s.value for s in (Status.FAILED, Status.BUILT) if s.value in seen), None)


def _rounds(releases: Sequence[NewRelease]) -> list[list[NewRelease]]:
    """Batches in which no project is twice, in the order of the releases."""
    rounds: list[list[NewRelease]] = []
    taken: dict[str, int] = {}
    for release in releases:
        number = taken.get(release.name, 0)
        taken[release.name] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(release)
    return rounds
