"""risk's loop over rings: marks, reports and signals from their rings, approved orders into theirs."""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

import numba
from numba import int64

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.atomics import load_relaxed, store_release
from tickpath.common.kernels.digest import add_to_digest, words_mask
from tickpath.common.kernels.memory import pairs_at, reports_at, rows_at, signals_at, ticks_at, words_at
from tickpath.common.kernels.ring import ack, copy_out, publish, published, readable, record_at, slowest
from tickpath.common.kernels.waiting import Wait, monotonic_ns, pause
from tickpath.common.pages import Control, Hot
from tickpath.common.records import ORDER
from tickpath.risk.kernels.risk import apply_reports, apply_ticks, evaluate
from tickpath.risk.layout import Counter
from tickpath.risk.state import Core


class Reg(IntEnum):
    """The words of the loop, int64[len(Reg) + 1]. Work that waits is a range [AT, END)."""

    # rings: address (0: not there), our slot, next number
    TICKS_RING = auto()
    TICKS_SLOT = auto()
    TICKS_NEXT = auto()
    SIGNALS_RING = auto()
    SIGNALS_SLOT = auto()
    SIGNALS_NEXT = auto()
    REPORTS_RING = auto()
    REPORTS_SLOT = auto()
    REPORTS_NEXT = auto()
    ORDERS_RING = auto()
    BELLS = auto()
    WAITER = auto()
    TICKS = auto()  # address of TICK[TICK_ROOM]: copies, for the ring may run away under us
    TICK_ROOM = auto()
    ORDERS = auto()  # address of what the kernels of risk write
    ORDER_AT = auto()  # approved, and not in the ring yet: until they are, nothing else is decided
    ORDER_END = auto()
    # signals that are decided and not acknowledged
    DECIDED = auto()  # address of int64[DECIDED_MASK + 1, 2]: last signal, last order that came of those up to it
    DECIDED_MASK = auto()
    DECIDED_AT = auto()
    DECIDED_END = auto()
    CAUGHT_UP = auto()  # 1: the journal was replayed, so it is known which signals were decided in an earlier life
    DRAINING = auto()  # 1: refuse new orders
    CORE = auto()
    CONTROL = auto()
    COUNTERS = auto()
    HOT = auto()
    TICKED_NS = auto()  # when ticks last came


class Why(IntEnum):
    """Why the loop returned."""

    IDLE = 0  # nothing came in the time that it was given
    TIME = 1
    LIMITS = 2  # the limits have changed: they must be copied before the next decision


_ORDER_BYTES: Final = ORDER.itemsize
_ORDER_MASK: Final = words_mask(ORDER)
_N_COUNTERS: Final = len(Counter)
_BATCH: Final = 256  # signals that one call decides: their orders leave together
_MARKS_NS: Final = 1_000_000  # while ticks come, marks are this old at most
_QUIET_NS: Final = 10_000_000  # no tick for so long: none come


@inlined
def _answers(w):
    """Acknowledge the signals whose orders exec has, or that were refused behind them."""
    at, end = w[Reg.DECIDED_AT], w[Reg.DECIDED_END]
    if at == end:
        return
    decided = pairs_at(w[Reg.DECIDED], w[Reg.DECIDED_MASK] + 1)
    acked = slowest(w[Reg.ORDERS_RING])
    signal = int64(-1)
    while at < end and decided[at & w[Reg.DECIDED_MASK], 1] <= acked:
        signal = decided[at & w[Reg.DECIDED_MASK], 0]
        at += 1
    if signal >= 0:
        w[Reg.DECIDED_AT] = at
        ack(w[Reg.SIGNALS_RING], w[Reg.BELLS], w[Reg.SIGNALS_SLOT], signal)


@inlined
def _remember(w, signal):
    """All signals up to this one are decided: acknowledge them when exec has all orders so far."""
    order = published(w[Reg.ORDERS_RING]) + w[Reg.ORDER_END] - w[Reg.ORDER_AT]
    mask, end = w[Reg.DECIDED_MASK], w[Reg.DECIDED_END]
    decided = pairs_at(w[Reg.DECIDED], mask + 1)
    if w[Reg.DECIDED_AT] < end and decided[(end - 1) & mask, 1] == order:
        decided[(end - 1) & mask, 0] = signal
    else:
        # Each entry has another order that is not acknowledged, and the table has more places than the ring.
        decided[end & mask, 0] = signal
        decided[end & mask, 1] = order
        w[Reg.DECIDED_END] = end + 1


@inlined
def _send(w):
    """Put approved orders into the ring, as many as it takes. True when all are in."""
    waiting = w[Reg.ORDER_END] - w[Reg.ORDER_AT]
    w[Reg.ORDER_AT] += publish(
        w[Reg.ORDERS_RING], w[Reg.BELLS], w[Reg.ORDERS] + w[Reg.ORDER_AT] * _ORDER_BYTES, waiting
    )
    return w[Reg.ORDER_AT] == w[Reg.ORDER_END]


