"""Attack 29: fill /dev, /dev/shm and the terminals. Prints one line per place: the error, and how much went in before it."""

import errno
import os


def attempt(place, act):
    done = 0
    try:
        while done < 1 << 30:
            done += act(done)
    except OSError as error:
        print(f"{place} {errno.errorcode[error.errno]} {done}", flush=True)
    else:
        print(f"{place} endless {done}", flush=True)


def grow(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    return lambda _: os.write(fd, bytes(1 << 16))


kept = []


def terminal(_):
    kept.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
    return 1


def in_dev(_):
    return grow("/dev/hog")(0)


attempt("dev", in_dev)
attempt("ptmx", terminal)
attempt("shm", grow("/dev/shm/hog"))
