"""A daemon that outlives its step, deaf to signals, and goes on changing the result that was written. Prints its pid."""

import os
import signal
import sys
import time

from tools import report

path = sys.argv[1]
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
os.write(fd, b"good")
ours, theirs = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_IGN)
    os.write(theirs, str(os.getpid()).encode())
    for stream in (0, 1, 2, ours, theirs):
        os.close(stream)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        os.pwrite(fd, b"evil", 0)
        time.sleep(0.01)
    os._exit(0)
os.close(theirs)
pid = int(os.read(ours, 100))
os.pwrite(fd, b"good", 0)
report({"daemon": pid})
