"""The signed repository: what apt makes of it, kills while it is published, what verify finds, what packages may not say."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from lxcbuild.debian.repository import aptindex, aptverify
from lxcbuild.debian.repository.aptrepo import KEPT_GENERATIONS, KEY_FILE, Repository
from lxcbuild.errors import RepositoryError
from lxcbuild.model import Target
from tests.support import debs

BOOKWORM = Target("debian", "bookworm")
CODE = "bookworm-lxcbuild"


def package(directory: Path, name: str = "python3-demo", version: str = "1.0-1", **fields: str) -> Path:
    directory.mkdir(exist_ok=True)
    stanza = debs.CONTROL.replace("python3-demo", name).replace("1.0-0~lxcbuild1~deb12", version)
    stanza = stanza.replace("Depends: python3:any\n", "").replace("Source: python-demo\n", "")
    stanza = "".join(f"{key}: {value}\n" for key, value in fields.items()) + stanza
    path = directory / f"{name}_{version}_all.deb"
    path.write_bytes(debs.deb(control=stanza))
    return path


@pytest.fixture(scope="module")
def key_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One key for all tests, below a path that is too long for a socket."""
    home = tmp_path_factory.mktemp("key") / ("long" * 30)
    Repository.init(tmp_path_factory.mktemp("first") / "repo", key_home=home)
    return home


@pytest.fixture
def make(tmp_path: Path, key_home: Path) -> Callable[..., Repository]:
    from lxcbuild.debian.repository import aptsign

    return lambda name="repo", **options: Repository.init(
        tmp_path / name, key_home=key_home, fingerprint=aptsign.fingerprints(key_home)[0], **options
    )


@pytest.fixture
def repository(make: Callable[..., Repository]) -> Repository:
    return make()


