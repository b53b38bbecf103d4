"""Reading ITCH and MoldUDP64 inside kernels: big-endian fields from a byte array, and the walk over blocks.

The readers are one unaligned load and one byte swap; they check no bounds: a message is checked once, as a whole,
against `LENGTHS`, a packet by `check_packet`. Values come as int64; a u64 from 2**63 on becomes negative.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tickpath.common.jit import inlined, kernel
from tickpath.common.protocols.itch50 import SIZES
from tickpath.common.protocols.moldudp64 import END_OF_SESSION, HEADER_SIZE, OFF_COUNT

#: Size of each type by its byte, 0 for a type that does not exist; int64[256].
LENGTHS = np.array(SIZES, dtype=np.int64)


def _load(builder, context, signature, args, bits):
    array = context.make_array(signature.args[0])(context, builder, args[0])
    word = ir.IntType(bits)
    pointer = builder.bitcast(builder.gep(array.data, [args[1]]), word.as_pointer())
    value = builder.bswap(builder.load(pointer, align=1))
    return value if bits == 64 else builder.zext(value, ir.IntType(64))


@intrinsic
def be16(_typing, buf, at):
    """u16 at byte `at` of `buf`, uint8[::1]."""
    return types.int64(buf, types.int64), lambda c, b, s, a: _load(b, c, s, a, 16)


@intrinsic
def be32(_typing, buf, at):
    """u32 at byte `at` of `buf`, uint8[::1]."""
    return types.int64(buf, types.int64), lambda c, b, s, a: _load(b, c, s, a, 32)


@intrinsic
def be64(_typing, buf, at):
    """u64 at byte `at` of `buf`, uint8[::1]."""
    return types.int64(buf, types.int64), lambda c, b, s, a: _load(b, c, s, a, 64)


@inlined
def be48(buf, at):
    """u48 at byte `at` of `buf`, uint8[::1]."""
    return be16(buf, at) << 32 | be32(buf, at + 2)


@kernel("int64(uint8[::1], int64, int64)")
def check_packet(buf, at, length):
    """Number of messages of the MoldUDP64 packet of `length` bytes at `at`: 0 heartbeat, 0xFFFF end of session.

    -1 when it is malformed: shorter than a header, or a block overruns it. Then nothing of it may be read.
    """
    if length < HEADER_SIZE:
        return -1
    count = be16(buf, at + OFF_COUNT)
    if count == END_OF_SESSION:
        return count
    end = at + length
    cursor = at + HEADER_SIZE
    for _ in range(count):
        if cursor + 2 > end:
            return -1
        cursor += 2 + be16(buf, cursor)
        if cursor > end:
            return -1
    return count


@kernel("int64(uint8[::1], int64, int64)")
def count_frames(buf, at, length):
    """Number of messages in `length` bytes of u16 length and message each; -1 when they end inside a frame."""
    end = at + length
    cursor = at
    count = 0
    while cursor < end:
        if cursor + 2 > end:
            return -1
        cursor += 2 + be16(buf, cursor)
        if cursor > end:
            return -1
        count += 1
    return count
