"""Attack 27: memory that no process has: what the kernel keeps for sockets, names, timers, locks. Up to the MiB named second.

Says how many MiB it had the kernel take, by its own reckoning.
"""

import array
import ctypes
import errno
import os
import resource
import select
import signal
import socket
import struct
import sys

MIB = 1 << 20
way, wanted = sys.argv[1], int(sys.argv[2]) * MIB
libc = ctypes.CDLL(None, use_errno=True)
kept = []


def more_descriptors():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def netlink():
    """Answers that nobody reads wait in the socket's queue, in memory that the kernel took for its own answer."""
    more_descriptors()
    # RTM_GETLINK of lo, with 64 KiB of room asked for
    request = struct.pack("=IHHII", 32, 18, 1, 1, 0) + struct.pack("=BxHiII", 0, 0, 1, 0, 0)
    while True:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        kept.append(sock)
        room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        sock.setblocking(False)
        for count in range(100_000):
            try:
                sock.send(request)
            except OSError:
                break
            if queued(sock) >= room - 4096 or (count > 2000 and queued(sock) == 0):
                break
        yield queued(sock)


def queued(sock):
    """SO_MEMINFO: what lies in the receive queue, by its true size (socket(7), linux/sock_diag.h)."""
    info = array.array("I", sock.getsockopt(socket.SOL_SOCKET, 55, 64))
    return info[0] + info[2] + info[5]  # rmem_alloc, wmem_alloc, wmem_queued


def udp():
    more_descriptors()
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setblocking(False)
    while True:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        sock.bind(("127.0.0.1", 0))
        kept.append(sock)
        for _ in range(200):
            try:
                sender.sendto(bytes(60_000), sock.getsockname())
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                    raise
                break
        yield queued(sock)


def tcp():
    more_descriptors()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    while True:
        ours = socket.create_connection(listener.getsockname())
        theirs = listener.accept()[0]
        kept.extend((ours, theirs))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 23)
        ours.setblocking(False)
        try:
            while True:
                ours.send(bytes(1 << 18))
        except OSError:
            pass
        yield queued(ours) + queued(theirs)


def local():
    """Unix sockets."""
    more_descriptors()
    while True:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        kept.extend((ours, theirs))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 23)
        ours.setblocking(False)
        try:
            while True:
                ours.send(bytes(1 << 17))
        except OSError:
            pass
        yield queued(ours)


def attributes():
    """Extended attributes of a tmpfs lie in the kernel's memory, not in the file system's blocks."""
    for number in range(10_000_000):
        path = f"/build/x{number % 1000}"
        if number < 1000:
            with open(path, "w"):
                pass
        os.setxattr(path, f"user.{number // 1000}", os.urandom(60_000))
        yield 60_000


def links():
    """Long targets of symbolic links, on a tmpfs."""
    for number in range(10_000_000):
        os.symlink("x" * 4000, f"/build/l{number}")
        yield 4096


def polls():
    more_descriptors()
    eventfd = os.eventfd(0)
    while True:
        poll = select.epoll()
        kept.append(poll)
        for _ in range(64):
            fd = os.dup(eventfd)
            kept.append(fd)
            poll.register(fd, 1)
        yield 64 * 200


def timers():
    event = (ctypes.c_char * 64)()
    struct.pack_into("=qii", event, 0, 0, signal.SIGALRM, 1)  # SIGEV_NONE
    made = ctypes.c_int()
    while True:
        for _ in range(1000):
            if libc.syscall(222, 1, ctypes.byref(event), ctypes.byref(made)):
                raise OSError(ctypes.get_errno(), "timer_create")
        yield 1000 * 250


def signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, [40])
    info = ctypes.create_string_buffer(128)
    struct.pack_into("=iii", info, 0, 40, 0, -1)  # SI_QUEUE
    while True:
        for _ in range(1000):
            if libc.syscall(129, os.getpid(), 40, info):
                raise OSError(ctypes.get_errno(), "rt_sigqueueinfo")
        yield 1000 * 80


def watches():
    more_descriptors()
    while True:
        fd = libc.inotify_init1(0o4000)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init")
        libc.inotify_add_watch(fd, b"/build", 0x100)
        for number in range(16_000):
            try:
                with open(f"/build/{'n' * 240}{number % 2}", "w"):
                    pass
                os.unlink(f"/build/{'n' * 240}{number % 2}")
            except OSError:
                break
        yield 16_000 * 300


def semaphores():
    while True:
        if libc.semget(0, 32_000, 0o1600) < 0:
            raise OSError(ctypes.get_errno(), "semget")
        yield 32_000 * 64


def queues():
    while True:
        queue = libc.msgget(0, 0o1600)
        if queue < 0:
            raise OSError(ctypes.get_errno(), "msgget")
        message = struct.pack("q", 1) + bytes(8000)
        while libc.msgsnd(queue, message, 8000, 0o4000) == 0:
            pass
        yield 16_000


taken, ended, in_vain = 0, "done", 0
try:
    for amount in globals()[way]():
        taken += amount
        in_vain = 0 if amount else in_vain + 1
        if taken >= wanted or in_vain >= 100:
            break
except OSError as error:
    ended = errno.errorcode[error.errno]
print(f"{taken // MIB} {ended}", flush=True)
