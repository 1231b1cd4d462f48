"""The contents index, from small Contents files of the archive's own form."""

from __future__ import annotations

import gzip
import lzma
import os
import threading
from pathlib import Path

import pytest

from lxcbuild.debian.archive.contents import ContentsIndex, database_path
from lxcbuild.debian.names import Distribution
from lxcbuild.errors import BadNameError, ImageError, NetworkError
from lxcbuild.events import Event, Note
from lxcbuild.model import Target
from lxcbuild.state.paths import StateDirs

TARGET = Target("debian", "bookworm")
LINES = """\
bin/tool                                     utils/toolbox
usr/bin/protoc                               devel/protobuf-compiler
usr/bin/deep/er                              devel/no
usr/games/pacman                             games/pacman
usr/include/openssl/ssl.h                    libdevel/libssl-dev
usr/include/wolfssl/openssl/ssl.h            libdevel/libwolfssl-dev
usr/include/x86_64-linux-gnu/ffi.h           libdevel/libffi-dev
usr/include/with space/odd.h                 libdevel/libodd-dev
usr/include/notes.txt                        libdevel/libodd-dev
usr/lib/python3/dist-packages/_cffi_backend.cpython-311-x86_64-linux-gnu.so python/python3-cffi-backend
usr/lib/python3/dist-packages/idna-3.3.egg-info/PKG-INFO python/python3-idna
usr/lib/python3/dist-packages/idna/__init__.py python/python3-idna
usr/lib/python3/dist-packages/six-1.16.0.egg-info/PKG-INFO python/python3-six
usr/lib/python3/dist-packages/six.py         python/python3-six
usr/lib/python3/dist-packages/PyYAML-6.0-py3.11.egg-info python/python3-yaml
usr/lib/python3/dist-packages/zope.interface-5.5.2.dist-info/METADATA zope/python3-zope.interface
usr/lib/python3/dist-packages/two-1.0.dist-info/METADATA python/libtwo,universe/python/python3-two,python/python3-two-long
usr/lib/python3/dist-packages/noversion.egg-info/PKG-INFO python/python3-noversion
usr/lib/python3/dist-packages/'; DROP TABLE dist; ---1.0.dist-info/METADATA python/python3-evil
usr/lib/x86_64-linux-gnu/glib-2.0/include/glibconfig.h libdevel/libglib2.0-dev
usr/lib/x86_64-linux-gnu/libffi.so           libdevel/libffi-dev
usr/lib/x86_64-linux-gnu/libffi.so.8         libs/libffi8
usr/lib/x86_64-linux-gnu/libSDL2-2.0.so.0    libs/libsdl2-2.0-0
usr/lib/x86_64-linux-gnu/libportaudio.so.2   libs/libportaudio2
usr/lib/x86_64-linux-gnu/libusb-0.1.so.4     libs/libusb-0.1-4
usr/lib/x86_64-linux-gnu/libusb-1.0.so.0     libs/libusb-1.0-0
usr/lib/x86_64-linux-gnu/libonly.a           libdevel/libonly-dev
usr/lib/x86_64-linux-gnu/plugins/libplug.so  libs/plug
usr/lib/x86_64-linux-gnu/pkgconfig/libffi.pc libdevel/libffi-dev
usr/share/doc/python3-idna/copyright         python/python3-idna
usr/share/bash-completion/completions/tool    utils/toolbox
usr/share/dkms/modules_to_force_install      kernel/dkms
usr/share/locale/de/LC_MESSAGES/sudo.mo      admin/sudo
usr/lib/python3/dist-packages/apt/__init__.py python/python3-apt
usr/lib/python3/dist-packages/apt/progress/__init__.py python/python3-apt
usr/lib/python3/dist-packages/apt/progress/base.py python/python3-apt
usr/lib/python3/dist-packages/boot.pth       python/python3-boot
usr/lib/python3/dist-packages/twisted/__init__.py python/python3-twisted
usr/lib/python3/dist-packages/twisted/internet/__init__.py python/python3-twisted
usr/lib/python3/dist-packages/twisted/plugins/__init__.py python/python3-twisted
usr/lib/python3/dist-packages/twisted/plugins/wormhole.py net/magic-wormhole
usr/lib/python3/dist-packages/zope/interface/__init__.py zope/python3-zope.interface
etc/NetworkManager/dispatcher.d/01-ifupdown  net/network-manager
etc/cron.d/anacron                           admin/anacron
usr/share/pkgconfig/xproto.pc                x11/x11proto-dev
oneword
"""


