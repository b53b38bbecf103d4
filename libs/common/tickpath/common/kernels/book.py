"""Full-depth books by order, for N instruments, in flat arrays of planned size; one apply per ITCH message.

Three tables, all in the `Book`:

- *orders*: open addressing by pairs of slots (one cache line), at most half full, kept without gaps when an order
  goes. Key is the order reference of the exchange, a positive int64, unique over all instruments.
- *levels*: one pool of price levels. Each side of an instrument (a *row*) has a chunk of it, of 8, 16, 32 ... levels,
  sorted with the **best price at the end**, so that work near the top moves few bytes and the best bid and offer are
  the last element.
- *rows*: where the chunk of each row begins, how large it is, and how many levels are in it. A row that is full moves
  to a chunk of twice the size, one that has shrunk to a quarter to one of half the size; chunks without a row are
  kept in one list for each size.

Nothing here allocates, raises or loops without a bound. Every operation returns a `Result` and counts it in
``book.stats``; what it did is in ``book.event`` (indices ``EV_*``), valid until the next operation. Prices are ticks,
quantities lots; sides are those of `records.Side`.

A message that contradicts the book never stops it: an unknown or duplicate order, a wrong quantity or a table that is
full changes nothing but the count, with two exceptions that follow the message as far as possible: an execution or
cancel of more than there is removes the order (`Result.OVER_REDUCED`), and a replace removes the old order even
when the new one is refused.

A kernel that works message by message calls `apply_message` (inlined), and before that, for a message a few places
further on, `prefetch_message`; `apply_blocks` applies a whole buffer.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tickpath.common.jit import always_inlined, inlined, kernel
from tickpath.common.kernels.itch import LENGTHS, be16, be32, be48, be64
from tickpath.common.records import MAX_PRICE_TICKS, MAX_QTY_LOTS, NO_PRICE_TICKS, Side

# Moves the few levels between a price and the best one; a loop over them costs more.
_memmove = types.ExternalFunction("memmove", types.intp(types.intp, types.intp, types.intp))


@intrinsic
def prefetch(_typing, array, index):
    """Ask for the cache line where element `index` of a one-dimensional array begins; it must be an element."""

    def generate(context, builder, signature, arguments):
        items = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(items.data, [arguments[1]]), ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


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
        ("lots", "<i8"),  # displayed quantity; in the first level of a chunk that nobody has: the next such chunk
    ]
)

#: One side of an instrument, 16 bytes: levels[start : start + depth], worst price first.
ROW: Final = np.dtype(
    [
        ("start", "<i4"),
        ("depth", "<i4"),
        ("size", "<i4"),  # levels in its chunk, a power of two
        ("pad", "<i4"),
    ]
)


class Result(IntEnum):
    """Outcome of one operation."""

    OK = 0
    UNKNOWN_ORDER = 1  # no live order has this reference
    DUPLICATE_ORDER = 2  # an add with the reference of a live order
    ORDERS_FULL = 3  # the order table holds as many as planned
    LEVELS_FULL = 4  # the side holds as many prices as planned, or the pool is used up
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
ST_LEVEL_CAPACITY: Final = 5  # most prices of a row
ST_LEVELS_TAKEN: Final = 6  # of the pool, in chunks that rows have
ST_MAX_LEVELS_TAKEN: Final = 7
ST_RESULTS: Final = 8  # + Result: operations with that outcome
ST_TYPES: Final = 32  # + ITCH type byte: messages of that type, SHORT ones included
STATS_SIZE: Final = ST_TYPES + 256

N_LOCATES: Final = 65536

#: Levels of the smallest chunk; every row begins with one.
MIN_CHUNK: Final = 8
_MIN_CLASS = MIN_CHUNK.bit_length() - 1

# Indices of book.free, int64[FREE_SIZE].
FREE_FRESH: Final = 0  # first level of the pool that was never in a chunk
# _MIN_CLASS .. 31: 1 + first level of the first free chunk of 2**i levels, 0 if there is none
FREE_SIZE: Final = 32

Levels = npt.NDArray[np.void]


def pool_levels(n_instruments: int, order_capacity: int, level_capacity: int) -> int:
    """Levels of the pool of a book.

    16 for each instrument to begin with, and twice the order capacity, rounded up to a power of two, for rows that
    grow: enough for half as many prices as orders however they are spread, for as many as orders in one row.
    Never more than all rows at their most, with the smaller chunks that each had before.
    """
    most = max(MIN_CHUNK, 1 << (level_capacity - 1).bit_length())
    growth = max(MIN_CHUNK, 2 << (order_capacity - 1).bit_length())
    return min(4 * n_instruments * most, 2 * n_instruments * MIN_CHUNK + growth)


def _table(n: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Zeros, beginning with a cache line: no element of 32 bytes lies in two.

    Written, so that the system gives all of the memory now and not page by page while messages wait: also where it
    may not be locked.
    """
    raw = np.empty(n * dtype.itemsize + 64, dtype=np.uint8)
    raw.fill(0)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + n * dtype.itemsize].view(dtype)


