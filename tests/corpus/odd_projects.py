"""Projects that are broken or naughty in one way each, as texts: what the archive holds, and the classes that fit."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.corpus.packing import metadata

BUILDING = '{"build", "bdist_wheel", "install"} & set(sys.argv)'
HEAD = "import os, subprocess, sys, time\nfrom setuptools import setup\n"
TAIL = 'setup(name="odd", version="1.0", py_modules=["odd"])\n'
IN_TREE = '[build-system]\nrequires = [{requires}]\nbuild-backend = "{backend}"\nbackend-path = ["{path}"]\n'
SETUPTOOLS = '[build-system]\nrequires = [{requires}]\nbuild-backend = "setuptools.build_meta"\n'
FOUND = SETUPTOOLS.format(requires='"setuptools>=61"') + '[project]\nname = "odd"\nversion = "1.0"\n'
HOOKS = "from setuptools.build_meta import *\nimport os, subprocess, sys, time, urllib.request\n"


def setup_py(doing: str) -> dict[str, str]:
    """A setup.py that does something while it builds."""
    lines = "".join(f"    {line}\n" for line in doing.splitlines())
    return {"setup.py": f"{HEAD}if {BUILDING}:\n{lines}{TAIL}"}


def backend(hook: str, *, requires: str = '"setuptools", "wheel"') -> dict[str, str]:
    """A backend of the project's own that is setuptools but for one hook."""
    return {
        "pyproject.toml": IN_TREE.format(requires=requires, backend="own", path="."),
        "own.py": HOOKS + hook,
        "setup.py": HEAD + TAIL,
    }


def wheel_hook(body: str) -> dict[str, str]:
    """The same, where building the wheel is what is special."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return backend(f"def build_wheel(directory, config_settings=None, metadata_directory=None):\n{lines}")


@dataclass(frozen=True, kw_only=True)
class Odd:
    """One project: its files, the classes that fit (None: it is built), and a word that the brief or the details must have."""

    files: Mapping[str, str | bytes]
    expect: tuple[str | None, ...]
    says: str = ""
    top: str = "odd-1.0"
    archive: str = "odd-1.0.tar.gz"
    pkg_info: bytes | None = field(default_factory=lambda: metadata("odd").encode())
    module: bool = True
    raw: tuple[tuple[tarfile.TarInfo, bytes], ...] = ()

    def pack(self, folder: Path) -> Path:
        """The source archive."""
        members: dict[str, bytes] = {
            name: text.encode() if isinstance(text, str) else text for name, text in self.files.items()
        }
        if self.pkg_info is not None:
            members["PKG-INFO"] = self.pkg_info
        if self.module:
            members.setdefault("odd.py", b'"""A module."""\n')
        path = folder / self.archive
        with tarfile.open(path, "w:gz") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(f"{self.top}/{name}" if not name.startswith("../") else name[3:])
                info.size, info.mtime = len(content), 1_600_000_000
                tar.addfile(info, io.BytesIO(content))
            for info, content in self.raw:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path


def _link(name: str, to: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, to
    return info


PLAIN = {"setup.py": HEAD + TAIL}
DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
"""
FLOOD = "for _ in range(400):\n    print('x' * 10000, flush=True)"

