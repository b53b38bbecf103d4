"""Codecs of crypto venues: rules of each exchange, message by message, and damage of every kind."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tickpath.common.crypto.binance import BinanceCoinFutures, BinanceFutures, BinanceSpot
from tickpath.common.crypto.bybit import Bybit
from tickpath.common.crypto.codec import Ask, Codec, Wish
from tickpath.common.crypto.coinbase import Coinbase
from tickpath.common.crypto.kraken import Kraken
from tickpath.common.crypto.market import ASK, BID, Level, Market, quote_of, short_names
from tickpath.common.crypto.venues import VENUES, recognise
from tickpath.common.kernels.book import Book, Result, apply_blocks
from tickpath.common.records import Side

DATA = Path(__file__).parents[4] / "shared" / "data"
FILES = {
    "binance": "binance/spot_btcusdt_20240808.tsjson.zst",
    "binance-usdm": "binance/usdm_btcusdt_20240808.tsjson.zst",
    "binance-coinm": "binance/cm_btcusd_perp_20240808.tsjson.zst",
    "kraken": "crypto_ws/kraken_v1_20210417.tsjson.zst",
    "coinbase": "crypto_ws/coinbase_advanced_20260809_BTC-USD.tsjson.zst",
    "bybit": "crypto_ws/bybit_v5_linear_20260809_BTCUSDT_SOLUSDT.tsjson.zst",
}


def text(message: Any) -> bytes:
    return json.dumps(message).encode()


def level(price: str, qty: str) -> Level:
    return Level(Decimal(price), Decimal(qty))


def bests(codec: Codec, number: int = 0) -> tuple[Level | None, Level | None]:
    return codec.market.best(number)


def told(market: Market, number: int = 0) -> Book:
    """The book that the messages of a market make; every one must fit."""
    book = Book.create(len(market.names), 1 << 14, 4096)
    for row in range(len(market.names)):
        book.locate[row + 1] = row
    batch = market.take()
    if batch is not None:
        apply_blocks(book, batch.data, 0, len(batch.time_ns))
        assert set(book.results()) == {Result.OK}
    return book


def telling(tick: str = "0.01", lot: str = "0.001", window: int = 1000) -> Market:
    return Market(lambda market, number: market.tell(number, Decimal(tick), Decimal(lot), window))


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('"61737.63000000"', "61737.63"),
        ('"0.00000001"', "0.00000001"),
        ('"7"', "7"),
        ("45283.50", "45283.5"),
        ("1e-8", "0.00000001"),
        ("1.5E3", "1500"),
        ('"92233720368.5"', "92233720368.5"),
        ('"0.000000000001"', "0.000000000001"),
    ],
)
def test_prices_are_exact(written: str, value: str) -> None:
    """Whatever the form of the number, no digit is lost and none is invented."""
    market = Market()
    number = market.add("X")
    assert market.update(number, f"[[{written},{written}]]".encode(), b"") == 1
    assert market.side(number, BID) == [level(value, value)]
    assert market.counts()["digits_cut"] == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.decimals("0.00000001", 9_999_999, places=8), st.decimals("0.00000001", 9_999_999, places=8)),
        min_size=1,
        max_size=12,
        unique_by=lambda pair: pair[0],
    )
)
def test_any_decimals_keep_their_value_when_the_scale_grows(pairs: list[tuple[Decimal, Decimal]]) -> None:
    """Levels that need more decimals than those before change nothing of the others."""
    market = Market()
    number = market.add("X")
    for price, qty in pairs:
        assert market.update(number, f'[["{price:f}","{qty:f}"]]'.encode(), b"") == 1
    assert market.side(number, BID) == [Level(*pair) for pair in sorted(pairs, reverse=True)]


@pytest.mark.parametrize(
    "written",
    ['"-1"', '"1.2.3"', '"1,5"', '""', '"."', '"1."', "nan", "null", '"1e"', "[1]", '"1', "-1", '"0x10"', '"\u0661"'],
)
def test_what_is_no_decimal_is_refused_as_a_whole(written: str) -> None:
    """A message with one wrong number changes nothing."""
    market = Market()
    number = market.add("X")
    market.update(number, b'[["1","1"]]', b"")
    assert market.update(number, f'[["2","5"],[{written},"1"]]'.encode(), b"") == -1
    assert market.update(number, f'[["2","5"],["3",{written}]]'.encode(), b"") == -1
    assert market.side(number, BID) == [level("1", "1")]


def test_more_digits_than_there_is_room_for_are_counted() -> None:
    """The largest number there is stands for what is larger still."""
    market = Market()
    number = market.add("X")
    assert market.update(number, b'[["1","123456789012345678901234"],["2","0.0000000000001"]]', b"") == 2
    assert market.counts()["digits_cut"] > 0
    assert market.side(number, BID)[-1].qty == Decimal(10**18 - 1)


# --- what is told ------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_what_is_told_is_the_best_of_the_book(data: st.DataObject) -> None:
    """Any batches of changes: the told book is the window of a plain dictionary, and never crossed on the way."""
    window = data.draw(st.integers(1, 6))
    limit = data.draw(st.sampled_from([0, 4, 8]))
    market = telling("1", "1", window)
    number = market.add("X")
    market.limit(number, limit)
    sides: tuple[dict[int, int], dict[int, int]] = ({}, {})
    entry = st.tuples(st.integers(1, 40), st.integers(0, 5))
    for _ in range(data.draw(st.integers(1, 12))):
        middle = data.draw(st.integers(10, 90))
        batch = [
            [(middle - price, qty) for price, qty in data.draw(st.lists(entry, max_size=6)) if price < middle],
            [(middle + price, qty) for price, qty in data.draw(st.lists(entry, max_size=6))],
        ]
        # Levels that the other side now passes go first, as at a venue.
        batch[BID] = [(p, 0) for p in sides[BID] if p >= middle] + batch[BID]
        batch[ASK] = [(p, 0) for p in sides[ASK] if p <= middle] + batch[ASK]
        snapshot = data.draw(st.integers(0, 5)) == 0
        for side, levels in zip(sides, batch, strict=True):
            if snapshot:
                side.clear()
            for price, qty in reversed(levels) if snapshot else levels:
                if snapshot and price in side:
                    continue
                side.pop(price, None)
                if qty:
                    side[price] = qty
        encoded = [text([[str(p), str(q)] for p, q in levels]) for levels in batch]
        assert market.update(number, *encoded, snapshot=snapshot) == sum(map(len, batch))
        for side, best in ((BID, max), (ASK, min)):
            while limit and len(sides[side]) > limit:
                worst = (min if best is max else max)(sides[side])
                del sides[side][worst]
    assert market.counts()["crossed"] == 0
    expected = [sorted(sides[BID].items(), reverse=True), sorted(sides[ASK].items())]
    for side in (BID, ASK):
        assert [(int(p), int(q)) for p, q in market.side(number, side)] == expected[side]
    book = told(market)
    assert book.stats[3 + 0] >= 0
    for side, name in ((BID, Side.BUY), (ASK, Side.SELL)):
        rows = [(int(row["price_ticks"]), int(row["lots"])) for row in book.side(0, name)]
        assert rows == expected[side][:window]
    assert book.results() == {Result.OK: sum(book.message_counts().values())}


def test_a_batch_that_moves_the_market_never_crosses_the_told_book() -> None:
    """Bids come before asks in the text, but what goes is told before what comes."""
    market = telling()
    number = market.add("X")
    market.update(number, b'[["10.00","1"]]', b'[["10.01","1"]]', snapshot=True)
    market.update(number, b'[["10.02","1"]]', b'[["10.01","0"],["10.03","2"]]')
    book = told(market)
    assert book.stats[4] == 0, "adds that crossed the book"
    assert book.bbo(0) == (1002, 1000, 1003, 2000)


def test_what_does_not_fit_itch_is_left_out_or_cut_and_counted() -> None:
    """Absurd prices are not shown, absurd quantities are the most there is, small ones at least one lot."""
    market = telling("0.01", "1")
    number = market.add("X")
    market.update(number, b'[["10.00","0.2"]]', b'[["10.01","99999999999"],["99999999999.00","1"]]')
    book = told(market)
    assert book.bbo(0) == (1000, 1, 1001, 2**31 - 1)
    assert len(book.side(0, Side.SELL)) == 1
    counts = market.counts()
    assert (counts["prices_hidden"], counts["quantities_cut"], counts["quantities_rounded"]) == (1, 1, 1)


def test_short_names_are_short_and_different() -> None:
    """The rule of docs/crypto.md, and what happens where it gives the same name twice."""
    names = ["BTCUSDT", "BTCUSD_PERP", "1000PEPEUSDT", "OCEAN/XBT", "BTC-USD", "DOGEUSD_PERP", "1000000MOGUSDT"]
    short = short_names(names)
    assert [short[name] for name in names[:6]] == [
        "BTCUSDT", "BTC_PERP", "1000PEPE", "OCEANXBT", "BTC-USD", "DOGEPERP",
    ]  # fmt: skip
    many = short_names(f"{i}VERYLONGNAMEUSDT" for i in range(500))
    assert len(set(many.values())) == 500
    assert all(1 <= len(one) <= 8 for one in [*short.values(), *many.values()])
    assert short_names(["BTCUSDT"], {"BTCUSDT"})["BTCUSDT"] != "BTCUSDT"
    assert [quote_of(name) for name in names] == ["USDT", "USD", "USDT", "XBT", "USD", "USD", "USDT"]


# --- Binance -----------------------------------------------------------------------------------------------------


def diff(first: int, last: int, *, bids: Any = (), asks: Any = (), pu: int | None = None) -> bytes:
    event = {"e": "depthUpdate", "E": 1, "s": "BTCUSDT", "U": first, "u": last, "b": bids, "a": asks}
    return text(event | ({} if pu is None else {"pu": pu}))


def depth(last: int, bid: str = "10", ask: str = "11") -> bytes:
    return text({"lastUpdateId": last, "bids": [[bid, "1"]], "asks": [[ask, "1"]]})


def test_binance_spot_drops_what_the_snapshot_has_and_goes_on_from_there() -> None:
    """u <= lastUpdateId is dropped, the first must reach around it, then U is u + 1."""
    codec = BinanceSpot(Market(), ["BTCUSDT"])
    codec.receive(diff(1, 5, bids=[["9", "7"]]))
    assert codec.wishes == [Wish(Ask.SNAPSHOT, "BTCUSDT")]
    codec.receive(diff(6, 8, bids=[["10", "2"]]))
    assert not codec.ready()
    codec.snapshot("BTCUSDT", depth(6))
    assert codec.ready()
    assert bests(codec) == (level("10", "2"), level("11", "1"))
    codec.receive(diff(9, 9, asks=[["11", "0"], ["12", "3"]]))
    assert bests(codec)[1] == level("12", "3")
    codec.receive(diff(2, 9, asks=[["1", "1"]]))
    assert bests(codec)[1] == level("12", "3")
    assert dict(codec.faults) == {"before_snapshot": 1, "old": 1}


def test_binance_spot_asks_again_for_a_snapshot_that_is_too_old() -> None:
    """The snapshot ends before the first difference that was kept."""
    codec = BinanceSpot(Market(), ["BTCUSDT"])
    codec.receive(diff(10, 12))
    codec.wishes.clear()
    codec.snapshot("BTCUSDT", depth(8))
    assert codec.wishes == [Wish(Ask.SNAPSHOT, "BTCUSDT")]
    assert bests(codec) == (None, None)
    codec.snapshot("BTCUSDT", depth(12))
    assert codec.ready()


@pytest.mark.parametrize("venue", [BinanceSpot, BinanceFutures])
def test_binance_throws_the_book_away_at_a_gap(venue: type[BinanceSpot]) -> None:
    """The lost difference is noticed at the next one; the book is empty until a new snapshot."""
    codec = venue(telling(), ["BTCUSDT"])
    codec.receive(diff(1, 5, pu=0))
    codec.snapshot("BTCUSDT", depth(4))
    codec.receive(diff(6, 8, pu=5))
    codec.receive(diff(12, 13, pu=11, bids=[["10", "9"]]))
    assert codec.faults["gaps"] == codec.faults["resyncs"] == 1
    assert bests(codec) == (None, None)
    assert told(codec.market).live_orders == 0
    codec.snapshot("BTCUSDT", depth(12))
    assert bests(codec)[0] == level("10", "9")


def test_binance_futures_follow_pu_and_not_u() -> None:
    """U may jump on futures; only pu tells a gap."""
    codec = BinanceFutures(Market(), ["BTCUSDT"])
    codec.receive(diff(1, 5, pu=0))
    codec.snapshot("BTCUSDT", depth(5))
    codec.receive(diff(20, 30, pu=5, bids=[["10", "3"]]))
    assert bests(codec)[0] == level("10", "3")
    codec.receive(diff(31, 32, pu=29))
    assert codec.faults["gaps"] == 1


def test_binance_knows_answers_shutdowns_and_strangers() -> None:
    """Nothing of it touches a book."""
    codec = BinanceSpot(Market(), ["BTCUSDT"])
    codec.receive(b'{"result":null,"id":1}')
    codec.receive(b'{"u":400900217,"s":"BTCUSDT","b":"25.3","B":"31.2","a":"25.4","A":"40.6"}')
    codec.receive(b'{"e":"kline","s":"BTCUSDT"}')
    codec.receive(b'{"e":"trade","s":"ETHUSDT","t":1,"p":"1","q":"1","m":true}')
    codec.receive(b'{"error":{"code":2,"msg":"no"},"id":1}')
    codec.receive(b'{"e":"serverShutdown","E":1}')
    assert dict(codec.counts) == {"answers": 1, "bookTicker": 1, "trade": 1, "serverShutdown": 1}
    assert dict(codec.faults) == {"unknown": 1, "foreign": 1, "refused": 1}
    assert codec.wishes == [Wish(Ask.RECONNECT)]


# --- Kraken ------------------------------------------------------------------------------------------------------

_ASKS = """45285.2 0.00100000, 45286.4 1.54571953, 45286.6 1.54571109, 45289.6 1.54560911, 45290.2 0.15890660,
45291.8 1.54553491, 45294.7 0.04454749, 45296.1 0.35380000, 45297.5 0.09945542, 45299.5 0.18772827"""
_BIDS = """45283.5 0.10000000, 45283.4 1.54582015, 45282.1 0.10000000, 45281.0 0.10000000, 45280.3 1.54592586,
45279.0 0.07990000, 45277.6 0.03310103, 45277.5 0.30000000, 45277.3 1.54602737, 45276.6 0.15445238"""


def kraken_book(kind: str, bids: str, asks: str, checksum: int) -> bytes:
    """Numbers as JSON numbers, with their zeros."""

    def side(levels: str) -> str:
        pairs = [pair.split() for pair in levels.split(",") if pair.strip()]
        return ",".join(f'{{"price":{price},"qty":{qty}}}' for price, qty in pairs)

    return (
        f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"BTC/USD","bids":[{side(bids)}],'
        f'"asks":[{side(asks)}],"checksum":{checksum},"timestamp":"2023-10-06T17:35:55.440295Z"}}]}}'
    ).encode()


def test_the_checksum_example_of_kraken() -> None:
    """The exchange's own vector, with version 2's numbers that keep their zeros."""
    codec = Kraken(Market(), ["BTC/USD"], depth=10)
    codec.receive(kraken_book("snapshot", _BIDS, _ASKS, 3310070434))
    assert codec.checksums == 1
    assert codec.ready()
    assert not codec.wishes


def test_a_wrong_checksum_of_kraken_empties_the_book_and_subscribes_again() -> None:
    """And changes are refused until the new snapshot is there."""
    codec = Kraken(telling("0.1", "0.00000001"), ["BTC/USD"], depth=10)
    codec.receive(kraken_book("snapshot", _BIDS, _ASKS, 3310070434))
    codec.receive(kraken_book("update", "45283.5 0.2", "", 3310070434))
    assert codec.faults["checksums_wrong"] == 1
    assert codec.wishes == [Wish(Ask.RESUBSCRIBE, "BTC/USD")]
    assert told(codec.market).live_orders == 0
    codec.receive(kraken_book("update", "45283.5 0.10000000", "", 3310070434))
    assert codec.market.depth(0) == (0, 0)
    codec.receive(kraken_book("snapshot", _BIDS, _ASKS, 3310070434))
    assert codec.ready()


def test_kraken_keeps_the_best_levels_only() -> None:
    """No removal is sent for what is pushed out."""
    codec = Kraken(Market(), ["BTC/USD"], depth=10)
    codec.receive(kraken_book("snapshot", _BIDS, _ASKS, 3310070434))
    codec.receive(kraken_book("update", "45284.0 0.50000000", "", -1))
    assert codec.market.depth(0) == (10, 10)
    assert codec.market.side(0, BID)[-1] == level("45277.3", "1.54602737")


def test_kraken_v2_trades_and_talk() -> None:
    """Trades with their taker's side; heartbeats, status and answers are counted."""
    codec = Kraken(telling("0.1", "0.00000001"), ["BTC/USD"])
    trade = {"symbol": "BTC/USD", "side": "buy", "price": 5.5, "qty": 0.25, "ord_type": "limit", "trade_id": 7}
    codec.receive(text({"channel": "trade", "type": "update", "data": [trade]}))
    codec.receive(b'{"channel":"heartbeat"}')
    codec.receive(b'{"channel":"status","type":"update","data":[{"system":"online"}]}')
    codec.receive(b'{"method":"subscribe","result":{},"success":true}')
    codec.receive(b'{"method":"subscribe","error":"Currency pair not supported","success":false}')
    codec.receive(b'{"channel":"nonsense"}')
    assert dict(codec.counts) == {"trade": 1, "heartbeat": 1, "status": 1, "answers": 2}
    assert dict(codec.faults) == {"refused": 1, "unknown": 1}
    assert told(codec.market).message_counts()["P"] == 1


