"""The design paper's tables, measured: a naive baseline and our kernels, side by side on the same recorded market.

Timed: each stage alone, over chunks in which the two sides take turns; orders on their way to a venue that stamps
them; tick to order and throughput through both whole pipelines with their sockets. Both must decide the same, order
for order, or nothing is printed. docs/paper.md says for each row what is in it and what the baseline is made of.

``tickpath bench paper [--json] [--quick]``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table
from side_by_side import loops
from side_by_side.allocations import Counter
from side_by_side.baseline import Baseline, Order, Pipeline, Session, Signal
from side_by_side.market import FILE, ROOT, STRATEGY, SYMBOL, Market, load_market, shipped_limits
from side_by_side.ours import BATCH, Chain, Ours, Records
from side_by_side.venue import FIX, OUCH, Venue, answer_ouch

from tickpath.cli.machine import describe_machine, machine
from tickpath.common.records import ORDER, SIGNAL, TICK, Side
from tickpath.exec.layout import ENTER_BYTES

CHUNK: Final = 4000  # units (datagrams) in a turn of a side
LOAD: Final = 32  # orders that are open at once: the position limit would allow a few more
LOADS: Final = 8  # of them in a turn of a side
GAP_NS: Final = 20_000_000  # event time between orders of the load: 50 a second, which the order rates allow
BURST: Final = 8  # orders that become ready together
SETTLE_S: Final = 0.002
POLL_S: Final = 0.0001
_TICKS_PER_DOLLAR: Final = 10_000


class DifferenceError(Exception):
    """The two sides did not decide the same."""


@dataclass(frozen=True)
class Row:
    """A line of the paper's tables: both sides in `unit`, the factor between them, and the paper's own."""

    key: str
    title: str
    unit: str
    baseline: float
    ours: float
    factor: float | None  # None: ours is nothing at all, so there is no number
    paper: float | None  # None: not a row of the paper
    reached: bool | None

    def factor_text(self) -> str:
        """For people."""
        if self.factor is None:
            return "∞" if self.baseline else "-"
        return f"{self.factor:,.1f}×"  # noqa: RUF001 - the sign is meant


def make_row(key: str, title: str, unit: str, sides: tuple[float, float], paper: float | None) -> Row:
    """`sides` are (baseline, ours); more is better in units per second, less is better in all others."""
    baseline, ours = sides
    better, worse = (ours, baseline) if unit.endswith("/s") else (baseline, ours)
    factor = better / worse if worse else None
    reached = None
    if paper is not None:
        reached = factor >= paper if factor is not None else bool(baseline)
    return Row(key, title, unit, baseline, ours, factor, paper, reached)


def order_key(order: Order) -> tuple[int, int, int, int]:
    """(cause_seq, side, lots, price in ticks), as `Ours.decide` has them."""
    return signal_key(order.signal)


def signal_key(signal: Signal) -> tuple[int, int, int, int]:
    """The same of a signal."""
    side = Side.BUY if signal.side == "B" else Side.SELL
    return signal.seq, int(side), signal.qty, round(signal.price * _TICKS_PER_DOLLAR)


def record_key(record: Any) -> tuple[int, int, int, int]:
    """The same of a SIGNAL or ORDER record."""
    return int(record["cause_seq"]), int(record["side"]), int(record["qty_lots"]), int(record["price_ticks"])


def must_agree(what: str, baseline: list[Any], ours: list[Any]) -> None:
    """Raise DifferenceError at the first difference."""
    for i, (a, b) in enumerate(zip(baseline, ours, strict=False)):
        if a != b:
            msg = f"{what} {i + 1}: the baseline decided {a}, ours {b} (cause_seq, side, lots, price in ticks)"
            raise DifferenceError(msg)
    if len(baseline) != len(ours):
        msg = f"{what}s: the baseline made {len(baseline)}, ours {len(ours)}"
        raise DifferenceError(msg)


def _median(values: list[float]) -> float:
    return float(np.median(values))


class Bench:
    """Everything that the phases share: the market, the limits, a folder in a tmpfs."""

    def __init__(self, market: Market, folder: Path, say: Callable[[str], None]) -> None:
        self.market = market
        self.risk = shipped_limits()
        self.folder = folder
        self.say = say
        self.signals: list[Signal] = []
        self.records: Records = np.zeros(0, SIGNAL)
        self.closest_dollars = 0.0
        self._made = 0

    @contextmanager
    def sides(self) -> Iterator[tuple[Baseline, Ours]]:
        """Both sides, new."""
        self._made += 1
        folder = self.folder / str(self._made)
        folder.mkdir()
        baseline, ours = Baseline(folder, SYMBOL, STRATEGY, self.risk), Ours(folder, self.risk)
        try:
            yield baseline, ours
        finally:
            baseline.close()
            ours.close()

    @contextmanager
    def pipelines(self, venue: Venue) -> Iterator[tuple[Pipeline, socket.socket, Chain]]:
        """Both sides with their sockets, running; the socket is the baseline's market data."""
        with self.sides() as (baseline, ours), socket.create_server(("127.0.0.1", 0)) as listener:
            sender = socket.create_connection(listener.getsockname())
            sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            receiver, _ = listener.accept()
            pipeline, chain = Pipeline(baseline, receiver, venue.address), Chain(ours, venue.address)
            try:
                yield pipeline, sender, chain
            finally:
                sender.close()
                pipeline.close()
                chain.close()

    # -- one stage after the other ----------------------------------------------------------------------------------

    def stages(self) -> dict[str, tuple[float, float]]:
        """Ingestion per message and signal computation per tick, µs; keeps the signals for the other phases."""
        market = self.market
        ingest: tuple[list[float], list[float]] = ([], [])
        signal: tuple[list[float], list[float]] = ([], [])
        marks: list[float] = []
        ticks, ends = np.zeros(CHUNK * 64, TICK), np.zeros(CHUNK, np.int64)
        out, approved = np.zeros(1024, SIGNAL), np.zeros(1024, ORDER)
        records = []
        with self.sides() as (baseline, ours):
            for first in range(0, len(market), CHUNK):
                end = min(first + CHUNK, len(market))
                messages = int(market.counts[first:end].sum())
                lines = b"".join(market.lines[first:end]).splitlines()
                began = time.thread_time_ns()
                made = [tick for line in lines if (tick := baseline.feed.on_line(line)) is not None]
                ingest[0].append((time.thread_time_ns() - began) / messages)
                began = time.thread_time_ns()
                found = [s for tick in made if (s := baseline.strategy.on_tick(tick)) is not None]
                signal[0].append((time.thread_time_ns() - began) / max(1, len(made)))
                for s in found:
                    baseline.holdings.filled(s.qty if s.side == "B" else -s.qty)
                self.signals += found

                began = time.thread_time_ns()
                n = ours.ingest(market, first, end, ticks, ends)
                ingest[1].append((time.thread_time_ns() - began) / messages)
                began = time.thread_time_ns()
                m = ours.decide_signals(ticks, ends, end - first, out)
                signal[1].append((time.thread_time_ns() - began) / max(1, n))
                began = time.thread_time_ns()
                ours.mark(ticks, ends, end - first)
                marks.append((time.thread_time_ns() - began) / max(1, n))
                records.append(out[:m].copy())
                ours.generate(approved[: ours.assess(out[:m], approved)])
                ours.hear(answer_ouch(ours.take_bytes()), 1)
                must_agree("tick", [made_tick(t) for t in made], [tick_key(t) for t in ticks[:n]])
                must_agree("signal", [signal_key(s) for s in found], [record_key(r) for r in out[:m]])
            self.closest_dollars = baseline.strategy.closest
        self.records = np.concatenate(records)
        return {
            "ingestion": _us(ingest),
            "signal": _us(signal),
            "marks": (0.0, _median(marks) / 1000),
        }

    def load(self, first: int, size: int = LOAD) -> tuple[list[Signal], Records]:
        """Signals `first` to ``first + size - 1`` of an endless load, for both sides: recorded ones, renumbered.

        The first recorded one opens a position; those behind it turn it round, again and again, so that the position
        stays within its limits however long the load is.
        """
        numbers = first + np.arange(size)
        rows = 1 + numbers % (len(self.signals) - 1 & ~1)
        seqs, times = 10_000_000 + numbers, 30_000_000_000_000 + GAP_NS * numbers
        records = self.records[rows]
        records["cause_seq"] = seqs
        for name in ("exch_ns", "recv_ns", "decoded_ns", "signalled_ns"):
            records[name] = times
        signals = [
            replace(self.signals[row], seq=int(seq), ts=int(ts))
            for row, seq, ts in zip(rows, seqs, times, strict=True)
        ]
        return signals, records

    def orders(self, rounds: int) -> dict[str, tuple[float, float]]:
        """Risk assessment and order generation, µs per order."""
        risk: tuple[list[float], list[float]] = ([], [])
        generate: tuple[list[float], list[float]] = ([], [])
        approved, n = np.zeros(LOAD, ORDER), LOAD * LOADS
        with self.sides() as (baseline, ours):
            manager = baseline.risk_here()
            ours.mark_one(1)
            for turn in range(rounds // LOADS):
                loads = [self.load((turn * LOADS + i) * LOAD) for i in range(LOADS)]
                made: list[Any] = []
                assessed_ns = generated_ns = 0
                for signals, _ in loads:
                    began = time.thread_time_ns()
                    orders = [order for s in signals if (order := manager.check(s)) is not None]
                    mid = time.thread_time_ns()
                    for order in orders:
                        baseline.writer.write(order)
                    generated_ns += time.thread_time_ns() - mid
                    assessed_ns += mid - began
                    for order in orders:
                        manager.filled(order.cl_ord_id, order.signal.side, order.signal.qty)
                    made += [order_key(order) for order in orders]
                risk[0].append(assessed_ns / n)
                generate[0].append(generated_ns / n)

                same: list[Any] = []
                assessed_ns = generated_ns = 0
                for _, records in loads:
                    began = time.thread_time_ns()
                    count = ours.assess(records, approved)
                    mid = time.thread_time_ns()
                    ours.generate(approved[:count])
                    generated_ns += time.thread_time_ns() - mid
                    assessed_ns += mid - began
                    ours.hear(answer_ouch(ours.take_bytes()), int(records[-1]["exch_ns"]))
                    same += [record_key(order) for order in approved[:count]]
                risk[1].append(assessed_ns / n)
                generate[1].append(generated_ns / n)
                must_agree("order", made, same)
                if len(same) != n:
                    msg = f"{n - len(same)} of {n} orders of the load were refused: {manager.refused}"
                    raise DifferenceError(msg)
            manager.db.close()
        return {"risk": _us(risk), "generation": _us(generate)}

    # -- to the venue -----------------------------------------------------------------------------------------------

    def transmission(self, venue: Venue, rounds: int) -> dict[str, tuple[float, float]]:
        """From the bytes of an order being ready until the venue has them, µs; and the send call alone."""
        sizes = (1, BURST)
        found: dict[int, tuple[list[float], list[float]]] = {size: ([], []) for size in sizes}
        calls: tuple[list[float], list[float]] = ([], [])
        with self.sides() as (baseline, ours):
            session, chain = Session(venue.address), Chain(ours, venue.address)
            approved, made = np.zeros(BURST, ORDER), 0
            ours.mark_one(1)
            for _ in range(rounds):
                for size in sizes:
                    signals, records = self.load(made, size)
                    made += size
                    texts = [baseline.writer.write(Order(f"T{s.seq}", s)) for s in signals]
                    base = venue.arrived(FIX)
                    began = time.monotonic_ns()
                    if size == 1:
                        session.socket.sendall(texts[0])
                        calls[0].append(time.monotonic_ns() - began)
                        session.send(b"")
                    else:
                        for text in texts:
                            session.send(text)
                    found[size][0].append(_arrival(venue, FIX, base, size) - began)

                    ours.generate(approved[: ours.assess(records, approved)])
                    ours.publish()
                    base = venue.arrived(OUCH)
                    began = time.monotonic_ns()
                    sent = loops.transmit(ours.context, chain.tcp.fileno())
                    if size == 1:
                        calls[1].append(time.monotonic_ns() - began)
                    if sent != size * ENTER_BYTES:
                        msg = f"the socket took {sent} bytes of {size} orders"
                        raise RuntimeError(msg)
                    chain.n[2] += size
                    found[size][1].append(_arrival(venue, OUCH, base, size) - began)
                    chain.settle()
            session.close()
            chain.close()
        return {"transmission": _us(found[BURST]), "single": _us(found[1]), "call": _us(calls)}

    def total(self, venue: Venue) -> tuple[float, float]:
        """Tick to order, µs: a message is sent when everything before it is dealt with, until its order arrives."""
        market = self.market
        causes = np.unique(np.searchsorted(market.first_seq, [s.seq for s in self.signals], "right") - 1)
        found: tuple[list[float], list[float]] = ([], [])
        with self.pipelines(venue) as (pipeline, sender, chain):
            at = messages = 0
            for cause in causes.tolist():
                sender.sendall(b"".join(market.lines[at:cause]))
                messages += int(market.counts[at:cause].sum())
                _wait_idle(pipeline, messages)
                self._feed(chain, at, cause)
                chain.settle()
                time.sleep(SETTLE_S)

                base = venue.arrived(FIX)
                began = time.monotonic_ns()
                sender.sendall(market.lines[cause])
                found[0].append(_arrival(venue, FIX, base, 1) - began)
                messages += int(market.counts[cause])
                _wait_idle(pipeline, messages)

                base = venue.arrived(OUCH)
                found[1].append(ours_total(chain, market, cause, venue, base))
                chain.settle()
                at = cause + 1
            sent = [order_key(order) for order in pipeline.sent]
            must_agree("order sent", sent, [record_key(s) for s in self.records[: len(sent)]])
            if len(sent) != int(chain.n[2]) or len(sent) != len(self.signals):
                msg = f"the baseline sent {len(sent)} orders, ours {chain.n[2]}, expected {len(self.signals)}"
                raise DifferenceError(msg)
        return _us(found)

    def _feed(self, chain: Chain, first: int, end: int) -> None:
        market = self.market
        for begin in range(first, end, BATCH):
            for i in range(begin, min(begin + BATCH, end)):
                chain.market_data.send(market.buffer[i, : market.lengths[i]].data)
            chain.turn()
            chain.listen()

    # -- at full load -----------------------------------------------------------------------------------------------

    def throughput(self, venue: Venue, counter: Counter) -> dict[str, tuple[float, float]]:
        """The whole market through both pipelines as fast as they take it, in turns."""
        market = self.market
        chunk = CHUNK
        rates: tuple[list[float], list[float]] = ([], [])
        cpu_ns, allocated, paused = [0, 0], [0, 0], [0, 0]
        counted = timed = 0
        pauses = _Pauses()
        with self.pipelines(venue) as (pipeline, sender, chain), pauses.watched():
            messages = 0
            for number, first in enumerate(range(0, len(market), chunk)):
                end = min(first + chunk, len(market))
                text = b"".join(market.lines[first:end])
                n = int(market.counts[first:end].sum())
                messages += n
                count = number % 4 == 3  # every fourth turn counts allocations, which costs time: it is not timed
                with counter.installed() if count else _nothing() as tally:
                    counter.on()
                    pauses.clear()
                    cpu, own = time.process_time_ns(), time.thread_time_ns()
                    began = time.perf_counter_ns()
                    sender.sendall(text)
                    _wait_idle(pipeline, messages)
                    took = time.perf_counter_ns() - began
                    spent = time.process_time_ns() - cpu - (time.thread_time_ns() - own)
                    counter.off()
                if count:
                    allocated[0] += tally.bytes
                else:
                    rates[0].append(n / took * 1e9)
                    cpu_ns[0] += spent
                    paused[0] += pauses.total_ns

                took = spent = 0
                gc.collect()
                gc.freeze()
                gc.disable()  # the policy of a hot process while it trades
                pauses.clear()
                datagrams = market.packed(first, end)
                with counter.installed() if count else _nothing() as tally:
                    for begin in range(0, len(datagrams), BATCH):
                        for raw in datagrams[begin : begin + BATCH]:
                            chain.market_data.send(raw)
                        counter.on()
                        cpu, at = time.thread_time_ns(), time.perf_counter_ns()
                        chain.turn()
                        chain.listen()
                        took += time.perf_counter_ns() - at
                        spent += time.thread_time_ns() - cpu
                        counter.off()
                if count:
                    allocated[1] += tally.bytes
                    counted += n
                else:
                    rates[1].append(n / took * 1e9)
                    cpu_ns[1] += spent
                    paused[1] += pauses.total_ns
                    timed += n
                gc.enable()
                gc.unfreeze()
            chain.settle()
            sent = [order_key(order) for order in pipeline.sent]
            must_agree("order sent", sent, [record_key(s) for s in self.records])
            if int(chain.n[2]) != len(sent) or int(chain.n[1]) != pipeline.ticks_made:
                msg = f"the baseline made {pipeline.ticks_made} ticks and {len(sent)} orders, ours {chain.n[1:]}"
                raise DifferenceError(msg)
        rate = (_median(rates[0]), _median(rates[1]))
        per_minute = 60 * rate[0] / max(1, counted) / 1e6  # MB a minute at the rate that the baseline carries
        return {
            "ticks_per_s": rate,
            "allocation": (allocated[0] * per_minute, allocated[1] * per_minute),
            "cpu": (cpu_ns[0] / timed / 1000, cpu_ns[1] / timed / 1000),
            "pauses": (paused[0] / timed, paused[1] / timed),
        }

    def orders_per_s(self, venue: Venue, rounds: int) -> tuple[float, float]:
        """Signals through risk, order generation, transmission, and the venue's answer back."""
        found: tuple[list[float], list[float]] = ([], [])
        approved = np.zeros(LOAD, ORDER)
        with self.pipelines(venue) as (pipeline, _, chain):
            ours = chain.stages
            ours.mark_one(1)
            for number in range(rounds):
                signals, records = self.load(number * LOAD)
                began = time.perf_counter_ns()
                for signal in signals:
                    pipeline.signals.put(signal)
                _wait_orders(pipeline, (number + 1) * LOAD)
                found[0].append(LOAD / (time.perf_counter_ns() - began) * 1e9)

                began = time.perf_counter_ns()
                n = ours.assess(records, approved)
                ours.generate(approved[:n])
                ours.publish()
                loops.transmit(ours.context, chain.tcp.fileno())
                chain.n[2] += n
                chain.settle()
                found[1].append(LOAD / (time.perf_counter_ns() - began) * 1e9)
                must_agree(
                    "order", [order_key(o) for o in pipeline.sent[-LOAD:]], [record_key(o) for o in approved[:n]]
                )
        return _median(found[0]), _median(found[1])


def ours_total(chain: Chain, market: Market, unit: int, venue: Venue, base: int) -> float:
    """One datagram through our whole chain, from its being sent until its order has arrived at the venue, ns."""
    raw = market.buffer[unit, : market.lengths[unit]].data
    began = time.monotonic_ns()
    chain.market_data.send(raw)
    chain.turn()
    return _arrival(venue, OUCH, base, 1) - began


def made_tick(tick: Any) -> tuple[Any, ...]:
    """What must be equal of a tick: number, best bid and offer, trade; prices in ticks, None for none."""

    def ticks(price: float | None) -> int | None:
        return None if price is None else round(price * _TICKS_PER_DOLLAR)

    return (
        tick.seq, ticks(tick.bid), tick.bid_size, ticks(tick.ask), tick.ask_size, ticks(tick.last), tick.last_size
    )  # fmt: skip


def tick_key(record: Any) -> tuple[Any, ...]:
    """The same of a TICK record."""

    def ticks(name: str) -> int | None:
        value = int(record[name])
        return value if value > 0 else None

    lots = (int(record[name]) for name in ("bid_lots", "ask_lots", "last_lots"))
    bid_lots, ask_lots, last_lots = lots
    return (
        int(record["cause_seq"]), ticks("bid_ticks"), bid_lots, ticks("ask_ticks"), ask_lots, ticks("last_ticks"),
        last_lots,
    )  # fmt: skip


def _us(sides: tuple[list[float], list[float]]) -> tuple[float, float]:
    return _median(sides[0]) / 1000, _median(sides[1]) / 1000


def _arrival(venue: Venue, kind: int, base: int, n: int) -> float:
    """Mean time at which the `n` orders after the first `base` of a protocol arrived, ns of CLOCK_MONOTONIC."""
    until = time.monotonic() + 10
    while venue.arrived(kind) < base + n:
        time.sleep(POLL_S)  # so that no thread of the baseline waits for us
        if time.monotonic() > until:
            msg = f"an order has not arrived at the venue within 10 s ({venue.arrived(kind) - base} of {n} have)"
            raise RuntimeError(msg)
    return float(np.mean([venue.stamp_ns(kind, base + i) for i in range(n)]))


def _wait_idle(pipeline: Pipeline, messages: int) -> None:
    while not pipeline.is_idle(messages):
        time.sleep(POLL_S)


def _wait_orders(pipeline: Pipeline, orders: int) -> None:
    while pipeline.done["orders"] < orders:
        pipeline.check()
        time.sleep(POLL_S)


@contextmanager
def _nothing() -> Iterator[Any]:
    yield None


class _Pauses:
    """How long the collector stopped everything, from `gc.callbacks`."""

    def __init__(self) -> None:
        self.total_ns = 0
        self._began = 0

    def clear(self) -> None:
        self.total_ns = 0

    def _on(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter_ns()
        else:
            self.total_ns += time.perf_counter_ns() - self._began

    @contextmanager
    def watched(self) -> Iterator[None]:
        gc.callbacks.append(self._on)
        try:
            yield
        finally:
            gc.callbacks.remove(self._on)


def measure(market: Market, say: Callable[[str], None], rounds: int = 200) -> dict[str, Any]:
    """All rows on `market`, and what they rest on. Raises DifferenceError when the two sides do not agree."""
    shm = Path("/dev/shm")  # noqa: S108 - a tmpfs, so that no side waits for a disk
    where = shm if os.access(shm, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="tickpath-paper-") as folder:
        bench = Bench(market, Path(folder), say)
        say("the stages, one by one")
        found = bench.stages()
        if len(bench.signals) < 3:
            msg = f"{len(bench.signals)} signals in {int(market.counts.sum())} messages: nothing to time orders with"
            raise DifferenceError(msg)
        found |= bench.orders(rounds)
        with Venue(Path(folder)) as venue:
            say("orders on their way to the venue")
            found |= bench.transmission(venue, rounds)
            say(f"tick to order, {len(bench.signals)} orders")
            total = bench.total(venue)
            say("full load")
            found |= bench.throughput(venue, Counter())
            orders = bench.orders_per_s(venue, rounds)
    rows = [
        make_row("ingestion", "market data ingestion", "µs/message", found["ingestion"], 15),
        make_row("signal", "signal computation", "µs/tick", found["signal"], 15),
        make_row("risk", "risk assessment", "µs/order", found["risk"], 9),
        make_row("generation", "order generation", "µs/order", found["generation"], 15),
        make_row("transmission", f"order transmission, {BURST} ready together", "µs/order", found["transmission"], 7),
        make_row("single", "  … one order, idle connection", "µs/order", found["single"], None),
        make_row("call", "  … of it the send call", "µs/order", found["call"], None),
        make_row("total", "total, tick to order", "µs/order", total, 11),
        make_row("orders_per_s", "orders", "orders/s", orders, 19),
        make_row("ticks_per_s", "market data", "messages/s", found["ticks_per_s"], 43),
        make_row("allocation", "allocated at the same load", "MB/min", found["allocation"], 13),
        make_row("cpu", "CPU for the same load", "s/million", found["cpu"], 2.4),
        make_row("pauses", "collector pauses", "ms/million", found["pauses"], 7.5),
    ]
    return {
        "machine": machine(),
        "market": {"file": FILE.name, "messages": int(market.counts.sum()), "orders": len(bench.signals)},
        "same_decisions": True,
        "closest_averages_dollars": bench.closest_dollars,
        "risk_marks_us_per_tick": found["marks"][1],
        "rows": [asdict(row) for row in rows],
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The table for people."""
    market = result["market"]
    console.print(
        f"{describe_machine(result['machine'])}\n"
        f"{market['file']}: {market['messages']:,} messages; both sides made the same {market['orders']} orders"
    )
    table = Table(title="The design paper's tables, measured here", title_justify="left")
    for column in ("", "unit", "baseline", "ours", "factor", "paper", "reached"):
        table.add_column(column, justify="left" if column in ("", "unit") else "right")
    for item in result["rows"]:
        row = Row(**item)
        table.add_row(
            row.title,
            row.unit,
            _number(row.baseline),
            _number(row.ours),
            row.factor_text(),
            "" if row.paper is None else f"{row.paper:g}×",  # noqa: RUF001
            "" if row.reached is None else ("yes" if row.reached else "no"),
        )
    console.print(table)


def _number(value: float) -> str:
    if value == 0:
        return "none"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> int:
    """Run it; exit status 3 without the recorded data, 1 when the two sides do not decide the same."""
    parser = argparse.ArgumentParser(prog="tickpath bench paper", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="a quarter of the data: for a look, not for a claim")
    arguments = parser.parse_args()
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(f"bench: {text}", highlight=False, markup=False)

    if not FILE.exists():
        say(f"the recorded data is not there: {os.path.relpath(FILE, ROOT)}")
        return 3
    say("reading the recorded market, compiling")
    market = load_market(messages=20_000 if arguments.quick else 1 << 30)
    try:
        result = measure(market, say, 40 if arguments.quick else 200)
    except DifferenceError as error:
        say(f"the two sides do not decide the same: {error}")
        return 1
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))  # noqa: T201 - the result
    else:
        show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
