"""Debianize: decide every file of ``debian/`` on the host, from checked facts; a script inside lays them around the sources.

Both converters give the same shape. ``pyproject`` builds through pybuild-plugin-pyproject; ``stdeb`` runs the real stdeb inside (it
executes setup.py) and completes its output: where stdeb's rules stand, everything else comes from here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime

from msgspec import Struct, field

from lxcbuild.config.overrides import Patch
from lxcbuild.debian import documents, steps
from lxcbuild.debian.documents import DocumentError
from lxcbuild.debian.inside.debianize import ORIG
from lxcbuild.debian.source import control, cratejobs
from lxcbuild.debian.source.copyright import make_copyright
from lxcbuild.debian.source.crates import CrateSupply
from lxcbuild.debian.source.inspection import Inspection
from lxcbuild.debian.steps import InsideJob, InsideStep, StepFailure
from lxcbuild.errors import BadNameError
from lxcbuild.model import Converter, FailureClass

RESULT = "conversion.json"
#: Names below dist-packages that no project should own; dh_python3 and pybuild abort on, or drop, most of them.
RESERVED_MODULES = frozenset(
    {
        "build",
        "debian",
        "dist",
        "doc",
        "docs",
        "example",
        "examples",
        "src",
        "target",
        "test",
        "testing",
        "tests",
        "benchmarks",
    }
)
#: Where the package's rules list what they remove; read inside by :mod:`lxcbuild.debian.inside.observe`.
LEFT_OUT = "debian/.debhelper/lxcbuild-left-out"
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~]{0,150}(?:-[A-Za-z0-9.+~]{1,60})?")
_SUITE = re.compile(r"[a-z][a-z0-9-]{0,40}")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,200}[A-Za-z0-9])?")
_UPSTREAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]{0,150}")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,100}")
# What a freshly unpacked Python project never needs; debhelper skips an empty override without starting make.
_SKIPPED = (
    "dh_auto_clean", "dh_auto_configure", "dh_auto_test", "dh_autoreconf", "dh_autoreconf_clean", "dh_update_autotools_config",
    "dh_perl", "dh_missing", "dh_usrlocal", "dh_testroot", "dh_prep", "dh_installsystemduser", "dh_link",
)  # fmt: skip


class ConversionPlan(Struct, frozen=True, kw_only=True):
    """All decisions about one generated source package. Relations are complete Debian relations, already mapped."""

    distribution: str  # the project's name as upstream writes it
    version: str  # PEP 440
    source: str
    package: str
    debian_version: str  # <upstream>-<revision>, no epoch
    suite: str
    compiled: bool
    timestamp_s: int  # of the changelog and of every file: the upload's, so that builds repeat
    build_depends: tuple[str, ...]
    depends: tuple[str, ...] = ()
    suggests: tuple[str, ...] = ()
    #: Packages of the suite, made of the same project, that own files of this one: both cannot be installed at once.
    supersedes: tuple[str, ...] = ()
    #: py3dist-overrides: project name to relations ("" drops the requirement: not for this Python, or part of it).
    overrides: Mapping[str, str] = field(default_factory=dict)
    maintainer: str
    environment: Mapping[str, str] = field(default_factory=dict)
    converter: Converter = Converter.PYPROJECT
    #: Patch licence fields away that the suite's backend is too old for (set it when a build requirement is outdated).
    lower_metadata: bool = False
    #: Call build and installer directly, which must be there: pybuild's plugin cannot place every kind of file on some suites,
    #: and stdeb's rules need the distribution's own setuptools.
    plain_install: bool = False
    #: Build from a copy without debian/, for backends that take every directory for a part of the project. Implies a plain install.
    apart: bool = False
    patches: tuple[Patch, ...] = ()  # of an override: they become debian/patches
    crates: CrateSupply | None = None  # where cargo finds the crates, for a project with Rust parts
    home: str = "/build"  # the directory inside in which sources and results lie

    def __post_init__(self) -> None:
        control.check_package_name(self.source)
        control.check_package_name(self.package)
        control.check_maintainer(self.maintainer)
        for text, pattern, what in (
            (self.debian_version, _VERSION, "Debian version without an epoch"),
            (self.suite, _SUITE, "suite"),
            (self.distribution, _DISTRIBUTION, "project name"),
            (self.version, _UPSTREAM, "project version"),
        ):
            if not pattern.fullmatch(text):
                raise BadNameError(f"{text[:80]!r} is no {what}")
        for name in self.environment:
            if not _ENVIRONMENT_NAME.fullmatch(name):
                raise BadNameError(f"{name[:80]!r} is not the name of an environment variable")

    @property
    def upstream(self) -> str:
        """The Debian version without its revision."""
        return self.debian_version.rpartition("-")[0] or self.debian_version

    @property
    def tree(self) -> str:
        """Where the debianized tree stands inside."""
        return f"{self.home}/{self.source}-{self.upstream}"


class ConversionResult(Struct, frozen=True, kw_only=True):
    """What the script inside did. ``notes`` are for people: what was left out, moved aside or repacked."""

    orig_tarball: str
    notes: tuple[str, ...]


def debianize_job(inspection: Inspection, plan: ConversionPlan, *, archive_name: str) -> InsideJob:
    """Unpack, make the orig tarball, lay out debian/. Runs in the very sandbox that compiles; see :func:`parse_conversion`."""
    asked = {
        "archive": f"{steps.SOURCE}/{archive_name}",
        "tree": plan.tree,
        "orig": f"{plan.home}/{plan.source}_{plan.upstream}.orig",
        "timestamp": plan.timestamp_s,
        "files": debian_files(inspection, plan),
        "stdeb": _stdeb_options(plan) if plan.converter is Converter.STDEB else None,
        "plain_install": plan.plain_install,
        "environment": build_environment(plan),
        "lower_metadata": plan.lower_metadata,
    }
    files = {**steps.request(asked), **steps.patch_files(plan.patches)}
    return InsideJob(files=files, steps=(steps.python_step("debianize"),), results=(RESULT,))


def orig_digest(printed: bytes) -> str:
    """The SHA-256 of the orig tarball as the script said it last of all; empty when it did not."""
    found = re.findall(rb"^lxcbuild: " + ORIG.encode() + rb"([0-9a-f]{64})$", printed, re.MULTILINE)
    return found[-1].decode() if found else ""


def parse_conversion(data: bytes) -> ConversionResult | StepFailure:
    """Check what came back; a result that is not ours is class ``convert-failed``."""
    allowed = documents.allow(FailureClass.BROKEN_SDIST, FailureClass.CONVERT_FAILED)
    try:
        reader = documents.load(data)
        failure = documents.failure_in(reader, allowed=allowed)
        if failure is not None:
            return failure
        return ConversionResult(orig_tarball=reader.line("orig_tarball") or "", notes=reader.texts("notes", count=100))
    except DocumentError as error:
        return documents.broken(error, failure_class=FailureClass.CONVERT_FAILED)


def unpack_dsc_job(dsc_name: str, *, tree: str = steps.SOURCE_TREE) -> InsideJob:
    """For a Debian source package: unpack ``/in/source/<name>.dsc`` to ``tree`` instead of converting anything."""
    if not re.fullmatch(r"[a-z0-9][A-Za-z0-9.+~_-]{1,200}\.dsc", dsc_name):
        raise BadNameError(f"{dsc_name[:80]!r} is not the file name of a Debian source package")
    argv = ("dpkg-source", "--no-check", "--no-copy", "-x", f"{steps.SOURCE}/{dsc_name}", tree)
    return InsideJob(files={}, steps=(InsideStep(argv=argv),))


def build_environment(plan: ConversionPlan) -> dict[str, str]:
    """Variables that tell version-computing backends what the version is, since there is no repository to ask."""
    return {**version_environment(plan.version), **plan.environment}


def version_environment(version: str) -> dict[str, str]:
    """The same for a release that is not converted, only built."""
    return {
        "SETUPTOOLS_SCM_PRETEND_VERSION": version,
        "PBR_VERSION": version,
        "PDM_BUILD_SCM_VERSION": version,
        "POETRY_DYNAMIC_VERSIONING_BYPASS": version,
    }


# -- the files of debian/ -------------------------------------------------------------------------------------------


def debian_files(inspection: Inspection, plan: ConversionPlan) -> dict[str, str]:
    """Every file of debian/ by its name below it. Equal inputs give equal texts."""
    made = make_copyright(inspection, plan.distribution, maintainer=plan.maintainer)
    files = {
        "control": _control(inspection, plan),
        "rules": _rules(inspection, plan),
        "changelog": _changelog(plan),
        "copyright": made.text,
        "source/format": "3.0 (quilt)\n",
        # Whatever a build leaves in the tree is no change of the sources.
        "source/options": 'extend-diff-ignore = "(^|/)([^/]+\\.egg-info|build|\\.pybuild|__pycache__)(/|$)"\n',
        "py3dist-overrides": _overrides(plan),
        "watch": _watch(inspection),
        "upstream/metadata": _upstream_metadata(inspection),
        "cargo/config.toml": _cargo_configuration(plan),
        "patches/series": "".join(f"{patch.name}\n" for patch in plan.patches),
        **{f"patches/{patch.name}": patch.text for patch in plan.patches},
    }
    return {name: text for name, text in files.items() if text}


def _control(inspection: Inspection, plan: ConversionPlan) -> str:
    source = control.paragraph(
        {
            "Source": plan.source,
            "Section": "python",
            "Priority": "optional",
            "Maintainer": plan.maintainer,
            "Build-Depends": control.relations(plan.build_depends),
            "Standards-Version": "4.6.2",
            "Rules-Requires-Root": "no",
            "Homepage": control.literal(control.homepage(inspection)),
        }
    )
    shared = ("${shlibs:Depends}",) if plan.compiled else ()
    description = control.synopsis(inspection, plan.distribution)
    extended = control.long_description(inspection, plan.distribution, plan.version)
    binary = control.paragraph(
        {
            "Package": plan.package,
            "Architecture": "any" if plan.compiled else "all",
            "Depends": control.relations(("${python3:Depends}", "${misc:Depends}", *shared, *plan.depends)),
            # Extras name each other by the project's own name ("demo[all]").
            "Suggests": control.relations(item for item in plan.suggests if item.split(" ")[0] != plan.package),
            "Conflicts": control.relations(plan.supersedes),
            "Replaces": control.relations(plan.supersedes),
            "Description": control.literal(f"{description}\n{extended}"),
        }
    )
    return f"{source}\n{binary}"


def _changelog(plan: ConversionPlan) -> str:
    when = format_datetime(datetime.fromtimestamp(plan.timestamp_s, UTC))
    return (
        f"{plan.source} ({plan.debian_version}) {plan.suite}; urgency=medium\n\n"
        f"  * Packaged {plan.distribution} {plan.version} automatically.\n\n -- {plan.maintainer}  {when}\n"
    )


def dropped_modules(inspection: Inspection, plan: ConversionPlan) -> tuple[str, ...]:
    """Top-level names that are left out of the package, unless one of them is what the project is for."""
    own = {re.sub(r"[-.]", "_", plan.distribution.lower()), plan.distribution.lower()}
    if inspection.modules and set(inspection.modules) <= RESERVED_MODULES:
        return ()
    return tuple(sorted(RESERVED_MODULES - own))


#: What the pyproject plugin does, in the words of the programs that it calls: pybuild(1), "custom".
_PLAIN_BUILD = "{interpreter} -m build --skip-dependency-check --no-isolation --wheel --outdir {home_dir}"
_PLAIN_INSTALL = {
    "PYBUILD_SYSTEM": "custom",
    "PYBUILD_BUILD_ARGS": _PLAIN_BUILD,
    "PYBUILD_INSTALL_ARGS": "{interpreter} -m installer --no-compile-bytecode --destdir={destdir} {home_dir}/*.whl",
    "DEB_PYTHON_INSTALL_LAYOUT": "deb",
}


_APART = (
    "rm -rf {home_dir}/apart && mkdir -p {home_dir}/apart && tar -c --exclude=./debian --exclude=./.pybuild . | "
    "tar -x -C {home_dir}/apart && "
)

#: Else meson-python builds in a directory with a random name, of which debug information and generated files tell: no two builds
#: would be the same. Both its old and its new releases know the option by this name.
_MESON_DIRECTORY = "--config-setting=builddir={home_dir}/meson"


def _rules(inspection: Inspection, plan: ConversionPlan) -> str:
    """debian/rules. For stdeb these lines follow its own file, whose rules stand, unless the install is plain."""
    whole = plan.plain_install or plan.converter is Converter.PYPROJECT
    environment = {**build_environment(plan), "PYBUILD_SYSTEM": "pyproject"}
    if not whole:
        del environment["PYBUILD_SYSTEM"]
    elif not plan.compiled:
        # One wheel serves every Python of the suite, and debhelper need not ask which there are.
        environment["PYBUILD_INTERPRETERS"] = "python3"
    if plan.plain_install or plan.apart:
        environment |= _PLAIN_INSTALL
    if plan.apart:
        environment["PYBUILD_BUILD_ARGS"] = f"{_APART}{_PLAIN_BUILD} {{home_dir}}/apart"
    if (inspection.build_backend or "").startswith("mesonpy") and plan.converter is Converter.PYPROJECT:
        environment["PYBUILD_BUILD_ARGS"] = f"{environment.get('PYBUILD_BUILD_ARGS', '')} {_MESON_DIRECTORY}".strip()
    if plan.package.startswith("python3-"):
        environment["PYBUILD_NAME"] = plan.package.removeprefix("python3-")
    lines = ["#!/usr/bin/make -f"] if whole else []
    # make expands "$" and ends a line at "#"; values of ours hold neither, an administrator's might.
    lines += [f"export {name} = {_make_escape(value)}" for name, value in sorted(environment.items())]
    if whole:
        lines += ["", "%:", "\tdh $@ --with python3 --buildsystem=pybuild", ""]
        lines += [" ".join(f"override_{name}" for name in _SKIPPED) + ":", ""]
    lines += _cargo_rules(plan)
    # pybuild has filled the package's directory here, and dh_python3 has not looked at it yet.
    lines += ["execute_before_dh_python3:", *_tidy(inspection, plan), ""]
    return "\n".join(lines)


#: Files that data_files name by a place below the prefix ("etc/demo", "man/man1") or of the whole file system (which a wheel holds
#: below its root), to where Policy 9.1 wants them. Whether a package may have them there is the gate's business.
_PLACES = """\
@root=debian/{package}; move() { test ! -d "$$root/$$1" || { mkdir -p "$$root/$$2" && cp -a "$$root/$$1/." "$$root/$$2/" && \\
rm -r "$$root/$$1" && echo "lxcbuild: /$$1 goes to /$$2"; }; }; \\
for site in $$(cd $$root && ls -d usr/lib/python3*/*-packages); do for top in etc usr; do \\
test -e $$root/$$site/$$top/__init__.py || move $$site/$$top $$top || exit 1; done; done; \\
for name in bin etc man share; do move usr/local/$$name usr/$$name || exit 1; done; \\
test ! -d $$root/usr/local || rmdir --ignore-fail-on-non-empty $$root/usr/local; \\
move usr/etc etc && move usr/man usr/share/man && move etc/bash_completion.d usr/share/bash-completion/completions; \\
test ! -d $$root/etc || rmdir --ignore-fail-on-non-empty $$root/etc"""


def _tidy(inspection: Inspection, plan: ConversionPlan) -> list[str]:
    root = f"debian/{plan.package}/usr"
    dropped = dropped_modules(inspection, plan)
    names = " -o ".join(f"-name {name} -o -name {name}.py" for name in dropped)
    lines = [
        # A backend that ends well without a wheel leaves an empty package.
        f"\t@ls -d {root}/lib/python3*/*-packages/*-info >/dev/null 2>&1 || {{ echo 'lxcbuild: nothing was installed'; exit 1; }}"
    ]
    lines += [f"\t{line}" for line in _PLACES.replace("{package}", plan.package).splitlines()]
    lines.append(f"\t@mkdir -p debian/.debhelper && : >{LEFT_OUT}")
    if dropped:
        lines.append(
            f"\tfor d in {root}/lib/python3*/*-packages; do test ! -d $$d || find $$d -mindepth 1 -maxdepth 1 "
            f"\\( {names} \\) -print -exec rm -rf '{{}}' + || exit 1; done >>{LEFT_OUT}"
        )
    # Code in a .pth file would run at every start of Python, as every user. Namespaces need none since PEP 420, and what measures
    # or patches everything must be started by hand.
    lines.append(
        f"\tfor f in {root}/lib/python3*/*-packages/*.pth; do test ! -e $$f || ! grep -qE '^import[[:space:]]|[(;]' $$f || "
        f"{{ rm $$f && echo $$f; }} || exit 1; done >>{LEFT_OUT}"
    )
    lines.append(f"\t@cat {LEFT_OUT}")
    lines.append(f"\tfind {root} \\( -name '*.py[co]' -o -name direct_url.json \\) -delete")
    return lines


