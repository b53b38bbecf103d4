"""Links over ZeroMQ: batches of records from one stage to the next, numbered, so that nothing is lost unseen.

Two kinds, because two kinds of data move:

- **Fan-out** (ticks): PUB/SUB. A slow subscriber loses frames and nobody waits for it. The producer keeps the last
  records in a ring; a subscriber that sees a gap in the sequence asks for what it lacks and delivers in order.
- **Log shipping** (signals, orders, reports): the producer keeps a log and sends each consumer what lies behind its
  last acknowledgement, up to a window. Whatever is not acknowledged is sent again after a break, so neither a lost
  connection nor the death of either side loses a record; what arrives twice is recognised by its number.

The loops of the services see rings; `tickpath.common.bridge` joins these to links. What a link keeps in `words` is
shared with compiled code, which takes and sends what is as it should be. This module is the rest of the protocol, and
all of it for peers that are written in Python.

Everything is non-blocking. Producers bind, consumers connect. What a consumer says is one idempotent message, WANT
(`tickpath.common.frames`). All times are arguments, nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import zmq

from tickpath.common import frames
from tickpath.common.config import LinksConfig
from tickpath.common.frames import FrameError, Want
from tickpath.common.jit import direct
from tickpath.common.kernels.bridge import In, Out
from tickpath.common.kernels.zeromq import receive_records, send_records
from tickpath.common.records import DTYPES, SCHEMA_VERSION, RecordKind

Records = npt.NDArray[np.void]
Address = tuple[str, str]  # of the data, of the WANT socket

_FRAMES_PER_TURN = 64  # most frames that one call takes, so that no input starves another
_ENVELOPE_BYTES = 1024  # of a frame beyond its records, more than enough
_HELD_FRAMES = 4096  # most live frames kept back while a gap is being repaired


_ENDLESS: Final = 1 << 62
_NOT_OURS: Final = "records are appended to this log by its owner"

_receive_records, _send_records = direct(receive_records), direct(send_records)


class LinkError(Exception):
    """A link cannot be set up; says which address and why."""


def make_context(io_cores: tuple[int, ...] = ()) -> zmq.Context[zmq.Socket[bytes]]:
    """ZeroMQ context whose I/O thread runs, from now on, on `io_cores` (empty: on any that its starter may use).

    Threads inherit the affinity of whoever starts them, and ZeroMQ starts its own with the first socket. Call this
    before the process pins itself to the core of its loop, or the two would share it.
    """
    context = zmq.Context(1)
    for core in io_cores:
        context.set(zmq.THREAD_AFFINITY_CPU_ADD, core)
    context.socket(zmq.PAIR).close()
    return context


def _socket(context: zmq.Context[Any], kind: int, config: LinksConfig) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 200)
    socket.setsockopt(zmq.SNDHWM, config.send_hwm_frames)
    socket.setsockopt(zmq.RCVHWM, config.send_hwm_frames)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 2)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 50)
    return socket


def _bind(socket: zmq.Socket[bytes], address: str) -> None:
    if address.startswith("ipc://"):
        path = address.removeprefix("ipc://")
        if len(os.fsencode(path)) > 107:
            msg = f"cannot bind {address}: the path has {len(path)} bytes, allowed are 107; choose a shorter run_dir"
            raise LinkError(msg)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(0)
        msg = f"cannot bind {address}: {error.strerror}"
        raise LinkError(msg) from None


def _requests_of(router: zmq.Socket[bytes], errors: Counter[str]) -> Iterator[tuple[bytes, bytes]]:
    """(identity, WANT) of the requests that are there now."""
    for _ in range(_FRAMES_PER_TURN):
        try:
            parts = router.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        if len(parts) == 2:
            yield parts[0], parts[1]
        else:
            errors["parts"] += 1


class _Inbox:
    """Frames of one socket, received by the kernel into memory of this object. `words` are for compiled loops (`In`);
    the numbers of the stream are kept there and nowhere else.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], kind: RecordKind, config: LinksConfig, errors: Counter[str]
    ) -> None:
        self._address = socket.underlying
        self._kind, self._dtype = int(kind), DTYPES[kind]
        self._record_size = self._dtype.itemsize
        self._buffer = np.zeros(config.frame_records * self._record_size + _ENVELOPE_BYTES, dtype=np.uint8)
        self._bytes = self._buffer.data
        self._errors = errors
        self.words = w = np.zeros(len(In), np.int64)
        w[In.SOCKET], w[In.KIND], w[In.TOPIC_BYTES] = self._address, self._kind, frames.TOPIC_SIZE
        w[In.BUFFER], w[In.BUFFER_BYTES] = self._buffer.ctypes.data, len(self._buffer)
        w[In.RECORD_BYTES], w[In.FRAME_RECORDS] = self._record_size, config.frame_records
        w[In.EXPECTED], w[In.SIZE] = 1, -errno.EAGAIN

    def take(self, epoch: int = 0, expected: int = 0) -> Records | bytes | None:
        """The frame at the head of the queue; None when there is none.

        If it has records of `epoch`, the first of them `expected`, then these; else its payload.
        """
        size, at = _receive_records(
            self._address, self._buffer, frames.TOPIC_SIZE, self._kind, epoch, expected, self._record_size
        )
        if at and not size >> 32:
            return np.frombuffer(self._bytes[at:size].tobytes(), self._dtype)
        return self._payload(size)

    def left(self) -> bytes | None:
        """The frame that a compiled loop has left to Python; None when there is none."""
        size = int(self.words[In.SIZE])
        self.words[In.SIZE] = -errno.EAGAIN
        return self._payload(size)

    def _payload(self, size: int) -> bytes | None:
        if size < 0:
            return None
        if size >> 32:
            self._errors["parts"] += size >> 32
            size &= 0xFFFFFFFF
            if not size:
                return None
        if size > len(self._buffer):
            self._errors["size"] += 1
            return None
        return self._bytes[:size].tobytes()


