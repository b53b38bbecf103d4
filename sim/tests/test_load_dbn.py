"""Databento market by order: each record's effect on the book and the prints, against a plain book of its rules."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import databento_dbn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.kernels.book import Book, Result, apply_one
from tickpath.common.protocols import itch50
from tickpath.common.records import Side
from tickpath.sim.sources.dbn import encode_dbn, read_metadata, read_records
from tickpath.sim.sources.files import read_data
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import FINDINGS, DataFileError, Tape, write_instruments

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dbn"
FILES = sorted(DATA.glob("*.mbo.dbn.zst"))

DAY = 1_703_462_400_000_000_000  # 2023-12-25 00:00 UTC
NINE = 10**9


def metadata(names: dict[int, str], version: int = 1, dataset: str = "GLBX.MDP3", schema: int = 0) -> bytes:
    """The head of a file whose mappings give these raw symbols to instrument ids."""
    width = 22 if version == 1 else 71

    def text(value: str) -> bytes:
        return value.encode().ljust(width, b"\0")

    head = dataset.encode().ljust(16, b"\0") + struct.pack("<HQQQ", schema, DAY, DAY, 0)
    head += struct.pack("<QBBB47x", 2**64 - 1, 1, 0, 0) if version == 1 else struct.pack("<BBBH53x", 1, 0, 0, width)
    symbols = b"".join(text(name) for name in names.values())
    head += struct.pack("<I", 0) + struct.pack("<I", len(names)) + symbols + struct.pack("<II", 0, 0)
    head += struct.pack("<I", len(names))
    for number, name in names.items():
        head += text(name) + struct.pack("<III", 1, 20231225, 20231226) + text(str(number))
    return b"DBN" + struct.pack("<BI", version, len(head)) + head


def record(
    action: str,
    side: str = "N",
    order: int = 0,
    price: int = 0,
    size: int = 0,
    *,
    at: int = 0,
    instrument: int = 1,
    flags: int = 128,
    rtype: int = 160,
) -> bytes:
    """A record of `price` in 1e-9, `at` ns after midnight."""
    head = struct.pack("<BBHIQ", 14, rtype, 1, instrument, DAY + at)
    body = struct.pack("<QqIBBcc", order, price, size, flags, 0, action.encode(), side.encode())
    return head + body + struct.pack("<QiI", DAY + at, 0, 0)


def load(folder: Path, records: Sequence[bytes], head: bytes | None = None, name: str = "a.dbn") -> Tape:
    path = folder / name
    path.write_bytes((metadata({1: "ESH4"}) if head is None else head) + b"".join(records))
    tape = load_tape([path])
    assert set(tape.findings) <= set(FINDINGS)
    write_instruments(tape, folder / "instruments.csv")
    return tape


def told(tape: Tape, instruments: int = 1) -> list[tuple[Any, ...]]:
    """What follows the head of a tape: type, reference, side, size, price, as far as each has it."""
    out = []
    for i in range(2 + 2 * instruments, len(tape)):
        m = itch50.decode(tape.message(i))
        keys = (
            "type",
            "order_ref",
            "original_order_ref",
            "new_order_ref",
            "side",
            "shares",
            "cancelled_shares",
            "price",
        )
        out.append(tuple(m[key] for key in keys if key in m))
    return out


P = 4800 * NINE


def test_every_action_becomes_what_it_does_to_the_book(tmp_path: Path) -> None:
    tape = load(
        tmp_path,
        [
            record("A", "B", 77, P, 10),
            record("A", "A", 78, P + NINE, 5),
            record("M", "B", 77, P, 6),  # less at the same price keeps its place
            record("M", "B", 77, P, 9),  # more loses it
            record("M", "B", 77, P - NINE // 4, 9),
            record("M", "B", 77, P - NINE // 4, 9),  # nothing new
            record("T", "A", 0, P - NINE // 4, 4),
            record("F", "B", 77, P - NINE // 4, 4),
            record("C", "B", 77, P - NINE // 4, 4),
            record("C", "B", 77, P - NINE // 4, 5),
            record("T", "B", 0, P + NINE, 1),
            record("T", "N", 0, P + NINE, 2),
            record("N"),
            record("A", "A", 79, P + NINE, 1),
            record("R"),
        ],
    )
    base = 1 << 40
    assert told(tape) == [
        ("A", base + 1, "B", 10, 480_000),
        ("A", base + 2, "S", 5, 480_100),
        ("X", base + 1, 4),
        ("U", base + 1, base + 3, 9, 480_000),
        ("U", base + 3, base + 4, 9, 479_975),
        ("P", 0, "B", 4, 479_975),
        ("X", base + 4, 4),
        ("D", base + 4),
        ("P", 0, "S", 1, 480_100),
        ("P", 0, "B", 2, 480_100),
        ("A", base + 5, "S", 1, 480_100),
        ("D", base + 2),
        ("D", base + 5),
    ]
    assert tape.findings == {"records": 15, "ignored_records": 2, "fills": 1}
    assert tape.symbols == {"ESH4": 1}
    assert tape.terms["ESH4"]._asdict() == {
        "tick_size": "0.01", "price_step_ticks": 1, "lot_size": "1", "multiplier": "50", "currency": "USD",
    }  # fmt: skip


def test_what_contradicts_the_book_is_counted_and_the_book_goes_on(tmp_path: Path) -> None:
    tape = load(
        tmp_path,
        [
            record("C", "B", 1, P, 1),  # unknown
            record("M", "B", 2, P, 3),  # unknown: added
            record("A", "B", 2, P, 4),  # again
            record("C", "B", 2, P, 9),  # too much
            record("A", "B", 3, 2**63 - 1, 1),  # no price
            record("A", "B", 3, -P, 1),
            record("A", "B", 3, P, 0),
            record("A", "N", 3, P, 1),
            record("T", "A", 0, 2**63 - 1, 1),
            record("A", "B", 3, P, 1),
            record("M", "A", 3, P, 1),  # to the other side
            record("M", "A", 3, P, 0),  # nothing left
        ],
    )
    assert [one[0] for one in told(tape)] == ["A", "D", "A", "D", "A", "D", "A", "D"]
    assert tape.findings == {
        "records": 12, "unknown_orders": 2, "repeated_orders": 1, "over_cancelled": 1, "bad_records": 6,
    }  # fmt: skip


@pytest.mark.parametrize("version", [1, 2, 3])
def test_instruments_have_their_symbols_of_the_metadata_in_every_version(tmp_path: Path, version: int) -> None:
    names = {1: "ESH4", 7: "NQM24", 900: "ESH4-ESM4", 901: "AAPL"}
    records = [record("A", "B", 5, P, 1, instrument=number) for number in (900, 1, 7, 12, 901)]
    tape = load(tmp_path, [*records, record("R", instrument=7)], metadata(names, version))
    assert tape.symbols == {"ESH4": 1, "NQM24": 2, "C": 3, "384": 4, "AAPL": 5}
    assert tape.findings["renamed_symbols"] == 2
    multipliers = {symbol: terms.multiplier for symbol, terms in tape.terms.items()}
    assert multipliers == {"ESH4": "50", "NQM24": "20", "C": "1", "384": "1", "AAPL": "1"}
    assert [one[0] for one in told(tape, 5)] == ["A"] * 5 + ["D"]


@pytest.mark.parametrize(
    ("prices", "tick", "step"),
    [
        ([P + k * NINE // 4 for k in range(20)], "0.01", 25),
        ([P + k * NINE for k in range(20)], "0.01", 100),
        ([6_800_000 + k * 500 for k in range(20)], "0.0000001", 5),
        ([1_085_000_000 + k * 50_000 for k in range(20)], "0.00001", 5),
        ([30_000_000 * NINE + k * 5 * NINE for k in range(20)], "0.1", 50),
        ([P], "0.01", 1),
    ],
)
def test_the_tick_is_exact_and_fits_all_prices(tmp_path: Path, prices: list[int], tick: str, step: int) -> None:
    tape = load(tmp_path, [record("A", "B", k + 1, price, 1) for k, price in enumerate(prices)])
    terms = tape.terms["ESH4"]
    assert (terms.tick_size, terms.price_step_ticks) == (tick, step)
    unit = round(float(tick) * NINE)
    assert [one[-1] * unit for one in told(tape)] == prices


def test_times_of_a_session_across_midnight_are_shifted_into_one_day(tmp_path: Path) -> None:
    hour = 3_600 * NINE
    tape = load(tmp_path, [record("A", "B", 1, P, 1, at=23 * hour), record("C", "B", 1, P, 1, at=45 * hour + 5)])
    assert (int(tape.time_ns[0]), int(tape.time_ns[-1])) == (1 * hour, 23 * hour + 5)
    assert tape.findings["hours_shifted"] == 22
    with pytest.raises(DataFileError, match="longer than a day"):
        load(tmp_path, [record("A", "B", 1, P, 1, at=hour), record("C", "B", 1, P, 1, at=26 * hour)])


def test_times_that_go_back_or_are_missing_are_held(tmp_path: Path) -> None:
    no_time = bytearray(record("A", "B", 3, P, 1, at=6))
    no_time[40:48] = b"\xff" * 8
    tape = load(tmp_path, [record("A", "B", 1, P, 1, at=5), record("A", "B", 2, P, 1, at=4), bytes(no_time)])
    assert tape.time_ns[-3:].tolist() == [5, 5, 6]
    assert tape.findings["times_back"] == 1


def test_other_records_time_stamps_at_the_end_and_a_cut_off_end_are_taken(tmp_path: Path) -> None:
    longer = bytearray(record("A", "B", 1, P, 1) + bytes(8))
    longer[0] = 16  # with ts_out
    other = bytes([5, 22]) + bytes(18)
    tape = load(tmp_path, [other, bytes(longer), record("C", "B", 1, P, 1), record("A", "B", 2, P, 1)[:-7]])
    assert [one[0] for one in told(tape)] == ["A", "D"]
    assert tape.findings == {"records": 2, "other_records": 1, "cut_off_bytes": 49}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"DBN\x01\x00", "ends inside its metadata"),
        (metadata({1: "ES"})[:60], "ends inside its metadata"),
        (b"DBN\x09" + metadata({1: "ES"})[4:], r"DBN of version 9; allowed: Databento DBN of version 1, 2 or 3"),
        (
            b"DBN\x01" + struct.pack("<I", 40) + bytes(40) + record("A", "B", 1, P, 1),
            "metadata of the file are damaged",
        ),
        (metadata({1: "ES"}) + record("T", "A", 0, P, 1, rtype=0), "no market-by-order record in it, but 1 others"),
        (metadata({1: "ES"}), "no market-by-order record in it, but 0 others"),
        (metadata({1: "ES"}) + record("A", "B", 1, P, 1) + bytes(30), "the record at byte 262 is damaged"),
        (
            metadata({1: "ES"}) + record("A", "B", 1, 123_456_789, 1),
            "ES has prices with 9 decimals; allowed are at most 8",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_allowed(tmp_path: Path, data: bytes, complaint: str) -> None:
    with pytest.raises(DataFileError, match=rf"a\.dbn: .*{complaint}"):
        load(tmp_path, [], data)


_RECORD = st.tuples(
    st.sampled_from("AAAAACCMMTFRN"),
    st.sampled_from("BBAAN"),
    st.integers(0, 6),
    st.integers(-1, 12),
    st.integers(0, 4),
    st.sampled_from([1, 1, 1, 2]),
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(_RECORD, min_size=1, max_size=60))
def test_any_sequence_of_records_keeps_the_book_of_the_vendors_rules(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int, int, int, int]]
) -> None:
    """A adds, C subtracts, M replaces, R clears: the levels after every record, with several instruments."""
    records = [
        record(action, side, order, price * NINE // 4, size, at=k, instrument=instrument)
        for k, (action, side, order, price, size, instrument) in enumerate(rows)
    ]
    path = tmp_path_factory.getbasetemp() / "random.dbn"
    path.write_bytes(metadata({1: "ESH4", 2: "NQH4"}) + b"".join(records))
    tape, row_ends = encode_dbn(path, np.frombuffer(path.read_bytes(), np.uint8).copy(), 1)
    book = Book.create(2, 1 << 8, 1 << 6)
    ids = sorted({instrument for *_, instrument in rows})
    for i in range(len(ids)):
        book.locate[1 + i] = i
    orders: dict[tuple[int, int], list[int]] = {}  # instrument, id -> side, price, size
    at = prints = 0
    for (action, side, order, price, size, instrument), end in zip(rows, row_ends, strict=True):
        key, good = (instrument, order), side != "N" and price > 0 and size > 0
        new = ["BA".find(side), price, size]
        if action in "AM":
            orders.pop(key, None)
            orders |= {key: new} if good else {}
            # A bad add of a live order replaces it as well: with nothing.
        elif action == "C" and key in orders:
            orders[key][2] -= size
            if orders[key][2] <= 0:
                del orders[key]
        elif action == "R":
            orders = {key: order for key, order in orders.items() if key[0] != instrument}
        elif action == "T":
            prints += size if price > 0 else 0
        for i in range(at, int(end)):
            message = tape.message(i)
            if message[:1] == b"P":
                prints -= int.from_bytes(message[20:24], "big")
            begin = int(tape.offsets[i]) + 2
            assert apply_one(book, tape.data, begin, len(message)) == Result.OK
        at = int(end)
        assert prints == 0
        for i, number in enumerate(ids):
            for of, which in ((0, Side.BUY), (1, Side.SELL)):
                levels: dict[int, int] = {}
                for (owner, _), (s, p, n) in orders.items():
                    if owner == number and s == of:
                        levels[p * 25] = levels.get(p * 25, 0) + n
                got = {int(level["price_ticks"]): int(level["lots"]) for level in book.side(i, which)}
                assert got == levels


@settings(max_examples=100, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(3, 600), st.integers(0, 255)), max_size=6), cut=st.integers(9, 700))
def test_damaged_files_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(metadata({1: "ESH4"}) + b"".join(record("A", "B", k + 1, P, 1, at=k) for k in range(8)))[:cut]
    for at, byte in flips:
        if at < len(data):
            data[at] = byte
    try:
        tape = load(tmp_path_factory.getbasetemp(), [], bytes(data))
    except DataFileError as error:
        assert len(str(error)) > 20
    else:
        assert (np.diff(tape.time_ns) >= 0).all()
        assert tape.offsets[-1] == len(tape.data)


@pytest.mark.parametrize("path", FILES or [Path("none")], ids=lambda path: path.name)
def test_the_vendors_own_library_reads_the_same(path: Path) -> None:
    """The records and symbols that we read are those that `databento-dbn` (the extra ``dbn``) reads."""
    if not FILES:
        pytest.skip(f"the recorded market data is not here: {DATA}")
    data = read_data(path)
    decoder = databento_dbn.DBNDecoder(upgrade_policy=databento_dbn.VersionUpgradePolicy.AS_IS)
    decoder.write(data.tobytes())
    head, *theirs = decoder.decode()
    ours = read_metadata(path, data)
    records, _ = read_records(path, data, ours.size)
    assert (ours.version, ours.dataset) == (head.version, head.dataset)
    wanted = {int(one["symbol"]): name for name, intervals in head.mappings.items() for one in intervals}
    assert ours.names == wanted
    assert len(records) == len(theirs)
    fields = {
        "instrument": "instrument_id",
        "event_ns": "ts_event",
        "recv_ns": "ts_recv",
        "in_delta_ns": "ts_in_delta",
    }
    for name in ("instrument", "event_ns", "recv_ns", "in_delta_ns", "order_id", "price", "size", "sequence"):
        assert records[name].tolist() == [getattr(one, fields.get(name, name)) for one in theirs], name
    for name in ("action", "side"):
        assert [chr(value) for value in records[name]] == [str(getattr(one, name)) for one in theirs], name
