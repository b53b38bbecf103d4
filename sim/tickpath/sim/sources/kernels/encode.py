"""From plain records to ITCH 5.0 bytes: what the generator and the readers of other formats have in common.

All write down what happens as `MESSAGE` records; `encode` makes the messages of it. Layouts as in
`tickpath.common.protocols.itch50`.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

from tickpath.common.jit import inlined, kernel

MESSAGE: Final = np.dtype(
    [
        ("time_ns", "<i8"),  # ns after midnight
        ("ref", "<i8"),  # order reference
        ("other", "<i8"),  # U: new reference; S: event code; H: trading state; Q: type of cross; F: the four letters
        ("shares", "<i8"),
        ("price", "<i4"),  # ticks
        ("instrument", "<i4"),  # row in symbols and locates
        ("kind", "u1"),  # type letter: S R H A F E X D U P Q
        ("side", "u1"),  # BUY or SELL
        ("pad", "u1", (6,)),
    ],
    align=True,
)
MESSAGES_TYPE: Final = numba.from_dtype(MESSAGE)[::1]

BUY, SELL = 66, 83  # B S
SYSTEM, DIRECTORY, TRADING, ADD, ADD_MPID, EXECUTED, CANCEL, DELETE, REPLACE, TRADE, CROSS = (
    83,
    82,
    72,
    65,
    70,
    69,
    88,
    68,
    85,
    80,
    81,
)


@kernel(numba.int64(MESSAGES_TYPE, *[numba.int64] * 9))
def note(messages, n, time_ns, instrument, kind, ref, other, side, shares, price):
    """Write record n, if there is room for it, and return n + 1 in any case."""
    if n < len(messages):
        messages[n].time_ns = time_ns
        messages[n].instrument = instrument
        messages[n].kind = kind
        messages[n].ref = ref
        messages[n].other = other
        messages[n].side = side
        messages[n].shares = shares
        messages[n].price = price
    return n + 1


@inlined
def put(data, at, size, value):
    """Write the lowest `size` bytes of an int64, big-endian; returns the byte after."""
    for i in range(size):
        data[at + i] = value >> 8 * (size - 1 - i) & 0xFF
    return at + size


@inlined
def _put_symbol(data, at, symbol):
    for i in range(8):
        data[at + i] = symbol[i]
    return at + 8


@kernel(
    numba.int64(
        MESSAGES_TYPE, numba.uint8[:, ::1], numba.int64[::1], numba.int64[::1], numba.uint8[::1], numba.int64[::1]
    )
)  # fmt: skip
def encode(messages, symbols, locates, sizes, data, offsets):
    """Make the bytes of MESSAGE[n]; returns the number of bytes.

    `symbols` uint8[m, 8], padded with spaces, and `locates` int64[m] by instrument; `sizes` int64[256] bytes of a
    message by type; `data` uint8[at least the sum of sizes + 2]; `offsets` int64[n + 1], filled. Match numbers of
    E, P and Q run from 1, tracking numbers are 0.
    """
    at = 0
    match = 0
    for i in range(len(messages)):
        offsets[i] = at
        m = messages[i]
        kind, symbol = m.kind, symbols[m.instrument]
        at = put(data, at, 2, sizes[kind])
        data[at] = kind
        at = put(data, at + 1, 2, 0 if kind == SYSTEM else locates[m.instrument])
        at = put(data, at, 2, 0)
        at = put(data, at, 6, m.time_ns)
        if kind == SYSTEM:
            at = put(data, at, 1, m.other)
            continue
        if kind == DIRECTORY:  # of a common stock in normal standing, round lots of 100
            at = _put_symbol(data, at, symbol)
            at = put(data, at, 8, 0x514E_0000_0064_4E43)  # Q N 100 N C
            at = put(data, at, 8, 0x5A20_504E_2031_4E00)  # "Z " P N " " 1 N, ETP leverage 0
            at = put(data, at, 4, 0x0000_004E)  # N: not inverse
            continue
        if kind == TRADING:
            at = _put_symbol(data, at, symbol)
            at = put(data, at, 1, m.other)
            at = put(data, at, 5, 0x20_2020_2020)
            continue
        is_print = kind == EXECUTED or kind == TRADE or kind == CROSS  # noqa: PLR1714 - `in` takes long to compile
        match += is_print
        at = put(data, at, 8, m.shares if kind == CROSS else m.ref)
        if kind == DELETE:
            continue
        if kind == REPLACE:
            at = put(data, at, 8, m.other)
        elif kind == ADD or kind == ADD_MPID or kind == TRADE:  # noqa: PLR1714, SIM109
            at = put(data, at, 1, m.side)
        if kind != CROSS:
            at = put(data, at, 4, m.shares)
        if kind != CANCEL and kind != EXECUTED:  # noqa: PLR1714
            if kind != REPLACE:
                at = _put_symbol(data, at, symbol)
            at = put(data, at, 4, m.price)
        if is_print:
            at = put(data, at, 8, match)
        if kind == CROSS:
            at = put(data, at, 1, m.other)
        elif kind == ADD_MPID:
            at = put(data, at, 4, m.other)
    offsets[len(messages)] = at
    return at
