"""Replay's decoder, in a thread of its own: what feed makes of the tape depends on the tape alone, so it runs ahead.

A *step* is one datagram of the tape, as the exchange sends them in lockstep. The decoder takes steps and leaves their
ticks in blocks; the chain takes blocks in the same order, and gives each back when it is through with it. Two words
say how far both are, each written by one thread only.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba import int64

from tickpath.common.jit import always_inlined, kernel
from tickpath.common.kernels.atomics import load_acquire, store_release
from tickpath.common.kernels.book import prefetch_message
from tickpath.common.kernels.waiting import sched_yield
from tickpath.common.records import TICK
from tickpath.feed.kernels.decode import STATE, decode_packets
from tickpath.feed.layout import Line
from tickpath.sim.kernels import wire
from tickpath.sim.kernels.offline import REPLAY

_BLOCKS: Final = 16
_STEPS: Final = 64  # of a block: a few ten microseconds of work
_SPARE: Final = 1024  # ticks of a block beside those of its last step
_AHEAD: Final = 6  # messages: memory has answered until their turn comes
_LINE: Final = int(Line.A)

# Words; each thread writes to a pair of cache lines of its own.
_DECODED, _ENDED, _TAKEN, _LEAVE, _STEP = 0, 1, 16, 17, 18


class Ahead(NamedTuple):
    """What the two threads share."""

    words: npt.NDArray[np.int64]  # blocks decoded; 1 after the last; blocks given back; 1: stop; next step of a block
    steps: npt.NDArray[np.int64]  # int64[blocks]: how many are in it
    lasts: npt.NDArray[np.int64]  # int64[blocks, steps]: message of the tape behind each step
    ends: npt.NDArray[np.int64]  # int64[blocks, steps]: tick of the block behind each step
    ticks: npt.NDArray[Any]  # TICK[blocks, ticks]

    @classmethod
    def create(cls, most_ticks: int) -> Ahead:
        """`most_ticks` is the most that one datagram can make."""
        return cls(
            np.zeros(32, np.int64),
            np.zeros(_BLOCKS, np.int64),
            np.zeros((_BLOCKS, _STEPS), np.int64),
            np.zeros((_BLOCKS, _STEPS), np.int64),
            np.zeros((_BLOCKS, _SPARE + most_ticks), TICK),
        )

    def stop(self) -> None:
        """Let the decoder end."""
        self.words[_LEAVE] = 1


AHEAD: Final = numba.types.NamedTuple(
    (
        numba.int64[::1],
        numba.int64[::1],
        numba.int64[:, ::1],
        numba.int64[:, ::1],
        numba.from_dtype(TICK)[:, ::1],
    ),
    Ahead,
)


@kernel(int64(AHEAD, STATE, REPLAY))
def decode_ahead(ahead, feed, exchange):
    """The decoder's thread: the whole tape, unless it is stopped; returns the number of blocks."""
    words = ahead.words.ctypes.data
    plan, offsets = exchange.plan, exchange.offsets
    n_messages = len(exchange.time_ns)
    decoded = 0
    while True:
        while decoded - load_acquire(words, _TAKEN) == len(ahead.steps):
            if load_acquire(words, _LEAVE):
                return decoded
            sched_yield()
        block = decoded % len(ahead.steps)
        steps = 0
        n = 0
        while steps < _STEPS and n <= _SPARE:
            first = plan[wire.NEXT]
            packed = wire.step(
                exchange.data, offsets, exchange.time_ns, exchange.session, plan, exchange.flat, exchange.packets
            )
            if packed == 0:
                break
            for i in range(first + _AHEAD, min(plan[wire.NEXT] + _AHEAD, n_messages)):
                at = offsets[i] + 2
                prefetch_message(feed.book, exchange.data, at, offsets[i + 1] - at)
            exchange.lengths[0] = exchange.packets[0, wire.LENGTH]
            # The time is not known here; the chain writes it into the ticks.
            n += decode_packets(feed, exchange.datagram, exchange.lengths, 0, 1, 1, _LINE, ahead.ticks[block, n:])
            ahead.lasts[block, steps] = plan[wire.NEXT]
            ahead.ends[block, steps] = n
            steps += 1
        if steps == 0 or load_acquire(words, _LEAVE):
            store_release(words, _ENDED, 1)
            return decoded
        ahead.steps[block] = steps
        decoded += 1
        store_release(words, _DECODED, decoded)


@always_inlined
def next_step(ahead):
    """(block, step) that the chain does next, waiting until it is decoded; block -1 behind the last."""
    words = ahead.words.ctypes.data
    taken = ahead.words[_TAKEN]
    step = ahead.words[_STEP]
    if step > 0 and step == ahead.steps[taken % len(ahead.steps)]:  # the chain is through with all of it
        taken += 1
        step = 0
        ahead.words[_STEP] = 0
        store_release(words, _TAKEN, taken)
    while load_acquire(words, _DECODED) == taken:
        if load_acquire(words, _ENDED) and load_acquire(words, _DECODED) == taken:
            return -1, 0
        sched_yield()
    return taken % len(ahead.steps), step


@always_inlined
def take_step(ahead):
    """The chain has taken the step that `next_step` named."""
    ahead.words[_STEP] += 1