@inlined
def _marks(w, ctx):
    """All ticks that are there become marks; how many."""
    taken = int64(0)
    if not w[Reg.TICKS_RING]:
        return taken
    while True:
        n, missed = copy_out(w[Reg.TICKS_RING], w[Reg.TICKS_NEXT], w[Reg.TICKS], w[Reg.TICK_ROOM])
        if n + missed == 0:
            break
        if missed:
            counters = words_at(w[Reg.COUNTERS], _N_COUNTERS)
            counters[Counter.TICKS_LOST] += missed
            counters[Counter.TICK_GAPS] += 1
        store_release(w[Reg.HOT], Hot.BUSY, 1)
        apply_ticks(ctx, ticks_at(w[Reg.TICKS], n))
        w[Reg.TICKS_NEXT] += missed + n
        taken += n
        if n < w[Reg.TICK_ROOM]:
            break
    if taken:
        ack(w[Reg.TICKS_RING], w[Reg.BELLS], w[Reg.TICKS_SLOT], w[Reg.TICKS_NEXT] - 1)
    return taken


@inlined
def _reports(w, ctx, now_ns):
    """Follow exec's journal; the number of reports."""
    taken = int64(0)
    if not w[Reg.REPORTS_RING]:
        return taken
    n = readable(w[Reg.REPORTS_RING], w[Reg.REPORTS_NEXT])
    while n > 0:
        store_release(w[Reg.HOT], Hot.BUSY, 1)
        apply_reports(ctx, reports_at(record_at(w[Reg.REPORTS_RING], w[Reg.REPORTS_NEXT]), n), now_ns)
        w[Reg.REPORTS_NEXT] += n
        taken += n
        ack(w[Reg.REPORTS_RING], w[Reg.BELLS], w[Reg.REPORTS_SLOT], w[Reg.REPORTS_NEXT] - 1)
        n = readable(w[Reg.REPORTS_RING], w[Reg.REPORTS_NEXT])
    return taken


@inlined
def _decide(w, ctx, n, now_ns):
    """Decide the next `n` signals where they are; their orders leave at once. False: the limits must be copied."""
    core, control = words_at(w[Reg.CORE], Core.REFUSE_NEW + 1), words_at(w[Reg.CONTROL], Control.PAUSED + 1)
    core[Core.REFUSE_NEW] = 1 if w[Reg.DRAINING] or control[Control.PAUSED] else 0
    done, made = evaluate(ctx, signals_at(record_at(w[Reg.SIGNALS_RING], w[Reg.SIGNALS_NEXT]), n), now_ns)
    if made:
        w[Reg.ORDER_AT] = 0
        w[Reg.ORDER_END] = made
        counters = words_at(w[Reg.COUNTERS], _N_COUNTERS)
        if not _send(w):
            counters[Counter.BACK_PRESSURE] += 1
        hot = words_at(w[Reg.HOT], Hot.DIGESTED + 1)
        add_to_digest(hot, rows_at(w[Reg.ORDERS], made, _ORDER_BYTES // 8), made, _ORDER_MASK)
    if done:
        w[Reg.SIGNALS_NEXT] += done
        words_at(w[Reg.COUNTERS], _N_COUNTERS)[Counter.SIGNALS] += done
        _remember(w, w[Reg.SIGNALS_NEXT] - 1)
        _answers(w)
    return done > 0


@kernel(int64(numba.int64[::1], numba.int64[::1], int64))
def loop(w, ctx, until_ns):
    """Work until `until_ns`, or until a sleep has ended and nothing had come; returns a `Why`.

    `w`: int64[len(Reg) + 1], `ctx`: `RiskState.context`. The ring of signals is looked at first and decided last: all
    ticks that a strategy has seen, and all reports, are then here too. A signal is acknowledged when it was refused,
    or when exec has acknowledged its order.
    """
    worked = int64(Why.IDLE)
    slept = False
    while True:
        _answers(w)
        n = int64(0)
        if w[Reg.ORDER_AT] < w[Reg.ORDER_END]:
            at = w[Reg.ORDER_AT]
            _send(w)
            n += w[Reg.ORDER_AT] - at
        signals = int64(0)
        if w[Reg.SIGNALS_RING] and w[Reg.CAUGHT_UP] and w[Reg.ORDER_AT] == w[Reg.ORDER_END]:
            signals = min(readable(w[Reg.SIGNALS_RING], w[Reg.SIGNALS_NEXT]), _BATCH)
        ticks = _marks(w, ctx)
        now_ns = monotonic_ns()
        n += ticks + signals + _reports(w, ctx, now_ns)
        if signals:
            store_release(w[Reg.HOT], Hot.BUSY, 1)
            if not _decide(w, ctx, signals, now_ns):
                return int64(Why.LIMITS)
        if n:
            worked = int64(Why.TIME)
        else:
            store_release(w[Reg.HOT], Hot.BUSY, 0)
        if now_ns >= until_ns or (slept and n == 0):
            return worked
        # No bell rings for marks. While ticks come they are fetched now and then, so that they are never old.
        if ticks:
            w[Reg.TICKED_NS] = now_ns
        limit_ns = _MARKS_NS if now_ns - w[Reg.TICKED_NS] < _QUIET_NS else until_ns - now_ns
        sleeps = load_relaxed(w[Reg.WAITER], Wait.SLEEPS)
        pause(w[Reg.WAITER], n, min(limit_ns, until_ns - now_ns))
        slept = load_relaxed(w[Reg.WAITER], Wait.SLEEPS) != sleeps
