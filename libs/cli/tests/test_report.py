"""The demo's report: a good run is ok, and what can go wrong makes it not ok, with a line that says what."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tickpath.cli.figures import counted
from tickpath.cli.report import ALARMS, RISK_ALARMS, Evidence, find_problems, make_report, print_report
from tickpath.common.records import REPORT, ExecEvent, OrderState, Side
from tickpath.exec.layout import Counter as ExecCounter
from tickpath.feed.layout import Count as FeedCounter
from tickpath.risk.state import Core
from tickpath.signals.layout import Counter as SignalsCounter
from tickpath.sim.layout import Counter as SimCounter

E, S = ExecEvent, OrderState

#: (client order id, event, state after it, side, lots filled): three orders, one of each end.
STORY = [
    (1, E.SEND, S.PENDING_NEW, Side.BUY, 0),
    (1, E.ACKNOWLEDGED, S.NEW, Side.BUY, 0),
    (2, E.SEND, S.PENDING_NEW, Side.SELL, 0),
    (1, E.FILL, S.PARTIALLY_FILLED, Side.BUY, 40),
    (2, E.VENUE_REJECT, S.REJECTED, Side.SELL, 0),
    (1, E.FILL, S.FILLED, Side.BUY, 60),
    (3, E.SEND, S.PENDING_NEW, Side.BUY, 0),
    (3, E.ACKNOWLEDGED, S.NEW, Side.BUY, 0),
    (3, E.CANCEL_SENT, S.PENDING_CANCEL, Side.BUY, 0),
    (3, E.CANCELLED, S.CANCELLED, Side.BUY, 0),
]


def journal_of(story: list[tuple[int, ExecEvent, OrderState, Side, int]]) -> np.ndarray:
    journal = np.zeros(len(story), dtype=REPORT)
    for row, (cl_ord_id, event, state, side, lots) in zip(journal, story, strict=True):
        row["cl_ord_id"], row["event"], row["state"], row["side"], row["last_lots"] = (
            cl_ord_id, event, state, side, lots,
        )  # fmt: skip
    journal["seq"] = np.arange(1, len(story) + 1)
    return journal


def good() -> Evidence:
    return Evidence(
        seconds=5.0,
        source="generated",
        counters={
            "sim": {
                "messages_sent": 1000, "orders_received": 3, "accepted": 2, "rejected": 1, "fills": 2,
                "filled_lots": 100, "open_orders": 0, "duplicates": 0,
            },
            "feed": {"messages": 1000, "messages_lost": 0, "messages_repaired": 0, "ticks": 400},
            "signals": {"ticks": 400, "signals_new": 6, "signals_cancel": 1},
            "exec": {"orders_received": 4, "orders_sent": 3, "orders_refused": 0, "duplicate_orders": 0},
        },
        risk_core={"ticks": 400, "approved": 3, "rejected": 2, "cancels": 1, "cancel_signals": 1},
        risk_reasons={"ORDER_RATE": 2, "ALREADY_DECIDED": 1},
        journal=journal_of(STORY),
        positions={"risk": {"AAPL": 100}, "journal": {"AAPL": 100}, "exchange": {"AAPL": 100}},
        tick_to_order_us={"p50": 1.0, "p90": 2.0, "p99": 3.0, "p99_9": 4.0, "max": 5.0, "count": 3},
        hops_us={"recv_to_decode": {"p50": 1.0, "p90": 2.0, "p99": 3.0, "p99_9": 4.0, "max": 5.0, "count": 3}},
        processes={"feed.hot": {"cpu_percent": 1.0, "rss_mb": 50.0, "gc_pauses": 0, "cores": [0]}},
    )  # fmt: skip


def with_count(service: str, counter: str, value: int) -> Evidence:
    evidence = good()
    counters = {name: dict(found) for name, found in evidence.counters.items()}
    counters[service][counter] = value
    return replace(evidence, counters=counters)


def with_story(story: list[Any]) -> Evidence:
    return replace(good(), journal=journal_of(story))


def with_core(counter: str, value: int) -> Evidence:
    evidence = good()
    return replace(evidence, risk_core={**evidence.risk_core, counter: value})


def test_a_run_in_which_everything_is_accounted_for_is_ok() -> None:
    evidence = good()
    assert find_problems(evidence) == []
    report = make_report(evidence)
    assert report["ok"] is True
    assert report["orders"] == {
        "sent": 3,
        "acknowledged": 2,
        "filled": 1,
        "cancelled": 1,
        "rejected_by_venue": 1,
        "fills": 2,
        "filled_lots": 100,
    }
    assert report["market_data"] == {"sent": 1000, "received": 1000, "lost": 0, "repaired": 0}
    assert (report["signals"], report["ticks"], report["duplicates"]) == (7, 400, 0)
    assert (report["signals_new"], report["signals_cancel"]) == (6, 1)


def test_the_report_has_exactly_the_keys_that_are_promised() -> None:
    assert list(make_report(good())) == [
        "ok", "seconds", "source", "lane", "market_data", "ticks", "signals", "signals_new", "signals_cancel",
        "orders", "risk_rejects", "positions_match", "duplicates", "tick_to_order_us", "digests", "hops_us",
        "processes",
    ]  # fmt: skip


FAULTS: dict[str, tuple[Callable[[], Evidence], str]] = {
    "market data lost": (lambda: with_count("feed", "messages", 999), "market data: 1000 messages sent, 999"),
    "feed counts a loss": (lambda: with_count("feed", "messages_lost", 3), "feed counts 3 lost"),
    "more received than sent": (lambda: with_count("feed", "messages", 1001), "1001 received"),
    "ticks lost before signals": (lambda: with_count("signals", "ticks", 399), "signals received 399"),
    "ticks lost before risk": (lambda: with_core("ticks", 399), "risk received 399"),
    "a signal without a decision": (lambda: with_count("signals", "signals_new", 7), "risk decided on 6"),
    "a cancel that risk never saw": (lambda: with_count("signals", "signals_cancel", 2), "2 to cancel, risk"),
    "an order lost between risk and exec": (lambda: with_core("approved", 4), "exec received 4"),
    "an order that exec does not account for": (
        lambda: with_count("exec", "orders_sent", 2), "exec accounts for 2",
    ),
    "an order that was sent and not journaled": (lambda: with_story(STORY[:6]), "the journal has 2 sent"),
    "an order that the exchange never received": (
        lambda: with_count("sim", "orders_received", 2), "the exchange received 2",
    ),
    "an order without an answer": (
        lambda: with_story([entry for entry in STORY if entry[:2] != (3, E.ACKNOWLEDGED)]), "1 were neither",
    ),
    "an order without an end": (lambda: with_story(STORY[:-1]), "1 have no known end"),
    "an order left open at the exchange": (lambda: with_count("sim", "open_orders", 1), "still open"),
    "an order that was sent twice": (lambda: with_story([*STORY, STORY[2], STORY[4]]), "1 were sent more than"),
    "an order that the exchange saw twice": (lambda: with_count("sim", "duplicates", 1), "1 were sent more than"),
    "an acceptance that was not journaled": (lambda: with_count("sim", "accepted", 3), "accepted: 2 in the"),
    "a reject that was not journaled": (lambda: with_count("sim", "rejected", 2), "rejected: 1 in the journal, 2"),
    "a fill that was not journaled": (lambda: with_count("sim", "fills", 3), "fills: 2 in the journal, 3"),
    "lots that were not journaled": (lambda: with_count("sim", "filled_lots", 101), "filled lots: 100"),
    "risk holds another position": (
        lambda: replace(good(), positions={**good().positions, "risk": {"AAPL": 99}}), "AAPL risk +99",
    ),
    "the exchange holds another position": (
        lambda: replace(good(), positions={**good().positions, "exchange": {}}), "exchange +0",
    ),
    "the journal holds another position": (
        lambda: replace(good(), positions={**good().positions, "journal": {"AAPL": 100, "MSFT": -1}}), "MSFT",
    ),
    "a book is missing": (
        lambda: replace(good(), positions={"risk": {"AAPL": 100}, "journal": {"AAPL": 100}}), "none of exchange",
    ),
    "a service left nothing": (
        lambda: replace(good(), counters={**good().counters, "feed": {}}), "feed: it has left no counters",
    ),
    "risk left nothing": (lambda: replace(good(), risk_core={}), "risk: it has left no counters"),
    "something went wrong with the run": (
        lambda: replace(good(), faults=("feed: the hot process died",)), "feed: the hot process died",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "said"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_makes_the_run_not_ok_and_is_named(make: Callable[[], Evidence], said: str) -> None:
    evidence = make()
    assert make_report(evidence)["ok"] is False
    assert any(said in problem for problem in find_problems(evidence)), find_problems(evidence)


@pytest.mark.parametrize(("service", "counter"), [(s, c) for s, alarms in ALARMS.items() for c in alarms])
def test_each_alarm_counter_makes_the_run_not_ok(service: str, counter: str) -> None:
    evidence = with_count(service, counter, 1)
    assert make_report(evidence)["ok"] is False
    assert any(f"({counter})" in problem for problem in find_problems(evidence))


@pytest.mark.parametrize("counter", RISK_ALARMS)
def test_each_alarm_of_risk_makes_the_run_not_ok(counter: str) -> None:
    assert make_report(with_core(counter, 1))["ok"] is False


def test_every_counter_that_the_report_looks_at_exists() -> None:
    """A renamed counter would be read as 0 and its check would be blind."""
    enums = {"feed": FeedCounter, "signals": SignalsCounter, "exec": ExecCounter, "sim": SimCounter}
    evidence = good()
    for service, counters in enums.items():
        known = {member.name.lower() for member in counters}
        assert set(ALARMS[service]) | set(evidence.counters[service]) <= known, service
    known = {member.name.lower() for member in Core}
    assert set(RISK_ALARMS) | set(evidence.risk_core) <= known


def test_a_fill_of_part_of_an_order_that_is_then_cancelled_counts_as_cancelled() -> None:
    story = [*STORY[:8], (3, E.FILL, S.PARTIALLY_FILLED, Side.BUY, 10), (3, E.CANCELLED, S.CANCELLED, Side.BUY, 0)]
    orders = make_report(with_story(story))["orders"]
    assert (orders["filled"], orders["cancelled"]) == (1, 1)


def test_people_see_the_same_figures_and_every_problem() -> None:
    evidence = with_count("feed", "messages", 990)
    out = io.StringIO()
    problems = find_problems(evidence)
    print_report(make_report(evidence), problems, {"AAPL": 100}, Console(file=out, width=120))
    text = out.getvalue()
    assert "1,000" in text
    assert "990" in text
    assert "ORDER_RATE" in text
    assert "+100" in text
    assert f"not ok: {problems[0]}" in text


def shown(evidence: Evidence, positions: dict[str, int], width: int = 120) -> dict[str, list[str]]:
    """Rows of the report for people: label -> the other cells; what is no row of a table has none."""
    out = io.StringIO()
    print_report(make_report(evidence), find_problems(evidence), positions, Console(file=out, width=width))
    rows = (re.split(r" {2,}", line.strip()) for line in out.getvalue().splitlines() if line.strip())
    return {label: cells for label, *cells in rows}


def test_what_becomes_of_signals_and_orders_adds_up_in_the_table() -> None:
    rows = shown(good(), {"AAPL": 100})
    counts = {label: int(cells[0].replace(",", "")) for label, cells in rows.items() if len(cells) == 2}
    assert counts["signals: new orders"] == counts["refused by risk"] + counts["orders sent"]
    assert counts["signals: cancels"] == 1
    assert (counts["completely filled"], counts["fills"], counts["filled lots"]) == (1, 2, 100)
    assert counts["orders sent"] == sum(
        counts[end] for end in ("completely filled", "cancelled", "rejected by venue")
    )


@pytest.mark.parametrize(
    ("count", "cells"),
    [
        (9, ["1.0", "–", "–", "–", "5.0"]),  # noqa: RUF001 - a dash
        (10, ["1.0", "2.0", "–", "–", "5.0"]),  # noqa: RUF001
        (411, ["1.0", "2.0", "3.0", "–", "5.0"]),  # noqa: RUF001
        (1000, ["1.0", "2.0", "3.0", "4.0", "5.0"]),
    ],
)
def test_a_quantile_that_has_too_few_orders_for_it_is_a_dash_and_a_number_in_the_json(
    count: int, cells: list[str]
) -> None:
    evidence = replace(good(), tick_to_order_us={**good().tick_to_order_us, "count": count})
    assert shown(evidence, {})["tick to order"] == [*cells, f"{count:,}"]
    assert make_report(evidence)["tick_to_order_us"]["p99_9"] == 4.0


def test_a_strategy_that_raised_is_named_with_its_instruments() -> None:
    symbols = [f"SYM{i}" for i in range(7)]
    evidence = replace(with_count("signals", "strategy_faults", 7), switched_off={"dip": symbols, "other": []})
    (problem,) = find_problems(evidence)
    assert problem == (
        "signals: 7 times a strategy raised and was switched off for an instrument (strategy_faults):"
        " dip on SYM0, SYM1, SYM2, SYM3, SYM4 and 2 more"
    )


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 positions match"), (1, "1 position matches"), (2, "2 positions match")]
)
def test_one_position_is_not_several(n: int, said: str) -> None:
    (line,) = (label for label in shown(good(), {f"S{i}": 1 for i in range(n)}) if label.startswith("ok:"))
    assert line.endswith(said)


def test_things_are_counted_in_the_right_number() -> None:
    assert [counted(n, "segment") for n in (0, 1, 2000)] == ["0 segments", "1 segment", "2,000 segments"]
