"""Reading LOBSTER's CSV and telling its events as `MESSAGE` records that keep a book equal to the recorded one.

Arrays of all kernels here: ``text`` uint8[bytes]; ``rows`` int64[n, 6], an event per row (columns TIME .. DIRECTION:
time in ns); ``book`` int64[n, 4 x levels], row k is the book after event k: ask price, ask size, bid price, bid size
of level 1, then of level 2, and so on, with size 0 where there is no level.

The book of `replay`: ``orders`` int64[slots, 7], columns below. Order k < n is the one that row k submits, those
from n on are synthetic: size that the recording shows and no event brought. ``levels`` int64[2, slots, 5], by side
(0 bids, 1 offers), in rising order of KEY, the price or minus the price: the best is the last. ``depth`` int64[2]
counts the levels of a side.
"""

from __future__ import annotations

import numba

from tickpath.common.jit import inlined, kernel
from tickpath.sim.sources.kernels.encode import (
    ADD,
    BUY,
    CANCEL,
    CROSS,
    DELETE,
    DIRECTORY,
    EXECUTED,
    MESSAGES_TYPE,
    SELL,
    SYSTEM,
    TRADE,
    TRADING,
    note,
)

# Columns of rows, and LOBSTER's types of events.
TIME, TYPE, ID, SIZE, PRICE, DIRECTION = range(6)
SUBMISSION, PARTIAL_CANCEL, DELETION, EXECUTION, HIDDEN_EXECUTION, CROSS_TRADE, HALT = range(1, 8)

# Faults of `parse` and `check`.
OK, NO_NUMBER, TOO_MANY_DIGITS, TOO_FEW_COLUMNS, TOO_MANY_COLUMNS, NOT_ALLOWED, NOT_SORTED = range(7)

# Columns of orders. LAST: last row that names the order.
LEFT, AT, SIDE, PREV, NEXT, REF, LAST = range(7)
ORDER_COLUMNS = 7

# Columns of levels. UNKNOWN: how much of TOTAL is in synthetic orders.
KEY, HEAD, TAIL, TOTAL, UNKNOWN = range(5)
LEVEL_COLUMNS = 5

# Columns of made: messages; synthetic orders; corrections; of those against orders that a later row names;
# events that name an order not submitted; events that nothing could be done for; times going back.
MESSAGES, ANNOUNCED, STALE, NAMED_STALE, UNKNOWN_REFERENCES, DROPPED, TIMES_BACK = range(7)
MADE_COLUMNS = 7

#: Ids of LOBSTER are below this, references of synthetic orders not.
SYNTHETIC = 1 << 48

_MAX_PRICE = 2_000_000_000
_MAX_SIZE = 2**31 - 1
_NS_PER_DAY = 86_400_000_000_000
_NEWLINE, _RETURN, _COMMA, _MINUS, _DOT, _ZERO = 10, 13, 44, 45, 46, 48


@kernel("int64(uint8[::1])")
def count_lines(text):
    """Number of lines, without empty ones at the end."""
    end = len(text)
    while end > 0 and (text[end - 1] == _NEWLINE or text[end - 1] == _RETURN):
        end -= 1
    lines = 1 if end else 0
    for i in range(end):
        lines += text[i] == _NEWLINE
    return lines


