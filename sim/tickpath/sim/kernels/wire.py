"""Market data out: packing the tape into MoldUDP64 datagrams, and sending them with a stamp for each message.

`pack` is pure. `transmit` does nothing but stamp and send, one system call per datagram: on loopback the delivery
inside `sendto` costs twenty times the call itself, so `sendmmsg` would save nothing and blur the stamps.
"""

from __future__ import annotations

from typing import Final

from numba import types

from tickpath.common.jit import kernel
from tickpath.common.kernels.book import inlined
from tickpath.sim.layout import Counter, Fault

# Columns of ``packets``, int64[k, 4]: where a datagram lies in the buffer, and the messages in it.
START, LENGTH, FIRST_SEQ, COUNT = range(4)

# Fields of ``plan``, int64[6]: what `pack` may take, and where it stopped.
NEXT, UNTIL_INDEX, UNTIL_TIME, NEXT_SEQ, SHIFT_NS, DATAGRAM_BYTES = range(6)
PLAN_SIZE = 6

# Fields of ``wire``, int64[5]: what `transmit` remembers between calls.
NUMBER, RANDOM, HELD_LENGTH, HELD_SEQ, HELD_COUNT = range(5)
WIRE_SIZE = 5

#: Messages that are due within this time of a turn leave together in the next one; a datagram of a tape that is
#: played in steps has what follows its first message within this time. Bounds the share of a core that the exchange
#: takes from the pipeline that it measures; the lateness that it makes is counted like any other.
QUANTUM_NS: Final = 50_000

_HEADER = 20
_MAX_COUNT = 0xFFFE
_LAST_NS = 86_400_000_000_000 - 1  # of a day; ITCH has no later time
_DONTWAIT_NOSIGNAL = 0x40 | 0x4000
_CLOCK_MONOTONIC = 1

_sendto = types.ExternalFunction(
    "sendto", types.intp(types.int32, types.intp, types.uintp, types.int32, types.intp, types.uint32)
)
# A loop over bytes costs three times as much for the forty bytes of a message.
_memcpy = types.ExternalFunction("memcpy", types.intp(types.intp, types.intp, types.intp))
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))


@inlined
def _put(buffer, at, size, value):
    for i in range(size):
        buffer[at + i] = value >> 8 * (size - 1 - i) & 0xFF


@inlined
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


@kernel(_PACK, _nrt=False)
def pack(data, offsets, time_ns, session, plan, buffer, packets):
    """Pack the messages that are due into at most len(packets) datagrams; returns how many.

    A message i of the tape is due when i < plan[UNTIL_INDEX] and time_ns[i] <= plan[UNTIL_TIME]. The first is
    plan[NEXT] and gets the number plan[NEXT_SEQ]; both are moved on. `session` uint8[10]. plan[SHIFT_NS] is added
    to the time stamp in every message, up to the last nanosecond of the day. `buffer` holds len(packets) datagrams
    of plan[DATAGRAM_BYTES] each; every message must fit one.
    """
    return _pack(data, offsets, time_ns, session, plan, buffer, packets)


@inlined
def step(data, offsets, time_ns, session, plan, buffer, packets):
    """See `pack_step`: this is it, for a kernel that does more."""
    first = plan[NEXT]
    if first >= len(time_ns):
        return 0
    plan[UNTIL_INDEX] = len(time_ns)
    plan[UNTIL_TIME] = time_ns[first] + QUANTUM_NS
    return _pack(data, offsets, time_ns, session, plan, buffer, packets)


@kernel(_PACK, _nrt=False)
def pack_step(data, offsets, time_ns, session, plan, buffer, packets):
    """Pack the next datagram of a tape that is played in steps; returns 1, 0 when the tape is through.

    It has the messages whose time is within QUANTUM_NS of its first one, as far as they fit: a function of the tape
    and of plan[DATAGRAM_BYTES] alone. Arguments as in `pack`, `packets` with one row; the two UNTIL of the plan are
    set here.
    """
    return step(data, offsets, time_ns, session, plan, buffer, packets)


@inlined
def _nth(every, number):
    return every > 0 and number % every == 0


@inlined
def _random(state):
    # xorshift64; the sign bit is masked off so that all arithmetic stays in int64.
    x = state
    x ^= x << 13
    x ^= x >> 7 & (1 << 57) - 1
    x ^= x << 17
    return x


