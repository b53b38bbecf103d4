"""Books of price levels as crypto venues send them: exact integers out of JSON text, and ITCH messages out of changes.

A symbol's book is two arrays. ``levels`` int64[2, capacity, 4] holds the bids (0) and the asks (1), **best price at
the end**; its columns are below. ``state`` int64[STATE_SIZE] holds the rest. Prices and quantities are integers
at the symbol's scales: value x 10**-scale. Text that needs more decimals than the scale has is refused with a code,
so that the caller can `rescale` and try again: nothing is ever rounded here.

Towards ITCH each level is one synthetic order of the window, the best ``state[WINDOW]`` levels of a side (0: nothing is
written). A level that enters the window is an Add Order with a new reference, one that leaves it or goes a Delete; a
smaller quantity is a Cancel, a larger one a Replace. Within one batch all that goes is written before anything that
comes, so that a book that is not crossed after the batch is not crossed between its messages either.

Messages go to ``out`` uint8 behind their u16 length, message i begins at ``offsets[i]``; ``made`` int64[2] counts
messages and bytes. No kernel here allocates, and all check for room before they change anything.
"""

from __future__ import annotations

import numba

from tickpath.common import jit
from tickpath.common.records import MAX_PRICE_TICKS, MAX_QTY_LOTS


def kernel(signature):
    """`jit.kernel` without reference counts."""
    return jit.kernel(signature, _nrt=False)


def inlined(function):
    """`jit.inlined` without reference counts."""
    return numba.njit(nogil=True, _nrt=False)(function)


BID, ASK = 0, 1

# Columns of levels. REF: order reference of the level in the window; 0: it is not shown; HIDDEN: it cannot be.
PRICE, QTY, REF, SHOWN_LOTS = range(4)
LEVEL_COLUMNS = 4
HIDDEN = -1

# Columns of rows: one level that a message sets.
ROW_SIDE, ROW_PRICE, ROW_QTY = range(3)
ROW_COLUMNS = 3

# Fields of state.
DEPTH = 0  # and 1: levels of the bids and of the asks
SHOWN = 2  # and 3: levels of a side that have a REF
WINDOW = 4  # best levels of a side that are told as ITCH
LIMIT = 5  # best levels of a side that are kept after each batch; 0: all
LOCATE = 6
NEXT_REF = 7
MATCH = 8  # match number of the last print
TIME_NS = 9  # ns after midnight for the messages written from now on
PRICE_SCALE, QTY_SCALE = 10, 11
PRICE_TEXT, QTY_TEXT = 12, 13  # most decimals seen in the text of a level, zeros included: what a checksum is made of
TICK_MUL, TICK_DIV = 14, 15  # price x MUL / DIV is in ticks
LOT_MUL, LOT_DIV = 16, 17  # quantity x MUL / DIV is in lots
NEEDED = 18  # what a refused call asks for: decimals, rows, levels or bytes
MAX_PRICE, MAX_QTY = 19, 20  # largest best or traded price, largest quantity, so far
# Counters.
LEVELS_SET = 21  # levels that messages set or removed
CROSSED = 22  # batches that left the best bid at or above the best ask
PRICES_HIDDEN = 23  # levels not shown because their price is no tick of the instrument that ITCH can carry
PRICES_ROUNDED = (
    24  # levels and prints whose price was no whole number of ticks: bids down, asks up, prints to nearest
)
QTYS_ROUNDED = 25  # ... whose quantity was no whole number of lots: to the nearest, at least one
QTYS_CUT = 26  # ... whose quantity is more lots than ITCH can carry: the most it can
DIGITS_CUT = 27  # numbers of more than 18 digits, or more than MAX_SCALE decimals
STATE_SIZE = 28

MAX_SCALE = 12
_LARGEST = 10**18 - 1

# What calls return in place of a number of rows.
MALFORMED, MORE_PRICE_DECIMALS, MORE_QTY_DECIMALS, MORE_ROWS, MORE_LEVELS, MORE_ROOM = -1, -2, -3, -4, -5, -6

#: Bytes of the longest message made here, with its length: P.
MESSAGE_BYTES = 46

