"""Rust crates: manifests are read and rewritten without cargo, requirements mean what cargo means, packages are Debian's."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from lxcbuild.config.cargo import load_cargo_settings
from lxcbuild.debian.documents import Reader
from lxcbuild.debian.inside.crates.cargo_cfg import applies
from lxcbuild.debian.inside.crates.crates_patch import crates_patch, rewritten
from lxcbuild.debian.inside.crates.rust_project import read_rust
from lxcbuild.debian.source import cratejobs
from lxcbuild.debian.source.crates import (
    Crates,
    Dependency,
    choose_toolchain,
    lowered,
    match_suite,
    package_names,
    parse_crates,
    satisfies,
    wanted_from_registry,
)
from lxcbuild.errors import ConfigError

MANIFEST = """\
[package]
name = "demo"
version = "1.0.0"
edition = "2021"
rust-version = "1.74"

[dependencies]
serde = "1.0.228"  # derive
old = { package = "pyo3", version = "0.22.6", features = [
    "extension-module",
] }
sibling = { path = "crates/sibling" }
anywhere = { git = "https://example.invalid/x" }

[dependencies.regex]
version = "1.11"
optional = true

[dev-dependencies]
criterion = { version = "0.5", features = ["html_reports"] }

[dev-dependencies.proptest]
version = "1"

[target.'cfg(windows)'.dependencies]
winapi = "0.3"

[target.'cfg(all(unix, not(target_os = "macos")))'.build-dependencies]
cc = "1.2"

