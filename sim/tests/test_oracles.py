"""Every recorded file of ../shared/data that loads as a tape, against the facts that come with it, exactly.

The facts were computed by programs that share no code with this project. Tests find the files by themselves, so more
files of the same kinds are checked as soon as they lie there. LOBSTER files: see `test_lobster`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from tickpath.common.jit import direct
from tickpath.common.kernels import book as kernels
from tickpath.common.kernels.book import Book, Result, apply_one
from tickpath.common.protocols import itch50
from tickpath.common.records import NO_PRICE_TICKS, Side
from tickpath.sim.sources.dbn import encode_dbn
from tickpath.sim.sources.files import read_data
from tickpath.sim.sources.kernels import pcap
from tickpath.sim.sources.kernels.mdp3 import NO_SECURITY
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.mdp3 import encode_mdp3, read_mdp3
from tickpath.sim.sources.pcap import read_packets
from tickpath.sim.sources.tape import FINDINGS, Tape, write_instruments

DATA = Path(__file__).parents[2].parent / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded market data is not here: {DATA}")


def recorded(pattern: str) -> pytest.MarkDecorator:
    """Parametrize by the files of a pattern; one skipped test where they are not there."""
    files = sorted(path for path in DATA.glob(pattern) if path.with_name(path.name + ".oracle.json").is_file())
    missing = [pytest.param(None, marks=pytest.mark.skip(reason=f"no recorded market data: {DATA / pattern}"))]
    return pytest.mark.parametrize("path", files or missing, ids=lambda path: path.name if path else "none")


def oracle_of(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.with_name(path.name + ".oracle.json").read_text())
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), "the oracle is of another file"
    return facts


def uncompressed(path: Path) -> bytes:
    raw = path.read_bytes()
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().stream_reader(raw).read()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


def played(tape: Tape, levels: int = 1 << 12) -> Iterator[tuple[int, Book]]:
    """The book after each message of a tape: instrument k is the k-th symbol."""
    book = Book.create(max(len(tape.symbols), 1), 1 << 16, levels)
    for instrument, locate in enumerate(tape.symbols.values()):
        book.locate[locate] = instrument
    offsets = tape.offsets.tolist()
    apply_one(Book.create(1, 1, 1), tape.data, 0, 0)  # refuses other types; `direct` does not look
    apply = direct(apply_one)
    for i, (begin, end) in enumerate(pairwise(offsets)):
        apply(book, tape.data, begin + 2, end - begin - 2)
        yield i, book


def quoted(book: Book, instrument: int = 0) -> tuple[int, int, int, int]:
    """Best bid, its size, best ask, its size; 0 for an empty side."""
    bid, bid_size, ask, ask_size = book.bbo(instrument)
    return (0 if bid == NO_PRICE_TICKS else bid), bid_size, (0 if ask == NO_PRICE_TICKS else ask), ask_size


def loads_as_instruments(tape: Tape, folder: Path) -> None:
    """What a tape finds is documented, and its terms make an instrument table."""
    assert set(tape.findings) <= set(FINDINGS)
    if tape.symbols:
        write_instruments(tape, folder / "instruments.csv")


# --- ITCH --------------------------------------------------------------------------------------------------------


@recorded("itch/*.itch*")
def test_itch_files_have_all_the_facts_of_their_oracle(path: Path, tmp_path: Path) -> None:
    oracle, tape = oracle_of(path), load_tape([path])
    loads_as_instruments(tape, tmp_path)
    assert len(tape) == oracle["messages"]
    assert tape.offsets[-1] == oracle["bytes_consumed"]
    assert tape.data.tobytes() == uncompressed(path)[: oracle["bytes_consumed"]]
    assert tape.counts == oracle["count_by_type"]
    assert (int(tape.time_ns[0]), int(tape.time_ns[-1])) == (oracle["first_ts_ns"], oracle["last_ts_ns"])
    assert tape.findings.get("times_back", 0) == oracle["timestamps_going_backwards"]
    assert len(tape.symbols) == oracle["symbols_with_orders_or_trades"]
    codes = Counter(chr(tape.message(i)[11]) for i in range(len(tape)) if tape.data[tape.offsets[i] + 2] == ord("S"))
    assert codes == oracle["system_events"]
    locates = {int.from_bytes(tape.message(i)[1:3], "big") for i in range(len(tape))} - {0}
    assert len(locates) == oracle["stock_locates_seen"]

    symbols = list(tape.symbols)
    seen = {symbol: _Seen() for symbol in symbols}
    bbo = (0, 0, 0, 0)
    path_of = hashlib.sha256()
    checkpoints = {point["after_message"]: point for point in oracle.get("bbo_checkpoints", [])}
    last = None
    for i, last in played(tape):
        instrument = int(last.event[kernels.EV_INSTRUMENT])
        if instrument >= 0:
            seen[symbols[instrument]].note(last, tape)
        if "bbo_path_sha256" in oracle:
            bid, bid_size, ask, ask_size = bbo = quoted(last) if last.event[kernels.EV_BBO_CHANGED] else bbo
            path_of.update(f"{i + 1},{bid},{bid_size},{ask},{ask_size}\n".encode())
            if point := checkpoints.pop(i + 1, None):
                assert (bid, bid_size) == (point["bid"], point["bid_shares"])
                assert (ask, ask_size) == (point["ask"], point["ask_shares"])
    assert not checkpoints
    if "bbo_path_sha256" in oracle:
        assert path_of.hexdigest() == oracle["bbo_path_sha256"]
    assert last is not None
    assert last.live_orders == oracle["live_orders_total"]
    for instrument, symbol in enumerate(symbols):
        seen[symbol].check(oracle["per_symbol"][symbol], last, instrument)
        assert tape.symbols[symbol] == oracle["per_symbol"][symbol]["stock_locate"]


class _Seen:
    """What happened to one symbol, told by the book's events."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.shares: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.volume = self.trades = 0
        self.first: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None

    def note(self, book: Book, tape: Tape) -> None:
        event = [int(value) for value in book.event]
        kind, lots = chr(event[kernels.EV_TYPE]), event[kernels.EV_LOTS]
        self.counts[kind] += 1
        self.unknown[kind] += kind in "ECXDU" and event[kernels.EV_ORDER_LOTS] == 0
        self.shares[kind] += lots if kind in "ECXPQ" else 0
        if event[kernels.EV_PRINT]:
            self.volume += lots
            self.trades += 1
            self.shares["printable C"] += lots if kind == "C" else 0
            if event[kernels.EV_PRICE_TICKS] != NO_PRICE_TICKS:
                stamp, price = event[kernels.EV_EXCH_NS], event[kernels.EV_PRICE_TICKS]
                self.last = {"ts_ns": stamp, "price": price, "shares": lots, "kind": kind}
                self.first = self.first or self.last

    def check(self, facts: dict[str, Any], book: Book, instrument: int) -> None:
        assert self.counts == facts["count_by_type"]
        assert self.trades == facts["trades"]
        assert self.volume == facts["traded_volume"]
        assert self.shares["E"] == facts["executed_shares_E"]
        assert self.shares["C"] == facts["executed_shares_C"]
        assert self.shares["printable C"] == facts["executed_shares_C_printable"]
        assert self.shares["P"] == facts["trade_shares_P"]
        assert self.shares["Q"] == facts["cross_shares_Q"]
        assert self.shares["X"] == facts["cancelled_shares_X"]
        assert (self.first, self.last) == (facts["first_trade"], facts["last_trade"])
        assert {kind: n for kind, n in self.unknown.items() if n} == facts["unknown_reference"]
        final = facts["final_book"]
        bids, asks = book.side(instrument, Side.BUY), book.side(instrument, Side.SELL)
        best = [final[key] for key in ("best_bid", "best_bid_shares", "best_ask", "best_ask_shares")]
        assert list(quoted(book, instrument)) == best
        assert (len(bids), len(asks)) == (final["bid_levels"], final["ask_levels"])
        assert (int(bids["lots"].sum()), int(asks["lots"].sum())) == (final["bid_shares"], final["ask_shares"])
        assert int(bids["orders"].sum() + asks["orders"].sum()) == final["live_orders"]