@pytest.fixture
def contents(tmp_path: Path) -> list[Path]:
    lines = LINES.splitlines(keepends=True)
    files = []
    for name, part in (("Contents-all.gz", lines[::2]), ("Contents-amd64.gz", lines[1::2])):
        files.append(tmp_path / name)
        files[-1].write_bytes(gzip.compress("".join(part).encode()))
    return files


@pytest.fixture
def index(contents: list[Path], fresh_state: StateDirs) -> ContentsIndex:
    return ContentsIndex.open(fresh_state, TARGET, lambda: contents)


def test_distributions(index: ContentsIndex) -> None:
    with index:
        assert index.find_distribution("idna") == Distribution("idna", "3.3", "python3-idna")
        assert index.find_distribution("SIX") == Distribution("six", "1.16.0", "python3-six")
        assert index.find_distribution("pyyaml") == Distribution("pyyaml", "6.0", "python3-yaml")
        assert index.find_distribution("zope_interface") == Distribution(
            "zope-interface", "5.5.2", "python3-zope.interface"
        )
        assert index.find_distribution("noversion") is None
        assert index.find_distribution("click") is None


def test_of_several_packages_the_one_named_after_the_project_counts(index: ContentsIndex) -> None:
    with index:
        assert index.find_distribution("two") == Distribution("two", "1.0", "python3-two")


def test_names_with_sql_in_them_are_refused_or_find_nothing(index: ContentsIndex) -> None:
    with index:
        with pytest.raises(BadNameError):
            index.find_distribution("x' OR '1'='1")
        assert index.modules("' OR 1=1 --") == index.headers("%") == ()
        assert index.counts()["dist"] == 7


def test_what_packages_have_for_themselves(index: ContentsIndex) -> None:
    with index:
        assert index.files("etc/cron.d/anacron") == ("anacron",)
        assert index.files("usr/lib/python3/dist-packages/boot.pth") == ("python3-boot",)
        assert index.files("usr/share/bash-completion/completions/tool") == ("toolbox",)
        assert index.files("etc/cron.d") == ()
        assert index.directories("etc/NetworkManager") == ("network-manager",)
        assert index.directories("usr/share/dkms") == ("dkms",)
        assert index.directories("etc/Net") == index.directories("usr/share/locale/de") == ()
        assert index.catalogues("sudo") == ("sudo",)
        assert index.trees("apt") == ("python3-apt",)
        assert index.trees("zope/interface") == ("python3-zope.interface",)
        assert index.trees("twisted/internet") == ("python3-twisted",)
        # Others put modules there, or it is a part of what is somebody's already.
        assert index.trees("twisted") == index.trees("twisted/plugins") == index.trees("zope") == ()
        assert index.trees("apt/progress") == ()


def test_what_a_compiler_can_miss(index: ContentsIndex) -> None:
    with index:
        assert index.headers("ffi.h") == ("libffi-dev",)
        assert index.headers("openssl/ssl.h") == ("libssl-dev", "libwolfssl-dev")
        assert index.headers("sl.h") == ()
        assert index.headers("glibconfig.h") == ("libglib2.0-dev",)
        assert index.headers("with space/odd.h") == ("libodd-dev",)
        assert index.system_headers("openssl/ssl.h") == ("libssl-dev",)
        assert index.system_headers("ffi.h") == ("libffi-dev",)
        assert index.system_headers("ssl.h") == ()
        assert index.pkgconfig("libffi") == index.pkgconfig("libffi.pc") == ("libffi-dev",)
        assert index.pkgconfig("xproto") == ("x11proto-dev",)
        assert index.libraries("ffi") == ("libffi-dev",)
        assert index.libraries("libffi.so.8") == ("libffi8",)
        assert index.libraries("only") == ("libonly-dev",)
        assert index.libraries("plug") == ()


