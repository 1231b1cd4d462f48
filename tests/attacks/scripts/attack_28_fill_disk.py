"""Attack 28: fill the disk with bytes, or with empty files, up to the number named second. Exit status 28 is ENOSPC."""

import errno
import os
import sys

what, wanted = sys.argv[1], int(sys.argv[2])
done = 0
try:
    if what == "bytes":
        with open("/build/big", "wb", buffering=0) as file:
            while done < wanted:
                done += file.write(bytes(1 << 16))
    else:
        os.mkdir("/build/many")
        os.chdir("/build/many")
        while done < wanted:
            os.close(os.open(str(done), os.O_WRONLY | os.O_CREAT))
            done += 1
except OSError as error:
    print(f"stopped at {done}: {errno.errorcode[error.errno]}", flush=True)
    sys.exit(28 if error.errno == errno.ENOSPC else 1)
print(f"done {done}", flush=True)
