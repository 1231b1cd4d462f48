"""Attack 33: never end: quietly, talking all the time, stopped, or deaf to every signal."""

import os
import signal
import sys
import time

way = sys.argv[1]
print("hanging", flush=True)
if way == "stopped":
    os.kill(os.getpid(), signal.SIGSTOP)
if way == "deaf":
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            signal.signal(number, signal.SIG_IGN)
while True:
    if way == "talking":
        print("still here", flush=True)
    time.sleep(0.05)