# --- Coinbase and Bybit ------------------------------------------------------------------------------------------


def coinbase(sequence: int, kind: str, *levels: tuple[str, str, str]) -> bytes:
    updates = [{"side": s, "event_time": "", "price_level": p, "new_quantity": q} for s, p, q in levels]
    event = {"type": kind, "product_id": "BTC-USD", "updates": updates}
    return text({"channel": "l2_data", "client_id": "", "timestamp": "", "sequence_num": sequence, "events": [event]})


def test_coinbase_wants_a_new_connection_at_a_jump_in_the_sequence() -> None:
    """Nobody knows which product the lost message was of."""
    codec = Coinbase(Market(), ["BTC-USD"])
    codec.receive(coinbase(0, "snapshot", ("bid", "9", "1"), ("offer", "10", "1")))
    codec.receive(coinbase(1, "update", ("bid", "9", "0"), ("bid", "8.5", "2")))
    assert bests(codec) == (level("8.5", "2"), level("10", "1"))
    codec.receive(coinbase(3, "update", ("bid", "9", "5")))
    assert bests(codec) == (None, None)
    assert codec.wishes == [Wish(Ask.RECONNECT)]
    codec.disconnected()
    codec.receive(coinbase(0, "snapshot", ("bid", "9", "1"), ("offer", "10", "1")))
    assert codec.ready()


