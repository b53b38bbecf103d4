"""feed in the shm lane: datagrams from a real socket into a real ring."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from libs.common.tests.shm_rig import blocks_grown, free_port, make_config, make_stage, reader_of
from services.feed.tests.test_decode import add, packet, table_of
from tickpath.common.clock import now_ns
from tickpath.common.pages import Control, Hot, create_side_page
from tickpath.common.records import RecordKind, TickFlag
from tickpath.common.ring import RingReader
from tickpath.feed.layout import Count
from tickpath.feed.service import FeedService
from tickpath.feed.shm import Feed

Records = np.ndarray


class Rig:
    """The stage, an exchange's socket, and a reader of its ticks."""

    def __init__(self, folder: Path, tick_ring: int = 1024) -> None:
        self.config = make_config(
            folder, table_of("AAPL", "MSFT"), links={"tick_ring": tick_ring},
            feed={"port": free_port(), "order_capacity": 1 << 14, "level_capacity": 8192},
        )  # fmt: skip
        self.start()
        self.exchange = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.next_seq = 1

    def start(self) -> None:
        """A life of feed."""
        self.side = create_side_page(self.config.run_dir, "feed", FeedService.side_fields(self.config))
        self.stage: Feed = make_stage(Feed, self.config, self.side)

    def reader(self) -> RingReader:
        return reader_of(self.config, "ticks", "test", RecordKind.TICK)

    def send(self, n_messages: int = 1) -> None:
        """A datagram of new bids, each better than the last: as many ticks."""
        numbers = range(self.next_seq, self.next_seq + n_messages)
        raw = packet(self.next_seq, *(add(i, "B", 100, 1_000_000 + 100 * i) for i in numbers))
        self.exchange.sendto(raw, ("127.0.0.1", self.config.feed.port))
        self.next_seq += n_messages

    def run(self) -> bool:
        """What the loop does with all that is there; whether it was anything."""
        worked = False
        while self.stage.run(now_ns() + 1_000_000):
            worked = True
        return worked

    def close(self) -> None:
        self.exchange.close()
        self.stage.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_ticks_of_all_datagrams_are_in_the_ring_in_order(rig: Rig) -> None:
    reader = rig.reader()
    assert not rig.run()
    for n in (3, 1, 30):
        rig.send(n)
    assert rig.run()
    ticks, missed = reader.read()
    assert missed == 0
    assert ticks["cause_seq"].tolist() == list(range(1, 35))
    assert (ticks["bid_ticks"] == 1_000_000 + 100 * ticks["cause_seq"]).all()
    assert (ticks["recv_ns"] > 0).all()
    assert (ticks["decoded_ns"] >= ticks["recv_ns"]).all()
    assert rig.stage.counts[Count.TICKS] == 34
    assert rig.stage.page["hot"][Hot.BUSY] == 0
    reader.close()


def test_a_paused_feed_keeps_its_books_and_publishes_nothing(rig: Rig) -> None:
    reader = rig.reader()
    rig.side["control"][Control.PAUSED] = 1
    rig.send(4)
    rig.run()
    assert rig.stage.counts[Count.TICKS_HELD_BY_PAUSE] == 4
    rig.side["control"][Control.PAUSED] = 0
    rig.send()
    rig.run()
    assert reader.read()[0]["cause_seq"].tolist() == [5]
    reader.close()


def test_a_datagram_with_more_ticks_than_the_ring_has_places_leaves_the_last_ones(tmp_path: Path) -> None:
    rig = Rig(tmp_path, tick_ring=8)
    reader = rig.reader()
    rig.send(30)
    rig.run()
    ticks, missed = reader.read()
    assert missed == 22
    assert ticks["cause_seq"].tolist() == list(range(23, 31))
    reader.close()
    rig.close()


def test_the_next_life_of_feed_goes_on_behind_the_ticks_of_the_last(rig: Rig) -> None:
    reader = rig.reader()
    rig.send(2)
    rig.run()
    rig.stage.close()
    rig.start()
    rig.send(2)
    rig.run()
    ticks, missed = reader.read()
    assert missed == 0
    assert ticks["cause_seq"].tolist()[:4] == [1, 2, 3, 4]
    # It missed two messages, and nobody can give them to it: it says so of every instrument.
    assert ticks["instrument"].tolist()[4:] == [0, 1]
    assert (ticks["flags"][2:] & TickFlag.SUSPECT).all()
    assert rig.stage.counts[Count.MESSAGES_LOST] == 2  # of its own life: books with a hole, so it says SUSPECT
    reader.close()


def test_the_loop_allocates_nothing_per_datagram(rig: Rig) -> None:
    def flood(n: int) -> int:
        for _ in range(n):
            rig.send(10)
        return blocks_grown(rig.run)

    for _ in range(2000):  # what a call keeps for the next ones is there after about a thousand
        rig.stage.run(now_ns())
    flood(10)
    few = flood(10)
    many = flood(300)
    assert rig.stage.counts[Count.TICKS] == 3200
    assert many - few <= 10
