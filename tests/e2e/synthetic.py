"""Many tiny local projects with a random graph of needs, some of them failing, each class in its own way."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.local_index import packed

#: What makes a build end in each class: code of setup.py, or of the module.
FAILURES = {
    "compile-failed": ("raise SystemExit('no')", ""),
    "import-failed": ("", "raise RuntimeError('no')"),
    "broken-sdist": ("", ""),
    "network-denied": ("import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=5)", ""),
    "dep-missing": ("", ""),
}


@dataclass
class World:
    """What was made: ``needs`` by project, and how projects that fail by themselves fail."""

    root: Path
    needs: dict[str, set[str]] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PIP_INDEX_URL": f"file://{self.root}",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_CONFIG_FILE": "/dev/null",
        }

    def below(self, name: str) -> set[str]:
        """What a project needs, directly or not."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            for other in self.needs[waiting.pop()] - found:
                found.add(other)
                waiting.append(other)
        return found

    def has_wheel(self, name: str) -> bool:
        """Whether a plan can know what it needs; else that is found out when it is built."""
        return name not in self.failing and int(name[-4:]) % 4 != 0

    def expected(self, name: str) -> str:
        """built, failed or pruned."""
        if self.below(name) & self.failing.keys():
            return "pruned"
        return "failed" if name in self.failing else "built"


def make_world(root: Path, count: int, *, seed: int, failing: int, salt: str) -> World:
    """``count`` projects; the names begin with ``salt``, so that no state directory has built them before."""
    draw = random.Random(seed)
    names = [f"{salt}-p{number:04}" for number in range(count)]
    world = World(root)
    for number, name in enumerate(names):
        pool = names[max(0, number - 30) : number]
        world.needs[name] = set(draw.sample(pool, min(len(pool), draw.choice([0, 0, 1, 1, 2, 3]))))
    for position, name in enumerate(draw.sample(names, failing)):
        world.failing[name] = list(FAILURES)[position % len(FAILURES)]
    for name in names:
        _write(world, name)
    return world


def _write(world: World, name: str) -> None:
    kind = world.failing.get(name, "")
    module, stem = name.replace("-", "_"), f"{name.replace('-', '_')}-1.0"
    setup, code = FAILURES.get(kind, ("", ""))
    requires = sorted(world.needs[name]) + (["no-such-project-anywhere"] if kind == "dep-missing" else [])
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n',
        "setup.cfg": f"[metadata]\nname = {name}\nversion = 1.0\n[options]\npy_modules = {module}\n",
        "setup.py": f"{setup}\nfrom setuptools import setup\nsetup(install_requires={requires!r})\n",
        f"{module}.py": f'"""Synthetic."""\n{code}\n',
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: 1.0\n"
        + "".join(f"Requires-Dist: {each}\n" for each in requires),
    }
    published = {f"{stem}.tar.gz": b"this is no archive" if kind == "broken-sdist" else packed(stem, files)}
    if world.has_wheel(name):
        published[f"{stem}-py3-none-any.whl"] = _wheel(stem, module, files)
    page = world.root / name / "index.html"
    page.parent.mkdir(parents=True)
    for file, data in published.items():
        (page.parent / file).write_bytes(data)
    page.write_text(
        "".join(
            f'<a href="{file}#sha256={hashlib.sha256(data).hexdigest()}">{file}</a>\n'
            for file, data in published.items()
        )
    )


def _wheel(stem: str, module: str, files: dict[str, str]) -> bytes:
    """What a plan reads the needs from (the binary distribution format of packaging.python.org)."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{module}.py", files[f"{module}.py"])
        archive.writestr(f"{stem}.dist-info/METADATA", files["PKG-INFO"])
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return packed.getvalue()
