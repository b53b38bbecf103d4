"""What the simulated exchange costs by itself: ``python bench/exchange.py``.

Timed, in processor time of its thread and so free of what else runs (but not of what it does to the caches): a turn
of the player as fast as it goes (pack, stamp, one `sendto` per datagram with the delivery into a socket that is read
in between, reading not timed), alone, on two lines that lose 5% each, and with the venue behind it (book and
matching); an order that fills at once, from its OUCH bytes to its reports in the log; a snapshot of 100,000 orders,
from the login to the bytes that are to be sent. Then the same without sockets and Python, as replay runs it: every
datagram packed in steps and matched, and orders in one stream. Left out: the sockets of order entry, the loop around.
Data: a generated market, 24 instruments, the same bytes every time.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.kernels.book import add
from tickpath.common.kernels.net import DatagramReceiver
from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.protocols.soupbintcp import UNSEQUENCED, packet
from tickpath.common.records import format_cl_ord_id, pack_cl_ord_id
from tickpath.common.udp import open_udp_socket
from tickpath.sim.kernels.matching import CLOSED, Exchange
from tickpath.sim.kernels.offline import play_all
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.offline import OfflineExchange
from tickpath.sim.player import Line, Player, Segment, no_tape
from tickpath.sim.repair import SnapshotServer
from tickpath.sim.sources.generator import generate_tape
from tickpath.sim.sources.tape import Tape
from tickpath.sim.venue import Venue

_ORDERS = 5000
_BOOK = 100_000


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


def _play(tape: Tape, with_venue: bool, lines: int = 1) -> Venue:
    counters = np.zeros(len(Counter), np.int64)
    venue = _venue(tape, counters)
    faults = np.zeros(len(Fault), np.int64)
    faults[[Fault.LOSS_A_PPM, Fault.LOSS_B_PPM]] = 50_000 * (lines - 1)
    udp, _ = open_udp_socket("127.0.0.1", 0, 4 << 20)
    receiver = DatagramReceiver(udp.fileno(), 64, 2048)
    player = Player(
        tape,
        venue if with_venue else Nobody(),
        host="127.0.0.1",
        port=udp.getsockname()[1],
        counters=counters,
        late_hist=np.zeros(HIST_SIZE, np.int64),
        faults=faults,
        speed="max",
        line_b=Line("127.0.0.1", udp.getsockname()[1]) if lines == 2 else None,
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
    name = "with the venue" if with_venue else "alone" if lines == 1 else "on two lines"
    sys.stdout.write(
        f"player {name}: {len(tape) / used * 1e3:.2f} million messages/s,"
        f" {used / datagrams / 1e3:.1f} us per datagram of {len(tape) / datagrams:.0f} messages,"
        f" {used / turns / 1e3:.0f} us per turn\n"
    )
    player.close()
    udp.close()
    return venue


def _snapshot() -> None:
    counters = np.zeros(len(Counter), np.int64)
    exchange = Exchange.create(24, 1 << 17, 2048, counters=counters)
    symbols = tuple(f"S{i}" for i in range(24))
    for ref in range(1, _BOOK + 1):
        add(exchange.book, ref % 24, 1 + ref // 24 % 2, ref * 7 % 1_000_003, 1 + ref * 31 % 2000, 100)
    tape = no_tape({symbol: i + 1 for i, symbol in enumerate(symbols)}, "none", {}, _BOOK)
    hist = np.zeros(HIST_SIZE, np.int64)
    player = Player(tape, Nobody(), host="127.0.0.1", port=9, counters=counters, late_hist=hist, live=True)
    server = SnapshotServer(
        player, exchange, symbols, tape.symbols, host="127.0.0.1", port=0, username="BENCH", counters=counters,
        faults=np.zeros(len(Fault), np.int64),
    )  # fmt: skip
    times = []
    for _ in range(25):
        begin = time.thread_time_ns()
        size = len(server.packets())
        times.append(time.thread_time_ns() - begin)
    server.close()
    player.close()
    sys.stdout.write(f"snapshot of {_BOOK} orders, {size >> 10} KiB: {sorted(times)[12] / 1e6:.1f} ms\n")


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
    _play(market, with_venue=False, lines=2)
    _trade(_play(market, with_venue=True))
    _snapshot()
    _offline(market)
