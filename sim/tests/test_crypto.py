"""Recordings of crypto venues against the facts that come with them, exactly: frames, trades, books, and the tape."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickpath.common.crypto.binance import BinanceSpot
from tickpath.common.crypto.codec import Codec
from tickpath.common.crypto.kraken import Kraken
from tickpath.common.crypto.market import ASK, BID, Level, Market
from tickpath.common.kernels.book import Book, Result, apply_blocks
from tickpath.common.records import MAX_QTY_LOTS, Side
from tickpath.sim.sources.crypto import Recording, find_terms, read_recording
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import FINDINGS, DataFileError, Tape, write_instruments

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def recorded(*patterns: str) -> Any:
    """Parametrize by the recordings that have an oracle; one skipped test where there are none."""
    files = [
        path
        for pattern in patterns
        for path in sorted(DATA.glob(pattern))
        if path.with_name(path.name + ".oracle.json").is_file()
    ]
    missing = [pytest.param(None, marks=pytest.mark.skip(reason=f"no recorded market data: {DATA}"))]
    return pytest.mark.parametrize("path", files or missing, ids=lambda path: path.name if path else "none")


BINANCE = "binance/*.tsjson*"
OTHERS = "crypto_ws/*.tsjson*"


def oracle_of(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.with_name(path.name + ".oracle.json").read_text())
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), "the oracle is of another file"
    return facts


def in_order(path: Path) -> list[Path]:
    """The file, behind the one of the day before where its book begins there."""
    facts = oracle_of(path)
    if "previous file" not in facts.get("book", {}).get("start", ""):
        return [path]
    stem, _, _ = path.name.partition("_2")
    before = [other for other in sorted(path.parent.glob(f"{stem}_2*.tsjson*")) if other.suffix != ".json"]
    earlier = [other for other in before if other.name < path.name and not other.name.endswith(".json")]
    assert earlier, f"{path.name} goes on with a file that is not here"
    return [*in_order(earlier[-1]), path]


class Trade:
    """One trade as the venue wrote it."""

    def __init__(self, price: str, qty: str, side: int, trade_id: str | int, at: str | int) -> None:
        self.price, self.qty, self.side, self.trade_id, self.at = price, qty, side, trade_id, at


class Seen(Market):
    """A market that also keeps the trades."""

    def __init__(self) -> None:
        super().__init__()
        self.trades: dict[str, list[Trade]] = {}

    def trade_at(
        self, number: int, side: int, left: int, left_end: int, right: int, right_end: int,
        trade_id: str | int, at: str | int,
    ) -> bool:  # fmt: skip
        price, qty = (
            bytes(self.text[begin:end]).decode().strip('"') for begin, end in ((left, left_end), (right, right_end))
        )
        self.trades.setdefault(self.names[number], []).append(Trade(price, qty, side, trade_id, at))
        return super().trade_at(number, side, left, left_end, right, right_end, trade_id, at)


def decimal_level(price: str, qty: str) -> Level:
    return Level(Decimal(price), Decimal(qty))


def totals(trades: list[Trade]) -> tuple[Decimal, Decimal]:
    """Quantity and price x quantity."""
    return (
        sum((Decimal(one.qty) for one in trades), Decimal(0)),
        sum((Decimal(one.price) * Decimal(one.qty) for one in trades), Decimal(0)),
    )


def play(recording: Recording, first: int = 0) -> tuple[Seen, Codec]:
    """A recording through its codec; the counts are those of the frames from `first` on."""
    market = Seen()
    codec = recording.codec(market)
    for i, frame in enumerate(recording.frames):
        if i == first:
            codec.counts.clear()
            market.trades.clear()
        codec.receive(frame)
    return market, codec


@recorded(BINANCE)
def test_binance_recordings_are_what_their_oracle_says(path: Path) -> None:
    """Frames by stream, trades, gaps, final book, checkpoints, and the exchange's own best after each diff."""
    facts = oracle_of(path)
    files = in_order(path)
    recording = read_recording(files)
    first = len(recording.frames) - facts["lines"]
    market = Seen()
    codec = recording.codec(market)
    assert isinstance(codec, BinanceSpot)
    name = ""
    after: list[tuple[int, tuple[Level | None, Level | None]]] = []  # last u -> best, after each diff of this file
    tickers: dict[int, tuple[Level, Level]] = {}
    before = 0
    for i, frame in enumerate(recording.frames):
        if i == first:
            codec.counts.clear()
            market.trades.clear()
            before = codec.faults["before_snapshot"]
        if b"@bookTicker" in frame[:60]:
            event = json.loads(frame)["data"]
            tickers[event["u"]] = (decimal_level(event["b"], event["B"]), decimal_level(event["a"], event["A"]))
        u = codec.last_u(name) if name else -1
        codec.receive(frame)
        name = name or (market.names[0] if market.names else "")
        if i >= first and name and codec.last_u(name) != u and b"depthUpdate" in frame[:120]:
            after.append((codec.last_u(name), market.best(0)))
    skipped = codec.faults["before_snapshot"] - before
    assert codec.counts == Counter(facts["count_by_stream"])
    trades = market.trades[name]
    assert len(trades) == facts["trades"]
    assert codec.faults["trade_gaps"] == facts["trade_id_gaps"]
    assert totals(trades) == (
        Decimal(facts["traded_qty"]),
        Decimal(facts["traded_quote_or_contracts_x_price"]),
    )
    assert sum(one.side == BID for one in trades) == facts["trades_buyer_is_maker"]
    for one, key in ((trades[0], "first_trade"), (trades[-1], "last_trade")):
        found = {
            "id": one.trade_id,
            "price": one.price,
            "qty": one.qty,
            "T": one.at,
            "buyer_is_maker": one.side == BID,
        }
        assert found == facts[key]
    assert codec.faults["gaps"] == facts["depth_sequence_gaps"]
    book = facts["book"]
    assert skipped == book["depth_events_before_the_snapshot_skipped"]
    assert codec.last_u(name) == book["last_u"]
    final = (
        decimal_level(book["final_best_bid"], book["final_best_bid_qty"]),
        decimal_level(book["final_best_ask"], book["final_best_ask_qty"]),
    )
    assert market.best(0) == final
    assert market.depth(0) == (book["bid_levels"], book["ask_levels"])
    assert (market.counts()["crossed"] > 0) == book["crossed"]
    by_u = dict(after)
    for point in book["checkpoints"]:
        best = by_u[point["u"]]
        assert best == (decimal_level(point["bid"], point["bid_qty"]), decimal_level(point["ask"], point["ask_qty"]))
    ids = sorted(tickers)
    compared = equal = 0
    for last_u, best in after:
        at = bisect_right(ids, last_u)
        if at:
            compared += 1
            equal += best == tickers[ids[at - 1]]
    check = book["check_against_bookTicker"]
    assert compared > 0
    # Where the file's oracle has rows that differ, the exchange sent the new best a moment later.
    assert compared - equal == check["compared"] - check["prices_and_sizes_equal"]
    tape = load_tape(files)
    n_trades = sum(oracle_of(file)["trades"] for file in files)
    check_tape(tape, market, find_terms(recording), n_trades)


