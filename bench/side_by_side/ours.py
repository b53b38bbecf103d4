"""Our side: the kernels of the services over the same messages, set up as the services set them up."""

from __future__ import annotations

import select
import socket
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from side_by_side import loops
from side_by_side.market import SLOT_BYTES, STRATEGY, STRATEGY_ID, SYMBOL, Market
from side_by_side.venue import answer_ouch
from tickpath.common.histogram import empty
from tickpath.common.instruments import make_table
from tickpath.common.jit import direct
from tickpath.common.kernels.net import DatagramReceiver
from tickpath.common.pages import Control
from tickpath.common.records import ORDER, SIGNAL, TICK
from tickpath.common.udp import open_udp_socket
from tickpath.exec.gateway import order_templates
from tickpath.exec.journal import Journal
from tickpath.exec.layout import Reg
from tickpath.exec.orders import Orders
from tickpath.feed.kernels.decode import make_state
from tickpath.feed.layout import Channel, Count
from tickpath.risk.kernels.risk import apply_reports
from tickpath.risk.limits import (
    FIRST_SYMBOL_ROW,
    GLOBAL_ROW,
    OPEN_SCOPE,
    UNLIMITED,
    Scope,
    TradingState,
    fill_row,
    new_rows,
)
from tickpath.risk.state import Core, RiskState
from tickpath.signals.engine import Engine, Running
from tickpath.signals.strategy import load_strategy

Records = npt.NDArray[np.void]

BATCH: Final = 64
_MESSAGES: Final = SLOT_BYTES // 14  # most in one datagram that make a tick
_SEND_BYTES: Final = 1 << 18

_chain = direct(loops.chain)


class Ours:
    """Feed, signals, risk and exec for one symbol, with a journal in `folder` that did not exist before."""

    def __init__(self, folder: Path, risk: dict[str, Any], params: dict[str, Any] | None = None) -> None:
        table = make_table([(SYMBOL, "0.0001", 100, 1, 1, "USD")])
        self.counts = np.zeros(len(Count), np.int64)
        self.halted = np.zeros(1, np.int64)
        self.feed = make_state(
            table, 1 << 16, 1 << 12, self.counts, np.zeros(len(Channel), np.int64), np.zeros(1, TICK), self.halted
        )
        strategy = load_strategy("tickpath.signals.strategies.ema_cross:ema_cross")
        self.engine = Engine([Running(strategy, STRATEGY_ID, STRATEGY if params is None else params)], table)
        self.signals = np.zeros(8192, SIGNAL)
        limits = new_rows(table)
        for row in range(FIRST_SYMBOL_ROW):
            fill_row(limits, row, Scope.GLOBAL, OPEN_SCOPE)
        fill_row(limits, GLOBAL_ROW, Scope.GLOBAL, {name: risk[name] for name in OPEN_SCOPE})
        fill_row(limits, FIRST_SYMBOL_ROW, Scope.SYMBOL, risk["limits"])
        limits["state"] = TradingState.ACTIVE
        control = np.zeros(len(Control), np.int64)
        control[Control.LEASE_UNTIL_NS] = UNLIMITED
        self.approved = np.zeros(2048, ORDER)
        self.risk = RiskState(limits, 1 << 10, control, self.approved, empty(2))
        self.risk.core[Core.READY] = 1
        self.journal = Journal.open(folder / "journal", 20120621)
        self.journal.present.view(np.uint8)[::4096] = 0  # there, as the locked memory of the hot process is
        self.orders = Orders(self.journal, table.array, capacity=1 << 12, day_orders=1 << 16)
        self.send_buffer = np.zeros(_SEND_BYTES, np.uint8)
        self.receive_buffer = np.zeros(_SEND_BYTES, np.uint8)
        self._templates = order_templates(table)
        ctx = self.context = self.orders.ctx
        ctx[Reg.SEND], ctx[Reg.SEND_SIZE] = self.send_buffer.ctypes.data, _SEND_BYTES
        ctx[Reg.RECEIVE], ctx[Reg.RECEIVE_SIZE] = self.receive_buffer.ctypes.data, _SEND_BYTES
        ctx[Reg.TEMPLATES], ctx[Reg.INSTRUMENTS], ctx[Reg.CONNECTED] = self._templates.ctypes.data, 1, 1
        self.orders.set_refusal(None)
        self.ticks = np.zeros(BATCH * _MESSAGES, TICK)
        self.receive_view = self.receive_buffer.data
        self.filled = 0  # bytes in the receive buffer
        self.reported = 0  # entries of the journal that risk and signals have seen
        engine = self.engine
        self.strategies = np.array(
            [
                engine.module.run_at.address, engine.memory.bytes.ctypes.data, len(engine.memory.bytes),
                engine.counters.ctypes.data, engine.hist.ctypes.data,
            ],
            np.int64,
        )  # fmt: skip

    # One stage after the other, over `count` datagrams from `first` on.

    def ingest(self, market: Market, first: int, end: int, ticks: Records, ends: npt.NDArray[np.int64]) -> int:
        """Datagrams to TICK records; how many."""
        return int(loops.ingest(self.feed, market.buffer, market.lengths, first, end, ticks, ends))

    def decide_signals(self, ticks: Records, ends: npt.NDArray[np.int64], count: int, out: Records) -> int:
        """Ticks to SIGNAL records; how many."""
        return int(loops.signals(self.strategies, ticks, ends, count, out))

    def mark(self, ticks: Records, ends: npt.NDArray[np.int64], count: int) -> None:
        """Risk's marks follow the ticks."""
        loops.mark(self.risk.context, ticks, ends, count)

    def mark_one(self, now_ns: int) -> None:
        """A tick, for risk to know the instrument by when it is given signals only."""
        tick = np.zeros(1, TICK)
        tick["recv_ns"] = now_ns
        self.mark(tick, np.ones(1, np.int64), 1)

    def assess(self, signals: Records, out: Records) -> int:
        """Signals to ORDER records; how many."""
        return int(loops.assess(self.risk.context, signals, self.approved, out))

    def generate(self, orders: Records) -> int:
        """Orders to the journal and to bytes in the send buffer; how many bytes."""
        return int(loops.generate(self.context, orders))

    def publish(self) -> None:
        """The journal's entries are complete."""
        self.orders.accept(self.approved[:0], 0)

    def take_bytes(self) -> bytes:
        """The send buffer, which is then empty."""
        raw = bytes(self.send_buffer[: int(self.context[Reg.SEND_TAIL])])
        self.context[Reg.SEND_TAIL] = 0
        return raw

    def hear(self, raw: bytes, now_ns: int) -> int:
        """Bytes of the venue, as if they had been received; see `heard`."""
        self.receive_view[self.filled : self.filled + len(raw)] = raw
        self.filled += len(raw)
        return self.heard(now_ns)

    def heard(self, now_ns: int) -> int:
        """What the receive buffer holds: journal it, let risk and the strategies know. How many reports that made."""
        self.publish()
        at = self.orders.decode(0, self.filled, now_ns)
        if at < self.filled:
            self.receive_buffer[: self.filled - at] = self.receive_buffer[at : self.filled].copy()
        self.filled -= at
        n = 0
        while len(reports := self.journal.read(self.reported + 1, 4096)):
            apply_reports(self.risk.context, reports, now_ns)
            self.engine.apply(reports)
            self.reported += len(reports)
            n += len(reports)
        return n

    def decide(self, market: Market) -> list[tuple[int, int, int, int]]:
        """All stages, a datagram at a time, on paper: every order is filled at once.

        (cause_seq, side, lots, price in ticks) of every order.
        """
        made: list[tuple[int, int, int, int]] = []
        ends, out = np.zeros(1, np.int64), np.zeros(16, ORDER)
        for i in range(len(market)):
            n = self.ingest(market, i, i + 1, self.ticks, ends)
            if n == 0:
                continue
            self.mark(self.ticks, ends, 1)
            n = self.decide_signals(self.ticks, ends, 1, self.signals)
            if n == 0:
                continue
            approved = self.assess(self.signals[:n], out)
            self.generate(out[:approved])
            if approved:
                self.hear(answer_ouch(self.take_bytes()), int(out[0]["approved_ns"]))
            self.engine.acknowledge(self.engine.signal_seq)  # what made no order was refused
            made += [
                (int(o["cause_seq"]), int(o["side"]), int(o["qty_lots"]), int(o["price_ticks"]))
                for o in out[:approved]
            ]
        return made

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()


