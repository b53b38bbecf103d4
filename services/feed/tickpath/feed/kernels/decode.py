"""From datagrams to ticks in one kernel: sequence, decode, books, one tick for each change of the BBO or print.

It reads straight from the receive buffer. Time is an argument; the state is in the arrays of `State`.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tickpath.common.instruments import InstrumentTable
from tickpath.common.jit import kernel
from tickpath.common.kernels.book import (
    BOOK,
    EV_BBO_CHANGED,
    EV_CODE,
    EV_EXCH_NS,
    EV_INSTRUMENT,
    EV_LOTS,
    EV_PRICE_TICKS,
    EV_PRINT,
    EV_SIDE,
    EV_TYPE,
    Book,
    Result,
    apply_message,
    best_lots,
    best_ticks,
    inlined,
    is_crossed,
)
from tickpath.common.kernels.book import inlined as always_inlined
from tickpath.common.kernels.itch import be16, be64, check_packet
from tickpath.common.records import NO_PRICE_TICKS, TICK, Side, TickFlag
from tickpath.feed.layout import Channel, Count, InstrumentFlag

_HEADER = 20
_END_OF_SESSION = 0xFFFF
_MAX_JUMP = 1 << 28
_NOT_OURS = -2  # in the locate map: looked up, not in the table; -1 is not looked up yet

_A, _F, _R, _H, _OP_HALT, _SYSTEM = (ord(letter) for letter in "AFRHhS")
_TRADING = ord("T")

_QUOTE, _TRADE = int(TickFlag.QUOTE), int(TickFlag.TRADE)
_SUSPECT, _HALTED = int(TickFlag.SUSPECT), int(TickFlag.HALTED)
_AGGRESSOR_BUY, _AGGRESSOR_SELL = int(TickFlag.AGGRESSOR_BUY), int(TickFlag.AGGRESSOR_SELL)
_BUY, _SELL = int(Side.BUY), int(Side.SELL)
_TRADING_HALT, _OPERATIONAL_HALT = int(InstrumentFlag.TRADING_HALT), int(InstrumentFlag.OPERATIONAL_HALT)

_EXPECTED, _LOW, _HIGH = int(Channel.EXPECTED_SEQ), int(Channel.SESSION_LOW), int(Channel.SESSION_HIGH)
_LAST_RECV, _CHANNEL_SUSPECT = int(Channel.LAST_RECV_NS), int(Channel.SUSPECT)
_EVENT_CODE, _GAP_FROM, _GAP_TO = int(Channel.EVENT_CODE), int(Channel.GAP_FROM_SEQ), int(Channel.GAP_TO_SEQ)

_C_DATAGRAMS, _C_BYTES, _C_MESSAGES, _C_TICKS = (
    int(Count.DATAGRAMS), int(Count.BYTES), int(Count.MESSAGES), int(Count.TICKS)
)  # fmt: skip
_C_GAPS, _C_LOST, _C_DUPLICATE = int(Count.GAPS), int(Count.MESSAGES_LOST), int(Count.MESSAGES_DUPLICATE)
_C_MALFORMED, _C_OTHER_SESSION = int(Count.DATAGRAMS_MALFORMED), int(Count.DATAGRAMS_OTHER_SESSION)
_C_HEARTBEATS, _C_END = int(Count.HEARTBEATS), int(Count.END_OF_SESSION)
_C_CROSSED = int(Count.BOOK_CROSSED)


def _counter_of_result() -> npt.NDArray[np.int64]:
    table = np.full(len(Result), int(Count.BOOK_BAD_INPUT), dtype=np.int64)
    table[Result.UNKNOWN_ORDER] = Count.BOOK_UNKNOWN_ORDER
    table[Result.DUPLICATE_ORDER] = Count.BOOK_DUPLICATE_ORDER
    table[Result.ORDERS_FULL] = table[Result.LEVELS_FULL] = Count.BOOK_FULL
    table[Result.OVER_REDUCED] = Count.BOOK_OVER_REDUCED
    table[Result.UNKNOWN_INSTRUMENT] = Count.MESSAGES_OTHER_INSTRUMENT
    table[Result.SHORT_MESSAGE] = Count.MESSAGES_SHORT
    table[Result.UNKNOWN_TYPE] = Count.MESSAGES_UNKNOWN_TYPE
    return table


_COUNTER_OF_RESULT = _counter_of_result()


class State(NamedTuple):
    """What the kernel works on. `counters`, `channel`, `marks` and `halted` are arrays of feed's page."""

    book: Book
    keys: npt.NDArray[np.int64]  # int64[n]: symbols as big-endian integers, ascending
    key_ids: npt.NDArray[np.int64]  # int64[n]: instrument of each key
    counters: npt.NDArray[np.int64]  # int64[len(Count)]
    channel: npt.NDArray[np.int64]  # int64[len(Channel)]
    marks: npt.NDArray[np.void]  # TICK[n]: last tick of each instrument
    halted: npt.NDArray[np.int64]  # int64[n]: InstrumentFlag bits