def check_tape(tape: Tape, market: Seen, terms: dict[str, Any], n_trades: int) -> None:
    """The tape, applied to a book, ends with the best levels of the market, and has every trade."""
    book = Book.create(len(tape.symbols), 1 << 15, 2048)
    for row, locate in enumerate(tape.symbols.values()):
        book.locate[locate] = row
    apply_blocks(book, tape.data, 0, len(tape))
    assert set(book.results()) == {Result.OK}
    assert book.message_counts() == tape.counts
    assert set(tape.findings) <= set(FINDINGS)
    assert (tape.time_ns[1:] >= tape.time_ns[:-1]).all()
    for number, name in enumerate(market.names):
        unit = terms[name]
        tick, lot = Decimal(unit.tick_size), Decimal(unit.lot_size)
        for side, of in ((BID, Side.BUY), (ASK, Side.SELL)):
            exact = market.side(number, side, 1000)
            rows = book.side(number, of)
            if len(rows) < len(exact):  # levels whose price ITCH cannot carry are the worst ones
                exact = exact[: len(rows)]
                assert tape.findings["ws_prices_hidden"] > 0
            for row, level in zip(rows, exact, strict=True):
                assert int(row["price_ticks"]) * tick == level.price
                lots = int(row["lots"])
                assert abs(lots * lot - level.qty) <= lot / 2 or lots in (1, MAX_QTY_LOTS)
    assert tape.counts.get("P", 0) == n_trades


