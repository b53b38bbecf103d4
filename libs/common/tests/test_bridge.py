"""Bridges: from a ring of one process over a link into a ring of another, nothing lost, nothing twice, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from libs.common.tests.shm_rig import make_config
from tickpath.common import frames
from tickpath.common.bridge import Bridge, RingSource
from tickpath.common.clock import now_ns
from tickpath.common.instruments import make_table
from tickpath.common.kernels import bridge as kernels
from tickpath.common.kernels import ring as rings
from tickpath.common.kernels.bridge import Out
from tickpath.common.records import DTYPES, REPORT, SIGNAL, TICK, RecordKind
from tickpath.common.ring import RingReader, RingWriter
from tickpath.common.rings import Rings, rings_folder
from tickpath.common.taps import observe

TABLE = make_table([("AAPL", "0.0001", 100, 1, 1, "USD")])
LINKS = {
    "lane": "zmq-ipc", "log_ring": 64, "tick_ring": 256, "frame_records": 16, "window": 32, "heartbeat_ms": 10,
    "resend_ms": 50, "gap_timeout_ms": 500,
}  # fmt: skip
JOURNAL = 70  # epoch of the journal


class End:
    """A service's bridge; `turn` is what its loop does around itself."""

    def __init__(self, rig: Rig, name: str, epoch: int) -> None:
        self.name, self.config = name, rig.config
        self.bridge = Bridge(rig.config, rig.context, name, epoch)

    def turn(self) -> None:
        kernels.take(*self.bridge.tables, 0)
        if self.bridge.needs_attention:
            self.bridge.attend()
        kernels.ship(*self.bridge.tables)
        self.bridge.tend(now_ns())

    def reader(self, ring: str, kind: RecordKind) -> RingReader:
        """Where the loop reads."""
        return RingReader(rings_folder(self.config, self.name) / f"{ring}.ring", self.name, DTYPES[kind], kind=kind)

    def close(self) -> None:
        self.bridge.close()


class Rig:
    """Ends on one run_dir."""

    def __init__(self, folder: Path) -> None:
        self.config = make_config(folder, TABLE, links=LINKS)
        self.context: zmq.Context[Any] = zmq.Context()
        self.ends: list[Any] = []

    def keep(self, end: Any) -> Any:
        self.ends.append(end)
        return end

    def drop(self, end: Any) -> None:
        """It dies."""
        self.ends.remove(end)
        end.close()

    def until(self, condition: Callable[[], bool]) -> None:
        """Turn all ends until something is so."""
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "never happened"
            for end in self.ends:
                end.turn()
            time.sleep(0.0005)

    def turns(self, n: int = 50) -> None:
        """Time for what must not happen."""
        for _ in range(n):
            for end in self.ends:
                end.turn()
            time.sleep(0.001)


def records(dtype: np.dtype[Any], first: int, n: int) -> Any:
    made = np.zeros(n, dtype)
    made["cause_seq" if dtype != REPORT else "seq"] = np.arange(first, first + n)
    return made


class Signals(End):
    """Puts signals into its ring."""

    def __init__(self, rig: Rig, epoch: int = 1) -> None:
        super().__init__(rig, "signals", epoch)
        self.ring = Rings(rig.config, "signals").writer("signals", RecordKind.SIGNAL, "risk")
        self.sender = self.bridge.ship("signals", RecordKind.SIGNAL, {"risk": "signals"})
        self.bridge.open()

    def put(self, first: int, n: int) -> int:
        return self.ring.publish(records(SIGNAL, first, n))

    def close(self) -> None:
        self.ring.close()
        super().close()


