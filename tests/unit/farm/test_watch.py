"""Watching a real index on a loopback port, which publishes, fails and asks for pauses while it is watched."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from lxcbuild.errors import LedgerError
from lxcbuild.events import Event, Note
from lxcbuild.farm.watch.watch import Watch, WatchSettings
from lxcbuild.farm.watch.watchstate import Seen, WatchState
from lxcbuild.pypi.index.changes import IndexWatcher, NewRelease, PauseError
from lxcbuild.pypi.index.config import PipConfig
from lxcbuild.state.paths import StateDirs
from tests.support.index_server import File, Index, serve, status


class Notes:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)


class RecordingBuilder:
    """Stands where builds would be started, and remembers when each release came."""

    def __init__(self) -> None:
        self.came: list[tuple[str, float]] = []

    def __call__(self, releases: Sequence[NewRelease]) -> Mapping[NewRelease, str]:
        self.came += [(each.requirement, time.monotonic()) for each in releases]
        return dict.fromkeys(releases, "built")

    @property
    def requirements(self) -> list[str]:
        return [requirement for requirement, _ in self.came]


@pytest.fixture(params=["serials", "json", "html"])
def index(request: pytest.FixtureRequest) -> Iterator[Index]:
    with serve() as server:
        server.speaks_json, server.says_serials = request.param != "html", request.param == "serials"
        yield server


Making = Callable[..., Watch]


@pytest.fixture
def make(index: Index, fresh_state: StateDirs) -> Iterator[Making]:
    opened: list[IndexWatcher | WatchState] = []

    def watch(*names: str, **settings: float | bool) -> Watch:
        config = PipConfig(indexes=(f"{index.url}/simple/",), timeout_s=5)
        asker, state = IndexWatcher(fresh_state, config=config), WatchState(fresh_state.lib / "watch.sqlite")
        opened.extend([asker, state])
        chosen = {"rate_per_s": 1e6, "list_from": 1, "first_pause_s": 0.05, "interval_s": 0.05, **settings}
        tracked = {name.split("<")[0]: SpecifierSet(name[len(name.split("<")[0]) :]) for name in names}
        return Watch(asker, state, tracked, Notes(), WatchSettings(**chosen))  # type: ignore[arg-type]

    yield watch
    for each in opened:
        each.__exit__(None, None, None)


def publish(index: Index, name: str, *versions: str) -> None:
    index.add(name, *(File(f"{name}-{version}.tar.gz", f"{name} {version}".encode()) for version in versions))


def waiting(watch: Watch) -> list[str]:
    return [each.requirement for each in watch.state.waiting()]


def test_only_what_appears_later_is_new(index: Index, make: Making) -> None:
    publish(index, "one", "1.0", "1.1")
    watch = make("one", "two")
    assert watch.look_round() == 0
    publish(index, "one", "1.2", "1.1.1")
    publish(index, "two", "0.1")
    publish(index, "untracked", "1")
    assert watch.look_round() == 3
    assert sorted(waiting(watch)) == ["one==1.1.1", "one==1.2", "two==0.1"]
    assert watch.look_round() == 0


def test_catching_up_starts_with_the_newest(index: Index, make: Making) -> None:
    publish(index, "one", "1.9", "1.10", "2.0rc1")
    watch = make("one", catch_up=True)
    watch.look_round()
    assert waiting(watch) == ["one==1.10"]


def test_versions_outside_the_wish_are_left_out(index: Index, make: Making) -> None:
    publish(index, "one", "1.0")
    watch = make("one<2")
    watch.look_round()
    publish(index, "one", "2.0", "1.5")
    watch.look_round()
    assert waiting(watch) == ["one==1.5"]


def test_what_was_seen_and_not_built_waits_for_the_next_run(index: Index, make: Making) -> None:
    publish(index, "one", "1.0")
    first = make("one")
    first.look_round()
    publish(index, "one", "1.1", "1.2")
    first.look_round()
    first.build_waiting(lambda releases: {releases[0]: "built"})  # and then it was killed
    second = make("one")
    assert second.look_round() == 0
    assert waiting(second) == ["one==1.2"]
    second.build_waiting(lambda releases: dict.fromkeys(releases, "failed"))
    assert second.state.results() == Counter(built=1, failed=1)
    assert waiting(make("one")) == []


def test_a_release_that_was_replaced_while_it_was_built_is_built_again(index: Index, make: Making) -> None:
    watch = make("one")
    watch.look_round()
    publish(index, "one", "1.0")
    watch.look_round()
    old = watch.state.waiting()
    index.projects["one"] = []
    index.add("one", File("one-1.0.tar.gz", b"other bytes"))
    index.serials["one"] = 99
    watch.look_round()
    watch.state.end(old[0], "built")
    assert waiting(watch) == ["one==1.0"]
    assert watch.state.waiting() != old


def test_unchanged_projects_cost_no_page(index: Index, make: Making) -> None:
    names = [f"p{number}" for number in range(20)]
    for name in names:
        publish(index, name, "1")
    watch = make(*names)
    watch.look_round()
    publish(index, "p7", "2")
    before = len(index.requests)
    assert watch.look_round() == 1
    asked = index.requests[before:]
    if index.says_serials:
        assert [path for path, _ in asked] == ["/simple/", "/simple/p7/"]
    else:
        pages = [headers for path, headers in asked if path != "/simple/"]
        assert len(pages) == 20
        assert all("If-None-Match" in headers for headers in pages)


def test_a_page_behind_the_list_is_asked_again(index: Index, make: Making) -> None:
    publish(index, "one", "1.0")
    watch = make("one")
    watch.look_round()
    old = index.projects["one"]
    publish(index, "one", "1.1")
    new, index.projects["one"] = index.projects["one"], old

    again = threading.Event()

    def background(handler: object) -> None:
        serial, index.serials["one"] = index.serials["one"], 1
        handler.serve_page("one")  # type: ignore[attr-defined]
        index.serials["one"] = serial
        again.set()

    index.fail("/simple/one/", background)
    assert watch.look_round() == 0
    assert again.wait(10)  # the answer is there before the server has done with it
    index.projects["one"] = new
    assert watch.look_round() == 1


def test_a_pause_that_the_index_asks_for_is_kept_and_the_round_goes_on(index: Index, make: Making) -> None:
    names = [f"p{number}" for number in range(6)]
    for name in names:
        publish(index, name, "1")
    watch = make(*names)
    index.fail("/simple/p3/", status(429, Retry_After="1"))
    begun = time.monotonic()
    follower = threading.Thread(target=watch.follow)
    follower.start()
    while len(watch.state.seen(names)) < 6:
        assert time.monotonic() - begun < 20
        time.sleep(0.01)
    watch.stop.set()
    follower.join()
    assert time.monotonic() - begun >= 1
    assert "asking again in 1 s" in "\n".join(watch.monitor.texts)  # type: ignore[attr-defined]
    paths = index.paths()
    first = paths.index("/simple/p3/")
    assert (
        paths[first + 1] == "/simple/p3/"
    )  # nothing was asked meanwhile, and what had been looked at was not asked again


def test_one_broken_page_holds_nobody_up_and_a_broken_index_ends_the_round(index: Index, make: Making) -> None:
    names = [f"p{number}" for number in range(8)]
    for name in names:
        publish(index, name, "1")
    watch = make(*names)
    index.fail("/simple/p2/", status(500))
    index.fail("/simple/p5/", status(403))
    watch.look_round()
    assert sorted(watch.state.seen(names)) == [name for name in names if name not in ("p2", "p5")]
    for name in names:
        index.fail(f"/simple/{name}/", *[status(500)] * 3)
        index.serials[name] += 100
    with pytest.raises(PauseError):
        watch.look_round()
    before = len(index.requests)
    index.faults.clear()
    watch.look_round()
    assert sorted(watch.state.seen(names)) == names
    assert len([path for path in index.paths()[before:] if path != "/simple/"]) == 8


def test_questions_come_no_faster_than_allowed(index: Index, make: Making) -> None:
    names = [f"p{number}" for number in range(10)]
    for name in names:
        publish(index, name, "1")
    watch = make(*names, rate_per_s=20)
    begun = time.monotonic()
    watch.look_round()
    assert time.monotonic() - begun >= 9 * 0.75 / 20


def test_pauses_grow_and_end(make: Making) -> None:
    watch = make("one", first_pause_s=10.0)
    error = PauseError("away")
    pauses = [watch._pause_s(error, failures) for failures in (1, 2, 3, 30)]
    for pause, expected in zip(pauses, (10, 20, 40, 3600), strict=True):
        assert expected <= pause <= expected * 1.2
    assert watch._pause_s(PauseError("busy", retry_after_s=500), 1) >= 500


def test_an_error_of_the_looking_side_ends_the_watch(make: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = make("one")

    def full(*_: object, **__: object) -> None:
        raise LedgerError("no state")

    monkeypatch.setattr(watch.state.__class__, "look", full)
    with pytest.raises(LedgerError, match="no state"):
        watch.run(RecordingBuilder())


def release_at_a_rate(index: Index, watch: Watch, *, per_minute: float, for_s: float) -> tuple[float, RecordingBuilder]:
    """Publish releases of the tracked projects while they are watched; the longest time from a release to its builder, in s."""
    names, builder, published = sorted(watch.tracked), RecordingBuilder(), {}
    watch.look_round()
    watching = threading.Thread(target=watch.run, args=(builder,))
    watching.start()
    begun = time.monotonic()
    count = round(for_s * per_minute / 60)
    for number in range(count):
        time.sleep(max(0.0, begun + number * 60 / per_minute - time.monotonic()))
        name, version = names[number % len(names)], f"2.{number}"
        published[f"{name}=={version}"] = time.monotonic()
        publish(index, name, version)
    while len(builder.came) < count and time.monotonic() - begun < for_s + 60:
        time.sleep(0.02)
    watch.stop.set()
    watch.news.set()
    watching.join()
    assert Counter(builder.requirements) == Counter(list(published))  # every one, and each once
    return max(at - published[requirement] for requirement, at in builder.came), builder


def test_releases_in_quick_succession_are_each_built_once(index: Index, make: Making) -> None:
    names = [f"p{number}" for number in range(30)]
    for name in names:
        publish(index, name, "1")
    slowest_s, _ = release_at_a_rate(index, make(*names), per_minute=1200, for_s=1.5)
    assert slowest_s < 15


@pytest.mark.slow
def test_a_hundred_releases_a_minute(
    index: Index, make: Making, record_testsuite_property: Callable[[str, object], None]
) -> None:
    names = [f"p{number}" for number in range(300)]
    for name in names:
        publish(index, name, "1")
    watch = make(*names, interval_s=10, rate_per_s=50)
    slowest_s, builder = release_at_a_rate(index, watch, per_minute=100, for_s=180)
    record_testsuite_property("slowest_s", slowest_s)
    record_testsuite_property("questions", len(index.requests))
    assert len(builder.came) == 300
    assert slowest_s < 30  # an interval, the round that is going on, and a busy machine


def _watch_until_killed(url: str, home: Path, names: list[str]) -> None:
    dirs = StateDirs.choose(home)
    log = home / "built.txt"

    def build(releases: Sequence[NewRelease]) -> Mapping[NewRelease, str]:
        for each in releases:
            with log.open("a") as file:
                file.write(f"{each.requirement}\n")
        return dict.fromkeys(releases, "built")

    settings = WatchSettings(rate_per_s=1e6, interval_s=0.02, list_from=1)
    with (
        IndexWatcher(dirs, config=PipConfig(indexes=(f"{url}/simple/",))) as asker,
        WatchState(dirs.lib / "watch.sqlite") as state,
    ):
        Watch(asker, state, dict.fromkeys(names, SpecifierSet()), Notes(), settings).run(build)


def test_killing_a_watcher_again_and_again_loses_no_release(index: Index, make: Making, tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(10)]
    for name in names:
        publish(index, name, "1")
    home = tmp_path / "state"  # that of make()
    make(*names).look_round()
    wanted = set()
    context = multiprocessing.get_context("forkserver")
    for life in range(3):
        child = context.Process(target=_watch_until_killed, args=(index.url, home, names))
        child.start()
        for number in range(20):
            name, version = names[number % 10], f"{life + 2}.{number}"
            publish(index, name, version)
            wanted.add(f"{name}=={version}")
        log = home / "built.txt"
        deadline = time.monotonic() + 60
        while (log.read_text().count("\n") if log.exists() else 0) < 20 * life + 7 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    last = make(*names)
    last.look_round()
    rest = RecordingBuilder()
    last.build_waiting(rest)
    built = Counter([*(home / "built.txt").read_text().split(), *rest.requirements])
    assert set(built) == wanted
    assert waiting(last) == []


def test_a_state_file_of_another_kind_is_an_error_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "watch.sqlite"
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(LedgerError, match="cannot be used"):
        WatchState(path)
    assert path.read_bytes() == b"not a database, " * 100


def test_a_page_and_its_releases_are_kept_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WatchState(tmp_path / "watch.sqlite") as state:
        good = NewRelease(name="one", version="1", digest="")
        broken = NewRelease(name="one", version=None, digest="")  # type: ignore[arg-type]
        with pytest.raises(LedgerError):
            state.look("one", Seen(known={"1": ""}), fresh=[good, broken])
        assert state.find("one") is None
        assert state.waiting() == []
