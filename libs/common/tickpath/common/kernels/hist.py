"""Recording into the histograms of `tickpath.common.histogram`."""

from __future__ import annotations

from tickpath.common.histogram import BUCKETS, COUNT, MAX, MAX_BITS, N_BUCKETS, NEGATIVE, SUB_BITS, SUM
from tickpath.common.jit import kernel

_TWO_SUB = 2 << SUB_BITS


@kernel("void(int64[::1], int64)")
def record(hist, value_ns):
    """Add one value in nanoseconds to `hist`, int64[HIST_SIZE]."""
    if value_ns < 0:
        hist[NEGATIVE] += 1
        return
    hist[COUNT] += 1
    hist[SUM] += value_ns
    hist[MAX] = max(hist[MAX], value_ns)
    if value_ns < _TWO_SUB:
        hist[BUCKETS + value_ns] += 1
        return
    exponent = 0
    v = value_ns
    for shift in (32, 16, 8, 4, 2, 1):
        if v >> shift:
            v >>= shift
            exponent += shift
    if exponent >= MAX_BITS:
        hist[BUCKETS + N_BUCKETS - 1] += 1
    else:
        bucket = (exponent - SUB_BITS) * (1 << SUB_BITS) + (value_ns >> (exponent - SUB_BITS))
        hist[BUCKETS + bucket] += 1
