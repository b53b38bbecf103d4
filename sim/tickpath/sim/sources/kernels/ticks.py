"""Reading trades and quotes as CSV, and telling them as `MESSAGE` records.

Arrays of all kernels here: ``text`` uint8[bytes]; ``rows`` int64[n, COLUMNS], a trade or quote per row: TIME in ns,
prices in ticks, a trade's price and size in BID and BID_SIZE; ``made`` int64[MADE_COLUMNS].
"""

from __future__ import annotations

import numba

from tickpath.common.jit import inlined, kernel
from tickpath.sim.sources.kernels.encode import (
    ADD,
    ADD_MPID,
    BUY,
    CANCEL,
    DELETE,
    DIRECTORY,
    MESSAGES_TYPE,
    REPLACE,
    SELL,
    SYSTEM,
    TRADE,
    TRADING,
    note,
)

# Columns of rows. CODE: up to four letters of the exchange, 0 none. FLAG: suspicious.
TIME, BID, BID_SIZE, ASK, ASK_SIZE, CODE, FLAG = range(7)
COLUMNS = 7

# What a field of the file is, for `parse`.
SKIPPED, NUMBER, LETTERS = range(3)

# Faults of `parse` and `check`.
OK, NO_NUMBER, TOO_MANY_DIGITS, TOO_FINE, NO_LETTERS, TOO_FEW_COLUMNS, TOO_MANY_COLUMNS, NOT_ALLOWED = range(8)

# Columns of made: messages; counts of what was found.
MESSAGES, TIMES_BACK, BAD, UNCHANGED, STALE, CROSSED, SUSPICIOUS, EXCHANGES = range(8)
MADE_COLUMNS = 8

#: Rows of `quoted`, what each exchange quotes now: int64[MAX_EXCHANGES, QUOTED_COLUMNS].
MAX_EXCHANGES = 64
# Columns of quoted: code; of the bid, then of the offer: order reference (0: no quote), price, size.
_CODE, _REF, _PRICE, _SIZE = 0, 1, 2, 3
QUOTED_COLUMNS = 7

_MAX = 2**31 - 1
_NS_PER_DAY = 86_400_000_000_000
_NEWLINE, _RETURN, _COMMA, _DOT, _ZERO = 10, 13, 44, 46, 48


@inlined
def _is_end(text, at):
    return at >= len(text) or text[at] == _NEWLINE or text[at] == _RETURN


@kernel("int64(uint8[::1], int64[:,::1], int64[:,::1], int64[::1])")
def parse(text, fields, rows, found):
    """Parse a file, a row per line (LF or CRLF).

    `fields` int64[n, 3]: of each field of a line what it is, where it goes (a column of `rows`), and the power of ten
    that a NUMBER is multiplied by; it may not have more decimals than that, but for zeros. Returns OK, or the fault,
    whose row and field (from 0) are in `found`, int64[2].
    """
    at = 0
    for row in range(len(rows)):
        for field in range(len(fields)):
            found[0], found[1] = row, field
            if field > 0:
                if _is_end(text, at):
                    return TOO_FEW_COLUMNS
                at += 1  # the comma
            kind, column, scale = fields[field, 0], fields[field, 1], fields[field, 2]
            begin = at
            value = 0
            digits = 0
            fraction = False
            while not _is_end(text, at) and text[at] != _COMMA:
                byte = numba.int64(text[at])
                digit = byte - _ZERO
                if kind == LETTERS:
                    value = value << 8 | byte
                    if byte < 33 or byte > 126:
                        return NO_LETTERS
                elif kind == NUMBER:
                    if byte == _DOT and not fraction:
                        fraction = True
                    elif digit < 0 or digit > 9:
                        return NO_NUMBER
                    elif fraction and scale == 0:
                        if digit > 0:
                            return TOO_FINE
                    else:
                        scale -= fraction
                        value = value * 10 + digit
                        digits += digits > 0 or digit > 0
                        if digits + scale > 18:
                            return TOO_MANY_DIGITS
                at += 1
            if kind == LETTERS:
                if at == begin or at > begin + 4:
                    return NO_LETTERS
                for _ in range(begin + 4 - at):
                    value = value << 8 | 32
            elif kind == NUMBER:
                if at - begin == fraction:
                    return NO_NUMBER
                for _ in range(scale):
                    value *= 10
            if kind != SKIPPED:
                rows[row, column] = value
        if at < len(text) and text[at] == _COMMA:
            return TOO_MANY_COLUMNS
        at += at < len(text) and text[at] == _RETURN
        at += at < len(text) and text[at] == _NEWLINE
    return OK


@inlined
def _begin(messages, now):
    """The messages before the first row: the day begins, the symbol, it trades, the market is open."""
    n = note(messages, 0, now, 0, SYSTEM, 0, 79, 0, 0, 0)
    n = note(messages, n, now, 0, DIRECTORY, 0, 0, 0, 0, 0)
    n = note(messages, n, now, 0, TRADING, 0, 84, 0, 0, 0)
    return note(messages, n, now, 0, SYSTEM, 0, 81, 0, 0, 0)


