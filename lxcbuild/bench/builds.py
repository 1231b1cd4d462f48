"""Whole builds, ours beside others', interleaved: every round builds everything once in every way."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from lxcbuild import process
from lxcbuild.bench import bare
from lxcbuild.bench.clean_rooms import ROOMS, CleanRoomSpec, ReadyRoom
from lxcbuild.bench.cold import forget_layers, layerless
from lxcbuild.bench.samples import ratios
from lxcbuild.bench.start import Promise
from lxcbuild.builder.layering import nearest_stack
from lxcbuild.config.recipes import load_recipe
from lxcbuild.debian.archive import sources
from lxcbuild.debian.archive.aptroot import AptRoot
from lxcbuild.errors import CommandError
from lxcbuild.events import Monitor
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state.paths import StateDirs

_LIMIT_S = 1800.0
#: Budgets (docs/reference/performance.md), as ratios of medians taken round by round.
MAX_COMPILE, MAX_WHOLE, MIN_PEER, MIN_PEER_UNVERIFIED, MAX_EXTENSION = 0.75, 1.25, 6.0, 8.0, 1.15
MAX_COLD = 1.0
_LEAN = ("-us", "-uc", "-nc", "-sa", "-F")


class Sample(Struct, frozen=True, kw_only=True):
    """Something to build. ``requirement`` is of the index; without one, ``name`` is a source package of the distribution."""

    kind: str
    name: str
    requirement: str | None = None


SAMPLES = (
    Sample(kind="pure", name="idna", requirement="idna==3.10"),
    Sample(kind="extension", name="markupsafe", requirement="markupsafe==2.1.5"),
    Sample(kind="debian", name="hello"),
)


class Series(Struct):
    """One sample's seconds, one value a round."""

    whole: list[float] = field(default_factory=list)  # our command, verified
    unverified: list[float] = field(default_factory=list)  # the same without the time of its phase verify
    phases: dict[str, list[float]] = field(default_factory=dict)
    plain: list[float] = field(default_factory=list)  # bare, with rules that a maintainer would write
    lean: list[float] = field(default_factory=list)  # bare, as we build it: what the sandbox costs
    peers: dict[str, list[float]] = field(default_factory=dict)
    identical: bool = True  # whether the plain way gave the same packages, bit for bit, in every round
    cold: bool = False

    def budgets(self, kind: str) -> Iterator[Promise]:
        """What was promised for this kind of sample."""
        if self.cold:
            for name, series in self.peers.items() if kind != "debian" else ():
                yield Promise(f"cold: whole command / {name}", ratios(self.whole, series).median, MAX_COLD, "x")
            return
        compiled = ratios(self.phases["compile"], self.plain).median
        if kind == "pure":
            yield Promise("compile / plain bare build", compiled, MAX_COMPILE, "x")
            yield Promise("whole command / plain bare build", ratios(self.whole, self.plain).median, MAX_WHOLE, "x")
        elif kind == "extension":
            yield Promise("compile / plain bare build", compiled, MAX_EXTENSION, "x")
        for name, series in self.peers.items() if kind == "pure" else ():
            # Turned round, so that a budget is always an upper limit.
            yield Promise(f"whole command / {name}", ratios(self.whole, series).median, 1 / MIN_PEER, "x")
            bare_of = ratios(self.unverified, series).median
            yield Promise(f"without verification / {name}", bare_of, 1 / MIN_PEER_UNVERIFIED, "x")


class Builds(Struct):
    """What was measured."""

    series: dict[str, Series] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    peers_made_in_s: dict[str, float] = field(default_factory=dict)


class _Ours(Struct, frozen=True, kw_only=True):
    """One build by us: what its document says, and the seconds of the whole command."""

    took_s: float
    phases: Mapping[str, float]
    files: tuple[Path, ...]

    @property
    def sources(self) -> list[Path]:
        return [path for path in self.files if path.suffix == ".dsc" or ".tar." in path.name]

    @property
    def debs(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.files if path.suffix == ".deb"}


