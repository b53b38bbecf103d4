"""Plain-text ticks in place of an exchange's protocol: each line is a print, numbered as it comes."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tickpath.common.instruments import InstrumentTable
from tickpath.common.jit import inlined
from tickpath.common.kernels.text import N_TEXT_COUNTS, parse_ticks
from tickpath.common.records import NO_PRICE_TICKS
from tickpath.feed.layout import Channel, Count, LineWord


class TextState(NamedTuple):
    """What lines are read with; n is the number of instruments."""

    tick_e8: npt.NDArray[np.int64]  # int64[n]: by key
    lot_e8: npt.NDArray[np.int64]  # int64[n]: by key
    counters: npt.NDArray[np.int64]  # int64[N_TEXT_COUNTS]

    @classmethod
    def create(
        cls, table: InstrumentTable, key_ids: npt.NDArray[np.int64], counters: npt.NDArray[np.int64]
    ) -> TextState:
        """For the instruments of `table` in the order of `key_ids`."""
        lots = np.array([table.lot_e8(instrument) for instrument in range(len(table))], dtype=np.int64)
        return cls(table.array["tick_e8"][key_ids].astype(np.int64), lots[key_ids], counters)


TEXT_STATE = numba.types.NamedUniTuple(numba.int64[::1], 3, TextState)
N_COUNTS = N_TEXT_COUNTS


@inlined
def decode_lines(state, buffer, lengths, first, end, recv_ns, line, out):
    """The datagrams `first` to `end` - 1 as lines of text; the number of ticks in `out`. Arguments as of `decode`."""
    channel, text = state.channel, state.text
    slot = buffer.shape[1]
    flat = buffer.reshape(buffer.size)
    n = 0
    for i in range(first, end):
        length = abs(lengths[i])
        state.counters[Count.DATAGRAMS] += 1
        state.counters[Count.BYTES] += length
        if lengths[i] < 0:
            state.counters[Count.DATAGRAMS_MALFORMED] += 1
        made = parse_ticks(
            flat,
            i * slot,
            min(length, slot),
            state.keys,
            state.key_ids,
            text.tick_e8,
            text.lot_e8,
            out[n:],
            text.counters,
        )
        for k in range(n, n + made):
            mark = state.marks[out[k].instrument]
            mark.volume_lots += out[k].last_lots
            channel[Channel.EXPECTED_SEQ] += 1
            mark.cause_seq = channel[Channel.EXPECTED_SEQ]
            mark.exch_ns = out[k].exch_ns
            mark.recv_ns = recv_ns
            mark.decoded_ns = recv_ns
            mark.bid_ticks = NO_PRICE_TICKS
            mark.ask_ticks = NO_PRICE_TICKS
            mark.last_ticks = out[k].last_ticks
            mark.last_lots = out[k].last_lots
            mark.flags = out[k].flags
            out[k] = mark
        n += made
        channel[Channel.KNOWN_SEQ] = channel[Channel.EXPECTED_SEQ]
        channel[Channel.LAST_RECV_NS] = recv_ns
        state.lines[line, LineWord.DATAGRAMS] += 1
        state.lines[line, LineWord.FIRST] += made
        state.lines[line, LineWord.LAST_RECV_NS] = recv_ns
    state.counters[Count.MESSAGES] += n
    state.counters[Count.TICKS] += n
    return n
