"""Reading CME's MDP 3.0 in captured packets, and telling its books of price levels as `MESSAGE` records.

Layouts are little-endian and from CME's message schema (SBE): a packet is MsgSeqNum u32 and SendingTime u64, then its
messages; a message is its size u16, blockLength, templateId, schemaId and version (u16 each), the root block, then
groups. The root block of all templates read here begins with TransactTime u64, their first group is the entries.

| offset in an entry | book (templates 32, 46) | trade summary (42, 48) |
| --- | --- | --- |
| 0 i64, 8 i32, 12 i32, 16 u32, 20 i32 | price, size, security id, RptSeq, orders | the same |
| 24 u8 | level | aggressor |
| 25 u8 | action | action |
| 26 char | type | |

What a later version appends to a block or to an entry is skipped.

Arrays of all kernels here: ``data`` uint8[bytes], the capture; ``packets`` int64[n, PACKET_COLUMNS] of
`tickpath.sim.sources.kernels.pcap`.
"""

from __future__ import annotations

from typing import Final

import numba
import numpy as np

from tickpath.common.jit import inlined, kernel
from tickpath.sim.sources.kernels.encode import (
    ADD,
    BUY,
    CANCEL,
    DELETE,
    DIRECTORY,
    MESSAGES_TYPE,
    REPLACE,
    SELL,
    SYSTEM,
    TRADE,
    TRADING,
    note,
)
from tickpath.sim.sources.kernels.pcap import PAYLOAD_AT, PAYLOAD_SIZE

#: An entry of a book or of a trade summary; or, with the security NO_SECURITY, a reset of all books of a channel.
ENTRY: Final = np.dtype(
    [
        ("sent_ns", "<i8"),  # SendingTime of the packet, ns since 1970 UTC
        ("transact_ns", "<i8"),
        ("price", "<i8"),  # as on the wire
        ("size", "<i4"),
        ("security", "<i4"),
        ("rpt_seq", "<u4"),
        ("orders", "<i4"),
        ("template", "<u2"),  # 0: packets are missing
        ("channel", "<u2"),
        ("level", "u1"),  # 1 is the best; 0 of a trade
        ("action", "u1"),
        ("kind", "u1"),  # MDEntryType; `TRADED` of a trade
        ("aggressor", "u1"),  # 0 none, 1 buyer, 2 seller; 0 of a level
    ],
    align=True,
)
_ENTRIES: Final = numba.from_dtype(ENTRY)[::1]

CHANNEL_RESET, BOOK, TRADES, BOOK_9, TRADES_9 = 4, 32, 42, 46, 48  # templates; the prices of _9 have nine decimals
BID, OFFER, TRADED, IMPLIED_BID, IMPLIED_OFFER, RESET = (ord(letter) for letter in "012EFJ")  # kinds
NEW, CHANGE, REMOVE, REMOVE_THRU, REMOVE_FROM, OVERLAY = range(6)  # actions
NO_SECURITY = -(2**31)

# Columns of the messages that `messages` notes: first byte (of the size), row in packets, and of the header.
AT, PACKET, TEMPLATE, SCHEMA, VERSION = range(5)
MESSAGE_COLUMNS = 5

# Columns of levels. REF: order reference; 0: nothing is known of the level, HIDDEN: it cannot be played.
PRICE, SIZE, REF = range(3)
LEVEL_COLUMNS = 3
HIDDEN = -1

# Columns of made: messages; counts of what was found.
MESSAGES, TIMES_BACK, BAD, IMPLIED, UNANNOUNCED, UNKNOWN, MOVED, STALE, UNCHANGED, CLEARED, CORRECTIONS = range(11)
MADE_COLUMNS = 11

PACKET_HEADER_SIZE = 12
_HEADER_SIZE = 10
_GROUP_SIZE = 3

_INT, _LIST, _TABLE, _BYTES = numba.int64, numba.int64[::1], numba.int64[:, ::1], numba.uint8[::1]


@inlined
def _unsigned(data, at, size):
    value = numba.int64(0)
    for i in range(size):
        value |= numba.int64(data[at + i]) << 8 * i
    return value