@recorded("itch/*.itch*")
def test_compressed_with_gzip_or_zstd_or_plain_a_file_is_the_same_tape(path: Path, tmp_path: Path) -> None:
    raw, tape = uncompressed(path), load_tape([path])
    for name, data in (
        ("a.itch", raw),
        ("a.itch.gz", gzip.compress(raw, 1)),
        ("a.zst", zstandard.ZstdCompressor(level=1).compress(raw)),
    ):
        (tmp_path / name).write_bytes(data)
        assert load_tape([tmp_path / name]).data.tobytes() == tape.data.tobytes()


# --- captures ----------------------------------------------------------------------------------------------------


@recorded("itch/moldudp64_pcap/*.pcap")
def test_each_packet_and_message_of_a_capture_is_that_of_its_oracle(path: Path, tmp_path: Path) -> None:
    oracle, data = oracle_of(path), read_data(path)
    packets, findings = read_packets(path, data)
    assert len(packets) == oracle["packets"] == len(oracle["packet_list"])
    assert not any(findings.values())
    messages: list[tuple[int, bytes]] = []
    for packet, facts in zip(packets, oracle["packet_list"], strict=True):
        assert packet[pcap.TIME] == facts["capture_ns"]
        address, port = int(packet[pcap.ADDRESS]), int(packet[pcap.PORT])
        assert f"{'.'.join(str(b) for b in address.to_bytes(4, 'big'))}:{port}" == facts["destination"]
        at = int(packet[pcap.PAYLOAD_AT])
        payload = data[at : at + packet[pcap.PAYLOAD_SIZE]].tobytes()
        assert payload[:10].decode("latin-1") == facts["session"]
        assert int.from_bytes(payload[10:18], "big") == facts["sequence_number"]
        assert int.from_bytes(payload[18:20], "big") == facts["message_count"] == len(facts["messages"])
        for k, (message, wanted) in enumerate(zip(itch50.frames(payload[20:]), facts["messages"], strict=True)):
            assert message.hex() == wanted["hex"]
            assert len(message) == wanted["length"]
            decoded = itch50.decode(message)
            assert decoded["type"] == wanted["type"]
            assert decoded["stock_locate"] == wanted["stock_locate"]
            assert decoded["timestamp"] == wanted["timestamp_ns"]
            messages.append((facts["sequence_number"] + k, bytes(message)))
    tape = load_tape([path])
    loads_as_instruments(tape, tmp_path)
    unnumbered = not any(number for number, _ in messages)
    wanted_order = messages if unnumbered else sorted(dict(messages).items())
    assert [tape.message(i) for i in range(len(tape))] == [message for _, message in wanted_order]
    missing = 0 if unnumbered else wanted_order[-1][0] - wanted_order[0][0] + 1 - len(wanted_order)
    assert tape.findings.get("missing_messages", 0) == missing
    assert tape.findings.get("unnumbered_messages", 0) == (len(messages) if unnumbered else 0)