class _Outlet:
    """Frames of a stream to one peer of a socket (`identity`) or to all of them, written and sent by the kernel.

    `words` are for compiled loops (`Out`); how far the stream has got is kept there and nowhere else.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], kind: RecordKind, source: str, epoch: int, most: int, identity: bytes = b""
    ) -> None:
        head = identity + frames.topic(kind) + frames.header(kind, source, epoch)
        self.identity = identity
        self._address = socket.underlying
        self._head = len(head)
        self._parts = (len(identity), frames.TOPIC_SIZE) if identity else (frames.TOPIC_SIZE, 0)
        self._frame = np.zeros(len(head) + most * DTYPES[kind].itemsize, dtype=np.uint8)
        self._frame[: len(head)] = np.frombuffer(head, np.uint8)
        self.words = w = np.zeros(len(Out), np.int64)
        w[Out.SOCKET], w[Out.FRAME], w[Out.FRAME_BYTES] = self._address, self._frame.ctypes.data, len(self._frame)
        w[Out.FIRST], w[Out.SECOND] = self._parts
        w[Out.HEAD], w[Out.RECORD_BYTES], w[Out.FRAME_RECORDS] = self._head, DTYPES[kind].itemsize, most
        w[Out.NEXT] = 1

    def send(self, records: Records, first_seq: int, now_ns: int) -> int:
        """Send at most `most` records; 0 or -errno. Never blocks."""
        first, second = self._parts
        packed = records.view(np.uint8)
        return int(_send_records(self._address, self._frame, first, second, self._head, packed, first_seq, now_ns))


_encode_tuple = msgspec.msgpack.Encoder().encode  # a tuple is a Want, and quicker to make than one


class RingLog:
    """The last `capacity` records of a stream, by sequence number (from 1)."""

    def __init__(self, dtype: np.dtype[np.void], capacity: int) -> None:
        if capacity < 2 or capacity & (capacity - 1):
            msg = f"the capacity of a ring must be a power of two, it is {capacity}"
            raise ValueError(msg)
        self._ring = np.zeros(capacity, dtype=dtype)
        self._bytes = self._ring.view(np.uint8).data
        self._size = dtype.itemsize
        self._mask = capacity - 1
        self.next_seq = 1
        self.acked_seq = 0

    @property
    def capacity(self) -> int:
        """Most records that are kept."""
        return self._mask + 1

    @property
    def oldest_seq(self) -> int:
        """Number of the oldest record that can still be read."""
        return max(1, self.next_seq - self.capacity)

    @property
    def room(self) -> int:
        """How many records can be appended without overwriting one that is not acknowledged."""
        return self.capacity - (self.next_seq - 1 - self.acked_seq)

    def append(self, records: Records) -> None:
        """Append records, at most `capacity` of them; the oldest are overwritten."""
        packed = records.tobytes()
        start = (self.next_seq & self._mask) * self._size
        first = min(len(packed), self.capacity * self._size - start)
        self._bytes[start : start + first] = packed[:first]
        if first < len(packed):
            self._bytes[: len(packed) - first] = packed[first:]
        self.next_seq += len(packed) // self._size

    def read(self, first_seq: int, most: int) -> Records:
        """Up to `most` records from `first_seq` on, a view: fewer at the wrap of the ring and at the end."""
        start = first_seq & self._mask
        n = min(most, self.next_seq - first_seq, self.capacity - start)
        return self._ring[start : start + max(0, n)]

    def acknowledge(self, seq: int) -> None:
        """Nobody needs the records up to `seq` any more."""
        self.acked_seq = max(self.acked_seq, seq)


class Log(Protocol):
    """What a sender ships or replays."""

    @property
    def next_seq(self) -> int:
        """Number of the record that will be appended next."""

    @property
    def oldest_seq(self) -> int:
        """Number of the oldest record that can be read."""

    def read(self, first_seq: int, most: int) -> Records:
        """Up to `most` records from `first_seq` on; none when they are not there yet."""


class AcknowledgedLog(Log, Protocol):
    """A log that one consumer reads, and that forgets what it need not have again."""

    def acknowledge(self, seq: int) -> None:
        """Nobody needs the records up to `seq` any more."""


class FanoutSender:
    """Producer of a stream that may be dropped and recovered by sequence.

    Statistics: ``next_seq``, ``replayed`` (records sent again), ``errors`` (bad requests by reason).
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        address: Address,
        kind: RecordKind,
        source: str,
        epoch: int,
        config: LinksConfig,
        log: Log | None = None,
    ) -> None:
        self._config = config
        self._stream = kind, source, epoch
        self._epoch = epoch
        self.log: Log = log or RingLog(DTYPES[kind], config.tick_ring)
        self._pub = _socket(context, zmq.PUB, config)
        self.want = _socket(context, zmq.ROUTER, config)
        _bind(self._pub, address[0])
        _bind(self.want, address[1])
        self._outlet = _Outlet(self._pub, *self._stream, config.frame_records)
        self.words = self._outlet.words
        self.words[Out.LIMIT] = _ENDLESS
        self._nothing = np.zeros(0, dtype=DTYPES[kind])
        self.replayed = 0
        self.errors: Counter[str] = Counter()

    @property
    def next_seq(self) -> int:
        """Number that the next record will get."""
        return self.log.next_seq

    def send(self, records: Records, now_ns: int) -> None:
        """Publish a batch; keeps it for replay. Never blocks, never fails: a full pipe drops, and shows as a gap."""
        log, most = self.log, self._config.frame_records
        if not isinstance(log, RingLog):
            raise TypeError(_NOT_OURS)
        for start in range(0, len(records), most):
            some = records[start : start + most]
            self._outlet.send(some, log.next_seq, now_ns)
            log.append(some)
        self.words[Out.SENT_NS] = now_ns

    def tend(self, now_ns: int) -> None:
        """Say how far the stream has got when it is quiet, so that a loss at its end is noticed too."""
        if now_ns - self.words[Out.SENT_NS] >= self._config.heartbeat_ms * 1_000_000:
            self._outlet.send(self._nothing, self.log.next_seq, now_ns)
            self.words[Out.SENT_NS] = now_ns

    def serve(self, now_ns: int) -> None:
        """Answer requests for records that subscribers lack: one frame for each request."""
        for identity, payload in _requests_of(self.want, self.errors):
            try:
                want = frames.decode_want(payload)
            except FrameError as error:
                self.errors[error.reason] += 1
                continue
            first = max(want.next_seq if want.epoch == self._epoch else 1, self.log.oldest_seq)
            records = self.log.read(first, min(self._config.frame_records, want.window))
            _Outlet(self.want, *self._stream, len(records), identity).send(records, first, now_ns)
            self.replayed += len(records)

    def close(self) -> None:
        """Close the sockets."""
        self._pub.close()
        self.want.close()


