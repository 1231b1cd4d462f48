"""What programs do as forks of one server is what they do when each starts alone (debian/inside/forkserver/forkserver.pl)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from lxcbuild.builder.layering import nearest_stack
from lxcbuild.cli.options import host_target
from lxcbuild.debian import steps
from lxcbuild.debian.steps import InsideStep
from lxcbuild.images.layers import LayerStore
from lxcbuild.images.store import ImageStore
from lxcbuild.sandbox.base import Step, User
from lxcbuild.sandbox.lxc import LxcBackend
from lxcbuild.sandbox.lxc_instance import LxcInstance
from lxcbuild.state.paths import StateDirs
from tests.integration.lxc_sandboxes import spec

pytestmark = [pytest.mark.root, pytest.mark.network]

_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEB_BUILD_OPTIONS": "parallel=2 nocheck",
}
_CHANGELOG = """\
demo (1.0-1) unstable; urgency=medium

  * Two  blanks, a 'quote' and an umlaut: \u00e4.

 -- Nobody <nobody@example.org>  Thu, 01 Jan 2026 00:00:00 +0000
"""


def run(instance: LxcInstance, script: str, *, served: bool) -> tuple[int | None, str]:
    step = InsideStep(argv=("/bin/sh", "-c", script), env=_ENVIRONMENT, cwd="/tmp", fork_served=served)
    parts: list[bytes] = []
    result = instance.run(Step(argv=step.command, env=step.env, cwd=step.cwd), parts.append)
    return result.exit_status, b"".join(parts).decode()


def served_alike(instance: LxcInstance, script: str) -> str:
    """Run it in both ways; the output, which must be the same."""
    alone, served = (run(instance, f"rm -rf here; {script}", served=served) for served in (False, True))
    assert served == alone
    return served[1]


@pytest.fixture
def sandbox(state: StateDirs) -> Iterator[LxcInstance]:
    """One with the programs of dpkg-dev, and the compiler that they ask."""
    images = ImageStore(state)
    image = images.ensure(host_target())
    with LxcBackend(state) as backend:
        store = LayerStore(state, backend, choose=nearest_stack)
        lowers = store.provide(image, images.archive(image), ["build-essential"]).lowers
        with backend.create(replace(spec(lowers[0]), lowers=lowers)) as instance:
            instance.start()
            for inside, content in steps.fork_server_files().items():
                instance.put(inside, content)
            yield instance
        store.close()
    images.close()


#: Prints what has started the program: the shell, or the server.
_PARENT = "sh -c 'readlink /proc/$PPID/exe'"


def test_only_programs_with_the_servers_environment_and_streams_are_forked(
    sandbox: LxcInstance,
) -> None:
    asked = f"dpkg-architecture -c {_PARENT}"
    cases = {
        asked: "perl",
        f"echo $({asked})": "perl",
        f"DH_VERBOSE=1 {asked}": "perl",
        f"DEB_BUILD_OPTIONS='nocheck parallel=2' {asked}": "perl",  # as dpkg-buildpackage orders them
        f"DEB_BUILD_OPTIONS='nocheck parallel=1' {asked}": "dash",
        f"LC_ALL=C {asked}": "dash",
        f"PERL5LIB=/tmp {asked}": "dash",
        f"LD_PRELOAD=libm.so.6 {asked}": "dash",
        f"{asked} >here; cat here; rm here": "dash",  # opened anew it would begin at its beginning
        f"(ulimit -n 100; {asked})": "dash",
    }
    for script, parent in cases.items():
        run(sandbox, "rm -rf /tmp/lxcbuild-forkserver", served=False)
        status, output = run(sandbox, script + "; exit 0", served=True)
        assert (status, output.strip().rpartition("/")[2].partition("5")[0]) == (0, parent), script


def test_a_forked_program_has_its_callers_arguments_streams_and_settings(sandbox: LxcInstance) -> None:
    script = f"""
