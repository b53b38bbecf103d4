"""The records that move between stages: fixed size, little-endian, aligned to 8 bytes.

These dtypes are the contract between Python, Numba, the frames on the wire and the journal. Units are in the
field names: ``_ns`` nanoseconds, ``_ticks`` integer price ticks and ``_lots`` integer lots of an instrument
(`tickpath.common.instruments` turns both into decimals at the edges). ``recv_ns`` and every later stamp are
CLOCK_MONOTONIC of the host; ``exch_ns`` is the exchange's own time, nanoseconds after its midnight.

``cause_seq`` is the number of the market data message that caused a record, in the numbering of the exchange
(MoldUDP64). Together with strategy, shard and a running number it makes the client order id, so a repeated
decision has the same id wherever it is repeated.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

import numpy as np

SCHEMA_VERSION: Final = 1

#: Price of an empty book side. Far outside of what the decoder lets through, so it never compares as a price.
NO_PRICE_TICKS: Final = -(2**62)

#: Largest quantity or price that any stage accepts: products of the two stay in int64.
MAX_QTY_LOTS: Final = 2**31 - 1
MAX_PRICE_TICKS: Final = 2**31 - 1

N_SHARDS: Final = 256


class Side(IntEnum):
    """Side of an order; 0 is never a valid side."""

    BUY = 1
    SELL = 2


class Action(IntEnum):
    """What a signal or an order asks for."""

    NEW = 1
    CANCEL = 2


class Tif(IntEnum):
    """Time in force."""

    DAY = 0
    IOC = 3


class TickFlag(IntFlag):
    """Why a tick was published, and what is to be known of its book."""

    QUOTE = 1  # best bid or offer changed, in price or size
    TRADE = 2  # last_ticks and last_lots hold a print
    AGGRESSOR_BUY = 4  # the print lifted an offer
    AGGRESSOR_SELL = 8  # the print hit a bid
    SUSPECT = 16  # the book was built from inconsistent input: risk refuses the instrument
    HALTED = 32  # the venue does not trade the instrument now
    CHANNEL = 64  # nothing has happened in the market: feed tells anew what to think of the instrument; for risk


TICK: Final = np.dtype(
    [
        ("cause_seq", "<i8"),  # exchange's number of the message that made this tick
        ("exch_ns", "<i8"),  # exchange time, ns after midnight
        ("recv_ns", "<i8"),  # datagram received
        ("decoded_ns", "<i8"),  # book updated
        ("bid_ticks", "<i8"),  # best bid, NO_PRICE_TICKS if none
        ("ask_ticks", "<i8"),  # best offer, NO_PRICE_TICKS if none
        ("bid_lots", "<i8"),  # displayed size at the best bid
        ("ask_lots", "<i8"),  # displayed size at the best offer
        ("last_ticks", "<i8"),  # price of the print, NO_PRICE_TICKS unless TRADE
        ("last_lots", "<i8"),  # size of the print, 0 unless TRADE
        ("volume_lots", "<i8"),  # traded since the start of the session
        ("instrument", "<i4"),  # index into the instrument table
        ("flags", "<u4"),  # TickFlag
    ]
)

SIGNAL: Final = np.dtype(
    [
        ("cause_seq", "<i8"),
        ("exch_ns", "<i8"),
        ("recv_ns", "<i8"),
        ("decoded_ns", "<i8"),
        ("signalled_ns", "<i8"),  # strategy decided
        ("price_ticks", "<i8"),  # limit price
        ("qty_lots", "<i8"),
        ("bid_ticks", "<i8"),  # of the causing tick: what the decision was made on
        ("ask_ticks", "<i8"),
        ("strength", "<f8"),  # the strategy's own figure, for people only
        ("instrument", "<i4"),
        ("strategy", "<u2"),  # 1..127
        ("shard", "<u2"),  # 0..255
        ("action", "u1"),  # Action; CANCEL takes back all open orders of (strategy, instrument)
        ("side", "u1"),  # Side; 0 in a CANCEL means both sides
        ("tif", "u1"),  # Tif
        ("k", "u1"),  # running number among the signals of one (strategy, shard, cause_seq)
        ("pad", "<u4"),
    ]
)

ORDER: Final = np.dtype(
    [
        ("cl_ord_id", "<i8"),  # see pack_cl_ord_id; in a CANCEL the order to take back
        ("cause_seq", "<i8"),
        ("exch_ns", "<i8"),
        ("recv_ns", "<i8"),
        ("decoded_ns", "<i8"),
        ("signalled_ns", "<i8"),
        ("approved_ns", "<i8"),  # risk let it through
        ("price_ticks", "<i8"),
        ("qty_lots", "<i8"),
        ("instrument", "<i4"),
        ("strategy", "<u2"),
        ("shard", "<u2"),
        ("action", "u1"),
        ("side", "u1"),
        ("tif", "u1"),
        ("k", "u1"),
        ("pad", "<u4"),
    ]
)


class OrderState(IntEnum):
    """Life of an order. Its rules are the transition table of `tickpath.exec`; terminal states come last."""

    NONE = 0
    PENDING_NEW = 1  # journaled, perhaps sent, not yet acknowledged
    NEW = 2
    PARTIALLY_FILLED = 3
    PENDING_CANCEL = 4
    UNKNOWN = 5  # the session broke before the venue answered: still counts until reconciled
    FILLED = 6
    CANCELLED = 7
    REJECTED = 8


#: States from FILLED on are final: nothing is open any more.
FIRST_TERMINAL_STATE: Final = int(OrderState.FILLED)


class ExecEvent(IntEnum):
    """What happened to an order: one journal entry each."""

    SEND = 1  # about to be sent: written before the first byte leaves
    ACKNOWLEDGED = 2
    FILL = 3
    CANCEL_SENT = 4
    CANCELLED = 5  # venue confirmed; last_lots holds the lots taken off
    VENUE_REJECT = 6
    DISCONNECT = 7  # session lost while the order was not terminal
    NOT_SENT = 8  # proven never to have reached the venue
    CANCEL_REJECT = 9
    RECONCILED = 10  # venue confirmed that an UNKNOWN order is live


REPORT: Final = np.dtype(
    [
        ("seq", "<i8"),  # number of the journal entry, from 1 without gaps
        ("cl_ord_id", "<i8"),
        ("cause_seq", "<i8"),
        ("exch_ns", "<i8"),
        ("recv_ns", "<i8"),
        ("decoded_ns", "<i8"),
        ("signalled_ns", "<i8"),
        ("approved_ns", "<i8"),
        ("sent_ns", "<i8"),  # handed to the socket
        ("acked_ns", "<i8"),  # this event received from the venue
        ("price_ticks", "<i8"),
        ("qty_lots", "<i8"),
        ("leaves_lots", "<i8"),  # open after this event
        ("cum_lots", "<i8"),  # filled after this event
        ("last_ticks", "<i8"),  # of this fill
        ("last_lots", "<i8"),  # of this fill, or taken off by this cancel
        ("venue_order", "<i8"),  # order reference number of the venue
        ("match_number", "<i8"),  # of this fill
        ("venue_seq", "<i8"),  # number of the venue's message in the session, 0 if none
        ("user_ref", "<u4"),  # OUCH UserRefNum
        ("instrument", "<i4"),
        ("strategy", "<u2"),
        ("shard", "<u2"),
        ("state", "u1"),  # OrderState after this event
        ("event", "u1"),  # ExecEvent
        ("side", "u1"),
        ("tif", "u1"),
        ("reason", "<u2"),  # venue's reject or cancel code
        ("pad", "<u2"),
        ("crc", "<u4"),  # CRC-32 of all bytes before; 0 on a link, set in the journal
    ]
)

#: Most bytes of a message in one DATAGRAM record; a longer one goes on in the records behind it.
DATAGRAM_BYTES: Final = 2048

#: What a capture keeps of one message as it came from the network: a datagram, or a frame of a stream.
DATAGRAM: Final = np.dtype(
    [
        ("recv_ns", "<i8"),  # received, CLOCK_MONOTONIC
        ("length", "<i4"),  # bytes of the whole message
        ("line", "<i2"),  # which of several lines or connections it came from, the source's own numbering
        ("part", "<i2"),  # 0 for its first DATAGRAM_BYTES bytes, 1 for the next, ...
        ("data", "u1", (DATAGRAM_BYTES,)),  # what is behind the end of the message means nothing
    ]
)

CL_ORD_ID_LEN: Final = 14
_BASE32: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUV"


class RecordKind(IntEnum):
    """Kinds of a frame; the letter of each is the first byte of its topic."""

    TICK = ord("T")
    SIGNAL = ord("S")
    ORDER = ord("O")
    REPORT = ord("R")


DTYPES: Final[dict[RecordKind, np.dtype[np.void]]] = {
    RecordKind.TICK: TICK,
    RecordKind.SIGNAL: SIGNAL,
    RecordKind.ORDER: ORDER,
    RecordKind.REPORT: REPORT,
}

for _dtype in DTYPES.values():
    assert _dtype.itemsize % 8 == 0, _dtype  # noqa: S101 - the layout is the contract; checked once at import


def pack_cl_ord_id(strategy: int, shard: int, cause_seq: int, k: int) -> int:
    """Client order id of a decision: strategy (7 bits), shard (8), cause_seq (40), k (8), high to low.

    Positive int64. Raises ValueError when a part does not fit.
    """
    if not (0 < strategy < 128 and 0 <= shard < N_SHARDS and 0 <= cause_seq < 1 << 40 and 0 <= k < 256):
        msg = f"no client order id for strategy={strategy} shard={shard} cause_seq={cause_seq} k={k}"
        raise ValueError(msg)
    return strategy << 56 | shard << 48 | cause_seq << 8 | k


def unpack_cl_ord_id(cl_ord_id: int) -> tuple[int, int, int, int]:
    """(strategy, shard, cause_seq, k) of a client order id."""
    return cl_ord_id >> 56, cl_ord_id >> 48 & 0xFF, cl_ord_id >> 8 & (1 << 40) - 1, cl_ord_id & 0xFF


def format_cl_ord_id(cl_ord_id: int) -> bytes:
    """The 14 ASCII bytes in which the venue sees a client order id: ``T`` and 13 base-32 digits."""
    return b"T" + bytes(_BASE32[cl_ord_id >> 5 * i & 31] for i in range(12, -1, -1))


def parse_cl_ord_id(text: bytes) -> int:
    """Inverse of `format_cl_ord_id`. Raises ValueError for text that this project did not write."""
    if len(text) != CL_ORD_ID_LEN or text[:1] != b"T":
        msg = f"not a client order id: {text!r}"
        raise ValueError(msg)
    value = 0
    for byte in text[1:]:
        digit = _BASE32.find(byte)
        if digit < 0:
            msg = f"not a client order id: {text!r}"
            raise ValueError(msg)
        value = value << 5 | digit
    if value >= 1 << 63:
        msg = f"not a client order id: {text!r}"
        raise ValueError(msg)
    return value