@inlined
def _i32(data, at):
    value = _unsigned(data, at, 4)
    return value - ((value & 1 << 31) << 1)


@kernel(numba.void(_BYTES, _TABLE, numba.boolean[::1]))
def find_packets(data, packets, found):
    """Which rows carry MDP 3.0, `found` bool[n]: datagrams that are a packet header and whole messages."""
    for i in range(len(packets)):
        found[i] = False
        at, end = packets[i, PAYLOAD_AT], packets[i, PAYLOAD_AT] + packets[i, PAYLOAD_SIZE]
        if at < 0 or packets[i, PAYLOAD_SIZE] < PACKET_HEADER_SIZE + _HEADER_SIZE:
            continue
        at += PACKET_HEADER_SIZE
        while at + _HEADER_SIZE <= end:
            size = _unsigned(data, at, 2)
            if size < _HEADER_SIZE + _unsigned(data, at + 2, 2) or _unsigned(data, at + 4, 2) == 0:
                break
            at += size
        found[i] = at == end


@kernel(numba.void(_BYTES, _TABLE, _LIST))
def digest(data, packets, digests):
    """`digests` int64[n] of what the packets carry after their header (FNV-1a); 0 where that is one empty message.

    Heartbeats are such messages: those of different channels are the same.
    """
    for i in range(len(packets)):
        at, end = packets[i, PAYLOAD_AT] + PACKET_HEADER_SIZE, packets[i, PAYLOAD_AT] + packets[i, PAYLOAD_SIZE]
        found = numba.int64(0)
        if end - at > _HEADER_SIZE:
            found = -0x340D631B7BDDDCDB
            for k in range(at, end):
                found = (found ^ numba.int64(data[k])) * 0x100000001B3
        digests[i] = found


@kernel(_INT(_BYTES, _TABLE, _LIST, _LIST))
def count_differing(data, packets, first, second):
    """How many of the rows `second` int64[m] of packets carry other bytes than the rows `first` int64[m]."""
    n = 0
    for k in range(len(first)):
        one, other = packets[first[k]], packets[second[k]]
        size = one[PAYLOAD_SIZE]
        same = size == other[PAYLOAD_SIZE]
        i = 0
        while same and i < size:
            same = data[one[PAYLOAD_AT] + i] == data[other[PAYLOAD_AT] + i]
            i += 1
        n += not same
    return n


@kernel(_INT(_BYTES, _TABLE, _TABLE))
def messages(data, packets, out):
    """Note the messages of packets that are MDP 3.0, as far as `out` goes; returns how many there are."""
    n = 0
    for i in range(len(packets)):
        at = packets[i, PAYLOAD_AT] + PACKET_HEADER_SIZE
        end = packets[i, PAYLOAD_AT] + packets[i, PAYLOAD_SIZE]
        while at < end:
            if n < len(out):
                out[n, AT], out[n, PACKET] = at, i
                for column in range(TEMPLATE, MESSAGE_COLUMNS):
                    out[n, column] = _unsigned(data, at + 2 * column, 2)
            n += 1
            at += _unsigned(data, at, 2)
    return n


@inlined
def _put_entry(out, n, sent, transact, channel, template, security):
    """Begin entry n, if there is room for it."""
    if n < len(out):
        entry = out[n]
        entry.sent_ns, entry.transact_ns, entry.template, entry.channel = sent, transact, template, channel
        entry.security, entry.kind = security, RESET
        entry.price = entry.size = entry.rpt_seq = entry.orders = 0
        entry.level = entry.action = entry.aggressor = 0
    return n + 1


