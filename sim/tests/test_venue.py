"""OUCH at the venue: each rule of the protocol sheet that a client can run into, driven message by message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tickpath.common.histogram import COUNT, HIST_SIZE, MAX, SUM
from tickpath.common.protocols import itch50 as itch
from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.protocols.ouch50 import Reject, Tag
from tickpath.common.records import format_cl_ord_id, pack_cl_ord_id
from tickpath.sim.kernels import matching
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.layout import VENUE_ORDER, Counter
from tickpath.sim.venue import Venue

T = 34_200_000_000_000
P10 = 100_000


def kinds(answers: list[Any]) -> str:
    return "".join(code for code, _ in answers)


def test_the_first_report_of_a_user_is_the_start_of_the_day(market: Any) -> None:
    bob = market.venue.account("bob")
    assert market.answers(bob)[0] == ("S", {"timestamp": T, "event_code": "S"})


def test_a_user_name_means_the_same_in_upper_and_lower_case(market: Any) -> None:
    assert market.venue.account("ALICE") == market.user


def test_an_acceptance_repeats_the_order_and_numbers_it(market: Any) -> None:
    ((code, accepted),) = market.enter("T", 300, P10, "0", cl_ord_id="MINE", capacity="A", display="N")
    assert code == "A"
    assert accepted == {
        "timestamp": T, "user_ref_num": 1, "side": "T", "quantity": 300, "symbol": "ABC", "price": P10,
        "time_in_force": "0", "display": "N", "order_reference_number": 1, "capacity": "A", "iso": "N",
        "cross_type": "N", "order_state": "L", "cl_ord_id": "MINE",
    }  # fmt: skip
    order = market.exchange.orders[market.exchange.heads[0]]
    assert (order["cl_ord_id"], chr(order["tif"]), order["user_ref"]) == (b"MINE", "0", 1)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"symbol": "NONE"}, Reject.INVALID_SYMBOL),
        ({"quantity": 0}, Reject.INVALID_QUANTITY),
        ({"quantity": 1_000_000}, Reject.INVALID_QUANTITY),
        ({"price": 0}, Reject.INVALID_PRICE),
        ({"price": P10 + 1}, Reject.INVALID_PRICE),
        ({"price": ouch.MAX_LIMIT_PRICE + 200}, Reject.INVALID_PRICE),
        ({"price": 2**40}, Reject.INVALID_PRICE),
        ({"side": "X"}, Reject.INVALID_SIDE),
        ({"time_in_force": "6"}, Reject.OTHER),
        ({"display": "Q"}, Reject.INVALID_DISPLAY),
        ({"iso": "Y"}, Reject.ISO_NOT_ALLOWED),
        ({"cross_type": "O"}, Reject.INVALID_CROSS_ORDER),
        ({"capacity": "X"}, Reject.OTHER),
        ({"options": {Tag.PRICE_TYPE: "M"}}, Reject.PEGGING_NOT_ALLOWED),
        ({"options": {Tag.MIN_QTY: 5}}, Reject.INVALID_MIN_QUANTITY),
        ({"options": {Tag.MAX_FLOOR: 5}}, Reject.INVALID_MAX_FLOOR),
        ({"options": {Tag.POST_ONLY: "P"}}, Reject.OTHER),
    ],
)
def test_a_wrong_order_is_rejected_with_its_reason_and_its_number_is_used_up(
    market: Any, wrong: dict[str, Any], reason: Reject
) -> None:
    answers = market.enter("B", 100, P10, cl_ord_id="MINE", **wrong)
    assert answers == [("J", {"timestamp": T, "user_ref_num": 1, "reason": reason, "cl_ord_id": "MINE"})]
    assert market.enter("B", 100, P10, user_ref_num=1) == []
    assert (market.count(Counter.REJECTED), market.count(Counter.ACCEPTED)) == (1, 0)


@pytest.mark.parametrize("good", [{"price": 9_999}, {"price": 1}, {"price": ouch.MAX_LIMIT_PRICE}, {"quantity": 1}])
def test_the_bounds_themselves_are_accepted(market: Any, good: dict[str, int]) -> None:
    assert kinds(market.enter("B", good.get("quantity", 999_999), good.get("price", P10), "0")) == "A"


def test_prices_step_as_the_terms_of_the_instrument_say(market: Any) -> None:
    """Whole cents are Nasdaq's rule; an instrument that the tape has terms for has a step of its own."""
    market.exchange.price_steps[0] = 25
    for price, answer in ((P10 + 25, "A"), (P10 + 1, "J"), (P10 + 100, "A"), (10, "J")):
        assert kinds(market.enter("B", 1, price, "0")) == answer
    market.exchange.price_steps[0] = 1
    assert kinds(market.enter("B", 1, 616_597, "0")) == "A"
    assert kinds(market.replace(5, 2, 616_599)) == "U"


