"""Every kernel of the pipeline over a recorded file: nanoseconds per call and per record, in one process.

The file is played once through the whole chain, closed by the venue of the simulated exchange (matching, fills), with
one call for each datagram as on a quiet market, and what every kernel was given is kept. Then each kernel is timed on
exactly that, from a compiled loop, with its state from the beginning: median of the rounds, after one round that does
not count. `feed: decode` is feed's kernel without the symbols of the file (framing, sequence, head of each message),
`decode+book` the book without sequence and ticks; both are parts of `decode+book+ticks`. The share is of the chain:
what one message costs in all services together.

Left out: sockets, links, the loops around, and the way from Python into a kernel, which is given
beside. Kernels that work for orders only are timed call by call, less what the clock costs.
Strategies and limits are those of tickpath.toml.

    tickpath bench kernels [FILE] [--json] [--out FILE.svg] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numba import from_dtype, types

from tickpath.cli.machine import describe_machine, machine
from tickpath.common.config import ConfigError, load_config
from tickpath.common.histogram import HIST_SIZE, empty
from tickpath.common.instruments import InstrumentTable, make_table
from tickpath.common.jit import direct, kernel
from tickpath.common.kernels.book import BOOK, Book, apply_blocks
from tickpath.common.kernels.digest import fold, words_mask
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.itch import be16
from tickpath.common.pages import Control
from tickpath.common.protocols import soupbintcp
from tickpath.common.records import ORDER, REPORT, SIGNAL, TICK
from tickpath.exec.gateway import order_templates
from tickpath.exec.journal import Journal
from tickpath.exec.kernels import ouch
from tickpath.exec.layout import Reg
from tickpath.exec.orders import Orders
from tickpath.feed.kernels.decode import STATE, State, decode, make_state
from tickpath.feed.layout import Channel, Count
from tickpath.risk.kernels import risk
from tickpath.risk.limits import FIRST_SYMBOL_ROW, OPEN_SCOPE, Scope, TradingState, fill_row, new_rows
from tickpath.risk.state import Core, RiskState
from tickpath.signals.core import configured_strategies
from tickpath.signals.engine import Engine
from tickpath.signals.kernels import core
from tickpath.signals.layout import Word
from tickpath.signals.strategy import StrategyError
from tickpath.sim.kernels import wire
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.player import QUANTUM_NS, Segment
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import DataFileError, Tape
from tickpath.sim.venue import Venue

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT.parent / "shared/data/lobster/AAPL_2012-06-21_34200000_57600000_message_1.csv.zst"
ROUNDS = 7

_DATAGRAM_BYTES = 1400
_BOOK_ORDERS, _BOOK_LEVELS = 1 << 17, 2048
_FOREVER = 2**62

# Columns of the table of events, one row for each datagram: when it came, and where in the other tables lies (from,
# to) what each kernel was given because of it. Signals, orders and reports of one datagram may be none.
NOW, BYTES, TICKS, SIGNALS, ORDERS, REPLIES, REPORTS = 0, 1, 3, 5, 7, 9, 11
N_COLUMNS = 13

# What a driver measures: its main kernel, and those that are called between the calls of it.
MAIN, SECOND, THIRD = range(3)

_ACKED = int(Word.ACKED_SEQ)
_SEND_TAIL = int(Reg.SEND_TAIL)
_I8, _I8S, _BYTES = types.int64, types.int64[::1], types.uint8[::1]
_EVENTS = types.int64[:, ::1]
_TICKS, _SIGNALS = from_dtype(TICK)[::1], from_dtype(SIGNAL)[::1]
_ORDERS, _REPORTS = from_dtype(ORDER)[::1], from_dtype(REPORT)[::1]
_RUN = types.FunctionType(
    types.UniTuple(_I8, 2)(
        core.MEMORY_TYPE, core.COUNTERS_TYPE, core.HIST_TYPE, core.TICKS_TYPE, core.SIGNALS_TYPE, types.int64
    )
)
_CLOCK_MONOTONIC = 1
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))


# --- compiled loops: each calls one service's kernels as they were called, and leaves nanoseconds in `spent` --------


@kernel("int64(int64[::1])")
def now(clock):
    """CLOCK_MONOTONIC in ns; `clock` int64[2] is scratch."""
    _clock_gettime(_CLOCK_MONOTONIC, clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@kernel("void(int64, int64[::1], int64[::1])")
def drive_clock(n, clock, spent):
    """`n` readings of the clock."""
    begin = now(clock)
    for _ in range(n):
        now(clock)
    spent[MAIN] = now(clock) - begin


@kernel(types.void(_BYTES, _I8S, _I8S, _BYTES, _I8S, _BYTES, types.int64[:, ::1], _I8, _I8S, _I8S))
def drive_pack(data, offsets, time_ns, session, plan, buffer, packets, quantum_ns, clock, spent):
    """sim: a datagram of what is due within `quantum_ns`, until the tape ends."""
    begin = now(clock)
    while plan[wire.NEXT] < len(time_ns):
        plan[wire.UNTIL_TIME] = time_ns[plan[wire.NEXT]] + quantum_ns
        wire.pack(data, offsets, time_ns, session, plan, buffer, packets)
    spent[MAIN] = now(clock) - begin


@kernel(types.int64(STATE, _BYTES, _I8S, _EVENTS, _TICKS, _I8S, _I8S))
def drive_decode(state, data, lengths, events, out, clock, spent):
    """feed: one datagram after the other; the number of ticks."""
    n = 0
    begin = now(clock)
    for i in range(len(events)):
        at, end = events[i, BYTES], events[i, BYTES + 1]
        lengths[0] = end - at
        n += decode(state, data[at:end].reshape((1, end - at)), lengths, 0, 1, events[i, NOW], 0, out[n:])
    spent[MAIN] = now(clock) - begin
    return n


@kernel(types.void(BOOK, _BYTES, _EVENTS, _I8S, _I8S))
def drive_book(book, data, events, clock, spent):
    """feed: the messages of one datagram after the other, into the book."""
    begin = now(clock)
    for i in range(len(events)):
        at = events[i, BYTES]
        apply_blocks(book, data, at + 20, be16(data, at + 18))
    spent[MAIN] = now(clock) - begin


@kernel(
    types.void(
        _RUN, _BYTES, _I8S, types.int64[:, ::1], _I8S, _EVENTS, _TICKS, _REPORTS, _SIGNALS, _I8S, _I8S
    ),
)  # fmt: skip
def drive_signals(run, memory, counters, hist, words, events, ticks, reports, out, clock, spent):
    """signals: MAIN the strategies, SECOND the reports between."""
    aside = 0
    begin = now(clock)
    for i in range(len(events)):
        first, end = events[i, TICKS], events[i, TICKS + 1]
        if first < end:
            run(memory, counters, hist, ticks[first:end], out, events[i, NOW])
        first, end = events[i, REPORTS], events[i, REPORTS + 1]
        if first < end:
            before = now(clock)
            core.apply_reports(memory, counters, reports[first:end])
            aside += now(clock) - before
        words[_ACKED] = events[i, SIGNALS + 1]
    spent[MAIN] = now(clock) - begin - aside
    spent[SECOND] = aside


@kernel(types.void(_I8S, _EVENTS, _TICKS, _SIGNALS, _REPORTS, _I8S, _I8S))
def drive_risk(ctx, events, ticks, signals, reports, clock, spent):
    """risk: MAIN the marks, SECOND the decisions, THIRD the reports."""
    decided = reported = 0
    begin = now(clock)
    for i in range(len(events)):
        first, end = events[i, TICKS], events[i, TICKS + 1]
        if first < end:
            risk.apply_ticks(ctx, ticks[first:end])
        first, end = events[i, SIGNALS], events[i, SIGNALS + 1]
        if first < end:
            before = now(clock)
            risk.evaluate(ctx, signals[first:end], events[i, NOW])
            decided += now(clock) - before
        first, end = events[i, REPORTS], events[i, REPORTS + 1]
        if first < end:
            before = now(clock)
            risk.apply_reports(ctx, reports[first:end], events[i, NOW])
            reported += now(clock) - before
    spent[MAIN] = now(clock) - begin - decided - reported
    spent[SECOND] = decided
    spent[THIRD] = reported


@kernel(types.void(_I8S, _EVENTS, _ORDERS, _I8S, _I8S))
def drive_exec(ctx, events, orders, clock, spent):
    """exec: MAIN journal and encode the orders, SECOND what the venue answers."""
    accepted = answered = 0
    for i in range(len(events)):
        first, end = events[i, ORDERS], events[i, ORDERS + 1]
        if first < end:
            before = now(clock)
            ouch.accept(ctx, orders[first:end], events[i, NOW])
            accepted += now(clock) - before
            ctx[_SEND_TAIL] = 0
        first, end = events[i, REPLIES], events[i, REPLIES + 1]
        if first < end:
            before = now(clock)
            ouch.decode(ctx, first, end, events[i, NOW])
            answered += now(clock) - before
    spent[MAIN] = accepted
    spent[SECOND] = answered


@kernel("void(int64[::1], int64[::1], int64[::1], int64[::1])")
def drive_record(hist, values, clock, spent):
    """One value after the other into a histogram."""
    begin = now(clock)
    for i in range(len(values)):
        record(hist, values[i])
    spent[MAIN] = now(clock) - begin


@kernel("int64(int64[:,::1], int64[:,::1], int64, int64[::1], int64[::1])")
def drive_fold(events, words, mask, clock, spent):
    """The ticks of one datagram after the other into a digest."""
    digest = 0
    begin = now(clock)
    for i in range(len(events)):
        first, end = events[i, TICKS], events[i, TICKS + 1]
        if first < end:
            digest = fold(digest, words[first:end], end - first, mask)
    spent[MAIN] = now(clock) - begin
    return digest


# --- the chain, once ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """What one kernel took. Times are medians over the rounds."""

    name: str
    kernel: str  # where it is
    unit: str  # what a record is
    calls: int
    records: int
    ns_per_call: float
    ns_per_record: float
    share: float | None  # of the chain; None: not a link of it


class Desk:
    """Fresh state of every service, for one pass over the file."""

    def __init__(self, table: InstrumentTable, config: Any, folder: Path, journal_entries: int) -> None:
        n = len(table)
        self.feed = feed_state(table)
        self.engine = Engine(configured_strategies(config, ROOT), table, config.signals.series_capacity)
        limits = new_rows(table)
        wide = {**OPEN_SCOPE, "order_rate": config.risk.order_rate, "max_open_orders": config.risk.max_open_orders}
        for row in range(FIRST_SYMBOL_ROW + n):
            if row < FIRST_SYMBOL_ROW:
                fill_row(limits, row, Scope.GLOBAL, wide)
            else:
                fill_row(limits, row, Scope.SYMBOL, config.risk.limits.model_dump())
        limits["state"] = TradingState.ACTIVE
        control = np.zeros(len(Control), dtype=np.int64)
        control[Control.LEASE_UNTIL_NS] = _FOREVER
        self.out = np.zeros(config.risk.order_capacity + 1024, dtype=ORDER)
        self.risk = RiskState(limits, config.risk.order_capacity, control, self.out, empty(2))
        self.risk.core[Core.READY] = 1
        self.journal = Journal.open(folder, 1, entries=journal_entries)
        self.exec = Orders(self.journal, table.array, day_orders=1 << 17)
        self.exec.set_refusal(None)
        self.send, self.templates = np.zeros(1 << 18, np.uint8), order_templates(table)
        ctx = self.exec.ctx
        ctx[Reg.SEND], ctx[Reg.SEND_SIZE] = self.send.ctypes.data, len(self.send)
        ctx[Reg.TEMPLATES], ctx[Reg.INSTRUMENTS], ctx[Reg.CONNECTED] = self.templates.ctypes.data, n, 1
        for array in (self.out, self.send):
            array.view(np.uint8).fill(0)  # memory that was never written is not there yet

    def receive_from(self, raw: Any) -> None:
        """The bytes of the venue, uint8[n], that offsets of `ouch.decode` mean."""
        self.replies = raw
        self.exec.ctx[Reg.RECEIVE], self.exec.ctx[Reg.RECEIVE_SIZE] = raw.ctypes.data, len(raw)


def feed_state(table: InstrumentTable) -> State:
    """feed's state with empty books."""
    n = len(table)
    marks, halted = np.zeros(n, TICK), np.zeros(n, np.int64)
    counters, channel = np.zeros(len(Count), np.int64), np.zeros(len(Channel), np.int64)
    state = make_state(table, _BOOK_ORDERS, _BOOK_LEVELS, counters, channel, marks, halted)
    touch(state.book)
    return state


