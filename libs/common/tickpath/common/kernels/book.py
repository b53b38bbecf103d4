"""Full-depth books by order, for N instruments, in flat arrays of planned size; one apply per ITCH message.

Two tables, both in the `Book`:

- *orders*: open addressing, linear probing, deletion by shifting back, at most half full. Key is the order
  reference of the exchange, a positive int64, unique over all instruments.
- *levels*: per instrument and side one sorted row with the **best price at the end**, so that work near the top moves
  few bytes and the best bid and offer are the last element.

Nothing here allocates, raises or loops without a bound. Every operation returns a `Result` and counts it in
``book.stats``; what it did is in ``book.event`` (indices ``EV_*``), valid until the next operation. Prices are ticks,
quantities lots; sides are those of `records.Side`.

A message that contradicts the book never stops it: an unknown or duplicate order, a wrong quantity or a table that is
full changes nothing but the count, with two exceptions that follow the message as far as possible: an execution or
cancel of more than there is removes the order (`Result.OVER_REDUCED`), and a replace removes the old order even
when the new one is refused.

A kernel that works message by message calls `apply_message` (inlined); `apply_blocks` applies a whole buffer.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tickpath.common import jit
from tickpath.common.kernels.itch import LENGTHS, be16, be32, be48, be64
from tickpath.common.records import MAX_PRICE_TICKS, MAX_QTY_LOTS, NO_PRICE_TICKS, Side


def kernel(signature):
    """`jit.kernel` without reference counts: nothing here makes an array; counting took most of the time."""
    return jit.kernel(signature, _nrt=False)


def inlined(function):
    """`jit.inlined` without reference counts, and always inlined: a call would push every array of the book."""
    return numba.njit(nogil=True, _nrt=False, forceinline=True)(function)


#: One slot of the order table, 32 bytes.
ORDER_SLOT: Final = np.dtype(
    [
        ("ref", "<i8"),  # order reference; 0: the slot is empty
        ("arrival", "<i8"),  # running number of adds: time priority within a level
        ("price_ticks", "<i4"),
        ("lots", "<i4"),
        ("row", "<i4"),  # row of the levels: 2 * instrument + side - 1
        ("pad", "<i4"),
    ]
)

#: One price level, 16 bytes.
LEVEL: Final = np.dtype(
    [
        ("price_ticks", "<i4"),
        ("orders", "<i4"),  # number of orders at this price
        ("lots", "<i8"),  # displayed quantity
    ]
)


class Result(IntEnum):
    """Outcome of one operation."""

    OK = 0
    UNKNOWN_ORDER = 1  # no live order has this reference
    DUPLICATE_ORDER = 2  # an add with the reference of a live order
    ORDERS_FULL = 3  # the order table holds as many as planned
    LEVELS_FULL = 4  # the side holds as many prices as planned
    BAD_QUANTITY = 5  # not in 1..MAX_QTY_LOTS
    BAD_PRICE = 6  # not in 1..MAX_PRICE_TICKS
    BAD_REF = 7  # not in 1..2**63 - 1
    BAD_SIDE = 8
    OVER_REDUCED = 9  # more taken off than there was: the order is gone
    WRONG_INSTRUMENT = 10  # the message names another instrument than the order's
    UNKNOWN_INSTRUMENT = 11  # no instrument for this stock_locate (none of ours): nothing was done
    SHORT_MESSAGE = 12  # fewer bytes than its type has
    UNKNOWN_TYPE = 13


# Indices of book.event, int64[EVENT_SIZE].
EV_TYPE: Final = 0  # ITCH type byte
EV_INSTRUMENT: Final = 1  # -1: none, or not ours
EV_LOCATE: Final = 2
EV_EXCH_NS: Final = 3  # ns after midnight of the exchange
EV_SIDE: Final = 4  # Side of the resting order (of a P: as the message says); 0 none
EV_REF: Final = 5  # the order; of a U the old one
EV_NEW_REF: Final = 6  # of a U
EV_PRICE_TICKS: Final = 7  # of the added order or of the print; NO_PRICE_TICKS none or unknown
EV_LOTS: Final = 8  # added, taken off or printed by this message
EV_LEAVES_LOTS: Final = 9  # open in the order afterwards (of a U: in the new one)
EV_ORDER_PRICE_TICKS: Final = 10  # of the order before the message (E C X D U); NO_PRICE_TICKS if unknown
EV_ORDER_LOTS: Final = 11  # open in the order before the message (E C X D U)
EV_ARRIVAL: Final = 12  # arrival number of the order (of a U: of the old one); smaller is ahead in the queue
EV_PRINT: Final = 13  # 1: EV_LOTS were traded at EV_PRICE_TICKS and count in the volume (E, C printable, P, Q)
EV_MATCH: Final = 14  # match number of a print (E C P Q B)
EV_BBO_CHANGED: Final = 15  # 1: price or size of the best bid or offer changed
EV_CROSSED: Final = 16  # 1: after this add the best bid is not below the best offer
EV_CODE: Final = 17  # S event_code, H trading_state, h action, Q cross_type, else 0
EVENT_SIZE: Final = 18

# Indices of book.stats, int64[STATS_SIZE].
ST_LIVE_ORDERS: Final = 0
ST_MAX_LIVE_ORDERS: Final = 1
ST_ORDER_CAPACITY: Final = 2
ST_ARRIVALS: Final = 3  # adds so far; the last arrival number given
ST_CROSSED: Final = 4  # adds that left a book crossed or locked
ST_RESULTS: Final = 8  # + Result: operations with that outcome
ST_TYPES: Final = 32  # + ITCH type byte: messages of that type, SHORT ones included
STATS_SIZE: Final = ST_TYPES + 256

N_LOCATES: Final = 65536

Levels = npt.NDArray[np.void]


class Book(NamedTuple):
    """Books of all instruments. A kernel takes it as one argument of the type `BOOK`."""

    orders: npt.NDArray[np.void]  # ORDER_SLOT[slots], slots a power of two
    levels: Levels  # LEVEL[2 * n_instruments, level_capacity]; worst price first
    depth: npt.NDArray[np.int64]  # int64[2 * n_instruments]: prices in each row
    locate: npt.NDArray[np.int32]  # int32[65536]: stock_locate -> instrument, -1 not ours; the owner fills it
    stats: npt.NDArray[np.int64]  # int64[STATS_SIZE]
    event: npt.NDArray[np.int64]  # int64[EVENT_SIZE]: what the last operation did

    @classmethod
    def create(cls, n_instruments: int, order_capacity: int, level_capacity: int) -> Book:
        """Empty books for instruments 0..n-1, at most so many live orders in all and prices per side.

        Memory: 64 to 128 bytes per order and 32 per instrument and level, taken when first touched.
        """
        for name, value in (
            ("n_instruments", n_instruments),
            ("order_capacity", order_capacity),
            ("level_capacity", level_capacity),
        ):
            if not 0 < value < 1 << 30:
                msg = f"Book: {name}={value}; allowed is 1 to 2**30 - 1"
                raise ValueError(msg)
        slots = 1 << (2 * order_capacity - 1).bit_length()
        stats = np.zeros(STATS_SIZE, dtype=np.int64)
        stats[ST_ORDER_CAPACITY] = order_capacity
        return cls(
            np.zeros(slots, dtype=ORDER_SLOT),
            np.zeros((2 * n_instruments, level_capacity), dtype=LEVEL),
            np.zeros(2 * n_instruments, dtype=np.int64),
            np.full(N_LOCATES, -1, dtype=np.int32),
            stats,
            np.zeros(EVENT_SIZE, dtype=np.int64),
        )

    def side(self, instrument: int, side: Side, max_levels: int | None = None) -> Levels:
        """Depth of one side, a copy, best price first: LEVEL[<= max_levels]."""
        row = 2 * instrument + side - 1
        best_first = self.levels[row, : self.depth[row]][::-1]
        return best_first[:max_levels].copy()

    def bbo(self, instrument: int) -> tuple[int, int, int, int]:
        """(bid_ticks, bid_lots, ask_ticks, ask_lots); NO_PRICE_TICKS and 0 for an empty side."""
        out: list[int] = []
        for side in Side:
            top = self.side(instrument, side, 1)
            out += [int(top[0]["price_ticks"]), int(top[0]["lots"])] if len(top) else [NO_PRICE_TICKS, 0]
        return out[0], out[1], out[2], out[3]

    @property
    def live_orders(self) -> int:
        """Orders in all books."""
        return int(self.stats[ST_LIVE_ORDERS])

    def results(self) -> dict[Result, int]:
        """How often each outcome was seen, those seen at all."""
        return {r: int(n) for r in Result if (n := self.stats[ST_RESULTS + r])}

    def message_counts(self) -> dict[str, int]:
        """Messages by type letter, those seen at all."""
        return {chr(t): int(n) for t in range(256) if (n := self.stats[ST_TYPES + t])}


#: Numba type of a `Book`, for the signature of a kernel: ``kernel(numba.int64(BOOK, numba.uint8[::1]))``.
BOOK: Final = numba.types.NamedTuple(
    (
        numba.from_dtype(ORDER_SLOT)[::1],
        numba.from_dtype(LEVEL)[:, ::1],
        numba.int64[::1],
        numba.int32[::1],
        numba.int64[::1],
        numba.int64[::1],
    ),
    Book,
)

_BUY = int(Side.BUY)
_SELL = int(Side.SELL)
_OK = int(Result.OK)
_UNKNOWN_ORDER = int(Result.UNKNOWN_ORDER)
_DUPLICATE_ORDER = int(Result.DUPLICATE_ORDER)
_ORDERS_FULL = int(Result.ORDERS_FULL)
_LEVELS_FULL = int(Result.LEVELS_FULL)
_BAD_QUANTITY = int(Result.BAD_QUANTITY)
_BAD_PRICE = int(Result.BAD_PRICE)
_BAD_REF = int(Result.BAD_REF)
_BAD_SIDE = int(Result.BAD_SIDE)
_OVER_REDUCED = int(Result.OVER_REDUCED)
_WRONG_INSTRUMENT = int(Result.WRONG_INSTRUMENT)
_UNKNOWN_INSTRUMENT = int(Result.UNKNOWN_INSTRUMENT)
_SHORT_MESSAGE = int(Result.SHORT_MESSAGE)
_UNKNOWN_TYPE = int(Result.UNKNOWN_TYPE)

_NEAR = 16  # levels from the best on that are searched one by one

# --- the order table -------------------------------------------------------------------------------------------


@inlined
def _home(ref, mask):
    # The exchange counts references up, so the live ones are mostly recent: keep neighbours together (cache lines and
    # pages), and fold the upper bits in for references that differ only there. No multiplication: it would scatter.
    folded = ref ^ ref >> 16
    return (folded ^ folded >> 32) & mask


@inlined
def find_order(book, ref):
    """Slot of an order; if there is none, -1 - (the empty slot where it would go)."""
    orders = book.orders
    mask = len(orders) - 1
    slot = _home(ref, mask)
    for _ in range(mask):  # at most half full: an empty slot comes long before
        found = orders[slot].ref
        if found == ref:
            return slot
        if found == 0:
            break
        slot = (slot + 1) & mask
    return -1 - slot


@inlined
def _free_slot(book, slot):
    """Empty a slot and move back what had to be stored behind it."""
    orders = book.orders
    mask = len(orders) - 1
    hole = slot
    other = slot
    for _ in range(mask):
        other = (other + 1) & mask
        ref = orders[other].ref
        if ref == 0:
            break
        if (other - _home(ref, mask)) & mask >= (other - hole) & mask:
            orders[hole] = orders[other]
            hole = other
    orders[hole].ref = 0
    book.stats[ST_LIVE_ORDERS] -= 1


# --- the price levels ------------------------------------------------------------------------------------------


@inlined
def _find_level(book, row, price_ticks):
    """Index of a price in its row; if it is not there, -1 - (where it belongs)."""
    levels = book.levels
    n = book.depth[row]
    sign = 1 - 2 * (row & 1)  # better is higher for bids (even rows), lower for offers
    near = max(n - _NEAR, 0)
    at = n - 1
    while at >= near:
        distance = (levels[row, at].price_ticks - price_ticks) * sign
        if distance <= 0:
            return at if distance == 0 else -2 - at
        at -= 1
    low = 0
    high = near
    while low < high:
        middle = (low + high) >> 1
        if (levels[row, middle].price_ticks - price_ticks) * sign < 0:
            low = middle + 1
        else:
            high = middle
    if low < near and levels[row, low].price_ticks == price_ticks:
        return low
    return -1 - low


@inlined
def _level_add(book, row, price_ticks, lots):
    """One more order at a price. False when the row is full."""
    levels = book.levels
    n = book.depth[row]
    at = _find_level(book, row, price_ticks)
    if at < 0:
        if n >= levels.shape[1]:
            return False
        at = -1 - at
        move = n
        while move > at:
            levels[row, move] = levels[row, move - 1]
            move -= 1
        levels[row, at].price_ticks = price_ticks
        levels[row, at].orders = 0
        levels[row, at].lots = 0
        n += 1
        book.depth[row] = n
    levels[row, at].orders += 1
    levels[row, at].lots += lots
    if at == n - 1:
        book.event[EV_BBO_CHANGED] = 1
    return True


@inlined
def _level_reduce(book, row, price_ticks, lots, orders):
    """Take lots, and `orders` (0 or 1) orders, off a price; a price without orders goes."""
    levels = book.levels
    n = book.depth[row]
    at = _find_level(book, row, price_ticks)
    if at < 0:  # cannot happen: every order has its level
        return
    if at == n - 1:
        book.event[EV_BBO_CHANGED] = 1
    if levels[row, at].orders <= orders:
        for move in range(at, n - 1):
            levels[row, move] = levels[row, move + 1]
        book.depth[row] = n - 1
    else:
        levels[row, at].orders -= orders
        levels[row, at].lots -= lots


@inlined
def best_ticks(book, instrument, side):
    """Best price of a side, NO_PRICE_TICKS if it is empty."""
    row = 2 * instrument + side - 1
    n = book.depth[row]
    return numba.int64(book.levels[row, n - 1].price_ticks) if n > 0 else NO_PRICE_TICKS


@inlined
def best_lots(book, instrument, side):
    """Displayed lots at the best price of a side, 0 if it is empty."""
    row = 2 * instrument + side - 1
    n = book.depth[row]
    return book.levels[row, n - 1].lots if n > 0 else 0


@inlined
def is_crossed(book, instrument):
    """Whether the best bid is not below the best offer (locked counts)."""
    bids = book.depth[2 * instrument]
    asks = book.depth[2 * instrument + 1]
    if bids == 0 or asks == 0:
        return False
    return book.levels[2 * instrument, bids - 1].price_ticks >= book.levels[2 * instrument + 1, asks - 1].price_ticks


# --- operations on orders: for kernels. They fill what they know into book.event and return a Result. ------------


@inlined
def _clear_event(book):
    event = book.event
    for i in range(EVENT_SIZE):
        event[i] = 0
    event[EV_INSTRUMENT] = -1
    event[EV_PRICE_TICKS] = NO_PRICE_TICKS
    event[EV_ORDER_PRICE_TICKS] = NO_PRICE_TICKS


@inlined
def insert_order(book, instrument, side, ref, price_ticks, lots):
    """Add an order at the tail of its price level; `instrument` must be one of the book."""
    if side not in (_BUY, _SELL):
        return _BAD_SIDE
    if lots <= 0 or lots > MAX_QTY_LOTS:
        return _BAD_QUANTITY
    if price_ticks <= 0 or price_ticks > MAX_PRICE_TICKS:
        return _BAD_PRICE
    if ref <= 0:
        return _BAD_REF
    slot = find_order(book, ref)
    if slot >= 0:
        return _DUPLICATE_ORDER
    stats = book.stats
    live = stats[ST_LIVE_ORDERS] + 1
    if live > stats[ST_ORDER_CAPACITY]:
        return _ORDERS_FULL
    row = 2 * instrument + side - 1
    if not _level_add(book, row, price_ticks, lots):
        return _LEVELS_FULL
    stats[ST_LIVE_ORDERS] = live
    stats[ST_MAX_LIVE_ORDERS] = max(stats[ST_MAX_LIVE_ORDERS], live)
    stats[ST_ARRIVALS] += 1
    slot = -1 - slot
    orders = book.orders
    orders[slot].ref = ref
    orders[slot].arrival = stats[ST_ARRIVALS]
    orders[slot].price_ticks = price_ticks
    orders[slot].lots = lots
    orders[slot].row = row
    if book.event[EV_BBO_CHANGED] and is_crossed(book, instrument):
        book.event[EV_CROSSED] = 1
        stats[ST_CROSSED] += 1
    return _OK


@inlined
def _find_live(book, instrument, ref):
    """Slot of a live order, described in the event; else minus the Result. `instrument` -1: whichever it is."""
    slot = find_order(book, ref) if ref > 0 else -1
    if slot < 0:
        return -_UNKNOWN_ORDER
    order = book.orders[slot]
    row = order.row
    if instrument >= 0 and row >> 1 != instrument:
        return -_WRONG_INSTRUMENT
    event = book.event
    event[EV_INSTRUMENT] = row >> 1
    event[EV_SIDE] = (row & 1) + 1
    event[EV_ORDER_PRICE_TICKS] = order.price_ticks
    event[EV_ORDER_LOTS] = order.lots
    event[EV_ARRIVAL] = order.arrival
    return slot


@inlined
def reduce_order(book, instrument, ref, lots):
    """Take lots off an order (executed or cancelled); at 0 it is gone."""
    slot = _find_live(book, instrument, ref)
    if slot < 0:
        return -slot
    if lots <= 0:
        book.event[EV_LEAVES_LOTS] = book.event[EV_ORDER_LOTS]
        return _BAD_QUANTITY
    order = book.orders[slot]
    leaves = order.lots - lots
    if leaves > 0:
        order.lots = leaves
        _level_reduce(book, order.row, order.price_ticks, lots, 0)
        book.event[EV_LEAVES_LOTS] = leaves
        return _OK
    _level_reduce(book, order.row, order.price_ticks, order.lots, 1)
    _free_slot(book, slot)
    return _OK if leaves == 0 else _OVER_REDUCED


@inlined
def remove_order(book, instrument, ref):
    """Remove an order."""
    slot = _find_live(book, instrument, ref)
    if slot < 0:
        return -slot
    order = book.orders[slot]
    _level_reduce(book, order.row, order.price_ticks, order.lots, 1)
    _free_slot(book, slot)
    return _OK


@inlined
def replace_order(book, instrument, ref, new_ref, price_ticks, lots):
    """Remove an order and add another one of the same instrument and side, at the tail of its price level."""
    slot = _find_live(book, instrument, ref)
    if slot < 0:
        return -slot
    order = book.orders[slot]
    row = numba.int64(order.row)
    owner = row >> 1
    side = (row & 1) + 1
    ticks = best_ticks(book, owner, side)
    size = best_lots(book, owner, side)
    _level_reduce(book, row, order.price_ticks, order.lots, 1)
    _free_slot(book, slot)
    result = insert_order(book, owner, side, new_ref, price_ticks, lots)
    same = best_ticks(book, owner, side) == ticks and best_lots(book, owner, side) == size
    book.event[EV_BBO_CHANGED] = 0 if same else 1
    return result


# --- ITCH --------------------------------------------------------------------------------------------------------

_A, _F, _E, _C, _X, _D, _U, _P, _Q, _B, _S, _H, _OP_HALT = (ord(letter) for letter in "AFECXDUPQBSHh")


@inlined
def apply_message(book, buf, at, length):
    """Apply the ITCH message ``buf[at:at + length]``; returns its Result, and says in ``book.event`` what it was.

    For all types the event has EV_TYPE, EV_LOCATE, EV_EXCH_NS and EV_INSTRUMENT; those which concern no order or
    print have nothing more but perhaps EV_CODE. A print of an unknown order is a print all the same, without a
    price in the case of ``E``.
    """
    result = _apply(book, buf, at, length)
    book.stats[ST_RESULTS + result] += 1
    return result


@inlined
def _apply(book, buf, at, length):
    _clear_event(book)
    if length <= 0:
        return _SHORT_MESSAGE
    event = book.event
    kind = numba.int64(buf[at])
    event[EV_TYPE] = kind
    book.stats[ST_TYPES + kind] += 1
    size = LENGTHS[kind]
    if size == 0:
        return _UNKNOWN_TYPE
    if length < size:
        return _SHORT_MESSAGE
    locate = be16(buf, at + 1)
    event[EV_LOCATE] = locate
    event[EV_EXCH_NS] = be48(buf, at + 5)
    instrument = numba.int64(book.locate[locate])
    event[EV_INSTRUMENT] = instrument
    if kind == _S:
        event[EV_CODE] = buf[at + 11]
        return _OK
    if instrument < 0 or 2 * instrument >= len(book.depth):
        event[EV_INSTRUMENT] = -1
        return _UNKNOWN_INSTRUMENT
    if kind in (_A, _F):
        side = _BUY if buf[at + 19] == 66 else _SELL if buf[at + 19] == 83 else 0
        ref = be64(buf, at + 11)
        lots = be32(buf, at + 20)
        price = be32(buf, at + 32)
        event[EV_REF] = ref
        event[EV_SIDE] = side
        event[EV_PRICE_TICKS] = price
        event[EV_LOTS] = lots
        result = insert_order(book, instrument, side, ref, price, lots)
        if result == _OK:
            event[EV_LEAVES_LOTS] = lots
            event[EV_ARRIVAL] = book.stats[ST_ARRIVALS]
        return result
    if kind == _D:
        ref = be64(buf, at + 11)
        event[EV_REF] = ref
        result = remove_order(book, instrument, ref)
        event[EV_LOTS] = event[EV_ORDER_LOTS]
        return result
    if kind in (_E, _C, _X):
        ref = be64(buf, at + 11)
        lots = be32(buf, at + 19)
        event[EV_REF] = ref
        event[EV_LOTS] = lots
        result = reduce_order(book, instrument, ref, lots)
        if kind == _E:
            event[EV_MATCH] = be64(buf, at + 23)
            event[EV_PRICE_TICKS] = event[EV_ORDER_PRICE_TICKS]
            event[EV_PRINT] = 1
        elif kind == _C:
            event[EV_MATCH] = be64(buf, at + 23)
            event[EV_PRICE_TICKS] = be32(buf, at + 32)
            event[EV_PRINT] = 1 if buf[at + 31] == 89 else 0
        return result
    if kind == _U:
        ref = be64(buf, at + 11)
        new_ref = be64(buf, at + 19)
        lots = be32(buf, at + 27)
        price = be32(buf, at + 31)
        event[EV_REF] = ref
        event[EV_NEW_REF] = new_ref
        event[EV_LOTS] = lots
        event[EV_PRICE_TICKS] = price
        result = replace_order(book, instrument, ref, new_ref, price, lots)
        if result == _OK:
            event[EV_LEAVES_LOTS] = lots
        return result
    if kind == _P:
        event[EV_REF] = be64(buf, at + 11)
        event[EV_SIDE] = _BUY if buf[at + 19] == 66 else _SELL
        event[EV_LOTS] = be32(buf, at + 20)
        event[EV_PRICE_TICKS] = be32(buf, at + 32)
        event[EV_MATCH] = be64(buf, at + 36)
        event[EV_PRINT] = 1
    elif kind == _Q:
        event[EV_LOTS] = be64(buf, at + 11)
        event[EV_PRICE_TICKS] = be32(buf, at + 27)
        event[EV_MATCH] = be64(buf, at + 31)
        event[EV_CODE] = buf[at + 39]
        event[EV_PRINT] = 1
    elif kind == _B:
        event[EV_MATCH] = be64(buf, at + 11)
    elif kind == _H:
        event[EV_CODE] = buf[at + 19]
    elif kind == _OP_HALT:
        event[EV_CODE] = buf[at + 20]
    return _OK


@kernel(numba.int64(BOOK, numba.uint8[::1], numba.int64, numba.int64))
def apply_one(book, buf, at, length):
    """`apply_message`, to be called from Python."""
    return apply_message(book, buf, at, length)


@kernel(numba.int64(BOOK, numba.uint8[::1], numba.int64, numba.int64))
def apply_blocks(book, buf, at, n_messages):
    """Apply `n_messages`, each behind its u16 length, from byte `at` on; returns the byte after the last.

    For a recorded file or the blocks of a packet, checked by `itch.count_frames` or `itch.check_packet` before.
    """
    for _ in range(n_messages):
        length = be16(buf, at)
        apply_message(book, buf, at + 2, length)
        at += 2 + length
    return at


# --- the same operations for Python: tests, tools, and the simulated exchange's own orders -----------------------


@inlined
def _counted(book, result):
    book.stats[ST_RESULTS + result] += 1
    return result


@inlined
def _ours(book, instrument):
    return instrument >= 0 and 2 * instrument < len(book.depth)


@kernel(numba.int64(BOOK, numba.int64, numba.int64, numba.int64, numba.int64, numba.int64))
def add(book, instrument, side, ref, price_ticks, lots):
    """Add an order; returns a Result."""
    _clear_event(book)
    if not _ours(book, instrument):
        return _counted(book, _UNKNOWN_INSTRUMENT)
    return _counted(book, insert_order(book, instrument, side, ref, price_ticks, lots))


@kernel(numba.int64(BOOK, numba.int64, numba.int64))
def reduce(book, ref, lots):
    """Take lots off an order, executed or cancelled; returns a Result."""
    _clear_event(book)
    return _counted(book, reduce_order(book, -1, ref, lots))


@kernel(numba.int64(BOOK, numba.int64))
def remove(book, ref):
    """Remove an order; returns a Result."""
    _clear_event(book)
    return _counted(book, remove_order(book, -1, ref))


@kernel(numba.int64(BOOK, numba.int64, numba.int64, numba.int64, numba.int64))
def replace(book, ref, new_ref, price_ticks, lots):
    """Remove an order and add another of the same instrument and side; returns a Result."""
    _clear_event(book)
    return _counted(book, replace_order(book, -1, ref, new_ref, price_ticks, lots))


@kernel(numba.int64(BOOK, numba.int64))
def lots_ahead(book, ref):
    """Lots before an order in the queue of its price, -1 if it is unknown. Walks the whole order table."""
    slot = find_order(book, ref) if ref > 0 else -1
    if slot < 0:
        return -1
    orders = book.orders
    row = orders[slot].row
    price = orders[slot].price_ticks
    arrival = orders[slot].arrival
    ahead = 0
    for i in range(len(orders)):
        if orders[i].ref and orders[i].row == row and orders[i].price_ticks == price and orders[i].arrival < arrival:
            ahead += orders[i].lots
    return ahead
