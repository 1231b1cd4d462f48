"""Attacks 6 to 9, 13, 14, 21, 24 and 41: devices, namespaces, mounts, roots, hostile images, terminals, interfaces, the base."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

import pytest

from lxcbuild.errors import SandboxError
from lxcbuild.sandbox.base import User
from tests.attacks.attacking import run_script, run_unguarded

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("user", list(User))
ALLOWED_NODES = [
    "/dev/full c 1:7", "/dev/null c 1:3", "/dev/pts/ptmx c 5:2", "/dev/random c 1:8", "/dev/tty c 5:0", "/dev/urandom c 1:9",
    "/dev/zero c 1:5",
]  # fmt: skip


@pytest.mark.attack(number=6)
@BOTH
@pytest.mark.parametrize("seccomp", ["build", "none"])
def test_no_device_can_be_made_and_none_is_there_but_the_allowed(run_attack, user, seccomp) -> None:
    found = run_attack("attack_06_devices", user=user, seccomp=seccomp)
    assert "done" not in found["made"].values(), found
    assert found["nodes"] == ALLOWED_NODES


@pytest.mark.attack(number=6)
def test_without_a_sandbox_root_makes_one(tmp_path) -> None:
    assert set(run_unguarded("attack_06_devices", str(tmp_path))["made"].values()) == {"done"}


@pytest.mark.attack(number=7)
@BOTH
def test_no_namespace_is_made_or_entered(run_attack, user) -> None:
    found = run_attack("attack_07_namespaces", user=user)
    assert {found.pop("clone3"), found.pop("clone3 user")} == {"ENOSYS"}
    foreign = {found.pop(name) for name in list(found) if name.startswith("setns of PID 1")}
    assert foreign == {"EACCES"}  # its descriptors cannot even be opened
    assert set(found.values()) == {"EPERM"}, found


@pytest.mark.attack(number=7)
def test_without_the_filter_namespaces_nest(run_attack) -> None:
    found = run_attack("attack_07_namespaces", seccomp="none")
    assert found["unshare user"] == found["clone user"] == found["nested"] == "done"


@pytest.mark.attack(number=8)
@BOTH
def test_nothing_is_mounted_or_unmounted(run_attack, user) -> None:
    found = run_attack("attack_08_mounts", user=user)
    assert found.pop("mask is still there") is True
    assert set(found.values()) == {"EPERM"}, found


@pytest.mark.attack(number=8)
def test_without_the_filter_the_missing_capability_still_refuses(run_attack) -> None:
    found = run_attack("attack_08_mounts", user=User.ROOT, seccomp="none")
    assert found.pop("mask is still there") is True
    assert "done" not in found.values(), found


@pytest.mark.attack(number=8)
def test_without_a_sandbox_root_mounts(tmp_path) -> None:
    found = run_unguarded("attack_08_mounts", "--safe", str(tmp_path), wrapper=("unshare", "--mount"))
    assert found["tmpfs"] == found["bind"] == found["new interface"] == "done"


@pytest.mark.attack(number=9)
@BOTH
def test_there_is_no_way_out_of_the_root(run_attack, user, open_place) -> None:
    canary = open_place / "canary"
    canary.touch()
    found = run_attack("attack_09_chroot", str(canary), user=user)
    assert found == {"dots": False, "chroot": "EPERM", "climbed": False, "root is its own parent": True}


@pytest.mark.attack(number=9)
def test_a_plain_chroot_lets_root_out(open_place) -> None:
    (open_place / "canary").touch()
    (open_place / "cell").mkdir()
    (open_place / "cell" / "tmp").mkdir()
    found = run_unguarded("attack_09_chroot", str(open_place / "canary"), str(open_place / "cell"))
    assert found["chroot"] == "done"
    assert found["climbed"] is True


@pytest.mark.attack(number=13)
@pytest.mark.parametrize(
    "place", ["dev", "proc", "sys", "build", "out", "in", "tmp", "dev/null", "dev/shm", "dev/pts", "dev/.runner"]
)
def test_links_of_an_image_never_lead_to_the_host(sandbox, rootfs, tmp_path, place) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "null").write_text("untouched")
    before = digest(canary)
    layer = tmp_path / "layer"
    (layer / place).parent.mkdir(parents=True)
    (layer / place).symlink_to(canary / "null" if place in ("dev/null", "dev/.runner") else canary)
    if "/" in place:
        instance = sandbox(lowers=(layer, rootfs))  # below a directory that is ours altogether
        assert run_script(instance, "attack_06_devices").document["nodes"] == ALLOWED_NODES
    else:
        with pytest.raises(SandboxError, match=f"/{place} of the image is not a plain directory"):
            sandbox(lowers=(layer, rootfs))
    assert digest(canary) == before


@pytest.mark.attack(number=13)
def test_naive_preparation_of_such_an_image_reaches_the_host(tmp_path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    before = digest(canary)
    (tmp_path / "dev").symlink_to(canary)
    (tmp_path / "dev" / "shm").mkdir()
    assert digest(canary) != before


@pytest.mark.attack(number=14)
@BOTH
def test_nothing_is_pushed_into_terminals(run_attack, user) -> None:
    found = run_attack("attack_14_terminal_input", user=user)
    assert found.pop("/dev/tty") == "ENXIO"
    missing = {found.pop(name) for name in ("/dev/console", "/dev/tty0", "/dev/tty1")}
    assert missing == {"ENOENT"}
    assert set(found.values()) == {"EPERM"}, found


@pytest.mark.attack(number=14)
def test_without_a_sandbox_root_types_for_others() -> None:
    assert run_unguarded("attack_14_terminal_input", "--own-only") == {"own terminal": "done"}


@pytest.mark.attack(number=21)
def test_setuid_and_setcap_programs_gain_nothing(sandbox) -> None:
    instance = sandbox()
    assert run_script(instance, "attack_21_privileged_files", "prepare", user=User.ROOT).document == {"setcap": "EPERM"}
    found = run_script(instance, "attack_21_privileged_files", "run").document
    nothing = {"euid": 1000, "egid": 1000, "eff": "0" * 16, "nnp": "1"}
    assert [found[name] for name in ("setuid", "setgid", "setcap")] == [nothing] * 3


@pytest.mark.attack(number=21)
def test_without_a_sandbox_they_do(open_place) -> None:
    assert run_unguarded("attack_21_privileged_files", "prepare", str(open_place)) == {"setcap": "done"}
    stranger = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups")
    shutil.copytree(Path(__file__).parent / "scripts", open_place / "scripts")
    found = run_unguarded(
        "attack_21_privileged_files", "run", str(open_place), wrapper=stranger, scripts=open_place / "scripts"
    )
    assert found["setuid"]["euid"] == 0
    assert found["setgid"]["egid"] == 0
    assert int(found["setcap"]["eff"], 16) == 0x1FF


@pytest.mark.attack(number=24)
@BOTH
def test_interfaces_of_the_kernel_are_closed(run_attack, user) -> None:
    found = run_attack("attack_24_kernel_interfaces", user=user)
    absent = {name for name, how in found.items() if how == "ENOSYS"}
    assert absent == {"io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup"}
    assert {how for name, how in found.items() if name not in absent} == {"EPERM"}


@pytest.mark.attack(number=24)
def test_without_the_filter_some_are_open_to_anybody(run_attack) -> None:
    found = run_attack("attack_24_kernel_interfaces", seccomp="none")
    assert {"add_key", "keyctl", "kcmp", "move_pages"} <= {name for name, how in found.items() if how == "done"}, found


def digest(tree: Path) -> str:
    """Of names, kinds, modes, owners, times and contents below a directory."""
    total = hashlib.sha256()
    for folder, directories, files in os.walk(tree):
        directories.sort()
        for name in sorted([*directories, *files]):
            path = Path(folder, name)
            about = path.lstat()
            total.update(
                f"{path} {about.st_mode} {about.st_uid} {about.st_gid} {about.st_size} {about.st_mtime_ns}\n".encode()
            )
            if stat.S_ISREG(about.st_mode):
                with path.open("rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@pytest.mark.attack(number=41)
@BOTH
def test_the_base_never_changes(run_attack, rootfs, user) -> None:
    before = digest(rootfs)
    found = run_attack("attack_41_image_files", user=user)
    assert found["lower paths"] == []
    assert found["remount"] == "EPERM"
    assert found["trusted xattr"] == "EPERM"
    if user is User.ROOT:  # it writes to its own copies, and every time the base is below
        assert found["write"] == found["unlink"] == found["truncate"] == "done"
    else:
        assert {how for name, how in found.items() if name not in ("private map", "lower paths")} <= {"EACCES", "EPERM"}
    assert digest(rootfs) == before


@pytest.mark.attack(number=41)
def test_a_change_would_show_in_the_digest(tmp_path) -> None:
    (tmp_path / "file").write_text("good")
    before = digest(tmp_path)
    (tmp_path / "file").write_text("evil")
    assert digest(tmp_path) != before
