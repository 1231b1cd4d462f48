"""A registry of Rust crates with a sparse index, made and served by the tests themselves, and a project that needs its crates."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import secrets
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

LEAF, ROOT = "lxcbuild-demo-leaf", "lxcbuild-demo-root"
#: What every lock file of cargo calls its usual registry, wherever crates really come from.
_SOURCE = "registry+https://github.com/rust-lang/crates.io-index"
_SOURCES = {
    LEAF: ("[dependencies]\n", "pub fn answer() -> i64 { 42 }\n"),
    ROOT: (f'[dependencies]\n{LEAF} = "1.0"\n', "pub fn doubled() -> i64 { 2 * lxcbuild_demo_leaf::answer() }\n"),
}
_EXTENSION = """\
use std::os::raw::{c_char, c_int, c_long, c_void};
use std::ptr::null_mut;

#[repr(C)]
struct Definition {
    references: isize, kind: *mut c_void, init: *mut c_void, index: isize, copy: *mut c_void,
    name: *const c_char, doc: *const c_char, size: isize,
    methods: *mut c_void, slots: *mut c_void, traverse: *mut c_void, clear: *mut c_void, free: *mut c_void,
}
extern "C" {
    fn PyModule_Create2(definition: *mut Definition, version: c_int) -> *mut c_void;
    fn PyModule_AddIntConstant(module: *mut c_void, name: *const c_char, value: c_long) -> c_int;
}
static mut DEFINITION: Definition = Definition {
    references: 1, kind: null_mut(), init: null_mut(), index: 0, copy: null_mut(),
    name: b"lxcbuild_demo_rust\\0".as_ptr() as *const c_char, doc: std::ptr::null(), size: -1,
    methods: null_mut(), slots: null_mut(), traverse: null_mut(), clear: null_mut(), free: null_mut(),
};
#[no_mangle]
pub unsafe extern "C" fn PyInit_lxcbuild_demo_rust() -> *mut c_void {
    let module = PyModule_Create2(std::ptr::addr_of_mut!(DEFINITION), 1013);
    if !module.is_null() {
        PyModule_AddIntConstant(module, b"answer\\0".as_ptr() as *const c_char, lxcbuild_demo_root::doubled());
    }
    module
}
"""


def crate(name: str, *, marker: str = "") -> bytes:
    """The file of one crate, version 1.0.0; another marker makes other bytes."""
    dependencies, code = _SOURCES[name]
    manifest = f'[package]\nname = "{name}"\nversion = "1.0.0"\nedition = "2018"\n\n{dependencies}'
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, text in (("Cargo.toml", manifest), ("src/lib.rs", code + marker)):
            info = tarfile.TarInfo(f"{name}-1.0.0/{path}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


class Registry:
    """What is served, and what was asked for. ``files`` may be changed while it serves."""

    def __init__(self) -> None:
        # Crates of earlier runs may be in the cache of the state directory: these are new ones.
        self.files = {name: crate(name, marker=f"// {secrets.token_hex(8)}\n") for name in _SOURCES}
        self.checksums = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        self.asked: list[str] = []
        self.port = 0

    @property
    def address(self) -> str:
        """As ``registry`` in cargo.yaml."""
        return f"sparse+http://127.0.0.1:{self.port}/index/"

    def answer(self, path: str) -> bytes | None:
        """The content of a path."""
        self.asked.append(path)
        if path == "/index/config.json":
            return json.dumps({"dl": f"http://127.0.0.1:{self.port}/crates/{{crate}}"}).encode()
        kind, name = path.split("/")[1], path.rsplit("/", 1)[1]
        if name not in self.files:
            return None
        return self.files[name] if kind == "crates" else self._line(name)

    def _line(self, name: str) -> bytes:
        needs = [LEAF] if name == ROOT else []
        rest = {"features": [], "optional": False, "default_features": True, "target": None, "kind": "normal"}
        line = {
            "name": name, "vers": "1.0.0", "cksum": self.checksums[name], "features": {}, "yanked": False,
            "deps": [{"name": need, "req": "^1.0", **rest} for need in needs],
        }  # fmt: skip
        return json.dumps(line).encode() + b"\n"

    def lock(self) -> str:
        """The lock file of the project below."""
        text = "version = 3\n"
        for name, needs in ((LEAF, []), (ROOT, [LEAF])):
            text += f'\n[[package]]\nname = "{name}"\nversion = "1.0.0"\nsource = "{_SOURCE}"\n'
            text += f'checksum = "{self.checksums[name]}"\n' + (
                f"dependencies = {json.dumps(needs)}\n" if needs else ""
            )
        return f'{text}\n[[package]]\nname = "lxcbuild_demo_rust"\nversion = "1.0.0"\ndependencies = ["{ROOT}"]\n'


@contextlib.contextmanager
def served() -> Iterator[Registry]:
    """A registry on this machine for as long as the block lasts."""
    registry = Registry()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = registry.answer(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()


def project(root: Path, lock: str | None) -> Path:
    """A project whose extension module is Rust, and needs a crate that needs a crate."""
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools", "setuptools-rust"]\n'
        'build-backend = "setuptools.build_meta"\n',
        "setup.py": "from setuptools import setup\nfrom setuptools_rust import Binding, RustExtension\n"
        'setup(name="lxcbuild-demo-rust", version="1.0", description="Rust with crates.", license="MIT", zip_safe=False,\n'
        '      rust_extensions=[RustExtension("lxcbuild_demo_rust", path="Cargo.toml", binding=Binding.NoBinding)])\n',
        "Cargo.toml": '[package]\nname = "lxcbuild_demo_rust"\nversion = "1.0.0"\nedition = "2018"\n\n'
        f'[lib]\ncrate-type = ["cdylib"]\n\n[dependencies]\n{ROOT} = "1"\n',
        "src/lib.rs": _EXTENSION,
        **({"Cargo.lock": lock} if lock is not None else {}),
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
