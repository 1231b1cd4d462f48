"""Reads the tar archives in a .deb, and no other: GNU tar as ``dpkg-deb --build`` has it written, to the last byte of padding.

dpkg reads data archives itself and leaves control archives, and ``dpkg-deb -x``, to GNU tar. Both are tolerant, each in its
own way: a regular file whose name ends in a slash is a directory to them, and its data are further members. So nothing is
tolerated here that the writer has no reason to write: what this reader accepts can be read in one way only.

Sources: GNU tar's src/create.c and src/names.c for what is written, dpkg's lib/dpkg/tarfn.c for what is read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

from msgspec import Struct

from lxcbuild.debian.gate.debfile import Stream
from lxcbuild.debian.stanza import ArtifactError

MAX_MEMBERS = 200_000
_BLOCK = 512
#: tar writes records of 20 blocks, the last one filled with zeros.
_RECORD = 20 * _BLOCK
_MAX_NAME = 4096
#: The deepest files of bookworm and trixie lie below 23 directories.
_MAX_DEPTH = 40
#: Of all names of one package together: 200,000 of the longest ones would fill the memory of whoever reads them.
_MAX_NAMES_BYTES = 64 * 1024 * 1024
_KINDS = {b"0": "file", b"1": "hardlink", b"2": "symlink", b"5": "dir"}
_FIELDS = struct.Struct("100s48s8sc100s8s32s32s")
#: Mode, user, group, size, time: zero-padded octal digits and one NUL; what does not fit is written in a way that no package needs.
_NUMBERS = re.compile(rb"000([0-7]{4})\0([0-7]{7})\0([0-7]{7})\0([0-7]{11})\0[0-7]{11}\0")
_LONG_NUMBERS = re.compile(rb"0000644\x000000000\x000000000\x00([0-7]{11})\x0000000000000\0")
#: Device numbers, times of access and change, sparse maps, padding: all of them for other kinds and formats.
_REST = bytes(_BLOCK - _FIELDS.size)
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: dpkg goes by the name where the system knows it, by the number elsewhere: base-passwd's, which are the same everywhere.
_USERS = {
    0: "root", 1: "daemon", 2: "bin", 3: "sys", 4: "sync", 5: "games", 6: "man", 7: "lp", 8: "mail", 9: "news", 10: "uucp",
    13: "proxy", 33: "www-data", 34: "backup", 38: "list", 39: "irc", 41: "gnats", 42: "_apt", 65534: "nobody",
}  # fmt: skip
_GROUPS = {
    0: "root", 1: "daemon", 2: "bin", 3: "sys", 4: "adm", 5: "tty", 6: "disk", 7: "lp", 8: "mail", 9: "news", 10: "uucp",
    12: "man", 13: "proxy", 15: "kmem", 20: "dialout", 21: "fax", 22: "voice", 24: "cdrom", 25: "floppy", 26: "tape",
    27: "sudo", 29: "audio", 30: "dip", 33: "www-data", 34: "backup", 37: "operator", 38: "list", 39: "irc", 40: "src",
    41: "gnats", 42: "shadow", 43: "utmp", 44: "video", 45: "sasl", 46: "plugdev", 50: "staff", 60: "games", 100: "users",
    65534: "nogroup",
}  # fmt: skip


class TarMember(Struct, frozen=True, kw_only=True):
    """One entry of a package's file tree; ``name`` is relative, without the leading ``./``; ``link`` is as written.

    ``data`` is kept where the reader asked for it.
    """

    name: str
    kind: str  # file, dir, symlink, hardlink
    mode: int
    uid: int
    gid: int
    size_bytes: int
    link: str = ""
    data: bytes | None = None


def members(stream: Stream, *, keeps: Callable[[str, int], bool]) -> Iterator[TarMember]:
    """All members but the root, which is there and comes first; data of those whose name and size ``keeps`` says yes to.

    Raises :class:`ArtifactError` for whatever tar would not have written for dpkg-deb.
    """
    kinds: dict[str, str] = {}
    names_bytes = 0
    while (header := _next_header(stream)) is not None:
        name, kind = header.name, header.kind
        names_bytes += len(name) + len(header.link)
        if len(kinds) >= MAX_MEMBERS or names_bytes > _MAX_NAMES_BYTES:
            raise ArtifactError(f"it has more than {MAX_MEMBERS} members, or the names of its members fill memory")
        _check_place(header, kinds)
        kinds[name] = kind
        if kind == "file":
            stream.expect(header.size_bytes)
            data = _data(stream, header.size_bytes, keep=keeps(name, header.size_bytes))
        else:
            data = None
        if name:
            yield TarMember(
                name=name,
                kind=kind,
                mode=header.mode,
                uid=header.uid,
                gid=header.gid,
                size_bytes=header.size_bytes,
                link=header.link,
                data=data,
            )
    if not kinds:
        raise ArtifactError("its tar archive is empty")
    _check_end(stream)


class _Header(Struct):
    name: str
    kind: str
    mode: int
    uid: int
    gid: int
    size_bytes: int
    link: str


def _next_header(stream: Stream) -> _Header | None:
    """None at the end. Long names stand before their header, that of the link before that of the member."""
    block = _block(stream)
    long_link = long_name = None
    if block[156:157] == b"K":
        long_link, block = _long_text(stream, block), _block(stream)
    if block[156:157] == b"L":
        long_name, block = _long_text(stream, block), _block(stream)
    if block == bytes(_BLOCK) and long_link is long_name is None:
        return None
    name, numbers, _sum, kind, link, _magic, user, group = _checked(block)
    match = _NUMBERS.fullmatch(numbers)
    if match is None:
        raise ArtifactError("a tar header has a malformed number")
    mode, uid, gid, size = (int(digits, 8) for digits in match.groups())
    owners = _owner(user), _owner(group)
    if owners != (_USERS.get(uid, ""), _GROUPS.get(gid, "")):
        raise ArtifactError(f"a member belongs to {owners[0]!r}:{owners[1]!r}, which have other ids than {uid}:{gid}")
    known = _KINDS.get(kind)
    name, link = _padded(name, long_name), _padded(link, long_link)
    if known is None:
        raise ArtifactError(
            f"{name[:80]!r} is a device, a fifo or of another kind that a package may not hold: {kind!r}"
        )
    if (known != "file" and size) or (known in ("hardlink", "symlink")) != bool(link):
        raise ArtifactError(f"{name[:80]!r} has data although it is no file, or a link that does not belong to it")
    return _Header(_relative(_text(name), known), known, mode, uid, gid, size, _text(link))


def _block(stream: Stream) -> bytes:
    block = stream.read(_BLOCK)
    if len(block) != _BLOCK:
        raise ArtifactError("its tar archive is cut short")
    return block


def _checked(block: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]:
    fields: tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes] = _FIELDS.unpack_from(block)
    if fields[2] != b"%06o\0 " % (sum(block) - sum(fields[2]) + 8 * 32):
        raise ArtifactError("a tar header has a wrong checksum")
    if fields[5] != b"ustar  \0" or block[_FIELDS.size :] != _REST:
        raise ArtifactError("a tar header is of an unknown kind")
    return fields


def _long_text(stream: Stream, block: bytes) -> bytes:
    name, numbers, _sum, _kind, link, _magic, user, group = _checked(block)
    match = _LONG_NUMBERS.fullmatch(numbers)
    if (
        match is None
        or name.rstrip(b"\0") != b"././@LongLink"
        or link.strip(b"\0")
        or {_owner(user), _owner(group)} != {"root"}
    ):
        raise ArtifactError("a tar header of a long name is not one that tar writes")
    size = int(match[1], 8)
    if not 101 < size <= _MAX_NAME + 1:
        raise ArtifactError("a member has too long a name, or a short one written as a long one")
    text = _data(stream, size, keep=True)
    assert text is not None
    if text.find(b"\0") != size - 1:
        raise ArtifactError("a member's long name does not end where it says")
    return text[:-1]


def _padded(field: bytes, long: bytes | None) -> bytes:
    """What a field of 100 bytes says: up to its padding of NULs, or the whole of a long text that it must be the start of."""
    if long is not None:
        if long[: len(field)] != field:
            raise ArtifactError("a member's long name is another one than its header says")
        return long
    text = field.rstrip(b"\0")
    if b"\0" in text:
        raise ArtifactError("a tar header has bytes behind the end of a name")
    return text


def _owner(field: bytes) -> str:
    return _padded(field, None).decode("ascii", "replace")


def _text(raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ArtifactError(f"a member's name is not UTF-8: {raw[:80]!r}") from None
    if _CONTROL_CHARACTERS.search(text):
        raise ArtifactError(f"a member's name holds control characters: {text[:80]!r}")
    return text


def _relative(name: str, kind: str) -> str:
    """dpkg-deb writes ``./usr/bin/x``, and ``./usr/`` for a directory; the tree's root is the empty name."""
    if not name.startswith("./"):
        raise ArtifactError(f"a member's name is absolute or leads out of the package: {name[:80]!r}")
    if name.endswith("/") != (kind == "dir"):
        raise ArtifactError(f"the name of a directory ends in a slash, and no other: {name[:80]!r}")
    return name[2:-1] if kind == "dir" else name[2:]


