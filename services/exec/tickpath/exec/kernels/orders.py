"""The order pool inside kernels: find, allocate, apply an event, append to the journal, release.

A slot of the pool holds the last REPORT of its order and nothing else, so the pool is a function of the journal:
`replay` of all entries gives the same bytes. Venue-independent; `kernels.ouch` speaks to the venue.
"""

from __future__ import annotations

import numpy as np

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.jit import always_inlined, kernel
from tickpath.common.kernels.crc import crc32
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.memory import bytes_at, lent, pairs_at, reports_at, rows_at, words_at
from tickpath.common.records import FIRST_TERMINAL_STATE, REPORT, ExecEvent, OrderState
from tickpath.exec.layout import Counter, Hop, Reg
from tickpath.exec.lifecycle import ILLEGAL, TRANSITIONS, Progress

_TABLE = np.array(TRANSITIONS, dtype=np.int64)
_ENTRY = REPORT.itemsize  # its last four bytes are the CRC of those before
_N_HOPS = len(Hop)
_N_COUNTERS = len(Counter)
_MIX = -7046029254386353131  # 2**64 / golden ratio, odd
#: Entries kept free per open order, so that whatever the venue still reports about it can be journaled.
ENTRIES_PER_OPEN = 4
ENTRIES_RESERVED = 64


@lent
def pool_of(ctx):
    """REPORT[POOL_CAPACITY + 1]."""
    return reports_at(ctx[Reg.POOL], ctx[Reg.POOL_CAPACITY] + 1)


@always_inlined
def count(ctx, counter, n):
    """Add to a counter of the page."""
    words_at(ctx[Reg.COUNTERS], _N_COUNTERS)[counter] += n


@always_inlined
def measure(ctx, hop, value_ns):
    """Record into a histogram of the page."""
    hists = rows_at(ctx[Reg.HISTS], _N_HOPS, HIST_SIZE)
    record(hists[hop], value_ns)


@always_inlined
def _home(cl_ord_id, mask):
    mixed = cl_ord_id * _MIX
    return (mixed ^ (mixed >> 32)) & mask


@always_inlined
def find_id(ctx, cl_ord_id):
    """UserRefNum of an order of today, 0 when it was refused, -1 when the id is new."""
    mask = ctx[Reg.IDS_MASK]
    ids = pairs_at(ctx[Reg.IDS], mask + 1)
    at = _home(cl_ord_id, mask)
    for _ in range(mask + 1):
        if ids[at, 0] == 0:
            return -1
        if ids[at, 0] == cl_ord_id:
            return ids[at, 1]
        at = (at + 1) & mask
    return -1


@always_inlined
def remember_id(ctx, cl_ord_id, ref):
    """Enter an id that is not there; nothing when the table is half full (its orders are refused before)."""
    mask = ctx[Reg.IDS_MASK]
    if cl_ord_id == 0 or 2 * ctx[Reg.IDS_COUNT] > mask:
        return
    ids = pairs_at(ctx[Reg.IDS], mask + 1)
    at = _home(cl_ord_id, mask)
    for _ in range(mask + 1):
        if ids[at, 0] == 0:
            ids[at, 0] = cl_ord_id
            ids[at, 1] = ref
            ctx[Reg.IDS_COUNT] += 1
            return
        at = (at + 1) & mask


@always_inlined
def segment_room(ctx):
    """Entries that still fit the present segment."""
    return ctx[Reg.SEGMENT_FIRST] + ctx[Reg.SEGMENT_ENTRIES] - ctx[Reg.NEXT_SEQ]


@always_inlined
def is_journal_low(ctx):
    """Whether the room that is left has to be kept for the venue's reports about open orders."""
    if ctx[Reg.SPARE_ENTRIES] > 0:
        return False
    return segment_room(ctx) < ENTRIES_RESERVED + ENTRIES_PER_OPEN * (ctx[Reg.OPEN] + 1)