def touch(book: Book) -> None:
    """Write to all memory of a book: what was never written is not there yet."""
    for array in book:
        array[...] = array.copy()


class Packer:
    """`wire.pack` as the player of the exchange uses it, at the recorded pace."""

    def __init__(self, tape: Tape) -> None:
        size = max(_DATAGRAM_BYTES, 20 + int(np.diff(tape.offsets).max()))
        self.plan = np.zeros(wire.PLAN_SIZE, np.int64)
        self.plan[wire.NEXT_SEQ], self.plan[wire.UNTIL_INDEX], self.plan[wire.DATAGRAM_BYTES] = 1, len(tape), size
        self.buffer, self.packets = np.zeros(size, np.uint8), np.zeros((1, 4), np.int64)
        self.arguments = (
            tape.data, tape.offsets, tape.time_ns, np.frombuffer(b"TICKPATH01", np.uint8).copy(), self.plan,
            self.buffer, self.packets,
        )  # fmt: skip

    def datagrams(self, time_ns: Any) -> Iterator[tuple[bytes, int, int]]:
        """(bytes, first message, end) of each datagram."""
        first = 0
        while first < len(time_ns):
            self.plan[wire.UNTIL_TIME] = time_ns[first] + QUANTUM_NS
            wire.pack(*self.arguments)
            end = int(self.plan[wire.NEXT])
            yield self.buffer[: self.packets[0, wire.LENGTH]].tobytes(), first, end
            first = end


