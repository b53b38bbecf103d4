"""Trades and quotes as CSV: what each row does to the consolidated book, and faults with their line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.kernels.book import ST_CROSSED, Book, Result, apply_blocks
from tickpath.common.protocols import itch50
from tickpath.common.records import NO_PRICE_TICKS
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import FINDINGS, DataFileError, Tape, write_instruments

QUOTES, TRADES, FX = "equity_abc_20131007_quote.csv", "equity_abc_20131007_trade.csv", "fx_eurusd_20140508_quote.csv"
BASE = 1 << 40


def load(folder: Path, text: str | bytes, name: str = QUOTES) -> Tape:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    tape = load_tape([folder / name])
    assert set(tape.findings) <= set(FINDINGS)
    write_instruments(tape, folder / "instruments.csv")
    return tape


def told(tape: Tape) -> list[tuple[Any, ...]]:
    """What follows the head of a tape: type, references, side, size, exchange, price, as far as each has it."""
    out = []
    for i in range(4, len(tape)):
        m = itch50.decode(tape.message(i))
        keys = ("type", "order_ref", "original_order_ref", "new_order_ref", "side", "shares", "cancelled_shares")
        out.append(tuple(m[key] for key in (*keys, "attribution", "price") if key in m))
    return out


def test_trades_are_prints_of_hidden_interest(tmp_path: Path) -> None:
    tape = load(tmp_path, "14400688,491800,300,P,2000,0\r\n14400688.5,488750,1,DX,0,1\r\n", TRADES)
    assert told(tape) == [("P", 0, "B", 300, 491_800), ("P", 0, "B", 1, 488_750)]
    assert tape.time_ns[-2:].tolist() == [14_400_688_000_000, 14_400_688_500_000]
    assert tape.symbols == {"ABC": 1}
    assert tape.findings == {"records": 2, "suspicious_records": 1}


def test_each_exchange_and_side_is_one_order(tmp_path: Path) -> None:
    tape = load(
        tmp_path,
        "1,100,10,0,0,P,1,0\n"
        "2,0,0,200,20,P,1,0\n"
        "3,100,30,0,0,Q,1,0\n"  # another exchange at the same price
        "4,100,4,0,0,P,1,0\n"  # less: keeps its place
        "5,100,4,0,0,P,1,0\n"  # the same again
        "6,100,9,0,0,P,1,0\n"  # more
        "7,110,9,150,5,P,1,0\n"  # both sides
        "8,110,0,0,0,P,1,0\n"  # gone
        "9,90,1,0,0,P,1,1\n",
    )
    assert told(tape) == [
        ("F", BASE + 1, "B", 10, "P", 100),
        ("F", BASE + 2, "S", 20, "P", 200),
        ("F", BASE + 3, "B", 30, "Q", 100),
        ("X", BASE + 1, 6),
        ("U", BASE + 1, BASE + 5, 9, 100),
        ("U", BASE + 5, BASE + 6, 9, 110),
        ("U", BASE + 2, BASE + 7, 5, 150),
        ("D", BASE + 6),
        ("F", BASE + 9, "B", 1, "P", 90),
    ]
    assert tape.findings == {"records": 9, "unchanged_quotes": 1, "suspicious_records": 1}


def test_quotes_that_a_newer_one_would_lock_or_cross_are_deleted_before(tmp_path: Path) -> None:
    tape = load(
        tmp_path,
        "1,0,0,100,10,N,1,0\n2,0,0,105,10,P,1,0\n3,0,0,110,10,Q,1,0\n4,105,7,0,0,K,1,0\n5,0,0,101,3,N,1,0\n",
    )
    assert [one[0] for one in told(tape)] == ["F", "F", "F", "D", "D", "F", "D", "F"]
    assert tape.findings["stale_quotes"] == 3


def test_a_quote_that_moves_as_a_whole_never_crosses_itself_on_the_way(tmp_path: Path) -> None:
    tape = load(tmp_path, "1,1.10,1.20\n2,1.30,1.40\n3,1.00,1.05\n4,1.05,1.05\n", FX)
    book = Book.create(1, 16, 16)
    book.locate[1] = 0
    apply_blocks(book, tape.data, 0, len(tape))
    assert set(book.results()) == {Result.OK}
    assert book.stats[ST_CROSSED] == 1  # the last row itself
    assert tape.findings == {"records": 4, "unchanged_quotes": 1, "crossed_quotes": 1}


@pytest.mark.parametrize(
    ("symbol", "rows", "tick", "step", "currency"),
    [
        ("eurusd", ["1.39101,1.39114"], "0.00001", 1, "USD"),
        ("usdjpy", [f"{100 + k / 1000:.3f},{101 + k / 1000:.3f}" for k in range(20)], "0.00001", 100, "JPY"),
        ("eurgbp", ["0.812345,0.8123455"], "0.0000001", 1, "GBP"),
        ("xauusd", ["30000.5,30001"], "0.0001", 1, "USD"),
    ],
)
def test_the_tick_of_an_fx_file_is_exact_and_fits(
    tmp_path: Path, symbol: str, rows: Sequence[str], tick: str, step: int, currency: str
) -> None:
    name = f"fx_{symbol}_20140508_quote.csv"
    tape = load(tmp_path, "".join(f"{k},{row}\n" for k, row in enumerate(rows)), name)
    terms = tape.terms[symbol.upper()]
    assert (terms.tick_size, terms.price_step_ticks, terms.currency) == (tick, step, currency)
    got = {round(one[-1] * float(tick), 8) for one in told(tape)}
    assert got == {float(price) for row in rows for price in row.split(",")}
    assert {one[-2] for one in told(tape) if one[0] == "A"} == {1_000_000}


def test_prices_and_sizes_that_cannot_be_played_are_counted(tmp_path: Path) -> None:
    tape = load(tmp_path, "1,0,5,0,0,P,1,0\n2,100,4294967296,0,0,P,1,0\n3,0,0,0,0,P,1,0\n4,100,1,0,0,P,1,0\n")
    assert [one[0] for one in told(tape)] == ["F"]
    assert tape.findings == {"records": 4, "bad_records": 2}
    tape = load(tmp_path, "1,0,5,P,0,0\n2,100,0,P,0,0\n3,100,1,P,0,0\n", TRADES)
    assert [one[0] for one in told(tape)] == ["P"]
    assert tape.findings == {"records": 3, "bad_records": 2}


def test_prices_beyond_32_bits_have_a_coarser_tick_where_that_is_exact(tmp_path: Path) -> None:
    tape = load(tmp_path, "1,7123450000,1,P,0,0\n2,7123459900,1,P,0,0\n", TRADES)
    assert tape.terms["ABC"].tick_size == "0.001"
    assert [one[-1] for one in told(tape)] == [712_345_000, 712_345_990]


def test_times_that_go_back_are_counted_and_not_played(tmp_path: Path) -> None:
    tape = load(tmp_path, "5,100,1,P,0,0\n4,100,1,P,0,0\n", TRADES)
    assert tape.time_ns[-2:].tolist() == [5_000_000] * 2
    assert tape.findings["times_back"] == 1


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("abc_1.csv", "1,100,1,P,0,0\n", "equity trades"),
        ("abc.csv", "1,100,1,0,0,P,1,0\n", "equity quotes"),
        ("eurusd_day.csv", "1,1.1,1.2\n", "FX quotes"),
        ("ABC_2012-06-21_0_0_message_1.csv", "34200,1,1,1,90,1\n", "LOBSTER"),
        ("forex_eurusd_day_quote.csv", "1,1.1,1.2\n", "FX quotes"),
    ],
)
def test_the_kind_is_told_by_name_or_else_by_the_first_row(tmp_path: Path, name: str, text: str, kind: str) -> None:
    assert load(tmp_path, text, name).source.startswith(kind)


@pytest.mark.parametrize("name", ["20131007_trade.csv", "equity_muchtoolong_1_trade.csv", "_trade.csv"])
def test_a_name_without_a_symbol_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataFileError, match=r"the name does not say the symbol .* equity_AIG_20131007_trade"):
        load(tmp_path, "1,100,1,P,0,0\n", name)


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        (TRADES, "1,100,1,P,0", "fewer than 6 columns: time, price, shares, exchange"),
        (TRADES, "1,100,1,P,0,0,7", "more than 6 columns"),
        (TRADES, "86400000,100,1,P,0,0", r"column 1 \(time\) is wrong; allowed: milliseconds after midnight"),
        (TRADES, "-1,100,1,P,0,0", r"column 1 \(time\)"),
        (TRADES, "1.0000001,100,1,P,0,0", r"column 1 \(time\)"),
        (TRADES, "1,1.5,1,P,0,0", r"column 2 \(price\) is wrong; allowed: a number"),
        (TRADES, "1,,1,P,0,0", r"column 2 \(price\)"),
        (TRADES, "1,100,9999999999999999999,P,0,0", r"column 3 \(shares\)"),
        (TRADES, "1,100,1,,0,0", r"column 4 \(exchange\) is wrong; allowed: 1 to 4 letters"),
        (TRADES, "1,100,1,ABCDE,0,0", r"column 4 \(exchange\)"),
        (TRADES, "1,100,1,P,0,", r"column 6 \(suspicious\)"),
        (TRADES, "", r"column 1 \(time\)"),
        (QUOTES, "1,100,1,0,0,P,1", "fewer than 8 columns"),
        (QUOTES, "1,100,1,0,x,P,1,0", r"column 5 \(ask size\)"),
        (FX, "1,1.123456789,1.2", r"column 2 \(bid\) is wrong; allowed: a decimal of at least 0 with at most 8"),
        (FX, "1,1.1,.", r"column 3 \(ask\)"),
        (FX, "1,1.1.1,2", r"column 2 \(bid\)"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path: Path, name: str, line: str, complaint: str) -> None:
    good = {TRADES: "1,100,1,P,0,0", QUOTES: "1,100,1,0,0,P,1,0", FX: "1,1.1,1.2"}[name]
    with pytest.raises(DataFileError, match=rf"{name}, line 3: .*{complaint}"):
        load(tmp_path, f"{good}\n{good}\n{line}\n{good}\n", name)


def test_too_many_exchanges_and_empty_files_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"1,100,1,0,0,X{chr(65 + k // 26)}{chr(65 + k % 26)},1,0\n" for k in range(65))
    with pytest.raises(DataFileError, match="more than 64 exchanges"):
        load(tmp_path, rows)
    with pytest.raises(DataFileError, match="no row"):
        load(tmp_path, "\n\n")


def test_files_whose_units_differ_do_not_play_together(tmp_path: Path) -> None:
    for name, price in (("fx_eurusd_1_quote.csv", "1.1"), ("fx_eurusd_2_quote.csv", "1.1234567")):
        (tmp_path / name).write_text(f"1,{price},1.2\n")
    with pytest.raises(DataFileError, match=r"EURUSD has ticks of 0\.0000001 USD .* and ticks of 0\.00001 USD"):
        load_tape([tmp_path / "fx_eurusd_1_quote.csv", tmp_path / "fx_eurusd_2_quote.csv"])


_ROW = st.tuples(st.sampled_from("PQN"), st.integers(0, 1), st.integers(0, 12), st.integers(0, 3))


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(_ROW, min_size=1, max_size=60))
def test_the_book_is_never_crossed_and_each_quote_that_was_not_stale_is_in_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int, int]]
) -> None:
    """Against a plain book of the same rule: a quote replaces its exchange's, and deletes what it would cross."""
    text = ""
    quotes: dict[tuple[str, int], tuple[int, int]] = {}
    for k, (exchange, side, price, size) in enumerate(rows):
        one, none = f"{price},{size}", "0,0"
        text += f"{k},{none if side else one},{one if side else none},{exchange},1,0\n"
        if size == 0 and price > 0:
            quotes.pop((exchange, side), None)
        elif size > 0 and price > 0:
            if quotes.get((exchange, side)) != (price, size):
                stale = [
                    key for key, (p, _) in quotes.items() if key[1] != side and (p - price) * (1 - 2 * side) <= 0
                ]
                for key in stale:
                    del quotes[key]
            quotes[exchange, side] = (price, size)
    tape = load(tmp_path_factory.getbasetemp(), text)
    book = Book.create(1, 1 << 8, 1 << 6)
    book.locate[1] = 0
    apply_blocks(book, tape.data, 0, len(tape))
    assert set(book.results()) == {Result.OK}
    assert book.stats[ST_CROSSED] == 0
    assert book.live_orders == len(quotes)
    best = [max((p for (_, s), (p, _) in quotes.items() if s == 0), default=NO_PRICE_TICKS),
            min((p for (_, s), (p, _) in quotes.items() if s == 1), default=NO_PRICE_TICKS)]  # fmt: skip
    bid, _, ask, _ = book.bbo(0)
    assert [bid, ask] == best


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from([QUOTES, TRADES, FX]),
    text=st.one_of(
        st.binary(min_size=1, max_size=200),
        st.lists(
            st.lists(st.sampled_from(["1", "100", "0", "1.5", "P", "", "x", "99999999999"]), min_size=1, max_size=9),
            min_size=1,
            max_size=6,
        ).map(lambda rows: "\n".join(",".join(row) for row in rows).encode() or b"\n"),
    ),
)
def test_random_text_loads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, name: str, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(text)
    try:
        tape = load_tape([path])
    except DataFileError as error:
        assert name in str(error)
    else:
        assert (np.diff(tape.time_ns) >= 0).all()
        assert tape.offsets[-1] == len(tape.data)
