"""The kernel's keyrings: add a key, find one of somebody else (named by the argument), read the session's."""

import sys

from tools import report, tried

KEYCTL_GET_KEYRING_ID, KEYCTL_JOIN, KEYCTL_DESCRIBE, KEYCTL_SEARCH, KEYCTL_READ = 0, 1, 6, 10, 11
SESSION, USER, PROCESS = -3, -4, -2

wanted = sys.argv[1].encode()
try:
    with open("/proc/keys") as file:
        listed = file.read()
except OSError as error:
    listed = f"errno {error.errno}"
found = {
    "search session": tried("keyctl", KEYCTL_SEARCH, SESSION, b"user", wanted, 0),
    "search user": tried("keyctl", KEYCTL_SEARCH, USER, b"user", wanted, 0),
    "request_key": tried("request_key", b"user", wanted, None, PROCESS),
    "session": tried("keyctl", KEYCTL_GET_KEYRING_ID, SESSION, 0),
    "add_key": tried("add_key", b"user", b"lxcbuild-attack", b"x", 1, PROCESS),
    "listed": sys.argv[1] in listed,
}
report(found)
