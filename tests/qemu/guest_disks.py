"""What a guest is made of: a Debian root, its kernel, a small initramfs, Python libraries, and a disk with our checkout.

Everything that takes long is made once and kept below the tests' state directory; the checkout is copied for every run.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_HERE = Path(__file__).parent
#: What a fresh Debian machine has after scripts/quickstart, without what only makes images (those are brought along).
_PACKAGES = (
    "systemd-sysv,kmod,udev,python3,python3-lxc,lxc,uidmap,zstd,mmdebstrap,gpgv,debian-archive-keyring,busybox-static"
)
#: The kernel package is unpacked and not installed: its scripts would make an initramfs that nobody boots.
_KERNEL_HOOK = """set -e
name=$(chroot "$1" apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
mkdir "$1/k"
chroot "$1" sh -ec "cd /k && apt-get -q download $name && dpkg-deb -x $name*.deb /k"
mv "$1"/k/boot/vmlinuz-* "$1/boot/"
mkdir -p "$1/usr/lib/modules"
mv "$(find "$1/k" -path '*/lib/modules/*' -prune)" "$1/usr/lib/modules/"
rm -rf "$1/k"
chroot "$1" depmod "$(basename "$1"/usr/lib/modules/*)"
"""
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "ext4", "crc32c_generic")
_NOT_FOR_GUESTS = {"stdeb"}  # used inside of sandboxes, never by the host part
_DISK_BYTES = 6 << 30  # sparse


@dataclass(frozen=True)
class Boot:
    """What QEMU needs to start a guest."""

    kernel: Path
    initramfs: Path
    root_disk: Path
    python: str  # 3.11
    libraries: Path


def _run(*argv: str | Path, **options: object) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    assert done.returncode == 0, f"{' '.join(map(str, argv))}\n{done.stdout[-3000:]}"
    return done.stdout


def make_boot(place: Path, suite: str) -> Boot:
    """Everything that does not depend on the checkout, below ``place``; made when it is not there."""
    home = place / f"{suite}-{_recipe()}"
    if not (home / "complete").exists():
        for old in place.glob(f"{suite}-*"):
            shutil.rmtree(old)
        home.mkdir(parents=True)
        tree = home / "tree"
        _run(
            "mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", f"--customize-hook={_KERNEL_HOOK}", suite, tree
        )
        _settle(tree)
        (kernel,) = (tree / "boot").glob("vmlinuz-*")
        shutil.copyfile(kernel, home / "vmlinuz")
        (home / "initramfs").write_bytes(_initramfs(tree))
        ext4_disk(home / "root.ext4", tree)
        (version,) = (tree / "usr/lib").glob("python3.*/os.py")
        (home / "python").write_text(version.parent.name.removeprefix("python"))
        shutil.rmtree(tree)
        (home / "complete").touch()
    python = (home / "python").read_text()
    return Boot(home / "vmlinuz", home / "initramfs", home / "root.ext4", python, _libraries(place, python))


def _recipe() -> str:
    """Eight digits that differ when a root would be made differently; the packages' versions are not part of it."""
    parts = (_PACKAGES, _KERNEL_HOOK, _INIT, *_BOOT_MODULES, (_HERE / "guest.service").read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _settle(tree: Path) -> None:
    """Root's ids, and a target of systemd that holds nothing but our service."""
    for name in ("subuid", "subgid"):
        (tree / "etc" / name).write_text("root:100000:65536000\n")
    units = tree / "etc/systemd/system"
    shutil.copyfile(_HERE / "guest.service", units / "guest.service")
    (units / "guest.target").write_text("[Unit]\nRequires=basic.target guest.service\nAfter=basic.target\n")
    (tree / "etc/fstab").write_text("/dev/vdb /var/tmp ext4 defaults 0 0\n")
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")


def ext4_disk(file: Path, tree: Path) -> None:
    """A sparse disk image with one ext4 file system that holds a copy of ``tree``."""
    file.unlink(missing_ok=True)
    with file.open("xb") as made:
        made.truncate(_DISK_BYTES)
    _run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-m", "0", "-d", tree, file)


def _libraries(place: Path, python: str) -> Path:
    """Our dependencies and pytest for the guest's Python, from the package index that pip is configured with."""
    target = place / f"libraries-{python}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tests = [line for line in project["optional-dependencies"]["dev"] if re.match("pytest", line)]
    wanted = [
        line for line in [*project["dependencies"], *tests] if re.split(r"[^\w-]", line)[0] not in _NOT_FOR_GUESTS
    ]
    stamp = target / ".wanted"
    if not stamp.exists() or stamp.read_text() != "\n".join(wanted):
        shutil.rmtree(target, ignore_errors=True)
        binary = ("--only-binary=:all:", "--implementation=cp", f"--python-version={python}")
        platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("_2_28", "_2_17", "2014")]
        _run(sys.executable, "-m", "pip", "install", "-q", *binary, *platforms, "--target", target, *wanted)
        stamp.write_text("\n".join(wanted))
    return target


def work_disk(file: Path, boot: Boot, *, images: Path, staging: Path) -> None:
    """The disk of one run: our checkout, the libraries, and the base images that the guest cannot fetch."""
    for name in ("lxcbuild", "rootfs", "cgroups", "tests"):
        shutil.copytree(ROOT / name, staging / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", staging / "checkout/pyproject.toml")
    shutil.copytree(boot.libraries, staging / "libraries")
    (staging / "more-tests").write_text(os.environ.get("LXCBUILD_GUEST_TESTS", ""))
    cache = staging / "state/cache/images"
    cache.mkdir(parents=True)
    for path in images.glob("debian-bookworm[.-]*"):
        if path.is_file():
            shutil.copyfile(path, cache / path.name)
    ext4_disk(file, staging)


# -- initramfs --------------------------------------------------------------------------------------------------

_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev /root
/bin/busybox mount -t devtmpfs none /dev
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod /$module; done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox poweroff -f
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""


def _initramfs(tree: Path) -> bytes:
    """A cpio archive with busybox and the modules that lead to the root disk."""
    (modules,) = (tree / "usr/lib/modules").iterdir()
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, below = line.partition(":")
        needs[path] = below.split()
    by_name = {path.rsplit("/", 1)[1].split(".")[0].replace("-", "_"): path for path in needs}
    order: list[str] = []
    for name in _BOOT_MODULES:
        if name in by_name:  # what is built in has no module
            chain = [*reversed(needs[by_name[name]]), by_name[name]]
            order += [path for path in chain if path not in order]
    files = {"bin/busybox": (0o755, (tree / "bin/busybox").read_bytes()), "init": (0o755, _INIT.encode())}
    for path in order:
        data = (modules / path).read_bytes()
        if path.endswith(".xz"):
            data = lzma.decompress(data)
        files[path.rsplit("/", 1)[1].removesuffix(".xz")] = (0o644, data)
    files["modules"] = (0o644, "\n".join(name for name in files if name.endswith(".ko")).encode())
    return cpio(files)


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """The "newc" format (Linux: Documentation/driver-api/early-userspace/buffer-format.rst), with the directory bin."""
    parts: list[bytes] = []
    entries = [("bin", 0o040755, b""), *((name, 0o100000 | mode, data) for name, (mode, data) in files.items())]
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + os.fsencode(name) + b"\0"
        parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]
    return b"".join(parts)
