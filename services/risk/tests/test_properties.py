"""The properties that a risk engine must hold, by generation. Numbers are those of the risk reference, section 8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.pages import Control
from tickpath.common.records import NO_PRICE_TICKS, SIGNAL, Action, ExecEvent, OrderState, Side, TickFlag
from tickpath.risk.kernels import risk as kernel
from tickpath.risk.limits import GLOBAL_ROW, TradingState
from tickpath.risk.reasons import Reason
from tickpath.risk.state import Core

BUY, SELL = Side.BUY, Side.SELL
PASS = Reason.PASS

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["new", "new", "new", "repeat", "ack", "fill", "fill", "overfill", "cancel", "cancelled", "reject",
             "disconnect", "late fill", "report again", "limit"]
        ),
        st.integers(0, 2**16),
        st.integers(1, 60),
    ),
    max_size=60,
)  # fmt: skip


def run(desk: Any, steps: Any) -> Any:
    """Play an interleaving of requests, reports, duplicates and losses; yields the step after it was played."""
    signals: list[Any] = []
    ended: list[int] = []
    for what, pick, lots in steps:
        used = desk.state.orders[desk.state.orders["cl_ord_id"] != 0]["cl_ord_id"]
        order = int(used[pick % len(used)]) if len(used) else 0
        reason = None
        if what == "new":
            signals.append(desk.signal(Side(1 + pick % 2), lots, instrument=pick % 3, strategy=1 + pick % 2))
            reason = desk.decide(signals[-1])
        elif what == "repeat" and signals:
            desk.decide(signals[pick % len(signals)])
        elif what == "limit":
            desk.limits["max_long_lots"], desk.limits["max_short_lots"] = pick % 200, lots
        elif what == "late fill" and ended:
            desk.fill(ended[pick % len(ended)], lots)
        elif what == "report again" and desk.journal:
            desk.apply(desk.journal[pick % len(desk.journal)])
        elif what == "cancel":
            desk.cancel(instrument=pick % 3, strategy=1 + pick % 2)
        elif order:
            known = desk.state.orders[desk.state.orders["cl_ord_id"] == order][0]
            if what == "ack":
                desk.report(order, ExecEvent.ACKNOWLEDGED, OrderState.NEW)
            elif what == "fill":
                desk.fill(order, min(lots, int(known["leaves_lots"])))
            elif what == "overfill":
                desk.fill(order, int(known["leaves_lots"]) + lots)
            elif what == "disconnect":
                desk.report(order, ExecEvent.DISCONNECT, OrderState.UNKNOWN)
            elif what in ("cancelled", "reject"):
                ended.append(order)
                desk.done(order, ExecEvent.CANCELLED if what == "cancelled" else ExecEvent.VENUE_REJECT)
        yield what, pick, lots, reason


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_1_exposure_recomputed_from_scratch_equals_the_incremental_one(desks: Any, steps: Any) -> None:
    """After every step; and every open order is found by its id, once, in the chain of its instrument."""
    desk = desks(capacity=32)
    for _ in run(desk, steps):
        assert desk.recomputed() == desk.incremental()
        used = desk.state.orders[desk.state.orders["cl_ord_id"] != 0]
        assert desk.state.live[GLOBAL_ROW]["open_orders"] == len(used) == desk.state.core[Core.N_ORDERS]
        entries = desk.state.index[desk.state.index != 0] - 1
        assert sorted(desk.state.orders[entries]["cl_ord_id"]) == sorted(used["cl_ord_id"])
        for instrument in range(3):
            chain, entry = [], int(desk.live(instrument)["head"])
            while entry:
                chain.append(int(desk.state.orders[entry - 1]["cl_ord_id"]))
                entry = int(desk.state.orders[entry - 1]["next"])
            assert sorted(chain) == sorted(used[used["instrument"] == instrument]["cl_ord_id"])
        assert (desk.state.orders[desk.state.orders["cl_ord_id"] == 0]["leaves_lots"] == 0).all()


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_2_no_accepted_order_passes_a_limit_and_no_lowered_limit_blocks_a_reduction(desks: Any, steps: Any) -> None:
    """The worst case of an accepted order's side is within its limit; what shrinks a position always fits."""
    desk = desks(capacity=64)
    desk.limits["max_long_lots"] = desk.limits["max_short_lots"] = 100
    for what, pick, _, reason in run(desk, steps):
        if what != "new" or reason is None:
            continue
        instrument, side = pick % 3, Side(1 + pick % 2)
        live, limit = desk.live(instrument), desk.row(instrument)
        if reason == PASS and side == BUY:
            assert live["position_lots"] + live["open_buy_lots"] <= limit["max_long_lots"]
        elif reason == PASS:
            assert live["position_lots"] - live["open_sell_lots"] >= -limit["max_short_lots"]
    for instrument in range(3):
        live = desk.live(instrument)
        held = int(live["position_lots"])
        way_out = held - int(live["open_sell_lots"]) if held > 0 else -held - int(live["open_buy_lots"])
        desk.row(instrument)["max_long_lots"] = desk.row(instrument)["max_short_lots"] = 0
        if way_out > 0 and desk.state.core[Core.N_ORDERS] < 64:
            assert desk.send(SELL if held > 0 else BUY, way_out, instrument=instrument) == PASS


