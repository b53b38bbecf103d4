"""Plain-text ticks, parsed in place: ``symbol,price,size[,time]`` lines, several per datagram.

A line ends with LF, CR, both, ``;`` or the end of the datagram; empty lines are nothing. Blanks and tabs around a
field do not count. No floats: every digit is exact or the line is refused.

| field | is |
| --- | --- |
| symbol | 1 to 8 bytes, as in the instrument table |
| price | a decimal above 0 without sign or exponent, a multiple of the instrument's tick |
| size | a decimal above 0, a multiple of the instrument's lot |
| time | seconds after midnight (``34200.5``) or time of day (``09:30:00.5``), at most 9 decimals, before 24:00 |

A line with a fault is dropped and counted by reason; the next line is read as if nothing had been.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numba

from tickpath.common.jit import always_inlined, kernel
from tickpath.common.records import MAX_PRICE_TICKS, MAX_QTY_LOTS, NO_PRICE_TICKS, TICK, TickFlag

#: Longest line in bytes, without its end.
MAX_LINE_BYTES: Final = 128


class TextCount(IntEnum):
    """Places in the counters of `parse_ticks`: each line that is not empty is counted once."""

    TICKS = 0  # lines that became a tick
    UNKNOWN_SYMBOL = 1  # not in the table
    BAD_PRICE = 2  # no decimal above 0, or more than MAX_PRICE_TICKS
    OFF_TICK = 3  # a price that is no multiple of the tick
    BAD_SIZE = 4  # no decimal above 0, no multiple of the lot, or more than MAX_QTY_LOTS
    BAD_TIME = 5  # no time, or not before midnight
    BAD_FIELDS = 6  # not 3 or 4 fields
    TOO_LONG = 7  # more than MAX_LINE_BYTES
    NO_ROOM = 8  # `out` was full


#: Length of the counters of `parse_ticks`.
N_TEXT_COUNTS: Final = len(TextCount)

_TICKS, _UNKNOWN_SYMBOL, _BAD_PRICE, _OFF_TICK, _BAD_SIZE, _BAD_TIME, _BAD_FIELDS, _TOO_LONG, _NO_ROOM = map(
    int, TextCount
)
_TRADE = int(TickFlag.TRADE)
_BLANK, _TAB, _LF, _CR, _COMMA, _DOT, _ZERO, _COLON, _SEMICOLON = (ord(c) for c in " \t\n\r,.0:;")
_E8_DECIMALS = 8
_NS_DECIMALS = 9
_MAX_DIGITS = 18  # before the dot and up to the last decimal that counts: any such number fits int64
_BAD, _FINER = -1, -2
_NS_PER_S = 1_000_000_000
_NS_PER_DAY = 86_400 * _NS_PER_S


@always_inlined
def _decimal(buf, at, end, decimals):
    """The decimal ``buf[at:end]`` times 10 ** `decimals`; _BAD: none, or too large; _FINER: that is no integer."""
    value = 0
    digits = 0
    scale = decimals
    finer = False
    seen_dot = False
    seen_digit = False
    for i in range(at, end):
        byte = numba.int64(buf[i])
        digit = byte - _ZERO
        if byte == _DOT and not seen_dot:
            seen_dot = True
        elif digit < 0 or digit > 9:
            return _BAD
        elif seen_dot and scale == 0:
            seen_digit = True
            finer = finer or digit > 0
        else:
            seen_digit = True
            scale -= seen_dot
            value = value * 10 + digit
            digits += digits > 0 or digit > 0
            if digits + scale > _MAX_DIGITS:
                return _BAD
    if not seen_digit:
        return _BAD
    if finer:
        return _FINER
    for _ in range(scale):
        value *= 10
    return value


@always_inlined
def _time(buf, at, end):
    """ns after midnight of seconds or a time of day; negative if it is neither, or not before midnight."""
    if end - at < 8 or buf[at + 2] != _COLON or buf[at + 5] != _COLON:
        seconds = _decimal(buf, at, end, _NS_DECIMALS)
        return seconds if seconds < _NS_PER_DAY else _BAD
    for i in range(8):
        if i != 2 and i != 5 and buf[at + i] == _DOT:  # noqa: PLR1714 - `in` takes long to compile
            return _BAD
    if end - at > 8 and buf[at + 8] != _DOT:
        return _BAD
    hours = _decimal(buf, at, at + 2, 0)
    minutes = _decimal(buf, at + 3, at + 5, 0)
    seconds = _decimal(buf, at + 6, end, _NS_DECIMALS)
    if not 0 <= hours <= 23 or not 0 <= minutes <= 59 or not 0 <= seconds < 60 * _NS_PER_S:
        return _BAD
    return (hours * 60 + minutes) * 60 * _NS_PER_S + seconds


@always_inlined
def _find(keys, key):
    """Index of a key in ascending `keys`, -1 if it is not there."""
    low = 0
    high = len(keys)
    while low < high:
        middle = (low + high) >> 1
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low if low < len(keys) and keys[low] == key else -1


@always_inlined
def _is_blank(byte):
    return byte == _BLANK or byte == _TAB  # noqa: PLR1714 - `in` takes long to compile


@always_inlined
def _line(buf, at, end, keys, key_ids, tick_e8, lot_e8, out, n):
    """Read the line ``buf[at:end]`` into ``out[n]``; its TextCount."""
    key = 0
    price = 0
    lots = 0
    time_ns = 0
    row = -1
    fault = _TICKS
    field = 0
    start = at
    for i in range(at, end + 1):
        if i < end and buf[i] != _COMMA:
            continue
        first = start
        last = i
        while first < last and _is_blank(buf[first]):
            first += 1
        while last > first and _is_blank(buf[last - 1]):
            last -= 1
        if field > 3:
            return _BAD_FIELDS
        if fault == _TICKS:
            if field == 0:
                key = 0
                for k in range(8):
                    byte = numba.int64(buf[first + k]) if first + k < last else _BLANK
                    key = key << 8 | byte
                row = _find(keys, key) if 0 < last - first <= 8 else -1
                if row < 0:
                    fault = _UNKNOWN_SYMBOL
            elif field == 1:
                price = _decimal(buf, first, last, _E8_DECIMALS)
                if price == _FINER:  # a tick has at most 8 decimals
                    fault = _OFF_TICK
                elif price <= 0 or price // tick_e8[row] > MAX_PRICE_TICKS:
                    fault = _BAD_PRICE
                elif price % tick_e8[row] != 0:
                    fault = _OFF_TICK
            elif field == 2:
                lots = _decimal(buf, first, last, _E8_DECIMALS)
                if lots <= 0 or lots % lot_e8[row] != 0 or lots // lot_e8[row] > MAX_QTY_LOTS:
                    fault = _BAD_SIZE
            else:
                time_ns = _time(buf, first, last)
                if time_ns < 0:
                    fault = _BAD_TIME
        field += 1
        start = i + 1
    if field < 3:
        return _BAD_FIELDS
    if fault != _TICKS:
        return fault
    if n >= len(out):
        return _NO_ROOM
    tick = out[n]
    tick.cause_seq = 0
    tick.exch_ns = time_ns
    tick.recv_ns = 0
    tick.decoded_ns = 0
    tick.bid_ticks = NO_PRICE_TICKS
    tick.ask_ticks = NO_PRICE_TICKS
    tick.bid_lots = 0
    tick.ask_lots = 0
    tick.last_ticks = price // tick_e8[row]
    tick.last_lots = lots // lot_e8[row]
    tick.volume_lots = 0
    tick.instrument = key_ids[row]
    tick.flags = _TRADE
    return _TICKS


@kernel(
    numba.int64(
        numba.uint8[::1],
        numba.int64,
        numba.int64,
        numba.int64[::1],
        numba.int64[::1],
        numba.int64[::1],
        numba.int64[::1],
        numba.from_dtype(TICK)[::1],
        numba.int64[::1],
    ),
)
def parse_ticks(buf, at, length, keys, key_ids, tick_e8, lot_e8, out, counters):
    """Parse the datagram ``buf[at:at + length]``, uint8[::1], into `out`, TICK[::1]; returns the number of ticks.

    `keys` int64[n]: the symbols as 8 bytes padded with spaces, read big-endian, ascending. `key_ids`, `tick_e8` and
    `lot_e8`, int64[n] each: instrument, and tick and lot in 1e-8, above 0, of each key. `counters`
    int64[N_TEXT_COUNTS], see `TextCount`: added to. A tick has the instrument, TRADE, last_ticks, last_lots and
    exch_ns (0 if the line has no time); cause and other stamps are 0 and for the caller, the book sides are empty.
    Bytes outside of `buf` are never read, whatever `at` and `length` say.
    """
    end = min(at + length, len(buf))
    n = 0
    start = max(at, 0)
    for i in range(start, end + 1):
        if i < end and buf[i] != _LF and buf[i] != _CR and buf[i] != _SEMICOLON:
            continue
        if i > start:
            outcome = _TOO_LONG
            if i - start <= MAX_LINE_BYTES:
                outcome = _line(buf, start, i, keys, key_ids, tick_e8, lot_e8, out, n)
            counters[outcome] += 1
            n += outcome == _TICKS
        start = i + 1
    return n
