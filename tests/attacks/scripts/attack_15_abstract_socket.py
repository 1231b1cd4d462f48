"""An abstract socket (no file, so no mount namespace holds it): ``listen NAME`` waits for a visitor, ``visit NAME`` goes there.

A NAME that begins with a slash is a socket in the file system.
"""

import os
import socket
import sys

from tools import outcome, report

name = sys.argv[2] if sys.argv[2].startswith("/") else "\0" + sys.argv[2]
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
    if sys.argv[1] == "listen":
        sock.bind(name)
        sock.listen()
        print("listening", flush=True)
        sock.settimeout(float(sys.argv[3]))
        try:
            visitor, _ = sock.accept()
        except TimeoutError:
            report({"visited": False})
        else:
            _, fds, _, _ = socket.recv_fds(visitor, 1, 1)
            report({"visited": True, "read": os.read(fds[0], 100).decode()})
    else:
        how = outcome(sock.connect, name)
        if how == "done":
            with open(sys.argv[3]) as passed:
                socket.send_fds(sock, [b"x"], [passed.fileno()])
        report({"connect": how})
