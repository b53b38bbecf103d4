"""OUCH 5.0 in the hot path: orders into the send buffer, the receive buffer into the journal.

Layouts: /protocols sheet `ouch50` and `soupbintcp` as coded in `tickpath.common.protocols`; the tests hold these
kernels against that codec. Offsets in `accept` count from the start of the SoupBinTCP packet (three bytes before the
message), in `decode` from the start of the message.
"""

from __future__ import annotations

import numpy as np
from numba import from_dtype, int64, types

from tickpath.common.jit import always_inlined, kernel
from tickpath.common.kernels.memory import bytes_at, pairs_at, words_at
from tickpath.common.records import (
    FIRST_TERMINAL_STATE,
    MAX_PRICE_TICKS,
    MAX_QTY_LOTS,
    ORDER,
    Action,
    ExecEvent,
    OrderState,
    Side,
    Tif,
)
from tickpath.exec.kernels.orders import (
    append,
    apply,
    count,
    find_id,
    is_journal_low,
    measure,
    pool_of,
    remember_id,
    segment_room,
    take_slot,
)
from tickpath.exec.layout import (
    CANCEL_BYTES,
    ENTER_BYTES,
    MAX_VENUE_PRICE4,
    MAX_VENUE_QTY,
    TEMPLATE_BYTES,
    Counter,
    Hop,
    Reg,
    Stop,
    Sweep,
)
from tickpath.exec.lifecycle import Refusal

_ORDERS = types.Array(from_dtype(ORDER), 1, "C", readonly=True)  # frames are read-only views
_BASE32 = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUV", dtype=np.uint8).copy()

# Enter Order in its packet: offsets of what differs from order to order.
_REF = 4
_SIDE = 8
_QTY = 9
_PRICE_LOW = 25  # lower half of the price: the upper one is 0 in every price that the venue takes
_TIF = 29
_CL_ORD_ID = 34

# Shortest form of each message of the venue.
_LEN_ACCEPTED = 64
_LEN_CANCELED = 18
_LEN_AIQ_CANCELED = 32
_LEN_EXECUTED = 36
_LEN_BROKEN = 36
_LEN_REJECTED = 29
_LEN_CANCEL_REJECT = 13
_LEN_SYSTEM_EVENT = 10
_LEN_QUERY = 13

_A, _B, _C, _D, _E, _G, _H, _I, _J = (ord(c) for c in "ABCDEGHIJ")
_K, _M, _P, _Q, _R, _S, _T, _U, _X = (ord(c) for c in "KMPQRSTUX")
_DEAD = ord("D")
_END_OF_DAY = ord("E")
_BUY, _SELL, _DAY = ord("B"), ord("S"), ord("0")


@always_inlined
def _put4(buffer, at, value):
    for i in range(4):
        buffer[at + i] = (value >> (24 - 8 * i)) & 0xFF


@always_inlined
def _get(buffer, at, size):
    """Unsigned big-endian number; one of 8 bytes above 2**63 - 1 comes out negative."""
    value = np.int64(0)
    for i in range(size):
        value = value << 8 | np.int64(buffer[at + i])
    return value


@always_inlined
def _send_room(ctx):
    return ctx[Reg.SEND_SIZE] - ctx[Reg.SEND_TAIL]


@always_inlined
def _put_cancel(ctx, ref):
    """Cancel Order of all that is open, if it fits; the sweep for unanswered cancels repeats it if not."""
    if ctx[Reg.CONNECTED] == 0 or _send_room(ctx) < CANCEL_BYTES:
        return
    send = bytes_at(ctx[Reg.SEND], ctx[Reg.SEND_SIZE])
    at = ctx[Reg.SEND_TAIL]
    send[at] = 0
    send[at + 1] = CANCEL_BYTES - 2
    send[at + 2] = _U
    send[at + 3] = _X
    _put4(send, at + 4, ref)
    _put4(send, at + 8, np.int64(0))
    ctx[Reg.SEND_TAIL] = at + CANCEL_BYTES


@always_inlined
def _cancel(ctx, pool, slot, now_ns):
    """Journal the wish to cancel, then put the request into the send buffer."""
    if apply(ctx, pool, slot, ExecEvent.CANCEL_SENT, 0, 0, 0, 0, 0, 0, now_ns):
        count(ctx, Counter.CANCELS_SENT, 1)
        words_at(ctx[Reg.CANCEL_NS], ctx[Reg.POOL_CAPACITY] + 1)[slot] = now_ns
        _put_cancel(ctx, np.int64(pool[slot].user_ref))


