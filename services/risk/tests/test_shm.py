"""risk in the shm lane: real kernels over real rings, with feed, signals and exec played by the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from libs.common.tests.shm_rig import blocks_grown, make_config, make_stage, reader_of, writer_of
from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.instruments import make_table
from tickpath.common.pages import Command, Control, Hot, Page, SeqLock, create_side_page
from tickpath.common.records import ORDER, REPORT, SIGNAL, TICK, Action, ExecEvent, OrderState, RecordKind, Side
from tickpath.risk.layout import Counter
from tickpath.risk.limits import (
    FIRST_SYMBOL_ROW,
    GLOBAL_ROW,
    LIMIT,
    OPEN_SCOPE,
    UNLIMITED_WORD,
    Scope,
    TradingState,
    fields_of,
    fill_row,
    new_rows,
)
from tickpath.risk.shm import Risk
from tickpath.risk.state import Core

TABLE = make_table([("A", "0.01", 1, 1, 1, "USD"), ("B", "0.01", 1, 1, 1, "USD")])
JOURNAL = 77  # epoch of exec's journal
TOO_MANY = 1_000_000  # lots, above every limit


def make_side(config: Config) -> Page:
    """The page of a side process that lets everything pass but TOO_MANY lots."""
    rows = new_rows(TABLE)
    side = create_side_page(config.run_dir, "risk", {"limits": (LIMIT, (len(rows),))})
    for row in range(FIRST_SYMBOL_ROW):
        fill_row(rows, row, Scope.GLOBAL, OPEN_SCOPE)
    limits = dict.fromkeys(fields_of(Scope.SYMBOL), UNLIMITED_WORD)
    limits |= {"order_rate_window_ms": "1000", "max_order_qty_lots": str(TOO_MANY - 1)}
    for index in range(len(TABLE)):
        fill_row(rows, FIRST_SYMBOL_ROW + index, Scope.SYMBOL, limits)
    rows["state"] = TradingState.ACTIVE
    side["limits"][:] = rows
    side["control"][Control.LEASE_UNTIL_NS] = 2**62
    return side


class Rig:
    """The stage between a feed, a signals and an exec, with limits in a real side page."""

    def __init__(self, folder: Path, *, exec_is_there: bool = True, **links: int) -> None:
        self.config = make_config(folder, TABLE, links=links, risk={**RISK, "order_capacity": 1024})
        self.side = make_side(self.config)
        self.ticks = writer_of(self.config, "ticks", RecordKind.TICK)
        self.signals = writer_of(self.config, "signals", RecordKind.SIGNAL, "risk")
        self.reports = writer_of(self.config, "reports.risk", RecordKind.REPORT, "risk", log=True)
        self.cause_seq = 0
        self.start()
        self.exec = reader_of(self.config, "orders", "exec", RecordKind.ORDER)
        if exec_is_there:
            self.begin_journal(JOURNAL)

    def start(self) -> None:
        """A life of risk."""
        self.stage: Risk = make_stage(Risk, self.config, self.side)

    def begin_journal(self, epoch: int, end: int = 1) -> None:
        """A journal of `end` - 1 entries; the stage has asked for the first."""
        self.reports.set_log(epoch, end)
        self.stage.tend(now_ns())
        assert self.reports.tend() == 1
        self.stage.tend(now_ns())

    def tick(self, n: int = 1) -> None:
        """Ticks of the first instrument, now."""
        ticks = np.zeros(n, TICK)
        ticks["recv_ns"], ticks["flags"] = now_ns(), 1
        ticks["bid_ticks"], ticks["ask_ticks"], ticks["bid_lots"], ticks["ask_lots"] = 9_999, 10_001, 100, 100
        assert self.ticks.publish(ticks) == n

    def signal(self, *lots: int, action: Action = Action.NEW) -> np.ndarray:
        """Signals to buy so many lots each, published at once; causes count on."""
        signals = np.zeros(len(lots), SIGNAL)
        signals["cause_seq"] = np.arange(len(lots)) + self.cause_seq + 1
        self.cause_seq += len(lots)
        signals["recv_ns"] = signals["signalled_ns"] = now_ns()
        signals["bid_ticks"], signals["ask_ticks"], signals["price_ticks"] = 9_999, 10_001, 10_000
        signals["strategy"], signals["side"], signals["qty_lots"], signals["action"] = 1, Side.BUY, lots, action
        assert self.signals.publish(signals) == len(lots)
        return signals

    def journal(self, orders: np.ndarray, event: ExecEvent, state: OrderState) -> None:
        """Journal entries of orders, shipped."""
        reports = np.zeros(len(orders), REPORT)
        for name in set(ORDER.names or ()) & set(REPORT.names or ()):
            reports[name] = orders[name]
        reports["seq"] = np.arange(len(orders)) + self.reports.published + 1
        reports["event"], reports["state"], reports["leaves_lots"] = event, state, orders["qty_lots"]
        if event == ExecEvent.FILL:
            reports["last_lots"], reports["last_ticks"], reports["leaves_lots"] = orders["qty_lots"], 10_000, 0
        self.reports.set_log(JOURNAL, int(reports["seq"][-1]) + 1)
        assert self.reports.publish(reports) == len(reports)

    def run(self) -> bool:
        """One turn of the loop, or the limits taken when they have changed."""
        return self.stage.run(0)

    def orders(self) -> np.ndarray:
        """Orders that exec has not read yet."""
        return self.exec.read()[0]

    @property
    def acked(self) -> int:
        """Signals that are acknowledged."""
        found: int = self.signals.statistics()["readers"]["risk"]["acked"]
        return found

    def core(self, index: Core) -> int:
        return int(self.stage.state.core[index])

    def count(self, counter: Counter) -> int:
        return int(self.stage.counts[counter])

    def close(self) -> None:
        self.stage.close()
        for end in (self.ticks, self.signals, self.reports, self.exec):
            end.close()


RISK = {
    "order_rate": "unlimited",
    "limits": {
        "max_order_qty_lots": 1, "max_order_notional": 1, "collar_aggressive_bps": 1, "collar_passive_bps": 1,
        "max_spread_bps": 1, "max_long_lots": 1, "max_short_lots": 1, "max_data_age_ms": 1, "order_rate": 1,
        "order_rate_window_ms": 1000,
    },
}  # fmt: skip  # what Redis would begin with; the side page of the rig has others


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.tick()
    yield made
    made.close()


def test_marks_are_applied_before_the_signals_that_came_of_them(rig: Rig) -> None:
    """Without the mark the signal would be refused: no tick of the instrument was seen."""
    rig.signal(1)
    assert rig.run()
    assert rig.orders()["cause_seq"].tolist() == [1]
    assert rig.core(Core.TICKS) == 1
    assert rig.stage.page["hot"][Hot.DIGESTED] == 1


def test_a_signal_is_acknowledged_when_it_was_refused_or_when_exec_has_its_order(rig: Rig) -> None:
    rig.signal(TOO_MANY)
    rig.run()
    assert rig.acked == 1
    rig.signal(1)
    rig.run()
    rig.signal(TOO_MANY)
    rig.run()
    assert rig.acked == 1  # the refused one waits for the one before it
    assert len(rig.orders()) == 1
    rig.exec.ack()
    rig.run()
    assert rig.acked == 3


def test_signals_are_acknowledged_in_order_however_exec_acknowledges(rig: Rig) -> None:
    for _ in range(5):
        rig.signal(1)
        rig.run()
    rig.orders()
    for order in range(1, 6):
        rig.exec.ack(order)
        rig.run()
        assert rig.acked == order


def test_an_order_that_finds_no_room_waits_and_nothing_is_decided_before_it_left(tmp_path: Path) -> None:
    """A CANCEL may make as many orders as are open; three do not fit into a ring of two."""
    rig = Rig(tmp_path, log_ring=2)
    rig.tick()
    for _ in range(3):
        rig.signal(1)
        rig.run()
        rig.journal(rig.orders(), ExecEvent.SEND, OrderState.PENDING_NEW)
        rig.exec.ack()
        rig.run()
    rig.signal(0, action=Action.CANCEL)
    rig.signal(1)
    rig.run()
    rig.run()
    assert rig.count(Counter.BACK_PRESSURE) == 1
    assert [int(order["action"]) for order in rig.orders()] == [Action.CANCEL] * 2
    assert rig.acked == 3
    rig.exec.ack()
    rig.run()
    left = rig.orders()
    assert [int(order["action"]) for order in left] == [Action.CANCEL, Action.NEW]
    rig.exec.ack()
    rig.run()
    assert rig.acked == 5
    rig.close()


def test_changed_limits_are_taken_before_the_next_decision(rig: Rig) -> None:
    before = rig.count(Counter.LIMITS_TAKEN)
    with SeqLock(rig.side["control"], Control.VERSION):
        rig.side["limits"][GLOBAL_ROW]["state"] = TradingState.REDUCING
    rig.signal(1)
    rig.run()
    assert rig.count(Counter.LIMITS_TAKEN) == before + 1
    rig.run()
    assert len(rig.orders()) == 0
    assert rig.core(Core.REJECTED) == 1


def test_a_kill_switch_cancels_what_is_open_and_so_does_the_command(rig: Rig) -> None:
    rig.signal(1)
    rig.run()
    sent = rig.orders()
    rig.journal(sent, ExecEvent.SEND, OrderState.PENDING_NEW)
    rig.run()
    rig.stage.command(Command.CANCEL_ALL, now_ns())
    rig.stage.tend(now_ns())
    rig.run()
    (cancel,) = rig.orders()
    assert (cancel["action"], cancel["cl_ord_id"]) == (Action.CANCEL, sent["cl_ord_id"][0])
    with SeqLock(rig.side["control"], Control.VERSION):
        rig.side["limits"][GLOBAL_ROW]["state"] = TradingState.HALTED
    rig.stage.tend(now_ns() + 10**9)
    rig.run()
    assert [int(order["action"]) for order in rig.orders()] == [Action.CANCEL]


def test_nothing_is_decided_before_the_journal_was_replayed(tmp_path: Path) -> None:
    rig = Rig(tmp_path, exec_is_there=False)
    rig.tick()
    (signal,) = rig.signal(1)
    rig.run()
    assert len(rig.orders()) == 0
    assert rig.core(Core.REJECTED) == rig.core(Core.READY) == 0
    rig.begin_journal(JOURNAL, end=2)
    rig.run()
    assert rig.core(Core.READY) == 0
    decided = np.zeros(1, ORDER)
    for name in ("cause_seq", "strategy", "side", "qty_lots", "price_ticks", "action"):
        decided[name] = signal[name]
    decided["cl_ord_id"] = 1 << 56 | int(signal["cause_seq"]) << 8
    rig.journal(decided, ExecEvent.SEND, OrderState.PENDING_NEW)
    rig.run()
    rig.stage.tend(now_ns())
    rig.run()
    assert rig.core(Core.READY) == 1
    assert len(rig.orders()) == 0  # an earlier life had sent it
    assert rig.acked == 1
    rig.stage.tend(now_ns())
    assert rig.count(Counter.SIGNALS_REPEATED) == 1
    rig.close()


def test_the_next_life_decides_nothing_until_exec_has_the_orders_of_the_last(rig: Rig) -> None:
    rig.signal(1)
    rig.run()
    rig.stage.close()
    rig.start()
    rig.reports.tend()
    rig.stage.tend(now_ns())
    rig.run()
    assert rig.stage.page["core"][Core.READY] == 0
    sent = rig.orders()
    assert len(sent) == 1
    rig.journal(sent, ExecEvent.SEND, OrderState.PENDING_NEW)
    rig.exec.ack()
    rig.run()
    rig.stage.tend(now_ns())
    rig.run()
    assert rig.stage.page["core"][Core.READY] == 1
    assert len(rig.orders()) == 0  # the signal came again and is known
    assert rig.acked == 1


def test_another_journal_makes_everything_forgotten(rig: Rig) -> None:
    rig.signal(3)
    rig.run()
    order = rig.orders()
    rig.journal(order, ExecEvent.SEND, OrderState.PENDING_NEW)
    rig.journal(order, ExecEvent.FILL, OrderState.FILLED)
    rig.exec.ack()
    rig.run()
    assert rig.stage.state.live["position_lots"][FIRST_SYMBOL_ROW] == 3
    rig.begin_journal(JOURNAL + 1)
    assert rig.stage.state.live["position_lots"][FIRST_SYMBOL_ROW] == 0
    assert rig.count(Counter.REPORT_EPOCHS) == 2


def test_without_exec_positions_are_not_known_and_a_draining_risk_refuses(rig: Rig) -> None:
    rig.stage.tend(now_ns() + 3600 * 10**9)
    assert rig.core(Core.READY) == 0
    rig.stage.tend(now_ns())
    assert rig.core(Core.READY) == 1
    rig.signal(1)
    rig.run()
    rig.stage.begin_drain(now_ns())
    assert not rig.stage.drained(now_ns())
    rig.signal(1)
    rig.run()
    assert len(rig.orders()) == 1
    rig.exec.ack()
    rig.run()
    assert rig.acked == 2
    assert rig.stage.drained(now_ns())


def test_marks_that_were_missed_are_counted_exactly(rig: Rig) -> None:
    rig.run()
    rig.tick(1000)
    rig.tick(1000)
    rig.run()
    assert rig.count(Counter.TICKS_LOST) == 2000 - 1024
    assert rig.count(Counter.TICK_GAPS) == 1
    assert rig.core(Core.TICKS) == 1 + 1024


def test_the_loop_allocates_nothing_per_record(tmp_path: Path) -> None:
    rig = Rig(tmp_path, log_ring=1024)

    def flood(n: int) -> int:
        rig.tick(n)
        rig.signal(*[1] * n)
        grown = blocks_grown(lambda: [rig.run() for _ in range(4)])
        assert len(rig.orders()) == n
        rig.exec.ack()
        return grown

    flood(10)
    few = flood(10)
    many = flood(900)
    assert rig.core(Core.APPROVED) == 920
    assert many - few <= 10
    rig.close()
