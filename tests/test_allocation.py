"""The ZeroMQ lanes: nothing of a batch of records ever becomes a Python object.

The loops of the other lanes have such tests beside them. Here two services are joined by their real link, because it
is the bridges that receive and send.
"""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from libs.common.tests.shm_rig import free_port, make_config
from services.feed.tests.test_decode import add, packet
from tickpath.common import frames
from tickpath.common.clock import now_ns
from tickpath.common.instruments import make_table
from tickpath.common.links import make_context
from tickpath.common.pages import Hot
from tickpath.feed.hot import Feed
from tickpath.feed.layout import Count
from tickpath.signals.hot import Signals
from tickpath.signals.layout import Counter

TABLE = make_table([("AAPL", "0.0001", 100, 1, 1, "USD")])
PUPPET = Path(__file__).parents[1] / "services" / "signals" / "tests" / "puppet.py"
FEW, MANY = 2, 30  # records in a batch
BATCHES = 200


class Rig:
    """An exchange's socket, feed and signals in this process, joined by their real link."""

    def __init__(self, folder: Path) -> None:
        self.config = make_config(
            folder, TABLE,
            links={"lane": "zmq-ipc", "heartbeat_ms": 20},
            feed={"port": free_port(), "order_capacity": 1 << 16, "level_capacity": 1 << 16},
            signals={"series_capacity": 16, "strategies": [{"path": f"{PUPPET}:puppet", "id": 1}]},
        )  # fmt: skip
        self.context = make_context()
        self.feed: Feed = self._make(Feed)
        self.signals: Signals = self._make(Signals)
        self.exchange = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.next_seq = 1
        for _ in range(1000):
            for stage in (self.feed, self.signals):
                stage.run(now_ns() + 2_000_000)
                stage.tend(now_ns())
            if self.signals.tick_link.connected(now_ns()):
                return
        pytest.fail("feed and signals never met")

    def _make(self, stage_type: Any) -> Any:
        page = stage_type.create_page(self.config)
        page["hot"][Hot.EPOCH] = 1
        stage = stage_type(self.config, self.context, page, None)
        stage.warm_up()
        return stage

    def send(self, n: int) -> None:
        """A datagram of so many ticks."""
        messages = [add(i, "B", 1, 1_000_000 + 100 * i) for i in range(self.next_seq, self.next_seq + n)]
        self.exchange.sendto(packet(self.next_seq, *messages), ("127.0.0.1", self.config.feed.port))
        self.next_seq += n

    def batch(self, n: int) -> None:
        """Datagrams go through feed's turn, and over the link through that of signals."""
        self.send(n)
        self.feed.run(0)
        assert self.signals.tick_link.sub.poll(5000) == zmq.POLLIN
        self.signals.run(0)

    def close(self) -> None:
        self.exchange.close()
        self.signals.close()
        self.feed.close()
        self.context.destroy(linger=0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_a_turn_leaves_nothing_behind_however_much_came(rig: Rig) -> None:
    """The collector has nothing to do with that: it is off while trading.

    The interpreter keeps some memory for its next calls, now and then and not for each batch. A block left by every
    batch would be there in every round.
    """

    def grown_by(batches: int) -> int:
        before = sys.getallocatedblocks()
        for _ in range(batches):
            rig.batch(MANY)
        return sys.getallocatedblocks() - before

    gc.collect()
    gc.disable()
    try:
        rounds = [grown_by(BATCHES) for _ in range(8)]
    finally:
        gc.enable()
    assert rig.signals.counts[Counter.TICKS] == rig.feed.counts[Count.TICKS] == 8 * BATCHES * MANY
    assert min(rounds) < BATCHES // 10


def test_python_looks_at_no_batch_but_the_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at heartbeats, of which there are none while ticks come."""
    rig.batch(FEW)
    looked = 0

    def count(payload: bytes, kind: Any) -> Any:
        nonlocal looked
        found = decode(payload, kind)
        looked += len(found[1])
        return found

    decode = frames.decode
    monkeypatch.setattr(frames, "decode", count)
    for n in (FEW, MANY, MANY):
        rig.batch(n)
    assert rig.signals.counts[Counter.TICKS] == 2 * (FEW + MANY)
    assert looked == 0
