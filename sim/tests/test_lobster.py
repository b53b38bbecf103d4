"""LOBSTER re-encoded as ITCH: a plain order book of its messages must be the recorded one, row by row."""

from __future__ import annotations

import gzip
import hashlib
import json
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.kernels.book import ST_CROSSED, Book, Result, apply_blocks
from tickpath.common.protocols import itch50
from tickpath.sim.sources.kernels.lobster import SYNTHETIC
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.lobster import encode_lobster
from tickpath.sim.sources.tape import DataFileError, Tape

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "lobster"
AMZN = DATA / "AMZN_2012-06-21_34200000_57600000_message_5.csv.zst"
AAPL = DATA / "AAPL_2012-06-21_34200000_57600000_message_1.csv.zst"
AAPL_50 = DATA / "AAPL_2012-06-21_34200000_37800000_message_50.csv.zst"

FILES = sorted(path for path in DATA.glob("*_message_*.csv*") if path.with_name(path.name + ".oracle.json").is_file())
WITH_BOOK = [path for path in FILES if path.with_name(path.name.replace("_message_", "_orderbook_")).is_file()]

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded market data is not here: {DATA}")

NAME = "TEST_2012-06-21_34200000_57600000_message_2.csv"


def recorded(files: list[Path]) -> pytest.MarkDecorator:
    """Parametrize by files; one test, skipped by `needs_data`, where there are none."""
    return pytest.mark.parametrize("path", files or [Path("none")], ids=lambda path: path.name)


def uncompressed(path: Path) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()


def oracle_of(path: Path) -> dict[str, Any]:
    return dict(json.loads((path.parent / (path.name + ".oracle.json")).read_text()))


def orderbook_of(path: Path) -> Path:
    return path.with_name(path.name.replace("_message_", "_orderbook_"))


class PlainBook:
    """One symbol's orders as a dictionary; complains about references that do not resolve."""

    def __init__(self) -> None:
        self.orders: dict[int, list[int]] = {}  # ref -> [side, price, shares]
        self.levels: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.prices: tuple[list[int], list[int]] = ([], [])  # rising
        self.seen: set[int] = set()
        self.volume: Counter[str] = Counter()

    def apply(self, m: bytes) -> None:
        kind, ref = chr(m[0]), int.from_bytes(m[11:19], "big")
        if kind == "A":
            side, shares, price = (
                int(m[19:20] == b"S"),
                int.from_bytes(m[20:24], "big"),
                int.from_bytes(m[32:36], "big"),
            )
            assert ref not in self.orders
            assert shares > 0
            self.orders[ref] = [side, price, shares]
            if price not in self.levels[side]:
                insort(self.prices[side], price)
            self.levels[side][price] = self.levels[side].get(price, 0) + shares
        elif kind in "EXD":
            side, price, left = self.orders[ref]
            shares = left if kind == "D" else int.from_bytes(m[19:23], "big")
            assert 0 < shares <= left
            assert shares < left or kind != "X"
            self.orders[ref][2] -= shares
            self.levels[side][price] -= shares
            if not self.levels[side][price]:
                del self.levels[side][price]
                del self.prices[side][bisect_left(self.prices[side], price)]
            if shares == left:
                del self.orders[ref]
            self.volume[kind] += shares
        elif kind == "P":
            self.volume[kind] += int.from_bytes(m[20:24], "big")

    def top(self, n: int) -> list[int]:
        """As in an orderbook row."""
        bids, asks = self.prices[0][: -n - 1 : -1], self.prices[1][:n]
        row = []
        for i in range(n):
            row += [asks[i], self.levels[1][asks[i]]] if i < len(asks) else [9999999999, 0]
            row += [bids[i], self.levels[0][bids[i]]] if i < len(bids) else [-9999999999, 0]
        return row

    def is_crossed(self) -> bool:
        bids, asks = self.prices
        return bool(bids and asks) and bids[-1] >= asks[0]


