"""Attack 27: take memory by the way named first, up to the MiB named second; each way hides from another kind of accounting."""

import ctypes
import fcntl
import mmap
import os
import resource
import sys

MIB = 1 << 20
way, wanted = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
kept = []


def heap():
    while True:
        kept.append(bytearray(MIB))
        kept[-1][::4096] = b"x" * (MIB // 4096)
        yield


def file_at(path):
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * MIB)
            yield


def mapped():
    """The upper's page cache, dirtied through a shared mapping."""
    with open("/build/mapped", "w+b") as file:
        file.truncate(wanted * MIB)
        area = mmap.mmap(file.fileno(), wanted * MIB)
        for start in range(0, wanted * MIB, MIB):
            area[start : start + MIB : 4096] = b"x" * (MIB // 4096)
            yield


def pipes():
    """A pipe's buffers belong to no process."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    while True:
        taken = 0
        while taken < MIB:
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            try:
                fcntl.fcntl(writer, 1031, MIB)  # F_SETPIPE_SZ; refused beyond the user's share
            except OSError:
                pass
            try:
                while True:
                    taken += os.write(writer, bytes(65536))
            except BlockingIOError:
                pass
        yield


def sysv():
    """A SysV segment outlives the process that made it."""
    while True:
        segment = libc.shmget(0, MIB, 0o1600)
        if segment < 0:
            raise OSError(ctypes.get_errno(), "shmget")
        address = libc.shmat(segment, None, 0)
        ctypes.memset(address, 1, MIB)
        yield


def memfd():
    fd = os.memfd_create("hog")
    while True:
        os.write(fd, b"x" * MIB)
        yield


ways = {
    "heap": heap,
    "tmpfs": lambda: file_at("/build/hog"),
    "shm": lambda: file_at("/dev/shm/hog"),
    "mapped": mapped,
    "pipes": pipes,
    "sysv": sysv,
    "memfd": memfd,
}
taken = 0
for _ in ways[way]():
    taken += 1
    if taken >= wanted:
        break
print(f"took {taken} MiB", flush=True)