[profile.release]
lto = true
"""
SIBLING = '[package]\nname = "sibling"\nversion = "0.1.0"\n\n[dependencies]\nlibc = "0.2"\n'


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_toml", ".toml").replace("_lock", ".lock").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def read(root: Path) -> Crates | None:
    seen = read_rust(root)
    return parse_crates(None if seen is None else Reader(json.loads(json.dumps(seen))))


def maturin(root: Path, **files: str) -> Crates:
    backend = '[build-system]\nrequires = ["maturin"]\nbuild-backend = "maturin"\n'
    found = read(tree(root, pyproject_toml=backend, Cargo_toml=MANIFEST, crates__sibling__Cargo_toml=SIBLING, **files))
    assert found is not None
    return found


def test_manifests_and_lock_file_are_read(tmp_path: Path) -> None:
    lock = (
        f'version = 4\n[[package]]\nname = "demo"\nversion = "1.0.0"\n'
        f'[[package]]\nname = "serde"\nversion = "1.0.228"\nsource = "registry+x"\nchecksum = "{"a" * 64}"\n'
        f'[[package]]\nname = "../x"\nversion = "1.0.0"\nsource = "registry+x"\nchecksum = "{"a" * 64}"\n'
        f'[[package]]\nname = "forged"\nversion = "1.0.0"\nsource = "registry+x"\nchecksum = "short"\n'
    )
    found = maturin(tmp_path, Cargo_lock=lock)
    assert found.manifests == ("Cargo.toml", "crates/sibling/Cargo.toml")
    assert (found.roots, found.lock_path) == (("Cargo.toml",), "Cargo.lock")
    assert [(item.name, item.checksum) for item in found.locked] == [("forged", None), ("serde", "a" * 64)]
    assert found.needed_rust == (1, 74)
    assert not found.optional
    names = [(item.name, item.requirement, item.place) for item in wanted_from_registry(found, "amd64")]
    assert names == [
        ("serde", "1.0.228", "registry"), ("pyo3", "0.22.6", "registry"), ("anywhere", "*", "git"), ("regex", "1.11", "registry"),
        ("cc", "1.2", "registry"), ("libc", "0.2", "registry"),
    ]  # fmt: skip


def test_the_lock_file_of_a_workspace_lies_beside_its_manifest(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": '[build-system]\nbuild-backend = "maturin"\n[tool.maturin]\nmanifest-path = "crates/py/Cargo.toml"\n',
        "Cargo.toml": '[workspace]\nmembers = ["crates/*"]\nexclude = ["crates/fuzz"]\n'
        '[workspace.package]\nrust-version = "1.88"\nedition = "2024"\n[workspace.dependencies]\npyo3 = { version = "0.22.1" }\n',
        "crates/py/Cargo.toml": '[package]\nname = "py"\nedition.workspace = true\nrust-version = { workspace = true }\n'
        '[dependencies]\npyo3 = { workspace = true, features = ["abi3"] }\n',
        "crates/fuzz/Cargo.toml": SIBLING,
        "Cargo.lock": "version = 4\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = read(tmp_path)
    assert found is not None
    assert found.manifests == ("Cargo.toml", "crates/py/Cargo.toml")
    assert (found.roots, found.lock_path, found.needed_rust) == (("crates/py/Cargo.toml",), "Cargo.lock", (1, 88))
    (pyo3,) = found.dependencies
    assert (pyo3.requirement, pyo3.features) == ("0.22.1", ("abi3",))
    changed = rewritten(files["Cargo.toml"], {"pyo3": {"0.22.1": "0.22"}}, "x86_64")
    assert changed is not None
    assert 'pyo3 = { version = "0.22" }' in changed


def test_archived_crates_are_found_through_the_projects_own_configuration(tmp_path: Path) -> None:
    config = '[source.crates-io]\nreplace-with = "mine"\n[source.mine]\ndirectory = "third/party"\n'
    assert maturin(tmp_path, **{".cargo__config_toml": config}).vendored is None, "nothing is there"
    tree(tmp_path, **{"third__party__serde-1.0.228__Cargo_toml": ""})
    assert maturin(tmp_path, **{".cargo__config_toml": config}).vendored == "third/party"
    outside = config.replace("third/party", "../..")
    assert maturin(tmp_path, **{".cargo__config_toml": outside}).vendored is None


def test_setup_py_says_where_and_whether_rust_is_needed(tmp_path: Path) -> None:
    setup = (
        'from setuptools_rust import RustExtension\nsetup(rust_extensions=[RustExtension("a", "rust/Cargo.toml"{})])\n'
    )
    root = tree(tmp_path, rust__Cargo_toml=SIBLING, setup_py=setup.format(", optional=True"))
    found = read(root)
    assert found is not None
    assert (found.manifests, found.optional) == (("rust/Cargo.toml",), True)
    found = read(tree(tmp_path, setup_py=setup.format("")))
    assert found is not None
    assert not found.optional


@pytest.mark.parametrize("outside", ["../../etc/Cargo.toml", "/etc/passwd", "link/Cargo.toml"])
def test_nothing_outside_of_the_tree_is_read(tmp_path: Path, outside: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "Cargo.toml").write_text(SIBLING)
    root = tree(tmp_path / "tree", setup_py=f'RustExtension("a", path="{outside}")\n')
    (root / "link").symlink_to("../secret")
    assert read(root) is None


@pytest.mark.parametrize(
    ("requirement", "version", "holds"),
    [
        ("1.2.3", (1, 9, 0), True), ("1.2.3", (1, 2, 2), False), ("1.2.3", (2, 0, 0), False), ("0.2.3", (0, 2, 9), True),
        ("0.2.3", (0, 3, 0), False), ("0.0.3", (0, 0, 4), False), ("0", (0, 9, 0), True), ("0.0", (0, 0, 9), True),
        ("~1.2", (1, 2, 9), True), ("~1.2", (1, 3, 0), False), ("=1.2.3", (1, 2, 4), False), ("1.*", (1, 7, 0), True),
        (">=0.20, <0.23", (0, 22, 6), True), (">=0.20, <0.23", (0, 23, 0), False), ("*", (7, 0, 0), True),
        (">1.2", (1, 2, 9), False), ("<=1.2", (1, 2, 9), True), ("nonsense", (1, 0, 0), False),
    ],
)  # fmt: skip
def test_requirements_mean_what_cargo_means(requirement: str, version: tuple[int, int, int], holds: bool) -> None:
    assert satisfies(requirement, version) is holds


@pytest.mark.parametrize(
    ("requirement", "version", "instead"),
    [
        ("1.0.228", (1, 0, 219), "1"), ("0.22.9", (0, 22, 6), "0.22"), ("=1.4.2", (1, 6, 0), "1"), ("0.26", (0, 22, 6), None),
        ("2", (1, 9, 0), None), ("0.0.4", (0, 0, 3), None), (">=0.23, <0.25", (0, 22, 6), None),
    ],
)  # fmt: skip
def test_requirements_are_lowered_within_semantic_versioning_only(
    requirement: str, version: tuple[int, int, int], instead: str | None
) -> None:
    assert lowered(requirement, version) == instead


def test_debians_packages_are_matched_by_branch_and_version() -> None:
    def wanted(name: str, requirement: str, *features: str) -> Dependency:
        return Dependency(
            name=name,
            requirement=requirement,
            kind="normal",
            target="",
            optional=False,
            features=features,
            place="registry",
        )

    asked = [
        wanted("syn", "1.0", "full"),
        wanted("serde_json", "1.0.145"),
        wanted("pyo3", "0.26"),
        wanted("nowhere", "1"),
    ]
    candidates = {
        "librust-syn-dev": "2.0.96-1",
        "librust-syn-1-dev": "1.0.109-3",
        "librust-syn-1+full-dev": "1.0.109-3",
        "librust-serde-json-dev": "1.0.139-1",
        "librust-pyo3-dev": "0.22.6-3",
    }
    assert set(candidates) <= set(package_names(asked))
    match = match_suite(asked, candidates)
    assert match.relations == ("librust-syn-1-dev", "librust-syn-1+full-dev", "librust-serde-json-dev")
    assert match.relaxed == {"serde_json": {"1.0.145": "1"}}
    assert [str(item) for item in match.missing] == ["pyo3 0.26 (the suite has 0.22.6)", "nowhere 1 (no package)"]


def test_the_newest_rust_of_the_suite_is_chosen_or_its_own_for_its_crates() -> None:
    both = {"rustc": "1.63.0+dfsg1-2", "cargo": "0.66.0+ds1-1", "rustc-web": "1.96.0-1", "cargo-web": "1.96.0-1"}
    assert choose_toolchain(both) == (("rustc-web", "cargo-web"), (1, 96))
    assert choose_toolchain(both, enough=(1, 60)) == (("rustc", "cargo"), (1, 63))
    assert choose_toolchain(both, enough=(1, 74)) == (("rustc-web", "cargo-web"), (1, 96))
    assert choose_toolchain(both, enough=(1, 99)) == (("rustc-web", "cargo-web"), (1, 96))
    assert choose_toolchain({"rustc": "1.63.0+dfsg1-2", "cargo": "0.66.0+ds1-1"}) == (("rustc", "cargo"), (1, 63))
    assert choose_toolchain({"rustc-web": "1.96.0-1"}) is None


@pytest.mark.parametrize(
    ("target", "holds"),
    [
        ("cfg(unix)", True), ("cfg(windows)", False), ('cfg(target_os = "macos")', False), ("cfg(not(windows))", True),
        ('cfg(any(windows, target_arch = "x86_64"))', True), ('cfg(all(unix, target_arch = "wasm32"))', False),
        ("x86_64-unknown-linux-gnu", True), ("x86_64-pc-windows-msvc", False), ("cfg(something_else)", True),
        ("cfg(not(something_else))", True), ("cfg(((", True), ("cfg(all(", True), ("cfg(" + "not(" * 50, True),
    ],
)  # fmt: skip
def test_tables_for_other_systems_are_known(target: str, holds: bool) -> None:
    assert applies(target, "x86_64") is holds


def test_a_manifest_is_rewritten_to_exactly_what_is_wanted(tmp_path: Path) -> None:
    relaxed = {"serde": {"1.0.228": "1"}, "pyo3": {"0.22.6": "0.22"}, "regex": {"1.11": "1"}, "cc": {"9": "1"}}
    root = tree(tmp_path, Cargo_toml=MANIFEST)
    patch, refused = crates_patch(root, ["Cargo.toml"], relaxed, "x86_64")
    assert refused == []
    document = tomllib.loads((root / "Cargo.toml").read_text())
    assert document["dependencies"]["serde"] == "1"
    assert document["dependencies"]["old"] == {"package": "pyo3", "version": "0.22", "features": ["extension-module"]}
    assert document["dependencies"]["regex"] == {"version": "1", "optional": True}
    assert "dev-dependencies" not in document
    assert list(document["target"]) == ['cfg(all(unix, not(target_os = "macos")))']
    assert document["profile"] == {"release": {"lto": True}}
    assert patch is not None
    assert '\n-serde = "1.0.228"  # derive\n' in patch
    assert '\n+serde = "1"  # derive\n' in patch
    assert crates_patch(root, ["Cargo.toml"], relaxed, "x86_64") == (None, [])


def test_what_cannot_be_rewritten_line_by_line_is_left_alone() -> None:
    assert rewritten('dev-dependencies = { x = "1" }\n', {}, "x86_64") is None
    assert rewritten("[dependencies\n", {}, "x86_64") is None
    tricky = '[package]\ndescription = """\n[dev-dependencies]\nx = 1\n"""\n\n[dependencies]\n'
    assert rewritten(tricky, {}, "x86_64") == tricky


def test_answers_from_inside_are_checked() -> None:
    assert cratejobs.parse_answer(b"").error is not None
    forged = {"schema": 1, "error": None, "patch": "x" * 3_000_000}
    assert cratejobs.parse_answer(json.dumps(forged).encode()).error is not None
    said = "error: no matching package named `rpds` found\nlocation searched: directory source"
    assert cratejobs.crate_names(said) == ("rpds",)
    assert cratejobs.first_error(f"warning: x\n{said}") == "error: no matching package named `rpds` found"


def test_the_registry_is_the_administrators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXCBUILD_CONFIG_DIR", str(tmp_path))
    assert load_cargo_settings() is None
    (tmp_path / "cargo.yaml").write_text(
        "registry: sparse+https://crates.example:8443/index/\nhosts: [files.example]\n"
    )
    settings = load_cargo_settings()
    assert settings is not None
    assert settings.proxy_hosts == ("crates.example:8443", "files.example")
    for wrong in ('sparse+https://x/"\\n[build]/', "https://x/", "sparse+file:///etc/", "sparse+https://x/no-slash"):
        (tmp_path / "cargo.yaml").write_text(f"registry: '{wrong}'\n")
        with pytest.raises(ConfigError):
            load_cargo_settings()
