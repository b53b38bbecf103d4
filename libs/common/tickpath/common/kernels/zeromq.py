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
from numba import types

from tickpath.common.jit import kernel

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


@kernel(numba.int64(numba.int64, numba.uint8[::1], numba.int64, numba.int64))
def receive_frame(socket, buffer, topic_size, kind):
    """Payload of a frame of two parts into `buffer`; its size, -EAGAIN if there is no frame, or -errno.

    A part of `topic_size` bytes that begins with `kind` is a topic. Parts that are not where they belong are dropped;
    their number times 2**32 is added to the size, or is all of the result if no frame follows.
    """
    faults = 0
    n = _zmq_recv(socket, buffer.ctypes.data, len(buffer), _DONTWAIT)
    if n < 0:
        return -_zmq_errno()
    if n != topic_size or buffer[0] != kind:
        return 1 << 32  # a payload without a topic: what is behind it begins a new frame
    for _ in range(64):
        n = _zmq_recv(socket, buffer.ctypes.data, len(buffer), _DONTWAIT)
        if n < 0:
            return (faults + 1) << 32
        if n != topic_size or buffer[0] != kind:
            break
        faults += 1
    return n | faults << 32


@kernel(numba.int64(numba.int64, types.Array(numba.uint8, 1, "C", readonly=True), numba.int64, numba.int64))
def send(socket, data, first, second):
    """Send `data` as parts: `first` bytes, `second` bytes (0: no such part), and the rest; 0 or -errno.

    Never blocks. Only the first part can be refused; then nothing was sent.
    """
    at = data.ctypes.data
    if _zmq_send(socket, at, first, _DONTWAIT | _SNDMORE) < 0:
        return -_zmq_errno()
    if second > 0 and _zmq_send(socket, at + first, second, _DONTWAIT | _SNDMORE) < 0:
        return -_zmq_errno()
    rest = first + second
    if _zmq_send(socket, at + rest, len(data) - rest, _DONTWAIT) < 0:
        return -_zmq_errno()
    return 0
