"""What each failure class means and what helps: a table for ``lxcbuild explain`` and for docs/reference/failure-classes.md."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from lxcbuild.model import FailureClass as F


class Explanation(Struct, frozen=True, kw_only=True):
    """One class: what has happened, and what a user can do. ``retry`` says when trying again makes sense."""

    meaning: str
    fix: str
    retry: str


_NEVER = "No: the same inputs fail in the same way."
_LIMIT = "Only with a higher limit, or for a build that varies: the same policy stops it again."

EXPLANATIONS: Mapping[F, Explanation] = {
    F.NO_SDIST: Explanation(
        meaning="The project publishes no source archive of that version, only wheels. Packages are built from source.",
        fix="Build from the project's repository: clone it and give the directory, or ask its authors for an sdist.",
        retry="No, until the project publishes one.",
    ),
    F.BROKEN_SDIST: Explanation(
        meaning="The sources cannot be used: damaged, not what they claim to be, or without what a build reads from them.",
        fix="Try another version; if the project's own build has the same trouble, report it there.",
        retry="No, unless a download was damaged: then the next one is fetched anew.",
    ),
    F.OFFICIAL: Explanation(
        meaning="The distribution ships the project already.",
        fix="Install the distribution's package, or build all the same with --force.",
        retry="No: nothing failed.",
    ),
    F.UNSATISFIABLE: Explanation(
        meaning="What was asked for does not exist: no such project, no such version, or none for this Python or architecture.",
        fix="Check the spelling and the versions; another --target may have the Python that is needed.",
        retry="No, until the index has it.",
    ),
    F.DEP_MISSING: Explanation(
        meaning="The package needs another one at run time that the suite does not have, has too old, or that nobody declared.",
        fix="Do what the failure says; a newer suite (--target) has more. Report an undeclared requirement to the project. See "
        "how-to/dependencies.md.",
        retry=_NEVER,
    ),
    F.BUILD_DEP_MISSING: Explanation(
        meaning="The build needs a package, module, header, library, program or crate that is not there. Builds have no network.",
        fix="Try a newer suite with --target; omit --strict-debian, so that the index can provide build tools.",
        retry=_NEVER,
    ),
    F.CONVERT_FAILED: Explanation(
        meaning="No Debian source package could be made of the project.",
        fix="Try the other --converter, or an override (reference/overrides.md); or write debian/ by hand and build that.",
        retry=_NEVER,
    ),
    F.COMPILE_FAILED: Explanation(
        meaning="The package's own build failed.",
        fix="Look around where it failed: lxcbuild shell --failed. Another version or suite may work; a variable, package or patch "
        "that fixes it goes into an override, see reference/overrides.md.",
        retry=_NEVER,
    ),
    F.TESTS_FAILED: Explanation(
        meaning="The package was built, and its own tests fail, or could not be run.",
        fix="Read the log; tests that want a network or a display cannot pass here.",
        retry="Perhaps, where tests depend on timing.",
    ),
    F.NETWORK_DENIED: Explanation(
        meaning="The build wanted the network. A sandbox has none; name, port and program are in the failure.",
        fix="Give the build what it wants to fetch as a build dependency or in its sources; see how-to/network.md.",
        retry=_NEVER,
    ),
    F.WROTE_OUTSIDE: Explanation(
        meaning="The build wanted to write to places of the system, and may not.",
        fix="Report it to the project: a build writes below its own directory and to where it is told to install.",
        retry=_NEVER,
    ),
    F.GATE_REJECTED: Explanation(
        meaning="Packages came out that may not be published: wrong name or version, files in forbidden places, setuid, "
        "maintainer scripts or links that nobody asked for.",
        fix="Look at the files that were kept aside before you trust the project. Nothing was published.",
        retry=_NEVER,
    ),
    F.INSTALL_FAILED: Explanation(
        meaning="The packages were built, and apt cannot install them on a clean system.",
        fix="The log of phase verify has apt's and the maintainer scripts' words.",
        retry=_NEVER,
    ),
    F.IMPORT_FAILED: Explanation(
        meaning="The package installs, and what it installs does not work: a module cannot be imported, a command not started.",
        fix="The details have the traceback. Often a data file that the build leaves out, or a newer Python than the project's.",
        retry=_NEVER,
    ),
    F.OOM: Explanation(
        meaning="The build needed more memory than its policy allows, and the kernel ended it.",
        fix="Raise memory.max in the policy, or choose another one with --policy. Files of the build are memory too.",
        retry=_LIMIT,
    ),
    F.DISK_FULL: Explanation(
        meaning="The build filled its writable layer, also at the second attempt with more room where its policy grants one.",
        fix="Raise disk.max (and memory.max) in the policy, or choose another one with --policy.",
        retry=_LIMIT,
    ),
    F.PIDS_EXHAUSTED: Explanation(
        meaning="The build wanted more processes and threads than its policy allows.",
        fix="Raise pids.max in the policy, or choose another one with --policy. That does not cure endless forking.",
        retry=_LIMIT,
    ),
    F.TIMEOUT: Explanation(
        meaning="A step took longer than its policy allows, by the clock or in CPU time.",
        fix="Raise time.wall in the policy, or build on a less busy machine.",
        retry="Perhaps, on a machine that has less to do.",
    ),
    F.SILENT: Explanation(
        meaning="A step printed nothing for too long, so that it probably hung.",
        fix="Raise time.silence in the policy where a quiet step is normal.",
        retry="Perhaps, on a machine that has less to do.",
    ),
    F.LOG_FLOOD: Explanation(
        meaning="The build printed more than its policy allows.",
        fix="Raise log.max in the policy where that much is normal.",
        retry=_NEVER,
    ),
    F.SANDBOX_FAILED: Explanation(
        meaning="The sandbox could not be started, or stopped answering. The package is not to blame.",
        fix="Run: lxcbuild doctor. If it finds nothing, this is a bug of lxcbuild.",
        retry="Yes.",
    ),
    F.CANCELLED: Explanation(
        meaning="The build was interrupted, or its process was killed.",
        fix="Build it again.",
        retry="Yes.",
    ),
    F.HOST_REFUSED: Explanation(
        meaning="This machine, its network or its configuration kept the build from running. The package is not to blame.",
        fix="Run: lxcbuild doctor, and do what the error says.",
        retry="Yes, once that is fixed.",
    ),
}


def markdown() -> str:
    """The page docs/reference/failure-classes.md."""
    lines = [
        "# Failure classes",
        "",
        "Every build that fails has one class of this closed list. `lxcbuild explain` says the same about one build, with the",
        "lines of its log that decided. This page is made from the code (`python -m lxcbuild.builder.failed.explanations`), and a",
        "test compares the two.",
        "",
        "| class | what has happened | what to do | can a retry help? | `retryable` |",
        "|---|---|---|---|---|",
    ]
    for item in F:
        text = EXPLANATIONS[item]
        retryable = "yes" if item.retryable else "no"
        lines.append(f"| `{item.value}` | {text.meaning} | {text.fix} | {text.retry} | {retryable} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