@kernel("int64(uint8[::1], int64, int64[:,::1], int64[::1])")
def parse(text, decimals, out, found):
    """Parse integers separated by commas, a row per line (LF or CRLF), into `out`, int64[rows, columns].

    The first column may have decimals if `decimals` is above 0; it is scaled by 10 ** `decimals` and rounded to the
    nearest, without floats. Returns OK, or the fault, whose row and column (from 0) are in `found`, int64[2].
    """
    end = len(text)
    at = 0
    n_columns = out.shape[1]
    for row in range(out.shape[0]):
        for column in range(n_columns):
            found[0], found[1] = row, column
            negative = at < end and text[at] == _MINUS
            at += negative
            value, digits, scale = 0, 0, decimals if column == 0 else 0
            while at < end and 0 <= text[at] - _ZERO <= 9:
                value = value * 10 + text[at] - _ZERO
                digits += 1
                at += 1
                if digits + scale > 18:
                    return TOO_MANY_DIGITS
            if digits == 0:
                return NO_NUMBER
            if at < end and text[at] == _DOT and scale > 0:
                at += 1
                while at < end and 0 <= text[at] - _ZERO <= 9:
                    if scale > 0:
                        value = value * 10 + text[at] - _ZERO
                    elif scale == 0:
                        value += text[at] >= _ZERO + 5
                    scale -= 1
                    at += 1
            while scale > 0:
                value *= 10
                scale -= 1
            out[row, column] = -value if negative else value
            if column < n_columns - 1:
                if at >= end or text[at] == _NEWLINE or text[at] == _RETURN:
                    found[1] = column + 1
                    return TOO_FEW_COLUMNS
                if text[at] != _COMMA:
                    return NO_NUMBER
                at += 1
            else:
                if at < end and text[at] == _COMMA:
                    return TOO_MANY_COLUMNS
                if at < end and text[at] == _RETURN:
                    at += 1
                if at < end and text[at] != _NEWLINE:
                    return NO_NUMBER
                at += 1
    return OK


@kernel("int64(int64[:,::1], int64[:,::1], int64[::1])")
def check(rows, book, found):
    """Check that all values are in range (see `tickpath.sim.sources.lobster`); result as of `parse`.

    A fault in the book has its column in `found`[1] counted on from 6. `book` may have no rows.
    """
    for k in range(len(rows)):
        found[0] = k
        kind = rows[k, TYPE]
        found[1] = TYPE
        if not SUBMISSION <= kind <= HALT:
            return NOT_ALLOWED
        found[1] = TIME
        if not 0 <= rows[k, TIME] < _NS_PER_DAY:
            return NOT_ALLOWED
        found[1] = PRICE
        if kind == HALT:
            if not -1 <= rows[k, PRICE] <= 1:
                return NOT_ALLOWED
            continue
        if not 1 <= rows[k, PRICE] <= _MAX_PRICE:
            return NOT_ALLOWED
        found[1] = ID
        if not (1 if kind <= EXECUTION else -1) <= rows[k, ID] < SYNTHETIC:
            return NOT_ALLOWED
        found[1] = SIZE
        if not 1 <= rows[k, SIZE] <= _MAX_SIZE:
            return NOT_ALLOWED
        found[1] = DIRECTION
        if abs(rows[k, DIRECTION]) != 1:
            return NOT_ALLOWED
    for k in range(len(book)):
        found[0] = k
        for side in range(2):
            before = -(2**62)
            for column in range(2 - 2 * side, book.shape[1], 4):
                price, size = book[k, column], book[k, column + 1]
                found[1] = 6 + column + 1
                if not 0 <= size <= _MAX_SIZE:
                    return NOT_ALLOWED
                if size == 0:
                    before = 2**62
                    continue
                found[1] = 6 + column
                if not 1 <= price <= _MAX_PRICE:
                    return NOT_ALLOWED
                key = -price if side == 0 else price
                if key <= before:
                    return NOT_SORTED
                before = key
    return OK


@kernel("void(int64[:,::1], int64[:,::1], int64[::1], int64[:,::1])")
def resolve(rows, table, names, orders):
    """Find the order of every event.

    `names` int64[n]: the row that submitted the order which row k names (in a submission: an earlier one under the
    same id), -1 if there is none. Sets LAST of the orders. `table` int64[a power of two, at least 2n; 2] is -1.
    """
    mask = len(table) - 1
    for k in range(len(rows)):
        names[k] = -1
        if rows[k, TYPE] > EXECUTION:
            continue
        ref = rows[k, ID]
        at = (ref * 0x9E3779B97F4A7C1 >> 17) & mask
        for _ in range(len(table)):
            if table[at, 0] == ref or table[at, 0] == -1:
                break
            at = at + 1 & mask
        if table[at, 0] == ref:
            names[k] = table[at, 1]
        if rows[k, TYPE] == SUBMISSION:
            table[at, 0], table[at, 1] = ref, k
            orders[k, LAST] = k
        elif names[k] >= 0:
            orders[names[k], LAST] = k


