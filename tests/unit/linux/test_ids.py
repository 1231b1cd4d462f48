"""Ranges of subordinate ids: parsing, slots, locks, quarantine."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.errors import NoIdRangeError
from lxcbuild.linux import ids
from lxcbuild.linux.ids import RANGE, IdAllocator, Interval, parse_subids, slots

ME = frozenset({"root"})


def allocator(tmp_path: Path, uid: str = f"root:3100000000:{4 * RANGE}", gid: str | None = None) -> IdAllocator:
    """Of ids that no sandbox of this machine has, because an allocator looks at all processes."""
    (tmp_path / "subuid").write_text(uid + "\n")
    (tmp_path / "subgid").write_text((uid if gid is None else gid) + "\n")
    return IdAllocator(subuid=tmp_path / "subuid", subgid=tmp_path / "subgid", directory=tmp_path / "ids")


def test_parsing_skips_what_shadow_skips() -> None:
    text = "# comment\nroot:3100000000:65536\nbroken\nroot:x:1\n0:300000:10\nalice:500000:65536\nroot:1:0\n:::\n"
    mine, others = parse_subids(text, names=frozenset({"root", "0"}))
    assert mine == [Interval(3100000000, 65536), Interval(300000, 10)]
    assert others == [Interval(500000, 65536)]


def test_slots_are_common_to_both_files() -> None:
    found = slots([Interval(3100000000, 3 * RANGE)], [Interval(3100000000 + RANGE, 5 * RANGE)])
    assert [start for part in found for start in part] == [3100000000 + RANGE, 3100000000 + 2 * RANGE]


intervals = st.lists(st.builds(Interval, st.integers(0, 10**6), st.integers(1, 10**6)), max_size=4)


@given(intervals, intervals)
def test_slots_are_disjoint_and_inside_both(uids: list[Interval], gids: list[Interval]) -> None:
    starts = [start for part in slots(uids, gids) for start in part]
    covered = {
        side: [range(i.start, i.end) for i in side_intervals] for side, side_intervals in (("u", uids), ("g", gids))
    }
    for start in starts:
        for side in covered.values():
            assert all(any(probe in part for part in side) for probe in (start, start + RANGE // 2, start + RANGE - 1))
    ordered = sorted(starts)
    assert all(b - a >= RANGE for a, b in itertools.pairwise(ordered))
    assert 0 not in starts


def test_ranges_are_disjoint_until_exhausted(tmp_path: Path) -> None:
    source = allocator(tmp_path)
    held = [source.acquire() for _ in range(4)]
    assert len({each.start for each in held}) == 4
    assert source.in_use() == 4
    with pytest.raises(NoIdRangeError, match="all 4 ranges of 65536 ids are in use") as caught:
        source.acquire()
    assert "sudo tee -a" in (caught.value.resolution or "")
    for each in held:
        each.release()
        each.release()
    assert source.in_use() == 0
    with source.acquire() as again:
        assert again.count == RANGE
        assert source.in_use() == 1


def test_ids_that_another_user_has_too_are_never_given(tmp_path: Path) -> None:
    source = allocator(tmp_path, f"root:3100000000:{2 * RANGE}\nalice:{3100000000 + RANGE}:10")
    assert source.starts() == [3100000000]


@pytest.mark.parametrize(
    ("uid", "gid", "says"),
    [
        ("", "", "subuid and .*subgid give it none"),
        (f"root:3100000000:{RANGE}", "", "subgid give it none"),
        (f"root:3100000000:{RANGE}", f"root:3900000000:{RANGE}", "share no block"),
        (f"root:3100000000:{RANGE}\nbob:3100000000:{RANGE}", f"root:3100000000:{RANGE}", "share no block"),
        ("root:3100000000:1000", "root:3100000000:1000", "give it none"),
    ],
)
def test_no_range_is_an_error_with_the_line_that_mends_it(tmp_path: Path, uid: str, gid: str, says: str) -> None:
    source = allocator(tmp_path, uid, gid)
    with pytest.raises(NoIdRangeError, match=says) as caught:
        source.acquire()
    line = (caught.value.resolution or "").split()[1]
    for name in ("subuid", "subgid"):
        with (tmp_path / name).open("a") as file:
            file.write(line + "\n")
    source.acquire().release()


def test_missing_files_are_no_range(tmp_path: Path) -> None:
    source = IdAllocator(subuid=tmp_path / "a", subgid=tmp_path / "b", directory=tmp_path / "ids")
    with pytest.raises(NoIdRangeError):
        source.acquire()


def test_rested_slots_are_preferred_to_those_just_released(tmp_path: Path) -> None:
    source = allocator(tmp_path)
    first = source.acquire()
    first.release()
    others = [source.acquire() for _ in range(3)]
    assert first.start not in {each.start for each in others}
    last = source.acquire()  # nothing else is left, and no process runs with its ids
    assert last.start == first.start
    for each in [*others, last]:
        each.release()


def test_a_slot_is_not_reused_while_a_process_runs_with_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = allocator(tmp_path, f"root:3100000000:{RANGE}")
    source.acquire().release()
    monkeypatch.setattr(ids, "_ids_of_processes", lambda: {3100000000 + 1000})
    with pytest.raises(NoIdRangeError, match="1 by processes that outlived theirs"):
        source.acquire()
    monkeypatch.undo()
    assert os.getuid() in ids._ids_of_processes()
    source.acquire().release()


def test_the_rest_of_a_killed_holders_slot_begins_when_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = allocator(tmp_path, f"root:3100000000:{2 * RANGE}")
    (tmp_path / "ids").mkdir()
    for start in source.starts():
        (tmp_path / "ids" / str(start)).write_text("held")
    source.acquire().release()  # both were looked at
    monkeypatch.setattr(
        ids, "QUARANTINE_S", -1.0
    )  # stamps are rounded to milliseconds: over at once, on quick machines too
    monkeypatch.setattr(ids, "_ids_of_processes", lambda: pytest.fail("both slots have rested"))
    with source.acquire(), source.acquire():
        pass


CHILD = """
    import sys
    from pathlib import Path
    from lxcbuild.linux.ids import IdAllocator
    root = Path(sys.argv[1])
    source = IdAllocator(subuid=root / "subuid", subgid=root / "subgid", directory=root / "ids")
    held = [source.acquire() for _ in range(int(sys.argv[2]))]
    print(*[each.start for each in held], flush=True)
    sys.stdin.read()
"""


def child(tmp_path: Path, count: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path), str(count)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_never_share_and_a_killed_one_gives_back(tmp_path: Path) -> None:
    source = allocator(tmp_path, f"root:3100000000:{32 * RANGE}")
    children = [child(tmp_path, 8) for _ in range(4)]
    try:
        starts = [int(word) for each in children for word in each.stdout.readline().split()]  # type: ignore[union-attr]
        assert len(starts) == len(set(starts)) == 32
        with pytest.raises(NoIdRangeError, match="32 by running sandboxes"):
            source.acquire()
        children[0].kill()
        children[0].wait()
        with source.acquire() as held:
            assert held.start in starts[:8]
    finally:
        for each in children:
            each.kill()
            each.communicate()


def test_the_lock_lives_as_long_as_a_helper_that_inherited_it(tmp_path: Path) -> None:
    source = allocator(tmp_path, f"root:3100000000:{RANGE}")
    held = source.acquire()
    helper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[held.fd])
    try:
        held.release()
        with pytest.raises(NoIdRangeError, match="1 by running sandboxes"):
            source.acquire()
    finally:
        helper.communicate(b"\n")
    source.acquire().release()