class Risk(End):
    """Reads them from its own."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig, "risk", 1)
        self.inlet = self.bridge.receive("signals", RecordKind.SIGNAL)
        self.ring = self.reader("signals", RecordKind.SIGNAL)
        self.bridge.open()
        self.causes: list[int] = []
        self.reads = self.acknowledges = True

    def turn(self) -> None:
        super().turn()
        if self.reads:
            got, missed = self.ring.read()
            assert missed == 0
            self.causes += got["cause_seq"].tolist()
            if self.acknowledges:
                self.ring.ack()

    def close(self) -> None:
        self.ring.close()
        super().close()


class Feed(End):
    """Puts ticks into its ring."""

    def __init__(self, rig: Rig, epoch: int = 1) -> None:
        super().__init__(rig, "feed", epoch)
        self.ring = Rings(rig.config, "feed").writer("ticks", RecordKind.TICK)
        self.sender = self.bridge.publish("ticks", RecordKind.TICK, self.ring)
        self.bridge.open()

    def put(self, first: int, n: int) -> None:
        assert self.ring.publish(records(TICK, first, n)) == n

    def close(self) -> None:
        self.ring.close()
        super().close()


class Follower(End):
    """signals, as a reader of ticks."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig, "signals", 1)
        self.link = self.bridge.subscribe("ticks", RecordKind.TICK)
        self.ring = self.reader("ticks", RecordKind.TICK)
        self.bridge.open()
        self.causes: list[int] = []
        self.reads = True

    def turn(self) -> None:
        super().turn()
        if self.reads:
            self.causes += self.ring.read()[0]["cause_seq"].tolist()
            self.ring.ack()

    def close(self) -> None:
        self.ring.close()
        super().close()


class Exec(End):
    """Ships a journal, which it keeps here, to risk."""

    def __init__(self, rig: Rig, epoch: int = JOURNAL) -> None:
        super().__init__(rig, "exec", 1)
        self.entries = 0
        self.epoch = epoch
        self.ring = Rings(rig.config, "exec").writer("reports.risk", RecordKind.REPORT, "risk", log=True)
        self.ring.set_log(epoch, 1)
        self.bridge.ship("reports", RecordKind.REPORT, {"risk": "reports.risk"}, epoch=epoch, log=True)
        self.bridge.open()

    def append(self, n: int) -> None:
        self.entries += n
        self.ring.set_log(self.epoch, self.entries + 1)

    def turn(self) -> None:
        super().turn()
        first = self.ring.tend()
        self.ring.publish(records(REPORT, first, min(self.ring.room, self.entries - first + 1)))

    def close(self) -> None:
        self.ring.close()
        super().close()


