"""Books taken from a snapshot: SoupBinTCP packets with ITCH messages, as they lie in the receive buffer."""

from __future__ import annotations

from typing import Final

import numba

from tickpath.common.jit import kernel
from tickpath.common.kernels.book import EV_INSTRUMENT, EV_TYPE, apply_message
from tickpath.common.kernels.itch import be16
from tickpath.feed.kernels.decode import IS_NOTED, STATE, learn, note
from tickpath.feed.layout import Channel

_SNAPSHOT_SEQ: Final = int(Channel.SNAPSHOT_SEQ)
_SEQUENCED, _HEARTBEAT, _DEBUG, _END = (ord(letter) for letter in "SH+Z")
_END_OF_SNAPSHOT: Final = ord("G")

#: What `load` says instead of a number of bytes.
MALFORMED: Final = -1


@kernel(numba.int64(STATE, numba.uint8[::1], numba.int64))
def load(state, data, size):
    """Apply the whole packets in the first `size` bytes of `data`; returns how many bytes they have, or MALFORMED.

    ``channel[SNAPSHOT_SEQ]`` becomes the number that the last message of a snapshot, ``G`` and 20 digits, says: that
    of the next message of the live stream. Layout: Nasdaq's GLIMPSE 5.0.
    """
    at = 0
    while at + 3 <= size:
        length = be16(data, at)
        if length == 0:
            return MALFORMED
        if at + 2 + length > size:
            break
        kind = data[at + 2]
        begin = at + 3
        at += 2 + length
        if kind == _SEQUENCED and length > 1:
            if data[begin] == _END_OF_SNAPSHOT:
                if length != 22:
                    return MALFORMED
                number = 0
                for i in range(begin + 1, begin + 21):
                    digit = numba.int64(data[i]) - 48
                    if 0 <= digit <= 9:
                        if number > 1 << 56:
                            return MALFORMED
                        number = number * 10 + digit
                    elif digit != -16 or number:
                        return MALFORMED
                if number == 0:
                    return MALFORMED
                state.channel[_SNAPSHOT_SEQ] = number
                return at
            learn(state, data, begin, length - 1)
            result = apply_message(state.book, data, begin, length - 1)
            event = state.book.event
            if result == 0 and event[EV_INSTRUMENT] >= 0 and IS_NOTED[event[EV_TYPE]]:
                note(state, data, begin, event[EV_TYPE])
        elif kind not in (_HEARTBEAT, _DEBUG, _END):
            return MALFORMED
    return at
