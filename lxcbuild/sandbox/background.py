"""Work that callers need not wait for: putting away dead sandboxes. It is finished before the process ends, whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lxcbuild.log import Logger

log = Logger()


class BackgroundWork:
    """Runs each piece of work in a thread of its own; the interpreter waits for these threads at its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()

    def run(self, what: str, work: Callable[[], None]) -> None:
        """Start ``work``. Its errors are logged: whoever asked has gone on, and the sandbox's record stays for gc to find."""

        def body() -> None:
            try:
                work()
            except Exception:
                log.exception("cleaning up failed", what=what)
            finally:
                with self._lock:
                    self._threads.discard(threading.current_thread())

        # Not a daemon: threading joins it before the interpreter ends.
        thread = threading.Thread(target=body, name=f"behind-{what}", daemon=False)
        with self._lock:
            self._threads.add(thread)
        thread.start()

    def join(self) -> None:
        """Wait until all that was begun is done."""
        while True:
            with self._lock:
                pending = set(self._threads)
            if not pending:
                return
            for thread in pending:
                thread.join()
