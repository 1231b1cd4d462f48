"""Names that are shared by an IPC namespace: ``make KEY`` creates them and waits for a line, ``find KEY`` looks for them."""

import ctypes
import errno
import os
import sys

from tools import libc, outcome, report

key = int(sys.argv[2])
NAME = f"lxcbuild-attack-{key}"


def checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, errno.errorcode[number])
    return result


def queue(flags):
    checked(libc.mq_open(f"/{NAME}".encode(), flags | os.O_RDWR, 0o666, None))


making = sys.argv[1] == "make"
create = 0o1000 if making else 0  # IPC_CREAT
found = {
    "shm": outcome(lambda: checked(libc.shmget(key, 4096, create | 0o666))),
    "sem": outcome(lambda: checked(libc.semget(key, 1, create | 0o666))),
    "msg": outcome(lambda: checked(libc.msgget(key, create | 0o666))),
    "queue": outcome(queue, os.O_CREAT if making else 0),
    "file": outcome(os.open, f"/dev/shm/{NAME}", os.O_RDWR | (os.O_CREAT if making else 0)),
    "namespace": os.readlink("/proc/self/ns/ipc"),
}
if sys.argv[3:] == ["--remove"]:
    libc.shmctl(libc.shmget(key, 0, 0), 0, None)
    libc.semctl(libc.semget(key, 0, 0), 0, 0)
    libc.msgctl(libc.msgget(key, 0), 0, None)
    libc.mq_unlink(f"/{NAME}".encode())
    os.unlink(f"/dev/shm/{NAME}")
report(found)
