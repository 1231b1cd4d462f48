"""The frame around every verb: exit codes, one-line errors, JSON, signals, broken pipes, bugs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from lxcbuild.errors import UnknownBuildError
from lxcbuild.ledger.records import NewBuild
from lxcbuild.ledger.store import Ledger
from lxcbuild.model import Failure, FailureClass, Outcome, Phase, Status, Target
from lxcbuild.state.paths import StateDirs


def lxcbuild(*argv: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "error", **env}
    argv_text = [sys.executable, "-m", "lxcbuild", *(os.fspath(a) for a in argv)]
    return subprocess.run(argv_text, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)


def framed(body: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the frame with one extra verb, ``trial``, whose body is given."""
    script = textwrap.dedent("""
        import sys, click
        from lxcbuild.cli import main
        from lxcbuild.cli.options import json_option, pass_ui
        from lxcbuild.errors import *
        @click.command()
        @json_option
        @pass_ui
        def trial(ui, /, *, as_json):
        {body}
        main.VERBS["trial"] = main.Verb("__main__:trial", "x")
        sys.exit(main.run_command_line(sys.argv[1:]))
    """).format(body=textwrap.indent(textwrap.dedent(body).strip(), "    "))
    return subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True)


@pytest.fixture
def recorded(fresh_state: StateDirs) -> StateDirs:
    """A state directory with one failed build whose log is hostile."""
    fresh_state.logs.mkdir(parents=True)
    log = fresh_state.logs / "x.log"
    log.write_bytes(b"\x1b]0;owned\x07\x1b[31mred\x1b[0m \xff end\n")
    failure = Failure(failure_class=FailureClass.OOM, phase=Phase.COMPILE, brief="\x1b[2Jtoo big", details="a\nb")
    target = Target("debian", "bookworm")
    with Ledger.open(fresh_state) as ledger:
        ledger.begin(NewBuild(build_id="20260101-0001", name="six", target=target, policy="default", log_path=log))
        ledger.finish(
            Outcome(
                build_id="20260101-0001",
                name="six",
                version="1.0",
                target=target,
                status=Status.FAILED,
                failure=failure,
                log_path=log,
            )
        )
    return fresh_state


def root_of(dirs: StateDirs) -> Path:
    return dirs.lib.parent


