"""The books of all symbols of one venue, and what they tell as ITCH 5.0.

A codec puts in what the venue sent: whole books, changes of levels, trades, with prices and quantities as the text of
the venue; see `tickpath.common.crypto.kernels.l2` for what comes of it. `take` hands over the messages made so far.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import chain, count
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tickpath.common.crypto.kernels import l2
from tickpath.common.jit import direct
from tickpath.common.protocols.itch50 import frame, stock_directory, trading_action
from tickpath.common.records import MAX_PRICE_TICKS, MAX_QTY_LOTS

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

BID, ASK = l2.BID, l2.ASK

#: Best levels of a side that are told as ITCH unless something else is asked for.
WINDOW: Final = 1000
#: Levels of a side beyond which the worst book of a venue is taken for an attack, not for a market.
MAX_LEVELS: Final = 1 << 18

#: Decimals of money in the instrument table.
MONEY_DECIMALS: Final = 8

_REFS_PER_SYMBOL: Final = 1 << 44

_update, _trade, _clear = map(direct, (l2.update, l2.trade, l2.clear))


class Batch(NamedTuple):
    """Messages: number i is ``data[offsets[i] + 2 : offsets[i + 1]]``, with its length in the two bytes before."""

    data: Bytes
    offsets: Ints  # int64[n + 1]
    time_ns: Ints  # int64[n]: ns after midnight UTC


class Level(NamedTuple):
    """A price level, exact."""

    price: Decimal
    qty: Decimal


class _Symbol:
    """The arrays of one symbol."""

    __slots__ = ("alpha", "name", "pool", "prices", "short", "slots", "state", "units", "where")

    def __init__(self, name: str, short: str, locate: int) -> None:
        self.name = name
        self.short = short
        self.alpha: Bytes = np.frombuffer(short.encode("ascii").ljust(8), np.uint8).copy()
        self.prices = np.zeros((2, 256), np.int64)
        self.slots = np.zeros((2, 256), np.int32)
        self.pool = np.zeros((512, l2.POOL_COLUMNS), np.int64)
        self.state: Ints = np.zeros(l2.STATE_SIZE, np.int64)
        self.where: Ints = np.zeros(l2.WHERE_SIZE, np.int64)
        self.units: tuple[Decimal, Decimal] | None = None  # tick size and lot size, once it is told
        self.state[l2.FREE] = -1
        self.state[l2.LOCATE] = locate
        self.state[l2.NEXT_REF] = 1 + locate * _REFS_PER_SYMBOL
        self.state[[l2.TICK_MUL, l2.TICK_DIV, l2.LOT_MUL, l2.LOT_DIV]] = 1


class Market:
    """Symbols by number, 0 to n - 1, in the order in which they were added; their ITCH locate is number + 1."""

    def __init__(self, begin: Callable[[Market, int], None] | None = None) -> None:
        """`begin` is called with every symbol that is added."""
        self._begin = begin
        self._symbols: list[_Symbol] = []
        self.numbers: dict[str, int] = {}
        self._time_ns = 0
        self._text: Bytes = np.zeros(1 << 16, np.uint8)
        self._view = memoryview(self._text.data)
        self._rows = np.zeros((1 << 10, l2.ROW_COLUMNS), np.int64)
        self._out: Bytes = np.zeros(1 << 16, np.uint8)
        self._offsets: Ints = np.zeros((1 << 11) + 1, np.int64)
        self._times: Ints = np.zeros(1 << 11, np.int64)
        self._made: Ints = np.zeros(2, np.int64)
        self.time_ns = 0  # of the messages made from now on, ns after midnight UTC

    # Symbols.

    def add(self, name: str, short: str | None = None) -> int:
        """A symbol of the venue and its name in ITCH, see `short_names`; its number. Known names keep theirs."""
        if name in self.numbers:
            return self.numbers[name]
        known = {symbol.short for symbol in self._symbols}
        number = self.numbers[name] = len(self._symbols)
        self._symbols.append(_Symbol(name, short or short_names([name], known)[name], number + 1))
        self._place()
        if self._begin is not None:
            self._begin(self, number)
        return number

    @property
    def names(self) -> tuple[str, ...]:
        """Names at the venue, by number."""
        return tuple(symbol.name for symbol in self._symbols)

    @property
    def shorts(self) -> tuple[str, ...]:
        """Names in ITCH, by number."""
        return tuple(symbol.short for symbol in self._symbols)

    def tell(self, number: int, tick_size: Decimal, lot_size: Decimal, window: int = WINDOW) -> None:
        """From now on tell the best `window` levels of a symbol as ITCH, in these units; a directory comes first."""
        symbol = self._symbols[number]
        self._set_units(symbol, tick_size, lot_size)
        stamp = self.time_ns
        self._append(frame(stock_directory(number + 1, stamp, symbol.short, round_lot_size=1)))
        self._append(frame(trading_action(number + 1, stamp, symbol.short, "T")))
        symbol.state[l2.WINDOW] = window
        symbol.units = (tick_size, lot_size)

    def rehearse(self, number: int, window: int = WINDOW) -> None:
        """As `tell`, before the units are known: what is told is worth nothing, but `largest` and `scales` are."""
        self._symbols[number].state[l2.WINDOW] = window

    def units(self, number: int, reserve: int = 1) -> tuple[Decimal, Decimal]:
        """Tick size and lot size, powers of ten: the least that hold all values so far exactly, where that can be.

        Larger where `largest` would not fit ITCH otherwise (4 times the price, `reserve` times the quantity),
        and where a tick of a lot would be worth less than 0.00000001 of the currency.
        """
        price, qty = self.largest(number)
        price_scale, qty_scale = self.scales(number)
        tick = Decimal(1).scaleb(-min(price_scale, MONEY_DECIMALS))
        while 4 * price / tick > MAX_PRICE_TICKS:
            tick *= 10
        lot = Decimal(1).scaleb(-qty_scale)
        while reserve * qty / lot > MAX_QTY_LOTS or tick * lot < Decimal(1).scaleb(-MONEY_DECIMALS):
            lot *= 10
        return tick, lot

    def limit(self, number: int, levels: int) -> None:
        """Keep only so many best levels of each side after each change."""
        self._symbols[number].state[l2.LIMIT] = levels

    # What the venue sent.

    def update(self, number: int, bids: Any, asks: Any, *, snapshot: bool = False) -> int:
        """Set levels: JSON lists in bytes, of ``["price", "quantity"]`` or of objects; quantity 0 removes.

        `snapshot`: they are the whole book. Returns how many there were, -1 when the text is malformed: then nothing
        has changed.
        """
        middle = len(bids)
        end = middle + len(asks)
        self._reserve_text(end)
        self._view[:middle] = bids
        self._view[middle:end] = asks
        return self.update_at(number, 0, middle, middle, end, snapshot=snapshot)

    def update_at(
        self, number: int, bids: int, bids_end: int, asks: int, asks_end: int, *, snapshot: bool = False
    ) -> int:
        """`update` with the lists at these positions of `text`."""
        symbol = self._symbols[number]
        for _ in range(64):
            n: int = _update(symbol.where, self.time_ns, bids, bids_end, asks, asks_end, snapshot)
            if n >= 0:
                return n
            if not self._give(symbol, n):
                break
        return -1

    def trade(
        self, number: int, price: Any, qty: Any, side: int, trade_id: str | int = "", at: str | int = ""
    ) -> bool:
        """A trade against a resting order of `side`, price and quantity as JSON in bytes; False: they are malformed.

        `trade_id` and `at` (its time) are as the venue writes them.
        """
        middle = len(price)
        end = middle + len(qty)
        self._reserve_text(end)
        self._view[:middle] = price
        self._view[middle:end] = qty
        return self.trade_at(number, side, 0, middle, middle, end, trade_id, at)

    def trade_at(
        self, number: int, side: int, left: int, left_end: int, right: int, right_end: int,
        trade_id: str | int, at: str | int,
    ) -> bool:  # fmt: skip
        """`trade` with price and quantity at these positions of `text`. Every trade comes here."""
        del trade_id, at
        symbol = self._symbols[number]
        while code := _trade(symbol.where, self.time_ns, side, left, left_end, right, right_end):
            if not self._give(symbol, code):
                return False
        return True

    @property
    def text(self) -> Bytes:
        """Where `put` puts a message."""
        return self._text

    def put(self, message: bytes) -> int:
        """Put a message where `update_at` and `trade_at` find it; its length."""
        n = len(message)
        if n > len(self._text):
            self._reserve_text(n)
        self._view[:n] = message
        return n

    def clear(self, number: int) -> None:
        """Forget the book of a symbol; what was told of it is deleted."""
        symbol = self._symbols[number]
        while code := _clear(symbol.where, self.time_ns):
            self._give(symbol, code)

    # What is known.

    def checksum(self, number: int) -> int:
        """CRC-32 over the ten best levels of each side, in the manner of Kraken."""
        symbol = self._symbols[number]
        n = l2.checksum_text(symbol.prices, symbol.slots, symbol.pool, symbol.state, self._text)
        return zlib.crc32(self._view[:n])

    def side(self, number: int, side: int, most: int | None = None) -> list[Level]:
        """Levels of a side, best first."""
        symbol = self._symbols[number]
        n = int(symbol.state[l2.DEPTH + side])
        price_scale, qty_scale = self.scales(number)
        prices = symbol.prices[side, :n][::-1]
        qtys = symbol.pool[symbol.slots[side, :n][::-1], l2.QTY]
        live = np.nonzero(qtys)[0][:most]
        return [
            Level(Decimal(price).scaleb(-price_scale), Decimal(qty).scaleb(-qty_scale))
            for price, qty in zip(prices[live].tolist(), qtys[live].tolist(), strict=True)
        ]

    def best(self, number: int) -> tuple[Level | None, Level | None]:
        """Best bid and best ask."""
        bids, asks = self.side(number, BID, 1), self.side(number, ASK, 1)
        return (bids[0] if bids else None), (asks[0] if asks else None)

    def depth(self, number: int) -> tuple[int, int]:
        """Levels of the bids and of the asks."""
        state = self._symbols[number].state
        return int(state[l2.LIVE + BID]), int(state[l2.LIVE + ASK])

    def scales(self, number: int) -> tuple[int, int]:
        """Decimals of prices and of quantities: the least that hold all seen so far exactly."""
        state = self._symbols[number].state
        return int(state[l2.PRICE_SCALE]), int(state[l2.QTY_SCALE])

    def written(self, number: int) -> tuple[int, int]:
        """Decimals with which the venue writes prices and quantities of levels, zeros included: the most so far."""
        state = self._symbols[number].state
        return int(state[l2.PRICE_TEXT]), int(state[l2.QTY_TEXT])

    def largest(self, number: int) -> tuple[Decimal, Decimal]:
        """Largest price that was a best one or traded, and largest quantity told or traded, so far."""
        state = self._symbols[number].state
        price_scale, qty_scale = self.scales(number)
        return Decimal(int(state[l2.MAX_PRICE])).scaleb(-price_scale), Decimal(int(state[l2.MAX_QTY])).scaleb(
            -qty_scale
        )

    def counts(self) -> dict[str, int]:
        """What the books have counted, over all symbols."""
        fields = {
            "levels_set": l2.LEVELS_SET,
            "crossed": l2.CROSSED,
            "prices_hidden": l2.PRICES_HIDDEN,
            "prices_rounded": l2.PRICES_ROUNDED,
            "quantities_rounded": l2.QTYS_ROUNDED,
            "quantities_cut": l2.QTYS_CUT,
            "digits_cut": l2.DIGITS_CUT,
        }
        return {name: sum(int(symbol.state[field]) for symbol in self._symbols) for name, field in fields.items()}

    @property
    def waiting(self) -> int:
        """Messages made and not taken."""
        return int(self._made[0])

    def take(self) -> Batch | None:
        """The messages made since the last call, copied; None when there are none."""
        n, size = self._made.tolist()
        if n == 0:
            return None
        batch = Batch(self._out[:size].copy(), self._offsets[: n + 1].copy(), self._times[:n].copy())
        self._made[:] = 0
        return batch

    # Room.

    def _place(self) -> None:
        """Tell the kernels where the arrays are; after any of them was replaced."""
        for symbol in self._symbols:
            symbol.where[:] = (
                symbol.prices.ctypes.data, symbol.slots.ctypes.data, symbol.pool.ctypes.data, symbol.prices.shape[1],
                symbol.state.ctypes.data, symbol.alpha.ctypes.data, self._text.ctypes.data, len(self._text),
                self._rows.ctypes.data, len(self._rows), self._out.ctypes.data, len(self._out),
                self._offsets.ctypes.data, self._times.ctypes.data, len(self._times), self._made.ctypes.data,
            )  # fmt: skip

    def _reserve_text(self, size: int) -> None:
        if size > len(self._text):
            self._text = np.zeros(2 * size, np.uint8)
            self._view = memoryview(self._text.data)
            self._place()

    def _give(self, symbol: _Symbol, code: int) -> bool:
        """What a kernel asked for; False when it is not to be had."""
        needed = int(symbol.state[l2.NEEDED])
        if code == l2.MORE_PRICE_DECIMALS:
            self._rescale(symbol, needed - int(symbol.state[l2.PRICE_SCALE]), 0)
        elif code == l2.MORE_QTY_DECIMALS:
            self._rescale(symbol, 0, needed - int(symbol.state[l2.QTY_SCALE]))
        elif code == l2.MORE_ROWS:
            self._rows = np.zeros((needed, l2.ROW_COLUMNS), np.int64)
        elif code == l2.MORE_LEVELS:
            if needed > MAX_LEVELS:
                return False
            size = 1 << needed.bit_length()
            for name in ("prices", "slots"):
                smaller = getattr(symbol, name)
                larger = np.zeros((2, size), smaller.dtype)
                larger[:, : smaller.shape[1]] = smaller
                setattr(symbol, name, larger)
            pool = np.zeros((2 * size, l2.POOL_COLUMNS), np.int64)
            pool[: len(symbol.pool)] = symbol.pool
            symbol.pool = pool
        elif code == l2.MORE_ROOM:
            self._reserve(needed)
        else:
            return False
        self._place()
        return True

    def _reserve(self, size: int) -> None:
        n, used = self._made.tolist()
        messages = size // l2.MESSAGE_BYTES + 4
        if used + size > len(self._out):
            self._out = np.concatenate([self._out[:used], np.zeros(used + 2 * size, np.uint8)])
        if n + messages > len(self._times):
            more = np.zeros(n + 2 * messages, np.int64)
            self._offsets = np.concatenate([self._offsets[: n + 1], more])
            self._times = np.concatenate([self._times[:n], more])
        self._place()

    def _append(self, message: bytes) -> None:
        self._reserve(len(message) + l2.MESSAGE_BYTES)
        n, at = self._made.tolist()
        self._times[n] = self.time_ns
        self._out[at : at + len(message)] = np.frombuffer(message, np.uint8)
        self._made[:] = n + 1, at + len(message)
        self._offsets[n + 1] = at + len(message)

    def _rescale(self, symbol: _Symbol, price_decimals: int, qty_decimals: int) -> None:
        l2.rescale(symbol.prices, symbol.slots, symbol.pool, symbol.state, price_decimals, qty_decimals)
        if symbol.units is not None:
            self._set_units(symbol, *symbol.units)

    def _set_units(self, symbol: _Symbol, tick_size: Decimal, lot_size: Decimal) -> None:
        for size, scale, field in (
            (tick_size, l2.PRICE_SCALE, l2.TICK_MUL),
            (lot_size, l2.QTY_SCALE, l2.LOT_MUL),
        ):
            ratio = Fraction(1, 10 ** int(symbol.state[scale])) / Fraction(size)
            symbol.state[field], symbol.state[field + 1] = ratio.numerator, ratio.denominator


# --- names ---------------------------------------------------------------------------------------------------------

#: Currencies in which crypto venues quote, longest first where one is the end of another.
QUOTES: Final = (
    "FDUSD", "USDT", "USDC", "TUSD", "BUSD", "USDE", "USD", "EUR", "GBP", "CHF", "JPY", "TRY", "BRL", "AUD", "CAD",
    "BTC", "XBT", "ETH", "BNB", "DAI",
)  # fmt: skip
_SEPARATORS: Final = "/-_:."


def quote_of(name: str) -> str:
    """The quote currency in a venue's name of a symbol: ``BTCUSDT`` USDT, ``ADA/XBT`` XBT, ``BTCUSD_PERP`` USD."""
    for separator in "/-":
        if separator in name:
            return name.split(separator)[1].upper()
    stem = name.upper().split("_")[0]
    return next((quote for quote in QUOTES if stem.endswith(quote) and stem != quote), "USD")


def short_names(names: Iterable[str], taken: Sequence[str] | set[str] = ()) -> dict[str, str]:
    """Names of at most 8 characters for ITCH, all different and none of `taken`.

    The first of these that is short enough and free: the name; without its separators; without its quote currency
    (``BTC_PERP``, ``1000PEPE``); without both; its first five characters with three of its CRC-32 (base 36).
    """
    used = set(taken)
    found: dict[str, str] = {}
    for name in names:
        quote = quote_of(name)
        stem, underscore, rest = name.partition("_")
        base = stem.removesuffix(quote).rstrip(_SEPARATORS) or stem
        plain = str.maketrans("", "", _SEPARATORS)
        wanted = [name, name.translate(plain), base + underscore + rest, (base + rest).translate(plain)]
        hashed = (name.translate(plain)[:5] + _base36(zlib.crc32(name.encode()) + i) for i in count())
        found[name] = next(short for short in chain(wanted, hashed) if 1 <= len(short) <= 8 and short not in used)
        used.add(found[name])
    return found


def _base36(number: int) -> str:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return "".join(digits[number // 36**i % 36] for i in (2, 1, 0))
