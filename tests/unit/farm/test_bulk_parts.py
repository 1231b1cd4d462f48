"""Parts of bulk builds without sandboxes: plan files, growing plans, journals, stores, slots, results."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from lxcbuild.builder.request import MissingRelease
from lxcbuild.cli.bulk_view import draw, short_key
from lxcbuild.errors import FarmError, InputError, WrongHashError
from lxcbuild.farm import artifacts, results
from lxcbuild.farm.artifacts import ArtifactStore, object_place, open_store
from lxcbuild.farm.engines.engine import BuildReport, JobResult, StoredFile
from lxcbuild.farm.journal import Journal
from lxcbuild.farm.planning.widen import places, widened
from lxcbuild.farm.progress import Activity, Picture
from lxcbuild.farm.simulation.makespan import makespan
from lxcbuild.ledger.records import NewBuild
from lxcbuild.model import Artifact, Failure, FailureClass, Outcome, Phase, PhaseRecord, Status, Target, Usage
from lxcbuild.plan.capacity import Room
from lxcbuild.plan.dependencies import components
from lxcbuild.plan.document import Estimate, Member, Plan, PlannedJob, dump_plan, job_key, merge_cycles, parse_plan
from lxcbuild.state import slots

BOOKWORM = "debian/bookworm"


def member(name: str) -> Member:
    return Member(name=name, version="1.0", requirement=f"{name}==1.0")


def job(*names: str, needs: tuple[str, ...] = ()) -> PlannedJob:
    members = tuple(member(name) for name in names)
    keys = tuple(job_key(BOOKWORM, {each: "1.0"}) if "/" not in each else each for each in needs)
    return PlannedJob(
        target=BOOKWORM, members=members, needs=keys, estimate=Estimate(seconds=2.0, memory_bytes=1 << 28)
    )


def plan(*jobs: PlannedJob) -> Plan:
    return Plan(jobs={each.key: each for each in jobs})


def key(*names: str) -> str:
    return job_key(BOOKWORM, dict.fromkeys(names, "1.0"))


# -- plan files -------------------------------------------------------------------------------------------------------


def test_a_plan_survives_its_file_and_is_the_same_text_whatever_the_order() -> None:
    one, two = plan(job("a"), job("b", needs=("a",))), plan(job("b", needs=("a",)), job("a"))
    assert parse_plan(dump_plan(one)) == one
    assert dump_plan(one) == dump_plan(two)
    assert one.order() == (key("a"), key("b"))
    assert one.pins(key("b")) == {"a": "1.0", "b": "1.0"}
    assert one.pins(key("a")) == {"a": "1.0"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda p: p["jobs"][key("b")]["needs"].append(key("aa")),
            f"no job {key('aa')}. Perhaps you meant '{key('a')}'.",
        ),
        (lambda p: p["jobs"].update({"x": p["jobs"].pop(key("a"))}), "jobs.x: its members make it"),
        (lambda p: p["jobs"][key("a")].update(needs=[key("b")]), "need each other"),
        (lambda p: p["jobs"][key("a")].update(colour="red"), f"jobs.{key('a')}.colour"),
        (lambda p: p.update(format=2), "format: must be at most 1, not 2"),
        (lambda p: p["jobs"][key("a")].update(needs=5, estimate={"seconds": -1}), "needs: must be a list, not 5"),
        (lambda p: p["jobs"][key("a")]["members"][0].update(sha256="short"), "sha256"),
    ],
)
def test_mistakes_of_editing_are_told_with_their_place(change: object, said: str) -> None:
    edited = json.loads(dump_plan(plan(job("a"), job("b", needs=("a",)))))
    change(edited)  # type: ignore[operator]
    with pytest.raises(InputError) as caught:
        parse_plan(json.dumps(edited), name="mine.json")
    assert said in str(caught.value)
    assert str(caught.value).startswith("mine.json: ")


def test_all_mistakes_of_a_plan_are_told() -> None:
    edited = json.loads(dump_plan(plan(job("a"))))
    edited["jobs"][key("a")].update(needs=5, estimate={"seconds": -1}, polisy="x", target="debian/bookworm\n")
    with pytest.raises(InputError) as caught:
        parse_plan(json.dumps(edited))
    place = f"jobs.{key('a')}"
    assert (caught.value.details or "").splitlines() == [
        f"{place}.polisy: there is no such key. Perhaps you meant 'policy'.",
        f"{place}.target: 'debian/bookworm\\n' does not match ^[a-z0-9.+-]+/[a-z0-9.+-]+(/[a-z0-9-]+)?",
        f"{place}.needs: must be a list, not 5",
        f"{place}.estimate.seconds: must be at least 0, not -1",
    ]
    for text in ("{", b"\xff", b"[" * 100_000, "[]"):
        with pytest.raises(InputError, match="the whole file"):
            parse_plan(text)


def test_projects_that_need_each_other_become_one_job() -> None:
    needs = {"a==1.0": {"b==1.0"}, "b==1.0": {"a==1.0", "c==1.0"}, "c==1.0": set(), "d==1.0": {"a==1.0"}}
    made = merge_cycles(needs, {node: (node[0], "1.0") for node in needs}, BOOKWORM)
    assert made[key("a", "b")] == (("a==1.0", "b==1.0"), frozenset({key("c")}))
    assert made[key("d")][1] == {key("a", "b")}


def test_the_makespan_follows_chains_and_room() -> None:
    made = plan(job("a"), job("b", needs=("a",)), job("c"))
    two = makespan(made, {"m": Room(memory_bytes=8 << 30, cpus=2)})
    assert (two.seconds, two.at_once, two.longest_s) == (4.0, 2, 4.0)
    assert two.chain == ("a==1.0", "b==1.0")
    assert makespan(made, {"m": Room(memory_bytes=8 << 30, cpus=1)}).seconds == 6.0


# -- plans grow -------------------------------------------------------------------------------------------------------


def test_what_is_wanted_is_taken_from_the_plan_or_added() -> None:
    before = plan(job("app"), job("lib"))
    asked = [MissingRelease(name="lib", version="1.0"), MissingRelease(name="new", version="1.0", needs=("lib",))]
    found = widened(before, key("app"), asked, places(before.jobs))
    assert list(found.jobs) == [key("new")]
    assert found.jobs[key("new")].needs == (key("lib"),)
    assert set(found.needs) == {key("lib"), key("new")}


def test_what_needs_the_asking_job_in_turn_is_built_with_it() -> None:
    before = plan(job("app"), job("top", needs=("app",)))
    found = widened(
        before, key("app"), [MissingRelease(name="new", version="1.0", needs=("app",))], places(before.jobs)
    )
    assert list(found.jobs) == [key("app", "new")]
    assert found.needs == (key("app", "new"),)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.sets(st.sampled_from("abcdefgh"), max_size=3), min_size=1),
    st.sets(st.sampled_from("abcdefghij"), min_size=1, max_size=4),
    st.data(),
)
def test_a_grown_plan_never_waits_for_itself(needs: dict[str, set[str]], wanted: set[str], data: st.DataObject) -> None:
    names = sorted({*needs, *(other for others in needs.values() for other in others)})
    acyclic = {name: {other for other in needs.get(name, ()) if other < name} for name in names}
    before = plan(*(job(name, needs=tuple(sorted(acyclic[name]))) for name in names))
    asking = data.draw(st.sampled_from(names))
    asked = sorted(wanted - {asking})
    items = [
        MissingRelease(
            name=name,
            version="1.0",
            needs=tuple(sorted(data.draw(st.sets(st.sampled_from([*asked, asking]), max_size=3)) - {name})),
        )
        for name in asked
    ]
    found = widened(before, key(asking), items, places(before.jobs))
    graph = {each: set(planned.needs) for each, planned in {**before.jobs, **found.jobs}.items()}
    graph[key(asking)] |= set(found.needs)
    assert all(len(component) == 1 for component in components(graph)), "a cycle is left"
    assert all(other in graph for others in graph.values() for other in others)
    held = {m.name for each in {*found.needs} for m in {**before.jobs, **found.jobs}[each].members}
    assert set(asked) <= held | {m.name for each in found.jobs.values() for m in each.members}


# -- journal ----------------------------------------------------------------------------------------------------------


def test_a_journal_goes_on_where_it_was_and_half_a_line_is_none(tmp_path: Path) -> None:
    with Journal(tmp_path, resume=False) as journal:
        journal.write("built", key="a", builds=["1"])
    with journal.path.open("ab") as file:
        file.write(b'{"event": "built", "key": "b", "bui')
    with Journal(tmp_path, resume=True) as journal:
        assert [entry["key"] for entry in journal.earlier] == ["a"]
        journal.write("failed", key="c")
    with Journal(tmp_path, resume=True) as journal:
        assert [entry["key"] for entry in journal.earlier] == ["a", "c"]
    with Journal(tmp_path, resume=False) as journal:
        assert journal.earlier == []
    assert len(list(tmp_path.glob("journal-*.jsonl"))) == 1


def test_a_run_has_one_head(tmp_path: Path) -> None:
    with Journal(tmp_path, resume=False), pytest.raises(InputError, match="another process"):
        Journal(tmp_path, resume=True)


# -- stores -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return open_store(str(tmp_path / "store") if request.param == "directory" else f"memory://{tmp_path.name}")


def test_files_come_back_by_their_content(store: ArtifactStore, tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(b"x" * 100_000)
    kept = store.put(path)
    assert store.put(path) == kept
    assert (kept.name, kept.size_bytes) == ("a.deb", 100_000)
    assert store.get(kept, tmp_path / "out").read_bytes() == path.read_bytes()
    with pytest.raises(FarmError, match="not in the store"):
        store.get(StoredFile(name="b", sha256="0" * 64, size_bytes=1), tmp_path / "out")
    outside = store.get(StoredFile(name="../../evil", sha256=kept.sha256, size_bytes=kept.size_bytes), tmp_path / "out")
    assert outside.parent == tmp_path / "out"


def test_what_a_store_gives_is_bounded(store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(b"x" * 5_000_000)
    kept = store.put(path)
    room = tmp_path / "room"
    with pytest.raises(WrongHashError):
        store.get(replace(kept, size_bytes=4_000_000), room)
    assert list(room.iterdir()) == []
    monkeypatch.setattr(artifacts, "MAX_DOCUMENT_BYTES", 1000)
    store.write("results/r/a.json", b"x" * 1000)
    assert store.read("results/r/a.json") == b"x" * 1000
    store.write("results/r/a.json", b"x" * 1001)
    with pytest.raises(FarmError, match="more than 1000 bytes"):
        store.read("results/r/a.json")


def test_documents_are_replaced_listed_and_removed(store: ArtifactStore) -> None:
    assert store.list("results/r") == []
    assert store.read("results/r/a.json") is None
    store.write("results/r/a.json", b"1")
    store.write("results/r/a.json", b"2")
    assert store.list("results/r") == ["results/r/a.json"]
    assert store.read("results/r/a.json") == b"2"
    store.remove("results/r/a.json")
    store.remove("results/r/a.json")
    assert store.list("results/r") == []


def test_something_else_under_a_hash_is_refused_and_not_left(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    path = tmp_path / "a"
    path.write_bytes(b"right")
    kept = store.put(path)
    (tmp_path / "store" / object_place(kept.sha256)).write_bytes(b"wrong")
    with pytest.raises(WrongHashError):
        store.get(kept, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_result_survives_its_document() -> None:
    target = Target.parse(BOOKWORM)
    outcome = Outcome(
        build_id="b1",
        name="a",
        version="1.0",
        target=target,
        status=Status.BUILT,
        artifacts=(Artifact(path=Path("/x/a.deb"), sha256="0" * 64, size_bytes=1),),
        phases=(PhaseRecord(phase=Phase.COMPILE, started_at="2026-01-01T00:00:00+00:00", usage=Usage(wall_s=1.5)),),
        limits_in_force={"memory.max": 1, "network": "none"},
        checks={"lintian": {"tags": []}},
    )
    new = NewBuild(build_id="b1", name="a", target=target, policy="default", request={"force": True, "hashes": []})
    failure = Failure(failure_class=FailureClass.OOM, phase=Phase.COMPILE, brief="\u2028\x00")
    report = BuildReport(new=new, learned={"version": "1.0"}, outcome=outcome)
    result = JobResult(key="k", run="r", attempt=1, worker="w", reports=(report,), failure=failure)
    store = open_store("memory://results-test")
    results.keep(store, result)
    place = results.place_of("r", "k", 1)
    data = store.read(place)
    assert data is not None
    assert results.parse(data, place=place) == result
    with pytest.raises(FarmError, match="not the result of a build"):
        results.parse(b'{"key": 1}', place=place)


# -- slots ------------------------------------------------------------------------------------------------------------


def test_slots_are_seen_by_others_and_go_with_their_holder(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from lxcbuild.state import slots\n"
        "with slots.hold(slots.Kind.INTERACTIVE, memory_bytes=5, directory=Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        (other,) = slots.held(tmp_path)
        assert (other.kind, other.pid, other.memory_bytes, other.cpus) == (slots.Kind.INTERACTIVE, child.pid, 5, 1.0)
        child.kill()
    assert slots.held(tmp_path) == []
    assert list(tmp_path.iterdir()) == [], "the file of a dead holder is removed"
    with slots.hold(slots.Kind.BULK, memory_bytes=1, directory=tmp_path):
        assert [item.pid for item in slots.held(tmp_path)] == [os.getpid()]
    assert slots.held(tmp_path) == []


# -- the live view ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_view_of_long_names_keeps_phase_time_and_totals(width: int) -> None:
    long = "debian/trixie/" + "+".join(f"sphinxcontrib-{name}==2.0.0+local" for name in ("a" * 40, "b", "c"))
    running = [
        Activity(key=key, worker="node-17.lab.example.org", expected_s=600.0, attempt=1, phase="provision")
        for key in (long, *(f"debian/trixie/p{number}==1" for number in range(30)))
    ]
    picture = Picture(
        running=tuple(running), total=40, built=3, reused=0, failed=1, pruned=0, elapsed_s=60.0, per_hour=240.0,
        left_s=90.0, failures={"oom": 1}, draining=True,
    )  # fmt: skip
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(draw(picture, rows=10))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 10 + 7
    assert sum("provision" in line and "10 min 00 s" in line for line in lines) == 10
    text = " ".join(" ".join(line.split()) for line in lines)
    assert "and 21 more 4 of 40 done" in text
    assert "draining: no more builds are started failures: oom 1" in text


def test_a_cycle_is_named_by_one_of_its_projects() -> None:
    assert short_key("debian/trixie/a==1.0+local+b-c==2") == "a==1.0+local and 1 more  debian/trixie"
    assert short_key("debian/trixie/a==1.0+local") == "a==1.0+local  debian/trixie"


def test_workers_find_done_what_each_of_them_would_do_first() -> None:
    script = (
        "import sys; from lxcbuild.farm import results; from lxcbuild.cli.build_context import bulk_build_context\n"
        "from lxcbuild.farm.engines import subprocess_jobs\n"
        "from multiprocessing import forkserver; subprocess_jobs.context(bulk_build_context)\n"
        "for name in forkserver._forkserver._preload_modules: __import__(name)\n"
        "print('urllib3' in sys.modules, 'psycopg' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
