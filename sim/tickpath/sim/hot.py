"""The exchange's hot process: market data out by the clock, orders in, one thread."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.instruments import load_instruments
from tickpath.common.pages import Command, Fields, Page, write_text
from tickpath.common.process import StartError
from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.stage import Ready, Stage, run_hot
from tickpath.sim.kernels import timer
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.layout import ORDER_CAPACITY, VENUE_ORDER, Counter, Fault, Histogram
from tickpath.sim.lockstep import Lockstep, Phase
from tickpath.sim.offline import exchange_for
from tickpath.sim.order_entry import OrderEntry, OrderEntryError
from tickpath.sim.player import Line, LiveMarket, Player, PlayerError, Segment, no_tape
from tickpath.sim.repair import RepairError, Retransmitter, SnapshotServer
from tickpath.sim.sources.generator import generate_tape
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import DataFileError, Tape
from tickpath.sim.venue import Venue

#: How often the pipeline is asked whether it has finished a step: at once, then more and more seldom.
_ASK_NS, _ASK_SELDOM_NS = 20_000, 1_000_000


def new_session() -> str:
    """Name of a session that nobody has seen yet, ten characters.

    An exchange that was killed has lost its books and orders: what comes then is another session, and whoever knows
    the old one must not take its numbers for a continuation.
    """
    return f"T{time.time_ns() // 10_000_000 % 10**9:09d}"


def make_tape(config: Config) -> Tape:
    """What the configuration says is to be played. Raises StartError."""
    options = config.sim
    try:
        if options.data:
            return load_tape(options.data)
        return generate_tape(options.seed, seconds=options.generate_seconds, rate=options.generate_rate)
    except DataFileError as error:
        raise StartError(str(error)) from None


def open_market(config: Config) -> LiveMarket | None:
    """The live market of ``sim.live``, None when a tape is to be played. Raises StartError."""
    if config.sim.live is None:
        return None
    try:
        # Its codecs and its connection are not loaded for a tape.
        market: LiveMarket = import_module("tickpath.sim.live").open_live(config)
    except DataFileError as error:
        raise StartError(str(error)) from None
    return market


class Sim(Stage):
    """Play the tape, take orders, match, report, measure, and make good what was lost on the way."""

    name = "sim"
    counters = Counter
    histograms = Histogram
    open_market = staticmethod(open_market)

    @classmethod
    def extra_fields(cls, config: Config) -> Fields:
        """See `tickpath.sim.layout`."""
        per_instrument = ("<i8", (len(load_instruments(config.instruments)),))
        return {
            "positions": per_instrument,
            "bought_lots": per_instrument,
            "sold_lots": per_instrument,
            "open_orders": per_instrument,
            "orders": (VENUE_ORDER, (ORDER_CAPACITY,)),
            "source": ("u1", (256,)),
            "lockstep": ("u1", (256,)),
        }

    @classmethod
    def extra_meta(cls, config: Config) -> dict[str, Any]:
        """Names of the rows of the arrays per instrument."""
        return {"symbols": list(load_instruments(config.instruments).symbols)}

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        self._market = self.open_market(config)
        self._market_epoll = select.epoll()
        self._listening = False  # to the market
        try:
            self._build(config, page, side)
        except StartError:
            if self._market is not None:
                self._market.close()
            raise

    def _build(self, config: Config, page: Page, side: Page | None) -> None:
        if self._market is None:
            tape = make_tape(config)
        else:
            market = self._market
            tape = no_tape(market.symbols, market.source, market.terms, config.feed.order_capacity)
        symbols = load_instruments(config.instruments).symbols
        exchange, listed = exchange_for(
            tape,
            symbols,
            order_capacity=config.feed.order_capacity,
            level_capacity=config.feed.level_capacity,
            orders=page["orders"],
            per_instrument=(page["positions"], page["bought_lots"], page["sold_lots"], page["open_orders"]),
            counters=self.counts,
        )
        if not listed:
            known = ", ".join(sorted(tape.symbols)[:5]) or "none"
            msg = (
                f"{config.instruments}: no instrument of it is in the market data ({tape.source}), which has {known}"
            )
            raise StartError(msg)
        messages = f"{len(tape)} messages" if self._market is None else "live"
        named = f"{len(tape.symbols)} symbol{'s' * (len(tape.symbols) != 1)}"
        write_text(page, "source", f"{tape.source}: {messages}, {named}")
        faults = side["faults"] if side is not None else np.zeros(len(Fault), np.int64)
        options, feed = config.sim, config.feed
        session = options.session or new_session()
        self.venue = Venue(
            exchange,
            symbols,
            listed,
            session=session,
            tick_to_order=self.hist[Histogram.TICK_TO_ORDER],
            clock_ns=int(tape.time_ns[0]) if len(tape) else 0,
        )
        try:
            self.player = Player(
                tape,
                self.venue,
                host=feed.host,
                port=feed.port,
                interface=feed.interface,
                counters=self.counts,
                late_hist=self.hist[Histogram.SEND_LATE],
                faults=faults,
                session=session,
                datagram_bytes=options.datagram_bytes,
                speed=options.speed,
                rate=options.rate,
                loop=options.loop,
                ttl=options.ttl,
                line_b=(
                    Line(feed.line_b_host, feed.line_b_port, feed.line_b_interface)
                    if feed.line_b_port is not None
                    else None
                ),
                live=self._market is not None,
            )
            self.venue.follow(self.player)
            self.retransmitter = (
                Retransmitter(
                    self.player,
                    host=feed.retransmission_host,
                    port=feed.retransmission_port,
                    counters=self.counts,
                    faults=faults,
                    packets=options.retransmission_packets,
                )
                if feed.retransmission_port is not None
                else None
            )
            self.snapshots = (
                SnapshotServer(
                    self.player,
                    exchange,
                    symbols,
                    listed,
                    host=feed.snapshot_host,
                    port=feed.snapshot_port,
                    username=feed.snapshot_username,
                    counters=self.counts,
                    faults=faults,
                )
                if feed.snapshot_port is not None
                else None
            )
            self.order_entry = OrderEntry(
                self.venue,
                host=config.exec.host,
                port=config.exec.port,
                counters=self.counts,
                faults=faults,
                password=config.exec.secret(),
                cancel_on_disconnect=options.cancel_on_disconnect,
                on_login=self._on_login,
            )
        except (PlayerError, OrderEntryError, RepairError) as error:
            raise StartError(str(error)) from None
        self._timer = int(timer.create())
        if self._timer < 0:
            raise StartError("the system gives out no timerfd: too many open files?")
        self._timer_scratch = np.zeros(4, np.int64)
        self._armed_ns = 0
        self._lockstep = Lockstep(config.run_dir)
        self._phase = Phase.JOIN if self.player.in_steps else Phase.OFF
        self._phase_ns = 0  # when it began
        self._text = ""
        self._base = (0, 0, 0)  # market data messages, requests, reports before the first step
        self._orders_fd = self.order_entry.fileno()
        self._retransmitting = False
        self._leave_at_ns = 0

    def inputs(self) -> Sequence[Any]:
        """Order connections, the clock of the tape, those who lack something, and a live market."""
        servers = [server.fileno() for server in (self.retransmitter, self.snapshots) if server is not None]
        market = () if self._market is None else (self._market_epoll.fileno(),)
        return self._orders_fd, self._timer, *servers, *market

    def warm_up(self) -> None:
        """Trade once on a venue of its own; touch all memory that trading will use."""
        practice = Venue(Exchange.create(1, 16, 8), ("A",), {"A": 1})
        user = practice.account("WARMUP")
        order = ouch.ENTER_ORDER.encode(
            user_ref_num=1, side="B", quantity=1, symbol="A", price=10_000, time_in_force="0", display="Y",
            capacity="P", iso="N", cross_type="N", cl_ord_id="",
        )  # fmt: skip
        practice.receive(user, order, 0)
        practice.receive(user, ouch.CANCEL_ORDER.encode(user_ref_num=1, quantity=0), 0)
        nothing = Segment(np.zeros(1, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64))
        practice.played(nothing, 0, 0, 0)
        self.player.out_ns[:] = 0
        timer.arm(self._timer, now_ns(), self._timer_scratch)

    def turn(self, now: int, ready: Ready) -> bool:
        """Orders first: they have been waiting; then what is due of the tape; then who asks for it again."""
        if self._orders_fd in ready and self.order_entry.turn():
            now = now_ns()
        if self._market is not None:
            self._follow(self._market, now)
        self.player.turn(now)
        self.order_entry.flush()
        self._repair(ready)
        due_ns = self.player.next_due_ns()
        if self._phase and (self.player.playing or self._phase != Phase.JOIN):
            due_ns = min(due_ns, self._step(now))
        if due_ns <= now or self._retransmitting:
            return True
        if due_ns != self._armed_ns or self._timer in ready:
            # Setting the timer also makes it unreadable again.
            timer.arm(self._timer, due_ns, self._timer_scratch)
            self._armed_ns = due_ns
        return False

    def _follow(self, market: LiveMarket, now: int) -> None:
        """Take what has happened in a live market, if the player has room for it; else do not even listen."""
        wanted = self.player.takes_more
        if wanted != self._listening:
            self._listening = wanted
            for descriptor in market.inputs():
                if wanted:
                    self._market_epoll.register(descriptor, select.EPOLLIN)
                else:
                    self._market_epoll.unregister(descriptor)
        if wanted and (segment := market.poll(now)) is not None:
            self.player.push(segment)

    def _repair(self, ready: Ready) -> None:
        """Answer those who lack something, a bounded slice."""
        if self.retransmitter is not None and (self._retransmitting or self.retransmitter.fileno() in ready):
            self._retransmitting = self.retransmitter.turn()
        if self.snapshots is not None and self.snapshots.fileno() in ready:
            self.snapshots.turn()

    def tend(self, now: int) -> None:
        """Heartbeats and time-outs of the connections; the end of the day."""
        if self._market is not None:
            self._market.tend(now)
        if self.snapshots is not None:
            self.snapshots.tend(now)
        if self._phase:
            self._lockstep.refresh()
            self._show_waiting(self._lockstep.waiting)
            if self._phase != Phase.JOIN and self._lockstep.over:
                self.player.stop()
                self._end_steps()
        elif self.player.finished and not self.venue.closed:
            self.venue.set_closed(closed=True)
        self.order_entry.flush()
        self.order_entry.tend(now)

    def _step(self, now: int) -> int:
        """Move a tape that is played in steps on, if the pipeline lets us; when to ask it again. See `lockstep`."""
        lockstep = self._lockstep
        before = self._phase
        messages, requests, reports = (n - base for n, base in zip(self._figures(), self._base, strict=True))
        if before == Phase.JOIN and lockstep.begin(now):
            self._base = self._figures()
            self._send_step(now)
        elif before == Phase.DECIDE and lockstep.decided(messages, requests):
            self.order_entry.release()
            self._phase = Phase.REPORT
        elif before == Phase.REPORT and lockstep.reported(reports):
            self._send_step(now)
        if self._phase != before:
            self._phase_ns = now
        return now + min(max(_ASK_NS, (now - self._phase_ns) >> 3), _ASK_SELDOM_NS)

    def _send_step(self, now: int) -> None:
        """The next datagram; without one the pipeline has come to rest, at the end of the tape for good."""
        if self.player.finished:
            self._end_steps()
            return
        self.order_entry.hold()
        if self.player.step(now):
            self.counts[Counter.STEPS] += 1
            self._phase = Phase.DECIDE
        else:
            self.order_entry.release()

    def _end_steps(self) -> None:
        self._phase = Phase.OFF
        self._show_waiting("")
        self.order_entry.release()

    def _show_waiting(self, text: str) -> None:
        if text != self._text:
            self._text = text
            write_text(self.page, "lockstep", text)

    def _figures(self) -> tuple[int, int, int]:
        """Market data messages; requests of exec that arrived; reports to exec."""
        account = self.venue.find(self.config.exec.username)
        if account < 0:
            return self.player.next_sequence, 0, 0
        reports = self.venue.accounts[account].log.next_sequence
        return self.player.next_sequence, self.order_entry.requests[account], reports

    def command(self, what: Command, now: int) -> None:
        """START and STOP the tape."""
        if what == Command.START:
            self.player.start(now)
        elif what == Command.STOP:
            self.player.stop()

    def begin_drain(self, now: int) -> None:
        """End the market data session and the day; orders are still served while somebody is logged in."""
        self.player.finish()
        self._end_steps()
        self._leave_at_ns = now + self.config.exec.drain_timeout_ms * 1_000_000

    def drained(self, now: int) -> bool:
        """Nobody is there any more, or the time that clients have to leave is over."""
        return self.order_entry.sessions == 0 or now >= self._leave_at_ns

    def close(self) -> None:
        """End the sessions and close the sockets."""
        self.order_entry.end()
        self.order_entry.close()
        for server in (self.retransmitter, self.snapshots, self._market, self.player):
            if server is not None:
                server.close()
        self._market_epoll.close()
        os.close(self._timer)

    def _on_login(self) -> None:
        if self.config.sim.start == "login" and not self._started:
            self._started = True
            self.player.start(now_ns())

    _started = False


if __name__ == "__main__":
    sys.exit(run_hot(Sim))
