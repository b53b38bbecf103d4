"""The digest of a stream of records."""

from __future__ import annotations

import numpy as np
import pytest

from tickpath.common.kernels.digest import fold, words_mask
from tickpath.common.records import ORDER, SIGNAL


def _words(records: np.ndarray) -> np.ndarray:
    return records.view(np.int64).reshape(len(records), records.dtype.itemsize // 8)


@pytest.fixture
def signals() -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, 20 * SIGNAL.itemsize, dtype=np.uint8).view(SIGNAL)


@pytest.mark.parametrize("dtype", [SIGNAL, ORDER])
def test_every_field_but_the_time_stamps_counts(dtype: np.dtype) -> None:
    """Changing one field changes the digest, unless it is a time stamp."""
    records = np.zeros(3, dtype)
    before = fold(1, _words(records), 3, words_mask(dtype))
    for name in dtype.names or ():
        changed = records.copy()
        changed[name][1] = 1
        same = fold(1, _words(changed), 3, words_mask(dtype)) == before
        assert same == name.endswith("_ns"), name


def test_batches_do_not_matter(signals: np.ndarray) -> None:
    """The digest of a stream is that of its parts, one after the other."""
    mask = words_mask(SIGNAL)
    whole = fold(0, _words(signals), len(signals), mask)
    for cut in range(len(signals) + 1):
        head = fold(0, _words(signals[:cut]), cut, mask)
        assert fold(head, _words(signals[cut:]), len(signals) - cut, mask) == whole


def test_order_and_number_matter(signals: np.ndarray) -> None:
    """Swapped, missing and doubled records are seen."""
    mask, n = words_mask(SIGNAL), len(signals)
    whole = fold(0, _words(signals), n, mask)
    swapped = signals[[1, 0, *range(2, n)]]
    assert fold(0, _words(swapped), n, mask) != whole
    assert fold(0, _words(signals), n - 1, mask) != whole
    zeros = np.zeros(2, SIGNAL)
    assert fold(0, _words(zeros), 1, mask) != fold(0, _words(zeros), 2, mask)