@dataclass
class Flow:
    """What every kernel is given; see the columns of `events`."""

    tape: Tape
    table: InstrumentTable
    events: Any  # int64[datagrams, N_COLUMNS]
    data: Any  # uint8[bytes]: the datagrams
    ticks: Any
    signals: Any
    orders: Any
    reports: Any
    replies: Any  # uint8[bytes]: SoupBinTCP packets of the venue
    n_replies: int


def play(tape: Tape, config: Any, folder: Path) -> Flow:
    """Send the file through the chain, with the simulated venue at its end."""
    table = make_table([(symbol, "0.0001", 100, 1, 1, "USD") for symbol in sorted(tape.symbols)])
    desk = Desk(table, config, folder, 1 << 16)
    venue = Venue(Exchange.create(len(table), _BOOK_ORDERS, _BOOK_LEVELS), table.symbols, tape.symbols)
    account = venue.account("bench")
    log = venue.accounts[account].log
    segment = Segment(tape.data, tape.offsets, tape.time_ns)
    events: list[list[int]] = []
    data, replies = bytearray(), bytearray()
    ticks = np.zeros(len(tape) + 1, TICK)
    signals_out = np.zeros(4096, SIGNAL)
    signals, orders, reports = [np.zeros(0, SIGNAL)], [np.zeros(0, ORDER)], [np.zeros(0, REPORT)]
    n_ticks = n_signals = n_orders = n_replies = n_reports = 0
    answered = log.next_sequence
    lengths = np.zeros(1, np.int64)
    for raw, first, end in Packer(tape).datagrams(tape.time_ns):
        at_ns = int(tape.time_ns[first])
        event = [at_ns, len(data), len(data) + len(raw), n_ticks, n_ticks]
        data += raw
        lengths[0] = len(raw)
        buffer = np.frombuffer(bytearray(raw), np.uint8).reshape(1, len(raw))
        made = decode(desk.feed, buffer, lengths, 0, 1, at_ns, 0, ticks[n_ticks:])
        fresh = ticks[n_ticks : n_ticks + made]
        n_ticks = event[-1] = n_ticks + made
        venue.played(segment, first, end, 0)
        event += [n_signals, n_signals, n_orders, n_orders]
        if made:
            risk.apply_ticks(desk.risk.context, fresh)
            done, wanted = desk.engine.run(fresh, signals_out, at_ns)
            if done != made:
                sys.exit(f"one datagram made more than {len(signals_out)} signals")
            if wanted:
                signals.append(signals_out[:wanted].copy())
                n_signals = event[6] = n_signals + wanted
                n_approved = risk.evaluate(desk.risk.context, signals[-1], at_ns)[1]
                if n_approved:
                    orders.append(desk.out[:n_approved].copy())
                    n_orders = event[8] = n_orders + n_approved
                    desk.exec.accept(orders[-1], at_ns)
                    tail = int(desk.exec.ctx[Reg.SEND_TAIL])
                    send(venue, account, desk.send[:tail].tobytes(), at_ns)
                    desk.exec.ctx[Reg.SEND_TAIL] = 0
        packets = [soupbintcp.packet(soupbintcp.SEQUENCED, log[n]) for n in range(answered, log.next_sequence)]
        answered = log.next_sequence
        event += [len(replies), len(replies) + sum(map(len, packets))]
        if packets:
            joined = np.frombuffer(bytearray(b"".join(packets)), np.uint8)
            desk.receive_from(joined)
            if desk.exec.decode(0, len(joined), at_ns) != len(joined):
                sys.exit(f"exec does not understand what the venue answers to datagram {len(events)}")
            replies += joined.tobytes()
            n_replies += len(packets)
        event += [n_reports, n_reports]
        while len(entries := desk.journal.read(n_reports + 1, 4096)):
            reports.append(entries.copy())
            n_reports = event[-1] = n_reports + len(entries)
            risk.apply_reports(desk.risk.context, reports[-1], at_ns)
            desk.engine.apply(reports[-1])
        desk.engine.acknowledge(desk.engine.signal_seq)
        events.append(event)
    desk.journal.close()
    return Flow(
        tape, table, np.array(events, np.int64), np.frombuffer(data, np.uint8), ticks[:n_ticks],
        np.concatenate(signals), np.concatenate(orders), np.concatenate(reports),
        np.frombuffer(replies or bytearray(1), np.uint8), n_replies,
    )  # fmt: skip


