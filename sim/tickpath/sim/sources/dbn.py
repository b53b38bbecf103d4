"""Databento market by order (DBN versions 1 to 3), told as ITCH 5.0. Layouts: Databento's documentation of DBN.

| record | becomes |
| --- | --- |
| A add | A, under a reference of our own |
| M modify | X where only the size falls (the order keeps its place), else U, under a new reference |
| C cancel | X, or D where nothing is left |
| R clear | D of every order of the instrument |
| T trade | P with the whole size, for the resting side: volume and trades are those of the file |
| F fill | nothing: the trade has been told, and the C or M that follows changes the book |

So the book is the vendor's after every record, also in between. A client's order that rests at the front is filled
by the P; the cancels after it shorten the queue of those that are not. Records of the vendor's snapshot are adds like
others.

The tick is 0.01 or finer where prices need it, the step of an order's price what all prices have in common, the
multiplier that of the future where its root is known, else 1, the currency USD. Times are ts_recv after midnight UTC.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tickpath.sim.sources.encode import after_midnight, find_terms, tape_of
from tickpath.sim.sources.kernels import dbn as kernels
from tickpath.sim.sources.kernels.encode import MESSAGE
from tickpath.sim.sources.tape import Bytes, DataFileError, Ints, Tape, Terms

_ALLOWED: Final = "allowed: Databento DBN of version 1, 2 or 3 with the schema mbo (market by order)"
_VERSIONS: Final = (1, 2, 3)
_FIXED_SIZE: Final = 100
_V1_SYMBOL_SIZE: Final = 22
_DECIMALS: Final = 9
_WANTED_DECIMALS: Final = 2
_N_LOCATES: Final = 1 << 16
_SYMBOL: Final = re.compile(r"[!-~]{1,8}")
_CME: Final = "GLBX.MDP3"
_CME_FUTURE: Final = re.compile(r"([A-Z0-9]{2,3})[FGHJKMNQUVXZ]\d{1,2}")
#: Money for 1 in the price of one contract, by the root of its symbol (from the exchange's contract specifications).
_CME_MULTIPLIERS: Final = {
    "ES": "50", "MES": "5", "NQ": "20", "MNQ": "2", "RTY": "50", "M2K": "5", "YM": "5", "MYM": "0.5",
    "CL": "1000", "MCL": "100", "NG": "10000", "GC": "100", "MGC": "10", "SI": "5000", "HG": "25000",
    "ZB": "1000", "ZN": "1000", "ZF": "1000", "ZT": "2000", "SR3": "2500", "ZC": "50", "ZS": "50", "ZW": "50",
    "6E": "125000", "6B": "62500", "6A": "100000", "6C": "100000", "6S": "125000",
}  # fmt: skip


class Metadata(NamedTuple):
    """What the head of a DBN file says."""

    version: int
    dataset: str
    names: dict[int, str]  # instrument id -> raw symbol, as far as the mappings say
    size: int  # bytes up to the first record


def load_dbn(path: Path, data: Bytes, locate: int) -> Tape:
    """Tape of the DBN file at `path` with the (decompressed) bytes `data`. Raises DataFileError."""
    return encode_dbn(path, data, locate)[0]


def encode_dbn(path: Path, data: Bytes, locate: int) -> tuple[Tape, Ints]:
    """The tape, and int64[records]: how many of its messages have been sent after each record."""
    head = read_metadata(path, data)
    records, findings = read_records(path, data, head.size)
    ids, instruments = np.unique(records["instrument"], return_inverse=True)
    if locate + len(ids) > _N_LOCATES:
        msg = f"{path}: there are {len(ids)} instruments in it; allowed are at most {_N_LOCATES - locate}"
        raise DataFileError(msg)
    symbols = _symbols([int(one) for one in ids], head, findings)
    units = np.empty(len(ids), np.int64)
    terms: dict[str, Terms] = {}
    prices = _prices(records)
    for i, symbol in enumerate(symbols):
        own = prices[(instruments == i) & (prices > 0)]
        units[i], found = find_terms(path, symbol, own, _DECIMALS, _WANTED_DECIMALS)
        terms[symbol] = found._replace(multiplier=_multiplier(symbol, head))
    stamps = np.where(records["recv_ns"] >= 0, records["recv_ns"], records["event_ns"])
    times, findings["hours_shifted"] = after_midnight(path, stamps)
    messages, row_ends, made = _tell(records, instruments, times, units, locate << 40)
    findings |= {
        "times_back": int(made[kernels.TIMES_BACK]),
        "bad_records": int(made[kernels.BAD]),
        "unknown_orders": int(made[kernels.UNKNOWN]),
        "repeated_orders": int(made[kernels.REPEATED]),
        "over_cancelled": int(made[kernels.OVER_CANCELLED]),
        "ignored_records": int(made[kernels.IGNORED]),
        "fills": int(made[kernels.FILLS]),
    }
    locates = {symbol: locate + i for i, symbol in enumerate(symbols)}
    return tape_of(messages, locates, f"Databento {head.dataset} {path.name}", findings, terms), row_ends


def read_metadata(path: Path, data: Bytes) -> Metadata:
    """The head of a DBN file. Raises DataFileError."""
    version = int(data[3]) if len(data) > 8 else 0
    if len(data) > 8 and version not in _VERSIONS:
        msg = f"{path}: this is DBN of version {version}; {_ALLOWED}"
        raise DataFileError(msg)
    size = 8 + int.from_bytes(data[4:8].tobytes(), "little")
    if len(data) <= 8 or size > len(data):
        msg = f"{path}: the file is truncated: it ends inside its metadata"
        raise DataFileError(msg)
    head = data[8:size].tobytes()
    try:
        names = dict(_mappings(head, version))
    except (struct.error, ValueError):
        msg = f"{path}: the metadata of the file are damaged; {_ALLOWED}"
        raise DataFileError(msg) from None
    return Metadata(version, _text(head[:16]), names, size)


def _mappings(head: bytes, version: int) -> Iterator[tuple[int, str]]:
    """(instrument id, raw symbol) of the mappings that are of this kind. Raises struct.error, ValueError."""
    width = _V1_SYMBOL_SIZE if version == 1 else struct.unpack_from("<H", head, 45)[0]
    at = _FIXED_SIZE + 4 + struct.unpack_from("<I", head, _FIXED_SIZE)[0]
    for _ in range(3):  # symbols, partial, not found
        at += 4 + width * int(struct.unpack_from("<I", head, at)[0])
    (n_mappings,) = struct.unpack_from("<I", head, at)
    at += 4
    for _ in range(n_mappings):
        (raw,) = struct.unpack_from(f"<{width}s", head, at)
        (n_intervals,) = struct.unpack_from("<I", head, at + width)
        at += width + 4
        for _ in range(n_intervals):
            (mapped,) = struct.unpack_from(f"<{width}s", head, at + 8)  # after start and end date
            at += 8 + width
            names = _text(raw), _text(mapped)
            if names[1].isdigit():  # raw symbol to instrument id
                yield int(names[1]), names[0]
            elif names[0].isdigit():  # or the other way round
                yield int(names[0]), names[1]


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("latin-1")


def read_records(path: Path, data: Bytes, at: int) -> tuple[npt.NDArray[np.void], dict[str, int]]:
    """MBO[n] of the records from byte `at` on (see `kernels.MBO`), and findings. Raises DataFileError."""
    found = np.zeros(3, np.int64)
    out = np.empty(len(data) - at, np.uint8)
    n = kernels.select(data, at, out, found)
    fault, end, others = (int(value) for value in found)
    if fault != kernels.OK:
        msg = f"{path}: the record at byte {end} is damaged: a record has at least 16 bytes; {_ALLOWED}"
        raise DataFileError(msg)
    if n == 0:
        msg = f"{path}: there is no market-by-order record in it, but {others} others; {_ALLOWED}"
        raise DataFileError(msg)
    records = out[: n * kernels.MBO.itemsize].view(kernels.MBO)
    return records, {
        "records": n,
        "other_records": others,
        "cut_off_bytes": len(data) - end,
        "snapshot_records": int((records["flags"] & kernels.SNAPSHOT > 0).sum()),
    }


def _symbols(ids: list[int], head: Metadata, findings: dict[str, int]) -> list[str]:
    """A symbol of 1 to 8 characters for each instrument: its name, or its id in hex where that is not one."""
    names = [head.names.get(one, "") for one in ids]
    good = [bool(_SYMBOL.fullmatch(name)) and names.count(name) == 1 for name in names]
    findings["renamed_symbols"] = good.count(False)
    return [name if is_good else f"{one:X}" for name, is_good, one in zip(names, good, ids, strict=True)]


def _prices(records: npt.NDArray[np.void]) -> Ints:
    """Price of each record that brings one into the book or prints one, else 0."""
    has_price = np.isin(records["action"], [ord(letter) for letter in "AMT"])
    prices: Ints = np.where(has_price, records["price"], 0)
    prices[(prices < 0) | (prices == 2**63 - 1)] = 0
    return prices


def _multiplier(symbol: str, head: Metadata) -> str:
    future = _CME_FUTURE.fullmatch(symbol)
    return _CME_MULTIPLIERS.get(future[1], "1") if future and head.dataset == _CME else "1"


def _tell(
    records: npt.NDArray[np.void], instruments: Ints, times: Ints, units: Ints, base: int
) -> tuple[npt.NDArray[np.void], Ints, Ints]:
    """(MESSAGE[...], row_ends, made) of `kernels.tell`, with as much room as it takes."""
    n = len(records)
    messages = np.empty(2 * n + 2 * len(units) + 2, MESSAGE)
    row_ends, made = np.empty(n, np.int64), np.zeros(kernels.MADE_COLUMNS, np.int64)
    while True:
        made[:] = 0
        kernels.tell(
            records,
            np.ascontiguousarray(instruments, np.int64),
            times,
            units,
            base,
            np.zeros((1 << (2 * n).bit_length(), 3), np.int64),
            np.zeros((n + 1, kernels.ORDER_COLUMNS), np.int64),
            np.zeros((len(units), 2), np.int64),
            messages,
            row_ends,
            made,
        )
        needed = int(made[kernels.MESSAGES])
        if needed <= len(messages):
            return messages[:needed], row_ends, made
        messages = np.empty(needed, MESSAGE)