def _check_place(header: _Header, kinds: dict[str, str]) -> None:
    """Directories come before what they hold, so their names need not be looked at again."""
    name = header.name
    parent, _, base = name.rpartition("/")
    if not kinds:
        if name or header.kind != "dir":
            raise ArtifactError("its first member is not its root directory")
        return
    if name in kinds:
        raise ArtifactError(f"{name[:80]!r} is in the package twice")
    if base in ("", ".", "..") or kinds.get(parent) != "dir":
        raise ArtifactError(f"a member's name leads out of the package, or its directory is not there: {name[:80]!r}")
    if name.count("/") >= _MAX_DEPTH:
        raise ArtifactError(f"a member lies deeper than {_MAX_DEPTH} directories: {name[:80]!r}")
    link = header.link
    if header.kind == "hardlink" and (link[:2] != "./" or kinds.get(link[2:]) not in ("file", "symlink")):
        raise ArtifactError(f"{name[:80]!r} is a hard link to something that is not in the package before it")


def _data(stream: Stream, size: int, *, keep: bool) -> bytes | None:
    """The data of a member, where they are kept, and its padding."""
    data = stream.read(size) if keep else None
    if data is None:
        stream.skip(size)
    padding = stream.read(-size % _BLOCK)
    if (data is not None and len(data) != size) or len(padding) != -size % _BLOCK:
        raise ArtifactError("its tar archive is cut short")
    if padding.strip(b"\0"):
        raise ArtifactError("it has data between the members of its tar archive")
    return data


def _check_end(stream: Stream) -> None:
    """A second block of zeros, zeros up to the end of the record, nothing else; the first one has been read."""
    missing = _BLOCK + -(stream.position + _BLOCK) % _RECORD
    if stream.read(missing + 1) != bytes(missing):
        raise ArtifactError("its tar archive does not end as tar ends one: it has data after the end, or is cut short")
