"""signals' loop in the ZeroMQ lanes: that over rings, between what its bridge takes and what it ships."""

from __future__ import annotations

import numba
from numba import int64

from tickpath.common.jit import kernel
from tickpath.common.kernels.bridge import PASSES, TABLES, Bridge, milliseconds, ship, take
from tickpath.common.kernels.waiting import monotonic_ns
from tickpath.signals.kernels.loop import loop


@kernel(int64(*TABLES, numba.int64[::1], int64))
def loop_bridged(items, ins, outs, bridge, w, until_ns):
    """Work until `until_ns`, or until there is something for Python; 1: there was work.

    The tables are those of `tickpath.common.bridge`, `w` and the result those of `loop`.
    """
    worked = int64(0)
    left_ms = int64(0)  # Python may have put something into a ring
    while True:
        take(items, ins, outs, bridge, left_ms)
        more = int64(1)
        passes = 0
        while more and passes < PASSES:
            more = loop(w, 0)
            ship(items, ins, outs, bridge)
            worked |= more
            passes += 1
        left_ms = milliseconds(until_ns - monotonic_ns())
        if left_ms == 0 or bridge[Bridge.ATTENTION]:
            return worked
        if more:
            left_ms = int64(0)
