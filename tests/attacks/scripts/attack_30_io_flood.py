"""Attack 30: read a file of a disk-backed directory past every cache, for the seconds named second; prints bytes per second."""

import mmap
import os
import sys
import time

path, seconds = sys.argv[1], float(sys.argv[2])
size = 1 << 18
buffer = mmap.mmap(-1, size)
fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
length = os.fstat(fd).st_size
begun, got, at = time.monotonic(), 0, 0
while time.monotonic() < begun + seconds:
    got += os.preadv(fd, [buffer], at)
    at = (at + size) % (length - size + 1) // 4096 * 4096
print(int(got / (time.monotonic() - begun)), flush=True)