@recorded("cme_mdp3/*.pcapng*")
def test_mdp3_captures_have_all_the_facts_of_their_oracle(path: Path, tmp_path: Path) -> None:
    """Packets of each feed, how they were arbitrated, every message by template, every entry by instrument."""
    oracle, data = oracle_of(path), read_data(path)
    packets, findings = read_packets(path, data)
    assert len(packets) == oracle["packets"]
    times = packets[:, pcap.TIME]
    assert (int(times[0]), int(times.max())) == (oracle["first_capture_ns"], oracle["last_capture_ns"])

    capture = read_mdp3(data, packets, findings)
    assert {
        line: {key: getattr(feed, key) for key in ("packets", "first_seq", "last_seq", "gaps")}
        for line, feed in capture.feeds.items()
    } == oracle["feeds"]
    assert len({feed.channel for feed in capture.feeds.values()}) == 1
    first_copies = Counter({line: feed.first_copies for line, feed in capture.feeds.items()})
    assert first_copies == Counter(oracle["first_copy_came_from"])
    assert len(capture.packets) == oracle["distinct_sequence_numbers"]
    assert capture.findings["repeated_packets"] == oracle["packets"] - oracle["distinct_sequence_numbers"]
    assert capture.findings["differing_packets"] == oracle["second_copies_that_differ"]
    lags, lag = capture.lags_ns, oracle["lag_of_second_copy_ns"]
    assert (lags.min(), np.median(lags), lags.max()) == (lag["min"], lag["median"], lag["max"])
    assert len(capture.messages) == oracle["messages_in_distinct_packets"]
    assert {str(template): n for template, n in capture.templates.items()} == oracle["count_by_template_id"]
    assert sorted(map(list, capture.schemas)) == oracle["schema_id_and_version"]

    tape, _ = encode_mdp3(path, data, capture, 1)
    loads_as_instruments(tape, tmp_path)
    day = oracle["first_sending_time_ns"] // (86_400 * 10**9) * 86_400 * 10**9
    hours = tape.findings.get("hours_shifted", 0) * 3_600 * 10**9
    begin, end = (int(tape.time_ns[at]) + day + hours for at in (0, -1))
    assert oracle["first_sending_time_ns"] <= begin <= end <= oracle["last_sending_time_ns"]
    sent = [int.from_bytes(data[at + 4 : at + 12].tobytes(), "little") for at in capture.packets[:, pcap.PAYLOAD_AT]]
    assert (sent[0], sent[-1]) == (oracle["first_sending_time_ns"], oracle["last_sending_time_ns"])

    printed: Counter[int] = Counter()  # volume by security id
    ids = np.unique(capture.entries["security"][np.isin(capture.entries["kind"], [ord(kind) for kind in "012"])])
    for message in (tape.message(i) for i in range(len(tape))):
        if message[:1] == b"P":
            printed[int(ids[int.from_bytes(message[1:3], "big") - 1])] += int.from_bytes(message[20:24], "big")
    entries = capture.entries[capture.entries["security"] != NO_SECURITY]
    assert {str(security) for security in entries["security"].tolist()} == set(oracle["per_security_id"])
    for security, facts in oracle["per_security_id"].items():
        own = entries[entries["security"] == int(security)]
        trades, levels = own[own["kind"] == ord("2")], own[own["kind"] != ord("2")]
        counts = Counter(f"{chr(one['kind'])}{one['action']}" for one in levels)
        assert counts == facts["book_entries_by_type_and_action"]
        assert (len(trades), int(trades["size"].sum())) == (facts["trade_entries"], facts["trade_volume"])
        for at, key in ((0, "first"), (-1, "last")):
            assert own["rpt_seq"][at] == facts[f"{key}_rpt_seq_in_32_42"]
            if len(trades):
                assert {
                    "transact_time_ns": trades["transact_ns"][at],
                    "price_1e7": trades["price"][at],
                    **{name: trades[name][at] for name in ("size", "aggressor", "action")},
                } == facts[f"{key}_trade"]
        assert facts["trade_entries"] or facts["first_trade"] is facts["last_trade"] is None
        can_print = (trades["action"] == 0) & (trades["price"] > 0) & (trades["size"] > 0)
        assert printed[int(security)] == trades["size"][can_print].sum()