@kernel("int64(int64[:,::1])")
def first_wrong_time(rows):
    """The first row whose time is not before midnight, -1 if there is none."""
    for k in range(len(rows)):
        if rows[k, TIME] >= _NS_PER_DAY:
            return k
    return -1


@kernel(numba.void(numba.int64[:, ::1], MESSAGES_TYPE, numba.int64[::1]))
def tell_trades(rows, messages, made):
    """A P for every trade; made[MESSAGES] of them, as many as there is room for. `made` is 0 before."""
    now = rows[0, TIME]
    n = _begin(messages, now)
    for k in range(len(rows)):
        row = rows[k]
        made[TIMES_BACK] += row[TIME] < now
        now = max(now, row[TIME])
        made[SUSPICIOUS] += row[FLAG] != 0
        if not 0 < row[BID] <= _MAX or not 0 < row[BID_SIZE] <= _MAX:
            made[BAD] += 1
            continue
        n = note(messages, n, now, 0, TRADE, 0, 0, BUY, row[BID_SIZE], row[BID])
    made[MESSAGES] = n


@inlined
def _update(quoted, slot, side, price, size, ref, messages, n, now):
    """An exchange quotes this on a side, 0 nothing; returns the number of messages afterwards.

    A quote is one order: a smaller size is a cancel; a larger one, or another price, a new order at the queue's end.
    """
    quote = quoted[slot, 3 * side :]
    letter = SELL if side else BUY
    if size == 0:
        if quote[_REF]:
            n = note(messages, n, now, 0, DELETE, quote[_REF], 0, letter, 0, 0)
            quote[_REF] = 0
        return n
    if quote[_REF] == 0:
        code = quoted[slot, _CODE]
        n = note(messages, n, now, 0, ADD_MPID if code else ADD, ref, code, letter, size, price)
    elif price == quote[_PRICE] and size < quote[_SIZE]:
        n = note(messages, n, now, 0, CANCEL, quote[_REF], 0, letter, quote[_SIZE] - size, 0)
        ref = quote[_REF]
    else:
        n = note(messages, n, now, 0, REPLACE, quote[_REF], ref, letter, size, price)
    quote[_REF], quote[_PRICE], quote[_SIZE] = ref, price, size
    return n


@inlined
def _clear_way(quoted, n_exchanges, side, price, but, messages, n, now):
    """Delete the quotes of the other side that a quote at `price` would lock or cross, but for slot `but`."""
    sign = -1 if side else 1
    for slot in range(n_exchanges):
        other = quoted[slot, 3 * (1 - side) :]
        if slot != but and other[_REF] and (price - other[_PRICE]) * sign >= 0:
            n = _update(quoted, slot, 1 - side, 0, 0, 0, messages, n, now)
    return n


@kernel(
    numba.boolean(numba.int64[:, ::1], numba.int64, numba.int64, numba.int64[:, ::1], MESSAGES_TYPE, numba.int64[::1])
)
def tell_quotes(rows, base, whole, quoted, messages, made):
    """Tell quotes as orders, one for each exchange and side; made[MESSAGES], as many as there is room for.

    `base`: order references follow it. `whole` 1: a row is both sides, and what is 0 is gone; 0: a side that is 0, 0
    is not meant. `quoted` int64[MAX_EXCHANGES, QUOTED_COLUMNS] and `made` are 0 before. False: there are more
    exchanges than that.
    """
    now = rows[0, TIME]
    n = _begin(messages, now)
    ref = base
    n_exchanges = 0
    for k in range(len(rows)):
        row = rows[k]
        made[TIMES_BACK] += row[TIME] < now
        now = max(now, row[TIME])
        made[SUSPICIOUS] += row[FLAG] != 0
        slot = 0
        while slot < n_exchanges and quoted[slot, _CODE] != row[CODE]:
            slot += 1
        if slot == n_exchanges:
            if n_exchanges == MAX_EXCHANGES:
                return False
            quoted[slot, _CODE] = row[CODE]
            n_exchanges += 1
        both = (whole or row[BID] > 0 or row[BID_SIZE] > 0) and (whole or row[ASK] > 0 or row[ASK_SIZE] > 0)
        made[CROSSED] += both and row[BID] >= row[ASK] and row[ASK] > 0
        # The side first that makes way for the other, where the quote moves as a whole.
        first = 1 if both and quoted[slot, 3 + _REF] and row[BID] >= quoted[slot, 3 + _PRICE] else 0
        for turn in range(2):
            side = turn ^ first
            price, size = row[BID + 2 * side], row[BID_SIZE + 2 * side]
            if price == 0 and size == 0 and not whole:
                continue
            if price > _MAX or size > _MAX or (price == 0 and size > 0):
                made[BAD] += 1
                continue
            quote = quoted[slot, 3 * side :]
            if size > 0 and quote[_REF] and price == quote[_PRICE] and size == quote[_SIZE]:
                made[UNCHANGED] += 1
                continue
            if size > 0:
                before = n
                n = _clear_way(quoted, n_exchanges, side, price, slot if both else -1, messages, n, now)
                made[STALE] += n - before
            ref += 1
            n = _update(quoted, slot, side, price, size, ref, messages, n, now)
    made[MESSAGES] = n
    made[EXCHANGES] = n_exchanges
    return True
