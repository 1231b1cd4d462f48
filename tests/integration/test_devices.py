"""Device nodes in a sandbox, with and without the devices controller (cgroup v2 has none): none can be made, none can be opened.

What guards: the user namespace (mknod(2) of devices needs CAP_MKNOD in the first one), nodev on every mount but /dev, and /dev,
which is read-only and holds only what lxcbuild put there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lxcbuild.sandbox.base import Bind, User
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.sandbox.lxc_instance import LxcInstance
from tests.integration.lxc_sandboxes import shell, spec

pytestmark = pytest.mark.root

KMSG = os.makedev(1, 11)  # Linux: Documentation/admin-guide/devices.txt


@pytest.mark.parametrize("user", [User.ROOT, User.BUILD])
def test_no_device_node_can_be_made(running: LxcInstance, user: User) -> None:
    script = """
        for place in /tmp /build /dev/shm /dev /dev/pts /out; do
            for device in 'c 1 11' 'c 1 1' 'b 8 0' 'b 254 0' 'c 10 200' 'c 10 229'; do
                mknod $place/it $device 2>/dev/null && echo made $place $device
            done
        done
        mknod /tmp/fifo p && echo fifo
        echo end
    """
    assert shell(running, script, user=user)[1] == "fifo\nend\n", "pipes are no devices"


@pytest.fixture
def smuggled(rootfs: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A layer with device nodes that everybody may open, as a hostile image could bring, and a directory like it."""
    layer, shown = tmp_path / "layer", tmp_path / "shown"
    for place in (layer, shown):
        place.mkdir()
        os.mknod(place / "kmsg", stat.S_IFCHR | 0o666, KMSG)
        (place / "kmsg").chmod(0o666)
    return layer, shown


def test_a_device_node_that_is_brought_along_cannot_be_opened(
    backend: LxcBackend, rootfs: Path, smuggled: tuple[Path, Path]
) -> None:
    layer, shown = smuggled
    binds = (Bind(host=shown, inside="/in/shown"),)
    with backend.create(spec(rootfs, lowers=(layer, rootfs), binds=binds)) as instance:
        instance.start()
        for user in (User.ROOT, User.BUILD):
            _, out = shell(
                instance, "for f in /kmsg /in/shown/kmsg; do test -c $f && (exec 3<$f) 2>&1; done", user=user
            )
            assert out.count("Permission denied") == 2, out


def test_the_nodes_of_dev_open(running: LxcInstance) -> None:
    _, out = shell(running, "for n in null zero full random urandom; do (exec 3</dev/$n) && echo $n; done")
    assert out.split() == ["null", "zero", "full", "random", "urandom"]


def test_outside_the_same_node_opens(smuggled: tuple[Path, Path]) -> None:
    """The counter-test: what refuses is the sandbox. (Only a mount with nodev, as some hosts have for /tmp, refuses here, too.)"""
    layer, _ = smuggled
    if os.statvfs(layer).f_flag & os.ST_NODEV:
        pytest.skip("the test's directory is mounted with nodev on this host")
    os.close(os.open(layer / "kmsg", os.O_RDONLY | os.O_NONBLOCK))
