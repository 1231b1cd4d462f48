"""A signed APT repository in a directory, one suite per target; a publication is there whole or not at all.

::

    lxcbuild-archive.asc                    the public key
    lxcbuild.pref                           the pin
    .lxcbuild/                              settings, lock, incoming files
    dists/bookworm-lxcbuild -> .bookworm-lxcbuild.7
    dists/.bookworm-lxcbuild.7/             InRelease, Release, Release.gpg, main/{binary-*,source}/, by-hash/
    pool/bookworm-lxcbuild/p/python-idna/<hash>/python3-idna_3.10-1_all.deb

One rename of the link publishes. Files of the pool never change; those that nobody names any more go only when
:data:`KEPT_GENERATIONS` later publications have been made, and so do the lists: apt fetches lists by hash, so a reader who began
with an older InRelease ends with what that one promised. Files are on the disk (fsync) before the link is renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import lzma
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from lxcbuild.debian.repository import aptindex, aptsign
from lxcbuild.debian.repository.aptindex import Identity, IndexEntry
from lxcbuild.debian.repository.aptpool import Incoming
from lxcbuild.debian.stanza import ArtifactError
from lxcbuild.errors import RepositoryError
from lxcbuild.files import sync_directory, write_whole
from lxcbuild.model import Target
from lxcbuild.state import locks

KEY_FILE = "lxcbuild-archive.asc"
PIN_FILE = "lxcbuild.pref"
#: How many publications back a reader may be in the middle of.
KEPT_GENERATIONS = 4
#: apt takes a Release file for not yet valid when its date is 10 s ahead (Acquire::Max-FutureTime, apt.conf(5)).
_AHEAD_S = 5
_PRIVATE = ".lxcbuild"
_ORIGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,60}")
_OFFICIAL = frozenset({"debian", "ubuntu", "debian backports", "debian-security", "raspbian"})


class RepositorySettings(Struct, frozen=True, kw_only=True):
    """What ``repo init`` settled. ``keep`` is how many versions of a package stay (None: all)."""

    fingerprint: str
    key_home: str
    key_made_at_s: int
    origin: str = "lxcbuild"
    label: str = "lxcbuild"
    keep: int | None = 1
    valid_days: int | None = None
    version: int = 1

    @property
    def identity(self) -> Identity:
        """The part that Release files tell."""
        return Identity(origin=self.origin, label=self.label, valid_days=self.valid_days)


class Published(Struct, frozen=True, kw_only=True):
    """What one publication changed, as ``name_version_architecture``; ``changed`` is False when the suite already was so."""

    code: str
    changed: bool
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


class Repository(Struct, frozen=True):
    """An existing repository. Any number of readers; writers take turns."""

    path: Path
    settings: RepositorySettings

    @classmethod
    def init(
        cls,
        path: Path,
        *,
        key_home: Path,
        fingerprint: str | None = None,
        origin: str = "lxcbuild",
        label: str = "lxcbuild",
        keep: int | None = 1,
        valid_days: int | None = None,
    ) -> Repository:
        """Make an empty repository. Without ``fingerprint`` a key is made in ``key_home``, a directory that holds none yet.

        Raises RepositoryError.
        """
        if not _ORIGIN.fullmatch(origin) or not _ORIGIN.fullmatch(label) or origin.lower() in _OFFICIAL:
            raise RepositoryError(f"{origin!r} and {label!r} cannot be its origin and label: official or malformed")
        private = path / _PRIVATE
        names = {child.name for child in path.iterdir()} if path.exists() else set()
        if names - {_PRIVATE, "dists", "pool", KEY_FILE, PIN_FILE} or (private / "settings.json").exists():
            raise RepositoryError(f"{path} is not empty", resolution="choose a new directory")
        for directory in (path, private, path / "dists", path / "pool"):
            directory.mkdir(parents=True, mode=0o755, exist_ok=True)
            directory.chmod(0o755)
        made_at_s = int(time.time())
        if fingerprint is None:
            fingerprint = aptsign.make_key(key_home, user_id=f"{origin} archive signing key")
        elif fingerprint not in aptsign.fingerprints(key_home):
            raise RepositoryError(f"{key_home} has no secret key {fingerprint[:60]}")
        settings = RepositorySettings(
            fingerprint=fingerprint,
            key_home=os.fspath(key_home.absolute()),
            key_made_at_s=made_at_s + 1,
            origin=origin,
            label=label,
            keep=keep,
            valid_days=valid_days,
        )
        write_whole(path / KEY_FILE, aptsign.public_key(key_home, fingerprint), durable=True, mode=0o644)
        write_whole(path / PIN_FILE, aptindex.pin(settings.identity).encode(), durable=True, mode=0o644)
        write_whole(
            private / "settings.json",
            (json.dumps(msgspec.to_builtins(settings), indent=2) + "\n").encode(),
            durable=True,
            mode=0o644,
        )
        return cls(path, settings)

    @classmethod
    def open(cls, path: Path) -> Repository:
        """The repository in a directory; raises RepositoryError when there is none, or one of a newer lxcbuild."""
        try:
            document = json.loads((path / _PRIVATE / "settings.json").read_text("utf-8"))
            return cls(path, RepositorySettings(**document))
        except FileNotFoundError:
            raise RepositoryError(
                f"there is no repository in {path}", resolution=f"make one: lxcbuild repo init {path}"
            ) from None
        except (ValueError, TypeError) as error:
            raise RepositoryError(f"the settings of {path} cannot be read: {str(error)[:200]}") from None

    @classmethod
    def open_or_init(cls, path: Path, *, key_home: Path) -> Repository:
        """The repository in a directory, made when there is none, or when its making was interrupted; raises RepositoryError."""
        if (path / _PRIVATE / "settings.json").exists():
            return cls.open(path)
        return cls.init(path, key_home=key_home)

    # -- reading ------------------------------------------------------------------------------------------------

    def suites(self) -> list[str]:
        """The code names of what is published."""
        return sorted(link.name for link in (self.path / "dists").iterdir() if link.is_symlink())

    def entries(self, code: str) -> list[IndexEntry]:
        """Everything in a suite, sources last; empty when nothing was published there yet. Raises RepositoryError."""
        link = self.path / "dists" / code
        if not link.is_symlink():
            return []
        return _entries(link.resolve())

    # -- writing ------------------------------------------------------------------------------------------------

    def publish(
        self, target: Target, files: Iterable[Path], *, replace: bool = False, date_s: int | None = None
    ) -> Published:
        """Add .deb and .dsc files (with what a .dsc names beside it; other files are passed over) to the target's suite.

        The same file again changes nothing. Other bytes under a name and version that is there raise RepositoryError, unless
        ``replace``. ``date_s``: the date of the Release file, by default ``SOURCE_DATE_EPOCH`` or now.
        """
        code = aptindex.codename(target)
        with self._locked(), Incoming(self.path, self.path / _PRIVATE / "incoming", code) as incoming:
            new: dict[tuple[str, str, str], IndexEntry] = {}
            for entry in incoming.take(files):
                if new.setdefault(entry.key, entry).sums != entry.sums:
                    raise RepositoryError(f"{'_'.join(entry.key)} is given twice, with different bytes")
            now = {entry.key: entry for entry in self.entries(code)}
            for key, entry in list(new.items()):
                old = now.get(key)
                if old is not None and old.sums == entry.sums:
                    del new[key]
                elif old is not None and not replace:
                    raise RepositoryError(
                        f"{'_'.join(key)} is in {code} with other bytes",
                        resolution="raise its revision, or use --replace",
                    )
            entries = aptindex.retained((now | new).values(), keep=self.settings.keep)
            incoming.settle(entry for entry in entries if entry.key in new)
            return self._switch(code, entries, architecture=target.architecture, date_s=date_s)

    def remove(
        self, target: Target, names: Iterable[str], *, version: str | None = None, date_s: int | None = None
    ) -> Published:
        """Take packages out, by the name of a binary or source package (a source with all that was made from it)."""
        code, wanted = aptindex.codename(target), set(names)
        with self._locked():
            now = self.entries(code)
            gone = [
                entry
                for entry in now
                if ({entry.package, entry.source} & wanted) and version in (None, entry.version, entry.source_version)
            ]
            missing = wanted - {name for entry in gone for name in (entry.package, entry.source)}
            if missing:
                raise RepositoryError(f"{code} has no {', '.join(sorted(missing))[:200]}")
            keys = {(entry.package, entry.version, entry.architecture) for entry in gone}
            entries = aptindex.retained([entry for entry in now if entry.key not in keys], keep=self.settings.keep)
            return self._switch(code, entries, architecture=target.architecture, date_s=date_s)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The writers' lock. A mark stays when a writer does not come to its end, and the next one clears up behind it."""
        private = self.path / _PRIVATE
        mark = private / "unfinished"
        with locks.exclusive(private / "lock"):
            if mark.exists():
                self._sweep()
            mark.touch()
            sync_directory(private)
            yield
            mark.unlink()

    def _switch(self, code: str, entries: Sequence[IndexEntry], *, architecture: str, date_s: int | None) -> Published:
        dists = self.path / "dists"
        link = dists / code
        before = _serial(link.readlink().name) if link.is_symlink() else 0
        old = {entry.key: entry for entry in self.entries(code)}
        new = {entry.key: entry for entry in entries}
        changed = {key: e.sums for key, e in old.items()} != {key: e.sums for key, e in new.items()}
        if before and not changed and self.settings.valid_days is None and architecture in self._architectures(code):
            return Published(code=code, changed=False)
        at_s = self._date(code, date_s)
        made = dists / f".{code}.{before + 1}"
        files = _write_lists(made, entries, sorted({*self._architectures(code), architecture}))
        self._keep_hashes(made, code, before)
        self._sign(made, code, files, at_s=at_s, given=date_s is not None)
        _sync_tree(made)
        fresh = dists / f".{code}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(made.name)
        fresh.rename(link)  # the publication
        sync_directory(dists)
        self._forget(code, before + 1)
        added = sorted("_".join(key) for key, entry in new.items() if key not in old or old[key].sums != entry.sums)
        dropped = sorted("_".join(key) for key in old if key not in new)
        return Published(code=code, changed=True, added=tuple(added), dropped=tuple(dropped))

    def _sign(self, made: Path, code: str, files: dict[str, tuple[str, int]], *, at_s: int, given: bool) -> None:
        architectures = sorted({p.split("/")[1].removeprefix("binary-") for p in files if "/binary-" in p})
        text = aptindex.release(
            self.settings.identity, code=code, architectures=architectures, date_s=at_s, files=files
        )
        if 0 < (ahead_s := self.settings.key_made_at_s - time.time()) <= _AHEAD_S:
            time.sleep(ahead_s)  # sqv, by which apt 3 verifies, takes no signature of a moment that is still to come
        signed_at_s = max(at_s if given else min(at_s, int(time.time())), self.settings.key_made_at_s)
        signed = aptsign.sign(Path(self.settings.key_home), self.settings.fingerprint, text, at_s=signed_at_s)
        for name, data in (("Release", text), ("Release.gpg", signed.release_gpg), ("InRelease", signed.in_release)):
            write_whole(made / name, data, durable=True, mode=0o644)
            os.utime(made / name, (at_s, at_s))  # what a web server answers If-Modified-Since by

    def _date(self, code: str, date_s: int | None) -> int:
        """Later than the last publication, or apt and web servers would take the new one for the old one."""
        epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
        at_s = date_s if date_s is not None else int(epoch) if epoch.isdigit() else int(time.time())
        release = self.path / "dists" / code / "Release"
        if release.exists():
            fields, _files = aptindex.read_release(release.read_text("utf-8"))
            at_s = max(at_s, int(parsedate_to_datetime(fields["Date"]).timestamp()) + 1)
        if date_s is None and not epoch:
            # More publications than seconds: the clock has to come near before apt would believe the date.
            while (ahead_s := at_s - _AHEAD_S - time.time()) > 0:
                time.sleep(ahead_s)
        return at_s

    def _architectures(self, code: str) -> list[str]:
        main = self.path / "dists" / code / aptindex.COMPONENT
        return [each.name.removeprefix("binary-") for each in main.glob("binary-*")]

    # -- old generations ----------------------------------------------------------------------------------------

    def _generations(self, code: str) -> dict[int, Path]:
        found = {_serial(path.name): path for path in (self.path / "dists").glob(f".{code}.*") if not path.is_symlink()}
        return {serial: found[serial] for serial in sorted(found) if serial}

    def _keep_hashes(self, made: Path, code: str, newest: int) -> None:
        """Give the new generation the lists of the last ones too, by hash."""
        for serial, place in self._generations(code).items():
            if newest - KEPT_GENERATIONS + 1 < serial <= newest:
                _fields, files = aptindex.read_release((place / "Release").read_text("utf-8"))
                for path, (sha256, _size) in files.items():
                    to = made / Path(path).parent / "by-hash" / "SHA256" / sha256
                    to.parent.mkdir(parents=True, exist_ok=True)
                    if not to.exists():
                        to.hardlink_to(place / path)

    def _forget(self, code: str, newest: int) -> None:
        """Remove generations that are too old, with the files of the pool that only they name."""
        generations = self._generations(code)
        old = [path for serial, path in generations.items() if not newest - KEPT_GENERATIONS < serial <= newest]
        if not old:
            return
        kept = set().union(*(_named(path) for path in generations.values() if path not in old))
        for generation in old:
            gone = _named(generation) - kept
            # Out of sight whole: a sweep would take half a generation for a damaged one.
            trash = self.path / _PRIVATE / f"trash{generation.name}"
            generation.rename(trash)
            for name in gone:
                _remove_file(self.path, name)
            shutil.rmtree(trash)

    def _sweep(self) -> None:
        """Remove what a killed writer left: generations ahead of the link, and files of the pool that no generation names."""
        named: set[str] = set()
        for code in {path.name[1:].rpartition(".")[0] for path in (self.path / "dists").glob(".*.*")}:
            link = self.path / "dists" / code
            newest = _serial(link.readlink().name) if link.is_symlink() else 0
            for serial, path in self._generations(code).items():
                if serial > newest:
                    shutil.rmtree(path)
                else:
                    named |= _named(path)
        for trash in (self.path / _PRIVATE).glob("trash*"):
            shutil.rmtree(trash)
        # All found before any is removed: a directory goes with its last file, also from under a walk.
        for path in list((self.path / "pool").rglob("*")):
            if path.is_file() and os.fspath(path.relative_to(self.path)) not in named:
                _remove_file(self.path, os.fspath(path.relative_to(self.path)))