STATE = numba.types.NamedTuple(
    (
        BOOK,
        numba.int64[::1],
        numba.int64[::1],
        numba.int64[::1],
        numba.int64[::1],
        numba.from_dtype(TICK)[::1],
        numba.int64[::1],
    ),
    State,
)


def make_state(
    table: InstrumentTable,
    order_capacity: int,
    level_capacity: int,
    counters: npt.NDArray[np.int64],
    channel: npt.NDArray[np.int64],
    marks: npt.NDArray[np.void],
    halted: npt.NDArray[np.int64],
) -> State:
    """State with empty books for the instruments of `table`, waiting for the first message of a session."""
    keys = np.array([int.from_bytes(s.encode().ljust(8), "big") for s in table.symbols], dtype=np.int64)
    order = np.argsort(keys)
    channel[:] = 0
    marks[:] = np.zeros(1, dtype=TICK)
    for name in ("bid_ticks", "ask_ticks", "last_ticks"):
        marks[name] = NO_PRICE_TICKS
    marks["instrument"] = np.arange(len(table))
    halted[:] = 0
    book = Book.create(len(table), order_capacity, level_capacity)
    return State(book, keys[order], order.astype(np.int64), counters, channel, marks, halted)


@inlined
def _learn(state, buf, at, length):
    """Look the symbol of a locate up when its directory entry or its first order is seen."""
    kind = buf[at]
    if length < 36 or kind not in (_R, _A, _F):
        return
    locate = be16(buf, at + 1)
    if kind != _R and state.book.locate[locate] != -1:
        return
    key = be64(buf, at + (11 if kind == _R else 24))
    low = np.searchsorted(state.keys, key)
    found = low < len(state.keys) and state.keys[low] == key
    state.book.locate[locate] = state.key_ids[low] if found else _NOT_OURS


@inlined
def _follow_halt(state, event):
    """Trading action (H) and operational halt (h); a resume clears what the same kind of message had set."""
    instrument = event[EV_INSTRUMENT]
    bit = _TRADING_HALT if event[EV_TYPE] == _H else _OPERATIONAL_HALT
    before = state.halted[instrument]
    state.halted[instrument] = before & ~bit if event[EV_CODE] == _TRADING else before | bit
    return state.halted[instrument] != before


@inlined
def _tick(state, seq, recv_ns, out, n, changed):
    """Append the tick of the message just applied, if it is one."""
    event = state.book.event
    instrument = event[EV_INSTRUMENT]
    flags = 0
    if event[EV_BBO_CHANGED] or changed:
        flags |= _QUOTE
    mark = state.marks[instrument]
    if event[EV_PRINT]:
        mark.volume_lots += event[EV_LOTS]
        if event[EV_PRICE_TICKS] != NO_PRICE_TICKS:
            flags |= _TRADE
            if event[EV_SIDE] == _BUY:
                flags |= _AGGRESSOR_SELL
            elif event[EV_SIDE] == _SELL:
                flags |= _AGGRESSOR_BUY
    if flags == 0:
        return n
    if state.halted[instrument]:
        flags |= _HALTED
    if is_crossed(state.book, instrument):
        flags |= _SUSPECT
        state.counters[_C_CROSSED] += 1
    if state.channel[_CHANNEL_SUSPECT]:
        flags |= _SUSPECT
    mark.cause_seq = seq
    mark.exch_ns = event[EV_EXCH_NS]
    mark.recv_ns = recv_ns
    mark.decoded_ns = recv_ns
    mark.bid_ticks = best_ticks(state.book, instrument, _BUY)
    mark.ask_ticks = best_ticks(state.book, instrument, _SELL)
    mark.bid_lots = best_lots(state.book, instrument, _BUY)
    mark.ask_lots = best_lots(state.book, instrument, _SELL)
    mark.last_ticks = event[EV_PRICE_TICKS] if flags & _TRADE else NO_PRICE_TICKS
    mark.last_lots = event[EV_LOTS] if flags & _TRADE else 0
    mark.flags = flags
    out[n] = mark
    return n + 1