def bybit(kind: str, u: int, bids: Any, asks: Any) -> bytes:
    data = {"s": "BTCUSDT", "b": bids, "a": asks, "u": u, "seq": 1}
    return text({"topic": "orderbook.200.BTCUSDT", "type": kind, "ts": 1, "data": data})


def test_bybit_counts_on_and_begins_anew_with_any_snapshot() -> None:
    """u + 1 each; after a jump the book is subscribed to again; u = 1 is a restart of the exchange."""
    codec = Bybit(Market(), ["BTCUSDT"])
    codec.receive(bybit("delta", 4, [["9", "1"]], []))
    assert codec.faults["without_snapshot"] == 1
    codec.receive(bybit("snapshot", 5, [["9", "1"]], [["10", "1"]]))
    codec.receive(bybit("delta", 6, [["9", "0"], ["8", "1"]], []))
    codec.receive(bybit("snapshot", 1, [["7", "1"]], [["8", "1"]]))
    codec.receive(bybit("delta", 2, [["7.5", "1"]], []))
    assert bests(codec) == (level("7.5", "1"), level("8", "1"))
    codec.wishes.clear()
    codec.receive(bybit("delta", 4, [["7.6", "1"]], []))
    assert codec.faults["gaps"] == 1
    assert codec.wishes == [Wish(Ask.RESUBSCRIBE, "BTCUSDT")]
    assert bests(codec) == (None, None)


