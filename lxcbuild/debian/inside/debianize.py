"""Lay a generated debian/ around the sources of a Python project; leaves /out/conversion.json.

The host decided every file. With ``stdeb`` in the request the real stdeb runs first (it executes setup.py), and what it
knows beyond the host's files is kept: its rules, and the relations that a stdeb.cfg of the project names.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess  # noqa: TID251 (inside the sandbox there is no lxcbuild.process)
import sys
import tarfile
from pathlib import Path
from typing import Any

from lxcbuild.debian.inside.metadata_patch import PATCH, metadata_patch
from lxcbuild.debian.inside.patches import patched
from lxcbuild.debian.inside.report import answer, read_request, refuse, say
from lxcbuild.debian.inside.unpack import unpack

#: Begins the line that tells the orig tarball's SHA-256.
ORIG = "orig tarball sha256:"
_MAGIC = ((b"\x1f\x8b", "gz"), (b"BZh", "bz2"), (b"\xfd7zXZ\x00", "xz"))
# Fields of a stdeb.cfg that add to the host's; a project may not displace other packages.
_KEPT_FIELDS = ("Recommends", "Suggests")
# stdeb cannot take a project that says nothing of itself (what is not there is None to it).
_RUN_SETUP = """
import sys
sys.path.insert(0, '')
sys.argv[0] = __file__ = 'setup.py'
import setuptools
from distutils.dist import DistributionMetadata
def told(method, otherwise):
    return lambda self: method(self) or otherwise
for name, otherwise in (('get_description', 'Python project'), ('get_long_description', '')):
    setattr(DistributionMetadata, name, told(getattr(DistributionMetadata, name), otherwise))
exec(compile(open('setup.py', 'rb').read(), 'setup.py', 'exec'))
"""


def main(arguments: list[str]) -> int:
    """Entry point."""
    assert not arguments
    return answer("conversion.json", _debianize, fallback_class="convert-failed")


def _debianize() -> dict[str, Any]:
    request = read_request()
    tree, archive = Path(request["tree"]), Path(request["archive"])
    notes: list[str] = []
    unpack(archive, tree)
    debian = tree / "debian"
    if debian.is_symlink() or debian.exists():
        debian.rename(tree.parent / "shipped-debian")
        notes.append("the debian directory that the project ships was moved aside")
    notes.extend(_strip_bytecode(tree))
    orig = _orig_tarball(archive, tree, request, notes)
    digest = _sha256(tree.parent / orig)
    files: dict[str, str] = dict(request["files"])
    # dpkg-source applies patches before the build; until then the tree stays as upstream's.
    with patched(tree):
        if request["stdeb"] is not None:
            _run_stdeb(tree, request["stdeb"], request["environment"])
            if not request["plain_install"]:
                files["rules"] = _stdeb_rules(debian, files["rules"])
            files["control"] = _stdeb_control(debian, files["control"])
            (debian / "compat").unlink()
        patch = metadata_patch(tree) if request["lower_metadata"] else None
    if patch is not None:
        files.update({f"patches/{PATCH}": patch, "patches/series": f"{files.get('patches/series', '')}{PATCH}\n"})
        notes.append("pyproject.toml was patched: the suite's backend does not know its licence fields")
    for name, text in files.items():
        path = debian / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        os.utime(path, (request["timestamp"], request["timestamp"]))
    (debian / "rules").chmod(0o755)
    say(f"{ORIG}{digest}")  # the host hears it before any code of the package can say otherwise
    return {"orig_tarball": orig, "notes": notes}


def _strip_bytecode(tree: Path) -> list[str]:
    """Shipped bytecode is of another Python, or hides what runs; dpkg-source ignores that a file is gone."""
    gone = 0
    for place, directories, names in os.walk(tree):
        for name in names:
            if name.endswith((".pyc", ".pyo")):
                (Path(place) / name).unlink()
                gone += 1
        directories.sort()
    return [f"{gone} shipped bytecode files were left out"] if gone else []


def _orig_tarball(archive: Path, tree: Path, request: dict[str, Any], notes: list[str]) -> str:
    """The sdist's own bytes when dpkg-source can read them, else a repacked tree with fixed owners, order and times."""
    with archive.open("rb") as file:
        start = file.read(8)
    compression = next((name for magic, name in _MAGIC if start.startswith(magic)), None)
    if compression is not None:
        path = Path(f"{request['orig']}.tar.{compression}")
        shutil.copyfile(archive, path)
        return path.name
    path = Path(f"{request['orig']}.tar.gz")
    notes.append("the source archive was repacked as tar.gz")

    def neutral(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        info.mtime = request["timestamp"]  # directories have that of unpacking
        return info

    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=request["timestamp"]) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar,
    ):
        for member in [tree, *sorted(tree.rglob("*"))]:
            tar.add(member, arcname=member.relative_to(tree.parent).as_posix(), recursive=False, filter=neutral)
    return path.name


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# -- stdeb --------------------------------------------------------------------------------------------------------


