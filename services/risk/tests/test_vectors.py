"""The vectors of the risk reference, one test per table, and the boundaries that its text states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tickpath.common.pages import Control
from tickpath.common.records import NO_PRICE_TICKS, Action, ExecEvent, OrderState, Side, TickFlag
from tickpath.risk.limits import ACCOUNT_ROW, GLOBAL_ROW, UNLIMITED, TradingState
from tickpath.risk.reasons import Reason
from tickpath.risk.state import Core

MS = 1_000_000
BUY, SELL = Side.BUY, Side.SELL
PASS = Reason.PASS


class TestKillSwitch:
    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (GLOBAL_ROW, Reason.KILL_SWITCH_GLOBAL),
            (ACCOUNT_ROW, Reason.KILL_SWITCH_ACCOUNT),
            (1, Reason.KILL_SWITCH_STRATEGY),
            (129, Reason.KILL_SWITCH_SYMBOL),
        ],
    )
    def test_halted_scope_refuses_new_orders_and_lets_cancels_pass(self, desk: Any, row: Any, reason: Any) -> None:
        assert desk.buy(1) == PASS
        desk.limits[row]["state"] = TradingState.HALTED
        assert desk.buy(1) == reason
        assert len(desk.cancel()) == 1

    def test_halted_symbol_leaves_the_others_alone(self, desk: Any) -> None:
        desk.row(0)["state"] = TradingState.HALTED
        assert desk.buy(1, instrument=1) == PASS

    def test_halted_strategy_leaves_the_others_alone(self, desk: Any) -> None:
        desk.limits[1]["state"] = TradingState.HALTED
        assert desk.buy(1, strategy=2) == PASS

    def test_the_kill_switch_is_looked_at_before_everything_but_the_bounds(self, desk: Any) -> None:
        desk.limits[GLOBAL_ROW]["state"] = TradingState.HALTED
        assert desk.buy(0, instrument=77, recv_ns=0) == Reason.KILL_SWITCH_GLOBAL

    @pytest.mark.parametrize(
        ("bought", "open_sells", "qty", "reason"),
        [
            (100, 0, 100, PASS),
            (100, 0, 101, Reason.REDUCE_ONLY),
            (100, 60, 40, PASS),
            (100, 60, 41, Reason.REDUCE_ONLY),
            (0, 0, 1, Reason.REDUCE_ONLY),
            (-100, 0, 1, Reason.REDUCE_ONLY),
        ],
    )
    @pytest.mark.parametrize("mirror", [False, True])
    def test_reducing_lets_only_orders_through_that_cannot_enlarge_or_flip(
        self, desk: Any, bought: Any, open_sells: Any, qty: Any, reason: Any, mirror: Any
    ) -> None:
        desk.set_position(-bought if mirror else bought)
        side = BUY if mirror else SELL
        if open_sells:
            desk.open(side, open_sells)
        for row in (GLOBAL_ROW, ACCOUNT_ROW, 1, 129):
            desk.limits["state"] = TradingState.ACTIVE
            desk.limits[row]["state"] = TradingState.REDUCING
            signal = desk.signal(side, qty)
            assert desk.decide(signal) == reason
            if reason == PASS:
                desk.done(desk.last_id())

    def test_control_lease_expires_by_our_own_clock(self, desk: Any) -> None:
        desk.control[Control.LEASE_UNTIL_NS] = desk.now_ns
        assert desk.buy(1) == PASS
        desk.control[Control.LEASE_UNTIL_NS] = desk.now_ns - 1
        assert desk.buy(1) == Reason.KILL_SWITCH_GLOBAL
        assert len(desk.cancel()) == 1


class TestForm:
    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"qty": 0}, Reason.INVALID_QTY),
            ({"qty": -1}, Reason.INVALID_QTY),
            ({"qty": 2**31 - 1}, PASS),
            ({"qty": 2**31}, Reason.INVALID_QTY),
            ({"price": 0}, Reason.INVALID_PRICE),
            ({"price": -1}, Reason.INVALID_PRICE),
            ({"price": 2**31 - 1}, PASS),
            ({"price": 2**31}, Reason.INVALID_PRICE),
            ({"side": 0}, Reason.MALFORMED),
            ({"side": 3}, Reason.MALFORMED),
            ({"tif": 3}, PASS),
            ({"tif": 1}, Reason.MALFORMED),
            ({"action": 0}, Reason.MALFORMED),
            ({"action": 3}, Reason.MALFORMED),
            ({"strategy": 0}, Reason.MALFORMED),
            ({"strategy": 127}, PASS),
            ({"strategy": 128}, Reason.MALFORMED),
            ({"shard": 255}, PASS),
            ({"shard": 256}, Reason.MALFORMED),
            ({"cause_seq": -1}, Reason.MALFORMED),
            ({"cause_seq": 2**40 - 1}, PASS),
            ({"cause_seq": 2**40}, Reason.MALFORMED),
            ({"instrument": 2}, PASS),
            ({"instrument": 3}, Reason.UNKNOWN_SYMBOL),
            ({"instrument": -1}, Reason.UNKNOWN_SYMBOL),
        ],
    )
    def test_fields_out_of_range(self, desk: Any, fields: Any, reason: Any) -> None:
        assert desk.send(**fields) == reason

    def test_price_off_tick(self, desk: Any) -> None:
        desk.row()["price_step_ticks"] = 5
        assert desk.buy(1, price=10_000) == PASS
        assert desk.buy(1, price=10_001) == Reason.INVALID_TICK

    def test_quantity_off_lot(self, desk: Any) -> None:
        desk.row()["qty_step_lots"] = 100
        assert desk.buy(200) == PASS
        assert desk.buy(150) == Reason.INVALID_LOT


class TestIds:
    def test_same_signal_twice_keeps_its_first_decision_and_sends_nothing(self, desk: Any) -> None:
        signal = desk.signal()
        assert desk.decide(signal) == PASS
        assert desk.decide(signal) == Reason.ALREADY_DECIDED
        assert desk.state.core[Core.REJECTED] == 0

    def test_a_refused_signal_is_not_tried_again(self, desk: Any) -> None:
        desk.row()["max_order_qty_lots"] = 0
        signal = desk.signal()
        assert desk.decide(signal) == Reason.MAX_ORDER_QTY
        desk.row()["max_order_qty_lots"] = 10
        assert desk.decide(signal) == Reason.ALREADY_DECIDED

    @pytest.mark.parametrize("change", [{"price_ticks": 9_990}, {"qty_lots": 2}, {"side": SELL}, {"instrument": 1}])
    def test_same_id_with_another_payload(self, desk: Any, change: Any) -> None:
        signal = desk.signal()
        assert desk.decide(signal) == PASS
        for name, value in change.items():
            signal[name] = value
        assert desk.decide(signal) == Reason.DUPLICATE_ID

    def test_same_id_with_another_payload_while_younger_orders_are_decided(self, desk: Any) -> None:
        signal = desk.signal()
        assert desk.decide(signal) == PASS
        assert desk.buy(1) == PASS
        assert desk.decide(signal) == Reason.ALREADY_DECIDED
        signal["price_ticks"] += 1
        assert desk.decide(signal) == Reason.DUPLICATE_ID

    def test_a_signal_below_the_watermark_is_old(self, desk: Any) -> None:
        old, young = desk.signal(), desk.signal()
        assert desk.decide(young) == PASS
        assert desk.decide(old) == Reason.ALREADY_DECIDED

    def test_k_numbers_the_signals_of_one_cause(self, desk: Any) -> None:
        assert desk.send(cause_seq=5, k=0) == PASS
        assert desk.send(cause_seq=5, k=1) == PASS
        assert desk.send(cause_seq=5, k=1) == Reason.ALREADY_DECIDED

    def test_each_strategy_and_shard_has_its_own_watermark(self, desk: Any) -> None:
        assert desk.send(cause_seq=9) == PASS
        assert desk.send(cause_seq=5, strategy=2) == PASS
        assert desk.send(cause_seq=5, shard=1) == PASS


class TestMarketData:
    def test_age(self, desk: Any) -> None:
        desk.row()["max_data_age_ns"] = 50 * MS
        assert desk.buy(1, recv_ns=desk.now_ns - 50 * MS) == PASS
        assert desk.buy(1, recv_ns=desk.now_ns - 50 * MS - 1) == Reason.MARKET_DATA_STALE

    def test_suspect_book(self, desk: Any) -> None:
        desk.tick(flags=TickFlag.QUOTE | TickFlag.SUSPECT)
        assert desk.buy(1) == Reason.MARKET_DATA_INVALID
        desk.tick()
        assert desk.buy(1) == PASS

    def test_halted_instrument(self, desk: Any) -> None:
        assert desk.buy(1) == PASS
        desk.tick(flags=TickFlag.HALTED)
        assert desk.buy(1) == Reason.HALTED_INSTRUMENT
        assert len(desk.cancel()) == 1

    def test_no_update_since_start(self, desk: Any) -> None:
        desk.live()["mark_recv_ns"] = 0
        assert desk.buy(1) == Reason.REFERENCE_PRICE_UNAVAILABLE

    def test_signal_without_a_tick(self, desk: Any) -> None:
        assert desk.buy(1, recv_ns=0) == Reason.REFERENCE_PRICE_UNAVAILABLE

    def test_tick_from_the_future(self, desk: Any) -> None:
        assert desk.buy(1, recv_ns=desk.now_ns + 1) == Reason.MARKET_DATA_INVALID

    @pytest.mark.parametrize(
        ("bid", "ask"), [(10_000, 10_000), (10_001, 10_000), (0, 10_000), (2**31, 2**32), (-5, 10_000)]
    )
    def test_locked_crossed_or_impossible_book(self, desk: Any, bid: Any, ask: Any) -> None:
        assert desk.buy(1, bid_ticks=bid, ask_ticks=ask) == Reason.MARKET_DATA_INVALID


class TestQuantityAndNotional:
    def test_quantity(self, desk: Any) -> None:
        desk.row()["max_order_qty_lots"] = 500
        assert desk.buy(500) == PASS
        assert desk.buy(501) == Reason.MAX_ORDER_QTY

    @pytest.mark.parametrize(
        ("instrument", "side", "qty", "price", "reason"),
        [
            (0, BUY, 10_000, 10_000, PASS),
            (0, BUY, 10_000, 10_001, Reason.MAX_ORDER_NOTIONAL),
            (0, SELL, 10_001, 9_000, PASS),
            (0, SELL, 10_002, 9_000, Reason.MAX_ORDER_NOTIONAL),
            (2, BUY, 4, 500_000, PASS),
            (2, BUY, 5, 500_000, Reason.MAX_ORDER_NOTIONAL),
            (2, BUY, 2**31 - 1, 2**31 - 1, Reason.MAX_ORDER_NOTIONAL),
        ],
    )
    def test_notional(self, desk: Any, instrument: Any, side: Any, qty: Any, price: Any, reason: Any) -> None:
        desk.row(instrument)["max_order_notional_e8"] = 1_000_000 * 10**8
        assert desk.send(side, qty, price, instrument=instrument) == reason

    def test_a_sell_without_a_bid_cannot_be_valued(self, desk: Any) -> None:
        desk.row()["max_order_notional_e8"] = 1_000_000 * 10**8
        assert desk.sell(1, bid_ticks=NO_PRICE_TICKS) == Reason.REFERENCE_PRICE_UNAVAILABLE
        assert desk.buy(1, bid_ticks=NO_PRICE_TICKS) == PASS


class TestCollar:
    @pytest.mark.parametrize(
        ("ref", "side", "price", "reason"),
        [
            (10_000, BUY, 10_500, PASS),
            (10_000, BUY, 10_501, Reason.PRICE_COLLAR_HIGH),
            (10_000, SELL, 9_500, PASS),
            (10_000, SELL, 9_499, Reason.PRICE_COLLAR_LOW),
            (10_000, BUY, 8_000, PASS),
            (10_000, BUY, 7_999, Reason.PRICE_COLLAR_LOW),
            (10_000, SELL, 12_000, PASS),
            (10_000, SELL, 12_001, Reason.PRICE_COLLAR_HIGH),
            (333, BUY, 349, PASS),
            (333, BUY, 350, Reason.PRICE_COLLAR_HIGH),
            (333, SELL, 317, PASS),
            (333, SELL, 316, Reason.PRICE_COLLAR_LOW),
        ],
    )
    def test_collar(self, desk: Any, ref: Any, side: Any, price: Any, reason: Any) -> None:
        desk.row()["collar_aggressive_bps"], desk.row()["collar_passive_bps"] = 500, 2000
        assert desk.send(side, 1, price, bid_ticks=ref - 1, ask_ticks=ref + 1) == reason

    @pytest.mark.parametrize("side", [BUY, SELL])
    @pytest.mark.parametrize("empty", ["bid_ticks", "ask_ticks"])
    def test_no_reference(self, desk: Any, side: Any, empty: Any) -> None:
        desk.row()["collar_aggressive_bps"] = 500
        assert desk.send(side, **{empty: NO_PRICE_TICKS}) == Reason.REFERENCE_PRICE_UNAVAILABLE

    def test_half_ticks_of_the_mid_are_not_rounded_away(self, desk: Any) -> None:
        desk.row()["collar_aggressive_bps"] = 0
        assert desk.buy(1, price=100, bid_ticks=100, ask_ticks=101) == PASS
        assert desk.buy(1, price=101, bid_ticks=100, ask_ticks=101) == Reason.PRICE_COLLAR_HIGH
        assert desk.sell(1, price=101, bid_ticks=100, ask_ticks=101) == PASS
        assert desk.sell(1, price=100, bid_ticks=100, ask_ticks=101) == Reason.PRICE_COLLAR_LOW

    def test_a_wide_book_is_no_reference(self, desk: Any) -> None:
        desk.row()["collar_aggressive_bps"], desk.row()["max_spread_bps"] = 500, 200
        assert desk.buy(1, bid_ticks=9_900, ask_ticks=10_100) == PASS
        assert desk.buy(1, bid_ticks=9_899, ask_ticks=10_101) == Reason.REFERENCE_PRICE_UNAVAILABLE


class TestOpenOrders:
    @pytest.mark.parametrize("row", [GLOBAL_ROW, ACCOUNT_ROW, 1, 129])
    def test_limit_counts_orders_until_they_are_terminal(self, desk: Any, row: Any) -> None:
        desk.limits[row]["max_open_orders"] = 50
        for _ in range(50):
            assert desk.buy(1) == PASS
        assert desk.buy(1) == Reason.MAX_OPEN_ORDERS
        victim = desk.last_id()
        desk.report(victim, ExecEvent.CANCEL_SENT, OrderState.PENDING_CANCEL)
        assert desk.buy(1) == Reason.MAX_OPEN_ORDERS
        desk.done(victim)
        assert desk.buy(1) == PASS

    def test_a_full_table_refuses(self, desks: Any) -> None:
        desk = desks(capacity=4)
        assert [desk.buy(1) for _ in range(5)] == [PASS] * 4 + [Reason.MAX_OPEN_ORDERS]


class TestPosition:
    @pytest.mark.parametrize(
        ("held", "buys", "sells", "side", "most"),
        [
            (600, 300, 0, BUY, 100),
            (600, 300, 0, SELL, 1600),
            (1200, 0, 0, SELL, 2200),
            (1200, 0, 0, BUY, 0),
            (-950, 0, 40, SELL, 10),
        ],
    )
    def test_worst_case_of_the_side(self, desk: Any, held: Any, buys: Any, sells: Any, side: Any, most: Any) -> None:
        desk.row()["max_long_lots"] = desk.row()["max_short_lots"] = UNLIMITED
        desk.set_position(held)
        if buys:
            desk.open(BUY, buys)
        if sells:
            desk.open(SELL, sells)
        desk.row()["max_long_lots"] = desk.row()["max_short_lots"] = 1000
        assert desk.send(side, most + 1) == Reason.POSITION_LIMIT
        if most:
            assert desk.send(side, most) == PASS
        assert desk.send(side, 1) == Reason.POSITION_LIMIT

    def test_a_lowered_limit_leaves_the_way_out_open(self, desk: Any) -> None:
        desk.set_position(1200)
        desk.row()["max_long_lots"] = desk.row()["max_short_lots"] = 1000
        assert desk.sell(500) == PASS
        assert desk.buy(1) == Reason.POSITION_LIMIT

    def test_unknown_until_the_journal_was_replayed(self, desk: Any) -> None:
        desk.state.core[Core.READY] = 0
        assert desk.buy(1) == Reason.POSITION_UNKNOWN
        desk.limits[GLOBAL_ROW]["state"] = TradingState.REDUCING
        assert desk.buy(1) == Reason.POSITION_UNKNOWN


class TestOrderRate:
    @pytest.mark.parametrize("row", [GLOBAL_ROW, ACCOUNT_ROW, 1, 129])
    def test_exact_ring(self, desk: Any, row: Any) -> None:
        desk.limits[row]["order_rate"], desk.limits[row]["order_rate_window_ns"] = 3, 1000 * MS
        start = desk.now_ns
        decisions = []
        for at_ms in (0, 100, 200, 300, 999, 1000, 1001, 1100):
            desk.now_ns = start + at_ms * MS
            decisions.append(desk.buy(1))
        a, r = PASS, Reason.ORDER_RATE
        assert decisions == [a, a, a, r, r, a, r, a]

    def test_zero_blocks(self, desk: Any) -> None:
        desk.row()["order_rate"] = 0
        assert desk.buy(1) == Reason.ORDER_RATE

    def test_a_rate_is_per_symbol(self, desk: Any) -> None:
        desk.row()["order_rate"] = 1
        assert [desk.buy(1), desk.buy(1), desk.buy(1, instrument=1)] == [PASS, Reason.ORDER_RATE, PASS]

    def test_a_clock_that_goes_backwards_gives_nothing_back(self, desk: Any) -> None:
        desk.row()["order_rate"] = 1
        assert desk.buy(1) == PASS
        desk.now_ns -= 10**12
        assert desk.buy(1) == Reason.ORDER_RATE

    def test_the_whole_ring_can_be_used(self, desks: Any) -> None:
        desk = desks(capacity=4096)
        desk.row()["order_rate"], desk.row()["order_rate_window_ns"] = 1024, 1000 * MS
        assert {desk.buy(1) for _ in range(1024)} == {PASS}
        assert desk.buy(1) == Reason.ORDER_RATE
        desk.now_ns += 1000 * MS
        assert {desk.buy(1) for _ in range(1024)} == {PASS}
        assert desk.buy(1) == Reason.ORDER_RATE

    def test_rejected_orders_use_nothing(self, desk: Any) -> None:
        desk.row()["order_rate"] = 1
        desk.row()["max_order_qty_lots"] = 10
        assert desk.buy(11) == Reason.MAX_ORDER_QTY
        assert desk.buy(10) == PASS


def test_order_of_evaluation(desk: Any) -> None:
    """With everything wrong at once the reasons come in the order of the reference, each until it is mended."""
    row = desk.row()
    desk.row()["price_step_ticks"] = 5
    row["max_order_qty_lots"], row["max_order_notional_e8"], row["collar_aggressive_bps"] = 5, 10**8, 100
    row["max_long_lots"], row["order_rate"], row["max_data_age_ns"] = 5, 0, MS
    desk.limits[GLOBAL_ROW]["state"] = TradingState.HALTED
    desk.limits[GLOBAL_ROW]["max_open_orders"] = 0
    desk.tick(flags=TickFlag.HALTED)
    signal = desk.signal(BUY, 2**31, 10_701, recv_ns=desk.now_ns - 2 * MS, instrument=9, cause_seq=1)
    desk.state.watermarks[256, 0] = 2**62
    cured = []

    def cure(reason: Any, **fields: Any) -> None:
        assert desk.decide(signal) == reason
        cured.append(reason)
        for name, value in fields.items():
            signal[name] = value

    cure(Reason.INVALID_QTY, qty_lots=6)
    cure(Reason.KILL_SWITCH_GLOBAL)
    desk.limits[GLOBAL_ROW]["state"] = TradingState.REDUCING
    cure(Reason.UNKNOWN_SYMBOL, instrument=0)
    cure(Reason.REDUCE_ONLY)
    desk.limits[GLOBAL_ROW]["state"] = TradingState.ACTIVE
    cure(Reason.ALREADY_DECIDED)
    forget: Callable[[], None] = lambda: desk.state.watermarks.fill(0)  # noqa: E731
    forget()
    cure(Reason.HALTED_INSTRUMENT)
    desk.tick()
    forget()
    cure(Reason.INVALID_TICK, price_ticks=10_700)
    forget()
    cure(Reason.MARKET_DATA_STALE, recv_ns=desk.now_ns)
    forget()
    cure(Reason.MAX_ORDER_QTY, qty_lots=5)
    desk.row()["max_order_qty_lots"] = 6
    signal["qty_lots"] = 6
    forget()
    cure(Reason.MAX_ORDER_NOTIONAL)
    row["max_order_notional_e8"] = UNLIMITED
    forget()
    cure(Reason.PRICE_COLLAR_HIGH, price_ticks=10_000)
    forget()
    cure(Reason.MAX_OPEN_ORDERS)
    desk.limits[GLOBAL_ROW]["max_open_orders"] = 1
    forget()
    cure(Reason.POSITION_LIMIT, qty_lots=5)
    forget()
    cure(Reason.ORDER_RATE)
    row["order_rate"] = 1
    forget()
    assert desk.decide(signal) == PASS
    assert len(cured) == 14


def test_a_refusal_is_recorded_with_what_it_was_decided_on(desk: Any) -> None:
    desk.set_position(7)
    desk.open(SELL, 3)
    desk.row()["max_order_qty_lots"] = 5
    desk.state.core[Core.LIMITS_VERSION] = desk.control[Control.VERSION] = 8
    signal = desk.signal(BUY, 6, 10_000)
    assert desk.decide(signal) == Reason.MAX_ORDER_QTY
    reject = desk.state.rejects[0]
    assert reject["reason"] == Reason.MAX_ORDER_QTY
    assert (reject["position_lots"], reject["open_sell_lots"], reject["qty_lots"]) == (7, 3, 6)
    assert (reject["limits_version"], reject["now_ns"]) == (8, desk.now_ns)
    assert (reject["bid_ticks"], reject["ask_ticks"]) == (9_999, 10_001)


def test_no_order_is_decided_on_limits_that_are_known_to_be_old(desk: Any) -> None:
    desk.control[Control.VERSION] = 2
    decided, orders = desk.evaluate(np.concatenate([desk.signal(), desk.signal()]))
    assert (decided, len(orders)) == (0, 0)
    desk.state.core[Core.LIMITS_VERSION] = 2
    decided, orders = desk.evaluate(np.concatenate([desk.signal(), desk.signal()]))
    assert (decided, len(orders)) == (2, 2)


def test_a_side_process_that_died_while_writing_ends_in_the_kill_switch(desk: Any) -> None:
    desk.control[Control.VERSION] = 3
    desk.control[Control.LEASE_UNTIL_NS] = desk.now_ns - 1
    assert desk.buy(1) == Reason.KILL_SWITCH_GLOBAL


def test_cancels_do_not_wait_for_newer_limits(desk: Any) -> None:
    assert desk.buy(1) == PASS
    desk.control[Control.VERSION] = 3
    assert len(desk.cancel()) == 1


def test_signals_that_do_not_fit_wait(desks: Any) -> None:
    desk = desks(out=2)
    signals = np.concatenate([desk.signal() for _ in range(3)])
    assert [len(part) if i else part for i, part in enumerate(desk.evaluate(signals))] == [2, 2]
    assert desk.evaluate(signals[2:])[0] == 1
    cancel = desk.signal(action=Action.CANCEL)
    cancel["side"] = 0
    assert desk.evaluate(cancel)[0] == 0, "three open orders do not fit into two places"