_INT, _LIST, _TABLE, _LEVELS = numba.int64, numba.int64[::1], numba.int64[:, ::1], numba.int64[:, :, ::1]


@kernel(numba.void(MESSAGES_TYPE, _LIST, *[_INT] * 7))
def _say(messages, made, now, kind, ref, other, side, shares, price):
    letter = SELL if side else BUY
    made[MESSAGES] = note(messages, made[MESSAGES], now, 0, kind, ref, other, letter, shares, price)


@inlined
def _find(levels, depth, side, price):
    """Where the level of a price is, or would have to be put in."""
    key = -price if side else price
    low, high = 0, depth[side]
    while low < high:
        middle = (low + high) >> 1
        if levels[side, middle, KEY] < key:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _is_at(levels, depth, side, at, price):
    return at < depth[side] and levels[side, at, KEY] == (-price if side else price)


@inlined
def _append(orders, levels, depth, side, price, slot, shares, ref):
    """An order joins the end of its level, which is made if there is none."""
    at = _find(levels, depth, side, price)
    if not _is_at(levels, depth, side, at, price):
        for i in range(depth[side], at, -1):
            for column in range(LEVEL_COLUMNS):
                levels[side, i, column] = levels[side, i - 1, column]
        depth[side] += 1
        levels[side, at, KEY] = -price if side else price
        levels[side, at, HEAD] = levels[side, at, TAIL] = -1
        levels[side, at, TOTAL] = levels[side, at, UNKNOWN] = 0
    tail = levels[side, at, TAIL]
    orders[slot, LEFT], orders[slot, AT], orders[slot, SIDE], orders[slot, REF] = shares, price, side, ref
    orders[slot, PREV], orders[slot, NEXT] = tail, -1
    if tail < 0:
        levels[side, at, HEAD] = slot
    else:
        orders[tail, NEXT] = slot
    levels[side, at, TAIL] = slot
    levels[side, at, TOTAL] += shares
    if ref >= SYNTHETIC:
        levels[side, at, UNKNOWN] += shares


@inlined
def _reduce(orders, levels, side, at, slot, shares):
    """Take shares off an order of the level at `at`; at 0 it leaves the level. Empty levels stay."""
    orders[slot, LEFT] -= shares
    levels[side, at, TOTAL] -= shares
    if orders[slot, REF] >= SYNTHETIC:
        levels[side, at, UNKNOWN] -= shares
    if orders[slot, LEFT] == 0:
        before, after = orders[slot, PREV], orders[slot, NEXT]
        if before < 0:
            levels[side, at, HEAD] = after
        else:
            orders[before, NEXT] = after
        if after < 0:
            levels[side, at, TAIL] = before
        else:
            orders[after, PREV] = before


@inlined
def _drop_if_empty(levels, depth, side, at):
    if levels[side, at, TOTAL] == 0:
        depth[side] -= 1
        for i in range(at, depth[side]):
            for column in range(LEVEL_COLUMNS):
                levels[side, i, column] = levels[side, i + 1, column]


@inlined
def _take_off(orders, levels, side, at, slot, shares, messages, made, now):
    """Cancel shares of an order: D if it was all, else X."""
    kind = DELETE if shares == orders[slot, LEFT] else CANCEL
    _say(messages, made, now, kind, orders[slot, REF], 0, side, shares, 0)
    _reduce(orders, levels, side, at, slot, shares)


# Whom `_shrink` may cut: known orders that no row from now on names, synthetic orders, known orders of any kind.
_SILENT, _SYNTHETIC, _ANY = range(3)


