"""Digest of a stream of records: two runs decided the same exactly when their digests are the same.

Time stamps are left out: they differ from run to run and from lane to lane, and nothing else may. How the stream was
cut into batches does not matter.
"""

from __future__ import annotations

import numba
import numpy as np

from tickpath.common.jit import kernel
from tickpath.common.pages import Hot

_PRIME = -7046029254386353131  # 2**64 divided by the golden ratio, odd


def words_mask(dtype: np.dtype[np.void]) -> int:
    """Bit i is set when the i-th 8 bytes of a record belong to the digest: all but the fields named ``*_ns``."""
    mask = (1 << dtype.itemsize // 8) - 1
    for name in dtype.names or ():
        if name.endswith("_ns"):
            mask &= ~(1 << dtype.fields[name][1] // 8)  # type: ignore[index]
    return mask


@kernel(numba.int64(numba.int64, numba.int64[:, ::1], numba.int64, numba.int64))
def fold(digest, words, n, mask):
    """Digest after `n` more records; `words` int64[>= n, record size / 8] is the memory of the records.

    Every step is invertible for a given record, so that a difference never vanishes again by itself.
    """
    for i in range(n):
        for j in range(words.shape[1]):
            if mask >> j & 1:
                digest = (digest ^ words[i, j]) * _PRIME + 1
                digest ^= (digest >> 32) & 0xFFFFFFFF
    return digest


@kernel("void(int64[::1], int64[:, ::1], int64, int64)")
def add_to_digest(hot, words, n, mask):
    """The first `n` records of `words` belong to the stream of decisions of the page whose ``hot`` this is."""
    hot[Hot.DIGEST] = fold(hot[Hot.DIGEST], words, n, mask)
    hot[Hot.DIGESTED] += n
