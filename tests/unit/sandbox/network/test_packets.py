"""Packets and DNS messages: what is read, what is answered, and that nothing breaks the reader."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcbuild.sandbox.network import packets
from lxcbuild.sandbox.network.packets import MalformedError

HERE, THERE = socket.inet_aton("192.0.0.8"), socket.inet_aton("9.9.9.9")
HERE6, THERE6 = (socket.inet_pton(socket.AF_INET6, text) for text in ("fd00::8", "2001:db8::1"))


def ipv4(protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0, HERE, THERE) + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + HERE6 + THERE6 + payload


def syn(flags: int = 2, data: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", 4000, 443, 1000, 55, 5 << 4, flags, 1024, 0, 0) + data


def sums_up(answer: bytes, *, protocol: int) -> bool:
    """Whether the checksum of the payload is right (RFC 1071: all words together make 0xffff)."""
    if answer[0] >> 4 == 4:
        body, pseudo = answer[20:], b"" if protocol == packets.ICMP else answer[12:20]
    else:
        body, pseudo = answer[40:], answer[8:40]
    data = (pseudo + struct.pack("!II", len(body), protocol) if pseudo else b"") + body
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


@pytest.mark.parametrize("wrap", [ipv4, ipv6])
def test_a_connection_is_reset(wrap: object) -> None:
    packet = packets.parse(wrap(packets.TCP, syn()))  # type: ignore[operator]
    assert packet.opens
    assert (packet.source_port, packet.destination_port) == (4000, 443)
    answer = packets.refuse(packet)
    assert answer is not None
    assert sums_up(answer, protocol=packets.TCP)
    back = packets.parse(answer)
    assert (back.source, back.destination) == (packet.destination, packet.source)
    source, destination, sequence, acknowledged = struct.unpack_from("!HHII", back.payload)
    assert (source, destination, sequence, acknowledged) == (443, 4000, 0, 1001)
    assert back.payload[13] == 4 | 16  # RST, ACK
    assert packets.refuse(back) is None, "a reset is not answered"


def test_a_segment_without_a_connection_is_reset_with_its_own_number() -> None:
    packet = packets.parse(ipv4(packets.TCP, syn(16, b"data")))
    assert not packet.opens
    answer = packets.refuse(packet)
    assert answer is not None
    assert struct.unpack_from("!I", answer, 24)[0] == 55


@pytest.mark.parametrize(
    ("raw", "protocol", "kind"),
    [
        (ipv4(packets.UDP, struct.pack("!HHHH", 4000, 123, 9, 0) + b"x"), packets.ICMP, (3, 3)),
        (ipv6(packets.UDP, struct.pack("!HHHH", 4000, 123, 9, 0) + b"x"), packets.ICMPV6, (1, 4)),
        (ipv4(packets.ICMP, struct.pack("!BBHHH", 8, 0, 0, 77, 1)), packets.ICMP, (3, 13)),
        (ipv6(packets.ICMPV6, struct.pack("!BBHHH", 128, 0, 0, 77, 1)), packets.ICMPV6, (1, 1)),
        (ipv4(132, struct.pack("!HHII", 4000, 5000, 0, 0)), packets.ICMP, (3, 13)),
    ],
)
def test_everything_else_is_unreachable(raw: bytes, protocol: int, kind: tuple[int, int]) -> None:
    packet = packets.parse(raw)
    assert packet.opens
    answer = packets.refuse(packet)
    assert answer is not None
    assert sums_up(answer, protocol=protocol)
    back = packets.parse(answer)
    assert (back.payload[0], back.payload[1]) == kind
    assert back.payload[8:] == raw
    assert packets.refuse(back) is None, "errors are not answered"


def test_what_kernels_say_by_themselves_is_no_attempt() -> None:
    assert not packets.parse(ipv6(packets.ICMPV6, struct.pack("!BBHI", 133, 0, 0, 0))).opens  # router solicitation
    assert not packets.parse(ipv4(2, bytes(8))).opens  # IGMP


def test_later_fragments_are_not_read() -> None:
    with pytest.raises(MalformedError):
        packets.parse(ipv4(packets.UDP, bytes(20), fragment=5))


def test_headers_between_are_skipped() -> None:
    options = struct.pack("!BB", packets.TCP, 0) + bytes(6)
    assert packets.parse(ipv6(60, options + syn())).destination_port == 443


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for reader in (packets.parse, packets.parse_question):
        try:
            found = reader(data)
        except MalformedError:
            continue
        if isinstance(found, packets.Packet):
            packets.refuse(found)


@given(st.sampled_from([4, 6]), st.integers(0, 255), st.binary(min_size=20, max_size=80))
def test_any_payload_behind_a_header_is_answered_or_not(version: int, protocol: int, payload: bytes) -> None:
    raw = ipv4(protocol, payload) if version == 4 else ipv6(protocol, payload)
    try:
        packet = packets.parse(raw)
    except MalformedError:
        return
    assert packet.opens in (True, False)
    answer = packets.refuse(packet)
    assert answer is None or len(answer) < 1300


def query(name: str, kind: int = packets.A) -> bytes:
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack("!HHHHHH", 0xABCD, 0x0100, 1, 0, 0, 0) + wire + struct.pack("!HH", kind, 1)


def test_a_question_is_read_and_answered() -> None:
    data = query("GitHub.com")
    question = packets.parse_question(data)
    assert (question.name, question.kind) == ("github.com", packets.A)
    answer = packets.dns_answer(question, code=packets.NO_ERROR, address=socket.inet_aton("198.18.1.0"))
    identifier, flags, questions, answers = struct.unpack_from("!HHHH", answer)
    assert (identifier, questions, answers) == (0xABCD, 1, 1)
    assert flags == 0x8180  # response, recursion desired and available, no error
    assert answer[12 : len(data)] == data[12:], "the question comes back as it was, in upper case, too"
    assert answer.endswith(socket.inet_aton("198.18.1.0"))
    refused = packets.dns_answer(question, code=packets.NAME_ERROR)
    assert struct.unpack_from("!HHHH", refused)[1:] == (0x8183, 1, 0)


def test_names_cannot_write_to_terminals_or_point_backwards() -> None:
    assert packets.parse_question(query("a\x1b[31m.b")).name == "a?[31m.b"
    with pytest.raises(MalformedError):
        packets.parse_question(struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1")
    with pytest.raises(MalformedError):
        packets.parse_question(query(".".join(["a" * 60] * 6)))
    with pytest.raises(MalformedError):
        packets.parse_question(b"\0\1\x80\0\0\1" + bytes(20))  # an answer, not a question