@always_inlined
def _refusal(ctx, order, price4, shares):
    """Why a new order may not be sent now, 0: it may."""
    if ctx[Reg.REFUSE] != 0:
        return ctx[Reg.REFUSE]
    known = order.cl_ord_id > 0 and order.side in (Side.BUY, Side.SELL) and order.tif in (Tif.DAY, Tif.IOC)
    if not (known and 0 < price4 <= MAX_VENUE_PRICE4 and 0 < shares <= MAX_VENUE_QTY):
        return np.int64(Refusal.BAD_ORDER)
    if ctx[Reg.FREE_COUNT] <= 1:  # the last slot is for late reports about finished orders
        return np.int64(Refusal.POOL_FULL)
    if ctx[Reg.NEXT_REF] >= ctx[Reg.REFS_CAPACITY] or 2 * ctx[Reg.IDS_COUNT] > ctx[Reg.IDS_MASK]:
        return np.int64(Refusal.DAY_FULL)
    if is_journal_low(ctx):
        return np.int64(Refusal.JOURNAL_FULL)
    if _send_room(ctx) < ENTER_BYTES:
        return np.int64(Refusal.SEND_BUFFER_FULL)
    return np.int64(0)


@always_inlined
def _fill_in(pool, slot, order, ref, now_ns):
    """First report of an order."""
    report = pool[slot]
    report.cl_ord_id = order.cl_ord_id
    report.cause_seq = order.cause_seq
    report.exch_ns = order.exch_ns
    report.recv_ns = order.recv_ns
    report.decoded_ns = order.decoded_ns
    report.signalled_ns = order.signalled_ns
    report.approved_ns = order.approved_ns
    report.sent_ns = now_ns
    report.acked_ns = 0
    report.price_ticks = order.price_ticks
    report.qty_lots = order.qty_lots
    report.leaves_lots = order.qty_lots
    report.cum_lots = 0
    report.last_ticks = 0
    report.last_lots = 0
    report.venue_order = 0
    report.match_number = 0
    report.venue_seq = 0
    report.user_ref = ref
    report.instrument = order.instrument
    report.strategy = order.strategy
    report.shard = order.shard
    report.state = OrderState.PENDING_NEW
    report.event = ExecEvent.SEND
    report.side = order.side
    report.tif = order.tif
    report.reason = 0
    report.pad = 0


@always_inlined
def _put_order(ctx, order, ref, price4, shares):
    """Enter Order: the instrument's template, patched."""
    template = bytes_at(ctx[Reg.TEMPLATES] + order.instrument * TEMPLATE_BYTES, TEMPLATE_BYTES)
    send = bytes_at(ctx[Reg.SEND], ctx[Reg.SEND_SIZE])
    at = ctx[Reg.SEND_TAIL]
    for i in range(ENTER_BYTES):
        send[at + i] = template[i]
    _put4(send, at + _REF, ref)
    send[at + _SIDE] = _BUY if order.side == Side.BUY else _SELL
    _put4(send, at + _QTY, shares)
    _put4(send, at + _PRICE_LOW, price4)
    send[at + _TIF] = _DAY + order.tif
    for i in range(13):
        send[at + _CL_ORD_ID + 1 + i] = _BASE32[order.cl_ord_id >> (60 - 5 * i) & 31]
    ctx[Reg.SEND_TAIL] = at + ENTER_BYTES