@kernel(numba.void(_TABLE, _LEVELS, *[_INT] * 7, MESSAGES_TYPE, _LIST, _INT))
def _shrink(orders, levels, side, at, whom, shares, k, own, keep, messages, made, now):
    """Take up to `shares` off a level, oldest orders first; `keep` shares of order `own` stay."""
    slot = levels[side, at, HEAD]
    while slot >= 0 and shares > 0:
        after = orders[slot, NEXT]
        synthetic = orders[slot, REF] >= SYNTHETIC
        named = not synthetic and orders[slot, LAST] >= k
        cut = min(shares, orders[slot, LEFT] - (keep if slot == own else 0))
        if synthetic == (whom == _SYNTHETIC) and not (named and whom == _SILENT) and cut > 0:
            made[STALE] += 1
            made[NAMED_STALE] += named
            _take_off(orders, levels, side, at, slot, cut, messages, made, now)
            shares -= cut
        slot = after


@inlined
def _announce(orders, levels, depth, spare, side, price, shares, base, messages, made, now):
    """A synthetic order joins a level."""
    if spare[0] >= len(orders):
        return
    ref = base + made[ANNOUNCED]
    made[ANNOUNCED] += 1
    _append(orders, levels, depth, side, price, spare[0], shares, ref)
    spare[0] += 1
    _say(messages, made, now, ADD, ref, 0, side, shares, price)


@kernel(numba.void(_TABLE, _LEVELS, _LIST, _LIST, *[_INT] * 8, MESSAGES_TYPE, _LIST, _INT))
def _settle(orders, levels, depth, spare, side, price, target, unknown, k, own, keep, base, messages, made, now):
    """Make a level hold `target` shares, at least `unknown` of them synthetic, by cancelling or adding orders."""
    at = _find(levels, depth, side, price)
    if _is_at(levels, depth, side, at, price):
        for whom in (_SILENT, _ANY):
            excess = levels[side, at, TOTAL] - levels[side, at, UNKNOWN] - (target - unknown)
            if excess > 0:
                _shrink(orders, levels, side, at, whom, excess, k, own, keep, messages, made, now)
        for whom in (_SILENT, _SYNTHETIC, _ANY):
            excess = levels[side, at, TOTAL] - target
            if whom == _SYNTHETIC:
                excess = min(excess, levels[side, at, UNKNOWN] - unknown)
            if excess > 0:
                _shrink(orders, levels, side, at, whom, excess, k, own, keep, messages, made, now)
        target -= levels[side, at, TOTAL]
        _drop_if_empty(levels, depth, side, at)
    if target > 0:
        _announce(orders, levels, depth, spare, side, price, target, base, messages, made, now)


@inlined
def _recorded(book, k, side, price):
    """Column of the level of a price in row k of the recorded book, -1 if there is none."""
    for column in range(2 - 2 * side, book.shape[1], 4):
        if book[k, column + 1] > 0 and book[k, column] == price:
            return column
    return -1


@inlined
def _is_in_window(book, k, side, price):
    """Whether row k would show a level of this price: it is not beyond the last of all its levels."""
    last = book.shape[1] - 4 + (2 - 2 * side)
    if book[k, last + 1] == 0:
        return True
    return price <= book[k, last] if side else price >= book[k, last]


@inlined
def _agrees(levels, depth, book, k, side, price, change, others):
    """Whether nothing is to be put right on a side before event k: the usual case, told by one walk from the top.

    `price` is that of the event, 0 if it is not on this side; the other arguments as in `replay`.
    """
    at = depth[side] - 1
    waiting = price > 0 and change > 0  # the event takes from a level that we have not come to yet
    for column in range(2 - 2 * side, book.shape[1], 4):
        p, target = book[k, column], book[k, column + 1]
        if target == 0:
            if at >= 0 and not (waiting and at == 0):
                return False
            break
        if waiting and at >= 0 and p != price and abs(levels[side, at, KEY]) == price:
            if levels[side, at, TOTAL] != change or levels[side, at, UNKNOWN] < others:
                return False
            waiting = False
            at -= 1
        unknown = 0
        if p == price:
            target += change
            unknown = others
            waiting = False
            if target == 0:
                continue
        if at < 0 or abs(levels[side, at, KEY]) != p or levels[side, at, TOTAL] != target:
            return False
        if levels[side, at, UNKNOWN] < unknown:
            return False
        at -= 1
    if waiting:
        return (
            at >= 0
            and abs(levels[side, at, KEY]) == price
            and levels[side, at, TOTAL] == change
            and levels[side, at, UNKNOWN] >= others
        )
    return True


