"""The matching engine: orders of clients against the book of the played market data.

The played book (`tickpath.common.kernels.book`) is what the tape says, whatever the clients do. Clients' orders trade
with it and not with each other:

- An incoming order takes displayed size, best price first, up to its limit. What it took is remembered per level, and
  no lot of the level can be taken again; only lots that are added later can. When the level shrinks, the lots that
  went are taken to be those that clients had.
- What rests stands behind all lots displayed at its price. ``ahead_lots`` is exactly what is left of them:
  executions, cancels, deletes and replaces of orders that were there before shorten the queue, of later ones not.
- A resting order is filled, at its own price and with at most the lots of the played message, when

  | played message | of | fills when the resting order's price is |
  | --- | --- | --- |
  | E, C printable | an order on its side | better; or the same, nothing is ahead, and the executed order came later |
  | A, F, U | an order on the other side | better; or the same, and nothing is ahead |
  | P | hidden interest | better; or the same, and nothing is ahead |

  Several clients' orders share the lots by price, then time.

All state is in an `Exchange`; no kernel allocates, and every loop is bounded. Prices are in 1/10000 (price4).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tickpath.common.jit import always_inlined, kernel
from tickpath.common.kernels.book import (
    BOOK,
    EV_ARRIVAL,
    EV_CODE,
    EV_EXCH_NS,
    EV_INSTRUMENT,
    EV_LEAVES_LOTS,
    EV_LOTS,
    EV_ORDER_LOTS,
    EV_ORDER_PRICE_TICKS,
    EV_PRICE_TICKS,
    EV_PRINT,
    EV_SIDE,
    EV_TYPE,
    ST_ARRIVALS,
    Book,
    Result,
    apply_message,
    level_from_best,
    level_lots,
    n_levels,
    prefetch_message,
)
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.ids import cause_seq_of, read_cl_ord_id
from tickpath.common.records import Side
from tickpath.sim.layout import ORDER_CAPACITY, VENUE_ORDER, Counter, OrderStatus

#: One execution of a client's order, for the report.
FILL: Final = np.dtype(
    [
        ("slot", "<i8"),  # of the order
        ("lots", "<i8"),
        ("price4", "<i8"),
        ("match", "<i8"),  # match number
        ("flag", "<i8"),  # liquidity: ASCII A added, R removed
    ]
)

#: Lots of a played level that clients have taken; open addressing, key 0 is an empty slot.
TAKEN: Final = np.dtype([("key", "<i8"), ("lots", "<i8")])

# Fields of ``state``, int64[STATE_SIZE].
EXCH_NS, ORDER_REF, MATCH, N_FILLS, CLOSED, N_TAKEN, REMAINDER = range(7)
STATE_SIZE: Final = 7

#: Bits of ``halted``.
HALT_TRADING, HALT_OPERATIONAL = 1, 2

FILL_CAPACITY: Final = 1 << 14
_TAKEN_SLOTS: Final = 1 << 14
SEEN_CAPACITY: Final = 1 << 20

_PROBES = 64
_AHEAD = 6  # messages of the tape: memory has answered until their turn comes
_LAST_NS = 86_400_000_000_000 - 1
_ANY_ARRIVAL = 2**62
_GOLDEN = -7046029254386353131

Ints = npt.NDArray[np.int64]


class Exchange(NamedTuple):
    """All state of the venue; n is the number of instruments."""

    book: Book  # of the played market data
    orders: npt.NDArray[Any]  # VENUE_ORDER[power of two]
    heads: Ints  # int64[n]: slot of the first live order of each instrument, -1 none
    halted: Ints  # int64[n]: HALT_ bits
    price_steps: Ints  # int64[n]: of an order's price; 0: Nasdaq's rule, whole cents from a dollar on
    taken: npt.NDArray[Any]  # TAKEN[power of two]
    taken_levels: Ints  # int64[2n]: entries in `taken` per row of the book
    positions: Ints  # int64[n]
    bought: Ints  # int64[n], lots
    sold: Ints  # int64[n], lots
    open_orders: Ints  # int64[n]
    counters: Ints  # int64[len(Counter)]
    state: Ints  # int64[STATE_SIZE]
    fills: npt.NDArray[Any]  # FILL[FILL_CAPACITY]; state[N_FILLS] of them since the reader set that to 0

    @classmethod
    def create(
        cls,
        n: int,
        book_orders: int,
        book_levels: int,
        *,
        orders: npt.NDArray[Any] | None = None,
        per_instrument: tuple[Ints, Ints, Ints, Ints] | None = None,
        counters: Ints | None = None,
    ) -> Exchange:
        """An empty venue; `orders`, positions/bought/sold/open orders and `counters` may lie in a page."""
        positions, bought, sold, open_orders = per_instrument or tuple(np.zeros((4, n), np.int64))
        return cls(
            Book.create(n, book_orders, book_levels),
            orders if orders is not None else np.zeros(ORDER_CAPACITY, VENUE_ORDER),
            np.full(n, -1, np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros(_TAKEN_SLOTS, TAKEN),
            np.zeros(2 * n, np.int64),
            positions,
            bought,
            sold,
            open_orders,
            counters if counters is not None else np.zeros(len(Counter), np.int64),
            np.zeros(STATE_SIZE, np.int64),
            np.zeros(FILL_CAPACITY, FILL),
        )


_I64 = numba.int64
_INTS = numba.int64[::1]
EXCHANGE: Final = numba.types.NamedTuple(
    (
        BOOK,
        numba.from_dtype(VENUE_ORDER)[::1],
        _INTS,
        _INTS,
        _INTS,
        numba.from_dtype(TAKEN)[::1],
        *(_INTS,) * 7,
        numba.from_dtype(FILL)[::1],
    ),
    Exchange,
)

_BUY = int(Side.BUY)
_SELL = int(Side.SELL)
_B = ord("B")
_LIVE = int(OrderStatus.LIVE)
_FILLED = int(OrderStatus.FILLED)
_CANCELLED = int(OrderStatus.CANCELLED)
_REPLACED = int(OrderStatus.REPLACED)
_UNKNOWN_ORDER = int(Result.UNKNOWN_ORDER)
_WRONG_INSTRUMENT = int(Result.WRONG_INSTRUMENT)
_ORDERS_FULL = int(Result.ORDERS_FULL)
_LEVELS_FULL = int(Result.LEVELS_FULL)
_A, _F, _E, _C, _X, _D, _U, _P, _S, _H, _OP_HALT, _T, _Q = (ord(c) for c in "AFECXDUPSHhTQ")
_ADDED, _REMOVED = ord("A"), ord("R")
_DAY_START = (ord("O"), ord("S"), ord("Q"))
_DAY_END = (ord("E"), ord("C"))


# --- what clients have taken of a played level -------------------------------------------------------------------


@always_inlined
def _taken_slot(ex, key):
    """Slot of a level, or of where it would go."""
    taken = ex.taken
    mask = len(taken) - 1
    spread = key * _GOLDEN
    slot = (spread ^ spread >> 32) & mask
    for _ in range(mask):  # at most half full
        if taken[slot].key == key or taken[slot].key == 0:
            break
        slot = (slot + 1) & mask
    return slot


@always_inlined
def _taken_key(row, price4):
    return (row + 1) << 32 | price4


@always_inlined
def _taken_lots(ex, row, price4):
    if ex.taken_levels[row] == 0:
        return 0
    return ex.taken[_taken_slot(ex, _taken_key(row, price4))].lots


@always_inlined
def _take(ex, row, price4, lots):
    slot = _taken_slot(ex, _taken_key(row, price4))
    if ex.taken[slot].key == 0:
        ex.taken[slot].key = _taken_key(row, price4)
        ex.taken[slot].lots = 0
        ex.taken_levels[row] += 1
        ex.state[N_TAKEN] += 1
    ex.taken[slot].lots += lots


@always_inlined
def _can_take(ex, row, price4):
    """Whether there is room to remember that something was taken of this level."""
    full = 2 * ex.state[N_TAKEN] >= len(ex.taken)
    return not full or ex.taken[_taken_slot(ex, _taken_key(row, price4))].key != 0


@always_inlined
def _shrink(ex, row, price4, lots):
    """A played level lost lots: the taken ones first."""
    taken = ex.taken
    slot = _taken_slot(ex, _taken_key(row, price4))
    if taken[slot].key == 0:
        return
    taken[slot].lots -= lots
    if taken[slot].lots > 0:
        return
    # Delete by shifting back what was stored behind.
    ex.taken_levels[row] -= 1
    ex.state[N_TAKEN] -= 1
    mask = len(taken) - 1
    hole = slot
    other = slot
    for _ in range(mask):
        other = (other + 1) & mask
        key = taken[other].key
        if key == 0:
            break
        spread = key * _GOLDEN
        home = (spread ^ spread >> 32) & mask
        if (other - home) & mask >= (other - hole) & mask:
            taken[hole] = taken[other]
            hole = other
    taken[hole].key = 0
    taken[hole].lots = 0


# --- clients' orders ---------------------------------------------------------------------------------------------


@always_inlined
def _home(channel, user_ref, mask):
    # Numbers that follow each other get slots that follow each other: the oldest orders are overwritten first.
    return (user_ref + channel * 10007) & mask


@always_inlined
def _link(ex, slot):
    order = ex.orders[slot]
    instrument = order.instrument
    order.next = ex.heads[instrument]
    ex.heads[instrument] = slot
    ex.open_orders[instrument] += 1
    ex.counters[Counter.OPEN_ORDERS] += 1
    ex.counters[Counter.OPEN_LOTS] += order.leaves_lots


@always_inlined
def _unlink(ex, slot):
    """Take a live order out of its instrument's list; its open lots have been taken care of."""
    orders = ex.orders
    instrument = orders[slot].instrument
    at = ex.heads[instrument]
    if at == slot:
        ex.heads[instrument] = orders[slot].next
    else:
        for _ in range(ex.open_orders[instrument]):
            if orders[at].next == slot:
                orders[at].next = orders[slot].next
                break
            at = orders[at].next
    orders[slot].next = -1
    ex.open_orders[instrument] -= 1
    ex.counters[Counter.OPEN_ORDERS] -= 1


