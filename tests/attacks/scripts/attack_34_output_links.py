"""Attacks 34, 35, 36, 37, 39: leave in /out what the first argument names; the second is a path of the host."""

import os
import socket
import struct
import sys
import time

what = sys.argv[1]
canary = sys.argv[2] if len(sys.argv) > 2 else ""
os.chdir("/out")


def write(name, data=b"data\n"):
    with open(name, "wb") as file:
        file.write(data)


def acl():
    """An access list that grants uid 4242 everything: version 2, then (tag, permissions, id) of 4 + 4 bytes each."""
    entries = [(0x01, 6, -1), (0x02, 7, 4242), (0x04, 4, -1), (0x10, 7, -1), (0x20, 4, -1)]
    body = b"".join(struct.pack("<HHI", tag, perm, who & 0xFFFFFFFF) for tag, perm, who in entries)
    write("f")
    os.setxattr("f", "system.posix_acl_access", struct.pack("<I", 2) + body)


def capability():
    """cap_setuid,cap_sys_admin+ep as VFS_CAP_REVISION_2, which the kernel makes a revision 3 of this user namespace."""
    write("f")
    os.setxattr("f", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 7 | 1 << 21, 0, 0, 0))


def deep():
    for _ in range(int(canary or 100_000)):
        os.mkdir("d")
        os.chdir("d")


def many():
    for number in range(int(canary)):
        os.close(os.open(str(number), os.O_WRONLY | os.O_CREAT))


def swap():
    """A daemon that turns a file into a link and back as fast as it can."""
    if os.fork() == 0:
        os.setsid()
        write("plain", b"harmless\n")
        while True:
            os.symlink(canary, "new")
            os.rename("new", "swapped")
            os.link("plain", "new")
            os.rename("new", "swapped")
            write("plain.new", b"harmless\n")
            os.rename("plain.new", "plain")
    time.sleep(0.2)


def swap_directory():
    if os.fork() == 0:
        os.setsid()
        os.makedirs("real")
        name = os.path.basename(canary)
        write("real/" + name, b"harmless\n")
        while True:
            os.rename("real", "swapped")
            os.rename("swapped", "real")
            os.symlink(os.path.dirname(canary), "swapped")
            os.unlink("swapped")
    time.sleep(0.2)


ways = {
    "symlink": lambda: os.symlink("/etc/passwd", "f"),
    "relative": lambda: os.symlink("../../../../../.." + canary, "f"),
    "absolute": lambda: os.symlink(canary, "f"),
    "directory-link": lambda: os.symlink(os.path.dirname(canary), "d"),
    "out-link": lambda: (os.chdir("/"), os.rmdir("/out"), os.symlink(os.path.dirname(canary), "/out")),
    "dangling": lambda: os.symlink("nothing", "f"),
    "magic": lambda: os.symlink("/proc/1/root" + canary, "f"),
    "hard-link-lower": lambda: os.link("/etc/passwd", "f"),
    "hard-link": lambda: (write("/build/own"), os.link("/build/own", "f")),
    "fifo": lambda: os.mkfifo("f"),
    "socket": lambda: socket.socket(socket.AF_UNIX).bind("f"),
    "device": lambda: os.mknod("f", 0o020666, os.makedev(1, 3)),
    "setuid": lambda: (write("f"), os.chmod("f", 0o6777)),
    "capability": capability,
    "acl": acl,
    "xattr": lambda: (write("f"), os.setxattr("f", "user.note", b"x" * 1000)),
    "owner": lambda: (write("f"), os.chown("f", 33, 44)),
    "sparse": lambda: (write("f"), os.truncate("f", 1 << 40)),
    "deep": deep,
    "many": many,
    "long-name": lambda: write("n" * 255),
    "newline": lambda: write("a\nb"),
    "escape": lambda: write("a\x1b[31mb"),
    "invalid": lambda: write(b"a\xff\xfeb"),
    "dash": lambda: write("-rf"),
    "unreadable": lambda: (write("f"), os.chmod("f", 0)),
    "swap": swap,
    "swap-directory": swap_directory,
}
ways[what]()
print("made", flush=True)