@inlined
def _sweep(orders, levels, depth, side, limit, k, messages, made, now):
    """Cancel all orders of a side at `limit` or better: they cannot be there any more."""
    key = -limit if side else limit
    while depth[side] > 0 and levels[side, depth[side] - 1, KEY] >= key:
        at = depth[side] - 1
        _shrink(orders, levels, side, at, _ANY, levels[side, at, TOTAL], k, -1, 0, messages, made, now)
        _drop_if_empty(levels, depth, side, at)


@kernel(
    numba.boolean(
        _TABLE, _TABLE, _LIST, _TABLE, _LEVELS, _LIST, _INT, MESSAGES_TYPE, _LIST, _LIST
    )
)  # fmt: skip
def replay(rows, book, names, orders, levels, depth, base, messages, row_ends, made):
    """Tell all events, one `row_ends` (messages so far) per row. False: `orders` and `levels` have too few slots.

    When made[MESSAGES] exceeds len(messages), the rest is missing; give more room. `depth` and `made` are 0 before,
    and so are `orders` but for LAST. `base`: first reference of synthetic orders. Without a recorded book `book` has
    no rows.
    """
    n = len(rows)
    n_levels = book.shape[1] if len(book) else 0
    spare = depth[2:]  # next unused slot
    spare[0] = n
    now = rows[0, TIME]
    _say(messages, made, now, SYSTEM, 0, 79, 0, 0, 0)  # O: start of messages
    _say(messages, made, now, DIRECTORY, 0, 0, 0, 0, 0)
    _say(messages, made, now, TRADING, 0, 84, 0, 0, 0)  # T: trading
    _say(messages, made, now, SYSTEM, 0, 81, 0, 0, 0)  # Q: start of market hours
    for k in range(n):
        made[TIMES_BACK] += k > 0 and rows[k, TIME] < rows[k - 1, TIME]
        now = max(now, rows[k, TIME])
        kind, size, price = rows[k, TYPE], rows[k, SIZE], rows[k, PRICE]
        side = 0 if rows[k, DIRECTION] > 0 else 1

        # What the event takes: `mine` shares of its order `own`, if we have that, and `others` of unknown ones.
        own, mine, others = -1, 0, 0
        if kind == SUBMISSION:
            old = names[k]
            if old >= 0 and orders[old, LEFT] > 0:  # gone unrecorded, and now there again
                at = _find(levels, depth, orders[old, SIDE], orders[old, AT])
                made[STALE] += 1
                _take_off(orders, levels, orders[old, SIDE], at, old, orders[old, LEFT], messages, made, now)
                _drop_if_empty(levels, depth, orders[old, SIDE], at)
        elif kind <= EXECUTION:
            own = names[k]
            made[UNKNOWN_REFERENCES] += own < 0
            if own >= 0 and orders[own, LEFT] > 0 and orders[own, AT] == price and orders[own, SIDE] == side:
                mine = orders[own, LEFT] if kind == DELETION else min(size, orders[own, LEFT])
                others = size - mine if kind == EXECUTION else 0
            else:
                own, others = -1, size

        if n_levels:
            # Before the event each recorded level must hold what it holds after it, undone by the event.
            taken = mine + others if kind <= EXECUTION else 0
            change = -size if kind == SUBMISSION else taken
            agreed = 0
            for s in range(2):
                here = s == side and kind <= EXECUTION
                agreed |= _agrees(levels, depth, book, k, s, price if here else 0, change, others) << s
            for s in range(2):
                at = -1 if agreed >> s & 1 else depth[s] - 1
                while at >= 0:
                    p = abs(levels[s, at, KEY])
                    if not _is_in_window(book, k, s, p):
                        break
                    if _recorded(book, k, s, p) < 0 and not (s == side and p == price and taken > 0):
                        _settle(
                            orders, levels, depth, spare, s, p, 0, 0, k, own, 0, base, messages, made, now
                        )  # fmt: skip
                    at -= 1
            for s in range(2):
                for column in range(2 - 2 * s, n_levels, 4):
                    if not agreed >> s & 1 and book[k, column + 1] > 0:
                        p, target = book[k, column], book[k, column + 1]
                        here = s == side and p == price and kind <= EXECUTION
                        if here:
                            target = max(target + change, 0)
                        _settle(
                            orders, levels, depth, spare, s, p, target, others if here else 0, k, own, mine,
                            base, messages, made, now,
                        )  # fmt: skip
            if taken > 0 and not agreed >> side & 1 and _recorded(book, k, side, price) < 0:
                target = taken
                at = _find(levels, depth, side, price)
                if not _is_in_window(book, k, side, price) and _is_at(levels, depth, side, at, price):
                    target = max(target, levels[side, at, TOTAL])
                _settle(
                    orders, levels, depth, spare, side, price, target, others, k, own, mine,
                    base, messages, made, now,
                )  # fmt: skip
            if spare[0] >= len(orders):
                return False
        elif kind == SUBMISSION:
            _sweep(orders, levels, depth, 1 - side, price, k, messages, made, now)
        elif kind == EXECUTION:  # the best price is executed first
            _sweep(orders, levels, depth, side, price - 1 if side else price + 1, k, messages, made, now)

        if kind == SUBMISSION:
            _append(orders, levels, depth, side, price, k, size, rows[k, ID])
            _say(messages, made, now, ADD, rows[k, ID], 0, side, size, price)
        elif kind <= EXECUTION:
            at = _find(levels, depth, side, price)
            there = _is_at(levels, depth, side, at, price)
            if mine > 0:
                if kind == EXECUTION:
                    _say(messages, made, now, EXECUTED, orders[own, REF], 0, side, mine, price)
                    _reduce(orders, levels, side, at, own, mine)
                else:
                    _take_off(orders, levels, side, at, own, mine, messages, made, now)
            slot = levels[side, at, HEAD] if there and n_levels else -1
            while slot >= 0 and others > 0:
                after = orders[slot, NEXT]
                if orders[slot, REF] >= SYNTHETIC:
                    cut = min(others, orders[slot, LEFT])
                    others -= cut
                    if kind == EXECUTION:
                        _say(messages, made, now, EXECUTED, orders[slot, REF], 0, side, cut, price)
                        _reduce(orders, levels, side, at, slot, cut)
                    else:
                        _take_off(orders, levels, side, at, slot, cut, messages, made, now)
                slot = after
            if there:
                _drop_if_empty(levels, depth, side, at)
            if others > 0:
                if kind == EXECUTION:
                    _say(messages, made, now, TRADE, 0, 0, side, others, price)
                else:
                    made[DROPPED] += 1
        elif kind == HIDDEN_EXECUTION:
            _say(messages, made, now, TRADE, 0, 0, side, size, price)
        elif kind == CROSS_TRADE:
            # O opening, C closing, H in between
            cross = 79 if now < 34_260_000_000_000 else (67 if now >= 57_600_000_000_000 else 72)
            _say(messages, made, now, CROSS, 0, cross, side, size, price)
        else:
            state = 72 if price < 0 else (81 if price == 0 else 84)  # H halted, Q quotation only, T trading
            _say(messages, made, now, TRADING, 0, state, 0, 0, 0)
        row_ends[k] = made[MESSAGES]
    return True