NETWORK = ("network-denied",)
PROJECTS: dict[str, Odd] = {
    # the network
    "pip_install": Odd(
        files=setup_py('subprocess.check_call([sys.executable, "-m", "pip", "install", "left-pad"])'),
        expect=("network-denied", "build-dep-missing", "compile-failed"),
    ),
    "hook_downloads": Odd(
        files=backend(
            "def get_requires_for_build_wheel(config_settings=None):\n"
            '    urllib.request.urlopen("https://example.org/needs.txt")\n    return []\n'
        ),
        expect=(None,),  # the hook is optional: noted
    ),
    "address_literal": Odd(
        files=setup_py('import urllib.request\nurllib.request.urlopen("http://192.0.2.7:8000/x")'),
        expect=NETWORK,
        says="192.0.2.7:8000",
    ),
    "name_only": Odd(
        files=setup_py('import socket\nsocket.gethostbyname("build.example.org")'),
        expect=(None,),  # every name has an address, at which nobody answers: noted
    ),
    # standard input, and writing where nothing is the build's
    "asks": Odd(files=setup_py('input("Continue? [y/n] ")'), expect=("compile-failed",), says="EOFError"),
    "writes_home": Odd(files=setup_py('open(os.path.expanduser("~/.oddrc"), "w").write("x")'), expect=(None,)),
    "writes_root_home": Odd(
        files=setup_py('open("/root/.oddrc", "w").write("x")'), expect=("wrote-outside",), says="/root/.oddrc"
    ),
    "writes_dist_packages": Odd(
        files=setup_py('open("/usr/lib/python3/dist-packages/odd.pth", "w").write("x")'),
        expect=("wrote-outside",),
        says="odd.pth",
    ),
    "writes_var": Odd(
        files=setup_py('subprocess.check_call(["mkdir", "/var/lib/odd"])'),
        expect=("wrote-outside",),
        says="/var/lib/odd",
    ),
    # archives
    "wrong_top": Odd(files=PLAIN, top="something-else", expect=(None, "broken-sdist")),
    "two_tops": Odd(files={**PLAIN, "../other-2.0/setup.py": HEAD + TAIL}, expect=("broken-sdist",)),
    "no_pkg_info": Odd(files=PLAIN, pkg_info=None, expect=(None, "broken-sdist")),
    "empty": Odd(files={}, pkg_info=None, module=False, expect=("broken-sdist",)),
    "other_name": Odd(
        files=PLAIN, pkg_info=metadata("another").encode(), expect=("broken-sdist", "gate-rejected"), says="another"
    ),
    "other_version": Odd(files=PLAIN, pkg_info=metadata("odd", "7.0").encode(), expect=("gate-rejected",), says="7.0"),
    "not_utf8": Odd(
        files=PLAIN, pkg_info=metadata("odd").encode() + b"Author: J\xfcrgen\n\n\xff\xfe\x00 text\n", expect=(None,)
    ),
    "symlink_out": Odd(
        files=PLAIN, raw=((_link("odd-1.0/passwd", "../../../../etc/passwd"), b""),), expect=(None, "broken-sdist")
    ),
    "requirements_missing": Odd(
        files={"setup.py": f"{HEAD}open('requirements.txt').read()\n{TAIL}"},
        expect=("broken-sdist",),
        says="requirements.txt",
    ),
    "no_build_files": Odd(files={"README": "x"}, expect=("broken-sdist", "convert-failed")),
    # builds
    "no_wheel": Odd(files=wheel_hook('return "odd-1.0-py3-none-any.whl"'), expect=("compile-failed",)),
    "exits_0": Odd(files=wheel_hook("os._exit(0)"), expect=("compile-failed",)),
    "setup_exits_0": Odd(files={"setup.py": f"{HEAD}sys.exit(0)\n"}, expect=("compile-failed", "broken-sdist")),
    "prints_megabytes": Odd(files=setup_py(FLOOD), expect=(None, "log-flood")),
    "daemon": Odd(files=setup_py(DAEMON), expect=(None,)),
    "deletes_itself": Odd(
        files=setup_py("import shutil\nshutil.rmtree(os.getcwd(), ignore_errors=True)"),
        expect=("compile-failed", "broken-sdist"),
    ),
    "removes_debian": Odd(
        files=setup_py('import shutil\nshutil.rmtree("debian", ignore_errors=True)'), expect=("compile-failed",)
    ),
    "sets_epoch": Odd(files=setup_py('os.environ["SOURCE_DATE_EPOCH"] = "1"'), expect=(None,)),
    "syntax_error": Odd(
        files={"setup.py": f"{HEAD}def (:\n"}, expect=("broken-sdist", "compile-failed"), says="SyntaxError"
    ),
    "python_2": Odd(
        files={"setup.py": f'{HEAD}print "building"\n{TAIL}'},
        expect=("broken-sdist", "compile-failed"),
        says="SyntaxError",
    ),
    "unknown_backend": Odd(
        files={"pyproject.toml": '[build-system]\nrequires = ["no-such-backend-xyz"]\nbuild-backend = "nosuch.api"\n'},
        expect=("build-dep-missing",),
        says="no-such-backend-xyz",
    ),
    "backend_outside": Odd(
        files={"pyproject.toml": IN_TREE.format(requires="", backend="own", path="../..")},
        expect=("broken-sdist", "compile-failed", "convert-failed"),
        says="inside source tree",
    ),
    "direct_url": Odd(
        files={
            "pyproject.toml": SETUPTOOLS.format(requires='"setuptools", "dep @ https://example.org/dep-1.0.tar.gz"'),
            **PLAIN,
        },
        expect=("build-dep-missing",),
        says="dep",
    ),
    "impossible": Odd(
        files={"pyproject.toml": SETUPTOOLS.format(requires='"setuptools>=9999"'), **PLAIN},
        expect=("build-dep-missing",),
        says="setuptools>=9999",
    ),
    "impossible_upper": Odd(
        files={"pyproject.toml": SETUPTOOLS.format(requires='"setuptools<2"'), **PLAIN},
        expect=(None,),  # upper bounds of build requirements are noted, and not enforced
    ),
    "broken_toml": Odd(
        files={"pyproject.toml": "[build-system\nrequires = ", **PLAIN}, expect=("broken-sdist",), says="pyproject.toml"
    ),
    # a plugin names what it plugs into under an extra only; what nothing names is another matter
    "imports_its_extra": Odd(
        files={
            "pyproject.toml": FOUND + '[project.optional-dependencies]\nhost = ["simplejson"]\n',
            "odd.py": "import simplejson\n",
        },
        pkg_info=(metadata("odd") + "Provides-Extra: host\nRequires-Dist: simplejson; extra == 'host'\n").encode(),
        expect=(None,),
    ),
    "imports_undeclared": Odd(
        files={"pyproject.toml": FOUND, "odd.py": "import simplejson\n"}, expect=("dep-missing",), says="simplejson"
    ),
    # setuptools looks for packages itself, and debian/ lies beside them
    "found_package": Odd(
        files={"pyproject.toml": FOUND, "odd/__init__.py": "", "odd/part.py": ""}, module=False, expect=(None,)
    ),
    "found_module": Odd(files={"pyproject.toml": FOUND}, expect=(None,)),
    "found_namespace": Odd(files={"pyproject.toml": FOUND, "odd/inner/__init__.py": ""}, module=False, expect=(None,)),
}
