"""The table of open orders: entries from a pool, found by client order id, chained by age per instrument.

The index is open addressing with linear probing and backward-shift deletion: no tombstones, so its speed does not
depend on the past. It is at most a quarter full; walks are bounded by MAX_PROBES, and an id that finds no place
within it counts as a full table.
"""

from __future__ import annotations

from tickpath.common.jit import always_inlined
from tickpath.common.records import Side
from tickpath.risk.limits import ACCOUNT_ROW, FIRST_SYMBOL_ROW, GLOBAL_ROW
from tickpath.risk.state import MAX_PROBES, Core

_MIX = 0x1E3779B97F4A7C15  # odd, spreads consecutive ids

FREE = int(Core.FREE)
N_ORDERS = int(Core.N_ORDERS)
BUY = int(Side.BUY)


@always_inlined
def home_of(index, cl_ord_id):
    """First place of an id in the index."""
    return ((cl_ord_id * _MIX) >> 20) & (len(index) - 1)


@always_inlined
def find(orders, index, cl_ord_id):
    """Entry of an open order, -1 if there is none."""
    place = home_of(index, cl_ord_id)
    for _ in range(MAX_PROBES):
        entry = index[place] - 1
        if entry < 0:
            return -1
        if orders[entry].cl_ord_id == cl_ord_id:
            return entry
        place = (place + 1) & (len(index) - 1)
    return -1


@always_inlined
def free_place(index, cl_ord_id):
    """Where in the index a new id goes, -1 if there is no place within MAX_PROBES."""
    place = home_of(index, cl_ord_id)
    for _ in range(MAX_PROBES):
        if index[place] == 0:
            return place
        place = (place + 1) & (len(index) - 1)
    return -1


@always_inlined
def insert(live, orders, index, core, cl_ord_id, instrument, strategy, side, leaves):
    """Reserve an entry and its exposure; the caller fills the rest. Returns the entry, -1 when the table is full."""
    place = free_place(index, cl_ord_id)
    entry = core[FREE] - 1
    if entry < 0 or place < 0:
        return -1
    order = orders[entry]
    core[FREE] = order.next
    core[N_ORDERS] += 1
    index[place] = entry + 1
    order.cl_ord_id = cl_ord_id
    order.instrument = instrument
    order.strategy = strategy
    order.side = side
    order.leaves_lots = leaves
    row = FIRST_SYMBOL_ROW + instrument
    scope = live[row]
    order.next = 0
    order.prev = scope.tail
    if scope.tail == 0:
        scope.head = entry + 1
    else:
        orders[scope.tail - 1].next = entry + 1
    scope.tail = entry + 1
    reserve(live, row, side, leaves)
    count_open(live, row, strategy, 1)
    return entry


@always_inlined
def reserve(live, row, side, lots):
    """Add to (or, negative, take from) the open lots of a side."""
    if side == BUY:
        live[row].open_buy_lots += lots
    else:
        live[row].open_sell_lots += lots


@always_inlined
def count_open(live, row, strategy, change):
    """Add to the number of open orders in all scopes of an order."""
    live[GLOBAL_ROW].open_orders += change
    live[ACCOUNT_ROW].open_orders += change
    live[strategy].open_orders += change
    live[row].open_orders += change


@always_inlined
def remove(live, orders, index, core, entry):
    """Release what is left of an order, and its entry."""
    order = orders[entry]
    row = FIRST_SYMBOL_ROW + order.instrument
    scope = live[row]
    reserve(live, row, order.side, -order.leaves_lots)
    count_open(live, row, order.strategy, -1)
    if order.prev == 0:
        scope.head = order.next
    else:
        orders[order.prev - 1].next = order.next
    if order.next == 0:
        scope.tail = order.prev
    else:
        orders[order.next - 1].prev = order.prev
    forget(orders, index, entry)
    order.cl_ord_id = 0
    order.cause_seq = 0
    order.price_ticks = 0
    order.qty_lots = 0
    order.leaves_lots = 0
    order.approved_ns = 0
    order.cancel_ns = 0
    order.prev = 0
    order.instrument = 0
    order.strategy = 0
    order.shard = 0
    order.side = 0
    order.tif = 0
    order.state = 0
    order.k = 0
    order.next = core[FREE]
    core[FREE] = entry + 1
    core[N_ORDERS] -= 1


@always_inlined
def forget(orders, index, entry):
    """Take an entry out of the index and close the hole behind it."""
    mask = len(index) - 1
    hole = home_of(index, orders[entry].cl_ord_id)
    for _ in range(MAX_PROBES):
        if index[hole] == entry + 1:
            break
        hole = (hole + 1) & mask
    if index[hole] != entry + 1:
        return  # cannot be: every entry is within MAX_PROBES of its home
    place = hole
    for _ in range(len(index)):
        place = (place + 1) & mask
        mover = index[place]
        if mover == 0:
            break
        home = home_of(index, orders[mover - 1].cl_ord_id)
        # The mover may fill the hole unless its home lies behind the hole, cyclically.
        if ((place - home) & mask) >= ((place - hole) & mask):
            index[hole] = mover
            hole = place
    index[hole] = 0
