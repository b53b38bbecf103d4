"""Matching against the played book, rule by rule, with vectors computed by hand. Prices are in 1/10000."""

from __future__ import annotations

from typing import Any

import pytest

from tickpath.common.protocols import itch50 as itch
from tickpath.sim.layout import Counter

L, T = 7, 34_200_000_000_000
P10, P11, P12 = 100_000, 110_000, 120_000


def fills(answers: list[Any]) -> list[tuple[int, int, str]]:
    return [(a["quantity"], a["price"], a["liquidity_flag"]) for code, a in answers if code == "E"]


def kinds(answers: list[Any]) -> str:
    return "".join(code for code, _ in answers)


def cancelled(answers: list[Any]) -> list[tuple[int, str]]:
    return [(a["quantity"], a["reason"]) for code, a in answers if code == "C"]


def test_a_marketable_order_walks_the_levels_up_to_its_limit(market: Any) -> None:
    market.add(1, "S", 100, P10)
    market.add(2, "S", 200, P11)
    market.add(3, "S", 300, P12)
    answers = market.enter("B", 250, P11)
    assert kinds(answers) == "AEE"
    assert fills(answers) == [(100, P10, "R"), (150, P11, "R")]
    assert market.position() == 250


def test_what_an_ioc_does_not_trade_is_cancelled(market: Any) -> None:
    market.add(1, "S", 100, P10)
    answers = market.enter("B", 130, P10)
    assert fills(answers) == [(100, P10, "R")]
    assert cancelled(answers) == [(30, "I")]
    assert market.count(Counter.OPEN_ORDERS) == 0


def test_a_sell_takes_bids_from_the_highest_down(market: Any) -> None:
    market.add(1, "B", 100, P10)
    market.add(2, "B", 100, P11)
    assert fills(market.enter("S", 150, P10)) == [(100, P11, "R"), (50, P10, "R")]
    assert market.position() == -150


def test_the_same_displayed_size_is_not_filled_twice(market: Any) -> None:
    market.add(1, "S", 100, P10)
    assert fills(market.enter("B", 60, P10)) == [(60, P10, "R")]
    assert fills(market.enter("B", 60, P10)) == [(40, P10, "R")]
    assert fills(market.enter("B", 60, P10)) == []


def test_size_added_later_can_be_taken_and_what_was_taken_goes_with_the_level(market: Any) -> None:
    market.add(1, "S", 100, P10)
    market.enter("B", 100, P10)
    market.add(2, "S", 30, P10)
    assert fills(market.enter("B", 99, P10)) == [(30, P10, "R")]
    market.play(itch.order_delete(L, T, 1))  # takes its 100 of the 130 taken lots with it
    assert fills(market.enter("B", 99, P10)) == []
    market.play(itch.order_delete(L, T, 2))
    market.add(3, "S", 50, P10)
    assert fills(market.enter("B", 99, P10)) == [(50, P10, "R")]


def test_played_data_is_never_changed_by_our_orders(market: Any) -> None:
    market.add(1, "S", 100, P10)
    market.enter("B", 100, P10)
    assert market.exchange.book.bbo(0)[2:] == (P10, 100)


def test_a_resting_order_waits_until_the_queue_ahead_has_traded(market: Any) -> None:
    market.add(1, "B", 100, P10)
    assert kinds(market.enter("B", 50, P10, "0")) == "A"
    assert market.play(itch.order_executed(L, T, 1, 60, 1)) == []
    assert market.play(itch.order_executed(L, T, 1, 40, 2)) == []
    market.add(2, "B", 80, P10)  # stands behind us: who trades with it would have met us first
    assert fills(market.play(itch.order_executed(L, T, 2, 30, 3))) == [(30, P10, "A")]
    assert fills(market.play(itch.order_executed(L, T, 2, 50, 4))) == [(20, P10, "A")]
    assert market.count(Counter.OPEN_ORDERS) == 0


def test_cancels_ahead_shorten_the_queue_and_those_behind_do_not(market: Any) -> None:
    market.add(1, "B", 100, P10)
    market.enter("B", 50, P10, "0")
    market.add(2, "B", 70, P10)

    def ahead() -> int:
        return int(market.exchange.orders["ahead_lots"][market.exchange.heads[0]])

    assert ahead() == 100
    market.play(itch.order_cancel(L, T, 2, 30))
    assert ahead() == 100
    market.play(itch.order_cancel(L, T, 1, 30))
    assert ahead() == 70
    market.play(itch.order_replace(L, T, 1, 3, 70, P10))  # loses its place: it stands behind us now
    assert ahead() == 0
    market.play(itch.order_delete(L, T, 2))
    assert ahead() == 0


def test_an_execution_behind_us_is_ours_only_when_nothing_is_ahead(market: Any) -> None:
    market.add(1, "B", 100, P10)
    market.enter("B", 50, P10, "0")
    market.add(2, "B", 40, P10)
    assert market.play(itch.order_executed(L, T, 2, 40, 1)) == []
    market.play(itch.order_delete(L, T, 1))
    market.add(3, "B", 40, P10)
    assert fills(market.play(itch.order_executed(L, T, 3, 10, 2))) == [(10, P10, "A")]


