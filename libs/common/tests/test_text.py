"""Plain-text ticks: exact, bounded, every fault counted by its reason; against a parser in plain Python."""

from __future__ import annotations

import re
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tickpath.common.kernels.text import MAX_LINE_BYTES, N_TEXT_COUNTS, TextCount, parse_ticks
from tickpath.common.records import MAX_PRICE_TICKS, MAX_QTY_LOTS, NO_PRICE_TICKS, TICK, TickFlag

#: symbol: (instrument, tick, lot)
TABLE = {
    "AAPL": (7, Decimal("0.0001"), Decimal(1)),
    "BRK.A": (2, Decimal("0.01"), Decimal(100)),
    "BTCUSDT": (0, Decimal("0.1"), Decimal("0.00001")),
    "ES=LONG8": (3, Decimal("0.25"), Decimal(1)),
}
_ROWS = sorted((int.from_bytes(s.encode().ljust(8), "big"), *terms) for s, terms in TABLE.items())
KEYS = np.array([row[0] for row in _ROWS], np.int64)
IDS = np.array([row[1] for row in _ROWS], np.int64)
TICKS_E8 = np.array([int(row[2].scaleb(8)) for row in _ROWS], np.int64)
LOTS_E8 = np.array([int(row[3].scaleb(8)) for row in _ROWS], np.int64)

Parsed = list[tuple[int, int, int, int]]


def parse(data: bytes, room: int = 100) -> tuple[Parsed, dict[str, int]]:
    """(instrument, ticks, lots, time) of each tick, and the counters that are not 0; bytes around are a trap."""
    padded = np.frombuffer(b"AAPL,1,1\n" + data + b"9\nAAPL,2,2\n", np.uint8).copy()
    out = np.zeros(room + 1, TICK)
    out["instrument"] = -5
    counters = np.zeros(N_TEXT_COUNTS, np.int64)
    n = parse_ticks(padded, 9, len(data), KEYS, IDS, TICKS_E8, LOTS_E8, out[:room], counters)
    assert (out["instrument"][n:] == -5).all(), "written behind the last tick"
    assert (out["bid_ticks"][:n] == NO_PRICE_TICKS).all()
    assert (out["ask_ticks"][:n] == NO_PRICE_TICKS).all()
    assert (out["flags"][:n] == TickFlag.TRADE).all()
    ticks = [tuple(int(tick[f]) for f in ("instrument", "last_ticks", "last_lots", "exch_ns")) for tick in out[:n]]
    counts = {count.name: int(counters[count]) for count in TextCount if counters[count]}
    return ticks, counts  # type: ignore[return-value]


_NUMBER = re.compile(rb"(\d*)(?:\.(\d*))?")
_CLOCK = re.compile(rb"(\d\d):(\d\d):(\d\d)(\.\d*)?")


def number(text: bytes) -> Decimal | None:
    """A decimal without sign and exponent, however many zeros it has."""
    match = _NUMBER.fullmatch(text)
    if not match or not re.search(rb"\d", text):
        return None
    return Decimal(((match[1] or b"0") + b"." + (match[2] or b"0")).decode())


def reference(data: bytes) -> tuple[Parsed, dict[str, int]]:
    """The same as `parse`, by regular expressions and `Decimal`."""
    ticks: Parsed = []
    counts: dict[str, int] = {}
    for line in re.split(rb"[\r\n;]", data):
        if not line:
            continue
        outcome, tick = _reference_line(line)
        counts[outcome] = counts.get(outcome, 0) + 1
        ticks += [tick] if tick else []
    return ticks, counts


