"""Attack 46: names and files of packages that the suite makes from other sources, or that others run."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import msgspec.structs
import pytest

from lxcbuild.debian.gate.gate import GateReport, GateRequest, RuleSet, check
from lxcbuild.debian.gate.ownership import project_owners, suite_owners
from tests.support import debs, gating
from tests.support.debs import Entry
from tests.support.gating import SITE, rules

SUITE = debs.Suite(
    programs={"sudo": ("sudo", "sudo-ldap"), "crontab": ("cron",)},
    imported={"apport_python_hook": ("python3-apport",)},
    listed={
        "etc/cron.d/anacron": ("anacron",),
        "etc/cron.daily/demo": ("demo-common",),
        "etc/pam.d/demo": ("demo-common",),
        "etc/demo.conf": ("other",),
        "usr/lib/python3/dist-packages/demo.pth": ("demo-common",),
    },
    made_from={"sudo": "sudo", "sudo-ldap": "sudo", "cron": "cron", "demo-common": "python-demo", "other": "other"},
)
REQUEST = GateRequest(
    rules=RuleSet.ANY,
    source="python-demo",
    version="1.0-0~lxcbuild1~deb12",
    suite="bookworm",
    architecture="amd64",
    owners=suite_owners(SUITE),
    sources=SUITE.sources,
)
judged = functools.partial(gating.judged, base=REQUEST)


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (Entry("./usr/bin/sudo", b"x", mode=0o755), "owned"),
        (Entry("./etc/demo.conf", b"x"), "owned"),
        (Entry("./etc/cron.d/anacron", b"x"), "owned"),
        (Entry("./etc/cron.d/demo", b"x"), "layout"),
        (Entry("./etc/cron.hourly/demo", b"x"), "layout"),
        (Entry("./etc/ld.so.conf.d/0demo.conf", b"/tmp"), "layout"),
        (Entry("./etc/pam.d/sudo-i", b"x"), "layout"),
        (Entry("./etc/profile.d/demo.sh", b"x"), "layout"),
        (Entry("./usr/share/polkit-1/rules.d/demo.rules", b"x"), "layout"),
        (Entry(f"{SITE}/usercustomize.py", b"x"), "startup"),
        (Entry(f"{SITE}/apport_python_hook.py", b"x"), "startup"),
        (Entry(f"{SITE}/other.pth", b"import os\n"), "startup"),
    ],
)
def test_a_source_package_brings_no_foreign_files_and_no_startup_code(tmp_path: Path, entry: Entry, rule: str) -> None:
    assert rule in rules(judged(tmp_path, entry))


@pytest.mark.attack(number=46)
def test_what_the_suite_makes_of_the_same_source_may_be_built_again(tmp_path: Path) -> None:
    entries = [
        Entry("./etc/cron.daily/demo", b"x", mode=0o755),
        Entry("./etc/pam.d/demo", b"x"),
        Entry(f"{SITE}/demo.pth", b"import os\n"),
    ]
    assert judged(tmp_path, *entries).findings == ()
    # Without an index nobody can say whose they are.
    assert rules(judged(tmp_path, *entries, owners=None, sources=None)) == {"layout", "startup"}


@pytest.mark.attack(number=46)
def test_an_owner_is_judged_by_its_source_package_not_by_its_name(tmp_path: Path) -> None:
    suite = debs.Suite(programs={"demo": ("python3-demo",)}, made_from={"python3-demo": "unrelated"})
    report = judged(tmp_path, owners=suite_owners(suite), sources=suite.sources)
    assert {"name", "owned"} <= rules(report)
    same = dataclasses.replace(suite, made_from={"python3-demo": "python-demo"})
    assert "owned" not in rules(judged(tmp_path, owners=suite_owners(same), sources=same.sources))


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "field", ["Essential: Yes", "essential: YES", "Protected: yes", "Important: yEs", "Essential: x"]
)
def test_no_package_makes_itself_indispensable(tmp_path: Path, field: str) -> None:
    control = debs.CONTROL.replace("Description:", f"{field}\nDescription:")
    assert rules(judged(tmp_path, control=control)) == {"field"}
    assert judged(tmp_path, control=control.replace(field, "Essential: no")).accepted


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "name", ["Revision", "package-revision", "Recommended", "Optional", "CLASS", "Status", "Conffiles"]
)
def test_obsolete_fields_change_nothing_that_the_gate_saw(tmp_path: Path, name: str) -> None:
    control = debs.CONTROL.replace("Description:", f"{name}: 99\nDescription:")
    assert rules(judged(tmp_path, control=control)) == {"field"}
    ordinary = "Multi-Arch: foreign\nBreaks: x (<< 1)\nXb-Something: y\n"
    assert judged(tmp_path, control=debs.CONTROL.replace("Description:", f"{ordinary}Description:")).accepted


# -- packages of Python projects

PROJECT = msgspec.structs.replace(
    REQUEST,
    rules=RuleSet.PYTHON,
    package="python3-demo",
    project="Demo",
    project_version="1.0",
    sources=None,
    owners=project_owners(
        debs.Suite(
            programs={"cat": ("coreutils",)},
            listed={"usr/share/applications/firefox-esr.desktop": ("firefox-esr",)},
            translated={"sudo": ("sudo",), "demo": ("python3-demo",)},
            packages={"apt": ("python3-apt",), "zope/interface": ("python3-zope.interface",), "mpl_toolkits": ("x",)},
        )
    ),
)


def judged_project(tmp_path: Path, *entries: Entry, **request: object) -> GateReport:
    files = debs.build(tmp_path, debs.deb(tree=[*debs.TREE, *entries]))
    return check(msgspec.structs.replace(PROJECT, **request), files)  # type: ignore[arg-type]


COMPLETIONS = "./usr/share/bash-completion/completions"


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "name",
    [
        *(
            f"{COMPLETIONS}/{name}"
            for name in ("_cat", "cat", "cat.bash", "editor", "cd", "source", "_EmptycmD_", "vi-x")
        ),
        *(f"./usr/share/zsh/vendor-completions/{name}" for name in ("compinit", "_cat", "_cd", "add-zsh-hook")),
        "./usr/share/zsh/site-functions/_git",
        "./usr/share/fish/vendor_completions.d/ll.fish",
    ],
)
def test_completions_are_for_the_packages_own_commands(tmp_path: Path, name: str) -> None:
    assert "command" in rules(judged_project(tmp_path, Entry(name, b"x")))


@pytest.mark.attack(number=46)
def test_completions_of_own_commands_are_accepted_however_they_are_called(tmp_path: Path) -> None:
    names = [
        f"{COMPLETIONS}/{name}"
        for name in ("demo", "_demo", "demo.bash", "demo-completion.bash", "demo.bash-completion")
    ]
    names += ["./usr/share/fish/vendor_completions.d/demo.fish"]
    assert judged_project(tmp_path, *(Entry(name, b"x") for name in names)).findings == ()


ZSH = "./usr/share/zsh/vendor-completions/_demo"


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "entry",
    [
        *(
            Entry(ZSH, text)
            for text in (
                b"#compdef demo git sudo ssh apt\n",
                b"#compdef -P *\n",
                b"#compdef -p d* demo\n",
                b"#compdef -k complete-word ^X^D\n",
                b"#compdef demo -P *\n",
                b"#compdef -default-\n",
                b"#compdef demo=git git=demo\n",
                b"#compdef demo\rgit\n",
                b"#compdef\n",
                b"#autoload\n",
                b"#compdef\tgit",
                b" #compdef demo\n",
                b"",
                b"#compdef demo\n" + b"#" * 65_536,
            )
        ),
        Entry("./usr/share/zsh/site-functions/_demo", b"#compdef git\n"),
        Entry(f"{ZSH}-git", b"#compdef demo\n"),
        Entry(f"{ZSH}.zwc", b"#compdef demo\n"),
        Entry(ZSH, kind=b"2", link="../../../bin/demo", mode=0o777),
        Entry(ZSH, kind=b"1", link="./usr/bin/demo", mode=0o755),
    ],
)
def test_completions_of_zsh_are_for_what_their_first_line_says(tmp_path: Path, entry: Entry) -> None:
    assert "command" in rules(judged_project(tmp_path, entry))


@pytest.mark.attack(number=46)
def test_functions_of_zshs_own_are_nobodys_completions(tmp_path: Path) -> None:
    entries = (
        Entry("./usr/bin/path_files", b"x", mode=0o755),
        Entry(f"{ZSH[:-5]}_path_files", b"#compdef path_files\n"),
    )
    assert rules(judged_project(tmp_path, *entries)) == {"command"}


@pytest.mark.attack(number=46)
def test_completions_of_zsh_for_own_commands_are_accepted(tmp_path: Path) -> None:
    entries = (Entry(ZSH, b"#compdef  demo demo-more \n_demo() {}\n"), Entry("./usr/bin/demo-more", b"x", mode=0o755))
    assert judged_project(tmp_path, *entries).findings == ()
    file = Entry("./usr/share/zsh/site-functions/_demo", b"#compdef demo")
    assert judged_project(tmp_path, file).findings == ()


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "entry",
    [
        Entry(f"{SITE}/apt/cache/__init__.py", b"x"),
        Entry(f"{SITE}/apt/deep/er/data.json", b"x"),
        Entry(f"{SITE}/apt/cache.py", kind=b"1", link="./usr/lib/python3/dist-packages/demo/__init__.py"),
        Entry("./usr/lib/python3.11/dist-packages/apt/x.py", b"x"),
        Entry(f"{SITE}/zope/interface/x.py", b"x"),
        Entry("./usr/share/locale/en_US/LC_MESSAGES/sudo.mo", b"x"),
        Entry("./usr/share/applications/firefox-esr.desktop", b"x"),
    ],
)
def test_what_others_have_for_themselves_gets_nothing_added(tmp_path: Path, entry: Entry) -> None:
    assert rules(judged_project(tmp_path, entry)) == {"owned"}


@pytest.mark.attack(number=46)
def test_a_project_named_like_foreign_headers_brings_none_of_them(tmp_path: Path) -> None:
    def judge(directory: str, header: str, **included: tuple[str, ...]) -> set[str]:
        owners = project_owners(debs.Suite(included={"demo.sys/types.h": included["owners"]}))
        entry = Entry(f"./usr/include/{directory}/{header}", b"x")
        report = judged_project(tmp_path, entry, project="demo-sys", owners=owners)
        return rules(report) - {"project"}

    assert judge("python3.11", "demo.sys/types.h", owners=("libc6-dev",)) == {"owned"}
    assert judge("python3.11", "demo.sys/own.h", owners=("libc6-dev",)) == set()
    assert judge("python3", "Demo_Sys/types.h", owners=()) == set()


@pytest.mark.attack(number=46)
@pytest.mark.parametrize("place", ["etc/NetworkManager", "usr/share/dkms"])
def test_a_project_gets_no_directory_that_another_package_has(tmp_path: Path, place: str) -> None:
    project = place.rpartition("/")[2]
    tree = [
        dataclasses.replace(e, name=e.name.replace("demo-1.0.dist-info", f"{project}-1.0.dist-info")) for e in debs.TREE
    ]
    files = debs.build(tmp_path, debs.deb(tree=[*tree, Entry(f"./{place}/dispatcher.d/x", b"x")]))

    def judge(**below: tuple[str, ...]) -> set[str]:
        owners = project_owners(debs.Suite(below={place: below["owners"]}))
        return rules(check(msgspec.structs.replace(PROJECT, project=project, owners=owners), files))

    assert judge(owners=("network-manager", "dkms")) == {"owned"}
    assert judge(owners=("python3-demo", "dkms")) == judge(owners=()) == set()


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "name",
    [
        "open",
        "mail",
        "locate",
        "updatedb",
        "emacs",
        "automake",
        "keytool",
        "mpirun",
        "irb",
        "python3.12",
        "python2.7-dbg",
    ],
)
def test_links_of_alternatives_are_nobodys_to_bring(tmp_path: Path, name: str) -> None:
    assert rules(judged_project(tmp_path, Entry(f"./usr/bin/{name}", b"x", mode=0o755))) == {"command"}


@pytest.mark.attack(number=46)
def test_namespaces_and_what_is_called_after_the_project_stay_open(tmp_path: Path) -> None:
    entries = [
        Entry(f"{SITE}/zope/demo/__init__.py", b"x"),
        Entry(f"{SITE}/mpl_toolkits/demo/__init__.py", b"x"),
        Entry("./usr/share/locale/de/LC_MESSAGES/demo.mo", b"x"),
        Entry("./usr/share/demo/data.json", b"x"),
        Entry("./etc/demo/settings.ini", b"x"),
        Entry("./etc/jupyter/jupyter_server_config.d/demo.json", b"{}"),
    ]
    assert judged_project(tmp_path, *entries).findings == ()
