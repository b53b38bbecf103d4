"""The four stages as one compiled step: ticks → strategies → risk → journal and encoder → reports.

Each step does the work that waits furthest down the chain, so an order leaves before the next tick is looked at. All
that waits is a range in the words (`Reg`); so a loop can return to Python at any point and go on there later.
The kernels are those of the services; there is no second implementation of anything.
"""

from __future__ import annotations

from typing import Final

import numba
from numba import int64

from tickpath.cli.fused.layout import Reg, Why
from tickpath.common.histogram import HIST_SIZE
from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.digest import add_to_digest, words_mask
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.memory import (
    bytes_at,
    call,
    orders_at,
    reports_at,
    rows_at,
    signals_at,
    ticks_at,
    words_at,
)
from tickpath.common.kernels.net import MESSAGES
from tickpath.common.kernels.taps import tap
from tickpath.common.kernels.waiting import cpu_pause, monotonic_ns, sched_yield, wait_fds
from tickpath.common.pages import Control, Hot
from tickpath.common.records import ORDER, REPORT, SIGNAL, TICK
from tickpath.exec.kernels import session
from tickpath.exec.kernels.ouch import accept
from tickpath.exec.layout import Reg as ExecReg
from tickpath.feed.kernels.decode import STATE, decode_packets
from tickpath.feed.kernels.receive import N_WORDS, LineReg, is_behind, receive_next
from tickpath.feed.layout import Channel, Count
from tickpath.risk.kernels.risk import apply_reports as risk_reports
from tickpath.risk.kernels.risk import apply_ticks, evaluate
from tickpath.risk.layout import Counter as RiskCounter
from tickpath.risk.state import Core
from tickpath.signals.kernels.core import apply_reports as signals_reports
from tickpath.signals.layout import Counter as SignalsCounter
from tickpath.signals.layout import Word

WORDS: Final = numba.int64[::1]  # a block of words: of `Reg`, of risk, of exec
_SIGNAL_MASK: Final = words_mask(SIGNAL)
_ORDER_MASK: Final = words_mask(ORDER)
_TICK_BYTES: Final = TICK.itemsize
_SIGNAL_BYTES: Final = SIGNAL.itemsize
_ORDER_BYTES: Final = ORDER.itemsize
_REPORT_BYTES: Final = REPORT.itemsize
_LOW32: Final = 0xFFFFFFFF
_N_SIGNALS_COUNTERS: Final = len(SignalsCounter)