@always_inlined
def _execute(ex, slot, lots, price4, flag):
    """Book one execution; the order stays where it is even when nothing is left of it."""
    order = ex.orders[slot]
    state = ex.state
    state[MATCH] += 1
    fill = ex.fills[state[N_FILLS]]
    state[N_FILLS] += 1
    fill.slot = slot
    fill.lots = lots
    fill.price4 = price4
    fill.match = state[MATCH]
    fill.flag = flag
    order.executed_lots += lots
    order.leaves_lots -= lots
    if order.side == _B:
        ex.bought[order.instrument] += lots
        ex.positions[order.instrument] += lots
    else:
        ex.sold[order.instrument] += lots
        ex.positions[order.instrument] -= lots
    ex.counters[Counter.FILLS] += 1
    ex.counters[Counter.FILLED_LOTS] += lots
    if order.leaves_lots == 0:
        order.status = _FILLED
        ex.counters[Counter.FILLED] += 1


@always_inlined
def _next_hit(ex, instrument, buy, price4, arrival):
    """Slot of the resting order that a trade at `price4` fills first, -1 if it fills none."""
    orders = ex.orders
    best = -1
    slot = ex.heads[instrument]
    sign = 1 if buy else -1
    for _ in range(ex.open_orders[instrument]):
        order = orders[slot]
        if (order.side == _B) == buy:
            through = (order.price4 - price4) * sign
            if through > 0 or (through == 0 and order.ahead_lots == 0 and arrival > order.joined):
                better = 1 if best < 0 else (order.price4 - orders[best].price4) * sign
                if better > 0 or (better == 0 and order.order_ref < orders[best].order_ref):
                    best = slot
        slot = numba.int64(order.next)
        if slot < 0:
            break
    return best