def books(tape: Tape, row_ends: np.ndarray, n_levels: int, crossed: Counter[str]) -> Iterator[list[int]]:
    """The recorded levels of a plain book after each event."""
    book, at = PlainBook(), 0
    for end in row_ends:
        for i in range(at, int(end)):
            book.apply(tape.message(i))
            crossed["messages"] += n_levels > 0 and book.is_crossed()
        at = int(end)
        yield book.top(n_levels)


@needs_data
@recorded(WITH_BOOK)
def test_the_book_equals_the_recorded_one_after_every_single_event(path: Path) -> None:
    oracle = oracle_of(path)
    n_levels = int(oracle["levels"])
    tape, row_ends = encode_lobster(path, np.frombuffer(uncompressed(path), np.uint8).copy(), orderbook_of(path), 1)
    recorded = uncompressed(orderbook_of(path)).decode().splitlines()
    assert len(recorded) == len(row_ends) == oracle["rows"]
    digest = hashlib.sha256()
    crossed: Counter[str] = Counter()
    checkpoints = {point["row"]: point for point in oracle["bbo_checkpoints"]}
    checkpoints |= {1: {"row": 1, **oracle["first_bbo"]}, len(recorded): {"row": 0, **oracle["final_bbo"]}}
    for k, (row, line) in enumerate(zip(books(tape, row_ends, n_levels, crossed), recorded, strict=True)):
        wanted = [int(field) for field in line.split(",")]
        assert len(wanted) == 4 * n_levels
        assert row == wanted, f"row {k}"
        digest.update(("{},{},{},{}\n".format(*row)).encode())
        if point := checkpoints.pop(k + 1, None):
            assert row[:4] == [point[key] for key in ("ask", "ask_size", "bid", "bid_size")]
    assert not checkpoints
    assert digest.hexdigest() == oracle["bbo_path_sha256"]
    if oracle["rows_with_ask_not_above_bid"] == 0:
        assert not crossed["messages"]
    assert tape.data.tobytes() == load_tape([path]).data.tobytes()


@needs_data
@recorded(FILES)
def test_volumes_ids_and_counts_agree_with_the_oracle(path: Path) -> None:
    oracle, book = oracle_of(path), PlainBook()
    has_book = orderbook_of(path).is_file()
    data = np.frombuffer(uncompressed(path), np.uint8).copy()
    tape, row_ends = encode_lobster(path, data, orderbook_of(path) if has_book else None, 1)
    rows = [line.split(",") for line in uncompressed(path).decode().splitlines()]
    ids: set[int] = set()
    trades: list[dict[str, Any]] = []
    notional = at = 0
    for row, end in zip(rows, row_ends, strict=True):
        for i in range(at, int(end)):
            m = tape.message(i)
            kind, ref = m[:1], int.from_bytes(m[11:19], "big")
            if kind == b"A" and ref < SYNTHETIC:
                ids.add(ref)
            shares, price = 0, 0
            if kind == b"E":
                shares, price = int.from_bytes(m[19:23], "big"), book.orders[ref][1]
            elif kind == b"P":
                shares, price = int.from_bytes(m[20:24], "big"), int.from_bytes(m[32:36], "big")
            if shares:
                notional += shares * price
                if i == at or not trades or trades[-1]["row"] is not row:
                    trades.append({"row": row, "price": price, "size": 0})
                trades[-1]["size"] += shares
            book.apply(m)
        at = int(end)
    assert ids == {int(row[2]) for row in rows if row[1] == "1"}
    assert Counter(row[1] for row in rows) == oracle["count_by_type"]
    assert book.volume["E"] + book.volume["P"] == oracle["traded_volume"]
    assert notional == oracle["notional_price_units"]
    assert len(trades) == oracle["trades"]
    for trade, facts in ((trades[0], oracle["first_trade"]), (trades[-1], oracle["last_trade"])):
        assert (trade["row"][0], trade["price"], trade["size"]) == (facts["time"], facts["price"], facts["size"])
    if has_book:
        assert book.volume["E"] == oracle["visible_executed_shares"]
        assert book.volume["P"] == oracle["hidden_executed_shares"]
    unknown = oracle["references_to_orders_not_submitted_in_this_file"]
    assert tape.findings.get("unknown_references", 0) == sum(unknown.values())
    assert tape.findings["events"] == oracle["rows"]
    assert tape.findings.get("times_back", 0) == oracle["times_going_backwards"]
    assert tape.symbols == {path.name.split("_")[0]: 1}
    assert tape.findings.get("named_orders_reduced", 0) <= oracle["type3_whose_size_differs_from_what_is_left"]
    head = "".join(chr(tape.message(i)[0]) for i in range(4))
    assert head == "SRHS"
    times = [f"{int(t) // 10**9}.{int(t) % 10**9:09d}".rstrip("0") for t in (tape.time_ns[0], tape.time_ns[-1])]
    assert times == [oracle[key].rstrip("0") for key in ("first_time", "last_time")]
    assert (np.diff(tape.time_ns) >= 0).all()


