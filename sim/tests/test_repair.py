"""What was lost is had again: single messages, whole books; also of a market that is played while it happens."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from tickpath.common.kernels.book import Book, apply_one
from tickpath.common.protocols import itch50 as itch
from tickpath.common.protocols import moldudp64 as mold
from tickpath.common.protocols.soupbintcp import (
    ClientSession,
    EndOfSession,
    LoginAccepted,
    LoginRejected,
    SequencedData,
)
from tickpath.common.records import Side
from tickpath.sim.history import History, Segment
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.player import PlayerError, no_tape
from tickpath.sim.repair import RepairError, Retransmitter, SnapshotServer
from tickpath.sim.sources.generator import generate_tape

T = 34_200_000_000_000
SESSION = b"TICKPATH01"


@pytest.fixture(scope="module")
def market() -> Any:
    """A second of a generated market."""
    return generate_tape(11, seconds=1, rate=3000)


def add(ref: int, symbol: str = "ABC", locate: int = 7) -> bytes:
    return itch.add_order(locate, T + ref, ref, "SB"[ref % 2], 100 + ref, symbol, 100_000 + 100 * (ref % 40))


def messages(datagrams: Iterable[bytes]) -> dict[int, bytes]:
    """Message by number."""
    found = {}
    for datagram in datagrams:
        header, blocks = mold.unpack(datagram)
        assert header.session == SESSION
        found.update({header.sequence + k: bytes(block) for k, block in enumerate(blocks)})
    return found


class Asker:
    """Somebody who lacks messages, and the server that has them."""

    def __init__(self, site: Any, **options: Any) -> None:
        self.server: Retransmitter = site.open(
            Retransmitter(
                site.player, host="127.0.0.1", port=0, counters=site.counters, faults=site.faults, **options
            )
        )
        self.udp: socket.socket = site.open(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.udp.connect(self.server.address)
        self.udp.setblocking(False)

    def ask(self, sequence: int, count: int) -> list[bytes]:
        """The packets of the answer."""
        return self.say(mold.request(SESSION, sequence, count))

    def say(self, request: bytes) -> list[bytes]:
        """Any bytes as a request; the answer."""
        self.udp.send(request)
        while self.server.turn():
            pass
        found = []
        while True:
            try:
                found.append(self.udp.recv(65536))
            except BlockingIOError:
                return found


class TestRetransmission:
    """Requests for single messages."""

    def test_the_answer_is_what_was_sent_in_as_many_packets_as_it_takes(self, site: Any, market: Any) -> None:
        site.play(market, datagram_bytes=300)
        site.through()
        sent = messages(site.arrived(0))
        asker = Asker(site)
        for first, count in ((1, 1), (1, 50), (len(market) - 3, 4), (777, 200)):
            answer = asker.ask(first, count)
            assert messages(answer) == {n: sent[n] for n in range(first, first + count)}
            assert max(map(len, answer)) <= 300
        assert site.counters[Counter.RETRANSMITTED_MESSAGES] == 255
        assert site.counters[Counter.RETRANSMISSION_REQUESTS] == 4
        assert site.counters[Counter.RETRANSMITTED_DATAGRAMS] > 4

    def test_of_a_loop_with_its_numbers_its_time_stamps_and_what_cleared_the_book(self, site: Any, tape: Any) -> None:
        halt = itch.trading_action(9, T + 99, "XYZ", "H")
        player = site.play(tape([*map(add, range(1, 11)), halt]), loop=True, datagram_bytes=200)
        for now in range(12):
            player.turn(now)
        sent = messages(site.arrived(0))
        assert site.counters[Counter.LOOPS] >= 3
        assert len({sent[n] for n in sent if sent[n][:1] == b"A"}) > 20  # time stamps differ from loop to loop
        answer = Asker(site).ask(1, len(sent))
        assert messages(answer) == sent
        assert [mold.unpack(d)[0].sequence for d in answer] == sorted(mold.unpack(d)[0].sequence for d in answer)

    def test_one_request_gets_no_more_than_so_many_packets(self, site: Any, market: Any) -> None:
        """A client that sticks to the letter of the protocol asks again for the rest: it may get a single packet."""
        site.play(market, datagram_bytes=300)
        site.through()
        sent = messages(site.arrived(0))
        assert len(Asker(site).ask(1, 2000)) == 64
        strict = Asker(site, packets=1)
        (packet,) = strict.ask(1, 2000)
        got = messages([packet])
        while len(got) < 100:
            got |= messages(strict.ask(len(got) + 1, 2000))
        assert got == {n: sent[n] for n in got}

    def test_asking_beyond_what_was_sent_gives_what_was(self, site: Any, tape: Any) -> None:
        site.play(tape([add(n) for n in range(1, 6)]))
        site.through()
        assert list(messages(Asker(site).ask(4, 100))) == [4, 5]

    @pytest.mark.parametrize(
        ("request_bytes", "counter"),
        [
            (b"", Counter.REQUESTS_MALFORMED),
            (mold.request(SESSION, 1, 1)[:19], Counter.REQUESTS_MALFORMED),
            (mold.request(SESSION, 1, 1) + b"\0", Counter.REQUESTS_MALFORMED),
            (mold.request(SESSION, 1, 0), Counter.REQUESTS_MALFORMED),
            (mold.request(b"TICKPATH02", 1, 1), Counter.REQUESTS_OTHER_SESSION),
            (mold.request(SESSION, 0, 3), Counter.REQUESTS_OUT_OF_RANGE),
            (mold.request(SESSION, 6, 1), Counter.REQUESTS_OUT_OF_RANGE),
            (mold.request(SESSION, 2**64 - 1, 0xFFFF), Counter.REQUESTS_OUT_OF_RANGE),
        ],
    )
    def test_what_cannot_be_answered_is_counted_and_not_answered(
        self, site: Any, tape: Any, request_bytes: bytes, counter: Counter
    ) -> None:
        site.play(tape([add(n) for n in range(1, 6)]))
        site.through()
        assert Asker(site).say(request_bytes) == []
        assert site.counters[counter] == 1
        assert site.counters[Counter.RETRANSMISSION_REQUESTS] == 0

    def test_a_long_answer_is_given_in_slices_so_that_nobody_waits_for_it(self, site: Any, market: Any) -> None:
        site.play(market, datagram_bytes=300)
        site.through()
        asker = Asker(site)
        asker.udp.send(mold.request(SESSION, 1, 2000))
        assert asker.server.turn()
        assert 0 < site.counters[Counter.RETRANSMITTED_DATAGRAMS] < 64
        while asker.server.turn():
            pass
        assert site.counters[Counter.RETRANSMITTED_DATAGRAMS] == 64

    def test_answers_are_lost_by_seed_and_asking_again_helps(self, site: Any, tape: Any) -> None:
        site.play(tape([add(1)]))
        site.through()
        site.faults[[Fault.LOSS_RETRANSMISSION_PPM, Fault.SEED]] = 500_000, 3
        got = [len(asker.ask(1, 1)) for asker in [Asker(site)] for _ in range(40)]
        again = [len(asker.ask(1, 1)) for asker in [Asker(site)] for _ in range(40)]
        assert got == again
        assert 10 < sum(got) < 30
        assert site.counters[Counter.RETRANSMISSIONS_LOST] == 80 - 2 * sum(got)

    def test_what_is_not_kept_any_more_is_out_of_range(self) -> None:
        """Segments of the session's own are given up from the oldest on; the tape costs nothing."""
        own = Segment(np.zeros(1000, np.uint8), np.zeros(11, np.int64), np.zeros(10, np.int64))
        history = History(kept_bytes=2 * own.nbytes)
        for number in range(5):
            history.begin(1 + 10 * number, own, 0, own=number != 2)
        assert history.first_sequence == 21
        assert history.find(20, 25) is None
        assert history.find(25, 99) == (own, 4, 10, 0)
        assert history.find(45, 48) == (own, 4, 7, 0)

    def test_a_port_in_use_is_said_plainly(self, site: Any, tape: Any) -> None:
        site.play(tape([add(1)]))
        host, port = Asker(site).server.address
        with pytest.raises(RepairError, match=rf"cannot serve retransmissions on {host}:{port}: .*feed\.retransm"):
            Retransmitter(site.player, host=host, port=port, counters=site.counters, faults=site.faults)


