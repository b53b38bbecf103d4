"""The ZeroMQ lanes: the rings of a service, with the sockets of its links behind them.

A service has one compiled loop, over rings (`tickpath.common.rings`). In the shm lane the other end of a ring is
another service. In the ZeroMQ lanes each service has rings of its own, and the other end of each is its bridge: what
the loop puts into a ring is shipped over a link (`tickpath.common.links`), what a link brings is put into a ring::

    feed's loop ─▶ ring ═ bridge ═PUB/SUB═ bridge ═▶ ring ─▶ signals' loop

The bridge belongs to the same thread. Around each pass of the loop it receives and sends what is as it should be,
compiled (`tickpath.common.kernels.bridge`); first frames, heartbeats, requests, gaps and damage are seen to in
between, here. Nothing of a ring outlives its process: what is not acknowledged comes again over the link, as ever.
"""

from __future__ import annotations

import errno
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.kernels import bridge as kernels
from tickpath.common.kernels import ring as rings
from tickpath.common.kernels.bridge import In, Out
from tickpath.common.kernels.zeromq import POLL_ITEM
from tickpath.common.links import FanoutReceiver, FanoutSender, LogReceiver, LogSender, Records
from tickpath.common.process import StartError
from tickpath.common.records import DTYPES, RecordKind
from tickpath.common.ring import RingError, RingReader, RingWriter
from tickpath.common.rings import rings_folder
from tickpath.common.taps import Tap

_ENDLESS: Final = 1 << 62
_NOTHING: Final = -errno.EAGAIN
_MAX_OUTLETS: Final = 8

Link = FanoutReceiver | LogReceiver
Tables = tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


class _Inlet:
    """A link that comes in, and the ring that it fills; what the ring has no room for waits here."""

    def __init__(self, link: Link, ring: RingWriter) -> None:
        self.ring = ring
        self.words = link.words
        self.words[In.RING], self.words[In.ACK_AT] = ring.address, _ENDLESS
        self._waiting: deque[Records] = deque()
        rings.beat(ring.address, 0)  # nobody was heard yet

    @property
    def left(self) -> bool:
        """Whether the compiled loop has left something here, or the ring had no room for what came."""
        return bool(self.words[In.SIZE] != _NOTHING or self._waiting)

    def _pass_on(self) -> None:
        while self._waiting:
            records = self._waiting[0]
            done = self.ring.publish(records)
            if done < len(records):
                self._waiting[0] = records[done:]
                break
            self._waiting.popleft()
        self.words[In.HELD] = bool(self._waiting)


class TickInlet(_Inlet):
    """Ticks."""

    def __init__(self, link: FanoutReceiver, ring: RingWriter) -> None:
        super().__init__(link, ring)
        self.link = link

    def look(self, now: int) -> None:
        """See to what the compiled loop has left."""
        self._waiting.extend(self.link.look(now))
        self._pass_on()

    def is_urgent(self, now: int) -> bool:
        """Whether `tend` should not be put off."""
        return self.link.is_due(now)

    def tend(self, now: int) -> None:
        """Ask for what is missing; the ring beats while feed is there."""
        self._waiting.extend(self.link.tend(now))
        self.look(now)
        rings.beat(self.ring.address, self.link.heard_ns)


