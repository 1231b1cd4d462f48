"""Attack 46: links through which a later release, or another package, would have its files somewhere else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lxcbuild.debian.gate.gate import GateReport, RuleSet
from lxcbuild.debian.gate.ownership import project_owners, suite_owners
from tests.support import debs
from tests.support.debs import Entry
from tests.support.gating import SITE, judged

SHARE = "./usr/share/demo"


def link(name: str, to: str) -> Entry:
    return Entry(name, kind=b"2", link=to, mode=0o777)


def refused(report: GateReport) -> set[tuple[str, str]]:
    return {(finding.rule, finding.subject) for finding in report.findings if finding.fatal}


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    ("name", "to"),
    [
        (f"{SHARE}/d", "../../../etc"),
        (f"{SHARE}/d", "../../../etc/"),
        (f"{SHARE}/d", "../../../etc/demo"),
        (f"{SHARE}/d", "/etc"),
        (f"{SHARE}/d", "/usr/share/demo/data"),
        (f"{SHARE}/d", "."),
        (f"{SHARE}/d", ".."),
        (f"{SHARE}/d", "d"),
        (f"{SHARE}/d", "e/../data"),
        (f"{SHARE}/d", "../locale/../demo/data"),
        (f"{SHARE}/d", "data/"),
        (f"{SHARE}/d", "nothing"),
        (f"{SHARE}/d", "../../bin/demo"),
        (f"{SHARE}/d", "../../lib/python3/dist-packages/demo"),
        (f"{SHARE}/d", "../../lib/python3/dist-packages/demo/__init__.py"),
        (f"{SHARE}/d", "../doc/python3-demo/copyright"),
        ("./etc/demo/d", "conf"),
        (f"{SITE}/demo/up", "../../../.."),
        (f"{SITE}/demo/site", ".."),
        (f"{SITE}/demo/inner", "sub"),
        (f"{SITE}/demo/x.d", "__init__.py"),
        (f"{SITE}/yaml", "demo"),
        (f"{SITE}/google", "demo"),
        (f"{SITE}/google/protobuf", "../demo/__init__.py"),
        (f"{SITE}/yaml", "demo/__init__.py"),
        (f"{SITE}/yaml.py", "demo/__init__.py"),
        ("./usr/share/locale/de/LC_MESSAGES", "../../demo/m"),
        ("./usr/share/locale/de/LC_MESSAGES", "../../demo/data/x"),
        ("./usr/share/locale/de_DE.UTF-8", "../demo/data/x"),
        ("./usr/share/doc/python3-demo/d", "../../../../etc"),
        ("./usr/bin/demo2", "../share"),
        ("./usr/bin/demo2", "demo3"),
    ],
)
def test_a_link_to_anything_but_an_own_file_beside_it_is_refused(tmp_path: Path, name: str, to: str) -> None:
    entries = [
        Entry("./etc/demo/conf", b"x"),
        Entry(f"{SHARE}/data/x", b"x"),
        Entry(f"{SHARE}/m/coreutils.mo", b"x"),
        Entry(f"{SITE}/demo/sub/__init__.py", b"x"),
    ]
    assert refused(judged(tmp_path, *entries, link(name, to))) == {("link", name[2:])}


@pytest.mark.attack(number=46)
def test_links_that_lead_through_links_are_judged_by_where_they_end(tmp_path: Path) -> None:
    loop = [link(f"{SHARE}/a", "b"), link(f"{SHARE}/b", "a")]
    assert refused(judged(tmp_path, *loop)) == {("link", "usr/share/demo/a"), ("link", "usr/share/demo/b")}
    chain = [link(f"{SHARE}/a", "b"), link(f"{SHARE}/b", "c"), link(f"{SHARE}/c", "../../../etc")]
    assert refused(judged(tmp_path, *chain)) == {("link", f"usr/share/demo/{name}") for name in "abc"}
    # A name below a link is none that the package has.
    below = [link(f"{SHARE}/a", "data"), link(f"{SHARE}/b", "a/x"), Entry(f"{SHARE}/data/x", b"x")]
    assert refused(judged(tmp_path, *below)) == {("link", "usr/share/demo/a"), ("link", "usr/share/demo/b")}
    endless = [link(f"{SHARE}/{number}", f"{number + 1}") for number in range(3000)]
    assert not judged(tmp_path, *endless, Entry(f"{SHARE}/3000", b"x")).accepted


@pytest.mark.attack(number=46)
@pytest.mark.parametrize("project", ["locale", "icons", "pixmaps"])
def test_a_shared_directory_is_nobodys_own(tmp_path: Path, project: str) -> None:
    entries = [link(f"./usr/share/{project}/de", "en"), Entry(f"./usr/share/{project}/en", b"x")]
    assert ("link", f"usr/share/{project}/de") in refused(judged(tmp_path, *entries, project=project))


@pytest.mark.attack(number=46)
def test_links_to_own_files_are_accepted(tmp_path: Path) -> None:
    compiled = "./usr/lib/x86_64-linux-gnu/python3-demo"
    entries = [
        link("./usr/bin/demo2", "demo"),
        link("./usr/bin/demo3", "demo2"),
        link("./usr/bin/demo4", "../lib/python3/dist-packages/demo/__init__.py"),
        Entry("./usr/share/man/man1/demo.1.gz", b"x"),
        link("./usr/share/man/man1/demo2.1.gz", "demo.1.gz"),
        link("./usr/share/man/de/man1/demo.1.gz", "../../man1/demo.1.gz"),
        link("./usr/share/doc/python3-demo/LICENSE", "./copyright"),
        Entry(f"{SHARE}/data/x", b"x"),
        link(f"{SHARE}/latest", "data/x"),
        link(f"{SHARE}/more/y", "../data/x"),
        Entry(f"{compiled}/libx.so.1.0", b"x"),
        link(f"{compiled}/libx.so.1", "libx.so.1.0"),
        link(f"{compiled}/libx.so", "libx.so.1"),
    ]
    report = judged(tmp_path, *entries, compiled=True, control=debs.CONTROL.replace(": all", ": amd64"))
    assert not [finding for finding in report.findings if finding.rule in ("link", "layout")]


@pytest.mark.attack(number=46)
def test_a_link_is_asked_for_by_its_own_name(tmp_path: Path) -> None:
    suite = debs.Suite(programs={"sudo": ["sudo"]}, imported={"yaml": ["python3-yaml"]}, made_from={"sudo": "sudo"})
    assert refused(judged(tmp_path, link("./usr/bin/sudo", "demo"), owners=project_owners(suite))) == {
        ("owned", "usr/bin/sudo")
    }
    report = judged(
        tmp_path,
        link(f"{SITE}/yaml", "demo"),
        rules=RuleSet.ANY,
        owners=suite_owners(suite),
        sources=suite.sources,
    )
    assert refused(report) == {("owned", "usr/lib/python3/dist-packages/yaml")}


def test_links_of_a_debian_source_package_lead_where_they_like(tmp_path: Path) -> None:
    entries = [
        link("./usr/lib/x86_64-linux-gnu/libdemo.so", "libdemo.so.1"),
        link("./usr/share/doc/demo", "python3-demo"),
        link("./usr/share/demo/fonts", "../fonts/truetype"),
    ]
    assert judged(tmp_path, *entries, rules=RuleSet.ANY).accepted


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    ("to", "below", "written"),
    [
        ("../../../etc", "cron.d/evil", "etc/cron.d/evil"),
        # The second release has a directory where the first had the file.
        (
            "../../lib/python3/dist-packages/google/x",
            "__init__.py",
            "usr/lib/python3/dist-packages/google/x/__init__.py",
        ),
        ("data/x", "evil", "usr/share/demo/data/x/evil"),
    ],
)
def test_dpkg_writes_through_links_so_accepted_ones_stay_in_the_package(
    tmp_path: Path, to: str, below: str, written: str
) -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("dpkg is not installed")
    target = f"./{written.removesuffix(below).rstrip('/')}"
    first = [link(f"{SHARE}/d", to), Entry(target, b"x") if target != "./etc" else Entry("./etc/demo/conf", b"x")]
    second = [Entry(f"{target}/", kind=b"5", mode=0o755), Entry(f"{SHARE}/d/{below}", b"x")]
    root = tmp_path / "root"
    (root / "var/lib/dpkg/info").mkdir(parents=True)
    (root / "var/lib/dpkg/updates").mkdir()
    (root / "var/lib/dpkg/status").touch()
    for version, tree in (("1.0", first), ("2.0", second)):
        package = tmp_path / f"{version}.deb"
        package.write_bytes(
            debs.deb(tree=tree, scripts={}, control=debs.CONTROL.replace("1.0", version).replace("python3:any", "a"))
        )
        command = [
            "dpkg",
            f"--root={root}",
            "--log=/dev/null",
            "--force-depends",
            "--force-not-root",
            "--force-bad-path",
        ]
        subprocess.run([*command, "--unpack", package], check=True, capture_output=True)
    assert (root / written).exists()
    assert judged(tmp_path, *first).accepted == written.startswith("usr/share/demo/")
