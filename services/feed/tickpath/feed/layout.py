"""Names of what feed counts and measures, shared by its hot and side process. Without Numba."""

from __future__ import annotations

from enum import IntEnum


class Count(IntEnum):
    """Counters of feed's page."""

    DATAGRAMS = 0
    BYTES = 1
    MESSAGES = 2  # in sequence, each counted once
    TICKS = 3
    GAPS = 4  # jumps in the sequence of the exchange
    MESSAGES_LOST = 5  # numbers that never came
    MESSAGES_REPAIRED = 6
    MESSAGES_DUPLICATE = 7  # came again, or late
    DATAGRAMS_MALFORMED = 8  # cut off, or blocks that overrun the datagram
    DATAGRAMS_OTHER_SESSION = 9
    HEARTBEATS = 10
    END_OF_SESSION = 11
    MESSAGES_UNKNOWN_TYPE = 12
    MESSAGES_SHORT = 13
    MESSAGES_OTHER_INSTRUMENT = 14  # of instruments that are not in our table
    BOOK_UNKNOWN_ORDER = 15
    BOOK_DUPLICATE_ORDER = 16
    BOOK_FULL = 17  # more orders or price levels than planned
    BOOK_BAD_INPUT = 18  # price, quantity, side or reference that cannot be
    BOOK_OVER_REDUCED = 19
    BOOK_CROSSED = 20
    TICKS_RESENT = 21
    REQUESTS_REFUSED = 22
    RECEIVE_BUFFER_BYTES = 23  # read back from the socket
    TICKS_HELD_BY_PAUSE = 24


class Hop(IntEnum):
    """Histograms of feed's page."""

    RECV_TO_DECODE = 0


class Channel(IntEnum):
    """Indices into the ``channel`` array of feed's page: where the market data channel stands."""

    EXPECTED_SEQ = 0  # next number wanted
    SESSION_LOW = 1  # first 8 bytes of the session's name, big-endian
    SESSION_HIGH = 2  # last 2 bytes
    LAST_RECV_NS = 3  # of any datagram of the session
    SUSPECT = 4  # 1 after a gap that was not repaired: every tick carries SUSPECT
    EVENT_CODE = 5  # of the last system event
    GAP_FROM_SEQ = 6  # the last gap, [from, to)
    GAP_TO_SEQ = 7


class InstrumentFlag(IntEnum):
    """Bits of the ``halted`` array per instrument."""

    TRADING_HALT = 1  # H message: halted, paused or quotation only
    OPERATIONAL_HALT = 2  # h message
