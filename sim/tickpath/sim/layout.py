"""What the simulated exchange shares between its kernels, its page and its side process. Imports no Numba.

Hot page ``sim.hot.page``, written by the hot process (beside what every hot page has):

| array | dtype, shape | content |
| --- | --- | --- |
| positions | int64[n] | net lots that all clients together bought less sold, per symbol |
| bought_lots, sold_lots | int64[n] | what makes the position |
| open_orders | int64[n] | live orders of clients per symbol |
| orders | VENUE_ORDER[ORDER_CAPACITY] | the venue's view of the orders: all live ones, and the latest dead ones |

| lockstep | u1[256] | text: what a tape that is played in steps waits for |

``meta["symbols"]`` names the n symbols in order, ``meta["source"]`` the data that is played.
Side page ``sim.side.page``: ``control`` and ``faults``, int64[len(Fault)].

Market data leaves on line A and, where there is one, on line B. A packet is what both carry; what one of them carries
is a copy.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np


class Counter(IntEnum):
    """Counters of the hot page."""

    MESSAGES_SENT = 0  # market data messages, each with a number of its own
    DATAGRAMS_SENT = 1  # on all lines
    BYTES_SENT = 2  # UDP payload, on all lines
    HEARTBEATS_SENT = 3  # and end-of-session packets
    SEND_ERRORS = 4  # sends that the system refused; the datagram is sent again
    LATE_NS_MAX = 5  # longest time that a message left after its due time
    LOOPS = 6  # times that the tape was begun again
    FAULTS_INJECTED = 7
    PLAYING = 8  # 1 while the tape runs
    FINISHED = 9  # 1 after the last message of a tape that is not looped
    NEXT_SEQUENCE = 10  # number of the next market data message
    ORDERS_RECEIVED = 11  # enter order messages
    REPLACES_RECEIVED = 12
    CANCELS_RECEIVED = 13
    OTHER_RECEIVED = 14  # modify, mass cancel, enable, disable, account query
    IGNORED = 15  # numbers used before, and requests about orders that are not live: no answer is due
    MALFORMED = 16  # not an OUCH message
    ACCEPTED = 17  # orders, replacements included
    ACCEPTED_LOTS = 18
    REJECTED = 19
    CANCELLED = 20  # orders that ended with lots cancelled; replaced ones are not among them
    CANCELLED_LOTS = 21  # ACCEPTED_LOTS = FILLED_LOTS + CANCELLED_LOTS + OPEN_LOTS
    FILLED = 22  # orders that ended filled
    FILLS = 23
    FILLED_LOTS = 24
    REPLACED = 25
    OPEN_ORDERS = 26  # now
    OPEN_LOTS = 27  # now
    DUPLICATES = 28  # a client order id entered a second time under another user reference number
    UNMATCHED_CAUSES = 29  # orders whose client order id names no message sent lately
    SESSIONS = 30  # connections logged in now
    LOGINS = 31
    LOGINS_REFUSED = 32
    DISCONNECTS = 33
    SLOW_CLIENTS = 34  # dropped because they did not read
    BOOK_ANOMALIES = 35  # played messages that name an unknown order, or do not fit the book
    BOOK_OVERFLOWS = 36  # played messages that the book had no room for
    STEPS = 37  # datagrams of a tape that is played in steps
    LINE_B_DATAGRAMS_SENT = 38  # those of DATAGRAMS_SENT that left on line B
    LINE_A_LOST = 39  # copies that a fault kept from leaving
    LINE_B_LOST = 40
    DUPLICATED = 41  # copies that were sent twice
    REORDERED = 42  # copies that were held back to be overtaken
    DELAYED = 43  # copies that were held back for a time
    HELD = 44  # copies that are held back now
    RETRANSMISSION_REQUESTS = 45
    RETRANSMITTED_MESSAGES = 46
    RETRANSMITTED_DATAGRAMS = 47
    RETRANSMISSIONS_LOST = 48  # answers that a fault kept from leaving
    REQUESTS_MALFORMED = 49  # not 20 bytes, or asking for nothing
    REQUESTS_OTHER_SESSION = 50
    REQUESTS_OUT_OF_RANGE = 51  # for a message that was not sent yet, or is not kept any more
    REQUESTS_OVERFLOWED = 52  # came while too many others waited
    SNAPSHOTS = 53  # made
    SNAPSHOTS_COMPLETE = 54  # sent to the last byte
    SNAPSHOT_LOGINS_REFUSED = 55
    SNAPSHOT_SESSIONS = 56  # connections to the snapshot server now
    SNAPSHOT_NS_MAX = 57  # longest time that making one took: the loop stood still for so long
    MESSAGES_WAITING = 58  # of a live market: taken in and not sent yet


class Histogram(IntEnum):
    """Histograms of the hot page, ns."""

    TICK_TO_ORDER = 0  # causing datagram handed to the network -> order received
    SEND_LATE = 1  # due time of the earliest message of a turn -> it is sent


class Fault(IntEnum):
    """What can go wrong on request: indices of the side page's ``faults``; all 0 is an honest exchange.

    ``*_EVERY`` n means every n-th packet, on both lines. ``*_PPM`` is the probability, in parts per million, that it
    happens to a copy: a function of the seed, the line and the number of the packet's first message.
    """

    DROP_EVERY = 0  # not sent
    DUPLICATE_EVERY = 1  # sent twice
    REORDER_EVERY = 2  # sent after the one that follows it
    TRUNCATE_EVERY = 3  # cut in half
    GARBAGE_EVERY = 4  # preceded by a datagram of random bytes
    SEED = 5  # of the garbage and of all that goes by probability
    DISCONNECT = 6  # each change closes all order connections
    REFUSE_LOGIN = 7  # 1: every login is refused as not authorised, that to the snapshot server too
    LOSS_A_PPM = 8  # not sent; line B's follows line A's, here and below
    LOSS_B_PPM = 9
    DUPLICATE_A_PPM = 10  # sent twice
    DUPLICATE_B_PPM = 11
    REORDER_A_PPM = 12  # overtaken by one to four of those that follow it
    REORDER_B_PPM = 13
    DELAY_A_PPM = 14  # held back for 1 to DELAY_US
    DELAY_B_PPM = 15
    DELAY_US = 16
    LOSS_RETRANSMISSION_PPM = 17  # an answer of the retransmission server is not sent


class OrderStatus(IntEnum):
    """State of an order at the venue; 0 is an unused slot."""

    FREE = 0
    LIVE = 1
    FILLED = 2
    CANCELLED = 3
    REPLACED = 4


#: Orders that the venue remembers; live ones are never overwritten, an order that finds no slot is rejected.
ORDER_CAPACITY: Final = 1 << 16

#: File in run_dir with what the reader of a live market has counted (JSON), written about once a second.
LIVE_STATUS: Final = "live.json"

VENUE_ORDER: Final = np.dtype(
    [
        ("order_ref", "<i8"),  # order reference number of the venue, from 1
        ("cl_ord_id", "S14"),
        ("display", "u1"),  # as entered
        ("capacity", "u1"),  # as entered
        ("price4", "<i8"),  # limit price in 1/10000; MARKET_PRICE4 for a market order
        ("qty_lots", "<i8"),  # intended size of the whole chain of replacements, executed lots included
        ("executed_lots", "<i8"),  # of the whole chain
        ("leaves_lots", "<i8"),  # open now
        ("ahead_lots", "<i8"),  # displayed lots that are to trade before this order, at its price
        ("joined", "<i8"),  # number of the last played message before it joined the queue
        ("arrived_ns", "<i8"),  # CLOCK_MONOTONIC
        ("user_ref", "<i8"),
        ("session", "<i4"),  # 256 * number of the user + UserRefIdx, 0 none
        ("instrument", "<i4"),  # row in meta["symbols"]
        ("next", "<i4"),  # next live order of the same instrument, -1: the last
        ("status", "u1"),  # OrderStatus
        ("side", "u1"),  # ASCII: B S T E
        ("tif", "u1"),  # ASCII
        ("pad", "u1"),
    ]
)
assert VENUE_ORDER.itemsize % 8 == 0, VENUE_ORDER.itemsize  # noqa: S101 - it is mapped into a page