@always_inlined
def _new(ctx, pool, order, now_ns):
    price4 = np.int64(0)
    shares = np.int64(0)
    if 0 <= order.instrument < ctx[Reg.INSTRUMENTS]:
        factors = pairs_at(ctx[Reg.FACTORS], ctx[Reg.INSTRUMENTS])
        if 0 < order.price_ticks <= MAX_PRICE_TICKS and 0 < order.qty_lots <= MAX_QTY_LOTS:
            price4 = order.price_ticks * factors[order.instrument, 0]
            shares = order.qty_lots * factors[order.instrument, 1]
    reason = _refusal(ctx, order, price4, shares)
    if reason != 0:
        scratch = ctx[Reg.POOL_CAPACITY]
        _fill_in(pool, scratch, order, 0, now_ns)
        pool[scratch].sent_ns = 0
        pool[scratch].acked_ns = now_ns
        pool[scratch].leaves_lots = 0
        pool[scratch].state = OrderState.REJECTED
        pool[scratch].event = ExecEvent.NOT_SENT
        pool[scratch].reason = reason
        remember_id(ctx, order.cl_ord_id, np.int64(0))
        append(ctx, pool, scratch)
        count(ctx, Counter.ORDERS_REFUSED, 1)
        return
    ref = ctx[Reg.NEXT_REF]
    ctx[Reg.NEXT_REF] = ref + 1
    slot = take_slot(ctx, ref)
    _fill_in(pool, slot, order, ref, now_ns)
    remember_id(ctx, order.cl_ord_id, ref)
    append(ctx, pool, slot)
    _put_order(ctx, order, ref, price4, shares)
    count(ctx, Counter.ORDERS_SENT, 1)
    measure(ctx, Hop.RECV_TO_DECODE, order.decoded_ns - order.recv_ns)
    measure(ctx, Hop.DECODE_TO_SIGNAL, order.signalled_ns - order.decoded_ns)
    measure(ctx, Hop.SIGNAL_TO_APPROVE, order.approved_ns - order.signalled_ns)
    measure(ctx, Hop.APPROVE_TO_SEND, now_ns - order.approved_ns)
    measure(ctx, Hop.RECV_TO_SEND, now_ns - order.recv_ns)


@always_inlined
def _take_back(ctx, pool, order, now_ns):
    ref = find_id(ctx, order.cl_ord_id)
    if ref < 0:
        count(ctx, Counter.CANCELS_UNKNOWN, 1)
        return
    slot = words_at(ctx[Reg.REFS], ctx[Reg.REFS_CAPACITY])[ref] - 1
    if ref == 0 or slot < 0:
        count(ctx, Counter.CANCELS_LATE, 1)
    elif words_at(ctx[Reg.CANCEL_NS], ctx[Reg.POOL_CAPACITY] + 1)[slot] != 0:
        count(ctx, Counter.CANCELS_REPEATED, 1)  # under way; the sweep repeats it until it is answered
    else:
        _cancel(ctx, pool, slot, now_ns)


@kernel(int64(int64[::1], _ORDERS, int64))
def accept(ctx, orders, now_ns):
    """Journal and encode ORDER[n]: new orders and cancels, at `now_ns`.

    Returns how many were dealt with; less than `n` only when the journal's segment is full: begin the next one and
    call again with the rest. The bytes to send are in the send buffer up to SEND_TAIL; an order that may not be sent
    (`Refusal`) is journaled as NOT_SENT, and one whose id is known is counted and dropped.
    """
    pool = pool_of(ctx)
    for i in range(len(orders)):
        if segment_room(ctx) < 1:
            return i
        count(ctx, Counter.ORDERS_RECEIVED, 1)
        order = orders[i]
        if order.action == Action.NEW:
            if find_id(ctx, order.cl_ord_id) >= 0:
                count(ctx, Counter.DUPLICATE_ORDERS, 1)
            else:
                _new(ctx, pool, order, now_ns)
        elif order.action == Action.CANCEL:
            _take_back(ctx, pool, order, now_ns)
        else:
            count(ctx, Counter.BAD_REQUESTS, 1)
    return len(orders)


@always_inlined
def _ticks(ctx, instrument, price4):
    per_tick = pairs_at(ctx[Reg.FACTORS], ctx[Reg.INSTRUMENTS])[instrument, 0]
    if price4 % per_tick:
        count(ctx, Counter.INEXACT, 1)
    return price4 // per_tick


@always_inlined
def _lots(ctx, instrument, shares):
    per_lot = pairs_at(ctx[Reg.FACTORS], ctx[Reg.INSTRUMENTS])[instrument, 1]
    if shares % per_lot:
        count(ctx, Counter.INEXACT, 1)
    return shares // per_lot


@always_inlined
def _shortest(kind):
    """Least size of the messages that name one of our orders and change it, 0 for all others."""
    if kind == _A:
        return _LEN_ACCEPTED
    if kind == _C:
        return _LEN_CANCELED
    if kind == _D:
        return _LEN_AIQ_CANCELED
    if kind == _E:
        return _LEN_EXECUTED
    if kind == _B:
        return _LEN_BROKEN
    if kind == _J:
        return _LEN_REJECTED
    if kind == _I:
        return _LEN_CANCEL_REJECT
    return 0


