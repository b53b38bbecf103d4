"""Receiving datagrams in batches: one `recvmmsg` for as many as there are, into memory that is allocated once."""

from __future__ import annotations

import numba
import numpy as np
from numba import types

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.memory import words_at

# struct mmsghdr of 64-bit Linux, 64 bytes: struct msghdr (56 bytes), then the length received.
MESSAGE = np.dtype(
    [
        ("name", "<i8"),
        ("name_len", "<i8"),
        ("iov", "<i8"),  # address of the iovec
        ("iov_len", "<i8"),
        ("control", "<i8"),
        ("control_len", "<i8"),
        ("flags", "<i4"),
        ("pad", "<i4"),
        ("length", "<u4"),
        ("pad_2", "<u4"),
    ]
)
MESSAGES = numba.from_dtype(MESSAGE)[::1]
_MSG_DONTWAIT = 0x40
_MSG_TRUNC = 0x20
_EINTR, _EAGAIN = 4, 11
_CLOCK_REALTIME = 0
_STAMP = 35 << 32 | 1  # SCM_TIMESTAMPNS of SOL_SOCKET
_MESSAGE_BYTES = MESSAGE.itemsize

#: Room for what the system says about a datagram.
CONTROL_BYTES = 64

_recvmmsg = types.ExternalFunction(
    "recvmmsg", types.int32(types.int32, types.intp, types.uint32, types.int32, types.intp)
)
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
_errno = types.ExternalFunction("__errno_location", types.CPointer(types.int32)())


@inlined
def _note_waits(messages, first, n, waits):
    """Record how long each datagram lay in the socket, from the system's time stamp to now; make room for others."""
    clock = (waits + 8 * HIST_SIZE, 2)
    now = words_at(clock[0], 2)
    _clock_gettime(_CLOCK_REALTIME, clock[0])
    now_ns = now[0] * 1_000_000_000 + now[1]
    for i in range(first, first + n):
        message = messages[i]
        # struct cmsghdr: length, then level and type in one word, then the timespec.
        control = words_at(message.control, 4)
        if message.control_len >= 32 and control[1] == _STAMP:
            record(words_at(waits, HIST_SIZE), now_ns - (control[2] * 1_000_000_000 + control[3]))
        message.control_len = CONTROL_BYTES


@kernel(numba.int64(numba.int64, MESSAGES, numba.int64[::1], numba.int64, numba.int64, numba.int64))
def receive_rows(fd, messages, lengths, first, count, waits):
    """`receive_batch` into the rows `first` to `first` + `count` - 1.

    `waits`: 0, or (where the socket has SO_TIMESTAMPNS and the messages have room for it) the address of a histogram
    and two words behind it.
    """
    n = _recvmmsg(fd, messages.ctypes.data + first * _MESSAGE_BYTES, count, _MSG_DONTWAIT, 0)
    if n < 0:
        error = _errno()[0]
        return 0 if error in (_EAGAIN, _EINTR) else -error
    for i in range(first, first + n):
        length = numba.int64(messages[i].length)
        lengths[i] = -length if messages[i].flags & _MSG_TRUNC else length
    if waits:
        _note_waits(messages, first, n, waits)
    return n


@kernel(numba.int64(numba.int64, MESSAGES, numba.int64[::1]))
def receive_batch(fd, messages, lengths):
    """Receive what is there, without waiting. Number of datagrams, 0 if none, or -errno.

    `lengths` int64[batch] gets the size of each; negative when the datagram was larger than its slot and is cut off.
    """
    n = _recvmmsg(fd, messages.ctypes.data, len(messages), _MSG_DONTWAIT, 0)
    if n < 0:
        error = _errno()[0]
        return 0 if error in (_EAGAIN, _EINTR) else -error
    for i in range(n):
        length = numba.int64(messages[i].length)
        lengths[i] = -length if messages[i].flags & _MSG_TRUNC else length
    return n


class DatagramReceiver:
    """Slots for a batch of datagrams, and the call that fills them.

    `buffer` uint8[batch, slot_bytes] and `flat`, the same memory as uint8[batch * slot_bytes]: datagram i begins at
    ``i * slot_bytes``. `lengths` int64[batch], see `receive_batch`. `fd` stays the caller's.
    """

    def __init__(self, fd: int, batch: int, slot_bytes: int) -> None:
        if batch < 1 or slot_bytes < 1:
            msg = f"DatagramReceiver: batch={batch}, slot_bytes={slot_bytes}; both must be at least 1"
            raise ValueError(msg)
        self.fd = fd
        self.batch = batch
        self.slot_bytes = slot_bytes
        self.flat = np.zeros(batch * slot_bytes, dtype=np.uint8)
        self.buffer = self.flat.reshape(batch, slot_bytes)
        self.lengths = np.zeros(batch, dtype=np.int64)
        # The kernel of the host writes through these addresses: the arrays live as long as this object.
        self._iovecs = np.zeros((batch, 2), dtype=np.int64)
        self._iovecs[:, 0] = self.flat.ctypes.data + slot_bytes * np.arange(batch)
        self._iovecs[:, 1] = slot_bytes
        self.messages = np.zeros(batch, dtype=MESSAGE)
        self.messages["iov"] = self._iovecs.ctypes.data + 16 * np.arange(batch)
        self.messages["iov_len"] = 1
        self._controls = np.zeros((batch, CONTROL_BYTES), dtype=np.uint8)

    def ask_for_stamps(self) -> None:
        """Give the system room to say when it received each datagram: see `receive_rows`."""
        self.messages["control"] = self._controls.ctypes.data + CONTROL_BYTES * np.arange(self.batch)
        self.messages["control_len"] = CONTROL_BYTES

    def receive(self) -> int:
        """Fill the slots from the first on; number of datagrams, 0 if there is none now, or -errno."""
        return int(receive_batch(self.fd, self.messages, self.lengths))
