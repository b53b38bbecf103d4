"""What the simulated exchange costs by itself: ``python bench/exchange.py``.

Timed, in processor time of its thread and so free of what else runs (but not of what it does to the caches): a turn
of the player as fast as it goes (pack, stamp, one `sendto` per datagram with the delivery into a socket that is read
in between, reading not timed), once alone and once with the venue behind it (book and matching); and an order that
fills at once, from its OUCH bytes to its reports in the log. Then the same without sockets and Python, as replay
runs it: every datagram packed in steps and matched, and orders in one stream. Left out: the sockets of order entry,
the loop around.
Data: a generated market, 24 instruments, the same bytes every time.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.kernels.net import DatagramReceiver
from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.protocols.soupbintcp import UNSEQUENCED, packet
from tickpath.common.records import format_cl_ord_id, pack_cl_ord_id
from tickpath.common.udp import open_udp_socket
from tickpath.sim.kernels.matching import CLOSED, Exchange
from tickpath.sim.kernels.offline import play_all
from tickpath.sim.layout import Counter
from tickpath.sim.offline import OfflineExchange
from tickpath.sim.player import Player, Segment
from tickpath.sim.sources.generator import generate_tape
from tickpath.sim.sources.tape import Tape
from tickpath.sim.venue import Venue

_ORDERS = 5000


class Nobody:
    """A listener that keeps no book."""

    def played(self, segment: Segment, first: int, last: int, shift_ns: int) -> None:
        """Nothing."""

    def clearing(self, time_ns: int, spacing_ns: int) -> Segment:
        """Nothing to clear."""
        return Segment(np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64))


def _venue(tape: Tape, counters: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Venue:
    symbols = tuple(tape.symbols)
    return Venue(Exchange.create(len(symbols), 1 << 17, 2048, counters=counters), symbols, tape.symbols)


def _play(tape: Tape, with_venue: bool) -> Venue:
    counters = np.zeros(len(Counter), np.int64)
    venue = _venue(tape, counters)
    udp, _ = open_udp_socket("127.0.0.1", 0, 4 << 20)
    receiver = DatagramReceiver(udp.fileno(), 64, 2048)
    player = Player(
        tape,
        venue if with_venue else Nobody(),
        host="127.0.0.1",
        port=udp.getsockname()[1],
        counters=counters,
        late_hist=np.zeros(HIST_SIZE, np.int64),
        speed="max",
    )
    player.out_ns[:] = 0
    player.start(0)
    used = turns = 0
    while not player.finished:
        begin = time.thread_time_ns()
        player.turn(0)
        used += time.thread_time_ns() - begin
        turns += 1
        while receiver.receive() > 0:
            pass
    datagrams = int(counters[Counter.DATAGRAMS_SENT])
    name = "with the venue" if with_venue else "alone"
    sys.stdout.write(
        f"player {name}: {len(tape) / used * 1e3:.2f} million messages/s,"
        f" {used / datagrams / 1e3:.1f} us per datagram of {len(tape) / datagrams:.0f} messages,"
        f" {used / turns / 1e3:.0f} us per turn\n"
    )
    player.close()
    udp.close()
    return venue


def _orders(symbols: tuple[str, ...]) -> list[bytes]:
    return [
        ouch.ENTER_ORDER.encode(
            user_ref_num=number, side="B", quantity=10, symbol=symbols[number % len(symbols)],
            price=ouch.MARKET_PRICE, time_in_force="3", display="Y", capacity="P", iso="N", cross_type="N",
            cl_ord_id=format_cl_ord_id(pack_cl_ord_id(1, 0, number, 0)),
        )
        for number in range(1, _ORDERS + 1)
    ]  # fmt: skip


def _trade(venue: Venue) -> None:
    account = venue.account("bench")
    orders = _orders(venue.symbols)
    begin = time.thread_time_ns()
    for order in orders:
        venue.receive(account, order, 0)
    used = time.thread_time_ns() - begin
    sys.stdout.write(f"order that fills at once: {used / _ORDERS / 1e3:.1f} us\n")


def _offline(tape: Tape) -> None:
    symbols = tuple(tape.symbols)
    exchange = OfflineExchange(tape, symbols)
    exchange.take_reports()
    begin = time.thread_time_ns()
    played = play_all(exchange.replay)
    used = time.thread_time_ns() - begin
    sys.stdout.write(f"offline, in steps: {played / used * 1e3:.2f} million messages/s\n")
    exchange.replay.exchange.state[CLOSED] = 0  # the tape ends with the day
    packets = b"".join(packet(UNSEQUENCED, order) for order in _orders(symbols))
    stream = np.frombuffer(packets, np.uint8)
    begin = time.thread_time_ns()
    exchange.take_orders(stream)
    used = time.thread_time_ns() - begin
    sys.stdout.write(f"offline, order that fills at once: {used / _ORDERS:.0f} ns\n")


if __name__ == "__main__":
    market = generate_tape(1, seconds=30, rate=20_000)
    _play(market, with_venue=False)
    _trade(_play(market, with_venue=True))
    _offline(market)
