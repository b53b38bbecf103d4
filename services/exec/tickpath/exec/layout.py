"""What the kernels of exec, the stage and the status pages share: counters, histograms and the context block.

The context block is one int64 array that a kernel gets as its first argument. It holds the registers below and the
addresses of the arrays (pool, tables, buffers, the journal's present segment), so that a call from Python costs the
conversion of one argument and not of ten.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

from tickpath.common.pages import FromZero

#: Bytes of an Enter Order and of a Cancel Order in their SoupBinTCP packets, no appendage.
ENTER_BYTES: Final = 50
CANCEL_BYTES: Final = 12
TEMPLATE_BYTES: Final = 64  # a row of the template table: one cache line

MAX_VENUE_QTY: Final = 999_999
MAX_VENUE_PRICE4: Final = 1_999_999_900


class Counter(FromZero):
    """Counters of the hot page."""

    ORDERS_RECEIVED = auto()  # requests from risk, cancels included
    ORDERS_SENT = auto()
    ORDERS_ACKNOWLEDGED = auto()
    ORDERS_FILLED = auto()  # completely
    ORDERS_CANCELLED = auto()
    ORDERS_REJECTED_BY_VENUE = auto()
    ORDERS_REFUSED = auto()  # journaled as NOT_SENT, reason in the report
    DUPLICATE_ORDERS = auto()  # client order id is journaled already
    FILLS = auto()
    CANCELS_SENT = auto()
    CANCELS_REPEATED = auto()
    CANCELS_LATE = auto()  # for orders that are over
    CANCELS_UNKNOWN = auto()  # for orders never seen
    BAD_REQUESTS = auto()  # neither NEW nor CANCEL
    ILLEGAL_TRANSITIONS = auto()
    OVERFILLS = auto()  # fills beyond the leaves or after the end of an order: alarm
    BROKEN_TRADES = auto()
    UNKNOWN_REFS = auto()  # the venue reports an order that was never sent: alarm
    INEXACT = auto()  # prices or quantities of the venue between two ticks or lots
    VENUE_MESSAGES = auto()  # sequenced messages
    VENUE_OTHER = auto()  # known types that change no order
    VENUE_UNKNOWN_TYPE = auto()
    VENUE_MALFORMED = auto()
    IN_DOUBT = auto()  # orders open when the session broke
    NEVER_ARRIVED = auto()  # ... which the venue had not seen
    RECONCILED = auto()  # ... which it confirmed
    MISMATCHES = auto()  # contradictions between journal and venue: alarm
    CONNECTS = auto()
    CONNECTION_FAILURES = auto()
    LOGINS = auto()
    LOGINS_REFUSED = auto()
    DISCONNECTS = auto()
    HEARTBEATS_SENT = auto()
    HEARTBEATS_RECEIVED = auto()
    PARTIAL_SENDS = auto()
    JOURNAL_ENTRIES = auto()
    JOURNAL_SEGMENTS = auto()
    JOURNAL_ERRORS = auto()  # a segment could not be made
    JOURNAL_TORN_BYTES = auto()  # cut off the end when the journal was opened


class Hop(FromZero):
    """Histograms of the hot page, nanoseconds."""

    RECV_TO_DECODE = auto()
    DECODE_TO_SIGNAL = auto()
    SIGNAL_TO_APPROVE = auto()
    APPROVE_TO_SEND = auto()
    RECV_TO_SEND = auto()
    SEND_TO_ACK = auto()


class Reg(FromZero):
    """The context block."""

    # journal
    NEXT_SEQ = auto()  # number of the next entry
    SEGMENT = auto()  # address of the first entry of the present segment
    SEGMENT_FIRST = auto()  # its number
    SEGMENT_ENTRIES = auto()
    SPARE_ENTRIES = auto()  # room in the segment that is ready to follow, 0 if there is none
    # order pool
    POOL = auto()  # address of REPORT[POOL_CAPACITY + 1]: the last report of each order; the last row is scratch
    POOL_CAPACITY = auto()
    FREE = auto()  # address of int64[POOL_CAPACITY]: stack of free slots
    FREE_COUNT = auto()
    HIGH = auto()  # no slot from here on was ever used
    CANCEL_NS = auto()  # address of int64[POOL_CAPACITY + 1]: 0, or when the wanted cancel was last sent
    OPEN = auto()  # orders that are not terminal
    # indexes of the day
    IDS = auto()  # address of int64[IDS_MASK + 1, 2]: client order id, UserRefNum (0: refused)
    IDS_MASK = auto()
    IDS_COUNT = auto()
    REFS = auto()  # address of int64[REFS_CAPACITY]: slot + 1 while open, -seq of the final entry after, 0 unused
    REFS_CAPACITY = auto()
    NEXT_REF = auto()
    # page
    COUNTERS = auto()  # address of int64[Counter]
    HISTS = auto()  # address of int64[Hop, HIST_SIZE]
    # gateway
    REFUSE = auto()  # Refusal for all new orders, 0: they are welcome
    CONNECTED = auto()  # 1: logged in; what is put into the send buffer will be sent
    DAY_ENDED = auto()  # 1: the venue announced the end of its day
    VENUE_NEXT = auto()  # number of the next sequenced message
    SEND = auto()  # address of the send buffer
    SEND_SIZE = auto()
    SEND_TAIL = auto()  # bytes in it
    SENT = auto()  # of them, bytes that the socket took
    SENT_NS = auto()  # when it last took any
    RECEIVE = auto()  # address of the receive buffer
    RECEIVE_SIZE = auto()
    FILLED = auto()  # bytes in it that are not dealt with
    HEARD_NS = auto()  # when the last ones came
    TEMPLATES = auto()  # address of uint8[INSTRUMENTS, TEMPLATE_BYTES]
    FACTORS = auto()  # address of int64[INSTRUMENTS, 2]: price4 per tick, shares per lot
    INSTRUMENTS = auto()
    # answers of a kernel
    STOP = auto()  # Stop: why decode returned
    STOP_ARG = auto()
    SWEEP_AT = auto()  # slot at which an unfinished sweep goes on
    ILLEGAL_REF = auto()  # the last illegal transition: order,
    ILLEGAL_CELL = auto()  # state * 256 + event, or the negative letter of a message about an order that is over


class Stop(FromZero):
    """Why `decode` returned before or at the end of the received bytes."""

    MORE = auto()  # no complete packet is left
    SESSION = auto()  # the next packet belongs to the session layer
    JOURNAL = auto()  # the segment is full
    HISTORY = auto()  # the next message is about an order that left the pool; STOP_ARG is its UserRefNum
    BROKEN = auto()  # the next message is a Broken Trade; STOP_ARG is its UserRefNum
    QUERY = auto()  # an Account Query response was read; STOP_ARG is the next free UserRefNum
    MALFORMED = auto()  # the byte stream makes no sense from here on


class Sweep(FromZero):
    """What `sweep` does to every open order."""

    DISCONNECT = auto()  # the session broke
    RECONCILE = auto()  # argument: the venue's next UserRefNum
    CANCEL_ALL = auto()
    REPEAT_CANCELS = auto()  # argument: send again what was sent before this time, ns


class Gate(FromZero):
    """Array ``gateway`` of the hot page."""

    STATE = auto()  # GatewayState
    OPEN_ORDERS = auto()
    NEXT_SEQ = auto()  # of the journal
    NEXT_REF = auto()
    VENUE_NEXT = auto()
    POOL_FREE = auto()
    DAY_FREE = auto()  # orders that the day may still have
    REFUSE = auto()  # Refusal for new orders, 0: they are welcome
    SEND_BACKLOG_BYTES = auto()
    HELD_ORDERS = auto()  # received, waiting for room in the journal
    REPORTS_UNACKED = auto()  # by the slowest consumer
    ILLEGAL_REF = auto()
    ILLEGAL_CELL = auto()


class GatewayState(IntEnum):
    """See the table of `tickpath.exec.gateway`."""

    DOWN = 0
    CONNECTING = 1
    LOGIN = 2
    RECONCILING = 3
    READY = 4
    REFUSED = 5
    HALTED = 6
