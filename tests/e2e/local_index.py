"""A package index of static files with projects that a test makes."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def packed(stem: str, files: Mapping[str, str]) -> bytes:
    """A source archive."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(f"{stem}/{path}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return made.getvalue()


class LocalIndex:
    """A package index of static files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            "PIP_INDEX_URL": f"file://{root}",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_CONFIG_FILE": "/dev/null",
        }

    def sdist(self, name: str, version: str, *requires: str, code: str = "", **extras: list[str]) -> None:
        """A project of one module, built with the suite's setuptools."""
        module, stem = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}"
        project = {"name": name, "version": version, "description": f"Demonstration {name}", "dependencies": requires}
        lines = [
            f"{key} = {list(value) if isinstance(value, tuple) else repr(value)}" for key, value in project.items()
        ]
        lines += ["[project.optional-dependencies]", *(f"{extra} = {needed}" for extra, needed in extras.items())]
        files = {
            "pyproject.toml": '[build-system]\nrequires = ["setuptools>=61"]\nbuild-backend = "setuptools.build_meta"\n'
            + "\n".join(["[project]", *lines, "[tool.setuptools]", f"py-modules = ['{module}']", ""]),
            f"{module}.py": f'"""Demonstration."""\n{code}\n',
        }
        self._add(name, f"{stem}.tar.gz", packed(stem, files))

    def wheel(self, name: str, version: str, *requires: str) -> None:
        """A wheel, from which plans know what the release requires."""
        stem, wheel = f"{name.replace('-', '_')}-{version}", io.BytesIO()
        with zipfile.ZipFile(wheel, "w") as archive:
            metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
            metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
            archive.writestr(f"{stem}.dist-info/METADATA", "\n".join([*metadata, ""]))
        self._add(name, f"{stem}-py3-none-any.whl", wheel.getvalue())

    def _add(self, project: str, filename: str, data: bytes) -> None:
        page = self.root / project / "index.html"
        page.parent.mkdir(exist_ok=True)
        (page.parent / filename).write_bytes(data)
        with page.open("a") as file:
            file.write(f'<a href="{filename}#sha256={hashlib.sha256(data).hexdigest()}">{filename}</a><br>\n')
