"""The latency page: percentiles as NumPy sees them, pauses with the orders that met them, and a page that parses."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tickpath.cli.latency import (
    FUSED,
    HOPS,
    Run,
    bounds,
    explained_ns,
    hits_of,
    meetings,
    pause_lines,
    percentile_curve,
    slowest,
    write_report,
)
from tickpath.common.histogram import BUCKETS, COUNT, MAX, SUM, bucket_of, empty
from tickpath.common.pages import PAUSE, Hot, Page, PauseKind, create_hot_page
from tickpath.common.process import PauseLog
from tickpath.common.records import REPORT, ExecEvent, format_cl_ord_id, pack_cl_ord_id
from tickpath.exec.layout import Hop as ExecHop
from tickpath.sim.layout import Counter as SimCounter
from tickpath.sim.layout import Histogram as SimHistogram

K = PauseKind


def hist_of(values: Sequence[int]) -> np.ndarray:
    hist: np.ndarray = empty(1)[0]
    for value in values:
        hist[BUCKETS + bucket_of(value)] += 1
    hist[COUNT], hist[SUM], hist[MAX] = len(values), sum(values), max(values, default=0)
    return hist


def orders_of(*stamps: Sequence[int]) -> np.ndarray:
    """SEND entries with the stamps received, decoded, signalled, approved, sent."""
    orders = np.zeros(len(stamps), dtype=REPORT)
    orders["event"] = ExecEvent.SEND
    for row, of_row in zip(orders, stamps, strict=True):
        for name, ns in zip(("recv_ns", "decoded_ns", "signalled_ns", "approved_ns", "sent_ns"), of_row, strict=True):
            row[name] = ns
    orders["cl_ord_id"] = [pack_cl_ord_id(1, 7, 1000 + i, 0) for i in range(len(orders))]
    orders["cause_seq"] = 1000 + np.arange(len(orders))
    return orders


def pauses_of(*rows: tuple[PauseKind, int, int, int, int]) -> np.ndarray:
    made: np.ndarray = np.array(list(rows), dtype=PAUSE)
    return made


def run_of(orders: np.ndarray, pauses: dict[str, np.ndarray] | None = None, label: str = "zmq-ipc") -> Run:
    took = [int(t) for t in orders["sent_ns"] - orders["recv_ns"]]
    hops = {hop.name: hist_of([int(t) for t in orders[hop.end] - orders[hop.begin]]) for hop in HOPS}
    hops["recv_to_send"] = hist_of(took)
    return Run(label, hist_of([t + 50_000 for t in took]), hops, orders, pauses or {}, ("AAPL", "R&D"))


WAY = (1_000, 2_000, 10_000, 30_000, 60_000)


@pytest.mark.parametrize(
    ("begin", "end", "hops"),
    [
        (0, 1_000, []),  # ends as the order comes
        (0, 1_001, [0]),
        (1_500, 1_600, [0]),
        (500, 5_000, [0, 1]),  # feed has the order until signals decides: decoding, and sending the tick
        (2_000, 2_001, [1]),
        (10_000, 99_000, []),  # signals has decided: feed is out of it
    ],
)
def test_a_pause_meets_the_hops_that_it_overlaps_in_which_its_process_has_the_order(
    begin: int, end: int, hops: list[int]
) -> None:
    run = run_of(orders_of(WAY), {"feed": pauses_of((K.COLLECTION, begin, end, 1, end - begin))})
    assert [hit.hop for hit in hits_of(run, run.orders[0])] == hops


def test_several_pauses_of_several_processes_are_listed_by_hop_and_then_by_cost() -> None:
    pauses = {
        "exec": pauses_of((K.PREEMPTION, 25_000, 45_000, 3, 900), (K.COLLECTION, 40_000, 42_000, 1, 2_000)),
        "risk": pauses_of((K.COMPILATION, 11_000, 29_000, 1, 18_000)),
        "sim": pauses_of((K.COLLECTION, 0, 99_000, 1, 99_000)),
    }
    run = run_of(orders_of(WAY), pauses)
    found = [(hit.hop, hit.process, hit.kind, hit.events, hit.lost_ns) for hit in hits_of(run, run.orders[0])]
    assert found == [
        (2, "risk", K.COMPILATION, 1, 18_000),
        (3, "exec", K.COLLECTION, 1, 2_000),
        (3, "exec", K.PREEMPTION, 3, 900),
    ]


def test_a_fused_process_has_every_hop() -> None:
    run = run_of(orders_of(WAY), {FUSED: pauses_of((K.COLLECTION, 0, 99_000, 1, 99_000))})
    assert [hit.hop for hit in hits_of(run, run.orders[0])] == [0, 1, 2, 3]


def random_case(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    stamps = np.cumsum(rng.integers(0, 1000, (n, 5)), axis=1) + rng.integers(0, 100_000, (n, 1))
    begins = rng.integers(0, 100_000, m)
    pauses = np.zeros(m, dtype=PAUSE)
    pauses["begin_ns"], pauses["end_ns"] = begins, begins + rng.integers(1, 3000, m)
    pauses["lost_ns"] = rng.integers(0, pauses["end_ns"] - begins + 1)
    return orders_of(*stamps.tolist()), pauses


def test_the_search_finds_the_pairs_that_comparing_all_finds() -> None:
    orders, pauses = random_case(300, 80)
    for hop in HOPS:
        pairs = (pauses["begin_ns"] < orders[hop.end][:, None]) & (pauses["end_ns"] > orders[hop.begin][:, None])
        found = sorted(zip(*(part.tolist() for part in meetings(orders, hop, pauses)), strict=True))
        assert found == [tuple(pair) for pair in np.argwhere(pairs).tolist()]


def test_bounds_hold_wherever_in_its_interval_the_lost_time_lies() -> None:
    """The lost time is put to either end and to the middle of the interval: what falls into the hop is in bounds."""
    orders, pauses = random_case(200, 60)
    pauses = pauses[pauses["lost_ns"] > 0]
    for hop in HOPS:
        of_order, of_pause = meetings(orders, hop, pauses)
        rows, met = orders[of_order], pauses[of_pause]
        at_least, at_most = bounds(rows, hop, met)
        free = met["end_ns"] - met["begin_ns"] - met["lost_ns"]
        for place in (0.0, 0.5, 1.0):
            begin = met["begin_ns"] + (free * place).astype(np.int64)
            end = begin + met["lost_ns"]
            fell = np.maximum(0, np.minimum(end, rows[hop.end]) - np.maximum(begin, rows[hop.begin]))
            assert np.all(at_least <= fell)
            assert np.all(fell <= at_most)


@pytest.mark.parametrize(
    ("begin", "end", "lost", "at_least", "at_most"),
    [
        (30_000, 60_000, 30_000, 30_000, 30_000),  # a pause with times of its own
        (50_000, 70_000, 20_000, 10_000, 10_000),  # ... half of it
        (25_000, 65_000, 20_000, 10_000, 20_000),  # the rest of the interval has room for 10,000
        (0, 100_000, 20_000, 0, 20_000),  # it all may lie elsewhere
        (40_000, 41_000, 0, 0, 1_000),  # the system does not say
    ],
)
def test_lost_time_that_has_no_room_elsewhere_was_lost_here(
    begin: int, end: int, lost: int, at_least: int, at_most: int
) -> None:
    run = run_of(orders_of(WAY), {"exec": pauses_of((K.PREEMPTION, begin, end, 1, lost))})
    (hit,) = (hit for hit in hits_of(run, run.orders[0]) if hit.hop == 3)
    assert (hit.at_least_ns, hit.at_most_ns) == (at_least, at_most)


def test_what_pauses_explain_is_not_counted_twice() -> None:
    """Of two processes that stand still at once the longer counts; in one process, one after the other, both do."""
    pauses = {
        "risk": pauses_of((K.PREEMPTION, 30_000, 40_000, 1, 10_000), (K.PREEMPTION, 40_000, 45_000, 1, 5_000)),
        "exec": pauses_of((K.PREEMPTION, 30_000, 39_000, 1, 9_000)),
        "feed": pauses_of((K.COLLECTION, 1_200, 1_500, 1, 300)),
    }
    run = run_of(orders_of(WAY), pauses)
    assert explained_ns(hits_of(run, run.orders[0])) == 15_000 + 300
    assert explained_ns([]) == 0


def test_the_table_counts_events_time_and_orders_by_process_and_kind() -> None:
    orders = orders_of(*(tuple(t + i * 100_000 for t in WAY) for i in range(10)))
    orders["sent_ns"][4] += 30_000  # the slowest one
    feed = pauses_of(
        (K.PREEMPTION, 1_500, 101_500, 2, 700),  # somewhere in the first two orders, or between them
        (K.PREEMPTION, 401_000, 401_500, 5, 300),
        (K.PREEMPTION, 701_000, 701_500, 1, 500),
        (K.COLLECTION, 70_000, 80_000, 1, 10_000),  # no order was there
    )
    run = run_of(orders, {"feed": feed, "sim": pauses_of((K.MAJOR_FAULT, 0, 9_000, 4, 0))})
    lines = {(line.process, line.kind): line[2:] for line in pause_lines(run)}
    assert lines == {
        ("feed", K.PREEMPTION): (8, 1_500, 700, 2, 2, 1, 0),
        ("feed", K.COLLECTION): (1, 10_000, 10_000, 0, 0, 0, 0),
        ("sim", K.MAJOR_FAULT): (4, 0, 0, 0, 0, 0, 0),
    }


def test_the_slowest_are_a_hundredth_and_at_least_one() -> None:
    orders = orders_of(*((1, 2, 3, 4, 10 + i) for i in range(250)))
    assert np.flatnonzero(slowest(orders)).tolist() == [248, 249]
    assert np.flatnonzero(slowest(orders[:3])).tolist() == [2]
    assert len(slowest(orders[:0])) == 0


def test_entries_without_all_stamps_in_order_are_no_orders() -> None:
    """Replay has no clock, and a cancel or a fill is not a send."""
    orders = orders_of(WAY, (0, 0, 0, 0, 0), (1_000, 900, 2_000, 3_000, 4_000), WAY)
    orders["event"][3] = ExecEvent.FILL
    assert run_of(orders).sent()["cause_seq"].tolist() == [1000]


def test_percentiles_are_those_of_numpy_within_a_bucket() -> None:
    values = np.random.default_rng(1).lognormal(12, 1.2, 20_000).astype(np.int64)
    x, us = percentile_curve(hist_of(values.tolist()))
    expected = np.quantile(values, 1 - 10.0**-x, method="inverted_cdf") / 1000
    assert x[0] == 0
    assert x[-1] == pytest.approx(4)
    assert np.all(us >= expected - 0.001)  # a bucket is reported by its upper bound
    assert np.all(us <= expected * (1 + 1 / 32) + 0.001)


def test_a_curve_ends_where_its_values_do() -> None:
    x, us = percentile_curve(hist_of([10_000] * 99 + [500_000]))
    assert x[-1] == pytest.approx(2)
    assert us[-1] == 500.0
    assert us[-2] < 11
    assert [len(part) for part in percentile_curve(hist_of([]))] == [0, 0]
    assert percentile_curve(hist_of([7_000]))[1].tolist() == [7.0]


class Parsed(HTMLParser):
    """What a page has: elements and text; unclosed or crossed elements are an error."""

    VOID = ("meta", "br", "hr", "img", "link")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def having(self, name: str) -> list[dict[str, str | None]]:
        """Elements of a class."""
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]


def page_of(tmp_path: Path, *runs: Run) -> Parsed:
    path = tmp_path / "latency.html"
    write_report(path, runs, "Tickpath <demo>", "tickpath demo --data 'a&b'")
    return Parsed(path.read_text("utf-8"))


def many_orders(n: int = 200) -> np.ndarray:
    orders = orders_of(*(tuple(t + i * 100_000 for t in WAY) for i in range(n)))
    orders["sent_ns"] += np.arange(n) * 10
    orders["instrument"][-1] = 1
    return orders


def test_one_run_gives_curves_of_every_hop_and_two_waterfalls_with_the_pauses_on_them(tmp_path: Path) -> None:
    orders = many_orders()
    last = int(orders["signalled_ns"][-1])
    pauses = {
        "risk": pauses_of((K.PREEMPTION, last, last + 9_000, 2, 4_000), (K.COLLECTION, last, last + 500, 1, 500))
    }
    page = page_of(tmp_path, run_of(orders, pauses))
    assert len(page.having("curve")) == 1 + len(HOPS) + 1
    assert len(page.having("bar")) == 2 * len(HOPS)
    assert len(page.having("pause")) == 2
    assert [mark["fill"] for mark in page.having("pause")] == ["url(#within)", "#d9480f"]
    said = "risk was preempted 2 times: 4.0 µs without a core within 9.0 µs, all of it here"
    assert said in page.text
    assert "Pauses took at least 4.0 µs (7 %) of its 61.0 µs." in page.text
    assert "risk: garbage collection, 0.5 µs" in page.text
    assert "No pause of any process on its way overlaps it." in page.text  # the median order
    assert format_cl_ord_id(int(orders["cl_ord_id"][-1])).decode() in page.text
    assert "R&D" in page.text
    assert "caused by message 1,199" in page.text
    assert "None in any process: JIT compilation, major page fault, wait for a core." in page.text


def test_the_bars_of_a_waterfall_are_as_long_as_the_hops(tmp_path: Path) -> None:
    page = page_of(tmp_path, run_of(orders_of(WAY)))
    widths = [float(bar["width"] or 0) for bar in page.having("bar")][: len(HOPS)]
    starts = [float(bar["x"] or 0) for bar in page.having("bar")][: len(HOPS)]
    lengths = np.diff(WAY)
    assert widths == pytest.approx(lengths / lengths.sum() * 850, abs=0.1)
    assert starts == pytest.approx(190 + np.cumsum([0, *widths[:-1]]), abs=0.3)


def test_several_runs_have_a_curve_each_in_every_chart(tmp_path: Path) -> None:
    runs = [run_of(many_orders(n), label=label) for n, label in ((50, "zmq-ipc"), (80, "shm"), (90, "fused"))]
    page = page_of(tmp_path, *runs)
    assert len(page.having("curve")) == 3 * (1 + len(HOPS) + 1)
    assert len(page.having("bar")) == 3 * 2 * len(HOPS)
    for label in ("zmq-ipc", "shm", "fused"):
        assert f"Waterfall: {label}" in page.text


def test_the_page_stands_alone_and_shows_what_it_was_given_as_text(tmp_path: Path) -> None:
    page = page_of(tmp_path, run_of(many_orders(), label="<b>lane</b>"))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "b>lane<"}
    for _, attributes in page.elements:
        assert not {"src", "href", "onload", "onclick"} & set(attributes)
    assert "Tickpath <demo>" in page.text
    assert "tickpath demo --data 'a&b'" in page.text
    assert "http" not in page.text


def test_without_orders_the_page_says_so_and_still_shows_the_pauses(tmp_path: Path) -> None:
    page = page_of(tmp_path, run_of(orders_of(), {"feed": pauses_of((K.COLLECTION, 1, 2, 1, 1))}))
    assert "No order was sent" in page.text
    assert "garbage collection" in page.text
    assert page.having("curve") == page.having("bar") == []


def test_a_run_is_read_from_the_pages_of_its_processes(tmp_path: Path) -> None:
    """Pages of one process id are one process: the fused lane."""
    pages: dict[str, Page] = {}
    for name, pid in (("feed", 10), ("signals", 10), ("risk", 10), ("exec", 10), ("sim", 11)):
        histograms = SimHistogram if name == "sim" else ExecHop
        pages[name] = create_hot_page(tmp_path, name, SimCounter, histograms)
        pages[name]["hot"][Hot.PID] = pid
    PauseLog(pages["risk"]["hot"], pages["risk"]["pauses"]).add(K.COLLECTION, 1, 5, 1, 4)
    PauseLog(pages["sim"]["hot"], pages["sim"]["pauses"]).add(K.MAJOR_FAULT, 1, 5, 2, 0)
    pages["sim"]["hist"][SimHistogram.TICK_TO_ORDER] = hist_of([5_000])
    pages["exec"]["hist"][ExecHop.RECV_TO_DECODE] = hist_of([1_000, 2_000])
    run = Run.read("fused", pages, orders_of(WAY), ("AAPL",))
    assert {process: rows["kind"].tolist() for process, rows in run.pauses.items()} == {
        FUSED: [K.COLLECTION], "sim": [K.MAJOR_FAULT],
    }  # fmt: skip
    assert run.tick_to_order[COUNT] == 1
    assert run.hops["recv_to_decode"][COUNT] == 2
    assert set(run.hops) == {hop.name for hop in HOPS} | {"recv_to_send"}


def test_the_exchange_may_be_somebody_elses() -> None:
    """Against a real venue there is no page of the exchange, and so no tick to order."""
    run = Run.read("up", {}, orders_of(WAY))
    assert run.tick_to_order[COUNT] == 0
    assert len(run.sent()) == 1
