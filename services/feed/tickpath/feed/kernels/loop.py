"""feed's loop in the shm lane: from the market data socket into the ring of ticks, without Python."""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

import numba
from numba import int64

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.atomics import store_release
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.memory import ticks_at, words_at
from tickpath.common.kernels.net import MESSAGES, receive_batch
from tickpath.common.kernels.ring import publish
from tickpath.common.kernels.waiting import cpu_pause, monotonic_ns, sched_yield, wait_fds
from tickpath.common.pages import Control, Hot
from tickpath.common.records import TICK
from tickpath.feed.kernels.decode import STATE, decode_packets
from tickpath.feed.layout import Count


class Reg(IntEnum):
    """The words of the loop, int64[len(Reg) + 1]. Work that waits is a range [AT, END)."""

    FD = auto()  # the market data socket
    DATAGRAM_AT = auto()  # datagrams of the present batch
    DATAGRAM_END = auto()
    RECV_NS = auto()  # when it came
    TICKS = auto()  # address of TICK[TICK_ROOM]: those of one datagram
    TICK_ROOM = auto()
    RING = auto()  # ``ticks``
    BELLS = auto()
    COUNTERS = auto()
    HIST = auto()
    CONTROL = auto()  # ``control`` of the side page
    HOT = auto()
    SPIN_NS = auto()  # look so long before sleeping; -1: never sleep
    YIELD = auto()  # 1: give the core away between two looks


_TICK_BYTES: Final = TICK.itemsize


@inlined
def _publish(w, state, buffer, lengths, i):
    """Decode datagram `i` and publish all of its ticks in one step: readers see whole datagrams."""
    ticks = ticks_at(w[Reg.TICKS], w[Reg.TICK_ROOM])
    n = decode_packets(state, buffer, lengths, i, i + 1, w[Reg.RECV_NS], ticks)
    if n == 0:
        return
    if words_at(w[Reg.CONTROL], Control.PAUSED + 1)[Control.PAUSED]:
        words_at(w[Reg.COUNTERS], Count.TICKS_HELD_BY_PAUSE + 1)[Count.TICKS_HELD_BY_PAUSE] += n
        return
    decoded_ns = monotonic_ns()
    for k in range(n):
        ticks[k].decoded_ns = decoded_ns
    done = 0
    while done < n:  # once, unless the ring is smaller than a datagram
        done += publish(w[Reg.RING], w[Reg.BELLS], w[Reg.TICKS] + done * _TICK_BYTES, n - done)
    record(words_at(w[Reg.HIST], HIST_SIZE), decoded_ns - w[Reg.RECV_NS])


@kernel(int64(numba.int64[::1], STATE, numba.uint8[:, ::1], MESSAGES, numba.int64[::1], int64))
def loop(w, state, buffer, messages, lengths, until_ns):
    """Receive, decode, publish until `until_ns`, or until a sleep has ended and nothing had come; 1: there was work.

    `w`: int64[len(Reg) + 1]; `buffer`, `messages`, `lengths`: of a `DatagramReceiver`.
    """
    worked = int64(0)
    slept = False
    while True:
        while w[Reg.DATAGRAM_AT] < w[Reg.DATAGRAM_END]:
            i = w[Reg.DATAGRAM_AT]
            w[Reg.DATAGRAM_AT] = i + 1
            _publish(w, state, buffer, lengths, i)
        if worked and w[Reg.RECV_NS] >= until_ns:
            return worked
        store_release(w[Reg.HOT], Hot.BUSY, 1)
        n = receive_batch(w[Reg.FD], messages, lengths)
        now_ns = monotonic_ns()
        if n > 0:
            w[Reg.RECV_NS] = now_ns
            w[Reg.DATAGRAM_AT] = 0
            w[Reg.DATAGRAM_END] = n
            worked = int64(1)
            slept = False
            continue
        store_release(w[Reg.HOT], Hot.BUSY, 0)
        if slept or now_ns >= until_ns:
            return worked
        if w[Reg.SPIN_NS] < 0 or now_ns - w[Reg.RECV_NS] < w[Reg.SPIN_NS]:
            if w[Reg.YIELD]:
                sched_yield()
            else:
                cpu_pause()
        else:
            wait_fds(w[Reg.FD], -1, until_ns - now_ns)
            slept = True
