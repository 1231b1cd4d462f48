"""The caller's terminal while a shell runs inside: raw mode, size, and everything put back at the end, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from types import FrameType, TracebackType
from typing import Self


class Terminal(contextlib.AbstractContextManager["Terminal"]):
    """Descriptors 0 and 1 of this process as keyboard and screen. With stdin not a terminal, only bytes are carried.

    What comes from inside goes to the terminal unfiltered, as an editor or pager needs it: an interactive shell is started by
    somebody who wants to look at this package.
    """

    def __init__(self) -> None:
        self.fd = 0
        self.is_terminal = os.isatty(0)
        self.resize_fd: int | None = None
        self._gathered = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self.is_terminal:
                before = termios.tcgetattr(self.fd)
                stack.callback(termios.tcsetattr, self.fd, termios.TCSADRAIN, before)
                tty.setraw(self.fd)
                if threading.current_thread() is threading.main_thread():
                    self._follow_size(stack)
            self._gathered = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gathered.close()

    def size(self) -> list[int] | None:
        """Rows and columns; None when there is no terminal."""
        if not self.is_terminal:
            return None
        columns, rows = os.get_terminal_size(self.fd)
        return [rows or 24, columns or 80]  # a serial line does not know its size

    def take_resize(self) -> dict[str, int]:
        """The new size, after :attr:`resize_fd` became readable."""
        if self.resize_fd is not None:
            os.eventfd_read(self.resize_fd)
        columns, rows = os.get_terminal_size(self.fd)
        return {"rows": rows, "cols": columns}

    def show(self, data: bytes) -> None:
        """Write to the screen."""
        sys.stdout.flush()
        left = memoryview(data)
        while left:
            left = left[os.write(1, left) :]

    def _follow_size(self, stack: contextlib.ExitStack) -> None:
        resize_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        stack.callback(os.close, resize_fd)

        def changed(_number: int, _frame: FrameType | None) -> None:
            os.eventfd_write(resize_fd, 1)

        stack.callback(signal.signal, signal.SIGWINCH, signal.signal(signal.SIGWINCH, changed))
        self.resize_fd = resize_fd
