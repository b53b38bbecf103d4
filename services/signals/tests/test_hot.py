"""signals in the ZeroMQ lane: the stage in this process, with feed, risk and exec played by the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from libs.common.tests.shm_rig import make_config
from services.signals.tests.test_shm import BUY, PUPPET, TABLE
from tickpath.common.clock import now_ns
from tickpath.common.links import FanoutSender, LogReceiver, LogSender, RingLog
from tickpath.common.pages import Hot, create_side_page
from tickpath.common.records import REPORT, TICK, ExecEvent, OrderState, RecordKind, TickFlag, pack_cl_ord_id
from tickpath.signals.hot import Signals
from tickpath.signals.layout import Counter

JOURNAL = 5  # epoch of exec's journal
NOTHING = 0  # what the puppet is told by a tick


class Rig:
    """The stage, and the others' ends of its links."""

    def __init__(self, folder: Path, context: zmq.Context[Any]) -> None:
        self.config = make_config(
            folder, TABLE, links={"lane": "zmq-ipc", "heartbeat_ms": 20},
            signals={"series_capacity": 16, "strategies": [{"path": f"{PUPPET}:puppet", "id": 1}]},
        )  # fmt: skip
        addresses, links = self.config.link_addresses, self.config.links
        self.config.run_dir.mkdir(parents=True, exist_ok=True)
        self.feed = FanoutSender(context, addresses("ticks"), RecordKind.TICK, "feed", 1, links)
        self.journal = RingLog(REPORT, 64)
        self.exec = LogSender(context, addresses("reports"), RecordKind.REPORT, "exec", JOURNAL, self.journal, links)
        side = create_side_page(self.config.run_dir, "signals")
        page = Signals.create_page(self.config)
        page["hot"][Hot.EPOCH] = 1
        self.stage = Signals(self.config, context, page, side)
        self.stage.warm_up()
        self.risk = LogReceiver(context, addresses("signals"), RecordKind.SIGNAL, "risk", links)
        self.until(lambda: self.stage.connected(now_ns()))

    def turn(self) -> None:
        now = now_ns()
        for end in (self.feed, self.exec):
            end.serve(now)
        self.feed.tend(now)
        self.risk.receive(now)
        self.risk.tend(now)
        self.stage.run(now)
        self.stage.tend(now)

    def until(self, condition: Callable[[], bool]) -> None:
        """Turn until something is so."""
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            self.turn()
            time.sleep(0.001)

    def tick(self, seq: int, what: int) -> None:
        """A tick, seen by the strategy."""
        one = np.zeros(1, TICK)
        one["cause_seq"], one["volume_lots"] = seq, what
        one["bid_ticks"], one["ask_ticks"], one["flags"] = 1_000_000, 1_000_100, TickFlag.QUOTE
        before = self.count(Counter.TICKS)
        self.feed.send(one, now_ns())
        self.until(lambda: self.count(Counter.TICKS) > before)

    def answer(self, seq: int, follows_seq: int) -> None:
        """Risk's answer to the signals up to `seq`, which signals has heard then."""
        self.until(lambda: self.risk.expected_seq > seq)
        self.risk.ack(seq, (JOURNAL, follows_seq))
        self.until(lambda: self.stage.sender.acked_seq == seq)

    def report_sent(self, cause_seq: int) -> None:
        """exec's report that the order of a tick has left."""
        one = np.zeros(1, REPORT)
        one["seq"], one["strategy"] = self.journal.next_seq, 1
        one["cl_ord_id"] = pack_cl_ord_id(1, int(TABLE.array["shard"][0]), cause_seq, 0)
        one["side"], one["qty_lots"], one["leaves_lots"] = 1, 10, 10
        one["event"], one["state"] = ExecEvent.SEND, OrderState.PENDING_NEW
        self.exec.append(one)
        self.until(lambda: self.count(Counter.REPORTS) == self.journal.next_seq - 1)

    def count(self, counter: Counter) -> int:
        return int(self.stage.counts[counter])

    @property
    def own(self) -> Any:
        return self.stage.engine.memory["own"][0, 0]

    def close(self) -> None:
        self.stage.close()
        for end in (self.feed, self.exec, self.risk):
            end.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with zmq.Context() as context:
        made = Rig(tmp_path, context)
        yield made
        made.close()


def test_an_answer_that_overtakes_the_report_of_its_order_makes_nobody_forget_the_order(rig: Rig) -> None:
    """They come over two links; under load the report comes last. Until it is here the order is in flight."""
    rig.tick(1, BUY)
    rig.answer(1, follows_seq=1)
    rig.tick(2, NOTHING)
    assert rig.count(Counter.ORDERS_REFUSED) == 0
    assert (rig.own["open_orders"], rig.own["in_flight"]) == (1, 1)
    rig.report_sent(1)
    rig.tick(3, NOTHING)
    assert rig.count(Counter.ORDERS_REFUSED) == rig.count(Counter.ORDERS_UNTRACKED) == 0
    assert (rig.own["open_orders"], rig.own["in_flight"]) == (1, 0)


def test_an_order_that_was_refused_is_forgotten_when_the_reports_before_the_answer_are_here(rig: Rig) -> None:
    rig.tick(1, BUY)
    rig.tick(2, BUY)  # this one is refused: no report of it will ever come
    rig.answer(2, follows_seq=1)
    rig.tick(3, NOTHING)
    assert rig.own["in_flight"] == 2
    rig.report_sent(1)
    rig.tick(4, NOTHING)
    assert rig.count(Counter.ORDERS_REFUSED) == 1
    assert (rig.own["open_orders"], rig.own["in_flight"]) == (1, 0)


def test_a_risk_that_knows_nothing_of_reports_takes_no_answer_back(rig: Rig) -> None:
    """It was started again, and says once more what is answered; the report is still on its way."""
    rig.tick(1, BUY)
    rig.answer(1, follows_seq=1)
    rig.risk.ack(1, (0, 0))
    rig.until(lambda: rig.stage.sender.follows == (0, 0))
    rig.tick(2, NOTHING)
    assert rig.count(Counter.ORDERS_REFUSED) == 0
    assert rig.own["in_flight"] == 1
    rig.report_sent(1)
    rig.tick(3, NOTHING)
    assert rig.count(Counter.ORDERS_REFUSED) == rig.count(Counter.ORDERS_UNTRACKED) == 0
