"""risk in the ZeroMQ lane: the stage in this process, with feed, signals and exec played by the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from libs.common.tests.shm_rig import make_config
from services.risk.tests.test_shm import RISK, TABLE, make_side
from tickpath.common.clock import now_ns
from tickpath.common.links import FanoutSender, LogReceiver, LogSender, RingLog
from tickpath.common.pages import Hot
from tickpath.common.records import REPORT, SIGNAL, TICK, Action, RecordKind, Side
from tickpath.risk.hot import Risk
from tickpath.risk.state import Core


class Rig:
    """The stage, and the others' ends of its links."""

    def __init__(self, folder: Path, context: zmq.Context[Any]) -> None:
        links = {"lane": "zmq-ipc", "heartbeat_ms": 20}
        self.config = make_config(folder, TABLE, links=links, risk={**RISK, "order_capacity": 1024})
        self.config.run_dir.mkdir(parents=True, exist_ok=True)
        side = make_side(self.config)
        addresses, options = self.config.link_addresses, self.config.links
        self.feed = FanoutSender(context, addresses("ticks"), RecordKind.TICK, "feed", 1, options)
        self.signals = LogSender(
            context, addresses("signals"), RecordKind.SIGNAL, "signals", 1, RingLog(SIGNAL, 64), options, ("risk",)
        )
        self.reports = LogSender(
            context, addresses("reports"), RecordKind.REPORT, "exec", 1, RingLog(REPORT, 64), options
        )
        page = Risk.create_page(self.config)
        page["hot"][Hot.EPOCH] = 1
        self.stage = Risk(self.config, context, page, side)
        self.stage.warm_up()
        self.exec = LogReceiver(context, addresses("orders"), RecordKind.ORDER, "exec", options)
        self.orders: list[int] = []
        self.beats = True
        self.until(lambda: self.stage.connected(now_ns()))
        self.beats = False  # the next thing that comes from feed is a tick
        while self.stage.tick_link.sub.poll(200):
            self.stage.run(now_ns())

    def others(self) -> None:
        """A turn of feed, signals and exec."""
        now = now_ns()
        for end in (self.feed, self.signals, self.reports):
            end.serve(now)
        if self.beats:
            self.feed.tend(now)
        for _, orders in self.exec.receive(now):
            self.orders += orders["cause_seq"].tolist()
        self.exec.tend(now)

    def until(self, condition: Callable[[], bool]) -> None:
        """Turn until something is so."""
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            self.others()
            self.stage.run(now_ns())
            self.stage.tend(now_ns())
            time.sleep(0.001)

    def tick(self) -> None:
        """A tick of the first instrument, which lies in the stage's socket when this returns."""
        one = np.zeros(1, TICK)
        one["recv_ns"], one["flags"] = now_ns(), 1
        one["bid_ticks"], one["ask_ticks"], one["bid_lots"], one["ask_lots"] = 9_999, 10_001, 100, 100
        self.feed.send(one, now_ns())
        assert self.stage.tick_link.sub.poll(30_000)

    def signal(self) -> None:
        """A signal of that tick. Something of signals lies in the stage's socket when this returns."""
        one = np.zeros(1, SIGNAL)
        one["recv_ns"] = one["signalled_ns"] = now_ns()
        one["bid_ticks"], one["ask_ticks"], one["price_ticks"] = 9_999, 10_001, 10_000
        one["cause_seq"], one["strategy"], one["side"], one["qty_lots"], one["action"] = 1, 1, Side.BUY, 1, Action.NEW
        assert self.signals.send(one, now_ns()) == 1
        assert self.stage.signal_inlet.link.socket.poll(30_000)

    def marks(self) -> int:
        return int(self.stage.state.core[Core.TICKS])

    def close(self) -> None:
        for end in (self.stage, self.feed, self.signals, self.reports, self.exec):
            end.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with zmq.Context() as context:
        made = Rig(tmp_path, context)
        yield made
        made.close()


def test_marks_are_applied_before_the_signals_that_came_with_them(rig: Rig) -> None:
    """Without the mark the signal would be refused: no tick of the instrument was seen."""
    rig.tick()
    assert rig.marks() == 0
    rig.signal()
    rig.stage.run(now_ns())
    assert rig.marks() == 1
    rig.until(lambda: rig.orders == [1])