class Book(NamedTuple):
    """Books of all instruments. A kernel takes it as one argument of the type `BOOK`."""

    orders: npt.NDArray[np.void]  # ORDER_SLOT[slots], slots a power of two
    levels: Levels  # LEVEL[pool_levels()]
    rows: npt.NDArray[np.void]  # ROW[2 * n_instruments]
    free: npt.NDArray[np.int64]  # int64[FREE_SIZE]: what of the pool no row has
    locate: npt.NDArray[np.int32]  # int32[65536]: stock_locate -> instrument, -1 not ours; the owner fills it
    stats: npt.NDArray[np.int64]  # int64[STATS_SIZE]
    event: npt.NDArray[np.int64]  # int64[EVENT_SIZE]: what the last operation did

    @classmethod
    def create(cls, n_instruments: int, order_capacity: int, level_capacity: int) -> Book:
        """Empty books for instruments 0..n-1, at most so many live orders in all and prices per side.

        Memory: 64 to 128 bytes per order, and 16 for each of `pool_levels`. Raises ValueError.
        """
        for name, value in (
            ("n_instruments", n_instruments),
            ("order_capacity", order_capacity),
            ("level_capacity", level_capacity),
        ):
            if not 0 < value < 1 << 30:
                msg = f"Book: {name}={value}; allowed is 1 to 2**30 - 1"
                raise ValueError(msg)
        pool = pool_levels(n_instruments, order_capacity, level_capacity)
        if pool >= 1 << 31:
            msg = f"Book: {n_instruments} instruments, {order_capacity} orders: {pool} levels; allowed is 2**31 - 1"
            raise ValueError(msg)
        stats = np.zeros(STATS_SIZE, dtype=np.int64)
        stats[ST_ORDER_CAPACITY] = order_capacity
        stats[ST_LEVEL_CAPACITY] = level_capacity
        book = cls(
            _table(1 << (2 * order_capacity - 1).bit_length(), ORDER_SLOT),
            _table(pool, LEVEL),
            _table(2 * n_instruments, ROW),
            np.zeros(FREE_SIZE, dtype=np.int64),
            np.full(N_LOCATES, -1, dtype=np.int32),
            stats,
            np.zeros(EVENT_SIZE, dtype=np.int64),
        )
        clear(book)
        return book

    def side(self, instrument: int, side: Side, max_levels: int | None = None) -> Levels:
        """Depth of one side, a copy, best price first: LEVEL[<= max_levels]."""
        start, depth, _, _ = self.rows[2 * instrument + side - 1].tolist()
        best_first = self.levels[start : start + depth][::-1]
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
        numba.from_dtype(LEVEL)[::1],
        numba.from_dtype(ROW)[::1],
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

_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as int64
_NEAR = 16  # levels from the best on that are searched one by one
_LEVEL_BYTES = LEVEL.itemsize
_AHEAD = 6  # messages: far enough for memory to answer, not more than it takes at once

# --- the order table -------------------------------------------------------------------------------------------


