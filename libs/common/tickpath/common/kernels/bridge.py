"""Between sockets and rings, for compiled loops: what surrounds a loop in the ZeroMQ lanes.

Each link that comes in fills a ring of this process, each that goes out empties one (`tickpath.common.bridge`). So
the loops of the shm lane run in these lanes too; around a pass of theirs stand `take`, which waits and receives, and
`ship`, which sends. Both see only what is as it should be, frames that continue their stream; for all else there is
ATTENTION, and Python has a look.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

import numba
from numba import int64, types

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.memory import bytes_at, words_at
from tickpath.common.kernels.ring import acked, first_intact, publish, readable, record_at, room
from tickpath.common.kernels.taps import tap
from tickpath.common.kernels.waiting import monotonic_ns
from tickpath.common.kernels.zeromq import POLL_ITEM, receive_records, send_records, wait


class In(IntEnum):
    """The words of an inlet, int64[len(In)]: a stream that comes in. Its poll item has the same place as itself."""

    SOCKET = 0
    BUFFER = auto()  # address of uint8[BUFFER_BYTES]
    BUFFER_BYTES = auto()
    KIND = auto()
    RECORD_BYTES = auto()
    FRAME_RECORDS = auto()  # most records of a frame
    TOPIC_BYTES = auto()
    RING = auto()
    EPOCH = auto()  # that may come just so; 0: Python has to look at each frame
    EXPECTED = auto()  # number of the record that comes next
    RECEIVED = auto()
    HEARD_NS = auto()
    HELD = auto()  # 1: Python has records that come first
    ACK_AT = auto()  # Python says what is acknowledged when the ring's reader has got so far
    SIZE = auto()  # of the frame in the buffer that Python has to look at, or -EAGAIN


class Out(IntEnum):
    """The words of an outlet, int64[len(Out)]: a stream that goes out to one consumer, or to all."""

    SOCKET = 0  # 0: the records go into TAP
    FRAME = auto()  # address of uint8[FRAME_BYTES]; see `send_records`
    FRAME_BYTES = auto()
    FIRST = auto()
    SECOND = auto()
    HEAD = auto()
    RECORD_BYTES = auto()
    FRAME_RECORDS = auto()
    RING = auto()
    NEXT = auto()  # number of the record to be sent next
    LIMIT = auto()  # the last one that may be
    SENT_NS = auto()
    TAP = auto()


class Bridge(IntEnum):
    """The words of a bridge, int64[len(Bridge)]."""

    INS = 0  # poll items that are inlets: the first ones
    FDS = auto()  # poll items behind those that only wake the loop: it looks there itself
    OUTS = auto()
    ATTENTION = auto()  # 1: there is something that Python has to see to


#: What kernels take: poll items, addresses of the words of all inlets and outlets, words of the bridge.
ITEMS: Final = numba.from_dtype(POLL_ITEM)[::1]
TABLES: Final = (ITEMS, numba.int64[::1], numba.int64[::1], numba.int64[::1])

_N_IN: Final = len(In)
_N_OUT: Final = len(Out)
PASSES: Final = 8  # of a loop between two looks at the links, however much there is to do
_FRAMES: Final = 32  # most frames that one turn takes of an inlet, so that none starves another
_EAGAIN, _EHOSTUNREACH = 11, 113
_POLLIN: Final = 1


@inlined
def milliseconds(ns):
    """Time that is left, for `take`: rounded up, and 0 when it is over."""
    return max(int64(0), (ns + 999_999) // 1_000_000)


@kernel(types.int64(numba.int64[::1]))
def fill(inlet):
    """Frames that continue the stream into the ring; 1 when there is one that Python has to look at."""
    for _ in range(_FRAMES):
        if inlet[In.HELD] or room(inlet[In.RING]) < inlet[In.FRAME_RECORDS]:
            break
        size, at = receive_records(
            inlet[In.SOCKET], bytes_at(inlet[In.BUFFER], inlet[In.BUFFER_BYTES]), inlet[In.TOPIC_BYTES],
            inlet[In.KIND], inlet[In.EPOCH], inlet[In.EXPECTED], inlet[In.RECORD_BYTES],
        )  # fmt: skip
        if size == -_EAGAIN:
            break
        n = (size - at) // inlet[In.RECORD_BYTES]
        if at == 0 or size >> 32 or n > inlet[In.FRAME_RECORDS]:
            inlet[In.SIZE] = size
            return int64(1)
        publish(inlet[In.RING], 0, inlet[In.BUFFER] + at, n)
        inlet[In.EXPECTED] += n
        inlet[In.RECEIVED] += n
        inlet[In.HEARD_NS] = monotonic_ns()
    return int64(0)


@kernel(types.int64(*TABLES, int64))
def take(items, ins, outs, bridge, timeout_ms):
    """Wait for one of the poll items, and fill the rings; how many items were ready.

    An inlet whose ring has no room is not listened to.
    """
    n_in = bridge[Bridge.INS]
    n_plain = n_in + bridge[Bridge.FDS]
    for i in range(n_in):
        inlet = words_at(ins[i], _N_IN)
        free = room(inlet[In.RING])
        items[i].events = 0 if inlet[In.HELD] or free < inlet[In.FRAME_RECORDS] else _POLLIN
        if inlet[In.HELD] and free > 0:
            bridge[Bridge.ATTENTION] = 1
        if acked(inlet[In.RING], 0) >= inlet[In.ACK_AT]:
            bridge[Bridge.ATTENTION] = 1
    ready = wait(items, 0 if bridge[Bridge.ATTENTION] else timeout_ms)
    if ready <= 0:
        return int64(0)
    for i in range(len(items)):
        if items[i].revents == 0:
            continue
        if i >= n_plain or (i < n_in and fill(words_at(ins[i], _N_IN))):
            bridge[Bridge.ATTENTION] = 1
    return int64(ready)


@kernel(types.void(numba.int64[::1], int64))
def drain(outlet, now_ns):
    """Send what is in the ring, as far as the consumer lets us."""
    while True:
        first = max(outlet[Out.NEXT], first_intact(outlet[Out.RING]))
        n = min(readable(outlet[Out.RING], first), outlet[Out.LIMIT] - first + 1, outlet[Out.FRAME_RECORDS])
        if n <= 0:
            return
        records = record_at(outlet[Out.RING], first)
        if outlet[Out.SOCKET] == 0:
            tap(outlet[Out.TAP], records, n)
            outlet[Out.NEXT] = first + n
            continue
        error = send_records(
            outlet[Out.SOCKET], bytes_at(outlet[Out.FRAME], outlet[Out.FRAME_BYTES]), outlet[Out.FIRST],
            outlet[Out.SECOND], outlet[Out.HEAD], bytes_at(records, n * outlet[Out.RECORD_BYTES]), first, now_ns,
        )  # fmt: skip
        if error == 0:
            outlet[Out.NEXT] = first + n
            outlet[Out.SENT_NS] = now_ns
            continue
        if error == -_EHOSTUNREACH:  # gone: nothing is for it until it says WANT again
            outlet[Out.LIMIT] = 0
        return  # else the pipe is full, and the next turn tries again


@kernel(types.void(*TABLES))
def ship(items, ins, outs, bridge):
    """Send what the loop has put into the rings."""
    now_ns = monotonic_ns()
    for i in range(bridge[Bridge.OUTS]):
        drain(words_at(outs[i], _N_OUT), now_ns)
