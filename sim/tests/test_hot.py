"""The hot stage in this process, turned by hand: a live market in memory, and everybody who asks it for something."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config, FeedConfig, load_config
from tickpath.common.pages import Command, Page, read_text
from tickpath.common.ports import free_ports
from tickpath.common.protocols import itch50 as itch
from tickpath.common.protocols import moldudp64 as mold
from tickpath.common.protocols.soupbintcp import ClientSession, SequencedData
from tickpath.sim.hot import Sim
from tickpath.sim.layout import Counter
from tickpath.sim.player import LiveMarket, Segment
from tickpath.sim.sources.tape import Terms

ROOT = Path(__file__).parents[2]
SYMBOL = "BTCUSDT"


class MemoryMarket:
    """Segments that a test puts in; its descriptor is readable while there are any."""

    source = "a market in memory"

    def __init__(self) -> None:
        self.symbols = {SYMBOL: 3}
        self.terms = {SYMBOL: Terms(tick_size="0.01", price_step_ticks=1, lot_size="0.00001")}
        self.waiting: deque[Segment] = deque()
        self.tended = 0
        self.closed = False
        self._event = os.eventfd(0, os.EFD_NONBLOCK)

    def put(self, segment: Segment) -> None:
        """It happens now."""
        self.waiting.append(segment)
        os.eventfd_write(self._event, 1)

    def inputs(self) -> Sequence[Any]:
        """The event."""
        return (self._event,)

    def poll(self, now_ns: int) -> Segment | None:
        """One segment at a time."""
        assert now_ns > 0
        if not self.waiting:
            return None
        segment = self.waiting.popleft()
        if not self.waiting:
            os.eventfd_read(self._event)
        return segment

    def tend(self, now_ns: int) -> None:
        """Count."""
        assert now_ns > 0
        self.tended += 1

    def close(self) -> None:
        """Done."""
        os.close(self._event)
        self.closed = True


class LiveSim(Sim):
    """The stage with a market that the test holds."""

    market = MemoryMarket()

    @staticmethod
    def open_market(config: Config) -> LiveMarket | None:
        """The one of the test."""
        del config
        return LiveSim.market


class Running:
    """A stage with its page; `turn` is one turn of the loop."""

    def __init__(self, folder: Path, udp: socket.socket, **feed: Any) -> None:
        base = load_config(ROOT / "tickpath.toml")
        table = "symbol,tick_size,price_step_ticks,lot_size,multiplier,currency,price_unit\n"
        (folder / "instruments.csv").write_text(f"{table}{SYMBOL},0.01,1,0.00001,1,USD,0.01\n")
        ports = {
            "retransmission_port": free_ports(1)[0],
            "snapshot_port": free_ports(1)[0],
            "port": udp.getsockname()[1],
        }
        self.config = load_config(
            ROOT / "tickpath.toml",
            run_dir=folder / "run",
            instruments=folder / "instruments.csv",
            feed=FeedConfig(**{**ports, **feed}),
            exec=base.exec.model_copy(update={"port": free_ports(1)[0]}),
            sim=base.sim.model_copy(update={"start": "command", "session": "TICKPATH01"}),
        )
        self.context: zmq.Context[Any] = zmq.Context()
        LiveSim.market = MemoryMarket()
        self.market = LiveSim.market
        self.page: Page = LiveSim.create_page(self.config)
        self.stage = LiveSim(self.config, self.context, self.page, None)

    def turn(self) -> bool:
        """As if every input were ready."""
        return self.stage.turn(now_ns(), tuple(self.stage.inputs()))

    def close(self) -> None:
        """Close the stage."""
        self.stage.close()
        self.context.destroy(linger=0)


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    """Line A's listener."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        yield listener


@pytest.fixture
def running(tmp_path: Path, udp: socket.socket) -> Iterator[Running]:
    """A stage on a live market."""
    made = Running(tmp_path, udp)
    yield made
    made.close()