@always_inlined
def _home(ref, mask):
    """First slot of the pair where an order belongs."""
    # The exchange counts references up: sixteen neighbours are kept together, in half a kilobyte, and scattered as a
    # whole. If a run of orders that live all day lay in one piece, later ones would have to go past all of it.
    mixed = (ref >> 4) * _GOLDEN
    return ((mixed ^ mixed >> 32) << 4 | ref & 15) & mask & ~1


@always_inlined
def find_order(book, ref):
    """Slot of an order; if there is none, -1 - (the empty slot where it would go)."""
    orders = book.orders
    mask = len(orders) - 1
    pair = _home(ref, mask)
    for _ in range(mask):  # at most half full: a pair with an empty slot comes long before
        first = orders[pair].ref
        if first == ref:
            return pair
        second = orders[pair + 1].ref
        if second == ref:
            return pair + 1
        if first == 0:
            return -1 - pair
        if second == 0:
            return -2 - pair
        pair = (pair + 2) & mask
    return -1


@always_inlined
def _free_slot(book, slot):
    """Empty a slot. A pair that was full gets back what had to go further on because of that."""
    orders = book.orders
    mask = len(orders) - 1
    hole = slot
    other = slot & ~1
    for _ in range(mask):
        if orders[hole ^ 1].ref == 0:  # the pair was not full: nothing went past it
            break
        other = (other + 2) & mask
        way = (other - (hole & ~1)) & mask
        first = orders[other].ref
        second = orders[other + 1].ref
        if first != 0 and (other - _home(first, mask)) & mask >= way:
            orders[hole] = orders[other]
            hole = other
        elif second != 0 and (other - _home(second, mask)) & mask >= way:
            orders[hole] = orders[other + 1]
            hole = other + 1
        elif first == 0 or second == 0:
            break
    orders[hole].ref = 0
    book.stats[ST_LIVE_ORDERS] -= 1


# --- the pool of levels ----------------------------------------------------------------------------------------


@always_inlined
def _class_of(size):
    """Logarithm of the size of a chunk."""
    class_ = _MIN_CLASS
    while 1 << class_ < size:
        class_ += 1
    return class_


@inlined
def _move_row(levels, rows, free, stats, row, size):
    """Move a row to a chunk of `size` levels. False when there is none."""
    wanted = _class_of(size)
    found = wanted
    while found < FREE_SIZE and free[found] == 0:
        found += 1
    if found > wanted and free[FREE_FRESH] + size <= len(levels):
        target = free[FREE_FRESH]
        free[FREE_FRESH] = target + size
    elif found == FREE_SIZE:
        return False
    else:
        target = free[found] - 1
        free[found] = levels[target].lots
        while found > wanted:  # cut a larger one: its head is ours
            found -= 1
            tail = target + (1 << found)
            levels[tail].lots = free[found]
            free[found] = tail + 1
    start = numba.int64(rows[row].start)
    for i in range(rows[row].depth):
        levels[target + i] = levels[start + i]
    old = numba.int64(rows[row].size)
    left = _class_of(old)
    levels[start].lots = free[left]
    free[left] = start + 1
    rows[row].start = target
    rows[row].size = size
    stats[ST_LEVELS_TAKEN] += size - old
    stats[ST_MAX_LEVELS_TAKEN] = max(stats[ST_MAX_LEVELS_TAKEN], stats[ST_LEVELS_TAKEN])
    return True


# --- the price levels ------------------------------------------------------------------------------------------


@always_inlined
def find_level(book, row, price_ticks):
    """Place of a price in the pool; if it is not there, -1 - (where it belongs)."""
    levels = book.levels
    first = numba.int64(book.rows[row].start)
    end = first + book.rows[row].depth
    flip = -numba.int64(row & 1)  # better is higher for bids (even rows), lower for offers: those are turned around
    key = price_ticks ^ flip
    near = max(end - _NEAR, first)
    at = end - 1
    while at >= near:
        found = levels[numba.uint64(at)].price_ticks ^ flip
        if found <= key:
            return at if found == key else -2 - at
        at -= 1
    low = first
    high = near
    while low < high:
        middle = (low + high) >> 1
        if (levels[middle].price_ticks ^ flip) < key:
            low = middle + 1
        else:
            high = middle
    if low < near and levels[low].price_ticks == price_ticks:
        return low
    return -1 - low


