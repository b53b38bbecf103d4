"""Histograms: the kernel and the reader agree, and quantiles are off by at most one bucket."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tickpath.common import histogram
from tickpath.common.kernels.hist import record


@given(st.integers(0, 2**62))
def test_kernel_and_reader_choose_the_same_bucket_and_its_bound_is_within_a_32nd(value: int) -> None:
    hist = histogram.empty(1)[0]
    record(hist, value)
    bucket = histogram.bucket_of(value)
    assert hist[histogram.BUCKETS + bucket] == 1
    assert (hist[histogram.COUNT], hist[histogram.MAX], hist[histogram.SUM]) == (1, value, value)
    if value < 2**histogram.MAX_BITS:
        upper = int(histogram.BUCKET_UPPER_NS[bucket])
        assert value <= upper <= value + value // 32


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_a_quantile_is_never_below_and_at_most_a_32nd_above_the_exact_one(values: list[int], q: float) -> None:
    hist = histogram.empty(1)[0]
    for value in values:
        record(hist, value)
    exact = sorted(values)[max(1, int(np.ceil(q * len(values)))) - 1]
    assert exact <= histogram.quantile_ns(hist, q) <= exact + exact // 32


def test_a_clock_that_went_back_is_counted_apart() -> None:
    hist = histogram.empty(1)[0]
    record(hist, -5)
    assert hist[histogram.NEGATIVE] == 1
    assert histogram.summary_us(hist) == {"p50": 0.0, "p90": 0.0, "p99": 0.0, "p99_9": 0.0, "max": 0.0, "count": 0}
