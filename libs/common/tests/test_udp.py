"""UDP for market data: sockets that open or say why not, and batches received into memory of our own."""

from __future__ import annotations

import errno
import select
import socket

import pytest

from tickpath.common.kernels.net import DatagramReceiver
from tickpath.common.udp import UdpError, open_udp_socket


@pytest.fixture
def receiving():
    """A unicast receiver's socket on a free port, and a sender connected to it."""
    udp, _ = open_udp_socket("127.0.0.1", 0, 1 << 20)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(udp.getsockname())
    with udp, sender:
        yield udp, sender


def receive_all(receiver, udp, count):
    """Receive until `count` datagrams have come; their lengths and bytes."""
    got = []
    while len(got) < count:
        assert select.select([udp], [], [], 5)[0], f"only {len(got)} of {count} datagrams came"
        n = receiver.receive()
        assert 0 < n <= receiver.batch
        got += [(int(receiver.lengths[i]), receiver.buffer[i].tobytes()) for i in range(n)]
    return got


def test_datagrams_arrive_in_order_with_their_lengths(receiving):
    """More than a batch, of all sizes, the empty one included; then nothing is 0."""
    udp, sender = receiving
    receiver = DatagramReceiver(udp.fileno(), 4, 64)
    assert receiver.receive() == 0
    sent = [bytes([i]) * (7 * i % 65) for i in range(11)]
    for datagram in sent:
        sender.send(datagram)
    got = receive_all(receiver, udp, len(sent))
    assert [data[:length] for length, data in got] == sent
    assert receiver.receive() == 0
    assert [receiver.flat[64 * i] for i in range(receiver.batch)] == receiver.buffer[:, 0].tolist()


def test_datagram_larger_than_its_slot_is_marked_as_cut_off(receiving):
    """A negative length: what is there is not the whole."""
    udp, sender = receiving
    receiver = DatagramReceiver(udp.fileno(), 4, 10)
    for size in (9, 10, 11):
        sender.send(bytes(range(size)))
    got = receive_all(receiver, udp, 3)
    assert [length for length, _ in got] == [9, 10, -10]
    assert got[2][1] == bytes(range(10))


def test_error_of_the_socket_is_a_negative_errno(receiving):
    """A closed descriptor is no endless silence."""
    udp, _ = receiving
    receiver = DatagramReceiver(udp.fileno(), 1, 64)
    udp.close()
    assert receiver.receive() == -errno.EBADF


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_receiver_without_slots_is_refused(sizes):
    """Both sizes must be at least 1."""
    with pytest.raises(ValueError, match="at least 1"):
        DatagramReceiver(0, *sizes)


def test_buffer_size_is_what_the_kernel_states():
    """Twice what was asked for, or less where the limits of the host cap it; never made up."""
    udp, size = open_udp_socket("127.0.0.1", 0, 1 << 16)
    with udp:
        assert size == udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert 0 < size <= 1 << 17
        assert not udp.getblocking()


def test_multicast_group_is_joined_by_several_listeners():
    """One datagram to the group on loopback reaches every one of them."""
    group = "239.255.77.1"
    first, _ = open_udp_socket(group, 0, 1 << 16, interface="127.0.0.1")
    port = first.getsockname()[1]
    second, _ = open_udp_socket(group, port, 1 << 16, interface="lo")
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with first, second, sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.sendto(b"tick", (group, port))
        for udp in (first, second):
            receiver = DatagramReceiver(udp.fileno(), 1, 64)
            assert receive_all(receiver, udp, 1)[0][1][:4] == b"tick"


def test_port_in_use_is_said_clearly(receiving):
    """What, where, and what to do; with the errno for programs."""
    udp, _ = receiving
    port = udp.getsockname()[1]
    with pytest.raises(UdpError, match=rf"UDP 127.0.0.1:{port}: the port is in use") as caught:
        open_udp_socket("127.0.0.1", port, 1 << 16)
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("192.0.2.1", 26400, 1 << 16), "this host has no such address"),
        (("no-such-host.invalid", 26400, 1 << 16), "does not resolve"),
        (("x" * 300, 26400, 1 << 16), "does not resolve"),
        (("127.0.0.1", 65536, 1 << 16), "port must be 0 to 65535"),
        (("127.0.0.1", 0, 0), "at least 1 byte"),
        (("239.255.77.1", 0, 1 << 16, "nosuch0"), "no interface 'nosuch0'; this host has .*lo"),
        (("239.255.77.1", 0, 1 << 16, "192.0.2.1"), "cannot join the group on 192.0.2.1"),
    ],
)
def test_what_cannot_be_opened_is_said_clearly(arguments, text):
    """A foreign address, an unknown host, an unknown interface, numbers out of range."""
    with pytest.raises(UdpError, match=text):
        open_udp_socket(*arguments)
