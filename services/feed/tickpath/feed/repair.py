"""What is done about missing messages: wait, ask again, take whole books; or go on without, and say so.

| seen | done | after |
| --- | --- | --- |
| a gap | wait: the other line, or a packet that was overtaken, may close it | `feed.reorder_us` |
| the gap is still there | ask the retransmission server for what is missing, again and again | `request_attempts` |
| no answer, or the gap is too large | take the books from the snapshot server; live packets wait in the window | |
| nobody to ask, or that failed | go on behind the gap: every tick carries SUSPECT until books could be taken | |

While messages are missing nothing is published, and after `feed.announce_us` the instruments are announced as
SUSPECT; when all is well again they are announced without it. So risk refuses orders in a channel that is not live.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.config import FeedConfig
from tickpath.common.protocols import moldudp64
from tickpath.feed.kernels.decode import State, announce, give_up
from tickpath.feed.layout import Channel, ChannelState, Count, InstrumentFlag, Line, Suspect
from tickpath.feed.lines import Lines
from tickpath.feed.snapshot import Progress, Snapshot

#: More missing messages are not asked for one by one when there is a snapshot server.
_MANY: Final = 20_000
_MAX_REQUESTS: Final = 16  # at a time
_MAX_COUNT: Final = 0xFFFE
_POLL_NS: Final = 200_000  # between two looks at a snapshot's connection
_NEVER: Final = 1 << 62
_FIRST_RETRY_NS: Final = 1_000_000_000
_LAST_RETRY_NS: Final = 300_000_000_000
_CALM_NS: Final = 60_000_000_000  # without a doubt: the next one is answered quickly again


class Repair:
    """Keeps one channel complete. Time is an argument; `turn` never waits."""

    def __init__(self, options: FeedConfig, state: State, lines: Lines) -> None:
        self._options = options
        self._state = state
        self._lines = lines
        self._channel = state.channel
        self._counts = state.counters
        self._can_ask = Line.REPAIR in lines.sockets
        self._has_snapshots = options.snapshot_port is not None
        self._snapshot = Snapshot(options, state)
        self._snapshot_after_ns = 0  # not before: the last one failed, or did not help
        self._retry_ns = _FIRST_RETRY_NS
        self._doubted_ns = 0  # when books were last in doubt
        self._attempts = 0  # without any answer
        self._expected = 0  # what was wanted then
        self._asked_ns = 0
        self._suspect = 0  # as announced last
        self._heard = (0, 0)  # duplicates, datagrams of other sessions: before the channel became stale
        self._n = len(state.marks)
        self._channel[Channel.CAN_REPAIR] = int(self._can_ask or self._has_snapshots)
        self._channel[Channel.ANNOUNCE_AT] = self._n

    @property
    def wanted(self) -> bool:
        """Whether `turn` has something to do now or soon."""
        channel = self._channel
        return bool(
            channel[Channel.KNOWN_SEQ] > channel[Channel.EXPECTED_SEQ]
            or channel[Channel.SUSPECT] != self._suspect
            or channel[Channel.ANNOUNCE_AT] < self._n
            or self._snapshot.active
        )

    @property
    def trouble(self) -> str:
        """Why the channel is stale, or the last snapshot failed; empty without such a thing."""
        if not self._channel[Channel.SUSPECT] & Suspect.STALE:
            return self._snapshot.why
        old, foreign = (now - before for now, before in zip(self._strange(), self._heard, strict=True))
        if foreign:
            return "datagrams of another session come: the exchange has begun anew, and so must whoever trades there"
        if old:
            next_seq = int(self._channel[Channel.EXPECTED_SEQ])
            return f"only messages below {next_seq} come, which were here: the exchange repeats itself or began anew"
        return "nothing comes, not even a heartbeat"

    def _strange(self) -> tuple[int, int]:
        return int(self._counts[Count.MESSAGES_DUPLICATE]), int(self._counts[Count.DATAGRAMS_OTHER_SESSION])

    def turn(self, now: int) -> None:
        """Follow the state of the channel; sets ``channel[ACTION_NS]``, when to be called again at the latest."""
        channel = self._channel
        if self._snapshot.active:
            self._load(now)
        elif channel[Channel.KNOWN_SEQ] > channel[Channel.EXPECTED_SEQ]:
            self._close_gap(now)
        else:
            self._attempts = 0
            channel[Channel.ACTION_NS] = _NEVER
        self._judge(now)

    def tend(self, now: int) -> None:
        """Notice silence; take books when some are in doubt and nothing else is going on."""
        channel = self._channel
        heard = int(channel[Channel.LAST_RECV_NS])
        stale = heard > 0 and now - heard > self._options.stale_ms * 1_000_000
        self._set(Suspect.STALE, stale)
        if not stale:
            self._heard = self._strange()
        in_doubt = int(np.count_nonzero(self._state.suspect))
        self._counts[Count.SUSPECT_INSTRUMENTS] = in_doubt
        if (in_doubt or channel[Channel.SUSPECT] & Suspect.LOST) and not stale and heard:
            self._take_books(now)
            self._doubted_ns = now
        elif now - self._doubted_ns > _CALM_NS:
            self._retry_ns = _FIRST_RETRY_NS
        self.turn(now)

    def announcements(self, now: int, out: npt.NDArray[Any]) -> int:
        """Ticks of instruments that are to be published anew; how many were written to `out`, TICK[..]."""
        at = int(self._channel[Channel.ANNOUNCE_AT])
        if at >= self._n:
            return 0
        n = int(announce(self._state, at, now, out))
        self._channel[Channel.ANNOUNCE_AT] = at + n
        return n

    def trust(self) -> None:
        """A person's decision: the books are right."""
        self._state.suspect[:] = 0
        self._set(Suspect.LOST, on=False)
        self._channel[Channel.ANNOUNCE_AT] = 0

    def close(self) -> None:
        """Let go of the snapshot server."""
        self._snapshot.close()

    def _set(self, bit: Suspect, on: bool) -> None:
        self._channel[Channel.SUSPECT] = self._channel[Channel.SUSPECT] & ~bit | (bit if on else 0)

    def _judge(self, now: int) -> None:
        """State of the channel, and the announcement when it has changed."""
        channel = self._channel
        since = int(channel[Channel.GAP_SINCE_NS])
        behind = channel[Channel.KNOWN_SEQ] > channel[Channel.EXPECTED_SEQ]
        loading = self._snapshot.progress is Progress.LOADING
        self._set(
            Suspect.RECOVERING, loading or bool(behind and since and now - since > self._options.announce_us * 1000)
        )
        suspect = int(channel[Channel.SUSPECT])
        if suspect != self._suspect:
            if (suspect == 0) != (self._suspect == 0):
                channel[Channel.ANNOUNCE_AT] = 0
                self._counts[Count.ANNOUNCEMENTS] += 1
            self._suspect = suspect
        channel[Channel.STATE] = (
            ChannelState.WAITING
            if not channel[Channel.EXPECTED_SEQ]
            else ChannelState.STALE
            if suspect & Suspect.STALE
            else ChannelState.RECOVERING
            if behind or loading
            else ChannelState.LIVE
        )

    def _close_gap(self, now: int) -> None:
        channel = self._channel
        expected = int(channel[Channel.EXPECTED_SEQ])
        reorder_ns = self._options.reorder_us * 1000
        if expected != self._expected:  # something has come since it was asked for, and more may be right behind it
            self._expected, self._attempts, self._asked_ns = expected, 0, now + reorder_ns - self._timeout_ns
        since = int(channel[Channel.GAP_SINCE_NS])
        act_ns = max(since + reorder_ns, self._asked_ns + self._timeout_ns)
        if now < act_ns:
            channel[Channel.ACTION_NS] = act_ns
            return
        missing = self._missing()
        if not missing:  # all of it waits in the window: the decoder is about to take it
            channel[Channel.ACTION_NS] = now
            return
        first, until = missing[0]
        askable = self._can_ask and (until - first <= _MANY or not self._has_snapshots)
        if askable and self._attempts < self._options.request_attempts:
            self._ask(missing)
            self._attempts += 1
            self._asked_ns = now
            channel[Channel.ACTION_NS] = now + self._timeout_ns
        elif self._take_books(now):
            channel[Channel.ACTION_NS] = now + _POLL_NS
        else:
            give_up(self._state, now)
            self._counts[Count.GAPS_GIVEN_UP] += 1
            channel[Channel.ACTION_NS] = now

    @property
    def _timeout_ns(self) -> int:
        return self._options.request_timeout_ms * 1_000_000

    def _missing(self) -> list[tuple[int, int]]:
        """The first ranges of missing numbers, [from, to)."""
        channel, window = self._channel, self._state.window
        at = int(channel[Channel.EXPECTED_SEQ])
        found: list[tuple[int, int]] = []
        mask = len(window.order) - 1
        for k in range(int(channel[Channel.HELD])):
            first, after = window.rows[window.order[(channel[Channel.HEAD] + k) & mask], :2].tolist()
            if first > at:
                found.append((at, first))
                if len(found) == _MAX_REQUESTS:
                    return found
            at = max(at, after)
        if channel[Channel.KNOWN_SEQ] > at:
            found.append((at, int(channel[Channel.KNOWN_SEQ])))
        return found

    def _ask(self, missing: list[tuple[int, int]]) -> None:
        session = int(self._channel[Channel.SESSION_LOW]).to_bytes(8, "big", signed=True) + int(
            self._channel[Channel.SESSION_HIGH]
        ).to_bytes(2, "big")
        for first, until in missing:
            self._lines.ask(moldudp64.request(session, first, min(until - first, _MAX_COUNT)))
            self._counts[Count.REQUESTS] += 1

    def _take_books(self, now: int) -> bool:
        if not self._has_snapshots or self._snapshot.active or now < self._snapshot_after_ns:
            return False
        self._snapshot_after_ns = now + self._retry_ns
        self._retry_ns = min(2 * self._retry_ns, _LAST_RETRY_NS)
        self._snapshot.start(now)
        return self._snapshot.active

    def _load(self, now: int) -> None:
        channel, state = self._channel, self._state
        progress = self._snapshot.turn(now)
        channel[Channel.HOLDING] = int(progress is Progress.LOADING)
        channel[Channel.ACTION_NS] = now + _POLL_NS
        if progress is Progress.DONE:
            channel[Channel.EXPECTED_SEQ] = channel[Channel.SNAPSHOT_SEQ]
            held = int(channel[Channel.HELD])
            last = state.window.order[(channel[Channel.HEAD] + held - 1) & (len(state.window.order) - 1)]
            # A damaged packet may have told of numbers that do not exist: only what is here counts.
            known = int(state.window.rows[last, 1]) if held else 0
            channel[Channel.KNOWN_SEQ] = max(known, int(channel[Channel.EXPECTED_SEQ]))
            channel[Channel.GAP_SINCE_NS] = now if known > channel[Channel.EXPECTED_SEQ] else 0
            state.suspect[:] = 0
            state.halted[:] &= ~InstrumentFlag.NOT_OPENED  # a snapshot names only what does not trade
            self._set(Suspect.LOST, on=False)
            self._counts[Count.SNAPSHOTS] += 1
            channel[Channel.ANNOUNCE_AT] = 0
            channel[Channel.ACTION_NS] = now
        elif progress is Progress.FAILED:
            self._counts[Count.SNAPSHOT_FAILURES] += 1
            if channel[Channel.KNOWN_SEQ] > channel[Channel.EXPECTED_SEQ]:
                give_up(state, now)
                self._counts[Count.GAPS_GIVEN_UP] += 1
            if self._snapshot.cleared:
                state.suspect[:] = 1  # what was loaded is not whole
                channel[Channel.ANNOUNCE_AT] = 0
            channel[Channel.ACTION_NS] = now