def publish(repository: Path, target: Target, files: Iterable[Path], *, replace: bool = False) -> Published:
    """What a build made (all its artefacts; only .deb and .dsc count) into the repository in that directory. Blocks while
    another writer is at work. Cheaper for many builds at once than for each. Raises RepositoryError."""
    return Repository.open(repository).publish(target, files, replace=replace)


# -- files ----------------------------------------------------------------------------------------------------------


def _write_lists(made: Path, entries: Sequence[IndexEntry], architectures: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Packages and Sources with their by-hash names; gives their hashes and sizes by path below the suite."""
    lists = {
        f"binary-{arch}/Packages": [e for e in entries if e.architecture in (arch, "all")] for arch in architectures
    }
    lists["source/Sources"] = [entry for entry in entries if entry.architecture == "source"]
    files: dict[str, tuple[str, int]] = {}
    for name, chosen in lists.items():
        text = aptindex.index(chosen)
        # The fastest preset: a bulk run publishes often, and the list is small beside the packages.
        for path, data in ((name, text), (f"{name}.xz", lzma.compress(text, preset=1))):
            digest = hashlib.sha256(data).hexdigest()
            place = made / aptindex.COMPONENT / path
            by_hash = place.parent / "by-hash" / "SHA256" / digest
            by_hash.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, data, durable=True, mode=0o644)
            if not by_hash.exists():
                by_hash.hardlink_to(place)
            files[f"{aptindex.COMPONENT}/{path}"] = (digest, len(data))
    return files


def _entries(generation: Path) -> list[IndexEntry]:
    found: dict[tuple[str, str, str], IndexEntry] = {}
    main = generation / aptindex.COMPONENT
    try:
        for path in [*sorted(main.glob("binary-*/Packages")), main / "source/Sources"]:
            for entry in aptindex.read_index(path.read_text("utf-8"), sources=path.name == "Sources"):
                found[entry.key] = entry
    except (OSError, UnicodeDecodeError, ArtifactError) as error:
        raise RepositoryError(
            f"{generation} is damaged: {error}", resolution="see: lxcbuild repo verify; then bring back its backup"
        ) from error
    return list(found.values())


def _named(generation: Path) -> set[str]:
    """The files of the pool that a generation names."""
    return {file.path for entry in _entries(generation) for file in entry.files}


def _serial(name: str) -> int:
    end = name.rpartition(".")[2]
    return int(end) if end.isdigit() else 0


def _remove_file(root: Path, name: str) -> None:
    """Remove a file of the pool, and the directories that are empty then."""
    place = root / name
    place.unlink(missing_ok=True)
    for parent in list(place.parents)[: len(Path(name).parents) - 2]:
        try:
            parent.rmdir()
        except OSError:
            return


def _sync_tree(place: Path) -> None:
    for directory, names, _files in os.walk(place):
        del names[len(names) :]
        sync_directory(Path(directory))
