"""Base images and layers for real: made by mmdebstrap and apt, in a sandbox, by several processes, killed half-way."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.builder.layering import nearest_stack
from lxcbuild.config.recipes import load_recipe
from lxcbuild.errors import DependencyError, ImageMissingError
from lxcbuild.events import Event, Note
from lxcbuild.images.hot import HotStore
from lxcbuild.images.image import Image, Storage
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.linux import syscalls
from lxcbuild.linux.mounts import mount_table
from lxcbuild.model import Target
from lxcbuild.sandbox.base import InstanceSpec, Step, User
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state.paths import StateDirs
from tests.support.timing import quick

pytestmark = [pytest.mark.root, pytest.mark.network]

BOOKWORM, TRIXIE = Target("debian", "bookworm"), Target("debian", "trixie")


class Ears:
    """A monitor that remembers the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Note):
            self.notes.append(event.text)


@pytest.fixture(scope="module")
def images(state: StateDirs) -> Iterator[ImageStore]:
    store = ImageStore(state)
    yield store
    store.close()


@pytest.fixture(scope="module")
def bookworm(images: ImageStore) -> Image:
    return images.ensure(BOOKWORM)


@pytest.fixture(scope="module")
def backend(state: StateDirs) -> Iterator[LxcBackend]:
    with LxcBackend(state) as made:
        yield made


@pytest.fixture
def ours(fresh_state: StateDirs) -> Iterator[StateDirs]:
    """An empty state directory; what is mounted in it is unmounted, and nothing but the shared tmpfs may be."""
    yield fresh_state
    left = [
        entry.mount_point for entry in mount_table() if Path(entry.mount_point).is_relative_to(fresh_state.run.parent)
    ]
    if os.fspath(fresh_state.hot) in left:
        syscalls.umount(os.fspath(fresh_state.hot))
    assert set(left) <= {os.fspath(fresh_state.hot)}


