"""MoldUDP64 1.00: numbered messages in UDP datagrams, and the request to have them again.

A packet is a header of 20 bytes (session 10 ASCII, sequence number u64 of the first message, message count u16) and
that many blocks, each a u16 length and the message; all numbers big-endian. A count of 0 is a heartbeat, 0xFFFF the
end of the session: both carry the next number and no blocks. No sockets here.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from tickpath.common.protocols.wire import Buffer, LocalProtocolError, RemoteProtocolError, alpha

HEADER_SIZE: Final = 20
OFF_SESSION: Final = 0
OFF_SEQUENCE: Final = 10
OFF_COUNT: Final = 18
SESSION_SIZE: Final = 10

HEARTBEAT: Final = 0
END_OF_SESSION: Final = 0xFFFF
MAX_COUNT: Final = 0xFFFE

#: Largest UDP payload that fits an Ethernet frame.
MAX_PACKET: Final = 1472

_HEADER: Final = struct.Struct(">10sQH")
_U16: Final = struct.Struct(">H")


class Header(NamedTuple):
    """Header of a packet, or a whole request."""

    session: bytes
    sequence: int  # of the first message; in a heartbeat or end of session the next to be sent
    n_messages: int  # in the packet, HEARTBEAT or END_OF_SESSION; in a request how many are wanted

    @property
    def next_sequence(self) -> int:
        """Number after the last message of this packet."""
        return self.sequence if self.n_messages == END_OF_SESSION else self.sequence + self.n_messages


def session_id(name: str) -> bytes:
    """The 10 bytes of a session's name. Raises LocalProtocolError when it is longer."""
    return alpha(name, SESSION_SIZE)


def pack_header(session: bytes, sequence: int, count: int) -> bytes:
    """The 20 bytes of a header, which is also a request for `count` messages from `sequence` on."""
    if len(session) != SESSION_SIZE:
        msg = f"a MoldUDP64 session has {SESSION_SIZE} bytes, not {session!r}"
        raise LocalProtocolError(msg)
    try:
        return _HEADER.pack(session, sequence, count)
    except struct.error as error:
        msg = f"MoldUDP64 header: sequence {sequence} or count {count} does not fit: {error}"
        raise LocalProtocolError(msg) from error


def unpack_header(data: Buffer) -> Header:
    """Header of a packet. Raises RemoteProtocolError when there are fewer than 20 bytes."""
    if len(data) < HEADER_SIZE:
        msg = f"a MoldUDP64 packet has at least {HEADER_SIZE} bytes, got {len(data)}"
        raise RemoteProtocolError(msg)
    return Header(*_HEADER.unpack_from(data))


def heartbeat(session: bytes, next_sequence: int) -> bytes:
    """A packet that says how far the stream has got."""
    return pack_header(session, next_sequence, HEARTBEAT)


def end_of_session(session: bytes, next_sequence: int) -> bytes:
    """A packet that says that no message will ever have `next_sequence`."""
    return pack_header(session, next_sequence, END_OF_SESSION)


request = pack_header


def parse_request(data: Buffer) -> Header:
    """A request: exactly 20 bytes. Raises RemoteProtocolError."""
    if len(data) != HEADER_SIZE:
        msg = f"a MoldUDP64 request has {HEADER_SIZE} bytes, got {len(data)}"
        raise RemoteProtocolError(msg)
    return unpack_header(data)


def unpack(data: Buffer) -> tuple[Header, list[memoryview]]:
    """Header and messages of a packet; the messages are views into `data`.

    Raises RemoteProtocolError when a block overruns the datagram: such a packet is malformed as a whole. Bytes after
    the last block are not read.
    """
    header = unpack_header(data)
    messages: list[memoryview] = []
    if header.n_messages == END_OF_SESSION:
        return header, messages
    view = memoryview(data)
    at = HEADER_SIZE
    for index in range(header.n_messages):
        start = at + 2
        end = start + int.from_bytes(view[at:start], "big")
        if start > len(view) or end > len(view):
            msg = (
                f"MoldUDP64 packet {header.sequence}: block {index} of {header.n_messages} overruns {len(view)} bytes"
            )
            raise RemoteProtocolError(msg)
        messages.append(view[start:end])
        at = end
    return header, messages


class MoldPacker:
    """Packs messages into packets, in one buffer that is reused.

    Append until `append` says that the message does not fit, send `packet()`, `clear()`, append it again::

        while not packer.append(message):
            send(packer.packet())
            packer.clear()
    """

    def __init__(self, session: bytes, first_sequence: int = 1, max_packet: int = MAX_PACKET) -> None:
        if len(session) != SESSION_SIZE or max_packet < HEADER_SIZE + 2:
            msg = f"MoldUDP64: no packets of {max_packet} bytes for session {session!r}"
            raise LocalProtocolError(msg)
        self.session: Final = session
        self.sequence = first_sequence
        self.count = 0
        self._buffer = bytearray(max_packet)
        self._view = memoryview(self._buffer)
        self._size = HEADER_SIZE

    @property
    def next_sequence(self) -> int:
        """Number that the next appended message gets."""
        return self.sequence + self.count

    def append(self, message: Buffer) -> bool:
        """Add one message; False, and nothing added, when the packet has no room for it.

        Raises LocalProtocolError for a message that does not fit even an empty packet.
        """
        end = self._size + 2 + len(message)
        if end > len(self._buffer) or self.count == MAX_COUNT:
            if self.count == 0:
                msg = f"a message of {len(message)} bytes fits no packet of {len(self._buffer)}"
                raise LocalProtocolError(msg)
            return False
        _U16.pack_into(self._buffer, self._size, len(message))
        self._view[self._size + 2 : end] = message
        self._size = end
        self.count += 1
        return True

    def packet(self) -> memoryview:
        """The packet so far, valid until the next `append` or `clear`; a heartbeat when there is no message."""
        _HEADER.pack_into(self._buffer, 0, self.session, self.sequence, self.count)
        return self._view[: self._size]

    def clear(self) -> None:
        """Begin the next packet; numbering goes on."""
        self.sequence += self.count
        self.count = 0
        self._size = HEADER_SIZE
