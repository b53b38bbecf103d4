"""Missing messages over real sockets: other line, retransmission, snapshot, or going on without."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.common.tests.shm_rig import free_port, make_config, make_stage, reader_of
from services.feed.tests.test_decode import ASK, BID, SESSION, add, execute, packet, table_of
from tickpath.common.clock import now_ns
from tickpath.common.pages import create_side_page
from tickpath.common.protocols import itch50, moldudp64
from tickpath.common.protocols.soupbintcp import END_OF_SESSION, SEQUENCED, encode_login_accepted
from tickpath.common.protocols.soupbintcp import packet as soup_packet
from tickpath.common.records import RecordKind, TickFlag
from tickpath.feed.kernels.receive import LineReg
from tickpath.feed.layout import Channel, ChannelState, Count, Line, LineWord
from tickpath.feed.service import FeedService
from tickpath.feed.shm import Feed

HOST = "127.0.0.1"


class Exchange:
    """What an exchange has beside its lines: it answers requests from what was sent, and gives out books."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.answers = True
        self.books: list[bytes] = []
        self.books_end = 1  # number after the snapshot
        self.requests: list[tuple[int, int]] = []
        self.lines = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.retransmission = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.retransmission.bind((HOST, 0))
        self.snapshots = socket.create_server((HOST, 0))
        self.served = 0
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._answer, self._give_books)]
        for thread in self._threads:
            thread.start()

    def _answer(self) -> None:
        while True:
            try:
                asked, sender = self.retransmission.recvfrom(100)
            except OSError:
                return
            if not asked:
                return
            _, first, count = moldudp64.parse_request(asked)
            self.requests.append((first, count))
            if self.answers:
                for number in range(first, min(first + count, len(self.messages) + 1)):
                    self.retransmission.sendto(packet(number, self.messages[number - 1]), sender)

    def _give_books(self) -> None:
        while True:
            try:
                client, _ = self.snapshots.accept()
            except OSError:
                return
            with client:
                if not client.recv(100):
                    return
                end = b"G" + str(self.books_end).encode().rjust(20)
                stream = encode_login_accepted("GLIMPSE", 1) + b"".join(
                    soup_packet(SEQUENCED, message) for message in (*self.books, end)
                )
                half = len(stream) // 2 + 1
                client.sendall(stream[:half])  # in two pieces, cut inside a packet
                client.sendall(stream[half:] + soup_packet(END_OF_SESSION))
            self.served += 1

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self.retransmission.getsockname())
        with socket.create_connection(self.snapshots.getsockname()):
            pass
        for thread in self._threads:
            thread.join(5)
        for one in (self.lines, self.retransmission, self.snapshots):
            one.close()


