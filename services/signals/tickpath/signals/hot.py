"""signals' hot process: ticks in, strategies, signals out; reports in, to know what the strategies own."""

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
from tickpath.common.pages import Control, Page
from tickpath.common.process import StartError
from tickpath.common.records import SIGNAL, RecordKind
from tickpath.common.stage import Ready, Stage, run_hot
from tickpath.common.taps import Tap
from tickpath.signals.core import DRAIN_NS, SignalsCore, SignalsPage
from tickpath.signals.layout import Counter


class Signals(SignalsPage, Stage):
    """One kernel call per batch of ticks; what it decides goes into the log that is shipped to risk."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        links = config.links
        self.core = SignalsCore(config, page, side)
        self.engine, self.out = self.core.engine, self.core.out
        self.log = RingLog(SIGNAL, links.log_ring)
        if self.engine.room > self.log.capacity:
            msg = f"links.log_ring = {links.log_ring}: one tick may make {self.engine.room} signals"
            raise StartError(msg)
        self.ticks = FanoutReceiver(context, config.link_addresses("ticks"), RecordKind.TICK, self.name, links)
        self.reports = LogReceiver(context, config.link_addresses("reports"), RecordKind.REPORT, self.name, links)
        self.sender = LogSender(
            context, config.link_addresses("signals"), RecordKind.SIGNAL, self.name, self.epoch, self.log, links,
            required=("risk",),
        )  # fmt: skip
        self._run = direct(self.engine.module.run)  # `SignalsCore.warm_up` has the types checked once
        self.tap, self._out_at = Tap(config, "signals", self.epoch), self.out.ctypes.data
        self._state = self.engine.memory.bytes, self.engine.counters, self.engine.hist
        self.waiting: deque[Records] = deque()  # ticks that the strategies have not seen yet
        self._answers: deque[tuple[int, int]] = deque()  # report that must be here first, signals answered then
        self._answered_seq = 0
        self.report_epoch = 0
        self.drain_until_ns = 0

    def inputs(self) -> Sequence[Any]:
        """Ticks, reports, and the answers of risk."""
        return (*self.ticks.sockets, self.reports.socket, self.sender.socket)

    def warm_up(self) -> None:
        """See `SignalsCore.warm_up`."""
        self.core.warm_up()

    def turn(self, now: int, ready: Ready) -> bool:
        """Reports first, so that strategies know what they own; then the answers, which make room; then ticks."""
        if self.reports.socket in ready:
            self._take_reports(now)
        if self.sender.socket in ready:
            self._take_answers(now)
        # While ticks wait here, more of them wait in the link, or are dropped there and repaired from feed's ring.
        if not self.waiting and (self.ticks.sub in ready or self.ticks.want in ready):
            self.waiting.extend(self.ticks.receive(now, ready, most=FRAMES_BEHIND if self.behind else 1))
        if self.core.control[Control.PAUSED] != self.core.paused:
            self._mute()
        self._run_strategies()
        return False

    def _take_reports(self, now: int) -> None:
        batches = self.reports.receive(now)
        if self.reports.epoch != self.report_epoch:
            self.report_epoch = self.reports.epoch
            # Another life of exec tells the whole day again. What came from the last one stands before it.
            firsts = [first for first, _ in batches]
            restart = max((i for i in range(1, len(firsts)) if firsts[i] <= firsts[i - 1]), default=0)
            del batches[:restart]
            self.engine.forget_reports()
        for first_seq, records in batches:
            self.engine.apply(records)
            self.reports.ack(first_seq + len(records) - 1)
        self._acknowledge()
        self._mute()

    def _take_answers(self, now: int) -> None:
        self.sender.serve(now)
        if (acked := self.sender.acked_seq) > self._answered_seq:  # a new risk may say less of what is known already
            self._answered_seq, follows = acked, self.sender.follows_seq
            while self._answers and self._answers[-1][0] > follows:  # of a journal that is not the present one
                self._answers.pop()
            self._answers.append((follows, acked))
        self._acknowledge()
        self._count_unanswered()

    def _acknowledge(self) -> None:
        """A signal counts as answered when the reports of its order are applied, or the order would look refused.

        They come over another link than the answer, and when there is much to do they come later.
        """
        while self._answers and self._answers[0][0] < self.reports.expected_seq:
            self.engine.acknowledge(self._answers.popleft()[1])

    def _count_unanswered(self) -> None:
        self.counts[Counter.SIGNALS_UNANSWERED] = self.log.next_seq - 1 - self.sender.acked_seq

    def _mute(self) -> None:
        self.core.mute(caught_up=self.reports.caught_up)

    def _run_strategies(self) -> None:
        while self.waiting:
            ticks = self.waiting[0]
            room = self.log.room
            if room < self.engine.room:
                self.counts[Counter.BACK_PRESSURE] += 1
                break
            now = now_ns()
            done, n = self._run(*self._state, ticks, self.out[:room], now)
            if n:
                self.sender.send(self.out[:n], now)
                self.core.digest(n)
                self.tap.put_at(self._out_at, n)
                self._count_unanswered()
            if done == len(ticks):
                self.waiting.popleft()
            else:
                self.waiting[0] = ticks[done:]

    def tend(self, now: int) -> None:
        """Ask for lost ticks, acknowledge reports, ship again what was not answered; counters of the links."""
        self._mute()
        self.waiting.extend(self.ticks.tend(now))
        self.reports.tend(now)
        self._take_answers(now)
        counts, ticks = self.counts, self.ticks
        counts[Counter.TICKS_LOST] = ticks.lost
        counts[Counter.TICKS_REPAIRED] = ticks.repaired
        counts[Counter.TICK_GAPS] = ticks.gaps
        counts[Counter.TICKS_MISSED_BEFORE_JOINING] = ticks.missed_before_joining
        counts[Counter.FRAMES_BAD] = ticks.errors.total() + self.reports.errors.total() + self.sender.errors.total()
        counts[Counter.SIGNALS_RESENT] = self.sender.resent
        counts[Counter.REPORT_EPOCHS] = self.reports.epochs
        self._run_strategies()

    def connected(self, now: int) -> bool:
        """Feed and exec are heard, all reports of the day are applied, risk takes signals."""
        return (
            self.ticks.connected(now)
            and self.reports.connected(now)
            and self.reports.caught_up
            and "risk" in self.sender.consumers()
        )

    def begin_drain(self, now: int) -> None:
        """No new orders from now on; cancels still leave."""
        self.drain_until_ns = now + DRAIN_NS
        self.core.draining = True
        self._mute()

    def drained(self, now: int) -> bool:
        """Every signal is answered, or nobody answers any more."""
        return self.sender.acked_seq >= self.log.next_seq - 1 or now >= self.drain_until_ns

    def close(self) -> None:
        """Close the links."""
        for link in (self.ticks, self.reports, self.sender, self.tap):
            link.close()


if __name__ == "__main__":
    sys.exit(run_hot(Signals))
