"""risk's hot process over rings: a compiled loop over those of ticks, signals, reports and orders.

In the shm lane as it stands here; `tickpath.risk.hot` puts links behind the rings.

A signal is acknowledged when it was refused, or when exec acknowledged its order, which it does once the order is in
the journal. So whatever dies, an undecided signal comes again, and a decided one is recognised by its id.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.kernels import ring
from tickpath.common.pages import Command, Page
from tickpath.common.records import TICK, RecordKind
from tickpath.common.rings import Input, LogInput, Rings
from tickpath.common.stage import CompiledStage, run_hot
from tickpath.risk.core import DRAIN_NS, RiskCore, RiskPage
from tickpath.risk.kernels.loop import Reg, Why, loop
from tickpath.risk.layout import Counter
from tickpath.risk.state import Core

_TICKS: Final = 1024


class Risk(RiskPage, CompiledStage):
    """Marks, reports and signals in, approved orders out."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        self.core = RiskCore(config, page, side)
        self.state = self.core.state
        self.words = w = np.zeros(len(Reg) + 1, np.int64)
        self.rings = Rings(config, self.name)
        self.orders = self.rings.writer("orders", RecordKind.ORDER, "exec")
        self.ticks = Input(self.rings, "ticks", RecordKind.TICK, w, Reg.TICKS_RING, wake=False)
        self.signals = Input(self.rings, "signals", RecordKind.SIGNAL, w, Reg.SIGNALS_RING)
        self.reports = LogInput(self.rings, "reports.risk", RecordKind.REPORT, w, Reg.REPORTS_RING)
        self.copies = np.zeros(_TICKS, TICK)
        self.decided = np.zeros((2 * config.links.log_ring, 2), np.int64)
        w[Reg.ORDERS_RING] = self.orders.address
        w[Reg.BELLS], w[Reg.WAITER] = self.rings.bells, self.rings.waiter
        w[Reg.TICKS], w[Reg.TICK_ROOM] = self.copies.ctypes.data, len(self.copies)
        w[Reg.ORDERS] = self.core.out.ctypes.data
        w[Reg.DECIDED], w[Reg.DECIDED_MASK] = self.decided.ctypes.data, len(self.decided) - 1
        w[Reg.CORE], w[Reg.CONTROL] = self.state.core.ctypes.data, self.core.control.ctypes.data
        w[Reg.COUNTERS], w[Reg.HOT] = self.counts.ctypes.data, page["hot"].ctypes.data
        self.drain_until_ns = 0

    def warm_up(self) -> None:
        """See `RiskCore.warm_up`; then the loop once, with its time already over and no ring to read."""
        self.core.warm_up()
        self.run(0)
        self._open(now_ns())

    def run(self, until_ns: int) -> bool:
        """See `kernels.loop`; the limits are copied in between."""
        while True:
            why = self._loop(until_ns)
            if why != Why.LIMITS:
                return bool(why == Why.TIME)
            now = now_ns()
            self._take_limits(now)
            if now >= until_ns:
                return True

    def _loop(self, until_ns: int) -> int:
        why: int = loop(self.words, self.state.context, until_ns)
        return why

    def _open(self, now: int) -> None:
        for end in (self.ticks, self.signals, self.reports):
            end.tend(now)
        if self.reports.begins_anew() and self.reports.epochs > 1:
            self.state.forget()  # what was known is of another day, and all of this one comes from its first entry
        if self._unanswered() <= 0:
            # Orders that exec has still to take, perhaps of an earlier life, are not in the journal yet. Only behind
            # them is its end the end of what was decided.
            self.reports.look()
        self.words[Reg.CAUGHT_UP] = self.reports.caught_up
        # Later, when exec is away, new orders are refused: POSITION_UNKNOWN.
        self.state.core[Core.READY] = self.reports.caught_up and self.reports.connected(now)

    def _unanswered(self) -> int:
        left = int(self.words[Reg.ORDER_END] - self.words[Reg.ORDER_AT])
        return left + self.orders.published - int(ring.slowest(self.orders.address))

    def _take_limits(self, now: int) -> None:
        if self.core.take_limits():
            self._cancel(now)

    def _cancel(self, now: int) -> None:
        """Cancels for what is open in HALTED scopes, again and again until none is open; the loop sends them."""
        w = self.words
        if w[Reg.ORDER_AT] == w[Reg.ORDER_END] and (n := self.core.cancel(now)):
            w[Reg.ORDER_AT], w[Reg.ORDER_END] = 0, n

    def tend(self, now: int) -> None:
        """Rings that came or were replaced, beats, kill switches; counters."""
        self._open(now)
        ring.beat(self.orders.address, now)
        self._take_limits(now)
        if self.core.is_cancelling():
            self._cancel(now)
        self.core.count()
        self.counts[Counter.REPORT_EPOCHS] = self.reports.epochs
        self.counts[Counter.ORDERS_UNANSWERED] = self._unanswered()
        self.rings.say(self.page)

    def command(self, what: Command, now: int) -> None:
        """CANCEL_ALL: take back everything that is open, until nothing is."""
        del now
        if what == Command.CANCEL_ALL:
            self.core.cancel_all = True

    def connected(self, now: int) -> bool:
        """Feed, signals and exec are there, and the journal was replayed."""
        return (
            self.ticks.connected(now)
            and self.signals.connected(now)
            and bool(self.state.core[Core.READY])
            and self.rings.is_read(self.orders, now)
        )

    def begin_drain(self, now: int) -> None:
        """No new orders from now on; cancels still pass."""
        self.drain_until_ns = now + DRAIN_NS
        self.words[Reg.DRAINING] = 1

    def drained(self, now: int) -> bool:
        """Exec has everything that was approved and the signals are acknowledged, or nobody answers any more."""
        decided = self.words[Reg.DECIDED_AT] == self.words[Reg.DECIDED_END]
        return (self._unanswered() <= 0 and bool(decided)) or now >= self.drain_until_ns

    def close(self) -> None:
        """Leave the rings."""
        self.core.count()
        for end in (self.ticks, self.signals, self.reports, self.orders):
            end.close()


if __name__ == "__main__":
    sys.exit(run_hot(Risk))
