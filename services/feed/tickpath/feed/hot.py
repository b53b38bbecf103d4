"""feed's hot process in the ZeroMQ lanes: the loop over rings, with a bridge at the other end of its ring."""

from __future__ import annotations

import sys
from typing import Any

import zmq

from tickpath.common.bridge import Bridge
from tickpath.common.config import Config
from tickpath.common.pages import Hot, Page
from tickpath.common.records import RecordKind
from tickpath.common.stage import run_hot
from tickpath.feed import shm
from tickpath.feed.kernels.bridged import loop_bridged
from tickpath.feed.kernels.receive import LineReg
from tickpath.feed.layout import Count


class Feed(shm.Feed):
    """Ticks leave over a link: a frame for each batch of datagrams."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        self.bridge = bridge = Bridge(config, context, self.name, int(page["hot"][Hot.EPOCH]))
        super().__init__(config, context, page, side)
        self.sender = bridge.publish("ticks", RecordKind.TICK, self.ticks)
        bridge.open(int(self.core.lines.words[LineReg.WAIT_FD]))

    def _loop(self, until_ns: int) -> int:
        state, receiver = self.core.state, self.core.receiver
        worked: int = loop_bridged(
            *self.bridge.tables, self.words, state, receiver.buffer, receiver.messages, receiver.lengths, until_ns
        )
        if self.bridge.needs_attention:
            self.bridge.attend()
        return worked

    def tend(self, now: int) -> None:
        """The link, and what else there is to tend."""
        self.bridge.tend(now)
        super().tend(now)
        self.counts[Count.TICKS_RESENT] = self.sender.replayed
        self.counts[Count.REQUESTS_REFUSED] = self.sender.errors.total()

    def close(self) -> None:
        """Close sockets, link and ring."""
        super().close()
        self.bridge.close()


if __name__ == "__main__":
    sys.exit(run_hot(Feed))
