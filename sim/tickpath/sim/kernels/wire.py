"""Market data out: packing the tape into MoldUDP64 datagrams, and sending them with a stamp for each message.

`pack` is pure. `transmit` does nothing but stamp, send and, on request, go wrong; one system call per datagram: on
loopback the delivery inside `sendto` costs twenty times the call itself, so `sendmmsg` would save nothing and blur
the stamps.

What a packet is to suffer is a function of the seed, the line and the number of its first message (`chance`). So it
does not matter when a fault was asked for, what else went wrong, or in which run: the same packet is lost again.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from tickpath.common.jit import always_inlined, kernel
from tickpath.sim.layout import Counter, Fault

# Columns of ``packets``, int64[k, 4]: where a datagram lies in the buffer, and the messages in it.
START, LENGTH, FIRST_SEQ, COUNT = range(4)

# Fields of ``plan``, int64[6]: what `pack` may take, and where it stopped.
NEXT, UNTIL_INDEX, UNTIL_TIME, NEXT_SEQ, SHIFT_NS, DATAGRAM_BYTES = range(6)
PLAN_SIZE = 6

# Columns of ``lines``, int64[n, 3]: a socket, where its sockaddr_in lies, how many copies are held back.
DESCRIPTOR, ADDRESS, LINE_HELD = range(3)

# Columns of ``slots``, int64[n, SLOTS, 6]: a copy that is held back, LENGTH 0 is a free slot. It leaves when OVERTAKE
# others have left, or at DUE_NS. STAMP is the stamp that its messages have meanwhile: see `Wire.words`.
HELD_LENGTH, HELD_SEQ, HELD_COUNT, DUE_NS, OVERTAKE, HELD_STAMP = range(6)
SLOTS: Final = 64

# Fields of ``words``, int64[5]: what `transmit` remembers between calls. NUMBER counts packets; LINE is the first
# line that the packet has not been on; STAMP is what its messages are stamped with so far: 0 nothing, -1 the time at
# which the first copy left, else the time at which one was lost or held back, which counts until one leaves.
# RELEASE_NS is when the next copy that is held back is due; GARBAGE, before which copy garbage was sent last.
NUMBER, LINE, STAMP, RELEASE_NS, GARBAGE = range(5)

NEVER: Final = 2**62

#: Messages that are due within this time of a turn leave together in the next one; a datagram of a tape that is
#: played in steps has what follows its first message within this time. Bounds the share of a core that the exchange
#: takes from the pipeline that it measures; the lateness that it makes is counted like any other.
QUANTUM_NS: Final = 50_000

_HEADER = 20
_MAX_COUNT = 0xFFFE
_LAST_NS = 86_400_000_000_000 - 1  # of a day; ITCH has no later time
_DONTWAIT_NOSIGNAL = 0x40 | 0x4000
_CLOCK_MONOTONIC = 1
_GARBAGE_BYTES = 256
_MOST_OVERTAKERS = 4
_REORDER_NS = 50_000_000  # who waits to be overtaken waits no longer

_sendto = types.ExternalFunction(
    "sendto", types.intp(types.int32, types.intp, types.uintp, types.int32, types.intp, types.uint32)
)
# A loop over bytes costs three times as much for the forty bytes of a message.
_memcpy = types.ExternalFunction("memcpy", types.intp(types.intp, types.intp, types.intp))
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))


@always_inlined
def _put(buffer, at, size, value):
    for i in range(size):
        buffer[at + i] = value >> 8 * (size - 1 - i) & 0xFF


@always_inlined
def _pack(data, offsets, time_ns, session, plan, buffer, packets):
    size = plan[DATAGRAM_BYTES]
    shift = plan[SHIFT_NS]
    until = min(plan[UNTIL_INDEX], len(time_ns))
    until_time = plan[UNTIL_TIME]
    i = plan[NEXT]
    seq = plan[NEXT_SEQ]
    n = 0
    while n < len(packets) and i < until and time_ns[i] <= until_time:
        start = n * size
        room = size - _HEADER
        first = i
        begin = offsets[i]
        while i < until and time_ns[i] <= until_time and offsets[i + 1] - begin <= room and i - first < _MAX_COUNT:
            i += 1
        length = offsets[i] - begin
        if i == first:
            break
        body = start + _HEADER
        _memcpy(buffer.ctypes.data + body, data.ctypes.data + begin, length)
        if shift != 0:
            for k in range(first, i):
                if offsets[k + 1] - offsets[k] >= 13:
                    at = body + offsets[k] - begin + 7  # length 2, then the time at byte 5 of the message
                    stamp = 0
                    for b in range(6):
                        stamp = stamp << 8 | buffer[at + b]
                    _put(buffer, at, 6, min(stamp + shift, _LAST_NS))
        for k in range(10):
            buffer[start + k] = session[k]
        _put(buffer, start + 10, 8, seq)
        _put(buffer, start + 18, 2, i - first)
        packets[n, START] = start
        packets[n, LENGTH] = _HEADER + length
        packets[n, FIRST_SEQ] = seq
        packets[n, COUNT] = i - first
        seq += i - first
        n += 1
    plan[NEXT] = i
    plan[NEXT_SEQ] = seq
    return n


_PACK = "int64(uint8[::1], int64[::1], int64[::1], uint8[::1], int64[::1], uint8[::1], int64[:,::1])"


@kernel(_PACK)
def pack(data, offsets, time_ns, session, plan, buffer, packets):
    """Pack the messages that are due into at most len(packets) datagrams; returns how many.

    A message i of the tape is due when i < plan[UNTIL_INDEX] and time_ns[i] <= plan[UNTIL_TIME]. The first is
    plan[NEXT] and gets the number plan[NEXT_SEQ]; both are moved on. `session` uint8[10]. plan[SHIFT_NS] is added
    to the time stamp in every message, up to the last nanosecond of the day. `buffer` holds len(packets) datagrams
    of plan[DATAGRAM_BYTES] each; every message must fit one.
    """
    return _pack(data, offsets, time_ns, session, plan, buffer, packets)


@always_inlined
def step(data, offsets, time_ns, session, plan, buffer, packets):
    """See `pack_step`: this is it, for a kernel that does more."""
    first = plan[NEXT]
    if first >= len(time_ns):
        return 0
    plan[UNTIL_INDEX] = len(time_ns)
    plan[UNTIL_TIME] = time_ns[first] + QUANTUM_NS
    return _pack(data, offsets, time_ns, session, plan, buffer, packets)


@kernel(_PACK)
def pack_step(data, offsets, time_ns, session, plan, buffer, packets):
    """Pack the next datagram of a tape that is played in steps; returns 1, 0 when the tape is through.

    It has the messages whose time is within QUANTUM_NS of its first one, as far as they fit: a function of the tape
    and of plan[DATAGRAM_BYTES] alone. Arguments as in `pack`, `packets` with one row; the two UNTIL of the plan are
    set here.
    """
    return step(data, offsets, time_ns, session, plan, buffer, packets)


@always_inlined
def _nth(every, number):
    return every > 0 and number % every == 0


# What `chance` draws for; beyond these the streams of numbers that are not probabilities.
LOSS, DUPLICATE, REORDER, DELAY, RETRANSMISSION, _OVERTAKERS, _DELAY_US, _NOISE = range(8)


@always_inlined
def _scatter(x):
    # The finalizer of splitmix64; the sign bit is masked off after each shift, so all of it stays in int64.
    x ^= x >> 30 & (1 << 34) - 1
    x *= -4658895280553007687
    x ^= x >> 27 & (1 << 37) - 1
    x *= -7723592293110705685
    return x ^ x >> 31 & (1 << 33) - 1


@always_inlined
def _draw(seed, what, line, number):
    """A random number from 0 on that depends on nothing but the arguments."""
    stream = _scatter(seed * 64 + what * 4 + line + 1)
    return _scatter(stream + number * -7046029254386353131) & (1 << 62) - 1


@always_inlined
def _hits(ppm, seed, what, line, number):
    return ppm > 0 and _draw(seed, what, line, number) % 1_000_000 < ppm


@kernel("int64(int64, int64, int64, int64, int64)")
def chance(ppm, seed, what, line, number):
    """1 when the fault `what` (LOSS, ...) hits the packet that begins with message `number` on `line`; else 0."""
    return 1 if _hits(ppm, seed, what, line, number) else 0


class Wire(NamedTuple):
    """One or two lines, and what is on its way to them. A kernel takes it as one argument of the type `WIRE`."""

    lines: npt.NDArray[np.int64]  # int64[n, 3]: line A, then perhaps line B
    slots: npt.NDArray[np.int64]  # int64[n, SLOTS, 6]
    held: npt.NDArray[np.uint8]  # uint8[n, SLOTS, datagram bytes]: the copies of `slots`
    words: npt.NDArray[np.int64]  # int64[5]
    out_ns: npt.NDArray[np.int64]  # int64[power of two]: when message seq left, at seq & (len - 1)
    counters: npt.NDArray[np.int64]  # int64[len(Counter)]
    clock: npt.NDArray[np.int64]  # int64[2], scratch
    noise: npt.NDArray[np.uint8]  # uint8[256], scratch

    @classmethod
    def create(cls, lines: list[tuple[int, int]], datagram_bytes: int, out_ns: Any, counters: Any) -> Wire:
        """Of the descriptors and the addresses of sockaddr_in of its lines."""
        n = len(lines)
        words = np.zeros(5, np.int64)
        words[RELEASE_NS] = NEVER
        return cls(
            np.array([(*line, 0) for line in lines], np.int64),
            np.zeros((n, SLOTS, 6), np.int64),
            np.zeros((n, SLOTS, datagram_bytes), np.uint8),
            words,
            out_ns,
            counters,
            np.zeros(2, np.int64),
            np.zeros(_GARBAGE_BYTES, np.uint8),
        )


_INTS = types.int64[::1]
WIRE: Final = types.NamedTuple(
    (
        types.int64[:, ::1],
        types.int64[:, :, ::1],
        types.uint8[:, :, ::1],
        _INTS,
        _INTS,
        _INTS,
        _INTS,
        types.uint8[::1],
    ),
    Wire,
)


@always_inlined
def _now(wire):
    _clock_gettime(_CLOCK_MONOTONIC, wire.clock.ctypes.data)
    return wire.clock[0] * 1_000_000_000 + wire.clock[1]


@always_inlined
def _stamp(wire, seq, count, now):
    mask = len(wire.out_ns) - 1
    for s in range(seq, seq + count):
        wire.out_ns[s & mask] = now


@always_inlined
def _send(wire, line, pointer, length):
    """Send one datagram; when, or -1 when the system has no room for it now."""
    now = _now(wire)
    if _sendto(wire.lines[line, DESCRIPTOR], pointer, length, _DONTWAIT_NOSIGNAL, wire.lines[line, ADDRESS], 16) < 0:
        wire.counters[Counter.SEND_ERRORS] += 1
        return -1
    wire.counters[Counter.DATAGRAMS_SENT] += 1
    wire.counters[Counter.LINE_B_DATAGRAMS_SENT] += line
    wire.counters[Counter.BYTES_SENT] += length
    return now


@always_inlined
def _set_aside(wire, seq, count):
    """A copy does not leave now. If no other has left, its messages are stamped: who asks must find no older time."""
    words = wire.words
    if words[STAMP] == 0:
        words[STAMP] = _now(wire)
        _stamp(wire, seq, count, words[STAMP])


@always_inlined
def _hold(wire, line, pointer, length, seq, count, due_ns, overtake):
    """Hold a copy back; False when as many as can be are held."""
    slots = wire.slots
    if wire.lines[line, LINE_HELD] >= SLOTS:
        return False
    for k in range(SLOTS):
        if slots[line, k, HELD_LENGTH] == 0:
            _set_aside(wire, seq, count)
            at = (line * SLOTS + k) * wire.held.shape[2]
            _memcpy(wire.held.ctypes.data + at, pointer, length)
            slots[line, k, HELD_LENGTH] = length
            slots[line, k, HELD_SEQ] = seq
            slots[line, k, HELD_COUNT] = count
            slots[line, k, DUE_NS] = due_ns
            slots[line, k, OVERTAKE] = overtake
            slots[line, k, HELD_STAMP] = wire.words[STAMP]
            wire.lines[line, LINE_HELD] += 1
            wire.counters[Counter.HELD] += 1
            wire.words[RELEASE_NS] = min(wire.words[RELEASE_NS], due_ns)
            return True
    return False


@always_inlined
def _let_go(wire, line, k):
    """Send a copy that was held back; False when the system has no room for it now."""
    slots = wire.slots
    at = (line * SLOTS + k) * wire.held.shape[2]
    now = _send(wire, line, wire.held.ctypes.data + at, slots[line, k, HELD_LENGTH])
    if now < 0:
        slots[line, k, DUE_NS] = 0
        return False
    seq = slots[line, k, HELD_SEQ]
    if wire.out_ns[seq & (len(wire.out_ns) - 1)] == slots[line, k, HELD_STAMP]:
        _stamp(wire, seq, slots[line, k, HELD_COUNT], now)  # no other copy has left
    slots[line, k, HELD_LENGTH] = 0
    wire.lines[line, LINE_HELD] -= 1
    wire.counters[Counter.HELD] -= 1
    return True


@always_inlined
def _release(wire, now_ns):
    """Send what was held back for long enough, in the order in which it is due."""
    slots = wire.slots
    for _ in range(2 * SLOTS):
        line, slot, due = 0, -1, NEVER
        for n in range(len(wire.lines)):
            if wire.lines[n, LINE_HELD] > 0:
                for k in range(SLOTS):
                    if slots[n, k, HELD_LENGTH] > 0 and slots[n, k, DUE_NS] < due:
                        line, slot, due = n, k, slots[n, k, DUE_NS]
        wire.words[RELEASE_NS] = due
        if due > now_ns:
            return
        if not _let_go(wire, line, slot):
            wire.words[RELEASE_NS] = now_ns + QUANTUM_NS
            return


@always_inlined
def _one_has_left(wire, line):
    """What is held back on a line was overtaken by one more."""
    slots = wire.slots
    for k in range(SLOTS):
        if slots[line, k, HELD_LENGTH] > 0:
            slots[line, k, OVERTAKE] -= 1
            if slots[line, k, OVERTAKE] <= 0 and not _let_go(wire, line, k):
                wire.words[RELEASE_NS] = 0


@always_inlined
def _held_back(wire, faults, line, number, pointer, length, seq, count, now_ns):
    """Whether a fault says that this copy is to leave later."""
    seed = faults[Fault.SEED]
    counters = wire.counters
    if faults[Fault.DELAY_US] > 0 and _hits(faults[Fault.DELAY_A_PPM + line], seed, DELAY, line, seq):
        due_ns = now_ns + 1000 * (1 + _draw(seed, _DELAY_US, line, seq) % faults[Fault.DELAY_US])
        if _hold(wire, line, pointer, length, seq, count, due_ns, NEVER):
            counters[Counter.DELAYED] += 1
            return True
        return False
    overtake = 0
    if _hits(faults[Fault.REORDER_A_PPM + line], seed, REORDER, line, seq):
        overtake = 1 + _draw(seed, _OVERTAKERS, line, seq) % _MOST_OVERTAKERS
    elif _nth(faults[Fault.REORDER_EVERY], number) and wire.lines[line, LINE_HELD] == 0:
        overtake = 1
    if overtake > 0 and _hold(wire, line, pointer, length, seq, count, now_ns + _REORDER_NS, overtake):
        counters[Counter.REORDERED] += 1
        return True
    return False


@always_inlined
def _make_noise(wire, seed, line, number):
    """Random bytes; how many."""
    x = _draw(seed, _NOISE, line, number)
    n = 1 + x % _GARBAGE_BYTES
    for k in range(n):
        x = _scatter(x + k)
        wire.noise[k] = x & 0xFF
    return n


@always_inlined
def _carry(wire, faults, line, number, pointer, length, seq, count, now_ns):
    """One packet on one line; False when the system has no room for it now."""
    counters = wire.counters
    words = wire.words
    seed = faults[Fault.SEED]
    if _nth(faults[Fault.DROP_EVERY], number) or _hits(faults[Fault.LOSS_A_PPM + line], seed, LOSS, line, seq):
        _set_aside(wire, seq, count)
        counters[Counter.LINE_A_LOST + line] += 1
        counters[Counter.FAULTS_INJECTED] += 1
        return True
    if _held_back(wire, faults, line, number, pointer, length, seq, count, now_ns):
        counters[Counter.FAULTS_INJECTED] += 1
        return True
    if _nth(faults[Fault.GARBAGE_EVERY], number) and words[GARBAGE] != number * 2 + line:
        words[GARBAGE] = number * 2 + line  # not again when there is no room for the packet itself
        n_bytes = _make_noise(wire, seed, line, number)
        _send(wire, line, wire.noise.ctypes.data, n_bytes)
        counters[Counter.FAULTS_INJECTED] += 1
    cut = _nth(faults[Fault.TRUNCATE_EVERY], number)
    now = _send(wire, line, pointer, length // 2 if cut else length)
    if now < 0:
        return False
    if words[STAMP] >= 0:
        words[STAMP] = -1
        _stamp(wire, seq, count, now)
    if cut:
        counters[Counter.FAULTS_INJECTED] += 1
    twice = _nth(faults[Fault.DUPLICATE_EVERY], number)
    if twice or _hits(faults[Fault.DUPLICATE_A_PPM + line], seed, DUPLICATE, line, seq):
        _send(wire, line, pointer, length)
        counters[Counter.DUPLICATED] += 1
        counters[Counter.FAULTS_INJECTED] += 1
    if wire.lines[line, LINE_HELD] > 0:
        _one_has_left(wire, line)
    return True


@kernel(
    types.int64(
        WIRE,
        types.Array(types.int64, 1, "C", readonly=True),  # in the side process's page
        types.uint8[::1],
        types.int64[:, ::1],
        types.int64,
        types.int64,
        types.int64,
    ),
)
def transmit(wire, faults, buffer, packets, first, last, now_ns):
    """Send the datagrams `first` to `last` of `packets` on every line, and what was held back and is due at `now_ns`.

    Returns the first that is still to be sent. The stamp of a message is CLOCK_MONOTONIC just before its first copy
    left; of one that was lost on every line, when that happened. `faults` int64[len(Fault)] spoils packets on
    request. Never blocks.
    """
    base = buffer.ctypes.data
    words = wire.words
    for i in range(first, last):
        number = words[NUMBER] + 1
        pointer = base + packets[i, START]
        length = packets[i, LENGTH]
        seq = packets[i, FIRST_SEQ]
        count = packets[i, COUNT]
        for line in range(words[LINE], len(wire.lines)):
            if not _carry(wire, faults, line, number, pointer, length, seq, count, now_ns):
                words[LINE] = line
                return i
        words[LINE] = 0
        words[STAMP] = 0
        words[NUMBER] = number
        wire.counters[Counter.MESSAGES_SENT] += count
    if words[RELEASE_NS] <= now_ns:
        _release(wire, now_ns)
    return last