class Book(End):
    """risk, as a reader of the journal."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig, "risk", 1)
        self.inlet = self.bridge.receive("reports", RecordKind.REPORT, log=True)
        self.ring = self.reader("reports.risk", RecordKind.REPORT)
        self.bridge.open()
        self.seqs: list[int] = []

    def turn(self) -> None:
        super().turn()
        if self.ring.must_begin_again and rings.log_epoch_of(self.ring.address):
            self.ring.begin_again(1)
            self.seqs = []
        self.seqs += self.ring.read()[0]["seq"].tolist()
        self.ring.ack()

    def close(self) -> None:
        self.ring.close()
        super().close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    for end in made.ends:
        end.close()
    made.context.destroy(linger=0)


# -- lossless ------------------------------------------------------------------------------------------------------


def test_what_one_loop_writes_another_reads_in_order_and_the_acknowledgement_comes_back(rig: Rig) -> None:
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    sent = 0

    def all_there() -> bool:
        nonlocal sent
        sent += signals.put(sent + 1, min(7, 1000 - sent))
        return len(risk.causes) == 1000 and signals.sender.acked_seq == 1000

    rig.until(all_there)
    assert risk.causes == list(range(1, 1001))
    assert rings.slowest(signals.ring.address) == 1000
    assert signals.sender.resent == 0


def test_who_does_not_read_holds_up_the_writer_and_loses_nothing(rig: Rig) -> None:
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    risk.reads = False
    sent = 0
    for _ in range(200):
        sent += signals.put(sent + 1, 5)
        rig.turns(1)
    assert sent == 64  # what the ring holds, for nothing is acknowledged
    assert signals.put(sent + 1, 1) == 0
    assert risk.inlet.link.received == 32  # the window
    risk.reads = True
    rig.until(lambda: risk.causes == list(range(1, 65)))
    assert signals.put(sent + 1, 1) == 1


def test_a_ring_that_has_no_room_leaves_frames_in_the_socket(rig: Rig) -> None:
    """More than the ring holds is on its way, the frame at its head is taken when there is room for a whole one."""
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    rig.until(lambda: "risk" in signals.sender.consumers())
    risk.reads = False
    before = risk.inlet.words[kernels.In.RING]
    risk.inlet.words[kernels.In.FRAME_RECORDS] = 65  # as if frames were as large as that
    signals.put(1, 5)
    for _ in range(5):
        signals.turn()
        assert risk.inlet.link.socket.poll(1000) == zmq.POLLIN
        assert kernels.take(*risk.bridge.tables, 0) == 0  # it is not even listened to: no loop turns for nothing
    risk.inlet.words[kernels.In.FRAME_RECORDS] = 16
    risk.reads = True
    rig.until(lambda: risk.causes == [1, 2, 3, 4, 5])
    assert risk.inlet.words[kernels.In.RING] == before


def test_a_reader_that_dies_gets_again_what_it_had_not_acknowledged(rig: Rig) -> None:
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    signals.put(1, 10)
    rig.until(lambda: len(risk.causes) == 10 and signals.sender.acked_seq == 10)
    risk.acknowledges = False
    signals.put(11, 10)
    rig.until(lambda: len(risk.causes) == 20)
    rig.drop(risk)
    signals.put(21, 5)
    risk = rig.keep(Risk(rig))
    rig.until(lambda: len(risk.causes) == 15)
    assert risk.causes == list(range(11, 26))
    rig.until(lambda: signals.sender.acked_seq == 25)


def test_a_writer_that_dies_begins_anew_and_the_ring_goes_on(rig: Rig) -> None:
    """What was acknowledged of its earlier life is not taken for an acknowledgement of the new one."""
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    signals.put(1, 40)
    rig.until(lambda: len(risk.causes) == 40)
    rig.drop(signals)
    signals = rig.keep(Signals(rig, epoch=2))
    risk.acknowledges = False
    signals.put(1001, 3)
    rig.until(lambda: len(risk.causes) == 43)
    rig.turns()
    assert signals.sender.acked_seq == 0
    risk.ring.ack(42)
    rig.until(lambda: signals.sender.acked_seq == 2)
    risk.acknowledges = True
    rig.until(lambda: signals.sender.acked_seq == 3)
    assert risk.causes[40:] == [1001, 1002, 1003]
    assert risk.inlet.link.epochs == 2


def test_an_acknowledgement_says_which_report_it_follows(rig: Rig) -> None:
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    risk.inlet.follows = lambda: (JOURNAL, 77)
    signals.put(1, 1)
    rig.until(lambda: signals.sender.acked_seq == 1)
    assert signals.sender.follows == (JOURNAL, 77)


def test_much_that_is_acknowledged_is_said_before_the_next_heartbeat(rig: Rig) -> None:
    """The producer may be waiting for it; and who cannot say it does not try in every turn."""
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    rig.until(lambda: "risk" in signals.sender.consumers())
    risk.acknowledges = False
    signals.put(1, 16)
    rig.until(lambda: len(risk.causes) == 16)
    risk.bridge.tend(now_ns())
    risk.ring.ack(7)
    assert not kernels.take(*risk.bridge.tables, 0) and not risk.bridge.needs_attention
    risk.ring.ack(8)  # a quarter of the window
    kernels.take(*risk.bridge.tables, 0)
    assert risk.bridge.needs_attention
    rig.drop(signals)
    risk.bridge.attend()
    kernels.take(*risk.bridge.tables, 0)
    risk.bridge.attend()
    kernels.take(*risk.bridge.tables, 0)
    assert not risk.bridge.needs_attention


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"nonsense"])
def test_what_is_no_frame_is_counted_and_the_stream_goes_on(rig: Rig, payload: bytes) -> None:
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    signals.put(1, 3)
    rig.until(lambda: len(risk.causes) == 3)
    identity = next(iter(signals.sender._consumers.values())).outlet.identity
    signals.sender.socket.send_multipart((identity, frames.topic(RecordKind.SIGNAL), payload))
    signals.sender.socket.send_multipart((identity, frames.topic(RecordKind.SIGNAL)))
    signals.put(4, 3)
    rig.until(lambda: len(risk.causes) == 6)
    assert risk.causes == [1, 2, 3, 4, 5, 6]
    assert risk.bridge.bad_frames == 2


def test_a_request_of_somebody_else_is_refused(rig: Rig) -> None:
    signals = rig.keep(Signals(rig))
    stranger = rig.context.socket(zmq.DEALER)
    stranger.connect(rig.config.link_addresses("signals")[1])
    stranger.send(msgspec.msgpack.encode((1, "stranger", 0, 1, 0, 10, False, 0)))
    rig.until(lambda: signals.sender.errors["consumer"] == 1)
    assert signals.sender.consumers() == {}
    stranger.close(0)


def test_the_other_end_is_alive_in_the_ring_as_long_as_it_is_heard(rig: Rig) -> None:
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    of_signals, of_risk = Rings(rig.config, "signals"), Rings(rig.config, "risk")

    def risk_is_there() -> bool:
        return of_signals.is_read(signals.ring, now_ns())

    def signals_is_there() -> bool:
        beat = int(risk.inlet.ring._file[rings.Head.WRITER_BEAT_NS])
        return of_risk.recent(beat, now_ns())

    assert not risk_is_there() and not signals_is_there()
    rig.until(lambda: risk_is_there() and signals_is_there())
    rig.drop(risk)
    rig.until(lambda: not risk_is_there())


def test_what_was_acknowledged_is_said_before_the_end(rig: Rig) -> None:
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    signals.put(1, 3)
    rig.until(lambda: len(risk.causes) == 3 and signals.sender.acked_seq == 3)
    risk.acknowledges = False
    signals.put(4, 2)
    rig.until(lambda: len(risk.causes) == 5)
    risk.ring.ack()
    rig.drop(risk)
    rig.until(lambda: signals.sender.acked_seq == 5)


def test_what_waits_here_goes_into_the_ring_as_soon_as_there_is_room(rig: Rig) -> None:
    """More came at once than the ring holds, as when a gap closes: no tend is needed for the rest."""
    risk = rig.keep(Risk(rig))
    risk.inlet._waiting.extend([records(SIGNAL, 1, 60), records(SIGNAL, 61, 10)])
    risk.inlet._pass_on()
    assert (risk.ring.published, bool(risk.inlet.words[kernels.In.HELD])) == (64, True)
    kernels.take(*risk.bridge.tables, 0)
    assert not risk.bridge.needs_attention
    risk.ring.read()
    risk.ring.ack()
    kernels.take(*risk.bridge.tables, 0)
    assert risk.bridge.needs_attention
    risk.bridge.attend()
    assert (risk.ring.published, bool(risk.inlet.words[kernels.In.HELD])) == (70, False)


# -- fan-out ---------------------------------------------------------------------------------------------------------


def test_ticks_that_were_lost_on_the_way_are_had_again_in_order(rig: Rig) -> None:
    feed, follower = rig.keep(Feed(rig)), rig.keep(Follower(rig))
    feed.put(1, 5)
    rig.until(lambda: len(follower.causes) == 5)
    for first in range(6, 206, 10):
        feed.put(first, 10)
        if first % 20 == 6:
            feed.sender.words[Out.NEXT] += 5  # never sent
        rig.turns(1)
    rig.until(lambda: len(follower.causes) == 205)
    assert follower.causes == list(range(1, 206))
    assert follower.link.repaired > 0
    assert follower.link.lost == 0


def test_ticks_that_nobody_has_any_more_are_counted(rig: Rig) -> None:
    """A turn that published more than the ring holds has lost the beginning."""
    feed, follower = rig.keep(Feed(rig)), rig.keep(Follower(rig))
    feed.put(1, 5)
    rig.until(lambda: len(follower.causes) == 5)
    feed.put(6, 200)
    feed.put(206, 200)
    rig.until(lambda: follower.causes[-1] == 405)
    assert follower.link.lost == 405 - 256 - 5
    assert follower.causes[5:] == list(range(405 - 255, 406))


def test_who_comes_late_has_ticks_from_the_beginning(rig: Rig) -> None:
    feed = rig.keep(Feed(rig))
    feed.put(1, 100)
    rig.turns(3)
    follower = rig.keep(Follower(rig))
    rig.until(lambda: len(follower.causes) == 100)
    assert follower.causes == list(range(1, 101))


def test_a_feed_that_dies_is_followed_in_its_next_life(rig: Rig) -> None:
    feed, follower = rig.keep(Feed(rig)), rig.keep(Follower(rig))
    feed.put(1, 20)
    rig.until(lambda: len(follower.causes) == 20)
    rig.drop(feed)
    feed = rig.keep(Feed(rig, epoch=2))
    feed.put(501, 20)
    rig.until(lambda: len(follower.causes) == 40)
    assert follower.causes[20:] == list(range(501, 521))


def test_a_slow_follower_loses_nothing_while_the_ring_of_feed_lasts(rig: Rig) -> None:
    """Its own ring is full long before: frames wait in the socket, and what was dropped there is asked for."""
    feed, follower = rig.keep(Feed(rig)), rig.keep(Follower(rig))
    feed.put(1, 1)
    rig.until(lambda: len(follower.causes) == 1)
    follower.reads = False
    for first in range(2, 202, 10):
        feed.put(first, 10)
        rig.turns(1)
    assert follower.link.received < 201
    follower.reads = True
    rig.until(lambda: len(follower.causes) == 201)
    assert follower.causes == list(range(1, 202))


# -- the journal ---------------------------------------------------------------------------------------------------


def test_a_journal_arrives_from_its_first_entry_and_its_end_is_known(rig: Rig) -> None:
    exec_, book = rig.keep(Exec(rig)), rig.keep(Book(rig))
    exec_.append(500)
    rig.until(lambda: len(book.seqs) == 500)
    assert book.seqs == list(range(1, 501))
    rig.until(lambda: rings.log_end(book.ring.address) == 501)
    exec_.append(3)
    rig.until(lambda: book.seqs[-1] == 503)


def test_nobody_has_caught_up_before_the_end_was_named(rig: Rig) -> None:
    """The journal is longer than the window, and heartbeats come while there is more."""
    exec_, book = rig.keep(Exec(rig)), rig.keep(Book(rig))
    exec_.append(500)
    seen: list[tuple[int, bool]] = []

    def through() -> bool:
        seen.append((len(book.seqs), book.inlet.link.caught_up))
        time.sleep(0.002)
        return book.inlet.link.caught_up

    rig.until(through)
    assert seen[-1][0] >= 500 - 32
    rig.until(lambda: len(book.seqs) == 500)


def test_a_reader_that_was_started_again_has_the_journal_once_more(rig: Rig) -> None:
    exec_, book = rig.keep(Exec(rig)), rig.keep(Book(rig))
    exec_.append(200)
    rig.until(lambda: len(book.seqs) == 200)
    rig.drop(book)
    book = rig.keep(Book(rig))
    exec_.append(10)
    rig.until(lambda: len(book.seqs) == 210)
    assert book.seqs == list(range(1, 211))


def test_another_process_that_ships_the_same_journal_goes_on_where_it_was(rig: Rig) -> None:
    exec_, book = rig.keep(Exec(rig)), rig.keep(Book(rig))
    exec_.append(200)
    rig.until(lambda: len(book.seqs) == 200)
    rig.drop(exec_)
    exec_ = rig.keep(Exec(rig))
    exec_.append(205)
    rig.until(lambda: len(book.seqs) == 205)
    assert book.seqs == list(range(1, 206))
    assert book.inlet.link.epochs == 1


def test_another_journal_is_read_from_its_first_entry(rig: Rig) -> None:
    exec_, book = rig.keep(Exec(rig)), rig.keep(Book(rig))
    exec_.append(100)
    rig.until(lambda: len(book.seqs) == 100)
    rig.drop(exec_)
    exec_ = rig.keep(Exec(rig, JOURNAL + 1))
    exec_.append(7)
    rig.until(lambda: book.seqs == list(range(1, 8)))
    assert book.inlet.link.epochs == 2


def test_the_end_of_the_journal_is_known_from_others_too(rig: Rig) -> None:
    """risk's answer follows a report that is still on its way: until it is here nobody has caught up with it."""
    exec_, book = rig.keep(Exec(rig)), rig.keep(Book(rig))
    exec_.append(5)
    rig.until(lambda: len(book.seqs) == 5 and book.inlet.link.caught_up)
    book.inlet.expect(JOURNAL, 9)
    assert rings.log_end(book.ring.address) == 10
    for epoch, seq in ((JOURNAL, 7), (0, 0), (0, 8)):  # risk was started again and knows less
        book.inlet.expect(epoch, seq)
        assert rings.log_end(book.ring.address) == 10
    exec_.append(6)
    rig.until(lambda: rings.log_end(book.ring.address) == 12)