def send(venue: Venue, account: int, raw: bytes, at_ns: int) -> None:
    """SoupBinTCP packets of exec to the venue."""
    at = 0
    while at < len(raw):
        end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
        venue.receive(account, raw[at + soupbintcp.HEADER_SIZE : end], at_ns)
        at = end


# --- the kernels, each by itself ------------------------------------------------------------------------------------


def measure(flow: Flow, config: Any, folder: Path, rounds: int) -> dict[str, Any]:
    """Time every kernel on what it was given; one round more than `rounds`, the first does not count."""
    clock, spent, lengths = np.zeros(2, np.int64), np.zeros(3, np.int64), np.zeros(1, np.int64)
    mask, words = words_mask(TICK), flow.ticks.view(np.int64).reshape(len(flow.ticks), -1)
    gaps = np.diff(flow.events[:, NOW], prepend=flow.events[:1, NOW])
    other = make_table([("-", "0.0001", 1, 1, 1, "USD")])
    scratch, signals_out = np.zeros(len(flow.tape) + 1, TICK), np.zeros(8192, SIGNAL)
    for array in (scratch, signals_out):
        array.view(np.uint8).fill(0)
    taken: dict[str, list[int]] = {}

    def note(*names: str) -> None:
        for index, name in enumerate(names):
            taken.setdefault(name, []).append(int(spent[index]))

    for number in range(rounds + 1):
        desk = Desk(flow.table, config, folder / str(number), 1 << max(16, (4 * len(flow.reports)).bit_length()))
        desk.receive_from(flow.replies)
        drive_clock(10_000, clock, spent)
        note("clock")
        packer = Packer(flow.tape)
        drive_pack(*packer.arguments, QUANTUM_NS, clock, spent)
        note("pack")
        drive_decode(feed_state(other), flow.data, lengths, flow.events, scratch, clock, spent)
        note("decode")
        book = Book.create(len(flow.table), _BOOK_ORDERS, _BOOK_LEVELS)
        touch(book)
        for symbol, locate in flow.tape.symbols.items():
            book.locate[locate] = flow.table.ids[symbol]
        drive_book(book, flow.data, flow.events, clock, spent)
        note("book")
        made = drive_decode(desk.feed, flow.data, lengths, flow.events, scratch, clock, spent)
        note("ticks")
        engine = desk.engine
        drive_signals(
            engine.module.run, engine.memory.bytes, engine.counters, engine.hist, engine.memory["words"], flow.events,
            flow.ticks, flow.reports, signals_out, clock, spent,
        )  # fmt: skip
        note("run", "signals reports")
        drive_risk(desk.risk.context, flow.events, flow.ticks, flow.signals, flow.reports, clock, spent)
        note("marks", "evaluate", "risk reports")
        drive_exec(desk.exec.ctx, flow.events, flow.orders, clock, spent)
        note("accept", "replies")
        drive_record(np.zeros(HIST_SIZE, np.int64), gaps, clock, spent)
        note("record")
        drive_fold(flow.events, words, mask, clock, spent)
        note("fold")
        same = (
            made == len(flow.ticks)
            and engine.signal_seq == len(flow.signals)
            and int(desk.risk.core[Core.APPROVED] + desk.risk.core[Core.CANCELS]) == len(flow.orders)
            and int(desk.exec.ctx[Reg.NEXT_SEQ]) - 1 == len(flow.reports)
        )
        desk.journal.close()
        shutil.rmtree(folder / str(number))
        if not same:
            sys.exit("a kernel did something else than when the file was played: this measures something else")
    return report(flow, {name: float(np.median(values[1:])) for name, values in taken.items()}, desk, rounds)


