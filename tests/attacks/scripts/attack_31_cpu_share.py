"""Attack 31: spin in as many processes as named first; say what CPU time they had between two moments of the machine's clock.

The clock (CLOCK_MONOTONIC) is the same in every sandbox. ``late`` tells that a process did not run yet at the first moment.
"""

import json
import os
import sys
import time

processes, start, end = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
reading, writing = os.pipe()
for _ in range(processes):
    if os.fork() != 0:
        continue
    late = time.monotonic() > start
    while time.monotonic() < start:
        pass
    before = time.process_time()
    while time.monotonic() < end:
        pass
    os.write(writing, json.dumps([late, time.process_time() - before]).encode() + b"\n")
    os._exit(0)
os.close(writing)
with os.fdopen(reading) as lines:
    said = [json.loads(line) for line in lines]
print(json.dumps({"late": any(late for late, _ in said), "cpu_s": sum(spent for _, spent in said)}))
