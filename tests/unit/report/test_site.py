"""The static site: nothing of a package can act in it, every link leads somewhere, and it stays usable with many builds."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from msgspec.structs import replace

from lxcbuild.errors import InputError
from lxcbuild.ledger.records import NewBuild
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Failure, FailureClass, Outcome, Phase, PhaseRecord, Status, Target, Usage
from lxcbuild.report import gather, plots, site
from lxcbuild.report.gather import cluster
from lxcbuild.state.paths import StateDirs
from tests.support.timing import within

EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31mred\x1b]0;title\x07\u202egnp.exe\u200b\x00\"'{{7*7}}"
MADE_AT = "2026-11-21T00:00+00:00"


def build(number: int, **changes: object) -> gather.ReportedBuild:
    made = gather.ReportedBuild(
        build_id=f"20261121-{number:06d}-abcdef",
        name=f"project-{number % 400}",
        version=f"1.{number}",
        target=("debian/bookworm", "debian/trixie")[number % 2],
        status="failed" if number % 5 == 0 else "built",
        started_at=f"2026-{number % 11 + 1:02d}-{number % 27 + 1:02d}T00:00:00.000000+00:00",
        wall_s=number % 90 + 0.5,
        cpu_s=1.0,
        peak_memory_bytes=number * 1000,
        phases=(("fetch", 0.1), ("compile", 3.0)),
        failure_class="compile-failed" if number % 5 == 0 else "",
        failure_phase="compile" if number % 5 == 0 else "",
        brief="it failed" if number % 5 == 0 else "",
        cluster="it failed" if number % 5 == 0 else "",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


class Reader(html.parser.HTMLParser):
    """Collects what could act: elements, attributes, links."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def pages(root: Path) -> dict[Path, Reader]:
    found = {}
    for path in root.rglob("*.html"):
        found[path] = Reader()
        found[path].feed(path.read_text("utf-8"))
    return found


@pytest.fixture
def hostile(fresh_state: StateDirs, tmp_path: Path) -> Path:
    log = tmp_path / "evil.log"
    log.write_bytes(EVIL.encode("utf-8", "surrogatepass") * 20_000 + b"\xff\xfe end of the log")
    why = Failure(
        failure_class=FailureClass.COMPILE_FAILED, phase=Phase.COMPILE, brief=EVIL, details=EVIL * 500, resolution=EVIL
    )
    with Ledger.open(fresh_state) as ledger:
        for number, name in enumerate(("evil", EVIL, "../../escape", "..", "con/../x", "x" * 255)):
            target = Target("debian", "bookworm")
            build_id = f"20260101-000000-{number:04d}"
            ledger.begin(NewBuild(build_id=build_id, name=name, target=target, policy="default", version=EVIL))
            outcome = Outcome(
                build_id=build_id, name=name, version=EVIL, target=target, status=Status.FAILED, failure=why,
                phases=(PhaseRecord(phase=Phase.COMPILE, started_at="2026-01-01", usage=Usage(wall_s=1)),),
                log_path=log, notes=(EVIL,) * 100,
            )  # fmt: skip
            ledger.finish(outcome)
        builds = list(gather.read(ledger, limit=1000))
    root = tmp_path / "site"
    site.write(root, builds, made_at=MADE_AT)
    return root


def test_nothing_of_a_package_can_act_in_a_page(hostile: Path) -> None:
    found = pages(hostile)
    assert len(found) > 10
    for path, page in found.items():
        assert page.tags.count("script") == 1, path
        assert not {"img", "iframe", "object", "style", "form", "base"} & set(page.tags), path
        assert not [name for name, _value in page.attributes if name.startswith("on") or name == "style"], path
        text = path.read_text("utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f]", text), path
        assert "{{7*7}}" in text or "evil" not in text, "a template of a package is text"
        policy = next(value for name, value in page.attributes if "default-src" in value)
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
        assert "unsafe" not in policy
    for path in (hostile / "search").iterdir():
        text = path.read_text("ascii")
        assert re.fullmatch(r"lxcbuildPieces?\(.*\);\n", text)
        assert "\u2028" not in text


def test_names_lead_to_no_place_outside(hostile: Path, tmp_path: Path) -> None:
    assert {path.name for path in tmp_path.iterdir()} == {"state", "evil.log", "site"}
    assert all(re.fullmatch(r"[a-z0-9._-]+\.html", path.name) for path in (hostile / "projects").iterdir())
    assert not any(path.name.startswith(".") for path in (hostile / "projects").iterdir())


def test_logs_are_bounded_and_end_with_their_end(hostile: Path) -> None:
    logs = list((hostile / "logs").iterdir())
    assert len(logs) == 6
    for path in logs:
        assert path.stat().st_size < 1024 * 1024
        assert "end of the log" in path.read_text("utf-8")
        assert "are left out here" in path.read_text("utf-8")


def test_every_link_leads_somewhere_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "site"
    site.write(root, [build(number) for number in range(900, 0, -1)], made_at=MADE_AT)
    for path, page in pages(root).items():
        for name, value in page.attributes:
            if name in ("href", "src"):
                parts = urlsplit(value)
                assert not parts.scheme, (path, value)
                assert not parts.netloc, (path, value)
                if parts.path:
                    assert (path.parent / unquote(parts.path)).is_file(), (path, value)


def test_the_numbers_are_those_of_the_builds() -> None:
    group = gather.Group("all", [build(number) for number in range(100, 0, -1)])
    assert (group.count("built"), group.count("failed")) == (80, 20)
    assert group.yield_percent == 80.0
    assert group.classes() == [("compile-failed", 20)]
    assert [(name, count) for name, count, _median, _total in group.phase_costs()] == [("fetch", 100), ("compile", 100)]
    assert group.top("peak_memory_bytes", 3)[0].peak_memory_bytes == 100_000
    again = gather.Group("all", [build(5, status="built", failure_class=""), build(5)])
    assert again.yield_percent == 100.0, "the last attempt counts"


