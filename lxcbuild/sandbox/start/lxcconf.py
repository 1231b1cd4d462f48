"""The container configuration that liblxc gets: every line is ours and says why. No stock file is included."""

from __future__ import annotations

import resource
from pathlib import Path

from lxcbuild.sandbox.start.job import LaunchJob

#: Device nodes of /dev: name, major, minor (Linux: Documentation/admin-guide/devices.txt).
DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
DEVICE_LINKS = (
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)
RUNNER_NAME = ".runner"
#: Where the launcher keeps the sandbox's network namespace while it starts liblxc.
NETNS_FD = 5
SECCOMP_FILE = "/run/l/seccomp"
RUNNER_INSIDE = f"/dev/{RUNNER_NAME}"

#: Capabilities of the runner and of trusted installs as the inner root: what dpkg, apt and a change of user need, and no more.
#: Names as lxc.container.conf(5) wants them, numbers as in linux/capability.h.
ROOT_CAPABILITIES = {
    "chown": 0,
    "dac_override": 1,
    "fowner": 3,
    "fsetid": 4,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
}

#: Files of /proc that tell about the host and that anybody may open there; each is covered by an empty file. Those that only the
#: host's root may open (timer_list, slabinfo, kpagecount ...) stay closed to the inner root: their owner is not in its id map.
MASKED_FILES = (
    "kcore",
    "keys",
    "key-users",
    "kallsyms",
    "kmsg",
    "modules",
    "timer_list",
    "sched_debug",
    "latency_stats",
    # The host's boot command line may hold secrets; counters per interrupt show keystrokes; the rest is the host's hardware.
    "cmdline",
    "interrupts",
    "iomem",
    "ioports",
    "partitions",
)
MASKED_DIRS = ("acpi", "asound", "scsi")

_TEMPLATE = """\
# The merged tree, already mounted by the launcher; bound to the mount point, then made the root with pivot_root.
lxc.rootfs.path = dir:/run/m
lxc.rootfs.mount = /run/r
lxc.uts.name = {hostname}
# Inner ids 0..65535 are a range that no other running sandbox has.
lxc.idmap = u 0 {base} 65536
lxc.idmap = g 0 {base} 65536
# The network namespace that the launcher has made (see netns.py); it belongs to the host's user namespace, so that nobody inside
# can change it, with any capability. Without this line there would be a new, empty one: a mistake cannot open the host's.
lxc.namespace.share.net = /proc/self/fd/{netns_fd}
# /proc with /proc/sys and sysrq-trigger read-only. No /sys, no cgroup file system.
lxc.mount.auto = proc:mixed
{masks}
# /dev is ready-made and read-only in the tree: no device set-up, no terminals, no console.
lxc.autodev = 0
lxc.pty.max = 0
lxc.tty.max = 0
lxc.console.path = none
# Nothing inside gains privileges by exec, and only these capabilities exist at all.
lxc.no_new_privs = 1
lxc.cap.keep = {capabilities}
{seccomp}
# A session keyring of its own, away from the host's: 1 would keep the host's (lxc.container.conf(5)).
lxc.keyring.session = 0
# The profile is liblxc's default where AppArmor exists, and it forbids mounts that we have made already.
lxc.apparmor.profile = unconfined
lxc.prlimit.core = 0
lxc.prlimit.nofile = {open_files}
lxc.prlimit.memlock = 65536
# What runs inside is the first choice of the out-of-memory killer, before its launcher and before the rest of the host.
lxc.proc.oom_score_adj = 500
# The environment of the runner; steps get their own.
lxc.environment = PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
lxc.environment = LANG=C.UTF-8
lxc.environment = HOME=/root
lxc.init.cwd = /
# Failures come back to the caller of start().
lxc.log.file = /run/l/log
lxc.log.level = ERROR
"""


def _open_files() -> int:
    """At most 65,536 per process, and never more than we have: raising a hard limit needs CAP_SYS_RESOURCE."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)


def render(job: LaunchJob) -> str:
    """The configuration of one container; the launcher's tree is below /run in its own mount namespace."""
    masks = [(name, "/run/x/null") for name in MASKED_FILES] + [(name, "/run/e") for name in MASKED_DIRS]
    entries = [
        f"lxc.mount.entry = {cover} proc/{name} none bind,ro 0 0"
        for name, cover in masks
        if Path("/proc", name).exists()
    ]
    return _TEMPLATE.format(
        hostname=job.hostname,
        base=job.id_base,
        open_files=_open_files(),
        netns_fd=NETNS_FD,
        masks="\n".join(["# What tells about the host is covered by an empty file or directory.", *entries]),
        capabilities=" ".join(ROOT_CAPABILITIES),
        seccomp=f"# The policy's system-call filter.\nlxc.seccomp.profile = {SECCOMP_FILE}"
        if job.seccomp_profile
        else "# No seccomp profile was asked for.",
    )