@always_inlined
def _hit(ex, instrument, buy, price4, lots, arrival):
    """Fill resting orders of one side with a trade of `lots` at `price4`; returns the lots filled."""
    left = lots
    for _ in range(ex.open_orders[instrument]):
        if left == 0 or ex.state[N_FILLS] >= len(ex.fills):
            break
        slot = _next_hit(ex, instrument, buy, price4, arrival)
        if slot < 0:
            break
        filled = min(left, ex.orders[slot].leaves_lots)
        _execute(ex, slot, filled, ex.orders[slot].price4, _ADDED)
        ex.counters[Counter.OPEN_LOTS] -= filled
        left -= filled
        if ex.orders[slot].leaves_lots == 0:
            _unlink(ex, slot)
    return lots - left


@always_inlined
def _advance(ex, instrument, side, price4, lots, arrival):
    """Lots of a played order left the level: resting orders that stand behind it move up."""
    slot = ex.heads[instrument]
    for _ in range(ex.open_orders[instrument]):
        order = ex.orders[slot]
        if order.price4 == price4 and (order.side == _B) == (side == _BUY) and arrival <= order.joined:
            order.ahead_lots = max(0, order.ahead_lots - lots)
        slot = numba.int64(order.next)
        if slot < 0:
            break


# --- the played market data --------------------------------------------------------------------------------------


