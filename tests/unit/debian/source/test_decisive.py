"""The lines that decide are found in logs of real programs."""

from __future__ import annotations

from lxcbuild.debian.source.decisive import decisive_lines

BACKEND = """\
* Building wheel...
What shall the project be called? Traceback (most recent call last):
  File "/usr/lib/python3/dist-packages/pep517/in_process/_in_process.py", line 351, in <module>
    main()
  File "/usr/lib/python3/dist-packages/setuptools/build_meta.py", line 335, in run_setup
    exec(code, locals())
  File "<string>", line 5, in <module>
EOFError: EOF when reading a line

ERROR Backend subprocess exited when trying to invoke build_wheel
E: pybuild pybuild:388: build: plugin pyproject failed with: exit code=1: python3 -m build
dh_auto_build: error: pybuild --build returned exit code 13
make: *** [debian/rules:11: binary] Error 25
dpkg-buildpackage: error: debian/rules binary subprocess returned exit status 2
"""


def test_a_traceback_is_where_the_project_is_and_what_was_raised() -> None:
    assert decisive_lines(BACKEND) == [
        "What shall the project be called?",
        '  File "setup.py", line 5, in <module>',
        "EOFError: EOF when reading a line",
    ]


def test_a_traceback_without_a_frame_of_the_project_keeps_its_last() -> None:
    log = 'Traceback (most recent call last):\n  File "/usr/lib/python3/x.py", line 1, in f\n    g()\nKeyError: 1\n'
    assert decisive_lines(log) == ['  File "/usr/lib/python3/x.py", line 1, in f', "    g()", "KeyError: 1"]


def test_an_indented_traceback_is_read_the_same() -> None:
    log = '      Traceback (most recent call last):\n        File "a.py", line 1, in f\n          g()\n      OSError: no\n'
    assert decisive_lines(log) == ['        File "a.py", line 1, in f', "          g()", "      OSError: no"]


def test_the_first_error_of_a_compiler_stays() -> None:
    log = "".join(f"x.c:{n}:1: error: thing {n}\n" for n in range(30)) + "make: *** [x] Error 1\n"
    found = decisive_lines(log)
    assert len(found) == 10
    assert (found[0], found[-1]) == ("x.c:0:1: error: thing 0", "x.c:29:1: error: thing 29")


def test_what_only_pybuild_says_is_no_echo() -> None:
    log = "E: pybuild pybuild:388: build: plugin pyproject failed with: [Errno 28] No space left on device\n"
    assert decisive_lines(log + "make: *** [x] Error 1\n") == [log.strip()]


def test_without_an_error_the_end_is_shown_and_repetition_counted() -> None:
    chatter = "dpkg-source: info: building x\n debian/rules binary\n   dh_auto_build -O\nI: pybuild base:240: x\n"
    assert decisive_lines(chatter + "hello\n" + "waiting\n" * 500 + "make: *** [x] Terminated\n") == [
        "hello",
        "waiting   (500 times)",
    ]
    assert decisive_lines("") == []
    assert decisive_lines("make: *** [x] Terminated\n") == ["make: *** [x] Terminated"]


def test_hostile_logs_are_bounded() -> None:
    assert all(
        len(line) <= 320
        for line in decisive_lines("x" * 100_000 + " error\n" + "Traceback (most recent call last):\n" * 50)
    )
    assert len(decisive_lines("".join(f"error {n}\n" for n in range(10_000)))) == 10
