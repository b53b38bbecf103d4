"""ZeroMQ's own calls from compiled code: waiting, receiving and sending without a Python object.

pyzmq is made for comfort; a hot loop that sleeps between ticks pays for each page of code that it touches when it
wakes up, because none of it is in a cache any more. These kernels call the same library on the same sockets (their
address is ``socket.underlying``); everything else about a socket stays with pyzmq.

The functions are found in the library that pyzmq has loaded, and named for the compiler: the kernels can be cached.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np
import zmq
from numba import int64, types

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.atomics import copy_bytes
from tickpath.common.records import SCHEMA_VERSION

#: struct zmq_pollitem_t of 64-bit Linux.
POLL_ITEM = np.dtype([("socket", "<i8"), ("fd", "<i4"), ("events", "<i2"), ("revents", "<i2")])

_EINTR, _EAGAIN = 4, 11
_DONTWAIT, _SNDMORE = int(zmq.DONTWAIT), int(zmq.SNDMORE)


def _name_functions() -> None:
    """Tell the compiler where the library is that pyzmq uses."""
    maps = Path("/proc/self/maps").read_text("utf-8").splitlines()
    paths = {line.split(maxsplit=5)[5] for line in maps if line.count("/") and "libzmq" in line}
    if not paths:
        msg = "pyzmq was not built with a shared libzmq; install the wheel that requirements.lock names"
        raise ImportError(msg)
    library = ctypes.CDLL(sorted(paths)[0])
    for name in ("zmq_poll", "zmq_recv", "zmq_send", "zmq_errno"):
        address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        llvmlite.binding.add_symbol(name, address)


_name_functions()

_zmq_poll = types.ExternalFunction("zmq_poll", types.int32(types.intp, types.int32, types.int64))
_zmq_recv = types.ExternalFunction("zmq_recv", types.int32(types.intp, types.intp, types.uint64, types.int32))
_zmq_send = types.ExternalFunction("zmq_send", types.int32(types.intp, types.intp, types.uint64, types.int32))
_zmq_errno = types.ExternalFunction("zmq_errno", types.int32())


@kernel(numba.int64(numba.from_dtype(POLL_ITEM)[::1], numba.int64))
def wait(items, timeout_ms):
    """Wait for one of the POLL_ITEMs; number of those that are ready, 0 after the time or a signal, or -errno."""
    n = _zmq_poll(items.ctypes.data, len(items), timeout_ms)
    if n < 0:
        error = _zmq_errno()
        return 0 if error in (_EAGAIN, _EINTR) else -error
    return n


@inlined
def _receive(socket, buffer, topic_size, kind):
    """Payload of a frame of two parts into `buffer`; see `receive_records`."""
    faults = 0
    n = _zmq_recv(socket, buffer.ctypes.data, len(buffer), _DONTWAIT)
    if n < 0:
        return int64(-_zmq_errno())
    if n != topic_size or buffer[0] != kind:
        return int64(1 << 32)  # a payload without a topic: what is behind it begins a new frame
    for _ in range(64):
        n = _zmq_recv(socket, buffer.ctypes.data, len(buffer), _DONTWAIT)
        if n < 0:
            return int64((faults + 1) << 32)
        if n != topic_size or buffer[0] != kind:
            break
        faults += 1
    return int64(n | faults << 32)


@inlined
def _number(buffer, at, size):
    """(unsigned integer of msgpack at `at`, place behind it); -1 if there is none, or it takes more than 63 bits."""
    first = int64(buffer[at]) if at < size else int64(0xFF)
    if first < 0x80:
        return first, at + 1
    n = 1 << (first - 0xCC) if 0xCC <= first <= 0xCF else 0
    if n == 0 or at + 1 + n > size:
        return int64(-1), at
    value = int64(0)
    for i in range(at + 1, at + 1 + n):
        value = value << 8 | int64(buffer[i])
    return value, at + 1 + n


@inlined
def _records_at(buffer, size, kind, epoch, expected, record_size):
    """Where the records begin if this is the frame of this epoch that begins with `expected` and has some; else 0."""
    if size < 32 or buffer[0] != 0x97 or buffer[1] != SCHEMA_VERSION or buffer[2] != kind:
        return int64(0)
    at = int64(4 + (buffer[3] & 0x1F))  # the producer's name
    if buffer[3] & 0xE0 != 0xA0 or at >= size:
        return int64(0)
    for i in range(4, at):
        if buffer[i] >= 0x80:  # no name of ours; whether it is one at all, the library says
            return int64(0)
    its_epoch, at = _number(buffer, at, size)
    first, at = _number(buffer, at, size)
    _, at = _number(buffer, at, size)
    if its_epoch != epoch or first != expected or at + 5 > size or not 0xC4 <= buffer[at] <= 0xC6:
        return int64(0)
    width = 1 << (int64(buffer[at]) - 0xC4)
    n = int64(0)
    for i in range(at + 1, at + 1 + width):
        n = n << 8 | int64(buffer[i])
    at += 1 + width
    return at if n > 0 and n == size - at and n % record_size == 0 else int64(0)


@kernel(
    types.UniTuple(numba.int64, 2)(
        numba.int64, numba.uint8[::1], numba.int64, numba.int64, numba.int64, numba.int64, numba.int64
    )
)
def receive_records(socket, buffer, topic_size, kind, epoch, expected, record_size):
    """A frame of two parts into `buffer`; (size of its payload, place of its records in there).

    The place is 0 unless the frame is of this epoch, has records, and the first of them is `expected`: all others
    are for `tickpath.common.frames`. The size is -EAGAIN if there is no frame, or -errno. A part of `topic_size`
    bytes that begins with `kind` is a topic. Parts that are not where they belong are dropped; their number times
    2**32 is added to the size, or is all of it if no frame follows.
    """
    size = _receive(socket, buffer, topic_size, kind)
    if epoch == 0 or size < 0 or size > len(buffer):
        return size, int64(0)
    return size, _records_at(buffer, size, kind, epoch, expected, record_size)


@inlined
def _put(frame, at, value, n):
    """`value` as a big-endian integer of n bytes that ends before `at`."""
    for i in range(n):
        frame[at - 1 - i] = value >> 8 * i & 0xFF


@kernel(
    numba.int64(
        numba.int64, numba.uint8[::1], numba.int64, numba.int64, numba.int64,
        types.Array(numba.uint8, 1, "C", readonly=True), numba.int64, numba.int64,
    )
)  # fmt: skip
def send_records(socket, frame, first, second, head, records, first_seq, now_ns):
    """Send records (their bytes) as a frame; 0 or -errno. Raises ValueError when they do not fit `frame`.

    `frame` begins with `head` bytes: parts of `first` and of `second` bytes (0: no such part), then the `header` of
    `tickpath.common.frames`, into which numbers and sizes are written; the records are copied behind it. Never
    blocks. Only the first part can be refused; then nothing was sent.
    """
    n = len(records)
    if head + n > len(frame):
        raise ValueError("the records do not fit the frame")
    _put(frame, head, n, 4)
    _put(frame, head - 5, now_ns, 8)
    _put(frame, head - 14, first_seq, 8)
    at = frame.ctypes.data
    copy_bytes(at + head, records.ctypes.data, n)
    if _zmq_send(socket, at, first, _DONTWAIT | _SNDMORE) < 0:
        return -_zmq_errno()
    if second > 0 and _zmq_send(socket, at + first, second, _DONTWAIT | _SNDMORE) < 0:
        return -_zmq_errno()
    rest = first + second
    if _zmq_send(socket, at + rest, head + n - rest, _DONTWAIT) < 0:
        return -_zmq_errno()
    return 0