_INTS = numba.int64[::1]
_LEVELS = numba.int64[:, :, ::1]
_ROWS = numba.int64[:, ::1]
_BYTES = numba.uint8[::1]
_I64 = numba.int64

_QUOTE, _BACKSLASH, _COMMA, _COLON, _DOT, _MINUS, _PLUS, _ZERO = 34, 92, 44, 58, 46, 45, 43, 48
_OPEN, _CLOSE, _OPEN_OBJECT, _CLOSE_OBJECT = 91, 93, 123, 125


# --- JSON text -----------------------------------------------------------------------------------------------------


@inlined
def _blank(text, at, end):
    """Position after white space."""
    while at < end and (text[at] == 32 or 9 <= text[at] <= 13):
        at += 1
    return at


@inlined
def _power(n):
    value = 1
    for _ in range(n):
        value *= 10
    return value


@inlined
def _decimal(text, at, end, state, scale_field):
    """A decimal, in quotes or not, at a scale of the symbol: (position after it, value, decimals of the text).

    A position below 0 says what is wrong.
    """
    quoted = at < end and text[at] == _QUOTE
    at += quoted
    value = 0
    decimals = 0  # of the value, without zeros at the end
    zeros = 0
    written = 0
    digits = 0
    while at < end and 0 <= text[at] - _ZERO <= 9:
        digit = numba.int64(text[at]) - _ZERO
        if value > _LARGEST // 10 - 1:
            value = _LARGEST
            state[DIGITS_CUT] += 1
        else:
            value = value * 10 + digit
        digits += 1
        at += 1
    if digits == 0:
        return MALFORMED, 0, 0
    if at < end and text[at] == _DOT:
        at += 1
        while at < end and 0 <= text[at] - _ZERO <= 9:
            digit = numba.int64(text[at]) - _ZERO
            written += 1
            if digit == 0:
                zeros += 1
            elif decimals + zeros + 1 > MAX_SCALE or value > _LARGEST // _power(zeros + 1) - 1:
                state[DIGITS_CUT] += 1
                zeros = MAX_SCALE
            else:
                value = value * _power(zeros + 1) + digit
                decimals += zeros + 1
                zeros = 0
            at += 1
        if written == 0:
            return MALFORMED, 0, 0
    if at < end and (text[at] == 69 or text[at] == 101):  # E e
        at += 1
        negative = at < end and text[at] == _MINUS
        at += negative or (at < end and text[at] == _PLUS)
        exponent = 0
        digits = 0
        while at < end and 0 <= text[at] - _ZERO <= 9:
            exponent = min(exponent * 10 + text[at] - _ZERO, 99)
            digits += 1
            at += 1
        if digits == 0:
            return MALFORMED, 0, 0
        decimals += exponent if negative else -exponent
        while decimals < 0 and value <= _LARGEST // 10:
            value *= 10
            decimals += 1
        if decimals < 0:
            value, decimals = _LARGEST, 0
            state[DIGITS_CUT] += 1
        while decimals > MAX_SCALE:
            value //= 10
            decimals -= 1
    if quoted:
        if at >= end or text[at] != _QUOTE:
            return MALFORMED, 0, 0
        at += 1
    if value == 0:
        decimals = 0
    missing = state[scale_field] - decimals
    if missing < 0:
        state[NEEDED] = decimals
        return (MORE_PRICE_DECIMALS if scale_field == PRICE_SCALE else MORE_QTY_DECIMALS), 0, 0
    if value > _LARGEST // _power(missing):
        state[DIGITS_CUT] += 1
        return at, _LARGEST, written
    return at, value * _power(missing), written


@inlined
def _skip(text, at, end):
    """Position after a string, a number or a word; MALFORMED for anything else."""
    if at >= end:
        return MALFORMED
    if text[at] == _QUOTE:
        at += 1
        while at < end and text[at] != _QUOTE:
            at += 2 if text[at] == _BACKSLASH else 1
        return at + 1 if at < end else MALFORMED
    begin = at
    while at < end and (text[at] >= 97 or _PLUS <= text[at] <= 57 or text[at] == 69) and text[at] < 123:
        if text[at] == _COMMA:
            break
        at += 1
    return at if at > begin else MALFORMED


