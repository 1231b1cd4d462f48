"""What a launcher is told: one sandbox's job. Standard library only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class LaunchJob:
    """All that a launcher must know, in words that survive JSON. ``id_base`` is the first host id of the sandbox's range."""

    name: str
    hostname: str
    id_base: int
    lowers: list[str]  # topmost first
    binds: list[tuple[str, str]]  # host path, inner path
    tmpfs_bytes: int
    tmpfs_inodes: int
    network: str  # a NetworkMode
    proxy_hosts: list[str] = field(default_factory=list)
    max_ptys: int = 64
    seccomp_profile: str | None = None  # its text, in liblxc's format
    # Files to write "0" to, which moves the writer into the build's cgroups; the late ones
    # forbid mknod, so their turn is when /dev is made.
    cgroup_files: list[str] = field(default_factory=list)
    late_cgroup_files: list[str] = field(default_factory=list)
    runner: str | None = None  # a file: the runner compiled by the image's own Python, see compiled.py

    def encode(self) -> bytes:
        """The message."""
        return json.dumps(asdict(self)).encode()
