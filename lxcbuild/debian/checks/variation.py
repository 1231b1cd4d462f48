"""The same build under other circumstances: another user, directory, host, time and so on, for comparing what comes out.

Like everything of this room it gives jobs as plain data. The circumstances are those that reprotest varies, as far as a sandbox
without privileges has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from lxcbuild.debian.steps import DEBS, OUT, InsideJob, InsideStep

HOME = "/build/somewhere-else"
HOSTNAME = "another"
_ID = 4711
#: Room for a library that nothing looks for: dpkg does not know it, so that no package can come to depend on it.
_TIME_ROOT = "/opt/lxcbuild-time"
CLOCK_PACKAGE = "libfaketime"
#: 400 days and some hours ahead: another year, month, day and hour. libfaketime reads one number and one unit.
_CLOCK = "+400.3d"
ENVIRONMENT: Mapping[str, str] = {
    "HOME": f"{HOME}/home",
    "USER": "another",
    "LOGNAME": "another",
    "LC_ALL": "C",
    "LANG": "C",
    "LANGUAGE": "fr:et",
    "TZ": "Pacific/Kiritimati",
    "CAPTURED": "a build should not look at this",
}
#: What differs, for people; the clock only where it could be changed.
VARIED = (
    "build path", "user and group id", "user name", "home directory", "id range of the sandbox", "host name",
    "locale (C.UTF-8, C)", "time zone", "number of cores", "environment variables", "order of directory entries",
)  # fmt: skip
NOT_VARIED = ("umask", "kernel", "architecture and CPU model", "file system", "installed packages", "PYTHONHASHSEED")
CLOCK = "time (400 days)"

_PREPARE = f"""set -e
echo 'another:x:{_ID}:{_ID}:Another:{HOME}/home:/bin/sh' >>/etc/passwd
echo 'another:x:{_ID}:' >>/etc/group
mkdir -p {HOME}/home
chown -R {_ID}:{_ID} {HOME} {OUT}
for deb in {DEBS}/*.deb; do test ! -e "$deb" || dpkg-deb -x "$deb" {_TIME_ROOT}; done
"""
# setpriv leaves nothing of the inner root before anything of the package runs.
_DROP = (
    "setpriv", f"--reuid={_ID}", f"--regid={_ID}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs",
)  # fmt: skip
_ENTER = """umask 0002  # for what is not below debhelper, which sets 0022 itself
set -e
if test "$1" = one; then first=$(taskset -cp $$); first=${first##*: }; taskset -cp "${first%%[,-]*}" $$ >/dev/null; fi
if test "$2" = clock; then
  export LD_PRELOAD=$(find {root} -name libfaketime.so.1 -print -quit)
  test -n "$LD_PRELOAD"
  export FAKETIME={clock} NO_FAKE_STAT=1 DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1
fi
shift 2
exec "$@"
""".replace("{root}", _TIME_ROOT).replace("{clock}", _CLOCK)
# A tmpfs lists the newest entry first, and tar packs in the order of the listing (cp sorts by inode): every directory turns around.
_TURN = """set -e
mkdir "$1.turned"
tar --format=posix -C "$1" -cf "$1.tar" .
tar -C "$1.turned" -xpf "$1.tar"
rm "$1.tar"
rm -r "$1"
mv "$1.turned" "$1"
"""


def prepare_step() -> InsideStep:
    """As the inner root, before anything of the package runs: another user, its directory, and the library for the clock."""
    return InsideStep(argv=("/bin/sh", "-c", _PREPARE), cwd="/", as_root=True)


def turn_step(tree: str) -> InsideStep:
    """Turn the order of the entries of every directory of ``tree`` around."""
    return InsideStep(argv=("/bin/sh", "-c", _TURN, "turn", tree), cwd=HOME)


def varied(job: InsideJob, *, clock: bool, one_core: bool) -> InsideJob:
    """The job with each step under other circumstances; ``clock`` needs the package of the clock among ``/in/debs``.

    Nothing is served by forks here: programs that start alone are one circumstance more.
    """
    return replace(job, steps=tuple(_varied(step, clock=clock, one_core=one_core) for step in job.steps))


def _varied(step: InsideStep, *, clock: bool, one_core: bool) -> InsideStep:
    enter = ("/bin/sh", "-c", _ENTER, "enter", "one" if one_core else "all", "clock" if clock else "now")
    cwd = HOME if step.cwd == "/build" else step.cwd
    return InsideStep(argv=(*_DROP, *enter, *step.argv), env={**step.env, **ENVIRONMENT}, cwd=cwd, as_root=True)


def comparable(names: Sequence[str]) -> tuple[str, ...]:
    """The files that have to be equal: .buildinfo and .changes describe the run itself."""
    return tuple(sorted(name for name in set(names) if not name.endswith((".buildinfo", ".changes", ".json"))))


# -- diffoscope -----------------------------------------------------------------------------------------------------

EXPLANATION = "difference.txt"
_FIRST, _SECOND = "/in/first", "/in/second"
_MAX_REPORT_BYTES = 512 * 1024
_EXPLAIN = f"""for name in "$@"; do
  diffoscope --no-progress --no-default-limits --max-report-size {_MAX_REPORT_BYTES} --max-page-size {_MAX_REPORT_BYTES} \\
    --text - --text-color never "{_FIRST}/$name" "{_SECOND}/$name" | head -c {_MAX_REPORT_BYTES}
done >{OUT}/{EXPLANATION}
"""


def explain_job(names: Sequence[str]) -> InsideJob:
    """Let diffoscope say what differs between files of two directories; the text is ``/out/difference.txt``."""
    return InsideJob(
        files={},
        steps=(InsideStep(argv=("/bin/sh", "-c", _EXPLAIN, "explain", *names)),),
        results=(EXPLANATION,),
    )


def explain_binds() -> tuple[str, str]:
    """Where the two directories are shown."""
    return _FIRST, _SECOND


#: In listings and headers of a difference nothing is said that its content does not say.
_SAYS_LITTLE = re.compile(
    r"[-+](?:[-dl][rwxsStT-]{9} .*|--.*|\+\+.*|\s*0x[0-9a-f]{8} .*|.*Build ID: .*|.*\bmtime\b.*|\s*)"
)
_SHOWN_LINES, _SHOWN_LENGTH = 8, 160


def telling_lines(explained: str) -> list[str]:
    """Of diffoscope's text the first lines that differ, without its drawing; its first lines where it has none."""
    plain = [line.lstrip("\u2502\u251c\u2500\u2504\u2514 ") for line in explained.splitlines()]
    found = [line for line in plain if line.startswith(("+", "-")) and not _SAYS_LITTLE.fullmatch(line)]
    shown = found or [line for line in plain if line.strip()]
    return [" ".join(line.split())[:_SHOWN_LENGTH] for line in shown[:_SHOWN_LINES]]
