"""Packets and DNS messages as bytes: read what a sandbox sends, make the answer that ends it. No I/O; never trusts a length.

Formats: RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP), 792 and 4443 (ICMP), 1035 (DNS). Standard library only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
#: How protocols are called in reports; others are called by their number.
NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmp", 33: "dccp", 132: "sctp", 136: "udplite"}
_IGMP = 2
_ECHO_V4, _ECHO_V6 = 8, 128
#: Headers between IPv6's own and the payload: hop-by-hop, routing, destination options.
_EXTENSIONS = frozenset({0, 43, 60})
_FRAGMENT = 44
_ICMP_QUOTE_BYTES = 28 + 40

A, AAAA = 1, 28
NO_ERROR, NAME_ERROR = 0, 3
_TTL_S = 5


class MalformedError(ValueError):
    """Bytes that are no packet or question of a kind that we know."""


@dataclass(frozen=True)
class Packet:
    """One attempt to send: addresses are packed, ports are None where the protocol has none."""

    version: int
    protocol: int
    source: bytes
    destination: bytes
    source_port: int | None
    destination_port: int | None
    payload: bytes  # behind the IP header
    raw: bytes

    @property
    def opens(self) -> bool:
        """Whether the sender begins something: a connection, a datagram, an echo; and not what kernels say by themselves."""
        if self.protocol == TCP:
            return bool(self.payload[13] & _SYN)
        if self.protocol in (ICMP, ICMPV6):
            return self.payload[0] == (_ECHO_V4 if self.version == 4 else _ECHO_V6)
        return self.protocol != _IGMP

    @property
    def echo_identifier(self) -> int:
        """Of an echo request."""
        return int.from_bytes(self.payload[4:6], "big")


def parse(raw: bytes) -> Packet:
    """Read one IP packet as a TUN device gives it; raises :class:`MalformedError`. Later fragments are malformed, too."""
    try:
        version = raw[0] >> 4
        if version == 4:
            (fragment,) = struct.unpack_from("!H", raw, 6)
            protocol, start = raw[9], (raw[0] & 15) * 4
            source, destination = raw[12:16], raw[16:20]
            if fragment & 0x1FFF or start < 20:
                raise MalformedError("a fragment, or no header")
        elif version == 6:
            protocol, start = raw[6], 40
            source, destination = raw[8:24], raw[24:40]
            for _ in range(8):
                if protocol in _EXTENSIONS:
                    protocol, start = raw[start], start + (raw[start + 1] + 1) * 8
                elif protocol == _FRAGMENT and not int.from_bytes(raw[start + 2 : start + 4], "big") & 0xFFF8:
                    protocol, start = raw[start], start + 8
        else:
            raise MalformedError(f"IP version {version}")
        payload = raw[start:]
        shortest = {TCP: 20, ICMP: 8, ICMPV6: 8}.get(protocol, 4)
        if len(payload) < shortest or len(destination) not in (4, 16):
            raise MalformedError("cut off")
        ports: tuple[int | None, int | None] = (None, None)
        if protocol in NAMES and protocol not in (ICMP, ICMPV6):
            ports = struct.unpack_from("!HH", payload)
        return Packet(version, protocol, source, destination, *ports, payload, raw)
    except (IndexError, struct.error) as error:
        raise MalformedError(str(error)) from error


# -- answers --------------------------------------------------------------------------------------------------------


def refuse(packet: Packet) -> bytes | None:
    """The packet that ends the attempt at once: a TCP reset, or an ICMP error. None where nothing may be answered."""
    if packet.protocol == TCP:
        return _reset(packet)
    if not packet.opens:
        return None
    # 3/3 and 1/4: no such port, which a connected UDP socket sees as ECONNREFUSED; 3/13 and 1/1 for everything else: forbidden,
    # which connected sockets see, too (codes that kernels take for final: icmp_err_convert in net/ipv4/icmp.c).
    kind = (3, 3 if packet.protocol == UDP else 13) if packet.version == 4 else (1, 4 if packet.protocol == UDP else 1)
    quote = packet.raw[: _ICMP_QUOTE_BYTES if packet.version == 4 else 1000]
    body = struct.pack("!BBHI", *kind, 0, 0) + quote
    return _wrap(packet, ICMP if packet.version == 4 else ICMPV6, body, checksum_at=2)


def _reset(packet: Packet) -> bytes | None:
    sequence, acknowledged = struct.unpack_from("!II", packet.payload, 4)
    offset, flags = (packet.payload[12] >> 4) * 4, packet.payload[13]
    if flags & _RST:
        return None
    data = len(packet.payload) - offset + bool(flags & _SYN) + bool(flags & _FIN)
    if flags & _ACK:  # RFC 9293, 3.5.2
        numbers, answer = (acknowledged, 0), _RST
    else:
        numbers, answer = (0, (sequence + data) & 0xFFFFFFFF), _RST | _ACK
    header = struct.pack("!HHIIBBHHH", packet.destination_port, packet.source_port, *numbers, 5 << 4, answer, 0, 0, 0)
    return _wrap(packet, TCP, header, checksum_at=16)


def udp_reply(packet: Packet, data: bytes) -> bytes:
    """A datagram back to the sender of a UDP packet."""
    header = struct.pack("!HHHH", packet.destination_port, packet.source_port, 8 + len(data), 0)
    return _wrap(packet, UDP, header + data, checksum_at=6)


def _wrap(packet: Packet, protocol: int, body: bytes, *, checksum_at: int) -> bytes:
    """An IP packet from the destination back to the source, with the body's checksum set."""
    source, destination = packet.destination, packet.source
    pseudo = source + destination + struct.pack("!II", len(body), protocol)
    if packet.version == 4 and protocol == ICMP:
        pseudo = b""
    checksum = _checksum(pseudo + body) or 0xFFFF
    body = body[:checksum_at] + struct.pack("!H", checksum) + body[checksum_at + 2 :]
    if packet.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + source + destination + body
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0, source, destination)
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + body


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# -- DNS ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """The first question of a DNS message. ``name`` is lower case, without the last dot, printable ASCII."""

    identifier: int
    flags: int
    name: str
    kind: int
    wire: bytes  # the question section, to be repeated in the answer


def parse_question(data: bytes) -> Question:
    """Read a DNS query; raises :class:`MalformedError`."""
    try:
        identifier, flags, questions = struct.unpack_from("!HHH", data)
        if flags & 0x8000 or not questions:
            raise MalformedError("no question")
        labels, at = [], 12
        while length := data[at]:
            if length > 63 or at - 12 > 255:
                raise MalformedError("a name that is too long, or compressed")
            labels.append(data[at + 1 : at + 1 + length])
            at += 1 + length
        kind, _cls = struct.unpack_from("!HH", data, at + 1)
    except (IndexError, struct.error) as error:
        raise MalformedError(str(error)) from error
    name = ".".join("".join(chr(c) if 32 < c < 127 else "?" for c in label) for label in labels)
    return Question(identifier, flags, name.lower(), kind, data[12 : at + 5])


def dns_answer(question: Question, *, code: int, address: bytes | None = None) -> bytes:
    """A reply with one A record, or with none; final and recursive, so that nobody asks again."""
    flags = 0x8080 | (question.flags & 0x7900) | code  # QR, RA; opcode and RD as they came
    record = b""
    if address is not None:
        record = struct.pack("!HHHIH", 0xC00C, A, 1, _TTL_S, 4) + address
    return struct.pack("!HHHHHH", question.identifier, flags, 1, 1 if record else 0, 0, 0) + question.wire + record
