"""Policies: schema, inheritance, the administrator's files, overrides per package, and what is said about mistakes."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest

from lxcbuild.config import policies
from lxcbuild.config.policies import list_policies, load_policy, load_policy_file, machine_memory_bytes
from lxcbuild.config.policy_schema import keys, limit_names
from lxcbuild.config.policy_text import flat, raised, value_text
from lxcbuild.errors import ConfigError, UnknownPolicyError
from lxcbuild.model import FailureClass
from lxcbuild.policy import Policy
from lxcbuild.state.data import directories
from tests import ROOT
from tests.support.policy_reference import json_schema, reference_table

GIB = 2**30
DEFAULT = """
memory: {max: 1GiB}
disk: {max: 50%, max_inodes: 1000}
time: {wall: 20min, silence: 5min}
packages:
  - match: "torch*"
    memory: {max: 2GiB}
"""


class Files:
    """A shipped and an administrator's directory."""

    def __init__(self, root: Path) -> None:
        self.places = (root / "cgroups", root / "etc" / "cgroups")
        for place in self.places:
            place.mkdir(parents=True)
        self.ship("default", DEFAULT)

    def ship(self, name: str, text: str) -> None:
        (self.places[0] / f"{name}.yaml").write_text(text)

    def administer(self, name: str, text: str) -> None:
        (self.places[1] / f"{name}.yaml").write_text(text)

    def load(self, name: str = "default", package: str | None = None) -> Policy:
        return load_policy(name, package=package, places=self.places)

    def mistake(self, name: str = "default") -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            self.load(name)
        return caught.value


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_units_and_relative_values(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "machine_memory_bytes", lambda: 16 * GIB)
    files.ship("p", "inherits: default\nmemory: {max: 'min(12GiB, 50%)', high: 25%}\ncpu: {quota: 150%}\n")
    policy = files.load("p")
    assert policy.memory.max_bytes == 8 * GIB
    assert policy.memory.high_bytes == 4 * GIB
    assert policy.disk.max_bytes == 4 * GIB  # half of memory.max
    assert policy.cpu.quota_percent == 150
    assert (policy.time.wall_s, policy.time.silence_s) == (1200, 300)


def test_sizes_are_whole_pages_so_that_reading_back_compares_equal(files: Files) -> None:
    files.ship("p", "inherits: default\nmemory: {max: 100000001}\n")
    assert files.load("p").memory.max_bytes % os.sysconf("SC_PAGE_SIZE") == 0


def test_inheritance_merges_tables_key_by_key(files: Files) -> None:
    files.ship("child", "inherits: default\ntime: {wall: 1h}\n")
    files.ship("grandchild", "inherits: child\ntime: {silence: null}\n")
    child, grandchild = files.load("child"), files.load("grandchild")
    assert (child.time.wall_s, child.time.silence_s) == (3600, 300)
    assert (grandchild.time.wall_s, grandchild.time.silence_s) == (3600, None)
    assert grandchild.name == "grandchild"


def test_the_administrator_overrides_single_keys_by_name(files: Files) -> None:
    files.administer("default", "pids: {max: 77}\n")
    policy = files.load()
    assert policy.pids_max == 77
    assert policy.memory.max_bytes == GIB
    files.ship("child", "inherits: default\n")
    assert files.load("child").pids_max == 77


def test_the_administrator_adds_policies(files: Files) -> None:
    files.administer("mine", "inherits: default\ndescription: our own\n")
    infos = {info.name: info for info in list_policies(places=files.places)}
    assert set(infos) == {"default", "mine"}
    assert infos["mine"].description == "our own"
    assert infos["mine"].files == (files.places[1] / "mine.yaml",)


@pytest.mark.parametrize("name", ["torch", "Torch_Audio", "torch.vision"])
def test_overrides_by_package_name_follow_pep_503(files: Files, name: str) -> None:
    assert files.load(package=name).memory.max_bytes == 2 * GIB
    assert files.load(package="pytorch").memory.max_bytes == GIB
    assert files.load().memory.max_bytes == GIB


def test_later_overrides_win_and_an_empty_list_drops_them(files: Files) -> None:
    files.ship("more", "inherits: default\npackages:\n  - match: [torch, x]\n    memory: {max: 3GiB}\n")
    files.ship("none", "inherits: default\npackages: []\n")
    assert files.load("more", package="torch").memory.max_bytes == 3 * GIB
    assert files.load("more", package="torchaudio").memory.max_bytes == 2 * GIB
    assert files.load("none", package="torch").memory.max_bytes == GIB


