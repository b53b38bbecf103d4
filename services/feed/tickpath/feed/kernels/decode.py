"""From datagrams to ticks in one kernel: sequence, decode, books, one tick for each change of the BBO or print.

It reads straight from the receive buffer. Time is an argument; the state is in the arrays of `State`.

Packets of all lines are one stream, ordered by the numbers of its messages: the first copy of a message counts. A
packet that comes too early waits in the window until what is missing has come, from another line or because
`tickpath.feed.repair` has asked for it; so nothing is decoded out of order. The kernel itself never gives a gap up.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.instruments import InstrumentTable
from tickpath.common.jit import always_inlined, kernel
from tickpath.common.kernels.book import (
    BOOK,
    EV_BBO_CHANGED,
    EV_CODE,
    EV_EXCH_NS,
    EV_INSTRUMENT,
    EV_LOTS,
    EV_MATCH,
    EV_PRICE_TICKS,
    EV_PRINT,
    EV_SIDE,
    EV_TYPE,
    Book,
    Result,
    apply_message,
    best_lots,
    best_ticks,
    is_crossed,
    prefetch_message,
)
from tickpath.common.kernels.hist import record
from tickpath.common.kernels.itch import be16, be32, be64
from tickpath.common.records import NO_PRICE_TICKS, TICK, Side, TickFlag
from tickpath.feed.kernels.text import N_COUNTS, TEXT_STATE, TextState, decode_lines
from tickpath.feed.layout import Channel, Count, Detail, InstrumentFlag, Line, LineWord, Suspect

_HEADER = 20
_END_OF_SESSION = 0xFFFF
_MAX_JUMP = 1 << 28
_NOT_OURS = -2  # in the locate map: looked up, not in the table; -1 is not looked up yet

_A, _F, _R, _H, _OP_HALT, _SYSTEM = (ord(letter) for letter in "AFRHhS")
_REG_SHO, _LULD, _IPO, _IMBALANCE, _RETAIL, _DIRECT_LISTING, _BROKEN = (ord(letter) for letter in "YJKINOB")
_MWCB_LEVELS, _MWCB_BREACH = ord("V"), ord("W")
_TRADING = ord("T")
_THIS_MARKET = ord("Q")  # of the three that an operational halt may be of

IS_NOTED = np.zeros(256, dtype=np.bool_)
IS_NOTED[[ord(letter) for letter in "RHhYJKINOB"]] = True

_QUOTE, _TRADE, _CHANNEL = int(TickFlag.QUOTE), int(TickFlag.TRADE), int(TickFlag.CHANNEL)
_SUSPECT, _HALTED = int(TickFlag.SUSPECT), int(TickFlag.HALTED)
_AGGRESSOR_BUY, _AGGRESSOR_SELL = int(TickFlag.AGGRESSOR_BUY), int(TickFlag.AGGRESSOR_SELL)
_BUY, _SELL = int(Side.BUY), int(Side.SELL)
_TRADING_HALT, _OPERATIONAL_HALT = int(InstrumentFlag.TRADING_HALT), int(InstrumentFlag.OPERATIONAL_HALT)
_NOT_OPENED = int(InstrumentFlag.NOT_OPENED)

_EXPECTED, _LOW, _HIGH = int(Channel.EXPECTED_SEQ), int(Channel.SESSION_LOW), int(Channel.SESSION_HIGH)
_LAST_RECV, _CHANNEL_SUSPECT = int(Channel.LAST_RECV_NS), int(Channel.SUSPECT)
_EVENT_CODE, _GAP_FROM, _GAP_TO = int(Channel.EVENT_CODE), int(Channel.GAP_FROM_SEQ), int(Channel.GAP_TO_SEQ)
_KNOWN, _GAP_SINCE, _HELD, _HEAD = (
    int(Channel.KNOWN_SEQ), int(Channel.GAP_SINCE_NS), int(Channel.HELD), int(Channel.HEAD)
)  # fmt: skip
_HOLDING, _CAN_REPAIR, _CLOSED = int(Channel.HOLDING), int(Channel.CAN_REPAIR), int(Channel.CLOSED)
_TEXT = int(Channel.TEXT)
_LOST, _REPAIR = int(Suspect.LOST), int(Line.REPAIR)
_L_DATAGRAMS, _L_FIRST, _L_SECOND, _L_NEXT = (
    int(LineWord.DATAGRAMS), int(LineWord.FIRST), int(LineWord.SECOND), int(LineWord.NEXT_SEQ)
)  # fmt: skip
_L_GAPS, _L_LOST, _L_RECV = int(LineWord.GAPS), int(LineWord.LOST), int(LineWord.LAST_RECV_NS)

_C_DATAGRAMS, _C_BYTES, _C_MESSAGES, _C_TICKS = (
    int(Count.DATAGRAMS), int(Count.BYTES), int(Count.MESSAGES), int(Count.TICKS)
)  # fmt: skip
_C_GAPS, _C_LOST, _C_DUPLICATE = int(Count.GAPS), int(Count.MESSAGES_LOST), int(Count.MESSAGES_DUPLICATE)
_C_MALFORMED, _C_OTHER_SESSION = int(Count.DATAGRAMS_MALFORMED), int(Count.DATAGRAMS_OTHER_SESSION)
_C_HEARTBEATS, _C_END = int(Count.HEARTBEATS), int(Count.END_OF_SESSION)
_C_CROSSED, _C_REPAIRED = int(Count.BOOK_CROSSED), int(Count.MESSAGES_REPAIRED)
_C_HELD, _C_FULL = int(Count.DATAGRAMS_HELD), int(Count.WINDOW_FULL)

#: Session events after which nothing trades: end of system hours, end of messages.
_CLOSING = (ord("E"), ord("C"))

# Columns of the window's rows.
_SEQ, _NEXT, _AT, _RECV, _LINE = range(5)
_RECENT: Final = 4096  # packets whose first arrival is remembered
_MIN_BLOCK: Final = 2 + 12  # the shortest message that can make a tick is longer


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

#: Results that say that the book of an instrument is not the exchange's.
_CONTRADICTS = np.ones(len(Result), dtype=np.bool_)
_CONTRADICTS[[Result.OK, Result.UNKNOWN_INSTRUMENT, Result.SHORT_MESSAGE, Result.UNKNOWN_TYPE]] = False


class Window(NamedTuple):
    """Packets that came too early: a bounded list by sequence, and the memory in which they wait."""

    slots: npt.NDArray[np.uint8]  # uint8[W * slot_bytes]
    rows: npt.NDArray[np.int64]  # int64[W, 5]: first number, number after the last, byte in `slots`, recv_ns, line
    order: npt.NDArray[np.int64]  # int64[W], circular from Channel.HEAD: rows by first number
    free: npt.NDArray[np.int64]  # int64[W]: rows that are free, a stack of W - Channel.HELD

    @classmethod
    def create(cls, size: int, slot_bytes: int) -> Window:
        """Room for at least `size` packets of at most `slot_bytes`."""
        size = 1 << (size - 1).bit_length()
        rows = np.zeros((size, 5), dtype=np.int64)
        rows[:, _AT] = np.arange(size) * slot_bytes
        every = np.arange(size, dtype=np.int64)
        return cls(np.zeros(size * slot_bytes, dtype=np.uint8), rows, np.zeros_like(every), every)


class State(NamedTuple):
    """What the kernel works on. `counters`, `channel`, `marks` and `halted` are arrays of feed's page."""

    book: Book
    keys: npt.NDArray[np.int64]  # int64[n]: symbols as big-endian integers, ascending
    key_ids: npt.NDArray[np.int64]  # int64[n]: instrument of each key
    counters: npt.NDArray[np.int64]  # int64[len(Count)]
    channel: npt.NDArray[np.int64]  # int64[len(Channel)]
    marks: npt.NDArray[np.void]  # TICK[n]: last tick of each instrument
    halted: npt.NDArray[np.int64]  # int64[n]: InstrumentFlag bits
    details: npt.NDArray[np.int64]  # int64[n, len(Detail)]
    suspect: npt.NDArray[np.int64]  # int64[n]: 1 after a message that contradicted the book
    lines: npt.NDArray[np.int64]  # int64[len(Line), len(LineWord)]
    behind: npt.NDArray[np.int64]  # int64[2, HIST_SIZE]: lateness of second copies on lines A and B
    recent: npt.NDArray[np.int64]  # int64[_RECENT, 2]: (first number, recv_ns) of packets taken lately
    window: Window
    text: TextState