@kernel(_INT(_BYTES, _TABLE, _LIST, _LIST, _TABLE, _ENTRIES, _LIST))
def decode(data, packets, channels, gaps, rows, out, damaged):
    """Read the entries of the messages `rows` int64[m, MESSAGE_COLUMNS] of packets, as far as `out` goes.

    `channels`, `gaps` int64[n]: the channel of each packet, and 1 where some are missing directly before it. Returns
    how many entries there are; `damaged` int64[1] counts messages whose entries are not within them.
    """
    n = 0
    damaged[0] = 0
    packet = -1
    for k in range(len(rows)):
        at, template = rows[k, AT], rows[k, TEMPLATE]
        while packet < rows[k, PACKET]:
            packet += 1
            sent = _unsigned(data, packets[packet, PAYLOAD_AT] + 4, 8)
            if gaps[packet]:
                n = _put_entry(out, n, sent, sent, channels[packet], 0, NO_SECURITY)
        is_book = template == BOOK or template == BOOK_9  # noqa: PLR1714 - `in` takes long to compile
        is_trade = template == TRADES or template == TRADES_9  # noqa: PLR1714
        if template == CHANNEL_RESET:
            n = _put_entry(out, n, sent, sent, channels[packet], template, NO_SECURITY)
        if not is_book and not is_trade:
            continue
        end, block = at + _unsigned(data, at, 2), _unsigned(data, at + 2, 2)
        group = at + _HEADER_SIZE + block
        fits = block >= 8 and group + _GROUP_SIZE <= end
        entry_size = _unsigned(data, group, 2) if fits else 0
        count = numba.int64(data[group + 2]) if fits else 0
        entry_at = group + _GROUP_SIZE
        if not fits or (count and entry_size < (27 if is_book else 26)) or entry_at + entry_size * count > end:
            damaged[0] += 1
            continue
        transact = _unsigned(data, at + _HEADER_SIZE, 8)
        for _ in range(count):
            security = _i32(data, entry_at + 12)
            n = _put_entry(out, n, sent, transact, channels[packet], template, security)
            if n <= len(out):
                entry = out[n - 1]
                entry.price, entry.size = _unsigned(data, entry_at, 8), _i32(data, entry_at + 8)
                entry.rpt_seq, entry.orders = _unsigned(data, entry_at + 16, 4), _i32(data, entry_at + 20)
                entry.action = data[entry_at + 25]
                if is_book:
                    entry.level, entry.kind = data[entry_at + 24], data[entry_at + 26]
                else:
                    entry.aggressor, entry.kind = data[entry_at + 24], TRADED
            entry_at += entry_size
    return n


@inlined
def _forget(levels, row, instrument, messages, n, now):
    """Nothing is known of a level any more; its order is deleted."""
    if levels[row, REF] > 0:
        n = note(messages, n, now, instrument, DELETE, levels[row, REF], 0, 0, 0, 0)
    levels[row, REF] = 0
    return n


@inlined
def _move(levels, row, to):
    for column in range(LEVEL_COLUMNS):
        levels[to, column] = levels[row, column]


@kernel(_INT(_TABLE, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, MESSAGES_TYPE, _INT, _INT, _LIST))
def _set(levels, row, first, end, side, price, size, ref, instrument, messages, n, now, made):
    """The level `row` of the side ``levels[first:end]`` has this price (ticks, 0: cannot be played) and size now.

    Returns the number of messages afterwards. Levels whose prices contradict it are older, and forgotten.
    """
    if price == 0:
        n = _forget(levels, row, instrument, messages, n, now)
        levels[row, REF] = HIDDEN
        return n
    sign = 1 if side == SELL else -1
    for other in range(first, end):
        if levels[other, REF] > 0 and other != row:
            better = (levels[other, PRICE] - price) * sign
            if better >= 0 if other < row else better <= 0:
                n = _forget(levels, other, instrument, messages, n, now)
                made[STALE] += 1
    if levels[row, REF] <= 0:
        n = note(messages, n, now, instrument, ADD, ref, 0, side, size, price)
    elif levels[row, PRICE] == price and size == levels[row, SIZE]:
        made[UNCHANGED] += 1
        return n
    elif levels[row, PRICE] == price and size < levels[row, SIZE]:
        ref = levels[row, REF]
        n = note(messages, n, now, instrument, CANCEL, ref, 0, side, levels[row, SIZE] - size, 0)
    else:
        n = note(messages, n, now, instrument, REPLACE, levels[row, REF], ref, side, size, price)
    levels[row, PRICE], levels[row, SIZE], levels[row, REF] = price, size, ref
    return n


