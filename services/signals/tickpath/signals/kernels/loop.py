"""signals' loop over rings: ticks and reports from their rings, the strategies, signals into theirs."""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

import numba
from numba import int64

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.atomics import fence_seq_cst, load_relaxed, store_relaxed, store_release
from tickpath.common.kernels.digest import add_to_digest, words_mask
from tickpath.common.kernels.memory import bytes_at, call, reports_at, rows_at, words_at
from tickpath.common.kernels.ring import Head, ack, copy_out, log_end, publish, readable, record_at, room, slowest
from tickpath.common.kernels.waiting import Wait, monotonic_ns, pause
from tickpath.common.pages import Control, Hot
from tickpath.common.records import SIGNAL, TICK
from tickpath.signals.kernels.core import apply_reports
from tickpath.signals.layout import Counter, Word


class Reg(IntEnum):
    """The words of the loop, int64[len(Reg) + 1]. Work that waits is a range [AT, END)."""

    # rings: address (0: not there), our slot, next number
    TICKS_RING = auto()
    TICKS_SLOT = auto()
    TICKS_NEXT = auto()
    REPORTS_RING = auto()
    REPORTS_SLOT = auto()
    REPORTS_NEXT = auto()
    SIGNALS_RING = auto()
    SIGNALS_BEFORE = auto()  # number of the last signal of an earlier life
    BELLS = auto()
    WAITER = auto()
    # the strategies
    TICKS = auto()  # address of TICK[TICK_ROOM]: copies, for the ring may run away under us
    TICK_ROOM = auto()
    TICK_AT = auto()
    TICK_END = auto()
    RUN = auto()  # `run_at` of the compiled strategies
    MEMORY = auto()
    MEMORY_BYTES = auto()
    COUNTERS = auto()
    HIST = auto()
    SIGNALS = auto()  # address of SIGNAL[SIGNAL_ROOM]
    SIGNAL_ROOM = auto()
    ENGINE_ROOM = auto()  # signals that one tick may make
    HOT = auto()
    CONTROL = auto()
    MUTED = auto()  # 1: no new orders, whether paused or not
    PRESSED = auto()  # 1: waiting for room, and counted


_TICK_BYTES: Final = TICK.itemsize
_SIGNAL_BYTES: Final = SIGNAL.itemsize
_SIGNAL_MASK: Final = words_mask(SIGNAL)
_LOW32: Final = 0xFFFFFFFF
_N_COUNTERS: Final = len(Counter)


@inlined
def _reports(w):
    """Follow exec's journal, and then risk's answers. The number of reports.

    A signal may only count as answered when the report of its order is applied, or the order would look refused.
    exec says how long the journal is before it acknowledges an order, so we look at the two in the other order.
    """
    reports, words = w[Reg.REPORTS_RING], words_at(w[Reg.MEMORY], Word.TABLES)
    answered = slowest(w[Reg.SIGNALS_RING]) - w[Reg.SIGNALS_BEFORE]
    taken = int64(0)
    if reports:
        end = log_end(reports)
        n = readable(reports, w[Reg.REPORTS_NEXT])
        while n > 0:
            store_release(w[Reg.HOT], Hot.BUSY, 1)
            apply_reports(
                bytes_at(w[Reg.MEMORY], w[Reg.MEMORY_BYTES]),
                words_at(w[Reg.COUNTERS], _N_COUNTERS),
                reports_at(record_at(reports, w[Reg.REPORTS_NEXT]), n),
            )
            w[Reg.REPORTS_NEXT] += n
            taken += n
            ack(reports, w[Reg.BELLS], w[Reg.REPORTS_SLOT], w[Reg.REPORTS_NEXT] - 1)
            n = readable(reports, w[Reg.REPORTS_NEXT])
        if w[Reg.REPORTS_NEXT] < end:
            return taken
    words[Word.ACKED_SEQ] = max(words[Word.ACKED_SEQ], answered)
    return taken