def test_what_an_import_can_miss(index: ContentsIndex) -> None:
    with index:
        assert index.shared_libraries("libffi.so.8") == ("libffi8",)
        for name in ("libffi.so", "libffi", "ffi", "FFI"):
            assert index.shared_libraries(name) == ("libffi8",)
        assert index.shared_libraries("SDL2") == ("libsdl2-2.0-0",)
        assert index.shared_libraries("PortAudio") == ("libportaudio2",)
        assert index.shared_libraries("usb") == ("libusb-1.0-0", "libusb-0.1-4")
        assert index.shared_libraries("libffi.so.9") == index.shared_libraries("only") == ()
        assert index.shared_libraries("*") == index.shared_libraries("f?i") == index.shared_libraries("") == ()


def test_modules_and_programs(index: ContentsIndex) -> None:
    with index:
        assert index.modules("six") == ("python3-six",)
        assert index.modules("idna") == ("python3-idna",)
        assert index.modules("_cffi_backend") == ("python3-cffi-backend",)
        assert index.executables("protoc") == ("protobuf-compiler",)
        assert index.executables("tool") == ("toolbox",)
        assert index.executables("er") == ()


def test_made_once_for_all_who_ask_at_the_same_time(contents: list[Path], fresh_state: StateDirs) -> None:
    asked: list[int] = []

    def files() -> list[Path]:
        asked.append(1)
        return contents

    def work() -> None:
        with ContentsIndex.open(fresh_state, TARGET, files) as mine:
            found.append(mine.find_distribution("idna"))

    found: list[Distribution | None] = []
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Distribution("idna", "3.3", "python3-idna")] * 6
    assert len(asked) == 1


def test_an_old_one_is_made_anew_only_when_the_archive_changed(contents: list[Path], fresh_state: StateDirs) -> None:
    ContentsIndex.open(fresh_state, TARGET, lambda: contents).close()
    path = database_path(fresh_state, TARGET)
    inode = path.stat().st_ino
    os.utime(path, (0, 0))
    ContentsIndex.open(fresh_state, TARGET, lambda: contents).close()
    assert path.stat().st_ino == inode
    assert path.stat().st_mtime > 1
    os.utime(path, (0, 0))
    contents[0].write_bytes(
        gzip.compress(b"usr/lib/python3/dist-packages/new-1.dist-info/METADATA python/python3-new\n")
    )
    with ContentsIndex.open(fresh_state, TARGET, lambda: contents) as index:
        assert index.find_distribution("new") is not None


def test_damaged_database_is_made_anew(contents: list[Path], fresh_state: StateDirs) -> None:
    ContentsIndex.open(fresh_state, TARGET, lambda: contents).close()
    database_path(fresh_state, TARGET).write_bytes(b"no database" * 1000)
    with ContentsIndex.open(fresh_state, TARGET, lambda: contents) as index:
        assert index.find_distribution("idna") is not None


@pytest.mark.parametrize("damage", [b"no gzip at all", gzip.compress(LINES.encode())[:200]])
def test_damaged_contents_file_leaves_nothing(contents: list[Path], fresh_state: StateDirs, damage: bytes) -> None:
    contents[1].write_bytes(damage)
    with pytest.raises(ImageError, match="Contents-amd64"):
        ContentsIndex.open(fresh_state, TARGET, lambda: contents)
    assert list(fresh_state.archives.glob("*")) == []


