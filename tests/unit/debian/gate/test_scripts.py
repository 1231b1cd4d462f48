"""Attack 46: maintainer scripts of known blocks only, and names of files that those blocks can act on without obeying them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import gating
from tests.support.debs import Entry
from tests.support.gating import judged, rules

SITE = f"{gating.SITE}/demo"
HEAD = "#!/bin/sh\nset -e\n"
COMPILE = "if command -v py3compile >/dev/null 2>&1; then\n\tpy3compile -p python3-demo \nfi\n"
SED = "\tdpkg -L python3-demo | sed -En -e '/^(.*)\\/(.+)\\.py$/s,,rm \"\\1/__pycache__/\\2\".*,e'\n"
PERL = (
    "\tdpkg -L python3-demo | perl -ne 's,/([^/]*)\\.py$,/__pycache__/\\1.*, or next; unlink $_ or die $! "
    "foreach glob($_)'\n"
)
EMPTY = (
    "\tfind /usr/lib/python3/dist-packages/ -type d -name __pycache__ -empty -print0 "
    "| xargs --null --no-run-if-empty rmdir\n"
)
CLEAN = "if {there} py3clean >/dev/null 2>&1; then\n\tpy3clean -p python3-demo \nelse\n{removal}" + EMPTY + "fi\n"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("postinst", COMPILE),
        ("postinst", COMPILE.replace("command -v", "which").replace(" \n", " /usr/share/python3-demo -V 3.11-\n")),
        (
            "postinst",
            f"\n# Automatically added by dh_python3\n{COMPILE}\n{COMPILE}\n# End automatically added section\n",
        ),
        ("prerm", CLEAN.format(there="command -v", removal=SED)),
        ("prerm", CLEAN.format(there="which", removal=PERL)),
    ],
)
def test_the_blocks_of_every_release_are_accepted(tmp_path: Path, name: str, body: str) -> None:
    assert judged(tmp_path, scripts={name: HEAD + body}).findings == ()


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("postinst", SED),
        ("postinst", CLEAN.format(there="command -v", removal=SED)),
        ("prerm", SED),
        ("prerm", PERL),
        ("prerm", EMPTY),
        ("prerm", CLEAN.format(there="command -v", removal=SED + SED)),
        ("prerm", f"if command -v py3clean >/dev/null 2>&1; then\n{SED}{EMPTY}fi\n"),
        ("prerm", COMPILE),
        ("preinst", COMPILE),
        ("postrm", CLEAN.format(there="command -v", removal=SED)),
        ("postinst", COMPILE.removesuffix("fi\n")),
        ("postinst", COMPILE.replace("python3-demo", "python3-demo /usr/share/python3-demo/../../../etc")),
        ("postinst", "# another comment\n"),
        ("postinst", "exit 0\n" + COMPILE),
    ],
)
def test_lines_of_a_known_block_are_none_elsewhere(tmp_path: Path, name: str, body: str) -> None:
    assert rules(judged(tmp_path, scripts={name: HEAD + body})) == {"script"}


@pytest.mark.attack(number=46)
@pytest.mark.parametrize(
    "name",
    [
        *("$(id).py", "`id`.py", 'a"b.py', "a\\b.py", "$(id)/b.py", "a b.py", "{a,b}.py", "a*.py", "a?.py", "[a].py"),
        *("(a).py", "~a.py", "a#.py", "a!.py", "a;b.py", "a\u202eb.py", "a b/c.py"),
        *(
            "{{ a }}/b.py",
            "a'b.py",
            "a&b.py",
            "a^b.py",
            "`id`",
            'a"b',
            "a\\b",
            "a;b",
            "a|b",
            "a<b",
            "a>b",
            "a*b",
            "a?b",
        ),
        *("a\u2028b", "a\u00a0b", "a\u200fb"),
    ],
)
def test_names_that_a_shell_or_a_pattern_obeys_are_refused(tmp_path: Path, name: str) -> None:
    assert rules(judged(tmp_path, Entry(f"{SITE}/{name}", b"x"))) == {"name"}


@pytest.mark.attack(number=46)
def test_a_directorys_name_is_acted_on_as_well(tmp_path: Path) -> None:
    assert rules(judged(tmp_path, Entry(f"{SITE}/a (b).py", kind=b"5", mode=0o755))) == {"name"}


@pytest.mark.parametrize(
    "name",
    [
        *("script (dev).tmpl", "launcher manifest.xml", "Lorem ipsum.txt", "page-[id]-1.js", "lt~obsolete.m4"),
        *("QEMU,tcx.bin", "Net::SMTP", "sr@latin", "F\u0151tan\u00fas\u00edtv\u00e1ny_=x.crt", "50%.txt", "c#.txt"),
        *("{{ name }}.toml", "$id.js", "it's.txt", "a&b.svg"),
        *("na\u00efve.py", "a+b.py", "a-b.py", "a,b=c.py", "@x/y.py", "__main__.py"),
    ],
)
def test_names_that_occur_are_accepted(tmp_path: Path, name: str) -> None:
    assert judged(tmp_path, Entry(f"{SITE}/{name}", b"x")).findings == ()
