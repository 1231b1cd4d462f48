"""Network namespaces of sandboxes: made before the sandbox, owned by the host's user namespace, with a TUN device as only way out.

Nobody inside can change the namespace, not even an inner root that got every capability: it belongs to the host's user namespace
(user_namespaces(7)). Whatever is sent to any address but a local one arrives as a packet at the TUN device's descriptor
(Linux: Documentation/networking/tuntap.rst), which stays outside; when its holder dies the device is gone, and every send fails at
once. Plain ioctls (netdevice(7), ipv6(7)), because launchers have the standard library only and pyroute2 takes 0.3 s to load.
Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lxcbuild.linux import syscalls

#: The way out, as it is called inside.
DEVICE = b"net0"
#: Ours on that device: the IPv4 dummy address (RFC 7600), and one of a unique local range (RFC 4193).
ADDRESS_V4, ADDRESS_V6 = "192.0.0.8", "fd6c:7863:6275:696c::8"
DNS_PORT = 53
_OWN_NET = "/proc/thread-self/ns/net"
_TUN = "/dev/net/tun"
_IFREQ = "16s24s"
# linux/if.h, linux/if_tun.h, linux/sockios.h
_IFF_UP, _IFF_TUN, _IFF_NO_PI = 0x1, 0x0001, 0x1000
_TUNSETIFF = 0x400454CA
_SIOCADDRT, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCGIFINDEX = 0x890B, 0x8914, 0x8916, 0x8933
_RTF_UP = 1
# linux/sock_diag.h, linux/inet_diag.h, linux/netlink.h
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, _NLMSG_ERROR = 4, 20, 1, 2
_NO_COOKIE = b"\xff" * 8
_TABLE_BYTES = 256 * 1024
_IPV6_RECVPKTINFO = 49  # linux/in6.h; the socket module has it on some builds only


@dataclass(slots=True)
class Namespaces:
    """One namespace: ``netns_fd`` names it, the rest reaches into it and works from anywhere. Descriptors are close-on-exec."""

    netns_fd: int
    tun_fd: int | None  # None: there is no way out (yet)
    dns_udp: socket.socket
    dns_tcp: socket.socket
    diag: socket.socket
    icmp_tables: tuple[int, ...]

    @property
    def inode(self) -> int:
        """What ``/proc/PID/ns/net`` of everybody inside must show."""
        return os.fstat(self.netns_fd).st_ino

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All but the namespace's own."""
        tun = () if self.tun_fd is None else (self.tun_fd,)
        return (*tun, *(sock.fileno() for sock in (self.dns_udp, self.dns_tcp, self.diag)), *self.icmp_tables)

    def close(self, *, keep_namespace: bool = False) -> None:
        """Close all descriptors: the device goes away with its own, and so does the namespace once nobody is inside."""
        for sock in (self.dns_udp, self.dns_tcp, self.diag):
            sock.close()
        for fd in (self.tun_fd, *self.icmp_tables):
            if fd is not None:
                os.close(fd)
        if not keep_namespace:
            os.close(self.netns_fd)

    def listen(self, port: int, *, backlog: int) -> socket.socket:
        """A TCP listener at 127.0.0.1 inside, for a caller that stays outside. Raises OSError."""
        with entered(self.netns_fd):
            return socket.create_server(("127.0.0.1", port), backlog=backlog)

    def enliven(self, *, way_out: bool) -> None:
        """Set lo up; make or remove the TUN device. Raises OSError."""
        if not way_out and self.tun_fd is not None:
            os.close(self.tun_fd)
            self.tun_fd = None
        with entered(self.netns_fd), _control() as control:
            _set_flags(control, b"lo", _IFF_UP)
            if way_out and self.tun_fd is None:
                self.tun_fd = _make_tun(control)


@contextlib.contextmanager
def entered(netns_fd: int) -> Iterator[None]:
    """Be in another network namespace; only for processes of one thread, since others would find themselves elsewhere."""
    home = os.open(_OWN_NET, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(netns_fd, syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(home, syscalls.CLONE_NEWNET)
    finally:
        os.close(home)


def make(*, way_out: bool) -> Namespaces:
    """A new namespace with resolver sockets on port 53, and with ``way_out`` also lo and a TUN device. Raises OSError.

    Interfaces are a matter of the kernel's one big network lock (rtnl), which the end of another namespace holds for 10 to 30 ms:
    so they are made ahead of time, where it is likely that they will be wanted. Without ``way_out`` lo has never been up: once it
    was, it keeps its address, and connects to it hang. For a process of one thread: it leaves its own namespace for a moment.
    """
    home = os.open(_OWN_NET, os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, home)
        syscalls.unshare(syscalls.CLONE_NEWNET)
        stack.callback(syscalls.setns, home, syscalls.CLONE_NEWNET)
        netns = os.open(_OWN_NET, os.O_RDONLY | os.O_CLOEXEC)
        # Echo requests without privileges ("ping" sockets, icmp(7)): so that they are seen and answered, not only refused.
        with contextlib.suppress(OSError):  # read-only in some containers: then they are refused
            Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        diag.settimeout(1.0)
        namespaces = Namespaces(netns, None, *_resolver_sockets(), diag, _icmp_tables())
    if way_out:
        with contextlib.suppress(OSError):  # the one who needs it tries again, and hears why not
            namespaces.enliven(way_out=True)
    return namespaces


def _control() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _set_flags(control: socket.socket, name: bytes, flags: int) -> None:
    fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack(_IFREQ, name, struct.pack("H", flags)))


def tun_problem() -> str | None:
    """Why this host cannot make TUN devices; None when it can."""
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{_TUN}: {error.strerror}"
    return None


def _make_tun(control: socket.socket) -> int:
    """A device that has both default routes. The caller is in the namespace already, which is how the device gets there."""
    tun = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack(_IFREQ, DEVICE, struct.pack("H", _IFF_TUN | _IFF_NO_PI)))
    address = _sockaddr_in(ADDRESS_V4)
    fcntl.ioctl(control, _SIOCSIFADDR, struct.pack(_IFREQ, DEVICE, address))
    _set_flags(control, DEVICE, _IFF_UP)
    # struct rtentry: dst, gateway, genmask are zero, so a default route; the device is named by a pointer
    name = syscalls.c_string(DEVICE)
    entry = struct.pack("@L", 0) + _sockaddr_in("0.0.0.0") + bytes(16) + _sockaddr_in("0.0.0.0")  # noqa: S104 - a route
    entry += struct.pack("@HhLPhPLLH", _RTF_UP, 0, 0, 0, 0, syscalls.address_of(name), 0, 0, 0)
    fcntl.ioctl(control, _SIOCADDRT, entry.ljust(128, b"\0"))
    if socket.has_ipv6:
        with contextlib.suppress(OSError):  # a kernel without IPv6: then connects fail at once by themselves
            _give_ipv6(control)
    return tun