@always_inlined
def _level_add(book, row, price_ticks, lots):
    """One more order at a price. False when there is no room for the price."""
    levels = book.levels
    rows = book.rows
    at = find_level(book, row, price_ticks)
    end = numba.int64(rows[row].start) + rows[row].depth
    if at >= 0:
        levels[at].orders += 1
        levels[at].lots += lots
    else:
        at = -1 - at
        depth = numba.int64(rows[row].depth)
        if depth >= book.stats[ST_LEVEL_CAPACITY]:
            return False
        if depth == rows[row].size:
            start = numba.int64(rows[row].start)
            if not _move_row(levels, rows, book.free, book.stats, row, 2 * depth):
                return False
            at += rows[row].start - start
            end += rows[row].start - start
        if at < end:
            place = levels.ctypes.data + _LEVEL_BYTES * at
            _memmove(place + _LEVEL_BYTES, place, _LEVEL_BYTES * (end - at))
        levels[at].price_ticks = price_ticks
        levels[at].orders = 1
        levels[at].lots = lots
        rows[row].depth = depth + 1
        end += 1
    # Flags are computed, not branched on: nobody could foresee them.
    event = book.event
    event[EV_BBO_CHANGED] |= at == end - 1
    other = rows[row ^ 1]
    if other.depth > 0:
        flip = -numba.int64(row & 1)
        best = levels[end - 1].price_ticks ^ flip
        crossed = event[EV_BBO_CHANGED] & (best >= levels[other.start + other.depth - 1].price_ticks ^ flip)
        event[EV_CROSSED] = crossed
        book.stats[ST_CROSSED] += crossed
    return True


@always_inlined
def _level_reduce(book, row, price_ticks, lots, orders):
    """Take lots, and `orders` (0 or 1) orders, off a price; a price without orders goes."""
    levels = book.levels
    rows = book.rows
    at = find_level(book, row, price_ticks)
    if at < 0:  # cannot happen: every order has its level
        return
    depth = numba.int64(rows[row].depth)
    last = numba.int64(rows[row].start) + depth - 1
    book.event[EV_BBO_CHANGED] = at == last
    if levels[at].orders > orders:
        levels[at].orders -= orders
        levels[at].lots -= lots
        return
    if at < last:
        place = levels.ctypes.data + _LEVEL_BYTES * at
        _memmove(place, place + _LEVEL_BYTES, _LEVEL_BYTES * (last - at))
    rows[row].depth = depth - 1
    size = numba.int64(rows[row].size)
    if 4 * depth <= size and size > MIN_CHUNK:
        _move_row(levels, rows, book.free, book.stats, row, size >> 1)


@always_inlined
def n_levels(book, row):
    """Prices in a row, 2 * instrument + side - 1."""
    return numba.int64(book.rows[row].depth)


@always_inlined
def level_from_best(book, row, k):
    """Place in ``book.levels`` of level k of a row, the best being 0; k < `n_levels`."""
    return numba.int64(book.rows[row].start) + book.rows[row].depth - 1 - k


@always_inlined
def level_lots(book, row, price_ticks):
    """Displayed lots at a price of a row, 0 if there are none."""
    at = find_level(book, row, price_ticks)
    return book.levels[at].lots if at >= 0 else 0


@always_inlined
def best_ticks(book, instrument, side):
    """Best price of a side, NO_PRICE_TICKS if it is empty."""
    row = book.rows[2 * instrument + side - 1]
    n = row.depth
    return numba.int64(book.levels[row.start + n - 1].price_ticks) if n > 0 else NO_PRICE_TICKS


@always_inlined
def best_lots(book, instrument, side):
    """Displayed lots at the best price of a side, 0 if it is empty."""
    row = book.rows[2 * instrument + side - 1]
    n = row.depth
    return book.levels[row.start + n - 1].lots if n > 0 else 0


@always_inlined
def is_crossed(book, instrument):
    """Whether the best bid is not below the best offer (locked counts)."""
    bids = book.rows[2 * instrument]
    asks = book.rows[2 * instrument + 1]
    if bids.depth == 0 or asks.depth == 0:
        return False
    bid = book.levels[bids.start + bids.depth - 1].price_ticks
    return bid >= book.levels[asks.start + asks.depth - 1].price_ticks


