"""pip's configuration, as pip itself reads it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lxcbuild.errors import ConfigError
from lxcbuild.pypi.index import config as config_module
from lxcbuild.pypi.index.config import PipConfig, default_index, load_pip_config


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config_module, "_SYSTEM_FILE", tmp_path / "system.conf")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    for name in ("xdg", "home", "prefix"):
        (tmp_path / name).mkdir()
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(home: Path, **variables: str) -> PipConfig:
    return load_pip_config({"XDG_CONFIG_DIRS": str(home / "xdg"), "HOME": str(home / "home"), **variables})


def isolated(home: Path, text: str, **variables: str) -> PipConfig:
    return load(home, PIP_CONFIG_FILE=str(write(home / "chosen.conf", text)), **variables)


def test_default_is_what_the_installed_pip_says(home: Path) -> None:
    config = load_pip_config({"PIP_CONFIG_FILE": "/dev/null", "HOME": str(home)})
    assert config.indexes == (default_index(),)
    assert (config.find_links, config.trusted_hosts, config.cert, config.proxy) == ((), (), None, None)


def test_later_files_and_variables_win(home: Path) -> None:
    write(home / "system.conf", "[global]\nindex-url = https://system/simple\n")
    assert load(home).indexes[0] == "https://system/simple"
    write(home / "xdg/pip/pip.conf", "[global]\nindex-url = https://global/simple\ntimeout = 1\nretries = 7\n")
    write(home / "home/.config/pip/pip.conf", "[global]\nindex-url = https://user/simple\ntimeout = 2\n")
    assert load(home).indexes[0] == "https://user/simple"
    write(home / "prefix/pip.conf", "[global]\nindex_url = https://site/simple\n")
    assert load(home).indexes[0] == "https://site/simple"
    write(home / "xdg/pip/pip.conf", "[install]\nindex-url = https://install/simple\n[global]\nretries=7\n")
    config = load(home)
    assert (config.indexes[0], config.timeout_s, config.retries) == ("https://install/simple", 2.0, 7)
    assert load(home, PIP_INDEX_URL="https://variable/simple").indexes[0] == "https://variable/simple"
    assert load(home, PIP_INDEX_URL="").indexes[0] == "https://install/simple"


def test_a_chosen_file_replaces_the_users(home: Path) -> None:
    write(home / "home/.config/pip/pip.conf", "[global]\nindex-url = https://user/simple\n")
    assert isolated(home, "[global]\ntimeout = 3\n").indexes == (default_index(),)


def test_lists_are_split_at_spaces_and_lines(home: Path) -> None:
    (home / "wheels").mkdir()
    config = isolated(
        home,
        "[global]\nindex-url = https://one/simple\nextra-index-url =\n    https://two/simple\n    https://three/simple\n"
        f"find-links = {home}/wheels https://links/page.html\ntrusted-host = a b:8080\ncert = /c.pem\nproxy = http://p:1\n",
    )
    assert config.indexes == ("https://one/simple", "https://two/simple", "https://three/simple")
    assert config.find_links == (f"file://{home}/wheels", "https://links/page.html")
    assert config.trusted_hosts == ("a", "b:8080")
    assert (config.cert, config.proxy) == ("/c.pem", "http://p:1")
    assert config.trusts("http://a:9/x")
    assert config.trusts("http://b:8080/x")
    assert not config.trusts("http://b:8081/x")


def test_no_index_leaves_links_only(home: Path) -> None:
    assert isolated(home, "[global]\nno-index = true\nextra-index-url = https://x/\n").indexes == ()


def test_credentials_are_split_off(home: Path) -> None:
    config = isolated(home, "[global]\nindex-url = https://me:s3cret%21@host:8443/simple\n")
    assert config.indexes == ("https://host:8443/simple",)
    assert config.credentials == {"https://host:8443": ("me", "s3cret!")}
    assert "s3cret" not in repr(config)


def test_bundles_named_in_the_environment_are_used_last(home: Path) -> None:
    assert load(home, REQUESTS_CA_BUNDLE="/r.pem", CURL_CA_BUNDLE="/c.pem").cert == "/r.pem"
    assert load(home, PIP_CERT="/p.pem", CURL_CA_BUNDLE="/c.pem").cert == "/p.pem"


@pytest.mark.parametrize(
    "text", ["no section\n", "[global\n", "[global]\ntimeout = soon\n", "[global]\nno-index = maybe\n"]
)
def test_what_cannot_be_understood_is_an_error(home: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        isolated(home, text)
    assert caught.value.resolution
