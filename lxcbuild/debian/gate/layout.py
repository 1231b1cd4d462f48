"""Where the files of a package may lie, and of which kind they may be."""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping

from msgspec import Struct
from packaging.version import InvalidVersion, Version

from lxcbuild.debian.gate import startup
from lxcbuild.debian.gate.artifacts import Deb, TarMember

_SITE = "usr/lib/python3/dist-packages"
_DIST_PACKAGES = r"usr/lib/python3(?:\.\d{1,2})?/dist-packages"
_STRICT = (
    rf"{_DIST_PACKAGES}/.+",
    r"usr/bin/[A-Za-z0-9_][A-Za-z0-9._+-]*",
    r"usr/share/doc/(?:{package}|{project})(?:/.+)?",
    r"usr/share/man/(?:[a-z]{{2}}(?:_[A-Z]{{2}})?/)?man[1-9]/[^/]+",
    r"usr/share/python3/(?:dist|runtime\.d|bcep)/{package}(?:\.[a-z]+)?",
    r"usr/share/lintian/overrides/{package}",
    r"usr/share/(?:{package}|{project}|jupyter|info|locale|icons|pixmaps|applications|metainfo|mime/packages)(?:/.+)?",
    r"usr/share/(?:bash-completion/completions|zsh/vendor-completions|zsh/site-functions|fish/vendor_completions\.d|fish/completions)/[^/]+",
    r"usr/include/python3(?:\.\d{{1,2}})?/(?!cpython/|internal/)(?i:{spelled})/.+",
    r"etc/(?:{project})/.+",
    startup.JUPYTER.replace("{", "{{").replace("}", "}}"),
)
# Not the directory itself: the dynamic linker, PAM and others load what lies there, and Perl, GIO and more what lies in directories
# that a project may be called like.
_STRICT_COMPILED = (r"usr/lib/[a-z0-9_]+-linux-gnu[a-z0-9]*/{package}/.+",)
_ANY_ROOTS = ("usr", "etc", "var", "opt", "srv", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "boot")
_ANY_NEVER = re.compile(
    r"(?:usr/local/|usr/tmp/|var/tmp/|var/run/|var/lock/|var/lib/dpkg/|var/cache/apt/|etc/os-release$|usr/lib/os-release$|etc/sudoers"
    r"|etc/(?:passwd|shadow|group|gshadow|subuid|subgid|fstab|ld\.so\.preload|ld\.so\.conf$|resolv\.conf|hostname|hosts|machine-id)"
    r"|etc/(?:apt|dpkg|ssh|security)/|etc/pam\.d/common-).*"
)
_ANY_OWN = re.compile(
    r"(?:etc/(?:cron\.[^/]+|ld\.so\.conf\.d|pam\.d|profile\.d|polkit-1|X11/Xsession\.d)"
    r"|usr/share/(?:polkit-1/rules\.d|pam-configs)|usr/lib/pam\.d)/."
)
#: Directories of the file system that a top-level one below dist-packages is when a project gives absolute paths to data_files:
#: the wheel holds them below its root, where nobody looks for them.
_NEVER_MODULES = frozenset("etc usr var opt srv sbin home root run dev proc sys boot lib64".split())  # noqa: SIM905
_SELDOM_MODULES = frozenset(("bin", "lib", "share", "tmp"))
_PLACE = re.compile(r"usr/share/man/|usr/(?:share/doc|lib/[^/]+-linux-gnu[^/]*)/[^/]+/")
_SHARE = re.compile(r"usr/share/[^/]+/")
_MAX_LINKS = 8
_EXTENSION = re.compile(r"\.(?:cpython-\d+[a-z]*(?:-[\w-]+)?\.|abi3\.)?so(?:\.\d+)*$")


class Layout(Struct, frozen=True, kw_only=True):
    """Which rules hold: ``strict`` is Python policy for one generated package."""

    strict: bool
    package: str
    project: str | None
    project_version: str | None
    compiled: bool


class Misplaced(Struct, frozen=True, kw_only=True):
    """One member that breaks a rule."""

    rule: str
    subject: str
    message: str
    fatal: bool = True


def check_tree(deb: Deb, layout: Layout) -> Iterator[Misplaced]:
    """All that is wrong with a package's file tree, which is one (:mod:`lxcbuild.debian.gate.debtar`)."""
    kinds: dict[str, str] = {}
    for member in deb.members:
        yield from _check_kind(member, kinds, layout)
        kinds[member.name] = member.kind
        if member.kind != "dir" or not layout.strict:
            yield from _check_place(member, layout)
    if layout.strict:
        yield from _check_python(deb, layout)
        yield from _check_roots(deb)
        yield from _check_own(deb)
        yield from _check_links(deb)