def _sockaddr_in(address: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def _give_ipv6(control: socket.socket) -> None:
    answer = fcntl.ioctl(control, _SIOCGIFINDEX, struct.pack(_IFREQ, DEVICE, b""))
    index = struct.unpack_from("i", answer, 16)[0]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control6:
        # struct in6_ifreq: address, prefix length, interface
        packed = socket.inet_pton(socket.AF_INET6, ADDRESS_V6)
        fcntl.ioctl(control6, _SIOCSIFADDR, packed + struct.pack("=Ii", 128, index))
        # struct in6_rtmsg: dst, src, gateway, type, dst_len, src_len, metric, info, flags, ifindex
        route = bytes(48) + struct.pack("@IHHILIi", 0, 0, 0, 1, 0, _RTF_UP, index)
        fcntl.ioctl(control6, _SIOCADDRT, route)


def _resolver_sockets() -> tuple[socket.socket, socket.socket]:
    """UDP and TCP on port 53 of every local address: 127.0.0.1, 127.0.0.53, ::1 ... nobody inside may bind a port below 1024."""
    made: list[socket.socket] = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        sock = _wildcard(kind)
        sock.settimeout(0)
        made.append(sock)
    # Answers must come from the address that was asked (ip(7), IP_PKTINFO), which need not be the first one of lo.
    if made[0].family == socket.AF_INET6:
        made[0].setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    made[1].listen(16)
    return made[0], made[1]


def _wildcard(kind: int) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_INET6, kind)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", DNS_PORT))
    except OSError:  # a kernel without IPv6
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind(("0.0.0.0", DNS_PORT))  # noqa: S104 - in a namespace without a way out
    return sock


def _icmp_tables() -> tuple[int, ...]:
    """Tables of ping sockets; an open table keeps showing the namespace that it was opened in."""
    tables = []
    for name in ("icmp", "icmp6"):
        with contextlib.suppress(FileNotFoundError):
            tables.append(os.open(f"/proc/thread-self/net/{name}", os.O_RDONLY | os.O_CLOEXEC))
    return tuple(tables)


# -- whose socket is it ---------------------------------------------------------------------------------------------


def socket_inode(
    diag: socket.socket, *, protocol: int, source: tuple[bytes, int], destination: tuple[bytes, int]
) -> int | None:
    """The inode of the TCP or UDP socket that sends from ``source`` to ``destination`` (packed address, port); None when gone.

    One question by exact address (sock_diag(7)): its cost does not depend on how many sockets there are. Raises OSError.
    """
    family = socket.AF_INET if len(source[0]) == 4 else socket.AF_INET6
    # UDP sockets are looked up as if a packet came in, so their own side is the destination there (Linux: net/ipv4/udp_diag.c).
    ends = (destination, source) if protocol == socket.IPPROTO_UDP else (source, destination)
    ids = struct.pack("!HH", ends[0][1], ends[1][1])
    ids += ends[0][0].ljust(16, b"\0") + ends[1][0].ljust(16, b"\0") + struct.pack("=I", 0) + _NO_COOKIE
    body = struct.pack("=BBBxI", family, protocol, 0, 0xFFFFFFFF) + ids
    diag.send(struct.pack("=IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body)
    answer = diag.recv(8192)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == _NLMSG_ERROR:
        return None
    # struct inet_diag_msg: 4 bytes, the 48 of the id, then expires, rqueue, wqueue, uid, inode
    return int(struct.unpack_from("=I", answer, 16 + 4 + 48 + 16)[0]) or None


def ping_inode(tables: tuple[int, ...], identifier: int) -> int | None:
    """The inode of the ping socket with this ICMP identifier (Linux: net/ipv4/ping.c, ping_v4_format_sock); None when gone."""
    for table in tables:
        for line in os.pread(table, _TABLE_BYTES, 0).splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and int(words[1].rpartition(b":")[2], 16) == identifier:
                return int(words[9])
    return None
