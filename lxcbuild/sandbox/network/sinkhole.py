"""The guard of one sandbox's network: answers every name, ends every connection, and writes down who wanted what.

A child of the launcher (see launcher.py), outside the sandbox: it holds the other end of the namespace's only way out, a TUN
device, and sockets inside for the resolver. It belongs to the build's cgroups, so that a flood of packets costs the build and
nobody else, and dies with its launcher; the device goes with it, and then every send fails at once. Standard library only.

Each name gets an address of its own out of 198.18.0.0/15 (RFC 2544, never routed). The connection that follows tells port and
process, and is reset. Names that mean this machine or nothing (RFC 6761) do not exist, and are no attempt.

What can be missed: the process behind a datagram, when it ends right after sending; a process that closes its socket without
waiting for its connection. Who waits is caught: the answer is sent after the process was looked up.

The orchestrator sends ``{"op": "drain"}`` and gets ``{"attempts": [...], "lost": N, "end": bool}``, possibly in several messages.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NoReturn

from lxcbuild.linux import netns, syscalls
from lxcbuild.sandbox.network import attribution, packets
from lxcbuild.sandbox.network.attempts import Attempts, SeenAttempt

MAX_NAMES = 4096
PROXY_PORT, PROXY_BACKLOG = 3128, 64
_FIRST_ADDRESS, _LAST_ADDRESS = 0xC6120100, 0xC613FF00  # in 198.18.0.0/15
_PACKET_BYTES = 65536
_AT_ONCE = 64  # packets per turn, so that no source starves another
_DRAINED_PACKETS = 2000  # four times the device's queue
_RECORDS_PER_MESSAGE = 16
_TCP_DNS_AT_ONCE = 8
_PKTINFO = 50  # IPV6_PKTINFO, linux/in6.h
_SPECIAL = ("localhost", "local", "invalid", "test", "example", "onion", "arpa", "localdomain")


class Names:
    """One address per name, and back. Bounded: later names do not exist."""

    def __init__(self) -> None:
        self._addresses: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}

    def address(self, name: str) -> bytes | None:
        """The address that stands for a name, packed; None when there were too many names."""
        known = self._addresses.get(name)
        if known is None and len(self._addresses) < MAX_NAMES:
            known = struct.pack("!I", _FIRST_ADDRESS + len(self._addresses))
            self._addresses[name] = known
            self._names[known] = name
        return known

    def name(self, address: bytes) -> str | None:
        """The name that an address stands for."""
        return self._names.get(address)


def is_special(name: str) -> bool:
    """Whether a name means this machine or nothing at all (RFC 6761, and names without a dot, such as the host's own)."""
    return "." not in name or name.rpartition(".")[2] in _SPECIAL


class Guard:
    """The loop. ``root_pid`` is the launcher, above all processes of the sandbox."""

    def __init__(self, namespaces: netns.Namespaces, control: socket.socket, *, root_pid: int) -> None:
        if namespaces.tun_fd is None:
            raise ValueError("a guard needs the TUN device of its namespaces")
        self.recorder = Attempts()
        self._namespaces = namespaces
        self._tun = namespaces.tun_fd
        self._control = control
        self._root_pid = root_pid
        self._names = Names()
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], bool]] = {}
        self._askers: dict[int, socket.socket] = {}  # TCP connections to the resolver
        self._lookup = threading.Lock()
        self._open = True
        for fd, handler in (
            (control.fileno(), self._command),
            (self._tun, self._packet),
            (namespaces.dns_udp.fileno(), self._datagram),
            (namespaces.dns_tcp.fileno(), self._accept),
        ):
            self._listen_to(fd, handler)

    def run(self) -> None:
        """Serve until the orchestrator closes its end."""
        while self._open:
            for fd, _events in self._poll.poll():
                handler = self._handlers.get(fd)
                left = _AT_ONCE
                while handler is not None and left and handler():
                    left -= 1

    def _listen_to(self, fd: int, handler: Callable[[], bool]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def offer_proxy(self, listener: socket.socket, hosts: list[str]) -> None:
        """Serve as a proxy to these hosts (see proxy.py), from the first connection on."""

        def begin() -> bool:
            from lxcbuild.sandbox.network import proxy  # 23 ms, which few builds pay for

            self._poll.unregister(listener.fileno())
            del self._handlers[listener.fileno()]
            proxy.serve_in_background(listener, hosts, self)
            return False

        self._listen_to(listener.fileno(), begin)

    # -- handlers: False when there is nothing more to read now --------------------------------------------------------

    def _command(self) -> bool:
        if not self._control.recv(4096):
            self._open = False
            return False
        for handler in (self._packet, self._datagram):  # what was sent before the question belongs to the answer
            left = _DRAINED_PACKETS
            while left and handler():
                left -= 1
        attempts, lost = self.recorder.take()
        records = [asdict(attempt) for attempt in attempts]
        for at in range(0, max(len(records), 1), _RECORDS_PER_MESSAGE):
            part = records[at : at + _RECORDS_PER_MESSAGE]
            message = {"attempts": part, "lost": lost, "end": at + _RECORDS_PER_MESSAGE >= len(records)}
            self._control.send(json.dumps(message).encode())
        return False

    def _packet(self) -> bool:
        try:
            raw = os.read(self._tun, _PACKET_BYTES)
        except BlockingIOError:
            return False
        try:
            packet = packets.parse(raw)
        except packets.MalformedError:
            return True
        answer = self._answer_dns(packet) if packet.protocol == packets.UDP and packet.destination_port == 53 else None
        if answer is None:
            if packet.opens:
                self._record(packet)
            answer = packets.refuse(packet)
        if answer is not None:
            with contextlib.suppress(
                OSError
            ):  # no memory, or the device went down: the sender runs into its own time limit
                os.write(self._tun, answer)
        return True

    def _datagram(self) -> bool:
        sock = self._namespaces.dns_udp
        try:
            data, ancillary, _flags, sender = sock.recvmsg(2048, socket.CMSG_SPACE(20))
        except BlockingIOError:
            return False
        # The answer comes from the address that was asked (struct in6_pktinfo); the kernel chooses the interface.
        info = [(level, kind, value[:16] + bytes(4)) for level, kind, value in ancillary if kind == _PKTINFO]
        asked = socket.inet_ntop(socket.AF_INET6, info[0][2][:16]) if info else "127.0.0.1"
        reply = self._answer(data, lambda: self.local_peer(sender, (asked, netns.DNS_PORT), packets.UDP))
        if reply is not None:
            with contextlib.suppress(OSError):
                sock.sendmsg([reply], info, 0, sender)
        return True

    def _accept(self) -> bool:
        try:
            connection, peer = self._namespaces.dns_tcp.accept()
        except BlockingIOError:
            return False
        connection.settimeout(0)
        if len(self._askers) >= _TCP_DNS_AT_ONCE:
            self._hang_up(next(iter(self._askers)))
        fd = connection.fileno()
        self._askers[fd] = connection
        self._listen_to(fd, lambda: self._tcp_question(fd, peer, connection.getsockname()))
        return True

    def _tcp_question(self, fd: int, peer: tuple[Any, ...], asked: tuple[Any, ...]) -> bool:
        connection = self._askers[fd]
        with contextlib.suppress(OSError):
            data = connection.recv(2048)  # real resolvers send length and question at once; others are hung up on
            reply = self._answer(data[2:], lambda: self.local_peer(peer, asked, packets.TCP))
            if reply is not None:
                connection.send(struct.pack("!H", len(reply)) + reply)
        self._hang_up(fd)
        return False

    def _hang_up(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._handlers[fd]
        self._askers.pop(fd).close()

    # -- names -----------------------------------------------------------------------------------------------------

    def _answer_dns(self, packet: packets.Packet) -> bytes | None:
        """The answer to a question that was sent to some address outside; None when it is no question."""
        reply = self._answer(packet.payload[8:], lambda: self._sender(packet))
        return None if reply is None else packets.udp_reply(packet, reply)

    def _answer(self, data: bytes, who: Callable[[], attribution.Culprit | None]) -> bytes | None:
        try:
            question = packets.parse_question(data)
        except packets.MalformedError:
            return None
        if is_special(question.name):
            return packets.dns_answer(question, code=packets.NAME_ERROR)
        self.recorder.add(SeenAttempt("dns", question.name[:255], None, None), who)
        address = self._names.address(question.name)
        if address is None:
            return packets.dns_answer(question, code=packets.NAME_ERROR)
        # Only IPv4 addresses: a program that tries one address after the other then fails after the first.
        return packets.dns_answer(
            question, code=packets.NO_ERROR, address=address if question.kind == packets.A else None
        )

    # -- who it was ------------------------------------------------------------------------------------------------

    def _record(self, packet: packets.Packet) -> None:
        name = self._names.name(packet.destination)
        family = socket.AF_INET if packet.version == 4 else socket.AF_INET6
        self.recorder.add(
            SeenAttempt(
                packets.NAMES.get(packet.protocol, f"ip-{packet.protocol}"),
                name,
                None if name else socket.inet_ntop(family, packet.destination),
                packet.destination_port,
            ),
            lambda: self._sender(packet),
        )

    def _sender(self, packet: packets.Packet) -> attribution.Culprit | None:
        if packet.protocol in (packets.ICMP, packets.ICMPV6):
            inode = netns.ping_inode(self._namespaces.icmp_tables, packet.echo_identifier)
            return None if inode is None else attribution.holder(inode, root_pid=self._root_pid)
        has_ports = packet.protocol in (packets.TCP, packets.UDP)
        if not has_ports or packet.source_port is None or packet.destination_port is None:
            return None
        return self._holder(
            packet.protocol, (packet.source, packet.source_port), (packet.destination, packet.destination_port)
        )

    def local_peer(self, peer: tuple[Any, ...], own: tuple[Any, ...], protocol: int) -> attribution.Culprit | None:
        """The process behind ``peer`` that talks to an address and port of ours; both as accept() and getsockname() give them."""
        return self._holder(protocol, (_packed(peer[0]), peer[1]), (_packed(own[0]), own[1]))

    def _holder(
        self, protocol: int, source: tuple[bytes, int], destination: tuple[bytes, int]
    ) -> attribution.Culprit | None:
        with self._lookup:  # one netlink socket for all threads
            inode = netns.socket_inode(self._namespaces.diag, protocol=protocol, source=source, destination=destination)
        return None if inode is None else attribution.holder(inode, root_pid=self._root_pid)


def _packed(address: str) -> bytes:
    """An address in bytes; IPv4 on a socket for both kinds is IPv4."""
    if ":" not in address:
        return socket.inet_aton(address)
    packed = socket.inet_pton(socket.AF_INET6, address)
    return packed[12:] if packed.startswith(bytes(10) + b"\xff\xff") else packed


def become_guard(
    namespaces: netns.Namespaces,
    control: socket.socket,
    *,
    launcher_pid: int,
    listener: socket.socket | None,
    hosts: list[str],
) -> NoReturn:
    """What the launcher's child does, to its end. ``listener`` is the port of the proxy inside, in mode proxy."""
    status = 1
    try:
        syscalls.die_with_parent(signal.SIGKILL)
        if os.getppid() != launcher_pid:
            os._exit(1)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        guard = Guard(namespaces, control, root_pid=launcher_pid)
        if listener is not None:
            guard.offer_proxy(listener, hosts)
        guard.run()
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # the orchestrator is gone
    finally:
        os._exit(status)