class Chain:
    """Our side with its sockets: datagrams in over UDP, orders out over TCP without Nagle's algorithm."""

    def __init__(self, stages: Ours, venue: tuple[str, int]) -> None:
        self.stages = stages
        self.udp, _ = open_udp_socket("127.0.0.1", 0, 8 << 20)
        self.market_data = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.market_data.connect(self.udp.getsockname())
        self.receiver = DatagramReceiver(self.udp.fileno(), BATCH, SLOT_BYTES)
        self.tcp = socket.create_connection(venue)
        self.tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tcp.setblocking(False)
        self._events = select.poll()
        self._events.register(self.tcp.fileno(), select.POLLIN)
        self.n = np.zeros(3, np.int64)  # datagrams, ticks, orders
        self._arguments = (
            self.receiver.fd, self.receiver.messages, self.receiver.buffer, self.receiver.lengths, stages.feed,
            stages.strategies, stages.ticks, stages.signals, stages.risk.context, stages.approved, stages.context,
            self.tcp.fileno(), self.n,
        )  # fmt: skip
        loops.chain(*self._arguments)  # the types are checked here, once

    def turn(self) -> None:
        """All that waits at the UDP socket, through to the TCP socket: one compiled call."""
        status = _chain(*self._arguments)
        if status:
            msg = f"the chain stopped with {status}"
            raise RuntimeError(msg)

    def listen(self) -> int:
        """Take the venue's answers that are there; number of reports."""
        s = self.stages
        if not self._events.poll(0):
            return 0
        s.filled += self.tcp.recv_into(s.receive_view[s.filled :])
        return s.heard(1)

    def settle(self) -> None:
        """Wait for the answers to all orders: each is journaled three times, sent, accepted and filled."""
        while self.stages.reported < 3 * int(self.n[2]):
            self._events.poll(10_000)
            self.listen()

    def close(self) -> None:
        """Close the sockets."""
        for each in (self.udp, self.market_data, self.tcp):
            each.close()
