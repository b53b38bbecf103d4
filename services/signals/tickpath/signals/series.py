"""Reading time series: a ring per instrument that is written twice, so the last n points are always one view.

`POINT[2, capacity]` of an instrument are two copies of one ring behind each other: point number c stands at
``c % capacity`` and at ``c % capacity + capacity``. Whatever the ring's position, the last `capacity` points end in
the second copy without a wrap between them. Writing costs one more cache line; reading never copies. This is what
strategies get as `series`.

Readers in another process cannot stop the writer: `Series.last` copies, and leaves out what the writer reached.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class Series:
    """The time series of all instruments.

    `counts` is int64[n], `points` POINT[n, 2, capacity], both live.
    """

    def __init__(self, counts: npt.NDArray[np.int64], points: npt.NDArray[Any]) -> None:
        self._counts = counts
        self._flat = points.reshape(points.shape[0], -1)
        self.capacity: int = points.shape[2]

    def count(self, instrument: int) -> int:
        """Ticks that the instrument ever had."""
        return int(self._counts[instrument])

    def view(self, instrument: int, n: int) -> npt.NDArray[Any]:
        """The last `n` points, oldest first, or as many as there are: POINT[m], a live view without a copy."""
        count = self.count(instrument)
        n = min(n, count, self.capacity)
        end = (count - 1) % self.capacity + self.capacity + 1
        return self._flat[instrument, end - n : end]

    def last(self, instrument: int, n: int) -> npt.NDArray[Any]:
        """A copy of the last `n` points, oldest first, or of as many as there are, up to capacity - 1: POINT[m].

        What the writer went over during the copy is left out.
        """
        before = self.count(instrument)
        copy = self.view(instrument, n).copy()
        # The writer may be at work on the point behind the last one that it counted: one more than the count says.
        overwritten = self.count(instrument) + 1 - before + len(copy) - self.capacity
        return copy[max(0, overwritten) :]
