"""The played books as messages: every open order, oldest first, ready to be sent over SoupBinTCP.

`collect` names the orders, the caller sorts the names (NumPy does that with vector instructions), `fill` writes them.
"""

from __future__ import annotations

from typing import Final

import numba

from tickpath.common.jit import always_inlined, kernel
from tickpath.common.protocols.itch50 import LAYOUTS
from tickpath.common.protocols.soupbintcp import HEADER_SIZE, SEQUENCED
from tickpath.sim.kernels.matching import EXCH_NS, EXCHANGE, HALT_OPERATIONAL, HALT_TRADING

#: Bytes of a SoupBinTCP packet with one message of a type.
DIRECTORY_BYTES, ACTION_BYTES, HALT_BYTES, ORDER_BYTES = (HEADER_SIZE + LAYOUTS[code].size for code in "RHhA")

_SLOT_BITS = 31
_MOST_ARRIVALS = (1 << 32) - 1
_A, _H, _OP_HALT, _Q, _BUY, _SELL, _SPACE = (ord(code) for code in "AHhQBS ")
_SEQUENCED: Final = int(SEQUENCED)

_U8, _I64 = numba.uint8[::1], numba.int64[::1]


@kernel(numba.int64(EXCHANGE, _I64))
def collect(ex, names):
    """A name for each open order, int64[live orders]: sorted, they are in the order of arrival. Returns how many.

    A name is the arrival number, counted from the oldest one on, above the slot in the order table.
    """
    orders = ex.book.orders
    n = 0
    oldest = 1 << 62
    for slot in range(len(orders)):
        if orders[slot].ref != 0 and n < len(names):
            names[n] = slot
            n += 1
            oldest = min(oldest, orders[slot].arrival)
    for i in range(n):
        after = min(orders[names[i]].arrival - oldest, _MOST_ARRIVALS)
        names[i] |= after << _SLOT_BITS
    return n


@always_inlined
def _put(out, at, size, value):
    for i in range(size):
        out[at + i] = value >> 8 * (size - 1 - i) & 0xFF


@always_inlined
def _begin(out, at, size, kind, directory, row, stamp):
    """What all messages of an instrument begin with; returns the byte after it."""
    _put(out, at, 2, size - 2)
    out[at + 2] = _SEQUENCED
    out[at + 3] = kind
    for i in range(4, 8):
        out[at + i] = directory[row, i]  # locate and tracking number
    _put(out, at + 8, 6, stamp)
    return at + 14


@kernel(numba.int64(EXCHANGE, _I64, _I64, numba.uint8[:, ::1], _U8))
def fill(ex, names, listed, directory, out):
    """Write the packets of a snapshot; returns how many bytes.

    First those of each instrument of `listed` int64[k]: R, and H or h where it does not trade. Then an A for each
    order of `names`, as `collect` made them. ``directory[i]``, uint8[DIRECTORY_BYTES], is the packet with the R of
    instrument i. Time stamps are the exchange's time now. `out` has room: DIRECTORY_BYTES, ACTION_BYTES and
    HALT_BYTES for each instrument, ORDER_BYTES for each order.
    """
    stamp = ex.state[EXCH_NS]
    at = 0
    for k in range(len(listed)):
        row = listed[k]
        for i in range(DIRECTORY_BYTES):
            out[at + i] = directory[row, i]
        _put(out, at + 8, 6, stamp)
        at += DIRECTORY_BYTES
        if ex.halted[row] & HALT_TRADING:
            body = _begin(out, at, ACTION_BYTES, _H, directory, row, stamp)
            for i in range(8):
                out[body + i] = directory[row, 14 + i]
            out[body + 8] = _H
            for i in range(9, 14):
                out[body + i] = _SPACE
            at += ACTION_BYTES
        if ex.halted[row] & HALT_OPERATIONAL:
            body = _begin(out, at, HALT_BYTES, _OP_HALT, directory, row, stamp)
            for i in range(8):
                out[body + i] = directory[row, 14 + i]
            out[body + 8] = _Q
            out[body + 9] = _H
            at += HALT_BYTES
    orders = ex.book.orders
    for k in range(len(names)):
        order = orders[names[k] & (1 << _SLOT_BITS) - 1]
        row = numba.int64(order.row) >> 1
        body = _begin(out, at, ORDER_BYTES, _A, directory, row, stamp)
        _put(out, body, 8, order.ref)
        out[body + 8] = _SELL if order.row & 1 else _BUY
        _put(out, body + 9, 4, numba.int64(order.lots))
        for i in range(8):
            out[body + 13 + i] = directory[row, 14 + i]
        _put(out, body + 21, 4, numba.int64(order.price_ticks))
        at += ORDER_BYTES
    return at
