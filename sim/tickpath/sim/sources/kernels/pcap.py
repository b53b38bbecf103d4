"""Walking over captures: packets of pcap and pcapng files, UDP in their frames, the messages of MoldUDP64.

Arrays of all kernels here: ``data`` uint8[bytes], the capture; ``packets`` int64[n, PACKET_COLUMNS]. Layouts: pcap
and pcapng from their IETF drafts, IPv4 RFC 791, UDP RFC 768, VLAN tags IEEE 802.1Q; MoldUDP64 as in
`tickpath.common.protocols.moldudp64`.
"""

from __future__ import annotations

import numba

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.itch import be16, be32, be64, check_packet
from tickpath.common.protocols.moldudp64 import END_OF_SESSION, HEADER_SIZE, OFF_COUNT, OFF_SEQUENCE

# Columns of packets. Of each: its capture time (ns since 1970, -1 unknown), its bytes, those it had on the wire, its
# link type; then of each that carries UDP: the payload's bytes, destination address and port; and its kind.
TIME, AT, SIZE, WIRE_SIZE, LINK, PAYLOAD_AT, PAYLOAD_SIZE, ADDRESS, PORT, KIND = range(10)
PACKET_COLUMNS = 10

# Faults of `walk_pcap` and `walk_pcapng`: the capture ends inside a record; a record contradicts itself.
OK, CUT_OFF, DAMAGED = range(3)

# Kinds of packets: no IPv4 UDP; a fragment of a datagram; not all of it captured; UDP of anything; MoldUDP64 without
# messages (heartbeat, end of session); with messages.
NOT_UDP, FRAGMENT, CUT_SHORT, NOT_MOLD, HEARTBEAT, MESSAGES = range(6)

#: Rows of the `interfaces` of `walk_pcapng`.
N_INTERFACES = 256

_HEADER_BLOCK, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_BYTE_ORDER = 0x1A2B3C4D
_TSRESOL = 9
_ETHERNET, _RAW_BSD, _RAW, _LINUX_SLL, _IPV4, _LINUX_SLL2 = 1, 12, 101, 113, 228, 276
_TYPE_IPV4 = 0x0800
_MAX_TAGS = 8
_UDP = 17
_NS_PER_S = 1_000_000_000
_ITCH_HEADER_SIZE = 11


@inlined
def _byte(data, at):
    return numba.int64(data[at])


@inlined
def _u16(data, at, little):
    return _byte(data, at + 1) << 8 | _byte(data, at) if little else be16(data, at)


@inlined
def _u32(data, at, little):
    return _u16(data, at + 2, 1) << 16 | _u16(data, at, 1) if little else be32(data, at)


@inlined
def _note(packets, n, time_ns, at, size, wire_size, link):
    if n < len(packets):
        packets[n, TIME] = time_ns
        packets[n, AT] = at
        packets[n, SIZE] = size
        packets[n, WIRE_SIZE] = wire_size
        packets[n, LINK] = link
    return n + 1


@kernel("int64(uint8[::1], int64, int64, int64, int64[:,::1], int64[::1])")
def walk_pcap(data, little, ns_per_unit, link, packets, found):
    """Note all packets of a pcap file, as many as there is room for; returns how many there are.

    `little`: 1 if it is little-endian. `ns_per_unit`: 1000 or 1, by the file's magic. `found` int64[2]: OK or
    CUT_OFF, and the byte where.
    """
    end = len(data)
    at = 24
    n = 0
    found[0] = OK
    while at < end:
        found[1] = at
        size = _u32(data, at + 8, little) if at + 16 <= end else 0
        if at + 16 + size > end:
            found[0] = CUT_OFF
            return n
        time_ns = _u32(data, at, little) * _NS_PER_S + _u32(data, at + 4, little) * ns_per_unit
        n = _note(packets, n, time_ns, at + 16, size, _u32(data, at + 12, little), link)
        at += 16 + size
    return n