def _check_own(deb: Deb) -> Iterator[Misplaced]:
    """Nothing runs by itself or for others."""
    for member, message in startup.check_start(deb.members):
        yield Misplaced(rule="startup", subject=member.name, message=message)
    for member in startup.check_completions(deb.members):
        yield Misplaced(
            rule="command", subject=member.name, message="completes a command that the package does not bring"
        )
    for member in deb.members:
        for rule, message in startup.check_member(member):
            yield Misplaced(rule=rule, subject=member.name, message=message)


def _check_links(deb: Deb) -> Iterator[Misplaced]:
    """Links lead to files of the package, and a command's to any of them.

    A link to a directory is one release's; the next has files "below" it, and dpkg writes through the link. What is a file here is
    a directory there, so other links stay within one directory that is the package's own, and there are none among modules.
    """
    members = {member.name: member for member in deb.members}
    for member in deb.members:
        if member.kind == "symlink":
            target = _linked_file(member, members)
            if target is None:
                message = f"leads to no file of the package: {member.link[:200]!r}"
            elif not member.name.startswith("usr/bin/") and not _in_one_place(member.name, target):
                message = f"leads out of the directory that is the package's own: {member.link[:200]!r}"
            else:
                continue
            yield Misplaced(rule="link", subject=member.name, message=message)


def _linked_file(link: TarMember, members: Mapping[str, TarMember]) -> str | None:
    """The file of the package that a symbolic link leads to, through others of the package; None when it leads to none."""
    found: TarMember | None = link
    for _ in range(_MAX_LINKS):
        if found is None or found.kind != "symlink":
            break
        # After a name, which may be a link of the system, ".." leads to nobody knows where.
        if ".." in itertools.dropwhile(lambda part: part in ("", ".", ".."), found.link.split("/")):
            return None
        found = members.get(posixpath.normpath(posixpath.join(posixpath.dirname(found.name), found.link)))
    return found.name if found is not None and found.kind in ("file", "hardlink") else None


def _in_one_place(link: str, target: str) -> bool:
    """Whether both lie in one directory that no other package has files in."""
    match = _PLACE.match(link) or (_SHARE.match(link) if startup.is_plain_share(link) else None)
    return match is not None and target.startswith(match[0])


def _check_kind(member: TarMember, kinds: dict[str, str], layout: Layout) -> Iterator[Misplaced]:
    def bad(rule: str, message: str) -> Misplaced:
        return Misplaced(rule=rule, subject=member.name, message=message)

    if member.mode & 0o6000 and member.kind != "dir":
        yield bad("mode", f"is setuid or setgid (mode {member.mode:o})")
    elif member.mode & 0o6000 and layout.strict:
        yield bad("mode", f"is a directory with mode {member.mode:o}")
    if member.mode & 0o002 and member.kind != "symlink" and not (member.kind == "dir" and member.mode & 0o1000):
        yield bad("mode", f"can be written by everybody (mode {member.mode:o})")
    # Only ids that base-passwd fixes mean the same everywhere.
    if (member.uid, member.gid) != (0, 0) and (layout.strict or member.uid >= 100 or member.gid >= 100):
        yield bad("owner", f"belongs to {member.uid}:{member.gid}, not to root")
    if member.kind == "symlink":
        yield from _check_symlink(member, layout)
    if member.kind == "hardlink":
        target = member.link.removeprefix("./")
        if kinds.get(target) not in ("file", "hardlink"):
            yield bad("link", "is a hard link to something that is not in the package before it")


def _check_symlink(member: TarMember, layout: Layout) -> Iterator[Misplaced]:
    link = member.link
    if not link:
        yield Misplaced(rule="link", subject=member.name, message="is a link to nothing")
    elif link.startswith("/"):
        root = link.split("/")[1] if len(link) > 1 else ""
        if layout.strict or root not in (*_ANY_ROOTS, "run", "dev"):
            yield Misplaced(rule="link", subject=member.name, message=f"is an absolute link to {link[:200]!r}")
    else:
        depth = member.name.count("/")
        for part in link.split("/"):
            depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
            if depth < 0:
                yield Misplaced(rule="link", subject=member.name, message=f"is a link that leads out: {link[:200]!r}")
                return


def _check_place(member: TarMember, layout: Layout) -> Iterator[Misplaced]:
    if layout.strict:
        if not any(pattern.fullmatch(member.name) for pattern in _patterns(layout)):
            yield Misplaced(rule="layout", subject=member.name, message="is not where a Python package may put files")
        return
    root = member.name.split("/")[0]
    if root not in _ANY_ROOTS:
        yield Misplaced(rule="layout", subject=member.name, message="is not where a package may put files")
    elif member.kind != "dir" and _ANY_NEVER.match(member.name):
        yield Misplaced(
            rule="layout", subject=member.name, message="is a file that no package of a third party may bring"
        )


_compiled_patterns: dict[tuple[str, str | None, bool], tuple[re.Pattern[str], ...]] = {}


