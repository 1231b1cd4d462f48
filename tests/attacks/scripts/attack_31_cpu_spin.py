"""Attack 31: spin in as many processes as named first, for the seconds named second."""

import os
import sys
import time

until = time.monotonic() + float(sys.argv[2])
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
while time.monotonic() < until:
    pass
