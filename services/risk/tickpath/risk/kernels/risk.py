"""What risk does: decide signals, follow reports, keep marks, cancel what is halted.

State is in the arrays of `tickpath.risk.state.RiskState`, which the kernels find through its `context`; ``control``
is that of the side page, read live for the lease and the version of the limits.
"""

from __future__ import annotations

from numba import from_dtype, int64, types
from numba.np.numpy_support import carray

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.jit import always_inlined, kernel
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.memory import lent, orders_at, pairs_at, pointer, rows_at, words_at
from tickpath.common.pages import Control
from tickpath.common.records import (
    FIRST_TERMINAL_STATE,
    N_SHARDS,
    NO_PRICE_TICKS,
    REPORT,
    SIGNAL,
    TICK,
    Action,
    ExecEvent,
    OrderState,
    Side,
    TickFlag,
)
from tickpath.risk.kernels.controls import (
    BUY,
    CONTROLS,
    HALTED,
    LEASE_UNTIL_NS,
    OVERFLOW,
    Candidate,
    fingerprint,
    pack_id,
    ring_mask,
    ring_of,
    unrolled,
)
from tickpath.risk.kernels.orders import find, insert, remove, reserve
from tickpath.risk.limits import ACCOUNT_ROW, FIRST_SYMBOL_ROW, GLOBAL_ROW, LIMIT, N_STRATEGIES
from tickpath.risk.reasons import Reason
from tickpath.risk.state import CORE_REASONS, CORE_SIZE, LIVE, OPEN_ORDER, REJECT, At, Core

_CONTEXT = types.Array(int64, 1, "C", readonly=True)

AT_LIMITS = int(At.LIMITS)
AT_LIVE = int(At.LIVE)
AT_ORDERS = int(At.ORDERS)
AT_INDEX = int(At.INDEX)
AT_WATERMARKS = int(At.WATERMARKS)
AT_RINGS = int(At.RINGS)
AT_CORE = int(At.CORE)
AT_CONTROL = int(At.CONTROL)
AT_OUT = int(At.OUT)
AT_REJECTS = int(At.REJECTS)
AT_HIST = int(At.HIST)
AT_N_ROWS = int(At.N_ROWS)
AT_N_ORDERS = int(At.N_ORDERS)
AT_N_RINGS = int(At.N_RINGS)
AT_N_OUT = int(At.N_OUT)
AT_N_REJECTS = int(At.N_REJECTS)
N_CONTROL = len(Control)


def _received(dtype):
    """Type of records as they come out of a frame: read-only."""
    return types.Array(from_dtype(dtype), 1, "C", readonly=True)


@lent
def _limits(ctx):
    return carray(pointer(ctx[AT_LIMITS]), (ctx[AT_N_ROWS],), LIMIT)


@lent
def _live(ctx):
    return carray(pointer(ctx[AT_LIVE]), (ctx[AT_N_ROWS],), LIVE)


@lent
def _orders(ctx):
    return carray(pointer(ctx[AT_ORDERS]), (ctx[AT_N_ORDERS],), OPEN_ORDER)


@lent
def _index(ctx):
    return words_at(ctx[AT_INDEX], 4 * ctx[AT_N_ORDERS])


@lent
def _watermarks(ctx):
    return pairs_at(ctx[AT_WATERMARKS], N_STRATEGIES * N_SHARDS)


@lent
def _rings(ctx):
    return words_at(ctx[AT_RINGS], ctx[AT_N_RINGS])


@lent
def _core(ctx):
    return words_at(ctx[AT_CORE], CORE_SIZE)


@lent
def _out(ctx):
    return orders_at(ctx[AT_OUT], ctx[AT_N_OUT])


@lent
def _rejects(ctx):
    return carray(pointer(ctx[AT_REJECTS]), (ctx[AT_N_REJECTS],), REJECT)


@lent
def _hist(ctx):
    return rows_at(ctx[AT_HIST], 2, HIST_SIZE)


