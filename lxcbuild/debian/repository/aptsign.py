"""The key of a repository: made once by gpg in a home of its own, used to sign, checked with gpgv. See gpg(1), gpgv(1)."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from lxcbuild import process
from lxcbuild.errors import CommandError, RepositoryError
from lxcbuild.state import locks

_FINGERPRINT = re.compile(r"[0-9A-F]{40}")
_TIMEOUT_S = 120
_AGENTS_END_S = 10.0
_SCRATCH, _LOCK, _FRESH_S = "lxg-", "lock", 60.0
#: Of a GnuPG home, what using keys needs.
_KEYS = ("private-keys-v1.d", "pubring.kbx", "pubring.gpg")


class Signed(Struct, frozen=True):
    """What a suite publishes beside its Release file."""

    in_release: bytes
    release_gpg: bytes


def make_key(home: Path, *, user_id: str) -> str:
    """Make an Ed25519 key for signing, without passphrase and without end, in a directory of mode 0700; gives its fingerprint.

    Raises RepositoryError when the directory already holds a secret key: nobody's key is used by accident.
    """
    home.mkdir(parents=True, mode=0o700, exist_ok=True)
    home.chmod(0o700)
    if fingerprints(home):
        raise RepositoryError(f"{home} already holds a key", resolution="name it: --key FINGERPRINT --key-home DIR")
    with _gpg(home, writes=True) as gpg:
        gpg("--quick-generate-key", user_id, "ed25519", "sign", "never")
    (made,) = fingerprints(home)
    return made


def fingerprints(home: Path) -> list[str]:
    """The primary secret keys in a GnuPG home."""
    with _gpg(home) as gpg:
        listed = gpg("--with-colons", "--list-secret-keys").decode("utf-8", "replace").splitlines()
    found = []
    for line, after in itertools.pairwise(listed):
        if line.startswith("sec:") and after.startswith("fpr:"):
            found.append(after.split(":")[9])
    return found


def public_key(home: Path, fingerprint: str) -> bytes:
    """The public key, armoured: what users put into ``/etc/apt/keyrings``."""
    with _gpg(home) as gpg:
        return gpg("--armor", "--export-options", "export-minimal", "--export", fingerprint)


def sign(home: Path, fingerprint: str, data: bytes, *, at_s: int) -> Signed:
    """Sign a Release file, clear and detached. The time of the signature is given, so that equal input gives equal bytes."""
    assert _FINGERPRINT.fullmatch(fingerprint), fingerprint
    options = ("--local-user", f"{fingerprint}!", "--digest-algo", "SHA512", "--faked-system-time", f"{at_s}!")
    if not home.is_dir():
        raise RepositoryError(
            f"the key of this repository is not here: {home}", resolution="publish where it was made, or bring it there"
        )
    with _gpg(home) as gpg:
        clear = gpg(*options, "--clearsign", input_bytes=data)
        detached = gpg(*options, "--armor", "--detach-sign", input_bytes=data)
    return Signed(clear, detached)


def signed_text(message: Path, key: Path, *, fingerprint: str) -> bytes:
    """The text that a clear-signed file holds, if exactly that key signed it. Raises RepositoryError with gpgv's words."""
    with _keyring(key) as keyring:
        output = keyring.with_name("text")
        _gpgv(["--keyring", keyring, "--output", output, message], fingerprint, what=message.name)
        return output.read_bytes()


def check_detached(signature: Path, data: Path, key: Path, *, fingerprint: str) -> None:
    """Raise RepositoryError unless exactly that key signed the file."""
    with _keyring(key) as keyring:
        _gpgv(["--keyring", keyring, signature, data], fingerprint, what=signature.name)


def _gpgv(arguments: list[str | Path], fingerprint: str, *, what: str) -> None:
    done = process.run(["gpgv", "--quiet", "--status-fd", "1", *arguments], check=False, timeout_s=_TIMEOUT_S)
    status = done.stdout.decode("utf-8", "replace")
    valid = re.findall(r"^\[GNUPG:\] VALIDSIG ([0-9A-F]{40}) ", status, re.MULTILINE)
    if done.status != 0 or valid != [fingerprint]:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise RepositoryError(f"{what}: no valid signature of {fingerprint}", details="\n".join(said[-5:]) or None)


@contextlib.contextmanager
def _keyring(key: Path) -> Iterator[Path]:
    """The armoured key as the binary file that gpgv wants."""
    with tempfile.TemporaryDirectory(prefix="lxcbuild-") as scratch:
        binary = Path(scratch) / "key"
        environment = {"GNUPGHOME": scratch}
        options = ("--batch", "--no-tty", "--no-options", "--yes", "--output")
        argv: list[str | Path] = ["gpg", *options, binary, "--dearmor", key]
        try:
            process.run(argv, env=environment, timeout_s=_TIMEOUT_S)
        except CommandError as error:
            raise RepositoryError(f"{key.name} is not a public key", details=error.details) from None
        yield binary


class _Caller:
    """gpg with one home: called with arguments, gives standard output."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __call__(self, *arguments: str, input_bytes: bytes | None = None) -> bytes:
        options = ["--batch", "--no-tty", "--quiet", "--no-options", "--pinentry-mode", "loopback", "--passphrase", ""]
        argv = ["gpg", *options, *arguments]
        done = process.run(
            argv, env={"GNUPGHOME": os.fspath(self._home)}, input_bytes=input_bytes, timeout_s=_TIMEOUT_S
        )
        return done.stdout


@contextlib.contextmanager
def _gpg(home: Path, *, writes: bool = False) -> Iterator[_Caller]:
    """gpg with the keys of that home and an agent of its own, which is gone afterwards.

    The agent's socket lies in the home that gpg is given: a directory of this call alone, in which the keys are links. So nobody
    else's agent is met, neither one that is just ending nor one that others still need, and no path is too long for a socket
    (107 bytes, unix(7)). Where keys are written the home itself is needed, by a short name: gpg replaces files and with them links.
    """
    _clear_up()
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as scratch, locks.exclusive(Path(scratch) / _LOCK):
        place = Path(scratch) / "h"
        if writes:
            place.symlink_to(home.absolute())
        else:
            place.mkdir(mode=0o700)
            for name in _KEYS:
                if (home / name).exists():
                    (place / name).symlink_to(home.absolute() / name)
        try:
            yield _Caller(place)
        finally:
            _end_agent(place)


def _clear_up() -> None:
    """End the agents of callers that were killed, and remove their directories."""
    for scratch in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with contextlib.suppress(FileNotFoundError):  # its owner ends, or somebody else clears up
            info = scratch.lstat()
            ours = stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid()
            old = time.time() - info.st_mtime > _FRESH_S  # before that it may not be locked yet
            if ours and old and (locks.is_free(scratch / _LOCK) or not (scratch / _LOCK).exists()):
                if (scratch / "h").exists():
                    _end_agent(scratch / "h")
                shutil.rmtree(scratch)


def _end_agent(home: Path) -> None:
    """Returns when the agent is gone: it removes its socket last. Below /run/user a directory for it remains, which goes, too."""
    conf = ["gpgconf", "--homedir", os.fspath(home)]
    process.run([*conf, "--kill", "gpg-agent"], timeout_s=_TIMEOUT_S)
    sockets = Path(os.fsdecode(process.run([*conf, "--list-dirs", "socketdir"]).stdout.strip()))
    deadline = time.monotonic() + _AGENTS_END_S
    while (sockets / "S.gpg-agent").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    if not sockets.samefile(home):
        process.run([*conf, "--remove-socketdir"], check=False, timeout_s=_TIMEOUT_S)