STATE = numba.types.NamedTuple(
    (
        BOOK,
        numba.int64[::1],
        numba.int64[::1],
        numba.int64[::1],
        numba.int64[::1],
        numba.from_dtype(TICK)[::1],
        numba.int64[::1],
        numba.int64[:, ::1],
        numba.int64[::1],
        numba.int64[:, ::1],
        numba.int64[:, ::1],
        numba.int64[:, ::1],
        numba.types.NamedTuple((numba.uint8[::1], numba.int64[:, ::1], numba.int64[::1], numba.int64[::1]), Window),
        TEXT_STATE,
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
    *,
    details: npt.NDArray[np.int64] | None = None,
    suspect: npt.NDArray[np.int64] | None = None,
    lines: npt.NDArray[np.int64] | None = None,
    behind: npt.NDArray[np.int64] | None = None,
    window: Window | None = None,
    text_counters: npt.NDArray[np.int64] | None = None,
) -> State:
    """State with empty books for the instruments of `table`, waiting for the first message of a session.

    What is not given is made; the window then has room for 16 packets of an Ethernet frame.
    """
    keys = np.array([int.from_bytes(s.encode().ljust(8), "big") for s in table.symbols], dtype=np.int64)
    order = np.argsort(keys)
    channel[:] = 0
    marks[:] = np.zeros(1, dtype=TICK)
    for name in ("bid_ticks", "ask_ticks", "last_ticks"):
        marks[name] = NO_PRICE_TICKS
    marks["instrument"] = np.arange(len(table))
    halted[:] = 0
    suspect = np.zeros(len(table), dtype=np.int64) if suspect is None else suspect
    lines = np.zeros((len(Line), len(LineWord)), dtype=np.int64) if lines is None else lines
    suspect[:] = 0
    lines[:] = 0
    return State(
        Book.create(len(table), order_capacity, level_capacity),
        keys[order],
        order.astype(np.int64),
        counters,
        channel,
        marks,
        halted,
        np.zeros((len(table), len(Detail)), dtype=np.int64) if details is None else details,
        suspect,
        lines,
        np.zeros((2, HIST_SIZE), dtype=np.int64) if behind is None else behind,
        np.zeros((_RECENT, 2), dtype=np.int64),
        window or Window.create(16, 2048),
        TextState.create(
            table, order, np.zeros(N_COUNTS, dtype=np.int64) if text_counters is None else text_counters
        ),
    )


@always_inlined
def _find(state, key):
    """Instrument of a symbol, 8 bytes as a number; _NOT_OURS if it is none of ours."""
    low = np.searchsorted(state.keys, key)
    return state.key_ids[low] if low < len(state.keys) and state.keys[low] == key else _NOT_OURS


@always_inlined
def learn(state, buf, at, length):
    """Look the symbol of a locate up when its directory entry or its first order is seen."""
    kind = buf[at]
    if length < 36 or kind not in (_R, _A, _F):
        return
    locate = be16(buf, at + 1)
    if kind != _R and state.book.locate[locate] != -1:
        return
    instrument = _find(state, be64(buf, at + (11 if kind == _R else 24)))
    state.book.locate[locate] = instrument
    if instrument >= 0 and kind == _R:
        state.halted[instrument] |= _NOT_OPENED


@always_inlined
def follow_halt(state, event):
    """Trading action (H) and operational halt (h); a resume clears what the same kind of message had set.

    True when the last tick of the instrument said otherwise.
    """
    instrument = event[EV_INSTRUMENT]
    bit = _TRADING_HALT if event[EV_TYPE] == _H else _OPERATIONAL_HALT
    before = state.halted[instrument]
    after = before & ~bit if event[EV_CODE] == _TRADING else before | bit
    state.halted[instrument] = after & ~_NOT_OPENED if event[EV_TYPE] == _H else after
    return (state.halted[instrument] != 0) != (state.marks[instrument].flags & _HALTED != 0)


@always_inlined
def _follow_breaker(channel, buf, at, length):
    """Levels of the market-wide circuit breaker (V), and which was breached (W). They concern no instrument."""
    if buf[at] == _MWCB_LEVELS and length >= 35:
        for level in range(3):
            channel[Channel.MWCB_LEVEL_1_E8 + level] = be64(buf, at + 11 + 8 * level)
    elif buf[at] == _MWCB_BREACH and length >= 12:
        channel[Channel.MWCB_BREACHED] = numba.int64(buf[at + 11]) - 48


@always_inlined
def _note_ipo(state, instrument, buf, at):
    """IPO quoting period (K). Its locate may be 0: the symbol says which instrument it is."""
    if instrument >= 0:
        state.details[instrument, Detail.IPO_RELEASE_S] = be32(buf, at + 19)
        state.details[instrument, Detail.IPO_PRICE_TICKS] = be32(buf, at + 24)


@kernel(numba.int64(STATE, numba.uint8[::1], numba.int64, numba.int64))
def note(state, buf, at, kind):
    """Keep what the message at `at` says beyond orders and prints; 1 when it starts or ends a halt.

    It was applied before: its length was right, and ``event`` is its own. Layouts: ITCH 5.0.
    """
    event = state.book.event
    row = state.details[event[EV_INSTRUMENT]]
    if kind == _H:
        return 1 if follow_halt(state, event) else 0
    if kind == _OP_HALT:
        return 1 if buf[at + 19] == _THIS_MARKET and follow_halt(state, event) else 0
    if kind == _R:
        row[Detail.MARKET_CATEGORY] = buf[at + 19]
        row[Detail.FINANCIAL_STATUS] = buf[at + 20]
        row[Detail.ROUND_LOT_LOTS] = be32(buf, at + 21)
        row[Detail.SHORT_SALE_THRESHOLD] = buf[at + 30]
        row[Detail.LULD_TIER] = buf[at + 32]
    elif kind == _REG_SHO:
        row[Detail.REG_SHO] = numba.int64(buf[at + 19]) - 48
    elif kind == _LULD:
        row[Detail.LULD_REFERENCE_TICKS] = be32(buf, at + 19)
        row[Detail.LULD_UPPER_TICKS] = be32(buf, at + 23)
        row[Detail.LULD_LOWER_TICKS] = be32(buf, at + 27)
        row[Detail.LULD_EXTENSIONS] = be32(buf, at + 31)
    elif kind == _IPO:
        _note_ipo(state, event[EV_INSTRUMENT], buf, at)
    elif kind == _IMBALANCE:
        row[Detail.PAIRED_LOTS] = be64(buf, at + 11)
        row[Detail.IMBALANCE_LOTS] = be64(buf, at + 19)
        row[Detail.IMBALANCE_DIRECTION] = buf[at + 27]
        row[Detail.FAR_TICKS] = be32(buf, at + 36)
        row[Detail.NEAR_TICKS] = be32(buf, at + 40)
        row[Detail.REFERENCE_TICKS] = be32(buf, at + 44)
        row[Detail.CROSS_TYPE] = buf[at + 48]
    elif kind == _RETAIL:
        row[Detail.RETAIL_INTEREST] = buf[at + 19]
    elif kind == _DIRECT_LISTING:
        row[Detail.DLCR_MIN_TICKS] = be32(buf, at + 20)
        row[Detail.DLCR_MAX_TICKS] = be32(buf, at + 24)
    elif kind == _BROKEN:
        row[Detail.BROKEN_TRADES] += 1
        row[Detail.BROKEN_MATCH] = event[EV_MATCH]
    return 0


@always_inlined
def _doubts(state, instrument):
    """The flags of a tick that say why not to trade on it."""
    flags = 0
    if state.halted[instrument] or state.channel[_CLOSED]:
        flags |= _HALTED
    if is_crossed(state.book, instrument):
        flags |= _SUSPECT
        state.counters[_C_CROSSED] += 1
    if state.channel[_CHANNEL_SUSPECT] or state.suspect[instrument]:
        flags |= _SUSPECT
    return flags


@always_inlined
def _question(state, result):
    """Mark the instrument of a message that contradicted its book, and clear one whose book is empty; 1: changed.

    An empty book is right again: whatever was missing in it or too much is gone.
    """
    instrument = state.book.event[EV_INSTRUMENT]
    if instrument < 0:
        return False
    before = state.suspect[instrument]
    if _CONTRADICTS[result]:
        state.suspect[instrument] = 1
    elif before and (
        best_ticks(state.book, instrument, _BUY) == NO_PRICE_TICKS
        and best_ticks(state.book, instrument, _SELL) == NO_PRICE_TICKS
    ):
        state.suspect[instrument] = 0
    return state.suspect[instrument] != before


@always_inlined
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
    flags |= _doubts(state, instrument)
    # Both are written field by field: to copy the mark, the processor would wait until its fields are in the cache.
    tick = out[n]
    tick.cause_seq = mark.cause_seq = seq
    tick.exch_ns = mark.exch_ns = event[EV_EXCH_NS]
    tick.recv_ns = mark.recv_ns = recv_ns
    tick.decoded_ns = mark.decoded_ns = recv_ns
    tick.bid_ticks = mark.bid_ticks = best_ticks(state.book, instrument, _BUY)
    tick.ask_ticks = mark.ask_ticks = best_ticks(state.book, instrument, _SELL)
    tick.bid_lots = mark.bid_lots = best_lots(state.book, instrument, _BUY)
    tick.ask_lots = mark.ask_lots = best_lots(state.book, instrument, _SELL)
    tick.last_ticks = mark.last_ticks = event[EV_PRICE_TICKS] if flags & _TRADE else NO_PRICE_TICKS
    tick.last_lots = mark.last_lots = event[EV_LOTS] if flags & _TRADE else 0
    tick.volume_lots = mark.volume_lots
    tick.instrument = instrument
    tick.flags = mark.flags = flags
    return n + 1


@always_inlined
def _is_wild(channel, seq):
    """A number that no stream of a day reaches from here: one damaged packet must not make all others look old."""
    return seq < 1 or (channel[_EXPECTED] > 0 and seq - channel[_EXPECTED] > _MAX_JUMP)


@always_inlined
def _begin(state, low, high, seq):
    """The first packet of a session. What came before it can be had again, or is lost."""
    channel, counters = state.channel, state.counters
    channel[_LOW], channel[_HIGH] = low, high
    channel[_EXPECTED] = 1 if channel[_CAN_REPAIR] else seq
    channel[_KNOWN] = channel[_EXPECTED]
    if channel[_EXPECTED] > 1:
        channel[_GAP_FROM], channel[_GAP_TO] = 1, seq
        channel[_CHANNEL_SUSPECT] |= _LOST
        counters[_C_GAPS] += 1
        counters[_C_LOST] += seq - 1


@always_inlined
def _follow_line(state, line, seq, after, recv_ns):
    """What the line itself lost."""
    mine = state.lines[line]
    mine[_L_RECV] = recv_ns
    if line != _REPAIR:
        if mine[_L_NEXT] > 0 and seq > mine[_L_NEXT]:
            mine[_L_GAPS] += 1
            mine[_L_LOST] += seq - mine[_L_NEXT]
        mine[_L_NEXT] = max(mine[_L_NEXT], after)


@always_inlined
def _second(state, line, seq, count, recv_ns):
    """Messages that are there already."""
    state.counters[_C_DUPLICATE] += count
    state.lines[line, _L_SECOND] += count
    first = state.recent[seq & (_RECENT - 1)]
    if line != _REPAIR and first[0] == seq:
        record(state.behind[line], recv_ns - first[1])


@always_inlined
def _hold(state, flat, at, length, seq, count, recv_ns, line):
    """Keep a packet that came too early, unless it is here already; without room it will be asked for again."""
    channel, window = state.channel, state.window
    held, head = channel[_HELD], channel[_HEAD]
    size = len(window.order)
    mask = size - 1
    place = held
    while place > 0:
        row = window.order[(head + place - 1) & mask]
        first = window.rows[row, _SEQ]
        if first < seq:
            break
        if first == seq and window.rows[row, _NEXT] >= seq + count:
            _second(state, line, seq, count, recv_ns)
            return
        place -= 1
    if held == size or length > len(window.slots) // size:
        state.counters[_C_FULL] += 1
        return
    row = window.free[size - held - 1]
    for k in range(held, place, -1):
        window.order[(head + k) & mask] = window.order[(head + k - 1) & mask]
    window.order[(head + place) & mask] = row
    window.rows[row, _SEQ], window.rows[row, _NEXT] = seq, seq + count
    window.rows[row, _RECV], window.rows[row, _LINE] = recv_ns, line
    begin = window.rows[row, _AT]
    for k in range(length):
        window.slots[begin + k] = flat[at + k]
    channel[_HELD] = held + 1
    state.counters[_C_HELD] += 1
    _remember(state, seq, recv_ns)


@always_inlined
def _remember(state, seq, recv_ns):
    state.recent[seq & (_RECENT - 1), 0] = seq
    state.recent[seq & (_RECENT - 1), 1] = recv_ns


@always_inlined
def _release(state):
    """Take the first packet out of the window; its row."""
    channel, window = state.channel, state.window
    size = len(window.order)
    row = window.order[channel[_HEAD]]
    channel[_HEAD] = (channel[_HEAD] + 1) & (size - 1)
    channel[_HELD] -= 1
    window.free[size - channel[_HELD] - 1] = row
    return row


@always_inlined
def _see_gap(state, seq, recv_ns):
    """Something before `seq` is missing."""
    channel = state.channel
    if channel[_GAP_SINCE] == 0:
        channel[_GAP_SINCE] = recv_ns
        channel[_GAP_FROM], channel[_GAP_TO] = channel[_EXPECTED], seq
        state.counters[_C_GAPS] += 1


@always_inlined
def _is_next(state, flat, at, length, count, recv_ns, line):
    """Whether the packet at `at` has the message wanted next. If not, it is dealt with: old, early, or no packet.

    `count` is what `_look_at` said of it.
    """
    counters, channel = state.counters, state.channel
    counters[_C_DATAGRAMS] += 1
    counters[_C_BYTES] += abs(length)
    state.lines[line, _L_DATAGRAMS] += 1
    if count < 0 or _is_wild(channel, be64(flat, at + 10)):
        counters[_C_MALFORMED] += 1
        return False
    low, high, seq = be64(flat, at), be16(flat, at + 8), be64(flat, at + 10)
    if channel[_EXPECTED] == 0:
        _begin(state, low, high, seq)
    elif channel[_LOW] != low or channel[_HIGH] != high:
        counters[_C_OTHER_SESSION] += 1
        return False
    special = count in (0, _END_OF_SESSION)
    if special:
        counters[_C_HEARTBEATS if count == 0 else _C_END] += 1
        count = 0
    after = seq + count
    _follow_line(state, line, seq, after, recv_ns)
    expected = channel[_EXPECTED]
    channel[_KNOWN] = max(channel[_KNOWN], after)
    if after >= expected:  # numbers from before where we are say nothing of the market as it is
        channel[_LAST_RECV] = recv_ns
    if after <= expected:
        if count:
            _second(state, line, seq, count, recv_ns)
        return False
    if seq <= expected and channel[_HOLDING] == 0:
        _remember(state, seq, recv_ns)
        return True
    if seq > expected:
        _see_gap(state, seq, recv_ns)
    if count:
        _hold(state, flat, at, length, seq, count, recv_ns, line)
    return False


@always_inlined
def _look_at(state, flat, at, length):
    """`check_packet`, which on its way asks for the orders that the messages name."""
    if length < _HEADER:
        return -1
    count = be16(flat, at + 18)
    if count == _END_OF_SESSION:
        return count
    end = at + length
    cursor = at + _HEADER
    for _ in range(count):
        if cursor + 2 > end:
            return -1
        begin = cursor + 2
        cursor = begin + be16(flat, cursor)
        if cursor > end:
            return -1
        prefetch_message(state.book, flat, begin, cursor - begin)
    return count


@kernel(
    numba.int64(
        STATE,
        numba.uint8[:, ::1],
        numba.int64[::1],
        numba.int64,
        numba.int64,
        numba.int64,
        numba.int64,
        numba.from_dtype(TICK)[::1],
    ),
)
def _decode_text(state, buffer, lengths, first, end, recv_ns, line, out):
    return decode_lines(state, buffer, lengths, first, end, recv_ns, line, out)


@always_inlined
def decode_packets(state, buffer, lengths, first, end, recv_ns, line, out):
    """`decode`, for compiled loops: a call would push every array of the state."""
    if state.channel[_TEXT]:
        return _decode_text(state, buffer, lengths, first, end, recv_ns, line, out)
    counters, channel, window = state.counters, state.channel, state.window
    slot = buffer.shape[1]
    flat = buffer.reshape(buffer.size)
    room = len(window.slots) // len(window.order) // _MIN_BLOCK  # most ticks of a packet that waited
    n = 0
    i = first
    next_count = _look_at(state, flat, i * slot, lengths[i]) if i < end else 0
    while True:
        if (
            channel[_HELD] != 0
            and channel[_HOLDING] == 0
            and (
                window.rows[window.order[channel[_HEAD]], _SEQ] <= channel[_EXPECTED]
                and n + (end - i + 1) * room <= len(out)
            )
        ):
            row = _release(state)
            source = window.slots
            at = window.rows[row, _AT]
            came_ns, came_on = window.rows[row, _RECV], window.rows[row, _LINE]
            if window.rows[row, _NEXT] <= channel[_EXPECTED]:
                _second(state, came_on, window.rows[row, _SEQ], be16(source, at + 18), came_ns)
                continue
        elif i < end:
            at = i * slot
            length = lengths[i]
            i += 1
            count = next_count
            if i < end:
                next_count = _look_at(state, flat, i * slot, lengths[i])
            if not _is_next(state, flat, at, length, count, recv_ns, line):
                continue
            source = flat
            came_ns, came_on = recv_ns, line
        else:
            break
        count = be16(source, at + 18)
        old = channel[_EXPECTED] - be64(source, at + 10)
        if old > 0:
            _second(state, came_on, be64(source, at + 10), old, came_ns)
        state.lines[came_on, _L_FIRST] += count - old
        if came_on == _REPAIR:
            counters[_C_REPAIRED] += count - old
        cursor = at + _HEADER
        for k in range(count):
            size = be16(source, cursor)
            begin = cursor + 2
            cursor = begin + size
            if k < old:
                continue
            seq = channel[_EXPECTED]
            channel[_EXPECTED] = seq + 1
            counters[_C_MESSAGES] += 1
            if size > 0:
                learn(state, source, begin, size)
            result = apply_message(state.book, source, begin, size)
            if result != 0:
                counters[_COUNTER_OF_RESULT[result]] += 1
            event = state.book.event
            kind = event[EV_TYPE]
            if kind == _SYSTEM:
                channel[_EVENT_CODE] = event[EV_CODE]
                channel[_CLOSED] = 1 if event[EV_CODE] in _CLOSING else 0
            elif kind in (_MWCB_LEVELS, _MWCB_BREACH):
                _follow_breaker(channel, source, begin, size)
            elif kind == _IPO and event[EV_INSTRUMENT] < 0 and size >= 28:
                _note_ipo(state, _find(state, be64(source, begin + 11)), source, begin)
            if event[EV_INSTRUMENT] >= 0:
                changed = _question(state, result)
                if result == 0 and IS_NOTED[kind]:
                    changed |= note(state, source, begin, kind)
                n = _tick(state, seq, came_ns, out, n, changed)
        if channel[_GAP_SINCE] and channel[_EXPECTED] >= channel[_KNOWN]:
            channel[_GAP_SINCE] = 0
    counters[_C_TICKS] += n
    return n


_TICKS = numba.from_dtype(TICK)[::1]


@kernel(
    numba.int64(
        STATE,
        numba.uint8[:, ::1],
        numba.int64[::1],
        numba.int64,
        numba.int64,
        numba.int64,
        numba.int64,
        _TICKS,
    ),
)
def decode(state, buffer, lengths, first, end, recv_ns, line, out):
    """Take the MoldUDP64 packets `first` to `end` - 1, and those that waited for them; returns the ticks in `out`.

    `buffer` uint8[batch, slot] holds packet i in row i, `lengths` int64[batch] their sizes (negative: cut off),
    `line` (see `Line`) is where they came in. `out` TICK[>= most messages that the packets can hold, and one packet
    more]: one message makes at most one tick. `recv_ns`: when they were received, CLOCK_MONOTONIC. Every fault is
    counted and nothing is raised. Packets of the window for which `out` has no room come with the next call.
    """
    return decode_packets(state, buffer, lengths, first, end, recv_ns, line, out)


@kernel(numba.int64(STATE, numba.int64, numba.int64, _TICKS))
def announce(state, first, now_ns, out):
    """Ticks of the instruments from `first` on as they are now, as many as `out` has room for; returns how many.

    For a change that no message makes: the channel's state, or books that were taken anew. QUOTE where best bid or
    offer are others than before, else CHANNEL: that is no news of the market.
    """
    n = min(len(state.marks) - first, len(out))
    for k in range(n):
        instrument = first + k
        mark = state.marks[instrument]
        mark.cause_seq = max(state.channel[_EXPECTED] - 1, 0)
        mark.recv_ns = now_ns
        mark.decoded_ns = now_ns
        bid_ticks = best_ticks(state.book, instrument, _BUY)
        ask_ticks = best_ticks(state.book, instrument, _SELL)
        bid_lots = best_lots(state.book, instrument, _BUY)
        ask_lots = best_lots(state.book, instrument, _SELL)
        same = (
            mark.bid_ticks == bid_ticks
            and mark.ask_ticks == ask_ticks
            and mark.bid_lots == bid_lots
            and mark.ask_lots == ask_lots
        )
        mark.bid_ticks = bid_ticks
        mark.ask_ticks = ask_ticks
        mark.bid_lots = bid_lots
        mark.ask_lots = ask_lots
        mark.last_ticks = NO_PRICE_TICKS
        mark.last_lots = 0
        mark.flags = (_CHANNEL if same else _QUOTE) | _doubts(state, instrument)
        out[k] = mark
    state.counters[_C_TICKS] += n
    return n


@kernel(numba.int64(STATE, numba.int64))
def give_up(state, now_ns):
    """Go on behind the present gap, without what is missing; returns the number of messages lost."""
    channel, window = state.channel, state.window
    until = channel[_KNOWN]
    if channel[_HELD]:
        until = min(until, window.rows[window.order[channel[_HEAD]], _SEQ])
    lost = max(until - channel[_EXPECTED], 0)
    channel[_GAP_FROM], channel[_GAP_TO] = channel[_EXPECTED], until
    channel[_EXPECTED] += lost
    channel[_CHANNEL_SUSPECT] |= _LOST
    channel[_GAP_SINCE] = now_ns if channel[_KNOWN] > channel[_EXPECTED] and channel[_HELD] else 0
    state.counters[_C_LOST] += lost
    return lost