def test_a_number_not_above_the_last_is_ignored_silently(market: Any) -> None:
    market.enter("B", 1, P10, user_ref_num=10)
    assert market.enter("B", 1, P10, user_ref_num=10) == []
    assert market.enter("B", 1, P10, user_ref_num=9) == []
    assert kinds(market.enter("B", 1, P10, user_ref_num=11)) == "AC"
    assert market.count(Counter.IGNORED) == 2


def test_users_and_reference_indices_have_numbers_of_their_own(market: Any) -> None:
    bob = market.venue.account("bob")
    market.answers(bob)
    assert kinds(market.enter("B", 1, P10, user_ref_num=1)) == "AC"
    assert kinds(market.enter("B", 1, P10, user_ref_num=1, user=bob)) == "AC"
    answers = market.enter("B", 1, P10, user_ref_num=1, options={Tag.USER_REF_IDX: 3})
    assert [a["options"] for _, a in answers] == [{Tag.USER_REF_IDX: 3}] * 2


def test_orders_are_refused_while_halted_and_after_the_end_of_the_day(market: Any) -> None:
    market.play(itch.trading_action(7, T, "ABC", "H"))
    assert market.enter("B", 1, P10)[0][1]["reason"] == Reject.HALTED
    assert kinds(market.enter("B", 1, P10, symbol="XYZ")) == "AC"
    market.play(itch.trading_action(7, T, "ABC", "T"))
    market.enter("B", 5, P10, "0")
    assert market.play(itch.system_event(T, "C")) == [("S", {"timestamp": T, "event_code": "E"})]
    assert market.enter("B", 1, P10)[0][1]["reason"] == Reject.DESTINATION_CLOSED
    assert market.cancel(3) == [("C", {"timestamp": T, "user_ref_num": 3, "quantity": 5, "reason": "U"})]


def test_cancel_states_the_new_intended_size_executed_shares_included(market: Any) -> None:
    """The sheet's example: 500 entered, 100 executed, Cancel with 300 leaves 200 open."""
    market.add(1, "S", 100, P10)
    market.enter("B", 500, P10, "0")
    assert market.cancel(1, 300) == [("C", {"timestamp": T, "user_ref_num": 1, "quantity": 200, "reason": "U"})]
    assert market.count(Counter.OPEN_LOTS) == 200
    assert market.cancel(1, 300) == []
    assert market.cancel(1, 400) == []
    assert market.cancel(1, 50)[0][1]["quantity"] == 200
    assert market.count(Counter.OPEN_ORDERS) == 0


def test_cancelling_what_is_not_live_has_no_answer(market: Any) -> None:
    assert market.cancel(77) == []
    market.enter("B", 1, P10)
    assert market.cancel(1) == []
    assert market.count(Counter.IGNORED) == 2


def test_replace_states_the_size_of_the_whole_chain(market: Any) -> None:
    """The sheet's example: 500 entered, 100 executed, Replace with 500 leaves 400 open."""
    market.add(1, "S", 100, P10)
    market.enter("B", 500, P10, "0")
    ((code, replaced),) = market.replace(1, 500, P10 - 100)
    assert code == "U"
    assert (replaced["quantity"], replaced["orig_user_ref_num"], replaced["user_ref_num"]) == (400, 1, 2)
    assert market.cancel(1) == []
    assert market.cancel(2, 250)[0][1]["quantity"] == 250  # 100 executed, 150 stay open
    assert market.count(Counter.OPEN_LOTS) == 150


def test_a_replacement_trades_when_it_is_marketable_and_loses_its_place(market: Any) -> None:
    market.add(1, "S", 100, P10 + 100)
    market.enter("B", 150, P10, "0")
    market.add(2, "B", 70, P10)
    answers = market.replace(1, 200, P10 + 100)
    assert kinds(answers) == "UE"
    assert answers[1][1]["quantity"] == 100
    market.replace(2, 200, P10)
    assert market.exchange.orders["ahead_lots"][market.exchange.heads[0]] == 70


