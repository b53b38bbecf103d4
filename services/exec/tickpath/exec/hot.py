"""exec's hot process in the ZeroMQ lanes: the loop over rings, with a bridge at the other end of its rings."""

from __future__ import annotations

import sys
from typing import Any

import zmq

from tickpath.common.bridge import Bridge
from tickpath.common.config import Config
from tickpath.common.pages import Hot, Page
from tickpath.common.records import RecordKind
from tickpath.common.stage import run_hot
from tickpath.exec import shm
from tickpath.exec.kernels.bridged import loop_bridged
from tickpath.exec.kernels.loop import Word
from tickpath.exec.layout import Reg


class Exec(shm.Exec):
    """Approved orders come over a link, reports leave over one."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        self.bridge = bridge = Bridge(config, context, self.name, int(page["hot"][Hot.EPOCH]))
        inlet = bridge.receive("orders", RecordKind.ORDER)
        super().__init__(config, context, page, side)
        inlet.follows = self._follows
        readers = {name: f"reports.{name}" for name in self.reports}
        bridge.ship("reports", RecordKind.REPORT, readers, epoch=self.orders.journal.epoch, log=True)
        bridge.open(self.gateway.fileno())

    def _follows(self) -> tuple[int, int]:
        """What is acknowledged is in the journal, published or not; on disk first, if so configured."""
        w = self.words
        end = w[Word.SYNCED_SEQ] if w[Word.SYNC] else self.ctx[Reg.NEXT_SEQ]
        return self.orders.journal.epoch, int(end) - 1

    def _loop(self, until_ns: int) -> int:
        why: int = loop_bridged(*self.bridge.tables, self.words, self.ctx, self.gateway.fileno(), until_ns)
        if self.bridge.needs_attention:
            self.bridge.attend()
        return why

    def tend(self, now: int) -> None:
        """The links, and what else there is to tend."""
        self.bridge.tend(now)
        super().tend(now)

    def close(self) -> None:
        """Log out, close links and rings, write the journal to disk."""
        super().close()
        self.bridge.close()


if __name__ == "__main__":
    sys.exit(run_hot(Exec))