def add(ref: int) -> bytes:
    return itch.add_order(3, 34_200_000_000_000 + ref, ref, "B", 10 + ref, SYMBOL, 6_000_000 + ref)


@pytest.fixture
def segment(tape: Any) -> Any:
    """Function that makes a segment of the adds `first` to `last`."""

    def make(first: int, last: int) -> Segment:
        made = tape([add(ref) for ref in range(first, last + 1)])
        return Segment(made.data, made.offsets, made.time_ns)

    return make


def test_a_live_market_is_played_matched_repeated_and_given_as_a_book(
    running: Running, udp: socket.socket, segment: Any
) -> None:
    stage, market = running.stage, running.market
    market.put(segment(1, 3))
    running.turn()
    assert len(market.waiting) == 1  # it has not begun: nothing is taken from the market
    stage.command(Command.START, now_ns())
    running.turn()
    market.put(segment(4, 5))
    running.turn()
    packets = [mold.unpack(udp.recv(2048)) for _ in range(3)]
    assert [header.n_messages for header, _ in packets] == [mold.HEARTBEAT, 3, 2]
    assert [bytes(block) for _, blocks in packets for block in blocks] == [add(ref) for ref in range(1, 6)]

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect(("127.0.0.1", running.config.feed.retransmission_port))
        asker.settimeout(10)
        asker.send(mold.request(b"TICKPATH01", 2, 2))
        running.turn()
        assert [bytes(block) for block in mold.unpack(asker.recv(2048))[1]] == [add(2), add(3)]

    session = ClientSession("TICKPT", "")
    with socket.create_connection(("127.0.0.1", running.config.feed.snapshot_port)) as tcp:
        tcp.sendall(session.login(0))
        tcp.setblocking(False)
        found: list[bytes] = []
        while not found or found[-1][:1] != b"G":
            running.turn()
            try:
                found += [e.data for e in session.receive(tcp.recv(65536), 0) if isinstance(e, SequencedData)]
            except BlockingIOError:
                continue
    assert [itch.decode(m).get("order_ref") for m in found[:-1]] == [None, 1, 2, 3, 4, 5]
    assert int(found[-1][1:]) == 6 == stage.player.next_sequence
    stage.tend(now_ns())
    assert market.tended == 1
    assert read_text(running.page, "source") == "a market in memory: live, 1 symbol"
    assert running.page["counters"][Counter.RETRANSMITTED_MESSAGES] == 2
    assert stage.venue.exchange.book.stats[2] == running.config.feed.order_capacity


def test_everything_that_can_wake_it_is_an_input_and_the_orders_come_first(running: Running) -> None:
    stage = running.stage
    assert stage.retransmitter is not None
    assert stage.snapshots is not None
    assert stage.inputs() == (
        stage.order_entry.fileno(), stage._timer, stage.retransmitter.fileno(), stage.snapshots.fileno(),
        stage._market_epoll.fileno(),
    )  # fmt: skip


def test_a_market_that_is_not_asked_wakes_nobody(running: Running, segment: Any) -> None:
    """What waits there while nothing is played must not keep the loop busy."""
    wakes = running.stage._market_epoll
    running.market.put(segment(1, 3))
    running.turn()
    assert wakes.poll(0) == []
    running.stage.command(Command.START, now_ns())
    running.turn()
    running.market.put(segment(4, 5))
    assert len(wakes.poll(0)) == 1
    running.stage.command(Command.STOP, now_ns())
    running.turn()
    assert wakes.poll(0) == []
    running.stage.command(Command.START, now_ns())
    running.turn()
    assert running.stage.player.next_sequence == 6


def test_without_ports_there_are_no_servers_and_closing_closes_the_market(tmp_path: Path, udp: socket.socket) -> None:
    made = Running(tmp_path, udp, retransmission_port=None, snapshot_port=None)
    assert (made.stage.retransmitter, made.stage.snapshots) == (None, None)
    assert len(made.stage.inputs()) == 3
    made.turn()
    made.close()
    assert made.market.closed
