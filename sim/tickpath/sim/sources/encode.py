"""Making a tape of `MESSAGE` records, and finding terms in which all prices of a recording are whole ticks."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from tickpath.common.protocols.itch50 import SIZES
from tickpath.common.records import MAX_PRICE_TICKS
from tickpath.sim.sources.kernels import encode as kernels
from tickpath.sim.sources.tape import DataFileError, Ints, Tape, Terms

_SIZES: Final = np.array(SIZES, np.int64)

#: Fewer different prices than this do not tell the step of an order's price.
_TELLING_PRICES: Final = 16
_MAX_STEP: Final = 1_000_000

_MAX_DECIMALS: Final = 8  # of the instrument table
_NS_PER_HOUR: Final = 3_600_000_000_000
_NS_PER_DAY: Final = 24 * _NS_PER_HOUR


def tape_of(
    messages: npt.NDArray[np.void],
    symbols: dict[str, int],
    source: str,
    findings: dict[str, int],
    terms: Mapping[str, Terms] | None = None,
) -> Tape:
    """The tape of MESSAGE[n], whose times must not go back; its instruments are the rows of `symbols` (-> locate)."""
    padded = np.array([list(symbol.encode("ascii").ljust(8)) for symbol in symbols], np.uint8)
    counts = np.bincount(messages["kind"], minlength=256)
    data = np.empty(int(counts @ (_SIZES + 2)), np.uint8)
    offsets = np.empty(len(messages) + 1, np.int64)
    kernels.encode(messages, padded, np.array(list(symbols.values()), np.int64), _SIZES, data, offsets)
    return Tape(
        data=data,
        offsets=offsets,
        time_ns=messages["time_ns"].copy(),
        symbols=dict(symbols),
        source=source,
        counts={chr(kind): int(counts[kind]) for kind in np.nonzero(counts)[0]},
        findings={key: value for key, value in findings.items() if value},
        terms=dict(terms or {}),
    )


def tick_decimals(prices: Ints, decimals: int, wanted: int) -> int:
    """Decimals of the tick (a power of ten, at most 1) for positive prices in units of 10 ** -`decimals`.

    All prices are multiples of it. It has `wanted` decimals, more where the prices need them, and fewer where they
    do not and the largest price would not fit MAX_PRICE_TICKS.
    """
    if not len(prices):
        return wanted
    common, highest = int(np.gcd.reduce(prices)), int(prices.max())
    needed = decimals
    while needed > 0 and common % 10 ** (decimals - needed + 1) == 0:
        needed -= 1
    found = max(needed, wanted)
    while found > needed and highest // 10 ** (decimals - found) > MAX_PRICE_TICKS:
        found -= 1
    return found


def tick_size(decimals: int) -> str:
    """``0.01`` of 2."""
    return f"{Decimal(1).scaleb(-decimals):f}"


def price_step(price_ticks: Ints) -> int:
    """The step of an order's price that all of these prices agree with; 1 where they are too few to tell."""
    distinct = np.unique(price_ticks)
    step = int(np.gcd.reduce(distinct)) if len(distinct) >= _TELLING_PRICES else 1
    return step if step <= _MAX_STEP else 1


def find_terms(path: Path, symbol: str, prices: Ints, decimals: int, wanted: int) -> tuple[int, Terms]:
    """How many of the units of `prices` (positive, 10 ** -`decimals`) a tick is, and terms with tick and step.

    The tick has at least `wanted` decimals (see `tick_decimals`). Raises DataFileError when it needs too many.
    """
    of_tick = tick_decimals(prices, decimals, wanted)
    if of_tick > _MAX_DECIMALS:
        msg = f"{path}: {symbol} has prices with {of_tick} decimals; allowed are at most {_MAX_DECIMALS}"
        raise DataFileError(msg)
    unit = 10 ** (decimals - of_tick)
    return unit, Terms(tick_size=tick_size(of_tick), price_step_ticks=price_step(prices // unit))


def after_midnight(path: Path, times_ns: Ints) -> tuple[Ints, int]:
    """Times since 1970 as ns after midnight UTC, and the hours taken off so that all lie in the day of the first.

    Raises DataFileError when they do not fit into a day.
    """
    times = times_ns - times_ns[0] // _NS_PER_DAY * _NS_PER_DAY
    late = int(times.max()) - _NS_PER_DAY
    hours = late // _NS_PER_HOUR + 1 if late >= 0 else 0
    if times[0] < hours * _NS_PER_HOUR:
        msg = f"{path}: it is longer than a day; allowed are files whose records lie within 23 hours"
        raise DataFileError(msg)
    return np.maximum(times - hours * _NS_PER_HOUR, 0), hours