# --- Databento ---------------------------------------------------------------------------------------------------


@recorded("dbn/*.dbn*")
def test_dbn_files_have_all_the_facts_of_their_oracle_and_their_book_after_every_record(
    path: Path, tmp_path: Path
) -> None:
    oracle = oracle_of(path)
    tape, row_ends = encode_dbn(path, read_data(path), 1)
    loads_as_instruments(tape, tmp_path)
    assert tape.data.tobytes() == load_tape([path]).data.tobytes()
    assert list(tape.symbols) == oracle["symbols"]
    assert len(row_ends) == tape.findings["records"] == oracle["records"]
    assert tape.findings.get("snapshot_records", 0) == oracle["records_flagged_snapshot"]
    assert tape.findings.get("times_back", 0) == oracle["ts_recv_going_backwards"]
    assert tape.findings.get("fills", 0) == oracle["count_by_action"].get("F", 0)
    assert tape.findings.get("unknown_orders", 0) == sum(oracle["unknown_order_references"].values())
    day = oracle["first_ts_recv_ns"] // (86_400 * 10**9) * 86_400 * 10**9
    assert (int(tape.time_ns[0]) + day, int(tape.time_ns[-1]) + day) == (
        oracle["first_ts_recv_ns"],
        oracle["last_ts_recv_ns"],
    )

    unit = int(Decimal(tape.terms[oracle["symbols"][0]].tick_size).scaleb(9))
    checkpoints = {point["after_record"]: point for point in oracle["bbo_checkpoints"]}
    path_of = hashlib.sha256()
    prints: list[tuple[int, int, str]] = []
    record, book, line = 0, None, "0,0,0,0"
    for i, book in played(tape):
        if chr(book.event[kernels.EV_TYPE]) == "P":
            resting = {1: "A", 2: "B"}[int(book.event[kernels.EV_SIDE])]
            prints.append((int(book.event[kernels.EV_PRICE_TICKS]) * unit, int(book.event[kernels.EV_LOTS]), resting))
        if book.event[kernels.EV_BBO_CHANGED]:
            bid, bid_size, ask, ask_size = quoted(book)
            line = f"{bid * unit},{bid_size},{ask * unit},{ask_size}"
        while record < len(row_ends) and row_ends[record] == i + 1:
            record += 1
            path_of.update(f"{record},{line}\n".encode())
            if point := checkpoints.pop(record, None):
                assert line == ",".join(str(point[key]) for key in ("bid_1e9", "bid_size", "ask_1e9", "ask_size"))
    assert book is not None
    assert set(book.results()) == {Result.OK}
    assert (record, checkpoints) == (len(row_ends), {})
    assert path_of.hexdigest() == oracle["bbo_path_sha256"]

    assert len(prints) == tape.counts.get("P", 0) == oracle["trades"]
    assert sum(size for _, size, _ in prints) == oracle["traded_volume"]
    assert sum(price * size for price, size, _ in prints) == oracle["sum_price_1e9_times_size"]
    for one, facts in ((prints[0], oracle["first_trade"]), (prints[-1], oracle["last_trade"])):
        assert one[:2] == (facts["price_1e9"], facts["size"])
        assert facts["aggressor_side"] in (one[2], "N")
    final = oracle["final_book"]
    assert line == ",".join(
        str(final[key]) for key in ("best_bid_1e9", "best_bid_size", "best_ask_1e9", "best_ask_size")
    )
    assert (len(book.side(0, Side.BUY)), len(book.side(0, Side.SELL))) == (final["bid_levels"], final["ask_levels"])
    assert book.live_orders == final["live_orders"]