# --- recordings, and damage --------------------------------------------------------------------------------------


def frames_of(venue: str, n: int) -> list[bytes]:
    """The first frames of a recording, without its times."""
    path = DATA / FILES[venue]
    if not path.is_file():
        pytest.skip(f"no recorded market data: {path}")
    with path.open("rb") as file:
        lines = zstandard.ZstdDecompressor().stream_reader(file).read().splitlines()
    return [line.partition(b" ")[2] for line in lines[:n]]


@pytest.mark.parametrize("venue", FILES)
def test_a_recording_says_which_venue_it_is_of(venue: str) -> None:
    """By its frames, not by its name."""
    assert recognise(frames_of(venue, 2000)) == venue
    assert recognise([b"{}", b"[", b"7", b'"x"']) is None


def codec_of(venue: str, market: Market) -> Codec:
    return VENUES[venue].codec(market, recorded=True)


def consistent(codec: Codec) -> None:
    """A book is sorted, positive, and what was told of it is its best part."""
    market = codec.market
    assert all(wish.ask in Ask for wish in codec.wishes)
    batch = market.take()
    book = Book.create(max(1, len(market.names)), 1 << 15, 4096)
    for row in range(len(market.names)):
        book.locate[row + 1] = row
    if batch is not None:
        apply_blocks(book, batch.data, 0, len(batch.time_ns))
        assert set(book.results()) == {Result.OK}
    for number in range(len(market.names)):
        for side, name in ((BID, Side.BUY), (ASK, Side.SELL)):
            levels = market.side(number, side)
            prices = [one.price for one in levels]
            assert prices == sorted(set(prices), reverse=side == BID)
            assert all(one.qty > 0 for one in levels)
            shown = [int(row["lots"]) for row in book.side(number, name)]
            assert len(shown) <= 1000
            assert sum(1 for _ in levels[:1000]) >= len(shown)