@inlined
def _digest(hot, address, n, record_bytes, mask):
    add_to_digest(words_at(hot, Hot.DIGESTED + 1), rows_at(address, n, record_bytes // 8), n, mask)


@inlined
def _send_orders(w, exec_ctx, now_ns):
    """Journal and encode what risk approved; the bytes are in the send buffer then."""
    at = w[Reg.ORDER_AT]
    n = w[Reg.ORDER_END] - at
    done = accept(exec_ctx, orders_at(w[Reg.ORDERS] + at * _ORDER_BYTES, n), now_ns)
    w[Reg.ORDER_AT] = at + done
    return done == n


@inlined
def _acknowledge(w):
    """Every signal so far is an order whose reports are known, or was refused."""
    words = words_at(w[Reg.MEMORY], Word.TABLES)
    words[Word.ACKED_SEQ] = words[Word.SIGNAL_SEQ]


@inlined
def _decide(w, risk_ctx, now_ns):
    """Risk decides the signals that wait. False when its limits have to be copied first."""
    at = w[Reg.SIGNAL_AT]
    n = w[Reg.SIGNAL_END] - at
    core = words_at(w[Reg.RISK_CORE], Core.REFUSE_NEW + 1)
    control = words_at(w[Reg.RISK_CONTROL], Control.PAUSED + 1)
    core[Core.REFUSE_NEW] = 1 if w[Reg.RISK_DRAINING] or control[Control.PAUSED] else 0
    done, made = evaluate(risk_ctx, signals_at(w[Reg.SIGNALS] + at * _SIGNAL_BYTES, n), now_ns)
    w[Reg.SIGNAL_AT] = at + done
    words_at(w[Reg.RISK_COUNTERS], RiskCounter.SIGNALS + 1)[RiskCounter.SIGNALS] += done
    if made:
        _digest(w[Reg.RISK_HOT], w[Reg.ORDERS], made, _ORDER_BYTES, _ORDER_MASK)
        w[Reg.ORDER_AT] = 0
        w[Reg.ORDER_END] = made
        tap(w[Reg.TAP_ORDERS], w[Reg.ORDERS], made)
    return done > 0 or made > 0


@inlined
def _run(w, now_ns):
    """The strategies see the ticks that wait."""
    at = w[Reg.TICK_AT]
    packed = call(
        w[Reg.RUN],
        (
            w[Reg.MEMORY], w[Reg.MEMORY_BYTES], w[Reg.SIGNALS_COUNTERS], w[Reg.SIGNALS_HIST],
            w[Reg.TICKS] + at * _TICK_BYTES, w[Reg.TICK_END] - at, w[Reg.SIGNALS], w[Reg.SIGNAL_ROOM], now_ns,
        ),
    )  # fmt: skip
    w[Reg.TICK_AT] = at + (packed >> 32)
    n = packed & _LOW32
    if n:
        _digest(w[Reg.SIGNALS_HOT], w[Reg.SIGNALS], n, _SIGNAL_BYTES, _SIGNAL_MASK)
        w[Reg.SIGNAL_AT] = 0
        w[Reg.SIGNAL_END] = n
        tap(w[Reg.TAP_SIGNALS], w[Reg.SIGNALS], n)


@inlined
def _report(w, risk_ctx, exec_ctx, now_ns):
    """Risk and the strategies follow the journal. False when that begins in an older segment."""
    first = w[Reg.REPORT_NEXT]
    begin = exec_ctx[ExecReg.SEGMENT_FIRST]
    if first < begin:
        return False
    n = exec_ctx[ExecReg.NEXT_SEQ] - first
    address = exec_ctx[ExecReg.SEGMENT] + (first - begin) * _REPORT_BYTES
    risk_reports(risk_ctx, reports_at(address, n), now_ns)
    signals_reports(
        bytes_at(w[Reg.MEMORY], w[Reg.MEMORY_BYTES]),
        words_at(w[Reg.SIGNALS_COUNTERS], _N_SIGNALS_COUNTERS),
        reports_at(address, n),
    )
    w[Reg.REPORT_NEXT] = first + n
    return True


@kernel(int64(WORDS, WORDS, WORDS, int64))
def advance(w, risk_ctx, exec_ctx, fixed_ns):
    """Do all that waits behind the decoder, down to the bytes in the send buffer; returns a `Why`, IDLE when through.

    `fixed_ns`: the time of everything that happens here; 0: the clock's, read for each stage.
    """
    while True:
        now_ns = fixed_ns if fixed_ns else monotonic_ns()
        if w[Reg.ORDER_AT] < w[Reg.ORDER_END]:
            if not _send_orders(w, exec_ctx, now_ns):
                return int64(Why.JOURNAL)
            if fixed_ns == 0 and exec_ctx[ExecReg.SEND_TAIL] > exec_ctx[ExecReg.SENT]:
                if w[Reg.HOLD_SENDING] or w[Reg.VENUE_FD] < 0:
                    return int64(Why.SEND)
                if session.flush(exec_ctx, w[Reg.VENUE_FD], now_ns) == session.Leave.FLUSH:
                    return int64(Why.FLUSH)
        elif w[Reg.SIGNAL_AT] < w[Reg.SIGNAL_END]:
            if not _decide(w, risk_ctx, now_ns):
                return int64(Why.LIMITS)
        elif w[Reg.TICK_AT] < w[Reg.TICK_END]:
            if w[Reg.REPORT_NEXT] == exec_ctx[ExecReg.NEXT_SEQ]:  # else an order would look refused
                _acknowledge(w)
            _run(w, now_ns)
        elif w[Reg.REPORT_NEXT] < exec_ctx[ExecReg.NEXT_SEQ]:
            if not _report(w, risk_ctx, exec_ctx, now_ns):
                return int64(Why.REPORTS)
        else:
            _acknowledge(w)
            return int64(Why.IDLE)


@inlined
def _take_datagram(w, risk_ctx, feed, buffer, lengths, i, line, recv_ns):
    """Decode one datagram; see `take_ticks`."""
    ticks = ticks_at(w[Reg.TICKS], w[Reg.TICK_ROOM])
    n = decode_packets(feed, buffer, lengths, i, i + 1, recv_ns, line, ticks)
    if n == 0:
        return
    if words_at(w[Reg.FEED_CONTROL], Control.PAUSED + 1)[Control.PAUSED]:
        words_at(w[Reg.FEED_COUNTERS], Count.TICKS_HELD_BY_PAUSE + 1)[Count.TICKS_HELD_BY_PAUSE] += n
        return
    take_ticks(w, risk_ctx, n, recv_ns, monotonic_ns())


@inlined
def take_ticks(w, risk_ctx, n, recv_ns, decoded_ns):
    """The `n` ticks of a datagram wait for the strategies; the marks of risk follow at once."""
    ticks = ticks_at(w[Reg.TICKS], n)
    for k in range(n):
        ticks[k].decoded_ns = decoded_ns
    record(words_at(w[Reg.FEED_HIST], HIST_SIZE), decoded_ns - recv_ns)
    apply_ticks(risk_ctx, ticks)
    w[Reg.TICK_AT] = 0
    w[Reg.TICK_END] = n


@inlined
def _busy(w, flag):
    """Tell in every page whether input is being worked on: an exchange in lockstep waits for that."""
    words_at(w[Reg.FEED_HOT], Hot.BUSY + 1)[Hot.BUSY] = flag
    words_at(w[Reg.SIGNALS_HOT], Hot.BUSY + 1)[Hot.BUSY] = flag
    words_at(w[Reg.RISK_HOT], Hot.BUSY + 1)[Hot.BUSY] = flag
    words_at(w[Reg.EXEC_HOT], Hot.BUSY + 1)[Hot.BUSY] = flag


@inlined
def _venue(w, exec_ctx, now_ns):
    """What the venue has said; a `Why`, IDLE when that is dealt with or nothing."""
    got = session.receive(exec_ctx, w[Reg.VENUE_FD], now_ns)
    if got == session.Leave.SESSION:
        return int64(Why.SESSION)
    if got == session.Leave.QUERY:
        return int64(Why.QUERY)
    return int64(Why.IDLE)


@kernel(int64(WORDS, WORDS, WORDS, STATE, numba.uint8[:, ::1], MESSAGES, numba.int64[::1], int64))
def live(w, risk_ctx, exec_ctx, feed, buffer, messages, lengths, until_ns):
    """From the market data socket to the venue's socket, until something needs Python; returns a `Why`.

    `buffer`, `messages`, `lengths`: of `tickpath.feed.lines.Lines`. TIME at `until_ns`; IDLE earlier, when a sleep
    up to then was not disturbed, or by a signal.
    """
    lines = words_at(w[Reg.LINES], N_WORDS)
    while True:
        why = advance(w, risk_ctx, exec_ctx, 0)
        if why != Why.IDLE:
            return why
        if w[Reg.TICK_END]:  # the chain is through with them
            tap(w[Reg.TAP_TICKS], w[Reg.TICKS], w[Reg.TICK_END])
            w[Reg.TICK_AT] = 0
            w[Reg.TICK_END] = 0
        if lines[LineReg.AT] < lines[LineReg.END]:
            i = lines[LineReg.AT]
            lines[LineReg.AT] = i + 1
            _take_datagram(w, risk_ctx, feed, buffer, lengths, i, lines[LineReg.LINE], lines[LineReg.RECV_NS])
            continue
        behind = is_behind(feed.channel)
        until = min(until_ns, feed.channel[Channel.ACTION_NS]) if behind else until_ns
        _busy(w, 1)
        n = receive_next(lines, behind, buffer, messages, lengths)
        if n < 0:
            continue
        now_ns = monotonic_ns()
        if n > 0:
            lines[LineReg.RECV_NS] = now_ns
            w[Reg.BATCHES] += 1
        # Under load the venue is listened to between batches now and then; else whenever there is nothing to do.
        before = exec_ctx[ExecReg.HEARD_NS]
        if w[Reg.VENUE_FD] >= 0 and (n <= 0 or w[Reg.BATCHES] & 7 == 0):
            why = _venue(w, exec_ctx, now_ns)
            if why != Why.IDLE:
                return why
        if now_ns >= until:
            return int64(Why.TIME) if now_ns >= until_ns else int64(Why.MARKET)
        if n > 0:
            w[Reg.WORKED_NS] = now_ns
        if n > 0 or exec_ctx[ExecReg.HEARD_NS] != before:
            continue
        _busy(w, 0)
        if w[Reg.SPIN_NS] < 0 or now_ns - w[Reg.WORKED_NS] < w[Reg.SPIN_NS]:
            if w[Reg.YIELD]:
                sched_yield()
            else:
                cpu_pause()
        elif wait_fds(lines[LineReg.WAIT_FD], w[Reg.VENUE_FD], until - now_ns) == 0:
            return int64(Why.IDLE)