class Apt:
    """The real apt with directories of its own: it installs nothing, but it reads, checks and chooses."""

    def __init__(self, root: Path, *lines: str) -> None:
        self.root = root
        for name in ("etc/preferences.d", "etc/sources.list.d", "etc/apt.conf.d", "etc/trusted.gpg.d", "lists/partial",
                     "cache/archives/partial", "state"):  # fmt: skip
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "status").touch()
        (root / "etc/sources.list").write_text("".join(f"{line}\n" for line in lines))
        (root / "apt.conf").write_text(
            f'Dir::Etc "{root}/etc"; Dir::State "{root}/state"; Dir::State::lists "{root}/lists"; Dir::Cache "{root}/cache";'
            f'Dir::State::status "{root}/status"; APT::Architecture "amd64"; APT::Architectures {{ "amd64"; }};'
            f'APT::Sandbox::User "{"root" if os.geteuid() == 0 else ""}"; Acquire::Languages "none"; #clear DPkg;\n'
        )

    def __call__(self, *argv: str, check: bool = True) -> str:
        done = subprocess.run(
            argv,
            env={**os.environ, "APT_CONFIG": os.fspath(self.root / "apt.conf"), "LC_ALL": "C.UTF-8"},
            cwd=self.root,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def candidate(self, name: str) -> str:
        """What apt would install."""
        said = self("apt-cache", "policy", name)
        return next((line.split()[1] for line in said.splitlines() if "Candidate:" in line), said)


def line(repository: Repository, url: str) -> str:
    return aptindex.sources_line(url, code=CODE, keyring=os.fspath(repository.path / KEY_FILE))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=os.fspath(tmp_path / "repo")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_apt_takes_packages_and_sources_over_files_and_http(
    repository: Repository, tmp_path: Path, served: str
) -> None:
    (tmp_path / "built").mkdir()
    done = repository.publish(BOOKWORM, debs.build(tmp_path / "built"))
    assert done.added == (
        "python-demo_1.0-0~lxcbuild1~deb12_source",
        "python3-demo_1.0-0~lxcbuild1~deb12_all",
    )
    for number, url in enumerate((f"file:{repository.path}", served)):
        apt = Apt(
            tmp_path / f"apt{number}", line(repository, url), line(repository, url).replace("deb ", "deb-src ", 1)
        )
        said = apt("apt-get", "update", "-o", "Debug::Acquire::http=1")
        assert "W:" not in said
        assert "E:" not in said
        assert ("by-hash" in said) == url.startswith("http")
        apt("apt-get", "download", "python3-demo")
        apt("apt-get", "source", "--download-only", "python-demo")
        assert {path.name for path in apt.root.iterdir()} >= {path.name.replace(":", "%3a") for path in
            (tmp_path / "built").iterdir() if path.suffix in (".dsc", ".deb", ".xz", ".gz")}  # fmt: skip


def test_what_the_distribution_ships_is_never_shadowed(repository: Repository, tmp_path: Path) -> None:
    ours = [package(tmp_path / "ours", name, "9.0-1") for name in ("python3-both", "python3-only")]
    repository.publish(BOOKWORM, ours)
    official = tmp_path / "official"
    deb = package(official, "python3-both", "1.0-1")
    data = deb.read_bytes()
    hashes = f"Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    stanza = "Package: python3-both\nVersion: 1.0-1\nArchitecture: all\nDescription: x\n"
    (official / "Packages").write_text(stanza + hashes)
    (official / "Release").write_text("Origin: Debian\nSuite: oldstable\nCodename: bookworm\n")
    apt = Apt(tmp_path / "apt", line(repository, f"file:{repository.path}"), f"deb [trusted=yes] file:{official} ./")
    apt("apt-get", "update")
    for pinned in (False, True):
        if pinned:
            (apt.root / "etc/preferences.d/lxcbuild.pref").write_bytes((repository.path / "lxcbuild.pref").read_bytes())
        assert apt.candidate("python3-both") == "1.0-1"
        assert apt.candidate("python3-only") == "9.0-1"
        assert "100 " in next(row for row in apt("apt-cache", "policy").splitlines() if str(repository.path) in row)
    mine = "Package: *\nPin: release n=bookworm\nPin-Priority: 990\n"
    (apt.root / "etc/preferences.d/mine.pref").write_text(mine)
    assert apt.candidate("python3-both") == "1.0-1", "the suite's own name does not mean ours"
    assert "9.0-1" in apt("apt-get", "-s", "install", "-t", CODE, "python3-both"), "who asks for it gets it"


def test_publications_in_one_second_are_all_seen(repository: Repository, tmp_path: Path, served: str) -> None:
    apt = Apt(tmp_path / "apt", line(repository, served))
    for number in range(1, 5):
        repository.publish(BOOKWORM, [package(tmp_path / "built", version=f"1.0-{number}")])
        assert "E:" not in apt("apt-get", "update")
        assert apt.candidate("python3-demo") == f"1.0-{number}"


def test_equal_input_gives_equal_bytes(make: Callable[..., Repository], tmp_path: Path) -> None:
    files = [package(tmp_path / "built", f"python3-{letter}") for letter in "abc"]
    trees, at_s = [], int(time.time()) + 5
    for name, order in (("one", files), ("two", files[::-1])):
        repository = make(name)
        repository.publish(BOOKWORM, order, date_s=at_s)
        place = repository.path
        found = {p.relative_to(place): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}
        trees.append({path: data for path, data in found.items() if path.parts[0] in ("dists", "pool")})
    assert trees[0] == trees[1]
    assert repository.publish(BOOKWORM, files).changed is False


def test_old_versions_are_kept_or_dropped_by_rule(make: Callable[..., Repository], tmp_path: Path) -> None:
    versions = ["1.0~rc1-1", "1.0-1", "1.0-10", "1.0-9", "1:0.5-1"]
    for keep, expected in (
        (1, ["1:0.5-1"]),
        (2, ["1.0-10", "1:0.5-1"]),
        (None, ["1.0~rc1-1", "1.0-1", "1.0-9", "1.0-10", "1:0.5-1"]),
    ):
        repository = make(f"keep{keep}", keep=keep)
        for version in versions:
            repository.publish(BOOKWORM, [package(tmp_path / "built", version=version)])
        assert [entry.version for entry in repository.entries(CODE)] == expected
        for number in range(KEPT_GENERATIONS):
            repository.publish(BOOKWORM, [package(tmp_path / "built", "python3-other", f"{number}-1")])
        pool = {path.name for path in (repository.path / "pool").rglob("*demo*.deb")}
        assert pool == {f"python3-demo_{v.partition(':')[2] or v}_all.deb" for v in expected}
        assert aptverify.verify(repository).problems == ()


def test_a_source_goes_with_the_last_package_made_from_it(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "built").mkdir()
    repository.publish(BOOKWORM, debs.build(tmp_path / "built"))
    newer = package(tmp_path / "new", version="2.0-1", Source="python-demo")
    assert repository.publish(BOOKWORM, [newer]).dropped == (
        "python-demo_1.0-0~lxcbuild1~deb12_source",
        "python3-demo_1.0-0~lxcbuild1~deb12_all",
    )
    assert repository.remove(BOOKWORM, ["python-demo"]).dropped == ("python3-demo_2.0-1_all",)
    with pytest.raises(RepositoryError, match="has no python3-demo"):
        repository.remove(BOOKWORM, ["python3-demo"])


def test_other_bytes_under_a_known_version_need_a_wish(repository: Repository, tmp_path: Path) -> None:
    repository.publish(BOOKWORM, [package(tmp_path / "one")])
    other = package(tmp_path / "two", Homepage="https://example.org")
    with pytest.raises(RepositoryError, match="with other bytes"):
        repository.publish(BOOKWORM, [other])
    assert repository.publish(BOOKWORM, [other], replace=True).added == ("python3-demo_1.0-1_all",)
    assert aptverify.verify(repository).problems == ()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"Essential": "yes"}, "Essential"),
        ({"Architecture": "../../etc"}, "twice"),
        ({"Source": "../../../etc (1)"}, "is no name"),
        ({"Source": "a b c"}, "which is invalid"),
    ],
)
def test_packages_that_would_lie_are_refused(
    repository: Repository, tmp_path: Path, fields: dict[str, str], said: str
) -> None:
    with pytest.raises(RepositoryError, match="cannot be published"):
        repository.publish(BOOKWORM, [package(tmp_path / "built", **fields)])
    assert repository.suites() == []
    assert [path for path in repository.path.rglob("*") if path.suffix == ".deb"] == []


