"""signals' hot process in the ZeroMQ lanes: the loop over rings, with a bridge at the other end of its rings."""

from __future__ import annotations

import sys
from typing import Any

import zmq

from tickpath.common.bridge import Bridge
from tickpath.common.config import Config
from tickpath.common.pages import Hot, Page
from tickpath.common.records import RecordKind
from tickpath.common.stage import run_hot
from tickpath.signals import shm
from tickpath.signals.kernels.bridged import loop_bridged
from tickpath.signals.layout import Counter


class Signals(shm.Signals):
    """Ticks and reports come over links, signals leave over one."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        self.bridge = bridge = Bridge(config, context, self.name, int(page["hot"][Hot.EPOCH]))
        self.tick_link = bridge.subscribe("ticks", RecordKind.TICK)
        self.report_inlet = bridge.receive("reports", RecordKind.REPORT, log=True)
        super().__init__(config, context, page, side)
        self.sender = bridge.ship("signals", RecordKind.SIGNAL, {"risk": "signals"})
        self._answered_seq = 0
        bridge.open()

    def _loop(self, until_ns: int) -> int:
        worked: int = loop_bridged(*self.bridge.tables, self.words, until_ns)
        if self.bridge.needs_attention:
            self.bridge.attend()
            self._follow_answers()
        return worked

    def _follow_answers(self) -> None:
        """An answer counts when the reports that it follows are applied, or its order would look refused.

        They come over another link than the answer, and when there is much to do they come later.
        """
        if (acked := self.sender.acked_seq) > self._answered_seq:  # a new risk may say less of what is known already
            self._answered_seq = acked
            self.report_inlet.expect(*self.sender.follows)

    def tend(self, now: int) -> None:
        """The links, and what else there is to tend."""
        self.bridge.tend(now)
        self._follow_answers()
        super().tend(now)
        counts, ticks = self.counts, self.tick_link
        counts[Counter.TICKS_LOST] = ticks.lost
        counts[Counter.TICKS_REPAIRED] = ticks.repaired
        counts[Counter.TICK_GAPS] = ticks.gaps
        counts[Counter.TICKS_MISSED_BEFORE_JOINING] = ticks.missed_before_joining
        counts[Counter.FRAMES_BAD] = self.bridge.bad_frames
        counts[Counter.SIGNALS_RESENT] = self.sender.resent

    def close(self) -> None:
        """Close links and rings."""
        super().close()
        self.bridge.close()


if __name__ == "__main__":
    sys.exit(run_hot(Signals))