class Rig:
    """feed in the shm lane, an exchange, and a reader of the ticks."""

    def __init__(self, folder: Path, **feed: Any) -> None:
        self.exchange = Exchange()
        options = {
            "port": free_port(), "order_capacity": 1 << 14, "level_capacity": 64,
            "request_timeout_ms": 20, "request_attempts": 2, "announce_us": 10_000_000, **feed,
        }  # fmt: skip
        self.config = make_config(folder, table_of("AAPL", "MSFT"), feed=options)
        side = create_side_page(self.config.run_dir, "feed", FeedService.side_fields(self.config))
        self.stage: Feed = make_stage(Feed, self.config, side)
        self.state = self.stage.core.state
        self._reader = reader_of(self.config, "ticks", "test", RecordKind.TICK)

    def play(self, *messages: bytes) -> None:
        """The exchange says so; nobody has heard it yet."""
        self.exchange.messages += messages

    def send(self, first: int, last: int, line: Line = Line.A) -> None:
        """Messages `first` to `last` in one packet on a line."""
        options = self.config.feed
        port = options.port if line is Line.A else options.line_b_port
        self.exchange.lines.sendto(packet(first, *self.exchange.messages[first - 1 : last]), (HOST, port))

    def run(self, until_seq: int, limit_s: float = 10) -> np.ndarray:
        """Let feed work until that number is the next one wanted and all is announced; the ticks."""
        end = now_ns() + int(limit_s * 1e9)
        while now_ns() < end:
            self.stage.run(now_ns() + 1_000_000)
            self.stage.tend(now_ns())
            if self.state.channel[Channel.EXPECTED_SEQ] >= until_seq and not self.stage.core.repair.wanted:
                return self.ticks()
        pytest.fail(f"stands at {self.state.channel.tolist()} after {limit_s} s; {self.stage.core.repair.trouble}")

    def ticks(self) -> np.ndarray:
        ticks, missed = self._reader.read()
        assert missed == 0
        return ticks

    def count(self, which: Count) -> int:
        return int(self.state.counters[which])

    @property
    def channel_state(self) -> ChannelState:
        return ChannelState(int(self.state.channel[Channel.STATE]))

    def close(self) -> None:
        self.stage.close()
        self.exchange.close()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Any]:
    made: list[Rig] = []

    def make(*, retransmission: bool = False, snapshot: bool = False, line_b: bool = False, **feed: Any) -> Rig:
        rig = Rig(tmp_path, **({"line_b_port": free_port()} if line_b else {}), **feed)
        if retransmission or snapshot:  # their ports are known only now: once more, with them
            ports = {
                "retransmission_port": rig.exchange.retransmission.getsockname()[1] if retransmission else None,
                "snapshot_port": rig.exchange.snapshots.getsockname()[1] if snapshot else None,
            }
            rig.stage.close()
            options = {**rig.config.feed.model_dump(), **ports}
            rig.config = make_config(tmp_path, table_of("AAPL", "MSFT"), feed=options)
            side = create_side_page(rig.config.run_dir, "feed", FeedService.side_fields(rig.config))
            rig.stage = make_stage(Feed, rig.config, side)
            rig.state = rig.stage.core.state
        made.append(rig)
        return rig

    yield make
    for rig in made:
        rig.close()


def bids(n: int) -> list[bytes]:
    """Ever better bids: each makes a tick."""
    return [add(100 + i, "B", 10 + i, 1_000_000 + 100 * i) for i in range(n)]


def test_the_other_line_closes_a_gap_and_nobody_is_asked(make_rig: Any) -> None:
    rig = make_rig(retransmission=True, line_b=True, reorder_us=1_000_000)
    rig.play(*bids(9))
    rig.send(1, 3, Line.A)
    rig.send(1, 3, Line.B)
    rig.send(4, 6, Line.B)  # lost on A
    rig.send(7, 9, Line.A)
    rig.send(7, 9, Line.B)
    ticks = rig.run(10)
    assert ticks["cause_seq"].tolist() == list(range(1, 10))
    assert not (ticks["flags"] & TickFlag.SUSPECT).any()
    assert rig.exchange.requests == []
    a, b = rig.state.lines[Line.A], rig.state.lines[Line.B]
    assert (a[LineWord.LOST], b[LineWord.LOST]) == (3, 0)
    assert a[LineWord.FIRST] + b[LineWord.FIRST] == 9
    assert a[LineWord.SECOND] + b[LineWord.SECOND] == 6
    assert rig.channel_state is ChannelState.LIVE


def test_missing_messages_are_asked_for_again(make_rig: Any) -> None:
    # An answer that does not go on for `reorder_us` is asked for its rest: not here, however busy the machine is.
    rig = make_rig(retransmission=True, reorder_us=1_000_000, request_timeout_ms=5000)
    rig.play(*bids(12))
    for first, last in ((1, 2), (5, 6), (9, 12)):
        rig.send(first, last)
    ticks = rig.run(13)
    assert ticks["cause_seq"].tolist() == list(range(1, 13))
    assert rig.exchange.requests == [(3, 2), (7, 2)]
    assert (rig.count(Count.MESSAGES_REPAIRED), rig.count(Count.MESSAGES_LOST)) == (4, 0)
    assert rig.channel_state is ChannelState.LIVE


def test_late_answers_keep_nobody_awake(make_rig: Any) -> None:
    """The loops read answers only while something is missing: what comes after that must not end every sleep."""
    rig = make_rig(retransmission=True, reorder_us=1_000_000, request_timeout_ms=5000)
    rig.play(*bids(4))
    rig.send(1, 2)
    rig.send(4, 4)
    rig.run(5)
    socket_of_answers = rig.stage.core.lines.sockets[Line.REPAIR]
    for _ in range(3):
        rig.exchange.retransmission.sendto(packet(3, rig.exchange.messages[2]), socket_of_answers.getsockname())
    assert select.select([int(rig.stage.core.lines.words[LineReg.WAIT_FD])], [], [], 5)[0]
    rig.stage.run(0)
    rig.stage.tend(now_ns())
    assert not select.select([int(rig.stage.core.lines.words[LineReg.WAIT_FD])], [], [], 0.1)[0]
    assert rig.exchange.requests == [(3, 1)]