CANCEL = int(Action.CANCEL)
NEW = int(Action.NEW)
SELL = int(Side.SELL)
ALREADY_DECIDED = int(Reason.ALREADY_DECIDED)
PENDING_NEW = int(OrderState.PENDING_NEW)
VERSION = int(Control.VERSION)
KEPT_FLAGS = int(TickFlag.SUSPECT | TickFlag.HALTED)

SEND = int(ExecEvent.SEND)
FILL = int(ExecEvent.FILL)
CANCELLED = int(ExecEvent.CANCELLED)
DISCONNECT = int(ExecEvent.DISCONNECT)
CANCEL_REJECT = int(ExecEvent.CANCEL_REJECT)
RECONCILED = int(ExecEvent.RECONCILED)

N_ORDERS = int(Core.N_ORDERS)
NEXT_REPORT = int(Core.NEXT_REPORT)
LIMITS_VERSION = int(Core.LIMITS_VERSION)
CANCEL_REPEAT_NS = int(Core.CANCEL_REPEAT_NS)
APPROVED = int(Core.APPROVED)
REJECTED = int(Core.REJECTED)
CANCELS = int(Core.CANCELS)
CANCEL_SIGNALS = int(Core.CANCEL_SIGNALS)
FILLS = int(Core.FILLS)
ALARMS = int(Core.ALARMS)
REPORTS = int(Core.REPORTS)
REPORTS_REPEATED = int(Core.REPORTS_REPEATED)
REPORT_GAPS = int(Core.REPORT_GAPS)
TICKS = int(Core.TICKS)
TICKS_REFUSED = int(Core.TICKS_REFUSED)

_check_all = unrolled(CONTROLS)


@always_inlined
def _remember_send(live, rings, row, stamp_ns):
    """Put an approval into the ring of a row."""
    sent = live[row].sent
    rings[ring_of(row) + (sent & ring_mask(row))] = stamp_ns
    live[row].sent = sent + 1


@always_inlined
def _remember_sends(live, rings, strategy, row, stamp_ns):
    _remember_send(live, rings, GLOBAL_ROW, stamp_ns)
    _remember_send(live, rings, ACCOUNT_ROW, stamp_ns)
    _remember_send(live, rings, strategy, stamp_ns)
    _remember_send(live, rings, row, stamp_ns)


@always_inlined
def _write_cancel(order, cause_seq, exch_ns, recv_ns, decoded_ns, signalled_ns, now_ns, out):
    """Fill an ORDER record that takes `order` back; the stamps are those of what caused the cancel."""
    out.cl_ord_id = order.cl_ord_id
    out.cause_seq = cause_seq
    out.exch_ns = exch_ns
    out.recv_ns = recv_ns
    out.decoded_ns = decoded_ns
    out.signalled_ns = signalled_ns
    out.approved_ns = now_ns
    out.price_ticks = order.price_ticks
    out.qty_lots = order.qty_lots
    out.instrument = order.instrument
    out.strategy = order.strategy
    out.shard = order.shard
    out.action = CANCEL
    out.side = order.side
    out.tif = order.tif
    out.k = order.k
    out.pad = 0


@always_inlined
def _write_reject(rejects, live, core, c, signal, reason):
    number = core[REJECTED]
    row = rejects[number & (len(rejects) - 1)]
    scope = live[c.row]
    row.number = number
    row.now_ns = c.now_ns
    row.cl_ord_id = max(c.cl_ord_id, 0)
    row.cause_seq = signal.cause_seq
    row.recv_ns = signal.recv_ns
    row.signalled_ns = signal.signalled_ns
    row.price_ticks = signal.price_ticks
    row.qty_lots = signal.qty_lots
    row.bid_ticks = signal.bid_ticks
    row.ask_ticks = signal.ask_ticks
    row.position_lots = scope.position_lots if c.known else 0
    row.open_buy_lots = scope.open_buy_lots if c.known else 0
    row.open_sell_lots = scope.open_sell_lots if c.known else 0
    row.open_orders = live[GLOBAL_ROW].open_orders
    row.limits_version = core[LIMITS_VERSION]
    row.instrument = signal.instrument
    row.strategy = signal.strategy
    row.reason = reason
    row.side = signal.side
    row.tif = signal.tif
    row.shard = signal.shard
    core[REJECTED] = number + 1


