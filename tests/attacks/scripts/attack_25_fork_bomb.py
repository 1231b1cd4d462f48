"""Attack 25: fork without end in every process; gives up when asked to, so that it also ends where nothing stops it.

Arguments: seconds to go on, and the most processes to make (the counter-test runs without a limit of processes).
"""

import os
import sys
import time

until, most = time.monotonic() + float(sys.argv[1]), int(sys.argv[2])
denied = made = 0
while time.monotonic() < until and made < most:
    try:
        if os.fork() == 0 and most < 1 << 20:
            time.sleep(float(sys.argv[1]))
            os._exit(0)
        made += 1
    except BlockingIOError:
        denied += 1
print(f"made={made} denied={denied}", flush=True)
sys.exit(1 if denied else 0)