@recorded(OTHERS)
def test_other_recordings_are_what_their_oracle_says(path: Path) -> None:
    """Frames by channel, gaps, checksums, trades and the final book of each symbol."""
    facts = oracle_of(path)
    recording = read_recording([path])
    assert len(recording.frames) == facts["lines"]
    market, codec = play(recording)
    key = next(one for one in ("count_by_topic", "count_by_channel_and_event", "count_by_channel") if one in facts)
    assert codec.counts == Counter(facts[key])
    gaps = facts.get("orderbook_u_gaps", facts.get("sequence_gaps", 0))
    assert codec.faults["gaps"] == gaps
    for harmless in ("malformed", "unknown", "foreign", "refused", "resyncs", "without_snapshot"):
        assert codec.faults[harmless] == 0
    if isinstance(codec, Kraken):
        assert codec.checksums == facts["checksums_verified"]
        assert codec.faults["checksums_wrong"] == facts["checksums_not_equal"] == 0
    for name, symbol in facts["per_symbol"].items():
        number = market.numbers[name]
        final = symbol["final_book"]
        assert market.best(number) == (
            decimal_level(final["best_bid"], final["best_bid_qty"]),
            decimal_level(final["best_ask"], final["best_ask_qty"]),
        )
        assert market.depth(number) == (final["bid_levels"], final["ask_levels"])
        trades = market.trades.get(name, [])
        assert len(trades) == symbol.get("trades", symbol.get("trades_after_the_trade_snapshot"))
        if not trades:
            continue
        assert totals(trades)[0] == Decimal(symbol["traded_qty"])
        if "taker_buys" in symbol:
            assert sum(one.side == ASK for one in trades) == symbol["taker_buys"]
        if "lowest_trade_id" in symbol:
            ids = [int(one.trade_id) for one in trades]
            assert (min(ids), max(ids), len(set(ids))) == (
                symbol["lowest_trade_id"], symbol["highest_trade_id"], symbol["distinct_trade_ids"],
            )  # fmt: skip
        for one, which in ((trades[0], "first_trade"), (trades[-1], "last_trade")):
            if which in symbol:
                told = symbol[which]
                assert one.price == told.get("price", told.get("p"))
                assert one.qty == told.get("qty", told.get("v"))
                assert one.at == told.get("time", told.get("T"))
    check_tape(load_tape([path]), market, find_terms(recording), sum(map(len, market.trades.values())))


@recorded(BINANCE, OTHERS)
def test_instruments_can_be_written_for_every_recording(path: Path, tmp_path: Path) -> None:
    """All units fit the instrument table."""
    recording = read_recording([path])
    terms = find_terms(recording._replace(times_ns=recording.times_ns[:3000], frames=recording.frames[:3000]))
    short = {name[:8]: one for name, one in terms.items()}
    nothing = np.zeros(0, np.int64)
    tape = Tape(nothing.astype(np.uint8), nothing, nothing, dict.fromkeys(short, 1), "", {}, terms=short)
    write_instruments(tape, tmp_path / "instruments.csv")
    assert len((tmp_path / "instruments.csv").read_text().splitlines()) == len(short) + 1


FRAME = (
    '{"topic":"orderbook.200.BTCUSDT","type":"snapshot","ts":1,"data":{"s":"BTCUSDT","b":[["9","1"]],'
    '"a":[["10","1"]],"u":1,"seq":1}}'
)


def test_bad_lines_are_counted_and_the_rest_is_played(tmp_path: Path) -> None:
    """A recording that was cut off in its last line, with rubbish in between."""
    file = tmp_path / "x.tsjson"
    file.write_text(f"1786310819526357000 {FRAME}\nnonsense\n\n12 {FRAME}\n1786310819526357001 {FRAME[:40]}")
    tape = load_tape([file])
    assert tape.counts == {"R": 1, "H": 1, "A": 2}
    assert tape.findings == {"ws_bad_lines": 3, "ws_malformed": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\nworld\n", "no line of it is a time"),
        ('1786310819526357000 {"a":1}\n', "are of none of"),
        ('1786310819526357000 {"topic":"tickers.X","type":"delta","data":{}}\n', "no book and no trade"),
    ],
)
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With its name, what is wrong, and what is allowed."""
    file = tmp_path / "x.tsjson"
    file.write_text(text)
    with pytest.raises(DataFileError, match=message):
        load_tape([file])


def test_recordings_of_two_venues_are_not_played_as_one(tmp_path: Path) -> None:
    """Their symbols may have the same names."""
    one, other = tmp_path / "a.tsjson", tmp_path / "b.tsjson"
    one.write_text(f"1786310819526357000 {FRAME}\n")
    other.write_text('1786310819526357000 {"e":"trade","s":"BTCUSDT","t":1,"p":"1","q":"1","T":1,"m":true}\n')
    with pytest.raises(DataFileError, match="one venue at a time"):
        load_tape([one, other])


def test_a_session_across_midnight_fits_into_a_day(tmp_path: Path) -> None:
    """By whole hours, so that times in a tape stay below 24 hours."""
    midnight = 1786233600 * 10**9 + 86_400 * 10**9
    file = tmp_path / "x.tsjson"
    later = FRAME.replace('"u":1', '"u":2')
    file.write_text(f"{midnight - 10**9} {FRAME}\n{midnight + 10**9} {later}\n")
    tape = load_tape([file])
    assert tape.findings == {"hours_shifted": 1}
    assert tape.duration_ns == 2 * 10**9
    assert tape.time_ns[-1] == 23 * 3600 * 10**9 + 10**9
