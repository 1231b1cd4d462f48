"""Writes the static site: pages from templates with autoescape, a search index in pieces, logs within bounds.

The site needs no server and nothing from elsewhere: scripts and styles are files of its own, and its Content-Security-Policy allows
nothing else. Texts of packages come through :func:`lxcbuild.text.for_log` and Jinja2's autoescape.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from msgspec import Struct

from lxcbuild import __version__
from lxcbuild.errors import InputError
from lxcbuild.report import gather, plots
from lxcbuild.report.gather import Group, ReportedBuild
from lxcbuild.text import for_log

MARK = ".lxcbuild-report"
_ROWS = 250  # of one page of a list
_SHARD = 1500  # projects in one piece of the search index
_BUILDS_PER_PROJECT = 60
_HEAD_BYTES, _TAIL_BYTES = 16 * 1024, 112 * 1024


class Written(Struct, frozen=True):
    """What was written."""

    builds: int
    projects: int
    pages: int
    logs: int


def write(directory: Path, builds: Sequence[ReportedBuild], *, made_at: str, logs: str = "failed") -> Written:
    """Make the site of these builds (newest first) in ``directory``, which may hold an older one; it is replaced whole.

    ``logs``: whose logs are shown: ``failed``, ``all`` or ``none``. Raises InputError for a directory with something else in it.
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / MARK).exists():
        raise InputError(f"{directory} holds something other than a report", resolution="choose a new directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        fresh.chmod(0o755)
        done = _Site(fresh, builds, made_at=made_at, logs=logs).write()
        if directory.exists():
            old = fresh.with_name(f"{fresh.name}-old")
            directory.rename(old)
            fresh.rename(directory)
            shutil.rmtree(old)
        else:
            fresh.rename(directory)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return done


class _Site:
    def __init__(self, root: Path, builds: Sequence[ReportedBuild], *, made_at: str, logs: str) -> None:
        self._root, self._builds, self._which = root, builds, logs
        self._all = Group("all suites", list(builds))
        self._suites = gather.by_target(builds)
        self._projects = gather.by_project(builds)
        self._pages = self._logs = 0
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("lxcbuild.report"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "duration": plots.duration,
            "bytes": _bytes,
            "moment": _moment,
            "slug": gather.slug,
        }
        self._environment.globals |= {
            "made_at": made_at,
            "version": __version__,
            "suite_names": [suite.name for suite in self._suites],
            "known": {build.build_id for build in builds if self._wants(build)},
        }

    def _wants(self, build: ReportedBuild) -> bool:
        return self._which == "all" or (self._which == "failed" and build.status == "failed")

    def write(self) -> Written:
        """Everything, the mark last."""
        for name in ("site.css", "site.js"):
            data = (resources.files("lxcbuild.report") / "templates" / name).read_bytes()
            (self._root / name).write_bytes(data)
        for group, path in [
            (self._all, "index.html"),
            *((s, f"suites/{gather.slug(s.name)}.html") for s in self._suites),
        ]:
            self._page(
                path, "overview.html", group=group, plots=_plots(group), suites=self._suites, whole=group is self._all
            )
        self._page("failures.html", "failures.html", group=self._all, clusters=self._all.clusters(400))
        self._page("search.html", "search.html")
        self._list()
        for name, builds in self._projects.items():
            self._page(
                f"projects/{gather.slug(name)}.html",
                "project.html",
                name=name,
                builds=builds[:_BUILDS_PER_PROJECT],
                left_out=max(0, len(builds) - _BUILDS_PER_PROJECT),
            )
            for build in builds[:_BUILDS_PER_PROJECT]:
                if self._wants(build) and build.has_log and build.log_path is not None:
                    self._log(build, build.log_path)
        self._search()
        (self._root / MARK).write_text(f"{__version__}\n")
        return Written(len(self._builds), len(self._projects), self._pages, self._logs)

    def _list(self) -> None:
        pages = max(1, -(-len(self._builds) // _ROWS))
        for number in range(pages):
            rows = self._builds[number * _ROWS : (number + 1) * _ROWS]
            self._page(f"builds/{number + 1}.html", "builds.html", rows=rows, number=number + 1, pages=pages)

    def _log(self, build: ReportedBuild, path: Path) -> None:
        head, tail, left_out = _excerpt(path)
        self._logs += 1
        self._page(
            f"logs/{gather.slug(build.build_id)}.html", "log.html", build=build, head=head, tail=tail, left_out=left_out
        )

    def _search(self) -> None:
        """Pieces as scripts, not JSON: a page that was opened as a file may load scripts beside it and nothing else."""
        names = list(self._projects)
        (self._root / "search").mkdir()
        for number in range(-(-len(names) // _SHARD)):
            rows = []
            for name in names[number * _SHARD : (number + 1) * _SHARD]:
                last = gather.summary(self._projects[name])
                rows.append([name, gather.slug(name), self._projects[name][0].version, sorted(last.items())])
            text = json.dumps(rows, separators=(",", ":"))
            (self._root / f"search/{number}.js").write_text(f"lxcbuildPiece({number},{text});\n", encoding="ascii")
        pieces = -(-len(names) // _SHARD)
        (self._root / "search/index.js").write_text(f"lxcbuildPieces({pieces},{len(names)});\n", encoding="ascii")

    def _page(self, path: str, template: str, **values: Any) -> None:
        place = self._root / path
        place.parent.mkdir(exist_ok=True)
        text = self._environment.get_template(template).render(root="../" * path.count("/"), here=path, **values)
        place.write_text(text, encoding="utf-8")
        self._pages += 1


def _plots(group: Group) -> dict[str, plots.Plot]:
    names, stacks = group.over_time()
    months, releases = group.releases()
    # What was refused or pruned never ran: it has no phases.
    walls = [
        build.wall_s
        for build in group.builds
        if build.wall_s is not None and build.phases and build.status in ("built", "failed")
    ]
    return {
        "over_time": plots.columns("Builds over time, by how they ended", names, stacks),
        "walls": plots.histogram("Builds by how long they took", walls),
        "downloads": plots.histogram("Builds by how long downloading the sources took", group.seconds_of("fetch")),
        "provision": plots.histogram("Builds by how long their layer took", group.seconds_of("provision")),
        "saved": plots.histogram(
            "Builds by what layers saved", [build.saved_s for build in group.builds if build.saved_s]
        ),
        "releases": plots.columns("Releases packaged for the first time, by month", months, {"releases": releases}),
    }


def _excerpt(path: Path) -> tuple[str, str, int]:
    """Beginning and end of a log, as text that is safe to show, and how many bytes lie between."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        size = os.fstat(fd).st_size
        if size <= _HEAD_BYTES + _TAIL_BYTES:
            return for_log(file.read(_HEAD_BYTES + _TAIL_BYTES)), "", 0
        head = file.read(_HEAD_BYTES)
        file.seek(size - _TAIL_BYTES)
        return for_log(head), for_log(file.read(_TAIL_BYTES)), size - _HEAD_BYTES - _TAIL_BYTES


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def _moment(text: str) -> str:
    return text[:16].replace("T", " ")
