"""``prepare``: as the inner root, put a setuid, a setgid and a setcap program there. ``run``: as the build user, start each."""

import json
import os
import shutil
import struct
import subprocess
import sys

from tools import outcome, report

PLACE = sys.argv[2] if len(sys.argv) > 2 else "/tmp"
SAY = """
import os, json
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
known = {"euid": os.geteuid(), "egid": os.getegid(), "eff": status["CapEff"].strip(), "nnp": status["NoNewPrivs"].strip()}
print(json.dumps(known))
"""
# struct vfs_cap_data, revision 2, effective: CAP_CHOWN to CAP_SETPCAP permitted.
SOME = struct.pack("<IIIII", 0x02000001, 0x000001FF, 0, 0, 0)


def prepare(name, mode):
    path = f"{PLACE}/attack-{name}"
    shutil.copyfile(os.path.realpath("/usr/bin/python3"), path)
    os.chown(path, 0, 0)
    os.chmod(path, mode)
    return path


if sys.argv[1] == "prepare":
    prepare("setuid", 0o4755)
    prepare("setgid", 0o2755)
    capable = prepare("setcap", 0o755)
    report({"setcap": outcome(os.setxattr, capable, "security.capability", SOME)})
else:
    found = {}
    for name in ("setuid", "setgid", "setcap"):
        try:
            done = subprocess.run([f"{PLACE}/attack-{name}", "-I", "-S", "-c", SAY], capture_output=True, text=True)
        except PermissionError as error:  # more than the bounding set holds
            found[name] = str(error)
        else:
            found[name] = json.loads(done.stdout) if done.returncode == 0 else done.stderr
    for shipped in ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd"):
        found[shipped] = bool(os.path.exists(shipped) and os.stat(shipped).st_mode & 0o6000)
    report(found)