def _patterns(layout: Layout) -> tuple[re.Pattern[str], ...]:
    key = (layout.package, layout.project, layout.compiled)
    if key not in _compiled_patterns:
        project = layout.project or layout.package
        forms = {
            project,
            project.lower(),
            re.sub(r"[-_.]+", "-", project).lower(),
            re.sub(r"[-_.]+", "_", project).lower(),
        }
        # A project that is called like one of the shared directories gets no more than its own name's directory there.
        named = "|".join(re.escape(form) for form in sorted(forms))
        spelled = re.escape(_plain(project)).replace(r"\-", "[-_.]+")
        texts = [*_STRICT, *(_STRICT_COMPILED if layout.compiled else ())]
        _compiled_patterns[key] = tuple(
            re.compile(
                text.replace("{package}", re.escape(layout.package))
                .replace("{project}", named)
                .replace("{spelled}", spelled)
                .replace("{{", "{")
                .replace("}}", "}")
            )
            for text in texts
        )
    return _compiled_patterns[key]


def _check_python(deb: Deb, layout: Layout) -> Iterator[Misplaced]:
    """The package is the project that it claims to be, and what is compiled says so."""
    infos = set()
    for _, name in startup.search_names(deb.members):
        # importlib.metadata compares without regard to case.
        match = re.match(rf"{_DIST_PACKAGES}/([^/]+)\.(?i:dist|egg)-(?i:info)(?:/|$)", name)
        if match:
            infos.add(match[1])
    for member in deb.members:
        if not layout.compiled and member.kind == "file" and _EXTENSION.search(member.name):
            yield Misplaced(
                rule="compiled", subject=member.name, message="is a compiled file in a package for all architectures"
            )
    if not infos:
        yield Misplaced(rule="project", subject=deb.path.name, message="holds no metadata of a Python project")
    for info in sorted(infos):
        name, _, version = info.partition("-")
        version = version.split("-py")[0]
        if layout.project is not None and _plain(name) != _plain(layout.project):
            yield Misplaced(rule="project", subject=info, message=f"is another project than {layout.project}")
        elif layout.project_version is not None and not _same(version, layout.project_version):
            yield Misplaced(
                rule="project",
                subject=info,
                message=f"is another version than {layout.project_version}: the build computes its own (from a clock?)",
            )


def _check_roots(deb: Deb) -> Iterator[Misplaced]:
    """No file system below dist-packages."""
    below: dict[str, list[str]] = {}
    for member in deb.members:
        match = re.fullmatch(rf"{_DIST_PACKAGES}/([a-z0-9]+)/(.+)", member.name)
        if match and match[1] in _NEVER_MODULES | _SELDOM_MODULES and member.kind != "dir":
            below.setdefault(match[1], []).append(match[2])
    for root, files in below.items():
        # A package may be called lib; files that Python imports nothing of are somebody's idea of /lib.
        if root in _NEVER_MODULES or not any(
            regular_module(f"{_SITE}/{file}") or file.endswith(".py") for file in files
        ):
            yield Misplaced(
                rule="layout",
                subject=f"/{root}/{files[0]}"[:300],
                message="data_files of the project name this absolute path, where a Python package may put no file",
            )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _same(left: str, right: str) -> bool:
    try:
        # Directory names write "_" where a local version has "-" or where a dash would split the name.
        return Version(left.replace("_", "-")) == Version(right)
    except InvalidVersion:
        return _plain(left) == _plain(right)


def is_acted_on(path: str) -> bool:
    """Whether programs of the system run or obey a file there: only packages of the suite's own sources bring such."""
    return _ANY_OWN.match(path) is not None


def regular_module(path: str) -> str | None:
    """The top-level module that a path is the code of; None for the inner parts, and so for namespace packages.

    Compiled code comes first: ``six.abi3.so`` is imported in place of ``six.py``.
    """
    match = re.fullmatch(
        rf"{_DIST_PACKAGES}/([A-Za-z_]\w*)(?:/__init__)?(?:\.py|(?:\.cpython-\d+[a-z]*(?:-[\w-]+)?|\.abi3)?\.so)", path
    )
    return match[1] if match else None


def included(path: str) -> str | None:
    """What ``#include`` says for a header that compilers of extensions find before all others of that name."""
    match = re.fullmatch(r"usr/include/python3(?:\.\d{1,2})?/(.+)", path)
    return match[1] if match else None


def bare_module(path: str) -> str | None:
    """The top-level module that a path is the directory of, or a link to it."""
    match = re.fullmatch(rf"{_DIST_PACKAGES}/([A-Za-z_]\w*)", path)
    return match[1] if match else None


def module_directories(path: str) -> tuple[str, ...]:
    """The directories of Python modules that a path lies in (``zope``, ``zope/interface``), the topmost four."""
    match = re.fullmatch(rf"{_DIST_PACKAGES}/(.+)/[^/]+", path)
    parts = match[1].split("/") if match else []
    return tuple("/".join(parts[:depth]) for depth in range(1, min(len(parts), 4) + 1))