@needs_data
def test_without_an_orderbook_file_nothing_is_invented_and_the_book_never_stays_crossed() -> None:
    oracle, tape = oracle_of(AAPL_50), load_tape([AAPL_50])
    unknown = oracle["references_to_orders_not_submitted_in_this_file"]
    by_type = oracle["count_by_type"]
    assert tape.counts["A"] == by_type["1"]
    assert tape.counts["E"] == by_type["4"] - unknown["4"]
    assert tape.counts["P"] == by_type["5"] + unknown["4"]
    assert tape.counts["X"] == by_type["2"]
    assert tape.counts["D"] == by_type["3"] - unknown["3"] + tape.findings.get("stale_orders", 0)
    assert tape.findings["dropped_events"] == unknown["3"]
    book = PlainBook()
    for i in range(len(tape)):
        book.apply(tape.message(i))
        assert not book.is_crossed()


@needs_data
@pytest.mark.parametrize("path", [AAPL, AMZN], ids=["AAPL-1", "AMZN-5"])
def test_a_file_of_few_levels_alone_is_played_without_crossing(path: Path, tmp_path: Path) -> None:
    alone = tmp_path / path.name
    alone.write_bytes(path.read_bytes())
    tape, oracle, book = load_tape([alone]), oracle_of(path), PlainBook()
    for i in range(len(tape)):
        book.apply(tape.message(i))
        assert not book.is_crossed()
    assert book.volume["E"] + book.volume["P"] == oracle["traded_volume"]


@needs_data
def test_the_feed_handlers_book_takes_every_message_of_two_merged_files() -> None:
    tape = load_tape([AAPL, AMZN])
    book = Book.create(2, 1 << 16, 1 << 14)
    book.locate[1], book.locate[2] = 0, 1
    assert apply_blocks(book, tape.data, 0, len(tape)) == len(tape.data)
    assert set(book.results()) == {Result.OK}
    assert book.message_counts() == tape.counts
    assert book.stats[ST_CROSSED] == 0
    for instrument, path in enumerate((AAPL, AMZN)):
        final = oracle_of(path)["final_bbo"]
        assert book.bbo(instrument) == (final["bid"], final["bid_size"], final["ask"], final["ask_size"])


@needs_data
def test_two_symbols_of_one_day_merge_without_any_change_of_their_messages() -> None:
    tape = load_tape([AAPL, AMZN])
    assert tape.symbols == {"AAPL": 1, "AMZN": 2}
    assert "references_rewritten" not in tape.findings
    assert "locates_rewritten" not in tape.findings
    single = load_tape([AAPL])
    locates = tape.data[tape.offsets[:-1] + 4]
    kinds = tape.data[tape.offsets[:-1] + 2]
    chosen = np.nonzero((locates == 1) & (kinds != ord("S")))[0]
    alone = [i for i in range(len(single)) if single.message(i)[:1] != b"S"]
    assert [tape.message(int(i)) for i in chosen] == [single.message(i) for i in alone]


