"""Where the messages of a session are: for those who ask for one again, and for a market that is not recorded yet.

A session is a row of segments. Nothing that comes from a tape is kept a second time: a loop is the same segment under
other numbers and another shift of its time stamps.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

#: Bytes of messages beside the tape that are kept for those who ask again.
KEPT_BYTES: Final = 64 << 20
_KEPT_SEGMENTS: Final = 1 << 16

_CHUNK_BYTES: Final = 1 << 20
_CHUNK_MESSAGES: Final = 1 << 15


class Segment(NamedTuple):
    """Messages in the form of a tape: see `tickpath.sim.sources.tape.Tape`."""

    data: Bytes
    offsets: Ints
    time_ns: Ints

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return int(self.data.nbytes + self.offsets.nbytes + self.time_ns.nbytes)


class Piece(NamedTuple):
    """Messages ``first`` to ``last`` of a segment; `shift_ns` was added to their time stamps when they were sent."""

    segment: Segment
    first: int
    last: int
    shift_ns: int


class History:
    """Every message of a session by its number, as far back as `KEPT_BYTES` beside the tape reach."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes: Final = kept_bytes
        self._starts: list[int] = []
        self._segments: list[tuple[Segment, int, int]] = []  # segment, shift_ns, bytes that count
        self._bytes = 0

    def begin(self, sequence: int, segment: Segment, shift_ns: int, *, own: bool) -> None:
        """From number `sequence` on messages come from `segment`. `own`: it lives for this session alone."""
        size = segment.nbytes if own else 0
        self._starts.append(sequence)
        self._segments.append((segment, shift_ns, size))
        self._bytes += size
        gone = 0
        while gone < len(self._starts) - 1 and (
            self._bytes > self._kept_bytes or len(self._starts) - gone > _KEPT_SEGMENTS
        ):
            self._bytes -= self._segments[gone][2]
            gone += 1
        if gone:
            del self._starts[:gone], self._segments[:gone]

    @property
    def first_sequence(self) -> int:
        """Number of the first message that is still known."""
        return self._starts[0]

    def find(self, sequence: int, end: int) -> Piece | None:
        """Where the messages from `sequence` on are, up to `end` (exclusive) or to the end of their segment.

        All of them must have been sent. None when `sequence` is not kept any more.
        """
        at = bisect_right(self._starts, sequence) - 1
        if at < 0:
            return None
        start = self._starts[at]
        if at + 1 < len(self._starts):
            end = min(end, self._starts[at + 1])
        segment, shift_ns, _ = self._segments[at]
        return Piece(segment, sequence - start, end - start, shift_ns)


class Chunk:
    """A segment of fixed size that is filled while it is played: messages up to `filled` are there."""

    def __init__(self) -> None:
        self.segment: Final = Segment(
            np.zeros(_CHUNK_BYTES, np.uint8),
            np.zeros(_CHUNK_MESSAGES + 1, np.int64),
            np.zeros(_CHUNK_MESSAGES, np.int64),
        )
        self.filled = 0

    def append(self, source: Segment, first: int) -> int:
        """Copy messages of `source` from `first` on, as many as there is room for; returns how many."""
        data, offsets, time_ns = self.segment
        at, begin = int(offsets[self.filled]), int(source.offsets[first])
        fitting = int(np.searchsorted(source.offsets, begin + len(data) - at, "right")) - 1
        last = min(fitting, len(source.time_ns), first + len(time_ns) - self.filled)
        if last <= first:
            return 0
        end = int(source.offsets[last])
        data[at : at + end - begin] = source.data[begin:end]
        n = last - first
        offsets[self.filled + 1 : self.filled + n + 1] = source.offsets[first + 1 : last + 1] + (at - begin)
        time_ns[self.filled : self.filled + n] = source.time_ns[first:last]
        self.filled += n
        return n
