"""Ask a project's build backend what else it needs (``get_requires_for_build_wheel``), or let it build a wheel.

Runs the project's own code as the unprivileged user; what it answers is only a document of texts. Leaves /out/backend.json.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.patches import apply_patches
from lxcbuild.debian.inside.report import OUT, answer, clip, clip_all, read_request
from lxcbuild.debian.inside.unpack import unpack

_LEGACY = "setuptools.build_meta:__legacy__"


def main(arguments: list[str]) -> int:
    """Entry point."""
    assert not arguments
    return answer("backend.json", _ask, fallback_class="build-dep-missing")


def _ask() -> dict[str, Any]:
    request = read_request()
    tree = Path(request["tree"])
    unpack(Path(request["archive"]), tree)
    apply_patches(tree)
    os.chdir(tree)
    # What the backend prints is for the log; nothing of ours is on its path.
    sys.path[:] = [entry for entry in sys.path if not entry.startswith("/lxcbuild/")]
    sys.path[:0] = [str(tree / entry) for entry in request["backend_path"]]
    try:
        backend = _load(request["backend"] or _LEGACY)
        hook = getattr(backend, "get_requires_for_build_wheel", None)
        requires = clip_all(list(hook({}))) if hook is not None else []
        if request["make_wheel"]:
            OUT.mkdir(exist_ok=True)
            backend.build_wheel(str(OUT), {}, None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a backend may raise whatever it likes)
        traceback.print_exc()
        return {"requires": [], "error": clip(f"{type(error).__name__}: {error}", 2000)}
    return {"requires": requires, "error": None}


def _load(text: str) -> Any:
    module, _, attribute = text.partition(":")
    found: Any = importlib.import_module(module)
    for name in attribute.split(".") if attribute else ():
        found = getattr(found, name)
    return found