BOUNDARIES: dict[str, tuple[Callable[[Any, int], Reason], Reason]] = {
    "max_order_qty_lots": (lambda d, n: d.buy(n), Reason.MAX_ORDER_QTY),
    "max_order_notional_e8": (lambda d, n: d.buy(n, price=1), Reason.MAX_ORDER_NOTIONAL),
    "max_long_lots": (lambda d, n: d.buy(n), Reason.POSITION_LIMIT),
    "max_short_lots": (lambda d, n: d.sell(n), Reason.POSITION_LIMIT),
    "max_data_age_ns": (lambda d, n: d.buy(1, recv_ns=d.now_ns - n), Reason.MARKET_DATA_STALE),
    "collar_aggressive_bps": (lambda d, n: d.buy(1, price=10_000 + n), Reason.PRICE_COLLAR_HIGH),
    "collar_passive_bps": (lambda d, n: d.sell(1, price=10_000 + n), Reason.PRICE_COLLAR_HIGH),
}


@settings(deadline=None, max_examples=30)
@given(limit=st.integers(1, 2**31 - 2))
@pytest.mark.parametrize("column", BOUNDARIES)
def test_3_the_limit_is_accepted_and_one_more_is_not(desks: Any, column: Any, limit: Any) -> None:
    """For every control with a quantity, a price or an age."""
    desk = desks(capacity=2)
    ask, reason = BOUNDARIES[column]
    if column.startswith("collar"):
        limit = 1 + limit % 5000
    scale = 10**6 if column == "max_order_notional_e8" else 1  # one cent in 1e-8
    desk.row()[column] = limit * scale
    assert ask(desk, limit + 1) == reason
    assert ask(desk, limit) == PASS


@settings(deadline=None, max_examples=30)
@given(limit=st.integers(1, 40))
@pytest.mark.parametrize("column", ["max_open_orders", "order_rate"])
@pytest.mark.parametrize("row", [GLOBAL_ROW, 1])
def test_3_a_count_of_n_admits_the_nth(desks: Any, column: Any, row: Any, limit: Any) -> None:
    desk = desks(capacity=64)
    desk.limits[row][column] = limit
    assert [desk.buy(1) for _ in range(limit)] == [PASS] * limit
    assert desk.buy(1) in (Reason.MAX_OPEN_ORDERS, Reason.ORDER_RATE)