def measure(
    dirs: StateDirs,
    monitor: Monitor,
    *,
    target: Target,
    runs: int,
    peers: Sequence[str],
    samples: Sequence[Sample] = SAMPLES,
    cold: bool = False,
    progress: Callable[[str], None] = lambda _what: None,
) -> Builds:
    """Run ``runs`` rounds after one build of each sample that does not count. Raises CommandError for a build that fails.

    ``cold``: each of our builds finds an empty layer store, each of the peers' a base without the build dependencies; package files
    and package lists are there for all, so that nothing is downloaded.
    """
    found = Builds(absent=tuple(name for name in peers if not ROOMS[name].present))
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lxcbuild-bench-")))
        lxcbuild = _Command(dirs, target, scratch)
        warm: dict[str, _Ours] = {}
        origin: dict[str, Path] = {}
        for sample in samples:
            progress(f"{sample.name}: a first build, which fills the caches")
            if sample.requirement is None:
                origin[sample.name] = fetch_source(sample.name, target, scratch / sample.name)
            warm[sample.name] = lxcbuild.build(sample, origin)
        dscs = {s.name: origin[s.name] if s.requirement is None else _dsc(warm[s.name].sources) for s in samples}
        needed = sorted({"build-essential", "fakeroot", *(name for dsc in dscs.values() for name in _names(dsc))})
        wanted = CleanRoomSpec(recipe=load_recipe(target), packages=needed, cold=cold)
        rooms = []
        for name in (name for name in peers if name not in found.absent):
            progress(f"{name}: its base")
            rooms.append(_room(name, wanted, stack))
            found.peers_made_in_s[name] = rooms[-1].made_in_s
        bases = _Bases(dirs, monitor, target, stack)
        if cold:
            lxcbuild = _Command(stack.enter_context(layerless(dirs, target)), target, scratch, cold=True)
        for number in range(runs):
            for sample in samples:
                progress(f"round {number + 1} of {runs}: {sample.name}")
                series = found.series.setdefault(sample.name, Series(cold=cold))
                one = _Round(sample, series, dscs[sample.name], bases, scratch / "kept")
                one.all_ways(lxcbuild, origin, rooms, first=number)
                series.identical = series.identical and one.identical
    return found


def _room(name: str, wanted: CleanRoomSpec, stack: contextlib.ExitStack) -> ReadyRoom:
    memory = Path("/dev/shm")  # noqa: S108 - as our own images are
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory, prefix="lxcbuild-bench-")))
    place.chmod(0o755)
    return ReadyRoom(ROOMS[name], wanted, place)


class _Round(Struct):
    """One sample, once in every way."""

    sample: Sample
    series: Series
    dsc: Path
    bases: _Bases
    kept: Path
    made: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def identical(self) -> bool:
        return all(debs == self.made["ours"] for debs in self.made.values())

    def all_ways(
        self, lxcbuild: _Command, origin: Mapping[str, Path], rooms: Sequence[ReadyRoom], *, first: int
    ) -> None:
        """In an order that begins with another way in each round."""
        ways: list[Callable[[], None]] = [functools.partial(self.ours, lxcbuild, origin), self.plain, self.lean]
        ways += [functools.partial(self.peer, room) for room in rooms]
        start = first % len(ways)
        for way in (*ways[start:], *ways[:start]):
            way()

    def ours(self, lxcbuild: _Command, origin: Mapping[str, Path]) -> None:
        done = lxcbuild.build(self.sample, origin)
        self.series.whole.append(done.took_s)
        self.series.unverified.append(done.took_s - done.phases["verify"])
        for name, took_s in done.phases.items():
            self.series.phases.setdefault(name, []).append(took_s)
        self.made["ours"] = done.debs

    def plain(self) -> None:
        rules = bare.PLAIN_RULES.format(name=self.sample.name) if self.sample.requirement else None
        kind = ("-us", "-uc") if self.sample.requirement else ("-us", "-uc", "-b")
        self.series.plain.append(self._bare("plain", kind, rules))

    def lean(self) -> None:
        kind = _LEAN if self.sample.requirement else ("-us", "-uc", "-nc", "-b")
        self.series.lean.append(self._bare("lean", kind, None))

    def peer(self, room: ReadyRoom) -> None:
        self.series.peers.setdefault(room.name, []).append(room.build(self.dsc, parallel=_cpus()))

    def _bare(self, way: str, options: Sequence[str], rules: str | None) -> float:
        files = [path for path in self.dsc.parent.iterdir() if path.suffix == ".dsc" or ".tar." in path.name]
        keep = self.kept / self.sample.name / way
        options = (*options, f"-j{_cpus()}")
        took_s = bare.build(
            files, self.bases.lowers(self.dsc), options=options, parallel=_cpus(), rules=rules, keep=keep
        )
        self.made[way] = {path.name: path.read_bytes() for path in keep.iterdir()}
        return took_s