def test_the_version_is_one_line() -> None:
    done = lxcbuild("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"lxcbuild \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("verb", ["--version", "--help"])
@pytest.mark.parametrize(
    ("streams", "status", "errors"),
    [(">/dev/full", 34, 1), ("| true", 0, 0), (">&-", 0, 0), ("<&- >&- 2>&-", 0, 0), (">/dev/full 2>&-", 34, 0)],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_streams_that_do_not_work(verb: str, streams: str, status: int, errors: int, unbuffered: str) -> None:
    command = f"{sys.executable} -m lxcbuild {verb} {streams}"
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONUNBUFFERED": unbuffered}
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.count("error: ") == errors
    assert "Traceback" not in done.stderr


def test_an_unknown_verb_is_guessed() -> None:
    done = lxcbuild("histroy")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Perhaps you meant 'history'" in done.stderr
    assert "hint: run: lxcbuild --help" in done.stderr


@pytest.mark.parametrize(
    "argv", [("biuld", "--json"), ("history", "--json", "--nope"), ("history", "--limit", "x", "--json")]
)
def test_usage_errors_are_json_too(argv: tuple[str, ...]) -> None:
    done = lxcbuild(*argv)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["exit_code"] == 2


def test_an_error_is_one_line_and_a_hint(tmp_path: Path) -> None:
    done = lxcbuild("--state-dir", tmp_path, "log", "abc")
    assert (done.returncode, done.stdout) == (UnknownBuildError.exit_code, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert "'abc'" in error
    assert hint.startswith("hint: ")


def test_an_error_with_json_is_one_document(tmp_path: Path) -> None:
    done = lxcbuild("--state-dir", tmp_path, "log", "abc", "--json")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exit_code"], error["reference"]) == (17, 17, "unknown-build")
    assert set(error) == {"reference", "brief", "details", "resolution", "exit_code"}


def test_talk_can_be_json_lines(tmp_path: Path) -> None:
    done = lxcbuild("--state-dir", tmp_path, "--log-format", "json", "history")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["note", "hint"]


@pytest.mark.parametrize("verb", [["history"], ["layers", "list"]])
def test_global_options_may_follow_the_verb(tmp_path: Path, verb: list[str]) -> None:
    before = lxcbuild("--state-dir", tmp_path, "--log-format", "json", *verb)
    after = lxcbuild(*verb, "--log-format", "json", "--state-dir", tmp_path)
    assert (after.returncode, after.stdout, after.stderr) == (before.returncode, before.stdout, before.stderr)
    assert "event" in json.loads(after.stderr.splitlines()[0])


def test_a_global_option_after_the_verb_keeps_those_before_it(tmp_path: Path) -> None:
    done = framed(
        "print(ui.dirs.lib.parent, ui.verbosity, ui.log_format, ui.plain)",
        "--log-format",
        "json",
        "-v",
        "trial",
        "--state-dir",
        os.fspath(tmp_path),
        "--no-color",
    )
    assert done.stdout == f"{tmp_path} 1 json True\n"


@pytest.mark.parametrize("name", ["-r", "--requirements", "--requirement", "--from"])
@pytest.mark.parametrize("verb", ["build", "plan", "rebuild", "watch"])
def test_requirements_files_have_one_name_and_older_ones(name: str, verb: str, tmp_path: Path) -> None:
    done = lxcbuild("--state-dir", tmp_path, verb, name, tmp_path, "--json" if verb != "watch" else "--once")
    assert done.returncode == 2  # the option is known: a directory is refused as a file
    assert "is a directory" in done.stdout + done.stderr
    shown = lxcbuild(verb, "--help").stdout
    assert "-r, --requirements FILE" in shown
    assert "--from" not in shown


def test_targets_with_other_characters_are_refused(tmp_path: Path) -> None:
    for bad in ("debian", "debian/../x", "debian/$(id)", "a/b/c/d", "Debian/x", "debian/\n"):
        assert lxcbuild("--state-dir", tmp_path, "history", "--target", bad).returncode == 10, bad


def test_a_bug_is_one_line_and_its_traceback_a_file(tmp_path: Path) -> None:
    done = framed("raise ZeroDivisionError('first\\nsecond')", "--state-dir", os.fspath(tmp_path), "trial")
    assert done.returncode == 70
    error = done.stderr.splitlines()[0]
    assert error.startswith("error: ")
    assert error.endswith("ZeroDivisionError: first")
    assert "Traceback" not in done.stderr
    (report,) = (tmp_path / "lib/crashes").iterdir()
    assert str(report) in done.stderr
    assert "ZeroDivisionError" in report.read_text()


def test_a_full_disk_is_no_bug(tmp_path: Path) -> None:
    done = framed(
        "import errno; raise OSError(errno.ENOSPC, 'x', '/some/file')", "--state-dir", os.fspath(tmp_path), "trial"
    )
    assert done.returncode == 34
    assert "/some/file" in done.stderr


def test_exit_codes_come_from_the_error_classes() -> None:
    assert framed("raise KernelError('no')", "trial").returncode == 35
    assert framed("return 7", "trial").returncode == 7
    assert framed("pass", "trial").returncode == 0


def test_a_document_is_not_followed_by_an_error_document() -> None:
    done = framed("ui.emit_json({'builds': []}); raise BuildsFailedError('one failed')", "trial", "--json")
    assert json.loads(done.stdout) == {"builds": []}
    assert (done.returncode, done.stderr) == (1, "error: one failed\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_unwind_and_end_with_130(number: signal.Signals) -> None:
    done = framed(
        f"""
        import os, time
        try:
            os.kill(os.getpid(), {int(number)})
            time.sleep(5)
        finally:
            os.kill(os.getpid(), {int(number)})  # an impatient user cannot stop the clean-up
            print('unwound')
        """,
        "trial",
    )
    assert done.returncode == 130
    assert done.stdout == "unwound\n"
    assert "error: cancelled" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_quiet() -> None:
    script = "import sys\nfrom lxcbuild.__main__ import main\nsys.exit(main(['--help']))"
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE) as child:
        os.close(write)
        assert child.stderr is not None
        said = child.stderr.read()
    assert (child.returncode, said) == (141, b"")


def test_history_is_tab_separated_for_programs(recorded: StateDirs) -> None:
    done = lxcbuild("--state-dir", root_of(recorded), "history")
    header, row = (line.split("\t") for line in done.stdout.splitlines())
    assert header[:6] == ["id", "started", "name", "version", "target", "status"]
    assert (row[0], row[2], row[5]) == ("20260101-0001", "six", "failed")
    assert "\x1b" not in done.stdout


def test_history_as_json_has_the_documented_shape(recorded: StateDirs) -> None:
    done = lxcbuild("--state-dir", root_of(recorded), "history", "--name", "SIX", "--class", "oom", "--json")
    (build,) = json.loads(done.stdout)["builds"]
    documented = {"name", "version", "target", "status", "failure", "artifacts", "phases", "log", "limits_in_force"}
    assert documented <= set(build)
    assert set(build["failure"]) == {"class", "phase", "brief", "details", "resolution", "retryable"}
    assert lxcbuild("--state-dir", root_of(recorded), "history", "--status", "built", "--json").stdout == (
        '{\n  "builds": []\n}\n'
    )


def test_a_log_is_raw_for_programs_and_filtered_for_terminals(recorded: StateDirs) -> None:
    root = root_of(recorded)
    raw = subprocess.run(
        [sys.executable, "-m", "lxcbuild", "--state-dir", root, "log"], capture_output=True, stdin=subprocess.DEVNULL
    )
    assert raw.stdout == (recorded.logs / "x.log").read_bytes()
    shown = on_a_terminal("--state-dir", os.fspath(root), "log", "20260101")
    assert b"red" in shown
    assert b"\x1b]0" not in shown
    assert b"\x1b[31m" not in shown


def test_no_color_is_honoured(recorded: StateDirs) -> None:
    root = os.fspath(root_of(recorded))
    assert b"\x1b[" in on_a_terminal("--state-dir", root, "log", "nope")
    assert b"\x1b[" not in on_a_terminal("--state-dir", root, "log", "nope", NO_COLOR="1")
    assert b"\x1b[" not in on_a_terminal("--no-color", "--state-dir", root, "log", "nope")


def on_a_terminal(*argv: str, **env: str) -> bytes:
    """What the command writes to a terminal that is its standard input, output and error."""
    main_fd, side_fd = os.openpty()
    environment: dict[str, Any] = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | env
    command = [sys.executable, "-m", "lxcbuild", *argv]
    with subprocess.Popen(command, stdin=side_fd, stdout=side_fd, stderr=side_fd, env=environment):
        os.close(side_fd)
        seen = b""
        while True:
            try:
                chunk = os.read(main_fd, 65536)
            except OSError:  # EIO: the last process closed the other side
                break
            if not chunk:
                break
            seen += chunk
    os.close(main_fd)
    return seen