@inlined
def _is_wild(channel, seq):
    """A number that no stream of a day reaches from here: one damaged packet must not make all others look old."""
    return seq < 1 or (channel[_EXPECTED] > 0 and seq - channel[_EXPECTED] > _MAX_JUMP)


@inlined
def _sequence(state, buf, at, count, recv_ns):
    """How many messages at the head of a packet are old; -1 when the packet is of another session."""
    channel, counters = state.channel, state.counters
    low, high = be64(buf, at), be16(buf, at + 8)
    seq = be64(buf, at + 10)
    if channel[_EXPECTED] == 0:
        channel[_LOW], channel[_HIGH] = low, high
        channel[_EXPECTED] = seq
        if seq > 1:  # what came before is missing in the books: nothing of them can be trusted
            channel[_GAP_FROM], channel[_GAP_TO] = 1, seq
            channel[_CHANNEL_SUSPECT] = 1
            counters[_C_GAPS] += 1
            counters[_C_LOST] += seq - 1
    elif channel[_LOW] != low or channel[_HIGH] != high:
        return -1
    channel[_LAST_RECV] = recv_ns
    expected = channel[_EXPECTED]
    if seq > expected:
        channel[_GAP_FROM], channel[_GAP_TO] = expected, seq
        channel[_CHANNEL_SUSPECT] = 1
        counters[_C_GAPS] += 1
        counters[_C_LOST] += seq - expected
        channel[_EXPECTED] = seq
        return 0
    old = min(expected - seq, count)
    counters[_C_DUPLICATE] += old
    return old


@always_inlined
def decode_packets(state, buffer, lengths, first, end, recv_ns, out):
    """`decode`, for compiled loops: a call would push every array of the state."""
    counters, channel = state.counters, state.channel
    slot = buffer.shape[1]
    flat = buffer.reshape(buffer.size)
    n = 0
    for i in range(first, end):
        at = i * slot
        length = lengths[i]
        counters[_C_DATAGRAMS] += 1
        counters[_C_BYTES] += abs(length)
        count = check_packet(flat, at, length)
        if count < 0 or _is_wild(channel, be64(flat, at + 10)):
            counters[_C_MALFORMED] += 1
            continue
        special = count in (0, _END_OF_SESSION)
        old = _sequence(state, flat, at, 0 if special else count, recv_ns)
        if old < 0:
            counters[_C_OTHER_SESSION] += 1
            continue
        if special:
            counters[_C_HEARTBEATS if count == 0 else _C_END] += 1
            continue
        cursor = at + _HEADER
        for k in range(count):
            size = be16(flat, cursor)
            begin = cursor + 2
            cursor = begin + size
            if k < old:
                continue
            seq = channel[_EXPECTED]
            channel[_EXPECTED] = seq + 1
            counters[_C_MESSAGES] += 1
            if size > 0:
                _learn(state, flat, begin, size)
            result = apply_message(state.book, flat, begin, size)
            if result != 0:
                counters[_COUNTER_OF_RESULT[result]] += 1
            event = state.book.event
            kind = event[EV_TYPE]
            if kind == _SYSTEM:
                channel[_EVENT_CODE] = event[EV_CODE]
            if event[EV_INSTRUMENT] >= 0:
                halted = kind in (_H, _OP_HALT) and result == 0 and _follow_halt(state, event)
                n = _tick(state, seq, recv_ns, out, n, halted)
    counters[_C_TICKS] += n
    return n


@kernel(
    numba.int64(
        STATE,
        numba.uint8[:, ::1],
        numba.int64[::1],
        numba.int64,
        numba.int64,
        numba.int64,
        numba.from_dtype(TICK)[::1],
    ),
    _nrt=False,
)
def decode(state, buffer, lengths, first, end, recv_ns, out):
    """Take the MoldUDP64 packets `first` to `end` - 1; returns the number of ticks in `out`.

    `buffer` uint8[batch, slot] holds packet i in row i, `lengths` int64[batch] their sizes (negative: cut
    off). `out` TICK[>= most messages that the packets can hold]: one message makes at most one tick. `recv_ns`: when
    they were received, CLOCK_MONOTONIC. Every fault is counted and nothing is raised.
    """
    return decode_packets(state, buffer, lengths, first, end, recv_ns, out)
