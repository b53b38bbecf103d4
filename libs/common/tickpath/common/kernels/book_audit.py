"""Whether a book still is one: all that can be counted again from its parts, for tests, fuzzing and doubt."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numba
import numpy as np
import numpy.typing as npt

from tickpath.common.jit import kernel
from tickpath.common.kernels.book import (
    BOOK,
    FREE_FRESH,
    FREE_SIZE,
    MIN_CHUNK,
    ST_ARRIVALS,
    ST_LEVEL_CAPACITY,
    ST_LEVELS_TAKEN,
    ST_LIVE_ORDERS,
    ST_MAX_LEVELS_TAKEN,
    ST_MAX_LIVE_ORDERS,
    ST_ORDER_CAPACITY,
    Book,
    find_level,
    find_order,
)


class Fault(IntEnum):
    """What is wrong with a book; the first that was found."""

    NONE = 0
    ROW = 1  # depth or size of a row is out of range
    UNSORTED = 2  # the prices of a row do not strictly get better
    CHUNK = 3  # outside of what was handed out, or the chunks of two rows overlap
    FREE_LIST = 4  # a free chunk overlaps another chunk, or the list has no end
    LOST_CHUNK = 5  # a part of the pool belongs to no row and is not free
    ORDER = 6  # instrument, price, lots or arrival of an order are out of range
    UNREACHABLE = 7  # a search for the order does not find it
    NO_LEVEL = 8  # the price of an order is not in its row
    SUM = 9  # orders or lots of a level are not those of its orders
    COUNT = 10  # live orders or levels taken are not what is there, or more than planned


_ROW, _UNSORTED, _CHUNK, _FREE_LIST, _LOST_CHUNK, _ORDER, _UNREACHABLE, _NO_LEVEL, _SUM, _COUNT = range(1, 11)
_MIN_CLASS: Final = MIN_CHUNK.bit_length() - 1


@kernel(numba.int64(BOOK, numba.int64[:, ::1], numba.uint8[::1]))
def audit_into(book, sums, taken):
    """The first Fault of a book, 0 if there is none; `sums` and `taken` are `audit_memory` of a book of its size.

    Every order is where it is looked for, every level the sum of its orders, every row sorted, every part of the pool
    in exactly one row or free list, and the counts are what is there.
    """
    rows, levels, orders, free, stats = book.rows, book.levels, book.orders, book.free, book.stats
    fresh = free[FREE_FRESH]
    sums[:] = 0
    taken[:] = 0
    in_rows = 0
    for row in range(len(rows)):
        start = numba.int64(rows[row].start)
        depth = numba.int64(rows[row].depth)
        size = numba.int64(rows[row].size)
        if size < MIN_CHUNK or size & (size - 1) or not 0 <= depth <= min(size, stats[ST_LEVEL_CAPACITY]):
            return _ROW
        if start < 0 or start % MIN_CHUNK or start + size > fresh:
            return _CHUNK
        for i in range(start // MIN_CHUNK, (start + size) // MIN_CHUNK):
            if taken[i]:
                return _CHUNK
            taken[i] = 1
        in_rows += size
        sign = 1 - 2 * (row & 1)
        for at in range(start + 1, start + depth):
            if (levels[at].price_ticks - levels[at - 1].price_ticks) * sign <= 0:
                return _UNSORTED
    for class_ in range(_MIN_CLASS, FREE_SIZE):
        size = 1 << class_
        start = free[class_] - 1
        while start >= 0:  # ends: every turn marks something, or it is a fault
            if start % MIN_CHUNK or start + size > fresh:
                return _FREE_LIST
            for i in range(start // MIN_CHUNK, (start + size) // MIN_CHUNK):
                if taken[i]:
                    return _FREE_LIST
                taken[i] = 1
            start = levels[start].lots - 1
    if fresh > len(levels):
        return _CHUNK
    for i in range(fresh // MIN_CHUNK):
        if not taken[i]:
            return _LOST_CHUNK
    live = 0
    for slot in range(len(orders)):
        if orders[slot].ref == 0:
            continue
        live += 1
        order = orders[slot]
        if order.ref < 0 or order.lots <= 0 or order.price_ticks <= 0:
            return _ORDER
        if not 0 <= order.row < len(rows) or not 0 < order.arrival <= stats[ST_ARRIVALS]:
            return _ORDER
        if find_order(book, order.ref) != slot:
            return _UNREACHABLE
        at = find_level(book, order.row, order.price_ticks)
        if at < 0:
            return _NO_LEVEL
        sums[at, 0] += 1
        sums[at, 1] += order.lots
    for row in range(len(rows)):
        start = numba.int64(rows[row].start)
        for at in range(start, start + rows[row].depth):
            if sums[at, 0] == 0 or sums[at, 0] != levels[at].orders or sums[at, 1] != levels[at].lots:
                return _SUM
    if live != stats[ST_LIVE_ORDERS] or live > stats[ST_MAX_LIVE_ORDERS] or live > stats[ST_ORDER_CAPACITY]:
        return _COUNT
    if in_rows != stats[ST_LEVELS_TAKEN] or in_rows > stats[ST_MAX_LEVELS_TAKEN]:
        return _COUNT
    return 0


def audit_memory(book: Book) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """What `audit_into` works in: int64[levels, 2], and uint8 for each part of the pool."""
    return np.zeros((len(book.levels), 2), dtype=np.int64), np.zeros(len(book.levels) // MIN_CHUNK, dtype=np.uint8)


def audit(book: Book) -> Fault:
    """The first fault of a book, see `audit_into`."""
    return Fault(audit_into(book, *audit_memory(book)))
