"""What the attack scripts share: raw system calls by name, and the outcome of an attempt in one word. Lies beside every script."""

import ctypes
import errno
import json
import os

libc = ctypes.CDLL(None, use_errno=True)

_X86_64 = {
    "ptrace": 101, "syslog": 103, "modify_ldt": 154, "pivot_root": 155, "prctl": 157, "adjtimex": 159, "acct": 163,
    "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
    "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179,
    "clock_settime": 227, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
    "migrate_pages": 256, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425,
    "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431,
    "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443, "clone": 56, "vhangup": 153, "capset": 126, "capget": 125, "chroot": 161,
    "lookup_dcookie": 212, "mlockall": 151, "sched_setscheduler": 144, "ioprio_set": 251, "setfsuid": 122, "execveat": 322,
    "sched_setattr": 314, "landlock_create_ruleset": 444, "io_setup": 206, "seccomp": 317, "fork": 57,
}  # fmt: skip
# asm-generic: what these calls are on arm64.
_AARCH64 = {
    "ptrace": 117, "syslog": 116, "pivot_root": 41, "prctl": 167, "adjtimex": 171, "acct": 89, "settimeofday": 170, "mount": 40,
    "umount2": 39, "swapon": 224, "swapoff": 225, "reboot": 142, "sethostname": 161, "setdomainname": 162, "init_module": 105,
    "delete_module": 106, "quotactl": 60, "clock_settime": 112, "kexec_load": 104, "add_key": 217, "request_key": 218,
    "keyctl": 219, "unshare": 97, "migrate_pages": 238, "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262,
    "name_to_handle_at": 264, "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "kexec_file_load": 294, "bpf": 280, "userfaultfd": 282,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438,
    "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "clone": 220, "vhangup": 58, "capset": 91, "capget": 90,
    "chroot": 51, "lookup_dcookie": 18, "mlockall": 230, "sched_setscheduler": 119, "ioprio_set": 30, "setfsuid": 151,
    "execveat": 281, "sched_setattr": 274, "landlock_create_ruleset": 444, "io_setup": 0, "seccomp": 277,
}  # fmt: skip
NUMBERS = {"x86_64": _X86_64, "aarch64": _AARCH64}[os.uname().machine]

CLONE = {
    "mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000, "pid": 0x20000000,
    "net": 0x40000000,
}  # fmt: skip


def syscall(name, *arguments):
    """The result of a raw call; raises OSError."""
    plain = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *plain)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def outcome(call, *arguments, **named):
    """``done`` when the attempt went through, else the name of the error."""
    try:
        call(*arguments, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "done"


def tried(name, *arguments):
    """The outcome of a raw call."""
    return outcome(syscall, name, *arguments)


def in_child(call, *arguments):
    """The outcome of an attempt that changes the process that makes it."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(theirs, str(outcome(call, *arguments)).encode())
        except BaseException as error:
            os.write(theirs, repr(error).encode())
        os._exit(0)
    os.close(theirs)
    said = os.read(ours, 4096).decode()
    os.close(ours)
    os.waitpid(pid, 0)
    return said or "killed"


def write_to(path, data=b"1", flags=os.O_WRONLY):
    """Open and write; raises OSError."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def report(found):
    """The last line."""
    print(json.dumps(found), flush=True)