@inlined
def _parse(text, at, end, side, state, rows, n):
    """Rows of a JSON list of levels: [price, quantity, ...] or {"price": .., "qty": .., "side": ..}, each.

    Returns the number of rows after them, from `n` on, or what is wrong. An empty text is no levels.
    """
    at = _blank(text, at, end)
    if at >= end:
        return n
    if text[at] != _OPEN:
        return MALFORMED
    at = _blank(text, at + 1, end)
    first = True
    while True:
        if at < end and text[at] == _CLOSE and first:
            at += 1
            break
        first = False
        if at >= end:
            return MALFORMED
        if n >= len(rows):
            state[NEEDED] = 2 * n + 64
            return MORE_ROWS
        kind = text[at]
        price, qty, side_here = -1, -1, side
        if kind == _OPEN:
            at, price, written = _decimal(text, _blank(text, at + 1, end), end, state, PRICE_SCALE)
            if at < 0:
                return at
            if written > state[PRICE_TEXT]:
                state[PRICE_TEXT] = written
            at = _blank(text, at, end)
            if at >= end or text[at] != _COMMA:
                return MALFORMED
            at, qty, written = _decimal(text, _blank(text, at + 1, end), end, state, QTY_SCALE)
            if at < 0:
                return at
            if written > state[QTY_TEXT]:
                state[QTY_TEXT] = written
            at = _blank(text, at, end)
            while at < end and text[at] == _COMMA:
                at = _skip(text, _blank(text, at + 1, end), end)
                if at < 0:
                    return MALFORMED
                at = _blank(text, at, end)
            if at >= end or text[at] != _CLOSE:
                return MALFORMED
            at += 1
        elif kind == _OPEN_OBJECT:
            comma = True
            at += 1
            while comma:
                key = _blank(text, at, end)
                at = _skip(text, key, end)
                if at < 0 or text[key] != _QUOTE:
                    return MALFORMED
                size, letter = at - key - 2, text[key + 1]
                at = _blank(text, at, end)
                if at >= end or text[at] != _COLON:
                    return MALFORMED
                at = _blank(text, at + 1, end)
                if letter == 112 and (size == 5 or size == 11):  # price, price_level
                    at, price, written = _decimal(text, at, end, state, PRICE_SCALE)
                    if at < 0:
                        return at
                    if written > state[PRICE_TEXT]:
                        state[PRICE_TEXT] = written
                elif (letter == 113 and size == 3) or (letter == 110 and size == 12):  # qty, new_quantity
                    at, qty, written = _decimal(text, at, end, state, QTY_SCALE)
                    if at < 0:
                        return at
                    if written > state[QTY_TEXT]:
                        state[QTY_TEXT] = written
                else:
                    value = at
                    at = _skip(text, at, end)
                    if at < 0:
                        return MALFORMED
                    if letter == 115 and size == 4:  # side: bid, offer or ask
                        word = text[value + 1]
                        side_here = BID if word == 98 else ASK if word == 111 or word == 97 else -1  # noqa: PLR1714
                at = _blank(text, at, end)
                if at >= end:
                    return MALFORMED
                comma = text[at] == _COMMA
                if not comma and text[at] != _CLOSE_OBJECT:
                    return MALFORMED
                at += 1
        if price <= 0 or qty < 0 or side_here < 0:
            return MALFORMED
        rows[n, ROW_SIDE], rows[n, ROW_PRICE], rows[n, ROW_QTY] = side_here, price, qty
        n += 1
        at = _blank(text, at, end)
        if at >= end:
            return MALFORMED
        if text[at] == _CLOSE:
            at += 1
            break
        if text[at] != _COMMA:
            return MALFORMED
        at = _blank(text, at + 1, end)
    return n if _blank(text, at, end) == end else MALFORMED


# --- messages ------------------------------------------------------------------------------------------------------


@inlined
def _put(out, at, size, value):
    for i in range(size):
        out[at + i] = value >> 8 * (size - 1 - i) & 0xFF
    return at + size


