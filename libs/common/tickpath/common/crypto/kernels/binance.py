"""The two messages that Binance sends all the time, found in one pass over the bytes: where their fields are.

Strict on purpose: whatever is not exactly ``{"stream":"...","data":{...}}`` with a trade or a depth difference in it
is left to the decoder that knows every message, and says what is wrong with it.
"""

from __future__ import annotations

import numba

from tickpath.common.crypto.kernels.l2 import byte, kernel
from tickpath.common.jit import always_inlined

# Fields of found, int64[FOUND_SIZE]. Positions are of the text; of strings, between the quotes.
(
    KIND, STREAM_END, SYMBOL, SYMBOL_END, FIRST, LAST, PREVIOUS, TIME, MAKER, LEFT, LEFT_END, RIGHT, RIGHT_END,
) = range(13)  # fmt: skip
FOUND_SIZE = 13

# Kinds: FIRST is t, LEFT and RIGHT are p and q; FIRST, LAST, PREVIOUS are U, u, pu, LEFT and RIGHT are b and a.
OTHER, TRADE, DIFFERENCE = 0, 1, 2

_HEAD = 11  # bytes of {"stream":"
_QUOTE, _COMMA, _COLON, _ZERO, _BACKSLASH = 34, 44, 58, 48, 92
_OPEN, _CLOSE, _OPEN_OBJECT, _CLOSE_OBJECT = 91, 93, 123, 125


@always_inlined
def _value_end(text, at, end):
    """Position after a value; -1 when there is none. A list ends with ]]; l2 reads what is in it."""
    first = byte(text, at)
    if first == _QUOTE:
        at += 1
        while at < end and byte(text, at) != _QUOTE and byte(text, at) != _BACKSLASH:
            at += 1
        return at + 1 if at < end and byte(text, at) == _QUOTE else -1
    if first == _OPEN:
        at += 1
        if at < end and byte(text, at) == _CLOSE:
            return at + 1
        while at + 1 < end and (byte(text, at) != _CLOSE or byte(text, at + 1) != _CLOSE):
            at += 1
        return at + 2 if at + 1 < end else -1
    begin = at
    while at < end and (0 <= byte(text, at) - _ZERO <= 9 or 97 <= byte(text, at) <= 122):
        at += 1
    return at if at > begin else -1


@always_inlined
def _whole(text, at, end):
    """A whole number of at most 18 digits, -1 when it is none."""
    if at >= end or end - at > 18 or (byte(text, at) == _ZERO and end - at > 1):
        return -1
    value = 0
    for i in range(at, end):
        digit = byte(text, i) - _ZERO
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@kernel(numba.int64(numba.uint8[::1], numba.int64, numba.int64[::1]))
def scan(text, n, found):
    """Find the fields of the message ``text[:n]``; its kind, OTHER for all that is not as expected."""
    for i in range(FOUND_SIZE):
        found[i] = -1
    end = n - 2
    if n < 40 or byte(text, n - 1) != _CLOSE_OBJECT or byte(text, n - 2) != _CLOSE_OBJECT:
        return OTHER
    at = _HEAD
    while at < end and byte(text, at) != _QUOTE and byte(text, at) != _BACKSLASH:
        at += 1
    found[STREAM_END] = at
    # ","data":{
    if (
        at + 10 >= end
        or byte(text, at) != _QUOTE
        or byte(text, at + 1) != _COMMA
        or byte(text, at + 9) != _OPEN_OBJECT
    ):
        return OTHER
    if (
        byte(text, at + 2) != _QUOTE
        or byte(text, at + 3) != 100
        or byte(text, at + 4) != 97
        or byte(text, at + 5) != 116
    ):
        return OTHER
    if byte(text, at + 6) != 97 or byte(text, at + 7) != _QUOTE or byte(text, at + 8) != _COLON:
        return OTHER
    at += 10
    kind = OTHER
    seen = 0
    while True:
        if at + 4 >= end or byte(text, at) != _QUOTE:
            return OTHER
        size = 1 if byte(text, at + 2) == _QUOTE else 2 if byte(text, at + 3) == _QUOTE else 0
        letter = byte(text, at + 1)
        pair = size == 2 and letter == 112 and byte(text, at + 2) == 117  # pu
        at += size + 2
        if size == 0 or byte(text, at) != _COLON:
            return OTHER
        begin = at + 1
        at = _value_end(text, begin, end)
        if at < 0:
            return OTHER
        if pair:
            found[PREVIOUS] = _whole(text, begin, at)
        elif size == 1:
            bit = 1 << (letter & 63)
            if seen & bit:
                return OTHER
            seen |= bit
            if letter == 101:  # e
                if (
                    at - begin == 7
                    and byte(text, begin + 1) == 116
                    and byte(text, begin + 2) == 114
                    and byte(text, begin + 3) == 97
                ):
                    kind = TRADE if byte(text, begin + 4) == 100 and byte(text, begin + 5) == 101 else OTHER
                elif (
                    at - begin == 13
                    and byte(text, begin + 1) == 100
                    and byte(text, begin + 6) == 85
                    and byte(text, begin + 11) == 101
                ):
                    kind = DIFFERENCE
            elif letter == 115:  # s
                found[SYMBOL], found[SYMBOL_END] = begin + 1, at - 1
            elif letter == 85 or letter == 116:  # noqa: PLR1714 - U t
                found[FIRST] = _whole(text, begin, at)
            elif letter == 117:  # u
                found[LAST] = _whole(text, begin, at)
            elif letter == 84:  # T
                found[TIME] = _whole(text, begin, at)
            elif letter == 109:  # m
                found[MAKER] = 1 if byte(text, begin) == 116 and at - begin == 4 else 0
                if byte(text, begin) != 116 and byte(text, begin) != 102:
                    return OTHER
            elif letter == 98 or letter == 112:  # noqa: PLR1714 - b p
                found[LEFT], found[LEFT_END] = begin, at
            elif letter == 97 or letter == 113:  # noqa: PLR1714 - a q
                found[RIGHT], found[RIGHT_END] = begin, at
        if at == end:
            break
        if at > end or byte(text, at) != _COMMA:
            return OTHER
        at += 1
    if found[SYMBOL] < 0 or found[FIRST] < 0 or found[LEFT] < 0 or found[RIGHT] < 0:
        return OTHER
    if kind == TRADE and (
        found[MAKER] < 0 or byte(text, found[LEFT]) != _QUOTE or byte(text, found[RIGHT]) != _QUOTE
    ):
        return OTHER
    if kind == DIFFERENCE and (
        found[LAST] < found[FIRST] or byte(text, found[LEFT]) != _OPEN or byte(text, found[RIGHT]) != _OPEN
    ):
        return OTHER
    found[KIND] = kind
    return kind