def _reference_line(line: bytes) -> tuple[str, tuple[int, int, int, int] | None]:
    if len(line) > MAX_LINE_BYTES:
        return "TOO_LONG", None
    fields = [field.strip(b" \t") for field in line.split(b",")]
    if len(fields) not in (3, 4):
        return "BAD_FIELDS", None
    terms = TABLE.get(fields[0].decode("latin-1"))
    if terms is None:
        return "UNKNOWN_SYMBOL", None
    instrument, tick, lot = terms
    price, size, seconds = number(fields[1]), number(fields[2]), Decimal(0)
    if price is None or price == 0 or price >= 10**10:
        return "BAD_PRICE", None
    if price // tick > MAX_PRICE_TICKS and price == round(price, 8):
        return "BAD_PRICE", None
    if price % tick:
        return "OFF_TICK", None
    if size is None or size == 0 or size % lot or size // lot > MAX_QTY_LOTS or size >= 10**10:
        return "BAD_SIZE", None
    if len(fields) == 4:
        text, clock = fields[3], _CLOCK.fullmatch(fields[3])
        if clock:
            if int(clock[1]) > 23 or int(clock[2]) > 59 or int(clock[3]) > 59:
                return "BAD_TIME", None
            fraction = number(b"0" + (clock[4] or b""))
            assert fraction is not None
            seconds = Decimal(int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3])) + fraction
        else:
            value = number(text)
            if value is None or value >= 86400:
                return "BAD_TIME", None
            seconds = value
        if seconds.scaleb(9) % 1:
            return "BAD_TIME", None
    return "TICKS", (instrument, int(price / tick), int(size / lot), int(seconds.scaleb(9)))


def test_lines_of_every_ending_become_ticks() -> None:
    data = (
        b"AAPL,150.34,300\nBRK.A,412345.67,100,34200.5\r\n"
        b"BTCUSDT, 61234.5 ,\t0.00012,09:30:00.000000001;\r\n;ES=LONG8,4800.25,2"
    )
    assert parse(data) == (
        [
            (7, 1_503_400, 300, 0),
            (2, 41_234_567, 1, 34_200_500_000_000),
            (0, 612_345, 12, 34_200_000_000_001),
            (3, 19_201, 2, 0),
        ],
        {"TICKS": 4},
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"MSFT,1,1", "UNKNOWN_SYMBOL"),
        (b",1,1", "UNKNOWN_SYMBOL"),
        (b"aapl,1,1", "UNKNOWN_SYMBOL"),
        (b"AAPLAAPLAAPL,1,1", "UNKNOWN_SYMBOL"),
        (b"AAPL,,1", "BAD_PRICE"),
        (b"AAPL,.,1", "BAD_PRICE"),
        (b"AAPL,0,1", "BAD_PRICE"),
        (b"AAPL,-1,1", "BAD_PRICE"),
        (b"AAPL,+1,1", "BAD_PRICE"),
        (b"AAPL,1e3,1", "BAD_PRICE"),
        (b"AAPL,nan,1", "BAD_PRICE"),
        (b"AAPL,1.2.3,1", "BAD_PRICE"),
        (b"AAPL,214748.3648,1", "BAD_PRICE"),
        (b"AAPL,99999999999999999999999999,1", "BAD_PRICE"),
        (b"AAPL,1.00001,1", "OFF_TICK"),
        (b"AAPL,0.000000001,1", "OFF_TICK"),
        (b"ES=LONG8,4800.30,1", "OFF_TICK"),
        (b"AAPL,1,0", "BAD_SIZE"),
        (b"AAPL,1,1.5", "BAD_SIZE"),
        (b"AAPL,1,-1", "BAD_SIZE"),
        (b"BRK.A,1,150", "BAD_SIZE"),
        (b"AAPL,1,2147483648", "BAD_SIZE"),
        (b"BTCUSDT,1,0.000001", "BAD_SIZE"),
        (b"AAPL,1,1,", "BAD_TIME"),
        (b"AAPL,1,1,86400", "BAD_TIME"),
        (b"AAPL,1,1,24:00:00", "BAD_TIME"),
        (b"AAPL,1,1,09:60:00", "BAD_TIME"),
        (b"AAPL,1,1,09:30:60", "BAD_TIME"),
        (b"AAPL,1,1,09:30:000", "BAD_TIME"),
        (b"AAPL,1,1,.9:30:00", "BAD_TIME"),
        (b"AAPL,1,1,34200.0000000001", "BAD_TIME"),
        (b"AAPL,1", "BAD_FIELDS"),
        (b"AAPL", "BAD_FIELDS"),
        (b"AAPL,1,1,1,1", "BAD_FIELDS"),
        (b"AAPL,1," + b"0" * MAX_LINE_BYTES + b"1", "TOO_LONG"),
    ],
)
def test_a_bad_line_is_counted_by_its_reason_and_the_next_is_read(line: bytes, reason: str) -> None:
    assert parse(line + b"\nAAPL,1,1") == ([(7, 10_000, 1, 0)], {reason: 1, "TICKS": 1})
    assert reference(line)[1] == {reason: 1}