@inlined
def _resolution(data, at, end, little):
    """if_tsresol among the options ``data[at:end]`` of an interface: decimals, or 128 + binary digits."""
    while at + 4 <= end:
        code, size = _u16(data, at, little), _u16(data, at + 2, little)
        if code == 0 or at + 4 + size > end:
            break
        if code == _TSRESOL and size == 1:
            return _byte(data, at + 4)
        at += 4 + (size + 3 & ~3)
    return 6


@inlined
def _nanoseconds(high, low, resolution):
    """A time stamp of two 32-bit halves in ns."""
    stamp = high << 32 | low
    digits = resolution & 127
    if resolution & 128:
        if digits > 32:
            stamp >>= min(digits - 32, 63)
            digits = 32
        return (stamp >> digits) * _NS_PER_S + ((stamp & (1 << digits) - 1) * _NS_PER_S >> digits)
    while digits < 9:
        stamp *= 10
        digits += 1
    while digits > 9:
        stamp //= 10
        digits -= 1
    return stamp


@kernel("int64(uint8[::1], int64[:,::1], int64[:,::1], int64[::1])")
def walk_pcapng(data, interfaces, packets, found):
    """Note all packets of a pcapng file, as many as there is room for; returns how many there are.

    Sections may differ in byte order; blocks of other kinds are skipped. `interfaces` int64[N_INTERFACES, 2] is
    room for the link type and resolution of each. `found` int64[2]: OK, CUT_OFF or DAMAGED, and the byte where.
    """
    end = len(data)
    at = 0
    n = 0
    little = 1
    n_interfaces = 0
    found[0] = OK
    while at < end:
        found[1] = at
        if at + 12 > end:
            found[0] = CUT_OFF
            return n
        kind = _u32(data, at, little)
        if be32(data, at) == _HEADER_BLOCK:  # reads the same in both orders
            kind = _HEADER_BLOCK
            n_interfaces = 0
            little = 1 if _u32(data, at + 8, 1) == _BYTE_ORDER else 0
            if not little and be32(data, at + 8) != _BYTE_ORDER:
                found[0] = DAMAGED
                return n
        size = _u32(data, at + 4, little)
        if size < 12 or size & 3:
            found[0] = DAMAGED
            return n
        if at + size > end:
            found[0] = CUT_OFF
            return n
        body, last = at + 8, at + size - 4
        if kind == _INTERFACE and body + 8 <= last:
            if n_interfaces < N_INTERFACES:
                interfaces[n_interfaces, 0] = _u16(data, body, little)
                interfaces[n_interfaces, 1] = _resolution(data, body + 8, last, little)
            n_interfaces += 1
        elif kind == _SIMPLE_PACKET and body + 4 <= last and n_interfaces > 0:
            wire_size = _u32(data, body, little)
            n = _note(packets, n, -1, body + 4, min(wire_size, last - body - 4), wire_size, interfaces[0, 0])
        elif (kind == _PACKET or kind == _OLD_PACKET) and body + 20 <= last:  # noqa: PLR1714, SIM109
            interface = _u32(data, body, little) if kind == _PACKET else _u16(data, body, little)
            captured = _u32(data, body + 12, little)
            if interface >= min(n_interfaces, N_INTERFACES) or body + 20 + captured > last:
                found[0] = DAMAGED
                return n
            time_ns = _nanoseconds(
                _u32(data, body + 4, little), _u32(data, body + 8, little), interfaces[interface, 1]
            )
            n = _note(
                packets, n, time_ns, body + 20, captured, _u32(data, body + 16, little), interfaces[interface, 0]
            )
        at += size
    return n


@inlined
def _network_layer(data, at, end, link):
    """Byte at which the IPv4 header of a frame begins, -1 if it has none."""
    if link == _RAW or link == _RAW_BSD or link == _IPV4:  # noqa: PLR1714, SIM109
        return at
    kind_at = at + 12 if link == _ETHERNET else at + 14 if link == _LINUX_SLL else at
    begin = at + 20 if link == _LINUX_SLL2 else kind_at + 2
    if link != _ETHERNET and link != _LINUX_SLL and link != _LINUX_SLL2:  # noqa: PLR1714
        return -1
    if begin > end:
        return -1
    kind = be16(data, kind_at)
    for _ in range(_MAX_TAGS):
        # 802.1Q, 802.1ad and what stood for it before
        if (kind != 0x8100 and kind != 0x88A8 and kind != 0x9100) or begin + 4 > end:  # noqa: PLR1714
            break
        kind = be16(data, begin + 2)
        begin += 4
    return begin if kind == _TYPE_IPV4 else -1