def test_percentages_of_an_override_follow_its_own_memory(files: Files) -> None:
    assert files.load(package="torch").disk.max_bytes == GIB


def test_cpu_sets_relative_to_the_host(files: Files) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    files.ship("p", "inherits: default\ncpu: {cpuset: all-1}\n")
    files.ship("q", "inherits: default\ncpu: {cpuset: all-9999}\n")
    assert files.load("p").cpu.cpuset == ",".join(map(str, cpus[1:] or cpus))
    assert files.load("q").cpu.cpuset == str(cpus[-1])


def test_io_devices(files: Files) -> None:
    files.ship("p", "inherits: default\nio: {weight: 20, devices: [{device: state, read: 10MiB/s, write_ops: 100}]}\n")
    (device,) = files.load("p").io.devices
    assert (device.device, device.read_bytes_per_s, device.write_bytes_per_s, device.write_ops_per_s) == (
        "state", 10 * 2**20, None, 100,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("memory:\n  maxx: 1GiB\n", "cgroups/p.yaml:3: memory.maxx: there is no such key. Perhaps you meant 'max'."),
        ("memry: {}\n", "cgroups/p.yaml:2: memry: there is no such key. Perhaps you meant 'memory'."),
        ("memory: {max: lots}\n", "cgroups/p.yaml:2: memory.max: 'lots' is not a size; write bytes, or a unit such as"),
        ("memory: {max: 150%}\n", "memory.max: 150% is not between 0% and 100%"),
        ("cpu: {quota: 150}\n", "cpu.quota: 150 is not a percentage; write it as 150%"),
        ("cpu: {weight: 0}\n", "cpu.weight: must be at least 1, not 0"),
        ("cpu: {weight: 10001}\n", "cpu.weight: must be at most 10000, not 10001"),
        ("cpu: {weight: '5'}\n", "cpu.weight: must be a whole number, not '5'"),
        ("cpu: {cpuset: 3-1}\n", "cpu.cpuset: 3-1 runs backwards"),
        ("cpu: {cpuset: '0;rm'}\n", "cpu.cpuset: '0;rm' is not a set of CPUs"),
        ("pids: {max: 3}\n", "pids.max: must be at least 16, not 3"),
        ("network: bridge\n", "network: must be 'none', 'loopback', 'sinkhole' or 'proxy', not 'bridge'"),
        ("time: {wall: 5 parsecs}\n", "time.wall: '5 parsecs' is not a duration"),
        ("best_effort: [io.wieght]\n", "best_effort: there is no limit 'io.wieght'. Perhaps you meant 'io.weight'."),
        ("packages: [{memory: {max: 1GiB}}]\n", "packages[0].match: is missing"),
        ("packages: [{match: x, inherits: default}]\n", "packages[0].inherits: there is no such key"),
        ("fork_server: 1\n", "fork_server: must be true or false, not 1"),
        ("io: {devices: [{device: ../sda}]}\n", "io.devices[0].device:"),
        ("inherits: p\n", "inherits: a policy cannot inherit from itself"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_file_line_and_key(files: Files, text: str, says: str) -> None:
    files.ship("p", f"description: x\n{text}" if "inherits: p" in text else f"inherits: default\n{text}")
    assert says in files.mistake("p").brief


def test_all_mistakes_of_a_file_are_listed(files: Files) -> None:
    files.ship("p", "inherits: default\nmemry: {}\npids: {max: x}\n")
    error = files.mistake("p")
    assert "cgroups/p.yaml:2: memry: there is no such key. Perhaps you meant 'memory'." in error.brief
    assert "also: cgroups/p.yaml:3: pids.max: must be a whole number, not 'x'" in (error.details or "")


def test_a_circle_is_refused(files: Files) -> None:
    files.ship("a", "inherits: b\n")
    files.ship("b", "inherits: c\n")
    files.ship("c", "inherits: a\n")
    assert "a -> b -> c -> a" in files.mistake("a").brief


def test_unknown_names_come_with_the_nearest(files: Files) -> None:
    with pytest.raises(UnknownPolicyError, match="Perhaps you meant 'default'") as caught:
        files.load("defualt")
    assert caught.value.exit_code == 21
    files.ship("p", "inherits: defualt\n")
    with pytest.raises(UnknownPolicyError, match=r"policy p inherits from it: .*Perhaps you meant 'default'"):
        files.load("p")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", "x" * 5000, "'; drop table"])
def test_names_are_looked_up_and_never_opened(files: Files, name: str) -> None:
    with pytest.raises(UnknownPolicyError):
        files.load(name)


def test_what_every_policy_needs(files: Files) -> None:
    files.ship("p", "memory: {max: 1GiB}\ndisk: {max: 1GiB, max_inodes: 5}\n")
    assert "time.wall: is missing" in files.mistake("p").brief


def test_a_policy_from_a_file_anywhere(files: Files, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("inherits: default\npids: {max: 99}\n")
    assert load_policy_file(own, places=files.places).pids_max == 99


def test_the_shipped_policies_load_and_get_tighter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LXCBUILD_CONFIG_DIR", str(tmp_path))
    loaded = {info.name: load_policy(info.name) for info in list_policies()}
    assert set(loaded) == {"default", "laptop", "lab", "untrusted", "paranoid"}
    order = [loaded[name] for name in ("lab", "default", "untrusted", "paranoid")]
    for weaker, tighter in itertools.pairwise(order):
        assert weaker.memory.max_bytes >= tighter.memory.max_bytes
        assert weaker.pids_max > tighter.pids_max
        assert weaker.time.wall_s > tighter.time.wall_s
    for policy in loaded.values():
        assert policy.memory.swap_max_bytes == 0
        assert policy.disk.max_bytes < policy.memory.max_bytes <= machine_memory_bytes() * 0.75
        assert policy.seccomp == "build"
    assert loaded["default"].memory.max_bytes <= min(4 * GIB, machine_memory_bytes() // 2)
    assert load_policy("untrusted", package="torch") == loaded["untrusted"]


def test_the_administrators_directory_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LXCBUILD_CONFIG_DIR", str(tmp_path))
    assert directories("cgroups")[-1] == tmp_path / "cgroups"


def test_the_fork_server_is_switched_off_in_a_policy_and_per_package(files: Files) -> None:
    files.ship("p", "inherits: default\nfork_server: false\npackages: [{match: idna, fork_server: true}]\n")
    assert files.load().fork_server
    assert not files.load("p").fork_server
    assert files.load("p", package="idna").fork_server
    assert value_text("fork_server", flat(files.load("p"))["fork_server"]) == "false"


def test_every_limit_has_a_text(files: Files) -> None:
    table = flat(files.load())
    assert set(table) == {key.name for key in keys()}
    groups = {"*", "devices"} | {name.split(".")[0] for name in table}
    assert limit_names() - groups <= set(table)
    assert value_text("memory.max", table["memory.max"]) == "1GiB"
    assert value_text("time.wall", table["time.wall"]) == "20min"
    assert value_text("cpu.quota", None) == "-"


def test_a_changed_file_is_read_again_and_packages_are_told_apart(files: Files) -> None:
    for minutes in (5, 6):
        files.administer(
            "own", f"inherits: default\ntime: {{wall: {minutes}min}}\npackages: [{{match: big*, time: {{wall: 1h}}}}]\n"
        )
        for _ in range(2):
            assert files.load("own").time.wall_s == minutes * 60
            assert files.load("own", package="big-one").time.wall_s == 3600
            assert files.load("own", package="small").time.wall_s == minutes * 60
    files.administer("own", "time: {wall: never}\n")
    for _ in range(2):
        assert "cgroups/own.yaml:1: time.wall: 'never' is not a duration" in files.mistake("own").brief


def test_the_reference_lists_every_key_as_it_is() -> None:
    """To make the table anew: print ``reference_table()`` of tests/support/policy_reference.py."""
    assert reference_table() in (ROOT / "docs/reference/policy.md").read_text()


def test_the_json_schema_is_the_one_in_the_documentation() -> None:
    """To make it anew: write ``json_schema()`` of tests/support/policy_reference.py, with an indent of 1."""
    kept = json.loads((ROOT / "docs/reference/policy.schema.json").read_text())
    assert kept == json_schema()
    assert kept["properties"]["memory"]["properties"]["max"]["type"] == ["string", "integer", "null"]
    assert kept["properties"]["packages"]["items"]["required"] == ["match"]


def test_what_ends_a_step_names_the_limits_to_raise(files: Files) -> None:
    policy = files.load()
    assert raised(policy, "oom") == "memory: {max: 2GiB}"
    assert raised(policy, "disk-full") == "memory: {max: 2GiB}, disk: {max: 1GiB, max_inodes: 2000}"
    assert raised(policy, "pids-exhausted") == "pids: {max: 2048}"
    assert raised(policy, "timeout") == "time: {wall: 40min}"
    assert raised(policy, "silent") == "time: {silence: 10min}"
    assert raised(policy, "log-flood") == "log: {max: 128MiB}"
    assert raised(policy, "cancelled") == ""
    stops = {stop for key in keys() for stop in key.stops}
    assert stops <= set(FailureClass)
