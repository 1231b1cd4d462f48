"""Can trees in memory be used by sandboxes here? Tried once per boot and state directory; the answer is kept.

Sandboxes see base images through id-mapped clones. A tmpfs can be id-mapped since Linux 6.3 only; ext4, xfs and btrfs could before
(5.12 to 5.15). So on Debian 12's own kernel (6.1) images stay on disk, where the page cache holds what is used in memory anyway.
"""

from __future__ import annotations

import json
from pathlib import Path

from lxcbuild.files import write_whole
from lxcbuild.linux import ids, probe
from lxcbuild.state.paths import StateDirs

_FILE = "tmpfs-maps.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # differs from boot to boot (random(4)): kernels change then only


def refusal(dirs: StateDirs) -> str | None:
    """None when images can lie in a tmpfs, else why this kernel cannot have them there. The first call per boot needs root."""
    boot = _BOOT_ID.read_text().strip()
    known = _read(dirs)
    if known is not None and known.get("boot_id") == boot:
        return known["refusal"]
    starts = ids.IdAllocator().starts()
    if not starts:
        return None  # no sandbox can start at all without ids, and that error has its own words
    said = probe.overlay_on_idmapped(None, id_base=starts[0])
    if said is not None:
        said = f"this kernel cannot id-map a tmpfs ({said}; Linux 6.3 and later can)"
    dirs.run.mkdir(parents=True, exist_ok=True)
    write_whole(dirs.run / _FILE, json.dumps({"boot_id": boot, "refusal": said}), durable=False)
    return said


def known_refusal(dirs: StateDirs) -> str | None:
    """What :func:`refusal` found since the last boot, without trying; None when it found nothing wrong or was not asked."""
    known = _read(dirs)
    return None if known is None or known.get("boot_id") != _BOOT_ID.read_text().strip() else known["refusal"]


def _read(dirs: StateDirs) -> dict[str, str | None] | None:
    try:
        found: dict[str, str | None] = json.loads((dirs.run / _FILE).read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # half-written by a machine that lost power: found out anew
        return None
    return found