def test_the_limits_themselves_are_taken() -> None:
    data = (
        b"AAPL,214748.3647,2147483647,23:59:59.999999999\nAAPL,0.0001,1,0\n"
        b"AAPL,00000000000000000000.00010000000000,001."
    )
    assert parse(data)[0] == [(7, MAX_PRICE_TICKS, MAX_QTY_LOTS, 86_400 * 10**9 - 1), (7, 1, 1, 0), (7, 1, 1, 0)]


def test_what_does_not_fit_the_output_is_counted() -> None:
    assert parse(b"AAPL,1,1\n" * 5, room=3) == ([(7, 10_000, 1, 0)] * 3, {"TICKS": 3, "NO_ROOM": 2})


def test_bytes_outside_of_the_buffer_are_never_read() -> None:
    """A length that lies is cut to the buffer, and a table without symbols knows none."""
    buf = np.frombuffer(b"AAPL,1,1", np.uint8).copy()
    out, counters = np.zeros(4, TICK), np.zeros(N_TEXT_COUNTS, np.int64)
    assert parse_ticks(buf, 0, 1 << 40, KEYS, IDS, TICKS_E8, LOTS_E8, out, counters) == 1
    assert parse_ticks(buf, 8, 100, KEYS, IDS, TICKS_E8, LOTS_E8, out, counters) == 0
    assert parse_ticks(buf, -3, 7, KEYS, IDS, TICKS_E8, LOTS_E8, out, counters) == 0
    empty = np.empty(0, np.int64)
    assert parse_ticks(buf, 0, 8, empty, empty, empty, empty, out, counters) == 0
    assert counters[TextCount.UNKNOWN_SYMBOL] == 1


_FIELD = st.one_of(
    st.sampled_from(
        [*TABLE, "MSFT", "", " AAPL\t", "1", "0", "1.5", "0.25", "34200.000000001", "09:30:00", "23:59:59.5"]
    ),
    st.decimals(min_value=0, max_value=10**11, places=4, allow_nan=False).map(str),
    st.from_regex(r"[0-9.:]{0,30}", fullmatch=True),
)
_LINE = st.lists(_FIELD, min_size=2, max_size=5).map(",".join)
_VALID = st.tuples(
    st.sampled_from(sorted(TABLE)),
    st.integers(1, 10**7),
    st.integers(1, 10**6),
    st.sampled_from(["", ",34200", ",1.5"]),
).map(lambda t: f"{t[0]},{t[1] * TABLE[t[0]][1]},{t[2] * TABLE[t[0]][2]}{t[3]}")


@settings(max_examples=300, deadline=None)
@given(
    lines=st.lists(
        st.tuples(st.one_of(_LINE, _VALID), st.sampled_from(["\n", "\r\n", ";", "\r", "\n\n"])), max_size=8
    ),
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=3),
)
def test_random_lines_truncations_and_flipped_bytes_parse_as_in_plain_python(
    lines: list[tuple[str, str]], cut: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray("".join(line + end for line, end in lines).encode()[:cut])
    for at, byte in flips:
        if at < len(data):
            data[at] = byte
    assert parse(bytes(data)) == reference(bytes(data))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300))
@example(data=b"\xff" * 300)
@example(data=b"AAPL,1,1\x00")
def test_random_bytes_parse_as_in_plain_python(data: bytes) -> None:
    assert parse(data) == reference(data)
