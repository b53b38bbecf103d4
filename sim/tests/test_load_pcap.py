"""Captures: every variant of the file formats, lines arbitrated by sequence, and damage that never is a traceback."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.protocols import itch50, moldudp64
from tickpath.sim.sources.kernels import pcap as kernels
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.pcap import read_packets
from tickpath.sim.sources.tape import FINDINGS, DataFileError, Tape

T0 = 34_200_000_000_000
SESSION = b"000010059B"


def message(number: int) -> bytes:
    if number == 1:
        return itch50.stock_directory(1, T0, "AAPL")
    return itch50.add_order(1, T0 + number, number, "B", 100, "AAPL", 1_000_000)


def mold(first: int, count: int, session: bytes = SESSION) -> bytes:
    blocks = b"".join(itch50.frame(message(number)) for number in range(first, first + count))
    return moldudp64.pack_header(session, first, count) + blocks


def ethernet(
    payload: bytes,
    *,
    line: int = 1,
    tags: Sequence[int] = (),
    options: bytes = b"",
    fragment: int = 0,
    kind: int = 17,
) -> bytes:
    """A frame of UDP to 233.54.12.`line`:26477; `tags` are types of VLAN tags, `fragment` the field of that name."""
    udp = struct.pack(">HHHH", 4000, 26477, 8 + len(payload), 0) + payload
    words = 5 + len(options) // 4
    ip = struct.pack(">BBHHHBBH", 0x40 | words, 0, 4 * words + len(udp), 1, fragment, 64, kind, 0)
    ip += bytes([10, 0, 0, 1, 233, 54, 12, line]) + options
    frame = bytes(12) + b"".join(struct.pack(">HH", tag, 141) for tag in tags) + b"\x08\x00" + ip + udp
    return frame + bytes(max(0, 60 - len(frame)))  # padded, as Ethernet does


def pcap(frames: Sequence[bytes], order: str = "<", nanoseconds: bool = True, link: int = 1) -> bytes:
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for i, frame in enumerate(frames):
        out += struct.pack(order + "IIII", 1_700_000_000, i, len(frame), len(frame)) + frame
    return out


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str = "<", resolution: int | None = None, link: int = 1) -> bytes:
    options = b"" if resolution is None else struct.pack(order + "HHB3xHH", 9, 1, resolution, 0, 0)
    header = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    return header + block(order, 1, struct.pack(order + "HHI", link, 0, 65535) + options)


def enhanced(order: str, stamp: int, frame: bytes, interface: int = 0) -> bytes:
    head = struct.pack(order + "IIIII", interface, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame))
    return block(order, 6, head + frame)


def load(folder: Path, data: bytes, name: str = "a.pcap") -> Tape:
    (folder / name).write_bytes(data)
    tape = load_tape([folder / name])
    assert set(tape.findings) <= set(FINDINGS)
    return tape


def numbers(tape: Tape) -> list[int]:
    wanted = {message(number): number for number in range(1, 60)}
    return [wanted[tape.message(i)] for i in range(len(tape))]


@pytest.mark.parametrize("nanoseconds", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_resolutions_of_pcap(tmp_path: Path, order: str, nanoseconds: bool) -> None:
    data = pcap([ethernet(mold(1, 3)), ethernet(mold(4, 2))], order, nanoseconds)
    tape = load(tmp_path, data)
    assert numbers(tape) == [1, 2, 3, 4, 5]
    assert (tape.findings, tape.symbols, tape.counts) == ({}, {"AAPL": 1}, {"R": 1, "A": 4})
    packets, _ = read_packets(tmp_path / "a.pcap", np.frombuffer(data, np.uint8).copy())
    step = 1 if nanoseconds else 1000
    assert packets[:, kernels.TIME].tolist() == [1_700_000_000 * 10**9, 1_700_000_000 * 10**9 + step]


@pytest.mark.parametrize(
    ("resolution", "stamp"),
    [
        (None, 1_700_000_000_123_456),
        (6, 1_700_000_000_123_456),
        (9, 1_700_000_000_123_456_000),
        (3, 1_700_000_000_123),
        (0, 1_700_000_000),
        (128 + 10, 1_700_000_000 * 1024 + 512),
        (128 + 32, 1_700_000_000 << 32 | 1 << 31),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_times_have_the_resolution_of_their_interface(
    tmp_path: Path, order: str, resolution: int | None, stamp: int
) -> None:
    data = section(order, resolution) + enhanced(order, stamp, ethernet(mold(1, 1)))
    (tmp_path / "a.pcapng").write_bytes(data)
    packets, _ = read_packets(tmp_path / "a.pcapng", np.frombuffer(data, np.uint8).copy())
    scale = (
        2 ** (resolution - 128)
        if resolution and resolution > 127
        else 10 ** (6 if resolution is None else resolution)
    )
    assert packets[0, kernels.TIME] == stamp * 10**9 // scale
    assert numbers(load(tmp_path, data, "a.pcapng")) == [1]


def test_pcapng_sections_of_both_orders_several_interfaces_and_other_blocks(tmp_path: Path) -> None:
    frames = [ethernet(mold(k, 1)) for k in range(1, 6)]
    second = block("<", 1, struct.pack("<HHI", 101, 0, 65535))  # an interface of bare IP
    data = section("<", 9) + second + block("<", 5, bytes(20)) + enhanced("<", 1, frames[0])
    data += enhanced("<", 2, frames[1][14:], 1)
    data += section(">", 6) + block(">", 0x80000001, b"unknown") + enhanced(">", 3, frames[2])
    data += block(">", 3, struct.pack(">I", len(frames[3])) + frames[3])  # simple packet
    head = struct.pack(">HHIIII", 0, 0, 0, 4, len(frames[4]), len(frames[4]))
    data += block(">", 2, head + frames[4])  # the packet block of old
    assert numbers(load(tmp_path, data)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("tags", [(), (0x8100,), (0x88A8, 0x8100), (0x9100, 0x8100, 0x8100)])
def test_vlan_tags_and_ip_options_are_skipped(tmp_path: Path, tags: Sequence[int]) -> None:
    assert numbers(load(tmp_path, pcap([ethernet(mold(1, 2), tags=tags, options=bytes(8))]))) == [1, 2]


@pytest.mark.parametrize(
    ("link", "cooked"),
    [(113, bytes(14) + b"\x08\x00"), (276, b"\x08\x00" + bytes(18)), (101, b""), (12, b""), (228, b"")],
)
def test_cooked_captures_and_bare_ip(tmp_path: Path, link: int, cooked: bytes) -> None:
    assert numbers(load(tmp_path, pcap([cooked + ethernet(mold(1, 2))[14:]], link=link))) == [1, 2]


def test_two_lines_give_each_message_once_in_order_and_losses_of_both_are_gaps(tmp_path: Path) -> None:
    a = [(1, 2), (3, 2), (9, 1), (7, 2), (12, 2)]
    b = [(1, 1), (2, 2), (4, 2), (9, 2)]
    frames = [ethernet(mold(*packet), line=1) for packet in a] + [ethernet(mold(*packet), line=2) for packet in b]
    tape = load(tmp_path, pcap(frames))
    assert numbers(tape) == [1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13]
    assert tape.findings["repeated_messages"] == 5
    assert tape.findings["gaps"] == 2
    assert tape.findings["missing_messages"] == 2  # 6 and 11
    assert tape.findings["reordered_messages"] > 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.1, 0.4]))
def test_any_mix_of_lines_gives_the_messages_that_either_had(
    tmp_path_factory: pytest.TempPathFactory, seed: int, loss: float
) -> None:
    random, frames, there = Random(seed), [], set()
    for line in (1, 2):
        first = 1
        while first < 50:
            count = random.randrange(1, 6)
            if random.random() >= loss or first == 1:
                frames.append((first + random.randrange(6), ethernet(mold(first, count), line=line)))
                there |= set(range(first, first + count))
            first += count
    frames.sort(key=lambda pair: pair[0])
    tape = load(tmp_path_factory.getbasetemp(), pcap([frame for _, frame in frames]))
    assert numbers(tape) == sorted(there)
    assert tape.findings.get("missing_messages", 0) == max(there) - len(there)
    assert (np.diff(tape.time_ns) >= 0).all()


def test_heartbeats_and_the_end_of_session_tell_of_losses_at_the_end(tmp_path: Path) -> None:
    frames = [ethernet(moldudp64.pack_header(SESSION, 1, 0)), ethernet(mold(1, 3))]
    assert load(tmp_path, pcap([*frames, ethernet(moldudp64.pack_header(SESSION, 4, 0xFFFF))])).findings == {}
    tape = load(tmp_path, pcap([*frames, ethernet(moldudp64.pack_header(SESSION, 6, 0xFFFF))]))
    assert tape.findings == {"gaps": 1, "missing_messages": 2}
    tape = load(tmp_path, pcap([*frames, ethernet(moldudp64.pack_header(b"OTHER     ", 60, 0))]))
    assert tape.findings == {}


def test_what_is_not_the_session_is_counted_and_left_out(tmp_path: Path) -> None:
    frames = [
        ethernet(mold(1, 2)),
        ethernet(mold(3, 1), fragment=0x2000),
        ethernet(mold(3, 1), fragment=0x0001),
        ethernet(mold(3, 1), kind=6),
        ethernet(b"some other protocol over UDP"),
        ethernet(mold(3, 1) + b"trailing"),
        ethernet(mold(3, 2)[:-1]),
        bytes(12) + b"\x86\xdd" + bytes(60),
        b"short",
        ethernet(mold(3, 1)),
    ]
    tape = load(tmp_path, pcap(frames))
    assert numbers(tape) == [1, 2, 3]
    assert tape.findings == {"fragments": 2, "other_packets": 6}


def test_packets_that_were_not_captured_whole_are_counted(tmp_path: Path) -> None:
    data = pcap([ethernet(mold(1, 2)), ethernet(mold(3, 2))[:80], ethernet(mold(3, 1))])
    tape = load(tmp_path, data)
    assert numbers(tape) == [1, 2, 3]
    assert tape.findings == {"cut_short_packets": 1}


def test_short_and_empty_messages_are_counted_and_unknown_types_kept(tmp_path: Path) -> None:
    odd = [b"", b"A" * 12, b"z" + message(1)[1:20], message(2) + b"new field"]
    packet = moldudp64.pack_header(SESSION, 1, 4) + b"".join(itch50.frame(one) for one in odd)
    tape = load(tmp_path, pcap([ethernet(packet)]))
    assert [tape.message(i) for i in range(len(tape))] == odd[2:]
    assert tape.findings == {"short_messages": 2, "unknown_types": 1}


def test_packets_that_all_have_the_number_0_are_played_as_they_came(tmp_path: Path) -> None:
    packets = [moldudp64.pack_header(bytes(10), 0, 1) + itch50.frame(message(k)) for k in (3, 1, 2)]
    tape = load(tmp_path, pcap([ethernet(packet) for packet in packets]))
    assert numbers(tape) == [3, 1, 2]
    assert tape.findings == {"unnumbered_messages": 3, "times_back": 1}


def test_several_sessions_are_refused_and_named(tmp_path: Path) -> None:
    data = pcap([ethernet(mold(1, 1)), ethernet(mold(1, 1, b"SESSION002")), ethernet(mold(2, 1))])
    with pytest.raises(
        DataFileError, match=r"2 sessions of MoldUDP64 in it: '000010059B' \(2 packets\), 'SESSION002'"
    ):
        load(tmp_path, data)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (pcap([]), "no message of MoldUDP64 in it: it has 0 packets, none of UDP on IPv4; allowed"),
        (pcap([ethernet(b"x" * 40)]), r"it has 1 packets, 1 of UDP to 233\.54\.12\.1:26477; allowed"),
        (pcap([ethernet(mold(1, 1))], link=147), "it has 1 packets, none of UDP"),
        (pcap([])[:23], "truncated: a pcap file begins with 24 bytes, it has 23"),
        (section()[:40], "no message of MoldUDP64"),
        (b"\x0a\x0d\x0d\x0a" + bytes(24), "the block at byte 0 of the capture is damaged"),
        (section() + struct.pack("<II", 6, 7) + bytes(20), "the block at byte 48 of the capture is damaged"),
        (section() + enhanced("<", 1, ethernet(mold(1, 1)), 1), "the block at byte 48 of the capture is damaged"),
        (
            pcap([ethernet(moldudp64.pack_header(SESSION, 1, 1) + b"\x00\x0c" + b"?" * 12)]),
            r"are not ITCH 5\.0; allowed",
        ),
    ],
)
def test_what_is_no_such_capture_is_refused_with_what_is_in_it(tmp_path: Path, data: bytes, complaint: str) -> None:
    with pytest.raises(DataFileError, match=complaint):
        load(tmp_path, data)


@pytest.mark.parametrize("cut", [1, 10, 60, 110])
def test_a_capture_that_is_cut_off_plays_what_is_whole(tmp_path: Path, cut: int) -> None:
    frames = [ethernet(mold(k, 1)) for k in range(1, 4)]
    ng = section() + b"".join(enhanced("<", 1, frame) for frame in frames)
    for data in (pcap(frames), ng):
        tape = load(tmp_path, data[:-cut])
        assert numbers(tape) == [1, 2]
        assert tape.findings == {"capture_cut_off": 1}


@pytest.mark.parametrize("compress", [zstandard.ZstdCompressor().compress, gzip.compress])
def test_compressed_captures_load_whatever_their_name(tmp_path: Path, compress: object) -> None:
    data = pcap([ethernet(mold(1, 3))])
    assert numbers(load(tmp_path, compress(data), "a.dat")) == [1, 2, 3]  # type: ignore[operator]


@settings(max_examples=150, deadline=None)
@given(
    which=st.booleans(),
    flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    cut=st.integers(30, 2000),
)
def test_damaged_captures_load_or_are_refused_and_never_read_outside(
    tmp_path_factory: pytest.TempPathFactory, which: bool, flips: list[tuple[int, int]], cut: int
) -> None:
    frames = [ethernet(mold(k, 2), tags=(0x8100,)) for k in range(1, 8, 2)]
    ng = section("<", 9) + b"".join(enhanced("<", k, frame) for k, frame in enumerate(frames))
    data = bytearray((ng if which else pcap(frames))[:cut])
    for at, byte in flips:
        if 4 <= at < len(data):
            data[at] = byte
    try:
        tape = load(tmp_path_factory.getbasetemp(), bytes(data))
    except DataFileError as error:
        assert "allowed" in str(error)
    else:
        assert (np.diff(tape.time_ns) >= 0).all()
        assert tape.offsets[-1] == len(tape.data)
