"""Compiled loops over the kernels of the services: one stage over many datagrams or orders, and all stages chained.

The kernels are those of the services, called as compiled code calls them; nothing is done here but going round.
"""

# mypy: ignore-errors

from __future__ import annotations

import numba
from numba import types

from tickpath.common.kernels.itch import be48
from tickpath.common.kernels.net import receive_batch
from tickpath.exec.kernels.ouch import accept
from tickpath.exec.layout import Reg
from tickpath.feed.kernels.decode import decode
from tickpath.risk.kernels.risk import apply_ticks, evaluate

_TIME_AT = 20 + 2 + 5  # of the first message: MoldUDP64 header, length, type, locate, tracking number
_TAIL = int(Reg.SEND_TAIL)
_SEND = int(Reg.SEND)
_NOSIGNAL = 0x4000

_send = types.ExternalFunction("send", types.intp(types.int32, types.intp, types.uintp, types.int32))


@numba.njit(nogil=True)
def ingest(state, buffer, lengths, first, end, ticks, ends):
    """Decode datagrams `first` to `end` - 1, one a call; ``ends[i]``: ticks after the i-th of them."""
    flat = buffer.reshape(buffer.size)
    n = 0
    for i in range(first, end):
        n += decode(state, buffer, lengths, i, i + 1, be48(flat, i * buffer.shape[1] + _TIME_AT), ticks[n:])
        ends[i - first] = n
    return n


@numba.njit(nogil=True)
def mark(risk, ticks, ends, count):
    """What risk keeps of the ticks, one datagram a call."""
    begin = 0
    for i in range(count):
        if ends[i] > begin:
            apply_ticks(risk, ticks[begin : ends[i]])
        begin = ends[i]


@numba.njit(nogil=True)
def assess(risk, signals, approved, out):
    """Decide SIGNAL[n], one a call, at the time of its tick; approved ones are copied to `out`. Their number."""
    n = 0
    for i in range(len(signals)):
        if evaluate(risk, signals[i : i + 1], signals[i].exch_ns)[1]:
            out[n] = approved[0]
            n += 1
    return n


@numba.njit(nogil=True)
def generate(context, orders):
    """Journal and encode ORDER[n], one a call. Number of bytes to send."""
    for i in range(len(orders)):
        accept(context, orders[i : i + 1], orders[i].approved_ns)
    return context[_TAIL]


@numba.njit(nogil=True)
def transmit(context, tcp):
    """Send what is in the send buffer. What `send` returned."""
    sent = _send(tcp, context[_SEND], context[_TAIL], _NOSIGNAL)
    if sent == context[_TAIL]:
        context[_TAIL] = 0
    return sent


def make_loops(run):
    """(signals, chain) around the compiled strategies, `Engine.module.run`."""

    @numba.njit(nogil=True)
    def signals(memory, counters, hist, ticks, ends, count, out):
        """Run the strategies on the ticks of `count` datagrams, one datagram a call; SIGNAL records in `out`."""
        begin = 0
        n = 0
        for i in range(count):
            if ends[i] > begin:
                n += run(memory, counters, hist, ticks[begin : ends[i]], out[n:], ticks[begin].exch_ns)[1]
            begin = ends[i]
        return n

    @numba.njit(nogil=True)
    def chain(fd, messages, buffer, lengths, feed, memory, counters, hist, ticks, out, risk, approved, context, tcp, n):
        """Take what waits at `fd` through all stages until nothing waits; add to `n`: datagrams, ticks, orders.

        Returns 0, or -errno of the receive, or -1000 when the socket took less than the orders.
        """
        flat = buffer.reshape(buffer.size)
        while True:
            arrived = receive_batch(fd, messages, lengths)
            if arrived <= 0:
                return arrived
            n[0] += arrived
            now_ns = be48(flat, _TIME_AT)
            made = decode(feed, buffer, lengths, 0, arrived, now_ns, ticks)
            if made == 0:
                continue
            n[1] += made
            apply_ticks(risk, ticks[:made])
            wanted = run(memory, counters, hist, ticks[:made], out, now_ns)[1]
            if wanted == 0:
                continue
            orders = evaluate(risk, out[:wanted], now_ns)[1]
            if orders == 0:
                continue
            accept(context, approved[:orders], now_ns)
            n[2] += orders
            if _send(tcp, context[_SEND], context[_TAIL], _NOSIGNAL) != context[_TAIL]:
                return -1000
            context[_TAIL] = 0

    return signals, chain
