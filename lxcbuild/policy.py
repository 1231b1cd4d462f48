"""The limits of a sandbox: frozen values, and all that is said of each of them. No I/O, no behaviour."""

# Annotations are values here, not texts: every build reads them, and 45 texts take 3 ms to become values.
import enum
from typing import Annotated, Any

from msgspec import Meta, Struct


def limit(
    key: str,
    text: str,
    *,
    unit: str = "",
    v1: str = "",
    v2: str = "",
    stops: str = "",
    planned: bool = True,
    **bounds: Any,
) -> Meta:
    """All that is said of one field of a policy. The files' schema, what people read and the documentation are made from it.

    ``key`` is its name in a file, below its group's. ``v1`` and ``v2`` say what keeps it on either version of cgroups,
    ``stops`` names the failure class of what goes beyond it (several with spaces), and ``planned`` limits are those that a host
    may be unable to keep. ``config/units.py`` has the units; ``bounds`` are those of :class:`msgspec.Meta`.
    """
    extra = {"key": key, "unit": unit, "v1": v1, "v2": v2 or v1, "stops": tuple(stops.split()), "planned": planned}
    return Meta(description=text, extra=extra, **bounds)


Host = Annotated[str, Meta(pattern=r"^(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(:[0-9]{1,5})?\Z")]
_CLOCK, _READER, _LOOP = "our clock", "our reader", "our loop over phases"


class NetworkMode(enum.StrEnum):
    """What a sandbox sees of the network."""

    NONE = "none"
    LOOPBACK = "loopback"
    SINKHOLE = "sinkhole"
    PROXY = "proxy"


class BackendChoice(enum.StrEnum):
    """Which sandbox backend a policy wants."""

    LXC = "lxc"
    KVM = "kvm"
    AUTO = "auto"


class CpuLimits(Struct, frozen=True, kw_only=True):
    """CPU entitlement."""

    weight: Annotated[
        int,
        limit("weight", "share of contended CPUs, 1 to 10000; 100 is what everything else has", ge=1, le=10000,
              v1="`cpu.shares`", v2="`cpu.weight`"),
    ] = 100  # fmt: skip
    quota_percent: Annotated[
        float,
        limit("quota", "ceiling; threads that hold a lock while stopped make others wait, so prefer weight and cpuset",
              unit="percent", ge=1, v1="`cpu.cfs_quota_us`, `cpu.cfs_period_us`", v2="`cpu.max`"),
    ] | None = None  # fmt: skip
    cpuset: (
        Annotated[
            str,
            limit("cpuset", "the CPUs to use: `0-3,7`, or `all-1` for all but one", unit="cpus", v1="`cpuset.cpus`"),
        ]
        | None
    ) = None


class MemoryLimits(Struct, frozen=True, kw_only=True):
    """Memory; the tmpfs of the build is part of it."""

    max_bytes: Annotated[
        int,
        limit("max", "heap, page cache and the writable file system together; per cent of the machine's memory",
              unit="relative", stops="oom disk-full", v2="`memory.max`",
              v1="`memory.limit_in_bytes`; socket buffers apart, an eighth of it: `memory.kmem.tcp.limit_in_bytes`"),
    ]  # fmt: skip
    high_bytes: Annotated[
        int,
        limit("high", "above it the build is slowed down and its memory reclaimed", unit="relative",
              v1="none: refused", v2="`memory.high`"),
    ] | None = None  # fmt: skip
    swap_max_bytes: Annotated[
        int,
        limit("swap_max", "swap on top of `memory.max`; 0 in all shipped policies", unit="bytes", ge=0,
              v1="`memory.memsw.limit_in_bytes`", v2="`memory.swap.max`"),
    ] = 0  # fmt: skip


class IoDeviceLimits(Struct, frozen=True, kw_only=True):
    """Rates for one block device: a path, ``major:minor``, or ``state`` for the one of the state directory."""

    device: Annotated[
        str,
        limit(
            "device",
            "`state`, `/dev/...` or `8:0`",
            pattern=r"^(state|[0-9]{1,4}:[0-9]{1,7}|/dev/[A-Za-z0-9/_.:-]{1,200})\Z",
        ),
    ]
    read_bytes_per_s: Annotated[int, limit("read", "bytes read per second", unit="rate", ge=1)] | None = None
    write_bytes_per_s: Annotated[int, limit("write", "bytes written per second", unit="rate", ge=1)] | None = None
    read_ops_per_s: Annotated[int, limit("read_ops", "reads per second", ge=1, le=2**31)] | None = None
    write_ops_per_s: Annotated[int, limit("write_ops", "writes per second", ge=1, le=2**31)] | None = None


class IoLimits(Struct, frozen=True, kw_only=True):
    """Block I/O entitlement: a weight and hard rates per device."""

    weight: Annotated[
        int,
        limit("weight", "share of a contended disk, 1 to 10000; needs BFQ (or iocost) unless 100", ge=1, le=10000,
              v1="`blkio.bfq.weight`", v2="`io.bfq.weight`, `io.weight`"),
    ] = 100  # fmt: skip
    devices: Annotated[
        tuple[IoDeviceLimits, ...],
        limit("devices", "rates per disk: `device` (`state`, `/dev/...` or `8:0`), `read`, `write`, `read_ops`, `write_ops`",
              v1="`blkio.throttle.*`", v2="`io.max`"),
    ] = ()  # fmt: skip


