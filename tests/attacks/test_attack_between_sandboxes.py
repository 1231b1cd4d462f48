"""Attacks 15, 18, 19 and 42: sockets without files, keyrings, shared memory, and two sandboxes at once."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.linux.cgroups.cgroup import CgroupHost
from lxcbuild.sandbox import registry
from lxcbuild.sandbox.base import Bind, Instance, Step, User
from tests.attacks.attacking import SCRIPTS, run_script, run_unguarded

pytestmark = pytest.mark.root


class Listener(threading.Thread):
    """The listening side of attack 15 inside a sandbox, until somebody came or a second has passed."""

    def __init__(self, instance: Instance, name: str) -> None:
        super().__init__()
        self.instance, self.name_ = instance, name
        self.listening = threading.Event()
        self.heard = b""

    def run(self) -> None:
        for name in ("attack_15_abstract_socket", "tools"):
            self.instance.put(f"/build/{name}.py", (SCRIPTS / f"{name}.py").read_bytes())
        argv = ("python3", "/build/attack_15_abstract_socket.py", "listen", self.name_, "1.5")
        self.instance.run(Step(argv=argv), self.hear)

    def hear(self, data: bytes) -> None:
        self.heard += data
        if b"listening" in self.heard:
            self.listening.set()


@pytest.mark.attack(number=15)
def test_abstract_sockets_do_not_join_sandboxes_or_the_host(sandbox) -> None:
    first, second = sandbox(), sandbox()
    listener = Listener(first, "lxcbuild-attack")
    listener.start()
    assert listener.listening.wait(30)
    visit = ("attack_15_abstract_socket", "visit", "lxcbuild-attack", "/etc/hostname")
    assert run_script(second, *visit).document == {"connect": "ECONNREFUSED"}
    assert run_unguarded(*visit) == {"connect": "ECONNREFUSED"}
    listener.join()
    assert b'{"visited": false}' in listener.heard


@pytest.mark.attack(number=15)
def test_nor_the_host_with_a_sandbox_but_on_the_host_they_do(run_attack, tmp_path) -> None:
    (tmp_path / "secret").write_text("passed on")
    script = str(SCRIPTS / "attack_15_abstract_socket.py")
    command = ["/usr/bin/python3", "-B", script, "listen", "lxcbuild-attack", "30"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "listening\n"
        visit = ("attack_15_abstract_socket", "visit", "lxcbuild-attack")
        assert run_attack(*visit, "/etc/hostname") == {"connect": "ECONNREFUSED"}
        assert run_unguarded(*visit, str(tmp_path / "secret")) == {"connect": "done"}
        assert host.stdout.read().strip() == '{"visited": true, "read": "passed on"}'


@pytest.mark.attack(number=15)
def test_a_socket_in_a_directory_that_is_handed_in_leads_nowhere(sandbox, open_place) -> None:
    """Its mode lets everybody in, and a socket can be connected to on read-only mounts."""
    (open_place / "secret").write_text("passed on")
    place = open_place / "shared"
    place.mkdir(mode=0o755)
    script = str(SCRIPTS / "attack_15_abstract_socket.py")
    command = ["/usr/bin/python3", "-B", script, "listen", str(place / "socket"), "30"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "listening\n"
        (place / "socket").chmod(0o666)
        for user in User:
            instance = sandbox(binds=(Bind(host=place, inside="/in/shared"),))
            said = run_script(
                instance, "attack_15_abstract_socket", "visit", "/in/shared/socket", "/etc/hostname", user=user
            )
            assert said.document == {"connect": "ECONNREFUSED"}
        visit = ("attack_15_abstract_socket", "visit", str(place / "socket"))
        assert run_unguarded(*visit, str(open_place / "secret")) == {"connect": "done"}
        assert host.stdout.read().strip() == '{"visited": true, "read": "passed on"}'


@pytest.fixture
def planted_key() -> Iterator[str]:
    """A key in the session keyring of this process, which its children share."""
    described = importlib.util.spec_from_file_location("attack_tools", SCRIPTS / "tools.py")
    assert described is not None
    assert described.loader is not None
    tools: Any = importlib.util.module_from_spec(described)
    described.loader.exec_module(tools)
    name = f"lxcbuild-attack-{os.getpid()}"
    serial = tools.syscall("add_key", b"user", name.encode(), b"x", 1, -3)
    yield name
    tools.syscall("keyctl", 21, serial)  # KEYCTL_INVALIDATE


@pytest.mark.skipif(not Path("/proc/keys").exists(), reason="a kernel without key rings")
class TestKeysOfTheHost:
    @pytest.mark.attack(number=18)
    def test_keys_of_the_host_are_neither_seen_nor_added(self, run_attack, planted_key) -> None:
        found = run_attack("attack_18_keyrings", planted_key)
        assert found.pop("listed") is False
        assert set(found.values()) == {"EPERM"}

    def test_without_the_filter_the_keyrings_are_still_others(self, run_attack, planted_key) -> None:
        found = run_attack("attack_18_keyrings", planted_key, seccomp="none")
        assert found["listed"] is False
        assert "done" not in {found["search session"], found["search user"], found["request_key"]}
        assert found["add_key"] == "done"  # what the filter is for

    @pytest.mark.attack(number=18)
    def test_without_a_sandbox_the_key_is_found(self, planted_key) -> None:
        found = run_unguarded("attack_18_keyrings", planted_key)
        assert found["search session"] == found["add_key"] == "done"
        assert found["listed"] is True


SHARED = ("shm", "sem", "msg", "queue", "file")


@pytest.mark.attack(number=19)
def test_shared_memory_has_no_names_across_sandboxes(sandbox) -> None:
    first, second = sandbox(), sandbox()
    made = run_script(first, "attack_19_shared_memory", "make", "471147").document
    assert {made[kind] for kind in SHARED} == {"done"}
    # Within one sandbox the names hold from step to step: otherwise the next lines would prove nothing.
    again = run_script(first, "attack_19_shared_memory", "find", "471147").document
    assert {again[kind] for kind in SHARED} == {"done"}
    other = run_script(second, "attack_19_shared_memory", "find", "471147").document
    host = run_unguarded("attack_19_shared_memory", "find", "471147")
    for found in (other, host):
        assert {found[kind] for kind in SHARED} == {"ENOENT"}
    assert len({made["namespace"], other["namespace"], host["namespace"]}) == 3


@pytest.mark.attack(number=19)
def test_without_a_sandbox_the_names_are_everybodys() -> None:
    run_unguarded("attack_19_shared_memory", "make", "471148")
    found = run_unguarded("attack_19_shared_memory", "find", "471148", "--remove")
    assert {found[kind] for kind in SHARED} == {"done"}


@pytest.mark.attack(number=42)
def test_two_sandboxes_have_nothing_in_common(sandbox, dirs) -> None:
    first, second = sandbox(), sandbox()
    one = run_script(first, "attack_42_neighbours", "word-one").document
    two = run_script(second, "attack_42_neighbours", "word-two").document
    assert set(one["words"]) == {"word-one"}
    assert set(two["words"]) == {"word-two"}
    starts = sorted(int(found["uid_map"][1]) for found in (one, two))
    assert starts[1] - starts[0] >= 65536
    own = {"net", "uts", "ipc", "pid", "pid_for_children", "user", "mnt", "cgroup"}
    for kind in own:
        host = os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115 - the text, not a path
        assert len({one["namespaces"][kind], two["namespaces"][kind], host}) == 3, kind
    assert one["pids"][0] == two["pids"][0] == 1
    assert len(one["pids"]) == len(two["pids"]) == 2
    for folder in one["devices"]:
        assert one["devices"][folder] != two["devices"][folder], folder
    records = {record.instance_id: record for record in registry.list_instances(dirs)}
    assert len({record.cgroup for record in records.values()}) == 2
    assert len({record.id_start for record in records.values()}) == 2
    assert CgroupHost.detect().list(dirs.cgroup)[1:] == sorted(record.cgroup for record in records.values())


@pytest.mark.attack(number=42)
def test_without_a_sandbox_they_share_everything(tmp_path) -> None:
    one = run_unguarded("attack_42_neighbours", "word-one", str(tmp_path))
    two = run_unguarded("attack_42_neighbours", "word-two", str(tmp_path))
    assert set(two["words"]) == {"word-one", "word-two"}
    for shared in ("uid_map", "namespaces", "devices"):
        assert one[shared] == two[shared]
    assert os.getpid() in two["pids"]
