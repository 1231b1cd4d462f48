"""The host's end of the byte stream to a runner: bounded reading, queued writing, one poll at a time, and waking from outside."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping

from lxcbuild.errors import CancelledError, SandboxError
from lxcbuild.log import Logger
from lxcbuild.sandbox.inside import protocol
from lxcbuild.sandbox.inside.protocol import Message, ProtocolError

log = Logger()

_READ_BYTES = 1 << 18
_LONGEST_WAIT_S = 3600.0


class Channel:
    """Messages to and from one runner. Used by one thread, except :meth:`cancel`. Owns ``sock``.

    A dead or lying runner makes the channel ``broken`` (the text says why) and calls ``kill``; it raises nothing by itself.
    """

    def __init__(self, sock: socket.socket, *, kill: Callable[[], None]) -> None:
        self.inbox: collections.deque[Message] = collections.deque()
        self.broken: str | None = None
        self.cancelled = False
        self._sock = sock
        self._sock.setblocking(False)  # noqa: FBT003 - takes no keyword
        self.kill = kill
        self._lines = protocol.LineReader()
        self._outbox = bytearray()
        self._serial = 0
        self._lock = threading.Lock()  # between cancel and close only
        self._wake: int | None = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ask(self, op: str, **fields: object) -> int:
        """Queue a request that will be answered; its number. Raises CancelledError, SandboxError when that is in vain."""
        self.check()
        self._serial += 1
        self.tell(op, id=self._serial, **fields)
        return self._serial

    def tell(self, op: str, **fields: object) -> None:
        """Queue a request without an answer."""
        self._outbox += protocol.encode(op, **fields)

    def check(self) -> None:
        """Raise CancelledError after :meth:`cancel`, SandboxError when the channel is broken."""
        if self.cancelled:
            raise CancelledError("cancelled")
        if self.broken:
            raise SandboxError(f"the sandbox does not answer any more: {self.broken}")

    def exchange(self, wait_s: float, others: Mapping[int, Callable[[], None]]) -> None:
        """Write what is queued and put what comes within ``wait_s`` into ``inbox``; call those of ``others`` that are readable."""
        self._send()
        if self.broken or self._wake is None:
            return
        waits = select.poll()
        waits.register(self._sock, select.POLLIN | (select.POLLOUT if self._outbox else 0))
        waits.register(self._wake, select.POLLIN)
        for fd in others:
            waits.register(fd, select.POLLIN)
        for fd, happened in waits.poll(math.ceil(min(wait_s, _LONGEST_WAIT_S) * 1000)):
            if fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            elif fd == self._sock.fileno():
                if happened & ~select.POLLOUT:
                    self._receive()
            else:
                others[fd]()

    def fail(self, reason: str) -> None:
        """Nothing more can be done: remember why, kill what is there."""
        if self.broken is None:
            self.broken = reason
            log.debug("sandbox.broken", reason=reason)
            self.kill()

    def cancel(self) -> None:
        """Kill the sandbox and wake the thread that waits for it. Idempotent, for any thread."""
        self.cancelled = True
        self.kill()
        with self._lock:
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Close the stream. Idempotent."""
        with self._lock:
            if self._wake is not None:
                self.broken = self.broken or "closed"
                self._sock.close()
                os.close(self._wake)
                self._wake = None

    def _send(self) -> None:
        while self._outbox and not self.broken:
            try:
                del self._outbox[: self._sock.send(self._outbox)]
            except BlockingIOError:
                return
            except OSError:
                # What the runner said last (why it gave up) may still be there: the reader finds the end of the stream.
                self._outbox.clear()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.fail("the runner is gone")
            return
        try:
            for line in self._lines.feed(data):
                message = protocol.parse(line)
                if isinstance(message, protocol.Fatal):
                    raise ProtocolError(f"the runner gave up: {message.text}")
                self.inbox.append(message)
        except ProtocolError as error:
            self.fail(error.brief)
