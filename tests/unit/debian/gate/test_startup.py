"""Attack 46: what a generated package could bring that others run or load, and packages made to exhaust their reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcbuild.debian.gate import debtar
from lxcbuild.debian.gate.artifacts import ArtifactError, parse_stanza, read_deb
from lxcbuild.debian.gate.gate import check
from lxcbuild.debian.gate.ownership import suite_owners
from tests.support import debs
from tests.support.debs import Entry
from tests.support.gating import REQUEST, SITE, judged, rules
from tests.support.timing import within


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (Entry(f"{SITE}/demo.pth", b"import os; os.system('id')\n"), "startup"),
        (Entry(f"{SITE}/demo.pth", b"demo\nimport\tos\n"), "startup"),
        (Entry(f"{SITE}/demo.pth", b"/tmp\n"), "startup"),
        (Entry(f"{SITE}/demo.pth", b"../../../tmp\n"), "startup"),
        (Entry(f"{SITE}/demo.pth", b"demo/../../x\n"), "startup"),
        (Entry(f"{SITE}/demo.pth", b"demo\xff\n"), "startup"),
        (Entry(f"{SITE}/demo.pth", b"#" * 70_000), "startup"),
        (Entry(f"{SITE}/demo.pth", kind=b"2", link="demo/__init__.py", mode=0o777), "startup"),
        (Entry("./usr/lib/python3.11/dist-packages/demo.pth", b"import os\n"), "startup"),
        (Entry(f"{SITE}/sitecustomize.py", b"x"), "startup"),
        (Entry(f"{SITE}/usercustomize.py", b"x"), "startup"),
        (Entry(f"{SITE}/usercustomize/__init__.py", b"x"), "startup"),
        (Entry(f"{SITE}/usercustomize.abi3.so", b"x"), "startup"),
        (Entry(f"{SITE}/usercustomize", kind=b"2", link="demo", mode=0o777), "startup"),
        (Entry(f"{SITE}/apport_python_hook.py", b"x"), "startup"),
        (Entry(f"{SITE}/apport_python_hook/hook.py", b"x"), "startup"),
        (Entry(f"{SITE}/apport_python_hook.cpython-311-x86_64-linux-gnu.so", b"x"), "startup"),
        (Entry("./usr/lib/python3.13/dist-packages/apport_python_hook.py", b"x"), "startup"),
        (Entry(f"{SITE}/_distutils_system_mod.py", b"x"), "startup"),
        (Entry(f"{SITE}/_manylinux.py", b"x"), "startup"),
        (Entry(f"{SITE}/distutils/__init__.py", b"x"), "startup"),
        (Entry(f"{SITE}/demo.start", b"demo:main\n"), "startup"),
        (Entry(f"{SITE}/demo.pth", b"demo.zip\n"), "startup"),
        (Entry(f"{SITE}/demo.pth", b"other/vendored\n"), "startup"),
        (Entry(f"{SITE}/apt/__pycache__/cache.cpython-311.pyc", b"x"), "startup"),
        (Entry(f"{SITE}/__pycache__/six.cpython-311.pyc", b"x"), "startup"),
        (Entry(f"{SITE}/six.pyc", b"x"), "startup"),
        (Entry("./usr/share/python3/runtime.d/python3-demo.rtupdate", b"#!/bin/sh\nid\n"), "startup"),
        (Entry("./usr/share/python3/dist/python3-demo", b"requests evil\n"), "startup"),
        (Entry("./usr/bin/which", b"x", mode=0o755), "command"),
        (Entry("./usr/bin/awk", b"x", mode=0o755), "command"),
        (Entry("./usr/bin/sh", b"x", mode=0o755), "command"),
        (Entry("./usr/share/applications/mimeapps.list", b"x"), "layout"),
        (Entry("./usr/include/python3.11/cpython/object.h", b"x"), "layout"),
        (Entry("./usr/include/python3.11/Python.h", b"x"), "layout"),
        (Entry("./usr/share/demo/x", kind=b"2", link="../../../etc", mode=0o777), "link"),
        (Entry(f"{SITE}/demo/apt", kind=b"2", link="../apt", mode=0o777), "link"),
    ],
)
def test_what_others_would_run_rejects_the_package(tmp_path: Path, entry: Entry, rule: str) -> None:
    assert rule in rules(judged(tmp_path, entry))


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "name",
    [
        "./usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v2/libc.so.6",
        "./usr/lib/x86_64-linux-gnu/security/pam_evil.so",
        "./usr/lib/x86_64-linux-gnu/libevil.so.1",
    ],
)
def test_libraries_that_the_linker_finds_reject_the_package(tmp_path: Path, name: str) -> None:
    report = judged(tmp_path, Entry(name, b"x"), compiled=True, control=debs.CONTROL.replace(": all", ": amd64"))
    assert any(finding.rule == "layout" and finding.subject == name[2:] for finding in report.findings)


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    ("project", "below"),
    [
        ("perl5", "5.36/strict.pm"),
        ("perl-base", "strict.pm"),
        ("glibc-hwcaps", "x86-64-v2/libc.so.6"),
        ("gio", "modules/libevil.so"),
        ("security", "pam_evil.so"),
        ("pkgconfig", "zlib.pc"),
        ("Demo", "libdemo.so.1"),
    ],
)
def test_beside_libraries_only_a_directory_of_its_own_name_is_allowed(tmp_path: Path, project: str, below: str) -> None:
    def judge(directory: str) -> set[str]:
        entry = Entry(f"./usr/lib/x86_64-linux-gnu/{directory}/{below}", b"x")
        control = debs.CONTROL.replace(": all", ": amd64")
        report = judged(tmp_path, entry, project=project, compiled=True, control=control)
        return {finding.subject for finding in report.findings if finding.rule == "layout"}

    assert judge(project) == {f"usr/lib/x86_64-linux-gnu/{project}/{below}"}
    assert judge("python3-demo") == set()


@pytest.mark.attack(number=46)
@pytest.mark.parametrize("directory", ["sys", "openssl", "numpy", "cpython", "internal", "demo2", "x/demo"])
def test_headers_lie_below_the_projects_name(tmp_path: Path, directory: str) -> None:
    entry = Entry(f"./usr/include/python3.11/{directory}/types.h", b"x")
    assert rules(judged(tmp_path, entry)) == {"layout"}


@pytest.mark.attack(number=46)
@pytest.mark.parametrize("project", ["polkit-1", "dbus-1", "initramfs-tools", "perl5", "X11", "ca-certificates", "gdb"])
def test_a_project_named_like_a_system_directory_gets_none(tmp_path: Path, project: str) -> None:
    report = judged(tmp_path, Entry(f"./usr/share/{project}/actions/evil", b"x"), project=project)
    assert "layout" in rules(report)


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("requests-99.0.dist-info/METADATA", "project"),
        ("requests-99.0.Dist-Info/METADATA", "project"),
        ("Requests-99.0.EGG-INFO", "project"),
        ("demo/boot/requests-99.0.dist-info/METADATA", "project"),
        ("requests.egg-link", "startup"),
        ("requests.Egg-Link", "startup"),
        ("requests-99.0-py3.11.egg", "startup"),
        ("requests-99.0-py3.11.egg/EGG-INFO/PKG-INFO", "startup"),
    ],
)
def test_a_package_claims_no_other_project(tmp_path: Path, name: str, rule: str) -> None:
    pth = (Entry(f"{SITE}/demo.pth", b"demo/boot\n"), Entry(f"{SITE}/demo/boot/demo_x.py"))
    assert rules(judged(tmp_path, Entry(f"{SITE}/{name}", b"Name: requests\nVersion: 99.0\n"), *pth)) == {rule}


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "name", ["usercustomize.py", "apport_python_hook/__init__.py", "sitecustomize.abi3.so", "x.start"]
)
def test_a_directory_that_a_pth_file_names_is_searched_like_the_one_above(tmp_path: Path, name: str) -> None:
    entries = [Entry(f"{SITE}/demo/boot/{name}", b"x"), Entry(f"{SITE}/demo/boot/own.py", b"x")]
    assert "startup" not in rules(judged(tmp_path, *entries))
    report = judged(tmp_path, *entries, Entry(f"{SITE}/demo.pth", b"demo/boot \n"))
    assert "startup" in rules(report)
    hook = f"{SITE}/demo/boot/{name.partition('/')[0]}".removeprefix("./")
    assert all(finding.subject.startswith(hook) for finding in report.findings if finding.rule == "startup")


@pytest.mark.attack(number=46)
def test_foreign_modules_are_protected_below_directories_of_pth_files(tmp_path: Path) -> None:
    owners = suite_owners(debs.Suite(imported={"six": ("python3-six",)}))
    entries = [Entry(f"{SITE}/demo/vendored/six.py", b"x"), Entry(f"{SITE}/demo.pth", b"demo/vendored\n")]
    assert judged(tmp_path, entries[0], owners=owners).accepted
    assert rules(judged(tmp_path, *entries, owners=owners)) == {"owned"}


@pytest.mark.attack(number=48)
def test_a_pth_file_of_many_lines_is_judged_at_once(tmp_path: Path) -> None:
    lines = "\n".join(f"d{number}" for number in range(9_000)).encode()
    entries = [Entry(f"{SITE}/d{number}/x.py") for number in range(9_000)]
    with within(10):
        assert judged(tmp_path, Entry(f"{SITE}/demo.pth", lines), *entries).accepted


@pytest.mark.attack(number=46)
def test_what_is_harmless_is_accepted(tmp_path: Path) -> None:
    report = judged(
        tmp_path,
        Entry(f"{SITE}/demo.pth", b"# our plugins\n\ndemo/vendored\ndemo.d\n"),
        Entry(f"{SITE}/demo/vendored/demo_part.py", b"x"),
        Entry(f"{SITE}/demo.d/demo_plugin.py", b"x"),
        Entry(f"{SITE}/demo/site-packages.pth", b"import os\n"),  # inside a package nobody reads it
        Entry("./usr/share/demo/data/x", b"x"),
        Entry("./usr/share/jupyter/kernels/demo/kernel.json", b"x"),
        Entry("./usr/share/applications/demo.desktop", b"x"),
        Entry("./usr/share/bash-completion/completions/demo", b"x"),
        Entry("./usr/include/python3.11/demo/demo.h", b"x"),
        Entry("./usr/share/demo/m", kind=b"2", link="data/x", mode=0o777),
    )
    assert report.findings == ()


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "path",
    [
        "usr/share/bash-completion/completions/sudo",
        "usr/share/zsh/vendor-completions/_sudo",
        "usr/share/fish/vendor_completions.d/sudo.fish",
        "usr/bin/sudo",
        "usr/lib/python3/dist-packages/six.py",
        "usr/lib/python3/dist-packages/six.abi3.so",
        "usr/lib/python3/dist-packages/six.cpython-311-x86_64-linux-gnu.so",
        "usr/lib/python3/dist-packages/six/__init__.so",
    ],
)
def test_code_that_takes_the_place_of_anothers_is_theirs(tmp_path: Path, path: str) -> None:
    owners = suite_owners(debs.Suite(programs={"sudo": ("sudo",)}, imported={"six": ("python3-six",)}))
    assert "owned" in rules(judged(tmp_path, Entry(f"./{path}", b"x"), owners=owners))


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "line", ["ESSENTIAL: yes", "pre-depends: evil", "rEPLACES: libc6", "Protected: yes", "PROVIDES: six"]
)
def test_fields_are_found_however_they_are_written(tmp_path: Path, line: str) -> None:
    control = debs.CONTROL.replace("Description:", f"{line}\nDescription:")
    assert "field" in rules(judged(tmp_path, control=control))


@pytest.mark.attack(number=46)
def test_one_kind_of_binary_package(tmp_path: Path) -> None:
    extra = tmp_path / "python3-demo_1.0-0~lxcbuild1~deb12_all.udeb"
    files = debs.build(tmp_path)
    extra.write_bytes(debs.deb())
    assert ("set", extra.name) in {
        (finding.rule, finding.subject) for finding in check(REQUEST, [*files, extra]).findings
    }


# -- attack 48: what reads packages is bounded in time and memory


@pytest.mark.attack(number=48)
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"".join(b"A%d: b\n" % number for number in range(100_000)), "more than 500 fields"),
        (b"Description: x\n" + b" y\n" * 300_000, None),
        (b"Package: a\nPACKAGE: b\n", "twice"),
        (b"Package: a\0b\n", "control characters"),
        ("Package: a\n".encode("utf-16"), "not UTF-8"),
        (b"Description: " + b"x" * (2 << 20), "more than"),
    ],
)
def test_a_hostile_stanza_is_read_or_refused_at_once(data: bytes, why: str | None) -> None:
    with within(3):
        if why is None:
            assert parse_stanza(data, what="it")["Description"].count("\n") == 300_000
        else:
            with pytest.raises(ArtifactError, match=why):
                parse_stanza(data, what="it")


@pytest.mark.attack(number=48)
def test_an_archive_of_millions_of_members_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(debs.ar([("debian-binary", b"2.0\n")]) + debs.ar([("x", b"")])[8:] * 1_000_000)
    with within(3), pytest.raises(ArtifactError, match="does not consist of"):
        read_deb(path)


@pytest.mark.attack(number=48)
def test_names_may_not_fill_the_readers_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debtar, "_MAX_NAMES_BYTES", 1024 * 1024)
    names = [Entry(f"./usr/share/demo/{'n' * 4000}{number}") for number in range(300)]
    path = tmp_path / "a.deb"
    path.write_bytes(debs.deb(tree=names[:200]))
    assert len(read_deb(path).members) == 203
    path.write_bytes(debs.deb(tree=names))
    with pytest.raises(ArtifactError, match="names of its members"):
        read_deb(path)


@pytest.mark.attack(number=48)
def test_depth_is_bounded(tmp_path: Path) -> None:
    assert "format" in rules(judged(tmp_path, Entry("./usr/share/demo/" + "d/" * 200 + "x", b"x")))
