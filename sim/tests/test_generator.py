"""The invented market, checked by a plain order book that shares no code with it."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.kernels.book import ST_CROSSED, ST_MAX_LIVE_ORDERS, Book, Result, apply_blocks
from tickpath.common.protocols import itch50
from tickpath.sim.sources.generator import OPENING_NS, generate_tape
from tickpath.sim.sources.tape import DataFileError, Tape


class PlainMarket:
    """Books of all symbols as dictionaries; complains about everything that a real exchange would not send."""

    def __init__(self) -> None:
        self.orders: dict[int, list[object]] = {}  # ref -> [locate, side, price, shares]
        self.sizes: dict[tuple[int, str], dict[int, int]] = {}
        self.queues: dict[tuple[int, str, int], list[int]] = {}
        self.seen: set[int] = set()
        self.trading: set[int] = set()

    def _change(self, ref: int, shares: int, keep_place: bool = True) -> None:
        locate, side, price, left = self.orders[ref]
        assert 0 < shares <= left  # type: ignore[operator]
        level = self.sizes[locate, side]  # type: ignore[index]
        level[price] -= shares  # type: ignore[index]
        if not level[price]:  # type: ignore[index]
            del level[price]  # type: ignore[arg-type]
        self.orders[ref][3] -= shares  # type: ignore[operator]
        if not self.orders[ref][3] or not keep_place:
            self.queues[locate, side, price].remove(ref)  # type: ignore[index]
            del self.orders[ref]

    def _add(self, locate: int, ref: int, side: str, price: int, shares: int) -> None:
        assert ref not in self.seen
        assert shares > 0
        assert price % 100 == 0
        assert price > 0
        self.seen.add(ref)
        self.orders[ref] = [locate, side, price, shares]
        level = self.sizes.setdefault((locate, side), {})
        level[price] = level.get(price, 0) + shares
        self.queues.setdefault((locate, side, price), []).append(ref)

    def best(self, locate: int) -> tuple[int | None, int | None]:
        bids, asks = self.sizes.get((locate, "B")), self.sizes.get((locate, "S"))
        return max(bids) if bids else None, min(asks) if asks else None

    def apply(self, m: dict[str, object]) -> None:
        kind, locate = m["type"], int(m["stock_locate"])  # type: ignore[call-overload]
        if kind == "H":
            assert m["trading_state"] == "T"
            self.trading.add(locate)
        if kind in ("S", "R", "H"):
            return
        assert locate in self.trading
        if kind == "A":
            self._add(locate, m["order_ref"], m["side"], m["price"], m["shares"])  # type: ignore[arg-type]
        elif kind == "P":
            bid, ask = self.best(locate)
            assert bid is not None
            assert ask is not None
            assert bid <= m["price"] <= ask  # type: ignore[operator]
        else:
            ref = m["original_order_ref" if kind == "U" else "order_ref"]
            assert self.orders[ref][0] == locate  # type: ignore[index]
            _, side, price, left = self.orders[ref]  # type: ignore[index]
            if kind == "E":
                assert price == self.best(locate)[side == "S"]
                assert self.queues[locate, side, price][0] == ref  # type: ignore[index]
                self._change(ref, m["executed_shares"])  # type: ignore[arg-type]
            elif kind == "X":
                assert m["cancelled_shares"] < left  # type: ignore[operator]
                self._change(ref, m["cancelled_shares"])  # type: ignore[arg-type]
            else:
                assert kind in ("D", "U")
                self._change(ref, left, keep_place=False)  # type: ignore[arg-type]
                if kind == "U":
                    self._add(locate, m["new_order_ref"], side, m["price"], m["shares"])  # type: ignore[arg-type]
        bid, ask = self.best(locate)
        assert bid is None or ask is None or bid < ask


def check(tape: Tape) -> list[int]:
    """Apply a whole tape; returns the spreads seen, in price units, after every message of a two-sided book."""
    market, spreads = PlainMarket(), []
    for i in range(len(tape)):
        m = itch50.decode(tape.message(i))
        assert m["timestamp"] == tape.time_ns[i]
        market.apply(m)
        bid, ask = market.best(m["stock_locate"])
        if bid is not None and ask is not None:
            spreads.append(ask - bid)
    return spreads


def test_a_default_market_is_consistent_tight_and_has_everything() -> None:
    tape = generate_tape(1, seconds=2)
    assert len(tape) == 40_000
    spreads = check(tape)
    assert 100 <= statistics.median(spreads) <= 400
    assert np.percentile(spreads, 99) <= 2000
    assert set(tape.counts) == set("SRHAEXDUP")
    assert tape.counts["E"] > 0.02 * len(tape)
    assert len(tape.symbols) == 24


def test_the_feed_handlers_book_takes_every_message_of_a_whole_minute() -> None:
    tape = generate_tape(4)
    assert len(tape) == 1_200_000
    book = Book.create(24, 1 << 15, 1 << 12)
    for instrument, locate in enumerate(tape.symbols.values()):
        book.locate[locate] = instrument
    assert apply_blocks(book, tape.data, 0, len(tape)) == len(tape.data)
    assert set(book.results()) == {Result.OK}
    assert book.message_counts() == tape.counts
    assert book.stats[ST_CROSSED] == 0
    assert book.stats[ST_MAX_LIVE_ORDERS] < 24 * 512


@given(st.integers(0, 2**64), st.integers(1, 40), st.floats(0.01, 30), st.integers(100, 2500))
@settings(max_examples=40, deadline=None)
def test_any_market_is_consistent(seed: int, instruments: int, seconds: float, n: int) -> None:
    tape = generate_tape(seed, seconds=seconds, rate=n / seconds, instruments=instruments)
    check(tape)
    assert abs(len(tape) - n) <= 1
    assert tape.time_ns[0] == OPENING_NS
    assert (np.diff(tape.time_ns) >= 0).all()
    assert tape.duration_ns <= round(seconds * 1e9)


def test_the_same_seed_gives_the_same_bytes_and_another_one_another_market() -> None:
    tapes = [generate_tape(seed, seconds=1.5) for seed in (5, 5, 6)]
    assert tapes[0].data.tobytes() == tapes[1].data.tobytes()
    assert np.array_equal(tapes[0].time_ns, tapes[1].time_ns)
    assert tapes[0].data.tobytes() != tapes[2].data.tobytes()


def test_the_rate_holds_on_average_and_bursts_reach_several_times_it() -> None:
    tape = generate_tape(3, seconds=30)
    assert len(tape) == 600_000
    assert tape.duration_ns == 30_000_000_000
    per_50_ms = np.bincount((tape.time_ns - OPENING_NS) // 50_000_000)
    assert per_50_ms.max() > 3.5 * per_50_ms.mean()
    assert np.median(per_50_ms) < per_50_ms.mean()


def test_activity_is_heavy_tailed_over_instruments_and_prices_are_in_range() -> None:
    tape = generate_tape(11, seconds=10)
    locates = tape.data[tape.offsets[:-1] + 3].astype(int) << 8 | tape.data[tape.offsets[:-1] + 4]
    activity = np.sort(np.bincount(locates, minlength=25)[1:])[::-1]
    assert activity[:4].sum() > 3 * activity[-12:].sum()
    adds = [itch50.decode(tape.message(i)) for i in range(2000) if chr(tape.message(i)[0]) == "A"]
    prices = np.array([m["price"] for m in adds])
    assert (prices > 8 * 10_000 * 0.6).all()
    assert (prices < 900 * 10_000 * 1.4).all()
    shares = np.array([m["shares"] for m in adds])
    assert (shares % 100 == 0).mean() > 0.5
    assert (shares < 100).any()


def test_prices_trend_so_that_short_and_long_averages_cross() -> None:
    tape = generate_tape(2, seconds=20)
    kinds = tape.data[tape.offsets[:-1] + 2]
    trades = [itch50.decode(tape.message(int(i))) for i in np.nonzero(kinds == ord("P"))[0]]
    busiest = statistics.mode(m["stock_locate"] for m in trades)
    prices = [m["price"] for m in trades if m["stock_locate"] == busiest]
    fast, slow, crosses, above = prices[0], prices[0], 0, False
    for price in prices:
        fast += (price - fast) / 3
        slow += (price - slow) * 2 / 21
        crosses += (fast > slow) != above
        above = fast > slow
    assert 10 < crosses < len(prices) / 5
    assert max(prices) - min(prices) > 1000


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": 60_000}, "before midnight"),
        ({"rate": 0}, "is 0 messages, allowed are 50"),
        ({"rate": 1e9}, "allowed are 50"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"instruments": 0}, "allowed are 1 to 512"),
        ({"seed": -1}, "must not be negative"),
    ],
)
def test_arguments_out_of_range_are_refused_with_what_is_allowed(arguments: dict[str, float], complaint: str) -> None:
    with pytest.raises(DataFileError, match=complaint):
        generate_tape(**{"seed": 1, **arguments})  # type: ignore[arg-type]
