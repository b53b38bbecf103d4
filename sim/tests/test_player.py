"""The tape goes out when it is due, whole, numbered and stamped; and it goes wrong on request. Time is injected."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickpath.common.histogram import COUNT, HIST_SIZE
from tickpath.common.protocols import itch50 as itch
from tickpath.common.protocols import moldudp64 as mold
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.player import QUANTUM_NS, Player, PlayerError
from tickpath.sim.sources.load import load_tape
from tickpath.sim.venue import Venue

T = 34_200_000_000_000
MS = 1_000_000
DATA = Path(__file__).parents[3] / "shared" / "data" / "itch"


class Wire:
    """A listener on loopback, and players that send to it."""

    def __init__(self) -> None:
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.setblocking(False)
        self.counters = np.zeros(len(Counter), np.int64)
        self.late = np.zeros(HIST_SIZE, np.int64)
        self.faults = np.zeros(len(Fault), np.int64)
        self.exchange = Exchange.create(2, 10_000, 256, counters=self.counters)
        self.venue = Venue(self.exchange, ("ABC", "XYZ"), {"ABC": 7, "XYZ": 9})
        self.players: list[Player] = []

    def player(self, tape: Any, **options: Any) -> Player:
        self.players.append(
            Player(
                tape,
                self.venue,
                host="127.0.0.1",
                port=self.udp.getsockname()[1],
                counters=self.counters,
                late_hist=self.late,
                faults=self.faults,
                **options,
            )
        )
        return self.players[-1]

    def datagrams(self) -> list[bytes]:
        """What has arrived since the last call; loopback delivers within the call that sends."""
        found = []
        while True:
            try:
                found.append(self.udp.recv(65536))
            except BlockingIOError:
                return found

    def messages(self) -> list[tuple[int, bytes]]:
        """(number, message) of all blocks that have arrived."""
        found = []
        for datagram in self.datagrams():
            header, blocks = mold.unpack(datagram)
            found += [(header.sequence + k, bytes(block)) for k, block in enumerate(blocks)]
        return found

    def close(self) -> None:
        for player in self.players:
            player.close()
        self.udp.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def adds(n: int) -> list[bytes]:
    return [itch.add_order(7, T + i, i + 1, "B", 100, "ABC", 100_000 + 100 * i) for i in range(n)]


def every(tape: Any, n: int, step_ns: int) -> Any:
    return tape(adds(n), range(T, T + n * step_ns, step_ns))


def test_a_message_leaves_when_it_is_due_and_not_before(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 3, MS))
    player.start(5 * MS)
    assert [player.turn(now) for now in (5 * MS, 6 * MS - 1, 6 * MS, 7 * MS - 1, 7 * MS)] == [1, 0, 1, 0, 1]
    assert wire.messages() == list(enumerate(adds(3), start=1))


@pytest.mark.parametrize(("options", "due"), [({"speed": 3}, 301), ({"rate": 2000}, 201), ({}, 101)])
def test_the_pace_follows_speed_or_rate(wire: Wire, tape: Any, options: Any, due: int) -> None:
    player = wire.player(every(tape, 1000, MS), **options)
    player.start(0)
    assert player.turn(100 * MS) == due


def test_next_due_is_the_time_at_which_a_turn_does_something(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 5, MS), speed=3)
    player.start(0)
    now, sent = 0, 0
    while not player.finished:
        due = player.next_due_ns()
        assert player.turn(due - 1) == 0 or due <= now
        now = due
        sent += player.turn(now)
    assert sent == 5


def test_what_is_late_leaves_in_larger_datagrams_and_is_counted(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 200, MS))
    player.start(0)
    assert player.turn(50 * MS) == 51
    assert len(wire.datagrams()) == 2  # 51 blocks of 38 bytes, 36 to a datagram of 1400
    assert wire.counters[Counter.LATE_NS_MAX] == 50 * MS
    assert wire.late[COUNT] == 1


def test_messages_due_within_a_quantum_leave_together(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 10, QUANTUM_NS // 5))
    player.start(0)
    assert player.turn(0) == 1
    assert player.turn(QUANTUM_NS - 1) == 0
    assert player.turn(QUANTUM_NS) == 5


def test_in_steps_a_datagram_leaves_when_it_is_asked_for_and_never_by_itself(wire: Wire, tape: Any) -> None:
    """Its messages are those within a quantum of the first one, whatever the clock says; the size still bounds it."""
    times = [T, T + QUANTUM_NS, T + QUANTUM_NS + 1, T + 3 * QUANTUM_NS, *[T + 9 * QUANTUM_NS] * 50]
    player = wire.player(tape(adds(54), times), speed="step")
    assert player.step(0) == 0
    player.start(0)
    assert player.turn(5000 * MS) == 0
    wire.datagrams()  # a heartbeat
    assert [player.step(5000 * MS) for _ in range(5)] == [2, 1, 1, 36, 14]
    assert [len(mold.unpack(datagram)[1]) for datagram in wire.datagrams()] == [2, 1, 1, 36, 14]
    assert player.finished
    assert player.step(5000 * MS) == 0
    assert wire.exchange.book.live_orders == 54


def test_steps_stop_and_go_on_with_the_tape(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 4, MS), speed="step")
    player.start(0)
    assert player.step(0) == 1
    player.stop()
    assert player.step(0) == 0
    player.start(0)
    assert [player.step(0) for _ in range(4)] == [1, 1, 1, 0]
    assert [number for number, _ in wire.messages()] == [1, 2, 3, 4]


def test_a_turn_is_a_bounded_slice(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 3000, 0 + 1), speed="max", datagram_bytes=60_000)
    player.start(0)
    assert player.turn(0) == 500
    assert player.turn(1) == 500
    assert player.next_due_ns() <= 1


def test_stopping_holds_the_tape_and_starting_goes_on_without_a_burst(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 100, MS))
    player.start(0)
    player.turn(10 * MS)
    player.stop()
    assert player.turn(50 * MS) == 0
    player.start(60 * MS)
    assert [player.turn(60 * MS), player.turn(61 * MS)] == [1, 1]
    assert player.next_sequence == 14


def test_datagrams_keep_to_their_size_and_every_message_has_its_number(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 40, 1), speed="max", datagram_bytes=100)
    player.start(0)
    while not player.finished:
        player.turn(0)
    datagrams = wire.datagrams()
    assert max(map(len, datagrams)) <= 100
    assert [mold.unpack(d)[0].sequence for d in datagrams] == list(range(1, 41, 2))
    assert wire.counters[Counter.MESSAGES_SENT] == 40


def test_every_message_has_the_stamp_of_its_datagram(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 80, 1), speed="max")
    before = time.monotonic_ns()
    player.start(0)
    player.turn(0)
    after = time.monotonic_ns()
    stamps = player.out_ns[1:81]
    assert before <= stamps[0] <= stamps[-1] <= after
    assert (np.diff(stamps) >= 0).all()
    assert len(set(stamps.tolist())) == 3


def test_a_quiet_session_beats_once_a_second_with_the_next_number(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 2, 10_000 * MS))
    player.start(0)
    player.turn(0)
    wire.datagrams()
    player.turn(999 * MS)
    player.turn(1000 * MS)
    player.turn(1999 * MS)
    assert [mold.unpack_header(d) for d in wire.datagrams()] == [(b"TICKPATH01", 2, mold.HEARTBEAT)]


def test_the_end_of_the_tape_is_the_end_of_the_session(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 2, 1), speed="max")
    player.start(0)
    player.turn(0)
    wire.datagrams()
    player.turn(1000 * MS)
    assert [mold.unpack_header(d) for d in wire.datagrams()] == [(b"TICKPATH01", 3, mold.END_OF_SESSION)]
    assert player.finished
    player.start(2000 * MS)
    assert player.turn(2000 * MS) == 0


def test_a_loop_begins_with_an_empty_book_and_goes_on_in_numbers_and_time(wire: Wire, tape: Any) -> None:
    halt = itch.trading_action(9, T + 3, "XYZ", "H")
    player = wire.player(tape([*adds(3), halt]), loop=True, speed="max")
    player.start(0)
    for now in range(3):
        player.turn(now)
    sent = wire.messages()
    assert [number for number, _ in sent] == list(range(1, len(sent) + 1))
    decoded = [itch.decode(message) for _, message in sent]
    assert [d["type"] for d in decoded] == [*"AAAH", *"DDDH", *"AAAH"]
    assert {d["order_ref"] for d in decoded[4:7]} == {1, 2, 3}
    assert (decoded[7]["stock"], decoded[7]["trading_state"]) == ("XYZ", "T")
    assert [d["timestamp"] for d in decoded] == sorted(d["timestamp"] for d in decoded)
    assert wire.counters[Counter.BOOK_ANOMALIES] == 0
    assert wire.counters[Counter.LOOPS] == 1


def test_time_stamps_of_a_long_loop_stay_within_the_day(wire: Wire, tape: Any) -> None:
    last = itch.NS_PER_DAY - 1
    player = wire.player(tape(adds(2), [T, last]), loop=True, speed="max")
    player.start(0)
    for now in range(4):
        player.turn(now)
    stamps = [itch.decode(message)["timestamp"] for _, message in wire.messages()]
    assert len(stamps) >= 6
    assert stamps[0] == T
    assert set(stamps[2:]) == {last}


def test_a_loop_keeps_the_pace(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 10, MS), loop=True, rate=1000)
    player.start(0)
    sent = sum(player.turn(now * MS // 2) for now in range(201))
    assert sent == 101


def spoil(wire: Wire, tape: Any, fault: Fault, n: int, messages: int = 8) -> list[bytes]:
    """Datagrams of a message each, with every n-th one spoiled."""
    wire.faults[fault] = n
    player = wire.player(every(tape, messages, MS))
    player.start(0)
    for now in range(messages):
        player.turn(now * MS)
    return wire.datagrams()


def numbers(datagrams: list[bytes]) -> list[int]:
    return [mold.unpack(d)[0].sequence for d in datagrams]


def test_drop_every_third_datagram(wire: Wire, tape: Any) -> None:
    assert numbers(spoil(wire, tape, Fault.DROP_EVERY, 3)) == [1, 2, 4, 5, 7, 8]
    assert wire.counters[Counter.FAULTS_INJECTED] == 2
    assert wire.counters[Counter.MESSAGES_SENT] == 8


def test_duplicate_every_third_datagram(wire: Wire, tape: Any) -> None:
    assert numbers(spoil(wire, tape, Fault.DUPLICATE_EVERY, 3)) == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8]


def test_reorder_every_third_datagram(wire: Wire, tape: Any) -> None:
    assert numbers(spoil(wire, tape, Fault.REORDER_EVERY, 3)) == [1, 2, 4, 3, 5, 7, 6, 8]


def test_truncate_every_third_datagram(wire: Wire, tape: Any) -> None:
    datagrams = spoil(wire, tape, Fault.TRUNCATE_EVERY, 3)
    assert [len(d) for d in datagrams] == [58, 58, 29, 58, 58, 29, 58, 58]


def test_garbage_before_every_third_datagram_is_the_same_for_the_same_seed(wire: Wire, tape: Any) -> None:
    wire.faults[Fault.SEED] = 7
    first = spoil(wire, tape, Fault.GARBAGE_EVERY, 3)
    assert len(first) == 10
    assert len({*first} & {*spoil(wire, tape, Fault.GARBAGE_EVERY, 3)}) == 10
    wire.faults[Fault.SEED] = 9
    assert first[2] != spoil(wire, tape, Fault.GARBAGE_EVERY, 3)[2]


def test_an_address_that_does_not_exist_is_said_plainly(wire: Wire, tape: Any) -> None:
    with pytest.raises(PlayerError, match=r"feed\.host = 'no\.such\.host\.invalid'"):
        Player(
            every(tape, 1, 1), wire.venue, host="no.such.host.invalid", port=1, counters=wire.counters,
            late_hist=wire.late,
        )  # fmt: skip


def test_a_listener_that_is_away_changes_nothing(wire: Wire, tape: Any) -> None:
    player = wire.player(every(tape, 5, MS))
    wire.udp.close()
    player.start(0)
    assert [player.turn(now * MS) for now in range(5)] == [1] * 5
    assert wire.counters[Counter.SEND_ERRORS] == 0


def test_multicast_on_loopback_reaches_who_has_joined(tape: Any, wire: Wire) -> None:
    group = "239.192.77.1"
    member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    member.bind((group, 0))
    try:
        join = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
    except OSError as error:
        pytest.skip(f"LOUD: this machine has no multicast on loopback ({error})")
    member.settimeout(5)
    player = Player(
        every(tape, 1, 1), wire.venue, host=group, port=member.getsockname()[1], counters=wire.counters,
        late_hist=wire.late,
    )  # fmt: skip
    player.start(0)
    player.turn(0)
    assert mold.unpack(member.recv(2000))[0].sequence == 1
    player.close()
    member.close()


def test_real_data_arrives_byte_for_byte(wire: Wire) -> None:
    path = DATA / "nasdaq_itch50_20200130_AAPL_first10000.itch"
    if not path.exists():
        pytest.skip(f"LOUD: the recorded data is not there: {path}")
    player = wire.player(load_tape([path]), speed="max")
    player.start(0)
    arrived = []
    while not player.finished:
        player.turn(0)
        arrived += wire.messages()
    assert [number for number, _ in arrived] == list(range(1, 10_001))
    assert b"".join(itch.frame(message) for _, message in arrived) == path.read_bytes()
