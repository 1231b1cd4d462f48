"""What the site shows, read from the ledger page by page: one small row per build, sums beside them."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct, field

from lxcbuild.ledger.records import BuildRecord
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Phase
from lxcbuild.text import for_log

_PAGE = 50
_MAX_BRIEF, _MAX_DETAILS, _MAX_NOTES = 400, 4000, 40
#: From the statuses that are shown to classes of the style sheet.
KINDS = ("built", "official", "failed", "cancelled", "running")

#: What differs between builds whose failures are one failure: names, versions, numbers, paths.
_MAX_CLUSTER = 240
_ITEM = r"[\w<>-]{1,80} <version>"
_CLUSTER_RULES = (
    (
        re.compile(
            r"(?<![<\w.-])[\w.-]+(?:\[[\w,-]*\])? ?(?:[<>=!~]=|[<>]) ?\d[\w.*]*(?:, ?(?:[<>=!~]=|[<>]) ?\d[\w.*]*)*"
        ),
        "<requirement>",
    ),
    (re.compile(r"https?://\S+"), "<url>"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<hash>"),
    (re.compile(r"\b(?:debian|ubuntu)/[a-z]+\b"), "<suite>"),
    (re.compile(r"(?<![\w.])(?:\.{0,2}/)?(?:[\w.+~@-]+/){1,30}[\w.+~@-]+"), "<path>"),
    (re.compile(r"(?<![\w.+-])[A-Za-z0-9.+-]+_[A-Za-z0-9.+~:-]+_[A-Za-z0-9]+\.deb(?::\w+)?"), "<package>"),
    (re.compile(r"'[^'\n]{1,200}'|`[^`\n]{1,200}`|\"[^\"\n]{1,200}\""), "<text>"),
    (re.compile(r"\bv?\d+(?:\.\d+)+[\w.+~!-]*"), "<version>"),
    (re.compile(r"\b\d+\b"), "<n>"),
    # Lists of packages with what is said of each are one thing, however long.
    (re.compile(rf"{_ITEM} \([^()]{{0,80}}\)(?:, {_ITEM}(?: \([^()]{{0,80}}\))?){{0,200}}"), "<packages>"),
    (re.compile(rf"{_ITEM}(?:, {_ITEM}(?: \([^()]{{0,80}}\))?){{1,200}}"), "<packages>"),
    (re.compile(r"<packages> \.\.\."), "<packages>"),  # cut by who wrote the message
)


class ReportedBuild(Struct, frozen=True, kw_only=True):
    """One build, cut to what is shown of it; every text is printable and bounded."""

    build_id: str
    name: str
    version: str
    target: str
    status: str
    started_at: str
    wall_s: float | None
    cpu_s: float
    peak_memory_bytes: int
    phases: tuple[tuple[str, float], ...]
    failure_class: str = ""
    failure_phase: str = ""
    brief: str = ""
    details: str = ""
    resolution: str = ""
    cluster: str = ""
    notes: tuple[str, ...] = ()
    artifacts: tuple[tuple[str, int], ...] = ()
    log_path: Path | None = None
    saved_s: float = 0.0  # by layers that were there already

    @property
    def slug(self) -> str:
        """The project's file below the site: letters, digits, dots and hyphens only, whatever it calls itself."""
        return slug(self.name)

    @property
    def has_log(self) -> bool:
        """Whether there is still something to show."""
        return self.log_path is not None and self.log_path.is_file()


class Group(Struct):
    """Builds that are counted together: all, or those of one suite. Newest first."""

    name: str
    builds: list[ReportedBuild] = field(default_factory=list)

    def count(self, status: str) -> int:
        """Builds that ended so."""
        return sum(build.status == status for build in self.builds)

    def newest(self) -> list[ReportedBuild]:
        """The last word on every project and suite."""
        found: dict[tuple[str, str], ReportedBuild] = {}
        for build in self.builds:
            if build.status not in ("running", "cancelled"):
                found.setdefault((build.name, build.target), build)
        return list(found.values())

    @property
    def yield_percent(self) -> float:
        """Of the projects tried per suite, the share that was built, or is official, the last time."""
        last = self.newest()
        return 100 * sum(build.status != "failed" for build in last) / len(last) if last else 0.0

    def classes(self) -> list[tuple[str, int]]:
        """Failure classes of the last attempts, most frequent first."""
        return Counter(build.failure_class for build in self.newest() if build.failure_class).most_common()

    def clusters(self, limit: int) -> list[tuple[str, str, list[ReportedBuild]]]:
        """Class, message and builds of the last attempts that failed alike, most frequent first."""
        found: dict[tuple[str, str], list[ReportedBuild]] = defaultdict(list)
        for build in self.newest():
            if build.failure_class:
                found[build.failure_class, build.cluster].append(build)
        ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
        return [(kind, message, builds) for (kind, message), builds in ordered[:limit]]

    def phase_costs(self) -> list[tuple[str, int, float, float]]:
        """Phase, how many builds had it, median and sum of its seconds; in the order of a build."""
        seconds: dict[str, list[float]] = defaultdict(list)
        for build in self.builds:
            for name, wall_s in build.phases:
                seconds[name].append(wall_s)
        return [
            (phase.value, len(seconds[phase.value]), statistics.median(seconds[phase.value]), sum(seconds[phase.value]))
            for phase in Phase
            if seconds[phase.value]
        ]

    def seconds_of(self, phase: str) -> list[float]:
        """What that phase took in each build."""
        return [wall_s for build in self.builds for name, wall_s in build.phases if name == phase]

    def top(self, field_name: str, limit: int = 12) -> list[ReportedBuild]:
        """The builds with the highest value, one per project."""
        ordered = sorted(self.builds, key=lambda build: getattr(build, field_name) or 0, reverse=True)
        seen: dict[str, ReportedBuild] = {}
        for build in ordered:
            if getattr(build, field_name):
                seen.setdefault(build.name, build)
            if len(seen) == limit:
                break
        return list(seen.values())

    def over_time(self) -> tuple[list[str], dict[str, list[float]]]:
        """Builds by day, or by month when there are many days, and how they ended."""
        days = {build.started_at[:10] for build in self.builds}
        length = 10 if len(days) <= 45 else 7
        names = sorted({build.started_at[:length] for build in self.builds})
        place = {name: i for i, name in enumerate(names)}
        stacks = {kind: [0.0] * len(names) for kind in KINDS}
        for build in self.builds:
            stacks[build.status][place[build.started_at[:length]]] += 1
        return names, {kind: values for kind, values in stacks.items() if any(values)}

    def releases(self) -> tuple[list[str], list[float]]:
        """Releases (project and version) by the month in which they were packaged first."""
        first: dict[tuple[str, str], str] = {}
        for build in reversed(self.builds):
            if build.status == "built":
                first.setdefault((build.name, build.version), build.started_at[:7])
        months = Counter(first.values())
        return sorted(months), [float(months[month]) for month in sorted(months)]


