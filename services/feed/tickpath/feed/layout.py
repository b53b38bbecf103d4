"""Names of what feed counts and measures, shared by its hot and side process. Without Numba."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


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
    DATAGRAMS_HELD = 25  # waited in the window behind a gap
    WINDOW_FULL = 26  # dropped because the window was full: they are asked for again
    REQUESTS = 27  # for missing messages
    SNAPSHOTS = 28  # books taken from the snapshot server
    SNAPSHOT_FAILURES = 29
    GAPS_GIVEN_UP = 30  # nobody could close them
    SUSPECT_INSTRUMENTS = 31  # now
    ANNOUNCEMENTS = 32  # times that all instruments were published anew because the channel's state changed


class Hop(IntEnum):
    """Histograms of feed's page."""

    RECV_TO_DECODE = 0
    LINE_A_BEHIND = 1  # the second copy of a packet came so long after the first, by its line
    LINE_B_BEHIND = 2
    KERNEL_TO_RECV = 3  # time in the socket; only with `feed.kernel_stamps`


class Line(IntEnum):
    """Where a datagram came in: rows of ``lines``."""

    A = 0
    B = 1
    REPAIR = 2  # answers of the retransmission server


class LineWord(IntEnum):
    """Columns of ``lines``, int64[len(Line), len(LineWord)]."""

    DATAGRAMS = 0
    FIRST = 1  # messages that this line brought first
    SECOND = 2  # messages that had come before, on whichever line
    NEXT_SEQ = 3  # the line's own next number
    GAPS = 4
    LOST = 5  # messages that the line itself did not bring in order
    LAST_RECV_NS = 6
    KERNEL_DROPS = 7  # datagrams that the system dropped because the socket's buffer was full
    RECEIVE_BUFFER_BYTES = 8  # read back from the socket


class ChannelState(IntEnum):
    """Of the whole channel."""

    WAITING = 0  # nothing has come yet
    LIVE = 1
    RECOVERING = 2  # messages are missing, or books are being taken
    STALE = 3  # not even a heartbeat for `feed.stale_ms`, or only of another session or of numbers long gone


class Suspect(IntEnum):
    """Bits of ``Channel.SUSPECT``: why the books of all instruments are in doubt."""

    LOST = 1  # a gap was given up; a snapshot or a person clears it
    RECOVERING = 2
    STALE = 4


class Channel(IntEnum):
    """Indices into the ``channel`` array of feed's page: where the market data channel stands."""

    EXPECTED_SEQ = 0  # next number wanted
    SESSION_LOW = 1  # first 8 bytes of the session's name, big-endian
    SESSION_HIGH = 2  # last 2 bytes
    LAST_RECV_NS = 3  # of the last datagram of the session that reached to where we are
    SUSPECT = 4  # bits of `Suspect`: while there is one, every tick carries SUSPECT
    EVENT_CODE = 5  # of the last system event
    GAP_FROM_SEQ = 6  # the last gap, [from, to)
    GAP_TO_SEQ = 7
    KNOWN_SEQ = 8  # next number as far as any packet has told; above EXPECTED_SEQ something is missing
    GAP_SINCE_NS = 9  # when the present gap was seen; 0 without one
    STATE = 10  # ChannelState
    HELD = 11  # packets in the window
    HEAD = 12  # where the window begins
    HOLDING = 13  # 1 while books are being taken: nothing is decoded
    CAN_REPAIR = 14  # 1 if messages before the first one heard can be had
    ACTION_NS = 15  # when `repair` wants to act
    ANNOUNCE_AT = 16  # next instrument to publish anew
    SNAPSHOT_SEQ = 17  # number after the snapshot that was taken last
    CLOSED = 18  # 1 after the end of system hours
    TEXT = 23  # 1: datagrams are lines of text
    MWCB_LEVEL_1_E8 = 19  # market-wide circuit breaker: index levels in 1e-8; 0 not told
    MWCB_LEVEL_2_E8 = 20
    MWCB_LEVEL_3_E8 = 21
    MWCB_BREACHED = 22  # the level that was breached last, 0 none


#: Most levels of a book that can be looked at.
DEPTH_LEVELS: Final = 64


class Watch(IntEnum):
    """Indices of ``watch`` of the side page: whose book is to be shown."""

    NUMBER = 0  # of the request
    INSTRUMENT = 1


class DepthWord(IntEnum):
    """Indices of ``depth_words`` of the hot page; ``depth`` LEVEL[2, DEPTH_LEVELS]: bids, offers, best first."""

    ANSWERED = 0  # number of the request that it is the answer to
    BIDS = 1  # levels that there are
    ASKS = 2
    NEXT_SEQ = 3  # the book is that before the message of this number


class InstrumentFlag(IntEnum):
    """Bits of the ``halted`` array per instrument."""

    TRADING_HALT = 1  # H message: halted, paused or quotation only
    OPERATIONAL_HALT = 2  # h message of the market that this is the feed of
    NOT_OPENED = 4  # in the directory of the day, and no trading action yet


class Detail(IntEnum):
    """Columns of ``details``, int64[n, len(Detail)]: the last message of each kind. Letters in ASCII; 0: not told."""

    MARKET_CATEGORY = 0  # R
    FINANCIAL_STATUS = 1
    ROUND_LOT_LOTS = 2
    SHORT_SALE_THRESHOLD = 3
    LULD_TIER = 4
    REG_SHO = 5  # Y: 0, 1 or 2
    LULD_REFERENCE_TICKS = 6  # J
    LULD_UPPER_TICKS = 7
    LULD_LOWER_TICKS = 8
    LULD_EXTENSIONS = 9
    IPO_RELEASE_S = 10  # K: seconds after midnight
    IPO_PRICE_TICKS = 11
    PAIRED_LOTS = 12  # I
    IMBALANCE_LOTS = 13
    IMBALANCE_DIRECTION = 14
    FAR_TICKS = 15
    NEAR_TICKS = 16
    REFERENCE_TICKS = 17
    CROSS_TYPE = 18
    RETAIL_INTEREST = 19  # N
    DLCR_MIN_TICKS = 20  # O
    DLCR_MAX_TICKS = 21
    BROKEN_TRADES = 22  # B: how many
    BROKEN_MATCH = 23  # the last one
