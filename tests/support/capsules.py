"""A kept state without a build behind it, for tests of what is done with one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from msgspec.structs import replace

from lxcbuild.builder.failed.failedstate import BINDS, STATE, UPPER, FailedState, KeptBind, KeptCommand, LowerRef
from lxcbuild.model import Converter, Failure, FailureClass, Phase, Target
from lxcbuild.policy import DiskLimits, MemoryLimits, NetworkMode, Policy, TimeLimits
from lxcbuild.state.paths import StateDirs

GIB = 1 << 30
KEY = hashlib.sha256(b"layer").hexdigest()
POLICY = Policy(
    name="test",
    memory=MemoryLimits(max_bytes=GIB),
    disk=DiskLimits(max_bytes=GIB // 2, max_inodes=50_000),
    time=TimeLimits(wall_s=600, silence_s=60),
    network=NetworkMode.SINKHOLE,
    best_effort=frozenset({"io.weight"}),
)


def state(build_id: str = "20261121-010203-0001aabbcc", **fields: object) -> FailedState:
    made = FailedState(
        build_id=build_id,
        name="some-project",
        version="1.0",
        target=Target("debian", "bookworm"),
        phase=Phase.COMPILE,
        converter=Converter.PYPROJECT,
        failure=Failure(failure_class=FailureClass.COMPILE_FAILED, phase=Phase.COMPILE, brief="it broke"),
        command=KeptCommand(argv=("make", "a 'b'"), env={"A": "x y"}, cwd="/build/some-project"),
        limits=POLICY,
        lowers=(LowerRef(key=KEY, digest=KEY, archive=f"layers/{KEY[:16]}.tar.zst", unpacked_bytes=4096),),
        binds=(KeptBind(name="0", inside="/in/source/some-1.0.tar.gz", directory=False, files=("some-1.0.tar.gz",)),),
        upper_sha256=hashlib.sha256(b"upper").hexdigest(),
        upper_bytes=4096,
        kept_at="2026-11-21T01:02:03+00:00",
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def keep(dirs: StateDirs, kept: FailedState, *, padding_bytes: int = 0) -> Path:
    """The directory that a failed build would have left, and the layer below it."""
    place = dirs.failed / kept.build_id
    for bind in kept.binds:
        folder = place / BINDS / bind.name
        folder.mkdir(parents=True)
        for name in bind.files:
            (folder / name).write_bytes(b"source")
    (place / UPPER).write_bytes(b"upper" + bytes(padding_bytes))
    (place / STATE).write_bytes(kept.to_json())
    layers = dirs.images / "layers"
    layers.mkdir(parents=True, exist_ok=True)
    (layers / f"{KEY[:16]}.tar.zst").write_bytes(b"layer")
    (layers / f"{KEY[:16]}.json").write_text(json.dumps({"key": KEY, "digest": KEY, "unpacked_bytes": 4096}))
    return place