@always_inlined
def play(ex, data, offsets, first, last, shift_ns):
    """See `played`: this is it, for a kernel that does more."""
    event = ex.book.event
    counters = ex.counters
    for i in range(first, last):
        if 2 * ex.state[N_FILLS] > len(ex.fills):
            return i
        if i + _AHEAD + 1 < len(offsets):
            ahead = offsets[i + _AHEAD] + 2
            prefetch_message(ex.book, data, ahead, offsets[i + _AHEAD + 1] - ahead)
        at = offsets[i] + 2
        result = apply_message(ex.book, data, at, offsets[i + 1] - at)
        if result in (_ORDERS_FULL, _LEVELS_FULL):
            counters[Counter.BOOK_OVERFLOWS] += 1
        elif _UNKNOWN_ORDER <= result <= _WRONG_INSTRUMENT:
            counters[Counter.BOOK_ANOMALIES] += 1
        kind = event[EV_TYPE]
        ex.state[EXCH_NS] = max(ex.state[EXCH_NS], min(event[EV_EXCH_NS] + shift_ns, _LAST_NS))
        instrument = event[EV_INSTRUMENT]
        if instrument < 0:
            if kind == _S:
                if event[EV_CODE] in _DAY_START:
                    ex.state[CLOSED] = 0
                elif event[EV_CODE] in _DAY_END:
                    ex.state[CLOSED] = 1
            continue
        if kind == _H:
            ex.halted[instrument] &= ~HALT_TRADING
            ex.halted[instrument] |= 0 if event[EV_CODE] == _T else HALT_TRADING
        elif kind == _OP_HALT:
            ex.halted[instrument] &= ~HALT_OPERATIONAL
            ex.halted[instrument] |= 0 if event[EV_CODE] == _T else HALT_OPERATIONAL
        side = event[EV_SIDE]
        before = event[EV_ORDER_LOTS]
        if before > 0:
            # Something happened to an order of the book: E C X D, or the old one of a U.
            gone = before - (0 if kind == _U else event[EV_LEAVES_LOTS])
            price = event[EV_ORDER_PRICE_TICKS]
            row = 2 * instrument + side - 1
            # Asked here, not in _shrink: a call that hands over all of `ex` costs more than the rest of a message.
            if gone > 0 and ex.taken_levels[row] > 0:
                _shrink(ex, row, price, gone)
            if ex.heads[instrument] >= 0:
                if event[EV_PRINT]:
                    _hit(ex, instrument, side == _BUY, price, gone, event[EV_ARRIVAL])
                _advance(ex, instrument, side, price, gone, event[EV_ARRIVAL])
        if ex.heads[instrument] < 0:
            continue
        if kind == _P:
            filled = _hit(ex, instrument, True, event[EV_PRICE_TICKS], event[EV_LOTS], _ANY_ARRIVAL)
            _hit(ex, instrument, False, event[EV_PRICE_TICKS], event[EV_LOTS] - filled, _ANY_ARRIVAL)
        elif result == 0 and kind in (_A, _F, _U) and ex.halted[instrument] == 0:
            price = event[EV_PRICE_TICKS]
            row = 2 * instrument + side - 1
            if _can_take(ex, row, price):
                filled = _hit(ex, instrument, side == _SELL, price, event[EV_LOTS], _ANY_ARRIVAL)
                if filled > 0:
                    _take(ex, row, price, filled)
    return last


@kernel(numba.int64(EXCHANGE, numba.uint8[::1], numba.int64[::1], numba.int64, numba.int64, numba.int64))
def played(ex, data, offsets, first, last, shift_ns):
    """Apply messages `first` to `last` of a tape to the book and fill what they fill; returns the next message.

    Stops early when the list of fills is half full. `shift_ns` is added to the exchange's clock.
    """
    return play(ex, data, offsets, first, last, shift_ns)


