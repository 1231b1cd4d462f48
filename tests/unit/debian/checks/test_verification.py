"""What is seen of an installed package is judged: right project, requirements met, modules import, commands there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec.structs
import pytest

from lxcbuild.debian.checks.verification import (
    InstalledDistribution,
    Trial,
    Verification,
    apt_install_job,
    classify_install_failure,
    install_job,
    judge,
    natives_in,
    optional_parts,
    parse_verification,
    strained,
)
from lxcbuild.debian.inside.checks.verify import _modules
from lxcbuild.debian.steps import InsideJob, MissingInLog, StepFailure
from lxcbuild.errors import BadNameError
from tests.support.timing import within

ENVIRONMENT = {
    "implementation_name": "cpython", "implementation_version": "3.11.2", "os_name": "posix", "platform_machine": "x86_64",
    "platform_python_implementation": "CPython", "platform_release": "", "platform_system": "Linux", "platform_version": "",
    "python_full_version": "3.11.2", "python_version": "3.11", "sys_platform": "linux",
}  # fmt: skip


def seen(**changes: Any) -> Verification:
    made = Verification(
        modules=(Trial(name="demo", error=None, details=None),),
        loose=frozenset(),
        scripts=(),
        entry_points=(),
        distributions=(InstalledDistribution(name="Demo_Project", version="1.0rc1", requires=("six>=1.5",)),),
        installed={"demo.project": "1.0rc1", "six": "1.16.0"},
        environment=ENVIRONMENT,
    )
    return msgspec.structs.replace(made, **changes)


def requiring(*requires: str) -> dict[str, Any]:
    return {"distributions": (InstalledDistribution(name="demo-project", version="1.0rc1", requires=requires),)}


def failing(error: str) -> dict[str, Any]:
    return {"modules": (Trial(name="demo", error=error, details=None),)}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, None),
        (requiring("absent; python_version < '3.8'", "absent; extra == 'fast'", "six[x]"), None),
        (requiring("absent"), "dep-missing"),
        (requiring("six>=2"), "dep-missing"),
        (requiring("not a requirement !!"), None),
        ({"distributions": ()}, "install-failed"),
        ({"distributions": (InstalledDistribution(name="other", version="1", requires=()),)}, "gate-rejected"),
        ({"distributions": (InstalledDistribution(name="demo-project", version="2", requires=()),)}, "gate-rejected"),
        (failing("ModuleNotFoundError: No module named 'yaml'"), "dep-missing"),
        (failing("ModuleNotFoundError: No module named 'yaml.parts'"), "dep-missing"),
        (failing("ModuleNotFoundError: No module named 'demo.inner'"), "import-failed"),
        (failing("ImportError: libfoo.so.1: cannot open shared object file"), "import-failed"),
        ({"modules": ()}, "import-failed"),
        ({"scripts": (Trial(name="/usr/bin/demo", error="is not executable", details=None),)}, "import-failed"),
    ],
)
def test_the_judgement(changes: dict[str, Any], wanted: str | None) -> None:
    problem = judge(seen(**changes), distribution="demo.project", version="1.0.rc1", modules=("demo",))
    assert (problem.failure_class if problem else None) == wanted


@pytest.mark.parametrize(
    ("log", "wanted", "named"),
    [
        ("The following packages have unmet dependencies:\n python3-x : Depends: python3-y (>= 2) but it is not installable\n",
         "dep-missing", "python3-y (>= 2)"),
        (" python3-x depends on python3-y; however:\n  Package python3-y is not installed.\n", "dep-missing", "python3-y"),
        ("E: Sub-process /usr/bin/dpkg returned an error code (1)\n", "install-failed", "Sub-process"),
        ('  File "/usr/lib/python3/dist-packages/x/y.py", line 189\n    raise X, "no"\n        ^\nSyntaxError: invalid syntax\n',
         "install-failed", "its code is not for this Python: /usr/lib/python3/dist-packages/x/y.py, line 189: SyntaxError: inv"),
        ("", "install-failed", "exit status 100"),
    ],
)  # fmt: skip
def test_a_failed_installation_is_named(log: str, wanted: str, named: str) -> None:
    failure = classify_install_failure(log.encode(), status="exit status 100")
    assert failure.failure_class == wanted
    assert named in failure.brief


def test_packages_that_are_installed_together_must_fit_each_other() -> None:
    fine = InstalledDistribution(name="fine", version="2", requires=("demo-project>=1.0rc1", "six"))
    assert judge(seen(companions=(fine,)), distribution="demo.project", version="1.0.rc1", modules=()) is None
    other = InstalledDistribution(name="other", version="2", requires=("six<1.10",))
    problem = judge(seen(companions=(other,)), distribution="demo.project", version="1.0.rc1", modules=())
    assert problem is not None
    assert problem.failure_class == "dep-missing"
    assert "other 2 asks for six<1.10, and 1.16.0 is installed" in problem.brief


def test_packages_of_the_suite_that_want_older_ones_are_told_of() -> None:
    official = InstalledDistribution(name="official", version="3", requires=("six<1.10",))
    assert judge(seen(dependents=(official,)), distribution="demo.project", version="1.0.rc1", modules=()) is None
    (told,) = strained(seen(dependents=(official,)))
    assert "official 3 asks for six<1.10, and 1.16.0 is installed" in told


@pytest.mark.parametrize("job", [install_job, apt_install_job])
def test_only_file_names_of_packages_reach_dpkg_and_apt(job: Callable[[Sequence[str]], InsideJob]) -> None:
    assert job(["a_1.0~rc1+x-1_all.deb"]).steps[0].argv[-1] == "/in/debs/a_1.0~rc1+x-1_all.deb"
    for name in ("-o=x.deb", "../a.deb", "a.deb;x", "a"):
        with pytest.raises(BadNameError):
            job([name])


def test_a_forged_result_is_a_failure() -> None:
    forged = json.dumps({"schema": 1, "modules": [{"name": 1}]}).encode()
    assert isinstance(parse_verification(forged), StepFailure)


def test_a_part_that_an_installed_package_lacks_is_not_called_undeclared() -> None:
    changes = failing("ModuleNotFoundError: No module named 'yaml.parts'")
    problem = judge(seen(**changes), distribution="demo.project", version="1.0.rc1", modules=("demo",))
    assert problem is not None
    assert "which the installed yaml does not have" in problem.brief


def test_a_project_without_modules_may_be_a_name_for_others() -> None:
    name = {"distribution": "demo.project", "version": "1.0.rc1"}
    assert judge(seen(modules=()), **name, modules=()) is None
    assert judge(seen(modules=(), **requiring()), **name, modules=()) is not None


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("OSError: libmagic.so.1: cannot open shared object file: No such file or directory", "libmagic.so.1"),
        ("OSError: cannot load library 'libsndfile.so': libsndfile.so: cannot open shared", "libsndfile.so"),
        ("[Errno 2] cannot find a suitable libusb-1.0: ['/x/libusb-1.0.so.0', 'libusb-1.0.so']", "libusb-1.0.so.0"),
        ("ImportError: failed to find libmagic.  Check your installation", "libmagic"),
        ("OSError: no library called 'cairo' was found", "cairo"),
        ("ImportError: could not find any library for SDL2 (PYSDL2_DLL_PATH: unset)", "SDL2"),
        ("OSError: PortAudio library not found", "PortAudio"),
        ("ImportError: The 'enchant' C library was not found", "enchant"),
        ("OSError: Could not load libspatialindex_c library", "libspatialindex_c"),
    ],
)
def test_libraries_are_found_in_what_a_failed_import_says(said: str, named: str) -> None:
    assert MissingInLog("library", named) in natives_in(said)


def test_programs_are_found_in_what_a_failed_import_says() -> None:
    said = "FileNotFoundError: [Errno 2] No such file or directory: 'git'"
    assert natives_in(said) == (MissingInLog("program", "git"),)
    assert natives_in("No such file or directory: '/etc/passwd'") == ()
    with within(10):
        assert len(natives_in(" ".join(f"lib{number}x" for number in range(100_000)))) <= 20
        natives_in("lib" + "a-." * 300_000)


def test_a_namespace_module_for_an_extra_may_fail_where_others_import() -> None:
    good, other, bad = (
        Trial(name=name, error=error, details=None)
        for name, error in (
            ("space.api", None),
            ("space.rpc", "ModuleNotFoundError: No module named 'grpc'"),
            ("space.rpc", "ImportError: cannot import name 'x'"),
        )
    )

    def judged(**changes: Any) -> str | None:
        problem = judge(seen(**changes), distribution="demo.project", version="1.0rc1", modules=())
        return None if problem is None else problem.failure_class.value

    loose = frozenset({"space.api", "space.rpc"})
    assert judged(modules=(good, other), loose=loose) is None
    assert optional_parts(seen(modules=(good, other), loose=loose)) == [
        "space.rpc works only with the module grpc, which it does not depend on"
    ]
    assert judged(modules=(good, other)) == "dep-missing"
    assert judged(modules=(other,), loose=loose) == "dep-missing"
    assert judged(modules=(good, bad), loose=loose) == "import-failed"


def test_modules_are_named_by_the_first_level_that_has_code() -> None:
    place = "/usr/lib/python3/dist-packages"
    names = ["one.py", "pack/__init__.py", "pack/part.py", "space/api.py", "space/sub/__init__.py", "space/sub/x.py"]
    found, loose = _modules([f"{place}/{name}" for name in names])
    assert found == ["one", "pack", "space.api", "space.sub"]
    assert loose == {"space.api"}
