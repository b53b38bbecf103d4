"""The venue's socket from compiled loops: what is in the send buffer leaves, what has come is applied to the orders.

Only the plain case is done here. Whatever needs the session's state machine (a partial send, a lost connection, a
message that is not about an order) stops with a `Leave`; `tickpath.exec.gateway` goes on from the same registers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from numba import int32, int64, types

from tickpath.common.jit import kernel
from tickpath.common.kernels.memory import bytes_at
from tickpath.exec.kernels.ouch import decode
from tickpath.exec.layout import Reg, Stop

_DONTWAIT: Final = 0x40
_NOSIGNAL: Final = 0x4000
_EAGAIN: Final = 11
_EINTR: Final = 4

_send = types.ExternalFunction("send", types.intp(types.int32, types.intp, types.uintp, types.int32))
_recv = types.ExternalFunction("recv", types.intp(types.int32, types.intp, types.uintp, types.int32))
_errno = types.ExternalFunction("__errno_location", types.CPointer(types.int32)())


class Leave(IntEnum):
    """Why a compiled step ends; all but NOTHING and DONE are for the gateway."""

    NOTHING = 0  # nothing was there
    DONE = 1
    FLUSH = 2  # not everything was sent, or the connection is lost
    SESSION = 3  # the receive buffer holds something that is not about an order, or the connection is lost
    QUERY = 4  # an Account Query response was read: Reg.STOP_ARG


_NOTHING, _DONE, _FLUSH = int(Leave.NOTHING), int(Leave.DONE), int(Leave.FLUSH)
_SESSION, _QUERY = int(Leave.SESSION), int(Leave.QUERY)


@kernel(int64(int64[::1], int64, int64))
def flush(ctx, fd, now_ns):
    """Send what is in the send buffer. NOTHING, DONE or FLUSH."""
    tail, sent = ctx[Reg.SEND_TAIL], ctx[Reg.SENT]
    if tail == sent:
        return _NOTHING
    n = _send(int32(fd), ctx[Reg.SEND] + sent, tail - sent, _DONTWAIT | _NOSIGNAL)
    if n < tail - sent:
        if n > 0:
            ctx[Reg.SENT] = sent + n
            ctx[Reg.SENT_NS] = now_ns
        return _FLUSH
    ctx[Reg.SEND_TAIL] = 0
    ctx[Reg.SENT] = 0
    ctx[Reg.SENT_NS] = now_ns
    return _DONE


@kernel(int64(int64[::1], int64))
def apply_received(ctx, now_ns):
    """Apply the receive buffer up to FILLED, and keep an incomplete packet at its head. DONE, SESSION or QUERY."""
    filled = ctx[Reg.FILLED]
    at = decode(ctx, 0, filled, now_ns)
    if at:
        received = bytes_at(ctx[Reg.RECEIVE], ctx[Reg.RECEIVE_SIZE])
        for i in range(filled - at):
            received[i] = received[at + i]
        ctx[Reg.FILLED] = filled - at
    if ctx[Reg.STOP] == Stop.MORE:
        return _DONE
    return _QUERY if ctx[Reg.STOP] == Stop.QUERY else _SESSION


@kernel(int64(int64[::1], int64, int64))
def receive(ctx, fd, now_ns):
    """Take what the venue has sent. NOTHING, DONE, SESSION or QUERY."""
    room = ctx[Reg.RECEIVE_SIZE] - ctx[Reg.FILLED]
    if room == 0:
        return _SESSION
    n = _recv(int32(fd), ctx[Reg.RECEIVE] + ctx[Reg.FILLED], room, _DONTWAIT)
    if n <= 0:
        return _NOTHING if n < 0 and _errno()[0] in (_EAGAIN, _EINTR) else _SESSION
    ctx[Reg.FILLED] += n
    ctx[Reg.HEARD_NS] = now_ns
    return apply_received(ctx, now_ns)