def test_other_compressions_are_read_through_apt(tmp_path: Path, fresh_state: StateDirs) -> None:
    path = tmp_path / "Contents-all.xz"
    path.write_bytes(lzma.compress(LINES.encode()))
    with ContentsIndex.open(fresh_state, TARGET, lambda: [path]) as index:
        assert index.find_distribution("idna") == Distribution("idna", "3.3", "python3-idna")
    path.write_bytes(b"no xz at all")
    with pytest.raises(ImageError, match="Contents-all"):
        ContentsIndex.open(StateDirs.choose(tmp_path / "other"), TARGET, lambda: [path])


def test_an_archive_without_contents_files_is_an_error(fresh_state: StateDirs) -> None:
    with pytest.raises(ImageError, match="no Contents"):
        ContentsIndex.open(fresh_state, TARGET, list)


# -- mirrors whose Contents files do not match their Release file ---------------------------------------------------------


SAID = (
    "Err:4 http://mirror.example/debian Contents\n"
    "  File has unexpected size (5 != 6). Mirror sync in progress? [IP: 192.0.2.1 80]"
)
PACKAGES = {
    "python3-idna": ("3.3-1+deb12u1", "python-idna"),
    "python3-yaml": ("6.0-3", "pyyaml"),
    "python3-two": ("1:2.0-1", "both"),
    "python3-three": ("1:2.0-1", "both"),
    "python3-getfem++": ("1-1", "getfem"),
}


def unusable() -> list[Path]:
    raise NetworkError("cannot fetch package lists", details=SAID)


class Notes:
    """A monitor that keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def emit(self, event: Event) -> None:
        """Keep it."""
        if isinstance(event, Note) and event.warning:
            self.warnings.append(event.text)


def test_broken_mirror_leaves_the_last_index_in_use(contents: list[Path], fresh_state: StateDirs) -> None:
    ContentsIndex.open(fresh_state, TARGET, lambda: contents).close()
    path = database_path(fresh_state, TARGET)
    os.utime(path, (0, 0))
    told = Notes()
    with ContentsIndex.open(fresh_state, TARGET, unusable, python_packages=lambda: PACKAGES, monitor=told) as index:
        assert index.find_distribution("pyyaml") == Distribution("pyyaml", "6.0", "python3-yaml")
        assert not index.names_only
    (warning,) = told.warnings
    assert "File has unexpected size (5 != 6)" in warning
    assert "1970-01-01" in warning, "it says of when the files are"
    assert "mirror.example" not in warning
    assert "192.0.2.1" not in warning


def test_broken_mirror_leaves_names_of_packages(contents: list[Path], fresh_state: StateDirs) -> None:
    told = Notes()
    with ContentsIndex.open(fresh_state, TARGET, unusable, python_packages=lambda: PACKAGES, monitor=told) as index:
        assert index.names_only
        assert index.find_distribution("idna") == Distribution("idna", "3.3", "python3-idna")
        assert index.find_distribution("pyyaml") == Distribution("pyyaml", "6.0", "python3-yaml")
        assert index.find_distribution("two") == Distribution("two", "2.0", "python3-two")
        assert index.find_distribution("both") is None, "a source of two packages names neither"
        assert index.modules("yaml") == ("python3-yaml",)
        assert index.executables("tool") == ()
    assert len(told.warnings) == 1

    def asked() -> list[Path]:
        pytest.fail("the mirror is asked again within the hour")

    with ContentsIndex.open(fresh_state, TARGET, asked, python_packages=lambda: PACKAGES, monitor=told):
        assert len(told.warnings) == 2, "each command says so"
    resting = database_path(fresh_state, TARGET).with_name(f"{database_path(fresh_state, TARGET).name}.unusable")
    os.utime(resting, (0, 0))
    with ContentsIndex.open(fresh_state, TARGET, lambda: contents, monitor=told) as index:
        assert not index.names_only
        assert index.executables("tool") == ("toolbox",)
    assert len(told.warnings) == 2, "a mirror that is whole again is used without a word"


def test_broken_mirror_is_an_error_where_nothing_else_tells(fresh_state: StateDirs) -> None:
    with pytest.raises(NetworkError):
        ContentsIndex.open(fresh_state, TARGET, unusable)