def test_a_loss_at_the_end_is_seen_by_the_heartbeat(make_rig: Any) -> None:
    rig = make_rig(retransmission=True)
    rig.play(*bids(4))
    rig.send(1, 2)
    rig.exchange.lines.sendto(moldudp64.heartbeat(SESSION, 5), (HOST, rig.config.feed.port))
    assert rig.run(5)["cause_seq"].tolist() == [1, 2, 3, 4]


def test_who_comes_late_takes_the_books(make_rig: Any) -> None:
    rig = make_rig(retransmission=True, snapshot=True)
    rig.play(*[b""] * 100_000, execute(7, 30), ASK)
    rig.exchange.books = [
        itch50.stock_directory(1, 1, "AAPL"), itch50.stock_directory(2, 1, "MSFT"),
        itch50.trading_action(2, 1, "MSFT", "H"), add(7, "B", 100, 1_000_000), BID,
    ]  # fmt: skip
    rig.exchange.books_end = 100_001
    rig.send(100_001, 100_001)
    rig.send(100_002, 100_002)
    ticks = rig.run(100_003)
    assert rig.exchange.requests == []  # too many to be asked for one by one
    assert rig.exchange.served == 1
    assert rig.state.book.bbo(0) == (1_000_000, 170, 1_000_200, 200)
    assert rig.count(Count.SNAPSHOTS) == 1
    last = {int(tick["instrument"]): tick for tick in ticks}
    assert not last[0]["flags"] & (TickFlag.SUSPECT | TickFlag.HALTED)
    assert last[1]["flags"] & TickFlag.HALTED
    assert rig.channel_state is ChannelState.LIVE


def test_a_server_that_does_not_answer_makes_books_necessary(make_rig: Any) -> None:
    rig = make_rig(retransmission=True, snapshot=True, announce_us=5000)
    rig.exchange.answers = False
    rig.play(BID, ASK, execute(2, 50), execute(2, 50))
    rig.send(1, 2)
    rig.run(3)
    rig.exchange.books, rig.exchange.books_end = [BID, add(2, "S", 150, 1_000_200)], 4
    rig.send(4, 4)
    ticks = rig.run(5)
    assert len(rig.exchange.requests) == 2
    assert rig.state.book.bbo(0) == (1_000_000, 100, 1_000_200, 100)
    assert not ticks[-1]["flags"] & TickFlag.SUSPECT
    suspect = [bool(tick["flags"] & TickFlag.SUSPECT) for tick in ticks if tick["instrument"] == 0]
    assert suspect[0]  # it was announced before
    assert not suspect[-1]


def test_without_anybody_to_ask_it_goes_on_and_says_so(make_rig: Any) -> None:
    rig = make_rig()
    rig.play(*bids(6))
    rig.send(1, 2)
    rig.send(5, 6)
    ticks = rig.run(7)
    assert ticks["cause_seq"][ticks["last_lots"] == 0].tolist()[:2] == [1, 2]
    assert (rig.count(Count.GAPS_GIVEN_UP), rig.count(Count.MESSAGES_LOST)) == (1, 2)
    assert ticks[-1]["flags"] & TickFlag.SUSPECT
    rig.stage.core.repair.trust()
    rig.stage.tend(now_ns())
    told = rig.ticks()
    assert told["instrument"].tolist() == [0, 1]
    assert not (told["flags"] & TickFlag.SUSPECT).any()


def test_an_instrument_in_doubt_gets_new_books(make_rig: Any) -> None:
    rig = make_rig(snapshot=True)
    rig.play(BID, ASK, execute(99, 1), add(5, "B", 1, 999_900))
    rig.exchange.books, rig.exchange.books_end = [BID, ASK, add(4, "B", 7, 1_000_100)], 4
    rig.send(1, 3)
    ticks = rig.run(4)
    assert rig.exchange.served == 1
    assert not rig.state.suspect.any()
    assert any(tick["flags"] & TickFlag.SUSPECT for tick in ticks)
    assert (ticks[-2]["bid_ticks"], ticks[-2]["flags"]) == (1_000_100, TickFlag.QUOTE)
    rig.send(4, 4)
    rig.run(5)
    assert rig.state.book.live_orders == 4