def start_make(dirs: StateDirs, target: Target) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "lxcbuild",
        "--state-dir",
        os.fspath(dirs.run.parent),
        "rootfs",
        "make",
        str(target),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children_of(pid: int) -> set[int]:
    """All living descendants of a process."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in {pid, *found}} - found:
        found |= more
    return found


def test_the_image_is_clean_and_runs(bookworm: Image) -> None:
    root = bookworm.path
    assert subprocess.run(["chroot", root, "python3", "-c", "1"]).returncode == 0
    assert "build:x:1000:1000:" in (root / "etc/passwd").read_text()
    assert (root / "build").stat().st_uid == (root / "out").stat().st_uid == 1000
    assert not any(line.startswith("deb") for line in (root / "etc/apt/sources.list").read_text().splitlines())
    assert list((root / "etc/apt/sources.list.d").iterdir()) == []
    assert not (root / "etc/apt/apt.conf.d/99mmdebstrap").exists()
    assert (root / "etc/machine-id").read_text() == ""
    assert (root / "etc/resolv.conf").read_text() == ""
    assert [path for path in (root / "var/lib/apt/lists").rglob("*") if path.is_file()] == []
    assert [path for path in (root / "var/cache/apt").rglob("*") if path.is_file()] == []
    assert list((root / "dev").iterdir() if (root / "dev").exists() else []) == []
    assert root.stat().st_uid == 0
    assert not any(package.name in ("gcc", "debhelper", "perl", "python3-setuptools") for package in bookworm.packages)


def test_nothing_of_the_host_is_in_the_image(bookworm: Image) -> None:
    """Mirrors, as the record knows them, appear in no configuration file."""
    hosts = {line.split("//")[1].split("/")[0] for line in bookworm.record.sources if "//" in line}
    assert hosts
    for path in [*bookworm.path.glob("etc/apt/**/*"), bookworm.path / "etc/hosts", bookworm.path / "etc/hostname"]:
        if path.is_file() and not path.is_symlink() and path.suffix not in (".gpg", ".asc"):
            text = path.read_text(errors="replace")
            assert not any(host in text for host in hosts), path
    assert (bookworm.path / "etc/hostname").read_text() == "build\n"


def test_the_shared_tmpfs_is_guarded(bookworm: Image, state: StateDirs) -> None:
    if bookworm.storage is not Storage.RAM:
        pytest.skip("memory is short on this host: the image is on disk")
    (entry,) = (entry for entry in mount_table() if entry.mount_point == os.fspath(state.hot))
    assert entry.fstype == "tmpfs"
    assert {"nosuid", "nodev"} <= set(entry.options.split(","))
    assert stat.S_IMODE(state.hot.stat().st_mode) == 0o755


def test_an_image_that_was_unloaded_comes_back_from_disk(images: ImageStore, bookworm: Image, ours: StateDirs) -> None:
    """As after a boot: the archive is there, the memory is empty."""
    ours.images.mkdir(parents=True)
    for path in images._dirs.images.glob("debian-bookworm*"):
        if path.is_file():
            (ours.images / path.name).symlink_to(path)
    store = ImageStore(ours)
    loaded = store.get(BOOKWORM)
    assert loaded.digest == bookworm.digest
    assert loaded.status.read_bytes() == bookworm.status.read_bytes()
    store.close()


def test_memory_that_is_short_sends_the_image_to_disk_and_says_so(
    images: ImageStore, bookworm: Image, ours: StateDirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ears = Ears()
    store = HotStore(ours, ears)
    monkeypatch.setattr("lxcbuild.files.memory", lambda: {"MemTotal": 4 * 1024**3, "MemAvailable": 1024**3})
    path, storage = store.place("c" * 64, size_bytes=2**20, what="an image", fill=lambda tree: None)
    store.close()
    assert storage is Storage.DISK
    assert path.is_relative_to(ours.cache)
    assert any("on disk" in note and "would leave less" in note for note in ears.notes)


def test_a_killed_make_leaves_nothing_and_two_at_once_make_one(ours: StateDirs) -> None:
    """SIGKILL half-way; then two processes ask at once."""
    make = start_make(ours, BOOKWORM)
    workdir = ours.images / "new-debian-bookworm"
    deadline = time.monotonic() + 60
    while not (workdir / "image.tar").exists() or len(children_of(make.pid)) < 3:
        assert make.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    descendants = children_of(make.pid)
    os.kill(make.pid, signal.SIGKILL)
    make.communicate()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in descendants):
        assert time.monotonic() < deadline, "mmdebstrap outlived its maker"
        time.sleep(0.05)
    store = ImageStore(ours)
    with pytest.raises(ImageMissingError):
        store.get(BOOKWORM)
    assert workdir in store.stale()

    both = [start_make(ours, BOOKWORM) for _ in range(2)]
    talk = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], talk
    assert sum("making the image" in text for text in talk) == 1
    assert sum("waiting for another process that makes the image" in text for text in talk) == 1
    assert store.stale() == ()
    assert not workdir.exists()
    assert store.remove(BOOKWORM) is True
    assert list(ours.hot.iterdir()) == []


# -- apt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [BOOKWORM, TRIXIE], ids=str)
def test_the_hosts_apt_resolves_and_fetches_for_any_suite(images: ImageStore, target: Target) -> None:
    image = images.ensure(target)
    archive = images.archive(image)
    resolved = archive.resolve(["python3-six (>= 1.10)", "no-such-package | python3-idna"], status=image.status)
    names = {package.name for package in resolved.packages}
    assert {"python3-six", "python3-idna"} <= names
    assert not names & {package.name for package in image.packages}
    for package, path in zip(resolved.packages, archive.fetch(resolved), strict=True):
        assert path.stat().st_size == package.size_bytes
    assert archive.candidate("python3-six") is not None
    assert archive.candidate("no-such-package") is None


def test_what_cannot_be_satisfied_is_listed(images: ImageStore, bookworm: Image) -> None:
    with pytest.raises(DependencyError) as caught:
        images.archive(bookworm).resolve(["no-such-package (>= 1)", "python3-six (>= 999)"], status=bookworm.status)
    assert "no-such-package" in (caught.value.details or "")
    assert "python3-six" in (caught.value.details or "")


# -- layers ---------------------------------------------------------------------------------------------------


def test_a_layer_is_installed_once_and_shared(
    state: StateDirs, images: ImageStore, bookworm: Image, backend: LxcBackend
) -> None:
    ears = Ears()
    store = LayerStore(state, backend, ears)
    archive = images.archive(bookworm)
    resolved = archive.resolve(["python3-six", "python3-idna"], status=bookworm.status)
    layer = store.ensure(bookworm, archive, resolved)
    store.remove(layer.key)
    store.close()

    made = store.ensure(bookworm, archive, resolved)
    assert made.hit is False
    assert made.lowers[-1] == bookworm.path
    assert len(made.lowers) == 2
    assert {"python3-six", "python3-idna", "python3"} <= {package.name for package in made.packages}

    again = store.provide(bookworm, archive, ["python3-idna", "python3-six"])
    known = store.provide(bookworm, archive, ["python3-idna", "python3-six"])
    assert (again.hit, known.hit) == (True, True)
    assert again.key == made.key
    assert quick(known.seconds, 0.5)
    assert archive.resolve(["python3-six"], status=made.status).packages == ()
    with backend.create(
        InstanceSpec(instance_id=f"t-layer-{os.getpid()}", lowers=made.lowers, policy=policy())
    ) as instance:
        instance.start()
        heard: list[bytes] = []
        code = (
            "import six, idna, os; print(six.__version__, os.listdir('/in'), os.path.exists('/var/log/apt/term.log'))"
        )
        assert instance.run(Step(argv=("python3", "-c", code)), heard.append).ok, heard
    assert b"[] False" in b"".join(heard)
    assert store.stale() == []
    store.close()


def test_a_layer_comes_back_from_disk(
    state: StateDirs, images: ImageStore, bookworm: Image, backend: LxcBackend
) -> None:
    store = LayerStore(state, backend)
    archive = images.archive(bookworm)
    made = store.provide(bookworm, archive, ["python3-six"])
    before = sorted((os.fspath(p.relative_to(made.lowers[0])), p.lstat().st_mode) for p in made.lowers[0].rglob("*"))
    assert store.hot.drop(made.key) is True
    loaded = store.provide(bookworm, archive, ["python3-six"])
    after = sorted((os.fspath(p.relative_to(loaded.lowers[0])), p.lstat().st_mode) for p in loaded.lowers[0].rglob("*"))
    assert loaded.hit is True
    assert before == after
    store.close()


def test_the_toolchain_is_a_layer_of_its_own(
    state: StateDirs, images: ImageStore, bookworm: Image, backend: LxcBackend
) -> None:
    store = LayerStore(state, backend)
    archive = images.archive(bookworm)
    toolchain = load_recipe(BOOKWORM).toolchain
    below = store.provide(bookworm, archive, toolchain)
    stack = store.provide(bookworm, archive, toolchain, ["python3-six"])
    assert stack.lowers[1:] == below.lowers
    assert {"debhelper", "pybuild-plugin-pyproject", "python3-six"} <= {package.name for package in stack.packages}
    # What the toolchain has already needs no third layer.
    assert store.provide(bookworm, archive, toolchain, ["python3-setuptools (>= 40)"]).key == below.key
    store.close()


@pytest.fixture
def others_away(state: StateDirs, backend: LxcBackend) -> Iterator[None]:
    """Layers that a test makes are removed after it: another one must not start from them."""
    store = LayerStore(state, backend)
    seen = set(store.layer_records.layers())
    yield
    for key in set(store.layer_records.layers()) - seen:
        store.remove(key)


@pytest.mark.usefixtures("others_away")
def test_a_set_built_on_the_nearest_known_subset_equals_one_built_alone(
    state: StateDirs, images: ImageStore, bookworm: Image, backend: LxcBackend
) -> None:
    archive = images.archive(bookworm)
    some, wanted = (
        ["python3-lockfile", "python3-docopt"],
        ["python3-sortedcontainers", "python3-lockfile", "python3-docopt"],
    )
    plain = LayerStore(state, backend)
    direct = plain.provide(bookworm, archive, wanted)
    trees = inside(backend, direct.lowers)
    plain.remove(direct.key)
    plain.close()

    ears = Ears()
    store = LayerStore(state, backend, ears, choose=nearest_stack)
    below = store.provide(bookworm, archive, some)
    stepped = store.provide(bookworm, archive, wanted)
    assert (stepped.hit, stepped.key) == (False, direct.key)
    assert stepped.lowers[1:] == below.lowers
    assert "installing 1 packages for debian/bookworm on top of 1 layers, once" in ears.notes
    assert stepped.packages == direct.packages
    assert inside(backend, stepped.lowers) == trees

    others = set(store.orphans({bookworm.digest}))  # of other images, and of failed runs
    assert not others & {below.key, *store.layer_records.grounds().values()}
    known = store.provide(bookworm, archive, list(reversed(wanted)))
    assert (known.hit, known.lowers) == (True, stepped.lowers)
    assert store.layer_records.layers()[below.key].hits == 2  # once to stand on, once in a known stack

    # What stands on a layer that was removed is made again, from what is left.
    store.close()
    store.remove(below.key)
    assert len(set(store.orphans({bookworm.digest})) - others) == 1
    again = store.provide(bookworm, archive, wanted)
    assert (again.hit, len(again.lowers), again.key) == (False, 2, direct.key)
    store.close()


#: Where the order of installations may show: logs, caches with times, and what is automatic or asked for.
_ORDERED = "! -path './var/lib/apt/*' ! -path './var/log/*' ! -path './var/cache/debconf/*' ! -path './var/lib/dpkg/*'"


def inside(backend: LxcBackend, lowers: tuple[Path, ...]) -> bytes:
    """Names, modes and contents of all files that a build on these lowers sees, and the packages as dpkg lists them."""
    script = (
        f"cd / && find . -xdev -type f {_ORDERED} ! -path './proc/*' -print0 | sort -z | xargs -0 sha256sum;"
        " find . -xdev ! -path './proc/*' ! -path './var/lib/dpkg/*' -printf '%p %m %U %G %l\\n' | sort; dpkg-query -W"
    )
    heard: list[bytes] = []
    spec = InstanceSpec(instance_id=f"t-look-{os.getpid()}", lowers=lowers, policy=policy())
    with backend.create(spec) as instance:
        instance.start()
        assert instance.run(Step(argv=("/bin/sh", "-c", script), user=User.ROOT), heard.append).ok, heard[-5:]
    return b"".join(heard)


def policy():  # type: ignore[no-untyped-def]
    from lxcbuild.config.policies import load_policy

    return load_policy("default")
