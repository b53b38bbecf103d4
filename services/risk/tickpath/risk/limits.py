"""Limits and trading states: the rows that the kernel reads, and how people and Redis write them.

There is one table of rows for all scopes, so a control that applies in several scopes looks at several rows of the
same shape, and the tightest wins:

| row | scope |
| --- | --- |
| 0 | GLOBAL |
| 1..127 | STRATEGY with that id |
| 128 | ACCOUNT (one account today; more rows when there are more) |
| 129 + i | SYMBOL, instrument id i |

A limit is the largest *allowed* value. ``"unlimited"`` must be written out; a limit that is missing is an error, and
so is one that the scope does not have. Money is int64 in 1e-8 of the currency: an order's notional is
``qty_lots * price_ticks * tick_value_e8``, and limits of instruments with different tick sizes stay comparable.

This module must not import Numba: the side process uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tickpath.common.instruments import InstrumentTable
from tickpath.common.records import MAX_QTY_LOTS

UNLIMITED: Final = 2**62
UNLIMITED_WORD: Final = "unlimited"

GLOBAL_ROW: Final = 0
N_STRATEGIES: Final = 128
ACCOUNT_ROW: Final = N_STRATEGIES
FIRST_SYMBOL_ROW: Final = ACCOUNT_ROW + 1

#: The one account of today.
ACCOUNT_NAME: Final = "main"
#: Name in place of a strategy or symbol: the limits of all that have none of their own.
DEFAULT_NAME: Final = "*"

#: Largest window of an order rate, counted in orders: the size of the ring of send times.
WIDE_RING: Final = 4096
SYMBOL_RING: Final = 1024

LIMIT: Final = np.dtype(
    [
        ("state", "<i8"),  # TradingState
        ("max_order_qty_lots", "<i8"),
        ("max_order_notional_e8", "<i8"),  # 1e-8 of the currency
        ("collar_aggressive_bps", "<i8"),
        ("collar_passive_bps", "<i8"),
        ("max_spread_bps", "<i8"),  # a wider book gives no reference price
        ("max_long_lots", "<i8"),
        ("max_short_lots", "<i8"),  # as a positive number
        ("max_data_age_ns", "<i8"),
        ("order_rate", "<i8"),  # orders per window
        ("order_rate_window_ns", "<i8"),
        ("max_open_orders", "<i8"),
        ("price_step_ticks", "<i8"),  # of the instrument: price of an order is a multiple of it
        ("qty_step_lots", "<i8"),
        ("tick_value_e8", "<i8"),  # money of one tick of one lot
        ("trips_handled", "<i8"),  # alarms of the instrument that Redis has taken over, see LIVE.trips
    ]
)

Limits = npt.NDArray[np.void]


class TradingState(IntEnum):
    """What a scope may do; the worst that applies to an order counts."""

    ACTIVE = 0
    REDUCING = 1  # only orders that cannot enlarge or flip the position
    HALTED = 2  # no new orders; open ones are cancelled


class Scope(IntEnum):
    """What a limit or a trading state applies to."""

    GLOBAL = 0
    ACCOUNT = 1
    STRATEGY = 2
    SYMBOL = 3


class LimitError(ValueError):
    """Limits or a scope are wrong; `faults` has one line for each fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Field(NamedTuple):
    """How people write one limit."""

    column: str  # of LIMIT
    scale: int  # column value of 1
    most: int  # largest value that may be written, in the unit of people
    scopes: frozenset[Scope]
    unlimited: bool = True
    least: int = 0


_SYMBOL = frozenset({Scope.SYMBOL})
_ALL = frozenset(Scope)
_WIDE = _ALL - _SYMBOL
_NS_PER_MS = 1_000_000
_MAX_BPS = 1_000_000

#: Names in the configuration, in Redis and in the API. Rings bound ``order_rate``; see `most_allowed`.
FIELDS: Final[dict[str, Field]] = {
    "max_order_qty_lots": Field("max_order_qty_lots", 1, MAX_QTY_LOTS, _SYMBOL),
    "max_order_notional": Field("max_order_notional_e8", 10**8, 40_000_000_000, _SYMBOL),
    "collar_aggressive_bps": Field("collar_aggressive_bps", 1, _MAX_BPS, _SYMBOL),
    "collar_passive_bps": Field("collar_passive_bps", 1, _MAX_BPS, _SYMBOL),
    "max_spread_bps": Field("max_spread_bps", 1, _MAX_BPS, _SYMBOL),
    "max_long_lots": Field("max_long_lots", 1, 2**53, _SYMBOL),
    "max_short_lots": Field("max_short_lots", 1, 2**53, _SYMBOL),
    "max_data_age_ms": Field("max_data_age_ns", _NS_PER_MS, 86_400_000, _SYMBOL),
    "order_rate": Field("order_rate", 1, WIDE_RING, _ALL),
    "order_rate_window_ms": Field("order_rate_window_ns", _NS_PER_MS, 60_000, _ALL, unlimited=False, least=1),
    "max_open_orders": Field("max_open_orders", 1, 2**31, _WIDE),
}

_FRACTIONS: Final = frozenset({"max_order_notional", "max_data_age_ms"})

#: What a scope that the configuration says nothing about gets, written out into Redis.
OPEN_SCOPE: Final[dict[str, Any]] = {
    "order_rate": UNLIMITED_WORD,
    "order_rate_window_ms": 1000,
    "max_open_orders": UNLIMITED_WORD,
}


def fields_of(scope: Scope) -> list[str]:
    """Names of the limits that a scope has."""
    return [name for name, field in FIELDS.items() if scope in field.scopes]


