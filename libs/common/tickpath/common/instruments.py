"""Instruments: from integer ticks and lots to decimals at the edges, and from symbols to dense ids.

The table is a CSV file with the header ``symbol,tick_size,price_step_ticks,lot_size,multiplier,currency``; the id
of an instrument is its row. `tick_size` is the unit of every ``_ticks`` field, `price_step_ticks` the smallest step
of an order's price in that unit, `lot_size` the unit of every ``_lots`` field.
"""

from __future__ import annotations

import csv
import zlib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tickpath.common.records import N_SHARDS

COLUMNS: Final = ("symbol", "tick_size", "price_step_ticks", "lot_size", "multiplier", "currency")

INSTRUMENT: Final = np.dtype(
    [
        ("symbol", "S8"),  # space padded, as on the wire
        ("tick_e8", "<i8"),  # tick size in 1e-8 of the currency
        ("price4_per_tick", "<i8"),  # tick size in 1/10000 (the exchange's price unit)
        ("price_step_ticks", "<i8"),  # smallest step of an order's price
        ("lot_size", "<i8"),  # units of the underlying in a lot
        ("multiplier", "<i8"),  # money per price unit and lot
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

    def __len__(self) -> int:
        return len(self.symbols)

    def id_of(self, symbol: str) -> int:
        """Id of a symbol. Raises KeyError naming it."""
        return self.ids[symbol]

    def price(self, instrument: int, ticks: int) -> Decimal:
        """Decimal price of `ticks`."""
        return Decimal(int(ticks)) * Decimal(int(self.array["tick_e8"][instrument])).scaleb(-8)


def make_table(rows: list[tuple[str, str, int, int, int, str]]) -> InstrumentTable:
    """Table of rows in the order of COLUMNS. Raises InstrumentError."""
    faults: list[str] = []
    array = np.zeros(len(rows), dtype=INSTRUMENT)
    ids: dict[str, int] = {}
    for index, (symbol, tick_size, step, lot, multiplier, _) in enumerate(rows):
        where = f"row {index + 1} ({symbol!r})"
        if not (1 <= len(symbol) <= 8 and symbol.isascii() and symbol.isprintable() and " " not in symbol):
            faults.append(f"{where}: symbol must be 1 to 8 printable ASCII characters without spaces")
        if symbol in ids:
            faults.append(f"{where}: symbol stands in row {ids[symbol] + 1} already")
        ids.setdefault(symbol, index)
        try:
            tick = Decimal(tick_size)
            tick_e8 = int(tick.scaleb(8))
            if tick <= 0 or Decimal(tick_e8) != tick.scaleb(8):
                raise InvalidOperation
        except InvalidOperation:
            faults.append(f"{where}: tick_size {tick_size!r} must be a decimal above 0, a multiple of 0.00000001")
            continue
        for name, value in (("price_step_ticks", step), ("lot_size", lot), ("multiplier", multiplier)):
            if not 1 <= value <= 1_000_000:
                faults.append(f"{where}: {name} {value} must be from 1 to 1000000")
        if not faults:
            array[index] = (
                symbol.encode("ascii").ljust(8), tick_e8, tick_e8 // 10_000, step, lot, multiplier, shard_of(symbol)
            )  # fmt: skip
    if not rows:
        faults.append("there is no instrument in it")
    if faults:
        raise InstrumentError("\n".join(faults))
    return InstrumentTable(tuple(r[0] for r in rows), tuple(r[5] for r in rows), array, ids)


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
    if tuple(header) != COLUMNS:
        msg = f"{path}: the first line must be {','.join(COLUMNS)!r}, it is {','.join(header)!r}"
        raise InstrumentError(msg)
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            symbol, tick_size, step, lot, multiplier, currency = line
            rows.append((symbol, tick_size, int(step), int(lot), int(multiplier), currency))
        except ValueError:
            msg = f"{path}, line {number}: {','.join(line)!r} does not have the columns {','.join(COLUMNS)}"
            raise InstrumentError(msg) from None
    try:
        return make_table(rows)
    except InstrumentError as error:
        msg = f"{path}: {error}"
        raise InstrumentError(msg) from None


def save_instruments(table: InstrumentTable, path: Path) -> None:
    """Write the table so that `load_instruments` reads it back."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for index, symbol in enumerate(table.symbols):
            row = table.array[index]
            tick = Decimal(int(row["tick_e8"])).scaleb(-8).normalize()
            step, lot, multiplier = (int(row[name]) for name in ("price_step_ticks", "lot_size", "multiplier"))
            writer.writerow([symbol, f"{tick:f}", step, lot, multiplier, table.currencies[index]])
