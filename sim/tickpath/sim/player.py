"""Market data out: a tape played open loop as MoldUDP64 over UDP.

Every packet goes to line A and, if there is one, to line B: the same bytes, from the same buffer.

Each message has a due time that follows from the tape and the speed alone. A turn sends all that is due; when late,
it sends larger datagrams until the schedule is met again, and counts how late it was. Nothing that a listener does
can slow it down. At the speed "step" it is the other way round: `step` sends one datagram, and whoever calls it says
when (`tickpath.sim.lockstep`).

| state | what goes out |
| --- | --- |
| stopped (before `start`, after `stop`) | a heartbeat every second |
| playing | messages at their due time; a heartbeat after a second without any |
| finished (end of a tape that is not looped, or `finish`) | an end-of-session packet every second |

A looped tape begins again after the venue has cleared the played book: it sends an Order Delete for every order that
is still there and, for a symbol that is not trading, the trading action that makes it trade. So order references may
be used again, no order of the last round is left behind, and whoever has missed something starts the next round with
an empty book like everybody else. Message numbers go on; the time stamps inside the messages are shifted so that they
go on too, up to the last nanosecond of the day, where they stay.

A live market has no tape: what is taken from it is appended with `push` and sent at once. The venue follows, and
messages can be asked for again, as with a tape.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from tickpath.common.jit import direct
from tickpath.common.kernels.hist import record
from tickpath.common.protocols.moldudp64 import HEADER_SIZE, end_of_session, heartbeat, session_id
from tickpath.sim.history import Bytes, Chunk, History, Ints, Segment
from tickpath.sim.kernels import wire
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.sources.tape import Tape, Terms, datagram_size

__all__ = ["Bytes", "Ints", "Line", "Listener", "LiveMarket", "Player", "PlayerError", "Segment", "no_tape"]

#: Stamps are kept for this many of the latest messages: 8 seconds at 250,000 messages per second.
STAMPS: Final = 1 << 21

HEARTBEAT_NS: Final = 1_000_000_000

#: See `wire.QUANTUM_NS`.
QUANTUM_NS: Final = wire.QUANTUM_NS

#: Most work of one turn, so that order entry never waits longer than about 200 µs.
_DATAGRAMS_PER_TURN: Final = 12
_MESSAGES_PER_TURN: Final = 500

_FOREVER: Final = 2**62
_pack, _pack_step, _transmit = direct(wire.pack), direct(wire.pack_step), direct(wire.transmit)
_CLEAR_SPACING_NS: Final = 50_000


#: A live market is not asked for more while so many of its messages wait to be sent.
_MOST_WAITING: Final = 1 << 16


class Line(NamedTuple):
    """Where packets go: a unicast address, or a group over the interface with that address."""

    host: str
    port: int
    interface: str = "127.0.0.1"


class LiveMarket(Protocol):
    """A market that is played while it happens: ``tickpath.sim.live.open_live(config)`` makes one."""

    @property
    def symbols(self) -> Mapping[str, int]:
        """Stock locate by symbol."""

    @property
    def source(self) -> str:
        """What this is, for people."""

    @property
    def terms(self) -> Mapping[str, Terms]:
        """How the symbols are traded; see `Tape`."""

    def inputs(self) -> Sequence[Any]:
        """Descriptors that are readable when `poll` has something to do; the same ones as long as it is open."""

    def poll(self, now_ns: int) -> Segment | None:
        """What has happened since the last call, at most a bounded slice; None: nothing. Never waits."""

    def tend(self, now_ns: int) -> None:
        """What need not be done at once; called every few milliseconds."""

    def close(self) -> None:
        """Close what was opened."""


def no_tape(symbols: Mapping[str, int], source: str, terms: Mapping[str, Terms], most_orders: int) -> Tape:
    """A tape without messages, for a market that has up to `most_orders` orders at a time."""
    return Tape(
        data=np.zeros(1, np.uint8),
        offsets=np.zeros(1, np.int64),
        time_ns=np.zeros(0, np.int64),
        symbols=dict(symbols),
        source=source,
        counts={"A": most_orders},
        terms=dict(terms),
    )


class Listener(Protocol):
    """The venue: keeps the book of what is played."""

    def played(self, segment: Segment, first: int, last: int, shift_ns: int) -> None:
        """Messages `first` to `last` of the segment have been published."""

    def clearing(self, time_ns: int, spacing_ns: int) -> Segment:
        """Messages that empty the played book, the first at `time_ns`, `spacing_ns` apart."""


class PlayerError(Exception):
    """Market data cannot be sent as asked; the message says what is wrong and what is allowed."""


class Player:
    """Plays `tape` to a UDP address. Time is an argument; `counters` and `late_hist` are arrays of the page."""

    def __init__(
        self,
        tape: Tape,
        listener: Listener,
        *,
        host: str,
        port: int,
        counters: Ints,
        late_hist: Ints,
        faults: Ints | None = None,
        session: str = "TICKPATH01",
        datagram_bytes: int = 1400,
        speed: float | str = 1.0,
        rate: float = 0.0,
        loop: bool = False,
        interface: str = "127.0.0.1",
        ttl: int = 0,
        line_b: Line | None = None,
        live: bool = False,
    ) -> None:
        """`rate` messages per second, or (rate 0) `speed` times the recorded pace; "max" is as fast as it goes,
        "step" sends what `step` is called for. `live`: `tape` is empty and all messages come by `push`.

        Raises PlayerError for an address that cannot be used, and for a live market in steps.
        """
        if live and speed == "step":
            msg = 'sim.speed = "step" needs a tape: a live market does not wait'
            raise PlayerError(msg)
        self.out_ns: Final[Ints] = np.zeros(STAMPS, np.int64)
        self._tape = Segment(tape.data, tape.offsets, tape.time_ns)
        self._live = live
        self._chunks: deque[Chunk] = deque([Chunk()] if live else ())  # the first one is being played
        self._pushed = 0
        self._segment = self._chunks[0].segment if live else self._tape
        self.history: Final = History()
        self.history.begin(1, self._segment, 0, own=live)
        self._listener = listener
        self._counters = counters
        self._late_hist = late_hist
        self._faults = faults if faults is not None else np.zeros(len(Fault), np.int64)
        self.session: Final = session_id(session)
        self._session_bytes = np.frombuffer(self.session, np.uint8).copy()
        self.in_steps: Final = speed == "step"
        self._max = (speed == "max" and rate == 0) or live
        self._speed = 1.0 if isinstance(speed, str) else float(speed)
        self._rate = 0.0 if live else float(rate)
        self._loop = loop and len(tape) > 0
        n = len(tape)
        self._spacing_ns = max(1, tape.duration_ns // max(1, n - 1))
        size = datagram_size(tape, datagram_bytes)
        self.datagram_bytes: Final = size
        self._plan = np.zeros(wire.PLAN_SIZE, np.int64)
        self._plan[wire.NEXT_SEQ] = 1
        self._plan[wire.DATAGRAM_BYTES] = size
        self._buffer = np.zeros(_DATAGRAMS_PER_TURN * size, np.uint8)
        self._packets = np.zeros((1 if self.in_steps else _DATAGRAMS_PER_TURN, 4), np.int64)
        self._pending = (0, 0)  # packets that are still to be sent
        self._anchor_ns = 0  # when the message at the anchor was due
        self._anchor_time = 0
        self._anchor_index = 0
        self._not_before_ns = 0
        self._sent_ns = 0
        self.playing = False
        self.finished = False
        counters[Counter.NEXT_SEQUENCE] = 1
        lines = {"": Line(host, port, interface), **({"line_b_": line_b} if line_b is not None else {})}
        self._lines = tuple(lines.values())
        self._sockets: list[socket.socket] = []
        self._addresses: list[Bytes] = []
        try:
            for prefix, line in lines.items():
                address, out = _open(prefix, line, ttl, size)
                self._addresses.append(address)
                self._sockets.append(out)
        except PlayerError:
            self.close()
            raise
        ends = zip(self._sockets, self._addresses, strict=True)
        self._wire = wire.Wire.create(
            [(out.fileno(), address.ctypes.data) for out, address in ends], size, self.out_ns, counters
        )
        self._words = self._wire.words
        self._check_types()

    @property
    def next_sequence(self) -> int:
        """Number of the next message."""
        return int(self._plan[wire.NEXT_SEQ])

    def start(self, now_ns: int) -> None:
        """Begin, or go on after `stop`: the next message is due now."""
        if self.playing or self.finished:
            return
        self.playing = True
        self._anchor(now_ns)
        if len(self._segment.time_ns) == 0:
            self.finish()
        self._publish_state()

    @property
    def takes_more(self) -> bool:
        """Whether a live market should be asked for messages: it plays, and not too many of them wait."""
        return self.playing and self._waiting < _MOST_WAITING

    @property
    def _waiting(self) -> int:
        """Messages of a live market that were taken in and not sent yet."""
        return self._pushed - self.next_sequence + 1

    def push(self, segment: Segment) -> None:
        """Append messages of a live market; the next turns send them. They are copied.

        Raises PlayerError for a message that no datagram can hold.
        """
        n = len(segment.time_ns)
        if n == 0:
            return
        largest = int(np.diff(segment.offsets[: n + 1]).max())
        if largest > self.datagram_bytes - HEADER_SIZE:
            msg = f"a message of {largest - 2} bytes fits no datagram of {self.datagram_bytes} (sim.datagram_bytes)"
            raise PlayerError(msg)
        first = 0
        while first < n:
            first += self._chunks[-1].append(segment, first)
            if first < n:
                self._chunks.append(Chunk())
        self._pushed += n
        self._counters[Counter.MESSAGES_WAITING] = self._waiting

    def stop(self) -> None:
        """Send no more messages; heartbeats go on, and `start` resumes."""
        self.playing = False
        self._publish_state()

    def finish(self) -> None:
        """End the session: no message will follow, ever."""
        self.playing = False
        self.finished = True
        self._publish_state()

    def next_due_ns(self) -> int:
        """When `turn` has something to do; a heartbeat's time when nothing is played."""
        due_ns = min(self._sent_ns + HEARTBEAT_NS, int(self._words[wire.RELEASE_NS]))
        if self._pending[0] < self._pending[1]:
            return min(self._not_before_ns, due_ns)
        if self.playing and not self.in_steps:
            return min(max(self._due_ns(), self._not_before_ns), due_ns)
        return due_ns

    def turn(self, now_ns: int) -> int:
        """Send what is due, at most a bounded slice; returns the number of messages published."""
        if self._words[wire.RELEASE_NS] <= now_ns:
            _transmit(self._wire, self._faults, self._buffer, self._packets, 0, 0, now_ns)
        if now_ns < self._not_before_ns:
            return 0
        first, last = self._pending
        if first < last:
            self._send(first, last, now_ns)
            return 0
        published = self._publish(now_ns) if self.playing and not self.in_steps else 0
        if published == 0 and now_ns - self._sent_ns >= HEARTBEAT_NS:
            self._heartbeat(now_ns)
        return published

    def step(self, now_ns: int) -> int:
        """Send the next datagram of a tape that is played in steps; returns the number of messages published.

        0: the tape is not playing, or the system had no room for the last datagram yet (`turn` sends it).
        """
        if not self.playing or self._pending[0] < self._pending[1]:
            return 0
        return self._published(_pack_step, now_ns)

    def close(self) -> None:
        """Close the sockets."""
        for out in self._sockets:
            out.close()

    def _publish(self, now_ns: int) -> int:
        plan = self._plan
        segment = self._segment
        first = int(plan[wire.NEXT])
        due_ns = self._due_ns()
        if now_ns < due_ns:
            return 0
        until, until_time = min(first + _MESSAGES_PER_TURN, self._end), _FOREVER
        if self._rate > 0:
            until = min(until, self._anchor_index + int((now_ns - self._anchor_ns) * self._rate / 1e9) + 1)
        elif not self._max:
            until_time = self._anchor_time + int((now_ns - self._anchor_ns) * self._speed)
            # due_ns was rounded: what is due by it must be due by this time too.
            until_time = max(until_time, int(segment.time_ns[first]))
            record(self._late_hist, now_ns - due_ns)
        if self._rate > 0:
            record(self._late_hist, now_ns - due_ns)
        if not self._max:
            self._counters[Counter.LATE_NS_MAX] = max(int(self._counters[Counter.LATE_NS_MAX]), now_ns - due_ns)
            self._not_before_ns = now_ns + QUANTUM_NS
        plan[wire.UNTIL_INDEX] = until
        plan[wire.UNTIL_TIME] = until_time
        return self._published(_pack, now_ns)

    def _published(self, pack: Callable[..., Any], now_ns: int) -> int:
        """Pack, send, and tell the listener; the number of messages."""
        plan, segment = self._plan, self._segment
        first = int(plan[wire.NEXT])
        n = pack(
            segment.data, segment.offsets, segment.time_ns, self._session_bytes, plan, self._buffer, self._packets
        )
        self._send(0, n, now_ns)
        last = int(plan[wire.NEXT])
        self._counters[Counter.NEXT_SEQUENCE] = plan[wire.NEXT_SEQ]
        self._listener.played(segment, first, last, int(plan[wire.SHIFT_NS]))
        if self._live:
            self._counters[Counter.MESSAGES_WAITING] = self._waiting
            if last == self._end and len(self._chunks) > 1:
                self._chunks.popleft()
                self._begin(self._chunks[0].segment, 0, own=True)
        elif last == self._end:
            self._next_segment()
        return last - first

    @property
    def _end(self) -> int:
        """Messages of the segment that is played."""
        return self._chunks[0].filled if self._live else len(self._segment.time_ns)

    def _begin(self, segment: Segment, shift_ns: int, *, own: bool) -> None:
        """Go on with the first message of a segment."""
        self._segment = segment
        self._plan[wire.NEXT], self._plan[wire.SHIFT_NS] = 0, shift_ns
        self.history.begin(self.next_sequence, segment, shift_ns, own=own)

    def _send(self, first: int, last: int, now_ns: int) -> None:
        done = _transmit(self._wire, self._faults, self._buffer, self._packets, first, last, now_ns)
        self._pending = (done, last)
        if done < last:
            self._not_before_ns = now_ns + QUANTUM_NS  # the system has no room: let it work
        if done > first:
            self._sent_ns = now_ns

    def _due_ns(self) -> int:
        i = int(self._plan[wire.NEXT])
        if self._max:
            return _FOREVER if self._live and i == self._end else 0
        if self._rate > 0:
            return self._anchor_ns + int((i - self._anchor_index) * 1e9 / self._rate)
        return self._anchor_ns + int((int(self._segment.time_ns[i]) - self._anchor_time) / self._speed)

    def _anchor(self, now_ns: int) -> None:
        i = int(self._plan[wire.NEXT])
        self._anchor_ns = now_ns
        self._anchor_index = i
        self._anchor_time = int(self._segment.time_ns[i]) if i < len(self._segment.time_ns) else 0

    def _next_segment(self) -> None:
        if not self._loop:
            self.finish()
            return
        plan = self._plan
        last_ns = int(self._segment.time_ns[-1])
        if self._rate > 0:
            due_ns = self._anchor_ns + int((len(self._segment.time_ns) - self._anchor_index) * 1e9 / self._rate)
        else:
            due_ns = self._anchor_ns + int((last_ns + self._spacing_ns - self._anchor_time) / self._speed)
        resume_ns = last_ns + int(plan[wire.SHIFT_NS]) + self._spacing_ns
        clearing = (
            self._listener.clearing(resume_ns, min(self._spacing_ns, _CLEAR_SPACING_NS))
            if self._segment is self._tape
            else None
        )
        if clearing is not None and len(clearing.time_ns):
            self._begin(clearing, 0, own=True)
        else:
            self._begin(self._tape, resume_ns - int(self._tape.time_ns[0]), own=False)
            self._counters[Counter.LOOPS] += 1
        self._anchor(due_ns)

    def _heartbeat(self, now_ns: int) -> None:
        make = end_of_session if self.finished else heartbeat
        raw = make(self.session, self.next_sequence)
        for out, line in zip(self._sockets, self._lines, strict=True):
            try:
                out.sendto(raw, (line.host, line.port))
                self._counters[Counter.HEARTBEATS_SENT] += 1
            except OSError:
                self._counters[Counter.SEND_ERRORS] += 1
        self._sent_ns = now_ns

    def _check_types(self) -> None:
        """See `direct`: TypeError when the arrays are not what the kernels were compiled for."""
        tape, plan = self._tape, self._plan.copy()
        plan[wire.UNTIL_INDEX] = 0
        wire.pack(tape.data, tape.offsets, tape.time_ns, self._session_bytes, plan, self._buffer, self._packets)
        wire.transmit(self._wire, self._faults, self._buffer, self._packets, 0, 0, 0)

    def _publish_state(self) -> None:
        self._counters[Counter.PLAYING] = self.playing
        self._counters[Counter.FINISHED] = self.finished

    def describe(self) -> dict[str, Any]:
        """What is played and how, for people."""
        pace = "max" if self._max else f"{self._rate:g} messages/s" if self._rate else f"{self._speed:g}x"
        if self.in_steps:
            pace = "in steps"
        to = [f"{line.host}:{line.port}" for line in self._lines]
        return {"to": to, "pace": "live" if self._live else pace, "loop": self._loop}


def _open(prefix: str, line: Line, ttl: int, datagram: int) -> tuple[Bytes, socket.socket]:
    """The socket, and the address as the system wants it. Not connected: a listener that is away is no error."""
    host, port, interface = line
    try:
        address = ipaddress.IPv4Address(socket.gethostbyname(host))
    except OSError as error:
        msg = f"feed.{prefix}host = {host!r}: no such IPv4 address or name ({error})"
        raise PlayerError(msg) from None
    if datagram > 65507:
        msg = f"a message of the tape needs a datagram of {datagram} bytes; UDP takes 65507"
        raise PlayerError(msg)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        out.setblocking(False)
        out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        if address.is_multicast:
            out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
            out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
            out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
    except OSError as error:
        out.close()
        msg = f"cannot send market data to {host}:{port} over interface {interface}: {error.strerror or error}"
        raise PlayerError(msg) from None
    raw = struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", port, address.packed)
    return np.frombuffer(raw, np.uint8).copy(), out
