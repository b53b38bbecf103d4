"""Compiled loops over the kernels of the services: one stage over many datagrams or orders, and all stages chained.

The kernels are those of the services, called as compiled code calls them; nothing is done here but going round.
`strategies` is int64[5]: address of the compiled strategies (``run_at`` of the engine's module), address and size of
their memory, addresses of their counters and histograms.
"""

# mypy: ignore-errors

from __future__ import annotations

import numba
from numba import int64, types

from tickpath.common.jit import inlined, kernel
from tickpath.common.kernels.itch import be48
from tickpath.common.kernels.memory import call
from tickpath.common.kernels.net import MESSAGES, receive_batch
from tickpath.common.records import ORDER, SIGNAL, TICK
from tickpath.exec.kernels.ouch import accept
from tickpath.exec.layout import Reg
from tickpath.feed.kernels.decode import STATE, decode
from tickpath.risk.kernels.risk import apply_ticks, evaluate

_TIME_AT = 20 + 2 + 5  # of the first message: MoldUDP64 header, length, type, locate, tracking number
_TAIL = int(Reg.SEND_TAIL)
_SEND = int(Reg.SEND)
_NOSIGNAL = 0x4000
_LOW32 = 0xFFFFFFFF
_TICK_BYTES = TICK.itemsize
_SIGNAL_BYTES = SIGNAL.itemsize

_WORDS = int64[::1]
_BYTES = numba.uint8[:, ::1]
_TICKS = numba.from_dtype(TICK)[::1]
_SIGNALS = numba.from_dtype(SIGNAL)[::1]
_ORDERS = numba.from_dtype(ORDER)[::1]

_send = types.ExternalFunction("send", types.intp(types.int32, types.intp, types.uintp, types.int32))


@inlined
def _run(strategies, ticks, at, n, out, written, now_ns):
    """Signals that ``ticks[at : at + n]`` cause, written to ``out[written:]``; how many."""
    packed = call(
        strategies[0],
        (
            strategies[1], strategies[2], strategies[3], strategies[4], ticks.ctypes.data + at * _TICK_BYTES, n,
            out.ctypes.data + written * _SIGNAL_BYTES, len(out) - written, now_ns,
        ),
    )  # fmt: skip
    return packed & _LOW32


@kernel(int64(STATE, _BYTES, _WORDS, int64, int64, _TICKS, _WORDS))
def ingest(state, buffer, lengths, first, end, ticks, ends):
    """Decode datagrams `first` to `end` - 1, one a call; ``ends[i]``: ticks after the i-th of them."""
    flat = buffer.reshape(buffer.size)
    n = 0
    for i in range(first, end):
        n += decode(state, buffer, lengths, i, i + 1, be48(flat, i * buffer.shape[1] + _TIME_AT), 0, ticks[n:])
        ends[i - first] = n
    return n


@kernel(types.void(_WORDS, _TICKS, _WORDS, int64))
def mark(risk, ticks, ends, count):
    """What risk keeps of the ticks, one datagram a call."""
    begin = 0
    for i in range(count):
        if ends[i] > begin:
            apply_ticks(risk, ticks[begin : ends[i]])
        begin = ends[i]


@kernel(int64(_WORDS, _TICKS, _WORDS, int64, _SIGNALS))
def signals(strategies, ticks, ends, count, out):
    """Run the strategies on the ticks of `count` datagrams, one datagram a call; how many signals are in `out`."""
    begin = 0
    n = 0
    for i in range(count):
        if ends[i] > begin:
            n += _run(strategies, ticks, begin, ends[i] - begin, out, n, ticks[begin].exch_ns)
        begin = ends[i]
    return n


@kernel(int64(_WORDS, _SIGNALS, _ORDERS, _ORDERS))
def assess(risk, wanted, approved, out):
    """Decide SIGNAL[n], one a call, at the time of its tick; approved ones are copied to `out`. Their number."""
    n = 0
    for i in range(len(wanted)):
        if evaluate(risk, wanted[i : i + 1], wanted[i].exch_ns)[1]:
            out[n] = approved[0]
            n += 1
    return n


@kernel(int64(_WORDS, _ORDERS))
def generate(context, orders):
    """Journal and encode ORDER[n], one a call. Number of bytes to send."""
    for i in range(len(orders)):
        accept(context, orders[i : i + 1], orders[i].approved_ns)
    return context[_TAIL]


@kernel(int64(_WORDS, int64))
def transmit(context, tcp):
    """Send what is in the send buffer. What `send` returned."""
    sent = _send(tcp, context[_SEND], context[_TAIL], _NOSIGNAL)
    if sent == context[_TAIL]:
        context[_TAIL] = 0
    return sent


@kernel(
    int64(
        int64, MESSAGES, _BYTES, _WORDS, STATE, _WORDS, _TICKS, _SIGNALS, _WORDS, _ORDERS, _WORDS, int64, _WORDS
    )
)  # fmt: skip
def chain(fd, messages, buffer, lengths, feed, strategies, ticks, out, risk, approved, context, tcp, n):
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
        made = decode(feed, buffer, lengths, 0, arrived, now_ns, 0, ticks)
        if made == 0:
            continue
        n[1] += made
        apply_ticks(risk, ticks[:made])
        wanted = _run(strategies, ticks, 0, made, out, 0, now_ns)
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
