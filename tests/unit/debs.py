"""Writes .deb archives byte by byte, also ones that dpkg-deb would never write, and the documents around them."""

from __future__ import annotations

import gzip
import hashlib
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POSTINST = """\
#!/bin/sh
set -e

# Automatically added by dh_python3
if command -v py3compile >/dev/null 2>&1; then
\tpy3compile -p python3-demo {blank}
fi
if command -v pypy3compile >/dev/null 2>&1; then
\tpypy3compile -p python3-demo  || true
fi

# End automatically added section
""".replace("{blank}", "")  # dh_python3 writes a blank there
CONTROL = """\
Package: python3-demo
Source: python-demo
Version: 1.0-0~lxcbuild1~deb12
Architecture: all
Maintainer: lxcbuild <lxcbuild@localhost>
Depends: python3:any
Description: demonstration
 It demonstrates.
"""


@dataclass(frozen=True)
class Entry:
    """One member of a tar archive."""

    name: str
    data: bytes = b""
    kind: bytes = b"0"
    mode: int = 0o644
    uid: int = 0
    link: str = ""


def tar(entries: Sequence[Entry]) -> bytes:
    """A GNU tar archive."""
    return b"".join(header(entry) + entry.data + bytes(-len(entry.data) % 512) for entry in entries) + bytes(1024)


def header(entry: Entry) -> bytes:
    """One header block."""
    if len(entry.name) > 99:
        long = entry.name.encode() + b"\0"
        return (
            header(Entry("././@LongLink", long, b"L"))
            + long
            + bytes(-len(long) % 512)
            + header(Entry(entry.name[:99], entry.data, entry.kind, entry.mode, entry.uid, entry.link))
        )
    fields = [
        entry.name.encode().ljust(100, b"\0"), b"%07o\0" % entry.mode, b"%07o\0" % entry.uid, b"%07o\0" % entry.uid,
        b"%011o\0" % len(entry.data), b"%011o\0" % 1_700_000_000, b" " * 8, entry.kind,
        entry.link.encode().ljust(100, b"\0"), b"ustar  \0",
    ]  # fmt: skip
    block = b"".join(fields).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def ar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """An ar archive."""
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


TREE = (
    Entry("./", kind=b"5", mode=0o755),
    Entry("./usr/", kind=b"5", mode=0o755),
    Entry("./usr/lib/python3/dist-packages/demo/__init__.py", b"x = 1\n"),
    Entry("./usr/lib/python3/dist-packages/demo-1.0.dist-info/METADATA", b"Name: demo\n"),
    Entry("./usr/bin/demo", b"#!/usr/bin/python3\n", mode=0o755),
    Entry("./usr/share/doc/python3-demo/copyright", b"free\n"),
)


def _xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def deb(
    *,
    control: str = CONTROL,
    scripts: dict[str, str] | None = None,
    tree: Sequence[Entry] = TREE,
    compression: str = "xz",
) -> bytes:
    """A binary package."""
    files = {"control": control, **({"postinst": POSTINST} if scripts is None else scripts)}
    pack = {"xz": _xz, "gz": gzip.compress, "": bytes}[compression]
    end = f".{compression}" if compression else ""
    entries = [Entry("./", kind=b"5", mode=0o755), *(Entry(f"./{name}", text.encode()) for name, text in files.items())]
    return ar(
        [("debian-binary", b"2.0\n"), (f"control.tar{end}", pack(tar(entries))), (f"data.tar{end}", pack(tar(tree)))]
    )


def sums(files: dict[str, bytes]) -> str:
    """A Checksums-Sha256 field."""
    lines = [f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}" for name, data in files.items()]
    return "\n".join(["Checksums-Sha256:", *lines]) + "\n"


def build(directory: Path, package: bytes | None = None, **changes: str) -> list[Path]:
    """All the artefacts of one build; ``changes`` replaces fields of the .changes file."""
    version = "1.0-0~lxcbuild1~deb12"
    files = {
        "python-demo_1.0.orig.tar.gz": b"orig",
        f"python-demo_{version}.debian.tar.xz": b"debian",
        f"python3-demo_{version}_all.deb": deb() if package is None else package,
    }
    sources = {name: data for name, data in files.items() if ".tar." in name}
    head = f"Source: python-demo\nVersion: {version}\n"
    files[f"python-demo_{version}.dsc"] = f"Format: 3.0 (quilt)\n{head}Binary: python3-demo\n{sums(sources)}".encode()
    files[f"python-demo_{version}_amd64.buildinfo"] = f"Format: 1.0\n{head}{sums(files)}".encode()
    fields = {
        "Source": "python-demo",
        "Version": version,
        "Distribution": "bookworm",
        "Binary": "python3-demo",
        **changes,
    }
    text = "".join(f"{name}: {value}\n" for name, value in fields.items()) + sums(files)
    files[f"python-demo_{version}_amd64.changes"] = text.encode()
    paths = []
    for name, data in files.items():
        path = directory / name
        path.write_bytes(data)
        paths.append(path)
    return paths
