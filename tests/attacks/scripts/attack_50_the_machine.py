"""Change the machine as a whole: its clocks, names, swap, accounting, terminals, ports, quotas. The arguments choose among them."""

import struct
import sys
import time

from tools import NUMBERS, report, tried

now = struct.pack("qq", int(time.time()), 0)
attempts = {
    "settimeofday": (now, None),
    "clock_settime": (0, now),
    "adjtimex": (struct.pack("I", 0x8000) + bytes(300),),
    "clock_adjtime": (0, struct.pack("I", 0x8000) + bytes(300)),
    "sethostname": (b"evil", 4),
    "setdomainname": (b"evil", 4),
    "swapon": (b"/tmp/none", 0),
    "swapoff": (b"/tmp/none",),
    "acct": (b"/tmp/none",),
    # LINUX_REBOOT_CMD_CAD_OFF, with the right magic numbers.
    "reboot": (0xFEE1DEAD, 672274793, 0, None),
    "quotactl": (0x800001 << 8, b"/", 0, None),
    "syslog": (10, None, 0),
    "vhangup": (),
    "iopl": (3,),
    "ioperm": (0x80, 1, 1),
    "modify_ldt": (0, None, 0),
}
report({name: tried(name, *arguments) for name, arguments in attempts.items() if name in (sys.argv[1:] or NUMBERS)})