# --- operations on orders: for kernels. They fill what they know into book.event and return a Result. ------------


@always_inlined
def _clear_event(book):
    event = book.event
    for i in range(EVENT_SIZE):
        event[i] = 0
    event[EV_INSTRUMENT] = -1
    event[EV_PRICE_TICKS] = NO_PRICE_TICKS
    event[EV_ORDER_PRICE_TICKS] = NO_PRICE_TICKS


@always_inlined
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
    return _OK


@always_inlined
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


@always_inlined
def _take_off(book, instrument, ref, lots, whole):
    """Take `lots` off an order, or, if `whole`, all that it has; at 0 it is gone."""
    slot = _find_live(book, instrument, ref)
    if slot < 0:
        return -slot
    order = book.orders[slot]
    had = numba.int64(order.lots)
    off = had if whole else lots
    if off <= 0:
        book.event[EV_LEAVES_LOTS] = had
        return _BAD_QUANTITY
    leaves = had - off
    if leaves > 0:
        order.lots = leaves
        _level_reduce(book, order.row, order.price_ticks, off, 0)
        book.event[EV_LEAVES_LOTS] = leaves
        return _OK
    _level_reduce(book, order.row, order.price_ticks, had, 1)
    _free_slot(book, slot)
    return _OK if leaves == 0 else _OVER_REDUCED


@always_inlined
def reduce_order(book, instrument, ref, lots):
    """Take lots off an order (executed or cancelled); at 0 it is gone."""
    return _take_off(book, instrument, ref, lots, False)


@always_inlined
def remove_order(book, instrument, ref):
    """Remove an order."""
    return _take_off(book, instrument, ref, 0, True)


@always_inlined
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


@always_inlined
def prefetch_message(book, buf, at, length):
    """Ask for what `apply_message` of a later message will need. It changes nothing, whatever the bytes are."""
    if length >= 19:
        prefetch(book.orders, _home(be64(buf, at + 11), len(book.orders) - 1))


@always_inlined
def apply_message(book, buf, at, length):
    """Apply the ITCH message ``buf[at:at + length]``; returns its Result, and says in ``book.event`` what it was.

    For all types the event has EV_TYPE, EV_LOCATE, EV_EXCH_NS and EV_INSTRUMENT; those which concern no order or
    print have nothing more but perhaps EV_CODE. A print of an unknown order is a print all the same, without a
    price in the case of ``E``.
    """
    result = _apply(book, buf, at, length)
    book.stats[ST_RESULTS + result] += 1
    return result


@always_inlined
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
    if instrument < 0 or 2 * instrument >= len(book.rows):
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
    if kind in (_D, _E, _C, _X):
        # One path for all four, and values chosen, not branched on: nobody could foresee which comes next. What is
        # read for the lots of a D, which has none, lies inside of it.
        ref = be64(buf, at + 11)
        whole = kind == _D
        lots = be32(buf, at + (15 if whole else 19))
        event[EV_REF] = ref
        result = _take_off(book, instrument, ref, lots, whole)
        event[EV_LOTS] = event[EV_ORDER_LOTS] if whole else lots
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
    ahead = at
    for i in range(-_AHEAD, n_messages):
        if i + _AHEAD < n_messages:
            length = be16(buf, ahead)
            prefetch_message(book, buf, ahead + 2, length)
            ahead += 2 + length
        if i >= 0:
            length = be16(buf, at)
            apply_message(book, buf, at + 2, length)
            at += 2 + length
    return at


@always_inlined
def _ours(book, instrument):
    return instrument >= 0 and 2 * instrument < len(book.rows)


# --- all at once -------------------------------------------------------------------------------------------------


@always_inlined
def is_empty(book, instrument):
    """Whether an instrument has no order."""
    return book.rows[2 * instrument].depth == 0 and book.rows[2 * instrument + 1].depth == 0