@kernel(types.UniTuple(int64, 2)(_CONTEXT, _received(SIGNAL), int64))
def evaluate(ctx, signals, now_ns):
    """Decide `signals` in order; approved orders and cancels go to ``out``, refusals to the ring ``rejects``.

    Check and reservation are one step: when this returns, every order in ``out`` is counted. A refusal changes
    nothing that a later decision depends on, but for the id, which is decided. ``hist`` has two rows, ns:
    signalled to approved, and causing tick received to approved.

    Returns (signals decided, orders written). Fewer are decided than given when ``out`` may not hold what the next
    one asks for, or when the side page has a newer version of the limits than ``limits``: copy it and call again.
    """
    limits, live, orders, index = _limits(ctx), _live(ctx), _orders(ctx), _index(ctx)
    watermarks, rings, core, out = _watermarks(ctx), _rings(ctx), _core(ctx), _out(ctx)
    control = words_at(ctx[AT_CONTROL], N_CONTROL)
    rejects, hist = _rejects(ctx), _hist(ctx)
    n_instruments = len(limits) - FIRST_SYMBOL_ROW
    written = 0
    for i in range(len(signals)):
        signal = signals[i]
        instrument = int64(signal.instrument)
        known = 0 <= instrument < n_instruments
        row = FIRST_SYMBOL_ROW + (instrument if known else 0)
        strategy = int64(signal.strategy)
        shard = int64(signal.shard)
        side = int64(signal.side)
        tif = int64(signal.tif)
        action = int64(signal.action)
        k = int64(signal.k)
        cl_ord_id = pack_id(strategy, shard, signal.cause_seq, k)
        mark = cl_ord_id >> 48 if cl_ord_id >= 0 else 0  # strategy and shard
        payload = fingerprint(action, instrument, side, tif, signal.price_ticks, signal.qty_lots)
        if action == CANCEL:
            # Never blocked, in no state: it only has to fit, and it waits at the head of the line if it does not.
            if known and len(out) - written < live[row].open_orders:
                return i, written
            core[CANCEL_SIGNALS] += 1
            entry = live[row].head - 1 if known else -1
            for _ in range(len(orders)):
                if entry < 0:
                    break
                order = orders[entry]
                wanted = order.strategy == strategy and side in (0, int64(order.side))
                if wanted and (order.cancel_ns == 0 or now_ns - order.cancel_ns >= core[CANCEL_REPEAT_NS]):
                    order.cancel_ns = now_ns
                    _write_cancel(
                        order, signal.cause_seq, signal.exch_ns, signal.recv_ns, signal.decoded_ns,
                        signal.signalled_ns, now_ns, out[written],
                    )  # fmt: skip
                    written += 1
                    core[CANCELS] += 1
                entry = order.next - 1
            if cl_ord_id > watermarks[mark, 0]:
                watermarks[mark, 0] = cl_ord_id
                watermarks[mark, 1] = payload
            continue
        if written >= len(out):
            return i, written
        if control[VERSION] != core[LIMITS_VERSION] and now_ns <= control[LEASE_UNTIL_NS]:
            return i, written
        c = Candidate(
            cl_ord_id, instrument, known, row, strategy if cl_ord_id >= 0 else 0, action, side, tif,
            signal.price_ticks, signal.qty_lots, signal.bid_ticks, signal.ask_ticks, signal.recv_ns, now_ns,
            payload, mark, limits, live, orders, index, watermarks, rings, core, control,
        )  # fmt: skip
        reason = _check_all(c)
        core[CORE_REASONS + reason] += 1
        if cl_ord_id > watermarks[mark, 0]:
            watermarks[mark, 0] = cl_ord_id
            watermarks[mark, 1] = payload
        if reason == ALREADY_DECIDED:
            continue
        if reason != 0:
            _write_reject(rejects, live, core, c, signal, reason)
            continue
        order = orders[insert(live, orders, index, core, cl_ord_id, instrument, strategy, side, signal.qty_lots)]
        order.cause_seq = signal.cause_seq
        order.price_ticks = signal.price_ticks
        order.qty_lots = signal.qty_lots
        order.approved_ns = now_ns
        order.shard = shard
        order.tif = tif
        order.k = k
        order.state = PENDING_NEW
        _remember_sends(live, rings, strategy, row, now_ns)
        core[APPROVED] += 1
        record(hist[0], now_ns - signal.signalled_ns)
        record(hist[1], now_ns - signal.recv_ns)
        new = out[written]
        new.cl_ord_id = cl_ord_id
        new.cause_seq = signal.cause_seq
        new.exch_ns = signal.exch_ns
        new.recv_ns = signal.recv_ns
        new.decoded_ns = signal.decoded_ns
        new.signalled_ns = signal.signalled_ns
        new.approved_ns = now_ns
        new.price_ticks = signal.price_ticks
        new.qty_lots = signal.qty_lots
        new.instrument = instrument
        new.strategy = strategy
        new.shard = shard
        new.action = NEW
        new.side = side
        new.tif = tif
        new.k = k
        new.pad = 0
        written += 1
    return len(signals), written


