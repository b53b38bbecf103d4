"""risk's hot process in the ZeroMQ lanes: the loop over rings, with a bridge at the other end of its rings."""

from __future__ import annotations

import sys
from typing import Any

import zmq

from tickpath.common.bridge import Bridge
from tickpath.common.config import Config
from tickpath.common.pages import Hot, Page
from tickpath.common.records import RecordKind
from tickpath.common.stage import run_hot
from tickpath.risk import shm
from tickpath.risk.kernels.bridged import loop_bridged
from tickpath.risk.layout import Counter


class Risk(shm.Risk):
    """Marks, reports and signals come over links, approved orders leave over one."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        self.bridge = bridge = Bridge(config, context, self.name, int(page["hot"][Hot.EPOCH]))
        self.tick_link = bridge.subscribe("ticks", RecordKind.TICK)
        self.signal_inlet = bridge.receive("signals", RecordKind.SIGNAL)
        self.report_inlet = bridge.receive("reports", RecordKind.REPORT, log=True)
        super().__init__(config, context, page, side)
        self.sender = bridge.ship("orders", RecordKind.ORDER, {"exec": "orders"})
        self.signal_inlet.follows = self._follows
        bridge.open()

    def _loop(self, until_ns: int) -> int:
        why: int = loop_bridged(*self.bridge.tables, self.words, self.state.context, until_ns)
        if self.bridge.needs_attention:
            self.bridge.attend()
        return why

    def _follows(self) -> tuple[int, int]:
        """An answer follows the reports that exec had when it took the orders, and those that are known here."""
        here = self.reports.epoch, self.reports.next_seq - 1
        return max(self.sender.follows, self.report_inlet.known, here)

    def tend(self, now: int) -> None:
        """The links, and what else there is to tend."""
        self.bridge.tend(now)
        # What exec has acknowledged is in the journal: only behind that is its end the end of what was decided.
        self.report_inlet.expect(*self.sender.follows)
        super().tend(now)
        counts = self.counts
        counts[Counter.TICKS_LOST] = self.tick_link.lost
        counts[Counter.TICK_GAPS] = self.tick_link.gaps
        counts[Counter.ORDERS_RESENT] = self.sender.resent
        counts[Counter.FRAMES_BAD] = self.bridge.bad_frames

    def close(self) -> None:
        """Close links and rings."""
        super().close()
        self.bridge.close()


if __name__ == "__main__":
    sys.exit(run_hot(Risk))