def test_pages_of_the_ledger_are_read_whole_and_once(fresh_state: StateDirs) -> None:
    with Ledger.open(fresh_state) as ledger:
        for number in range(250):
            made = NewBuild(build_id=f"b{number:05d}", name="six", target=Target("debian", "sid"), policy="default")
            ledger.begin(replace(made, started_at=f"2026-01-01T00:00:0{number % 3}.000000+00:00"))
        found = [each.build_id for each in gather.read(ledger, limit=1000)]
        assert len(found) == len(set(found)) == 250
        assert [each.build_id for each in gather.read(ledger, limit=130)] == found[:130]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("torch 2.15.0 has no source archive, only 28 wheels", "torch"), ("jax 1.0 has no source archive, only 2 wheels", "jax")),
        (("debian/sid has no package of a>=0.2.1", "x"), ("debian/trixie has no package of bcd[e] == 4.*", "y")),
        (("debian/sid has no packages of it", "x"), ("ubuntu/noble has no packages of it", "y")),
        (("no crates a 1.0 (no package), b 2.1 (no package) ...", "x"), ("no crates c 3.0 (the suite has 1.1), d 4.5", "y")),
        (("cannot import name 'x' from '/usr/lib/y.py'", "x"), ("cannot import name 'abc' from '/opt/z/q.py'", "q")),
    ],
)  # fmt: skip
def test_messages_that_say_the_same_are_one_cluster(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert cluster(first[0], project=first[1]) == cluster(second[0], project=second[1])
    assert cluster(first[0], project=first[1]) != cluster("out of memory", project="x")


def test_a_suite_is_called_one() -> None:
    assert cluster("debian/bookworm has no package of /usr/x", project="y") == "<suite> has no package of <path>"


def test_a_phase_that_a_build_came_back_to_counts_once(fresh_state: StateDirs) -> None:
    target = Target("debian", "sid")
    pieces = tuple(
        PhaseRecord(phase=phase, started_at="2026-01-01", usage=Usage(wall_s=seconds))
        for phase, seconds in ((Phase.FETCH, 1.0), (Phase.INSPECT, 2.0), (Phase.INSPECT, 4.0))
    )
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(NewBuild(build_id="b1", name="six", target=target, policy="default"))
        ledger.finish(
            Outcome(build_id="b1", name="six", version="1", target=target, status=Status.BUILT, phases=pieces)
        )
        group = gather.Group("all", list(gather.read(ledger, limit=10)))
    assert group.phase_costs() == [("fetch", 1, 1.0, 1.0), ("inspect", 1, 6.0, 6.0)]


def test_clusters_of_hostile_messages_take_no_time() -> None:
    with within(2):
        for text in ("a/" * 100_000, "'" * 100_000, "a >= " * 50_000, "a 1.0 (" * 20_000, "1." * 100_000, EVIL * 1000):
            cluster(text, project="a" * 200)


def test_plots_hold_for_no_and_for_strange_values() -> None:
    for plot in (
        plots.histogram("x", []),
        plots.histogram("x", [0.0, 1e9]),
        plots.columns("x", [], {}),
        plots.columns("x", ["a"], {"k": [0.0]}),
    ):
        assert all(0 <= bar.y <= plots.HEIGHT and bar.height <= plots.HEIGHT for bar in plot.bars)
    assert len(plots.columns("x", ["a", "b"], {"k": [1.0, 2.0]}).bars) == 2


def test_a_directory_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/mine.txt").write_text("x")
    with pytest.raises(InputError, match="something other"):
        site.write(tmp_path / "site", [], made_at=MADE_AT)
    (tmp_path / "site/mine.txt").unlink()
    for _again in range(2):
        site.write(tmp_path / "site", [], made_at=MADE_AT)
    assert {path.name for path in tmp_path.iterdir()} == {"site"}


@pytest.mark.bench
@pytest.mark.slow
def test_fifty_thousand_builds_stay_usable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a line of a log, of usual length, with some words in it\n" * 4000)
    builds = [build(number, name=f"project-{number % 20_000}", log_path=log) for number in range(50_000, 0, -1)]
    begun_at = time.monotonic()
    done = site.write(tmp_path / "site", builds, made_at=MADE_AT)
    took_s = time.monotonic() - begun_at
    sizes = {
        path.relative_to(tmp_path): path.stat().st_size for path in (tmp_path / "site").rglob("*") if path.is_file()
    }
    search = sum(size for path, size in sizes.items() if "search" in path.parts)
    with capsys.disabled():
        print(f"\n{done}: {took_s:.0f} s, {sum(sizes.values()) / 2**20:.0f} MiB, search {search / 2**20:.1f} MiB")  # noqa: T201
    assert took_s < 600
    biggest = max(size for path, size in sizes.items() if "logs" not in path.parts)
    assert biggest < 2**20, "no page grows with the ledger"
    assert search < 4 * 2**20


def _browser() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(_browser() is None, reason="there is no browser here: apt-get install chromium")
def test_a_browser_searches_without_a_server_and_runs_no_package_code(hostile: Path, tmp_path: Path) -> None:
    def dom(page: str) -> str:
        done = subprocess.run(
            [str(_browser()), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             "--virtual-time-budget=4000", "--dump-dom", f"file://{hostile / page}"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return done.stdout

    shown = dom("search.html?q=evil")
    assert "1 of 6 projects" in shown
    assert 'href="projects/evil.html"' in shown
    assert json.dumps(EVIL)[:5] not in shown
    assert "<img" not in dom("projects/evil.html")