def test_a_replace_of_a_dead_order_or_with_a_used_number_is_ignored(market: Any) -> None:
    assert market.replace(1, 100, P10) == []
    assert kinds(market.enter("B", 1, P10, user_ref_num=1)) == "AC"  # its number stayed unused
    market.enter("B", 5, P10, "0", user_ref_num=5)
    assert market.replace(5, 100, P10, user_ref_num=5) == []
    assert market.count(Counter.OPEN_LOTS) == 5


@pytest.mark.parametrize("wrong", [{"quantity": 0}, {"price": P10 + 1}, {"tif": "6"}, {"quantity": 100}])
def test_a_replace_with_invalid_details_cancels_the_old_order(market: Any, wrong: dict[str, Any]) -> None:
    market.add(1, "S", 100, P10)
    market.enter("B", 300, P10, "0")
    answers = market.replace(1, wrong.get("quantity", 200), wrong.get("price", P10), wrong.get("tif", "0"))
    assert answers == [("C", {"timestamp": T, "user_ref_num": 1, "quantity": 200, "reason": "U"})]
    assert kinds(market.enter("B", 1, P10, user_ref_num=2)) == "AC"  # its number stayed unused


def test_modify_may_make_smaller_and_change_the_kind_of_sale(market: Any) -> None:
    market.enter("S", 300, P10, "0")
    modify = ouch.MODIFY_ORDER.encode
    assert market.say(modify(user_ref_num=1, side="T", quantity=200)) == [
        ("M", {"timestamp": T, "user_ref_num": 1, "side": "T", "quantity": 200})
    ]
    assert kinds(market.say(modify(user_ref_num=1, side="S", quantity=200))) == "I"
    assert kinds(market.say(modify(user_ref_num=1, side="T", quantity=201))) == "I"
    assert market.say(modify(user_ref_num=9, side="T", quantity=1)) == []
    assert market.count(Counter.OPEN_LOTS) == 200


@pytest.mark.parametrize(
    ("symbol", "options", "left"),
    [("", {}, 0), ("ABC", {}, 40), ("", {Tag.SIDE: "S"}, 50), ("ABC", {Tag.SIDE: "B"}, 60)],
)
def test_mass_cancel_takes_the_orders_that_it_names(
    market: Any, symbol: str, options: dict[int, Any], left: int
) -> None:
    market.enter("B", 10, P10, "0")
    market.enter("S", 20, P10 + 100, "0")
    market.enter("B", 40, P10, "0", symbol="XYZ")
    bob = market.venue.account("bob")
    market.enter("B", 1000, P10, "0", user=bob)
    answers = market.say(ouch.MASS_CANCEL.encode(options, user_ref_num=10, firm="", symbol=symbol))
    assert answers[0][0] == "X"
    assert set(kinds(answers[1:])) == {"C"}
    assert market.count(Counter.OPEN_LOTS) == left + 1000
    assert market.say(ouch.MASS_CANCEL.encode(user_ref_num=10, firm="", symbol="")) == []


def test_order_entry_can_be_disabled_and_enabled(market: Any) -> None:
    assert kinds(market.say(ouch.DISABLE_ORDER_ENTRY.encode(user_ref_num=1, firm="LIME"))) == "G"
    assert market.enter("B", 1, P10, user_ref_num=2)[0][1]["reason"] == Reject.FIRM_NOT_AUTHORISED
    assert kinds(market.say(ouch.ENABLE_ORDER_ENTRY.encode(user_ref_num=3, firm="LIME"))) == "K"
    assert kinds(market.enter("B", 1, P10, user_ref_num=4)) == "AC"


def test_the_account_query_gives_the_next_free_number(market: Any) -> None:
    query = ouch.ACCOUNT_QUERY.encode
    assert market.say(query())[0][1]["next_user_ref_num"] == 1
    market.enter("B", 1, P10, user_ref_num=41)
    assert market.say(query())[0][1]["next_user_ref_num"] == 42
    assert market.say(query({Tag.USER_REF_IDX: 2}))[0][1]["next_user_ref_num"] == 1


@pytest.mark.parametrize(
    "message", [b"", b"?", b"O", b"O" * 46, ouch.CANCEL_ORDER.encode(user_ref_num=1, quantity=0)[:8]]
)
def test_what_is_not_ouch_is_counted_and_has_no_answer(market: Any, message: bytes) -> None:
    assert market.say(message) == []
    assert market.count(Counter.MALFORMED) == 1


