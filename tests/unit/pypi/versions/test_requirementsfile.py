"""Requirements files and words of the command line as build requests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lxcbuild.builder.machine import ConverterChoice
from lxcbuild.builder.phases.fetch import _check_pinned
from lxcbuild.builder.request import BuildRequest
from lxcbuild.cli.requests import read_requests
from lxcbuild.errors import InputError, WrongHashError
from lxcbuild.model import Source, SourceKind, Target
from lxcbuild.pypi.versions.requirementsfile import RequirementLine, parse_requirements_file

SHA256 = "0a" * 32
LIKE = BuildRequest(requirement="", target=Target("debian", "bookworm"), force=True)


def parse(text: str) -> tuple[RequirementLine, ...]:
    return parse_requirements_file(text.encode(), name="r.txt")


def test_requirements_comments_markers_hashes_and_continued_lines_are_read() -> None:
    found = parse(
        "\ufeff# what we need\n\nidna==3.10 # the newest\nsix>=1,<2; python_version >= '3'\nidna==3.10\n"
        f"tomli==2.0 \\\n    --hash=sha256:{SHA256} \\\n    --hash=sha256:{'0b' * 32}\nrequests[socks]\n"
    )
    assert [line.requirement for line in found] == [
        "idna==3.10",
        "six>=1,<2; python_version >= '3'",
        "tomli==2.0",
        "requests[socks]",
    ]
    assert found[2].hashes == (("sha256", SHA256), ("sha256", "0b" * 32))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("idna\n-e .\n", "line 2: the option '-e'"),
        ("-r other.txt", "line 1: the option '-r'"),
        ("--index-url https://example.org/simple", "'--index-url"),
        ("idna --no-binary :all:", "'--no-binary'"),
        ("./dist/x-1.0.tar.gz", "not the name of a project"),
        ("../../etc/passwd", "not the name of a project"),
        ("git+https://example.org/x", "not the name of a project"),
        ("x @ https://example.org/x.tar.gz", "line 1"),
        ("idna==", "line 1"),
        ("idna\n\nthis is none\n", "line 3"),
        (f"idna --hash=md5:{SHA256}", "not a hash"),
        ("idna --hash=sha256:abc", "not a hash"),
        ("# nothing\n", "holds no requirement"),
        ("x\n" * 6000, "more than 5000 lines"),
        ("x" * 2_000_000, "bytes"),
    ],
)
def test_what_is_no_requirement_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert told in caught.value.brief


def test_a_file_that_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="UTF-8"):
        parse_requirements_file(b"\xff\xfe", name="r.txt")


def test_words_and_files_become_one_request_each(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text(f"six --hash=sha256:{SHA256}\nidna\n")
    found = read_requests(["attrs"], [tmp_path / "r.txt"], like=LIKE)
    assert [item.requirement for item in found] == ["attrs", "six", "idna"]
    assert found[1].hashes == (("sha256", SHA256),)
    assert all(item.force for item in found)
    with pytest.raises(InputError, match="cannot be read"):
        read_requests([], [tmp_path / "absent.txt"], like=LIKE)


def test_paths_are_told_apart(tmp_path: Path) -> None:
    dsc, sdist, plain, debianized = (tmp_path / name for name in ("x_1-1.dsc", "x-1.tar.gz", "plain", "debianized"))
    dsc.touch()
    sdist.touch()
    plain.mkdir()
    (debianized / "debian").mkdir(parents=True)
    kinds = [item.kind for item in read_requests([str(p) for p in (dsc, sdist, plain, debianized)], [], like=LIKE)]
    assert kinds == [SourceKind.DSC, SourceKind.SDIST, SourceKind.TREE, SourceKind.TREE]
    for name in ("control", "changelog", "rules"):
        (debianized / "debian" / name).touch()
    (found,) = read_requests([str(debianized)], [], like=LIKE)
    assert found.kind is SourceKind.DSC
    asked = BuildRequest(requirement="", target=LIKE.target, converter=ConverterChoice.PYPROJECT)
    (found,) = read_requests([str(debianized)], [], like=asked)
    assert found.kind is SourceKind.TREE
    with pytest.raises(InputError, match="no file or directory"):
        read_requests(["absent.dsc"], [], like=LIKE)


def test_an_archive_must_have_one_of_the_pinned_hashes(tmp_path: Path) -> None:
    archive = tmp_path / "x-1.tar.gz"
    archive.write_bytes(b"content")
    right = hashlib.sha512(b"content").hexdigest()
    source = Source(kind=SourceKind.SDIST, name="x", version="1", path=archive, sha256="", size_bytes=7)
    _check_pinned(source, [("sha256", SHA256), ("sha512", right)])
    with pytest.raises(WrongHashError):
        _check_pinned(source, [("sha256", SHA256)])
