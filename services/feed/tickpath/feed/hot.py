"""feed's hot process: datagrams in, ticks out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.instruments import load_instruments
from tickpath.common.jit import direct
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.net import DatagramReceiver
from tickpath.common.links import FanoutSender
from tickpath.common.pages import Command, Control, Fields, Page
from tickpath.common.process import StartError
from tickpath.common.records import TICK, RecordKind
from tickpath.common.stage import Ready, Stage, run_hot
from tickpath.common.udp import UdpError, open_udp_socket
from tickpath.feed.kernels.decode import decode, make_state
from tickpath.feed.layout import Channel, Count, Hop

_SLOT_BYTES = 2048
_MIN_BLOCK = 2 + 12  # the shortest message that can make a tick is longer
_BATCHES_PER_TURN = 4

_decode = direct(decode)  # `Feed.warm_up` has the types checked once


class Feed(Stage):
    """Receive in batches, decode from the receive buffer, publish what changed."""

    name = "feed"
    counters = Count
    histograms = Hop

    @classmethod
    def extra_fields(cls, config: Config) -> Fields:
        """Channel state, last tick and halts per instrument."""
        n = len(load_instruments(config.instruments))
        return {"channel": ("<i8", (len(Channel),)), "marks": (TICK, (n,)), "halted": ("<i8", (n,))}

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        table = load_instruments(config.instruments)
        odd = [s for s, ratio in zip(table.symbols, table.array["price4_per_tick"], strict=True) if ratio != 1]
        if odd:
            msg = (
                f"{config.instruments}: ITCH prices are 1/10000, so tick_size must be 0.0001; it is not for {odd[:5]}"
            )
            raise StartError(msg)
        options = config.feed
        self.state = make_state(
            table, options.order_capacity, options.level_capacity, self.counts,
            page["channel"], page["marks"], page["halted"],
        )  # fmt: skip
        try:
            self.socket, granted = open_udp_socket(
                options.host, options.port, options.rcvbuf_bytes, interface=options.interface
            )
        except UdpError as error:
            msg = f"{error} (feed.host, feed.port)"
            raise StartError(msg) from None
        self.counts[Count.RECEIVE_BUFFER_BYTES] = granted
        self.receiver = DatagramReceiver(self.socket.fileno(), options.batch, _SLOT_BYTES)
        self.ticks = np.zeros(options.batch * (_SLOT_BYTES // _MIN_BLOCK), dtype=TICK)
        self.decoded_ns = self.ticks["decoded_ns"]
        self.hop = self.hist[Hop.RECV_TO_DECODE]
        self.sender = FanoutSender(
            context, config.link_addresses("ticks"), RecordKind.TICK, self.name, self.epoch, config.links
        )
        self.paused = side["control"] if side is not None else np.zeros(len(Control), dtype=np.int64)

    def inputs(self) -> Sequence[Any]:
        """The market data socket and the requests of subscribers."""
        return self.socket.fileno(), self.sender.want

    def warm_up(self) -> None:
        """The kernels are compiled by their import; run them once on nothing, touch the output."""
        decode(self.state, self.receiver.buffer, self.receiver.lengths, 0, 0, 0, self.ticks)
        record(np.zeros_like(self.hop), 0)
        self.ticks[:] = self.ticks[:1]

    def turn(self, now: int, ready: Ready) -> bool:
        """Take what has arrived, decode it, publish the ticks."""
        if self.socket.fileno() in ready:
            for _ in range(_BATCHES_PER_TURN):
                arrived = self.receiver.receive()
                if arrived <= 0:
                    break
                recv_ns = now_ns()
                n = _decode(self.state, self.receiver.buffer, self.receiver.lengths, 0, arrived, recv_ns, self.ticks)
                if n:
                    decoded_ns = now_ns()
                    self.decoded_ns[:n] = decoded_ns
                    record(self.hop, decoded_ns - recv_ns)
                    if self.paused[Control.PAUSED]:
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
        """START: trust the books again after a gap, by an operator's decision."""
        del argument, now
        if what == Command.START:
            self.state.channel[Channel.SUSPECT] = 0

    def close(self) -> None:
        """Close socket and link."""
        self.sender.close()
        self.socket.close()


if __name__ == "__main__":
    sys.exit(run_hot(Feed))