def test_cancel_all_takes_back_every_open_order_of_that_user_only(market: Any) -> None:
    bob = market.venue.account("bob")
    market.enter("B", 10, P10, "0")
    market.enter("B", 7, P10, "0", user=bob, user_ref_num=1)
    market.venue.cancel_all(market.user)
    assert [(a["quantity"], a["reason"]) for _, a in market.answers()] == [(10, "Z")]
    assert market.count(Counter.OPEN_LOTS) == 7


def test_an_order_that_finds_no_slot_is_rejected_and_live_ones_stay() -> None:
    exchange = Exchange.create(1, 16, 8, orders=np.zeros(64, VENUE_ORDER))
    for ref in range(1, 65):
        assert matching.enter(exchange, 0, ref, 0, ord("B"), 1, 0, P10, 1, -1, 0) >= 0
    assert matching.enter(exchange, 0, 65, 0, ord("B"), 1, 0, P10, 1, -1, 0) == -1
    matching.reduce(exchange, matching.find_live(exchange, 0, 7), 0)
    slot = matching.enter(exchange, 0, 65, 0, ord("B"), 1, 0, P10, 1, -1, 0)
    assert slot == matching.find_live(exchange, 0, 65)
    assert all(matching.find_live(exchange, 0, ref) >= 0 for ref in range(1, 65) if ref != 7)


class Sent:
    """What the venue needs of a player: message n left at 1000 * n."""

    out_ns = np.arange(16, dtype=np.int64) * 1000
    next_sequence = 11


class TestTickToOrder:
    """The time from the causing datagram to the order, read out of the client order id."""

    @pytest.fixture
    def hist(self) -> Any:
        return np.zeros(HIST_SIZE, np.int64)

    @pytest.fixture
    def enter(self, hist: Any) -> Any:
        exchange = Exchange.create(1, 16, 8)
        venue = Venue(exchange, ("ABC",), {"ABC": 7}, tick_to_order=hist)
        venue.follow(Sent())  # type: ignore[arg-type]
        user = venue.account("alice")

        def say(user_ref: int, cl_ord_id: bytes, arrived_ns: int) -> Any:
            venue.receive(
                user,
                ouch.ENTER_ORDER.encode(
                    user_ref_num=user_ref, side="B", quantity=1, symbol="ABC", price=P10, time_in_force="3",
                    display="Y", capacity="P", iso="N", cross_type="N", cl_ord_id=cl_ord_id,
                ),
                arrived_ns,
            )  # fmt: skip
            return exchange.counters

        return say

    def test_it_is_arrival_less_the_stamp_of_the_causing_message(self, hist: Any, enter: Any) -> None:
        enter(1, format_cl_ord_id(pack_cl_ord_id(5, 3, 9, 0)), 9_123)
        enter(2, format_cl_ord_id(pack_cl_ord_id(5, 3, 10, 0)), 10_200)
        assert (hist[COUNT], hist[SUM], hist[MAX]) == (2, 323, 200)

    @pytest.mark.parametrize("cause", [0, 11, 12])
    def test_a_cause_that_was_not_sent_is_counted(self, hist: Any, enter: Any, cause: int) -> None:
        counters = enter(1, format_cl_ord_id(pack_cl_ord_id(5, 3, cause, 0)), 9_123)
        assert (counters[Counter.UNMATCHED_CAUSES], hist[COUNT]) == (1, 0)

    @pytest.mark.parametrize("text", [b"", b"H8FUB8IV", b"T!" * 7])
    def test_a_foreign_id_is_counted(self, hist: Any, enter: Any, text: bytes) -> None:
        counters = enter(1, text, 9_123)
        assert (counters[Counter.UNMATCHED_CAUSES], counters[Counter.ACCEPTED], hist[COUNT]) == (1, 1, 0)

    @pytest.mark.parametrize("text", [format_cl_ord_id(pack_cl_ord_id(5, 3, 9, 0)), b"H8FUB8IV"])
    def test_an_id_entered_twice_is_a_duplicate_and_not_measured_again(
        self, hist: Any, enter: Any, text: bytes
    ) -> None:
        enter(1, text, 9_123)
        first = int(hist[COUNT])
        counters = enter(2, text, 9_999)
        assert (counters[Counter.DUPLICATES], hist[COUNT]) == (1, first)

    def test_a_repetition_under_the_same_number_is_no_duplicate(self, hist: Any, enter: Any) -> None:
        text = format_cl_ord_id(pack_cl_ord_id(5, 3, 9, 0))
        enter(1, text, 9_123)
        counters = enter(1, text, 9_999)
        assert (counters[Counter.DUPLICATES], counters[Counter.IGNORED], hist[COUNT]) == (0, 1, 1)