def _run_stdeb(tree: Path, options: dict[str, str], environment: dict[str, str]) -> None:
    if not (tree / "setup.py").is_file():
        refuse("convert-failed", "stdeb needs a setup.py, and the project has none")
    before = {entry.name for entry in tree.iterdir()}
    tools = str(Path(__file__).parents[3])
    argv = [sys.executable, "-B", "-c", _RUN_SETUP, "--command-packages=stdeb.command", "debianize"]
    argv += [f"--{name}={value}" for name, value in sorted(options.items())]
    env = {**os.environ, **environment, "PYTHONPATH": tools, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        argv, cwd=tree, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    text = done.stdout.decode("utf-8", "replace")
    sys.stderr.write(text)
    last = text.strip().splitlines()[-12:]
    if done.returncode != 0:
        refuse("convert-failed", f"stdeb failed: {last[-1] if last else 'it printed nothing'}", "\n".join(last))
    if not (tree / "debian" / "control").is_file():
        refuse("convert-failed", "setup.py ended without running stdeb", "\n".join(last))
    # egg_info and the like; the sources must stay as they are in the orig tarball.
    for entry in list(tree.iterdir()):
        if entry.name not in before and entry.name != "debian":
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for cache in list(tree.rglob("__pycache__")):
        shutil.rmtree(cache, ignore_errors=True)


def _stdeb_rules(debian: Path, addition: str) -> str:
    """stdeb's rules with our exports and overrides after them; the line that carries the time of day goes."""
    rules = (debian / "rules").read_text("utf-8")
    rules = re.sub(
        r"^# This file was automatically.*\n(# .*\n)?", "# The rules of stdeb, completed.\n", rules, flags=re.MULTILINE
    )
    skipped = (
        "dh_auto_configure",
        "dh_auto_test",
        "dh_autoreconf",
        "dh_autoreconf_clean",
        "dh_update_autotools_config",
        "dh_perl",
    )
    empty = " ".join(f"override_{name}" for name in skipped if f"override_{name}:" not in rules)
    return f"{rules.rstrip()}\n\n{empty}:\n\n{addition}"


def _stdeb_control(debian: Path, ours: str) -> str:
    """Our control file, plus what only stdeb (through the project's stdeb.cfg) knows."""
    stanzas = (debian / "control").read_text("utf-8").split("\n\n")
    theirs = [_fields(stanza) for stanza in stanzas if stanza.strip()]
    if len(theirs) < 2:
        refuse("convert-failed", "stdeb wrote no binary package")
    source, _, binary = ours.partition("\n\n")
    source = _extend(source, "Build-Depends", theirs[0].get("Build-Depends", ""))
    binary = _extend(binary, "Depends", theirs[-1].get("Depends", ""))
    for name in _KEPT_FIELDS:
        if theirs[-1].get(name):
            binary = _extend(binary, name, theirs[-1][name])
    say("stdeb's control file was completed")
    return f"{source}\n\n{binary}"


def _fields(stanza: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1] in (" ", "\t"):
            found[name] = f"{found.get(name, '')} {line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


def _extend(stanza: str, field: str, addition: str) -> str:
    """Append relations on packages that the field does not name yet; a compat level of stdeb's loses against ours."""
    lines = stanza.rstrip("\n").split("\n")
    at = next((i for i, line in enumerate(lines) if line.startswith(f"{field}:")), None)
    present = lines[at].partition(":")[2].strip() if at is not None else ""
    named = {re.split(r"[\s(|\[]", item.strip())[0] for item in present.split(",")} | {"debhelper", "debhelper-compat"}
    more = [item.strip() for item in addition.split(",") if item.strip()]
    more = [item for item in more if re.split(r"[\s(|\[]", item)[0] not in named]
    if not more:
        return stanza if stanza.endswith("\n") or field == "Build-Depends" else stanza + "\n"
    line = f"{field}: {', '.join([present, *more]) if present else ', '.join(more)}"
    if at is not None:
        lines[at] = line
    else:
        lines.insert(
            len(lines) - 1 - next(i for i, text in enumerate(reversed(lines)) if text.startswith("Description:")), line
        )
    return "\n".join(lines) + ("" if field == "Build-Depends" else "\n")