# --- trades and quotes -------------------------------------------------------------------------------------------


#: A P as it stands in a tape. The time stamp's 48 bits overlap the tracking number, which is 0.
_TRADE = np.dtype(
    {
        "names": ["ns", "shares", "price"],
        "formats": [">u8", ">u4", ">u4"],
        "offsets": [5, 22, 34],
        "itemsize": 46,
    }
)


def columns_of(path: Path) -> list[list[str]]:
    return [line.split(",") for line in uncompressed(path).decode().splitlines()]


def milliseconds(tape: Tape, i: int) -> int:
    return int(tape.time_ns[i]) // 10**6


class Quotes:
    """The quotes that are orders of a tape, by reference, told from its bytes."""

    def __init__(self, tape: Tape) -> None:
        self._data, self._offsets = tape.data.tobytes(), tape.offsets.tolist()
        self.live: dict[int, list[Any]] = {}  # reference -> exchange, side, price, size

    def messages(self) -> Iterator[tuple[int, str, list[Any]]]:
        """Index, type and quote after each message that is one."""
        unpack, data, live = int.from_bytes, self._data, self.live
        for i, begin in enumerate(self._offsets[:-1]):
            at = begin + 2
            kind, ref = chr(data[at]), unpack(data[at + 11 : at + 19], "big")
            if kind in "AF":
                exchange = data[at + 36 : at + 40].decode().strip() if kind == "F" else ""
                price, size = unpack(data[at + 32 : at + 36], "big"), unpack(data[at + 20 : at + 24], "big")
                live[ref] = [exchange, chr(data[at + 19]), price, size]
            elif kind == "U":
                old, ref = ref, unpack(data[at + 19 : at + 27], "big")
                price, size = unpack(data[at + 31 : at + 35], "big"), unpack(data[at + 27 : at + 31], "big")
                live[ref] = [*live.pop(old)[:2], price, size]
            elif kind == "X":
                live[ref][3] -= unpack(data[at + 19 : at + 23], "big")
            elif kind == "D":
                quote = live.pop(ref)
                yield i, kind, [*quote[:3], 0]
            if kind in "AFUX":
                yield i, kind, live[ref]