@inlined
def _ticks(w):
    """Copy the ticks that are there; what was overwritten before is counted."""
    n, missed = copy_out(w[Reg.TICKS_RING], w[Reg.TICKS_NEXT], w[Reg.TICKS], w[Reg.TICK_ROOM])
    if missed:
        counters = words_at(w[Reg.COUNTERS], _N_COUNTERS)
        counters[Counter.TICKS_LOST] += missed
        counters[Counter.TICK_GAPS] += 1
    if n + missed > 0:
        w[Reg.TICKS_NEXT] += missed + n
        ack(w[Reg.TICKS_RING], w[Reg.BELLS], w[Reg.TICKS_SLOT], w[Reg.TICKS_NEXT] - 1)
    w[Reg.TICK_AT] = 0
    w[Reg.TICK_END] = n


@inlined
def _room(w):
    """Room for signals; when it is too little for what one tick may make, risk's next answer wakes us."""
    ring = w[Reg.SIGNALS_RING]
    there = room(ring)
    if there < w[Reg.ENGINE_ROOM]:
        store_relaxed(ring, Head.WANTS_ROOM, 1)
        fence_seq_cst()  # the wish is there before the second look; see `wait_for_room`
        there = room(ring)
        if there < w[Reg.ENGINE_ROOM] and not w[Reg.PRESSED]:
            words_at(w[Reg.COUNTERS], _N_COUNTERS)[Counter.BACK_PRESSURE] += 1
    w[Reg.PRESSED] = there < w[Reg.ENGINE_ROOM]
    return min(there, w[Reg.SIGNAL_ROOM])


@inlined
def _strategies(w, n_room, now_ns):
    """Run the strategies over the ticks that wait, as far as there is room for signals; publish those."""
    at = w[Reg.TICK_AT]
    paused = words_at(w[Reg.CONTROL], Control.PAUSED + 1)[Control.PAUSED]
    words_at(w[Reg.MEMORY], Word.TABLES)[Word.MUTED] = 1 if paused or w[Reg.MUTED] else 0
    packed = call(
        w[Reg.RUN],
        (
            w[Reg.MEMORY], w[Reg.MEMORY_BYTES], w[Reg.COUNTERS], w[Reg.HIST], w[Reg.TICKS] + at * _TICK_BYTES,
            w[Reg.TICK_END] - at, w[Reg.SIGNALS], n_room, now_ns,
        ),
    )  # fmt: skip
    w[Reg.TICK_AT] = at + (packed >> 32)
    n = packed & _LOW32
    if n:
        publish(w[Reg.SIGNALS_RING], w[Reg.BELLS], w[Reg.SIGNALS], n)
        hot = words_at(w[Reg.HOT], Hot.DIGESTED + 1)
        add_to_digest(hot, rows_at(w[Reg.SIGNALS], n, _SIGNAL_BYTES // 8), n, _SIGNAL_MASK)


@kernel(int64(numba.int64[::1], int64))
def loop(w, until_ns):
    """Work until `until_ns`, or until a sleep has ended and nothing had come; 1: there was work.

    `w`: int64[len(Reg) + 1]. Reports are applied between batches of ticks and never within one, so that all ticks of
    a datagram are decided on the same knowledge, as in every lane.
    """
    worked = int64(0)
    slept = False
    while True:
        n = _reports(w)
        if w[Reg.TICK_AT] >= w[Reg.TICK_END] and w[Reg.TICKS_RING]:
            _ticks(w)
        now_ns = monotonic_ns()
        while w[Reg.TICK_AT] < w[Reg.TICK_END]:
            n_room = _room(w)
            if w[Reg.PRESSED]:
                break
            store_release(w[Reg.HOT], Hot.BUSY, 1)
            _strategies(w, n_room, now_ns)
            now_ns = monotonic_ns()
            n += 1
        if n:
            worked = int64(1)
        else:
            store_release(w[Reg.HOT], Hot.BUSY, 0)
        if now_ns >= until_ns or (slept and n == 0):
            return worked
        sleeps = load_relaxed(w[Reg.WAITER], Wait.SLEEPS)
        pause(w[Reg.WAITER], n, until_ns - now_ns)
        slept = load_relaxed(w[Reg.WAITER], Wait.SLEEPS) != sleeps