#: Name, kernel, what a record is, and under which name a driver's time was noted.
STAGES = (
    ("sim: pack", "sim.kernels.wire.pack", "messages", "pack"),
    ("feed: decode", "feed.kernels.decode.decode", "messages", "decode"),
    ("feed: decode+book", "common.kernels.book.apply_blocks", "messages", "book"),
    ("feed: decode+book+ticks", "feed.kernels.decode.decode", "messages", "ticks"),
    ("signals: strategies", "signals.engine run", "ticks", "run"),
    ("signals: reports", "signals.kernels.core.apply_reports", "reports", "signals reports"),
    ("risk: marks", "risk.kernels.risk.apply_ticks", "ticks", "marks"),
    ("risk: decide", "risk.kernels.risk.evaluate", "signals", "evaluate"),
    ("risk: reports", "risk.kernels.risk.apply_reports", "reports", "risk reports"),
    ("exec: journal+encode", "exec.kernels.ouch.accept", "orders", "accept"),
    ("exec: venue's replies", "exec.kernels.ouch.decode", "replies", "replies"),
    ("histogram: record", "common.kernels.hist.record", "values", "record"),
    ("digest: fold", "common.kernels.digest.fold", "ticks", "fold"),
)
CHAIN = frozenset(
    ("ticks", "run", "signals reports", "marks", "evaluate", "risk reports", "accept", "replies")
)  # fmt: skip
_CALL_BY_CALL = frozenset(("signals reports", "evaluate", "risk reports", "accept", "replies"))