MISSING: dict[str, tuple[dict[str, Any], Callable[[Any], None] | None, Reason]] = {
    "the causing tick": ({"recv_ns": 0}, None, Reason.REFERENCE_PRICE_UNAVAILABLE),
    "the bid": ({"bid_ticks": NO_PRICE_TICKS}, None, Reason.REFERENCE_PRICE_UNAVAILABLE),
    "the ask": ({"ask_ticks": NO_PRICE_TICKS}, None, Reason.REFERENCE_PRICE_UNAVAILABLE),
    "the book": (dict.fromkeys(("bid_ticks", "ask_ticks"), NO_PRICE_TICKS), None, Reason.REFERENCE_PRICE_UNAVAILABLE),
    "the marks": ({}, lambda d: d.state.live["mark_recv_ns"].fill(0), Reason.REFERENCE_PRICE_UNAVAILABLE),
    "fresh data": ({"recv_ns": 1}, None, Reason.MARKET_DATA_STALE),
    "a sound book": ({}, lambda d: d.tick(flags=TickFlag.SUSPECT), Reason.MARKET_DATA_INVALID),
    "the positions": ({}, lambda d: d.state.core.__setitem__(Core.READY, 0), Reason.POSITION_UNKNOWN),
    "the lease": ({}, lambda d: d.control.__setitem__(Control.LEASE_UNTIL_NS, 0), Reason.KILL_SWITCH_GLOBAL),
}  # fmt: skip


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("side", [BUY, SELL])
def test_4_an_input_that_is_missing_is_named(desk: Any, missing: Any, side: Any) -> None:
    """A complete order passes; take any one input away and the reason says which."""
    for column in ("max_order_notional_e8", "collar_aggressive_bps", "collar_passive_bps", "max_data_age_ns"):
        desk.row()[column] = 10**12 if column.endswith("e8") else 5000
    fields, remove, reason = MISSING[missing]
    assert desk.send(side) == PASS
    if remove:
        remove(desk)
    assert desk.send(side, **fields) == reason


@settings(deadline=None, max_examples=40)
@given(STEPS, st.integers(0, 2), st.integers(0, 2), st.booleans(), st.booleans())
def test_5_a_cancel_is_accepted_in_every_state(
    desks: Any, steps: Any, everywhere: Any, symbol: Any, lease: Any, ready: Any
) -> None:
    """It becomes one cancel per open order of its scope, whatever the state, lease, market or limits."""
    desk = desks(capacity=32)
    for _ in run(desk, steps):
        pass
    desk.limits["state"] = everywhere
    desk.row()["state"] = symbol
    desk.limits["order_rate"] = 0
    desk.control[Control.LEASE_UNTIL_NS] = 2**62 if lease else 0
    desk.state.core[Core.READY] = ready
    desk.tick(flags=TickFlag.HALTED | TickFlag.SUSPECT)
    desk.now_ns += 10**12
    used = desk.state.orders[desk.state.orders["cl_ord_id"] != 0]
    mine = used[(used["instrument"] == 0) & (used["strategy"] == 1)]
    cancels = desk.cancel()
    assert sorted(cancels["cl_ord_id"]) == sorted(mine["cl_ord_id"])


REFUSED = st.fixed_dictionaries(
    {},
    optional={
        "qty_lots": st.sampled_from([0, 11, 2**31]),
        "price_ticks": st.sampled_from([0, 5_000, 20_000]),
        "instrument": st.sampled_from([-1, 3]),
        "recv_ns": st.sampled_from([0, 1, 2**62]),
        "strategy": st.sampled_from([0, 128]),
        "side": st.sampled_from([0, 3]),
        "bid_ticks": st.sampled_from([NO_PRICE_TICKS, 10_001]),
    },
)


@settings(deadline=None, max_examples=60)
@given(STEPS, REFUSED)
def test_6_a_refusal_changes_nothing(desks: Any, steps: Any, fields: Any) -> None:
    """The digest of everything that a decision depends on is the same before and after."""
    desk = desks(capacity=32)
    for _ in run(desk, steps):
        pass
    row = desk.row()
    row["max_order_qty_lots"], row["collar_aggressive_bps"], row["collar_passive_bps"] = 10, 1000, 1000
    row["max_data_age_ns"] = 10**9
    before = desk.state.digest()
    reason = desk.send(**fields)
    assert (desk.state.digest() == before) == (reason != PASS)


