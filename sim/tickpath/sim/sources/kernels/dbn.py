"""Reading Databento's market-by-order records, and telling them as `MESSAGE` records.

The book of `tell`: ``table`` int64[a power of two, 3], open addressing without deletion: order id, instrument + 1 (0:
an empty slot), and the row in ``orders`` of the live order, 0 if none. ``orders`` int64[at least records + 1, 6]: row
r is the order with the reference base + r. The live orders of an instrument are a list in that order.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

from tickpath.common.jit import inlined, kernel
from tickpath.sim.sources.kernels.encode import (
    ADD,
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

#: A market-by-order record, little-endian, the same in all versions of DBN.
MBO: Final = np.dtype(
    [
        ("length", "u1"),  # in words of 4 bytes
        ("rtype", "u1"),  # 160
        ("publisher", "<u2"),
        ("instrument", "<u4"),
        ("event_ns", "<i8"),  # ns since 1970, UTC
        ("order_id", "<i8"),
        ("price", "<i8"),  # 1e-9
        ("size", "<u4"),
        ("flags", "u1"),
        ("channel", "u1"),
        ("action", "u1"),  # A C M R T F N
        ("side", "u1"),  # B A N; of a trade the aggressor's
        ("recv_ns", "<i8"),
        ("in_delta_ns", "<i4"),
        ("sequence", "<u4"),
    ]
)
SNAPSHOT: Final = 32  # in flags

# Faults of `select`.
OK, DAMAGED = range(2)

# Columns of orders.
LEFT, PRICE, SIDE, PREV, NEXT, SLOT = range(6)
ORDER_COLUMNS = 6

# Columns of made: messages; counts of what was found.
MESSAGES, TIMES_BACK, BAD, UNKNOWN, REPEATED, OVER_CANCELLED, IGNORED, FILLS = range(8)
MADE_COLUMNS = 8

_RTYPE = 160
_HEADER_SIZE = 16
_MAX = 2**31 - 1
_UNDEFINED_PRICE = 2**63 - 1
_A, _B, _C, _F, _M, _R, _T = (ord(letter) for letter in "ABCFMRT")


@kernel("int64(uint8[::1], int64, uint8[::1], int64[::1])")
def select(data, at, out, found):
    """Copy the market-by-order records in ``data[at:]`` to `out`, as far as it goes; returns how many there are.

    `found` int64[3]: OK or DAMAGED; the byte where it ended, which is short of the end of a file that is cut off; the
    number of other records.
    """
    n = 0
    found[0], found[2] = OK, 0
    while at + _HEADER_SIZE <= len(data):
        size = 4 * numba.int64(data[at])
        if size < _HEADER_SIZE:
            found[0] = DAMAGED
            break
        if at + size > len(data):
            break
        if data[at + 1] == _RTYPE and size >= 56:
            if 56 * (n + 1) <= len(out):
                for i in range(56):
                    out[56 * n + i] = data[at + i]
            n += 1
        else:
            found[2] += 1
        at += size
    found[1] = at
    return n


_INT, _LIST, _TABLE = numba.int64, numba.int64[::1], numba.int64[:, ::1]


@inlined
def _slot(table, order_id, instrument):
    """Slot of an order id of an instrument, taken if it is new. The table is at most half full."""
    mask = len(table) - 1
    spread = (order_id + instrument * 0x2545F491) * 0x9E3779B97F4A7C1
    at = (spread ^ spread >> 29) & mask
    for _ in range(len(table)):
        if table[at, 1] == 0:
            table[at, 0], table[at, 1] = order_id, instrument + 1
            break
        if table[at, 0] == order_id and table[at, 1] == instrument + 1:
            break
        at = at + 1 & mask
    return at


@inlined
def _link(table, orders, ends, instrument, slot, row, lots, price, side):
    """Row `row` is a live order now, at the end of the list of its instrument (`ends`: first, last)."""
    last = ends[instrument, 1]
    orders[row, LEFT], orders[row, PRICE], orders[row, SIDE], orders[row, SLOT] = lots, price, side, slot
    orders[row, PREV], orders[row, NEXT] = last, 0
    if last:
        orders[last, NEXT] = row
    else:
        ends[instrument, 0] = row
    ends[instrument, 1] = row
    table[slot, 2] = row


@inlined
def _unlink(table, orders, ends, instrument, row):
    before, after = orders[row, PREV], orders[row, NEXT]
    if before:
        orders[before, NEXT] = after
    else:
        ends[instrument, 0] = after
    if after:
        orders[after, PREV] = before
    else:
        ends[instrument, 1] = before
    table[orders[row, SLOT], 2] = 0


@kernel(
    numba.void(
        numba.from_dtype(MBO)[::1], _LIST, _LIST, _LIST, _INT, _TABLE, _TABLE, _TABLE, MESSAGES_TYPE, _LIST, _LIST
    )
)  # fmt: skip
def tell(records, instruments, times, units, base, table, orders, ends, messages, row_ends, made):
    """Tell MBO[n], one `row_ends` (messages so far) for each; made[MESSAGES], as many as there is room for.

    `instruments` int64[n]: each record's, from 0. `times` int64[n]: ns after midnight. `units` int64[m]: tick of each
    instrument in 1e-9. `ends` int64[m, 2] and all other arrays are 0 before.
    """
    now = times[0]
    n = note(messages, 0, now, 0, SYSTEM, 0, 79, 0, 0, 0)  # O: start of messages
    for i in range(len(units)):
        n = note(messages, n, now, i, DIRECTORY, 0, 0, 0, 0, 0)
        n = note(messages, n, now, i, TRADING, 0, 84, 0, 0, 0)  # T: trading
    n = note(messages, n, now, 0, SYSTEM, 0, 81, 0, 0, 0)  # Q: start of market hours
    next_row = 1
    for k in range(len(records)):
        record = records[k]
        instrument, unit = instruments[k], units[instruments[k]]
        action, size = numba.int64(record.action), numba.int64(record.size)
        made[TIMES_BACK] += times[k] < now
        now = max(now, times[k])
        side = BUY if record.side == _B else SELL if record.side == _A else 0
        price = record.price // unit
        good = 0 < record.price < _UNDEFINED_PRICE and price <= _MAX and 0 < size <= _MAX
        if action == _A or action == _M or action == _C:  # noqa: PLR1714, SIM109
            slot = _slot(table, record.order_id, instrument)
            row = table[slot, 2]
            good = good and side != 0
            if row and action == _C:
                left = orders[row, LEFT]
                made[OVER_CANCELLED] += size > left
                if size >= left:
                    n = note(messages, n, now, instrument, DELETE, base + row, 0, 0, 0, 0)
                    _unlink(table, orders, ends, instrument, row)
                elif size > 0:
                    n = note(messages, n, now, instrument, CANCEL, base + row, 0, 0, size, 0)
                    orders[row, LEFT] = left - size
                else:
                    made[IGNORED] += 1
            elif action == _C:
                made[UNKNOWN] += 1
            else:
                made[UNKNOWN] += action == _M and row == 0
                made[REPEATED] += action == _A and row > 0
                made[BAD] += not good
                same = row > 0 and action == _M and good and orders[row, SIDE] == side
                if same and orders[row, PRICE] == price and size <= orders[row, LEFT]:
                    less = orders[row, LEFT] - size  # keeps its place
                    if less > 0:
                        n = note(messages, n, now, instrument, CANCEL, base + row, 0, 0, less, 0)
                        orders[row, LEFT] = size
                    else:
                        made[IGNORED] += 1
                else:
                    if row > 0:
                        if not same:
                            n = note(messages, n, now, instrument, DELETE, base + row, 0, 0, 0, 0)
                        _unlink(table, orders, ends, instrument, row)
                    if good:
                        if same:
                            n = note(
                                messages, n, now, instrument, REPLACE, base + row, base + next_row, 0, size, price
                            )
                        else:
                            n = note(messages, n, now, instrument, ADD, base + next_row, 0, side, size, price)
                        _link(table, orders, ends, instrument, slot, next_row, size, price, side)
                        next_row += 1
        elif action == _R:
            row = ends[instrument, 0]
            for _ in range(len(orders)):
                if row == 0:
                    break
                n = note(messages, n, now, instrument, DELETE, base + row, 0, 0, 0, 0)
                after = orders[row, NEXT]
                table[orders[row, SLOT], 2] = 0
                row = after
            ends[instrument, 0] = ends[instrument, 1] = 0
        elif action == _T:
            if good:  # the resting side is the one that the aggressor is not on; B where that is not known
                resting = SELL if side == BUY else BUY
                n = note(messages, n, now, instrument, TRADE, 0, 0, resting, size, price)
            else:
                made[BAD] += 1
        elif action == _F:
            made[FILLS] += 1
        else:
            made[IGNORED] += 1
        row_ends[k] = n
    made[MESSAGES] = n
