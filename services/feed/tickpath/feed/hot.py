"""feed's hot process: datagrams in, ticks out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.jit import direct
from tickpath.common.kernels.hist import record
from tickpath.common.links import FanoutSender
from tickpath.common.pages import Command, Control, Page
from tickpath.common.records import RecordKind
from tickpath.common.stage import Ready, Stage, run_hot
from tickpath.feed.core import FeedCore, FeedPage
from tickpath.feed.kernels.decode import decode
from tickpath.feed.layout import Count

_BATCHES_PER_TURN = 4

_decode = direct(decode)  # `FeedCore.warm_up` has the types checked once


class Feed(FeedPage, Stage):
    """Receive in batches, decode from the receive buffer, publish what changed."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        self.core = FeedCore(config, page, side)
        self.socket, self.receiver, self.ticks = self.core.socket, self.core.receiver, self.core.ticks
        self.decoded_ns = self.ticks["decoded_ns"]
        self.sender = FanoutSender(
            context, config.link_addresses("ticks"), RecordKind.TICK, self.name, self.epoch, config.links
        )

    def inputs(self) -> Sequence[Any]:
        """The market data socket and the requests of subscribers."""
        return self.socket.fileno(), self.sender.want

    def warm_up(self) -> None:
        """See `FeedCore.warm_up`."""
        self.core.warm_up()

    def turn(self, now: int, ready: Ready) -> bool:
        """Take what has arrived, decode it, publish the ticks."""
        if self.socket.fileno() in ready:
            core = self.core
            for _ in range(_BATCHES_PER_TURN):
                arrived = self.receiver.receive()
                if arrived <= 0:
                    break
                recv_ns = now_ns()
                n = _decode(core.state, self.receiver.buffer, self.receiver.lengths, 0, arrived, recv_ns, self.ticks)
                if n:
                    decoded_ns = now_ns()
                    self.decoded_ns[:n] = decoded_ns
                    record(core.hop, decoded_ns - recv_ns)
                    if core.control[Control.PAUSED]:
                        self.counts[Count.TICKS_HELD_BY_PAUSE] += n
                    else:
                        self.sender.send(self.ticks[:n], decoded_ns)
                if arrived < self.config.feed.batch:
                    break
        if self.sender.want in ready:
            self.sender.serve(now)
        return False

    def tend(self, now: int) -> None:
        """Heartbeat on the ticks; counters of the link."""
        self.sender.tend(now)
        self.counts[Count.TICKS_RESENT] = self.sender.replayed
        self.counts[Count.REQUESTS_REFUSED] = self.sender.errors.total()

    def command(self, what: Command, argument: int, now: int) -> None:
        """See `FeedCore.command`."""
        del argument, now
        self.core.command(what)

    def close(self) -> None:
        """Close socket and link."""
        self.sender.close()
        self.core.close()


if __name__ == "__main__":
    sys.exit(run_hot(Feed))