@kernel(
    numba.int64(
        EXCHANGE,
        numba.int64[::1],
        numba.uint8[:, ::1],
        numba.int64,
        numba.int64,
        numba.uint8[::1],
        numba.int64[::1],
        numba.int64[::1],
    )
)
def clearing(ex, locates, symbols, time_ns, spacing_ns, data, offsets, times):
    """Write the messages that empty the book and end all halts, as a tape; returns how many.

    `locates` int64[n], `symbols` uint8[n, 8]. The first is due at `time_ns`, the others `spacing_ns` apart. `data`
    needs 21 bytes per live order and 50 per instrument; `offsets` and `times` one element per message, and one.
    """
    n = 0
    at = 0
    orders = ex.book.orders
    for i in range(len(orders) + 2 * len(ex.halted)):
        if i < len(orders):
            if orders[i].ref == 0:
                continue
            instrument = numba.int64(orders[i].row) >> 1
            kind = _D
            size = 19
        else:
            instrument = (i - len(orders)) >> 1
            operational = (i - len(orders)) & 1
            if ex.halted[instrument] & (HALT_OPERATIONAL if operational else HALT_TRADING) == 0:
                continue
            kind = _OP_HALT if operational else _H
            size = 21 if operational else 25
        stamp = min(time_ns + n * spacing_ns, _LAST_NS)
        times[n] = time_ns + n * spacing_ns
        offsets[n] = at
        data[at] = 0
        data[at + 1] = size
        at += 2
        for k in range(size):
            data[at + k] = 32
        data[at] = kind
        data[at + 1] = locates[instrument] >> 8
        data[at + 2] = locates[instrument] & 0xFF
        data[at + 3] = 0
        data[at + 4] = 0
        for k in range(6):
            data[at + 5 + k] = stamp >> 8 * (5 - k) & 0xFF
        if kind == _D:
            ref = orders[i].ref
            for k in range(8):
                data[at + 11 + k] = ref >> 8 * (7 - k) & 0xFF
        else:
            for k in range(8):
                data[at + 11 + k] = symbols[instrument, k]
            data[at + 19] = _T
            if kind == _OP_HALT:
                data[at + 19] = _Q
                data[at + 20] = _T
        at += size
        n += 1
    offsets[n] = at
    return n


# --- what clients ask for ----------------------------------------------------------------------------------------


@kernel(numba.int64(EXCHANGE, _I64, _I64))
def find_live(ex, channel, user_ref):
    """Slot of a live order, -1 if there is none with this number."""
    mask = len(ex.orders) - 1
    slot = _home(channel, user_ref, mask)
    for _ in range(_PROBES):
        order = ex.orders[slot]
        if order.status == _LIVE and order.user_ref == user_ref and order.session == channel:
            return slot
        slot = (slot + 1) & mask
    return -1


@always_inlined
def _free_slot(ex, channel, user_ref):
    mask = len(ex.orders) - 1
    slot = _home(channel, user_ref, mask)
    for _ in range(_PROBES):
        if ex.orders[slot].status != _LIVE:
            return slot
        slot = (slot + 1) & mask
    return -1


