"""System-call filters of sandboxes: from a profile (``cgroups/seccomp/*.yaml``) to what the kernel and liblxc take.

Every sandbox has two filters, and the stricter answer of the two counts (seccomp(2)):

* ``first_text``: a short deny-list that liblxc loads before the first instruction inside. libseccomp needs 45 ms for the whole
  allow-list (it compiles it at every start, for three calling conventions), so this holds only what would matter before the second
  filter is there, even to an image whose Python is not Python.
* ``program``: the whole allow-list as classic BPF, compiled here once per process (7 ms); the runner loads it into PID 1, and so
  into everything inside, before it runs any step.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from msgspec import Struct

from lxcbuild.config.seccomp_profiles import KIND, SeccompProfile, load_seccomp
from lxcbuild.errors import LimitRefusedError
from lxcbuild.linux import syscall_numbers
from lxcbuild.sandbox import seccomp_bpf
from lxcbuild.state import data

_CLONE_NEWUSER = 0x10000000


class Filters(Struct, frozen=True, kw_only=True):
    """Both filters of one profile: liblxc's text, and an array of ``struct sock_filter``."""

    first_text: str
    program: bytes


def filters(name: str) -> Filters | None:
    """The named profile for this machine, None for ``none``.

    Raises :class:`LimitRefusedError` for a name, a machine or a call that we do not know, and ConfigError for a mistake in a file.
    """
    if name == "none":
        return None
    stamps = tuple((path, path.stat().st_mtime_ns) for paths in data.files(KIND).values() for path in paths)
    return _compile(name, os.uname().machine, stamps)


@functools.lru_cache(maxsize=8)
def _compile(name: str, machine: str, stamps: tuple[tuple[Path, int], ...]) -> Filters:  # noqa: ARG001 - part of the key
    profile = load_seccomp(name)
    return Filters(first_text=first_text(profile), program=program(profile, machine))


def first_text(profile: SeccompProfile) -> str:
    """The deny-list in liblxc's format (version 2, lxc.container.conf(5)), with the calls of ``first``."""
    lines = ["2", "denylist", "[all]"]
    lines += [f"{call} errno {seccomp_bpf.errno_of(error)}" for call, error in profile.first.items()]
    # A user namespace is what gives capabilities to those who have none.
    eperm = seccomp_bpf.errno_of("EPERM")
    lines.append(f"clone errno {eperm} [0,{_CLONE_NEWUSER},SCMP_CMP_MASKED_EQ,{_CLONE_NEWUSER}]")
    return "\n".join(lines) + "\n"


def program(profile: SeccompProfile, machine: str) -> bytes:
    """The whole profile as a BPF program for one machine (``uname -m``)."""
    try:
        numbers = syscall_numbers.numbers(machine)
    except KeyError:
        raise LimitRefusedError(
            f"there is no table of system calls for {machine}",
            resolution=f"filters are known for: {', '.join(syscall_numbers.AUDIT_ARCH)}; elsewhere only seccomp: none",
        ) from None
    known = {call for other in syscall_numbers.AUDIT_ARCH for call in syscall_numbers.numbers(other)}
    if unknown := (profile.calls.keys() | profile.first.keys()) - known:
        raise LimitRefusedError(
            f"seccomp profile {profile.name}: there is no system call {min(unknown)}",
            resolution="check the name; calls newer than Linux 5.17 cannot be allowed by name",
        )
    answers = {numbers[call]: answer for call, answer in profile.calls.items() if call in numbers}
    return seccomp_bpf.compile_filter(
        answers, otherwise=profile.otherwise, audit_arch=syscall_numbers.AUDIT_ARCH[machine]
    )
