"""What is known of a source archive after looking inside it: the step that looks, and the checked facts that come back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

from lxcbuild.config.overrides import Patch
from lxcbuild.debian import documents, steps
from lxcbuild.debian.documents import DocumentError, Reader
from lxcbuild.debian.source.crates import Crates, parse_crates
from lxcbuild.debian.steps import InsideJob, StepFailure
from lxcbuild.errors import BadNameError
from lxcbuild.model import FailureClass

RESULT = "inspection.json"
#: Backends that make compiled modules as their purpose.
_COMPILING_BACKENDS = ("mesonpy", "scikit_build_core", "maturin", "setuptools_rust", "py_build_cmake", "sipbuild")
_RUST_BACKENDS = ("maturin", "setuptools_rust")
#: Backends whose requirements hook returns nothing beyond what pyproject.toml says.
_STATIC_BACKENDS = ("flit_core", "flit", "poetry.core", "hatchling", "pdm.backend", "uv_build", "pdm.pep517", "maturin")
_ARCHIVE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!~-]{0,250}")


class Metadata(Struct, frozen=True, kw_only=True):
    """The core metadata of PKG-INFO (or of pyproject.toml and setup.cfg where there is none); texts as upstream wrote them."""

    summary: str | None = None
    description: str = ""
    home_page: str | None = None
    project_urls: tuple[tuple[str, str], ...] = ()
    author: str | None = None
    author_email: str | None = None
    maintainer: str | None = None
    maintainer_email: str | None = None
    license: str | None = None
    license_expression: str | None = None
    classifiers: tuple[str, ...] = ()


class LicenceText(Struct, frozen=True, kw_only=True):
    """A file of the archive that looks like a licence; ``text`` is cut at 64 KiB."""

    path: str
    text: str


class Inspection(Struct, frozen=True, kw_only=True):
    """Checked facts. Requirement texts are as upstream wrote them (PEP 508, unparsed); None means that nobody can tell yet."""

    archive_format: str
    top_level: str
    name: str | None
    version: str | None
    metadata: Metadata
    has_setup_py: bool
    build_backend: str | None  # None: the legacy setuptools one
    backend_path: tuple[str, ...]
    build_requires: tuple[str, ...]  # [build-system] requires, or the legacy default, plus literal setup_requires
    setup_imports: tuple[str, ...]  # top-level modules that setup.py imports
    requires_python: str | None
    requires_dist: tuple[str, ...] | None
    requires_dist_from: str | None  # where that was read
    scripts: Mapping[str, str]
    modules: tuple[str, ...]
    compiled: bool  # extension modules are certain or likely: Architecture any
    sources: Mapping[str, int]  # counts of c, cxx, cython, rust, fortran, pyc, binary files; meson, cmakelists, cargo
    tools: tuple[str, ...]  # names of [tool.*] tables
    dynamic_build_requires: bool  # the backend's hook may ask for more than is written down
    licence_texts: tuple[LicenceText, ...]
    newer_fields: tuple[str, ...] = ()  # fields of [project] that older backends refuse, as in requirements.yaml
    finds_packages: bool = False  # setuptools looks for packages beside debian/: nothing of the project names them
    crates: Crates | None = None  # what its Rust parts ask for; None: no backend compiles any

    @property
    def rust(self) -> bool:
        """Whether the build compiles Rust."""
        return self.crates is not None or self.sources.get("cargo", 0) > 0 or self.build_backend in _RUST_BACKENDS


def inspect_job(archive_name: str, patches: Sequence[Patch] = ()) -> InsideJob:
    """The job that reads ``/in/source/<archive_name>`` as it is with the patches; its result goes to :func:`parse_inspection`.

    Patches need patch(1) inside.
    """
    if not _ARCHIVE_NAME.fullmatch(archive_name):
        raise BadNameError(f"{archive_name[:80]!r} is not the file name of a source archive")
    asked = {"archive": f"{steps.SOURCE}/{archive_name}", "tree": steps.SOURCE_TREE}
    files = {**steps.request(asked), **steps.patch_files(patches)}
    return InsideJob(files=files, steps=(steps.python_step("inspect_source"),), results=(RESULT,))


def parse_inspection(data: bytes) -> Inspection | StepFailure:
    """Check what came back. Anything that our script does not write is the archive's fault: class ``broken-sdist``."""
    try:
        reader = documents.load(data)
        failure = documents.failure_in(
            reader, allowed=documents.allow(FailureClass.BROKEN_SDIST, FailureClass.CONVERT_FAILED)
        )
        return failure or _inspection(reader)
    except DocumentError as error:
        return documents.broken(error, failure_class=FailureClass.BROKEN_SDIST)