@kernel(numba.int64(EXCHANGE, _I64, _I64, _I64, _I64, _I64, _I64, _I64, _I64, _I64, _I64))
def enter(ex, channel, user_ref, instrument, side, qty, executed, price4, may_rest, replaces, arrived_ns):
    """Accept an order that was found valid, match it, and let the rest stand or cancel it; returns its slot.

    `side` is the letter of the protocol, `qty` the size of the whole chain of replacements, `executed` what the chain
    has executed; `may_rest` 0 cancels what does not trade at once: state[REMAINDER] lots. `replaces` is the slot of
    the live order whose place it takes, -1 none. Returns -1, and changes nothing, when no slot is free.
    """
    slot = _free_slot(ex, channel, user_ref)
    if slot < 0:
        return -1
    state = ex.state
    counters = ex.counters
    orders = ex.orders
    state[REMAINDER] = 0
    leaves = qty - executed
    counters[Counter.ACCEPTED] += 1
    counters[Counter.ACCEPTED_LOTS] += leaves
    if replaces >= 0:
        old = orders[replaces]
        counters[Counter.REPLACED] += 1
        counters[Counter.ACCEPTED_LOTS] -= old.leaves_lots
        counters[Counter.OPEN_LOTS] -= old.leaves_lots
        old.leaves_lots = 0
        old.status = _REPLACED
        _unlink(ex, replaces)
    state[ORDER_REF] += 1
    order = orders[slot]
    order.order_ref = state[ORDER_REF]
    order.price4 = price4
    order.qty_lots = qty
    order.executed_lots = executed
    order.leaves_lots = leaves
    order.ahead_lots = 0
    order.joined = 0
    order.arrived_ns = arrived_ns
    order.user_ref = user_ref
    order.session = channel
    order.instrument = instrument
    order.next = -1
    order.status = _LIVE
    order.side = side
    buy = side == _B
    sign = 1 if buy else -1
    book = ex.book
    if ex.halted[instrument] == 0:
        row = 2 * instrument + (1 if buy else 0)
        k = 0
        while k < n_levels(book, row) and order.leaves_lots > 0 and state[N_FILLS] < len(ex.fills):
            level = book.levels[level_from_best(book, row, k)]
            price = numba.int64(level.price_ticks)
            if (price4 - price) * sign < 0:
                break
            there = level.lots - _taken_lots(ex, row, price)
            if there > 0 and _can_take(ex, row, price):
                lots = min(there, order.leaves_lots)
                _take(ex, row, price, lots)
                _execute(ex, slot, lots, price, _REMOVED)
            k += 1
    if order.leaves_lots > 0:
        if may_rest:
            row = 2 * instrument + (0 if buy else 1)
            order.joined = book.stats[ST_ARRIVALS]
            order.ahead_lots = level_lots(book, row, price4)
            _link(ex, slot)
        else:
            state[REMAINDER] = order.leaves_lots
            counters[Counter.CANCELLED] += 1
            counters[Counter.CANCELLED_LOTS] += order.leaves_lots
            order.leaves_lots = 0
            order.status = _CANCELLED
    return slot


@kernel(numba.int64(EXCHANGE, _I64, _I64))
def reduce(ex, slot, qty):
    """Cancel a live order down to `qty`, the intended size of its chain; returns the lots taken off."""
    order = ex.orders[slot]
    gone = order.leaves_lots - max(0, qty - order.executed_lots)
    if gone <= 0:
        return 0
    order.leaves_lots -= gone
    order.qty_lots = order.executed_lots + order.leaves_lots
    ex.counters[Counter.CANCELLED_LOTS] += gone
    ex.counters[Counter.OPEN_LOTS] -= gone
    if order.leaves_lots == 0:
        order.status = _CANCELLED
        ex.counters[Counter.CANCELLED] += 1
        _unlink(ex, slot)
    return gone


@kernel(numba.int64(_INTS, numba.uint8[::1], _I64, _I64, _I64, _INTS, _INTS, _INTS))
def measure(counters, text, at, arrived_ns, next_seq, out_ns, seen, hist):
    """Tick-to-order time of the order with the client order id ``text[at : at + 14]``; the id, -1 if foreign.

    `out_ns` holds when each message left (see `wire.transmit`), `next_seq` the number that none has yet. `seen` is a
    hash table of the ids entered so far, int64[power of two]; where it is crowded a new id overwrites an old one. An
    id seen before is counted as a duplicate and not measured. `counters` int64[len(Counter)].
    """
    cl_ord_id = read_cl_ord_id(text, at)
    key = cl_ord_id
    if cl_ord_id < 0:
        blank = True
        key = 0
        for i in range(14):
            blank = blank and text[at + i] == 32
            key = (key * 257 + text[at + i]) & (2**62 - 1)
        if blank:
            counters[Counter.UNMATCHED_CAUSES] += 1
            return -1
        mask = len(seen) - 1
    spread = key * _GOLDEN
    home = (spread ^ spread >> 32) & mask
    slot = home
    for i in range(16):
        slot = (home + i) & mask
        if seen[slot] == key:
            counters[Counter.DUPLICATES] += 1
            return cl_ord_id
        if seen[slot] == 0:
            break
    seen[slot] = key
    cause = cause_seq_of(cl_ord_id)
    if cl_ord_id < 0 or cause <= 0 or cause >= next_seq or cause < next_seq - len(out_ns):
        counters[Counter.UNMATCHED_CAUSES] += 1
    else:
        record(hist, arrived_ns - out_ns[cause & (len(out_ns) - 1)])
    return cl_ord_id