def serve(site: Any) -> SnapshotServer:
    """The snapshot server of what is played."""
    server: SnapshotServer = site.open(
        SnapshotServer(
            site.player, site.exchange, site.symbols, site.locates, host="127.0.0.1", port=0, username="TICKPT",
            counters=site.counters, faults=site.faults,
        )
    )  # fmt: skip
    return server


class Client:
    """Somebody who takes a snapshot."""

    def __init__(self, site: Any, server: SnapshotServer, username: str = "TICKPT", session: str = "") -> None:
        self.server = server
        self.session = ClientSession(username, "ANY", session=session)
        self.tcp: socket.socket = site.open(socket.create_connection(server.address))
        self.tcp.sendall(self.session.login(0))
        self.tcp.setblocking(False)
        self.events: list[Any] = []
        self.closed = False

    def read(self) -> None:
        """Take what is there."""
        try:
            data = self.tcp.recv(1 << 16)
        except BlockingIOError:
            return
        self.closed = not data
        self.events += self.session.receive(data, 0)

    def run(self) -> list[bytes]:
        """Let the server work until it has closed the connection; the messages."""
        while not self.closed:
            self.server.turn()
            self.read()
        return self.messages

    @property
    def messages(self) -> list[bytes]:
        """The messages so far."""
        return [event.data for event in self.events if isinstance(event, SequencedData)]


