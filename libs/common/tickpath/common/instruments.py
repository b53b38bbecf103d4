"""Instruments: from integer ticks and lots to decimals at the edges, and from symbols to dense ids.

The table is a CSV file with the header ``symbol,tick_size,price_step_ticks,lot_size,multiplier,currency,price_unit``
(the last column may be missing); the id of an instrument is its row.

| column | is |
| --- | --- |
| tick_size | the unit of every ``_ticks`` field, a decimal in the currency |
| price_step_ticks | the smallest step of an order's price, in ticks |
| lot_size | the unit of every ``_lots`` field: shares, contracts or coins in a lot; a fraction is allowed |
| multiplier | money that a lot is worth for each 1 of the price: its shares or coins, or a contract's point |
| price_unit | what 1 in a price field of the exchange means; 0.0001 when missing, as at Nasdaq |
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tickpath.common.records import N_SHARDS

COLUMNS: Final = ("symbol", "tick_size", "price_step_ticks", "lot_size", "multiplier", "currency", "price_unit")
_DEFAULT_PRICE_UNIT: Final = "0.0001"

#: A row: the first six columns, or all seven.
Row = tuple[str, str, int, int | str, int | str, str] | tuple[str, str, int, int | str, int | str, str, str]

INSTRUMENT: Final = np.dtype(
    [
        ("symbol", "S8"),  # space padded, as on the wire
        ("tick_e8", "<i8"),  # tick size in 1e-8 of the currency
        ("price_units_per_tick", "<i8"),  # tick size in the exchange's price unit; 0: it is no multiple of that
        ("price_step_ticks", "<i8"),  # smallest step of an order's price
        ("lot_size", "<i8"),  # quantity units of the exchange in a lot: its size, or 1 where that is a fraction
        ("tick_value_e8", "<i8"),  # money in 1e-8 of the currency that one lot gains by one tick
        ("shard", "<i8"),  # virtual shard 0..255, a stable hash of the symbol
    ]
)


class InstrumentError(Exception):
    """The instrument table is missing or wrong; the message lists every fault with its line."""


def shard_of(symbol: str) -> int:
    """Virtual shard of a symbol: CRC-32 modulo 256, so it never changes."""
    return zlib.crc32(symbol.encode("ascii")) % N_SHARDS


@dataclass(frozen=True, slots=True)
class InstrumentTable:
    """All instruments that a deployment knows; ids are dense, 0..n-1."""

    symbols: tuple[str, ...]
    currencies: tuple[str, ...]
    array: npt.NDArray[np.void]  # INSTRUMENT[n]
    ids: dict[str, int]
    texts: tuple[tuple[str, str, str], ...]  # lot_size, multiplier and price_unit as they were written

    def __len__(self) -> int:
        return len(self.symbols)

    def id_of(self, symbol: str) -> int:
        """Id of a symbol. Raises KeyError naming it."""
        return self.ids[symbol]

    def lot_e8(self, instrument: int) -> int:
        """Size of a lot in 1e-8; at least 1."""
        return max(1, int(Decimal(self.texts[instrument][0]).scaleb(8)))

    def price(self, instrument: int, ticks: int) -> Decimal:
        """Decimal price of `ticks`."""
        return Decimal(int(ticks)) * Decimal(int(self.array["tick_e8"][instrument])).scaleb(-8)


def make_table(rows: Sequence[Row]) -> InstrumentTable:
    """Table of rows in the order of COLUMNS. Raises InstrumentError."""
    faults: list[str] = []
    array = np.zeros(len(rows), dtype=INSTRUMENT)
    ids: dict[str, int] = {}
    for index, row in enumerate(rows):
        symbol, step = row[0], row[2]
        where = f"row {index + 1} ({symbol!r})"
        if not (1 <= len(symbol) <= 8 and symbol.isascii() and symbol.isprintable() and " " not in symbol):
            faults.append(f"{where}: symbol must be 1 to 8 printable ASCII characters without spaces")
        if symbol in ids:
            faults.append(f"{where}: symbol stands in row {ids[symbol] + 1} already")
        ids.setdefault(symbol, index)
        tick = _decimal(row[1])
        tick_e8 = int(tick.scaleb(8))
        if tick <= 0 or tick_e8 != tick.scaleb(8):
            faults.append(f"{where}: tick_size {row[1]!r} must be a decimal above 0, a multiple of 0.00000001")
            continue
        if not 1 <= step <= 1_000_000:
            faults.append(f"{where}: price_step_ticks {step} must be from 1 to 1000000")
        lot, multiplier, unit = map(_decimal, (row[3], row[4], row[6] if len(row) > 6 else _DEFAULT_PRICE_UNIT))
        for name, value in (("lot_size", lot), ("multiplier", multiplier), ("price_unit", unit)):
            if not 0 < value <= 1_000_000:
                faults.append(f"{where}: {name} {value} must be a decimal above 0 and at most 1000000")
        tick_value_e8 = tick_e8 * multiplier
        if tick_value_e8 != int(tick_value_e8):
            faults.append(
                f"{where}: tick_size * multiplier is {tick * multiplier}; it must be a multiple of 0.00000001"
            )
        if not faults:
            units = tick / unit
            array[index] = (
                symbol.encode("ascii").ljust(8),
                tick_e8,
                int(units) if units == int(units) else 0,
                step,
                int(lot) if lot == int(lot) else 1,
                int(tick_value_e8),
                shard_of(symbol),
            )
    if not rows:
        faults.append("there is no instrument in it")
    if faults:
        raise InstrumentError("\n".join(faults))
    texts = tuple((str(row[3]), str(row[4]), row[6] if len(row) > 6 else _DEFAULT_PRICE_UNIT) for row in rows)
    return InstrumentTable(tuple(r[0] for r in rows), tuple(r[5] for r in rows), array, ids, texts)


def _decimal(text: object) -> Decimal:
    """A decimal, -1 for what is none: every column must be above 0."""
    try:
        value = Decimal(str(text))
    except InvalidOperation:
        return Decimal(-1)
    return value if value.is_finite() else Decimal(-1)


def load_instruments(path: Path) -> InstrumentTable:
    """Read the instrument table. Raises InstrumentError with file, rows and what is allowed."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            lines = [line for line in reader if line]
    except OSError as error:
        msg = f"cannot read the instrument table {path}: {error.strerror}"
        raise InstrumentError(msg) from None
    if tuple(header) not in (COLUMNS, COLUMNS[:-1]):
        msg = (
            f"{path}: the first line must be {','.join(COLUMNS)!r} (the last is optional), it is {','.join(header)!r}"
        )
        raise InstrumentError(msg)
    rows: list[Row] = []
    for number, line in enumerate(lines, start=2):
        try:
            symbol, tick_size, step, lot, multiplier, currency, price_unit = [*line, _DEFAULT_PRICE_UNIT][:7]
            if len(line) != len(header):
                raise ValueError
            rows.append((symbol, tick_size, int(step), lot, multiplier, currency, price_unit))
        except ValueError:
            msg = f"{path}, line {number}: {','.join(line)!r} does not have the columns {','.join(header)}"
            raise InstrumentError(msg) from None
    try:
        return make_table(rows)
    except InstrumentError as error:
        msg = f"{path}: {error}"
        raise InstrumentError(msg) from None


def rows_of(table: InstrumentTable) -> list[Row]:
    """The rows of a table: `make_table` gives it back."""
    rows: list[Row] = []
    for index, symbol in enumerate(table.symbols):
        tick = Decimal(int(table.array["tick_e8"][index])).scaleb(-8).normalize()
        step = int(table.array["price_step_ticks"][index])
        lot, multiplier, price_unit = table.texts[index]
        rows.append((symbol, f"{tick:f}", step, lot, multiplier, table.currencies[index], price_unit))
    return rows


def save_instruments(table: InstrumentTable, path: Path) -> None:
    """Write the table so that `load_instruments` reads it back."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows_of(table))
