"""Making a tape of `MESSAGE` records, and finding terms in which all prices of a recording are whole ticks."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import numpy as np
import numpy.typing as npt

from tickpath.common.protocols.itch50 import SIZES
from tickpath.common.records import MAX_PRICE_TICKS
from tickpath.sim.sources.kernels import encode as kernels
from tickpath.sim.sources.tape import Ints, Tape, Terms

_SIZES: Final = np.array(SIZES, np.int64)

#: Fewer different prices than this do not tell the step of an order's price.
_TELLING_PRICES: Final = 16
_MAX_STEP: Final = 1_000_000


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
