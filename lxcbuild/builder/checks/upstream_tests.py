"""The project's own tests on request, on the sealed packages: a fresh sandbox that is thrown away, with what the package declares,
what its tests need, and the package itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
from msgspec.structs import replace
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lxcbuild.builder.closure import LocalDeb
from lxcbuild.builder.facts import Compiled, Inspected, Laid, LaidPackage
from lxcbuild.builder.failures import fail
from lxcbuild.builder.installed import hand_in, open_installed
from lxcbuild.builder.jobs import raise_failure, result_bytes, run_job, take_output
from lxcbuild.builder.needs import backends
from lxcbuild.builder.needs.naming import names, target_python
from lxcbuild.builder.work import Work
from lxcbuild.config.overrides import OFF
from lxcbuild.debian.checks import upstreamtests
from lxcbuild.debian.checks.upstreamtests import TestsRun, Verdict, usage_error
from lxcbuild.debian.names import canonical_or_none
from lxcbuild.debian.relations import translate
from lxcbuild.debian.sourcepackage import names_provided, relations_on_others
from lxcbuild.debian.steps import SOURCE, StepFailure
from lxcbuild.errors import DependencyError, LxcbuildError
from lxcbuild.images.image import Image
from lxcbuild.images.layer import Layer
from lxcbuild.model import FailureClass, Phase, Source
from lxcbuild.sandbox.base import Bind

#: How often tests may name what they import and nothing has told of.
_ROUNDS = 4
_MAX_LEARNED = 10
#: Tests that say so were not the package's fault: the suite's tools may be too old for them.
_NEWER_MAY_DO = (Verdict.NOT_LOADED, Verdict.USAGE)


def run(work: Work, laid: Laid | LaidPackage, compiled: Compiled) -> None:
    """Set ``work.checks["tests"]``; raises ``tests-failed`` where tests fail. A project without tests gets a note."""
    if isinstance(laid, LaidPackage):
        work.note("tests: those of a Debian source package are its own rules' business; none were run")
        return
    if work.override.tests == OFF:
        work.note("tests: switched off by hand for this project")
        return
    found = _find(work, laid.project)
    if not found.found and work.override.tests is None:
        work.checks["tests"] = {"found": False}
        work.note("tests: the source archive holds none")
        return
    result, tail = _until_complete(work, laid, compiled, found.requires)
    _judge(work, result, tail)
    work.finish_sandbox()  # not before: a failure's state is kept


def _until_complete(work: Work, laid: Laid, compiled: Compiled, requires: Sequence[str]) -> tuple[TestsRun, bytes]:
    """Run them, again with what their modules turn out to import, and at last with newer test tools than the suite's."""
    debs = [LocalDeb.read(item.path, sha256=item.sha256) for item in compiled.debs]
    companions = work.closure.companions([deb.stanza for deb in debs])
    installed = (*debs, *companions)
    own = {deb.package for deb in installed}
    learned: dict[str, str | None] = {}
    newest = False
    for number in range(_ROUNDS):
        layer = _layer(work, laid, installed, requires, learned, newest=newest)
        result, tail = _run(work, laid.project, layer, compiled, companions, number=number)
        said = tail + "\n".join(("", *result.unloadable)).encode()
        missing = upstreamtests.missing_modules(said, own=laid.project.inspection.modules)
        fresh = {} if result.ok else {p: n for p, n in _packages_of(work, missing, own).items() if p not in learned}
        if number == _ROUNDS - 1 or not (fresh or (not newest and result.verdict in _NEWER_MAY_DO)):
            break
        if fresh:
            work.note(f"tests: they import what no list of theirs names: {', '.join(fresh)}")
            learned.update(fresh)
        else:
            newest = True
            work.note(f"tests: once more with the newest releases of what they need: {_reason(result, tail)[0]}")
        work.finish_sandbox()
    return result, tail