def test_what_was_said_of_a_journal_that_is_over_does_not_count(rig: Rig) -> None:
    """risk had not begun the new one when it answered: nobody would ever catch up with that number."""
    exec_, book = rig.keep(Exec(rig)), rig.keep(Book(rig))
    exec_.append(5)
    rig.until(lambda: len(book.seqs) == 5 and book.inlet.link.caught_up)
    book.inlet.expect(JOURNAL - 1, 5000)
    rig.until(lambda: rings.log_end(book.ring.address) == 6)


def test_what_is_said_of_the_next_journal_holds_until_that_is_here(rig: Rig) -> None:
    exec_, book = rig.keep(Exec(rig)), rig.keep(Book(rig))
    exec_.append(5)
    rig.until(lambda: len(book.seqs) == 5 and book.inlet.link.caught_up)
    book.inlet.expect(JOURNAL + 1, 2)
    rig.turns()
    assert rings.log_end(book.ring.address) > 5000
    rig.drop(exec_)
    exec_ = rig.keep(Exec(rig, JOURNAL + 1))
    exec_.append(1)
    rig.until(lambda: book.seqs == [1] and rings.log_end(book.ring.address) == 3)
    exec_.append(1)
    rig.until(lambda: book.seqs == [1, 2])


def test_a_consumer_that_has_everything_owes_nothing(rig: Rig) -> None:
    exec_, book = rig.keep(Exec(rig)), rig.keep(Book(rig))
    exec_.append(30)
    rig.until(lambda: len(book.seqs) == 30)
    rig.drop(exec_)
    exec_ = rig.keep(Exec(rig))
    exec_.append(30)
    rig.until(lambda: rings.slowest(exec_.ring.address) == 30)
    assert book.seqs == list(range(1, 31))