def report(flow: Flow, taken_ns: dict[str, float], desk: Desk, rounds: int) -> dict[str, Any]:
    """JSON-able result of the medians."""
    events = flow.events
    n, ticks = len(events), len(flow.ticks)

    def calls(column: int) -> int:
        return int((events[:, column] < events[:, column + 1]).sum())

    messages = len(flow.tape)
    counts = {
        "pack": (n, messages),
        "decode": (n, messages),
        "book": (n, messages),
        "ticks": (n, messages),
        "run": (calls(TICKS), ticks),
        "signals reports": (calls(REPORTS), len(flow.reports)),
        "marks": (calls(TICKS), ticks),
        "evaluate": (calls(SIGNALS), len(flow.signals)),
        "risk reports": (calls(REPORTS), len(flow.reports)),
        "accept": (calls(ORDERS), len(flow.orders)),
        "replies": (calls(REPLIES), flow.n_replies),
        "record": (n, n),
        "fold": (calls(TICKS), ticks),
    }
    clock_ns = taken_ns["clock"] / 10_000
    total: dict[str, float] = {}
    for _, _, _, key in STAGES:
        # Each timed call holds one reading of the clock; the loop around `run` and `marks` holds the other one.
        inside = counts[key][0] if key in _CALL_BY_CALL else 0
        inside += calls(REPORTS) if key in ("run", "marks") else 0
        inside += calls(SIGNALS) if key == "marks" else 0
        total[key] = max(0.0, taken_ns[key] - inside * clock_ns)
    chain_ns = sum(total[key] for key in CHAIN)
    stages = [
        Stage(
            name, f"tickpath.{where}", unit, *counts[key],
            round(total[key] / max(1, counts[key][0]), 1), round(total[key] / max(1, counts[key][1]), 1),
            round(total[key] / chain_ns, 4) if key in CHAIN else None,
        )
        for name, where, unit, key in STAGES
    ]  # fmt: skip
    return {
        "source": flow.tape.source,
        "messages": messages,
        "datagrams": n,
        "rounds": rounds,
        "chain_ns_per_message": round(chain_ns / messages, 1),
        "call_from_python_ns": round(call_from_python_ns(desk), 1),
        "clock_ns": round(clock_ns, 1),
        "machine": machine(),
        "stages": [asdict(stage) for stage in stages],
    }