@always_inlined
def append(ctx, pool, slot):
    """Number, checksum and journal the report in `slot`. The caller has seen that the segment has room."""
    seq = ctx[Reg.NEXT_SEQ]
    pool[slot].seq = seq
    pool[slot].crc = crc32(bytes_at(ctx[Reg.POOL] + slot * _ENTRY, _ENTRY), 0, _ENTRY - 4)
    segment = reports_at(ctx[Reg.SEGMENT], ctx[Reg.SEGMENT_ENTRIES])
    segment[seq - ctx[Reg.SEGMENT_FIRST]] = pool[slot]
    ctx[Reg.NEXT_SEQ] = seq + 1
    count(ctx, Counter.JOURNAL_ENTRIES, 1)


@always_inlined
def take_slot(ctx, ref):
    """Slot for a new order with this UserRefNum; the caller has seen that one is free."""
    free = words_at(ctx[Reg.FREE], ctx[Reg.POOL_CAPACITY])
    ctx[Reg.FREE_COUNT] -= 1
    slot = free[ctx[Reg.FREE_COUNT]]
    ctx[Reg.HIGH] = max(ctx[Reg.HIGH], slot + 1)
    ctx[Reg.OPEN] += 1
    words_at(ctx[Reg.REFS], ctx[Reg.REFS_CAPACITY])[ref] = slot + 1
    return slot


@always_inlined
def release_slot(ctx, slot, ref, final_seq):
    """Give the slot of a finished order back; its final report stays findable in the journal."""
    free = words_at(ctx[Reg.FREE], ctx[Reg.POOL_CAPACITY])
    free[ctx[Reg.FREE_COUNT]] = slot
    ctx[Reg.FREE_COUNT] += 1
    ctx[Reg.OPEN] -= 1
    words_at(ctx[Reg.CANCEL_NS], ctx[Reg.POOL_CAPACITY] + 1)[slot] = 0
    words_at(ctx[Reg.REFS], ctx[Reg.REFS_CAPACITY])[ref] = -final_seq


@always_inlined
def count_event(ctx, event, state):
    """Counters that follow from what was journaled."""
    if event == ExecEvent.ACKNOWLEDGED:
        count(ctx, Counter.ORDERS_ACKNOWLEDGED, 1)
    elif event == ExecEvent.FILL:
        count(ctx, Counter.FILLS, 1)
        if state == OrderState.FILLED:
            count(ctx, Counter.ORDERS_FILLED, 1)
    elif event == ExecEvent.CANCELLED:
        if state == OrderState.CANCELLED:
            count(ctx, Counter.ORDERS_CANCELLED, 1)
    elif event == ExecEvent.VENUE_REJECT:
        count(ctx, Counter.ORDERS_REJECTED_BY_VENUE, 1)
    elif event == ExecEvent.DISCONNECT:
        count(ctx, Counter.IN_DOUBT, 1)
    elif event == ExecEvent.RECONCILED:
        count(ctx, Counter.RECONCILED, 1)


@always_inlined
def apply(ctx, pool, slot, event, lots, ticks, reason, venue_order, match, venue_seq, now_ns):
    """One event of the order in `slot`: transition, journal entry, release when it is over.

    `lots`: of a FILL or CANCELLED the lots of this event, of an ACKNOWLEDGED the lots accepted, else ignored.
    Returns True when an entry was written; the caller has seen that the segment has room.
    """
    order = pool[slot]
    state = np.int64(order.state)
    leaves = order.leaves_lots
    cum = order.cum_lots
    if event == ExecEvent.FILL:
        cum += lots
        if lots > leaves:
            count(ctx, Counter.OVERFILLS, 1)
        leaves = max(np.int64(0), leaves - lots)
    elif event == ExecEvent.CANCELLED:
        leaves = max(np.int64(0), leaves - lots)
    elif event == ExecEvent.ACKNOWLEDGED:
        leaves = max(np.int64(0), min(order.qty_lots, lots) - cum)
    elif event in (ExecEvent.VENUE_REJECT, ExecEvent.NOT_SENT):
        leaves = np.int64(0)
    if leaves == 0:
        progress = np.int64(Progress.DONE)
    elif cum > 0:
        progress = np.int64(Progress.PARTIAL)
    else:
        progress = np.int64(Progress.UNFILLED)
    after = _TABLE[progress, state, event]
    if after == ILLEGAL:
        count(ctx, Counter.ILLEGAL_TRANSITIONS, 1)
        ctx[Reg.ILLEGAL_REF] = np.int64(order.user_ref)
        ctx[Reg.ILLEGAL_CELL] = state * 256 + event
        if event != ExecEvent.FILL:
            return False
        after = state  # a trade counts in the position whatever we thought of the order
    if event == ExecEvent.CANCEL_REJECT:
        words_at(ctx[Reg.CANCEL_NS], ctx[Reg.POOL_CAPACITY] + 1)[slot] = 0
    order.leaves_lots = leaves
    order.cum_lots = cum
    order.last_lots = lots if event in (ExecEvent.FILL, ExecEvent.CANCELLED) else 0
    order.last_ticks = ticks
    order.match_number = match
    order.venue_seq = venue_seq
    order.acked_ns = now_ns
    order.state = after
    order.event = event
    order.reason = reason
    if venue_order != 0:
        order.venue_order = venue_order
    append(ctx, pool, slot)
    count_event(ctx, event, after)
    if after >= FIRST_TERMINAL_STATE:
        release_slot(ctx, slot, np.int64(order.user_ref), order.seq)
    return True


