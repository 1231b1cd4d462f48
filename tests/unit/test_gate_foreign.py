"""Attack 46 for Debian source packages: names and files of packages that the suite makes from other sources."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import debs
import pytest
from debs import Entry

from lxcbuild.debian.gate import GateReport, GateRequest, RuleSet, check
from lxcbuild.debian.ownership import suite_owners

SITE = "./usr/lib/python3/dist-packages"
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


def judged(tmp_path: Path, *entries: Entry, control: str = debs.CONTROL, **request: object) -> GateReport:
    files = debs.build(tmp_path, debs.deb(tree=[*debs.TREE, *entries], control=control))
    return check(dataclasses.replace(REQUEST, **request), files)  # type: ignore[arg-type]


def rules(report: GateReport) -> set[str]:
    return {finding.rule for finding in report.findings if finding.fatal}


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
def test_46_a_source_package_brings_no_files_of_others_and_nothing_that_runs_by_itself(
    tmp_path: Path, entry: Entry, rule: str
) -> None:
    assert rule in rules(judged(tmp_path, entry))


def test_46_what_the_suite_makes_of_the_same_source_may_be_built_again(tmp_path: Path) -> None:
    entries = [
        Entry("./etc/cron.daily/demo", b"x", mode=0o755),
        Entry("./etc/pam.d/demo", b"x"),
        Entry(f"{SITE}/demo.pth", b"import os\n"),
    ]
    assert judged(tmp_path, *entries).findings == ()
    # Without an index nobody can say whose they are.
    assert rules(judged(tmp_path, *entries, owners=None, sources=None)) == {"layout", "startup"}


def test_46_an_owner_counts_by_the_source_that_the_suite_makes_it_from_not_by_its_name(tmp_path: Path) -> None:
    entry = Entry("./usr/bin/demo", b"x", mode=0o755)
    suite = debs.Suite(programs={"demo": ("python3-demo",)}, made_from={"python3-demo": "unrelated"})
    report = judged(tmp_path, entry, owners=suite_owners(suite), sources=suite.sources)
    assert {"name", "owned"} <= rules(report)
    same = dataclasses.replace(suite, made_from={"python3-demo": "python-demo"})
    assert "owned" not in rules(judged(tmp_path, entry, owners=suite_owners(same), sources=same.sources))


@pytest.mark.parametrize(
    "field", ["Essential: Yes", "essential: YES", "Protected: yes", "Important: yEs", "Essential: x"]
)
def test_46_no_package_makes_itself_indispensable(tmp_path: Path, field: str) -> None:
    control = debs.CONTROL.replace("Description:", f"{field}\nDescription:")
    assert rules(judged(tmp_path, control=control)) == {"field"}
    assert judged(tmp_path, control=control.replace(field, "Essential: no")).accepted


@pytest.mark.parametrize(
    "name", ["Revision", "package-revision", "Recommended", "Optional", "CLASS", "Status", "Conffiles"]
)
def test_46_obsolete_fields_change_nothing_that_the_gate_saw(tmp_path: Path, name: str) -> None:
    control = debs.CONTROL.replace("Description:", f"{name}: 99\nDescription:")
    assert rules(judged(tmp_path, control=control)) == {"field"}
    ordinary = "Multi-Arch: foreign\nBreaks: x (<< 1)\nXb-Something: y\n"
    assert judged(tmp_path, control=debs.CONTROL.replace("Description:", f"{ordinary}Description:")).accepted