@inlined
def _head(out, offsets, made, state, kind, size):
    """Length and header of a message of `size` bytes; position after them. The message counts as made."""
    at = made[1]
    offsets[made[0]] = at
    made[0] += 1
    made[1] = at + 2 + size
    offsets[made[0]] = made[1]
    at = _put(out, at, 2, size)
    at = _put(out, at, 1, kind)
    at = _put(out, at, 2, state[LOCATE])
    at = _put(out, at, 2, 0)
    return _put(out, at, 6, state[TIME_NS])


@inlined
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


@inlined
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


@inlined
def _put_symbol(out, at, symbol):
    for i in range(8):
        out[at + i] = symbol[i]
    return at + 8


@inlined
def _show(levels, state, side, i, symbol, out, offsets, made):
    """A level enters the window: A."""
    state[SHOWN + side] += 1
    ticks = _ticks(state, levels[side, i, PRICE], 2 if side == ASK else 0)
    if ticks <= 0:
        levels[side, i, REF] = HIDDEN
        state[PRICES_HIDDEN] += 1
        return
    lots = _lots(state, levels[side, i, QTY])
    ref = state[NEXT_REF]
    state[NEXT_REF] = ref + 1
    levels[side, i, REF] = ref
    levels[side, i, SHOWN_LOTS] = lots
    at = _head(out, offsets, made, state, 65, 36)
    at = _put(out, at, 8, ref)
    at = _put(out, at, 1, 66 if side == BID else 83)
    at = _put(out, at, 4, lots)
    at = _put_symbol(out, at, symbol)
    _put(out, at, 4, ticks)


@inlined
def _hide(levels, state, side, i, out, offsets, made):
    """A level leaves the window: D."""
    ref = levels[side, i, REF]
    if ref == 0:
        return
    state[SHOWN + side] -= 1
    levels[side, i, REF] = 0
    if ref > 0:
        _put(out, _head(out, offsets, made, state, 68, 19), 8, ref)


@inlined
def _resize(levels, state, side, i, out, offsets, made):
    """The quantity of a shown level has changed: X or U."""
    lots = _lots(state, levels[side, i, QTY])
    shown = levels[side, i, SHOWN_LOTS]
    ref = levels[side, i, REF]
    levels[side, i, SHOWN_LOTS] = lots
    if lots < shown:
        at = _put(out, _head(out, offsets, made, state, 88, 23), 8, ref)
        _put(out, at, 4, shown - lots)
    elif lots > shown:
        new = state[NEXT_REF]
        state[NEXT_REF] = new + 1
        levels[side, i, REF] = new
        at = _put(out, _head(out, offsets, made, state, 85, 35), 8, ref)
        at = _put(out, at, 8, new)
        at = _put(out, at, 4, lots)
        _put(out, at, 4, _ticks(state, levels[side, i, PRICE], 2 if side == ASK else 0))


# --- levels --------------------------------------------------------------------------------------------------------


@inlined
def _find(levels, state, side, price):
    """Index of a price; if it is not there, -1 - (where it belongs)."""
    high = state[DEPTH + side]
    sign = 1 - 2 * side
    low = 0
    step = 8
    while (
        high - step >= 0 and (levels[side, high - step, PRICE] - price) * sign > 0
    ):  # most changes are near the best
        high -= step
        step *= 4
    if high - step > 0:
        low = high - step
    while low < high:
        middle = (low + high) >> 1
        if (levels[side, middle, PRICE] - price) * sign < 0:
            low = middle + 1
        else:
            high = middle
    if low < state[DEPTH + side] and levels[side, low, PRICE] == price:
        return low
    return -1 - low


@inlined
def _insert(levels, state, side, i, price, qty):
    n = state[DEPTH + side]
    move = n
    while move > i:
        for column in range(LEVEL_COLUMNS):
            levels[side, move, column] = levels[side, move - 1, column]
        move -= 1
    levels[side, i, PRICE] = price
    levels[side, i, QTY] = qty
    levels[side, i, REF] = 0
    levels[side, i, SHOWN_LOTS] = 0
    state[DEPTH + side] = n + 1