@recorded("ticks/equity_*_trade.csv*")
def test_trade_files_have_all_the_facts_of_their_oracle(path: Path, tmp_path: Path) -> None:
    oracle, tape = oracle_of(path), load_tape([path])
    loads_as_instruments(tape, tmp_path)
    prints = tape.data[tape.offsets[:-1][tape.data[tape.offsets[:-1] + 2] == ord("P")][:, None] + np.arange(46)]
    of = prints.view(_TRADE)[:, 0]
    ms, prices, shares = [column.astype(np.int64) for column in (of["ns"] // 10**6, of["price"], of["shares"])]
    assert len(of) == tape.findings["records"] == oracle["rows"]
    assert tape.findings.get("times_back", 0) == oracle["times_going_backwards"]
    assert tape.findings.get("suspicious_records", 0) == oracle["rows_flagged_suspicious"]
    assert shares.sum() == oracle["traded_volume"]
    assert (shares * prices).sum() == oracle["sum_price_times_shares"]
    assert (prices.max(), prices.min()) == (oracle["high"], oracle["low"])
    for at, facts in ((0, oracle["first"]), (-1, oracle["last"])):
        assert (ms[at], prices[at], shares[at]) == (int(facts["ms"]), facts["price"], facts["shares"])
    rows = np.array([row[:3] for row in columns_of(path)], np.int64)
    assert np.array_equal(rows, np.stack([ms, prices, shares], axis=1))


@recorded("ticks/equity_*_quote.csv*")
def test_quote_files_have_all_the_facts_of_their_oracle(path: Path, tmp_path: Path) -> None:
    """Each exchange's last bid and offer are those of the file, and the book is never crossed."""
    oracle, tape = oracle_of(path), load_tape([path])
    loads_as_instruments(tape, tmp_path)
    assert tape.findings["records"] == oracle["rows"]
    assert tape.findings.get("times_back", 0) == oracle["times_going_backwards"]
    assert tape.findings.get("suspicious_records", 0) == oracle["rows_flagged_suspicious"]
    first, last = oracle["first_row"].split(","), oracle["last_row"].split(",")
    assert milliseconds(tape, 0) == int(first[0])
    assert milliseconds(tape, len(tape) - 1) <= int(last[0])

    quotes = Quotes(tape)
    latest: dict[tuple[str, str], tuple[int, int]] = {}
    for _, kind, (exchange, side, price, size) in quotes.messages():
        if kind != "D":
            latest[exchange, side] = (price, size)
    for key, side in (("last_nonzero_bid_by_exchange", "B"), ("last_nonzero_ask_by_exchange", "S")):
        assert {exchange: quote for (exchange, of), quote in latest.items() if of == side} == {
            exchange: (facts["price"], facts["size"]) for exchange, facts in oracle[key].items()
        }
    rows = sum(oracle["rows_by_exchange"].values())
    told = sum(tape.counts.get(kind, 0) for kind in "FUXD") - tape.findings.get("stale_quotes", 0)
    assert told + tape.findings.get("unchanged_quotes", 0) == rows == oracle["bid_rows"] + oracle["ask_rows"]

    book = Book.create(1, 1 << 10, 1 << 8)
    book.locate[tape.symbols[next(iter(tape.symbols))]] = 0
    assert kernels.apply_blocks(book, tape.data, 0, len(tape)) == len(tape.data)
    assert set(book.results()) == {Result.OK}
    assert book.stats[kernels.ST_CROSSED] == 0
    assert book.live_orders == len(quotes.live)


@recorded("ticks/fx_*_quote.csv*")
def test_fx_files_have_all_the_facts_of_their_oracle(path: Path, tmp_path: Path) -> None:
    """After each row the best bid and offer are the row's, so every figure over the rows is right."""
    oracle, tape = oracle_of(path), load_tape([path])
    loads_as_instruments(tape, tmp_path)
    tick = Decimal(next(iter(tape.terms.values())).tick_size)
    rows = columns_of(path)
    assert len(rows) == tape.findings["records"] == oracle["rows"]
    assert tape.findings.get("times_back", 0) == oracle["times_going_backwards"]
    assert tape.findings.get("crossed_quotes", 0) == oracle["rows_with_ask_below_bid"]
    held = {"B": 0, "S": 0}
    after: dict[int, tuple[int, int]] = {}  # ms -> bid, ask, in ticks
    for i, _, (_, side, price, size) in Quotes(tape).messages():
        held[side] = price if size else 0
        after[milliseconds(tape, i)] = held["B"], held["S"]
    now = (0, 0)
    for ms, prices in {int(ms): (Decimal(bid), Decimal(ask)) for ms, bid, ask in rows}.items():
        now = after.get(ms, now)
        assert (now[0] * tick, now[1] * tick) == prices
    bids = [Decimal(bid) for _, bid, _ in rows]
    total, lowest, highest = sum(bids, Decimal(0)), min(bids), max(Decimal(ask) for _, _, ask in rows)
    assert (f"{lowest:f}", f"{highest:f}") == (oracle["min_bid"], oracle["max_ask"])
    assert f"{total:f}" == oracle["sum_of_bids"]
    assert [oracle["first"], oracle["last"]] == [rows[0], rows[-1]]


@needs_data
def test_trades_and_quotes_of_one_symbol_play_together_as_one_instrument(tmp_path: Path) -> None:
    trades, quotes = min(
        (
            (trades, quotes)
            for trades in (DATA / "ticks").glob("equity_*_trade.csv.zst")
            if (quotes := trades.with_name(trades.name.replace("_trade", "_quote"))).is_file()
        ),
        key=lambda pair: pair[1].stat().st_size,
    )
    tape, alone = load_tape([trades, quotes]), [load_tape([trades]), load_tape([quotes])]
    assert len(tape.symbols) == 1
    assert "references_rewritten" not in tape.findings
    assert len(tape) == sum(map(len, alone))
    assert (np.diff(tape.time_ns) >= 0).all()
    assert set(tape.data[tape.offsets[:-1] + 4][tape.data[tape.offsets[:-1] + 2] != ord("S")]) == {1}
    loads_as_instruments(tape, tmp_path)
