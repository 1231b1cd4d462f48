"""What apt prints becomes data, and nothing that is not a relation or a name reaches its command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcbuild.config.recipes import Recipe
from lxcbuild.debian.archive import apt, sources
from lxcbuild.debian.archive.sources import HostMirrors, SourceEntry
from lxcbuild.errors import BadNameError, CommandError

SHA = "ab" * 32


def recipe(**fields: object) -> Recipe:
    usual = {"distribution": "debian", "suite": "trixie", "version_suffix": "deb13", "directory": Path()}
    return Recipe(**{**usual, **fields})  # type: ignore[arg-type]


def test_printed_uris_become_packages_with_epochs_and_hashes() -> None:
    printed = (
        f"'http://m/pool/file/libmagic1_5.44-3_amd64.deb' libmagic1_1%3a5.44-3_amd64.deb 103752 SHA256:{SHA}\n"
        f"'http://m/pool/s/a_1%2bx_all.deb' a_1+x_all.deb 7 SHA256:{SHA}\n"
    )
    first, second = apt.parse_uris(printed)
    assert (first.name, first.version, first.architecture, first.size_bytes) == ("a", "1+x", "all", 7)
    assert (second.name, second.version, second.sha256) == ("libmagic1", "1:5.44-3", SHA)
    assert second.filename == "libmagic1_1%3a5.44-3_amd64.deb"


def test_a_package_without_sha256_is_refused() -> None:
    with pytest.raises(CommandError):
        apt.parse_uris("'http://m/a_1_all.deb' a_1_all.deb 7 MD5Sum:d617862548d914db9da74cf2b79f5e00\n")


@pytest.mark.parametrize(
    "relation",
    [
        "debhelper (>= 13)",
        "python3-setuptools (>= 61~) | python3-old, dh-python",
        "libfoo-dev:amd64 (<< 2:1.0-1+b1) [!i386] <!nocheck>",
        "python3:any",
        "debhelper-compat ( = 13 )",
        "libold (< 2) [ linux-any !hurd-i386 ] < !nocheck > <stage1>",
    ],
)
def test_relations_as_in_depends_are_taken(relation: str) -> None:
    assert apt.check_relations([relation, "  ", relation]) == (relation,)


@pytest.mark.parametrize(
    "relation",
    [
        "-o Dir::Etc=x",
        "--help",
        "Conflicts: libc6",
        "a; rm -rf /",
        "a$(id)",
        "a (>= 1",
        "A",
        "../x",
        "a\n-b",
        "./x.deb",
        "a/sid",
    ],
)
def test_what_is_no_relation_is_refused(relation: str) -> None:
    with pytest.raises(BadNameError):
        apt.check_relations([relation])


def test_policy_lists_candidates_only() -> None:
    printed = "six:\n  Installed: (none)\n  Candidate: 1.16.0-4\nvirtual:\n  Installed: (none)\n  Candidate: (none)\n"
    assert apt.parse_policy(printed) == {"six": "1.16.0-4"}


def test_stanzas_keep_continuation_lines() -> None:
    (stanza,) = apt.parse_stanzas("Package: six\nBuild-Depends: a,\n b (>= 1)\n")
    assert stanza["Build-Depends"] == "a,\nb (>= 1)"


# -- sources of the host --------------------------------------------------------------------------------------


def test_both_forms_of_sources_are_read() -> None:
    one_line = (
        "# deb http://no/ x main\n"
        "deb [arch=amd64 signed-by=/k] http://m/debian bookworm main contrib # note\n"
        "deb-src http://m s main\n"
    )
    assert sources.parse_one_line(one_line) == [SourceEntry("http://m/debian", "bookworm", ("main", "contrib"))]
    deb822 = (
        "Types: deb deb-src\n# a comment\nURIs: http://m/debian\nSuites: bookworm\n bookworm-updates\nComponents: main\n\n"
        "Types: deb\nURIs: http://off\nSuites: bookworm\nComponents: main\nEnabled: no\n\n"
        "Types: deb-src\nURIs: http://s\nSuites: x\n"
    )
    assert [(entry.uri, entry.suite) for entry in sources.parse_deb822(deb822)] == [
        ("http://m/debian", "bookworm"),
        ("http://m/debian", "bookworm-updates"),
    ]


def test_the_distribution_mirror_wins_over_third_parties() -> None:
    entries = [
        SourceEntry("http://third", "bookworm", ("main",)),
        SourceEntry("http://docker", "bookworm", ("stable",)),
        SourceEntry("http://m/debian", "bookworm", ("main",)),
        SourceEntry("http://m/debian", "bookworm-updates", ("main",)),
        SourceEntry("http://m/sec", "bookworm-security", ("main",)),
    ]
    found = sources.choose_mirrors(entries, distribution="debian", suite="bookworm")
    assert (found.main, found.security) == (("http://m/debian",), ("http://m/sec",))


def test_files_of_the_host_are_found_and_other_files_ignored(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    suite = sources.host_mirrors(tmp_path).suite
    (tmp_path / "sources.list.d" / "x.list").write_text(f"deb http://here {suite} main\n")
    (tmp_path / "sources.list.d" / "y.list.save").write_text(f"deb http://saved {suite} main\n")
    assert sources.host_mirrors(tmp_path).main == ("http://here",)


HOST = HostMirrors(distribution="debian", suite="bookworm", main=("http://m",), security=("http://s",))


def test_other_suites_of_the_distribution_come_from_the_hosts_mirror() -> None:
    made = recipe(updates=["trixie-updates"], security=["trixie-security"])
    assert sources.source_lines(made, HOST, keyring=Path("/k.gpg")) == (
        "deb [signed-by=/k.gpg] http://m trixie main",
        "deb [signed-by=/k.gpg] http://m trixie-updates main",
        "deb [signed-by=/k.gpg] http://s trixie-security main",
    )


def test_mirrors_of_the_recipe_win_and_other_distributions_have_none() -> None:
    assert sources.source_lines(recipe(mirrors=["http://mine"]), HOST, keyring=None) == ("deb http://mine trixie main",)
    assert sources.source_lines(recipe(distribution="ubuntu", suite="noble"), HOST, keyring=None) == ()


def test_only_network_options_are_inherited_from_the_host() -> None:
    dump = "\n".join(
        [
            'Acquire::http::Proxy "http://proxy:3142";',
            'Acquire::https::CaInfo "/etc/ca.pem";',
            'Acquire::Check-Valid-Until "false";',
            'Acquire::Languages:: "none";',
            'Acquire::GzipIndexes "true";',
            'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "true";',
            'Dir::Cache::pkgcache "";',
            'Dir::Etc::netrc "auth.conf";',
            'DPkg::Post-Invoke:: "rm -f /var/cache/apt/archives/*.deb || true";',
            'APT::Update::Post-Invoke:: "x";',
        ]
    )
    assert sources.filter_options(dump) == (
        'Acquire::http::Proxy "http://proxy:3142";',
        'Acquire::https::CaInfo "/etc/ca.pem";',
        'Acquire::Check-Valid-Until "false";',
        'Dir::Etc::netrc "/etc/apt/auth.conf";',
    )