mkdir -p here/debian && cd here && cat >debian/changelog <<'END'
{_CHANGELOG}END
dpkg-parsechangelog
cat debian/changelog | dpkg-parsechangelog -l- -S Changes
echo "$(dpkg-parsechangelog -S Version) $(dpkg-parsechangelog -ldebian/changelog --show-field 'Distribution')"
umask 077; dpkg-architecture -c touch 'a name' ''; stat -c '%a %n' *
A=1 B='two words' dpkg-architecture -c sh -c 'echo "$A $B $0 $#" "$@"' 'x y' '' 'z
z'
dpkg-architecture -c pwd >out; dpkg-architecture -c pwd >>out; cat out
dpkg-architecture -qDEB_HOST_ARCH 2>&1 >/dev/null | cat
"""
    output = served_alike(sandbox, script)
    assert "Two  blanks, a 'quote'" in output
    assert "600 a name" in output
    assert output.count("/tmp/here") == 2


def test_statuses_signals_and_messages_are_those_of_a_program_alone(sandbox: LxcInstance) -> None:
    output = served_alike(
        sandbox,
        """
dpkg-architecture --nonsense; echo $?
dpkg-source -x nowhere.dsc; echo $?
dpkg-architecture -c sh -c 'exit 7'; echo $?
sh -c 'dpkg-architecture -c sh -c "kill -KILL \\$\\$"' 2>/dev/null; echo $?
dpkg-parsechangelog; exit 5
""",
    )
    assert "dpkg-source: error:" in output
    assert "\n7\n137\n" in output


#: How a program may end while something is open, by what it has to leave in the directory here.
_ENDINGS = {
    "an open file": "open our $out, '>', 'here/file'; print $out 'all of it'; exit 3",
    "a pipe": "open our $out, '|-', 'sleep 0.3; cat >here/piped'; print $out 'all of it'; exit 4",
    "a pipe to read": "open our $in, '-|', 'sleep 0.3; echo late >here/late'; exit 0",
    "a temporary file": "use File::Temp; our $out = File::Temp->new(DIR => 'here'); print $out 'x'; exit 5",
    "a temporary directory": "use File::Temp qw(tempdir); mkdir tempdir(DIR => 'here', CLEANUP => 1) . '/x'; exit 6",
    "an object of its own": "our $mine = bless []; sub DESTROY { print 'freed' } exit 7",
    "an object of a module": "use lib '/tmp/lib'; use Effect; our $mine = bless [], 'Effect'; exit 8",
    "an END block": "END { print 'last'; $? = 9 } print 'first '",
    "a death": "open our $out, '>', 'here/file'; print $out 'all of it'; die 'words'",
    "a fork": "if (!fork) { print 'child '; exit 0 } wait; print 'parent'",
}


@pytest.mark.parametrize("ending", _ENDINGS)
def test_programs_that_end_quickly_leave_what_they_would(ending: str, sandbox: LxcInstance) -> None:
    program = f"#!/usr/bin/perl\nuse strict; {_ENDINGS[ending]};\n"
    sandbox.put("/tmp/program", program.encode(), mode=0o755)
    sandbox.put("/tmp/lib/Effect.pm", b"package Effect; sub DESTROY { print 'freed' } 1;\n")
    parts: list[bytes] = []
    replaced = Step(argv=("cp", "/tmp/program", "/usr/bin/dpkg-vendor"), user=User.ROOT)
    assert sandbox.run(replaced, parts.append).ok, parts
    output = served_alike(sandbox, "mkdir here; dpkg-vendor; echo $?; find here | sort; cat here/*")
    assert output


def test_who_stops_asking_ends_the_program(sandbox: LxcInstance) -> None:
    script = "timeout 1 dpkg-architecture -c sleep 600; echo $?; sleep 1; cat /proc/[0-9]*/comm | grep -c sleep"
    _status, output = run(sandbox, script, served=True)
    assert output.split() == ["124", "0"]


def test_without_the_server_s_place_the_command_runs_as_it_is(sandbox: LxcInstance) -> None:
    run(sandbox, "mkdir -p /tmp/lxcbuild-forkserver", served=False)
    status, output = run(sandbox, f"dpkg-architecture -c {_PARENT}; exit 3", served=True)
    assert (status, output.strip().rpartition("/")[2]) == (3, "dash")