def test_a_package_cannot_say_where_it_lies(repository: Repository, tmp_path: Path) -> None:
    lies = {"Filename": "../../../etc/passwd", "SHA256": "0" * 64, "Size": "1", "Phased-Update-Percentage": "1"}
    repository.publish(BOOKWORM, [package(tmp_path / "built", **lies)])
    text = (repository.path / "dists" / CODE / "main/binary-amd64/Packages").read_text()
    assert text.count("Filename: pool/") == 1
    assert "passwd" not in text
    assert "Phased" not in text


def test_links_and_special_files_are_not_published(repository: Repository, tmp_path: Path) -> None:
    link, pipe = tmp_path / "a.deb", tmp_path / "b.deb"
    link.symlink_to("/etc/shadow")
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path / "missing.deb"):
        with pytest.raises(RepositoryError, match="cannot be"):
            repository.publish(BOOKWORM, [path])


def test_verify_tells_what_is_wrong(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "built").mkdir()
    repository.publish(BOOKWORM, debs.build(tmp_path / "built"))
    assert aptverify.verify(repository).files == 4
    suite = repository.path / "dists" / CODE

    def problems_with(path: Path, change: Callable[[bytes], bytes]) -> str:
        before = path.read_bytes()
        path.write_bytes(change(before))
        found = " ".join(f"{problem.path}: {problem.what}" for problem in aptverify.verify(repository).problems)
        path.write_bytes(before)
        return found

    assert "no valid signature" in problems_with(suite / "InRelease", lambda data: data.replace(b"NotAuto", b"IstAuto"))
    assert "no valid signature" in problems_with(suite / "Release", lambda data: data + b"\n")
    assert "no valid signature" in problems_with(suite / "Release.gpg", lambda data: data[:-80] + data[-40:])
    assert "wrong hash" in problems_with(suite / "main/binary-amd64/Packages", lambda data: data[::-1])
    assert "instead of" in problems_with(suite / "main/source/Sources.xz", lambda data: data[:-1])
    deb = next(repository.path.glob("pool/**/*.deb"))
    assert "wrong hash" in problems_with(deb, lambda data: data[::-1])
    assert "not a public key" in problems_with(repository.path / KEY_FILE, lambda _data: b"nonsense")
    deb.unlink()
    assert [p.what for p in aptverify.verify(repository).problems] == ["cannot be read: No such file or directory"]