# -- taps, memory, start -------------------------------------------------------------------------------------------


def test_a_tap_shows_each_record_once_though_some_are_sent_again(rig: Rig) -> None:
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    watch = observe(rig.config.run_dir, "signals")
    signals.put(1, 10)
    rig.until(lambda: len(risk.causes) == 10)
    risk.acknowledges = False
    signals.put(11, 10)
    rig.until(lambda: len(risk.causes) == 20)
    rig.drop(risk)
    risk = rig.keep(Risk(rig))
    rig.until(lambda: len(risk.causes) == 10)
    assert risk.causes == list(range(11, 21))
    seen, missed = watch.read()
    assert (seen["cause_seq"].tolist(), missed) == (list(range(1, 21)), 0)
    watch.close()


def test_what_a_tap_shows_waits_for_no_consumer(rig: Rig) -> None:
    signals = rig.keep(Signals(rig))
    watch = observe(rig.config.run_dir, "signals")
    signals.put(1, 3)
    kernels.ship(*signals.bridge.tables)
    assert watch.read()[0]["cause_seq"].tolist() == [1, 2, 3]
    watch.close()


def test_a_frame_that_is_as_it_should_be_needs_no_python(rig: Rig) -> None:
    signals, risk = rig.keep(Signals(rig)), rig.keep(Risk(rig))
    signals.put(1, 1)
    rig.until(lambda: len(risk.causes) == 1)
    while risk.inlet.link.socket.poll(20):  # heartbeats
        risk.turn()
    for first in range(2, 32, 10):  # within the window
        signals.put(first, 10)
        kernels.ship(*signals.bridge.tables)
        assert risk.inlet.link.socket.poll(5000) == zmq.POLLIN
        assert kernels.take(*risk.bridge.tables, 0) >= 1
        assert risk.ring.published == first + 9
        assert not risk.bridge.needs_attention
    assert risk.inlet.link.received == 31


def test_rings_of_an_earlier_life_are_gone(rig: Rig) -> None:
    signals = rig.keep(Signals(rig))
    signals.put(1, 5)
    folder = rings_folder(rig.config, "signals")
    rig.drop(signals)
    (folder / "litter.ring").touch()
    signals = rig.keep(Signals(rig))
    assert signals.ring.published == 0
    assert not (folder / "litter.ring").exists()


def test_a_log_is_asked_for_again_when_another_came_before_the_request_was_granted(tmp_path: Path) -> None:
    with RingWriter(tmp_path / "log", REPORT, 8, required=["me"], log=True) as writer:
        source = RingSource(RingReader(tmp_path / "log", "me", REPORT), log=True)
        assert len(source.read(3, 8)) == 0  # there is no log yet, so nothing to ask for
        writer.set_log(5, 11)
        assert len(source.read(1, 8)) == 0
        writer.set_log(6, 3)
        assert writer.tend() == 1 and rings.room(writer.address) == 0  # the request is for log 5
        assert len(source.read(1, 8)) == 0
        writer.tend()
        assert writer.publish(np.zeros(2, REPORT)) == 2
        assert len(source.read(1, 8)) == 2
        source.close()
