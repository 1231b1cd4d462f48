"""A build without any clean room, for comparison: ``dpkg-buildpackage`` in the same tree, in a chroot, on tmpfs.

Only for the samples that we chose: a chroot with namespaces confines nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lxcbuild import process
from lxcbuild.debian.source.compilation import BASE_ENVIRONMENT
from lxcbuild.errors import CommandError

_LIMIT_S = 1800.0
#: What a maintainer would write, and no more.
PLAIN_RULES = """\
#!/usr/bin/make -f
export PYBUILD_NAME = {name}
%:
\tdh $@ --with python3 --buildsystem=pybuild
"""
# All that it mounts is gone with the namespace. The clock runs for dpkg-buildpackage alone.
_SCRIPT = """\
set -eu
scratch=$1 lowers=$2 sources=$3 dsc=$4 options=$5; shift 5
mount -t tmpfs -o mode=755 none "$scratch"
root=$scratch/root
mkdir "$scratch/upper" "$scratch/work" "$root"
mount -t overlay -o "lowerdir=$lowers,upperdir=$scratch/upper,workdir=$scratch/work" none "$root"
mkdir -p "$root/proc" "$root/dev" "$root/tmp" "$root/build"
mount -t proc none "$root/proc"
mount --rbind /dev "$root/dev"
chmod 1777 "$root/tmp"
cp "$sources"/* "$root/build/"
chown -R 1000:1000 "$root/build"
inside() { env -i "$@"; }
inside "$@" chroot --userspec=1000:1000 "$root" sh -ec 'cd /build; dpkg-source --no-check -x "$1" src' - "$dsc" 2>&1
if [ -e "$sources/rules" ]; then cp "$sources/rules" "$root/build/src/debian/rules"; fi
before=$(date +%s%N)
inside "$@" chroot --userspec=1000:1000 "$root" sh -ec 'cd /build/src; exec dpkg-buildpackage $1' - "$options" 2>&1
after=$(date +%s%N)
mkdir "$sources/built"
cp "$root"/build/*.deb "$sources/built/"
echo "took $((after - before))"
"""


def build(
    files: Sequence[Path],
    lowers: Sequence[Path],
    *,
    options: Sequence[str],
    parallel: int,
    rules: str | None,
    keep: Path,
) -> float:
    """Unpack the source package, build it, and return the seconds that ``dpkg-buildpackage`` took.

    ``files`` has the .dsc and what it names; ``rules`` takes the place of its debian/rules. The binary packages go to ``keep``.
    Raises CommandError when the build fails.
    """
    memory = Path("/dev/shm")  # noqa: S108 - the sources are in memory, as our sandboxes have theirs
    with tempfile.TemporaryDirectory(dir=memory, prefix="lxcbuild-bench-") as place:
        scratch, sources = Path(place) / "tree", Path(place) / "sources"
        scratch.mkdir()
        sources.mkdir()
        for file in files:
            (sources / file.name).write_bytes(file.read_bytes())
        if rules is not None:
            (sources / "rules").write_text(rules)
            (sources / "rules").chmod(0o755)
        (dsc,) = (file.name for file in files if file.suffix == ".dsc")
        variables = [f"{name}={value}" for name, value in _environment(parallel).items()]
        stack = ":".join(os.fspath(lower) for lower in lowers)
        kinds = ("--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child")
        arguments = (os.fspath(scratch), stack, os.fspath(sources), dsc, " ".join(options), *variables)
        done = process.run(("unshare", *kinds, "sh", "-c", _SCRIPT, "-", *arguments), timeout_s=_LIMIT_S)
        keep.mkdir(parents=True, exist_ok=True)
        for deb in (sources / "built").iterdir():
            (keep / deb.name).write_bytes(deb.read_bytes())
    last = done.stdout.decode(errors="replace").strip().splitlines()[-1]
    if not last.startswith("took "):
        raise CommandError(f"the bare build did not say how long it took, but: {last[:200]}")
    return int(last.removeprefix("took ")) / 1e9


def _environment(parallel: int) -> Mapping[str, str]:
    """As our own builds have it: equal work."""
    return {
        **BASE_ENVIRONMENT,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEB_BUILD_OPTIONS": f"parallel={parallel} noautodbgsym nocheck",
        "DPKG_DEB_THREADS_MAX": str(parallel),
    }
