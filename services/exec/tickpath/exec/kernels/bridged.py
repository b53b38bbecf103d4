"""exec's loop in the ZeroMQ lanes: that over rings, between what its bridge takes and what it ships."""

from __future__ import annotations

import numba
from numba import int64

from tickpath.common.jit import kernel
from tickpath.common.kernels.bridge import PASSES, TABLES, Bridge, milliseconds, ship, take
from tickpath.common.kernels.waiting import monotonic_ns
from tickpath.exec.kernels.loop import Why, Word, loop


@kernel(int64(*TABLES, numba.int64[::1], numba.int64[::1], int64, int64))
def loop_bridged(items, ins, outs, bridge, w, ctx, gateway_fd, until_ns):
    """Work until `until_ns`, or until there is something for Python; returns a `Why`.

    The tables are those of `tickpath.common.bridge`, all else is as of `loop`. The bridge waits at the venue's socket
    too, in place of a watcher.
    """
    worked = int64(Why.IDLE)
    left_ms = int64(0)  # Python may have put something into a ring
    while True:
        take(items, ins, outs, bridge, left_ms)
        if items[bridge[Bridge.INS]].revents and w[Word.VENUE_FD] < 0:
            w[Word.ARMED] = 0
        why = int64(Why.TIME)
        passes = 0
        while why == Why.TIME and passes < PASSES:
            why = loop(w, ctx, gateway_fd, 0)
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