def test_the_secret_key_stays_private(repository: Repository, key_home: Path) -> None:
    assert key_home.stat().st_mode & 0o777 == 0o700
    assert b"PUBLIC KEY" in (repository.path / KEY_FILE).read_bytes()
    assert not any(b"PRIVATE" in path.read_bytes() for path in repository.path.rglob("*") if path.is_file())
    assert [each for each in running_programs() if b"gpg-agent" in each and b"lxg-" in each] == []


def test_who_uses_a_key_does_not_disturb_others(key_home: Path) -> None:
    """An agent that ends with one use was the agent of the next: which then found no key."""
    from lxcbuild.debian.repository import aptsign

    (fingerprint,) = aptsign.fingerprints(key_home)
    with ThreadPoolExecutor(4) as pool:
        signing = [pool.submit(aptsign.sign, key_home, fingerprint, b"x\n", at_s=2_000_000_000) for _ in range(24)]
        signed = {each.result() for each in signing}
        found = list(pool.map(aptsign.fingerprints, [key_home] * 24))
    assert len(signed) == 1
    assert found == [[fingerprint]] * 24
    assert not list(key_home.glob("S.*"))


def test_the_agent_of_a_killed_caller_is_ended_later(
    key_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lxcbuild.debian.repository import aptsign

    script = """
        import os, signal, sys
        from pathlib import Path
        from lxcbuild.debian.repository import aptsign
        with aptsign._gpg(Path(sys.argv[1])) as gpg:
            gpg("--list-secret-keys")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    short = Path(tempfile.mkdtemp())
    try:
        monkeypatch.setenv("TMPDIR", os.fspath(short))
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(aptsign, "_FRESH_S", 0.0)
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), key_home], check=False)
        assert done.returncode == -signal.SIGKILL
        (left,) = short.iterdir()
        assert (left / "h" / "S.gpg-agent").exists()
        assert aptsign.fingerprints(key_home)
        assert not left.exists()
        assert [each for each in running_programs() if os.fsencode(short) in each] == []
    finally:
        shutil.rmtree(short)


def running_programs() -> Iterator[bytes]:
    """Command lines of all processes."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_bytes()


_PUBLISHER = """
import sys
from pathlib import Path
from lxcbuild.debian.repository.aptrepo import publish
from lxcbuild.model import Target
print("begun", flush=True)
publish(Path(sys.argv[1]), Target("debian", "bookworm"), [Path(name) for name in sys.argv[2:]])
"""


def test_kills_during_publication_leave_the_old_or_the_new(repository: Repository, tmp_path: Path) -> None:
    """SIGKILL at random moments, from the first copy to the last removal; a reader's view is whole each time."""
    chance = random.Random(5)
    repository.publish(BOOKWORM, [package(tmp_path / "built", version="1.0-1")])
    ended = {"old": 0, "new": 0}
    usual_s = 60.0  # the first one is not killed, and says how long they take here
    for number in range(2, 16):
        deb = package(tmp_path / "built", version=f"1.0-{number}")
        before = repository.entries(CODE)[0].version
        with subprocess.Popen(
            [sys.executable, "-c", _PUBLISHER, repository.path, deb], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"begun\n"
            begun_at = time.monotonic()
            try:
                child.wait(usual_s if number == 2 else chance.uniform(0.0, 1.2 * usual_s))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
        assert child.returncode in (0, -signal.SIGKILL)
        usual_s = time.monotonic() - begun_at if number == 2 else usual_s
        assert aptverify.verify(repository).problems == ()
        (entry,) = repository.entries(CODE)
        assert entry.version in (before, f"1.0-{number}")
        ended["old" if entry.version == before else "new"] += 1
    assert min(ended.values()) > 0, f"the kills came all too early or all too late: {ended}"
    for number in range(KEPT_GENERATIONS + 1):
        repository.publish(BOOKWORM, [package(tmp_path / "built", version=f"2.0-{number}")])
    left = {path.name for path in repository.path.glob("pool/**/*.deb")}
    assert left <= {f"python3-demo_2.0-{number}_all.deb" for number in range(KEPT_GENERATIONS + 1)}
    assert len(list(repository.path.glob("dists/.*"))) == KEPT_GENERATIONS
    assert {path.name for path in (repository.path / ".lxcbuild").iterdir()} == {"settings.json", "lock"}


def test_what_a_dead_writer_put_into_the_pool_is_swept(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment that random kills seldom meet: the files are in the pool, and no list names them."""
    repository.publish(BOOKWORM, [package(tmp_path / "built")])

    def dies(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    for name in ("python3-more", "other"):
        deb = package(tmp_path / "built", name, Source=f"src-{name}")
        with monkeypatch.context() as patch:
            patch.setattr(Repository, "_switch", dies)
            with pytest.raises(KeyboardInterrupt):
                repository.publish(BOOKWORM, [deb])
    repository.publish(BOOKWORM, [package(tmp_path / "built", "python3-last")])
    left = {path.name for path in repository.path.glob("pool/**/*.deb")}
    assert left == {"python3-demo_1.0-1_all.deb", "python3-last_1.0-1_all.deb"}
    assert aptverify.verify(repository).problems == ()


def test_writers_take_turns_and_readers_never_miss_a_file(repository: Repository, tmp_path: Path, served: str) -> None:
    names = [f"python3-{letter}" for letter in "abcdef"]
    repository.publish(BOOKWORM, [package(tmp_path / "built", "python3-first")])
    apt = Apt(tmp_path / "apt", line(repository, served))
    threads = [
        threading.Thread(target=repository.publish, args=(BOOKWORM, [package(tmp_path / "built", name)]))
        for name in names
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert "E:" not in apt("apt-get", "update")
    for thread in threads:
        thread.join()
    assert {entry.package for entry in repository.entries(CODE)} == {*names, "python3-first"}


def test_a_directory_without_a_repository_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError) as caught:
        Repository.open(tmp_path)
    assert "repo init" in str(caught.value.resolution)


def test_a_repository_whose_making_was_interrupted_is_made(tmp_path: Path, key_home: Path) -> None:
    place = tmp_path / "repo"
    Repository.open_or_init(place, key_home=tmp_path / "first")
    settings = next(place.glob("*/settings.json"))
    settings.unlink()  # it is written last
    again = Repository.open_or_init(place, key_home=tmp_path / "second")
    assert Repository.open_or_init(place, key_home=tmp_path / "third").settings == again.settings
    with pytest.raises(RepositoryError, match="is not empty"):
        Repository.open_or_init(tmp_path, key_home=key_home)