@always_inlined
def _of_session(ctx, received, at, size):
    """A message that names none of our orders. Returns the Stop it asks for, MORE for none."""
    kind = received[at]
    if kind == _Q:
        if size < _LEN_QUERY:
            count(ctx, Counter.VENUE_MALFORMED, 1)
            return np.int64(Stop.MORE)
        ctx[Reg.STOP_ARG] = _get(received, at + 9, 4)
        return np.int64(Stop.QUERY)
    if kind == _S:
        if size < _LEN_SYSTEM_EVENT:
            count(ctx, Counter.VENUE_MALFORMED, 1)
        else:
            count(ctx, Counter.VENUE_OTHER, 1)
            if received[at + 9] == _END_OF_DAY:
                ctx[Reg.DAY_ENDED] = 1
                if ctx[Reg.REFUSE] == 0:
                    ctx[Reg.REFUSE] = Refusal.VENUE_CLOSED  # from the next order on, in every lane
    elif kind in (_U, _T, _M, _R, _P, _X, _G, _K):
        count(ctx, Counter.VENUE_OTHER, 1)
    else:
        count(ctx, Counter.VENUE_UNKNOWN_TYPE, 1)
    return np.int64(Stop.MORE)


@always_inlined
def _of_order(ctx, pool, slot, received, at, now_ns):
    """A message about the order in `slot`; the caller has checked the size and that the segment has room."""
    kind = received[at]
    instrument = np.int64(pool[slot].instrument)
    seq = ctx[Reg.VENUE_NEXT]
    if kind in (_A, _J):
        measure(ctx, Hop.SEND_TO_ACK, now_ns - pool[slot].sent_ns)
    if kind == _A:
        venue_order = _get(received, at + 36, 8)
        if received[at + 47] == _DEAD:
            count(ctx, Counter.ORDERS_ACKNOWLEDGED, 1)
            open_lots = pool[slot].leaves_lots
            apply(ctx, pool, slot, ExecEvent.CANCELLED, open_lots, 0, 0, venue_order, 0, seq, now_ns)
        else:
            lots = _lots(ctx, instrument, _get(received, at + 14, 4))
            apply(ctx, pool, slot, ExecEvent.ACKNOWLEDGED, lots, 0, 0, venue_order, 0, seq, now_ns)
    elif kind in (_C, _D):
        lots = _lots(ctx, instrument, _get(received, at + 13, 4))
        reason = np.int64(received[at + 17])
        apply(ctx, pool, slot, ExecEvent.CANCELLED, lots, 0, reason, 0, 0, seq, now_ns)
    elif kind == _E:
        lots = _lots(ctx, instrument, _get(received, at + 13, 4))
        ticks = _ticks(ctx, instrument, _get(received, at + 17, 8))
        match = _get(received, at + 26, 8)
        apply(ctx, pool, slot, ExecEvent.FILL, lots, ticks, np.int64(received[at + 25]), 0, match, seq, now_ns)
    elif kind == _J:
        reason = _get(received, at + 13, 2)
        apply(ctx, pool, slot, ExecEvent.VENUE_REJECT, 0, 0, reason, 0, 0, seq, now_ns)
    else:
        apply(ctx, pool, slot, ExecEvent.CANCEL_REJECT, 0, 0, 0, 0, 0, seq, now_ns)


