"""What must hold after any sequence of market data and orders, compared with a slow model where there is one."""

from __future__ import annotations

from collections import Counter as Bag
from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.protocols import itch50 as itch
from tickpath.sim.kernels import matching
from tickpath.sim.layout import Counter

L, T = 7, 34_200_000_000_000
PRICES = st.integers(1000, 1006).map(lambda cents: cents * 100)

STEPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("BS"), st.integers(1, 300), PRICES),
    st.tuples(st.sampled_from(["execute", "cancel", "delete"]), st.integers(0, 30), st.integers(1, 200)),
    st.tuples(st.just("replace"), st.integers(0, 30), st.integers(1, 300), PRICES),
    st.tuples(st.just("print"), st.integers(1, 100), PRICES),
    st.tuples(st.just("enter"), st.sampled_from("BST"), st.integers(1, 400), PRICES, st.sampled_from("03")),
    st.tuples(st.just("change"), st.integers(0, 10), st.integers(0, 400), PRICES),
    st.tuples(st.just("take back"), st.integers(0, 10), st.integers(0, 400)),
)


class Played:
    """The played orders as a plain dictionary: ref -> [side, lots, price]."""

    def __init__(self) -> None:
        self.orders: dict[int, list[Any]] = {}
        self.next_ref = 1
        self.added: Bag[tuple[str, int]] = Bag()  # all lots ever displayed, per side and price

    def message(self, step: tuple[Any, ...]) -> bytes | None:
        """The ITCH message of a step; None when there is no order that it could be about."""
        kind = step[0]
        if kind == "add":
            _, side, lots, price = step
            return self._add(side, lots, price, itch.add_order(L, T, self.next_ref, side, lots, "ABC", price))
        if kind == "print":
            return itch.trade(L, T, step[1], "ABC", step[2], 1)
        if not self.orders:
            return None
        ref = sorted(self.orders)[step[1] % len(self.orders)]
        side, lots, _ = self.orders[ref]
        if kind == "delete":
            del self.orders[ref]
            return itch.order_delete(L, T, ref)
        if kind == "replace":
            del self.orders[ref]
            return self._add(side, step[2], step[3], itch.order_replace(L, T, ref, self.next_ref, step[2], step[3]))
        taken = min(lots, step[2])
        self.orders[ref][1] -= taken
        if self.orders[ref][1] == 0:
            del self.orders[ref]
        return itch.order_executed(L, T, ref, taken, 1) if kind == "execute" else itch.order_cancel(L, T, ref, taken)

    def _add(self, side: str, lots: int, price: int, message: bytes) -> bytes:
        self.orders[self.next_ref] = [side, lots, price]
        self.next_ref += 1
        self.added[side, price] += lots
        return message


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=5, max_size=80))
def test_any_day_at_the_venue_adds_up(new_market: Any, steps: list[tuple[Any, ...]]) -> None:
    """Conservation, positions, queue places and displayed size, after every step."""
    market = new_market()
    played = Played()
    ours: dict[int, dict[str, Any]] = {}  # by user reference: what the reports said
    removed: Bag[tuple[str, int]] = Bag()  # lots that we took, per side and price of the level
    exchange = market.exchange
    for step in steps:
        if step[0] == "enter":
            _, side, lots, price, tif = step
            answers = market.enter(side, lots, price, tif)
        elif step[0] in ("change", "take back"):
            live = [ref for ref, order in ours.items() if order["open"] > 0]
            if not live:
                continue
            ref = live[step[1] % len(live)]
            answers = market.replace(ref, step[2], step[3]) if step[0] == "change" else market.cancel(ref, step[2])
        else:
            message = played.message(step)
            if message is None:
                continue
            answers = market.play(message)
        filled = 0
        for code, a in answers:
            if code == "A":
                ours[a["user_ref_num"]] = {"open": a["quantity"], "side": a["side"], "price": a["price"]}
            elif code == "U":
                old = ours[a["orig_user_ref_num"]]
                ours[a["user_ref_num"]] = {"open": a["quantity"], "side": old["side"], "price": a["price"]}
                old["open"] = 0
            elif code == "E":
                order = ours[a["user_ref_num"]]
                order["open"] -= a["quantity"]
                order["filled"] = order.get("filled", 0) + a["quantity"]
                filled += a["quantity"]
                better = a["price"] <= order["price"] if order["side"] == "B" else a["price"] >= order["price"]
                assert better, "no fill is worse than the limit"
                if a["liquidity_flag"] == "R":
                    removed["S" if order["side"] == "B" else "B", a["price"]] += a["quantity"]
            elif code == "C":
                ours[a["user_ref_num"]]["open"] -= a["quantity"]
        if step[0] in ("add", "execute", "replace", "print"):
            size = step[2] if step[0] != "print" else step[1]
            assert filled <= size, "a played message fills no more than its own lots"
        for order in ours.values():
            level = {
                r for r, (s, _, p) in played.orders.items() if (s == "B", p) == (order["side"] == "B", order["price"])
            }
            order.setdefault("before us", level)
        _check(market, exchange, played, ours, removed)


def _check(market: Any, exchange: Any, played: Played, ours: Any, removed: Any) -> None:
    open_lots = sum(order["open"] for order in ours.values())
    assert min((order["open"] for order in ours.values()), default=0) >= 0
    count = market.count
    assert count(Counter.OPEN_LOTS) == open_lots
    assert count(Counter.OPEN_ORDERS) == sum(order["open"] > 0 for order in ours.values())
    assert count(Counter.ACCEPTED_LOTS) == (
        count(Counter.FILLED_LOTS) + count(Counter.CANCELLED_LOTS) + count(Counter.OPEN_LOTS)
    )
    assert count(Counter.ACCEPTED) == (
        count(Counter.FILLED) + count(Counter.CANCELLED) + count(Counter.REPLACED) + count(Counter.OPEN_ORDERS)
    )
    signed = [order.get("filled", 0) * (1 if order["side"] == "B" else -1) for order in ours.values()]
    assert market.position() == sum(signed) == int(exchange.bought[0] - exchange.sold[0])
    for level, lots in removed.items():
        assert lots <= played.added[level], "no displayed lot is filled twice"
    # The book is the tape's, whatever we do, and our place in a queue is behind those who were there before us.
    displayed: dict[tuple[str, int], int] = defaultdict(int)
    for side, lots, price in played.orders.values():
        displayed[side, price] += lots
    assert exchange.book.live_orders == len(played.orders)
    slot = int(exchange.heads[0])
    seen = 0
    while slot >= 0:
        order = exchange.orders[slot]
        before_us = ours[int(order["user_ref"])]["before us"]
        assert order["ahead_lots"] == sum(played.orders[ref][1] for ref in before_us if ref in played.orders)
        slot = int(order["next"])
        seen += 1
    assert seen == count(Counter.OPEN_ORDERS)
    taken = exchange.taken[exchange.taken["key"] != 0]
    assert len(taken) == exchange.state[matching.N_TAKEN]
    for key, lots in taken.tolist():
        row, price = (key >> 32) - 1, key & 0xFFFFFFFF
        assert 0 < lots <= displayed["BS"[row], price]
