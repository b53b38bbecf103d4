"""exec in the shm lane: real journal, real rings, and a venue on a real socket; risk and signals are the test's."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.common.tests.shm_rig import blocks_grown, make_config, make_stage, reader_of, writer_of
from services.exec.tests.conftest import TABLE, Venue, cancel_order, new_order
from tickpath.common.clock import now_ns
from tickpath.common.records import REPORT, ExecEvent, OrderState, RecordKind
from tickpath.common.ring import RingReader
from tickpath.exec.journal import read_journal
from tickpath.exec.kernels.loop import Why, Word, loop
from tickpath.exec.layout import Counter, Gate, GatewayState, Reg
from tickpath.exec.lifecycle import Refusal
from tickpath.exec.shm import Exec


class Rig:
    """The stage between risk's and signals' ends of the rings and a venue."""

    def __init__(self, folder: Path, venue: Venue, wait: str = "adaptive", **options: Any) -> None:
        self.venue = venue
        sizes = {"order_capacity": 1024, "journal_segment_entries": 1024, "reconnect_ms": 5}
        self.config = make_config(
            folder, TABLE, exec={"port": venue.port, **sizes, **options}, process={"wait": wait, "lock_memory": False}
        )
        self.orders = writer_of(self.config, "orders", RecordKind.ORDER, "exec")
        self.start()
        self.risk, self.signals = (
            reader_of(self.config, f"reports.{name}", name, RecordKind.REPORT) for name in ("risk", "signals")
        )

    def start(self) -> None:
        """A life of exec."""
        self.stage: Exec = make_stage(Exec, self.config)

    def turn(self) -> None:
        """The venue's turn, then the loop's, then what is done in quiet moments."""
        self.venue.turn()
        self.stage.run(now_ns() + 200_000)
        self.stage.tend(now_ns())

    def until(self, condition: Any) -> None:
        """Turn until the condition holds; fails when it never does."""
        for _ in range(20_000):
            if condition():
                return
            self.turn()
        pytest.fail("the condition never held")

    def connect(self) -> None:
        """Until orders are welcome."""
        self.until(lambda: self.stage.gateway.state == GatewayState.READY)

    def send(self, *orders: np.ndarray) -> None:
        """Orders from risk, published at once."""
        assert self.orders.publish(np.concatenate(orders)) == len(orders)

    @property
    def acked(self) -> int:
        """Orders that are acknowledged."""
        found: int = self.orders.statistics()["readers"]["exec"]["acked"]
        return found

    def count(self, counter: Counter) -> int:
        return int(self.stage.counts[counter])

    def journal(self) -> np.ndarray:
        return read_journal(self.config.journal_dir())

    def close(self) -> None:
        self.stage.close()
        for end in (self.orders, self.risk, self.signals):
            end.close()


def read_all(reader: RingReader) -> np.ndarray:
    """Reports that were not read yet, acknowledged."""
    found = [np.zeros(0, REPORT)]
    while len(records := reader.read()[0]):
        found.append(records)
        reader.ack()
    return np.concatenate(found)


@pytest.fixture
def rig(tmp_path: Path, venue: Venue) -> Iterator[Rig]:
    made = Rig(tmp_path, venue)
    yield made
    made.close()


def events(reports: np.ndarray) -> list[ExecEvent]:
    return [ExecEvent(int(event)) for event in reports["event"]]


def test_an_order_is_journaled_sent_and_acknowledged_and_both_consumers_get_the_journal(rig: Rig) -> None:
    rig.connect()
    for reader in (rig.risk, rig.signals):
        reader.begin_again(1)
    rig.send(new_order(1), new_order(2))
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 2)
    rig.turn()
    assert rig.acked == 2
    assert len(rig.venue.seen) == 2
    for reader in (rig.risk, rig.signals):
        reports = read_all(reader)
        assert reports.tobytes() == rig.journal().tobytes()
        assert events(reports) == [ExecEvent.SEND, ExecEvent.SEND, ExecEvent.ACKNOWLEDGED, ExecEvent.ACKNOWLEDGED]
    rig.send(cancel_order(1), cancel_order(2))
    rig.until(lambda: rig.count(Counter.ORDERS_CANCELLED) == 2)
    assert events(read_all(rig.risk))[-1] == ExecEvent.CANCELLED


def test_orders_are_acknowledged_whatever_becomes_of_them(rig: Rig) -> None:
    """Without a venue they are refused; repeated ones and cancels that come too late leave no entry."""
    rig.stage.tend(now_ns())
    rig.send(new_order(1), new_order(1), cancel_order(1), cancel_order(9))
    rig.stage.run(0)
    assert rig.acked == 4
    assert events(rig.journal()) == [ExecEvent.NOT_SENT]
    assert (rig.count(Counter.DUPLICATE_ORDERS), rig.count(Counter.CANCELS_UNKNOWN)) == (1, 1)


def test_what_was_not_acknowledged_comes_again_to_the_next_life_and_is_not_sent_twice(rig: Rig) -> None:
    rig.connect()
    rig.send(new_order(1))
    rig.until(lambda: len(rig.venue.seen) == 1)
    rig.stage.close()
    rig.send(new_order(1), new_order(2))
    rig.start()
    rig.connect()
    rig.send(new_order(3))
    rig.until(lambda: rig.acked == 4)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) >= 1)
    journal = rig.journal()
    sent = journal[journal["event"] == ExecEvent.SEND]["cl_ord_id"]
    assert len(np.unique(sent)) == len(sent)
    assert rig.count(Counter.DUPLICATE_ORDERS) == 1


def test_a_consumer_that_comes_late_gets_the_journal_from_its_first_entry_over_all_segments(
    tmp_path: Path, venue: Venue
) -> None:
    rig = Rig(tmp_path, venue)
    for number in range(1, 2501, 50):  # refused without a venue: an entry each, in three segments
        rig.send(*(new_order(n) for n in range(number, number + 50)))
        rig.stage.tend(now_ns())
        rig.stage.run(0)
        while rig.acked < rig.orders.published:
            rig.stage.run(0)
    assert rig.count(Counter.JOURNAL_SEGMENTS) == 2
    rig.risk.begin_again(1)
    got = [np.zeros(0, REPORT)]
    while sum(map(len, got)) < 2500:
        rig.stage.tend(now_ns())
        rig.stage.run(0)
        got.append(read_all(rig.risk))
    assert np.concatenate(got)["seq"].tolist() == list(range(1, 2501))
    assert rig.signals.published == 0  # who does not ask gets nothing, and holds nobody up
    rig.close()


def test_with_fsync_always_nothing_leaves_before_it_is_on_disk(tmp_path: Path, venue: Venue) -> None:
    rig = Rig(tmp_path, venue, journal_fsync="always")
    rig.connect()
    rig.risk.begin_again(1)
    rig.stage.tend(now_ns())
    rig.send(new_order(1))
    w, ctx = rig.stage.words, rig.stage.ctx
    w[Word.VENUE_FD] = rig.stage.gateway.compiled_fd
    why = loop(w, ctx, rig.stage.gateway.fileno(), 0)
    assert why == Why.SYNC  # journaled; not sent, not shipped, not acknowledged
    assert ctx[Reg.SEND_TAIL] > ctx[Reg.SENT]
    assert (rig.acked, rig.risk.published) == (0, 0)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    rig.turn()
    assert rig.acked == 1
    assert events(read_all(rig.risk)) == [ExecEvent.SEND, ExecEvent.ACKNOWLEDGED]
    rig.close()


def test_orders_wait_for_room_in_the_journal_and_are_refused_when_there_is_some(
    tmp_path: Path, venue: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: nothing is taken that cannot be journaled, and nothing is sent late."""
    rig = Rig(tmp_path, venue)
    rig.connect()
    rig.stage.orders.journal._spare = None  # as if the disk had been full before the last segment was made
    rig.stage.ctx[Reg.SPARE_ENTRIES] = 0
    allocate = os.posix_fallocate

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    number = 0
    while not rig.stage.words[Word.HELD]:
        if rig.acked == rig.orders.published:  # the ring has room for them
            rig.send(*(new_order(n) for n in range(number + 1, number + 51)))
            number += 50
        rig.turn()
    rig.turn()
    assert len(rig.journal()) == 1024
    held = rig.stage.page["gateway"][Gate.HELD_ORDERS]
    assert held == rig.orders.published - rig.acked > 0
    sent = len(venue.seen)
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    rig.until(lambda: rig.acked == rig.orders.published)
    late = rig.journal()[1024:]
    refused = late[late["event"] == ExecEvent.NOT_SENT]
    assert len(refused) == held
    assert set(refused["reason"].tolist()) == {Refusal.JOURNAL_FULL}
    assert len(venue.seen) == sent
    rig.close()