def apply(book: Book, found: Iterable[bytes]) -> Book:
    for message in found:
        apply_one(book, np.frombuffer(message, np.uint8).copy(), 0, len(message))
    return book


def book_of(site: Any, snapshot: list[bytes]) -> tuple[Book, int]:
    """A fresh book with a snapshot in it, and the number of the first live message behind it."""
    assert snapshot[-1][:1] == b"G"
    assert len(snapshot[-1]) == 21
    book = Book.create(len(site.symbols), 1 << 17, 1024)
    for index, symbol in enumerate(site.symbols):
        book.locate[site.locates[symbol]] = index
    return apply(book, snapshot[:-1]), int(snapshot[-1][1:])


def orders(book: Book) -> list[tuple[int, int, int, int]]:
    """(reference, row, price, lots) of all open orders, oldest first."""
    live = book.orders[book.orders["ref"] != 0]
    live = live[live["arrival"].argsort()]
    return [(int(o["ref"]), int(o["row"]), int(o["price_ticks"]), int(o["lots"])) for o in live]


def assert_equal(book: Book, played: Book) -> None:
    """Order by order, in the same priority, and level by level."""
    assert orders(book) == orders(played)
    for row in range(len(played.rows)):
        instrument, side = row // 2, Side(row % 2 + 1)
        assert book.side(instrument, side).tolist() == played.side(instrument, side).tolist()