def test_a_trade_through_our_price_fills_us_with_at_most_its_size(market: Any) -> None:
    market.add(1, "B", 100, P10)
    market.enter("B", 50, P11, "0")
    assert fills(market.play(itch.order_executed(L, T, 1, 20, 1))) == [(20, P11, "A")]
    assert fills(market.play(itch.order_executed(L, T, 1, 80, 2))) == [(30, P11, "A")]


def test_a_played_order_that_would_have_crossed_fills_us_and_is_used_up(market: Any) -> None:
    market.enter("B", 50, P11, "0")
    assert fills(market.add(1, "S", 30, P10)) == [(30, P11, "A")]
    assert fills(market.enter("B", 99, P10)) == []  # its 30 lots were ours already
    assert fills(market.add(2, "S", 30, P11)) == [(20, P11, "A")]
    assert fills(market.enter("B", 99, P11)) == [(10, P11, "R")]


def test_a_played_replace_that_crosses_fills_us(market: Any) -> None:
    market.add(1, "S", 40, P12)
    market.enter("B", 50, P11, "0")
    assert fills(market.play(itch.order_replace(L, T, 1, 2, 35, P11))) == [(35, P11, "A")]


def test_a_hidden_trade_at_or_through_our_price_fills_us(market: Any) -> None:
    market.enter("B", 50, P10, "0")
    assert market.play(itch.trade(L, T, 10, "ABC", P11, 1)) == []
    assert fills(market.play(itch.trade(L, T, 10, "ABC", P10, 2))) == [(10, P10, "A")]
    assert fills(market.play(itch.trade(L, T, 10, "ABC", P10 - 100, 3))) == [(10, P10, "A")]


def test_an_execution_with_price_counts_at_the_displayed_price_and_only_if_printable(market: Any) -> None:
    market.enter("B", 50, P11, "0")
    market.add(1, "B", 40, P10)
    assert market.play(itch.order_executed_with_price(L, T, 1, 10, 1, False, P10)) == []
    assert fills(market.play(itch.order_executed_with_price(L, T, 1, 10, 2, True, P12))) == [(10, P11, "A")]


def test_our_orders_share_a_trade_by_price_then_time(market: Any) -> None:
    market.enter("B", 10, P10, "0")
    market.enter("B", 10, P11, "0")
    market.enter("B", 10, P11, "0")
    market.add(1, "B", 100, P10 - 100)
    answers = market.play(itch.order_executed(L, T, 1, 25, 1))
    assert [(a["user_ref_num"], a["quantity"]) for _, a in answers] == [(2, 10), (3, 10), (1, 5)]


def test_a_day_order_that_trades_in_part_rests_with_the_rest(market: Any) -> None:
    market.add(1, "S", 30, P10)
    answers = market.enter("B", 100, P10, "0")
    assert kinds(answers) == "AE"
    assert market.count(Counter.OPEN_LOTS) == 70


def test_sells_rest_and_fill_like_buys(market: Any) -> None:
    market.add(1, "S", 10, P11)
    market.enter("S", 50, P11, "0")
    assert market.play(itch.order_executed(L, T, 1, 10, 1)) == []
    assert fills(market.add(2, "B", 20, P11)) == [(20, P11, "A")]
    assert market.position() == -20


def test_instruments_do_not_touch_each_other(market: Any) -> None:
    market.add(1, "S", 100, P10, "XYZ")
    assert fills(market.enter("B", 50, P12)) == []
    assert fills(market.enter("B", 50, P12, symbol="XYZ")) == [(50, P10, "R")]
    assert (market.position("ABC"), market.position("XYZ")) == (0, 50)


def test_a_market_order_takes_any_price_and_never_rests(market: Any) -> None:
    market.add(1, "S", 10, P10)
    market.add(2, "S", 10, 19_000_000)
    answers = market.enter("B", 30, 0x7FFFFFFF, "0")
    assert fills(answers) == [(10, P10, "R"), (10, 19_000_000, "R")]
    assert cancelled(answers) == [(10, "I")]
    market.add(3, "B", 10, 100)
    assert fills(market.enter("S", 30, 2_000_000_000)) == [(10, 100, "R")]


def test_nothing_matches_while_the_symbol_is_halted(market: Any) -> None:
    market.enter("B", 50, P10, "0")
    market.play(itch.trading_action(L, T, "ABC", "H"))
    assert market.add(1, "S", 30, P10) == []
    market.play(itch.trading_action(L, T, "ABC", "T"))
    assert fills(market.add(2, "S", 30, P10)) == [(30, P10, "A")]


def test_the_clock_in_the_reports_is_the_time_of_the_latest_played_message(market: Any) -> None:
    market.play(itch.add_order(L, T + 5, 1, "S", 100, "ABC", P10))
    assert market.enter("B", 1, P10)[0][1]["timestamp"] == T + 5


def test_messages_about_unknown_orders_are_counted_and_do_nothing(market: Any) -> None:
    market.enter("B", 50, P10, "0")
    assert market.play(itch.order_executed(L, T, 99, 10, 1), itch.order_delete(L, T, 98)) == []
    assert market.count(Counter.BOOK_ANOMALIES) == 2


@pytest.mark.parametrize("side", ["B", "S"])
def test_clients_do_not_trade_with_each_other(market: Any, side: str) -> None:
    other = "S" if side == "B" else "B"
    market.enter(side, 50, P10, "0")
    assert fills(market.enter(other, 50, P10)) == []
