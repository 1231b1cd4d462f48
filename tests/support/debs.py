"""Writes .deb archives byte by byte, also ones that dpkg-deb would never write, and the documents around them."""

from __future__ import annotations

import gzip
import hashlib
import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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


@dataclass(frozen=True)
class Suite:
    """A suite's index, and the source packages that it makes packages from."""

    programs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    imported: Mapping[str, Sequence[str]] = field(default_factory=dict)
    listed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    made_from: Mapping[str, str] = field(default_factory=dict)
    below: Mapping[str, Sequence[str]] = field(default_factory=dict)
    translated: Mapping[str, Sequence[str]] = field(default_factory=dict)
    packages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    included: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def executables(self, name: str) -> Sequence[str]:
        return self.programs.get(name, ())

    def modules(self, name: str) -> Sequence[str]:
        return self.imported.get(name, ())

    def files(self, path: str) -> Sequence[str]:
        return self.listed.get(path, ())

    def directories(self, path: str) -> Sequence[str]:
        return self.below.get(path, ())

    def catalogues(self, name: str) -> Sequence[str]:
        return self.translated.get(name, ())

    def system_headers(self, path: str) -> Sequence[str]:
        return self.included.get(path, ())

    def trees(self, path: str) -> Sequence[str]:
        return self.packages.get(path, ())

    def sources(self, packages: Iterable[str]) -> Mapping[str, str]:
        return {name: self.made_from[name] for name in packages if name in self.made_from}


def tar(entries: Sequence[Entry]) -> bytes:
    """A GNU tar archive of these entries, in records of 20 blocks."""
    return ended(b"".join(packed(entry) for entry in entries))


def ended(members: bytes) -> bytes:
    """With the end of an archive after its members."""
    return members + bytes(1024 + -(len(members) + 1024) % 10240)


def packed(entry: Entry) -> bytes:
    """Header, data and padding."""
    return header(entry) + entry.data + bytes(-len(entry.data) % 512)


def header(entry: Entry) -> bytes:
    """One header block, after those of its long texts."""
    name, link = entry.name.encode(), entry.link.encode()
    long = b"".join(_long(kind, text) for kind, text in ((b"K", link), (b"L", name)) if len(text) > 100)
    owner = b"root" if entry.uid == 0 else b""
    return long + block(
        name=name, mode=entry.mode, uid=entry.uid, size=len(entry.data), kind=entry.kind, link=link, owner=owner
    )


def block(
    *, name: bytes, mode: int, uid: int, size: int, kind: bytes, link: bytes, owner: bytes, time: int = 1_700_000_000
) -> bytes:
    """One header block as GNU tar writes it."""
    fields = [
        name[:100].ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % uid, b"%07o\0" % uid, b"%011o\0" % size,
        b"%011o\0" % time, b" " * 8, kind, link[:100].ljust(100, b"\0"), b"ustar  \0",
        owner.ljust(32, b"\0"), owner.ljust(32, b"\0"),
    ]  # fmt: skip
    return summed(b"".join(fields).ljust(512, b"\0"))


def summed(header: bytes) -> bytes:
    """A header block with the checksum of what it holds."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def _long(kind: bytes, text: bytes) -> bytes:
    size = len(text) + 1
    name = b"././@LongLink"
    return (
        block(name=name, mode=0o644, uid=0, size=size, kind=kind, link=b"", owner=b"root", time=0)
        + text
        + bytes(1 + -size % 512)
    )


def whole(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with the directories that they lie in, each of them before what it holds and once."""
    found: dict[str, Entry] = {"./": Entry("./", kind=b"5", mode=0o755)}
    rest: list[Entry] = []
    for entry in entries:
        parts = entry.name.rstrip("/").split("/")
        if entry.kind == b"5":
            parts.append("")
            entry = replace(entry, name=entry.name.rstrip("/") + "/")  # noqa: PLW2901
        for depth in range(2, len(parts)):
            above = "/".join(parts[:depth]) + "/"
            if parts[0] == "." and above != entry.name and above not in found:
                found[above] = Entry(above, kind=b"5", mode=0o755)
                rest.append(found[above])
        if entry.name not in found or entry.kind != b"5":
            found[entry.name] = entry
            rest.append(entry)
    return [found["./"], *rest]


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
        [
            ("debian-binary", b"2.0\n"),
            (f"control.tar{end}", pack(tar(entries))),
            (f"data.tar{end}", pack(tar(whole(tree)))),
        ]
    )


def sums(files: dict[str, bytes]) -> str:
    """A Checksums-Sha256 field."""
    lines = [f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}" for name, data in files.items()]
    return "\n".join(["Checksums-Sha256:", *lines]) + "\n"


def build(
    directory: Path, package: bytes | None = None, *, more: Sequence[tuple[str, bytes]] = (), **changes: str
) -> list[Path]:
    """All the artefacts of one build, with ``more`` of them; ``changes`` replaces fields of the .changes file."""
    version = "1.0-0~lxcbuild1~deb12"
    files = {
        "python-demo_1.0.orig.tar.gz": b"orig",
        f"python-demo_{version}.debian.tar.xz": b"debian",
        f"python3-demo_{version}_all.deb": deb() if package is None else package,
        **dict(more),
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
