"""Log-linear latency histograms that live in a page: recording is one kernel call, reading is a copy.

Layout of one histogram, int64[HIST_SIZE]:

| index | field |
| --- | --- |
| 0 | count |
| 1 | sum of the values, ns |
| 2 | largest value, ns |
| 3 | values below 0, counted apart and not in any bucket (a clock that went backwards is never hidden) |
| 4.. | counts per bucket |

Values below 64 have a bucket each; above, every power of two is cut into 32 buckets, so a quantile is off by at
most 1/32 of itself. Values from 2**40 ns (18 minutes) on are counted in the last bucket. `kernels.hist.record`
is the writer; this module reads and must not import Numba, because side processes use it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

COUNT: Final = 0
SUM: Final = 1
MAX: Final = 2
NEGATIVE: Final = 3
BUCKETS: Final = 4

SUB_BITS: Final = 5
_SUB: Final = 1 << SUB_BITS
MAX_BITS: Final = 40
N_BUCKETS: Final = (MAX_BITS - SUB_BITS + 1) * _SUB
HIST_SIZE: Final = BUCKETS + N_BUCKETS

Hist = npt.NDArray[np.int64]


def bucket_of(value_ns: int) -> int:
    """Bucket index of a value >= 0; the kernel computes the same."""
    if value_ns < 2 * _SUB:
        return value_ns
    exponent = value_ns.bit_length() - 1
    if exponent >= MAX_BITS:
        return N_BUCKETS - 1
    return (exponent - SUB_BITS) * _SUB + (value_ns >> (exponent - SUB_BITS))


def _bucket_upper_ns() -> Hist:
    upper = np.arange(N_BUCKETS, dtype=np.int64)
    for index in range(2 * _SUB, N_BUCKETS):
        shift = index // _SUB - 1
        upper[index] = ((index % _SUB + _SUB + 1) << shift) - 1
    return upper


#: Largest value of each bucket, ns: the value that a quantile reports.
BUCKET_UPPER_NS: Final = _bucket_upper_ns()

QUANTILES: Final = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "p99_9": 0.999}


def empty(n: int) -> Hist:
    """`n` empty histograms, int64[n, HIST_SIZE]."""
    return np.zeros((n, HIST_SIZE), dtype=np.int64)


def quantile_ns(hist: Hist, q: float) -> int:
    """Smallest bucket bound that at least the share `q` of all values does not exceed; 0 when empty."""
    buckets = hist[BUCKETS:]
    total = int(buckets.sum())
    if total == 0:
        return 0
    rank = max(1, int(np.ceil(q * total)))
    index = int(np.searchsorted(np.cumsum(buckets), rank))
    return min(int(BUCKET_UPPER_NS[index]), int(hist[MAX]))


def summary_us(hist: Hist) -> dict[str, float]:
    """``p50``, ``p90``, ``p99``, ``p99_9``, ``max`` in microseconds and ``count``."""
    copy = hist.copy()
    result: dict[str, float] = {name: round(quantile_ns(copy, q) / 1000, 1) for name, q in QUANTILES.items()}
    result["max"] = round(int(copy[MAX]) / 1000, 1)
    result["count"] = int(copy[COUNT])
    return result