@always_inlined
def _worse(order, report):
    """A fill at a price that the limit of its order does not allow."""
    if order.side == BUY:
        return report.last_ticks > order.price_ticks
    return report.last_ticks < order.price_ticks


@kernel(int64(_CONTEXT, _received(REPORT), int64))
def apply_reports(ctx, reports, now_ns):
    """Follow execution reports: exposure is released only by fills and on terminal evidence.

    A report of an order that this instance did not approve (it replays the journal after a start) brings the order
    in, with its exposure, its place in the order rates and its watermark. A fill of an order that is not open, of
    more than is open, or at a price worse than its limit changes the position and raises an alarm. Reports are
    numbered without gaps: a repeated one is counted and dropped; a gap stops here and makes the positions unknown.
    Returns the number of reports consumed.
    """
    live, orders, index = _live(ctx), _orders(ctx), _index(ctx)
    watermarks, rings, core = _watermarks(ctx), _rings(ctx), _core(ctx)
    n_instruments = len(live) - FIRST_SYMBOL_ROW
    for i in range(len(reports)):
        report = reports[i]
        if report.seq < core[NEXT_REPORT]:
            core[REPORTS_REPEATED] += 1
            continue
        if report.seq > core[NEXT_REPORT]:
            core[REPORT_GAPS] += 1
            core[OVERFLOW] += 1
            return i
        core[NEXT_REPORT] = report.seq + 1
        core[REPORTS] += 1
        instrument = int64(report.instrument)
        strategy = int64(report.strategy)
        side = int64(report.side)
        event = int64(report.event)
        placed = 0 <= instrument < n_instruments and 0 < strategy < N_STRATEGIES and report.cl_ord_id > 0
        if not placed or side not in (BUY, SELL):
            core[ALARMS] += 1
            core[OVERFLOW] += 1  # exposure that cannot be placed: nothing new may be opened
            continue
        row = FIRST_SYMBOL_ROW + instrument
        terminal = report.state >= FIRST_TERMINAL_STATE
        entry = find(orders, index, report.cl_ord_id)
        if entry < 0 and event == SEND and not terminal:
            entry = insert(
                live, orders, index, core, report.cl_ord_id, instrument, strategy, side, report.leaves_lots
            )
            if entry < 0:
                core[OVERFLOW] += 1
            else:
                order = orders[entry]
                order.cause_seq = report.cause_seq
                order.price_ticks = report.price_ticks
                order.qty_lots = report.qty_lots
                order.approved_ns = report.approved_ns
                order.shard = report.shard
                order.tif = report.tif
                order.k = report.cl_ord_id & 0xFF
            if report.approved_ns <= now_ns:  # a stamp of before a reboot says nothing about our clock
                _remember_sends(live, rings, strategy, row, report.approved_ns)
        if entry >= 0 and (orders[entry].instrument != instrument or orders[entry].side != side):
            core[ALARMS] += 1
            core[OVERFLOW] += 1
            continue
        mark = report.cl_ord_id >> 48
        if report.cl_ord_id > watermarks[mark, 0]:
            watermarks[mark, 0] = report.cl_ord_id
            watermarks[mark, 1] = fingerprint(
                NEW, instrument, side, int64(report.tif), report.price_ticks, report.qty_lots
            )
        if event == FILL:
            core[FILLS] += 1
            scope = live[row]
            if side == BUY:
                scope.position_lots += report.last_lots
                scope.bought_lots += report.last_lots
            else:
                scope.position_lots -= report.last_lots
                scope.sold_lots += report.last_lots
            if entry < 0 or report.last_lots > orders[entry].leaves_lots or _worse(orders[entry], report):
                live[row].trips += 1  # the instrument is REDUCING until a person re-arms it
                core[ALARMS] += 1
        if entry < 0:
            continue
        order = orders[entry]
        leaves = order.leaves_lots
        if event in (FILL, CANCELLED):
            leaves = max(0, leaves - report.last_lots)
        elif event == RECONCILED:
            leaves = max(0, report.leaves_lots)
        if event in (CANCEL_REJECT, DISCONNECT, RECONCILED):
            order.cancel_ns = 0  # no cancel is in flight any more
        reserve(live, row, side, leaves - order.leaves_lots)
        order.leaves_lots = leaves
        order.state = report.state
        if terminal:
            remove(live, orders, index, core, entry)
    return len(reports)


