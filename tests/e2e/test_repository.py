"""``lxcbuild repo`` as a user runs it, and ``apt install`` from it in a fresh container, over file: and HTTP."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec.structs
import pytest

from lxcbuild.events import NullMonitor
from lxcbuild.images import install
from lxcbuild.images.store import ImageStore
from lxcbuild.model import Target
from lxcbuild.policy import NetworkMode
from lxcbuild.sandbox.base import Bind, InstanceSpec, Step, User
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.state.paths import StateDirs
from tests.support.command import LxcBuild

pytestmark = [pytest.mark.root, pytest.mark.network]

TARGET = "debian/bookworm"

#: What a user does, as the printed lines say; the archive's own lists stay away, because there is no network here.
SCRIPT = """
set -eu
line() {
    echo "deb [signed-by=/etc/apt/keyrings/lxcbuild-archive.asc] $1 bookworm-lxcbuild main" >/etc/apt/sources.list.d/lxcbuild.list
}
cp -r /in/repo /srv/repo
install -D -m 644 /srv/repo/lxcbuild-archive.asc /etc/apt/keyrings/lxcbuild-archive.asc
cp /srv/repo/lxcbuild.pref /etc/apt/preferences.d/lxcbuild.pref
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
for url in file:/srv/repo http://127.0.0.1:8000; do
    line $url
    if [ $url = http://127.0.0.1:8000 ]; then
        python3 -m http.server --bind 127.0.0.1 --directory /srv/repo 8000 >/dev/null 2>&1 &
        server=$!
        until python3 -c 'import socket; socket.create_connection(("127.0.0.1", 8000))' 2>/dev/null; do sleep 0.1; done
    fi
    apt-get -q update
    apt-get -q -y install python3-demo
    python3 -c 'import demo; print("imported", demo.x)'
    apt-get -q -y purge python3-demo
done
kill $server
# Without its signature nothing of it is taken.
sed -i s/NotAutomatic/NotAutomatix/ /srv/repo/dists/bookworm-lxcbuild/InRelease
line file:/srv/repo
rm -rf /var/lib/apt/lists/*
if apt-get -q update; then echo "a broken signature was taken"; exit 1; fi
echo refused
"""
CONTROL = """\
Package: python3-demo
Source: python-demo
Version: 1.0-1
Architecture: all
Maintainer: A B <a@example.org>
Depends: python3:any
Description: demonstration
 It demonstrates.
"""


def demo(directory: Path) -> Path:
    tree = directory / "tree"
    for name, text in (("DEBIAN/control", CONTROL), ("usr/lib/python3/dist-packages/demo.py", "x = 1\n")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, directory], check=True, capture_output=True)
    return directory / "python3-demo_1.0-1_all.deb"


def test_a_clean_container_installs_from_the_repository(
    lxcbuild: LxcBuild, state: StateDirs, tmp_path: Path, made_image: Callable[[str], None]
) -> None:
    made_image(TARGET)
    repository = tmp_path / "repo"
    assert lxcbuild("repo", "init", repository).status == 0
    added = lxcbuild("repo", "add", "--json", repository, "-t", TARGET, demo(tmp_path))
    assert added.document["suites"][0]["added"] == ["python3-demo_1.0-1_all"]
    listed = lxcbuild("repo", "list", repository)
    assert f"file:{repository} bookworm-lxcbuild main" in listed.stderr
    assert lxcbuild("repo", "verify", repository).status == 0
    subprocess.run(["chmod", "-R", "a+rX", tmp_path], check=True)
    said: list[bytes] = []
    with LxcBackend(state) as backend, contextlib.closing(ImageStore(state, NullMonitor())) as images:
        spec = InstanceSpec(
            instance_id="test-repository",
            lowers=(images.get(Target.parse(TARGET)).path,),
            policy=msgspec.structs.replace(install.provision_policy(1 << 20), network=NetworkMode.LOOPBACK),
            binds=(Bind(host=repository, inside="/in/repo"),),
        )
        with backend.create(spec) as instance:
            instance.start()
            step = Step(
                argv=("/bin/sh", "-c", SCRIPT), user=User.ROOT, cwd="/", env={"DEBIAN_FRONTEND": "noninteractive"}
            )
            result = instance.run(step, said.append)
    text = b"".join(said).decode(errors="replace")
    assert result.ok, text
    assert text.count("imported 1") == 2
    assert text.rstrip().endswith("refused")
    assert lxcbuild("repo", "remove", repository, "python-demo", "-t", TARGET).status == 0
    assert lxcbuild("repo", "list", "--json", repository).document["suites"]["bookworm-lxcbuild"]["packages"] == []


def test_a_damaged_repository_is_told_apart(lxcbuild: LxcBuild, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    assert lxcbuild("repo", "verify", repository).status == 51
    assert lxcbuild("repo", "init", repository, "--valid-days", "7").status == 0
    assert lxcbuild("repo", "add", repository, "-t", TARGET, demo(tmp_path)).status == 0
    next(repository.glob("pool/**/*.deb")).write_bytes(b"other")
    ended = lxcbuild("repo", "verify", "--json", repository)
    assert ended.status == 51
    assert ended.document["problems"][0]["what"].startswith("has 5 bytes")
