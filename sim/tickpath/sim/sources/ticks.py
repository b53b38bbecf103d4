"""Trades and quotes as CSV without header, told as ITCH 5.0.

| file | columns |
| --- | --- |
| ``equity_SYMBOL_date_trade.csv`` | time, price, shares, exchange, condition, suspicious |
| ``equity_SYMBOL_date_quote.csv`` | time, bid, bid size, ask, ask size, exchange, condition, suspicious |
| ``fx_SYMBOL_date_quote.csv`` | time, bid, ask |

Times are milliseconds after midnight, prices 1/10000 in the equity files and decimals in the others; suspicious is 0
or 1. A side of an equity quote that is 0,0 is not meant by its row; a price with size 0 takes the quote away.

A trade becomes a P. A quote is one order for each exchange and side (F with the exchange in its attribution, U, X,
D), so the book is the consolidated one. Files like this do not say when an exchange leaves the best price, so quotes
of the other side that a newer one would lock or cross are deleted first: they are stale. In an FX file a row is both
sides, of `FX_SIZE` units each.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np

from tickpath.sim.sources.encode import price_step, tape_of, tick_decimals, tick_size
from tickpath.sim.sources.files import Format
from tickpath.sim.sources.kernels import ticks as kernels
from tickpath.sim.sources.kernels.encode import MESSAGE
from tickpath.sim.sources.tape import Bytes, DataFileError, Ints, Tape, Terms

#: Size of a quote in a file that tells prices only.
FX_SIZE: Final = 1_000_000

_EQUITY_DECIMALS: Final = 4
_FX_DECIMALS: Final = 8
_FX_TICK_DECIMALS: Final = 5
_MS_DECIMALS: Final = 6  # of a millisecond: nanoseconds
_SYMBOL_IN_NAME: Final = re.compile(r"(?:equity_|fx_|forex_)?+([A-Za-z][A-Za-z0-9.+\-=]{0,7})[_.]", re.IGNORECASE)

_SKIP: Final = (kernels.SKIPPED, 0, 0)
_TIME: Final = (kernels.NUMBER, kernels.TIME, _MS_DECIMALS)
_EXCHANGE: Final = (kernels.LETTERS, kernels.CODE, 0)
_SUSPICIOUS: Final = (kernels.NUMBER, kernels.FLAG, 0)
_FIELDS: Final[dict[Format, dict[str, tuple[int, int, int]]]] = {
    Format.EQUITY_TRADES: {
        "time": _TIME,
        "price": (kernels.NUMBER, kernels.BID, 0),
        "shares": (kernels.NUMBER, kernels.BID_SIZE, 0),
        "exchange": _EXCHANGE,
        "condition": _SKIP,
        "suspicious": _SUSPICIOUS,
    },
    Format.EQUITY_QUOTES: {
        "time": _TIME,
        "bid price": (kernels.NUMBER, kernels.BID, 0),
        "bid size": (kernels.NUMBER, kernels.BID_SIZE, 0),
        "ask price": (kernels.NUMBER, kernels.ASK, 0),
        "ask size": (kernels.NUMBER, kernels.ASK_SIZE, 0),
        "exchange": _EXCHANGE,
        "condition": _SKIP,
        "suspicious": _SUSPICIOUS,
    },
    Format.FX_QUOTES: {
        "time": _TIME,
        "bid": (kernels.NUMBER, kernels.BID, _FX_DECIMALS),
        "ask": (kernels.NUMBER, kernels.ASK, _FX_DECIMALS),
    },
}
_KINDS: Final = {
    Format.EQUITY_TRADES: "equity trades",
    Format.EQUITY_QUOTES: "equity quotes",
    Format.FX_QUOTES: "FX quotes",
}


def load_ticks(path: Path, data: Bytes, kind: Format, locate: int) -> Tape:
    """Tape of the tick file at `path` with the (decompressed) bytes `data`. Raises DataFileError."""
    found = _SYMBOL_IN_NAME.match(path.name)
    if not found:
        example = "equity_AIG_20131007_trade.csv"
        msg = f"{path}: the name does not say the symbol (1 to 8 characters); allowed are names like {example}"
        raise DataFileError(msg)
    symbol = found[1].upper()
    rows = _parse(path, data, kind)
    is_fx = kind is Format.FX_QUOTES
    decimals = _FX_DECIMALS if is_fx else _EQUITY_DECIMALS
    prices = rows[:, [kernels.BID]] if kind is Format.EQUITY_TRADES else rows[:, [kernels.BID, kernels.ASK]]
    prices = prices[prices > 0]
    of_tick = tick_decimals(prices, decimals, _FX_TICK_DECIMALS if is_fx else decimals)
    divisor = 10 ** (decimals - of_tick)
    rows[:, kernels.BID] //= divisor
    rows[:, kernels.ASK] //= divisor
    terms = Terms(tick_size=tick_size(of_tick))
    if is_fx:
        rows[:, kernels.BID_SIZE] = np.where(rows[:, kernels.BID] > 0, FX_SIZE, 0)
        rows[:, kernels.ASK_SIZE] = np.where(rows[:, kernels.ASK] > 0, FX_SIZE, 0)
        currency = symbol[3:] if len(symbol) == 6 else "USD"
        terms = terms._replace(price_step_ticks=price_step(prices // divisor), currency=currency)
    made = np.zeros(kernels.MADE_COLUMNS, np.int64)
    messages = np.empty(0, MESSAGE)
    while True:
        made[:] = 0
        if kind is Format.EQUITY_TRADES:
            kernels.tell_trades(rows, messages, made)
        else:
            quoted = np.zeros((kernels.MAX_EXCHANGES, kernels.QUOTED_COLUMNS), np.int64)
            if not kernels.tell_quotes(rows, locate << 40, int(is_fx), quoted, messages, made):
                msg = f"{path}: there are more than {kernels.MAX_EXCHANGES} exchanges in it"
                raise DataFileError(msg)
        n = int(made[kernels.MESSAGES])
        if n <= len(messages):
            break
        messages = np.empty(n, MESSAGE)
    findings = {
        "records": len(rows),
        "times_back": int(made[kernels.TIMES_BACK]),
        "bad_records": int(made[kernels.BAD]),
        "unchanged_quotes": int(made[kernels.UNCHANGED]),
        "stale_quotes": int(made[kernels.STALE]),
        "crossed_quotes": int(made[kernels.CROSSED]),
        "suspicious_records": int(made[kernels.SUSPICIOUS]),
    }
    return tape_of(messages, {symbol: locate}, f"{_KINDS[kind]} {path.name}", findings, {symbol: terms})


def _parse(path: Path, data: Bytes, kind: Format) -> Ints:
    """int64[n, kernels.COLUMNS]. Raises DataFileError."""
    end = len(data)
    while end and data[end - 1] in b"\r\n":
        end -= 1
    text = data[:end]
    n = int((text == ord("\n")).sum()) + 1 if end else 0
    if n == 0:
        msg = f"{path}: there is no row in it"
        raise DataFileError(msg)
    fields = _FIELDS[kind]
    rows = np.zeros((n, kernels.COLUMNS), np.int64)
    found = np.zeros(2, np.int64)
    fault = kernels.parse(text, np.array(list(fields.values()), np.int64), rows, found)
    if fault == kernels.OK:
        found[:] = kernels.first_wrong_time(rows), 0
        fault = kernels.OK if found[0] < 0 else kernels.NOT_ALLOWED
    if fault != kernels.OK:
        raise DataFileError(_complaint(path, text, kind, fault, int(found[0]), int(found[1])))
    return rows


def _complaint(path: Path, text: Bytes, kind: Format, fault: int, row: int, column: int) -> str:
    starts = np.concatenate([[0], np.nonzero(text == ord("\n"))[0] + 1])
    line = text[starts[row] : starts[row] + 100].tobytes().split(b"\n")[0].decode("utf-8", "replace").rstrip("\r")
    names = list(_FIELDS[kind])
    where = f"{path}, line {row + 1}: {line!r}"
    if fault in (kernels.TOO_FEW_COLUMNS, kernels.TOO_MANY_COLUMNS):
        amount = "fewer" if fault == kernels.TOO_FEW_COLUMNS else "more"
        return f"{where} has {amount} than {len(names)} columns: {', '.join(names)}"
    name = names[column]
    allowed = "a number of at least 0"
    if name == "time":
        allowed = "milliseconds after midnight, below 86400000, with at most 6 decimals"
    elif name == "exchange":
        allowed = "1 to 4 letters"
    elif kind is Format.FX_QUOTES:
        allowed = f"a decimal of at least 0 with at most {_FX_DECIMALS} decimals"
    return f"{where}: column {column + 1} ({name}) is wrong; allowed: {allowed}"
