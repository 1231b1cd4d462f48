"""Attack 40: overlay's own marks in a writable layer that is saved."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lxcbuild.sandbox.base import Step, User
from tests.attacks.attacking import run_script

pytestmark = pytest.mark.root


def marks_of(tree: Path) -> dict[str, list[str]]:
    """Every extended attribute below a directory, by relative path."""
    paths = [tree, *tree.rglob("*")]
    return {
        str(path.relative_to(tree)): names for path in paths if (names := os.listxattr(path, follow_symlinks=False))
    }


@pytest.mark.attack(number=40)
@pytest.mark.parametrize("user", [User.BUILD, User.ROOT])
def test_marks_planted_inside_do_not_reach_a_layer(sandbox, tmp_path: Path, rootfs: Path, user: User) -> None:
    instance = sandbox(name="plants")
    if user is User.BUILD:
        instance.run(Step(argv=("chown", "1000:1000", "/srv"), user=User.ROOT), lambda _: None)
    said = run_script(instance, "attack_40_overlay_marks", user=user)
    assert said.result.ok, said
    lines = dict(line.rsplit(" ", 1) for line in said.text.splitlines())
    assert all(
        outcome in ("EPERM", "ENOTSUP", "EOPNOTSUPP") for what, outcome in lines.items() if what[:7] == "trusted"
    )
    assert lines["device /srv/mem"] == "EPERM"
    instance.stop()
    layer = tmp_path / "layer"
    instance.save_delta(layer)
    assert marks_of(layer) == {}
    instance.close()
    assert_inert(sandbox(name="uses", lowers=(layer, rootfs)))


@pytest.mark.attack(number=40)
def test_marks_planted_on_the_host_are_dropped_too(sandbox, tmp_path: Path, rootfs: Path) -> None:
    """The kernel refuses trusted.* inside; this asks what would be if it did not."""
    instance = sandbox(name="plants")
    script = "mkdir -p /srv/marked; echo f > /srv/marked/f; chmod 755 /srv"
    assert instance.run(Step(argv=("sh", "-c", script), user=User.ROOT), lambda _: None).ok
    upper = Path(f"/proc/self/fd/{instance._upper_fd}")
    for name, value in (("redirect", b"/etc"), ("metacopy", b""), ("origin", b"x"), ("whiteout", b"")):
        for path in ("srv/marked", "srv/marked/f"):
            os.setxattr(upper / path, f"trusted.overlay.{name}", value)
    instance.stop()
    layer = tmp_path / "layer"
    instance.save_delta(layer)
    assert marks_of(layer) == {}
    instance.close()
    assert_inert(sandbox(name="uses", lowers=(layer, rootfs)))


def assert_inert(instance) -> None:
    heard: list[bytes] = []
    script = "cat /srv/marked/f; ls /srv/marked; test -s /etc/passwd && echo there"
    result = instance.run(Step(argv=("sh", "-c", script)), heard.append)
    assert (result.exit_status, b"".join(heard)) == (0, b"f\nf\nthere\n")
