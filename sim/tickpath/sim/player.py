"""Market data out: a tape played open loop as MoldUDP64 over UDP.

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
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tickpath.common.jit import direct
from tickpath.common.kernels.hist import record
from tickpath.common.protocols.moldudp64 import end_of_session, heartbeat, session_id
from tickpath.sim.kernels import wire
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.sources.tape import Tape, datagram_size

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

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


class Segment(NamedTuple):
    """Messages in the form of a tape: see `tickpath.sim.sources.tape.Tape`."""

    data: Bytes
    offsets: Ints
    time_ns: Ints


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
    ) -> None:
        """`rate` messages per second, or (rate 0) `speed` times the recorded pace; "max" is as fast as it goes,
        "step" sends what `step` is called for.

        Raises PlayerError for an address that cannot be used.
        """
        self.out_ns: Final[Ints] = np.zeros(STAMPS, np.int64)
        self._tape = Segment(tape.data, tape.offsets, tape.time_ns)
        self._segment = self._tape
        self._listener = listener
        self._counters = counters
        self._late_hist = late_hist
        self._faults = faults if faults is not None else np.zeros(len(Fault), np.int64)
        self._session = session_id(session)
        self._session_bytes = np.frombuffer(self._session, np.uint8).copy()
        self.in_steps: Final = speed == "step"
        self._max = speed == "max" and rate == 0
        self._speed = 1.0 if isinstance(speed, str) else float(speed)
        self._rate = float(rate)
        self._loop = loop and len(tape) > 0
        n = len(tape)
        self._spacing_ns = max(1, tape.duration_ns // max(1, n - 1))
        size = datagram_size(tape, datagram_bytes)
        self._plan = np.zeros(wire.PLAN_SIZE, np.int64)
        self._plan[wire.NEXT_SEQ] = 1
        self._plan[wire.DATAGRAM_BYTES] = size
        self._buffer = np.zeros(_DATAGRAMS_PER_TURN * size, np.uint8)
        self._packets = np.zeros((1 if self.in_steps else _DATAGRAMS_PER_TURN, 4), np.int64)
        self._pending = (0, 0)  # packets that are still to be sent
        self._wire = np.zeros(wire.WIRE_SIZE, np.int64)
        self._held = np.zeros(65536 + 256, np.uint8)
        self._clock = np.zeros(2, np.int64)
        self._anchor_ns = 0  # when the message at the anchor was due
        self._anchor_time = 0
        self._anchor_index = 0
        self._not_before_ns = 0
        self._sent_ns = 0
        self.playing = False
        self.finished = False
        counters[Counter.NEXT_SEQUENCE] = 1
        self._address_bytes, self._socket = _open(host, port, interface, ttl, size)
        self._peer = (host, port)
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
        if self._pending[0] < self._pending[1]:
            return self._not_before_ns
        if self.playing and not self.in_steps:
            return min(max(self._due_ns(), self._not_before_ns), self._sent_ns + HEARTBEAT_NS)
        return self._sent_ns + HEARTBEAT_NS

    def turn(self, now_ns: int) -> int:
        """Send what is due, at most a bounded slice; returns the number of messages published."""
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
        """Close the socket."""
        self._socket.close()

    def _publish(self, now_ns: int) -> int:
        plan = self._plan
        segment = self._segment
        first = int(plan[wire.NEXT])
        due_ns = self._due_ns()
        if now_ns < due_ns:
            return 0
        until, until_time = first + _MESSAGES_PER_TURN, _FOREVER
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
        if last == len(segment.time_ns):
            self._next_segment()
        return last - first

    def _send(self, first: int, last: int, now_ns: int) -> None:
        done = _transmit(
            self._socket.fileno(),
            self._address_bytes.ctypes.data,
            self._buffer,
            self._packets,
            first,
            last,
            self.out_ns,
            self._counters,
            self._faults,
            self._wire,
            self._held,
            self._clock,
        )
        self._pending = (done, last)
        if done < last:
            self._not_before_ns = now_ns + QUANTUM_NS  # the system has no room: let it work
        if done > first:
            self._sent_ns = now_ns

    def _due_ns(self) -> int:
        i = int(self._plan[wire.NEXT])
        if self._max:
            return 0
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
            self._segment = clearing
            plan[wire.SHIFT_NS] = 0
        else:
            self._segment = self._tape
            plan[wire.SHIFT_NS] = resume_ns - int(self._tape.time_ns[0])
            self._counters[Counter.LOOPS] += 1
        plan[wire.NEXT] = 0
        self._anchor(due_ns)

    def _heartbeat(self, now_ns: int) -> None:
        make = end_of_session if self.finished else heartbeat
        try:
            self._socket.sendto(make(self._session, self.next_sequence), self._peer)
            self._counters[Counter.HEARTBEATS_SENT] += 1
        except OSError:
            self._counters[Counter.SEND_ERRORS] += 1
        self._sent_ns = now_ns

    def _check_types(self) -> None:
        """See `direct`: TypeError when the arrays are not what the kernels were compiled for."""
        tape, plan = self._tape, self._plan.copy()
        plan[wire.UNTIL_INDEX] = 0
        wire.pack(tape.data, tape.offsets, tape.time_ns, self._session_bytes, plan, self._buffer, self._packets)
        wire.transmit(
            -1, 0, self._buffer, self._packets, 0, 0, self.out_ns, self._counters, self._faults, self._wire,
            self._held, self._clock,
        )  # fmt: skip

    def _publish_state(self) -> None:
        self._counters[Counter.PLAYING] = self.playing
        self._counters[Counter.FINISHED] = self.finished

    def describe(self) -> dict[str, Any]:
        """What is played and how, for people."""
        pace = "max" if self._max else f"{self._rate:g} messages/s" if self._rate else f"{self._speed:g}x"
        if self.in_steps:
            pace = "in steps"
        return {"to": f"{self._peer[0]}:{self._peer[1]}", "pace": pace, "loop": self._loop}


def _open(host: str, port: int, interface: str, ttl: int, datagram: int) -> tuple[Bytes, socket.socket]:
    """The socket, and the address as the system wants it. Not connected: a listener that is away is no error."""
    try:
        address = ipaddress.IPv4Address(socket.gethostbyname(host))
    except OSError as error:
        msg = f"feed.host = {host!r}: no such IPv4 address or name ({error})"
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
