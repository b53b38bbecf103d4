"""feed's hot process over rings: a compiled loop from the socket into the ring of ticks.

In the shm lane as it stands here; `tickpath.feed.hot` puts links behind the rings.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.kernels import ring
from tickpath.common.pages import Command, Control, Page
from tickpath.common.records import RecordKind
from tickpath.common.ring import wait_at_socket
from tickpath.common.rings import Rings
from tickpath.common.stage import CompiledStage, run_hot
from tickpath.feed.core import FeedCore, FeedPage
from tickpath.feed.kernels.loop import Reg, loop
from tickpath.feed.layout import Count


class Feed(FeedPage, CompiledStage):
    """Receive in batches, decode from the receive buffer, publish each datagram's ticks at once."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        self.core = FeedCore(config, page, side)
        self.rings = Rings(config, self.name)
        self.ticks = self.rings.writer("ticks", RecordKind.TICK)
        self.words = w = np.zeros(len(Reg) + 1, np.int64)
        core = self.core
        w[Reg.LINES] = core.lines.words.ctypes.data
        w[Reg.TICKS], w[Reg.TICK_ROOM] = core.ticks.ctypes.data, len(core.ticks)
        w[Reg.RING], w[Reg.BELLS] = self.ticks.address, self.rings.bells
        w[Reg.COUNTERS], w[Reg.HIST] = self.counts.ctypes.data, core.hop.ctypes.data
        w[Reg.CONTROL], w[Reg.HOT] = core.control.ctypes.data, page["hot"].ctypes.data
        # It sleeps on its socket and not on a bell: nobody but the exchange has anything for it.
        w[Reg.SPIN_NS], w[Reg.YIELD] = wait_at_socket(self.rings.strategy)

    def warm_up(self) -> None:
        """See `FeedCore.warm_up`; then the loop once, with its time already over."""
        self.core.warm_up()
        self.run(now_ns())

    def run(self, until_ns: int) -> bool:
        """See `kernels.loop`; what the state of the channel asks for is done in between."""
        core = self.core
        while True:
            worked = self._loop(until_ns)
            now = now_ns()
            if not core.repair.wanted:
                return bool(worked)
            self._follow()
            if now >= until_ns:
                return True

    def _loop(self, until_ns: int) -> int:
        state, receiver = self.core.state, self.core.receiver
        worked: int = loop(self.words, state, receiver.buffer, receiver.messages, receiver.lengths, until_ns)
        return worked

    def _follow(self) -> None:
        """Publish what comes of the state of the channel."""
        while n := self.core.follow(now_ns(), self.core.ticks):
            if self.core.control[Control.PAUSED]:
                self.counts[Count.TICKS_HELD_BY_PAUSE] += n
                continue
            done = 0
            while done < n:
                done += self.ticks.publish(self.core.ticks[done:n])

    def tend(self, now: int) -> None:
        """The ring's beat; the state of the channel."""
        self.core.tend(now)
        if self.core.repair.wanted:
            self._follow()
        ring.beat(self.ticks.address, now)
        self.rings.say(self.page)

    def command(self, what: Command, now: int) -> None:
        """See `FeedCore.command`."""
        del now
        self.core.command(what)

    def close(self) -> None:
        """Close socket and ring."""
        self.ticks.close()
        self.core.close()


if __name__ == "__main__":
    sys.exit(run_hot(Feed))