def test_a_line_that_breaks_is_settled_by_the_gateway_and_the_loop_goes_on(rig: Rig) -> None:
    rig.connect()
    rig.send(new_order(1))
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    rig.venue.drop()
    rig.until(lambda: rig.count(Counter.DISCONNECTS) == 1)
    rig.connect()
    assert rig.count(Counter.RECONCILED) == 1
    rig.send(new_order(2))
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 2)


def test_reports_of_the_venue_wake_a_loop_that_sleeps_on_its_bell(tmp_path: Path, venue: Venue) -> None:
    """The loop may sleep for a minute; only the watcher can have ended that sleep."""
    rig = Rig(tmp_path, venue, wait="block")
    rig.connect()
    rig.send(new_order(1))
    rig.until(lambda: len(venue.live) == 1)  # the answer is on its way
    while rig.count(Counter.ORDERS_ACKNOWLEDGED) == 0:
        venue.turn()
        assert rig.stage.run(now_ns() + 60 * 10**9)
    rig.close()


def test_drained_is_who_has_nothing_open_and_whose_reports_were_read(rig: Rig) -> None:
    rig.connect()
    for reader in (rig.risk, rig.signals):
        reader.begin_again(1)
    rig.send(new_order(1))
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    rig.stage.begin_drain(now_ns())
    rig.send(new_order(2))
    rig.until(lambda: rig.stage.orders.open_count == 0)
    rig.until(lambda: rig.acked == 2)
    assert rig.journal()["state"][-1] >= OrderState.FILLED
    assert not rig.stage.drained(now_ns())
    rig.turn()
    read_all(rig.risk)
    assert not rig.stage.drained(now_ns())
    read_all(rig.signals)
    assert rig.stage.drained(now_ns())


def test_the_loop_allocates_nothing_per_order(rig: Rig) -> None:
    """From the ring through journal and encoder into a socket, and into both rings of reports."""
    stage, w = rig.stage, rig.stage.words
    stage.tend(now_ns())
    ours, theirs = socket.socketpair()
    stage.orders.set_refusal(None)
    stage.ctx[Reg.CONNECTED] = 1
    w[Word.VENUE_FD] = ours.fileno()
    number = 1

    def flood(n: int) -> int:
        nonlocal number
        orders = [new_order(i) for i in range(number, number + n)]
        number += n
        rig.send(*orders)
        grown = blocks_grown(lambda: loop(w, stage.ctx, stage.gateway.fileno(), 0))
        assert len(theirs.recv(1 << 16)) == 50 * n
        return grown

    flood(4)
    few = flood(4)
    many = flood(50)
    assert rig.count(Counter.ORDERS_SENT) == rig.acked == 58
    assert many - few <= 10
    stage.ctx[Reg.CONNECTED] = 0
    ours.close()
    theirs.close()
