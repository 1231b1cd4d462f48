"""Attack 26: daemons that outlive their step: new session, double fork, every signal ignored, forking on while they are killed."""

import os
import signal
import sys
import time


def ignore_everything():
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            signal.signal(number, signal.SIG_IGN)


def hydra():
    """Two heads for each one: whoever kills by listing processes is always late."""
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError:
            time.sleep(0.001)


if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ignore_everything()
        if sys.argv[1] == "hydra":
            hydra()
        place = sys.argv[2] if len(sys.argv) > 2 else "/out/alive"
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with open(place, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(0.01)
    os._exit(0)
os.wait()
time.sleep(0.2)
print("left behind", flush=True)