class DiskLimits(Struct, frozen=True, kw_only=True):
    """The writable layer, a tmpfs."""

    max_bytes: Annotated[
        int,
        limit("max", "size of the writable layer, a tmpfs; per cent of `memory.max`", unit="relative", stops="disk-full",
              v1="`size=`"),
    ]  # fmt: skip
    max_inodes: Annotated[int, limit("max_inodes", "its files", stops="disk-full", v1="`nr_inodes=`", ge=1, le=2**31)]
    retry_factor: Annotated[
        float,
        limit("retry_factor", "a build that fills its disk while it is converted or compiled is tried once more with so many times "
              "the bytes and files, and as much more memory as the disk grows by, where that much is free; 1 to 16, 1: never "
              "(`untrusted`, `paranoid`). The record's notes name both attempts", v1=_LOOP, ge=1, le=16),
    ] = 1.0  # fmt: skip


class TimeLimits(Struct, frozen=True, kw_only=True):
    """Seconds for one step."""

    wall_s: Annotated[
        float, limit("wall", "per command, by the wall clock", unit="seconds", stops="timeout", v1=_CLOCK, gt=0)
    ]
    silence_s: (
        Annotated[
            float, limit("silence", "per command, without output", unit="seconds", stops="silent", v1=_CLOCK, gt=0)
        ]
        | None
    ) = None
    cpu_s: Annotated[
        float,
        limit("cpu", "per command, CPU time of all its processes. Over: class `timeout`", unit="seconds", gt=0,
              v1="`cpuacct.usage` and our clock", v2="`cpu.stat` and our clock"),
    ] | None = None  # fmt: skip


class LogLimits(Struct, frozen=True, kw_only=True):
    """Bounds of what is kept of a step's output."""

    max_bytes: Annotated[
        int,
        limit("max", "what is kept of the output", unit="bytes", stops="log-flood", v1=_READER, planned=False, ge=1),
    ] = 64 * 1024 * 1024
    max_line_bytes: Annotated[
        int, limit("max_line", "what is kept of one line", unit="bytes", v1=_READER, planned=False, ge=1)
    ] = 64 * 1024


class OutputLimits(Struct, frozen=True, kw_only=True):
    """Bounds of what is taken out of a sandbox."""

    max_files: Annotated[int, limit("max_files", "files in all", v1=_READER, planned=False, ge=1, le=2**31)] = 1000
    max_bytes: Annotated[int, limit("max", "bytes in all", unit="bytes", v1=_READER, planned=False, ge=1)] = 2 * 1024**3
    max_file_bytes: Annotated[
        int, limit("max_file", "bytes of one file", unit="bytes", v1=_READER, planned=False, ge=1)
    ] = 1024**3
    max_depth: Annotated[
        int, limit("max_depth", "directories in each other", v1=_READER, planned=False, ge=1, le=64)
    ] = 16


class Policy(Struct, frozen=True, kw_only=True):
    """The single source of every limit of a sandbox, as resolved from ``cgroups/*.yaml``."""

    name: str
    cpu: CpuLimits = CpuLimits()
    memory: MemoryLimits
    pids_max: Annotated[
        int,
        limit("pids.max", "processes and threads; at least 16, or not even a shell pipeline starts", stops="pids-exhausted",
              v1="`pids.max`", ge=16, le=4_194_304),
    ] = 1024  # fmt: skip
    io: IoLimits = IoLimits()
    disk: DiskLimits
    time: TimeLimits
    log: LogLimits = LogLimits()
    output: OutputLimits = OutputLimits()
    network: Annotated[
        NetworkMode,
        limit("network", "`sinkhole` (default): 127.0.0.1, all else fails at once and is recorded; `proxy`: the same with a way to "
              "`proxy_hosts`; `loopback`: 127.0.0.1 and no record; `none`: not even lo is up. See "
              "[the network of builds](../how-to/network.md)", v1="namespace"),
    ] = NetworkMode.NONE  # fmt: skip
    proxy_hosts: Annotated[
        tuple[Host, ...],
        limit("proxy_hosts", "for `proxy`: `name`, `*.domain` or an address, each with `:port` or for ports 80 and 443",
              v1="our proxy", planned=False),
    ] = ()  # fmt: skip
    seccomp: Annotated[
        str,
        limit("seccomp", "system-call profile: `build`, `trusted`, one of your own in `cgroups/seccomp/`, or `none`; see "
              "`docs/security.md`", v1="PID 1 and liblxc", pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z"),
    ] = "build"  # fmt: skip
    backend: Annotated[
        BackendChoice, limit("backend", "`lxc`, `auto`; `kvm` is a word of the format that this version refuses")
    ] = BackendChoice.AUTO
    fork_server: Annotated[
        bool,
        limit("fork_server", "whether programs of debhelper, dpkg and dh-python are forks of servers that have their modules: "
              "`true` (default) or `false`. The packages are the same; see `lxcbuild/debian/inside/forkserver/README.md`",
              planned=False),
    ] = True  # fmt: skip
    best_effort: Annotated[
        frozenset[str],
        limit("best_effort", 'limits that may go unenforced where a host cannot: dotted names, groups (`io`) or `"*"`',
              unit="limits", planned=False),
    ] = frozenset()  # fmt: skip