def most_allowed(name: str, scope: Scope) -> int:
    """Largest number that may be written for a limit."""
    return SYMBOL_RING if name == "order_rate" and scope is Scope.SYMBOL else FIELDS[name].most


def check_limits(scope: Scope, given: Mapping[str, Any], *, whole: bool, where: str) -> dict[str, Any]:
    """Normalised copy of limits as people write them: numbers as text, or ``"unlimited"``.

    `whole` wants every limit of the scope. Raises LimitError with every fault at once; each begins with `where`.
    """
    faults: list[str] = []
    known = fields_of(scope)
    clean: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            faults.append(f"{where}.{name}: {scope.name} has no such limit; it has {', '.join(known)}")
            continue
        field = FIELDS[name]
        word = f" or {UNLIMITED_WORD!r}" if field.unlimited else ""
        allowed = f"allowed is {field.least} to {most_allowed(name, scope)}{word}"
        if value == UNLIMITED_WORD and field.unlimited:
            clean[name] = UNLIMITED_WORD
            continue
        try:
            if isinstance(value, bool):
                raise InvalidOperation
            number = Decimal(str(value))
            if number.is_nan():
                raise InvalidOperation
        except InvalidOperation:
            faults.append(f"{where}.{name} = {value!r}: not a number; {allowed}")
            continue
        if not (field.least <= number <= most_allowed(name, scope)):
            faults.append(f"{where}.{name} = {value!r}: out of range; {allowed}")
        elif number * field.scale % 1 or (name not in _FRACTIONS and number != number.to_integral_value()):
            faults.append(f"{where}.{name} = {value!r}: too many decimals; {allowed}")
        else:
            clean[name] = format(number.normalize(), "f")
    if whole:
        faults += [
            f"{where}.{name}: must be set ({UNLIMITED_WORD!r} if it is meant so)"
            for name in known
            if name not in given
        ]
    if faults:
        raise LimitError(faults)
    return clean


def new_rows(table: InstrumentTable) -> Limits:
    """LIMIT[129 + n] of a set of instruments: HALTED, and every limit 0, until `fill_row` sets them."""
    rows = np.zeros(FIRST_SYMBOL_ROW + len(table), dtype=LIMIT)
    rows["state"] = TradingState.HALTED
    symbols = rows[FIRST_SYMBOL_ROW:]
    symbols["price_step_ticks"] = table.array["price_step_ticks"]
    symbols["qty_step_lots"] = 1
    symbols["tick_value_e8"] = table.array["tick_value_e8"]
    return rows


def fill_row(rows: Limits, row: int, scope: Scope, limits: Mapping[str, Any]) -> None:
    """Write checked limits, all of them, into a row; what the scope does not have becomes unlimited."""
    for name, field in FIELDS.items():
        if scope not in field.scopes or limits[name] == UNLIMITED_WORD:
            rows[row][field.column] = UNLIMITED
        else:
            rows[row][field.column] = int(Decimal(str(limits[name])) * field.scale)


class Names:
    """Rows by name and back: symbols, strategies and the account of a deployment."""

    def __init__(self, table: InstrumentTable, strategies: Mapping[str, int] | None = None) -> None:
        self.table = table
        self.strategies = dict(strategies or {})
        self._strategy_names = {number: name for name, number in self.strategies.items()}

    def row(self, scope: Scope, name: str) -> int:
        """Row of a scope. Raises LimitError naming what there is."""
        if scope is Scope.GLOBAL:
            return GLOBAL_ROW
        if scope is Scope.ACCOUNT:
            if name in ("", ACCOUNT_NAME):
                return ACCOUNT_ROW
            raise LimitError([f"there is no account {name!r}; there is {ACCOUNT_NAME!r}"])
        if scope is Scope.STRATEGY:
            if name in self.strategies:
                return self.strategies[name]
            if name.isascii() and name.isdigit() and 0 < int(name) < N_STRATEGIES:
                return int(name)
            there = ", ".join(self.strategies) or "none with a name"
            raise LimitError([f"there is no strategy {name!r}; there are {there}, or an id from 1 to 127"])
        if name in self.table.ids:
            return FIRST_SYMBOL_ROW + self.table.ids[name]
        raise LimitError([f"there is no symbol {name!r} in the instrument table of {len(self.table)} symbols"])

    def key(self, scope: Scope, name: str) -> str:
        """Canonical name, ``SCOPE`` or ``SCOPE:NAME``: the field in Redis. Raises LimitError."""
        if name == DEFAULT_NAME and scope in (Scope.STRATEGY, Scope.SYMBOL):
            return f"{scope.name}:{DEFAULT_NAME}"
        return self.key_of_row(self.row(scope, name))

    def key_of_row(self, row: int) -> str:
        """``GLOBAL``, ``ACCOUNT:main``, ``STRATEGY:name`` or ``SYMBOL:name``."""
        if row == GLOBAL_ROW:
            return Scope.GLOBAL.name
        if row < ACCOUNT_ROW:
            return f"STRATEGY:{self._strategy_names.get(row, row)}"
        if row == ACCOUNT_ROW:
            return f"ACCOUNT:{ACCOUNT_NAME}"
        return f"SYMBOL:{self.table.symbols[row - FIRST_SYMBOL_ROW]}"


def split_key(key: str) -> tuple[Scope, str]:
    """Scope and name of ``SCOPE`` or ``SCOPE:NAME``. Raises LimitError."""
    scope, _, name = key.partition(":")
    try:
        return Scope[scope], name
    except KeyError:
        raise LimitError([f"there is no scope {scope!r}; there are {', '.join(Scope.__members__)}"]) from None
