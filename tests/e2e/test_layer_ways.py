"""A build gives the same packages, bit for bit, whether its layer was made in one step or on top of another one."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from lxcbuild.builder.context import BuildContext
from lxcbuild.builder.driver import Build
from lxcbuild.builder.facts import Provisioned
from lxcbuild.builder.layering import nearest_stack
from lxcbuild.builder.request import BuildRequest
from lxcbuild.builder.work import Work
from lxcbuild.cli.build_context import build_context
from lxcbuild.config.recipes import load_recipe
from lxcbuild.events import NullMonitor
from lxcbuild.images.layer import Layer
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.wheels import WheelLayers
from lxcbuild.model import Status, Target
from lxcbuild.state.paths import StateDirs

pytestmark = [pytest.mark.root, pytest.mark.network, pytest.mark.slow]

TARGET = Target("debian", "bookworm")

#: A C extension whose generated header tells the build environment of its interpreter and of what it finds installed.
FILES = {
    "pyproject.toml": (
        '[build-system]\nrequires = ["setuptools", "docopt", "lockfile", "sortedcontainers"]\n'
        'build-backend = "setuptools.build_meta"\n'
    ),
    "setup.py": """
from importlib.metadata import distributions
from setuptools import Extension, setup
found = sorted({f"{each.metadata['Name']} {each.version}" for each in distributions(path=["/usr/lib/python3/dist-packages"])})
with open("ways.h", "w") as header:
    header.write('#define FOUND "' + ", ".join(found) + '"\\n')
setup(name="layerways", version="1.0", packages=["layerways"], ext_modules=[Extension("layerways._ways", ["ways.c"])])
""",
    "ways.c": """
#include <Python.h>
#include "ways.h"
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_ways", FOUND, -1, NULL};
PyMODINIT_FUNC PyInit__ways(void) { return PyModule_Create(&module); }
""",
    "layerways/__init__.py": "from layerways import _ways\n",
    "PKG-INFO": "Metadata-Version: 2.1\nName: layerways\nVersion: 1.0\n",
}


def packed(path: Path) -> Path:
    """The project as a source archive."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in FILES.items():
            member = tarfile.TarInfo(f"layerways-1.0/{name}")
            member.size, member.mtime = len(text.encode()), 1_600_000_000
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def context(state: StateDirs) -> Iterator[BuildContext]:
    """What builds share, without sharing; layers that a test makes are removed after it."""
    with build_context(state, NullMonitor(), policy="default") as found:
        seen = set(found.layers.layer_records.layers())
        yield found
        found.layers.close()
        for key in set(found.layers.layer_records.layers()) - seen:
            assert found.layers.remove(key)


def built(context: BuildContext, store: LayerStore, sdist: Path) -> tuple[dict[str, str], Layer]:
    """SHA-256 of each package of a build whose layers come from ``store``."""
    wheels = WheelLayers(store, context.backend, context.monitor)
    request = BuildRequest(
        requirement="layerways", target=TARGET, path=sdist, force=True, rebuild=True, with_deps=False
    )
    build = Build(Work(request=request, context=replace(context, layers=store, wheels=wheels)))
    outcome = build.finish()
    assert outcome.status is Status.BUILT, outcome.failure
    debs = [artifact.path for artifact in outcome.artifacts if artifact.path.suffix in (".deb", ".dsc")]
    assert any(path.suffix == ".deb" for path in debs)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in debs}, build.facts[Provisioned].layer


def test_a_layer_made_in_two_steps_gives_the_packages_of_one_made_in_one(
    context: BuildContext, state: StateDirs, tmp_path: Path
) -> None:
    sdist = packed(tmp_path / "layerways-1.0.tar.gz")
    image = context.images.ensure(TARGET)
    archive = context.archive_for(TARGET)

    direct_store = LayerStore(state, context.backend)
    direct, direct_layer = built(context, direct_store, sdist)
    tools = direct_store.provide(image, archive, load_recipe(TARGET).toolchain)
    assert direct_layer.lowers[1:] == tools.lowers  # one layer on top of the toolchain's
    direct_store.close()
    assert direct_store.remove(direct_layer.key)

    stepped_store = LayerStore(state, context.backend, choose=nearest_stack)
    below = stepped_store.provide(image, archive, load_recipe(TARGET).toolchain, ["python3-docopt", "python3-lockfile"])
    stepped, stepped_layer = built(context, stepped_store, sdist)
    assert stepped_layer.key == direct_layer.key
    assert stepped_layer.lowers[1:] == below.lowers  # on top of the subset that was there
    stepped_store.close()
    assert stepped == direct
