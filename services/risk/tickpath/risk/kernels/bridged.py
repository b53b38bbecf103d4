"""risk's loop in the ZeroMQ lanes: that over rings, between what its bridge takes and what it ships."""

from __future__ import annotations

import numba
from numba import int64

from tickpath.common.jit import kernel
from tickpath.common.kernels.bridge import PASSES, TABLES, Bridge, milliseconds, ship, take
from tickpath.common.kernels.waiting import monotonic_ns
from tickpath.risk.kernels.loop import Why, loop


@kernel(int64(*TABLES, numba.int64[::1], numba.int64[::1], int64))
def loop_bridged(items, ins, outs, bridge, w, ctx, until_ns):
    """Work until `until_ns`, or until there is something for Python; returns a `Why`.

    The tables are those of `tickpath.common.bridge`, all else is as of `loop`.
    """
    worked = int64(Why.IDLE)
    left_ms = int64(0)  # Python may have put something into a ring
    while True:
        take(items, ins, outs, bridge, left_ms)
        why = int64(Why.TIME)
        passes = 0
        while why == Why.TIME and passes < PASSES:
            why = loop(w, ctx, 0)
            ship(items, ins, outs, bridge)
            if why == Why.TIME:
                worked = why
            passes += 1
        if why > Why.TIME:
            return why
        left_ms = milliseconds(until_ns - monotonic_ns())
        if left_ms == 0 or bridge[Bridge.ATTENTION]:
            return worked
        if why == Why.TIME:  # there may be more
            left_ms = int64(0)
