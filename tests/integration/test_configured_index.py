"""The package index that this machine's pip is configured with, asked for real."""

from __future__ import annotations

import hashlib

import pytest

from lxcbuild.errors import UnknownProjectError, UnknownVersionError
from lxcbuild.pypi.index.client import IndexClient
from lxcbuild.state.paths import StateDirs

pytestmark = pytest.mark.network


def test_idna_is_resolved_and_fetched(fresh_state: StateDirs) -> None:
    with IndexClient(fresh_state) as client:
        release = client.resolve("idna==3.10", python_version="3.11")
        assert (release.name, release.version) == ("idna", "3.10")
        assert release.has_wheels
        source = client.fetch_source(release)
    data = source.path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == source.sha256 == release.sdist.hashes.get("sha256", source.sha256)
    assert data.startswith(b"\x1f\x8b")


def test_what_does_not_exist(fresh_state: StateDirs) -> None:
    with IndexClient(fresh_state) as client:
        with pytest.raises(UnknownProjectError):
            client.resolve("no-such-project-lxcbuild-e5c1", python_version="3.11")
        with pytest.raises(UnknownVersionError):
            client.resolve("idna==999", python_version="3.11")
