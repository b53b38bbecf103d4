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
from tickpath.common.kernels.taps import capture
from tickpath.common.links import FanoutSender
from tickpath.common.pages import Command, Control, Page
from tickpath.common.records import RecordKind
from tickpath.common.stage import Ready, Stage, run_hot
from tickpath.common.taps import Tap
from tickpath.feed.core import FeedCore, FeedPage
from tickpath.feed.kernels.decode import decode
from tickpath.feed.layout import Count, Line

_BATCHES_PER_TURN = 4

_decode = direct(decode)  # `FeedCore.warm_up` has the types checked once
_capture = direct(capture)


class Feed(FeedPage, Stage):
    """Receive in batches, decode from the receive buffer, publish what changed."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        self.core = FeedCore(config, page, side)
        self.receiver, self.ticks = self.core.receiver, self.core.ticks
        self.decoded_ns = self.ticks["decoded_ns"]
        self.lines = [(line, one.fileno()) for line, one in self.core.lines.sockets.items()]
        self.tap = Tap(config, "ticks", self.epoch)
        self._ticks_address = int(self.ticks.ctypes.data)
        self.sender = FanoutSender(
            context, config.link_addresses("ticks"), RecordKind.TICK, self.name, self.epoch, config.links
        )

    def inputs(self) -> Sequence[Any]:
        """The market data sockets and the requests of subscribers."""
        return *(fd for _, fd in self.lines), self.sender.want

    def warm_up(self) -> None:
        """See `FeedCore.warm_up`."""
        self.core.warm_up()

    def turn(self, now: int, ready: Ready) -> bool:
        """Take what has arrived, decode it, publish the ticks; see to what is missing."""
        for line, fd in self.lines:
            if fd in ready:
                self._take(line)
        if self.sender.want in ready:
            self.sender.serve(now)
        if not self.core.repair.wanted:
            return False
        self._follow()
        return self.core.repair.wanted

    def _take(self, line: Line) -> None:
        core, batch = self.core, self.config.feed.batch
        first = line * batch
        for _ in range(_BATCHES_PER_TURN):
            arrived = core.lines.receive(line)
            if not arrived:
                return
            end = first + arrived
            recv_ns = now_ns()
            n = _decode(
                core.state, self.receiver.buffer, self.receiver.lengths, first, end, recv_ns, line,
                self.ticks,
            )  # fmt: skip
            if n:
                decoded_ns = now_ns()
                self._publish(n, decoded_ns)
                record(core.hop, decoded_ns - recv_ns)
            if core.datagrams.address:
                _capture(
                    core.datagrams.address, self.receiver.buffer, self.receiver.lengths, first, end, recv_ns, line
                )
            if arrived < batch:
                return

    def _publish(self, n: int, decoded_ns: int) -> None:
        self.decoded_ns[:n] = decoded_ns
        if self.core.control[Control.PAUSED]:
            self.counts[Count.TICKS_HELD_BY_PAUSE] += n
        else:
            self.sender.send(self.ticks[:n], decoded_ns)
            self.tap.put_at(self._ticks_address, n)

    def _follow(self) -> None:
        while n := self.core.follow(now_ns(), self.ticks):
            self._publish(n, now_ns())

    def tend(self, now: int) -> None:
        """Heartbeat on the ticks; counters of the link; the state of the channel."""
        self.core.tend(now)
        if self.core.repair.wanted:
            self._follow()
        self.sender.tend(now)
        self.counts[Count.TICKS_RESENT] = self.sender.replayed
        self.counts[Count.REQUESTS_REFUSED] = self.sender.errors.total()

    def command(self, what: Command, now: int) -> None:
        """See `FeedCore.command`."""
        del now
        self.core.command(what)

    def close(self) -> None:
        """Close socket and link."""
        self.sender.close()
        self.tap.close()
        self.core.close()


if __name__ == "__main__":
    sys.exit(run_hot(Feed))