@kernel("void(int64[::1], int64)")
def revive(ctx, address):
    """Take the final report at an address back into the pool: the venue has more to say about that order."""
    pool = pool_of(ctx)
    final = reports_at(address, 1)
    slot = take_slot(ctx, np.int64(final[0].user_ref))
    pool[slot] = final[0]


@kernel("int64(int64[::1], int64, int64)")
def replay(ctx, address, n):
    """Apply `n` journal entries at an address to an empty or partly replayed pool.

    Returns the number applied: less than `n` when the pool or the tables of the day are too small for the next one.
    """
    pool = pool_of(ctx)
    entries = reports_at(address, n)
    refs = words_at(ctx[Reg.REFS], ctx[Reg.REFS_CAPACITY])
    cancel_ns = words_at(ctx[Reg.CANCEL_NS], ctx[Reg.POOL_CAPACITY] + 1)
    for i in range(n):
        ref = np.int64(entries[i].user_ref)
        event = np.int64(entries[i].event)
        if ref == 0:  # refused: never in the pool
            if find_id(ctx, entries[i].cl_ord_id) < 0:
                remember_id(ctx, entries[i].cl_ord_id, np.int64(0))
        else:
            if ref >= ctx[Reg.REFS_CAPACITY]:
                return i
            if event == ExecEvent.SEND:
                if ctx[Reg.FREE_COUNT] == 0:
                    return i
                slot = take_slot(ctx, ref)
                remember_id(ctx, entries[i].cl_ord_id, ref)
                ctx[Reg.NEXT_REF] = max(ctx[Reg.NEXT_REF], ref + 1)
            elif refs[ref] > 0:
                slot = refs[ref] - 1
            else:
                if ctx[Reg.FREE_COUNT] == 0:
                    return i
                slot = take_slot(ctx, ref)
            pool[slot] = entries[i]
            if event == ExecEvent.CANCEL_SENT:
                cancel_ns[slot] = 1
            elif event == ExecEvent.CANCEL_REJECT:
                cancel_ns[slot] = 0
            if entries[i].state >= FIRST_TERMINAL_STATE:
                release_slot(ctx, slot, ref, entries[i].seq)
        ctx[Reg.NEXT_SEQ] = entries[i].seq + 1
    return n


@kernel("void(int64[::1], int64, int64, int64, int64, int64, int64, int64)")
def break_trade(ctx, slot, lots, ticks, match, reason, venue_seq, now_ns):
    """Journal that a trade of the order in `slot` was taken back: a FILL of negative lots, the state as it was."""
    pool = pool_of(ctx)
    order = pool[slot]
    order.cum_lots -= lots
    order.last_lots = -lots
    order.last_ticks = ticks
    order.match_number = match
    order.venue_seq = venue_seq
    order.acked_ns = now_ns
    order.event = ExecEvent.FILL
    order.reason = reason
    append(ctx, pool, slot)
    count(ctx, Counter.BROKEN_TRADES, 1)
    if order.state >= FIRST_TERMINAL_STATE:
        release_slot(ctx, slot, np.int64(order.user_ref), order.seq)
