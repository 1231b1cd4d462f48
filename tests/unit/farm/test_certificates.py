"""A farm's own authority: members know each other by it, and nobody else gets in."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from lxcbuild.errors import InputError
from lxcbuild.farm.certificates import Certificates, make_certificates


def handshake(server: Certificates, client: Certificates) -> bool:
    """Whether both sides of a TLS connection accept each other, as Dask sets them up: certificates on both sides, no host names."""
    contexts = []
    for own, purpose in ((server, ssl.Purpose.CLIENT_AUTH), (client, ssl.Purpose.SERVER_AUTH)):
        context = ssl.create_default_context(purpose, cafile=str(own.authority))
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(own.certificate, own.key)
        contexts.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        contexts[0].wrap_bio(to_server, to_client, server_side=True),
        contexts[1].wrap_bio(to_client, to_server, server_side=False),
    ]
    pending = list(ends)
    for _ in range(10):
        for end in list(pending):
            try:
                end.do_handshake()
                pending.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return not pending


def test_members_accept_each_other_and_no_stranger(tmp_path: Path) -> None:
    ours, theirs = make_certificates(tmp_path / "ours"), make_certificates(tmp_path / "theirs")
    assert handshake(ours, ours)
    assert not handshake(ours, theirs)
    assert not handshake(theirs, ours)
    told = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", ours.authority, ours.certificate],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr


def test_an_authority_makes_more_certificates_and_overwrites_none(tmp_path: Path) -> None:
    first = make_certificates(tmp_path / "farm")
    with pytest.raises(InputError, match="has a certificate already"):
        make_certificates(tmp_path / "farm")
    old = tmp_path / "old"
    old.mkdir()
    for path in (first.certificate, first.key):
        path.rename(old / path.name)
    (old / "authority.pem").write_bytes(first.authority.read_bytes())
    second = make_certificates(tmp_path / "farm")
    assert handshake(Certificates.of(old), second)


def test_keys_are_their_owners_secret(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "farm")
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "farm" / "authority.key").stat().st_mode & 0o777 == 0o600


def test_a_place_without_certificates_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Certificates.of(tmp_path)
    assert "lxcbuild farm certificates" in (caught.value.resolution or "")