@kernel(
    numba.void(_ENTRIES, _LIST, _LIST, _LIST, _LIST, _LIST, _TABLE, _INT, MESSAGES_TYPE, _LIST, _LIST)
)  # fmt: skip
def tell(entries, instruments, times, prices, channels, begins, levels, base, messages, entry_ends, made):
    """Tell ENTRY[n], one of `entry_ends` (messages so far) for each; made[MESSAGES], as many as there is room for.

    `instruments` int64[n]: each entry's, from 0, -1 none. `times` int64[n]: ns after midnight. `prices` int64[n]: in
    ticks, 0 where it cannot be played. `channels` int64[m]: of each instrument. `begins` int64[m + 1]: the levels of
    instrument i are rows ``begins[i]`` to ``begins[i + 1]`` of `levels` int64[.., LEVEL_COLUMNS], the bids and then
    as many offers, the best first. `base`: order references follow it. `levels` and `made` are 0 before.

    A level is a place, and nothing is known of those that the capture has not told of yet; they move like others.
    """
    now = times[0]
    n = note(messages, 0, now, 0, SYSTEM, 0, 79, 0, 0, 0)  # O: start of messages
    for i in range(len(channels)):
        n = note(messages, n, now, i, DIRECTORY, 0, 0, 0, 0, 0)
        n = note(messages, n, now, i, TRADING, 0, 84, 0, 0, 0)  # T: trading
    n = note(messages, n, now, 0, SYSTEM, 0, 81, 0, 0, 0)  # Q: start of market hours
    for k in range(len(entries)):
        entry, instrument = entries[k], instruments[k]
        kind, action = numba.int64(entry.kind), numba.int64(entry.action)
        price, size = prices[k], numba.int64(entry.size)
        made[TIMES_BACK] += times[k] < now
        now = max(now, times[k])
        if kind == RESET:
            for i in range(len(channels)):
                if i == instrument or (entry.security == NO_SECURITY and channels[i] == entry.channel):
                    before = n
                    for row in range(begins[i], begins[i + 1]):
                        n = _forget(levels, row, i, messages, n, now)
                    made[CLEARED] += n > before
        elif kind == TRADED:
            if action != NEW:
                made[CORRECTIONS] += 1
            elif price > 0 and size > 0:  # the buyer rests where nobody is said to
                resting = SELL if entry.aggressor == 1 else BUY
                n = note(messages, n, now, instrument, TRADE, 0, 0, resting, size, price)
            else:
                made[BAD] += 1
        elif kind == IMPLIED_BID or kind == IMPLIED_OFFER:  # noqa: PLR1714, SIM109
            made[IMPLIED] += 1
        elif (kind != BID and kind != OFFER) or entry.level == 0 or action > OVERLAY:  # noqa: PLR1714
            made[BAD] += 1
        else:
            depth = (begins[instrument + 1] - begins[instrument]) // 2
            side = BUY if kind == BID else SELL
            first = begins[instrument] + (depth if side == SELL else 0)
            end = first + depth
            row = first + numba.int64(entry.level) - 1
            if action == NEW or action == CHANGE or action == OVERLAY:  # noqa: PLR1714, SIM109
                if price <= 0 or size <= 0:
                    made[BAD] += 1
                    price = 0
                if action == NEW:  # the levels from here on move down, and one falls out
                    n = _forget(levels, end - 1, instrument, messages, n, now)
                    for i in range(end - 1, row, -1):
                        _move(levels, i - 1, i)
                    levels[row, REF] = 0
                elif levels[row, REF] == 0:
                    made[UNANNOUNCED] += 1
                elif levels[row, REF] > 0 and price > 0 and levels[row, PRICE] != price:
                    made[MOVED] += action == CHANGE
                n = _set(levels, row, first, end, side, price, size, base + k + 1, instrument, messages, n, now, made)
            else:
                made[UNKNOWN] += levels[row, REF] == 0
                begin = first if action == REMOVE_THRU else row
                after = end if action == REMOVE_FROM else row + 1
                for i in range(begin, after):
                    n = _forget(levels, i, instrument, messages, n, now)
                for i in range(after, end):
                    _move(levels, i, begin + i - after)
                for i in range(begin + end - after, end):
                    levels[i, REF] = 0
        entry_ends[k] = n
    made[MESSAGES] = n