def _cargo_configuration(plan: ConversionPlan) -> str:
    registry = plan.crates.registry if plan.crates is not None else None
    return cratejobs.configuration(registry) if registry is not None else ""


def _cargo_rules(plan: ConversionPlan) -> list[str]:
    """Cargo takes the crates from where debian/cargo says; a lock file of other versions would forbid it."""
    if plan.crates is None or plan.crates.registry is None:
        return []
    lines = ["export CARGO_HOME = $(CURDIR)/debian/cargo"]
    if plan.crates.dropped_lock is not None:
        # make knows no quoting that would hold; the path was checked to be a plain one.
        lines += ["", "execute_before_dh_auto_build:", f"\trm -f '{plan.crates.dropped_lock}'", ""]
    return lines


def _make_escape(value: str) -> str:
    if "\n" in value or "\r" in value or "\0" in value:
        raise BadNameError("a value of the build's environment has more than one line")
    return value.replace("$", "$$").replace("#", "\\#")


def _overrides(plan: ConversionPlan) -> str:
    """dh-python looks names up in its own normal form, which has changed: write each name in both."""
    lines = []
    for name, relation in sorted(plan.overrides.items()):
        if not _DISTRIBUTION.fullmatch(name):
            raise BadNameError(f"{name[:80]!r} is not a project name")
        value = control.relations(part.strip() for part in relation.split(",")) if relation else ""
        forms = dict.fromkeys((re.sub(r"[-_.]+", "-", name).lower(), re.sub(r"[-_]+", "-", name).lower(), name))
        lines += [f"{form} {value}".rstrip() for form in forms if form[0].isalpha()]
    return "".join(f"{line}\n" for line in lines)


