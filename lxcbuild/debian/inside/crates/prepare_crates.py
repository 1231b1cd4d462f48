"""Have cargo resolve a project's crates before anything is compiled: from a directory without network, or from a registry.

``suite``: the manifests are made to ask for what the suite has, and cargo resolves them from its directory. ``fetch``: cargo
vendors what Cargo.lock names (it checks the checksums), and the files of the crates are left for the host, which checks them again.
No code of the project or of a crate runs: cargo runs none to resolve and to vendor. Leaves /out/crates.json.
"""

from __future__ import annotations

import os
import shutil
import subprocess  # noqa: TID251 (inside the sandbox there is no lxcbuild.process)
import sys
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.crates.crates_patch import crates_patch
from lxcbuild.debian.inside.crates.crates_reading import load
from lxcbuild.debian.inside.patches import apply_patches
from lxcbuild.debian.inside.report import OUT, answer, clip, clip_all, read_request
from lxcbuild.debian.inside.unpack import unpack

_HOME = Path("/build/cargo-home")
_VENDOR = Path("/build/vendor")
_MAX_CRATES = 900
_LOCK_KEYS = ("name", "version", "checksum", "source")


def main(arguments: list[str]) -> int:
    """Entry point."""
    assert not arguments
    return answer("crates.json", _prepare, fallback_class="build-dep-missing")


def _prepare() -> dict[str, Any]:
    request = read_request()
    tree = Path(request["tree"])
    unpack(Path(request["archive"]), tree)
    apply_patches(tree)
    _HOME.mkdir()
    (_HOME / "config.toml").write_text(request["config"], "utf-8")
    roots = _roots(tree, request["roots"])
    if request["mode"] == "fetch":
        return _fetch(roots, locked=request["lock_path"] is not None)
    patch, refused = crates_patch(tree, request["manifests"], request["relaxed"], request["machine"])
    if refused:
        return {"patch": None, "error": f"cannot be rewritten: {', '.join(clip_all(refused, count=5, limit=200))}"}
    for root in roots:
        (root.parent / "Cargo.lock").unlink(missing_ok=True)
        _, said = _cargo("metadata", "--offline", "--format-version", "1", f"--manifest-path={root}")
        if said is not None:
            return {"patch": None, "error": clip(said, 4000)}
    return {"patch": patch, "error": None}


def _roots(tree: Path, manifests: list[str]) -> list[Path]:
    """The manifest of each workspace that the build names, or of each package that stands for itself."""
    found: dict[Path, Path] = {}
    for name in manifests:
        ended, said = _cargo(
            "locate-project", "--workspace", "--message-format=plain", f"--manifest-path={tree / name}"
        )
        top = Path(ended.strip()) if said is None else tree / name
        found.setdefault(top, top)
    return list(found)


def _fetch(roots: list[Path], *, locked: bool) -> dict[str, Any]:
    others = [f"--sync={root}" for root in roots[1:]]
    held = ["--locked"] if locked else []
    options = ["--versioned-dirs", "--respect-source-config", *held, f"--manifest-path={roots[0]}", *others]
    _, said = _cargo("vendor", *options, os.fspath(_VENDOR))
    if said is not None:
        return {"error": clip(said, 4000), "crates": []}
    files = sorted((_HOME / "registry" / "cache").glob("*/*.crate"))
    vendored = {path.name for path in _VENDOR.iterdir()}
    taken = [path for path in files if path.name[: -len(".crate")] in vendored]
    if len(taken) > _MAX_CRATES:
        return {"error": f"{len(taken)} crates are more than {_MAX_CRATES}", "crates": []}
    if len(taken) < len(vendored):
        known = {path.name[: -len(".crate")] for path in taken}
        names = clip_all(sorted(vendored - known), count=10, limit=100)
        return {"error": f"not from a registry: {', '.join(names)}", "crates": []}
    for path in taken:
        shutil.copyfile(path, OUT / path.name)
    return {"error": None, "crates": _locked(roots)}


def _locked(roots: list[Path]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for root in roots:
        packages = load(root.parent / "Cargo.lock").get("package")
        listed = [item for item in packages if isinstance(item, dict)] if isinstance(packages, list) else []
        found += [{key: clip(item.get(key), 500) for key in _LOCK_KEYS} for item in listed if item.get("source")]
    return found


def _cargo(*arguments: str) -> tuple[str, str | None]:
    """What cargo printed as a result; and what it said where it failed."""
    env = {**os.environ, "CARGO_HOME": os.fspath(_HOME), "CARGO_TERM_COLOR": "never", "CARGO_NET_RETRY": "2"}
    done = subprocess.run(
        ["/usr/bin/cargo", *arguments],
        cwd="/build",
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode("utf-8", "replace")
    sys.stderr.write(said[-20_000:])
    sys.stderr.flush()
    return done.stdout.decode("utf-8", "replace"), None if done.returncode == 0 else said[-4000:] or "cargo failed"