@inlined
def _send(descriptor, address, pointer, length, first_seq, count, out_ns, clock, counters):
    """Stamp and send one datagram; False when the system has no room for it now."""
    _clock_gettime(_CLOCK_MONOTONIC, clock.ctypes.data)
    now = clock[0] * 1_000_000_000 + clock[1]
    if _sendto(descriptor, pointer, length, _DONTWAIT_NOSIGNAL, address, 16) < 0:
        counters[Counter.SEND_ERRORS] += 1
        return False
    mask = len(out_ns) - 1
    for seq in range(first_seq, first_seq + count):
        out_ns[seq & mask] = now
    counters[Counter.DATAGRAMS_SENT] += 1
    counters[Counter.BYTES_SENT] += length
    return True


@kernel(
    types.int64(
        types.int64,
        types.int64,
        types.uint8[::1],
        types.int64[:, ::1],
        types.int64,
        types.int64,
        types.int64[::1],
        types.int64[::1],
        types.Array(types.int64, 1, "C", readonly=True),  # in the side process's page
        types.int64[::1],
        types.uint8[::1],
        types.int64[::1],
    )
)
def transmit(descriptor, address, buffer, packets, first, last, out_ns, counters, faults, wire, held, clock):
    """Send the datagrams `first` to `last` of `packets`; returns the first that is still to be sent.

    `address` is where a sockaddr_in lies. ``out_ns[seq & (len - 1)]`` becomes CLOCK_MONOTONIC just before the message
    left; len(out_ns) is a power of two. `faults` int64[len(Fault)] spoils datagrams on request; `held` uint8[65536]
    is where a datagram waits that is to be overtaken; `clock` int64[2] is scratch. Never blocks.
    """
    base = buffer.ctypes.data
    for i in range(first, last):
        length = packets[i, LENGTH]
        seq = packets[i, FIRST_SEQ]
        count = packets[i, COUNT]
        pointer = base + packets[i, START]
        number = wire[NUMBER] + 1
        spoiled = True
        if _nth(faults[Fault.DROP_EVERY], number):
            # As if it had left and was lost on the way: who asks for its time must not find an older one.
            _clock_gettime(_CLOCK_MONOTONIC, clock.ctypes.data)
            for s in range(seq, seq + count):
                out_ns[s & (len(out_ns) - 1)] = clock[0] * 1_000_000_000 + clock[1]
        elif _nth(faults[Fault.REORDER_EVERY], number) and wire[HELD_LENGTH] == 0:
            for k in range(length):
                held[k] = buffer[packets[i, START] + k]
            wire[HELD_LENGTH] = length
            wire[HELD_SEQ] = seq
            wire[HELD_COUNT] = count
        else:
            if _nth(faults[Fault.GARBAGE_EVERY], number):
                wire[RANDOM] = _random(wire[RANDOM] if wire[RANDOM] != 0 else faults[Fault.SEED] | 1)
                n_bytes = 1 + (wire[RANDOM] & 0xFF)
                # After the first 65536 bytes of `held` is room for the garbage.
                for k in range(n_bytes):
                    wire[RANDOM] = _random(wire[RANDOM])
                    held[65536 + k] = wire[RANDOM] & 0xFF
                _send(descriptor, address, held.ctypes.data + 65536, n_bytes, 0, 0, out_ns, clock, counters)
                counters[Counter.FAULTS_INJECTED] += 1
            cut = _nth(faults[Fault.TRUNCATE_EVERY], number)
            sent = length // 2 if cut else length
            if not _send(descriptor, address, pointer, sent, seq, count, out_ns, clock, counters):
                return i
            spoiled = cut
            if _nth(faults[Fault.DUPLICATE_EVERY], number):
                _send(descriptor, address, pointer, length, 0, 0, out_ns, clock, counters)
                counters[Counter.FAULTS_INJECTED] += 1
            if wire[HELD_LENGTH] > 0 and _send(
                descriptor,
                address,
                held.ctypes.data,
                wire[HELD_LENGTH],
                wire[HELD_SEQ],
                wire[HELD_COUNT],
                out_ns,
                clock,
                counters,
            ):
                wire[HELD_LENGTH] = 0
        if spoiled:
            counters[Counter.FAULTS_INJECTED] += 1
        wire[NUMBER] = number
        counters[Counter.MESSAGES_SENT] += count
    return last
