"""Open orders from approval to their end: what is counted, when it is released, and what a restart rebuilds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tickpath.common.records import Action, ExecEvent, OrderState, Side, unpack_cl_ord_id
from tickpath.risk.kernels import risk as kernel
from tickpath.risk.limits import GLOBAL_ROW, TradingState
from tickpath.risk.reasons import Reason
from tickpath.risk.state import At, Core

BUY, SELL = Side.BUY, Side.SELL
PASS = Reason.PASS


def exposure(desk: Any, instrument: Any = 0) -> Any:
    return desk.incremental()[instrument]


def test_an_order_carries_the_stamps_and_the_id_of_its_signal(desk: Any) -> None:
    signal = desk.signal(
        SELL, 7, 10_005, cause_seq=77, exch_ns=1, decoded_ns=2, signalled_ns=3, k=4, shard=5, strategy=6, tif=3
    )
    assert desk.decide(signal) == PASS
    order = desk.out[0]
    assert unpack_cl_ord_id(int(order["cl_ord_id"])) == (6, 5, 77, 4)
    for name in ("cause_seq", "exch_ns", "recv_ns", "decoded_ns", "signalled_ns", "price_ticks", "qty_lots"):
        assert order[name] == signal[name][0]
    assert (order["side"], order["tif"], order["action"]) == (SELL, 3, Action.NEW)
    assert order["approved_ns"] == desk.now_ns
    assert desk.hist[:, 0].tolist() == [1, 1]


def test_approval_reserves_and_only_the_end_of_an_order_releases(desk: Any) -> None:
    assert desk.buy(10) == PASS
    order = desk.last_id()
    for event, state in [
        (ExecEvent.SEND, OrderState.PENDING_NEW),
        (ExecEvent.ACKNOWLEDGED, OrderState.NEW),
        (ExecEvent.CANCEL_SENT, OrderState.PENDING_CANCEL),
        (ExecEvent.DISCONNECT, OrderState.UNKNOWN),
        (ExecEvent.CANCEL_REJECT, OrderState.UNKNOWN),
    ]:
        desk.report(order, event, state)
        assert exposure(desk) == (0, 10, 0, 1), event
    desk.fill(order, 4)
    assert exposure(desk) == (4, 6, 0, 1)
    desk.done(order)
    assert exposure(desk) == (4, 0, 0, 0)


@pytest.mark.parametrize("event", [ExecEvent.VENUE_REJECT, ExecEvent.NOT_SENT, ExecEvent.CANCELLED])
def test_terminal_evidence_releases(desk: Any, event: Any) -> None:
    assert desk.sell(10) == PASS
    assert exposure(desk) == (0, 0, 10, 1)
    desk.done(desk.last_id(), event)
    assert exposure(desk) == (0, 0, 0, 0)


def test_reconciliation_takes_the_word_of_the_venue_for_what_is_open(desk: Any) -> None:
    assert desk.buy(10) == PASS
    order = desk.last_id()
    desk.report(order, ExecEvent.DISCONNECT, OrderState.UNKNOWN)
    desk.report(order, ExecEvent.RECONCILED, OrderState.NEW, leaves_lots=8)
    assert exposure(desk) == (0, 8, 0, 1)


def test_a_cancel_that_takes_off_only_a_part_releases_only_that(desk: Any) -> None:
    assert desk.buy(10) == PASS
    desk.report(desk.last_id(), ExecEvent.CANCELLED, OrderState.NEW, last_lots=4, leaves_lots=6)
    assert exposure(desk) == (0, 6, 0, 1)


class TestImpossibleReports:
    """Positions follow the fills whatever happens; the instrument goes to REDUCING until a person re-arms it."""

    def check(self, desk: Any, position: Any) -> None:
        assert exposure(desk)[:3] == (position, 0, 0)
        assert desk.live()["trips"] == 1
        assert desk.buy(1) == Reason.REDUCE_ONLY
        assert desk.sell(position) == PASS
        assert desk.buy(1, instrument=1) == PASS
        desk.row()["trips_handled"] = 1
        assert desk.buy(1) == PASS

    def test_fill_after_the_cancel_was_confirmed(self, desk: Any) -> None:
        assert desk.buy(10) == PASS
        order = desk.last_id()
        desk.done(order)
        desk.fill(order, 3)
        self.check(desk, 3)

    def test_fill_of_more_than_is_open(self, desk: Any) -> None:
        assert desk.buy(10) == PASS
        desk.fill(desk.last_id(), 11)
        self.check(desk, 11)

    def test_fill_at_a_price_worse_than_the_limit(self, desk: Any) -> None:
        assert desk.buy(10) == PASS
        desk.fill(desk.last_id(), 10, last_ticks=10_001)
        self.check(desk, 10)

    @pytest.mark.parametrize("fields", [{"instrument": 3}, {"instrument": -1}, {"strategy": 0}, {"side": 0}])
    def test_a_report_that_cannot_be_placed_makes_positions_unknown(self, desk: Any, fields: Any) -> None:
        desk.report(1 << 56, ExecEvent.SEND, OrderState.PENDING_NEW, **fields)
        assert desk.buy(1) == Reason.POSITION_UNKNOWN

    def test_a_report_that_contradicts_its_order_makes_positions_unknown(self, desk: Any) -> None:
        assert desk.buy(10) == PASS
        desk.report(desk.last_id(), ExecEvent.FILL, OrderState.FILLED, last_lots=10, side=SELL)
        assert exposure(desk) == (0, 10, 0, 1)
        assert desk.buy(1) == Reason.POSITION_UNKNOWN

    def test_a_gap_in_the_reports_stops_there(self, desk: Any) -> None:
        assert desk.buy(10) == PASS
        gap = desk.make_report(desk.last_id(), ExecEvent.FILL, OrderState.FILLED, last_lots=10, seq=2)
        assert desk.apply(gap) == 0
        assert exposure(desk) == (0, 10, 0, 1)
        assert desk.buy(1) == Reason.POSITION_UNKNOWN

    def test_a_repeated_report_is_counted_once(self, desk: Any) -> None:
        assert desk.buy(10) == PASS
        desk.fill(desk.last_id(), 4)
        assert desk.apply(desk.journal[-1]) == 1
        assert exposure(desk) == (4, 6, 0, 1)
        assert desk.state.core[Core.REPORTS_REPEATED] == 1


class TestRestart:
    def test_the_journal_rebuilds_positions_open_orders_and_ids(self, desk: Any, desks: Any) -> None:
        signals = [desk.signal(BUY, 10), desk.signal(SELL, 5, 10_002), desk.signal(BUY, 3, instrument=1)]
        ids = []
        for signal in signals:
            assert desk.decide(signal) == PASS
            ids.append(desk.last_id())
            desk.report(ids[-1], ExecEvent.SEND, OrderState.PENDING_NEW)
        desk.fill(ids[0], 4)
        desk.done(ids[1])
        fresh = desks()
        fresh.apply(np.concatenate(desk.journal))
        assert fresh.incremental() == desk.incremental()
        used = desk.state.orders["cl_ord_id"] != 0
        again = fresh.state.orders["cl_ord_id"] != 0
        for name in ("cl_ord_id", "leaves_lots", "price_ticks", "qty_lots", "side", "strategy", "state", "k"):
            assert sorted(desk.state.orders[used][name]) == sorted(fresh.state.orders[again][name])
        assert [fresh.decide(signal) for signal in signals] == [Reason.ALREADY_DECIDED] * 3
        signals[2]["qty_lots"] += 1
        assert fresh.decide(signals[2]) == Reason.DUPLICATE_ID

    def test_the_order_rate_survives(self, desk: Any, desks: Any) -> None:
        assert desk.buy(1) == PASS
        desk.report(desk.last_id(), ExecEvent.SEND, OrderState.PENDING_NEW)
        fresh = desks()
        fresh.row()["order_rate"] = 1
        fresh.apply(np.concatenate(desk.journal))
        assert fresh.send(cause_seq=99) == Reason.ORDER_RATE
        fresh.now_ns += 1_000_000_000
        assert fresh.send(cause_seq=100) == PASS

    def test_more_open_orders_than_the_table_holds_leave_the_positions_unknown(self, desk: Any, desks: Any) -> None:
        for _ in range(5):
            desk.open(BUY, 1)
        fresh = desks(capacity=4)
        fresh.apply(np.concatenate(desk.journal))
        assert fresh.state.core[Core.OVERFLOW] == 1
        assert fresh.send(cause_seq=10) == Reason.MAX_OPEN_ORDERS
        fresh.journal = list(desk.journal)
        fresh.done(int(desk.journal[0]["cl_ord_id"][0]))
        assert fresh.send(cause_seq=11) == Reason.POSITION_UNKNOWN


class TestCancelSignals:
    def test_all_open_orders_of_strategy_and_instrument_and_side(self, desk: Any) -> None:
        ids = {}
        for name, side, fields in [
            ("buy", BUY, {}),
            ("sell", SELL, {}),
            ("other instrument", BUY, {"instrument": 1}),
            ("other strategy", BUY, {"strategy": 2}),
        ]:
            assert desk.send(side, 1, **fields) == PASS
            ids[name] = desk.last_id()
        assert desk.cancel(side=SELL)["cl_ord_id"].tolist() == [ids["sell"]]
        both = desk.cancel()
        assert both["cl_ord_id"].tolist() == [ids["buy"]], "the sell's cancel is in flight already"
        assert (both["action"] == Action.CANCEL).all()
        assert both["side"].tolist() == [BUY]
        assert exposure(desk)[3] == 3, "a cancel releases nothing"

    def test_a_cancel_in_flight_is_asked_for_again_after_a_while_or_when_it_failed(self, desk: Any) -> None:
        assert desk.buy(1) == PASS
        order = desk.last_id()
        assert [len(desk.cancel()) for _ in range(2)] == [1, 0]
        desk.report(order, ExecEvent.CANCEL_REJECT, OrderState.NEW)
        assert [len(desk.cancel()) for _ in range(2)] == [1, 0]
        desk.now_ns += int(desk.state.core[Core.CANCEL_REPEAT_NS])
        assert [len(desk.cancel()) for _ in range(2)] == [1, 0]

    @pytest.mark.parametrize(("instrument", "strategy"), [(-1, 1), (3, 1), (2, 1), (0, 0), (0, 65535)])
    def test_nothing_open_is_nothing_to_cancel(self, desk: Any, instrument: Any, strategy: Any) -> None:
        assert desk.buy(1) == PASS
        assert len(desk.cancel(instrument=instrument, strategy=strategy)) == 0


class TestCancelHalted:
    def cancels(self, desk: Any, everything: int = 0) -> Any:
        n = kernel.cancel_halted(desk.state.context, desk.now_ns, everything)
        return desk.out[:n]["cl_ord_id"].tolist()

    @pytest.fixture
    def ids(self, desk: Any) -> Any:
        result = []
        for fields in ({}, {"instrument": 1}, {"strategy": 2}, {"instrument": 1, "strategy": 2}):
            assert desk.buy(1, **fields) == PASS
            result.append(desk.last_id())
        return result

    @pytest.mark.parametrize(
        ("row", "which"), [(GLOBAL_ROW, [0, 2, 1, 3]), (2, [2, 3]), (128, [0, 2, 1, 3]), (129, [0, 2]), (130, [1, 3])]
    )
    def test_open_orders_of_the_scope_oldest_first(self, desk: Any, ids: Any, row: Any, which: Any) -> None:
        assert self.cancels(desk) == []
        desk.limits[row]["state"] = TradingState.HALTED
        assert self.cancels(desk) == [ids[i] for i in which]

    def test_repeats_until_every_order_is_terminal(self, desk: Any, ids: Any) -> None:
        desk.limits[GLOBAL_ROW]["state"] = TradingState.HALTED
        assert len(self.cancels(desk)) == 4
        assert len(self.cancels(desk)) == 0
        desk.done(ids[0])
        desk.now_ns += int(desk.state.core[Core.CANCEL_REPEAT_NS])
        assert sorted(self.cancels(desk)) == sorted(ids[1:])

    def test_goes_on_where_the_room_ended(self, desk: Any, ids: Any) -> None:
        desk.limits[GLOBAL_ROW]["state"] = TradingState.HALTED
        desk.state.context[At.N_OUT] = 3
        seen = self.cancels(desk) + self.cancels(desk)
        assert sorted(seen) == sorted(ids)

    def test_everything_can_be_cancelled_without_a_halt(self, desk: Any, ids: Any) -> None:
        assert sorted(self.cancels(desk, everything=1)) == sorted(ids)
