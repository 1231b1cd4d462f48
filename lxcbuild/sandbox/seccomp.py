"""The system-call filter of a sandbox, as a profile for liblxc (seccomp(2); profile format: lxc.container.conf(5)).

``build`` denies what no build needs and what has been the way into the kernel before: namespaces, mounts, keys, modules, bpf,
performance counters, io_uring, handles, clocks. Everything inside lacks the capabilities for most of these anyway: this is the
second belt. ``none`` is no filter at all.
"""

from __future__ import annotations

from lxcbuild.errors import LimitRefusedError

_EPERM, _ENOSYS = 1, 38

_DENIED = (
    # mounts and roots
    "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
    "swapon", "swapoff", "quotactl", "nfsservctl",
    # namespaces (clone with CLONE_NEWUSER is below)
    "unshare", "setns",
    # keys of the kernel
    "add_key", "request_key", "keyctl",
    # code in the kernel, and looking into it
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "bpf", "perf_event_open", "userfaultfd",
    "lookup_dcookie", "fanotify_init", "open_by_handle_at", "syslog", "iopl", "ioperm", "acct", "reboot", "vhangup",
    # clocks of the host
    "settimeofday", "stime", "adjtimex", "clock_adjtime", "clock_settime",
)  # fmt: skip

#: A large interface that filters cannot look into; libraries fall back to plain calls when it "does not exist".
_ABSENT = ("io_uring_setup", "io_uring_enter", "io_uring_register")

_NEW_NAMESPACES = (
    0x00020000,  # CLONE_NEWNS
    0x02000000,  # CLONE_NEWCGROUP
    0x04000000,  # CLONE_NEWUTS
    0x08000000,  # CLONE_NEWIPC
    0x10000000,  # CLONE_NEWUSER
    0x20000000,  # CLONE_NEWPID
    0x40000000,  # CLONE_NEWNET
)
_AF_ALG, _AF_VSOCK = 38, 40


def profile(name: str) -> str | None:
    """The text of the named profile, None for ``none``; raises :class:`LimitRefusedError` for a name that we do not have."""
    if name == "none":
        return None
    if name != "build":
        raise LimitRefusedError(f"there is no seccomp profile {name!r}", resolution="profiles are: build, none")
    lines = ["2", "denylist", "[all]"]
    lines += [f"{call} errno {_EPERM}" for call in _DENIED]
    lines += [f"{call} errno {_ENOSYS}" for call in _ABSENT]
    lines += [f"clone errno {_EPERM} [0,{flag},SCMP_CMP_MASKED_EQ,{flag}]" for flag in _NEW_NAMESPACES]
    # The flags of clone3 are behind a pointer, where no filter can see them; glibc falls back to clone.
    lines.append(f"clone3 errno {_ENOSYS}")
    # The host's kernel crypto interface, and sockets to a hypervisor, which no network namespace holds back.
    lines += [f"socket errno 97 [0,{family},SCMP_CMP_EQ]" for family in (_AF_ALG, _AF_VSOCK)]
    # TIOCSTI and TIOCLINUX push input into a terminal; the kernel looks at 32 bits of the request only.
    lines += [f"ioctl errno {_EPERM} [1,{request},SCMP_CMP_MASKED_EQ,{0xFFFFFFFF}]" for request in (0x5412, 0x541C)]
    return "\n".join(lines) + "\n"
