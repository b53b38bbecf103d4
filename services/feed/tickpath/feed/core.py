"""feed without its link: the market data socket, the books, and the kernel that turns one into the other."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.config import Config
from tickpath.common.instruments import load_instruments
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.net import DatagramReceiver
from tickpath.common.pages import Command, Control, Fields, HotPage, Page
from tickpath.common.process import StartError
from tickpath.common.records import TICK
from tickpath.common.udp import UdpError, open_udp_socket
from tickpath.feed.kernels.decode import decode, make_state
from tickpath.feed.layout import Channel, Count, Hop

_SLOT_BYTES: Final = 2048
_MIN_BLOCK: Final = 2 + 12  # the shortest message that can make a tick is longer


class FeedPage(HotPage):
    """Feed's page: with the state of the channel, the last tick and the halts of each instrument."""

    name = "feed"
    counters = Count
    histograms = Hop

    @classmethod
    def extra_fields(cls, config: Config) -> Fields:
        """Channel, marks, halted."""
        n = len(load_instruments(config.instruments))
        return {"channel": ("<i8", (len(Channel),)), "marks": (TICK, (n,)), "halted": ("<i8", (n,))}


class FeedCore:
    """Socket, receive buffer, books and ticks; `page` and `side` are the pages of the service."""

    def __init__(self, config: Config, page: Page, side: Page | None) -> None:
        """Raises StartError."""
        table = load_instruments(config.instruments)
        odd = [s for s, ratio in zip(table.symbols, table.array["price_units_per_tick"], strict=True) if ratio != 1]
        if odd:
            msg = (
                f"{config.instruments}: tick_size must be the price_unit of the feed (0.0001 where that column is"
                f" missing); it is not for {odd[:5]}"
            )
            raise StartError(msg)
        options = config.feed
        self.counts: npt.NDArray[np.int64] = page["counters"]
        self.control: npt.NDArray[np.int64] = (
            side["control"] if side is not None else np.zeros(len(Control), dtype=np.int64)
        )
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
        self.ticks: npt.NDArray[Any] = np.zeros(options.batch * (_SLOT_BYTES // _MIN_BLOCK), dtype=TICK)
        self.hop: npt.NDArray[np.int64] = page["hist"][Hop.RECV_TO_DECODE]

    def warm_up(self) -> None:
        """The kernels are compiled by their import; run them once on nothing, touch the output."""
        decode(self.state, self.receiver.buffer, self.receiver.lengths, 0, 0, 0, self.ticks)
        record(np.zeros_like(self.hop), 0)
        self.ticks[:] = self.ticks[:1]

    def command(self, what: Command) -> None:
        """START: trust the books again after a gap, by an operator's decision."""
        if what == Command.START:
            self.state.channel[Channel.SUSPECT] = 0

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
