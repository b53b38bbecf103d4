"""Books of price levels as crypto venues send them: exact integers out of JSON text, ITCH messages out of changes.

A symbol's book is four arrays. ``prices`` int64[2, capacity] holds the bids (0) and the asks (1), **best price at
the end**, and ``slots`` int32[2, capacity] where in ``pool`` int64[2 * capacity, 3] the rest of each level is: so
little has to move when a level comes, which on real markets happens some hundred levels from the best. A level that
goes stays as an entry with the quantity 0, because most come back; the best entry is never one of those.
``state`` int64[STATE_SIZE] holds everything else. Prices and quantities are integers at the symbol's scales:
value x 10**-scale. Text that needs more decimals than the scale has is refused with a code, so that the caller can
`rescale` and try again: nothing is ever rounded on the way into the book.

Towards ITCH each level is one synthetic order of the window, the best ``state[WINDOW]`` levels of a side (0: nothing
is written). A level that enters the window is an Add Order with a new reference, one that leaves it or goes a Delete;
a smaller quantity is a Cancel, a larger one a Replace. Within one batch all that goes is written before anything that
comes, so that a book that is not crossed after the batch is not crossed between its messages either.

Messages go to ``out`` uint8 behind their u16 length, message i begins at ``offsets[i]`` and is of the time
``times[i]``; ``made`` int64[2] counts messages and bytes. The kernels that are called from Python take one array with
the addresses of all these (`WHERE_` fields): a dozen arrays would cost more than a trade does.
No kernel here allocates, and all check for room before they change anything.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.np.numpy_support import carray

from tickpath.common import jit
from tickpath.common.jit import always_inlined
from tickpath.common.kernels.memory import bytes_at, lent, pointer, rows_at, words_at
from tickpath.common.records import MAX_PRICE_TICKS, MAX_QTY_LOTS


def kernel(signature):
    """`jit.kernel` that keeps the GIL.

    The reader is a thread beside a busy one. Who lets go of the GIL for some microseconds may wait milliseconds to
    get it back, and a frame takes two calls.
    """
    return jit.kernel(signature, nogil=False)


BID, ASK = 0, 1

# Columns of the pool. REF: order reference of the level in the window; 0: it is not shown; HIDDEN: it cannot be.
# NEXT: of a free slot, the one that was freed before it; -1 none.
QTY, REF, SHOWN_LOTS = range(3)
NEXT = QTY
POOL_COLUMNS = 3
HIDDEN = -1

# Columns of rows: one level that a message sets.
ROW_SIDE, ROW_PRICE, ROW_QTY = range(3)
ROW_COLUMNS = 3

# Fields of state.
DEPTH = 0  # and 1: entries of the bids and of the asks, those that are gone included
SHOWN = 2  # and 3: levels of a side that have a REF
WINDOW = 4  # best levels of a side that are told as ITCH
LIMIT = 5  # best levels of a side that are kept after each batch; 0: all
LOCATE = 6
NEXT_REF = 7
MATCH = 8  # match number of the last print
TIME_NS = 9  # of the messages written now, ns after midnight
PRICE_SCALE, QTY_SCALE = 10, 11
PRICE_TEXT, QTY_TEXT = 12, 13  # most decimals seen in the text of a level, zeros included: what a checksum is made of
TICK_MUL, TICK_DIV = 14, 15  # price x MUL / DIV is in ticks
LOT_MUL, LOT_DIV = 16, 17  # quantity x MUL / DIV is in lots
NEEDED = 18  # what a refused call asks for: decimals, rows, levels or bytes
MAX_PRICE, MAX_QTY = 19, 20  # largest best or traded price, largest shown or traded quantity, so far
# Counters.
LEVELS_SET = 21  # levels that messages set or removed
CROSSED = 22  # batches that left the best bid at or above the best ask
PRICES_HIDDEN = 23  # levels not shown because their price is no tick of the instrument that ITCH can carry
PRICES_ROUNDED = (
    24  # levels and prints whose price was no whole number of ticks: bids down, asks up, prints to nearest
)
QTYS_ROUNDED = 25  # ... whose quantity was no whole number of lots: to the nearest, at least one
QTYS_CUT = 26  # ... whose quantity is more lots than ITCH can carry: the most it can
DIGITS_CUT = 27  # numbers of more than 18 digits (the largest then) or more than MAX_SCALE decimals (without them)
FREE = 28  # the slot freed last, -1 none
USED = 29  # slots that have been used so far
LIVE = 30  # and 31: levels of the bids and of the asks
FLOOR = 32  # and 33: no level of a side at this price or better is not shown, where any is
STATE_SIZE = 34

MAX_SCALE = 12
_LARGEST = 10**18 - 1
_FULL = 10**17  # a number below has room for one more digit
_POWERS = np.array([10**i for i in range(19)])

# Fields of where, int64[WHERE_SIZE]: addresses of the arrays, and how long those are that can grow.
(
    WHERE_PRICES, WHERE_SLOTS, WHERE_POOL, WHERE_CAPACITY, WHERE_STATE, WHERE_SYMBOL, WHERE_TEXT, WHERE_TEXT_BYTES,
    WHERE_ROWS, WHERE_N_ROWS, WHERE_OUT, WHERE_OUT_BYTES, WHERE_OFFSETS, WHERE_TIMES, WHERE_MESSAGES, WHERE_MADE,
) = range(16)  # fmt: skip
WHERE_SIZE = 16

# What calls return in place of a number of rows.
MALFORMED, MORE_PRICE_DECIMALS, MORE_QTY_DECIMALS, MORE_ROWS, MORE_LEVELS, MORE_ROOM = -1, -2, -3, -4, -5, -6

#: Bytes of the longest message made here, with its length: P.
MESSAGE_BYTES = 46

_memmove = numba.types.ExternalFunction(
    "memmove", numba.types.intp(numba.types.intp, numba.types.intp, numba.types.intp)
)

_INTS = numba.int64[::1]
_PRICES = numba.int64[:, ::1]
_SLOTS = numba.int32[:, ::1]
_POOL = numba.int64[:, ::1]
_ROWS = numba.int64[:, ::1]
_BYTES = numba.uint8[::1]
_I64 = numba.int64

_QUOTE, _BACKSLASH, _COMMA, _COLON, _DOT, _MINUS, _PLUS, _ZERO = 34, 92, 44, 58, 46, 45, 43, 48
_OPEN, _CLOSE, _OPEN_OBJECT, _CLOSE_OBJECT = 91, 93, 123, 125


@lent
def _slots_at(address, n):
    """int32[2, n]."""
    return carray(pointer(address), (2, n), np.int32)


# --- JSON text -----------------------------------------------------------------------------------------------------


@always_inlined
def byte(text, at):
    """A byte at a position that is not negative: saying so saves the question whether it counts from the end."""
    return numba.int64(text[numba.uint64(at)])


@always_inlined
def _blank(text, at, end):
    """Position after white space."""
    while at < end and (byte(text, at) == 32 or 9 <= byte(text, at) <= 13):
        at += 1
    return at


@always_inlined
def _decimal(text, at, end, state, scale_field):
    """A decimal, in quotes or not, at a scale of the symbol: (position after it, value, decimals of the text).

    A position below 0 says what is wrong.
    """
    quoted = at < end and byte(text, at) == _QUOTE
    at += quoted
    value = 0
    decimals = 0  # up to the last that is not 0
    digits = 0
    cut = False
    while at < end and 0 <= byte(text, at) - _ZERO <= 9:
        if value < _FULL:
            value = value * 10 + byte(text, at) - _ZERO
        else:
            value, cut = _LARGEST, True
        digits += 1
        at += 1
    if digits == 0:
        return MALFORMED, 0, 0
    written = 0
    if at < end and byte(text, at) == _DOT:
        at += 1
        begin = at
        while at < end:
            digit = byte(text, at) - _ZERO
            if digit < 0 or digit > 9:
                break
            at += 1
            if digit != 0 and not cut:
                more = at - begin - decimals
                if more < 18 and value < _POWERS[18 - more]:
                    value = value * _POWERS[more] + digit
                    decimals += more
                else:
                    cut = True
        written = at - begin
        if written == 0:
            return MALFORMED, 0, 0
    if at < end and (byte(text, at) == 69 or byte(text, at) == 101):  # E e
        at += 1
        negative = at < end and byte(text, at) == _MINUS
        at += negative or (at < end and byte(text, at) == _PLUS)
        exponent = 0
        digits = 0
        while at < end and 0 <= byte(text, at) - _ZERO <= 9:
            exponent = min(exponent * 10 + byte(text, at) - _ZERO, 99)
            digits += 1
            at += 1
        if digits == 0:
            return MALFORMED, 0, 0
        decimals += exponent if negative else -exponent
        while decimals < 0 and value <= _LARGEST // 10:
            value *= 10
            decimals += 1
        if decimals < 0:
            value, decimals, cut = _LARGEST, 0, True
    if quoted:
        if at >= end or byte(text, at) != _QUOTE:
            return MALFORMED, 0, 0
        at += 1
    if decimals > MAX_SCALE:
        cut = cut or value > 0
        value //= _POWERS[min(decimals - MAX_SCALE, 18)]
        decimals = MAX_SCALE
    if value == 0:
        decimals = 0
    missing = state[scale_field] - decimals
    if missing < 0:
        state[NEEDED] = decimals
        return (MORE_PRICE_DECIMALS if scale_field == PRICE_SCALE else MORE_QTY_DECIMALS), 0, 0
    if value < _POWERS[18 - missing]:
        value *= _POWERS[missing]
    else:
        value, cut = _LARGEST, True
    state[DIGITS_CUT] += cut
    return at, value, written


@always_inlined
def _skip(text, at, end):
    """Position after a string, a number or a word; MALFORMED for anything else."""
    if at >= end:
        return MALFORMED
    if byte(text, at) == _QUOTE:
        at += 1
        while at < end and byte(text, at) != _QUOTE:
            at += 2 if byte(text, at) == _BACKSLASH else 1
        return at + 1 if at < end else MALFORMED
    begin = at
    while (
        at < end
        and (byte(text, at) >= 97 or _PLUS <= byte(text, at) <= 57 or byte(text, at) == 69)
        and byte(text, at) < 123
    ):
        if byte(text, at) == _COMMA:
            break
        at += 1
    return at if at > begin else MALFORMED


@always_inlined
def _parse(text, at, end, side, state, rows, n):
    """Rows of a JSON list of levels: [price, quantity, ...] or {"price": .., "qty": .., "side": ..}, each.

    Returns the number of rows after them, from `n` on, or what is wrong. An empty text is no levels.
    """
    at = _blank(text, at, end)
    if at >= end:
        return n
    if byte(text, at) != _OPEN:
        return MALFORMED
    at = _blank(text, at + 1, end)
    first = True
    while True:
        if at < end and byte(text, at) == _CLOSE and first:
            at += 1
            break
        first = False
        if at >= end:
            return MALFORMED
        if n >= len(rows):
            state[NEEDED] = 2 * n + 64
            return MORE_ROWS
        kind = byte(text, at)
        price, qty, side_here = -1, -1, side
        if kind == _OPEN:
            at, price, written = _decimal(text, _blank(text, at + 1, end), end, state, PRICE_SCALE)
            if at < 0:
                return at
            state[PRICE_TEXT] = max(state[PRICE_TEXT], written)
            at = _blank(text, at, end)
            if at >= end or byte(text, at) != _COMMA:
                return MALFORMED
            at, qty, written = _decimal(text, _blank(text, at + 1, end), end, state, QTY_SCALE)
            if at < 0:
                return at
            state[QTY_TEXT] = max(state[QTY_TEXT], written)
            at = _blank(text, at, end)
            while at < end and byte(text, at) == _COMMA:
                at = _skip(text, _blank(text, at + 1, end), end)
                if at < 0:
                    return MALFORMED
                at = _blank(text, at, end)
            if at >= end or byte(text, at) != _CLOSE:
                return MALFORMED
            at += 1
        elif kind == _OPEN_OBJECT:
            comma = True
            at += 1
            while comma:
                key = _blank(text, at, end)
                at = _skip(text, key, end)
                if at < 0 or byte(text, key) != _QUOTE:
                    return MALFORMED
                size, letter = at - key - 2, byte(text, key + 1)
                at = _blank(text, at, end)
                if at >= end or byte(text, at) != _COLON:
                    return MALFORMED
                at = _blank(text, at + 1, end)
                if letter == 112 and (size == 5 or size == 11):  # noqa: PLR1714 - price, price_level
                    at, price, written = _decimal(text, at, end, state, PRICE_SCALE)
                    if at < 0:
                        return at
                    state[PRICE_TEXT] = max(state[PRICE_TEXT], written)
                elif (letter == 113 and size == 3) or (letter == 110 and size == 12):  # qty, new_quantity
                    at, qty, written = _decimal(text, at, end, state, QTY_SCALE)
                    if at < 0:
                        return at
                    state[QTY_TEXT] = max(state[QTY_TEXT], written)
                else:
                    value = at
                    at = _skip(text, at, end)
                    if at < 0:
                        return MALFORMED
                    if letter == 115 and size == 4:  # side: bid, offer or ask
                        word = byte(text, value + 1)
                        side_here = BID if word == 98 else ASK if word == 111 or word == 97 else -1  # noqa: PLR1714
                at = _blank(text, at, end)
                if at >= end:
                    return MALFORMED
                comma = byte(text, at) == _COMMA
                if not comma and byte(text, at) != _CLOSE_OBJECT:
                    return MALFORMED
                at += 1
        if price <= 0 or qty < 0 or side_here < 0:
            return MALFORMED
        rows[n, ROW_SIDE], rows[n, ROW_PRICE], rows[n, ROW_QTY] = side_here, price, qty
        n += 1
        at = _blank(text, at, end)
        if at >= end:
            return MALFORMED
        if byte(text, at) == _CLOSE:
            at += 1
            break
        if byte(text, at) != _COMMA:
            return MALFORMED
        at = _blank(text, at + 1, end)
    return n if _blank(text, at, end) == end else MALFORMED


# --- messages ------------------------------------------------------------------------------------------------------


@always_inlined
def _put(out, at, size, value):
    for i in range(size):
        out[at + i] = value >> 8 * (size - 1 - i) & 0xFF
    return at + size


@always_inlined
def _head(out, offsets, times, made, state, kind, size):
    """Length and header of a message of `size` bytes; position after them. The message counts as made."""
    at = made[1]
    offsets[made[0]] = at
    times[made[0]] = state[TIME_NS]
    made[0] += 1
    made[1] = at + 2 + size
    offsets[made[0]] = made[1]
    at = _put(out, at, 2, size)
    at = _put(out, at, 1, kind)
    at = _put(out, at, 2, state[LOCATE])
    at = _put(out, at, 2, 0)
    return _put(out, at, 6, state[TIME_NS])


@always_inlined
def _lots(state, qty):
    if qty > (2**62) // state[LOT_MUL]:
        state[QTYS_CUT] += 1
        return MAX_QTY_LOTS
    scaled = qty * state[LOT_MUL]
    divisor = state[LOT_DIV]
    lots = (scaled + divisor // 2) // divisor
    if lots * divisor != scaled:
        state[QTYS_ROUNDED] += 1
    if lots > MAX_QTY_LOTS:
        state[QTYS_CUT] += 1
        return MAX_QTY_LOTS
    return max(lots, 1)


@always_inlined
def _ticks(state, price, up):
    """Ticks of a price, rounded down (`up` 0), up (2) or to the nearest (1); 0 when ITCH cannot carry it."""
    if price > (2**62) // state[TICK_MUL]:
        return 0
    scaled = price * state[TICK_MUL]
    divisor = state[TICK_DIV]
    ticks = (scaled + (divisor // 2 if up == 1 else divisor - 1 if up == 2 else 0)) // divisor
    if ticks * divisor != scaled:
        state[PRICES_ROUNDED] += 1
    return ticks if ticks <= MAX_PRICE_TICKS else 0


@always_inlined
def _put_symbol(out, at, symbol):
    for i in range(8):
        out[at + i] = symbol[i]
    return at + 8


@always_inlined
def _show(prices, slots, pool, state, side, i, symbol, out, offsets, times, made):
    """A level enters the window: A."""
    state[SHOWN + side] += 1
    state[MAX_QTY] = max(state[MAX_QTY], pool[slots[side, i], QTY])
    ticks = _ticks(state, prices[side, i], 2 if side == ASK else 0)
    if ticks <= 0:
        pool[slots[side, i], REF] = HIDDEN
        state[PRICES_HIDDEN] += 1
        return
    lots = _lots(state, pool[slots[side, i], QTY])
    ref = state[NEXT_REF]
    state[NEXT_REF] = ref + 1
    pool[slots[side, i], REF] = ref
    pool[slots[side, i], SHOWN_LOTS] = lots
    at = _head(out, offsets, times, made, state, 65, 36)
    at = _put(out, at, 8, ref)
    at = _put(out, at, 1, 66 if side == BID else 83)
    at = _put(out, at, 4, lots)
    at = _put_symbol(out, at, symbol)
    _put(out, at, 4, ticks)


@always_inlined
def _hide(prices, slots, pool, state, side, i, out, offsets, times, made):
    """A level leaves the window: D."""
    ref = pool[slots[side, i], REF]
    if ref == 0:
        return
    state[SHOWN + side] -= 1
    pool[slots[side, i], REF] = 0
    if ref > 0:
        _put(out, _head(out, offsets, times, made, state, 68, 19), 8, ref)


@always_inlined
def _resize(prices, slots, pool, state, side, i, out, offsets, times, made):
    """The quantity of a shown level has changed: X or U."""
    state[MAX_QTY] = max(state[MAX_QTY], pool[slots[side, i], QTY])
    lots = _lots(state, pool[slots[side, i], QTY])
    shown = pool[slots[side, i], SHOWN_LOTS]
    ref = pool[slots[side, i], REF]
    pool[slots[side, i], SHOWN_LOTS] = lots
    if lots < shown:
        at = _put(out, _head(out, offsets, times, made, state, 88, 23), 8, ref)
        _put(out, at, 4, shown - lots)
    elif lots > shown:
        new = state[NEXT_REF]
        state[NEXT_REF] = new + 1
        pool[slots[side, i], REF] = new
        at = _put(out, _head(out, offsets, times, made, state, 85, 35), 8, ref)
        at = _put(out, at, 8, new)
        at = _put(out, at, 4, lots)
        _put(out, at, 4, _ticks(state, prices[side, i], 2 if side == ASK else 0))


# --- levels --------------------------------------------------------------------------------------------------------


@always_inlined
def _find(prices, state, side, price):
    """Index of a price; if it is not there, -1 - (where it belongs)."""
    high = state[DEPTH + side]
    sign = 1 - 2 * side
    low = 0
    step = 8
    while high - step >= 0 and (prices[side, high - step] - price) * sign > 0:  # most changes are near the best
        high -= step
        step *= 4
    if high - step > 0:
        low = high - step
    while low < high:
        middle = (low + high) >> 1
        if (prices[side, middle] - price) * sign < 0:
            low = middle + 1
        else:
            high = middle
    if low < state[DEPTH + side] and prices[side, low] == price:
        return low
    return -1 - low


@always_inlined
def _insert(prices, slots, pool, state, side, i, price, qty):
    n = state[DEPTH + side]
    at = prices[side, i:].ctypes.data
    _memmove(at + 8, at, (n - i) * 8)
    at = slots[side, i:].ctypes.data
    _memmove(at + 4, at, (n - i) * 4)
    slot = state[FREE]
    if slot >= 0:
        state[FREE] = pool[slot, NEXT]
    else:
        slot = state[USED]
        state[USED] = slot + 1
    prices[side, i] = price
    slots[side, i] = slot
    pool[slot, QTY] = qty
    pool[slot, REF] = 0
    pool[slot, SHOWN_LOTS] = 0
    state[DEPTH + side] = n + 1
    state[LIVE + side] += 1


@always_inlined
def _remove(prices, slots, pool, state, side, i):
    """The level is gone; its entry stays, unless it was the best."""
    pool[slots[side, i], QTY] = 0
    state[LIVE + side] -= 1
    n = state[DEPTH + side]
    if i < n - 1:
        return
    while n > 0 and pool[slots[side, n - 1], QTY] == 0:
        n -= 1
        _free(slots[side, n], pool, state)
    state[DEPTH + side] = n


@always_inlined
def _free(slot, pool, state):
    pool[slot, NEXT] = state[FREE]
    state[FREE] = slot


@always_inlined
def _compact(prices, slots, pool, state, side):
    """Let go of the entries of levels that are gone, when they are many."""
    n = state[DEPTH + side]
    if n - state[LIVE + side] <= 64 + (n >> 2):
        return
    to = 0
    for i in range(n):
        slot = slots[side, i]
        if pool[slot, QTY] == 0:
            _free(slot, pool, state)
        else:
            prices[side, to] = prices[side, i]
            slots[side, to] = slot
            to += 1
    state[DEPTH + side] = to


@always_inlined
def _cut(prices, slots, pool, state, out, offsets, times, made):
    """Cut both sides to the limit."""
    limit = state[LIMIT]
    if limit == 0:
        return
    for side in range(2):
        i = 0
        while state[LIVE + side] > limit and i < state[DEPTH + side]:
            if pool[slots[side, i], QTY] > 0:
                _hide(prices, slots, pool, state, side, i, out, offsets, times, made)
                _remove(prices, slots, pool, state, side, i)
            i += 1


@always_inlined
def _settle(prices, slots, pool, state, symbol, out, offsets, times, made):
    """After a batch, when what it brought into the window is shown: what fell out of it and what moved up into it."""
    window = state[WINDOW]
    for side in range(2):
        if state[SHOWN + side] <= window:
            continue
        i = _find(prices, state, side, state[FLOOR + side])
        i = -1 - i if i < 0 else i
        while state[SHOWN + side] > window and i < state[DEPTH + side]:
            if pool[slots[side, i], REF] != 0:
                _hide(prices, slots, pool, state, side, i, out, offsets, times, made)
                state[FLOOR + side] = prices[side, i] + 1 - 2 * side
            i += 1
    for side in range(2):
        n = state[DEPTH + side]
        if state[SHOWN + side] < min(window, state[LIVE + side]):
            i = n - 1
            if state[SHOWN + side] > 0:
                i = _find(prices, state, side, state[FLOOR + side])
                i = -2 - i if i < 0 else i
            while state[SHOWN + side] < min(window, state[LIVE + side]) and i >= 0:
                slot = slots[side, i]
                if pool[slot, QTY] > 0 and pool[slot, REF] == 0:
                    _show(prices, slots, pool, state, side, i, symbol, out, offsets, times, made)
                state[FLOOR + side] = prices[side, i]
                i -= 1
        if n > 0:
            state[MAX_PRICE] = max(state[MAX_PRICE], prices[side, n - 1])
        _compact(prices, slots, pool, state, side)
    bids, asks = state[DEPTH + BID], state[DEPTH + ASK]
    if bids > 0 and asks > 0 and prices[BID, bids - 1] >= prices[ASK, asks - 1]:
        state[CROSSED] += 1


@always_inlined
def _room(state, made, out, times, messages):
    """Whether so many messages fit."""
    needed = messages * MESSAGE_BYTES
    state[NEEDED] = needed
    return made[1] + needed <= len(out) and made[0] + messages <= len(times)


@always_inlined
def _clear(prices, slots, pool, state, out, offsets, times, made):
    for side in range(2):
        i = state[DEPTH + side] - 1
        while i >= 0 and state[SHOWN + side] > 0:
            _hide(prices, slots, pool, state, side, i, out, offsets, times, made)
            i -= 1
        state[DEPTH + side] = 0
        state[LIVE + side] = 0
        state[SHOWN + side] = 0
    state[FREE] = -1
    state[USED] = 0


@always_inlined
def _update(prices, slots, pool, state, text, spans, rows, symbol, out, offsets, times, made, snapshot):
    """See `update`."""
    n = _parse(text, spans[0], spans[1], BID, state, rows, 0)
    if n >= 0:
        n = _parse(text, spans[2], spans[3], ASK, state, rows, n)
    if n < 0:
        return n
    depth = 0 if snapshot else max(state[DEPTH + BID], state[DEPTH + ASK])
    if depth + n > prices.shape[1]:
        state[NEEDED] = depth + n
        return MORE_LEVELS
    shown = state[SHOWN + BID] + state[SHOWN + ASK]
    window = state[WINDOW]
    most = shown + 2 * window if snapshot else 3 * n + max(2 * window - shown, 0)
    if window > 0 and not _room(state, made, out, times, most):
        return MORE_ROOM
    state[LEVELS_SET] += n
    if snapshot:
        _clear(prices, slots, pool, state, out, offsets, times, made)
        for k in range(n - 1, -1, -1):  # the worst first: each goes to the end
            side, price, qty = rows[k, ROW_SIDE], rows[k, ROW_PRICE], rows[k, ROW_QTY]
            i = _find(prices, state, side, price)
            if i < 0 and qty > 0:
                _insert(prices, slots, pool, state, side, -1 - i, price, qty)
        _cut(prices, slots, pool, state, out, offsets, times, made)
    else:
        for k in range(n):
            side, price, qty = rows[k, ROW_SIDE], rows[k, ROW_PRICE], rows[k, ROW_QTY]
            i = _find(prices, state, side, price)
            if i >= 0:
                slot = slots[side, i]
                if qty > 0:
                    state[LIVE + side] += pool[slot, QTY] == 0
                    pool[slot, QTY] = qty
                elif pool[slot, QTY] > 0:
                    _hide(prices, slots, pool, state, side, i, out, offsets, times, made)
                    _remove(prices, slots, pool, state, side, i)
            elif qty == 0:
                continue
            else:
                _insert(prices, slots, pool, state, side, -1 - i, price, qty)
        _cut(prices, slots, pool, state, out, offsets, times, made)
        if window > 0:
            for k in range(n):
                side = rows[k, ROW_SIDE]
                i = _find(prices, state, side, rows[k, ROW_PRICE])
                if i < 0 or pool[slots[side, i], QTY] == 0:
                    continue
                ref = pool[slots[side, i], REF]
                beyond = (rows[k, ROW_PRICE] - state[FLOOR + side]) * (1 - 2 * side)
                if ref > 0:
                    _resize(prices, slots, pool, state, side, i, out, offsets, times, made)
                elif ref == 0 and state[SHOWN + side] > 0 and beyond >= 0:
                    _show(prices, slots, pool, state, side, i, symbol, out, offsets, times, made)
    _settle(prices, slots, pool, state, symbol, out, offsets, times, made)
    return n


@kernel(_I64(_INTS, _I64, _I64, _I64, _I64, _I64, _I64))
def update(where, time_ns, bids, bids_end, asks, asks_end, snapshot):
    """Set the levels of ``text[bids:bids_end]`` (bids, where they do not say their side) and ``text[asks:asks_end]``.

    `snapshot` 1: they are the whole book. Returns the number of levels, or a code below 0: then nothing has changed,
    and ``state[NEEDED]`` says how much more of something is needed.
    """
    n = where[WHERE_CAPACITY]
    state = words_at(where[WHERE_STATE], STATE_SIZE)
    state[TIME_NS] = time_ns
    return _update(
        rows_at(where[WHERE_PRICES], 2, n),
        _slots_at(where[WHERE_SLOTS], n),
        rows_at(where[WHERE_POOL], 2 * n, POOL_COLUMNS),
        state,
        bytes_at(where[WHERE_TEXT], where[WHERE_TEXT_BYTES]),
        (bids, bids_end, asks, asks_end),
        rows_at(where[WHERE_ROWS], where[WHERE_N_ROWS], ROW_COLUMNS),
        bytes_at(where[WHERE_SYMBOL], 8),
        bytes_at(where[WHERE_OUT], where[WHERE_OUT_BYTES]),
        words_at(where[WHERE_OFFSETS], where[WHERE_MESSAGES] + 1),
        words_at(where[WHERE_TIMES], where[WHERE_MESSAGES]),
        words_at(where[WHERE_MADE], 2),
        snapshot,
    )


@kernel(_I64(_INTS, _I64))
def clear(where, time_ns):
    """Empty the book. Returns 0 or MORE_ROOM."""
    n = where[WHERE_CAPACITY]
    state = words_at(where[WHERE_STATE], STATE_SIZE)
    state[TIME_NS] = time_ns
    out = bytes_at(where[WHERE_OUT], where[WHERE_OUT_BYTES])
    times = words_at(where[WHERE_TIMES], where[WHERE_MESSAGES])
    made = words_at(where[WHERE_MADE], 2)
    if not _room(state, made, out, times, state[SHOWN + BID] + state[SHOWN + ASK]):
        return MORE_ROOM
    _clear(
        rows_at(where[WHERE_PRICES], 2, n),
        _slots_at(where[WHERE_SLOTS], n),
        rows_at(where[WHERE_POOL], 2 * n, POOL_COLUMNS),
        state,
        out,
        words_at(where[WHERE_OFFSETS], where[WHERE_MESSAGES] + 1),
        times,
        made,
    )
    return 0


@kernel(_I64(_INTS, _I64, _I64, _I64, _I64, _I64, _I64))
def trade(where, time_ns, side, left, left_end, right, right_end):
    """Tell a trade of the price ``text[left:left_end]`` and the quantity ``text[right:right_end]`` as a print: P.

    `side` is that of the order that rested. Returns 0, or a code below 0: then nothing has changed.
    """
    state = words_at(where[WHERE_STATE], STATE_SIZE)
    state[TIME_NS] = time_ns
    text = bytes_at(where[WHERE_TEXT], where[WHERE_TEXT_BYTES])
    out = bytes_at(where[WHERE_OUT], where[WHERE_OUT_BYTES])
    offsets = words_at(where[WHERE_OFFSETS], where[WHERE_MESSAGES] + 1)
    times = words_at(where[WHERE_TIMES], where[WHERE_MESSAGES])
    made = words_at(where[WHERE_MADE], 2)
    symbol = bytes_at(where[WHERE_SYMBOL], 8)
    at, price, _ = _decimal(text, _blank(text, left, left_end), left_end, state, PRICE_SCALE)
    if at < 0:
        return at
    beyond, qty, _ = _decimal(text, _blank(text, right, right_end), right_end, state, QTY_SCALE)
    if beyond < 0:
        return beyond
    if price <= 0 or qty <= 0 or _blank(text, at, left_end) != left_end:
        return MALFORMED
    if _blank(text, beyond, right_end) != right_end:
        return MALFORMED
    if state[WINDOW] > 0 and not _room(state, made, out, times, 1):
        return MORE_ROOM
    state[MAX_PRICE] = max(state[MAX_PRICE], price)
    state[MAX_QTY] = max(state[MAX_QTY], qty)
    if state[WINDOW] == 0:
        return 0
    ticks = _ticks(state, price, 1)
    if ticks <= 0:
        state[PRICES_HIDDEN] += 1
        return 0
    lots = _lots(state, qty)
    state[MATCH] += 1
    at = _head(out, offsets, times, made, state, 80, 44)
    at = _put(out, at, 8, 0)
    at = _put(out, at, 1, 66 if side == BID else 83)
    at = _put(out, at, 4, lots)
    at = _put_symbol(out, at, symbol)
    at = _put(out, at, 4, ticks)
    _put(out, at, 8, state[MATCH])
    return 0


@always_inlined
def _longer(state, value, decimals):
    """A value with more decimals, at most the largest."""
    for _ in range(decimals):
        if value >= _FULL:
            state[DIGITS_CUT] += value < _LARGEST
            return _LARGEST
        value *= 10
    return value


@kernel(numba.void(_PRICES, _SLOTS, _POOL, _INTS, _I64, _I64))
def rescale(prices, slots, pool, state, price_decimals, qty_decimals):
    """Give all values of the book so many more decimals; what then has too many digits becomes the largest number."""
    for side in range(2):
        for i in range(state[DEPTH + side]):
            prices[side, i] = _longer(state, prices[side, i], price_decimals)
            pool[slots[side, i], QTY] = _longer(state, pool[slots[side, i], QTY], qty_decimals)
        state[FLOOR + side] = _longer(state, state[FLOOR + side], price_decimals)
    state[MAX_PRICE] = _longer(state, state[MAX_PRICE], price_decimals)
    state[MAX_QTY] = _longer(state, state[MAX_QTY], qty_decimals)
    state[PRICE_SCALE] += price_decimals
    state[QTY_SCALE] += qty_decimals


@kernel(_I64(_PRICES, _SLOTS, _POOL, _INTS, _BYTES))
def checksum_text(prices, slots, pool, state, out):
    """The text whose CRC-32 Kraken sends: of the 10 best asks, then bids, price and quantity without point and zeros
    in front.

    Written to `out` uint8[at least 800]; returns its length.
    """
    at = 0
    more_price = max(state[PRICE_TEXT] - state[PRICE_SCALE], 0)
    more_qty = max(state[QTY_TEXT] - state[QTY_SCALE], 0)
    for step in range(2):
        side = ASK - step
        left = 10
        for i in range(state[DEPTH + side] - 1, -1, -1):
            if pool[slots[side, i], QTY] == 0:
                continue
            if left == 0:
                break
            left -= 1
            for column in range(2):
                if column == 0:
                    value = _longer(state, prices[side, i], more_price)
                else:
                    value = _longer(state, pool[slots[side, i], QTY], more_qty)
                size = 1
                rest = value // 10
                while rest > 0:
                    size += 1
                    rest //= 10
                for k in range(size - 1, -1, -1):
                    out[at + k] = _ZERO + value % 10
                    value //= 10
                at += size
    return at
