"""Walking over recorded ITCH: where each message begins, what is in it, and rewriting it for a merge.

Arrays of all kernels here: ``data`` uint8[bytes], messages with a big-endian u16 length before each; ``offsets``
int64[n + 1]; ``sizes`` int64[256], bytes of a message by type, 0 for a type that ITCH does not have.
"""

from __future__ import annotations

from tickpath.common.jit import inlined, kernel
from tickpath.sim.sources.kernels.encode import put

# Faults of `measure`.
OK, TRUNCATED, NOT_ITCH, SHORT = range(4)

#: Bits of `flags` by stock locate.
SEEN, ACTIVE = 1, 2

_HEADER_SIZE = 11


@inlined
def _u16(data, at):
    return data[at] << 8 | data[at + 1]


@inlined
def _u48(data, at):
    value = 0
    for i in range(6):
        value = value << 8 | data[at + i]
    return value


@inlined
def _i64(data, at):
    value = 0
    for i in range(8):
        value = value << 8 | data[at + i]
    return value


@inlined
def _is_order(kind):
    # A F E C X D U; spelled out, because `in` takes long to compile
    return kind == 65 or kind == 70 or kind == 69 or kind == 67 or kind == 88 or kind == 68 or kind == 85  # noqa: PLR1714


@kernel("int64(uint8[::1], int64[::1], int64[::1])")
def measure(data, sizes, found):
    """Count the messages and check their frames, from the first byte to the last.

    Fills `found`, int64[4]: fault (OK, TRUNCATED, NOT_ITCH, SHORT), the byte and the number of the message that it
    is in (both from 0), and the byte at which the messages end (a frame of length 0 that ends the data is not one).
    The first message must be of a known type and have its size; later ones may be longer than their type, or of
    an unknown one, but not shorter than the type, nor than the header that all types have.
    """
    end = len(data)
    at = 0
    n = 0
    found[0] = OK
    while at < end:
        found[1], found[2], found[3] = at, n, at
        if at + 2 > end:
            found[0] = TRUNCATED
            return n
        length = _u16(data, at)
        if length == 0 and at + 2 == end and n > 0:
            return n
        if at + 2 + length <= end and length >= _HEADER_SIZE:
            size = sizes[data[at + 2]]
            if n == 0 and size != length:
                found[0] = NOT_ITCH
                return n
            if length < size:
                found[0] = SHORT
                return n
        else:
            known = 0 if at + 2 >= end else sizes[data[at + 2]]
            if n == 0 and (known == 0 or known != length):
                found[0] = NOT_ITCH
            elif at + 2 + length > end:
                found[0] = TRUNCATED
            else:
                found[0] = SHORT
            return n
        at += 2 + length
        n += 1
    found[3] = at
    return n


@kernel("int64(uint8[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1])")
def index(data, symbol_at, offsets, time_ns, counts, symbols, flags):
    """Fill the index of data that `measure` found well. Returns how often the time went back.

    `symbol_at` int64[256]: byte of the symbol in a message by type, 0 where there is none. Filled: `offsets`;
    `time_ns` int64[n], held at the latest time when a message has an earlier one; `counts` int64[256] by type;
    `symbols` int64[65536], the first symbol of each stock locate as a big-endian number, 0 if none; `flags`
    int64[65536]: SEEN, and ACTIVE where there are orders or trades.
    """
    at = 0
    latest = 0
    went_back = 0
    previous = 0
    for i in range(len(time_ns)):
        offsets[i] = at
        kind = data[at + 2]
        locate = _u16(data, at + 3)
        stamp = _u48(data, at + 7)
        counts[kind] += 1
        went_back += stamp < previous
        previous = stamp
        latest = max(latest, stamp)
        time_ns[i] = latest
        flags[locate] |= SEEN
        if _is_order(kind) or kind == 80 or kind == 81:  # noqa: PLR1714 - P Q
            flags[locate] |= ACTIVE
        if symbols[locate] == 0 and symbol_at[kind] > 0:
            symbols[locate] = _i64(data, at + 2 + symbol_at[kind])
        at += 2 + _u16(data, at)
    offsets[len(time_ns)] = at
    return went_back


@kernel("int64(uint8[::1], int64[::1], int64[::1])")
def added_references(data, offsets, refs):
    """Collect the references of all orders that A, F and U make into `refs`, int64[at least n]; returns how many."""
    n = 0
    for i in range(len(offsets) - 1):
        at = offsets[i] + 2
        kind = data[at]
        if kind == 65 or kind == 70:  # noqa: PLR1714
            refs[n] = _i64(data, at + 11)
            n += 1
        elif kind == 85:
            refs[n] = _i64(data, at + 19)
            n += 1
    return n


@kernel("int64(uint8[::1], int64[::1], int64[::1])")
def rewrite_locates(data, offsets, locates):
    """Replace the stock locate of every message by `locates`, int64[65536]; returns how many changed."""
    changed = 0
    for i in range(len(offsets) - 1):
        at = offsets[i] + 3
        old = _u16(data, at)
        if locates[old] != old:
            put(data, at, 2, locates[old])
            changed += 1
    return changed


@kernel("int64(uint8[::1], int64[::1], int64)")
def shift_references(data, offsets, shift):
    """Add `shift` to every order reference but 0; returns the number of messages changed."""
    changed = 0
    for i in range(len(offsets) - 1):
        at = offsets[i] + 2
        kind = data[at]
        if not (_is_order(kind) or kind == 80):
            continue
        ref = _i64(data, at + 11)
        if ref != 0:
            put(data, at + 11, 8, ref + shift)
            changed += 1
        if kind == 85:
            put(data, at + 19, 8, _i64(data, at + 19) + shift)
    return changed


@kernel("void(uint8[::1], int64[::1], int64[::1], uint8[::1], int64[::1])")
def gather(data, offsets, order, out, out_offsets):
    """Copy the messages in the order of `order`, int64[n], to `out`, uint8[bytes of data], and index them."""
    to = 0
    for i in range(len(order)):
        out_offsets[i] = to
        for at in range(offsets[order[i]], offsets[order[i] + 1]):
            out[to] = data[at]
            to += 1
    out_offsets[len(order)] = to