class TestSnapshot:
    """Whole books over TCP."""

    def test_it_is_the_played_book_order_by_order(self, site: Any, market: Any) -> None:
        site.play(market)
        site.through()
        client = Client(site, serve(site))
        book, number = book_of(site, client.run())
        assert book.live_orders > 100
        assert_equal(book, site.exchange.book)
        assert number == site.player.next_sequence == len(market) + 1
        assert isinstance(client.events[0], LoginAccepted)
        assert client.events[0] == ("TICKPATH01", 1)
        assert isinstance(client.events[-1], EndOfSession)
        assert (site.counters[Counter.SNAPSHOTS], site.counters[Counter.SNAPSHOTS_COMPLETE]) == (1, 1)
        assert book.results() == {0: len(client.messages) - 1}

    def test_taken_in_the_middle_it_goes_on_with_the_live_messages(self, site: Any, market: Any) -> None:
        """The tape is played on while the snapshot is made and sent."""
        player = site.play(market)
        server = serve(site)
        for _ in range(2):
            player.turn(0)
        client = Client(site, server)
        while not client.closed:
            player.turn(0)
            server.turn()
            client.read()
        site.through()
        book, number = book_of(site, client.messages)
        assert 1 < number < len(market)
        live = messages(site.arrived(1))
        apply(book, [live[n] for n in range(number, len(market) + 1)])
        assert_equal(book, site.exchange.book)

    def test_who_does_not_trade_is_named(self, site: Any, tape: Any) -> None:
        pause = itch.trading_action(9, T, "XYZ", "P")
        halt = itch.encode(
            "h", stock_locate=7, tracking_number=0, timestamp=T, stock="ABC", market_code="Q", action="H"
        )
        site.play(tape([add(1), pause, halt, add(2)]))
        site.through()
        decoded = [itch.decode(message) for message in Client(site, serve(site)).run()[:-1]]
        assert [d["type"] for d in decoded] == ["R", "h", "R", "H", "A", "A"]
        assert [d["stock"] for d in decoded] == ["ABC", "ABC", "XYZ", "XYZ", "ABC", "ABC"]
        assert [d["stock_locate"] for d in decoded] == [7, 7, 9, 9, 7, 7]
        assert (decoded[1]["action"], decoded[3]["trading_state"]) == ("H", "H")
        assert {d["timestamp"] for d in decoded} == {site.exchange.state[0]}

    def test_an_empty_book_is_a_snapshot_too(self, site: Any, tape: Any) -> None:
        site.play(tape([add(1)]), speed=1)
        found = Client(site, serve(site)).run()
        assert [message[:1] for message in found] == [b"R", b"R", b"G"]
        assert found[-1] == b"G" + b"1".rjust(20)

    @pytest.mark.parametrize(
        ("login", "fault", "code"),
        [({"username": "OTHER"}, 0, "A"), ({"session": "ELSE"}, 0, "S"), ({}, 1, "A")],
    )
    def test_a_wrong_login_is_refused_and_the_connection_closed(
        self, site: Any, tape: Any, login: dict[str, str], fault: int, code: str
    ) -> None:
        site.play(tape([add(1)]))
        site.faults[Fault.REFUSE_LOGIN] = fault
        client = Client(site, serve(site), **login)
        assert client.run() == []
        assert client.events == [LoginRejected(code)]
        assert site.counters[Counter.SNAPSHOT_LOGINS_REFUSED] == 1

    def test_who_speaks_something_else_is_dropped(self, site: Any, tape: Any) -> None:
        site.play(tape([add(1)]))
        server = serve(site)
        with socket.create_connection(server.address) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while not site.counters[Counter.MALFORMED]:
                server.turn()
            assert stranger.recv(10) == b""
        assert site.counters[Counter.SNAPSHOT_SESSIONS] == 0

    def test_a_big_book_goes_out_bit_by_bit_while_the_tape_goes_on(self, site: Any, tape: Any) -> None:
        """A client that does not read holds up nobody: neither the tape nor other clients. It gets its book later."""
        n = 50_000
        player = site.play(tape([add(ref) for ref in range(1, n + 1)]))
        while player.next_sequence <= n - 5000:
            player.turn(0)
        server = serve(site)
        slow = Client(site, server)
        while not site.counters[Counter.SNAPSHOTS]:
            server.turn()
        first = player.next_sequence
        quick = Client(site, server)
        while not quick.closed:
            server.turn()
            player.turn(0)
            quick.read()
        assert player.finished
        assert slow.events == []
        late, number = book_of(site, slow.run())
        assert number == first
        assert orders(late) == orders(site.exchange.book)[: first - 1]
        other, _ = book_of(site, quick.messages)
        assert orders(other) == orders(site.exchange.book)[: other.live_orders]
        assert site.counters[Counter.SNAPSHOT_SESSIONS] == 2
        server.turn()

    def test_who_goes_away_in_the_middle_is_forgotten(self, site: Any, tape: Any) -> None:
        player = site.play(tape([add(ref) for ref in range(1, 20_000)]))
        site.through()
        server = serve(site)
        client = Client(site, server)
        while not client.events:
            server.turn()
            client.read()
        client.tcp.close()
        while site.counters[Counter.SNAPSHOT_SESSIONS]:
            server.turn()
        assert player.finished

    def test_silence_for_too_long_ends_a_connection(self, site: Any, tape: Any) -> None:
        site.play(tape([add(1)]))
        server = serve(site)
        with socket.create_connection(server.address) as silent:
            while not site.counters[Counter.SNAPSHOT_SESSIONS]:
                server.turn()
            server.tend(0)
            assert site.counters[Counter.SNAPSHOT_SESSIONS] == 1
            server.tend(2**62)
            assert silent.recv(10) == b""
        assert site.counters[Counter.SLOW_CLIENTS] == 1


