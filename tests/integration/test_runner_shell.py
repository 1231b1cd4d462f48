"""An interactive step: a person at a terminal, and a pipe."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys

import pytest

from lxcbuild.sandbox.session import RUNNER
from tests.integration.runner_bench import pythons

pytestmark = pytest.mark.root

DRIVER = """
import socket, sys
sys.path.insert(0, {root!r})
from lxcbuild.model import Usage
from lxcbuild.policy import DiskLimits, MemoryLimits, Policy, TimeLimits
from lxcbuild.sandbox.base import Step
from lxcbuild.sandbox.session import Session, Reading
policy = Policy(name="t", memory=MemoryLimits(max_bytes=1), disk=DiskLimits(max_bytes=1, max_inodes=1), time=TimeLimits(wall_s=1))
session = Session(socket.socket(fileno={fd}), kill=lambda: None)
session.wait_ready(10)
status = session.interact(Step(argv=("sh",), cwd="/", env={{"PS1": "> "}}), policy=policy, probe=lambda: Reading(usage=Usage()))
print("status", status)
"""


def interactive(stdin: int, stdout: int) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        runner = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", pythons()[0], "-I", "-S", RUNNER],
            stdin=theirs,
        )
        script = DRIVER.format(root=str(RUNNER.parents[3]), fd=ours.fileno())
        driver = subprocess.Popen(
            [sys.executable, "-c", script], stdin=stdin, stdout=stdout, pass_fds=[ours.fileno()], start_new_session=True
        )
    return runner, driver


class Screen:
    """What comes out of a descriptor, read up to the words that a person would wait for."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.unread = b""

    def wait_for(self, wanted: bytes) -> bytes:
        while wanted not in self.unread:
            data = os.read(self.fd, 4096)
            assert data, f"the end came before {wanted!r}: {self.unread[-200:]!r}"
            self.unread += data
        seen, _, self.unread = self.unread.partition(wanted)
        return seen


def test_shell_on_a_terminal() -> None:
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    before = termios.tcgetattr(slave)
    screen = Screen(master)
    runner, driver = interactive(slave, slave)
    try:
        screen.wait_for(b"> ")
        os.write(master, b"tty; stty size; id -u\n")
        screen.wait_for(b"\r\n")  # the echo
        seen = screen.wait_for(b"1000\r\n")
        assert b"/dev/pts/" in seen
        assert b"33 77" in seen
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 88, 0, 0))
        driver.send_signal(signal.SIGWINCH)
        screen.wait_for(b"> ")
        os.write(master, b"until stty size | grep 88; do :; done\n")
        screen.wait_for(b"44 88\r\n> ")
        os.write(master, b"sh -c 'echo go; exec sleep 1000'\n")
        screen.wait_for(b"\r\ngo\r\n")
        os.write(master, b"\x03")  # Ctrl-C goes inside; it also drops what is typed but not yet read
        screen.wait_for(b"> ")
        os.write(master, b"exit 5\n")
        screen.wait_for(b"status 5")
        assert driver.wait(20) == 0
        assert termios.tcgetattr(slave) == before
    finally:
        driver.kill()
        driver.wait()
        runner.wait(20)
        os.close(master)
        os.close(slave)


def test_shell_without_a_terminal() -> None:
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    screen = Screen(read_out)
    runner, driver = interactive(read_in, write_out)
    for fd in (read_in, write_out):
        os.close(fd)
    try:
        os.write(write_in, b"echo one\n")
        screen.wait_for(b"one\n")
        os.write(write_in, b"echo two; wc -c\n")
        screen.wait_for(b"two\n")  # the shell reads ahead: what follows must not be there before wc is
        os.write(write_in, b"x" * 300_000)
        os.close(write_in)
        screen.wait_for(b"300000\nstatus 0\n")
        assert driver.wait(20) == 0
    finally:
        driver.kill()
        driver.wait()
        runner.wait(20)
        os.close(read_out)
