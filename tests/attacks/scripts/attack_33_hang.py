"""Attack 33: never end: quietly, talking all the time, stopped, traced, in vfork, or deaf to every signal."""

import ctypes
import os
import signal
import sys
import time

way = sys.argv[1]
print("hanging", flush=True)
if way == "stopped":
    os.kill(os.getpid(), signal.SIGSTOP)
if way == "stop-all" and os.fork() == 0:
    os.kill(-1, signal.SIGSTOP)
if way == "vfork":
    # The parent of a vfork sleeps, deaf to all but SIGKILL, until its child runs a program or ends: this one stops itself.
    ctypes.CDLL(None).vfork()
    os.kill(os.getpid(), signal.SIGSTOP)
if way == "traced":
    libc = ctypes.CDLL(None)
    if (child := os.fork()) == 0:
        libc.ptrace(0, 0, None, None)  # PTRACE_TRACEME: every signal stops it, and nobody lets it go on
        os.kill(os.getpid(), signal.SIGINT)
    os.waitpid(child, os.WUNTRACED)
if way == "deaf":
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            signal.signal(number, signal.SIG_IGN)
while True:
    if way == "talking":
        print("still here", flush=True)
    time.sleep(0.05)