def load(folder: Path, rows: str, book: str = "", name: str = NAME) -> Tape:
    (folder / name).write_text(rows)
    orderbook = folder / name.replace("_message_", "_orderbook_")
    orderbook.unlink(missing_ok=True)
    if book:
        orderbook.write_text(book)
    return load_tape([folder / name])


def decoded(tape: Tape) -> list[dict[str, object]]:
    return [itch50.decode(tape.message(i)) for i in range(len(tape))]


def test_every_type_of_event_becomes_its_message(tmp_path: Path) -> None:
    tape = load(
        tmp_path,
        "34200.1,6,-1,5000,1000000,-1\n"
        "34201,1,11,100,1000000,1\r\n"
        "34202.000000001,2,11,30,1000000,1\n"
        "34203,4,11,20,1000000,1\n"
        "34204,5,0,7,1000050,-1\n"
        "34205,7,0,0,-1,-1\n"
        "34206,7,0,0,0,-1\n"
        "34207,7,0,0,1,-1\n"
        "34208.123456789,3,11,50,1000000,1\n\n\n",
    )
    got = decoded(tape)[4:]
    assert [m["type"] for m in got] == list("QAXEPHHHD")
    assert (got[0]["shares"], got[0]["cross_type"], got[0]["match_number"]) == (5000, "O", 1)
    assert (got[1]["order_ref"], got[1]["side"], got[1]["shares"], got[1]["price"]) == (11, "B", 100, 1_000_000)
    assert got[1]["stock"] == "TEST"
    assert (got[2]["cancelled_shares"], got[2]["timestamp"]) == (30, 34_202_000_000_001)
    assert (got[3]["executed_shares"], got[3]["match_number"]) == (20, 2)
    assert (got[4]["shares"], got[4]["price"], got[4]["side"], got[4]["order_ref"]) == (7, 1_000_050, "S", 0)
    assert [m["trading_state"] for m in got[5:8]] == ["H", "Q", "T"]
    assert got[8]["timestamp"] == 34_208_123_456_789


def test_noise_behind_the_ninth_decimal_of_a_time_is_rounded(tmp_path: Path) -> None:
    tape = load(tmp_path, "35821.088778456004,1,1,1,100,1\n35821.088778456999,1,2,1,100,1\n")
    assert [int(t) for t in tape.time_ns[-2:]] == [35_821_088_778_456, 35_821_088_778_457]


