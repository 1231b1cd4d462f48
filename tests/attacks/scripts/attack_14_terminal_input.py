"""Push characters into terminals: every descriptor, the controlling terminal, one of our own."""

import fcntl
import os
import pty
import sys

from tools import outcome, report

TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD = 0x5412, 0x541C, 0x541D, 0x5423


def push(fd, request=TIOCSTI, argument=b"x"):
    fcntl.ioctl(fd, request, argument)


_, own = pty.openpty()
found = {"own terminal": outcome(push, own)}
if "--own-only" not in sys.argv:
    found |= {f"descriptor {fd}": outcome(push, fd) for fd in (0, 1, 2)}
    found["TIOCLINUX"] = outcome(push, own, TIOCLINUX, b"\x03")
    found["TIOCCONS"] = outcome(fcntl.ioctl, own, TIOCCONS)
    found["TIOCSETD"] = outcome(push, own, TIOCSETD, (2).to_bytes(4, "little"))
    found["/dev/tty"] = outcome(lambda: push(os.open("/dev/tty", os.O_RDWR)))
    for name in ("/dev/console", "/dev/tty0", "/dev/tty1", "/dev/pts/0"):
        found[name] = outcome(lambda name=name: push(os.open(name, os.O_RDWR | os.O_NOCTTY)))
report(found)