class TestLive:
    """A market that is played while it happens."""

    EMPTY = staticmethod(lambda: no_tape({"ABC": 7, "XYZ": 9}, "by hand", {}, 1000))

    def segment(self, tape: Any, first: int, last: int) -> Segment:
        made = tape([add(ref) for ref in range(first, last + 1)])
        return Segment(made.data, made.offsets, made.time_ns)

    def test_what_is_pushed_leaves_at_once_under_the_next_numbers(self, site: Any, tape: Any) -> None:
        player = site.play(self.EMPTY(), live=True, speed=1.0)
        assert player.turn(5) == 0
        player.push(self.segment(tape, 1, 3))
        assert player.next_due_ns() == 0
        assert player.turn(6) == 3
        assert player.next_due_ns() == 1_000_000_000 + 6
        player.push(self.segment(tape, 4, 4))
        player.push(self.segment(tape, 5, 6))
        assert player.turn(7) == 3
        assert messages(site.arrived(0)) == {n: add(n) for n in range(1, 7)}
        assert [o[0] for o in orders(site.exchange.book)] == [1, 2, 3, 4, 5, 6]

    def test_a_quiet_market_beats_and_its_end_is_the_end_of_the_session(self, site: Any, tape: Any) -> None:
        player = site.play(self.EMPTY(), live=True)
        player.push(self.segment(tape, 1, 3))
        player.turn(0)
        site.arrived(1)
        player.turn(10**9)
        player.finish()
        player.turn(2 * 10**9)
        kinds = [mold.unpack_header(d).n_messages for d in site.arrived(1)]
        assert kinds == [mold.HEARTBEAT, mold.END_OF_SESSION]

    def test_long_runs_are_kept_in_chunks_and_can_be_asked_for_and_taken_as_a_book(
        self, site: Any, tape: Any
    ) -> None:
        """70,000 messages are more than two chunks; requests over the seam are answered in full."""
        player = site.play(self.EMPTY(), live=True)
        ready = self.segment(tape, 1, 70_000)
        for first in range(0, 70_000, 700):
            offsets = ready.offsets[first : first + 701]
            player.push(Segment(ready.data, offsets.copy(), ready.time_ns[first : first + 700]))
            while player.turn(0):
                pass
        sent = messages(site.arrived(0))
        assert player.next_sequence == 70_001
        asker = Asker(site)
        seams = [n for n in range(1, 70_001) if player.history.find(n, 70_001).first == 0]
        assert len(seams) == 3
        for seam in seams[1:]:
            answer = messages(asker.ask(seam - 50, 100))
            assert answer == {n: add(n) for n in range(seam - 50, seam + 50)}
            assert all(sent.get(n, raw) == raw for n, raw in answer.items())
        book, number = book_of(site, Client(site, serve(site)).run())
        assert number == 70_001
        assert_equal(book, site.exchange.book)

    def test_it_is_not_asked_for_more_than_can_wait(self, site: Any, tape: Any) -> None:
        player = site.play(self.EMPTY(), live=True)
        assert player.takes_more
        big = self.segment(tape, 1, 40_000)
        player.push(big)
        player.stop()
        assert not player.takes_more
        player.start(0)
        assert player.takes_more
        player.push(self.segment(tape, 40_001, 80_000))
        assert not player.takes_more
        assert site.counters[Counter.MESSAGES_WAITING] == 80_000
        while player.turn(0):
            pass
        assert player.takes_more
        assert site.counters[Counter.MESSAGES_WAITING] == 0
        assert player.next_sequence == 80_001

    def test_what_does_not_fit_a_datagram_and_steps_are_refused(self, site: Any, tape: Any) -> None:
        player = site.play(self.EMPTY(), live=True, datagram_bytes=100)
        with pytest.raises(PlayerError, match="a message of 90 bytes fits no datagram of 100"):
            made = tape([bytes(90)])
            player.push(Segment(made.data, made.offsets, made.time_ns))
        with pytest.raises(PlayerError, match=r'sim\.speed = "step" needs a tape'):
            site.play(self.EMPTY(), live=True, speed="step")