def test_a_snapshot_that_breaks_off_leaves_everything_suspect(make_rig: Any) -> None:
    rig = make_rig(snapshot=True)
    rig.play(BID, ASK, execute(99, 1))
    rig.exchange.books, rig.exchange.books_end = [BID, b"G" + b"no number".rjust(20)], 4
    rig.send(1, 3)
    ticks = rig.run(4)
    assert rig.count(Count.SNAPSHOT_FAILURES) == 1
    assert "is no snapshot" in rig.stage.core.repair.trouble
    assert rig.state.suspect.all()
    last = {int(tick["instrument"]): int(tick["flags"]) for tick in ticks}
    assert all(flags & TickFlag.SUSPECT for flags in last.values())


def test_silence_makes_the_channel_stale_until_something_is_heard(make_rig: Any) -> None:
    rig = make_rig(stale_ms=100)
    rig.play(BID, ASK)
    rig.send(1, 1)
    rig.run(2)
    rig.stage.tend(now_ns() + 200_000_000)
    assert rig.channel_state is ChannelState.STALE
    assert (rig.ticks()["flags"] & TickFlag.SUSPECT).all()
    rig.send(2, 2)
    ticks = rig.run(3)
    assert rig.channel_state is ChannelState.LIVE
    assert not ticks[-1]["flags"] & TickFlag.SUSPECT


@pytest.mark.parametrize("session", [SESSION, b"ANOTHER001"])
def test_an_exchange_that_begins_anew_is_no_live_market(make_rig: Any, session: bytes) -> None:
    """After a crash it counts from 1 again, under the old name or a new one: its packets keep nothing alive."""
    rig = make_rig(stale_ms=100, retransmission_port=None, snapshot_port=None)
    rig.play(BID, ASK, execute(2, 1))
    rig.send(1, 3)
    rig.run(4)
    port = rig.config.feed.port
    old = packet(1, BID, ASK)
    late = now_ns() + 200_000_000
    for k in range(3):
        rig.exchange.lines.sendto(session + old[len(SESSION) :], (HOST, port))
        rig.stage.run(now_ns() + 50_000_000)
        rig.stage.tend(late + k)
    assert rig.channel_state is ChannelState.STALE
    assert (rig.ticks()[-2:]["flags"] & TickFlag.SUSPECT).all()
    why = "below 4 come" if session == SESSION else "another session"
    assert why in rig.stage.core.repair.trouble
    assert rig.state.channel[Channel.EXPECTED_SEQ] == 4


def test_kernel_stamps_and_drops_are_read(make_rig: Any) -> None:
    rig = make_rig(kernel_stamps=True, rcvbuf_bytes=65536)
    rig.play(*bids(5))
    for number in range(1, 6):
        rig.send(number, number)
    rig.run(6)
    assert rig.stage.core.state.lines[Line.A][LineWord.RECEIVE_BUFFER_BYTES] == 2 * 65536
    waits = rig.stage.page["hist"][3]
    assert waits.sum() > 0
    for _ in range(400):  # nobody reads: the system must drop some
        rig.exchange.lines.sendto(bytes(1400), (HOST, rig.config.feed.port))
    rig.stage.tend(now_ns())
    assert rig.state.lines[Line.A][LineWord.KERNEL_DROPS] > 0


def test_a_book_is_shown_on_request(make_rig: Any) -> None:
    rig = make_rig()
    rig.play(BID, ASK, add(3, "B", 5, 999_900))
    rig.send(1, 3)
    rig.run(4)
    watch = rig.stage.side["watch"]
    watch[:] = (1, 0)
    rig.stage.tend(now_ns())
    words, depth = rig.stage.page["depth_words"], rig.stage.page["depth"]
    assert words.tolist() == [1, 2, 1, 4]
    assert depth[0, :2]["price_ticks"].tolist() == [1_000_000, 999_900]
    assert depth[1, 0].tolist() == (1_000_200, 1, 200)
