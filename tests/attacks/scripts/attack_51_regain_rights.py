"""Become somebody again: ids, capability sets, ambient capabilities, secure bits, new-privileges, the filter itself."""

import ctypes
import os
import sys

from tools import in_child, libc, report, syscall

PR_GET_SECCOMP, PR_SET_SECCOMP, PR_SET_SECUREBITS, PR_SET_NNP, PR_CAP_AMBIENT, PR_SET_MM, PR_CAPBSET_READ = (
    21,
    22,
    28,
    38,
    47,
    35,
    23,
)


def prctl(*arguments):
    result = libc.prctl(*(ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:5]))
    if result < 0:
        raise OSError(ctypes.get_errno(), "prctl")
    return result


def setfsuid():
    """setfsuid never says: the second call shows what the first did."""
    syscall("setfsuid", 0)
    if syscall("setfsuid", -1) != 0:
        raise PermissionError(1, "unchanged")


def all_capabilities():
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    syscall("capset", header, (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 3, *[0x1FF] * 3))


def weaker_filter():
    """A second filter that allows everything, then what the first one denies."""
    code = ctypes.create_string_buffer(b"\x06\0\0\0\0\0\xff\x7f", 8)

    class Program(ctypes.Structure):
        _fields_ = [("count", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    program = Program(1, ctypes.addressof(code))
    if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), "filter")
    syscall("unshare", 0x10000000)


attempts = {
    "setuid": (os.setuid, 0),
    "setgid": (os.setgid, 0),
    "setresuid": (os.setresuid, 0, 0, 0),
    "setgroups": (os.setgroups, [0]),
    "setfsuid": (setfsuid,),
    "capset": (all_capabilities,),
    "ambient": (prctl, PR_CAP_AMBIENT, 2, 21),
    "securebits": (prctl, PR_SET_SECUREBITS, 0x2F),
    "new privileges": (prctl, PR_SET_NNP, 0),
    "filter off": (prctl, PR_SET_SECCOMP, 0),
    "weaker filter": (weaker_filter,),
    "set_mm": (prctl, PR_SET_MM, 1, 0),
}
found = {name: in_child(*attempt) for name, attempt in attempts.items()}
found["bounding set"] = (
    [number for number in range(41) if prctl(PR_CAPBSET_READ, number)] if "--no-sets" not in sys.argv else []
)
report(found)