def _judge(work: Work, result: TestsRun, tail: bytes) -> None:
    work.checks["tests"] = {"found": not result.none, "verdict": result.verdict.value, **msgspec.to_builtins(result)}
    if result.none:
        work.note("tests: pytest found none in the source archive", warning=True)
        return
    work.note(f"tests: {result}")
    if result.ok:
        if not result.passed and work.override.tests is None:
            work.note("tests: none of them ran, all were skipped", warning=True)
        return
    brief, resolution = _reason(result, tail)
    raise fail(
        FailureClass.TESTS_FAILED,
        Phase.VERIFY,
        brief,
        details="\n".join((*result.unloadable[:10], *result.failing[:20])) or None,
        resolution=f"{resolution}; without --tests the package is built",
    )


_BY_HAND = "an override names another command (tests: ..., see reference/overrides.md)"


def _reason(result: TestsRun, tail: bytes) -> tuple[str, str]:
    """Whether the package is to blame, and what helps."""
    if result.verdict is Verdict.FOREIGN:
        return f"the tests did not run on the installed package: {result.foreign[0]}", _BY_HAND
    if result.verdict is Verdict.NOT_LOADED:
        brief = (
            f"no test failed, but {result.unloadable_count} of their modules cannot be loaded: {result.unloadable[0]}"
        )
        return brief, f"what tests import is for the project to name; {_BY_HAND}"
    if result.verdict is Verdict.USAGE:
        said = usage_error(tail) or "the log says more"
        return f"no test was run: pytest does not take the project's options or configuration: {said}", _BY_HAND
    if result.verdict is Verdict.CRASHED:
        return f"pytest itself broke off (exit status {result.status}) after: {result}", "the log says where"
    if not result.failed and not result.errors:
        return f"the command of the tests failed (exit status {result.status})", "the log says why"
    return f"the project's own tests fail: {result}", "the log has pytest's report"


def _bind(source: Source) -> Bind:
    return Bind(host=source.path, inside=f"{SOURCE}/{source.path.name}")


def _find(work: Work, project: Inspected) -> upstreamtests.TestsFound:
    instance = work.open_sandbox((project.resolved.image.path,), binds=(_bind(project.source),))
    run_job(work, instance, upstreamtests.find_job(project.source.path.name))
    files = take_output(work, instance, work.workspace / "tests-found")
    found = upstreamtests.parse_found(result_bytes(files, upstreamtests.FOUND))
    if isinstance(found, StepFailure):
        raise_failure(work, found)
    work.finish_sandbox()
    return found


def _packages_of(work: Work, modules: Sequence[str], own: Collection[str]) -> dict[str, str | None]:
    """The suite's packages of modules that tests could not import, and their projects; never what is being tested."""
    contents = work.contents
    found: dict[str, str | None] = {}
    for name in modules[:_MAX_LEARNED]:
        package = next((p for p in contents.modules(name) if p.startswith("python3-") and p not in own), None)
        if package is not None:
            # A name that only a log says is never asked of the index: the suite must say that it is that package.
            shipped = contents.find_distribution(name) if canonical_or_none(name) else None
            found[package] = shipped.name if shipped is not None and shipped.package == package else None
    return found


def _layer(
    work: Work,
    laid: Laid,
    installed: Sequence[LocalDeb],
    requires: Sequence[str],
    learned: Mapping[str, str | None],
    *,
    newest: bool,
) -> Layer:
    """What the package declares, what its tests need of the suite, and on top what only the index has (``newest``: all of what
    tests need). What neither has is told and left out: tests that need it say so."""
    image, own = laid.project.resolved.image, {deb.package for deb in installed}
    relations, roots = _mapped(work, laid, requires, own)
    more = [package for package in (*learned, *upstreamtests.COMMON) if package not in own]
    below = work.provide(image, _declared(installed), (*relations, *_satisfiable(work, image, more)))
    if newest:
        roots = list(dict.fromkeys((*roots, *relations.values(), *filter(None, learned.values()))))
    return _with_wheels(work, laid.project, below, roots) if roots else below