def spoil(frame: bytes, chance: random.Random) -> bytes:
    """A frame with one thing wrong."""
    what = chance.randrange(5)
    if not frame or what == 0:
        return bytes(chance.randrange(256) for _ in range(chance.randrange(200)))
    at = chance.randrange(len(frame))
    if what == 1:
        return frame[:at]
    if what == 2:
        return frame[:at] + bytes([frame[at] ^ 1 << chance.randrange(8)]) + frame[at + 1 :]
    if what == 3:
        return frame[:at] + frame[chance.randrange(len(frame)) :]
    return frame[:at] + chance.choice([b"[", b"]", b'"', b"null", b"-1", b"{}", b"1e999", b"\\u0000"]) + frame[at:]


@pytest.mark.parametrize("venue", FILES)
def test_spoiled_frames_never_crash_a_codec_nor_break_a_book(venue: str) -> None:
    """Truncations, bit flips, cuts and insertions in one frame of ten, over many seeds."""
    frames = frames_of(venue, 400)
    for seed in range(3):
        chance = random.Random(seed)
        codec = codec_of(venue, telling("0.00000001", "0.00000001", 50))
        for frame in frames:
            codec.receive(spoil(frame, chance) if chance.random() < 0.1 else frame)
        assert sum(codec.faults.values()) > 0
        consistent(codec)