@inlined
def _remove(levels, state, side, i, n_gone):
    n = state[DEPTH + side] - n_gone
    for move in range(i, n):
        for column in range(LEVEL_COLUMNS):
            levels[side, move, column] = levels[side, move + n_gone, column]
    state[DEPTH + side] = n


@inlined
def _settle(levels, state, symbol, out, offsets, made):
    """After a batch: cut the sides to the limit, and the window to what belongs there."""
    for side in range(2):
        limit = state[LIMIT]
        beyond = state[DEPTH + side] - limit
        if limit > 0 and beyond > 0:
            for i in range(beyond):
                _hide(levels, state, side, i, out, offsets, made)
            _remove(levels, state, side, 0, beyond)
        n = state[DEPTH + side]
        first = max(n - state[WINDOW], 0)
        i = first - 1
        while state[SHOWN + side] > n - first and i >= 0:
            _hide(levels, state, side, i, out, offsets, made)
            i -= 1
    for side in range(2):
        n = state[DEPTH + side]
        i = first = max(n - state[WINDOW], 0)
        while state[SHOWN + side] < n - first and i < n:
            if levels[side, i, REF] == 0:
                _show(levels, state, side, i, symbol, out, offsets, made)
            i += 1
        if n > 0:
            state[MAX_PRICE] = max(state[MAX_PRICE], levels[side, n - 1, PRICE])
    bids, asks = state[DEPTH + BID], state[DEPTH + ASK]
    if bids > 0 and asks > 0 and levels[BID, bids - 1, PRICE] >= levels[ASK, asks - 1, PRICE]:
        state[CROSSED] += 1


@inlined
def _room(state, made, out, offsets, messages):
    """Whether so many messages fit."""
    needed = messages * MESSAGE_BYTES
    state[NEEDED] = needed
    return made[1] + needed <= len(out) and made[0] + messages < len(offsets) - 1


@inlined
def _clear(levels, state, out, offsets, made):
    for side in range(2):
        i = state[DEPTH + side] - 1
        while i >= 0 and state[SHOWN + side] > 0:
            _hide(levels, state, side, i, out, offsets, made)
            i -= 1
        state[DEPTH + side] = 0


@kernel(_I64(_LEVELS, _INTS, _BYTES, _I64, _I64, _ROWS, _BYTES, _BYTES, _INTS, _INTS, _I64))
def update(levels, state, text, middle, end, rows, symbol, out, offsets, made, snapshot):
    """Set the levels of ``text[:middle]`` (bids, where they do not say their side) and ``text[middle:end]`` (asks).

    `snapshot` 1: they are the whole book. Returns the number of levels, or a code below 0: then nothing has changed,
    and ``state[NEEDED]`` says how much more of something is needed. ``rows`` int64[n, 3] is scratch, ``symbol``
    uint8[8] is padded with spaces.
    """
    n = _parse(text, 0, middle, BID, state, rows, 0)
    if n >= 0:
        n = _parse(text, middle, end, ASK, state, rows, n)
    if n < 0:
        return n
    depth = 0 if snapshot else max(state[DEPTH + BID], state[DEPTH + ASK])
    if depth + n > levels.shape[1]:
        state[NEEDED] = depth + n
        return MORE_LEVELS
    shown = state[SHOWN + BID] + state[SHOWN + ASK]
    window = state[WINDOW]
    most = shown + 2 * window if snapshot else 3 * n + max(2 * window - shown, 0)
    if window > 0 and not _room(state, made, out, offsets, most):
        return MORE_ROOM
    state[LEVELS_SET] += n
    if snapshot:
        _clear(levels, state, out, offsets, made)
        for k in range(n - 1, -1, -1):  # the worst first: each goes to the end
            side, price, qty = rows[k, ROW_SIDE], rows[k, ROW_PRICE], rows[k, ROW_QTY]
            i = _find(levels, state, side, price)
            state[MAX_QTY] = max(state[MAX_QTY], qty)
            if i < 0 and qty > 0:
                _insert(levels, state, side, -1 - i, price, qty)
    else:
        for k in range(n):
            side, price, qty = rows[k, ROW_SIDE], rows[k, ROW_PRICE], rows[k, ROW_QTY]
            i = _find(levels, state, side, price)
            if qty == 0:
                if i >= 0:
                    _hide(levels, state, side, i, out, offsets, made)
                    _remove(levels, state, side, i, 1)
            elif i >= 0:
                levels[side, i, QTY] = qty
            else:
                _insert(levels, state, side, -1 - i, price, qty)
            state[MAX_QTY] = max(state[MAX_QTY], qty)
        if window > 0:
            for k in range(n):
                side = rows[k, ROW_SIDE]
                i = _find(levels, state, side, rows[k, ROW_PRICE])
                if i >= 0 and levels[side, i, REF] > 0:
                    _resize(levels, state, side, i, out, offsets, made)
    _settle(levels, state, symbol, out, offsets, made)
    return n