def _mapped(work: Work, laid: Laid, requires: Sequence[str], own: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Relations for what the suite has of the test requirements, with the requirement that each stands for; and the others."""
    image, known = laid.project.resolved.image, names(work, laid.provided.layer)
    requires_dist = laid.project.inspection.requires_dist or ()
    extras, besides = upstreamtests.wanted(work.name, requires_dist, requires)
    relations: dict[str, str] = {}
    roots: dict[str, None] = {}
    for text in (*_of_extras(requires_dist), *besides):
        found = translate([text], python=target_python(image), names=known, extras=extras)
        if not found.relations and not found.unmapped:
            continue  # not on this Python, or of another extra
        plain = Requirement(text)
        plain.marker = None
        asked = [str(relation) for relation in found.relations if relation.package not in own]
        if found.unmapped or not all(_can_be_had(work, image, relation) for relation in asked):
            roots[str(plain)] = None
        else:
            relations |= dict.fromkeys(asked, str(plain))
    return relations, list(roots)


def _can_be_had(work: Work, image: Image, relation: str) -> bool:
    layers = work.context.layers
    try:
        layers.resolve(image, layers.base(image), work.archive, (relation,))
    except DependencyError:
        return False
    return True


def _satisfiable(work: Work, image: Image, relations: Sequence[str]) -> tuple[str, ...]:
    """Those that the suite can satisfy each for itself; the others are told of, and left out."""
    found = []
    for relation in relations:
        if _can_be_had(work, image, relation):
            found.append(relation)
        else:
            work.note(f"tests: left out {relation}: the suite cannot satisfy it", warning=True)
    return tuple(found)


def _with_wheels(work: Work, project: Inspected, below: Layer, roots: Sequence[str]) -> Layer:
    """The largest part of the requirements that the index can provide; never the project itself."""

    def choose(wanted: Sequence[str]) -> Layer:
        sets = backends.choose(work, project, below, wanted, constraints=())
        kept = {
            python: tuple(c for c in chosen if canonicalize_name(c.name) != canonicalize_name(work.name))
            for python, chosen in sets.items()
        }
        for item in {str(chosen): None for chosen_set in kept.values() for chosen in chosen_set}:
            work.note(f"test requirement from the index: {item}")
        made = work.context.wheels.provide(project.resolved.image, below, kept)
        return replace(below, lowers=made.layer.lowers)

    try:
        return choose(roots)
    except LxcbuildError as error:
        work.note(f"tests: not everything that they need is available: {error.brief}", warning=True)
    single = []
    for root in roots:
        try:
            choose([root])
        except LxcbuildError as error:
            work.note(f"tests: left out {root}: {error.brief}", warning=True)
        else:
            single.append(root)
    try:
        return choose(single) if single else below
    except LxcbuildError:
        return below


def _of_extras(requires_dist: Sequence[str]) -> list[str]:
    """Without tools that no test imports. What the project needs without extras, its package declares."""
    kept = []
    for text in requires_dist:
        try:
            name = Requirement(text).name
        except InvalidRequirement:
            continue
        if "extra" in text and upstreamtests.is_for_tests(name):
            kept.append(text)
    return kept


def _declared(installed: Sequence[LocalDeb]) -> tuple[str, ...]:
    stanzas = [deb.stanza for deb in installed]
    own = names_provided(stanzas)
    return tuple(sorted({clause for item in stanzas for clause in relations_on_others(item.get("Depends", ""), own)}))


def _run(
    work: Work, project: Inspected, layer: Layer, compiled: Compiled, companions: Sequence[LocalDeb], *, number: int
) -> tuple[TestsRun, bytes]:
    """What came out, and the end of what was printed."""
    shown = hand_in(work, compiled.debs, name=f"debs-for-tests-{number}")
    for deb in companions:
        deb.copy_to(shown)
    instance = open_installed(work, layer.lowers, shown, binds=(_bind(project.source),))
    job = upstreamtests.run_job(project.source.path.name, project.inspection.modules, command=work.override.tests)
    tail = run_job(work, instance, job).tail
    files = take_output(work, instance, work.workspace / f"tests-{number}")
    result = upstreamtests.parse_run(result_bytes(files, upstreamtests.RESULT))
    if isinstance(result, StepFailure):
        raise_failure(work, result)
    return result, tail
