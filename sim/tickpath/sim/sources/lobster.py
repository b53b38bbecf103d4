"""LOBSTER message files, re-encoded as ITCH 5.0 (columns: see LOBSTER's own readme, and below).

| column | allowed |
| --- | --- |
| time | seconds after midnight, below 86400; rounded to ns (some files have noise behind the ninth decimal) |
| type | 1 submission, 2 partial cancel, 3 deletion, 4 execution, 5 hidden execution, 6 cross, 7 halt |
| order id | 1 to 2^48 - 1 in types 1 to 4; -1 or more in 5 and 6 |
| size | 1 to 2147483647, but in 7 |
| price | 1 to 2000000000 (1/10000 dollar); in 7: -1 halted, 0 quoting, 1 trading |
| direction | 1 buy order, -1 sell order, but in 7 |

An event becomes A, X, D, E, P, Q or H, in that order of types, with the event's time and order id; S, R, H, S come
first, at the time of the first event. A file of N levels leaves out what happens beyond them, so it does not tell
all of the book:

*With the orderbook file* beside it (same name, ``_orderbook_`` for ``_message_``), the book that the messages make
equals the recorded one after every event, in all recorded levels. What has to be put right comes directly before
the event's own message, with its time: orders that rest before the file begins, and size that appears in the window
unexplained, are added as synthetic orders (references from 2^48 on); orders that must be gone are deleted or reduced,
those first that no later event names. An event of an order not submitted in the file acts on the synthetic orders
of its price, the oldest first, so it can become more than one message.

*Without it*, events of unknown orders are counted; executions among them become P, so that the volume is right, and
the others are dropped. An order that the next order of the other side would cross, or that is better than the one
executed next, must have left unseen and is deleted before.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np

from tickpath.sim.sources.encode import tape_of
from tickpath.sim.sources.files import read_data
from tickpath.sim.sources.kernels import lobster as kernels
from tickpath.sim.sources.kernels.encode import MESSAGE
from tickpath.sim.sources.tape import Bytes, DataFileError, Ints, Tape

_COLUMNS: Final = {
    "time": "seconds after midnight, below 86400, as a decimal number",
    "type": "1 to 7",
    "order id": "1 to 281474976710655, and in types 5 and 6 also 0 and -1",
    "size": "1 to 2147483647",
    "price": "1 to 2000000000 (1/10000 dollar), and in type 7 one of -1, 0, 1",
    "direction": "1 (buy order) or -1 (sell order)",
}
_TICKER: Final = re.compile(r"[A-Z0-9.+\-=^#$*~@!%&]{1,8}")
_MESSAGE, _ORDERBOOK = "_message_", "_orderbook_"
_SUFFIXES: Final = ("", ".zst", ".gz")
_SYNTHETIC_PER_FILE: Final = 1 << 32


def load_lobster(path: Path, data: Bytes, locate: int) -> Tape:
    """Tape of the LOBSTER message file at `path` with the (decompressed) bytes `data`. Raises DataFileError."""
    return encode_lobster(path, data, _orderbook_of(path), locate)[0]


def encode_lobster(path: Path, data: Bytes, orderbook: Path | None, locate: int) -> tuple[Tape, Ints]:
    """The tape, and int64[rows]: how many of its messages have been sent after each event."""
    symbol = path.name.split("_")[0].upper()
    if _ORDERBOOK in path.name:
        msg = f"{path}: this is the orderbook file; name the message file, the orderbook is found beside it"
        raise DataFileError(msg)
    if not _TICKER.fullmatch(symbol):
        example = "AAPL_2012-06-21_34200000_57600000_message_5.csv"
        msg = f"{path}: the name must begin with the ticker and '_', as in {example}"
        raise DataFileError(msg)
    n = kernels.count_lines(data)
    if n == 0:
        msg = f"{path}: there is no event in it"
        raise DataFileError(msg)
    rows = np.empty((n, len(_COLUMNS)), np.int64)
    _parse(path, data, 9, rows)
    book = np.empty((0, 4), np.int64) if orderbook is None else _read_orderbook(orderbook, path, n)
    found = np.zeros(2, np.int64)
    fault = kernels.check(rows, book, found)
    if fault != kernels.OK:
        row, column = (int(value) for value in found)
        if column < len(_COLUMNS) or orderbook is None:
            raise DataFileError(_complaint(path, data, fault, row, column, rows.shape[1]))
        raise DataFileError(
            _complaint(orderbook, read_data(orderbook), fault, row, column - len(_COLUMNS), book.shape[1])
        )
    messages, row_ends, made = _replay(rows, book, kernels.SYNTHETIC + locate * _SYNTHETIC_PER_FILE)
    how = f"orderbook of {book.shape[1] // 4} levels" if len(book) else "no orderbook file"
    findings = {
        "events": n,
        "announced_orders": int(made[kernels.ANNOUNCED]),
        "stale_orders": int(made[kernels.STALE]),
        "named_orders_reduced": int(made[kernels.NAMED_STALE]),
        "unknown_references": int(made[kernels.UNKNOWN_REFERENCES]),
        "dropped_events": int(made[kernels.DROPPED]),
        "times_back": int(made[kernels.TIMES_BACK]),
    }
    return tape_of(messages, {symbol: locate}, f"LOBSTER {path.name} ({how})", findings), row_ends


def _replay(rows: Ints, book: Ints, base: int) -> tuple[np.ndarray, Ints, Ints]:
    """(MESSAGE[...], row_ends, made) of `kernels.replay`, with as much room as it takes."""
    n = len(rows)
    names, row_ends = np.empty(n, np.int64), np.empty(n, np.int64)
    slots, room = 2 * n + 4 * book.shape[1], 2 * n + 4 * book.shape[1]
    while True:
        orders = np.zeros((slots, kernels.ORDER_COLUMNS), np.int64)
        table = np.full((1 << (2 * n).bit_length(), 2), -1, np.int64)
        kernels.resolve(rows, table, names, orders)
        messages = np.empty(room, MESSAGE)
        made = np.zeros(kernels.MADE_COLUMNS, np.int64)
        levels = np.empty((2, slots, kernels.LEVEL_COLUMNS), np.int64)
        done = kernels.replay(
            rows, book, names, orders, levels, np.zeros(3, np.int64), base, messages, row_ends, made
        )
        needed = int(made[kernels.MESSAGES])
        if done and needed <= room:
            return messages[:needed], row_ends, made
        slots, room = (slots if done else 4 * slots), max(room, needed)


def _orderbook_of(path: Path) -> Path | None:
    """The orderbook file beside a message file, compressed in whatever way; None if there is none."""
    if _MESSAGE not in path.name:
        return None
    plain = path.name.replace(_MESSAGE, _ORDERBOOK).removesuffix(".zst").removesuffix(".gz")
    candidates = [path.with_name(plain + suffix) for suffix in _SUFFIXES]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_orderbook(path: Path, message_file: Path, n: int) -> Ints:
    data = read_data(path)
    first_line = data[: np.argmax(data == ord("\n"))] if (data == ord("\n")).any() else data
    n_columns = int((first_line == ord(",")).sum()) + 1
    if n_columns % 4:
        msg = f"{path}, line 1: {n_columns} columns; allowed is a multiple of 4 (ask price, size, bid price, size)"
        raise DataFileError(msg)
    rows = kernels.count_lines(data)
    if rows != n:
        msg = f"{path} has {rows} rows and {message_file.name} has {n}: files that belong together have the same"
        raise DataFileError(msg)
    book = np.empty((n, n_columns), np.int64)
    _parse(path, data, 0, book)
    return book


def _parse(path: Path, data: Bytes, decimals: int, out: Ints) -> None:
    found = np.zeros(2, np.int64)
    fault = kernels.parse(data, decimals, out, found)
    if fault != kernels.OK:
        raise DataFileError(_complaint(path, data, fault, int(found[0]), int(found[1]), out.shape[1]))


def _complaint(path: Path, data: Bytes, fault: int, row: int, column: int, n_columns: int) -> str:
    lines = bytes(data[: _end_of_line(data, row)]).split(b"\n")
    text = lines[row].decode("utf-8", "replace").rstrip("\r")
    shown = text if len(text) <= 100 else text[:100] + " ..."
    where = f"{path}, line {row + 1}: {shown!r}"
    is_book = n_columns != len(_COLUMNS) or _ORDERBOOK in path.name
    if fault in (kernels.TOO_FEW_COLUMNS, kernels.TOO_MANY_COLUMNS):
        amount = "fewer" if fault == kernels.TOO_FEW_COLUMNS else "more"
        names = "" if is_book else f": {', '.join(_COLUMNS)}"
        return f"{where} has {amount} than {n_columns} columns{names}"
    if is_book:
        allowed = "1 to 2000000000 for a price, 0 to 2147483647 for a size (0: no level)"
        if fault == kernels.NOT_SORTED:
            allowed = "levels from the best price to the worst, empty ones last"
        return f"{where}: column {column + 1} is wrong; allowed: {allowed}"
    name = list(_COLUMNS)[column]
    return f"{where}: column {column + 1} ({name}) is wrong; allowed: {_COLUMNS[name]}"


def _end_of_line(data: Bytes, row: int) -> int:
    ends = np.nonzero(data == ord("\n"))[0]
    return int(ends[row]) if row < len(ends) else len(data)