def slug(name: str) -> str:
    """A file name for any text: what PEP 503 allows stays, the rest becomes its code point."""
    safe = re.sub(r"[^a-z0-9.-]", lambda match: f"_{ord(match[0]):x}", name[:120])
    return f"_{safe}" if safe.startswith(".") or not safe else safe


def read(ledger: Ledger, *, limit: int) -> Iterator[ReportedBuild]:
    """The newest builds, newest first, in pages that one index answers."""
    before: tuple[str, str] | None = None
    while limit > 0:
        page = ledger.recent(limit=min(_PAGE, limit), before=before, details=True)
        yield from map(to_build, page)
        if len(page) < min(_PAGE, limit):
            return
        limit -= len(page)
        before = (page[-1].started_at, page[-1].build_id)


def to_build(record: BuildRecord) -> ReportedBuild:
    """Cut a record to what is shown."""
    failure, usage = record.failure, [phase.usage for phase in record.phases]
    return ReportedBuild(
        build_id=_text(record.build_id, 64),
        name=_text(record.name, 120),
        version=_text(record.version, 80),
        target=str(record.target),
        status=record.status,
        started_at=_text(record.started_at, 32),
        wall_s=record.wall_s,
        cpu_s=sum(each.cpu_s for each in usage),
        peak_memory_bytes=max((each.peak_memory_bytes for each in usage), default=0),
        phases=_phases(record),
        failure_class=failure.failure_class.value if failure else "",
        failure_phase=failure.phase.value if failure else "",
        brief=_text(failure.brief if failure else "", _MAX_BRIEF),
        details=_text((failure.details if failure else "") or "", _MAX_DETAILS, lines=True),
        resolution=_text((failure.resolution if failure else "") or "", _MAX_BRIEF),
        cluster=_text(cluster(failure.brief, project=record.name) if failure else "", _MAX_BRIEF),
        notes=tuple(_text(note, _MAX_BRIEF) for note in record.notes[:_MAX_NOTES]),
        artifacts=tuple((_text(each.path.name, 200), each.size_bytes) for each in record.artifacts[:_MAX_NOTES]),
        log_path=record.log_path,
        saved_s=record.layers.saved_s if record.layers is not None else 0.0,
    )


def cluster(message: str, *, project: str) -> str:
    """What a message is about, for any project: such as ``<project> <version> has no source archive, only <n> wheels``."""
    text = " ".join(message[: 4 * _MAX_CLUSTER].split())
    if project:
        text = re.sub(rf"(?<![\w-]){re.escape(project)}(?![\w-])", "<project>", text, flags=re.IGNORECASE)
    for pattern, place in _CLUSTER_RULES:
        text = pattern.sub(place, text)
    return text[:_MAX_CLUSTER]


def _phases(record: BuildRecord) -> tuple[tuple[str, float], ...]:
    """Seconds by phase; a phase that a build came back to counts once, with all its seconds."""
    seconds: dict[str, float] = {}
    for phase in record.phases:
        seconds[phase.phase.value] = seconds.get(phase.phase.value, 0.0) + phase.usage.wall_s
    return tuple(seconds.items())


def _text(text: str, limit: int, *, lines: bool = False) -> str:
    """Nothing that reorders, hides or commands; bounded."""
    shown = for_log(text[: 2 * limit])
    if not lines:
        shown = " ".join(shown.split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def by_target(builds: Iterable[ReportedBuild]) -> list[Group]:
    """A group per suite, by name."""
    groups: dict[str, Group] = {}
    for build in builds:
        groups.setdefault(build.target, Group(build.target)).builds.append(build)
    return [groups[name] for name in sorted(groups)]


def by_project(builds: Iterable[ReportedBuild]) -> dict[str, list[ReportedBuild]]:
    """The builds of every project, by name."""
    found: dict[str, list[ReportedBuild]] = defaultdict(list)
    for build in builds:
        found[build.name].append(build)
    return {name: found[name] for name in sorted(found)}


def summary(builds: Sequence[ReportedBuild]) -> dict[str, str]:
    """The last status of a project per suite."""
    return {build.target: build.status for build in reversed(builds)}
