"""A certificate authority of a farm's own, and the certificates by which its head, scheduler and workers know each other.

Whoever holds a certificate of this authority is part of the farm and can run anything on it: the rule of Dask's TLS is that both
ends show one (https://distributed.dask.org/en/stable/tls.html), and names of hosts are not compared. The authority's key is only
needed to make more certificates; it stays where it was made.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from lxcbuild.errors import InputError, ToolMissingError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

DEFAULT_DAYS = 825
_AUTHORITY, _AUTHORITY_KEY, _CERTIFICATE, _KEY = "authority.pem", "authority.key", "farm.pem", "farm.key"


class Certificates(Struct, frozen=True):
    """What one member of a farm needs, as files in PEM."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, directory: Path) -> Certificates:
        """Those that :func:`make_certificates` put there; raises InputError when one is missing."""
        found = cls(directory / _AUTHORITY, directory / _CERTIFICATE, directory / _KEY)
        missing = [path.name for path in (found.authority, found.certificate, found.key) if not path.is_file()]
        if missing:
            raise InputError(
                f"{directory} has no certificates of a farm ({', '.join(missing)})",
                resolution=f"make them on one machine and copy all but {_AUTHORITY_KEY}: lxcbuild farm certificates {directory}",
            )
        return found


def make_certificates(directory: Path, *, days: int = DEFAULT_DAYS) -> Certificates:
    """An authority (unless the directory has one) and a certificate by it. Keys are readable by their owner only.

    Raises InputError when a certificate is there already, ToolMissingError without the library.
    """
    if (directory / _CERTIFICATE).exists():
        raise InputError(
            f"{directory} has a certificate already", resolution="remove farm.pem and farm.key to have new ones made"
        )
    directory.mkdir(parents=True, exist_ok=True)
    known = (directory / _AUTHORITY).is_file() and (directory / _AUTHORITY_KEY).is_file()
    authority, signer = _load_authority(directory) if known else _make_authority(directory, days)
    key = _new_key()
    certificate = _certificate("lxcbuild farm member", key, issuer=authority, signer=signer, days=days)
    _write_key(directory / _KEY, key)
    _write(directory / _CERTIFICATE, _pem(certificate), mode=0o644)
    return Certificates.of(directory)


def _make_authority(directory: Path, days: int) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = _new_key()
    certificate = _certificate("lxcbuild farm", key, issuer=None, signer=key, days=days)
    _write_key(directory / _AUTHORITY_KEY, key)
    _write(directory / _AUTHORITY, _pem(certificate), mode=0o644)
    return certificate, key


def _load_authority(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        certificate = x509.load_pem_x509_certificate((directory / _AUTHORITY).read_bytes())
        key = serialization.load_pem_private_key((directory / _AUTHORITY_KEY).read_bytes(), password=None)
    except ValueError as error:
        raise InputError(f"the authority in {directory} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"the authority in {directory} has a key of another kind")
    return certificate, key


def _new_key() -> ec.EllipticCurvePrivateKey:
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise ToolMissingError(
            "the Python library cryptography is not installed", resolution="pip install 'lxcbuild[dask]'"
        ) from None
    return ec.generate_private_key(ec.SECP256R1())


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks of a lab differ
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(_usage(authority=issuer is None), critical=True)
    )
    return made.sign(signer, hashes.SHA256())


def _usage(*, authority: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives import serialization as forms

    data = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    _write(path, data, mode=0o600)


def _write(path: Path, data: bytes, *, mode: int) -> None:
    """A new file, which nobody else can read for a moment even where its key is secret."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
        file.write(data)
