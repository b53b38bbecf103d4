"""The two strategies that come with the service, against plain implementations of their formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tickpath.common.instruments import InstrumentTable
from tickpath.common.records import NO_PRICE_TICKS, SIGNAL, Action, Side, TickFlag, Tif
from tickpath.signals.engine import Engine, Running
from tickpath.signals.strategy import load_strategy

Records = npt.NDArray[np.void]


@pytest.fixture(scope="module")
def ema(two_instruments: InstrumentTable) -> Engine:
    strategy = load_strategy("tickpath.signals.strategies.ema_cross:ema_cross")
    return Engine([Running(strategy, 1)], two_instruments, capacity=64)


@pytest.fixture(scope="module")
def micro(two_instruments: InstrumentTable) -> Engine:
    strategy = load_strategy("tickpath.signals.strategies.microprice:microprice")
    return Engine([Running(strategy, 1)], two_instruments, capacity=64)


def one_by_one(engine: Engine, ticks: Records, state: list[str]) -> tuple[Records, npt.NDArray[np.float64]]:
    """Signals, all refused by risk at once, and the named state of instrument 0 after every tick."""
    engine.reset()
    out, signals, values = np.zeros(engine.room, SIGNAL), [], []
    for index in range(len(ticks)):
        _, n = engine.run(ticks[index : index + 1], out, 0)
        engine.acknowledge(engine.signal_seq)
        signals.append(out[:n].copy())
        values.append([engine.memory["states_0"][0][name].item() for name in state])
    return np.concatenate(signals), np.array(values, np.float64)


def ema_of(values: npt.NDArray[np.float64], span: int) -> npt.NDArray[np.float64]:
    """Closed form: a weight of alpha (1 - alpha)**age for each value, what is left for the first one."""
    alpha = 2 / (span + 1)
    result = np.empty(len(values))
    for k in range(len(values)):
        age = np.arange(k, -1, -1)[max(0, k - 2000) :]
        weights = alpha * (1 - alpha) ** age
        recent = values[k + 1 - len(age) : k + 1]
        result[k] = (weights * recent).sum() + (1 - weights.sum()) * values[0]
    return result


def ema_decisions(trades: Records, fast_span: int = 5, slow_span: int = 20, volume_span: int = 20) -> list[Any]:
    """(cause_seq, side, price) of every order, by the rule in words, in plain Python."""
    decisions: list[Any] = []
    fast = slow = size = 0.0
    sign = 0
    for number, trade in enumerate(trades, start=1):
        price, lots = float(trade["last_ticks"]), float(trade["last_lots"])
        if number == 1:
            fast, slow, size = price, price, lots
            continue
        large = lots >= size
        fast += 2 / (fast_span + 1) * (price - fast)
        slow += 2 / (slow_span + 1) * (price - slow)
        size += 2 / (volume_span + 1) * (lots - size)
        now = int(np.sign(fast - slow)) or sign
        if sign not in (0, now) and large and number >= slow_span:
            side = Side.BUY if now > 0 else Side.SELL
            touch = int(trade["ask_ticks"] if now > 0 else trade["bid_ticks"])
            if touch != NO_PRICE_TICKS:
                decisions.append((int(trade["cause_seq"]), side, touch + 100 * now))
        sign = now
    return decisions


def check_ema(engine: Engine, ticks: Records) -> int:
    signals, values = one_by_one(engine, ticks, ["fast", "slow", "size"])
    is_trade = (ticks["flags"] & int(TickFlag.TRADE)) != 0
    trades = ticks[is_trade]
    prices, sizes = trades["last_ticks"].astype(np.float64), trades["last_lots"].astype(np.float64)
    for column, wanted in enumerate((ema_of(prices, 5), ema_of(prices, 20), ema_of(sizes, 20))):
        np.testing.assert_allclose(values[is_trade][:, column], wanted, rtol=1e-12)
    got = [(int(s["cause_seq"]), s["side"], int(s["price_ticks"])) for s in signals]
    assert got == ema_decisions(trades)
    assert (signals["qty_lots"] == 100).all()
    assert (signals["tif"] == Tif.IOC).all()
    return len(signals)


def test_ema_cross_equals_the_plain_implementation_on_random_trades(
    ema: Engine, random_ticks: Callable[..., Records]
) -> None:
    ticks = random_ticks(6000, seed=11, n_instruments=1)
    assert check_ema(ema, ticks) > 20


def test_ema_cross_equals_the_plain_implementation_on_a_real_hour(ema: Engine, aapl_day: Records) -> None:
    hour = aapl_day[aapl_day["exch_ns"] < 37_800 * 10**9]
    assert check_ema(ema, hour) > 50


def test_the_averages_begin_at_the_first_price_and_not_at_zero(
    ema: Engine, random_ticks: Callable[..., Records]
) -> None:
    ticks = random_ticks(20, seed=1, n_instruments=1)
    ticks["flags"] = int(TickFlag.TRADE)
    ticks["last_ticks"], ticks["last_lots"] = 123_400, 7
    _, values = one_by_one(ema, ticks, ["fast", "slow", "size"])
    np.testing.assert_array_equal(values, np.tile([123_400.0, 123_400.0, 7.0], (20, 1)))


def test_ema_cross_turns_its_position_and_never_holds_more_than_its_maximum(
    ema: Engine, aapl_day: Records, make_venue: Callable[[], Any]
) -> None:
    ema.reset()
    venue, out, positions = make_venue(), np.zeros(ema.room, SIGNAL), set()
    trades = aapl_day[(aapl_day["flags"] & int(TickFlag.TRADE)) != 0]
    for index in range(len(trades)):
        _, n = ema.run(trades[index : index + 1], out, 0)
        for signal in out[:n]:
            ema.apply(venue.take(signal))
            positions.add(int(ema.memory["own"][0, 0]["position_lots"]))
    assert positions == {100, -100}


def flow_of(ticks: Records) -> npt.NDArray[np.int64]:
    """e_n of Cont, Kukanov and Stoikov, by NumPy; 0 for the first tick and beside an empty side."""
    before, after = ticks[:-1], ticks[1:]
    bid, ask = after["bid_ticks"], after["ask_ticks"]
    e = (
        (bid >= before["bid_ticks"]) * after["bid_lots"]
        - (bid <= before["bid_ticks"]) * before["bid_lots"]
        - (ask <= before["ask_ticks"]) * after["ask_lots"]
        + (ask >= before["ask_ticks"]) * before["ask_lots"]
    )
    empty = (ticks["bid_ticks"] == NO_PRICE_TICKS) | (ticks["ask_ticks"] == NO_PRICE_TICKS)
    return np.concatenate([[0], np.where(empty[:-1] | empty[1:], 0, e)])


def check_micro(engine: Engine, ticks: Records, window: int = 50) -> int:
    signals, values = one_by_one(engine, ticks, ["ofi", "tilt", "steps"])
    flow = flow_of(ticks)
    ofi = np.array([flow[max(0, k + 1 - window) : k + 1].sum() for k in range(len(ticks))])
    bid, ask = ticks["bid_lots"].astype(float), ticks["ask_lots"].astype(float)
    both_sides = (ticks["bid_ticks"] != NO_PRICE_TICKS) & (ticks["ask_ticks"] != NO_PRICE_TICKS)
    prices = ticks["bid_ticks"] * ask + ticks["ask_ticks"] * bid
    with np.errstate(invalid="ignore", divide="ignore"):
        micro, mid = prices / (bid + ask), (ticks["bid_ticks"] + ticks["ask_ticks"]) / 2
        tilt = np.where(both_sides, (micro - mid) / ((ticks["ask_ticks"] - ticks["bid_ticks"]) / 2), 0.0)
    depth = np.array([(bid + ask)[max(0, k + 1 - window) : k + 1].mean() / 2 for k in range(len(ticks))])
    steps = np.where(both_sides, ofi / (2 * depth), 0.0)
    np.testing.assert_array_equal(values[:, 0], ofi)
    np.testing.assert_allclose(values[:, 1], tilt, atol=1e-9)
    np.testing.assert_allclose(values[:, 2], steps, rtol=1e-12)
    # Every order is refused at once, so every tick with a view asks for one.
    ready = np.arange(len(ticks)) >= window - 1
    up, down = (ready & (sign * tilt >= 0.6) & (sign * steps >= 2.0) for sign in (1, -1))
    wanted = [
        (int(t["cause_seq"]), Side.BUY if u else Side.SELL) for t, u, d in zip(ticks, up, down, strict=True) if u | d
    ]
    assert [(int(s["cause_seq"]), s["side"]) for s in signals] == wanted
    touch = np.where(signals["side"] == Side.BUY, signals["bid_ticks"], signals["ask_ticks"])
    np.testing.assert_array_equal(signals["price_ticks"], touch)
    return len(signals)


def test_microprice_equals_the_plain_implementation_on_random_ticks(
    micro: Engine, random_ticks: Callable[..., Records]
) -> None:
    assert check_micro(micro, random_ticks(4000, seed=12, n_instruments=1)) > 20


def test_microprice_equals_the_plain_implementation_on_real_ticks(micro: Engine, aapl_day: Records) -> None:
    assert check_micro(micro, aapl_day[:20_000]) > 100


@pytest.mark.parametrize(("name", "least", "most"), [("ema_cross", 50, 2000), ("microprice", 500, 6000)])
def test_a_real_day_gives_a_believable_number_of_orders(
    two_instruments: InstrumentTable,
    aapl_day: Records,
    make_venue: Callable[[], Any],
    name: str,
    least: int,
    most: int,
) -> None:
    """Tens to thousands in 118,497 ticks; the venue holds what the strategy thinks, within its limits."""
    engine = Engine([Running(load_strategy(f"tickpath.signals.strategies.{name}:{name}"), 1)], two_instruments)
    venue, out, orders = make_venue(), np.zeros(engine.room, SIGNAL), 0
    own = engine.memory["own"][0, 0:1]
    for index in range(len(aapl_day)):
        if venue.open:
            engine.apply(venue.on_tick(aapl_day[index]))
        _, n = engine.run(aapl_day[index : index + 1], out, 0)
        for signal in out[:n]:
            orders += int(signal["action"] == Action.NEW)
            engine.apply(venue.take(signal))
        assert abs(own["position_lots"][0]) <= 300
        assert own["open_orders"][0] == len(venue.open)
    assert least <= orders <= most
