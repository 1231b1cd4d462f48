"""Makes small source archives, honest and hostile, for tests."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.debian.inside import report

FLIT = """\
[build-system]
requires = ["flit_core>=3.11,<4"]
build-backend = "flit_core.buildapi"

[project]
name = "Demo.Project"
version = "1.0rc1"
description = "A demonstration."
license = "MIT"
license-files = [
    "LICENSE",
]
dependencies = ["six>=1.5", "tomli; python_version < '3.11'"]

[project.optional-dependencies]
fast = ["speedup>=2; python_version > '3'"]

[project.scripts]
demo = "demo:main"

[project.urls]
Source = "https://github.com/example/demo"
"""
PKG_INFO = """\
Metadata-Version: 2.1
Name: demo
Version: 1.0rc1
Summary: A demonstration.
Author-email: Jane Doe <jane@example.org>
Classifier: License :: OSI Approved :: MIT License
Project-URL: Source, https://github.com/example/demo

A long text about a demonstration, which is long enough to be kept as a paragraph.
"""


def tarball(path: Path, files: dict[str, str | bytes], *, mode: str = "w:gz") -> Path:
    """A tar archive of plain files."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1_600_000_000
            tar.addfile(info, io.BytesIO(data))
    return path


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    """A tar archive of any members, without data."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """One empty member."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


def zipped(path: Path, files: dict[str, str]) -> Path:
    """A zip archive of plain files."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def run_inside(
    main: Any, request: dict[str, Any], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, Path]:
    """Run the main function of an inside script as the sandbox would, with its request and /out below ``directory``."""
    out = directory / "out"
    out.mkdir(exist_ok=True)
    asked = directory / "request.json"
    asked.write_text(json.dumps(request))
    monkeypatch.setattr(report, "REQUEST", asked)
    monkeypatch.setattr(report, "OUT", out)
    return main([]), out