@inlined
def _mold_kind(data, at, size):
    """Whether a datagram is MoldUDP64: its blocks fill it exactly."""
    count = check_packet(data, at, size)
    if count < 0:
        return NOT_MOLD
    sequence = be64(data, at + OFF_SEQUENCE)
    if sequence < 0 or sequence > 1 << 62:
        return NOT_MOLD
    if count == 0 or count == END_OF_SESSION:  # noqa: PLR1714
        return HEARTBEAT if size == HEADER_SIZE else NOT_MOLD
    cursor = at + HEADER_SIZE
    for _ in range(count):
        cursor += 2 + be16(data, cursor)
    return MESSAGES if cursor == at + size else NOT_MOLD


@kernel("void(uint8[::1], int64[:,::1])")
def classify(data, packets):
    """Fill the columns from PAYLOAD_AT on; -1 and 0 where a packet carries no UDP that was captured whole."""
    for i in range(len(packets)):
        packet = packets[i]
        packet[PAYLOAD_AT], packet[PAYLOAD_SIZE], packet[ADDRESS], packet[PORT] = -1, 0, 0, 0
        packet[KIND] = NOT_UDP
        end = packet[AT] + packet[SIZE]
        at = _network_layer(data, packet[AT], end, packet[LINK])
        if at < 0 or at + 20 > end or _byte(data, at) >> 4 != 4 or _byte(data, at + 9) != _UDP:
            continue
        udp = at + 4 * (_byte(data, at) & 15)
        if be16(data, at + 6) & 0x3FFF:  # more fragments follow, or this is not the first
            packet[KIND] = FRAGMENT
            continue
        if udp < at + 20 or udp + 8 > end:
            packet[KIND] = CUT_SHORT
            continue
        size = be16(data, udp + 4)
        packet[ADDRESS], packet[PORT] = be32(data, at + 16), be16(data, udp + 2)
        if size < 8:
            continue
        if udp + size > end:
            packet[KIND] = CUT_SHORT
            continue
        packet[PAYLOAD_AT], packet[PAYLOAD_SIZE] = udp + 8, size - 8
        packet[KIND] = _mold_kind(data, udp + 8, size - 8)


@kernel("int64(uint8[::1], int64[:,::1], int64[::1], int64[::1])")
def messages(data, packets, numbers, starts):
    """The number and first byte (of its length) of every message of `packets`, all of the kind MESSAGES.

    Fills `numbers` and `starts`, as far as they go; returns how many messages there are, copies included.
    """
    n = 0
    for i in range(len(packets)):
        at = packets[i, PAYLOAD_AT]
        sequence = be64(data, at + OFF_SEQUENCE)
        count = be16(data, at + OFF_COUNT)
        at += HEADER_SIZE
        for k in range(count):
            if n < len(numbers):
                numbers[n] = sequence + k
                starts[n] = at
            n += 1
            at += 2 + be16(data, at)
    return n


@kernel("int64(uint8[::1], int64[::1], int64[::1], uint8[::1])")
def collect(data, starts, sizes, out):
    """Copy messages with their lengths, back to back, to `out`; returns how many bytes.

    `starts` int64[n]: where each begins; `sizes` int64[256]: of a message by type. Those shorter than their type, or
    than the header that all have, are left out: ``starts`` is -1 there afterwards.
    """
    filled = 0
    for i in range(len(starts)):
        at = starts[i]
        size = be16(data, at)
        if size < _ITCH_HEADER_SIZE or size < sizes[data[at + 2]]:
            starts[i] = -1
            continue
        for k in range(2 + size):
            out[filled + k] = data[at + k]
        filled += 2 + size
    return filled