class _Command:
    """Our own command, as a process of its own, with its bytecode in place as an installed package has it."""

    def __init__(self, dirs: StateDirs, target: Target, scratch: Path, *, cold: bool = False) -> None:
        self._forget = functools.partial(forget_layers, dirs, target) if cold else None
        root = dirs.lib.parent
        place = ("--state-dir", os.fspath(root)) if StateDirs.choose(root) == dirs else ()
        self._argv = (sys.executable, "-m", "lxcbuild", *place, "build", "--target", str(target), "--force")
        self._env = {
            "PYTHONPYCACHEPREFIX": os.fspath(scratch / "bytecode"),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }

    def build(self, sample: Sample, origin: Mapping[str, Path]) -> _Ours:
        what = sample.requirement or os.fspath(origin[sample.name])
        argv = (*self._argv, "--rebuild", "--json", what)
        if self._forget is not None:
            self._forget()
        began = time.perf_counter()
        done = process.run(argv, env=self._env, timeout_s=_LIMIT_S, check=False)
        took_s = time.perf_counter() - began
        if done.status != 0:
            raise process.failed(done)
        document = json.loads(done.stdout)["builds"][0]
        return _Ours(
            took_s=took_s,
            phases={phase["name"]: float(phase["wall_s"]) for phase in document["phases"]},
            files=tuple(Path(item["path"]) for item in document["artifacts"]),
        )


class _Bases:
    """The trees for bare builds: the very layers that our own builds have."""

    def __init__(self, dirs: StateDirs, monitor: Monitor, target: Target, stack: contextlib.ExitStack) -> None:
        self._recipe = load_recipe(target)
        self._images = ImageStore(dirs, monitor)
        stack.callback(self._images.close)
        self._image = self._images.ensure(target)
        self._layers = LayerStore(dirs, stack.enter_context(LxcBackend(dirs)), monitor, choose=nearest_stack)
        stack.callback(self._layers.close)
        self._known: dict[Path, tuple[Path, ...]] = {}

    def lowers(self, dsc: Path) -> tuple[Path, ...]:
        if dsc not in self._known:
            archive = self._images.archive(self._image)
            needed = [*_build_depends(dsc), "fakeroot"]
            layer = self._layers.provide(self._image, archive, self._recipe.toolchain, needed)
            self._known[dsc] = layer.lowers
        return self._known[dsc]


def _dsc(files: Sequence[Path]) -> Path:
    return next(path for path in files if path.suffix == ".dsc")


def _build_depends(dsc: Path) -> list[str]:
    text = re.sub(r"\n[ \t]+", " ", dsc.read_text("utf-8"))
    fields = re.findall(r"^Build-Depends(?:-Indep|-Arch)?: (.*)$", text, re.MULTILINE)
    # Samples that we chose: no relation of theirs is for another architecture. Tests run nowhere here.
    return [item.strip() for field_text in fields for item in field_text.split(",") if "<!nocheck>" not in item]


def _names(dsc: Path) -> Iterator[str]:
    for relation in _build_depends(dsc):
        name = re.split(r"[\s(|\[:]", relation)[0]
        yield "debhelper" if name == "debhelper-compat" else name


def fetch_source(name: str, target: Target, place: Path) -> Path:
    """A source package of the distribution, newest version, signatures checked by apt."""
    recipe = load_recipe(target)
    lines = sources.source_lines(recipe, sources.host_mirrors(), keyring=sources.keyring_path(recipe))
    if not lines:
        raise CommandError(f"neither the recipe nor the host's apt names a mirror of {target}")
    root = AptRoot(place.with_name(f"{name}.apt"), architecture=target.architecture, targets="sources")
    root.update(lines, sources.inherited_options())
    place.mkdir()
    uris = root.run("apt-get", ["-qq", "source", "--print-uris", name]).stdout.decode()
    for line in uris.splitlines():
        uri, file, _size, digest = line.replace("'", "").split()[:4]
        method, _, wanted = digest.partition(":")
        root.run("/usr/lib/apt/apt-helper", ["-q", "download-file", uri, os.fspath(place / file), f"{method}:{wanted}"])
    return _dsc(list(place.iterdir()))


def _cpus() -> int:
    return len(os.sched_getaffinity(0))
