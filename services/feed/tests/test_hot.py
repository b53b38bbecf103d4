"""feed in the ZeroMQ lane: the stage in this process, with an exchange's socket and a subscriber of the test."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from libs.common.tests.shm_rig import free_port, make_config
from services.feed.tests.test_decode import add, packet, table_of
from tickpath.common.clock import now_ns
from tickpath.common.kernels.bridge import PASSES
from tickpath.common.links import FanoutReceiver
from tickpath.common.pages import Control, Hot, create_side_page
from tickpath.common.records import RecordKind
from tickpath.feed.hot import Feed
from tickpath.feed.layout import Count
from tickpath.feed.service import FeedService

BATCH = 4


class Rig:
    """The stage, its subscriber and its exchange."""

    def __init__(self, folder: Path, context: zmq.Context[Any]) -> None:
        self.config = make_config(
            folder, table_of("AAPL"), links={"lane": "zmq-ipc", "heartbeat_ms": 20},
            feed={"port": free_port(), "order_capacity": 1 << 12, "level_capacity": 4096, "batch": BATCH},
        )  # fmt: skip
        self.side = create_side_page(self.config.run_dir, "feed", FeedService.side_fields(self.config))
        page = Feed.create_page(self.config)
        page["hot"][Hot.EPOCH] = 1
        self.stage = Feed(self.config, context, page, self.side)
        self.stage.warm_up()
        address = self.config.link_addresses("ticks")
        self.signals = FanoutReceiver(context, address, RecordKind.TICK, "signals", self.config.links)
        self.exchange = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.causes: list[int] = []
        self.until(lambda: self.signals.connected(now_ns()))

    def send(self, first: int, n: int) -> None:
        """Datagrams of a tick each."""
        for number in range(first, first + n):
            raw = packet(number, add(number, "B", 1, 1_000_000 + 100 * number))
            self.exchange.sendto(raw, ("127.0.0.1", self.config.feed.port))

    def hear(self) -> None:
        for ticks in [*self.signals.receive(now_ns()), *self.signals.tend(now_ns())]:
            self.causes += ticks["cause_seq"].tolist()

    def until(self, condition: Any) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            self.stage.run(now_ns())
            self.stage.tend(now_ns())
            self.hear()
            time.sleep(0.0005)

    def count(self, which: Count) -> int:
        return int(self.stage.counts[which])

    def close(self) -> None:
        self.exchange.close()
        self.signals.close()
        self.stage.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with zmq.Context() as context:
        made = Rig(tmp_path, context)
        yield made
        made.close()


def test_ticks_of_a_batch_of_datagrams_are_one_frame(rig: Rig) -> None:
    rig.send(1, BATCH)
    rig.stage.run(0)
    assert rig.signals.sub.poll(5000)
    rig.hear()
    assert rig.causes == [1, 2, 3, 4]


def test_however_much_comes_python_is_called_in_time(rig: Rig) -> None:
    """Commands, requests for ticks and signals of the system are seen to there."""
    n = 3 * PASSES * BATCH
    rig.send(1, n)
    assert rig.stage.run(0)
    assert rig.count(Count.TICKS) == PASSES * BATCH
    rig.until(lambda: len(rig.causes) == n)
    assert rig.causes == list(range(1, n + 1))


def test_while_feed_is_paused_nothing_leaves_and_it_is_counted(rig: Rig) -> None:
    rig.side["control"][Control.PAUSED] = 1
    rig.send(1, 3)
    rig.until(lambda: rig.count(Count.TICKS_HELD_BY_PAUSE) == 3)
    rig.side["control"][Control.PAUSED] = 0
    rig.send(4, 1)
    rig.until(lambda: rig.causes == [4])
