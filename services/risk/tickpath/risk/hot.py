"""risk's hot process: marks, reports and signals in, approved orders out.

A signal is acknowledged when it was refused, or when exec acknowledged its order, which it does once the order is in
the journal. So whatever dies, an undecided signal comes again, and a decided one is recognised by its id.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.histogram import empty
from tickpath.common.instruments import load_instruments
from tickpath.common.kernels.digest import fold, words_mask
from tickpath.common.links import FanoutReceiver, LogReceiver, LogSender, Records, RingLog
from tickpath.common.pages import Command, Control, Fields, Hot, Page
from tickpath.common.records import ORDER, REPORT, SIGNAL, TICK, Action, RecordKind, Side
from tickpath.common.stage import Ready, Stage, run_hot
from tickpath.risk.kernels.risk import apply_reports, apply_ticks, cancel_halted, evaluate
from tickpath.risk.layout import N_REJECTS, Counter, Hop
from tickpath.risk.limits import FIRST_SYMBOL_ROW, Limits, TradingState, new_rows
from tickpath.risk.reasons import Reason
from tickpath.risk.state import CORE_REASONS, CORE_SIZE, LIVE, REJECT, Core, RiskState

_DIGESTED: Final = words_mask(ORDER)
_DRAIN_NS: Final = 2_000_000_000  # how long a stopping process waits for exec to acknowledge
_OUT_SPARE: Final = 1024


class Risk(Stage):
    """One kernel call per batch of signals; what it approves goes into the log that is shipped to exec."""

    name = "risk"
    counters = Counter
    histograms = Hop

    @classmethod
    def extra_fields(cls, config: Config) -> Fields:
        """What people may see of the state: exposure and marks, scalars and counts by reason, last refusals."""
        rows = FIRST_SYMBOL_ROW + len(load_instruments(config.instruments))
        return {"live": (LIVE, (rows,)), "core": ("<i8", (CORE_SIZE,)), "rejects": (REJECT, (N_REJECTS,))}

    @classmethod
    def extra_meta(cls, config: Config) -> dict[str, Any]:
        """Names of the scalars: unlike the counters they are always up to date."""
        del config
        return {"core": [scalar.name.lower() for scalar in Core]}

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        links, capacity = config.links, config.risk.order_capacity
        table = load_instruments(config.instruments)
        # Without a side page all scopes stay HALTED and the lease is over.
        self.control = side["control"] if side is not None else np.zeros(len(Control), dtype=np.int64)
        self.shared_limits: Limits = side["limits"] if side is not None else new_rows(table)
        # A CANCEL signal can ask for as many cancels as there are open orders.
        self.out = np.zeros(capacity + _OUT_SPARE, dtype=ORDER)
        self.out_words = self.out.view(np.int64).reshape(len(self.out), -1)
        self.state = RiskState(
            new_rows(table), capacity, self.control, self.out, self.hist,
            cancel_repeat_ns=config.risk.cancel_repeat_ms * 1_000_000,
            live=page["live"], core=page["core"], rejects=page["rejects"],
        )  # fmt: skip
        self.state.core[Core.LIMITS_VERSION] = -1
        self.log = RingLog(ORDER, links.log_ring)
        self.ticks = FanoutReceiver(context, config.link_addresses("ticks"), RecordKind.TICK, self.name, links)
        self.signals = LogReceiver(context, config.link_addresses("signals"), RecordKind.SIGNAL, self.name, links)
        self.reports = LogReceiver(context, config.link_addresses("reports"), RecordKind.REPORT, self.name, links)
        self.orders = LogSender(
            context, config.link_addresses("orders"), RecordKind.ORDER, self.name, self.epoch, self.log, links,
            required=("exec",),
        )  # fmt: skip
        self.waiting: deque[tuple[int, Records]] = deque()  # signals that are not decided yet
        self.left = self.out[:0]  # approved orders that the log has no room for yet
        self.decided: deque[tuple[int, int]] = deque()  # (last signal of a batch, last order that it made)
        self.signal_epoch = self.report_epoch = 0
        self.rebuilding = False
        self.halted = self.cancel_all = False
        self.drain_until_ns = 0

    def inputs(self) -> Sequence[Any]:
        """Marks, signals, reports, and the answers of exec."""
        return (*self.ticks.sockets, self.signals.socket, self.reports.socket, self.orders.socket)

    def warm_up(self) -> None:
        """Run every kernel once on a scratch state, with records as they come out of a frame; take the limits."""
        now = now_ns()
        limits = new_rows(load_instruments(self.config.instruments))
        limits["state"] = TradingState.ACTIVE
        control = np.zeros(len(Control), dtype=np.int64)
        scratch = RiskState(limits, 16, control, np.zeros(16, dtype=ORDER), empty(len(Hop)))
        context = scratch.context
        signal, tick, report = np.zeros(1, dtype=SIGNAL), np.zeros(1, dtype=TICK), np.zeros(1, dtype=REPORT)
        signal["strategy"], signal["action"], signal["side"] = 1, Action.NEW, Side.BUY
        tick["recv_ns"], report["seq"] = now, 1
        apply_ticks(context, np.frombuffer(tick.tobytes(), dtype=TICK))
        evaluate(context, np.frombuffer(signal.tobytes(), dtype=SIGNAL), now)
        apply_reports(context, np.frombuffer(report.tobytes(), dtype=REPORT), now)
        cancel_halted(context, now, 1)
        self.out[:] = np.zeros(1, dtype=ORDER)  # touch every page of it
        self._take_limits()

    # -- what comes in -------------------------------------------------------------------------------------------

    def turn(self, now: int, ready: Ready) -> bool:
        """Answers, reports and marks before signals: they inform the decisions and delay them by little."""
        if self.orders.socket in ready:
            self._take_answers(now)
        if self.reports.socket in ready:
            self._take_reports(now)
        if self.ticks.sub in ready or self.ticks.want in ready:
            self._take_marks(self.ticks.receive(now, ready))
        # While signals wait here, more of them wait in the link.
        if not self.waiting and self.signals.socket in ready:
            self._take_signals(now)
        return self._decide()

    def _take_marks(self, batches: list[Records]) -> None:
        for ticks in batches:
            apply_ticks(self.state.context, ticks)

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
            apply_reports(self.state.context, records, now)
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
        """Copy the limits when the side process changed them; what it is writing just now waits for the next look."""
        version = int(self.control[Control.VERSION])
        if version == self.state.core[Core.LIMITS_VERSION] or version & 1:
            return
        fresh = self.shared_limits.copy()
        if int(self.control[Control.VERSION]) != version:
            return
        self.state.limits[:] = fresh
        self.state.core[Core.LIMITS_VERSION] = version
        self.counts[Counter.LIMITS_TAKEN] += 1
        self.halted = bool((fresh["state"] >= TradingState.HALTED).any())
        if self.halted:
            self._cancel(now_ns())

    # -- what goes out -------------------------------------------------------------------------------------------

    def _decide(self) -> bool:
        """Decide what waits; True when that could not be done in this very moment."""
        # Before the journal was replayed nobody knows which signals were decided in an earlier life, or what a CANCEL
        # should take back; they wait. (Later, when exec is away, new orders are refused: POSITION_UNKNOWN.)
        while self.waiting and self.reports.caught_up and not len(self.left):
            first, signals = self.waiting[0]
            self.state.core[Core.REFUSE_NEW] = self.drain_until_ns > 0 or self.control[Control.PAUSED] != 0
            done, n = evaluate(self.state.context, signals, now_ns())
            if n:
                self._digest(n)
                self._send(self.out[:n])
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

    def _digest(self, n: int) -> None:
        hot = self.page["hot"]
        hot[Hot.DIGEST] = fold(hot[Hot.DIGEST], self.out_words, n, _DIGESTED)
        hot[Hot.DIGESTED] += n

    def _send(self, orders: Records) -> None:
        taken = self.orders.append(orders)
        self.orders.pump(now_ns())
        if taken < len(orders):
            # They are reserved and must leave; until they did, nothing else is decided.
            self.counts[Counter.BACK_PRESSURE] += 1
            self.left = orders[taken:].copy()

    def _cancel(self, now: int) -> None:
        """Cancels for what is open in HALTED scopes, again and again until none is open."""
        if len(self.left) or not self.state.core[Core.N_ORDERS]:
            return
        n = cancel_halted(self.state.context, now, int(self.cancel_all))
        if n:
            self._digest(n)
            self._send(self.out[:n])

    def _take_answers(self, now: int) -> None:
        self.orders.serve(now)
        acked, seq = self.orders.acked_seq, -1
        while self.decided and self.decided[0][1] <= acked:
            seq = self.decided.popleft()[0]
        if seq >= 0:
            self.signals.ack(seq)
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
        if self.halted or self.cancel_all:
            self._cancel(now)
            self.cancel_all = self.cancel_all and self.state.core[Core.N_ORDERS] > 0
        self._count()
        self._decide()

    def _count(self) -> None:
        counts, core = self.counts, self.state.core
        for counter, index in _COPIED:
            counts[counter] = core[index]
        counts[Counter.TICKS_LOST] = self.ticks.lost
        counts[Counter.TICK_GAPS] = self.ticks.gaps
        counts[Counter.SIGNALS_REPEATED] = core[CORE_REASONS + Reason.ALREADY_DECIDED]
        counts[Counter.REPORT_EPOCHS] = self.reports.epochs
        counts[Counter.ORDERS_UNANSWERED] = self.log.next_seq - 1 - self.orders.acked_seq
        counts[Counter.ORDERS_RESENT] = self.orders.resent
        links = (self.ticks, self.signals, self.reports, self.orders)
        counts[Counter.FRAMES_BAD] = sum(link.errors.total() for link in links)

    # -- life ----------------------------------------------------------------------------------------------------

    def command(self, what: Command, argument: int, now: int) -> None:
        """CANCEL_ALL: take back everything that is open, until nothing is."""
        if what == Command.CANCEL_ALL:
            self.cancel_all = True

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
        self.drain_until_ns = now + _DRAIN_NS

    def drained(self, now: int) -> bool:
        """Exec has everything that was approved, or does not answer any more."""
        answered = not len(self.left) and self.orders.acked_seq >= self.log.next_seq - 1
        if answered:
            self.signals.tend(now)  # the last acknowledgement
        return answered or now >= self.drain_until_ns

    def close(self) -> None:
        """Close the links."""
        for link in (self.ticks, self.signals, self.reports, self.orders):
            link.close()


_COPIED: Final = (
    (Counter.TICKS, Core.TICKS),
    (Counter.TICKS_REFUSED, Core.TICKS_REFUSED),
    (Counter.ORDERS_APPROVED, Core.APPROVED),
    (Counter.ORDERS_REJECTED, Core.REJECTED),
    (Counter.CANCELS_APPROVED, Core.CANCELS),
    (Counter.REPORTS, Core.REPORTS),
    (Counter.REPORTS_REPEATED, Core.REPORTS_REPEATED),
    (Counter.REPORT_GAPS, Core.REPORT_GAPS),
    (Counter.FILLS, Core.FILLS),
    (Counter.ALARMS, Core.ALARMS),
    (Counter.OPEN_ORDERS, Core.N_ORDERS),
)


def _start_of_last_epoch(batches: list[tuple[int, Records]]) -> int:
    """Index of the first batch after the numbers began anew, 0 if they did not within `batches`."""
    firsts = [first for first, _ in batches]
    return max((i for i in range(1, len(firsts)) if firsts[i] <= firsts[i - 1]), default=0)


if __name__ == "__main__":
    sys.exit(run_hot(Risk))
