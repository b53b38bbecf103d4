"""Two lines carry the same bytes, and go wrong by seed, each by itself. Time is injected."""

from __future__ import annotations

import socket
import time
from typing import Any

import numpy as np
import pytest

from tickpath.common.protocols import itch50 as itch
from tickpath.common.protocols import moldudp64 as mold
from tickpath.sim.kernels import wire
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.player import Line, Player, PlayerError

T = 34_200_000_000_000
TENTH = 100_000  # parts per million
ALL = 1_000_000
N = 1000


@pytest.fixture
def adds(tape: Any) -> Any:
    """Function that makes a tape of n Add Orders, each of which fills a datagram of 80 bytes."""
    add = itch.add_order
    return lambda n: tape([add(7, T + i, i + 1, "B", 100, "ABC", 100_000 + 100 * (i % 50)) for i in range(n)])


def numbers(datagrams: list[bytes]) -> list[int]:
    return [mold.unpack(datagram)[0].sequence for datagram in datagrams]


def run(site: Any, tape: Any, **faults: int) -> tuple[list[int], list[int]]:
    """Numbers of the packets that arrive on A and B when a tape is played with these faults."""
    site.faults[:] = 0
    for name, value in faults.items():
        site.faults[Fault[name.upper()]] = value
    site.play(tape, datagram_bytes=80)
    site.through()
    for now in (10**9 - 1, 2 * 10**9 - 1):  # what was held back; no second of silence yet
        if site.counters[Counter.HELD]:
            site.player.turn(now)
    return tuple(numbers([d for d in site.arrived(line) if d[18:20] != b"\xff\xff"]) for line in (0, 1))  # type: ignore[return-value]


def test_both_lines_carry_the_same_bytes_to_the_end_of_the_session(site: Any, adds: Any) -> None:
    player = site.play(adds(100))
    site.through()
    player.turn(10**9)
    a, b = site.arrived(0), site.arrived(1)
    assert a == b
    assert sum(len(mold.unpack(datagram)[1]) for datagram in a) == 100
    assert mold.unpack_header(a[-1]).n_messages == mold.END_OF_SESSION
    both, only_b = site.counters[[Counter.DATAGRAMS_SENT, Counter.LINE_B_DATAGRAMS_SENT]]
    assert both == 2 * only_b == 2 * len(a[:-1])
    assert site.counters[Counter.MESSAGES_SENT] == 100


def test_without_a_second_line_nothing_is_sent_there(site: Any, adds: Any) -> None:
    site.play(adds(100), lines=1)
    site.through()
    assert len(site.arrived(0)) == site.counters[Counter.DATAGRAMS_SENT]
    assert site.arrived(1) == []
    assert site.counters[Counter.LINE_B_DATAGRAMS_SENT] == 0


def test_the_same_seed_loses_the_same_packets_and_another_one_others(site: Any, adds: Any) -> None:
    first = run(site, adds(N), seed=5, loss_a_ppm=TENTH, loss_b_ppm=TENTH)
    assert run(site, adds(N), seed=5, loss_a_ppm=TENTH, loss_b_ppm=TENTH) == first
    other = run(site, adds(N), seed=6, loss_a_ppm=TENTH, loss_b_ppm=TENTH)
    assert other[0] != first[0]
    assert other[1] != first[1]


def test_the_lines_lose_independently_of_each_other(site: Any, adds: Any) -> None:
    a, b = run(site, adds(N), seed=5, loss_a_ppm=TENTH, loss_b_ppm=TENTH)
    lost_a, lost_b = (set(range(1, N + 1)) - set(line) for line in (a, b))
    assert (len(lost_a), len(lost_b)) == tuple(site.counters[[Counter.LINE_A_LOST, Counter.LINE_B_LOST]])
    assert 70 < len(lost_a) < 130
    assert 70 < len(lost_b) < 130
    assert 2 < len(lost_a & lost_b) < 25
    assert site.counters[Counter.FAULTS_INJECTED] == len(lost_a) + len(lost_b)
    assert run(site, adds(N), seed=5, loss_a_ppm=TENTH) == (a, list(range(1, N + 1)))


def test_what_is_lost_does_not_depend_on_what_else_goes_wrong(site: Any, adds: Any) -> None:
    plain, _ = run(site, adds(N), seed=5, loss_a_ppm=TENTH)
    spoiled, _ = run(site, adds(N), seed=5, loss_a_ppm=TENTH, duplicate_a_ppm=TENTH, reorder_a_ppm=TENTH)
    assert set(plain) == set(spoiled)
    assert plain != spoiled


def test_a_larger_share_loses_the_same_packets_and_more(site: Any, adds: Any) -> None:
    few, _ = run(site, adds(N), seed=5, loss_a_ppm=TENTH)
    fewer, _ = run(site, adds(N), seed=5, loss_a_ppm=2 * TENTH)
    assert set(fewer) < set(few)


def test_duplicates_arrive_twice_in_a_row(site: Any, adds: Any) -> None:
    a, b = run(site, adds(N), seed=5, duplicate_a_ppm=TENTH)
    assert sorted(set(a)) == b == list(range(1, N + 1))
    assert a == sorted(a)
    assert len(a) - N == site.counters[Counter.DUPLICATED] > 70