class LogInlet(_Inlet):
    """A lossless stream. Its loop acknowledges in the ring, this tells the producer.

    A ring of a LOG has the numbers of the stream. In others they go on when the producer begins anew.
    """

    def __init__(self, link: LogReceiver, ring: RingWriter, window: int, *, log: bool) -> None:
        super().__init__(link, ring)
        self.link = link
        self._window = window
        self._log = log
        self._epoch = 0
        self._first = 1  # number of the first record of this epoch in the stream
        self._base = 0  # number in the ring less that in the stream
        self._granted = not log
        self._known = (0, 0)  # epoch of a LOG, and how far it is known to reach, exclusive
        self.follows: Callable[[], tuple[int, int]] = lambda: (0, 0)  # epoch, number: see `tickpath.common.frames`

    def look(self, now: int) -> None:
        """See to what the compiled loop has left."""
        batches = self.link.look(now)
        if self.link.epoch != self._epoch:
            self._begin(batches[0][0] if batches else self.link.expected_seq)
        self._waiting.extend(records for _, records in batches)
        if self._log and self._epoch:
            self._name_end()
            self._granted = rings.grant(self.ring.address, 0) > 0 or self._granted
        self._pass_on()

    def is_urgent(self, now: int) -> bool:
        """Whether `tend` should not be put off: the reader is about to ask for another journal."""
        del now
        return bool(self._epoch and not self._granted)

    def expect(self, epoch: int, seq: int) -> None:
        """Of a LOG: that with this epoch (0: the present one) reaches at least so far, inclusive, here or not.

        What is said later may be less: of a log that is over, or by a peer that was started again. It takes nothing
        back.
        """
        self._known = max(self._known, (epoch or self._epoch, seq + 1))
        if self._epoch:
            self._name_end()

    @property
    def known(self) -> tuple[int, int]:
        """(epoch, number) of the last record that a LOG is known to have, here or not."""
        epoch, end = self._known
        return epoch, end - 1

    def _name_end(self) -> None:
        """The reader has caught up behind the end that the producer names, or somebody who has seen more."""
        epoch, known = self._known
        end = _ENDLESS
        if self.link.caught_up and epoch <= self._epoch:
            end = max(self.link.expected_seq, known if epoch == self._epoch else 0)
        self.ring.set_log(self._epoch, end)

    def _begin(self, first: int) -> None:
        self._epoch, self._first = self.link.epoch, first
        if self._log:
            self._waiting.clear()
            self._granted = False
        else:
            self._base = self.ring.published + 1 + sum(len(records) for records in self._waiting) - first

    def tend(self, now: int, *, last: bool = False) -> None:
        """Acknowledge, the `last` time at once; the ring beats while the producer is there."""
        self.look(now)
        done = int(rings.acked(self.ring.address, 0))
        acked = done - self._base
        if self._granted and self._first <= acked < self.link.expected_seq:
            self.link.ack(acked, self.follows())
        if last:
            self.link.say(now)
        self.link.tend(now)
        self.words[In.ACK_AT] = max(done + 1, self.link.said_acked_seq + self._window // 4 + self._base)
        rings.beat(self.ring.address, self.link.heard_ns)


class RingSource:
    """A ring that this process writes, as a log that is shipped to one consumer: its required reader."""

    def __init__(self, reader: RingReader, *, log: bool) -> None:
        self._reader = reader
        self._log = log
        self._asked = 0
        self.address = reader.address
        self.beat(0)  # nobody was heard yet

    def beat(self, heard_ns: int) -> None:
        """The consumer is alive."""
        rings.beat_reader(self.address, self._reader.slot, heard_ns)

    @property
    def next_seq(self) -> int:
        """Number of the record that will be appended next."""
        return int(rings.log_end(self.address)) if self._log else self._reader.published + 1

    @property
    def oldest_seq(self) -> int:
        """Number of the oldest record that can be read; a LOG has everything once more."""
        return 1 if self._log else self._reader.acked + 1

    def acknowledge(self, seq: int) -> None:
        """The consumer needs nothing up to `seq`."""
        reader = self._reader
        if not reader.waits_for_grant and not reader.must_begin_again and reader.acked < seq <= reader.published:
            rings.ack(self.address, 0, reader.slot, seq)

    def read(self, first_seq: int, most: int) -> Records:
        """Up to `most` records from `first_seq` on. What of a LOG is not in the ring is asked for: there later."""
        reader = self._reader
        if self._log and rings.log_epoch_of(self.address) and self._must_ask(first_seq):
            self._asked = first_seq
            reader.begin_again(first_seq)
        reader.next_seq = first_seq
        return reader.read_in_place(most)

    def _must_ask(self, first_seq: int) -> bool:
        reader = self._reader
        if reader.must_begin_again:
            return True  # also while a request waits: it was for the log before this one
        if reader.waits_for_grant:
            return first_seq != self._asked
        return not reader.acked < first_seq <= reader.published + 1

    def close(self) -> None:
        """Leave the ring."""
        self._reader.close()


class _TickSource:
    """The ring of ticks, for whoever lacks some."""

    def __init__(self, ring: RingWriter) -> None:
        self._ring = ring

    @property
    def next_seq(self) -> int:
        return self._ring.published + 1

    @property
    def oldest_seq(self) -> int:
        return int(rings.first_intact(self._ring.address))

    def read(self, first_seq: int, most: int) -> Records:
        records = np.empty(most, dtype=self._ring.dtype)
        n, _ = rings.copy_out(self._ring.address, first_seq, records.ctypes.data, most)
        return records[:n]


class Bridge:
    """The links of one service's process in a ZeroMQ lane.

    Made before the rings that it fills are read, told of those that it empties when they are made, then `open`\\ ed.
    `tables` and `words` are for `tickpath.common.kernels.bridge`.
    """

    def __init__(self, config: Config, context: zmq.Context[Any], name: str, epoch: int) -> None:
        self._config, self._context, self._name, self._epoch = config, context, name, epoch
        self._folder = rings_folder(config, name)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._inlets: list[TickInlet | LogInlet] = []
        self._sources: dict[str, RingSource] = {}
        self._sender: LogSender | None = None
        self._ticks: FanoutSender | None = None
        self._taps: list[tuple[Tap, npt.NDArray[np.int64]]] = []
        self.words = np.zeros(len(kernels.Bridge), np.int64)
        self._items = np.zeros(0, POLL_ITEM)
        self._ins = np.zeros(1, np.int64)
        self._outs = np.zeros(_MAX_OUTLETS, np.int64)
        self._asked: list[tuple[int, Callable[[int], None]]] = []
        self._revents = self._items["revents"]
        self._due_ns = 0

    # -- what comes in

    def _ring(self, name: str, kind: RecordKind, *, log: bool = False) -> RingWriter:
        links = self._config.links
        capacity = max(links.log_ring, 1 << (2 * links.frame_records - 1).bit_length())
        try:
            return RingWriter(
                self._folder / f"{name}.ring", DTYPES[kind], capacity,
                kind=int(kind), required=(self._name,), log=log,
            )  # fmt: skip
        except RingError as error:
            raise StartError(str(error)) from None

    def subscribe(self, link: str, kind: RecordKind) -> FanoutReceiver:
        """A fan-out link fills a ring of its name."""
        config = self._config
        receiver = FanoutReceiver(self._context, config.link_addresses(link), kind, self._name, config.links)
        self._inlets.append(TickInlet(receiver, self._ring(link, kind)))
        return receiver

    def receive(self, link: str, kind: RecordKind, *, log: bool = False) -> LogInlet:
        """A lossless link fills a ring of its name, or a log one that is named after its reader too."""
        config = self._config
        receiver = LogReceiver(self._context, config.link_addresses(link), kind, self._name, config.links)
        ring = self._ring(f"{link}.{self._name}" if log else link, kind, log=log)
        inlet = LogInlet(receiver, ring, config.links.window, log=log)
        self._inlets.append(inlet)
        return inlet

    # -- what goes out

    def publish(self, link: str, kind: RecordKind, ring: RingWriter) -> FanoutSender:
        """What is in a fan-out ring goes to all."""
        config = self._config
        self._ticks = sender = FanoutSender(
            self._context, config.link_addresses(link), kind, self._name, self._epoch, config.links, _TickSource(ring)
        )
        sender.words[Out.RING] = ring.address
        self._tap(link, ring.address)
        return sender

    def ship(
        self, link: str, kind: RecordKind, readers: Mapping[str, str], *, epoch: int = 0, log: bool = False
    ) -> LogSender:
        """What is in lossless rings goes to their readers; consumer → name of its ring."""
        config = self._config
        for consumer, name in readers.items():
            reader = RingReader(self._folder / f"{name}.ring", consumer, DTYPES[kind], kind=int(kind))
            self._sources[consumer] = RingSource(reader, log=log)
        self._sender = sender = LogSender(
            self._context, config.link_addresses(link), kind, self._name, epoch or self._epoch, self._sources,
            config.links, tuple(readers),
        )  # fmt: skip
        if not log:
            self._tap(link, next(iter(self._sources.values())).address)
        return sender

    def _tap(self, stream: str, ring: int) -> None:
        tap = Tap(self._config, stream, self._epoch)
        if tap.address:
            words = np.zeros(len(Out), np.int64)
            words[Out.RING], words[Out.TAP] = ring, tap.address
            words[Out.NEXT], words[Out.LIMIT], words[Out.FRAME_RECORDS] = 1, _ENDLESS, _ENDLESS
            self._taps.append((tap, words))

    # -- life

    def open(self, *fds: int) -> None:
        """Everything is there; `fds` wake the loop too, which looks at them itself."""
        live: list[Any] = [i.link.sub if isinstance(i, TickInlet) else i.link.socket for i in self._inlets]
        asked: list[tuple[Any, Callable[[int], None]]] = [
            (i.link.want, i.look) for i in self._inlets if isinstance(i, TickInlet)
        ]
        if self._sender is not None:
            asked.append((self._sender.socket, self._serve))
        if self._ticks is not None:
            asked.append((self._ticks.want, self._ticks.serve))
        self._items = np.zeros(len(live) + len(fds) + len(asked), POLL_ITEM)
        sources = [*live, *fds, *(source for source, _ in asked)]
        self._asked = [(len(live) + len(fds) + k, serve) for k, (_, serve) in enumerate(asked)]
        self._revents = self._items["revents"]
        for item, source in zip(self._items, sources, strict=True):
            item["events"] = zmq.POLLIN
            if isinstance(source, int):
                item["fd"] = source
            else:
                item["socket"] = source.underlying
        self._ins = np.array([inlet.words.ctypes.data for inlet in self._inlets] or [0], np.int64)
        self.words[kernels.Bridge.INS] = len(self._inlets)
        self.words[kernels.Bridge.FDS] = len(fds)
        self._list_outlets()

    def _serve(self, now: int) -> None:
        if self._sender is not None:
            self._sender.serve(now)
            self._list_outlets()

    @property
    def tables(self) -> Tables:
        """What kernels take; stays the same from `open` on."""
        return self._items, self._ins, self._outs, self.words

    def _list_outlets(self) -> None:
        outlets = [] if self._ticks is None else [self._ticks.words]
        for consumer, words in self._sender.outlets().items() if self._sender is not None else ():
            words[Out.RING] = self._sources[consumer].address
            outlets.append(words)
        outlets += [words for _, words in self._taps]  # last: who looks on waits, not who trades
        self._outs[: len(outlets)] = [words.ctypes.data for words in outlets]
        self.words[kernels.Bridge.OUTS] = len(outlets)

    @property
    def needs_attention(self) -> bool:
        """Whether the compiled loop has left something to `attend`."""
        return bool(self.words[kernels.Bridge.ATTENTION])

    def attend(self) -> None:
        """See to what the compiled loop has left."""
        now = now_ns()
        self.words[kernels.Bridge.ATTENTION] = 0
        for at, serve in self._asked:
            if self._revents[at]:
                serve(now)
        for inlet in self._inlets:
            if inlet.words[In.ACK_AT] <= rings.acked(inlet.ring.address, 0):
                inlet.tend(now)
            elif inlet.left:
                inlet.look(now)

    def tend(self, now: int) -> None:
        """Acknowledge, ask again, heartbeat; who is heard is alive in its ring. Cheap as long as nothing is due.

        A loop that does this while a tick comes makes the tick wait.
        """
        if self.needs_attention:
            self.attend()
        if now < self._due_ns and not any(inlet.is_urgent(now) for inlet in self._inlets):
            return
        self._due_ns = now + self._config.links.heartbeat_ms * 500_000
        for inlet in self._inlets:
            inlet.tend(now)
        if self._sender is not None:
            for consumer, source in self._sources.items():
                source.beat(self._sender.heard_ns(consumer))
        if self._ticks is not None:
            self._ticks.tend(now)

    @property
    def bad_frames(self) -> int:
        """Frames and requests that were none."""
        of_sender = self._sender.errors.total() if self._sender is not None else 0
        return sum(inlet.link.errors.total() for inlet in self._inlets) + of_sender

    def close(self) -> None:
        """Close the links and the rings behind them."""
        self.words[:] = 0
        for inlet in self._inlets:
            if isinstance(inlet, LogInlet):
                inlet.tend(now_ns(), last=True)
            inlet.link.close()
            inlet.ring.close()
        if self._sender is not None:
            self._sender.close()
        for source in self._sources.values():
            source.close()
        if self._ticks is not None:
            self._ticks.close()
        for tap, _ in self._taps:
            tap.close()