def test_an_unexplained_level_is_announced_and_a_missing_one_is_deleted_right_before_the_event(
    tmp_path: Path,
) -> None:
    tape = load(
        tmp_path,
        "34200,1,1,100,1000000,1\n34201,3,1,100,1000000,1\n",
        "1000200,5,1000000,100,9999999999,0,-9999999999,0\n1000300,8,999900,40,9999999999,0,-9999999999,0\n",
    )
    got = [(m["type"], m.get("side"), m.get("price"), m["timestamp"] // 10**9) for m in decoded(tape)[4:]]  # type: ignore[operator]
    assert got == [
        ("A", "S", 1_000_200, 34200), ("A", "B", 1_000_000, 34200),
        ("D", None, None, 34201), ("A", "B", 999_900, 34201), ("A", "S", 1_000_300, 34201), ("D", None, None, 34201),
    ]  # fmt: skip
    assert tape.findings["announced_orders"] == 3
    assert tape.findings["stale_orders"] == 1


def test_orders_that_must_have_left_unseen_are_deleted_before_they_would_be_crossed(tmp_path: Path) -> None:
    tape = load(
        tmp_path,
        "34200,1,1,100,1000000,-1\n34200,1,2,50,1000100,-1\n34201,1,3,10,1000000,1\n34202,4,2,5,1000100,-1\n",
    )
    assert [m["type"] for m in decoded(tape)[4:]] == ["A", "A", "D", "A", "E"]
    assert tape.findings["stale_orders"] == 1


def test_events_of_unknown_orders_keep_the_volume_and_are_counted(tmp_path: Path) -> None:
    tape = load(tmp_path, "34200,3,8,100,1000000,1\n34201,4,9,70,1000000,1\n34202,2,9,30,1000000,1\n")
    got = decoded(tape)[4:]
    assert [(m["type"], m["shares"]) for m in got] == [("P", 70)]
    assert tape.findings == {"events": 3, "unknown_references": 3, "dropped_events": 2}


@settings(max_examples=60, deadline=None)
@given(n_levels=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_any_market_seen_through_a_window_comes_out_as_recorded(
    tmp_path_factory: pytest.TempPathFactory, n_levels: int, seed: int
) -> None:
    """A random market is recorded as LOBSTER does, without what happens beyond N levels; played, it is the same."""
    random = Random(seed)  # hypothesis' own would take minutes to shrink
    orders: dict[int, list[int]] = {}

    def levels() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        sums: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        for side, price, shares in orders.values():
            sums[side][price] += shares
        return sorted(sums[1].items())[:n_levels], sorted(sums[0].items(), reverse=True)[:n_levels]

    def row() -> list[int]:
        asks, bids = levels()
        out = []
        for i in range(n_levels):
            out += [
                *(asks[i] if i < len(asks) else (9999999999, 0)),
                *(bids[i] if i < len(bids) else (-9999999999, 0)),
            ]
        return out

    messages, rows = [], []
    for k in range(1, 120):
        before, bests = row(), [
            max([p for s, p, _ in orders.values() if s == 0], default=0),
            min([p for s, p, _ in orders.values() if s == 1], default=10**6),
        ]  # fmt: skip
        kind = random.choice([1, 1, 1, 2, 3, 3, 4, 5])
        ref, side, price, shares = k, random.randrange(2), 0, random.randrange(1, 5) * 10
        if kind == 1:
            middle = 1000
            price = (
                min(middle + random.randrange(-8, 3), bests[1] - 1)
                if side == 0
                else max(middle + random.randrange(-2, 9), bests[0] + 1)
            )
            orders[k] = [side, price, shares]
        elif kind == 5:
            ref, price = 0, 1000
        else:
            able = [r for r, (s, p, n) in orders.items() if (kind != 4 or p == bests[s]) and (kind != 2 or n > 1)]
            if not able:
                continue
            ref = random.choice(able)
            side, price, left = orders[ref]
            shares = left if kind == 3 else random.randrange(1, left if kind == 2 else left + 1)
            orders[ref][2] -= shares
            if not orders[ref][2]:
                del orders[ref]
        if (row() != before or kind == 5) and k > 15:  # recording begins late
            messages.append(f"{34200 + k},{kind},{ref},{shares},{price},{1 - 2 * side}\n")
            rows.append(row())
    if not messages:
        return
    folder = tmp_path_factory.getbasetemp()
    path = folder / "HYPO_2012-06-21_0_0_message_9.csv"
    orderbook = folder / "HYPO_2012-06-21_0_0_orderbook_9.csv"
    orderbook.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    text = np.frombuffer("".join(messages).encode(), np.uint8).copy()
    tape, row_ends = encode_lobster(path, text, orderbook, 1)
    assert list(books(tape, row_ends, n_levels, Counter())) == rows


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("34200,1,1,100,1000000", "fewer than 6 columns: time, type, order id"),
        ("34200,1,1,100,1000000,1,7", "more than 6 columns"),
        ("time,type,id,size,price,direction", r"column 1 \(time\) is wrong; allowed: seconds after midnight"),
        ("86400,1,1,100,1000000,1", r"column 1 \(time\)"),
        ("-1,1,1,100,1000000,1", r"column 1 \(time\)"),
        ("34200,8,1,100,1000000,1", r"column 2 \(type\) is wrong; allowed: 1 to 7"),
        ("34200,1,0,100,1000000,1", r"column 3 \(order id\)"),
        ("34200,1,281474976710656,100,1000000,1", r"column 3 \(order id\)"),
        ("34200,1,1,0,1000000,1", r"column 4 \(size\)"),
        ("34200,1,1,1.5,1000000,1", r"column 4 \(size\)"),
        ("34200,1,1,100,2000000001,1", r"column 5 \(price\)"),
        ("34200,7,0,0,2,-1", r"column 5 \(price\)"),
        ("34200,1,1,100,1000000,0", r"column 6 \(direction\)"),
        ("34200,1,1,100,1000000,1x", r"column 6 \(direction\)"),
        ("34200,1,99999999999999999999,100,1000000,1", r"column 3 \(order id\)"),
        ("", r"column 1 \(time\)"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line_and_what_is_allowed(
    tmp_path: Path, line: str, complaint: str
) -> None:
    good = "34200,1,1,100,1000000,1\n"
    with pytest.raises(DataFileError, match=rf"message_2\.csv, line 3: .*{complaint}"):
        load(tmp_path, good + "34200,3,1,100,1000000,1\n" + line + "\n" + good)


@pytest.mark.parametrize(
    ("book", "complaint"),
    [
        ("1,2,3\n", "line 1: 3 columns; allowed is a multiple of 4"),
        ("100,1,90,1\n100,1,90,1\n", "has 2 rows and TEST_.* has 1"),
        ("100,-1,90,1\n", "line 1: .*column 2 is wrong"),
        ("100,1,0,1\n", "line 1: .*column 3 is wrong"),
        ("100,1,90,1,100,1,80,1\n", "line 1: .*column 5 is wrong; allowed: levels from the best"),
        ("9999999999,0,90,1,100,1,80,1\n", "line 1: .*column 5 is wrong; allowed: levels from the best"),
        ("100,1,x,1\n", "line 1: .*column 3 is wrong"),
    ],
)
def test_a_wrong_orderbook_file_is_refused_with_its_line(tmp_path: Path, book: str, complaint: str) -> None:
    with pytest.raises(DataFileError, match=rf"orderbook_2\.csv.*{complaint}"):
        load(tmp_path, "34200,1,1,1,90,1\n", book)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="this is the orderbook file"):
        (tmp_path / NAME.replace("_message_", "_orderbook_")).write_text("100,1,90,1\n")
        load_tape([tmp_path / NAME.replace("_message_", "_orderbook_")])
    with pytest.raises(DataFileError, match="must begin with the ticker"):
        load(tmp_path, "34200,1,1,1,90,1\n", name="much too long_message_1.csv")
    with pytest.raises(DataFileError, match="no event"):
        load(tmp_path, "\n\n")


def test_compressed_files_find_their_orderbook_however_that_is_compressed(tmp_path: Path) -> None:
    row, book = b"34200,1,1,1,90,1\n", b"100,1,90,1\n"
    (tmp_path / (NAME + ".zst")).write_bytes(zstandard.ZstdCompressor().compress(row))
    (tmp_path / (NAME.replace("_message_", "_orderbook_") + ".gz")).write_bytes(gzip.compress(book))
    tape = load_tape([tmp_path / (NAME + ".zst")])
    assert tape.findings["announced_orders"] == 1
    assert "orderbook of 1 levels" in tape.source


def test_a_book_that_is_new_in_every_row_is_announced_and_taken_back_however_often(tmp_path: Path) -> None:
    n, path, orderbook = 200, tmp_path / NAME, tmp_path / "orderbook.csv"
    rows = [[1000 + 4 * k, 5, 990 + 4 * k, 6, 1001 + 4 * k, 7, 989 + 4 * k, 8] for k in range(n)]
    orderbook.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    text = np.frombuffer(b"34200,5,0,1,995,1\n" * n, np.uint8).copy()
    tape, row_ends = encode_lobster(path, text, orderbook, 1)
    assert list(books(tape, row_ends, 2, Counter())) == rows
    assert tape.findings["announced_orders"] == 4 * n


def test_times_that_go_back_are_counted_and_not_played(tmp_path: Path) -> None:
    tape = load(tmp_path, "34202,1,1,1,90,1\n34201,1,2,1,90,1\n")
    assert [int(t) for t in tape.time_ns[-2:]] == [34_202_000_000_000] * 2
    assert tape.findings["times_back"] == 1
