"""Tries every system call number in three calling conventions, and says how the filters answer each: "allow" or an error.

No call is ever executed. A child adds one more filter that asks its parent (SECCOMP_RET_USER_NOTIF) about calls made from one page
of machine code. An error of the sandbox's own filters outranks that question (seccomp(2)), so the parent hears only of calls that
they allow; it answers with an error that nothing else uses. Works for x86_64 only.

The argument is a JSON list of [number, [arguments]] to try besides; the output is {"native": [...], "x32": [...], "i386": [...],
"arguments": [...]}, answers by number.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import socket
import struct
import sys

COUNT = 1024
MARK = 4000  # "allowed": no error of the kernel has this number
X32_BIT = 0x40000000
# uretprobe and uprobe: trampolines of the kernel, which no filter sees since Linux 6.14; from elsewhere they kill (SIGILL).
TRAMPOLINES = (335, 336)

libc = ctypes.CDLL(None, use_errno=True)

# long call(number, six arguments): the C convention to the kernel's.
NATIVE = bytes.fromhex(
    "4889f8"  # mov rax, rdi
    "4889f7"  # mov rdi, rsi
    "4889d6"  # mov rsi, rdx
    "4889ca"  # mov rdx, rcx
    "4d89c2"  # mov r10, r8
    "4d89c8"  # mov r8, r9
    "4c8b4c2408"  # mov r9, [rsp+8]
    "0f05"  # syscall
    "c3"
)
# int call(number, three arguments) by the 32-bit gate.
I386 = bytes.fromhex(
    "53"  # push rbx
    "89f8"  # mov eax, edi
    "89f3"  # mov ebx, esi
    "87ca"  # xchg edx, ecx
    "31f6"  # xor esi, esi
    "31ff"  # xor edi, edi
    "cd80"  # int 0x80
    "5b"  # pop rbx
    "c3"
)


def machine_code():
    """One page with both functions: its address, and the functions."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(NATIVE.ljust(128, b"\xcc") + I386)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    native = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_ulong] * 7)(address)
    i386 = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4)(address + 128)
    return page, address, native, i386


def listen_to_page(address):
    """Add the asking filter for calls whose instruction pointer is in the page; returns the descriptor with the questions."""
    low, high = address & 0xFFFFFFFF, address >> 32
    code = [
        (0x20, 0, 0, 12),  # load the high half of the instruction pointer
        (0x15, 0, 4, high),
        (0x20, 0, 0, 8),  # the low half
        (0x54, 0, 0, 0xFFFFF000),
        (0x15, 0, 1, low),
        (0x06, 0, 0, 0x7FC00000),  # SECCOMP_RET_USER_NOTIF
        (0x06, 0, 0, 0x7FFF0000),
    ]
    raw = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(raw))
    fd = libc.syscall(317, 1, 8, program)  # seccomp(SET_MODE_FILTER, NEW_LISTENER)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return fd


def in_child(call):
    """The answer to a call that may kill."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, b"%d" % call())
        os._exit(0)
    os.close(theirs)
    said = os.read(ours, 100)
    os.close(ours)
    _, status = os.waitpid(pid, 0)
    return int(said) if said else -10000 - os.WTERMSIG(status)


def try_all(native, i386, extra):
    answers = {"native": [], "x32": [], "i386": [], "arguments": []}
    for number in range(COUNT):
        for kind, bit in (("native", 0), ("x32", X32_BIT)):
            if number in TRAMPOLINES:
                answers[kind].append(in_child(lambda number=number | bit: native(number, 0, 0, 0, 0, 0, 0)))
            else:
                answers[kind].append(native(number | bit, 0, 0, 0, 0, 0, 0))
        answers["i386"].append(i386(number, 0, 0, 0))
    for number, arguments in extra:
        answers["arguments"].append(
            native(number, *[value & (2**64 - 1) for value in arguments], *[0] * (6 - len(arguments)))
        )
    return answers


def named(result):
    if result == -MARK:
        return "allow"
    if result < -10000:
        return f"signal {-result - 10000}"
    return errno.errorcode[-result] if -4096 < result < 0 else f"executed: {result}"


def main():
    extra = json.loads(sys.argv[1]) if len(sys.argv) > 1 else []
    _page, address, native, i386 = machine_code()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        ours.close()
        listener = listen_to_page(address)
        socket.send_fds(theirs, [b"x"], [listener])
        os.close(listener)
        found = try_all(native, i386, extra)
        with theirs.makefile("w") as out:
            json.dump({key: [named(value) for value in values] for key, values in found.items()}, out)
        os._exit(0)
    theirs.close()
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    answer_until_end(fds[0])
    os.waitpid(child, 0)
    with ours.makefile() as told:
        print(told.read())


def answer_until_end(listener):
    """Answer every question with the mark, until nobody is left to ask."""
    import select

    waits = select.poll()
    waits.register(listener, select.POLLIN)
    while True:
        if waits.poll()[0][1] & select.POLLHUP:
            return
        question = bytearray(80)  # struct seccomp_notif
        try:
            fcntl.ioctl(listener, 0xC0502100, question)
        except FileNotFoundError:  # the one that asked is gone
            continue
        cookie = struct.unpack_from("Q", question)[0]
        fcntl.ioctl(listener, 0xC0182101, struct.pack("QqiI", cookie, 0, -MARK, 0))


main()