@kernel(int64(int64[::1], int64, int64, int64))
def decode(ctx, start, end, now_ns):
    """Apply the packets in the receive buffer from `start` to `end`, received at `now_ns`.

    Returns where it stopped: everything before is dealt with and its numbers are counted in VENUE_NEXT. Why it
    stopped is in STOP (`Stop`).
    """
    received = bytes_at(ctx[Reg.RECEIVE], ctx[Reg.RECEIVE_SIZE])
    pool = pool_of(ctx)
    refs = words_at(ctx[Reg.REFS], ctx[Reg.REFS_CAPACITY])
    at = start
    ctx[Reg.STOP] = Stop.MORE
    while at + 2 <= end:
        length = _get(received, at, 2)
        if length == 0 or length + 2 > ctx[Reg.RECEIVE_SIZE]:
            ctx[Reg.STOP] = Stop.MALFORMED
            break
        after = at + 2 + length
        if after > end:
            break
        if received[at + 2] == _H and ctx[Reg.CONNECTED] != 0:
            count(ctx, Counter.HEARTBEATS_RECEIVED, 1)
            at = after
            continue
        if received[at + 2] != _S or ctx[Reg.CONNECTED] == 0:
            ctx[Reg.STOP] = Stop.SESSION
            break
        if segment_room(ctx) < 1:
            ctx[Reg.STOP] = Stop.JOURNAL
            break
        message = at + 3
        size = length - 1
        if size > 0:
            shortest = _shortest(received[message])
            if shortest == 0:
                ctx[Reg.STOP] = _of_session(ctx, received, message, size)
            elif size < shortest:
                count(ctx, Counter.VENUE_MALFORMED, 1)
            else:
                ref = _get(received, message + 9, 4)
                where = np.int64(0)
                if ref < ctx[Reg.NEXT_REF]:
                    where = refs[ref]
                if where == 0:
                    count(ctx, Counter.UNKNOWN_REFS, 1)
                elif received[message] == _B:
                    ctx[Reg.STOP] = Stop.BROKEN
                    ctx[Reg.STOP_ARG] = ref
                    break
                elif where > 0:
                    _of_order(ctx, pool, where - 1, received, message, now_ns)
                elif received[message] == _E:
                    ctx[Reg.STOP] = Stop.HISTORY
                    ctx[Reg.STOP_ARG] = ref
                    break
                else:  # the order is over, and only a trade could change what is known of it
                    count(ctx, Counter.ILLEGAL_TRANSITIONS, 1)
                    ctx[Reg.ILLEGAL_REF] = ref
                    ctx[Reg.ILLEGAL_CELL] = -np.int64(received[message])
        ctx[Reg.VENUE_NEXT] += 1
        count(ctx, Counter.VENUE_MESSAGES, 1)
        at = after
        if ctx[Reg.STOP] == Stop.QUERY:
            break
    return at


@always_inlined
def _reconcile(ctx, pool, slot, next_ref, now_ns):
    """What the venue's next free UserRefNum says about an order in doubt, all its messages having been read."""
    if pool[slot].state != OrderState.UNKNOWN:
        return
    if np.int64(pool[slot].user_ref) < next_ref:
        apply(ctx, pool, slot, ExecEvent.RECONCILED, 0, 0, 0, 0, 0, 0, now_ns)
    elif pool[slot].venue_order == 0 and pool[slot].cum_lots == 0:
        count(ctx, Counter.NEVER_ARRIVED, 1)
        apply(ctx, pool, slot, ExecEvent.NOT_SENT, 0, 0, Refusal.NEVER_ARRIVED, 0, 0, 0, now_ns)
    else:
        count(ctx, Counter.MISMATCHES, 1)  # it acknowledged the order and now says that it never saw it


@kernel(int64(int64[::1], int64, int64, int64))
def sweep(ctx, what, argument, now_ns):
    """Do `what` (`Sweep`) to every open order. Returns 1 when through, 0 when the journal's segment is full.

    After 0 begin the next segment and call again: it goes on where it was (SWEEP_AT).
    """
    pool = pool_of(ctx)
    cancel_ns = words_at(ctx[Reg.CANCEL_NS], ctx[Reg.POOL_CAPACITY] + 1)
    while ctx[Reg.SWEEP_AT] < ctx[Reg.HIGH]:
        if segment_room(ctx) < 1:
            return 0
        slot = ctx[Reg.SWEEP_AT]
        ctx[Reg.SWEEP_AT] += 1
        state = np.int64(pool[slot].state)
        if state == OrderState.NONE or state >= FIRST_TERMINAL_STATE:
            continue
        if what == Sweep.DISCONNECT:
            if state != OrderState.UNKNOWN:
                apply(ctx, pool, slot, ExecEvent.DISCONNECT, 0, 0, 0, 0, 0, 0, now_ns)
        elif what == Sweep.RECONCILE:
            _reconcile(ctx, pool, slot, argument, now_ns)
        elif what == Sweep.CANCEL_ALL:
            if cancel_ns[slot] == 0:
                _cancel(ctx, pool, slot, now_ns)
        elif 0 < cancel_ns[slot] < argument and state != OrderState.UNKNOWN:
            if state == OrderState.PENDING_CANCEL:
                cancel_ns[slot] = now_ns
                _put_cancel(ctx, np.int64(pool[slot].user_ref))
            else:  # wanted while the order was in doubt
                _cancel(ctx, pool, slot, now_ns)
    ctx[Reg.SWEEP_AT] = 0
    return 1
