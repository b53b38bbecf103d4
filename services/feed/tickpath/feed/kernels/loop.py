"""feed's loop over rings: from the market data socket into the ring of ticks, without Python."""

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
from tickpath.common.kernels.net import MESSAGES
from tickpath.common.kernels.ring import publish
from tickpath.common.kernels.waiting import cpu_pause, monotonic_ns, sched_yield, wait_fds
from tickpath.common.pages import Control, Hot
from tickpath.common.records import TICK
from tickpath.feed.kernels.decode import STATE, decode_packets
from tickpath.feed.kernels.receive import N_WORDS, LineReg, is_behind, receive_next
from tickpath.feed.layout import Channel, Count


class Reg(IntEnum):
    """The words of the loop, int64[len(Reg) + 1]. Work that waits is a range [AT, END)."""

    LINES = auto()  # address of the words of `tickpath.feed.kernels.receive`
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
def _publish(w, state, buffer, lengths, i, lines):
    """Decode datagram `i` and publish all of its ticks in one step: readers see whole datagrams."""
    ticks = ticks_at(w[Reg.TICKS], w[Reg.TICK_ROOM])
    recv_ns = lines[LineReg.RECV_NS]
    n = decode_packets(state, buffer, lengths, i, i + 1, recv_ns, lines[LineReg.LINE], ticks)
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
    record(words_at(w[Reg.HIST], HIST_SIZE), decoded_ns - recv_ns)


@kernel(int64(numba.int64[::1], STATE, numba.uint8[:, ::1], MESSAGES, numba.int64[::1], int64))
def loop(w, state, buffer, messages, lengths, until_ns):
    """Receive, decode, publish until `until_ns`, or until a sleep has ended and nothing had come; 1: there was work.

    Returns early when messages are missing and ``channel[ACTION_NS]`` is over. `w`: int64[len(Reg) + 1]; `buffer`,
    `messages`, `lengths`: of `tickpath.feed.lines.Lines`.
    """
    channel = state.channel
    lines = words_at(w[Reg.LINES], N_WORDS)
    worked = int64(0)
    slept = False
    while True:
        while lines[LineReg.AT] < lines[LineReg.END]:
            i = lines[LineReg.AT]
            lines[LineReg.AT] = i + 1
            _publish(w, state, buffer, lengths, i, lines)
        behind = is_behind(channel)
        until = min(until_ns, channel[Channel.ACTION_NS]) if behind else until_ns
        if worked and lines[LineReg.RECV_NS] >= until:
            return worked
        store_release(w[Reg.HOT], Hot.BUSY, 1)
        n = receive_next(lines, behind, buffer, messages, lengths)
        now_ns = monotonic_ns()
        if n > 0:
            lines[LineReg.RECV_NS] = now_ns
            worked = int64(1)
            slept = False
            continue
        if n < 0:
            continue
        store_release(w[Reg.HOT], Hot.BUSY, 0)
        if slept or now_ns >= until:
            return worked
        if w[Reg.SPIN_NS] < 0 or now_ns - lines[LineReg.RECV_NS] < w[Reg.SPIN_NS]:
            if w[Reg.YIELD]:
                sched_yield()
            else:
                cpu_pause()
        else:
            wait_fds(lines[LineReg.WAIT_FD], -1, until - now_ns)
            slept = True
