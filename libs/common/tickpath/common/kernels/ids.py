"""Client order ids inside kernels; `tickpath.common.records` says what is in them and does the same in Python."""

from __future__ import annotations

import numpy as np

from tickpath.common.jit import kernel
from tickpath.common.records import _BASE32, CL_ORD_ID_LEN, N_SHARDS

_DIGITS = np.frombuffer(_BASE32, dtype=np.uint8).copy()
_VALUES = np.full(256, -1, dtype=np.int64)
_VALUES[_DIGITS] = np.arange(32)
_FIRST = ord("T")


@kernel("int64(int64, int64, int64, int64)")
def pack_cl_ord_id(strategy, shard, cause_seq, k):
    """Id of a decision, a positive int64; -1 when a part does not fit."""
    if not (0 < strategy < 128 and 0 <= shard < N_SHARDS and 0 <= cause_seq < 1 << 40 and 0 <= k < 256):
        return -1
    return strategy << 56 | shard << 48 | cause_seq << 8 | k


@kernel("int64(int64)")
def cause_seq_of(cl_ord_id):
    """The cause_seq in an id."""
    return cl_ord_id >> 8 & (1 << 40) - 1


@kernel("void(int64, uint8[::1], int64)")
def write_cl_ord_id(cl_ord_id, buf, at):
    """Write the 14 ASCII bytes of an id to ``buf[at:at + 14]``."""
    buf[at] = _FIRST
    for i in range(1, CL_ORD_ID_LEN):
        buf[at + i] = _DIGITS[cl_ord_id >> 5 * (CL_ORD_ID_LEN - 1 - i) & 31]


@kernel("int64(uint8[::1], int64)")
def read_cl_ord_id(buf, at):
    """Id in the 14 ASCII bytes ``buf[at:at + 14]``; -1 when this project cannot have written them."""
    if buf[at] != _FIRST or _VALUES[buf[at + 1]] > 7:  # 13 digits have 65 bits, an id has 63
        return -1
    value = 0
    for i in range(1, CL_ORD_ID_LEN):
        digit = _VALUES[buf[at + i]]
        if digit < 0:
            return -1
        value = value << 5 | digit
    return value
