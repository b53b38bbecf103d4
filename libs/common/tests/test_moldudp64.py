"""MoldUDP64: the sheet's examples, packing and walking, and datagrams of any bytes, in Python and in the kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickpath.common.kernels.itch import check_packet
from tickpath.common.protocols import moldudp64 as mold
from tickpath.common.protocols.wire import LocalProtocolError, RemoteProtocolError

SESSION = b"SESSION001"
HEARTBEAT = bytes.fromhex("53455353494f4e303031 0000000000000009 0000")
REQUEST = bytes.fromhex("53455353494f4e303031 0000000000000009 0003")
ONE_MESSAGE = bytes.fromhex("53455353494f4e303031 0000000000000001 0001 000c 53 0000 0000 1f1aced9f07b 51")


def kernel_check(data):
    """The kernel's verdict on a packet that lies in the middle of other bytes."""
    buf = np.frombuffer(b"\xff" * 7 + data + b"\xff" * 64, dtype=np.uint8).copy()
    return check_packet(buf, 7, len(data))


def test_examples_of_the_sheet():
    """Heartbeat, request and a packet with one message, byte for byte."""
    assert mold.heartbeat(SESSION, 9) == HEARTBEAT
    assert mold.request(SESSION, 9, 3) == REQUEST
    assert mold.parse_request(REQUEST) == (SESSION, 9, 3)
    header, messages = mold.unpack(ONE_MESSAGE)
    assert (header, header.next_sequence) == ((SESSION, 1, 1), 2)
    assert [bytes(m) for m in messages] == [ONE_MESSAGE[22:]]
    packer = mold.MoldPacker(SESSION)
    assert packer.append(ONE_MESSAGE[22:])
    assert packer.packet() == ONE_MESSAGE


def test_heartbeat_and_end_of_session_carry_the_next_number_and_no_blocks():
    """Whatever follows the header of an end of session is not read as 65,535 blocks."""
    for packet, count in ((mold.heartbeat(SESSION, 5), 0), (mold.end_of_session(SESSION, 5), 0xFFFF)):
        header, messages = mold.unpack(packet + b"\0\1")
        assert (header.sequence, header.n_messages, header.next_sequence, messages) == (5, count, 5, [])
        assert kernel_check(packet) == count


@given(st.lists(st.binary(max_size=60), max_size=60), st.integers(1, 2**40), st.integers(82, 400))
def test_packed_messages_come_out_in_order_with_their_numbers(messages, first, max_packet):
    """The packer's packets hold every message once, none larger than allowed, numbered without a gap."""
    packer = mold.MoldPacker(SESSION, first, max_packet)
    packets = []
    for message in messages:
        if not packer.append(message):
            packets.append(bytes(packer.packet()))
            packer.clear()
            assert packer.append(message)
    packets.append(bytes(packer.packet()))
    out, expected = [], first
    for packet in packets:
        assert len(packet) <= max_packet
        header, blocks = mold.unpack(packet)
        assert header.sequence == expected
        assert kernel_check(packet) == header.n_messages == len(blocks)
        out += [bytes(block) for block in blocks]
        expected = header.next_sequence
    assert out == messages
    assert packer.next_sequence == expected


@given(
    st.binary(max_size=80)
    | st.builds(lambda n, body: mold.pack_header(SESSION, 1, n) + body, st.integers(0, 6), st.binary(max_size=40))
)
def test_a_packet_is_malformed_as_a_whole_or_not_at_all(data):
    """Any bytes: Python and the kernel agree, and the only exception is the peer's fault."""
    try:
        header, blocks = mold.unpack(data)
    except RemoteProtocolError:
        assert kernel_check(data) == -1
    else:
        assert kernel_check(data) == header.n_messages
        assert len(blocks) == (0 if header.n_messages == 0xFFFF else header.n_messages)
        assert 20 + sum(2 + len(block) for block in blocks) <= len(data)


@pytest.mark.parametrize("size", [0, 19, 21])
def test_a_request_of_another_size_is_refused(size):
    """The sheet: nothing is answered for a packet of another size."""
    with pytest.raises(RemoteProtocolError):
        mold.parse_request((REQUEST + b"x")[:size])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: mold.pack_header(b"SHORT", 1, 0),
        lambda: mold.pack_header(SESSION, -1, 0),
        lambda: mold.pack_header(SESSION, 1, 65536),
        lambda: mold.session_id("ELEVENBYTES"),
        lambda: mold.MoldPacker(b"SHORT"),
        lambda: mold.MoldPacker(SESSION, max_packet=21),
        lambda: mold.MoldPacker(SESSION, max_packet=40).append(bytes(19)),
    ],
)
def test_what_cannot_be_sent_is_our_own_fault(wrong):
    """Sessions, numbers and messages that do not fit raise LocalProtocolError."""
    with pytest.raises(LocalProtocolError):
        wrong()


def test_a_refused_message_leaves_the_packet_as_it_was():
    """append says False, and the packet can still be sent."""
    packer = mold.MoldPacker(SESSION, max_packet=40)
    assert packer.append(b"0123456789")
    before = bytes(packer.packet())
    assert not packer.append(b"0123456789")
    assert packer.packet() == before
    assert mold.session_id("ABC") == b"ABC       "