def test_reordered_packets_are_overtaken_by_one_to_four_and_none_is_lost(site: Any, adds: Any) -> None:
    a, b = run(site, adds(N), seed=5, reorder_b_ppm=TENTH // 10)
    assert a == list(range(1, N + 1))
    assert sorted(b) == a
    overtakers = {sum(later > number for later in b[:at]) for at, number in enumerate(b)} - {0}
    assert overtakers == {1, 2, 3, 4}
    assert site.counters[Counter.REORDERED] > 5


def test_a_packet_that_nobody_overtakes_leaves_all_the_same(site: Any, adds: Any) -> None:
    site.faults[Fault.REORDER_A_PPM] = ALL
    player = site.play(adds(1))
    site.through()
    assert site.arrived(0) == []
    assert player.next_due_ns() < 10**9
    player.turn(player.next_due_ns())
    assert numbers(site.arrived(0)) == [1]


def test_delayed_packets_leave_when_their_time_has_come_and_not_before(site: Any, adds: Any) -> None:
    site.faults[[Fault.DELAY_A_PPM, Fault.DELAY_US, Fault.SEED]] = ALL, 1000, 5
    player = site.play(adds(10), datagram_bytes=80)
    site.through()
    assert (site.arrived(0), len(site.arrived(1))) == ([], 10)
    assert site.counters[Counter.HELD] == site.counters[Counter.DELAYED] == 10
    arrived, times = [], []
    while site.counters[Counter.HELD]:
        due = player.next_due_ns()
        player.turn(due - 1)
        assert site.arrived(0) == []
        player.turn(due)
        times.append(due)
        arrived += numbers(site.arrived(0))
    assert sorted(arrived) == list(range(1, 11)) != arrived
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] <= 1_000_000


def test_when_as_many_are_held_as_can_be_the_others_leave_at_once(site: Any, adds: Any) -> None:
    site.faults[[Fault.DELAY_A_PPM, Fault.DELAY_US]] = ALL, 1000
    player = site.play(adds(100), datagram_bytes=80)
    site.through()
    at_once = numbers(site.arrived(0))
    assert len(at_once) == 100 - wire.SLOTS
    player.turn(1_000_000)
    assert sorted([*at_once, *numbers(site.arrived(0))]) == list(range(1, 101))


def test_every_nth_fault_spoils_the_packet_on_both_lines(site: Any, adds: Any) -> None:
    assert run(site, adds(8), drop_every=3) == ([1, 2, 4, 5, 7, 8],) * 2
    assert run(site, adds(8), reorder_every=3) == ([1, 2, 4, 3, 5, 7, 6, 8],) * 2


class TestStamps:
    """The stamp of a message is when its first copy left."""

    def play(self, site: Any, tape: Any) -> tuple[int, int]:
        """Play; the time before and after."""
        before = time.monotonic_ns()
        site.play(tape)
        site.through()
        return before, time.monotonic_ns()

    def test_of_a_copy_on_line_b_when_line_a_holds_its_own_back(self, site: Any, adds: Any) -> None:
        site.faults[[Fault.DELAY_A_PPM, Fault.DELAY_US]] = ALL, 1000
        before, after = self.play(site, adds(3))
        stamps = site.player.out_ns[1:4].copy()
        assert before <= stamps.min() <= stamps.max() <= after
        site.player.turn(1_000_000)
        assert len(site.arrived(0)) == 1
        assert (site.player.out_ns[1:4] == stamps).all()

    def test_of_the_first_copy_that_is_let_go_when_both_were_held_back(self, site: Any, adds: Any) -> None:
        site.faults[[Fault.DELAY_A_PPM, Fault.DELAY_B_PPM, Fault.DELAY_US]] = ALL, ALL, 1000
        _, after = self.play(site, adds(3))
        assert (site.player.out_ns[1:4] <= after).all()  # who asks meanwhile finds no older message's time
        assert (site.player.out_ns[1:4] > 0).all()
        site.player.turn(site.player.next_due_ns())
        stamps = site.player.out_ns[1:4].copy()
        assert (stamps > after).all()
        site.player.turn(1_000_000)
        assert (len(site.arrived(0)), len(site.arrived(1))) == (1, 1)
        assert (site.player.out_ns[1:4] == stamps).all()

    def test_of_the_loss_when_no_copy_left(self, site: Any, adds: Any) -> None:
        site.faults[[Fault.LOSS_A_PPM, Fault.LOSS_B_PPM]] = ALL
        before, after = self.play(site, adds(3))
        assert (site.arrived(0), site.arrived(1)) == ([], [])
        assert before <= site.player.out_ns[1] == site.player.out_ns[3] <= after


def test_a_group_on_the_second_line_reaches_who_has_joined(site: Any, adds: Any) -> None:
    group = "239.192.77.2"
    member = site.open(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    member.bind((group, 0))
    try:
        join = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
    except OSError as error:
        pytest.skip(f"LOUD: this machine has no multicast on loopback ({error})")
    member.settimeout(5)
    player = site.play(adds(1), lines=1, line_b=Line(group, member.getsockname()[1]))
    player.turn(0)
    assert [member.recv(2000)] == site.arrived(0)


def test_a_wrong_address_of_the_second_line_is_said_plainly(site: Any, adds: Any) -> None:
    with pytest.raises(PlayerError, match=r"feed\.line_b_host = 'no\.such\.host\.invalid'"):
        Player(
            adds(1), site, host="127.0.0.1", port=1, counters=site.counters, late_hist=np.zeros(1, np.int64),
            line_b=Line("no.such.host.invalid", 1),
        )  # fmt: skip