def call_from_python_ns(desk: Desk, n: int = 20_000) -> float:
    """What a call costs that has nothing to do: risk's decision, as its hot loop in Python would make it."""
    evaluate, none, context, clock = (
        direct(risk.evaluate),
        np.zeros(0, SIGNAL),
        desk.risk.context,
        np.zeros(2, np.int64),
    )
    risk.evaluate(context, none, 0)
    best = []
    for _ in range(5):
        begin = now(clock)
        for _ in range(n):
            evaluate(context, none, 0)
        best.append((now(clock) - begin) / n)
    return float(np.median(best))


# --- for people -----------------------------------------------------------------------------------------------------


def describe(result: dict[str, Any]) -> tuple[str, str]:
    """Two lines: what was played, and on what."""
    what = (
        f"{result['source']}: {result['messages']:,} messages in {result['datagrams']:,} datagrams; the chain takes"
        f" {result['chain_ns_per_message']:,.0f} ns per message"
    )
    where = (
        f"{describe_machine(result['machine'])}, load {result['machine']['load']}; median of {result['rounds']}"
        f" rounds; a call from Python adds {result['call_from_python_ns']:,.0f} ns"
    )
    return what, where


def print_table(result: dict[str, Any]) -> None:
    """The table, on stdout."""
    from rich import box  # noqa: PLC0415 - only for people
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("kernel", no_wrap=True)
    for column in ("calls", "records", "ns/call", "ns/record", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage in result["stages"]:
        share = "" if stage["share"] is None else f"{100 * stage['share']:.1f} %"
        records = f"{stage['records']:,} {stage['unit']}"
        costs = [
            f"{ns:,.0f}" if ns >= 1000 else f"{ns:,.1f}" for ns in (stage["ns_per_call"], stage["ns_per_record"])
        ]
        table.add_row(stage["name"], f"{stage['calls']:,}", records, *costs, share)
    console = Console()
    for line in (*describe(result), table):
        console.print(line, highlight=False)


_ROW, _TOP, _LABEL, _BAR, _GAP = 30, 96, 210, 290, 240
_INK, _SOFT, _LINK, _PART = "#1f2933", "#66727f", "#2f6f9f", "#a9b7c4"


def chart(result: dict[str, Any]) -> str:
    """SVG: for each kernel a bar of its ns per record, and one of its share of the chain."""
    stages = result["stages"]
    width, height = _LABEL + 2 * _BAR + _GAP + 80, _TOP + _ROW * len(stages) + 56
    most = max(stage["ns_per_record"] for stage in stages) or 1.0
    right = _LABEL + _BAR + _GAP

    def text(x: float, y: float, words: str, size: int = 13, ink: str = _INK, anchor: str = "start") -> str:
        return f'<text x="{x}" y="{y}" font-size="{size}" fill="{ink}" text-anchor="{anchor}">{escape(words)}</text>'

    def bar(x: float, y: float, length: float, ink: str) -> str:
        return f'<rect x="{x}" y="{y}" width="{max(1.0, length):.1f}" height="{_ROW - 10}" rx="2" fill="{ink}"/>'

    what, where = describe(result)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        ' font-family="system-ui, Helvetica, Arial, sans-serif">',
        f"<title>{escape('Cost of each kernel')}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(16, 28, "Cost of each kernel", 18),
        text(16, 50, what, 12, _SOFT),
        text(_LABEL, 82, "ns per record (bar), and how many records", 12, _SOFT),
        text(right, 82, "% of the chain, all messages together", 12, _SOFT),
    ]
    for index, stage in enumerate(stages):
        y = _TOP + _ROW * index
        middle = y + _ROW / 2
        ink = _PART if stage["share"] is None else _LINK
        length = _BAR * stage["ns_per_record"] / most
        value = f"{stage['ns_per_record']:,.1f} ns for each of {stage['records']:,} {stage['unit']}"
        parts += [
            text(_LABEL - 12, middle, stage["name"], 13, _INK, "end"),
            bar(_LABEL, y, length, ink),
            text(_LABEL + length + 8, middle, value, 12),
        ]
        if stage["share"] is not None:
            length = _BAR * stage["share"]
            parts += [
                bar(right, y, length, ink),
                text(right + length + 8, middle, f"{100 * stage['share']:.1f} %", 12),
            ]
    parts += [
        text(16, height - 34, "Grey: a part of a link, or beside the chain.", 12, _SOFT),
        text(16, height - 14, where, 12, _SOFT),
        "</svg>\n",
    ]
    return "\n".join(parts)


