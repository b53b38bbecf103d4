"""The exchange for a compiled loop, without sockets and without Python: see `tickpath.sim.offline`.

`next_datagram`, `take_orders` and `end_of_day` are always inlined into the kernel that calls them: there are fifty
arrays, and a call would push every one of them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numba

from tickpath.common.jit import always_inlined, kernel
from tickpath.common.kernels.memory import bytes_at
from tickpath.sim.kernels import wire
from tickpath.sim.kernels.entry import (
    ANNOUNCED_CLOSED,
    ANSWER_BYTES,
    ANSWERS,
    DESK,
    N_BYTES,
    N_REPORTS,
    UNREAD,
    Bytes,
    Desk,
    Ints,
    report_event,
    report_fills,
    request,
)
from tickpath.sim.kernels.matching import CLOSED, EXCHANGE, Exchange, play
from tickpath.sim.layout import Counter


class Replay(NamedTuple):
    """The exchange, its tape, and what goes out of it. One client: account 0."""

    exchange: Exchange
    desk: Desk
    data: Bytes  # the tape, see `tickpath.sim.sources.tape.Tape`
    offsets: Ints
    time_ns: Ints
    session: Bytes  # uint8[10]: name of the market data session
    plan: Ints  # int64[wire.PLAN_SIZE]
    packets: Ints  # int64[1, 4]: the present datagram, see `wire`
    flat: Bytes  # uint8[size]: memory of the present datagram
    datagram: Bytes  # uint8[1, size]: the same memory, as a batch of one for the feed's `decode`
    lengths: Ints  # int64[1]: bytes of the present datagram
    played: Ints  # int64[1]: messages of the tape that are published


_I64 = numba.int64
_INTS = numba.int64[::1]
_BYTES = numba.uint8[::1]
REPLAY: Final = numba.types.NamedTuple(
    (
        EXCHANGE,
        DESK,
        _BYTES,
        _INTS,
        _INTS,
        _BYTES,
        _INTS,
        numba.int64[:, ::1],
        _BYTES,
        numba.uint8[:, ::1],
        _INTS,
        _INTS,
    ),
    Replay,
)

_E = ord("E")
_S = ord("S")
_UNSEQUENCED = ord("U")


@always_inlined
def has_room(desk, answers, n_bytes):
    """Whether so many more reports fit."""
    words = desk.words
    return words[N_REPORTS] + answers <= len(desk.spans) and words[N_BYTES] + n_bytes <= len(desk.reports)


@always_inlined
def _announce(replay, closed):
    """Tell the client when the day has begun or ended."""
    desk = replay.desk
    if closed != desk.words[ANNOUNCED_CLOSED]:
        desk.words[ANNOUNCED_CLOSED] = closed
        report_event(replay.exchange, desk, 0, _E if closed else _S)


@always_inlined
def next_datagram(replay):
    """Pack the next datagram and publish it; returns the number of messages in it.

    0: the tape is through. -1: nothing was done, because reports wait that must be taken first. Reports of resting
    orders that the messages fill are appended to ``replay.desk.reports``.
    """
    desk = replay.desk
    if desk.words[N_REPORTS] > ANSWERS:
        return -1
    plan = replay.plan
    first = plan[wire.NEXT]
    if wire.step(replay.data, replay.offsets, replay.time_ns, replay.session, plan, replay.flat, replay.packets) == 0:
        return 0
    replay.lengths[0] = replay.packets[0, wire.LENGTH]
    play_until(replay, plan[wire.NEXT])
    return plan[wire.NEXT] - first


@always_inlined
def play_until(replay, last):
    """Publish the messages up to `last` of the tape, which are those of one datagram; see `next_datagram`."""
    desk = replay.desk
    ex = replay.exchange
    at = replay.played[0]
    while at < last:
        at = play(ex, replay.data, replay.offsets, at, last, 0)
        report_fills(ex, desk)
    replay.played[0] = last
    _announce(replay, ex.state[CLOSED])


@always_inlined
def take_orders(replay, address, size, arrived_ns):
    """Work on the SoupBinTCP packets in the `size` bytes at `address`; returns the number of bytes that are done.

    What is left is a packet that is not complete, or (when reports wait) for which the room of its reports must be
    made first: take them and call again. Enter Order and Cancel Order without options are answered; another OUCH
    message is counted in OTHER_RECEIVED and has no answer; packets that are not ``U`` are passed over.
    """
    desk = replay.desk
    ex = replay.exchange
    stream = bytes_at(address, size)
    at = 0
    while at + 3 <= size:
        length = numba.int64(stream[at]) << 8 | numba.int64(stream[at + 1])
        after = at + 2 + length
        if length == 0 or after > size or not has_room(desk, ANSWERS, ANSWER_BYTES):
            break
        if stream[at + 2] == _UNSEQUENCED and not request(
            ex, desk, stream, at + 3, length - 1, 0, UNREAD, arrived_ns, 0
        ):
            ex.counters[Counter.OTHER_RECEIVED] += 1
        at = after
    return at


@always_inlined
def end_of_day(replay):
    """The tape is through: close, and tell the client."""
    replay.exchange.state[CLOSED] = 1
    _announce(replay, 1)


@kernel(_I64(REPLAY))
def next_datagram_once(replay):
    """`next_datagram` for Python."""
    return next_datagram(replay)


@kernel(_I64(REPLAY, _I64, _I64, _I64))
def take_orders_once(replay, address, size, arrived_ns):
    """`take_orders` for Python."""
    return take_orders(replay, address, size, arrived_ns)


@kernel(_I64(REPLAY))
def end_of_day_once(replay):
    """`end_of_day` for Python."""
    end_of_day(replay)
    return 0


@kernel(_I64(REPLAY))
def play_all(replay):
    """Every datagram of the tape, and no orders: what the exchange costs by itself. The number of messages."""
    total = 0
    for _ in range(len(replay.time_ns)):
        n = next_datagram(replay)
        if n <= 0:
            break
        total += n
        replay.desk.words[N_REPORTS] = 0
        replay.desk.words[N_BYTES] = 0
    return total
