"""Captures (pcap, pcapng) of MoldUDP64: each message of the session once, in the order of its number.

| what | is read |
| --- | --- |
| file | pcap in both byte orders, micro- and nanoseconds; pcapng with any number of sections and interfaces |
| frames | Ethernet with any number of VLAN tags, Linux cooked captures, bare IPv4 |
| packets | IPv4 (with options) and UDP |
| datagrams | MoldUDP64 of one session, on any number of lines |

Fragments, packets that were not captured whole and packets of other kinds are counted and left out.

The first copy of a message counts, whichever line brought it, and messages that came late are put where they belong.
What no line brought is missing, and counted. When every packet has the number 0 (edited captures), there is nothing
to go by: the messages stay as they came, copies and all.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tickpath.common.protocols.itch50 import SIZES
from tickpath.common.protocols.moldudp64 import OFF_SEQUENCE, SESSION_SIZE
from tickpath.sim.sources.kernels import pcap as kernels
from tickpath.sim.sources.tape import Bytes, DataFileError, Ints

_SIZES: Final = np.array(SIZES, np.int64)
#: The first four bytes of a pcap file: (little-endian, ns per unit of the fraction).
_PCAP: Final = {
    b"\xa1\xb2\xc3\xd4": (0, 1000),
    b"\xd4\xc3\xb2\xa1": (1, 1000),
    b"\xa1\xb2\x3c\x4d": (0, 1),
    b"\x4d\x3c\xb2\xa1": (1, 1),
}
_PCAPNG: Final = b"\x0a\x0d\x0d\x0a"
_PCAP_HEADER_SIZE: Final = 24
_ALLOWED: Final = (
    "allowed: a pcap or pcapng capture with one session of MoldUDP64 that carries ITCH 5.0, over UDP on IPv4, on one"
    " line or on several; or of CME MDP 3.0"
)
_MOST_NAMED: Final = 8


def read_packets(path: Path, data: Bytes) -> tuple[Ints, dict[str, int]]:
    """All packets of a capture, int64[n, PACKET_COLUMNS] (see `kernels.pcap`), and findings. Raises DataFileError."""
    magic = data[:4].tobytes()
    found = np.zeros(2, np.int64)
    packets = np.empty((0, kernels.PACKET_COLUMNS), np.int64)
    if magic != _PCAPNG and len(data) < _PCAP_HEADER_SIZE:
        msg = (
            f"{path}: the capture is truncated: a pcap file begins with {_PCAP_HEADER_SIZE} bytes, it has {len(data)}"
        )
        raise DataFileError(msg)
    while True:
        if magic == _PCAPNG:
            n = kernels.walk_pcapng(data, np.empty((kernels.N_INTERFACES, 2), np.int64), packets, found)
        else:
            little, ns_per_unit = _PCAP[magic]
            header = data[20:24].tobytes()
            link = int.from_bytes(header, "little" if little else "big") & 0xFFFF
            n = kernels.walk_pcap(data, little, ns_per_unit, link, packets, found)
        if n <= len(packets):
            break
        packets = np.empty((n, kernels.PACKET_COLUMNS), np.int64)
    fault, byte = (int(value) for value in found)
    if fault == kernels.DAMAGED:
        msg = f"{path}: the block at byte {byte} of the capture is damaged; {_ALLOWED}"
        raise DataFileError(msg)
    kernels.classify(data, packets)
    kinds = packets[:, kernels.KIND]
    return packets, {
        "capture_cut_off": int(fault == kernels.CUT_OFF),
        "fragments": int((kinds == kernels.FRAGMENT).sum()),
        "cut_short_packets": int((kinds == kernels.CUT_SHORT).sum()),
        "other_packets": int(((kinds == kernels.NOT_UDP) | (kinds == kernels.NOT_MOLD)).sum()),
    }


def has_messages(packets: Ints) -> bool:
    """Whether there is a message of MoldUDP64 in a capture."""
    return bool((packets[:, kernels.KIND] == kernels.MESSAGES).any())


def read_capture(path: Path, data: Bytes, packets: Ints, findings: dict[str, int]) -> tuple[Bytes, dict[str, int]]:
    """The ITCH messages of a capture, each behind its u16 length, and findings; of what `read_packets` has read.

    Raises DataFileError.
    """
    kinds = packets[:, kernels.KIND]
    mold = packets[kinds == kernels.MESSAGES]
    if not len(mold):
        msg = f"{path}: there is no message of MoldUDP64 in it: {_contents(packets, findings)}; {_ALLOWED}"
        raise DataFileError(msg)
    sessions, counts = np.unique(_sessions(data, mold), return_counts=True)
    if len(sessions) > 1:
        named = list(zip(sessions, counts, strict=True))[:_MOST_NAMED]
        names = ", ".join(f"{name.decode('latin-1')!r} ({n} packets)" for name, n in named)
        msg = f"{path}: there are {len(sessions)} sessions of MoldUDP64 in it: {names}; {_ALLOWED}"
        raise DataFileError(msg)
    n = kernels.messages(data, mold, np.empty(0, np.int64), np.empty(0, np.int64))
    numbers, starts = np.empty(n, np.int64), np.empty(n, np.int64)
    kernels.messages(data, mold, numbers, starts)
    if _sequences(data, mold).any():
        idle = packets[kinds == kernels.HEARTBEAT]
        announced = _sequences(data, idle[_sessions(data, idle) == sessions[0]])
        starts = _in_order(numbers, starts, announced, findings)
    else:
        findings["unnumbered_messages"] = n
    lengths = data[starts].astype(np.int64) << 8 | data[starts + 1]
    out = np.empty(int((lengths + 2).sum()), np.uint8)
    size = kernels.collect(data, starts, _SIZES, out)
    findings["short_messages"] = int((starts < 0).sum())
    if not _SIZES[data[starts[starts >= 0] + 2]].any():
        msg = f"{path}: the messages in its MoldUDP64 packets are not ITCH 5.0; {_ALLOWED}"
        raise DataFileError(msg)
    return out[:size], findings


def _in_order(numbers: Ints, starts: Ints, next_numbers: Ints, findings: dict[str, int]) -> Ints:
    """`starts` of the first copy of each number, in their order. `next_numbers`: those that heartbeats announce."""
    order = np.argsort(numbers, kind="stable")  # of copies, the first stays first
    ordered = numbers[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    arrival, ordered = order[is_first], ordered[is_first]
    steps = np.diff(np.append(ordered, max(int(next_numbers.max(initial=0)), int(ordered[-1]) + 1)))
    findings["repeated_messages"] = len(numbers) - len(ordered)
    findings["reordered_messages"] = int((arrival < np.maximum.accumulate(arrival)).sum())
    findings["gaps"] = int((steps > 1).sum())
    findings["missing_messages"] = int((steps - 1).sum())
    kept: Ints = starts[arrival]
    return kept


def _sessions(data: Bytes, packets: Ints) -> npt.NDArray[np.bytes_]:
    at = packets[:, kernels.PAYLOAD_AT]
    names = np.ascontiguousarray(data[at[:, None] + np.arange(SESSION_SIZE)])
    sessions: npt.NDArray[np.bytes_] = names.view(f"S{SESSION_SIZE}")[:, 0]
    return sessions


def _sequences(data: Bytes, packets: Ints) -> Ints:
    at = packets[:, kernels.PAYLOAD_AT] + OFF_SEQUENCE
    numbers = data[at[:, None] + np.arange(8)]
    sequences: Ints = np.ascontiguousarray(numbers).view(">i8")[:, 0].astype(np.int64)
    return sequences


def line_name(address: int, port: int) -> str:
    """``224.0.31.11:14320`` of the two numbers."""
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}:{port}"


def _contents(packets: Ints, findings: dict[str, int]) -> str:
    """What a capture holds, for people."""
    udp = packets[packets[:, kernels.PAYLOAD_AT] >= 0]
    lines = Counter(line_name(*row) for row in udp[:, [kernels.ADDRESS, kernels.PORT]].tolist())
    named = ", ".join(f"{n} of UDP to {line}" for line, n in lines.most_common(_MOST_NAMED))
    text = f"it has {len(packets)} packets" + (f", {named}" if named else ", none of UDP on IPv4")
    if len(lines) > _MOST_NAMED:
        text += f" and {len(lines) - _MOST_NAMED} more lines"
    counted = {"fragments": "fragments", "cut_short_packets": "not captured whole"}
    return text + "".join(f", {findings[key]} {what}" for key, what in counted.items() if findings[key])
