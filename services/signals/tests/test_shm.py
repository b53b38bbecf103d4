"""signals in the shm lane: real strategies over real rings, with feed, risk and exec played by the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.common.tests.shm_rig import blocks_grown, make_config, make_stage, reader_of, writer_of
from tickpath.common.clock import now_ns
from tickpath.common.instruments import make_table
from tickpath.common.pages import Control, Hot, create_side_page
from tickpath.common.process import StartError
from tickpath.common.records import REPORT, TICK, Action, ExecEvent, OrderState, RecordKind, TickFlag, pack_cl_ord_id
from tickpath.signals.layout import Counter
from tickpath.signals.shm import Signals

TABLE = make_table([("AAPL", "0.0001", 100, 1, 1, "USD"), ("MSFT", "0.0001", 100, 1, 1, "USD")])
PUPPET = Path(__file__).parent / "puppet.py"
JOURNAL = 77  # epoch of exec's journal
BUY, CANCEL, BUY_MANY = 1, 3, 5  # what the puppet is told by a tick


class Rig:
    """The stage between a feed, a risk and an exec."""

    def __init__(self, folder: Path, *, exec_is_there: bool = True, **links: int) -> None:
        strategies = [{"path": f"{PUPPET}:puppet", "id": 1}]
        self.config = make_config(
            folder, TABLE, links=links, signals={"series_capacity": 16, "strategies": strategies}
        )
        self.ticks = writer_of(self.config, "ticks", RecordKind.TICK)
        self.reports = writer_of(self.config, "reports.signals", RecordKind.REPORT, "signals", log=True)
        self.start()
        self.risk = reader_of(self.config, "signals", "risk", RecordKind.SIGNAL)
        if exec_is_there:
            self.begin_journal(JOURNAL)

    def start(self) -> None:
        """A life of signals."""
        self.side = create_side_page(self.config.run_dir, "signals")
        self.stage: Signals = make_stage(Signals, self.config, self.side)

    def begin_journal(self, epoch: int) -> None:
        """An empty journal, which the stage has seen to be empty."""
        self.reports.set_log(epoch, 1)
        self.stage.tend(now_ns())
        assert self.reports.tend() == 1
        self.stage.tend(now_ns())

    def tick(self, *seqs: int, what: int = BUY, much: int = 0) -> None:
        """Ticks with these causes, published at once."""
        ticks = np.zeros(len(seqs), TICK)
        ticks["cause_seq"], ticks["volume_lots"], ticks["last_lots"] = seqs, what, much
        ticks["bid_ticks"], ticks["ask_ticks"], ticks["flags"] = 1_000_000, 1_000_100, TickFlag.QUOTE
        assert self.ticks.publish(ticks) == len(seqs)

    def report(self, cause_seq: int, event: ExecEvent, state: OrderState) -> None:
        """A journal entry about the order that came of a tick."""
        one = np.zeros(1, REPORT)
        seq = self.reports.published + 1
        one["seq"], one["strategy"] = seq, 1
        one["cl_ord_id"] = pack_cl_ord_id(1, int(TABLE.array["shard"][0]), cause_seq, 0)
        one["side"], one["qty_lots"], one["leaves_lots"], one["event"], one["state"] = 1, 10, 10, event, state
        self.reports.set_log(JOURNAL, seq + 1)
        assert self.reports.publish(one) == 1

    def run(self) -> bool:
        """One turn of the loop."""
        return self.stage.run(0)

    def causes(self) -> list[int]:
        """Causes of the signals that risk has not read yet."""
        found: list[int] = self.risk.read()[0]["cause_seq"].tolist()
        return found

    def count(self, counter: Counter) -> int:
        return int(self.stage.counts[counter])

    @property
    def own(self) -> Any:
        return self.stage.engine.memory["own"][0, 0]

    def close(self) -> None:
        self.stage.close()
        for end in (self.ticks, self.reports, self.risk):
            end.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_signals_of_ticks_reach_risk_in_order_and_are_in_the_digest(rig: Rig) -> None:
    rig.tick(11, 12)
    rig.tick(13)
    assert rig.run()
    assert rig.causes() == [11, 12, 13]
    assert rig.count(Counter.SIGNALS_NEW) == rig.stage.page["hot"][Hot.DIGESTED] == 3
    assert rig.stage.page["hot"][Hot.DIGEST] != 0


def test_a_stage_that_was_lapped_counts_exactly_what_it_missed(rig: Rig) -> None:
    rig.tick(*range(1, 11))
    rig.run()
    for first in range(11, 2911, 100):
        rig.tick(*range(first, first + 100))
    while rig.run():
        pass
    assert rig.count(Counter.TICKS_LOST) == 2900 - 1024
    assert rig.count(Counter.TICK_GAPS) == 1
    assert rig.count(Counter.TICKS) == 10 + 1024


def test_ticks_wait_while_risk_has_no_room_and_nothing_is_lost(tmp_path: Path) -> None:
    """A ring of 16 signals, and a tick may make 8 of them: with 9 in the ring the next tick waits."""
    rig = Rig(tmp_path, log_ring=16)
    rig.tick(*range(1, 15))
    rig.run()
    rig.run()
    assert rig.causes() == list(range(1, 10))
    assert rig.count(Counter.BACK_PRESSURE) == 1
    rig.risk.ack()
    rig.run()
    assert rig.causes() == list(range(10, 15))
    assert rig.count(Counter.BACK_PRESSURE) == 1
    rig.close()


def test_an_order_is_refused_when_its_signal_is_answered_and_the_journal_has_no_report_of_it(rig: Rig) -> None:
    rig.tick(1)
    rig.run()
    assert rig.own["in_flight"] == 1
    assert rig.causes() == [1]
    rig.risk.ack()
    rig.tick(2, what=0)
    rig.run()
    assert rig.own["in_flight"] == 0
    assert rig.count(Counter.ORDERS_REFUSED) == 1


def test_an_answered_order_is_not_refused_while_its_report_is_under_way(rig: Rig) -> None:
    """exec says how long the journal is, then acknowledges, then ships: whatever is seen first, the order stays."""
    rig.tick(1)
    rig.run()
    rig.causes()
    rig.reports.set_log(JOURNAL, 2)
    rig.risk.ack()
    rig.tick(2, what=0)
    rig.run()
    assert rig.own["in_flight"] == 1
    rig.report(1, ExecEvent.SEND, OrderState.PENDING_NEW)
    rig.tick(3, what=0)
    rig.run()
    assert (rig.own["in_flight"], rig.own["open_orders"]) == (0, 1)
    assert rig.count(Counter.ORDERS_REFUSED) == 0


def test_nothing_new_leaves_before_the_journal_was_read_nor_while_paused_but_cancels_do(tmp_path: Path) -> None:
    rig = Rig(tmp_path, exec_is_there=False)
    rig.tick(1)
    rig.run()
    assert rig.causes() == []
    assert rig.count(Counter.INTENTS_MUTED) == 1
    rig.begin_journal(JOURNAL)
    rig.tick(2)
    rig.run()
    assert rig.causes() == [2]
    rig.side["control"][Control.PAUSED] = 1
    rig.tick(3)
    rig.tick(4, what=CANCEL)
    rig.run()
    cancels = rig.risk.read()[0]
    assert cancels["cause_seq"].tolist() == [4]
    assert cancels["action"].tolist() == [Action.CANCEL]
    rig.close()


def test_another_journal_makes_everything_that_was_owned_forgotten(rig: Rig) -> None:
    rig.tick(1)
    rig.run()
    rig.report(1, ExecEvent.SEND, OrderState.PENDING_NEW)
    rig.run()
    assert rig.own["open_orders"] == 1
    rig.begin_journal(JOURNAL + 1)
    assert rig.own["open_orders"] == 0
    assert rig.stage.reports.epochs == 2


def test_the_next_life_derives_the_same_signals_from_the_ticks_that_are_left(rig: Rig) -> None:
    rig.tick(*range(1, 4))
    rig.run()
    assert rig.causes() == [1, 2, 3]
    digest = int(rig.stage.page["hot"][Hot.DIGEST])
    rig.stage.close()
    rig.start()
    rig.reports.tend()
    rig.stage.tend(now_ns())
    rig.run()
    assert rig.causes() == [1, 2, 3]
    assert rig.stage.page["hot"][Hot.DIGEST] == digest


def test_it_is_connected_when_all_are_there_and_drained_when_all_is_answered(rig: Rig) -> None:
    now = now_ns()
    assert rig.stage.connected(now)
    assert not rig.stage.connected(now + 3600 * 10**9)
    rig.tick(1)
    rig.run()
    rig.stage.begin_drain(now)
    assert not rig.stage.drained(now)
    rig.causes()
    rig.risk.ack()
    assert rig.stage.drained(now)


def test_a_ring_that_one_tick_may_overflow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="one tick may make 8 signals"):
        Rig(tmp_path, log_ring=4)


def test_the_loop_allocates_nothing_per_tick(rig: Rig) -> None:
    def flood(n: int, first: int) -> int:
        rig.tick(*range(first, first + n), what=0)
        return blocks_grown(rig.run)

    flood(10, 1)
    few = flood(10, 100)
    many = flood(1000, 1000)
    assert rig.count(Counter.TICKS) == 1020
    assert many - few <= 10
