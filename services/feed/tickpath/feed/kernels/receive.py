"""Receiving from several lines by turns, for compiled loops: what `tickpath.feed.lines` opened, as words."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from tickpath.common.jit import inlined
from tickpath.common.kernels.net import receive_rows
from tickpath.common.kernels.taps import capture
from tickpath.feed.layout import Channel, Line

N_LINES: Final = len(Line)


class LineReg(IntEnum):
    """The words. Datagrams that wait are the rows [AT, END) of the receive buffer."""

    FDS = 0  # N_LINES sockets, -1 where there is no such line
    WAIT_FD = N_LINES  # can be read when one of them can
    BATCH = N_LINES + 1  # rows of the receive buffer that belong to each line
    WAITS = N_LINES + 2  # see `receive_rows`
    NEXT = N_LINES + 3  # the line to look at next
    LINE = N_LINES + 4  # the line of the present batch
    EMPTY = N_LINES + 5  # lines in a row on which there was nothing
    AT = N_LINES + 6
    END = N_LINES + 7
    RECV_NS = N_LINES + 8  # when the present batch came
    CAPTURE = N_LINES + 9  # the tap of ``datagrams``, 0: off


N_WORDS: Final = len(LineReg) + N_LINES - 1


@inlined
def is_behind(channel):
    """Whether messages are missing."""
    return channel[Channel.KNOWN_SEQ] > channel[Channel.EXPECTED_SEQ]


@inlined
def receive_next(words, behind, buffer, messages, lengths):
    """The next batch of whichever line: 1 when there is one, 0 when no line has anything, -1: look at the next line.

    Answers to requests are looked for only while messages are missing: `behind`. The batch before is through, so
    whoever wants to look at it is shown it now.
    """
    if words[LineReg.CAPTURE] and words[LineReg.END]:
        line = words[LineReg.LINE]
        first = line * words[LineReg.BATCH]
        capture(words[LineReg.CAPTURE], buffer, lengths, first, words[LineReg.END], words[LineReg.RECV_NS], line)
        words[LineReg.END] = 0
    line = words[LineReg.NEXT]
    words[LineReg.NEXT] = line + 1 if line + 1 < N_LINES else 0
    fd = words[LineReg.FDS + line]
    if fd >= 0 and (behind or line != Line.REPAIR):
        first = line * words[LineReg.BATCH]
        n = receive_rows(fd, messages, lengths, first, words[LineReg.BATCH], words[LineReg.WAITS])
        if n > 0:
            words[LineReg.LINE] = line
            words[LineReg.AT] = first
            words[LineReg.END] = first + n
            words[LineReg.EMPTY] = 0
            return 1
    words[LineReg.EMPTY] += 1
    if words[LineReg.EMPTY] < N_LINES:
        return -1
    words[LineReg.EMPTY] = 0
    return 0
