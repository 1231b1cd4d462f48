"""Read every file and every link of /proc, as far as anybody may, for words that the arguments name backwards.

``--only DIRECTORY`` reads that part.
"""

import os
import stat
import sys

from tools import report

words = [word[::-1].encode() for word in sys.argv[1:] if not word.startswith(("-", "/"))]
start = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else "/proc"
mine = {str(os.getpid()), "self", "thread-self"}
hits, read, links, writable = [], 0, 0, []


def look(path, data):
    hits.extend(f"{path}: {word[::-1].decode()}" for word in words if word in data)


for folder, directories, files in os.walk(start):
    if "--only" not in sys.argv:
        # Our own arguments hold the words; whatever else is ours is asked for by number.
        directories[:] = [name for name in directories if folder.count("/") > 1 or name not in ("self", "thread-self")]
    for name in [*files, *directories]:
        path = os.path.join(folder, name)
        try:
            about = os.lstat(path)
            if stat.S_ISLNK(about.st_mode):
                links += 1
                look(path, os.readlink(path).encode())
                continue
            if not stat.S_ISREG(about.st_mode):
                continue
            if name in ("kmsg", "cmdline") and path.split("/")[2] in mine:
                continue
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            look(path, os.read(fd, 1 << 20))
            read += 1
        except OSError:
            pass
        finally:
            os.close(fd)
report({"hits": hits, "read": read, "links": links})
