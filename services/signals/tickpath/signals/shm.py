"""signals' hot process over rings: a compiled loop over those of ticks, reports and signals.

In the shm lane as it stands here; `tickpath.signals.hot` puts links behind the rings.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.kernels import ring
from tickpath.common.pages import Page
from tickpath.common.process import StartError
from tickpath.common.records import TICK, RecordKind
from tickpath.common.rings import Input, LogInput, Rings
from tickpath.common.stage import CompiledStage, run_hot
from tickpath.signals.core import DRAIN_NS, SignalsCore, SignalsPage
from tickpath.signals.kernels.loop import Reg, loop
from tickpath.signals.layout import Counter

_TICKS: Final = 1024  # more than a datagram can make


class Signals(SignalsPage, CompiledStage):
    """Ticks in, strategies, signals out; reports in, to know what the strategies own."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        self.core = SignalsCore(config, page, side)
        self.engine = engine = self.core.engine
        if engine.room > config.links.log_ring:
            least = 1 << (engine.room - 1).bit_length()
            msg = (
                f"links.log_ring = {config.links.log_ring}: one tick may make {engine.room} signals; "
                f"allowed is a power of two of at least {least}"
            )
            raise StartError(msg)
        self.words = w = np.zeros(len(Reg) + 1, np.int64)
        self.rings = Rings(config, self.name)
        self.signals = self.rings.writer("signals", RecordKind.SIGNAL, "risk")
        self.ticks = Input(self.rings, "ticks", RecordKind.TICK, w, Reg.TICKS_RING)
        self.reports = LogInput(self.rings, "reports.signals", RecordKind.REPORT, w, Reg.REPORTS_RING)
        self.copies = np.zeros(_TICKS, TICK)
        w[Reg.SIGNALS_RING], w[Reg.SIGNALS_BEFORE] = self.signals.address, self.signals.published
        w[Reg.BELLS], w[Reg.WAITER] = self.rings.bells, self.rings.waiter
        w[Reg.TICKS], w[Reg.TICK_ROOM] = self.copies.ctypes.data, len(self.copies)
        w[Reg.RUN] = engine.module.run_at.address
        w[Reg.MEMORY], w[Reg.MEMORY_BYTES] = engine.memory.bytes.ctypes.data, len(engine.memory.bytes)
        w[Reg.COUNTERS], w[Reg.HIST] = engine.counters.ctypes.data, engine.hist.ctypes.data
        w[Reg.SIGNALS], w[Reg.SIGNAL_ROOM] = self.core.out.ctypes.data, len(self.core.out)
        w[Reg.ENGINE_ROOM] = engine.room
        w[Reg.HOT], w[Reg.CONTROL] = page["hot"].ctypes.data, self.core.control.ctypes.data
        w[Reg.MUTED] = 1
        self.drain_until_ns = 0

    def warm_up(self) -> None:
        """See `SignalsCore.warm_up`; then the loop once, with its time already over and no ring to read."""
        self.core.warm_up()
        self.run(0)
        self._open(now_ns())

    def run(self, until_ns: int) -> bool:
        """See `kernels.loop`."""
        return bool(self._loop(until_ns))

    def _loop(self, until_ns: int) -> int:
        worked: int = loop(self.words, until_ns)
        return worked

    def _open(self, now: int) -> None:
        self.ticks.tend(now)
        self.reports.tend(now)
        if self.reports.begins_anew():
            self.engine.forget_reports()
        self.words[Reg.MUTED] = self.core.draining or not self.reports.look()

    def tend(self, now: int) -> None:
        """Rings that came or were replaced, beats; counters of the links."""
        self._open(now)
        ring.beat(self.signals.address, now)
        counts = self.counts
        counts[Counter.TICKS_MISSED_BEFORE_JOINING] = self.ticks.joined_behind
        counts[Counter.SIGNALS_UNANSWERED] = self._unanswered()
        counts[Counter.REPORT_EPOCHS] = self.reports.epochs
        self.rings.say(self.page)

    def _unanswered(self) -> int:
        return self.signals.published - int(ring.slowest(self.signals.address))

    def connected(self, now: int) -> bool:
        """Feed and exec are there, all reports of the day are applied, risk takes signals."""
        return (
            self.ticks.connected(now)
            and self.reports.connected(now)
            and self.reports.caught_up
            and self.rings.is_read(self.signals, now)
        )

    def begin_drain(self, now: int) -> None:
        """No new orders from now on; cancels still leave."""
        self.drain_until_ns = now + DRAIN_NS
        self.core.draining = True
        self.words[Reg.MUTED] = 1

    def drained(self, now: int) -> bool:
        """Every signal is answered, or nobody answers any more."""
        return self._unanswered() <= 0 or now >= self.drain_until_ns

    def close(self) -> None:
        """Leave the rings."""
        for end in (self.ticks, self.reports, self.signals):
            end.close()


if __name__ == "__main__":
    sys.exit(run_hot(Signals))