def _repository(inspection: Inspection) -> str | None:
    metadata = inspection.metadata
    for url in (*(url for _label, url in metadata.project_urls), metadata.home_page or ""):
        match = re.match(
            r"https?://((?:www\.)?(?:github|gitlab)\.com/[\w.-]{1,100}/[\w.-]{1,100}?)(?:\.git)?(?:[/#?]|$)", url
        )
        if match:
            return f"https://{match[1].removeprefix('www.')}"
    return None


def _watch(inspection: Inspection) -> str:
    repository = _repository(inspection)
    if repository is None or "github.com" not in repository:
        return ""
    return f"version=4\n{repository}/tags .*/v?@ANY_VERSION@@ARCHIVE_EXT@\n"


def _upstream_metadata(inspection: Inspection) -> str:
    """DEP-12; a JSON string is a YAML string."""
    repository = _repository(inspection)
    if repository is None:
        return ""
    fields = {
        "Repository": f"{repository}.git",
        "Repository-Browse": repository,
        "Bug-Database": f"{repository}/issues",
    }
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items())


def _stdeb_options(plan: ConversionPlan) -> dict[str, str]:
    """Command-line options of stdeb's ``debianize``."""
    assert shlex.quote(plan.package) == plan.package
    return {"source": plan.source, "package3": plan.package, "maintainer": plan.maintainer, "suite": plan.suite}
