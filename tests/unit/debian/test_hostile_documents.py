"""Attack 48: documents and metadata that exhaust or confuse whoever reads them on the host."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from lxcbuild.builder.jobs import result_bytes
from lxcbuild.debian import documents
from lxcbuild.debian.documents import DocumentError
from lxcbuild.errors import BrokenSdistError
from lxcbuild.pypi.files.wheels import parse_metadata, read_wheel_metadata
from lxcbuild.sandbox.base import ExtractedFile
from tests.support.timing import within

DEEP = 100_000
NESTED = "x; " + "(" * 900 + "os_name=='a'" + ")" * 900


@pytest.fixture(autouse=True)
def bounded_time():
    with within(2):
        yield


@pytest.mark.attack(number=48)
@pytest.mark.parametrize(
    "data",
    [
        b"[" * DEEP,
        b'{"schema": 1, "a": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'{"schema": ' + b"9" * 1_000_000 + b"}",
        b'{"schema": 1e999999}',
        '{"schema": 1}'.encode("utf-16"),
        b"\xff\xfe{}",
        b"\0" * 100_000,
        b" " * (documents.MAX_DOCUMENT_BYTES + 1),
        b'{"schema": true}',
        b"[]",
        b"",
    ],
)
def test_a_hostile_document_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError):
        documents.load(data)


@pytest.mark.attack(number=48)
def test_of_a_vast_result_no_more_is_read_than_a_document_may_have(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    files = {"report.json": ExtractedFile(name="report.json", path=path, size_bytes=1 << 40, sha256="0" * 64)}
    data = result_bytes(files, "report.json")
    assert len(data) == documents.MAX_DOCUMENT_BYTES + 1
    with pytest.raises(DocumentError, match="more than"):
        documents.load(data)
    assert result_bytes(files, "other.json") == b""


@pytest.mark.attack(number=48)
def test_texts_come_out_bounded_and_clean() -> None:
    value = {
        "schema": 1,
        "long": "x" * 100_000,
        "odd": "a\0b\x1b[2J\u202e\u200f\u061cc\ud800",
        "many": ["x"] * 5000,
        "nested": [NESTED],
    }
    reader = documents.load(json.dumps(value).encode())
    for key in ("long",):
        with pytest.raises(DocumentError):
            reader.text(key)
    assert reader.text("odd") == "ab[2Jc"
    for key in ("many", "nested"):
        with pytest.raises(DocumentError):
            reader.texts(key)


@pytest.mark.attack(number=48)
def test_requirements_that_would_break_their_parser_are_passed_over() -> None:
    data = f"Metadata-Version: 2.1\nName: x\nVersion: 1\nRequires-Dist: {NESTED}\nRequires-Dist: y\n".encode()
    assert parse_metadata(data, where="x").requires_dist == ("y",)


@pytest.mark.attack(number=48)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 1000,
        "Metadata-Version: 2.1\nName: x\nVersion: 1\n".encode("utf-16"),
        b"Name: " + b"x" * 1_000_000 + b"\nVersion: 1\n",
        b"Name: x\nVersion: " + b"9" * 1_000_000 + b"\n",
        b"Name: x\nVersion: 1\n" + b"A: b\n" * 2_000_000,
    ],
)
def test_hostile_metadata_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenSdistError):
        parse_metadata(data, where="x")


@pytest.mark.attack(number=48)
def test_a_wheel_that_lists_millions_of_members_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("x-1.dist-info/METADATA", "Name: x\nVersion: 1\n")
    assert read_wheel_metadata(path).name == "x"
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02")
    one, end = data[at : data.index(b"PK\x05\x06")], data[data.index(b"PK\x05\x06") :]
    count = 500_000
    end = end[:8] + b"\xff\xff\xff\xff" + (len(one) * count).to_bytes(4, "little") + end[16:]
    path.write_bytes(data[:at] + one * count + end)
    with pytest.raises(BrokenSdistError, match="too long"):
        read_wheel_metadata(path)
