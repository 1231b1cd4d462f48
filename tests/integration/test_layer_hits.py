"""A known set of packages needs neither apt nor a network: both are taken away, and it is provided all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcbuild.builder.layering import nearest_stack
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state.paths import StateDirs

pytestmark = [pytest.mark.root, pytest.mark.network]

BOOKWORM = Target("debian", "bookworm")

#: All that resolves, downloads or installs; each is covered with a program that fails.
_PROGRAMS = ("/usr/bin/apt-get", "/usr/bin/apt-cache", "/usr/lib/apt/apt-helper", "/usr/bin/dpkg")

_PROVIDE = """
import json, sys
from lxcbuild.builder.layering import nearest_stack
from lxcbuild.state.paths import StateDirs
from lxcbuild.errors import LxcbuildError
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.sandbox.lxc import LxcBackend

dirs = StateDirs.choose(sys.argv[1])
images = ImageStore(dirs)
image = images.get(Target("debian", "bookworm"))
with LxcBackend(dirs) as backend:
    store = LayerStore(dirs, backend, choose=nearest_stack)
    try:
        layer = store.provide(image, images.archive(image), json.loads(sys.argv[2]))
        print(json.dumps({"key": layer.key, "hit": layer.hit, "seconds": layer.seconds}))
    except LxcbuildError as error:
        print(json.dumps({"error": type(error).__name__}))
    store.close()
images.close()
"""


def provided_without_apt(dirs: StateDirs, relations: list[str]) -> dict[str, object]:
    """Provide the relations in another process that has no network but a loopback that is down, and no apt or dpkg."""
    covered = " && ".join(f"mount --bind /bin/false {program}" for program in _PROGRAMS)
    argv = ["unshare", "--net", "--mount", "--", "/bin/sh", "-ec", f'{covered} && exec "$@"', "sh"]
    argv += [sys.executable, "-c", _PROVIDE, os.fspath(dirs.run.parent), json.dumps(relations)]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def store(state: StateDirs) -> Iterator[LayerStore]:
    """A layer store; what it makes is removed after the test."""
    with LxcBackend(state) as backend:
        made = LayerStore(state, backend, choose=nearest_stack)
        seen = set(made.layer_records.layers())
        yield made
        made.close()
        for key in set(made.layer_records.layers()) - seen:
            assert made.remove(key)


def test_a_known_set_runs_neither_apt_nor_the_network(state: StateDirs, store: LayerStore) -> None:
    images = ImageStore(state)
    image = images.ensure(BOOKWORM)
    archive = images.archive(image)
    wanted = ["python3-docopt", "python3-lockfile"]
    store.provide(image, archive, wanted[:1])
    made = store.provide(image, archive, wanted)

    known = provided_without_apt(state, wanted)
    assert (known["key"], known["hit"]) == (made.key, True)

    store.close()
    assert store.hot.drop(made.lowers[0].name)  # only on disk now: the same, and an unpacking
    assert not Path(made.lowers[0]).exists()
    cold = provided_without_apt(state, list(reversed(wanted)))
    assert (cold["key"], cold["hit"]) == (made.key, True)

    # The cover is real: what is not known cannot be had this way.
    assert provided_without_apt(state, ["python3-sortedcontainers"]).get("error") in {"CommandError", "DependencyError"}
    images.close()
