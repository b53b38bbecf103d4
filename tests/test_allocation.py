"""The ZeroMQ lane's loops: what a turn costs in Python does not depend on how many records came in a batch.

The compiled loops of the other lanes have such tests beside them: there, not even a batch costs anything.
"""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import zmq

from libs.common.tests.shm_rig import blocks_grown, free_port, make_config
from services.feed.tests.test_decode import add, packet
from tickpath.common.clock import now_ns
from tickpath.common.instruments import make_table
from tickpath.common.links import make_context
from tickpath.common.pages import Hot
from tickpath.feed.hot import Feed
from tickpath.feed.layout import Count, Line
from tickpath.signals.hot import Signals
from tickpath.signals.layout import Counter

TABLE = make_table([("AAPL", "0.0001", 100, 1, 1, "USD")])
PUPPET = Path(__file__).parents[1] / "services" / "signals" / "tests" / "puppet.py"
FEW, MANY = 2, 30  # records in a batch


class Rig:
    """An exchange's socket, feed and signals in this process, joined by their real link."""

    def __init__(self, folder: Path) -> None:
        self.config = make_config(
            folder, TABLE,
            links={"lane": "zmq-ipc", "heartbeat_ms": 20},
            feed={"port": free_port(), "order_capacity": 1 << 14, "level_capacity": 8192},
            signals={"series_capacity": 16, "strategies": [{"path": f"{PUPPET}:puppet", "id": 1}]},
        )  # fmt: skip
        self.context = make_context()
        self.feed: Feed = self._make(Feed)
        self.signals: Signals = self._make(Signals)
        self.exchange = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.next_seq = 1
        for _ in range(1000):
            self.feed.sender.want.poll(5)
            self.feed.sender.serve(now_ns())
            self.feed.tend(now_ns())
            self.take()
            self.signals.tend(now_ns())
            if self.signals.ticks.connected(now_ns()):
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

    def publish(self) -> None:
        """Feed's turn."""
        self.feed.turn(now_ns(), (self.feed.core.lines.sockets[Line.A].fileno(),))

    def take(self) -> None:
        """Signals' turn."""
        self.signals.turn(now_ns(), (self.signals.ticks.sub,))

    def batch(self, n: int, call: Callable[[Callable[[], None]], int]) -> tuple[int, int]:
        """What `call` finds out about the turns of feed and of signals that a batch of `n` records takes."""
        self.send(n)
        of_feed = call(self.publish)
        assert self.signals.ticks.sub.poll(5000) == zmq.POLLIN
        return of_feed, call(self.take)

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


def steps(call: Callable[[], None]) -> int:
    """Instructions of the interpreter that a call takes: who makes an object per record needs some per record."""
    taken = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal taken
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        taken += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return taken


def test_a_turn_takes_as_many_steps_for_many_records_as_for_few(rig: Rig) -> None:
    for n in (FEW, MANY):
        rig.batch(n, steps)
    few, many = rig.batch(FEW, steps), rig.batch(MANY, steps)
    assert rig.signals.counts[Counter.TICKS] == rig.feed.counts[Count.TICKS] == 2 * (FEW + MANY)
    assert min(few) > 20
    assert many == few


def test_a_turn_leaves_nothing_behind_however_many_records_came(rig: Rig) -> None:
    """The collector has nothing to do with that: it is off while trading."""

    def grown_by(turns: int) -> int:
        return sum(sum(rig.batch(MANY, blocks_grown)) for _ in range(turns))

    grown_by(20)
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        grown_by(20)
        few = sys.getallocatedblocks() - before
        grown_by(180)
        many = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    assert rig.signals.counts[Counter.TICKS] == 220 * MANY
    assert many - few < 180  # less than a block a batch