class _Receiver:
    """What both kinds of consumers know of their producer; `words` are those of the inbox that it sends to."""

    _config: LinksConfig
    _epoch: int  # life of the producer; 0 before anything was heard
    words: npt.NDArray[np.int64]

    @property
    def expected_seq(self) -> int:
        """Number of the record to be delivered next."""
        return int(self.words[In.EXPECTED])

    @property
    def received(self) -> int:
        """Records that were delivered."""
        return int(self.words[In.RECEIVED])

    @property
    def heard_ns(self) -> int:
        """When the producer was heard last."""
        return int(self.words[In.HEARD_NS])

    def connected(self, now_ns: int) -> bool:
        """Whether the producer was heard within ten heartbeats."""
        return self._epoch > 0 and now_ns - self.heard_ns < 10 * self._config.heartbeat_ms * 1_000_000


class FanoutReceiver(_Receiver):
    """Consumer of a fan-out stream: delivers records once and in order, asks for what it lacks.

    Statistics: ``received``, ``repaired`` (records that came by replay), ``lost`` (given up, no longer available),
    ``gaps``, ``duplicates``, ``epochs`` (lives of the producer seen), ``unheard`` (requests made while there was no
    connection; they are repeated), ``errors`` (bad frames by reason).
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        address: Address,
        kind: RecordKind,
        consumer: str,
        config: LinksConfig,
    ) -> None:
        self._config = config
        self._kind, self._consumer = kind, consumer
        self.sub = _socket(context, zmq.SUB, config)
        self.sub.setsockopt(zmq.SUBSCRIBE, b"%c" % int(kind))
        self.want = _socket(context, zmq.DEALER, config)
        self.sub.connect(address[0])
        self.want.connect(address[1])
        self._epoch = 0
        self._received_before = 0  # this epoch
        self._held: deque[tuple[int, Records]] = deque()
        self._known_end = 1  # the producer has got at least so far
        self._asked_ns = 0
        self._gap_since_ns = 0
        self.repaired = self.lost = self.gaps = self.duplicates = self.epochs = 0
        self.missed_before_joining = self.unheard = 0
        self.errors: Counter[str] = Counter()
        self._replies = _Inbox(self.want, kind, config, self.errors)
        self._live = _Inbox(self.sub, kind, config, self.errors)
        self.words = self._live.words

    def is_due(self, now_ns: int) -> bool:
        """Whether `tend` has to ask again for what is missing, or to give it up."""
        return self._gap_since_ns > 0 and now_ns - self._asked_ns >= self._config.gap_timeout_ms * 200_000

    def receive(self, now_ns: int) -> list[Records]:
        """Batches of records, in order and each record once; views that stay valid. Of a frame from each socket."""
        out = self.look(now_ns, most=1)
        words = self.words
        frame = self._live.take(int(words[In.EPOCH]), self.expected_seq)
        if isinstance(frame, bytes):
            self._take(frame, now_ns, True, out)
        elif frame is not None:
            words[In.EXPECTED] += len(frame)
            words[In.RECEIVED] += len(frame)
            words[In.HEARD_NS] = now_ns
            out.append(frame)
        return out

    def look(self, now_ns: int, most: int = _FRAMES_PER_TURN) -> list[Records]:
        """What a compiled loop has left, and at most `most` answers to requests; batches as of `receive`."""
        out: list[Records] = []
        if (left := self._live.left()) is not None:
            self._take(left, now_ns, True, out)
            for _ in range(most):
                # Until the gap is closed all that comes is to be kept back here: not one frame at a time.
                if self.words[In.EPOCH] or not isinstance(kept := self._live.take(), bytes):
                    break
                self._take(kept, now_ns, True, out)
        for _ in range(most):
            if (frame := self._replies.take()) is None:
                break
            if isinstance(frame, bytes):
                self._take(frame, now_ns, False, out)
        return out

    def _take(self, payload: bytes, now_ns: int, live: bool, out: list[Records]) -> None:
        try:
            envelope, records = frames.decode(payload, self._kind)
        except FrameError as error:
            self.errors[error.reason] += 1
            return
        if envelope.epoch != self._epoch:
            if envelope.epoch < self._epoch:
                self.errors["old_epoch"] += 1
                return
            self._epoch, self._known_end = envelope.epoch, 1
            self.words[In.EXPECTED] = 1
            self._received_before = self.received
            self._held.clear()
            self._gap_since_ns = 0
            self.epochs += 1
        self.words[In.HEARD_NS] = now_ns
        first, before = envelope.first_seq, self.expected_seq
        self._known_end = max(self._known_end, before, first + len(records))
        if first <= before:
            self._deliver(first, records, live, out)
        elif live:
            if len(self._held) < _HELD_FRAMES and len(records):
                self._held.append((first, records))
        else:
            # The producer no longer has what we asked for: this is the oldest that is left.
            self._give_up(first)
            self._deliver(first, records, live, out)
        while self._held and self._held[0][0] <= self.expected_seq:
            self._deliver(*self._held.popleft(), True, out)
        if self.expected_seq < self._known_end:
            if not self._gap_since_ns:
                self._gap_since_ns = now_ns
                self.gaps += 1
                self._ask(now_ns)
            elif not live and self.expected_seq > before:
                self._gap_since_ns = now_ns
                self._ask(now_ns)
        else:
            self._gap_since_ns = 0
        self._allow()

    def _allow(self) -> None:
        """What continues the stream may come just so, unless something is missing."""
        plain = not self._gap_since_ns and not self._held
        self.words[In.EPOCH] = self._epoch if plain else 0

    def _deliver(self, first: int, records: Records, live: bool, out: list[Records]) -> None:
        skip = self.expected_seq - first
        if skip >= len(records):
            self.duplicates += len(records)
            return
        self.duplicates += skip
        fresh = records[skip:]
        self.words[In.EXPECTED] += len(fresh)
        self.words[In.RECEIVED] += len(fresh)
        if not live:
            self.repaired += len(fresh)
        out.append(fresh)

    def _give_up(self, first_available: int) -> None:
        if self.received > self._received_before:
            self.lost += first_available - self.expected_seq
        else:
            self.missed_before_joining += first_available - self.expected_seq
        self.words[In.EXPECTED] = first_available

    def _ask(self, now_ns: int) -> None:
        end = self._held[0][0] if self._held else self._known_end
        expected = self.expected_seq
        want = (SCHEMA_VERSION, self._consumer, self._epoch, expected, expected - 1, end - expected, False)
        self._asked_ns = now_ns
        try:
            self.want.send(_encode_tuple(want), zmq.NOBLOCK)
        except zmq.Again:
            self.unheard += 1

    def tend(self, now_ns: int) -> list[Records]:
        """Ask again, or give a gap up when nobody answered in time; returns what that made deliverable."""
        out: list[Records] = []
        if not self._gap_since_ns:
            return out
        if now_ns - self._gap_since_ns >= self._config.gap_timeout_ms * 1_000_000:
            self._give_up(self._held[0][0] if self._held else self._known_end)
            self._gap_since_ns = 0
            while self._held and self._held[0][0] <= self.expected_seq:
                self._deliver(*self._held.popleft(), True, out)
            if self.expected_seq < self._known_end:
                self._gap_since_ns = now_ns
                self.gaps += 1
                self._ask(now_ns)
            self._allow()
        elif now_ns - self._asked_ns >= self._config.gap_timeout_ms * 1_000_000 // 5:
            self._ask(now_ns)
        return out

    def close(self) -> None:
        """Close the sockets."""
        self.sub.close()
        self.want.close()


class _Consumer:
    """What a LogSender knows of one consumer; what is sent to it next is in the words of its outlet."""

    __slots__ = ("acked", "follows", "heard_ns", "log", "outlet", "told_end", "words")

    def __init__(self, outlet: _Outlet, log: Log, next_send: int, acked: int) -> None:
        self.log = log
        self.acked = acked
        self.follows = (0, 0)
        self.heard_ns = 0
        self.told_end = False
        self.outlet, self.words = outlet, outlet.words
        self.words[Out.NEXT], self.words[Out.LIMIT] = next_send, acked

    def move(self, outlet: _Outlet) -> None:
        """It is to be reached by another way from now on."""
        for word in (Out.NEXT, Out.LIMIT, Out.SENT_NS, Out.RING):
            outlet.words[word] = self.words[word]
        self.outlet, self.words = outlet, outlet.words

    @property
    def next_send(self) -> int:
        """Number of the record to be sent next."""
        return int(self.words[Out.NEXT])

    @property
    def last_sent_ns(self) -> int:
        """When something was sent to it."""
        return int(self.words[Out.SENT_NS])


class LogSender:
    """Producer of a lossless stream: ships a log to every consumer that says WANT.

    `required` names the consumers whose acknowledgement a RingLog waits for before it overwrites; until each of
    them was heard, nothing is forgotten. `log`: one for all consumers, or by the name of the consumer; then nobody
    else is served. Statistics: ``resent``, ``errors``, ``consumers()``.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        address: Address,
        kind: RecordKind,
        source: str,
        epoch: int,
        log: Log | Mapping[str, AcknowledgedLog],
        config: LinksConfig,
        required: tuple[str, ...] = (),
    ) -> None:
        self._config = config
        self._stream = kind, source, epoch
        self._epoch = epoch
        self._required = required
        self._logs: Mapping[str, AcknowledgedLog] = log if isinstance(log, Mapping) else {}
        self.log: Log = next(iter(log.values())) if isinstance(log, Mapping) else log
        self.socket = _socket(context, zmq.ROUTER, config)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        _bind(self.socket, address[1])
        self._consumers: dict[str, _Consumer] = {}
        self._nothing = np.zeros(0, dtype=DTYPES[kind])
        self.resent = self.held_back = self.departed = 0
        self.errors: Counter[str] = Counter()

    @property
    def acked_seq(self) -> int:
        """Everything up to here is acknowledged by every required consumer."""
        acked = [self._consumers[name].acked if name in self._consumers else 0 for name in self._required]
        return min(acked, default=self.log.next_seq - 1)

    @property
    def follows(self) -> tuple[int, int]:
        """(epoch, number) of a report: who has all up to it knows what became of what is acknowledged."""
        return max(
            (self._consumers[name].follows for name in self._required if name in self._consumers), default=(0, 0)
        )

    def consumers(self) -> dict[str, int]:
        """Consumer → number of records that it has not acknowledged."""
        return {name: consumer.log.next_seq - 1 - consumer.acked for name, consumer in self._consumers.items()}

    def outlets(self) -> dict[str, npt.NDArray[np.int64]]:
        """Consumer → words of its outlet (`Out`), for compiled loops."""
        return {name: consumer.words for name, consumer in self._consumers.items()}

    def heard_ns(self, consumer: str) -> int:
        """When a consumer was heard last; 0: never."""
        return self._consumers[consumer].heard_ns if consumer in self._consumers else 0

    def append(self, records: Records) -> int:
        """Append to a RingLog as many records as there is room for; returns how many (back-pressure)."""
        log = self.log
        if not isinstance(log, RingLog):
            raise TypeError(_NOT_OURS)
        n = min(len(records), log.room)
        if n:
            log.append(records[:n])
        return n

    def send(self, records: Records, now_ns: int) -> int:
        """`append` and `pump`."""
        taken = self.append(records)
        self.pump(now_ns)
        return taken

    def pump(self, now_ns: int) -> None:
        """Ship what is new to every consumer, within its window."""
        for consumer in self._consumers.values():
            self._ship(consumer, now_ns)

    def _ship(self, consumer: _Consumer, now_ns: int) -> None:
        words = consumer.words
        while consumer.next_send < consumer.log.next_seq and words[Out.NEXT] <= words[Out.LIMIT]:
            first = consumer.next_send
            records = consumer.log.read(first, min(self._config.frame_records, int(words[Out.LIMIT]) - first + 1))
            if not len(records) or not self._send(consumer, first, records, now_ns):
                break
            words[Out.NEXT] += len(records)

    def _send(self, consumer: _Consumer, first_seq: int, records: Records, now_ns: int) -> bool:
        error = consumer.outlet.send(records, first_seq, now_ns)
        if error == -errno.EAGAIN:  # its pipe is full: the next pump tries again
            self.held_back += 1
            return False
        if error:  # it is gone: nothing is for it until it says WANT again
            self.departed += 1
            consumer.words[Out.LIMIT] = 0
            return False
        consumer.words[Out.SENT_NS] = now_ns
        return True

    def _outlet_to(self, identity: bytes) -> _Outlet:
        return _Outlet(self.socket, *self._stream, self._config.frame_records, identity)

    def serve(self, now_ns: int) -> None:
        """Take what the consumers want, and pump."""
        for identity, payload in _requests_of(self.socket, self.errors):
            try:
                self._want(identity, frames.decode_want(payload), now_ns)
            except FrameError as error:
                self.errors[error.reason] += 1
        if isinstance(self.log, RingLog):
            self.log.acknowledge(self.acked_seq)
        self.pump(now_ns)

    def _want(self, identity: bytes, want: Want, now_ns: int) -> None:
        known = want.epoch == self._epoch
        consumer = self._consumers.get(want.consumer)
        log = self._logs.get(want.consumer, self.log)
        if self._logs and want.consumer not in self._logs:
            self.errors["consumer"] += 1
            return
        if known and want.next_seq > log.next_seq:
            self.errors["beyond_end"] += 1
            return
        patient = self._config.resend_ms * 1_000_000
        if consumer is None or not known:
            # New here, or its memory is of another life of ours: begin at the oldest record nobody acknowledged.
            oldest = log.acked_seq + 1 if isinstance(log, RingLog) else log.oldest_seq
            acked = want.acked_seq if known else oldest - 1
            if consumer is not None and consumer.outlet.identity == identity and want.epoch == 0:
                consumer.heard_ns = now_ns
                if now_ns - consumer.last_sent_ns < patient:
                    return  # said again before our first frame could reach it
            outlet = self._outlet_to(identity)
            consumer = _Consumer(outlet, log, want.next_seq if known else acked + 1, acked)
            self._consumers[want.consumer] = consumer
        elif consumer.outlet.identity != identity or want.rewind:
            self.resent += max(0, consumer.next_send - want.next_seq)
            consumer.words[Out.NEXT] = want.next_seq
            if consumer.outlet.identity != identity:
                consumer.move(self._outlet_to(identity))
        elif want.next_seq < consumer.next_send and now_ns - consumer.last_sent_ns >= patient:
            self.resent += consumer.next_send - want.next_seq
            consumer.words[Out.NEXT] = want.next_seq
        if known:
            consumer.acked = max(consumer.acked, want.acked_seq)
            consumer.follows = want.follows_epoch, want.follows_seq
        if want.consumer in self._logs:
            log.read(consumer.next_send, 0)  # a ring of a journal is told where its reader is, though nothing is new
            self._logs[want.consumer].acknowledge(consumer.acked)
        consumer.heard_ns = now_ns
        consumer.words[Out.LIMIT] = consumer.acked + want.window
        self._ship(consumer, now_ns)
        quiet = now_ns - consumer.last_sent_ns >= self._config.heartbeat_ms * 1_000_000
        if consumer.next_send >= log.next_seq:
            if quiet or not consumer.told_end:
                consumer.told_end = self._send(consumer, consumer.next_send, self._nothing, now_ns)
        elif quiet and known and consumer.next_send > 1:
            # There is more, but not now. Nothing at the next number would say that this is the end.
            self._send(consumer, consumer.next_send - 1, self._nothing, now_ns)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class LogReceiver(_Receiver):
    """Consumer of a lossless stream: every record once and in order, over the death of either side.

    The owner calls `ack` when it has made sure that a record need not come again. Statistics: ``received``,
    ``duplicates``, ``rewinds`` (times it asked to resend), ``epochs``, ``unheard`` and ``errors`` as above.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        address: Address,
        kind: RecordKind,
        consumer: str,
        config: LinksConfig,
    ) -> None:
        self._config = config
        self._kind, self._consumer = kind, consumer
        self.socket = _socket(context, zmq.DEALER, config)
        self.socket.connect(address[1])
        self._epoch = 0
        self._acked = 0
        self._follows = (0, 0)
        self._said_acked = 0
        self._said_ns = 0
        self._rewound_ns = 0
        self._caught_up = False
        self.duplicates = self.rewinds = self.epochs = self.unheard = 0
        self.errors: Counter[str] = Counter()
        self._inbox = _Inbox(self.socket, kind, config, self.errors)
        self.words = self._inbox.words

    @property
    def said_acked_seq(self) -> int:
        """What the producer was told to be acknowledged."""
        return self._said_acked

    @property
    def epoch(self) -> int:
        """Life of the producer that the numbers belong to; 0 before anything was heard."""
        return self._epoch

    @property
    def caught_up(self) -> bool:
        """Whether the producer said that there is nothing behind what was delivered (holds from then on)."""
        return self._caught_up

    def receive(self, now_ns: int) -> list[tuple[int, Records]]:
        """Batches (number of the first record, records), in order: of one frame; the next poll tells of more."""
        out: list[tuple[int, Records]] = []
        frame = self._inbox.take(self._epoch, self.expected_seq)
        if isinstance(frame, bytes):
            self._take(frame, now_ns, out)
        elif frame is not None:
            self.words[In.HEARD_NS] = now_ns
            self._deliver(frame, out)
        return out

    def look(self, now_ns: int) -> list[tuple[int, Records]]:
        """What a compiled loop has left; as `receive`."""
        out: list[tuple[int, Records]] = []
        if (frame := self._inbox.left()) is not None:
            self._take(frame, now_ns, out)
        return out

    def _deliver(self, records: Records, out: list[tuple[int, Records]]) -> None:
        out.append((self.expected_seq, records))
        self.words[In.EXPECTED] += len(records)
        self.words[In.RECEIVED] += len(records)

    def _take(self, payload: bytes, now_ns: int, out: list[tuple[int, Records]]) -> None:
        try:
            envelope, records = frames.decode(payload, self._kind)
        except FrameError as error:
            self.errors[error.reason] += 1
            return
        first = envelope.first_seq
        if envelope.epoch != self._epoch:
            if envelope.epoch < self._epoch:
                self.errors["old_epoch"] += 1
                return
            self._epoch = envelope.epoch
            self.words[In.EPOCH], self.words[In.EXPECTED] = self._epoch, first
            self._acked = self._said_acked = first - 1
            self._caught_up = False
            self.epochs += 1
        self.words[In.HEARD_NS] = now_ns
        expected = self.expected_seq
        if first > expected:
            if now_ns - self._rewound_ns >= self._config.heartbeat_ms * 1_000_000:
                self.rewinds += 1
                self._rewound_ns = now_ns
                self.say(now_ns, rewind=True)
            return
        skip = expected - first
        if len(records) == 0:
            self._caught_up = self._caught_up or first == expected
            return
        self.duplicates += min(skip, len(records))
        if skip < len(records):
            self._deliver(records[skip:], out)

    def ack(self, seq: int, follows: tuple[int, int] = (0, 0)) -> None:
        """Everything up to `seq` need not come again (of the present epoch; beyond what was received is an error).

        `follows`: epoch and number of a report, see `tickpath.common.frames`.
        """
        if not 0 <= seq < self.expected_seq:
            msg = f"cannot acknowledge {seq}: received up to {self.expected_seq - 1}"
            raise ValueError(msg)
        self._acked = max(self._acked, seq)
        self._follows = follows

    def tend(self, now_ns: int) -> None:
        """Tell the producer: at every heartbeat, and at once when a quarter of the window was acknowledged."""
        beat = now_ns - self._said_ns >= self._config.heartbeat_ms * 1_000_000
        if beat or self._acked - self._said_acked >= self._config.window // 4:
            self.say(now_ns)

    def say(self, now_ns: int, *, rewind: bool = False) -> None:
        """Tell the producer now."""
        window = self._config.window
        epoch, seq = self._follows
        want = (
            SCHEMA_VERSION, self._consumer, self._epoch, self.expected_seq, self._acked, window, rewind, seq, epoch
        )  # fmt: skip
        self._said_ns = now_ns
        try:
            self.socket.send(_encode_tuple(want), zmq.NOBLOCK)
            self._said_acked = self._acked
        except zmq.Again:
            self.unheard += 1

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