@kernel(int64(_CONTEXT, _received(TICK)))
def apply_ticks(ctx, ticks):
    """Keep the marks: best bid and offer, last print, when, and whether the venue or the feed disowns the book."""
    live, core = _live(ctx), _core(ctx)
    n_instruments = len(live) - FIRST_SYMBOL_ROW
    for i in range(len(ticks)):
        tick = ticks[i]
        instrument = int64(tick.instrument)
        core[TICKS] += 1
        if not 0 <= instrument < n_instruments:
            core[TICKS_REFUSED] += 1
            continue
        scope = live[FIRST_SYMBOL_ROW + instrument]
        scope.bid_ticks = tick.bid_ticks
        scope.ask_ticks = tick.ask_ticks
        scope.mark_recv_ns = tick.recv_ns
        scope.mark_seq = tick.cause_seq
        scope.mark_flags = int64(tick.flags) & KEPT_FLAGS
        if tick.last_ticks != NO_PRICE_TICKS:
            scope.last_ticks = tick.last_ticks
    return len(ticks)


@kernel(int64(_CONTEXT, int64, int64))
def cancel_halted(ctx, now_ns, all_orders):
    """Cancels for every open order of a HALTED scope (of all scopes if `all_orders`), oldest first per instrument.

    An order whose cancel was asked for less than ``Core.CANCEL_REPEAT_NS`` ago is left out, so this can be called as
    often as one likes until nothing is open. Returns the number of cancels in ``out``, too short for all perhaps.
    """
    limits, live, orders, core, out = _limits(ctx), _live(ctx), _orders(ctx), _core(ctx), _out(ctx)
    written = 0
    wide = all_orders or limits[GLOBAL_ROW].state >= HALTED or limits[ACCOUNT_ROW].state >= HALTED
    for row in range(FIRST_SYMBOL_ROW, len(limits)):
        entry = live[row].head - 1
        in_row = wide or limits[row].state >= HALTED
        for _ in range(len(orders)):
            if entry < 0:
                break
            order = orders[entry]
            if (in_row or limits[order.strategy].state >= HALTED) and (
                order.cancel_ns == 0 or now_ns - order.cancel_ns >= core[CANCEL_REPEAT_NS]
            ):
                if written >= len(out):
                    return written
                order.cancel_ns = now_ns
                _write_cancel(order, order.cause_seq, 0, 0, 0, 0, now_ns, out[written])
                written += 1
                core[CANCELS] += 1
            entry = order.next - 1
    return written
