"""Large interfaces of the kernel, each called in earnest: handles, io_uring, bpf, counters, faults, keys, kexec, modules."""

import ctypes
import os

from tools import report, tried

AT_FDCWD = -100


def handle():
    """A file handle of / (name_to_handle_at), which open_by_handle_at would open past every mount."""
    room = ctypes.create_string_buffer((128).to_bytes(4, "little") + bytes(132))
    number = ctypes.c_int()
    how = tried("name_to_handle_at", AT_FDCWD, b"/", room, ctypes.byref(number), 0)
    return how, tried("open_by_handle_at", os.open("/", os.O_RDONLY), room, os.O_RDONLY)


named, opened = handle()
attributes = ctypes.create_string_buffer((1).to_bytes(4, "little") + (128).to_bytes(4, "little") + bytes(120))
report(
    {
        "name_to_handle_at": named,
        "open_by_handle_at": opened,
        "io_uring_setup": tried("io_uring_setup", 1, ctypes.create_string_buffer(120)),
        "io_uring_enter": tried("io_uring_enter", -1, 0, 0, 0, None, 0),
        "io_uring_register": tried("io_uring_register", -1, 0, None, 0),
        "bpf": tried(
            "bpf", 0, ctypes.create_string_buffer(b"\x02\0\0\0\x04\0\0\0\x04\0\0\0\x01\0\0\0" + bytes(112)), 128
        ),
        "perf_event_open": tried("perf_event_open", attributes, 0, -1, -1, 0),
        "userfaultfd": tried("userfaultfd", 1),
        "keyctl": tried("keyctl", 0, -3, 0),
        "add_key": tried("add_key", b"user", b"lxcbuild-attack", b"x", 1, -2),
        "request_key": tried("request_key", b"user", b"lxcbuild-attack", None, -2),
        "kexec_load": tried("kexec_load", 0, 0, None, 0),
        "kexec_file_load": tried("kexec_file_load", -1, -1, 0, None, 0),
        "init_module": tried("init_module", b"", 0, b""),
        "finit_module": tried("finit_module", -1, b"", 0),
        "delete_module": tried("delete_module", b"lxcbuild_no_such_module", 0),
        "fanotify_init": tried("fanotify_init", 0, 0),
        "lookup_dcookie": tried("lookup_dcookie", 0, None, 0),
        "migrate_pages": tried("migrate_pages", 0, 0, None, None),
        "move_pages": tried("move_pages", 0, 0, None, None, None, 0),
        "kcmp": tried("kcmp", os.getpid(), os.getpid(), 0, 0, 0),
        "io_setup": tried("io_setup", 1, ctypes.byref(ctypes.c_ulong(0))),
    }
)