@kernel(_I64(_LEVELS, _INTS, _BYTES, _INTS, _INTS))
def clear(levels, state, out, offsets, made):
    """Empty the book. Returns 0 or MORE_ROOM."""
    if not _room(state, made, out, offsets, state[SHOWN + BID] + state[SHOWN + ASK]):
        return MORE_ROOM
    _clear(levels, state, out, offsets, made)
    return 0


@kernel(_I64(_INTS, _I64, _I64, _I64, _BYTES, _BYTES, _INTS, _INTS))
def trade(state, side, price, qty, symbol, out, offsets, made):
    """Tell a trade as a print: P. `side` is that of the order that rested. Returns 0 or MORE_ROOM."""
    state[MAX_PRICE] = max(state[MAX_PRICE], price)
    state[MAX_QTY] = max(state[MAX_QTY], qty)
    if state[WINDOW] == 0:
        return 0
    if not _room(state, made, out, offsets, 1):
        return MORE_ROOM
    ticks = _ticks(state, price, 1)
    if ticks <= 0:
        state[PRICES_HIDDEN] += 1
        return 0
    lots = _lots(state, qty)
    state[MATCH] += 1
    at = _head(out, offsets, made, state, 80, 44)
    at = _put(out, at, 8, 0)
    at = _put(out, at, 1, 66 if side == BID else 83)
    at = _put(out, at, 4, lots)
    at = _put_symbol(out, at, symbol)
    at = _put(out, at, 4, ticks)
    _put(out, at, 8, state[MATCH])
    return 0


@kernel(numba.void(_LEVELS, _INTS, _I64, _I64))
def rescale(levels, state, price_decimals, qty_decimals):
    """Give all values of the book so many more decimals; what then has too many digits becomes the largest number."""
    for column, more in ((PRICE, price_decimals), (QTY, qty_decimals)):
        factor = _power(more)
        for side in range(2):
            for i in range(state[DEPTH + side]):
                if levels[side, i, column] > _LARGEST // factor:
                    levels[side, i, column] = _LARGEST
                    state[DIGITS_CUT] += 1
                else:
                    levels[side, i, column] *= factor
        field = MAX_PRICE if column == PRICE else MAX_QTY
        state[field] = min(state[field], _LARGEST // factor) * factor
    state[PRICE_SCALE] += price_decimals
    state[QTY_SCALE] += qty_decimals


@kernel(_I64(_LEVELS, _INTS, _BYTES))
def checksum_text(levels, state, out):
    """The text whose CRC-32 Kraken sends: 10 best asks, then bids; price and quantity without point and leading zeros.

    Written to `out` uint8[at least 800]; returns its length.
    """
    at = 0
    price_factor = _power(state[PRICE_TEXT] - state[PRICE_SCALE]) if state[PRICE_TEXT] > state[PRICE_SCALE] else 1
    qty_factor = _power(state[QTY_TEXT] - state[QTY_SCALE]) if state[QTY_TEXT] > state[QTY_SCALE] else 1
    for step in range(2):
        side = ASK - step
        n = state[DEPTH + side]
        for i in range(n - 1, max(n - 11, -1), -1):
            for column in range(2):
                factor = price_factor if column == PRICE else qty_factor
                value = min(levels[side, i, column], _LARGEST // factor) * factor
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
