"""Follows the index: looks at tracked projects again and again, politely, and hands their new releases to whoever builds them.

Looking and building go on side by side: a build of an hour delays no look, and a look that waits for the index delays no build.
What joins them is :class:`~lxcbuild.farm.watch.watchstate.WatchState`, so nothing is lost when either ends.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field
from packaging.specifiers import SpecifierSet

from lxcbuild.errors import NetworkError
from lxcbuild.events import Monitor, Note
from lxcbuild.farm.watch.watchstate import Seen, WatchState
from lxcbuild.pypi.index.changes import IndexWatcher, NewRelease, PauseError, known_releases, new_releases, newest

#: Failures in a row after which not a project but the index is taken to be away.
_PATIENCE = 3
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 3600.0

#: Builds releases and says how each ended ("built", "official", "failed" ...); what it does not name waits on.
Builder = Callable[[Sequence[NewRelease]], Mapping[NewRelease, str]]


class WatchSettings(Struct, frozen=True, kw_only=True):
    """How to watch. ``interval_s``: seconds from the beginning of one round to that of the next; ``rate_per_s``: most questions
    per second; from ``list_from`` tracked projects on, the index is first asked which of all its projects have changed."""

    interval_s: float = 600.0
    rate_per_s: float = 5.0
    list_from: int = 200
    allow_pre: bool = False
    catch_up: bool = False  # also build the newest release of a project that is looked at for the first time
    first_pause_s: float = _FIRST_PAUSE_S


class Watch(Struct):
    """Looks at the projects in ``tracked`` (normalised name to the versions that are wanted)."""

    index: IndexWatcher
    state: WatchState
    tracked: Mapping[str, SpecifierSet]
    monitor: Monitor
    settings: WatchSettings = field(default_factory=WatchSettings)
    stop: threading.Event = field(default_factory=threading.Event)  # set: end as soon as possible
    news: threading.Event = field(default_factory=threading.Event)  # set: something is to be built
    _left: deque[str] = field(default_factory=deque)
    _listed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    _lists: bool = True  # until the index is known to have no list with serials
    _next_at: float = 0.0

    # -- looking ----------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Look in rounds until :attr:`stop` is set. Where the index is away, wait for longer and longer, then go on."""
        failures = 0
        while not self.stop.is_set():
            begun = time.monotonic()
            try:
                self.look_round()
            except PauseError as error:
                failures += 1
                wait_s = self._pause_s(error, failures)
                self._note(f"{error.brief}: asking again in {wait_s:.0f} s", warning=True)
            else:
                failures = 0
                wait_s = begun + self.settings.interval_s * random.uniform(0.9, 1.1) - time.monotonic()  # noqa: S311
            self.stop.wait(max(0.0, wait_s))

    def look_round(self) -> int:
        """Look at every tracked project once, and give how many releases are new. A round that :class:`PauseError` ended is
        gone on with by the next call."""
        if not self._left:
            self._begin_round()
        found, in_a_row = 0, 0
        later: list[str] = []
        while self._left and not self.stop.is_set():
            name = self._left[0]
            try:
                found += self._look(name)
                in_a_row = 0
            except PauseError as error:
                in_a_row += 1
                if error.retry_after_s is not None or in_a_row >= _PATIENCE:
                    self._left.extend(later)
                    raise
                later.append(name)
            except NetworkError as error:
                self._note(f"{name}: {error.brief}", warning=True)
            self._left.popleft()
        for name in later:
            # One project's page failed where others did not: nobody else waits for it.
            self._note(f"{name}: its page cannot be fetched now", warning=True)
        return found

    def _begin_round(self) -> None:
        seen = self.state.seen(self.tracked)
        names = [*(name for name in sorted(self.tracked) if name not in seen), *seen]
        self._listed = {}
        if self._lists and len(self.tracked) >= self.settings.list_from:
            self._pace()
            listed = self.index.serials(self.tracked)
            self._lists = listed is not None
            if listed is not None:
                self._listed = {name: _of_one(listed, name) for name in names}
                for name in names:
                    if name not in seen and not self._listed[name]:
                        self.state.look(name, Seen(), fresh=())  # what appears later is new
                names = [n for n in names if self._listed[n] and (n not in seen or seen[n].serials != self._listed[n])]
        self._left = deque(names)

    def _look(self, name: str) -> int:
        self._pace()
        page = self.index.look(name)
        before = self.state.find(name)
        if page is None:
            if before is None:
                self.state.look(name, Seen(), fresh=())
            return 0
        if before is None and not self.settings.catch_up:
            fresh: list[NewRelease] = []
        else:
            known = before.known if before else {}
            fresh = new_releases(name, page.files, known, allow_pre=self.settings.allow_pre)
            fresh = [each for each in fresh if self.tracked[name].contains(each.version, prereleases=True)]
            if before is None:
                fresh = [each for each in (newest(fresh),) if each is not None]
        # A page may be older than the list of all projects: its own serial is kept then, and the next round asks again.
        serials = {**self._listed.get(name, {}), **page.serials}
        merged = {**(before.known if before else {}), **known_releases(name, page.files)}
        self.state.look(name, Seen(serials=serials, known=merged), fresh=fresh)
        for each in fresh:
            self._note(f"{each.name} {each.version} is new")
        if fresh:
            self.news.set()
        return len(fresh)

    def _pace(self) -> None:
        """Wait until the next question is polite."""
        now = time.monotonic()
        self.stop.wait(max(0.0, self._next_at - now))
        self._next_at = max(now, self._next_at) + random.uniform(0.75, 1.25) / self.settings.rate_per_s  # noqa: S311

    def _pause_s(self, error: PauseError, failures: int) -> float:
        own = min(self.settings.first_pause_s * 2.0 ** min(failures - 1, 20), _LONGEST_PAUSE_S)
        asked = min(error.retry_after_s or 0.0, 24 * _LONGEST_PAUSE_S)
        return max(own, asked) * random.uniform(1.0, 1.2)  # noqa: S311

    def _note(self, text: str, *, warning: bool = False) -> None:
        self.monitor.emit(Note(text=text, warning=warning))

    # -- building ---------------------------------------------------------------------------------------------------

    def build_waiting(self, build: Builder) -> int:
        """Hand everything that waits to ``build``, keep how it ended, and give the number of releases that did not end well."""
        waiting = self.state.waiting()
        if not waiting:
            return 0
        failed = 0
        for release, result in build(waiting).items():
            self.state.end(release, result)
            failed += result == "failed"
        return failed

    def run(self, build: Builder) -> None:
        """Look and build until :attr:`stop` is set or an error ends either, which is raised then."""
        errors: list[BaseException] = []

        def look() -> None:
            try:
                self.follow()
            except BaseException as error:  # noqa: BLE001 - raised below, in the thread that people talk to
                errors.append(error)
            finally:
                self.stop.set()
                self.news.set()

        looking = threading.Thread(target=look, name="watch")
        looking.start()
        try:
            self.news.set()  # what an earlier run left
            while not self.stop.is_set():
                self.news.wait()
                self.news.clear()
                self.build_waiting(build)
        finally:
            self.stop.set()
            looking.join()
        if errors:
            raise errors[0]


def _of_one(listed: Mapping[str, Mapping[str, int]], name: str) -> dict[str, int]:
    return {index: serials[name] for index, serials in listed.items() if name in serials}