@pytest.mark.parametrize("venue", FILES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.one_of(st.binary(max_size=300), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["e", "s", "U", "u", "pu", "b", "a", "data", "stream", "channel", "type", "events", "topic",
                         "lastUpdateId", "bids", "asks", "sequence_num", "symbol", "checksum", "as", "bs", "c"]),
        inner, max_size=6),
    max_leaves=20,
).map(msgspec.json.encode)))  # fmt: skip
def test_any_bytes_and_any_json_are_survived(venue: str, junk: bytes) -> None:
    """Nothing raises; without a fault or a count nothing happened."""
    codec = codec_of(venue, Market())
    codec.receive(junk)
    codec.snapshot("BTCUSDT", junk) if venue.startswith("binance") else None
    codec.disconnected()
    assert all(count >= 0 for count in codec.faults.values())


@pytest.mark.parametrize("venue", ["binance", "binance-usdm", "binance-coinm", "kraken", "bybit"])
def test_a_change_that_is_lost_is_noticed(venue: str) -> None:
    """Whichever book change is left out: a gap or a wrong checksum is counted."""
    marks: dict[str, Callable[[bytes], bool]] = {
        "kraken": lambda frame: b'"c":' in frame,
        "bybit": lambda frame: b"orderbook" in frame and b"delta" in frame,
    }
    frames = frames_of(venue, 1200)
    is_change = marks.get(venue, lambda frame: b"depthUpdate" in frame)
    changes = [i for i, frame in enumerate(frames) if is_change(frame)]
    # Of Kraken only what its checksum sees: a change at the best of a book that has more changes after it.
    whole = codec_of(venue, Market())
    for frame in frames:
        whole.receive(frame)
    for lost in changes[60:-60:40] if venue != "kraken" else _seen_by_checksum(frames, changes):
        codec = codec_of(venue, Market())
        for i, frame in enumerate(frames):
            if i != lost:
                codec.receive(frame)
        noticed = codec.faults["gaps"] + codec.faults["checksums_wrong"] > 0
        # The next change may set the same level again: then nothing is lost.
        assert noticed or (
            venue == "kraken" and all(_top(codec, name) == _top(whole, name) for name in whole.market.names)
        )


def _seen_by_checksum(frames: list[bytes], changes: list[int]) -> Iterator[int]:
    codec = codec_of("kraken", Market())
    found = 0
    for i, frame in enumerate(frames):
        before = {name: zlib.crc32(repr(_top(codec, name)).encode()) for name in codec.market.names}
        codec.receive(frame)
        if i in changes:
            pair = json.loads(frame)[-1]
            later = sum(1 for j in changes if j > i and json.loads(frames[j])[-1] == pair)
            if zlib.crc32(repr(_top(codec, pair)).encode()) != before.get(pair) and later > 0 and found < 10:
                found += 1
                yield i
    assert found > 0


def _top(codec: Codec, name: str) -> list[list[Level]]:
    number = codec.market.add(name)
    return [codec.market.side(number, side, 10) for side in (BID, ASK)]


def test_coin_futures_are_futures() -> None:
    """The same rules, another path."""
    assert issubclass(BinanceCoinFutures, BinanceFutures)
    assert BinanceCoinFutures(Market(), ["BTCUSD_PERP"]).snapshot_path("BTCUSD_PERP").startswith("/dapi/")
