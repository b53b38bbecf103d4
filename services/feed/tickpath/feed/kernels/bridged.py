"""feed's loop in the ZeroMQ lanes: that over rings, between what its bridge waits for and what it ships."""

from __future__ import annotations

import numba
from numba import int64

from tickpath.common.jit import kernel
from tickpath.common.kernels.bridge import PASSES, TABLES, Bridge, milliseconds, ship, take
from tickpath.common.kernels.net import MESSAGES
from tickpath.common.kernels.waiting import monotonic_ns
from tickpath.feed.kernels.decode import STATE
from tickpath.feed.kernels.loop import loop
from tickpath.feed.kernels.receive import is_behind


@kernel(int64(*TABLES, numba.int64[::1], STATE, numba.uint8[:, ::1], MESSAGES, numba.int64[::1], int64))
def loop_bridged(items, ins, outs, bridge, w, state, buffer, messages, lengths, until_ns):
    """Work until `until_ns`, or until there is something for Python; 1: there was work.

    The tables are those of `tickpath.common.bridge`, all else is as of `loop`. Returns after each turn while messages
    are missing.
    """
    worked = int64(0)
    left_ms = int64(0)  # Python may have put something into a ring
    while True:
        take(items, ins, outs, bridge, left_ms)
        more = int64(1)
        passes = 0
        while more and passes < PASSES and not is_behind(state.channel):
            more = loop(w, state, buffer, messages, lengths, 0)
            ship(items, ins, outs, bridge)
            worked |= more
            passes += 1
        if passes == 0:  # messages are missing: what came may close the gap
            worked |= loop(w, state, buffer, messages, lengths, 0)
            ship(items, ins, outs, bridge)
        left_ms = milliseconds(until_ns - monotonic_ns())
        if left_ms == 0 or bridge[Bridge.ATTENTION] or is_behind(state.channel):
            return worked
        if more:
            left_ms = int64(0)