@always_inlined
def clear_all(book):
    """Empty all books. What was counted of messages and results stays, and the running number of arrivals."""
    _clear_event(book)
    orders = book.orders
    rows = book.rows
    stats = book.stats
    if stats[ST_LIVE_ORDERS] > 0:
        for slot in range(len(orders)):
            orders[slot].ref = 0
    stats[ST_LIVE_ORDERS] = 0
    for row in range(len(rows)):
        rows[row].start = row * MIN_CHUNK
        rows[row].depth = 0
        rows[row].size = MIN_CHUNK
    for i in range(FREE_SIZE):
        book.free[i] = 0
    taken = len(rows) * MIN_CHUNK
    book.free[FREE_FRESH] = taken
    stats[ST_LEVELS_TAKEN] = taken
    stats[ST_MAX_LEVELS_TAKEN] = max(stats[ST_MAX_LEVELS_TAKEN], taken)


@always_inlined
def clear_one(book, instrument):
    """Empty the book of one instrument of the book. Walks the order table until it has seen its orders."""
    _clear_event(book)
    orders = book.orders
    rows = book.rows
    left = 0
    for row in range(2 * instrument, 2 * instrument + 2):
        for k in range(rows[row].depth):
            left += book.levels[level_from_best(book, row, k)].orders
        rows[row].depth = 0
        if rows[row].size > MIN_CHUNK:
            _move_row(book.levels, rows, book.free, book.stats, row, MIN_CHUNK)
    slot = 0
    for _ in range(2 * len(orders)):
        if left == 0 or slot == len(orders):
            break
        if orders[slot].ref != 0 and orders[slot].row >> 1 == instrument:
            _free_slot(book, slot)  # may bring another order here: look again
            left -= 1
        else:
            slot += 1


@kernel(numba.void(BOOK))
def clear(book):
    """`clear_all`, to be called from Python."""
    clear_all(book)


@kernel(numba.int64(BOOK, numba.int64))
def clear_instrument(book, instrument):
    """`clear_one`, to be called from Python; OK, or UNKNOWN_INSTRUMENT."""
    if not _ours(book, instrument):
        return _UNKNOWN_INSTRUMENT
    clear_one(book, instrument)
    return _OK


# --- looking inside ----------------------------------------------------------------------------------------------


@kernel(numba.int64(BOOK, numba.int64, numba.int64, numba.from_dtype(LEVEL)[::1]))
def depth(book, instrument, side, out):
    """Copy the best levels of a side to `out`, LEVEL[k], best first; how many, 0 for what is not in the book."""
    if not _ours(book, instrument) or side not in (_BUY, _SELL):
        return 0
    row = 2 * instrument + side - 1
    n = min(len(out), n_levels(book, row))
    for k in range(n):
        out[k] = book.levels[level_from_best(book, row, k)]
    return n


@always_inlined
def _ahead(book, ref, in_lots):
    slot = find_order(book, ref) if ref > 0 else -1
    if slot < 0:
        return -1
    orders = book.orders
    row = orders[slot].row
    price = orders[slot].price_ticks
    arrival = orders[slot].arrival
    others = book.levels[find_level(book, row, price)].orders - 1
    ahead = 0
    for i in range(len(orders)):
        if others == 0:
            break
        if orders[i].ref and i != slot and orders[i].row == row and orders[i].price_ticks == price:
            others -= 1
            if orders[i].arrival < arrival:
                ahead += orders[i].lots if in_lots else 1
    return ahead


@kernel(numba.int64(BOOK, numba.int64))
def lots_ahead(book, ref):
    """Lots before an order in the queue of its price, -1 if it is unknown.

    Walks the order table until it has seen all orders of the price: for questions, not for every message.
    """
    return _ahead(book, ref, True)


@kernel(numba.int64(BOOK, numba.int64))
def orders_ahead(book, ref):
    """Orders before an order in the queue of its price, -1 if it is unknown. As `lots_ahead`."""
    return _ahead(book, ref, False)


# --- the same operations for Python: tests, tools, and the simulated exchange's own orders -----------------------


@always_inlined
def _counted(book, result):
    book.stats[ST_RESULTS + result] += 1
    return result


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
