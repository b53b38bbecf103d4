"""What happens around a strategy on each tick, and what a report does to what it owns.

`tickpath.signals.build` writes the module that puts these pieces and the users' functions together.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import types

from tickpath.common import jit
from tickpath.common.instruments import INSTRUMENT
from tickpath.common.jit import kernel
from tickpath.common.kernels.hist import record
from tickpath.common.records import (
    FIRST_TERMINAL_STATE,
    MAX_PRICE_TICKS,
    MAX_QTY_LOTS,
    NO_PRICE_TICKS,
    REPORT,
    SIGNAL,
    TICK,
    Action,
    ExecEvent,
    OrderState,
    Side,
    TickFlag,
    Tif,
)
from tickpath.signals.layout import (
    INTENT,
    MAX_INTENTS,
    MAX_OPEN_ORDERS,
    N_STRATEGY_IDS,
    OPEN_ORDER,
    OWN,
    POINT,
    WORDS,
    Counter,
    Histogram,
    Word,
)

MEMORY_TYPE = numba.uint8[::1]
COUNTERS_TYPE = numba.int64[::1]
HIST_TYPE = numba.int64[:, ::1]
SIGNALS_TYPE = numba.from_dtype(SIGNAL)[::1]
# Records that come out of a frame are a read-only view of it.
TICKS_TYPE = types.Array(numba.from_dtype(TICK), 1, "C", readonly=True)
REPORTS_TYPE = types.Array(numba.from_dtype(REPORT), 1, "C", readonly=True)

_WORDS = types.int64[::1]
_TICK = numba.from_dtype(TICK)
_POINTS = numba.from_dtype(POINT)[::1]
_OWN = numba.from_dtype(OWN)
_ORDERS = numba.from_dtype(OPEN_ORDER)[::1]
_INTENTS = numba.from_dtype(INTENT)[::1]
_i8 = types.int64

_INSTRUMENT_SIZE = INSTRUMENT.itemsize
_POINT_SIZE = POINT.itemsize
_OWN_SIZE = OWN.itemsize
_ORDER_SIZE = OPEN_ORDER.itemsize
_INTENT_SIZE = INTENT.itemsize

_W_INSTRUMENTS = int(Word.N_INSTRUMENTS)
_W_CAPACITY = int(Word.CAPACITY)
_W_STRATEGIES = int(Word.N_STRATEGIES)
_W_SIGNAL_SEQ = int(Word.SIGNAL_SEQ)
_W_ACKED_SEQ = int(Word.ACKED_SEQ)
_W_REPORT_SEQ = int(Word.REPORT_SEQ)
_W_MUTED = int(Word.MUTED)
_W_TABLES = int(Word.TABLES)

_TICKS = int(Counter.TICKS)
_TICKS_UNKNOWN = int(Counter.TICKS_UNKNOWN_INSTRUMENT)
_TICKS_NOT_TRADABLE = int(Counter.TICKS_NOT_TRADABLE)
_SIGNALS_NEW = int(Counter.SIGNALS_NEW)
_SIGNALS_CANCEL = int(Counter.SIGNALS_CANCEL)
_INTENTS_INVALID = int(Counter.INTENTS_INVALID)
_INTENTS_NO_ROOM = int(Counter.INTENTS_NO_ROOM)
_INTENTS_MUTED = int(Counter.INTENTS_MUTED)
_ORDERS_REFUSED = int(Counter.ORDERS_REFUSED)
_FAULTS = int(Counter.STRATEGY_FAULTS)
_REPORTS = int(Counter.REPORTS)
_REPORTS_DUPLICATE = int(Counter.REPORTS_DUPLICATE)
_REPORTS_FOREIGN = int(Counter.REPORTS_FOREIGN)
_FILLS = int(Counter.FILLS)
_ORDERS_UNTRACKED = int(Counter.ORDERS_UNTRACKED)

_DECODE_TO_STRATEGY = int(Histogram.DECODE_TO_STRATEGY)
_DECODE_TO_SIGNAL = int(Histogram.DECODE_TO_SIGNAL)

_NOT_TRADABLE = int(TickFlag.SUSPECT | TickFlag.HALTED)
_CHANNEL = int(TickFlag.CHANNEL)
_NEW = int(Action.NEW)
_CANCEL = int(Action.CANCEL)
_BUY = int(Side.BUY)
_SELL = int(Side.SELL)
_DAY = int(Tif.DAY)
_IOC = int(Tif.IOC)
_FILL = int(ExecEvent.FILL)
_CANCEL_REJECT = int(ExecEvent.CANCEL_REJECT)
_STATE_NONE = int(OrderState.NONE)
_PENDING_CANCEL = int(OrderState.PENDING_CANCEL)


def spliced(function):
    """Decorator for helpers that return views: their statements are copied into the caller, which counts nothing."""
    return jit.inlined(function, inline="always")


@spliced
def open_tables(memory):
    """(words, rows, instruments, counts, points, own, orders, intents): the tables as flat arrays."""
    words = memory[: WORDS * 8].view(np.int64)
    n = words[_W_INSTRUMENTS]
    rows = words[_W_STRATEGIES]
    at = words[_W_TABLES]
    strategy_rows = memory[at : at + N_STRATEGY_IDS * 8].view(np.int64)
    at = words[_W_TABLES + 1]
    instruments = memory[at : at + n * _INSTRUMENT_SIZE].view(INSTRUMENT)
    at = words[_W_TABLES + 2]
    counts = memory[at : at + n * 8].view(np.int64)
    at = words[_W_TABLES + 3]
    points = memory[at : at + n * 2 * words[_W_CAPACITY] * _POINT_SIZE].view(POINT)
    at = words[_W_TABLES + 4]
    own = memory[at : at + rows * n * _OWN_SIZE].view(OWN)
    at = words[_W_TABLES + 5]
    orders = memory[at : at + rows * n * MAX_OPEN_ORDERS * _ORDER_SIZE].view(OPEN_ORDER)
    at = words[_W_TABLES + 6]
    intents = memory[at : at + (1 + MAX_INTENTS) * _INTENT_SIZE].view(INTENT)
    return words, strategy_rows, instruments, counts, points, own, orders, intents


@kernel(types.boolean(_WORDS, COUNTERS_TYPE, HIST_TYPE, _WORDS, _POINTS, _TICK, _i8))
def admit(words, counters, hist, counts, points, tick, now_ns):
    """Append a tick to its time series. False if there is none, or nothing has happened in the market."""
    i = tick.instrument
    if i < 0 or i >= words[_W_INSTRUMENTS]:
        counters[_TICKS_UNKNOWN] += 1
        return False
    if tick.flags & _CHANNEL:
        counters[_TICKS] += 1
        return False
    capacity = words[_W_CAPACITY]
    first = i * 2 * capacity + (counts[i] & (capacity - 1))
    for at in (first, first + capacity):
        point = points[at]
        point.exch_ns = tick.exch_ns
        point.bid_ticks = tick.bid_ticks
        point.ask_ticks = tick.ask_ticks
        point.bid_lots = tick.bid_lots
        point.ask_lots = tick.ask_lots
        point.last_ticks = tick.last_ticks
        point.last_lots = tick.last_lots
        point.flags = tick.flags
    counts[i] += 1
    counters[_TICKS] += 1
    record(hist[_DECODE_TO_STRATEGY], now_ns - tick.decoded_ns)
    if tick.flags & _NOT_TRADABLE:
        counters[_TICKS_NOT_TRADABLE] += 1
    return True


@spliced
def series_of(words, counts, points, i):
    """All points of an instrument that are still in its ring, oldest first, as a view."""
    capacity = words[_W_CAPACITY]
    end = i * 2 * capacity + ((counts[i] - 1) & (capacity - 1)) + capacity + 1
    return points[end - min(counts[i], capacity) : end]


@kernel(types.void(_OWN, _ORDERS, _i8))
def tally(mine, orders, first):
    """Recompute the sums over the open orders, slots `first`.. of `orders`."""
    mine.open_buy_lots = 0
    mine.open_sell_lots = 0
    mine.buy_ticks = NO_PRICE_TICKS
    mine.sell_ticks = NO_PRICE_TICKS
    mine.open_orders = 0
    mine.in_flight = 0
    mine.cancelling = 0
    for slot in range(first, first + MAX_OPEN_ORDERS):
        order = orders[slot]
        if order.cl_ord_id == 0:
            continue
        mine.open_orders += 1
        if order.state == _STATE_NONE:
            mine.in_flight += 1
        if order.cancel_seq != 0 or order.state == _PENDING_CANCEL:
            mine.cancelling += 1
        if order.side == _BUY:
            mine.open_buy_lots += order.leaves_lots
            mine.buy_ticks = max(mine.buy_ticks, order.price_ticks)
        else:
            mine.open_sell_lots += order.leaves_lots
            if mine.sell_ticks == NO_PRICE_TICKS or order.price_ticks < mine.sell_ticks:
                mine.sell_ticks = order.price_ticks


@kernel(types.void(_WORDS, COUNTERS_TYPE, _OWN, _ORDERS, _i8))
def forget_refused(words, counters, mine, orders, row_instrument):
    """Before the strategy runs, if orders of it are in flight: forget those that risk refused."""
    first = row_instrument * MAX_OPEN_ORDERS
    refused = 0
    for slot in range(first, first + MAX_OPEN_ORDERS):
        order = orders[slot]
        # Answered, and still no report of it: no order came of this signal.
        answered = order.signal_seq <= words[_W_ACKED_SEQ]
        if order.cl_ord_id != 0 and order.state == _STATE_NONE and answered:
            order.cl_ord_id = 0
            refused += 1
    if refused:
        counters[_ORDERS_REFUSED] += refused
        tally(mine, orders, first)


@kernel(types.boolean(_WORDS, _ORDERS, _i8, _i8))
def take_back(words, orders, first, side):
    """Mark the open orders of `side` (0: both) as being cancelled by the next signal. True if there are any."""
    found = False
    for slot in range(first, first + MAX_OPEN_ORDERS):
        order = orders[slot]
        if order.cl_ord_id == 0 or (side not in (0, order.side)) or order.state == _PENDING_CANCEL:
            continue
        # A cancel that was answered and has not made the order PENDING_CANCEL is asked for again.
        if order.cancel_seq == 0 or order.cancel_seq <= words[_W_ACKED_SEQ]:
            order.cancel_seq = words[_W_SIGNAL_SEQ] + 1
            found = True
    return found


@kernel(_i8(_WORDS, COUNTERS_TYPE, HIST_TYPE, _TICK, _OWN, _ORDERS, _i8, _INTENTS, SIGNALS_TYPE, _i8, _i8, _i8, _i8))
def settle(words, counters, hist, tick, mine, orders, row_instrument, intents, out, n_out, strategy, shard, now_ns):
    """If the strategy asked for something: turn its intents into signals, with all that is not its business.

    Returns the count of `out`. The caller has made sure that it has room for MAX_INTENTS more.
    """
    first = row_instrument * MAX_OPEN_ORDERS
    counters[_INTENTS_NO_ROOM] += intents[0].side
    k = 0
    for index in range(1, intents[0].qty_lots + 1):
        intent = intents[index]
        if intent.action == _CANCEL:
            if not take_back(words, orders, first, intent.side):
                continue
            counters[_SIGNALS_CANCEL] += 1
        else:
            if (
                intent.side not in (_BUY, _SELL)
                or intent.qty_lots < 1
                or intent.qty_lots > MAX_QTY_LOTS
                or abs(intent.price_ticks) > MAX_PRICE_TICKS
                or intent.tif not in (_DAY, _IOC)
            ):
                counters[_INTENTS_INVALID] += 1
                continue
            if words[_W_MUTED] or tick.flags & _NOT_TRADABLE:
                counters[_INTENTS_MUTED] += 1
                continue
            slot = first
            while slot < first + MAX_OPEN_ORDERS and orders[slot].cl_ord_id != 0:
                slot += 1
            if slot == first + MAX_OPEN_ORDERS:
                counters[_INTENTS_NO_ROOM] += 1
                continue
            order = orders[slot]
            order.cl_ord_id = strategy << 56 | shard << 48 | tick.cause_seq << 8 | k
            order.price_ticks = intent.price_ticks
            order.leaves_lots = intent.qty_lots
            order.signal_seq = words[_W_SIGNAL_SEQ] + 1
            order.cancel_seq = 0
            order.side = intent.side
            order.state = _STATE_NONE
            counters[_SIGNALS_NEW] += 1
        words[_W_SIGNAL_SEQ] += 1
        signal = out[n_out]
        signal.cause_seq = tick.cause_seq
        signal.exch_ns = tick.exch_ns
        signal.recv_ns = tick.recv_ns
        signal.decoded_ns = tick.decoded_ns
        signal.signalled_ns = now_ns
        signal.price_ticks = intent.price_ticks
        signal.qty_lots = intent.qty_lots
        signal.bid_ticks = tick.bid_ticks
        signal.ask_ticks = tick.ask_ticks
        signal.strength = intent.strength
        signal.instrument = tick.instrument
        signal.strategy = strategy
        signal.shard = shard
        signal.action = intent.action
        signal.side = intent.side
        signal.tif = intent.tif
        signal.k = k
        signal.pad = 0
        record(hist[_DECODE_TO_SIGNAL], now_ns - tick.decoded_ns)
        n_out += 1
        k += 1
    if k:
        tally(mine, orders, first)
    return n_out


@kernel(types.void(COUNTERS_TYPE, _OWN, _INTENTS))
def switch_off(counters, mine, intents):
    """The strategy raised: it does not run on this instrument again, and only its open orders are taken back."""
    counters[_FAULTS] += 1
    mine.enabled = -1
    intents[0].qty_lots = 1
    intents[0].side = 0
    intents[1].action = _CANCEL
    intents[1].side = 0
    intents[1].qty_lots = 0
    intents[1].price_ticks = 0
    intents[1].tif = _DAY
    intents[1].strength = 0.0


@kernel(types.int64(MEMORY_TYPE, COUNTERS_TYPE, REPORTS_TYPE))
def apply_reports(memory, counters, reports):
    """Bring positions and open orders up to date with REPORT[n]; returns how many were new.

    A report is applied once, by its `seq`, and an order that nobody here remembers is taken from its report: all
    reports of the day, from the first on, rebuild what the strategies own.
    """
    words, rows, _, _, _, own, orders, _ = open_tables(memory)
    applied = 0
    for r in range(len(reports)):
        report = reports[r]
        if report.seq <= words[_W_REPORT_SEQ]:
            counters[_REPORTS_DUPLICATE] += 1
            continue
        words[_W_REPORT_SEQ] = report.seq
        counters[_REPORTS] += 1
        applied += 1
        row = rows[report.strategy] if report.strategy < N_STRATEGY_IDS else -1
        if row < 0 or report.instrument < 0 or report.instrument >= words[_W_INSTRUMENTS]:
            counters[_REPORTS_FOREIGN] += 1
            continue
        row_instrument = row * words[_W_INSTRUMENTS] + report.instrument
        mine = own[row_instrument]
        if report.event == _FILL:
            counters[_FILLS] += 1
            mine.position_lots += report.last_lots if report.side == _BUY else -report.last_lots
        first = row_instrument * MAX_OPEN_ORDERS
        free = -1
        slot = -1
        for at in range(first, first + MAX_OPEN_ORDERS):
            if orders[at].cl_ord_id == report.cl_ord_id:
                slot = at
                break
            if orders[at].cl_ord_id == 0 and free < 0:
                free = at
        if report.state >= FIRST_TERMINAL_STATE:
            if slot >= 0:
                orders[slot].cl_ord_id = 0
        else:
            if slot < 0 and free >= 0:
                slot = free
                orders[slot].cl_ord_id = report.cl_ord_id
                orders[slot].signal_seq = 0
                orders[slot].cancel_seq = 0
                orders[slot].side = report.side
            if slot < 0:
                counters[_ORDERS_UNTRACKED] += 1
            else:
                orders[slot].price_ticks = report.price_ticks
                orders[slot].leaves_lots = report.leaves_lots
                orders[slot].state = report.state
                if report.event == _CANCEL_REJECT:
                    orders[slot].cancel_seq = 0
        tally(mine, orders, first)
    return applied
