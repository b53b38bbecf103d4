"""risk's hot process: marks, reports and signals in, approved orders out.

A signal is acknowledged when it was refused, or when exec acknowledged its order, which it does once the order is in
the journal. So whatever dies, an undecided signal comes again, and a decided one is recognised by its id.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.jit import direct
from tickpath.common.links import FRAMES_BEHIND, FanoutReceiver, LogReceiver, LogSender, Records, RingLog
from tickpath.common.pages import Command, Control, Page
from tickpath.common.records import ORDER, RecordKind
from tickpath.common.stage import Ready, Stage, run_hot
from tickpath.common.taps import Tap
from tickpath.risk.core import DRAIN_NS, RiskCore, RiskPage
from tickpath.risk.kernels.risk import apply_reports, apply_ticks, evaluate
from tickpath.risk.layout import Counter
from tickpath.risk.state import Core

# `RiskCore.warm_up` has the types checked once.
_apply_ticks, _apply_reports, _evaluate = direct(apply_ticks), direct(apply_reports), direct(evaluate)


class Risk(RiskPage, Stage):
    """One kernel call per batch of signals; what it approves goes into the log that is shipped to exec."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        links = config.links
        self.core = RiskCore(config, page, side)
        self.control, self.state, self.out = self.core.control, self.core.state, self.core.out
        self.log = RingLog(ORDER, links.log_ring)
        self.ticks = FanoutReceiver(context, config.link_addresses("ticks"), RecordKind.TICK, self.name, links)
        self.signals = LogReceiver(context, config.link_addresses("signals"), RecordKind.SIGNAL, self.name, links)
        self.reports = LogReceiver(context, config.link_addresses("reports"), RecordKind.REPORT, self.name, links)
        self.orders = LogSender(
            context, config.link_addresses("orders"), RecordKind.ORDER, self.name, self.epoch, self.log, links,
            required=("exec",),
        )  # fmt: skip
        self.tap, self._out_at = Tap(config, "orders", self.epoch), self.out.ctypes.data
        self.waiting: deque[tuple[int, Records]] = deque()  # signals that are not decided yet
        self.left = self.out[:0]  # approved orders that the log has no room for yet
        self.decided: deque[tuple[int, int]] = deque()  # (last signal of a batch, last order that it made)
        self.signal_epoch = self.report_epoch = 0
        self.rebuilding = False
        self.drain_until_ns = 0

    def inputs(self) -> Sequence[Any]:
        """Marks, signals, reports, and the answers of exec."""
        return (*self.ticks.sockets, self.signals.socket, self.reports.socket, self.orders.socket)

    def warm_up(self) -> None:
        """See `RiskCore.warm_up`."""
        self.core.warm_up()

    # -- what comes in -------------------------------------------------------------------------------------------

    def turn(self, now: int, ready: Ready) -> bool:
        """Answers, reports and marks before signals: they inform the decisions and delay them by little."""
        if self.orders.socket in ready:
            self._take_answers(now)
        if self.reports.socket in ready:
            self._take_reports(now)
        if self.ticks.sub in ready or self.ticks.want in ready:
            self._take_marks(self.ticks.receive(now, ready, most=FRAMES_BEHIND if self.behind else 1))
        # While signals wait here, more of them wait in the link.
        if not self.waiting and self.signals.socket in ready:
            self._take_signals(now)
        return self._decide()

    def _take_marks(self, batches: list[Records]) -> None:
        for ticks in batches:
            _apply_ticks(self.state.context, ticks)

    def _take_reports(self, now: int) -> None:
        batches = self.reports.receive(now)
        if self.reports.epoch != self.report_epoch:
            if self.report_epoch:
                # Another journal: what was known is of another day, and all of this one comes from its first entry.
                del batches[: _start_of_last_epoch(batches)]
                self.state.forget()
                self.rebuilding = True
            self.report_epoch = self.reports.epoch
        for _, records in batches:
            _apply_reports(self.state.context, records, now)
        if batches:
            self.reports.ack(self.reports.expected_seq - 1)
        self._know(now)

    def _know(self, now: int) -> None:
        """Positions are known when exec is there and its journal was replayed, all that we sent included."""
        known = self.reports.caught_up and self.reports.connected(now)
        if self.rebuilding and known and self.orders.acked_seq >= self.log.next_seq - 1:
            self.rebuilding = False
        self.state.core[Core.READY] = known and not self.rebuilding

    def _take_signals(self, now: int) -> None:
        batches = self.signals.receive(now)
        if self.signals.epoch != self.signal_epoch:
            # Another life of signals: it numbers anew, and what the last one sent need not be acknowledged any more.
            self.signal_epoch = self.signals.epoch
            del batches[: _start_of_last_epoch(batches)]
            self.decided.clear()
        self.waiting.extend(batches)

    def _take_limits(self) -> None:
        if self.core.take_limits():
            self._cancel(now_ns())

    # -- what goes out -------------------------------------------------------------------------------------------

    def _decide(self) -> bool:
        """Decide what waits; True when that could not be done in this very moment."""
        # Before the journal was replayed nobody knows which signals were decided in an earlier life, or what a CANCEL
        # should take back; they wait. (Later, when exec is away, new orders are refused: POSITION_UNKNOWN.)
        while self.waiting and self.reports.caught_up and not len(self.left):
            first, signals = self.waiting[0]
            self.state.core[Core.REFUSE_NEW] = self.drain_until_ns > 0 or self.control[Control.PAUSED] != 0
            done, n = _evaluate(self.state.context, signals, now_ns())
            if n:
                self._send(self.out[:n])
                self.core.digest(n)
                self.tap.put_at(self._out_at, n)
            if done:
                self.counts[Counter.SIGNALS] += done
                self.decided.append((first + done - 1, self.log.next_seq - 1 + len(self.left)))
            if done == len(signals):
                self.waiting.popleft()
                continue
            self.waiting[0] = (first + done, signals[done:])
            if not done:
                # No room in `out` cannot be, it is empty: the limits were changed, or are in this very moment.
                self._take_limits()
                return True
        return False

    def _send(self, orders: Records) -> None:
        taken = self.orders.send(orders, now_ns())
        if taken < len(orders):
            # They are reserved and must leave; until they did, nothing else is decided.
            self.counts[Counter.BACK_PRESSURE] += 1
            self.left = orders[taken:].copy()

    def _cancel(self, now: int) -> None:
        """Cancels for what is open in HALTED scopes, again and again until none is open."""
        if not len(self.left) and (n := self.core.cancel(now)):
            self._send(self.out[:n])
            self.tap.put_at(self._out_at, n)

    def _take_answers(self, now: int) -> None:
        self.orders.serve(now)
        acked, seq = self.orders.acked_seq, -1
        while self.decided and self.decided[0][1] <= acked:
            seq = self.decided.popleft()[0]
        if seq >= 0:
            self.signals.ack(seq, self.orders.follows_seq)
        if len(self.left) and self.log.room:
            orders, self.left = self.left, self.left[:0]
            self._send(orders)

    def tend(self, now: int) -> None:
        """Links, kill switches, what waited for room; counters."""
        self._take_marks(self.ticks.tend(now))
        self._take_answers(now)
        self.reports.tend(now)
        self.signals.tend(now)
        self._know(now)
        self._take_limits()
        if self.core.is_cancelling():
            self._cancel(now)
        self._count()
        self._decide()

    def _count(self) -> None:
        self.core.count()
        counts = self.counts
        counts[Counter.TICKS_LOST] = self.ticks.lost
        counts[Counter.TICK_GAPS] = self.ticks.gaps
        counts[Counter.REPORT_EPOCHS] = self.reports.epochs
        counts[Counter.ORDERS_UNANSWERED] = self.log.next_seq - 1 - self.orders.acked_seq
        counts[Counter.ORDERS_RESENT] = self.orders.resent
        links = (self.ticks, self.signals, self.reports, self.orders)
        counts[Counter.FRAMES_BAD] = sum(link.errors.total() for link in links)

    # -- life ----------------------------------------------------------------------------------------------------

    def command(self, what: Command, now: int) -> None:
        """CANCEL_ALL: take back everything that is open, until nothing is."""
        if what == Command.CANCEL_ALL:
            self.core.cancel_all = True

    def connected(self, now: int) -> bool:
        """Feed, signals and exec are heard, and the journal was replayed."""
        return (
            self.ticks.connected(now)
            and self.signals.connected(now)
            and bool(self.state.core[Core.READY])
            and "exec" in self.orders.consumers()
        )

    def begin_drain(self, now: int) -> None:
        """No new orders from now on; cancels still pass."""
        self.drain_until_ns = now + DRAIN_NS

    def drained(self, now: int) -> bool:
        """Exec has everything that was approved, or does not answer any more."""
        answered = not len(self.left) and self.orders.acked_seq >= self.log.next_seq - 1
        if answered:
            self.signals.tend(now)  # the last acknowledgement
        return answered or now >= self.drain_until_ns

    def close(self) -> None:
        """Close the links."""
        for link in (self.ticks, self.signals, self.reports, self.orders, self.tap):
            link.close()


def _start_of_last_epoch(batches: list[tuple[int, Records]]) -> int:
    """Index of the first batch after the numbers began anew, 0 if they did not within `batches`."""
    firsts = [first for first, _ in batches]
    return max((i for i in range(1, len(firsts)) if firsts[i] <= firsts[i - 1]), default=0)


if __name__ == "__main__":
    sys.exit(run_hot(Risk))