def main(arguments: Sequence[str], write: Callable[[str], object] = sys.stdout.write) -> int:
    """The command; returns the exit status."""
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="tickpath bench kernels", description=about)
    parser.add_argument("file", nargs="?", type=Path, default=RECORDED, help="ITCH 5.0 or LOBSTER messages")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--out", type=Path, help="write a bar chart (SVG) there")
    parser.add_argument("--rounds", type=int, default=ROUNDS, choices=range(1, 101), metavar="1..100")
    given = parser.parse_args(arguments)
    try:
        if given.file == RECORDED and not RECORDED.is_file():
            msg = f"the recorded file {RECORDED} is not here; name another one (ITCH 5.0 or LOBSTER messages)"
            raise DataFileError(msg)
        tape = load_tape([given.file])
        if not tape.symbols:
            msg = f"{given.file}: there is no order or trade of any symbol in it"
            raise DataFileError(msg)
        config = load_config(ROOT / "tickpath.toml")
        if given.out is not None:
            given.out.touch()  # rather now than after the measurement
        with tempfile.TemporaryDirectory() as folder:
            flow = play(tape, config, Path(folder) / "played")
            result = measure(flow, config, Path(folder), given.rounds)
        if given.out is not None:
            given.out.write_text(chart(result), "utf-8")
    except (DataFileError, ConfigError, StrategyError) as error:
        sys.stderr.write(f"tickpath: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"tickpath: {error.filename}: {error.strerror}\n")
        return 2
    if given.json:
        write(json.dumps(result) + "\n")
        return 0
    print_table(result)
    if given.out is not None:
        write(f"chart: {given.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
