"""Attacks 34, 35, 36, 37 and 39: everything that an output directory can hold besides plain files."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from lxcbuild.errors import ExtractionError
from lxcbuild.policy import DiskLimits, MemoryLimits, OutputLimits
from lxcbuild.sandbox.base import Step, User
from tests.attacks.attacking import SCRIPTS, run_script
from tests.attacks.host_state import processes_in_range
from tests.support.timing import quick

pytestmark = pytest.mark.root

SECRET = "the host's secret"
MANY = DiskLimits(max_bytes=1 << 29, max_inodes=1_100_000)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "canary"
    path.write_text(SECRET)
    return path


def leave(sandbox, what: str, *arguments: object, user: User = User.BUILD, **policy: object):
    """A dead sandbox whose /out holds ``what``."""
    instance = sandbox(**policy)
    said = run_script(instance, "attack_34_output_links", what, *map(str, arguments), user=user)
    assert said.text.endswith("made\n"), said
    instance.stop()
    assert processes_in_range(instance._id_start) == []
    return instance


def host_view(instance, *parts: str) -> Path:
    """A path of the dead tree as a careless reader on the host would use it."""
    return Path(f"/proc/self/fd/{instance._merged_fd}", *parts)


def assert_refused(instance, destination: Path, match: str, limits: OutputLimits | None = None) -> None:
    with pytest.raises(ExtractionError, match=match) as caught:
        instance.extract("/out", destination, limits or OutputLimits())
    assert SECRET not in f"{caught.value}{caught.value.details}"
    assert not destination.exists()
    assert not [entry for entry in destination.parent.iterdir() if entry.name not in ("canary", "state")], "no half"


@pytest.mark.attack(number=34)
@pytest.mark.parametrize("what", ["symlink", "relative", "absolute", "directory-link", "dangling", "magic"])
def test_links_are_refused_and_never_read(sandbox, canary: Path, tmp_path: Path, what: str) -> None:
    instance = leave(sandbox, what, canary)
    assert_refused(instance, tmp_path / "got", "a symbolic link")


@pytest.mark.attack(number=34)
def test_the_output_directory_itself_may_not_be_a_link(sandbox, canary: Path, tmp_path: Path) -> None:
    instance = leave(sandbox, "out-link", canary, user=User.ROOT)
    assert_refused(instance, tmp_path / "got", "not a plain directory")


@pytest.mark.attack(number=34)
def test_a_careless_reader_would_follow_the_link(sandbox, canary: Path, tmp_path: Path) -> None:
    instance = leave(sandbox, "absolute", canary)
    shutil.copytree(host_view(instance, "out"), tmp_path / "careless")
    assert (tmp_path / "careless/f").read_text() == SECRET


@pytest.mark.attack(number=35)
@pytest.mark.parametrize(
    ("what", "user", "match"),
    [
        ("hard-link", User.BUILD, "a hard link"),
        ("hard-link-lower", User.ROOT, "a hard link"),
        ("fifo", User.BUILD, "a fifo"),
        ("socket", User.BUILD, "a socket"),
    ],
)
def test_other_kinds_of_files_are_refused_at_once(sandbox, tmp_path: Path, what: str, user: User, match: str) -> None:
    instance = leave(sandbox, what, user=user)
    begun = time.monotonic()
    assert_refused(instance, tmp_path / "got", match)
    assert time.monotonic() - begun < 10, "a fifo that is opened carelessly hangs"


@pytest.mark.attack(number=35)
def test_a_careless_reader_hangs_or_takes_what_is_somewhere_else_too(sandbox, tmp_path: Path) -> None:
    fifo = leave(sandbox, "fifo")
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            ["cat", f"/proc/self/fd/{fifo._merged_fd}/out/f"],
            pass_fds=[fifo._merged_fd],
            timeout=1,
            capture_output=True,
        )
    linked = leave(sandbox, "hard-link-lower", user=User.ROOT)
    shutil.copytree(host_view(linked, "out"), tmp_path / "careless")
    assert (tmp_path / "careless/f").read_bytes() == host_view(linked, "etc/passwd").read_bytes()


@pytest.mark.attack(number=35)
def test_devices_cannot_be_made_and_would_be_refused(sandbox, tmp_path: Path) -> None:
    instance = sandbox()
    said = run_script(instance, "attack_34_output_links", "device", user=User.ROOT)
    assert "PermissionError" in said.text
    instance.stop()
    os.mknod(host_view(instance, "out/f"), 0o020666, os.makedev(1, 3))
    assert_refused(instance, tmp_path / "got", "a character device")


@pytest.mark.attack(number=36)
def test_file_capabilities_cannot_be_set_and_would_be_stripped(sandbox, tmp_path: Path) -> None:
    instance = sandbox()
    said = run_script(instance, "attack_34_output_links", "capability", user=User.ROOT)
    assert "PermissionError" in said.text, "the inner root has no CAP_SETFCAP"
    instance.stop()
    capability = struct.pack("<IIIII", 0x02000001, 1 << 7, 0, 0, 0)  # VFS_CAP_REVISION_2, cap_setuid+ep
    os.setxattr(host_view(instance, "out/f"), "security.capability", capability)
    (file,) = instance.extract("/out", tmp_path / "got", OutputLimits())
    assert os.listxattr(file.path) == []


@pytest.mark.attack(number=36)
@pytest.mark.parametrize("what", ["setuid", "acl", "xattr", "owner", "unreadable"])
def test_only_bytes_come_out(sandbox, tmp_path: Path, what: str) -> None:
    user = User.ROOT if what == "owner" else User.BUILD
    instance = leave(sandbox, what, user=user)
    inside = host_view(instance, "out/f")
    (file,) = instance.extract("/out", tmp_path / "got", OutputLimits())
    info = file.path.lstat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (0, 0, 0o644)
    assert os.listxattr(file.path) == []
    assert file.path.read_bytes() == b"data\n"
    # It was there: what came out is not plain because it went in plain.
    assert {
        "setuid": lambda: inside.stat().st_mode & 0o7777 == 0o6777,
        "acl": lambda: "system.posix_acl_access" in os.listxattr(inside),
        "xattr": lambda: "user.note" in os.listxattr(inside),
        "owner": lambda: inside.stat().st_uid == instance._id_start + 33,
        "unreadable": lambda: inside.stat().st_mode & 0o777 == 0,
    }[what]()


@pytest.mark.attack(number=37)
def test_a_sparse_terabyte_costs_neither_time_nor_space(sandbox, tmp_path: Path) -> None:
    instance = leave(sandbox, "sparse")
    begun = time.monotonic()
    assert_refused(instance, tmp_path / "got", "larger than")
    assert time.monotonic() - begun < 10


@pytest.mark.attack(number=37)
def test_a_sparse_file_within_the_limits_stays_sparse(sandbox, tmp_path: Path) -> None:
    instance = sandbox()
    run_script(instance, "attack_34_output_links", "sparse")
    os.truncate(host_view(instance, "out/f"), 1 << 27)
    instance.stop()
    (file,) = instance.extract("/out", tmp_path / "got", OutputLimits())
    assert file.size_bytes == 1 << 27
    assert file.path.stat().st_blocks * 512 < 1 << 21


@pytest.mark.attack(number=37)
def test_a_hundred_thousand_nested_directories(sandbox, tmp_path: Path) -> None:
    instance = leave(sandbox, "deep", 100_000, disk=MANY, memory=MemoryLimits(max_bytes=1 << 30))
    begun = time.monotonic()
    assert_refused(instance, tmp_path / "got", "nested deeper than 16")
    with pytest.raises(ExtractionError, match="nested deeper"):
        instance.save_delta(tmp_path / "delta")
    assert sum(1 for _ in instance.changes()) < 1000
    assert quick(time.monotonic() - begun, 3)


@pytest.mark.attack(number=37)
@pytest.mark.parametrize("count", [50_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_a_mass_of_files_is_refused_in_bounded_time(sandbox, tmp_path: Path, count: int) -> None:
    memory = MemoryLimits(max_bytes=4 << 30)
    instance = leave(sandbox, "many", count, disk=MANY, memory=memory)
    begun = time.monotonic()
    assert_refused(instance, tmp_path / "got", "more than 1000 files")
    assert quick(time.monotonic() - begun, 2)
    assert sum(1 for _ in instance.changes()) <= 200_000
    assert quick(time.monotonic() - begun, 15)


@pytest.mark.attack(number=37)
@pytest.mark.parametrize("what", ["newline", "escape", "invalid", "dash"])
def test_names_that_mean_something_elsewhere_are_refused(sandbox, tmp_path: Path, what: str) -> None:
    instance = leave(sandbox, what)
    assert_refused(instance, tmp_path / "got", "bad name")


@pytest.mark.attack(number=37)
def test_the_longest_name_is_a_name(sandbox, tmp_path: Path) -> None:
    (file,) = leave(sandbox, "long-name").extract("/out", tmp_path / "got", OutputLimits())
    assert file.name == "n" * 255


@pytest.mark.attack(number=39)
@pytest.mark.parametrize("what", ["swap", "swap-directory"])
def test_what_swaps_files_is_dead_before_anything_is_read(sandbox, canary: Path, tmp_path: Path, what: str) -> None:
    for attempt in range(5):
        instance = sandbox(name=f"swap-{attempt}")
        run_script(instance, "attack_34_output_links", what, str(canary))
        instance.stop()
        before = sorted(os.listdir(host_view(instance, "out")))  # noqa: PTH208
        destination = tmp_path / f"got-{attempt}"
        try:
            taken = instance.extract("/out", destination, OutputLimits())
        except ExtractionError:
            assert not destination.exists()
        else:
            assert all(SECRET not in file.path.read_text() for file in taken)
        assert sorted(os.listdir(host_view(instance, "out"))) == before, "nothing is alive"  # noqa: PTH208
        instance.close()


@pytest.mark.attack(number=39)
def test_a_careless_reader_of_a_living_sandbox_is_led_out(sandbox, canary: Path) -> None:
    """With the daemon alive and links followed, the canary is read sooner or later; so the daemon above is a real one."""
    instance = sandbox(name="alive")
    instance.put("/build/swap.py", (SCRIPTS / "attack_34_output_links.py").read_bytes())
    script = (
        "import os, runpy, sys, time; sys.argv[1:] = ['swap', {!r}]; runpy.run_path('/build/swap.py'); time.sleep(30)"
    )
    step = Step(argv=("python3", "-c", script.format(str(canary))))
    thread = threading.Thread(target=instance.run, args=(step, lambda _: None))
    thread.start()
    deadline = time.monotonic() + 20
    seen = ""
    while SECRET not in seen and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            seen = host_view(instance, "out/swapped").read_text()
    instance.cancel()
    thread.join()
    assert seen == SECRET