@settings(deadline=None, max_examples=30)
@given(STEPS)
def test_7_the_same_input_gives_the_same_decisions_bit_for_bit(desks: Any, steps: Any) -> None:
    """Two instances agree in all their bytes, and so does one that decides batches instead of single signals."""
    first, second = desks(capacity=32), desks(capacity=32)
    for _ in zip(run(first, steps), run(second, steps), strict=True):
        assert first.out.tobytes() == second.out.tobytes()
    assert first.state.digest() == second.state.digest()
    signals = np.concatenate([first.signal(Side(1 + i % 2), 1 + i, instrument=i % 4) for i in range(8)])
    _, batch = first.evaluate(signals)
    single = np.concatenate([second.evaluate(signals[i : i + 1])[1] for i in range(8)])
    assert batch.tobytes() == single.tobytes()
    assert first.state.digest() == second.state.digest()


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 8), st.lists(st.tuples(st.sampled_from([BUY, SELL]), st.integers(0, 2)), min_size=9, max_size=9)
)
def test_8_nothing_new_leaves_after_the_kill_and_everything_open_is_cancelled(
    desks: Any, cut: Any, burst: Any
) -> None:
    """The flag is seen by the next order, even within a batch that was received before it."""
    desk = desks(capacity=32)
    signals = np.concatenate([desk.signal(side, 1, instrument=instrument) for side, instrument in burst])
    _, sent = desk.evaluate(signals[:cut])
    desk.control[Control.VERSION] = 2
    assert desk.evaluate(signals[cut:])[0] == 0, "the old limits are not used any more"
    desk.limits[GLOBAL_ROW]["state"] = TradingState.HALTED
    desk.state.core[Core.LIMITS_VERSION] = 2
    decided, orders = desk.evaluate(signals[cut:])
    assert (decided, len(orders)) == (9 - cut, 0)
    n = kernel.cancel_halted(desk.state.context, desk.now_ns, 0)
    assert sorted(desk.out[:n]["cl_ord_id"]) == sorted(sent["cl_ord_id"])


EXTREMES = [0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**62, -(2**62), 2**63 - 1, -(2**63)]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_10_extreme_values_never_pass_and_never_raise(desks: Any, data: Any) -> None:
    """A signal of arbitrary bits, mixed with extremes, is decided; if it passes, it was within every limit."""
    desk = desks(capacity=32)
    row = desk.row()
    row["max_order_qty_lots"], row["max_order_notional_e8"], row["max_long_lots"] = 100, 10**12, 100
    row["max_short_lots"], row["collar_aggressive_bps"], row["collar_passive_bps"] = 100, 500, 500
    row["max_data_age_ns"] = 10**9
    signal = desk.signal(action=Action.NEW)
    for name in data.draw(st.sets(st.sampled_from(list(SIGNAL.names or ())), max_size=6)):
        kind = SIGNAL[name]
        if kind.kind == "f":
            signal[name] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        elif name != "action":
            info = np.iinfo(kind)
            signal[name] = data.draw(st.sampled_from([v for v in EXTREMES if info.min <= v <= info.max]))
    reason = desk.decide(signal)
    if reason == PASS and signal["instrument"][0] == 0:
        assert 1 <= signal["qty_lots"][0] <= 100
        assert abs(int(signal["price_ticks"][0]) * 2 - 20_000) <= 1000 or signal["bid_ticks"][0] != 9_999
        assert signal["recv_ns"][0] >= desk.now_ns - 10**9


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=2 * SIGNAL.itemsize, max_size=2 * SIGNAL.itemsize))
def test_10_arbitrary_bytes_are_decided(desks: Any, raw: Any) -> None:
    """Whatever the bits, both signals are decided and no order leaves (no instrument is that lucky)."""
    desk = desks(capacity=32)
    desk.row()["max_order_qty_lots"] = 0
    decided, orders = desk.evaluate(np.frombuffer(raw, dtype=SIGNAL).copy())
    assert decided == 2
    assert len(orders) == 0 or (orders["instrument"] != 0).all()
