"""`tickpath bench paper`: both sides decide the same, and every row of the paper is there. Nothing is timed here."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickpath.risk.state import Core

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def paper() -> Iterator[Any]:
    """The module bench/paper.py, imported as it is when it runs."""
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        import paper as module

        yield module
    finally:
        sys.path.remove(str(ROOT / "bench"))


@pytest.fixture(scope="module")
def market(paper: Any) -> Any:
    """The first messages of the recorded hour."""
    if not paper.FILE.is_file():
        pytest.skip(f"SKIPPED: no recorded market data: {paper.FILE}")
    return paper.load_market(messages=12_000)


def limits(paper: Any, **changed: int) -> dict[str, Any]:
    """The shipped limits, with some changed."""
    risk: dict[str, Any] = copy.deepcopy(paper.shipped_limits())
    risk["limits"].update(changed)
    return risk


LIMITS = {
    "as shipped": ({}, False),
    "turning the position round is too much money": ({"max_order_notional": 100_000}, True),
    "turning the position round is too many shares": ({"max_order_qty_lots": 150}, True),
    "a wide book has no reference price": ({"max_spread_bps": 2}, True),
    "the price is too far from the mid": ({"collar_aggressive_bps": 1}, True),
    "no short position": ({"max_short_lots": 0}, True),
}


@pytest.mark.parametrize(("changed", "refuses"), LIMITS.values(), ids=LIMITS.keys())
def test_both_sides_send_the_same_orders(
    paper: Any, market: Any, tmp_path: Path, changed: dict[str, int], refuses: bool
) -> None:
    """Cause, side, quantity and price of every order, with limits that let all pass and with such that refuse."""
    risk = limits(paper, **changed)
    baseline = paper.Baseline(tmp_path, paper.SYMBOL, paper.STRATEGY, risk)
    ours = paper.Ours(tmp_path, risk)
    try:
        made = [paper.order_key(order) for order in baseline.decide(market.lines)]
        assert made == ours.decide(market)
        assert bool(ours.risk.core[Core.REJECTED]) == refuses
        assert refuses or len(made) > 10
    finally:
        baseline.close()
        ours.close()


def test_a_load_of_more_orders_than_the_rate_allows_is_refused_alike(paper: Any, market: Any, tmp_path: Path) -> None:
    """Both sides count the same orders in the window."""
    risk = limits(paper, order_rate=3, order_rate_window_ms=60_000)
    baseline, ours = paper.Baseline(tmp_path, paper.SYMBOL, paper.STRATEGY, risk), paper.Ours(tmp_path, risk)
    try:
        made = [paper.order_key(order) for order in baseline.decide(market.lines)]
        assert made == ours.decide(market)
        assert ours.risk.core[Core.REJECTED] > 0
    finally:
        baseline.close()
        ours.close()


def test_the_same_messages_packed_tightly_make_the_same_ticks(paper: Any, market: Any) -> None:
    """`Market.packed` leaves no message out, adds none, and keeps their numbers."""
    from tickpath.common.protocols import moldudp64

    header, messages = moldudp64.unpack(market.packed(0, len(market))[0])
    assert (header.sequence, header.n_messages) == (1, len(messages))
    expected = 1
    for raw in market.packed(0, len(market)):
        header, messages = moldudp64.unpack(raw)
        assert len(raw) <= moldudp64.MAX_PACKET
        assert header.sequence == expected
        expected += len(messages)
    assert expected == 1 + int(market.counts.sum())


def test_a_run_has_every_row_of_the_paper(paper: Any, market: Any) -> None:
    """All phases for real, in small: pipelines, venue and counters; the result is JSON."""
    result = json.loads(json.dumps(paper.measure(market, lambda _: None, rounds=paper.LOADS)))
    claimed = {row["key"]: row["paper"] for row in result["rows"] if row["paper"] is not None}
    assert claimed == {
        "ingestion": 15, "signal": 15, "risk": 9, "generation": 15, "transmission": 7, "total": 11,
        "orders_per_s": 19, "ticks_per_s": 43, "allocation": 13, "cpu": 2.4, "pauses": 7.5,
    }  # fmt: skip
    assert result["same_decisions"]
    assert result["market"]["messages"] == int(market.counts.sum())
    for row in result["rows"]:
        assert row["baseline"] >= 0 and row["ours"] >= 0
        assert row["factor"] is None or row["factor"] > 0


def test_allocations_are_counted_exactly(paper: Any) -> None:
    """Ten blocks of a thousand bytes and their headers; nothing while it is off."""
    counter = paper.Counter()
    with counter.installed() as found:
        counter.on()
        kept = [bytes(1000) for _ in range(10)]
        counter.off()
        unseen = [bytes(1000) for _ in range(10)]
    assert len(kept) == len(unseen) == 10
    assert 10 * 1000 < found.bytes < 12 * 1000
    assert 10 <= found.blocks < 30


def test_a_difference_is_named(paper: Any) -> None:
    """What was decided, by whom, and where in the sequence."""
    with pytest.raises(paper.DifferenceError, match="order 2: the baseline decided 2, ours 3"):
        paper.must_agree("order", [1, 2], [1, 3])
    with pytest.raises(paper.DifferenceError, match="the baseline made 1, ours 0"):
        paper.must_agree("order", [1], [])


@pytest.mark.parametrize(
    ("unit", "sides", "factor", "reached"),
    [
        ("µs/order", (30.0, 2.0), 15.0, True),
        ("µs/order", (28.0, 2.0), 14.0, False),
        ("orders/s", (2.0, 30.0), 15.0, True),
        ("ms/million", (5.0, 0.0), None, True),
        ("ms/million", (0.0, 0.0), None, False),
    ],
)
def test_a_factor_is_how_much_better_ours_is(
    paper: Any, unit: str, sides: tuple[float, float], factor: float | None, reached: bool
) -> None:
    """Less time or more per second; nothing at all has no number."""
    row = paper.make_row("key", "title", unit, sides, 15)
    assert (row.factor, row.reached) == (factor, reached)


def test_without_the_data_it_says_so(
    paper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 3 and a sentence, nothing on stdout."""
    monkeypatch.setattr(paper, "FILE", tmp_path / "nothing.csv.zst")
    monkeypatch.setattr(sys, "argv", ["paper"])
    assert paper.main() == 3
    said = capsys.readouterr()
    assert "recorded data is not there" in said.err
    assert said.out == ""


def test_only_measurements_are_listed_as_such() -> None:
    """Parts of a bench are in folders or have names with an underscore."""
    from tickpath.cli.workspace import benches

    assert {"paper", "pipeline"} <= set(benches())
    assert not {"bare_chain", "_bare_chain", "side_by_side", "baseline", "venue"} & set(benches())