def _inspection(reader: Reader) -> Inspection:
    archive = reader.table("archive") or Reader({})
    info = reader.table("metadata")
    pyproject = reader.table("pyproject")
    setup_py = reader.table("setup_py")
    setup_cfg = reader.table("setup_cfg")
    present = [table for table in (info, pyproject, setup_cfg, setup_py) if table is not None]
    backend = pyproject.line("backend", limit=300) if pyproject else None
    sources = {key: reader.table("sources").number(key) for key in _SOURCE_KEYS} if reader.table("sources") else {}  # type: ignore[union-attr]
    requires_dist, origin = _requires_dist(info, pyproject, setup_cfg, setup_py, reader.optional_texts("egg_requires"))
    scripts = {**pyproject.pairs("scripts"), **pyproject.pairs("gui_scripts")} if pyproject else {}
    return Inspection(
        archive_format=archive.line("format", limit=20) or "",
        top_level=archive.line("top_level", limit=255) or "",
        name=_first(present, "name"),
        version=_first(present, "version"),
        metadata=_metadata(info, pyproject),
        has_setup_py=setup_py is not None,
        build_backend=backend,
        backend_path=pyproject.texts("backend_path") if pyproject else (),
        build_requires=_build_requires(pyproject, setup_py, setup_cfg),
        setup_imports=setup_py.texts("imports") if setup_py else (),
        requires_python=_first([t for t in (info, pyproject) if t], "requires_python")
        or _first([t for t in (setup_cfg, setup_py) if t], "python_requires"),
        requires_dist=requires_dist,
        requires_dist_from=origin,
        scripts=scripts,
        modules=reader.texts("modules", count=200),
        compiled=_compiled(backend, pyproject, setup_py, sources),
        sources=sources,
        tools=pyproject.texts("tools") if pyproject else (),
        dynamic_build_requires=_dynamic(backend, pyproject, setup_py),
        licence_texts=tuple(
            LicenceText(path=item.line("path") or "", text=item.text("text", limit=70_000) or "")
            for item in reader.tables("licence_texts", count=20)
        ),
        newer_fields=pyproject.texts("newer_fields", count=20, limit=40) if pyproject else (),
        finds_packages=bool(reader.flag("finds_packages")) and (backend or "setuptools").startswith("setuptools"),
        crates=parse_crates(reader.table("crates")),
    )


_SOURCE_KEYS = (
    "c", "cxx", "cython", "rust", "fortran", "pyc", "binary", "meson", "cmakelists", "cargo",
)  # fmt: skip


def _first(tables: list[Reader], key: str) -> str | None:
    return next((found for table in tables if (found := table.line(key, limit=1000))), None)


def _metadata(info: Reader | None, pyproject: Reader | None) -> Metadata:
    if info is None:
        if pyproject is None:
            return Metadata()
        licence = pyproject.text("license", limit=20_000)
        return Metadata(summary=pyproject.line("description", limit=2000), license=licence)
    urls = []
    for entry in info.texts("project_urls", count=50):
        label, comma, url = entry.partition(",")
        if comma:
            urls.append((label.strip(), url.strip()))
    return Metadata(
        summary=info.line("summary", limit=2000),
        description=info.text("description", limit=60_000) or "",
        home_page=info.line("home_page"),
        project_urls=tuple(urls),
        author=info.line("author"),
        author_email=info.line("author_email"),
        maintainer=info.line("maintainer"),
        maintainer_email=info.line("maintainer_email"),
        license=info.text("license", limit=20_000),
        license_expression=info.line("license_expression"),
        classifiers=info.texts("classifiers"),
    )


