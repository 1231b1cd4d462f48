"""Where the package's rules put files that data_files name by other places; the recipe is run by make itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lxcbuild.debian.source.conversion import debian_files
from tests.support import debs
from tests.support.debs import Entry
from tests.support.gating import judge, rules
from tests.unit.debian.source.test_conversion import inspection, plan

SITE = "usr/lib/python3/dist-packages"
METADATA = f"{SITE}/demo-1.0.dist-info/METADATA"


def placed(tmp_path: Path, *names: str) -> set[str]:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    wanted = plan()
    root = tmp_path / "debian" / wanted.package
    for name in (METADATA, *names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x\n")
    (tmp_path / "debian/rules").write_text(debian_files(inspection(), wanted)["rules"])
    done = subprocess.run(
        ["make", "-f", "debian/rules", "execute_before_dh_python3"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not any(path.is_dir() and not any(path.iterdir()) for path in root.rglob("*"))
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {METADATA}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("usr/etc/jupyter/jupyter_server_config.d/demo.json", "etc/jupyter/jupyter_server_config.d/demo.json"),
        ("usr/etc/demo/demo.conf", "etc/demo/demo.conf"),
        ("usr/etc/bash_completion.d/demo", "usr/share/bash-completion/completions/demo"),
        ("usr/share/jupyter/kernels/demo/kernel.json", "usr/share/jupyter/kernels/demo/kernel.json"),
        ("usr/man/man1/demo.1", "usr/share/man/man1/demo.1"),
        ("usr/local/share/man/man1/demo.1", "usr/share/man/man1/demo.1"),
        ("usr/local/man/man1/demo.1", "usr/share/man/man1/demo.1"),
        ("usr/local/etc/demo/demo.conf", "etc/demo/demo.conf"),
        ("usr/local/bin/demo", "usr/bin/demo"),
        (f"{SITE}/usr/share/man/man1/demo.1", "usr/share/man/man1/demo.1"),
        (f"{SITE}/usr/local/share/demo/x y", "usr/share/demo/x y"),
        (f"{SITE}/etc/cron.d/demo", "etc/cron.d/demo"),
        (f"{SITE}/etc/__init__.py", f"{SITE}/etc/__init__.py"),
        (f"{SITE}/demo/etc/x", f"{SITE}/demo/etc/x"),
        ("usr/local/lib/x", "usr/local/lib/x"),
    ],
)
def test_files_go_where_policy_wants_them(tmp_path: Path, name: str, place: str) -> None:
    assert placed(tmp_path, name) == {place}


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    found = placed(tmp_path, "usr/share/man/man1/a.1", "usr/man/man1/b.1", "usr/local/share/man/man1/c.1")
    assert found == {f"usr/share/man/man1/{name}.1" for name in "abc"}


@pytest.mark.parametrize(
    "name",
    [
        "etc/demo/demo.conf",
        "etc/jupyter/jupyter_server_config.d/demo.json",
        "etc/jupyter/nbconfig/notebook.d/demo.json",
    ],
)
def test_configuration_of_ones_own_is_accepted(tmp_path: Path, name: str) -> None:
    above = [Entry(f"./{parent}", kind=b"5", mode=0o755) for parent in reversed(Path(name).parents[:-1])]
    package = debs.deb(tree=[*debs.TREE, *above, Entry(f"./{name}", b"{}")], scripts={"conffiles": f"/{name}\n"})
    assert judge(tmp_path, package).accepted, judge(tmp_path, package).summary()


def test_completions_come_with_their_directories(tmp_path: Path) -> None:
    above = [
        Entry(f"./usr/share/{name}", kind=b"5", mode=0o755)
        for name in ("bash-completion", "bash-completion/completions", "zsh", "zsh/site-functions")
    ]
    files = [
        Entry("./usr/share/bash-completion/completions/demo", b""),
        Entry("./usr/share/zsh/site-functions/_demo", b"#compdef demo\n"),
    ]
    assert judge(tmp_path, debs.deb(tree=[*debs.TREE, *above, *files])).accepted


@pytest.mark.parametrize(
    ("project", "name"),
    [
        ("Demo", "etc/demo.conf"),
        ("Demo", "etc/jupyter/jupyter_server_config.py"),
        ("Demo", "etc/other/x"),
        ("cron.d", "etc/cron.d/x"),
        ("profile.d", "etc/profile.d/x.sh"),
        ("security", "etc/security/limits.conf"),
        ("jupyter", "etc/jupyter/jupyter_config.py"),
        ("ssh", "etc/ssh/sshd_config"),
    ],
)
def test_configuration_of_the_system_is_not(tmp_path: Path, project: str, name: str) -> None:
    package = debs.deb(tree=[*debs.TREE, Entry(f"./{name}", b"x")])
    assert "layout" in rules(judge(tmp_path, package, project=project))


@pytest.mark.parametrize(
    "line", ["/etc/passwd", "remove-on-upgrade /etc/demo/x", "/usr/bin/demo", "/etc/demo/", "etc/demo/x"]
)
def test_conffiles_are_files_of_the_package_below_etc(tmp_path: Path, line: str) -> None:
    package = debs.deb(tree=[*debs.TREE, Entry("./etc/demo/x", b"x")], scripts={"conffiles": f"{line}\n"})
    assert rules(judge(tmp_path, package)) == {"control-file"}