def _build_requires(pyproject: Reader | None, setup_py: Reader | None, setup_cfg: Reader | None) -> tuple[str, ...]:
    """PEP 518: without a table the default is setuptools; ``setup_requires`` is asked for by setuptools' hook."""
    requires = pyproject.optional_texts("requires") if pyproject else None
    found = list(("setuptools>=40.8.0",) if requires is None else requires)
    for table in (setup_py, setup_cfg):
        if table is not None:
            found.extend(table.texts("setup_requires"))
    return tuple(dict.fromkeys(found))


def _requires_dist(
    info: Reader | None,
    pyproject: Reader | None,
    setup_cfg: Reader | None,
    setup_py: Reader | None,
    egg_requires: tuple[str, ...] | None,
) -> tuple[tuple[str, ...] | None, str | None]:
    """PEP 643: from metadata 2.2 on, what PKG-INFO does not call dynamic is what the wheel will say; else the next best place."""
    if info is not None and _at_least_2_2(info.line("metadata_version")):
        dynamic = {item.lower() for item in info.texts("dynamic")}
        if "requires-dist" not in dynamic:
            return info.texts("requires_dist"), "PKG-INFO"
    if pyproject is not None and pyproject.flag("has_project") and "dependencies" not in pyproject.texts("dynamic"):
        extras = [
            _with_extra(requirement, extra)
            for extra, requirements in pyproject.keys("optional_dependencies").items()
            for requirement in requirements
        ]
        return (*pyproject.texts("dependencies"), *extras), "pyproject.toml"
    if egg_requires is not None:
        return egg_requires, "egg-info"
    if info is not None and info.texts("requires_dist"):
        return info.texts("requires_dist"), "PKG-INFO"
    for table, where in ((setup_cfg, "setup.cfg"), (setup_py, "setup.py")):
        if table is not None and (found := table.optional_texts("install_requires")) is not None:
            return found, where
    return None, None


def _with_extra(requirement: str, extra: str) -> str:
    text, _, marker = requirement.partition(";")
    term = f'extra == "{extra}"'
    return f"{text.strip()} ; ({marker.strip()}) and {term}" if marker.strip() else f"{text.strip()} ; {term}"


def _at_least_2_2(version: str | None) -> bool:
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", version or "")
    return match is not None and (int(match[1]), int(match[2])) >= (2, 2)


def _compiled(
    backend: str | None, pyproject: Reader | None, setup_py: Reader | None, sources: Mapping[str, int]
) -> bool:
    if (backend or "").partition(":")[0].startswith(_COMPILING_BACKENDS) or (pyproject and pyproject.flag("compiles")):
        return True
    native = any(sources.get(kind, 0) for kind in ("c", "cxx", "cython", "rust", "fortran"))
    if setup_py is None:
        # A build script of the project's own can compile what no table mentions.
        return native and bool(pyproject and (pyproject.texts("backend_path") or "setuptools" not in (backend or "")))
    extension = setup_py.flag("extension")
    return native if extension is None else bool(extension) and (native or sources.get("cargo", 0) > 0)


def _dynamic(backend: str | None, pyproject: Reader | None, setup_py: Reader | None) -> bool:
    """Whether ``get_requires_for_build_wheel`` can say more than what was read statically."""
    if pyproject is not None and pyproject.texts("backend_path"):
        return True
    if backend is None or backend.startswith("setuptools"):
        return setup_py is not None and setup_py.optional_texts("setup_requires") is None
    if backend.partition(":")[0] == "hatchling.build":
        # Hatchling's hook adds the requirements of build hooks (tool.hatch.build.hooks.*.dependencies).
        return bool(pyproject and "hatch" in pyproject.texts("tools"))
    return not backend.startswith(_STATIC_BACKENDS)
