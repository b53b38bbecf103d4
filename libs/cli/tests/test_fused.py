"""The fused lane in this process: real sockets, pages and journal; venue and side processes are the test's."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.common.tests.shm_rig import blocks_grown, free_port, make_config, make_stage
from services.exec.tests.conftest import Venue, canceled, executed
from services.feed.tests.test_decode import add, packet
from tickpath.cli.fused.hot import Fused
from tickpath.cli.fused.kernels.chain import live
from tickpath.cli.fused.layout import Reg, Why
from tickpath.common.clock import now_ns
from tickpath.common.config import SERVICES
from tickpath.common.instruments import make_table
from tickpath.common.pages import (
    Command,
    Control,
    Hot,
    Page,
    SeqLock,
    command,
    create_side_page,
    read_text,
    side_page_path,
)
from tickpath.common.protocols import ouch50
from tickpath.common.records import FIRST_TERMINAL_STATE, ExecEvent
from tickpath.exec.core import trading_day
from tickpath.exec.journal import positions_from, read_journal
from tickpath.exec.layout import Counter, Gate, GatewayState
from tickpath.exec.layout import Reg as ExecReg
from tickpath.exec.lifecycle import Refusal
from tickpath.feed.layout import Count
from tickpath.feed.service import FeedService
from tickpath.risk.layout import Counter as RiskCounter
from tickpath.risk.limits import FIRST_SYMBOL_ROW, LIMIT, TradingState
from tickpath.risk.reasons import Reason
from tickpath.risk.state import CORE_REASONS, Core
from tickpath.risk.store import Shared
from tickpath.risk.sync import default_limits, names_of, rows_of
from tickpath.signals.layout import Counter as SignalsCounter

N = 80  # instruments: a strategy may have 16 open orders of each
SYMBOLS = ["AAPL", *(f"S{i:02}" for i in range(1, N))]
TABLE = make_table([(symbol, "0.0001", 100, 1, 1, "USD") for symbol in SYMBOLS])
CONDUCTOR = f"{Path(__file__).parent / 'conductor.py'}:conductor"
BUY, CANCEL, BUY_EIGHT, NOTHING = 1, 2, 3, 9  # what the conductor does at a bid of so many lots
UNLIMITED = {
    **dict.fromkeys(
        (
            "max_order_qty_lots", "max_order_notional", "collar_aggressive_bps", "collar_passive_bps",
            "max_spread_bps", "max_long_lots", "max_short_lots", "max_data_age_ms", "order_rate",
        ),
        "unlimited",
    ),
    "order_rate_window_ms": 1000,
}  # fmt: skip
LEASE_NS = 10**12


class Rig:
    """The stage, an exchange's market data socket, a venue, and the pages of four side processes."""

    def __init__(
        self, folder: Path, venue: Venue, wait: str = "adaptive", cores: tuple[int, ...] = (), **options: Any
    ) -> None:
        self.venue = venue
        sizes = {"order_capacity": 4096, "journal_segment_entries": 1024, "reconnect_ms": 1}
        self.config = make_config(
            folder, TABLE,
            links={"lane": "fused"},
            feed={"port": free_port(), "order_capacity": 1 << 14, "level_capacity": 512},
            signals={"series_capacity": 16, "strategies": [{"path": CONDUCTOR, "id": 1}]},
            risk={"limits": UNLIMITED, "order_rate": "unlimited", "order_capacity": 4096, "cancel_repeat_ms": 10},
            exec={"port": venue.port, **sizes, **options},
            process={"wait": wait, "lock_memory": False},
            cores={"exec": cores},
        )  # fmt: skip
        self.sides: dict[str, Page] = {}
        for name in SERVICES:
            self.make_side(name)
        self.exchange = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.next_seq = 1
        self.start()

    def make_side(self, name: str) -> None:
        """A side process of this service begins."""
        extra: dict[str, Any] = FeedService.side_fields(self.config) if name == "feed" else {}
        if name == "risk":
            extra = {"limits": (LIMIT, (FIRST_SYMBOL_ROW + len(TABLE),))}
        side = self.sides[name] = create_side_page(self.config.run_dir, name, extra)
        if name == "risk":
            names = names_of(TABLE, self.config.signals.strategies)
            side["limits"][:] = rows_of(Shared(limits=default_limits(self.config.risk)), names, {})
            side["control"][Control.LEASE_UNTIL_NS] = now_ns() + LEASE_NS

    def start(self) -> None:
        """A life of the hot process; each instrument has an offer, and a bid that means nothing."""
        self.stage: Fused = make_stage(Fused, self.config, self.sides["exec"])
        if self.next_seq == 1:
            for i, symbol in enumerate(SYMBOLS):
                self.market(add(10**6 + i, "S", 1000, 1_900_000, i + 1, symbol))
            self.say_all(NOTHING)

    def market(self, *messages: bytes) -> None:
        """A datagram of the exchange."""
        self.exchange.sendto(packet(self.next_seq, *messages), ("127.0.0.1", self.config.feed.port))
        self.next_seq += len(messages)

    def say(self, *what: int, instrument: int = 0) -> None:
        """A datagram of better bids, each a tick that tells the strategy what to do."""
        first, place = self.next_seq, (instrument + 1, SYMBOLS[instrument])
        bids = [add(first + i, "B", lots, 1_000_000 + 100 * (first + i), *place) for i, lots in enumerate(what)]
        self.market(*bids)

    def say_all(self, *what: int) -> None:
        """The same to the strategy of every instrument."""
        for instrument in range(N):
            self.say(*what, instrument=instrument)

    def hear(self) -> None:
        """What the venue has to say is there when this returns."""
        self.venue.turn()
        connection = self.stage.exec.gateway._socket
        assert connection is not None
        assert select.select([connection], [], [], 5)[0]

    def turn(self) -> None:
        """The venue's turn, then the loop's, then what is done in quiet moments."""
        self.venue.turn()
        self.stage.run(now_ns() + 200_000)
        self.stage.tend(now_ns())

    def until(self, condition: Callable[[], Any], turn: Callable[[], None] | None = None) -> None:
        """Turn until the condition holds; fails when it never does."""
        for _ in range(20_000):
            if condition():
                return
            (turn or self.turn)()
        pytest.fail("the condition never held")

    def connect(self) -> None:
        """Until orders are welcome and the market is known."""
        self.until(lambda: self.stage.exec.gateway.state == GatewayState.READY and self.feed(Count.TICKS) >= 2 * N)
        assert self.venue.connection is not None
        self.venue.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def feed(self, counter: Count) -> int:
        return int(self.stage.feed.counts[counter])

    def count(self, counter: Counter) -> int:
        return int(self.stage.counts[counter])

    def signals(self, counter: SignalsCounter) -> int:
        return int(self.stage.signals.counts[counter])

    def refused(self, reason: Reason) -> int:
        """By risk."""
        return int(self.stage.risk.state.core[CORE_REASONS + reason])

    def journal(self) -> np.ndarray:
        self.stage.exec.orders.publish()
        return read_journal(self.config.journal_dir())

    def sent_ids(self) -> list[int]:
        """Client order ids of what the venue was sent, in its order."""
        entered = [m for m in self.venue.seen if m.message is ouch50.ENTER_ORDER]
        return [int(str(m.fields["cl_ord_id"]).strip()[1:], 32) for m in entered]

    def check(self) -> None:
        """Journal, risk, strategies and venue say the same of every order, and of nothing twice."""
        ticks = self.feed(Count.TICKS)
        self.say_all(NOTHING)  # a strategy learns with its next tick that risk has refused something
        self.until(lambda: self.feed(Count.TICKS) == ticks + N)
        self.turn()
        journal = self.journal()
        sent = journal[journal["event"] == ExecEvent.SEND]["cl_ord_id"].tolist()
        assert len(set(sent)) == len(sent)
        assert self.sent_ids() == sent
        assert journal["seq"].tolist() == list(range(1, len(journal) + 1))
        _, last = np.unique(journal["cl_ord_id"][::-1], return_index=True)
        still_open = set(
            journal["user_ref"][::-1][last][journal["state"][::-1][last] < FIRST_TERMINAL_STATE].tolist()
        )
        assert still_open == set(self.venue.live)
        core = self.stage.risk.state.core
        own = self.stage.signals.engine.memory["own"][0]
        held = positions_from(journal)
        assert core[Core.N_ORDERS] == self.stage.exec.orders.open_count == own["open_orders"].sum() == len(still_open)
        assert own["in_flight"].sum() == 0
        assert own["position_lots"].tolist() == [held.get(i, 0) for i in range(N)]
        assert (
            self.stage.risk.state.live["position_lots"][FIRST_SYMBOL_ROW:].tolist() == own["position_lots"].tolist()
        )
        assert core[Core.NEXT_REPORT] == len(journal) + 1
        assert core[Core.REPORT_GAPS] == core[Core.REPORTS_REPEATED] == core[Core.ALARMS] == 0
        for alarm in (Counter.ILLEGAL_TRANSITIONS, Counter.OVERFILLS, Counter.UNKNOWN_REFS, Counter.MISMATCHES):
            assert self.count(alarm) == 0, alarm.name

    def close(self) -> None:
        self.stage.close()
        self.exchange.close()


@pytest.fixture
def venue() -> Iterator[Venue]:
    made = Venue()
    yield made
    made.close()


@pytest.fixture
def open_rig(tmp_path: Path, venue: Venue) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(tmp_path, venue, **options))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(open_rig: Callable[..., Rig]) -> Rig:
    return open_rig()


def set_limits(rig: Rig, **values: int) -> None:
    """What risk's side process does with a change: the group under its version."""
    side = rig.sides["risk"]
    with SeqLock(side["control"], Control.VERSION):
        for name, value in values.items():
            side["limits"][name][FIRST_SYMBOL_ROW:] = value


def live_once(rig: Rig, until_ns: int = 0) -> Why:
    """The compiled loop, without the Python around it."""
    stage, chain, receiver = rig.stage, rig.stage.chain, rig.stage.feed.receiver
    chain.words[Reg.VENUE_FD] = stage.exec.gateway.compiled_fd
    return Why(
        live(
            chain.words, chain.risk.context, chain.orders.ctx, chain.feed, receiver.buffer, receiver.messages,
            receiver.lengths, until_ns,
        )
    )  # fmt: skip


def live_through(rig: Rig) -> list[Why]:
    """The compiled loop until it has nothing to do; why it came back before."""
    found = []
    while (why := live_once(rig, now_ns() + 1_000_000)) is not Why.IDLE:
        if why is not Why.TIME:
            found.append(why)
            rig.stage._settle(why, now_ns())
    return found


# What the loop does by itself.


def test_a_datagram_becomes_an_order_and_its_report_is_known_to_all(rig: Rig) -> None:
    rig.connect()
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    rig.venue.say(executed(1, 1))
    rig.venue.live.pop(1)
    rig.until(lambda: rig.count(Counter.ORDERS_FILLED) == 1)
    rig.turn()
    assert positions_from(rig.journal()) == {0: 1}
    rig.check()
    assert rig.stage.page["hot"][Hot.DIGESTED] == 0  # of exec; the streams of decisions are those of the others:
    assert rig.stage.guests["signals"].page["hot"][Hot.DIGESTED] == 1
    assert rig.stage.guests["risk"].page["hot"][Hot.DIGESTED] == 1


def test_the_loop_allocates_nothing_per_message(open_rig: Callable[..., Rig]) -> None:
    """From a UDP socket to a TCP peer and back, every third message an order."""
    rig = open_rig(journal_segment_entries=4096)
    rig.connect()

    def loop_until(counter: Callable[[], int], value: int) -> int:
        def loop() -> None:
            while counter() < value:
                live_once(rig, now_ns() + 1_000_000)

        return blocks_grown(loop)

    def flood(rounds: int) -> int:
        for _ in range(rounds):
            rig.say_all(NOTHING, BUY, NOTHING)
        orders = rig.count(Counter.ORDERS_SENT) + rounds * N
        grown = loop_until(lambda: rig.count(Counter.ORDERS_SENT), orders)
        rig.until(lambda: len(rig.venue.seen) == orders, rig.venue.turn)
        return grown + loop_until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED), orders)

    flood(1)
    few, many = flood(1), flood(10)
    assert rig.count(Counter.ORDERS_ACKNOWLEDGED) == 12 * N
    assert many - few < 100  # a block a message would be 2,160 of them, one an order 720
    rig.turn()
    rig.check()


@pytest.mark.parametrize("wait", ["spin", "yield", "block"])
def test_every_way_to_wait_comes_to_the_same(open_rig: Callable[..., Rig], wait: str) -> None:
    rig = open_rig(wait=wait)
    rig.connect()
    rig.say(BUY, NOTHING, BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 2)
    rig.turn()
    rig.check()


@pytest.mark.parametrize("pinned", [False, True])
def test_spinning_needs_a_core_that_nobody_else_needs(open_rig: Callable[..., Rig], pinned: bool) -> None:
    """Where there is one core for all it is refused, and the notes say so; a loop that was given its core spins."""
    before = os.sched_getaffinity(0)
    core = min(before)
    os.sched_setaffinity(0, {core})
    try:
        rig = open_rig(wait="spin", cores=(core,) if pinned else ())
    finally:
        os.sched_setaffinity(0, before)
    rig.turn()
    assert rig.stage.chain.words[Reg.SPIN_NS] == (-1 if pinned else 0)
    assert ("spin was asked for" in read_text(rig.stage.page, "notes")) is not pinned


# What it leaves to Python, and how it goes on.


def test_limits_that_change_between_two_signals_of_a_tick_hold_for_the_next(rig: Rig) -> None:
    """LIMITS: copied before anything is decided, and none of the eight signals is lost or decided twice."""
    rig.connect()
    set_limits(rig, max_order_qty_lots=500)
    rig.say(BUY_EIGHT)
    assert live_through(rig) == [Why.LIMITS]
    assert rig.stage.risk.state.core[Core.APPROVED] == 8
    set_limits(rig, max_order_qty_lots=0)
    rig.say(BUY_EIGHT)
    assert live_through(rig) == [Why.LIMITS]
    assert rig.refused(Reason.MAX_ORDER_QTY) == 8
    assert rig.stage.risk.counts[RiskCounter.SIGNALS] == rig.signals(SignalsCounter.SIGNALS_NEW) == 16
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 8)
    rig.turn()
    rig.check()


def test_limits_that_are_just_being_written_are_waited_for_but_not_for_ever(rig: Rig) -> None:
    """A side process that was killed while it wrote must not stop the loop: it returns when its time is over."""
    rig.connect()
    control = rig.sides["risk"]["control"]
    control[Control.VERSION] += 1
    rig.say(BUY)
    assert rig.stage.run(now_ns() + 1_000_000)
    assert rig.stage.risk.state.core[Core.APPROVED] == 0
    rig.sides["risk"]["limits"]["max_order_qty_lots"] = 7
    control[Control.VERSION] += 1
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    assert rig.stage.risk.state.limits["max_order_qty_lots"][FIRST_SYMBOL_ROW] == 7
    rig.turn()
    rig.check()


def test_segments_of_the_journal_that_fill_up_lose_and_double_nothing(rig: Rig) -> None:
    """960 orders, each sent, acknowledged, wanted back and cancelled, in segments of 1,024 entries."""
    rig.connect()
    whys: list[Why] = []
    settle = rig.stage._settle

    def note(why: Why, now: int) -> None:
        whys.append(why)
        settle(why, now)

    rig.stage._settle = note  # type: ignore[method-assign]
    for done in range(4 * N, 12 * N + 1, 4 * N):
        rig.say_all(BUY, BUY, BUY, BUY)
        rig.until(lambda done=done: rig.count(Counter.ORDERS_ACKNOWLEDGED) == done)
        rig.say_all(CANCEL)
        rig.until(lambda done=done: rig.count(Counter.ORDERS_CANCELLED) == done)
    rig.turn()
    assert rig.count(Counter.JOURNAL_SEGMENTS) == 3
    assert rig.count(Counter.ORDERS_REFUSED) == 0
    assert set(whys) & {Why.JOURNAL, Why.SESSION}
    rig.check()


@pytest.mark.parametrize("before", [0, 3])
def test_a_segment_that_is_full_of_orders_is_followed_by_the_next(open_rig: Callable[..., Rig], before: int) -> None:
    """JOURNAL: orders wait in the middle of a batch; the first part of it is in the send buffer already."""
    rig = open_rig()
    rig.connect()
    rig.say(*[BUY] * before)
    live_through(rig)
    for _ in range(2):
        rig.say_all(BUY_EIGHT)
    whys = live_through(rig)
    assert Why.JOURNAL in whys
    n = 16 * N
    assert rig.count(Counter.ORDERS_SENT) == n
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == n)
    rig.check()


def test_a_segment_that_is_full_of_reports_is_followed_by_the_next(rig: Rig) -> None:
    """SESSION with Stop.JOURNAL: the venue's messages wait in the receive buffer."""
    rig.connect()
    rig.say_all(BUY_EIGHT)
    live_through(rig)
    rig.until(lambda: len(rig.venue.seen) == 8 * N, rig.venue.turn)
    rig.hear()
    whys = live_through(rig)
    assert Why.SESSION in whys
    assert Why.REPORTS in whys  # the rest of the old segment
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 8 * N)
    assert rig.count(Counter.JOURNAL_SEGMENTS) == 1
    rig.check()


def test_orders_that_waited_for_a_full_disk_are_refused_and_the_loop_goes_on(rig: Rig) -> None:
    """The folder of the journal is away: what room is left is for reports, then everything waits, and returns."""
    rig.connect()
    orders = rig.stage.exec.orders
    orders.journal._spare = None  # the disk did not give one
    orders._note_spare()
    folder = rig.config.journal_dir() / str(trading_day())
    away = folder.with_name("away")
    folder.rename(away)
    rig.say_all(BUY_EIGHT)
    rig.stage.run(now_ns() + 50_000_000)
    sent, refused = rig.count(Counter.ORDERS_SENT), rig.count(Counter.ORDERS_REFUSED)
    assert 100 < sent < refused  # some room is kept for reports about those that were sent
    for _ in range(100):  # refusals fill it to the last entry
        if rig.stage._held:
            break
        rig.say_all(BUY_EIGHT)
        rig.stage.run(now_ns() + 50_000_000)
    assert rig.stage._held
    assert orders.ctx[ExecReg.NEXT_SEQ] == 1025
    for _ in range(3):
        rig.turn()
    assert rig.stage.page["gateway"][Gate.HELD_ORDERS] > 0
    assert rig.count(Counter.ORDERS_SENT) == sent
    away.rename(folder)
    rig.until(lambda: not rig.stage._held)
    rig.until(lambda: len(rig.venue.seen) == sent)
    rig.until(lambda: len(rig.venue.live) == orders.open_count == orders.ctx[ExecReg.OPEN])
    rig.check()
    journal = rig.journal()
    refusals = journal[journal["event"] == ExecEvent.NOT_SENT]
    assert set(refusals["reason"].tolist()) == {Refusal.JOURNAL_FULL}
    assert len(refusals) + rig.count(Counter.ORDERS_SENT) == rig.stage.risk.state.core[Core.APPROVED]


def test_bytes_that_the_socket_does_not_take_leave_when_it_does(open_rig: Callable[..., Rig]) -> None:
    """FLUSH: a small send buffer and a venue that does not read."""
    rig = open_rig()
    rig.venue.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    rig.connect()
    connection = rig.stage.exec.gateway._socket
    assert connection is not None
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    rig.say_all(BUY_EIGHT)
    assert Why.FLUSH in live_through(rig)
    rig.say_all(BUY)
    live_through(rig)
    assert rig.stage.exec.gateway.send_backlog > 0
    assert rig.count(Counter.PARTIAL_SENDS) > 0
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 9 * N)
    rig.check()


def test_with_fsync_always_nothing_leaves_before_it_is_on_disk(open_rig: Callable[..., Rig]) -> None:
    """SEND: the loop stops with the order in the journal and in the buffer, and Python goes on."""
    rig = open_rig(journal_fsync="always")
    rig.connect()
    rig.say(BUY)
    ctx, journal = rig.stage.exec.orders.ctx, rig.stage.exec.orders.journal
    assert live_once(rig) is Why.TIME  # received; looked at in the next call
    assert live_once(rig) is Why.SEND
    assert ctx[ExecReg.SEND_TAIL] - ctx[ExecReg.SENT] == 50
    assert journal._synced_seq == ctx[ExecReg.NEXT_SEQ] - 1
    rig.stage._settle(Why.SEND, now_ns())
    assert journal._synced_seq == ctx[ExecReg.NEXT_SEQ]
    assert ctx[ExecReg.SEND_TAIL] == ctx[ExecReg.SENT]
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    rig.turn()
    rig.check()


def test_answers_to_queries_and_other_messages_of_the_venue_are_dealt_with_between_reports(rig: Rig) -> None:
    """QUERY, and SESSION for a Broken Trade: the messages around them are applied once."""
    rig.connect()
    rig.say(BUY, BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 2)
    broken = ouch50.BROKEN_TRADE.encode(timestamp=1, user_ref_num=1, match_number=5, reason="E", cl_ord_id=b"")
    query = ouch50.ACCOUNT_QUERY_RESPONSE.encode(timestamp=1, next_user_ref_num=3)
    rig.venue.say(executed(1, 1, match=5), query, broken, executed(2, 1, match=6))
    rig.venue.live.clear()
    rig.hear()
    assert Why.QUERY in live_through(rig)
    rig.turn()
    assert rig.count(Counter.FILLS) == 2
    assert rig.count(Counter.BROKEN_TRADES) == 1
    assert positions_from(rig.journal()) == {0: 1}
    assert rig.stage.exec.gateway.state == GatewayState.READY


def test_a_fill_of_an_order_that_is_over_is_booked(rig: Rig) -> None:
    """SESSION with Stop.HISTORY: the order is taken back from the journal; risk raises its alarm."""
    rig.connect()
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    rig.venue.say(canceled(1, 1), executed(1, 1))
    rig.until(lambda: rig.count(Counter.FILLS) == 1)
    rig.turn()
    assert positions_from(rig.journal()) == {0: 1}
    assert rig.stage.risk.state.live["position_lots"][FIRST_SYMBOL_ROW] == 1
    assert rig.stage.risk.state.core[Core.ALARMS] == 1


def test_after_the_end_of_the_venues_day_orders_are_refused_here(rig: Rig) -> None:
    rig.connect()
    rig.venue.say(ouch50.SYSTEM_EVENT.encode(timestamp=1, event_code="E"))
    rig.until(lambda: rig.stage.exec.orders.ctx[ExecReg.DAY_ENDED])
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_REFUSED) == 1)
    assert rig.journal()["reason"].tolist() == [Refusal.VENUE_CLOSED]
    assert rig.venue.seen == []


# Commands.


def test_a_halted_scope_is_cancelled_and_takes_nothing_new(rig: Rig) -> None:
    rig.connect()
    rig.say(BUY, BUY, BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 3)
    set_limits(rig, state=TradingState.HALTED)
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_CANCELLED) == 3)
    rig.turn()
    assert rig.refused(Reason.KILL_SWITCH_SYMBOL) == 1
    assert rig.venue.live == {}
    rig.check()
    set_limits(rig, state=TradingState.ACTIVE)
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 4)


def test_a_kill_switch_holds_without_any_tick(rig: Rig) -> None:
    rig.connect()
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    set_limits(rig, state=TradingState.HALTED)
    rig.until(lambda: rig.count(Counter.ORDERS_CANCELLED) == 1)
    rig.turn()
    rig.check()


def test_without_the_lease_nothing_new_is_sent_and_cancels_are(rig: Rig) -> None:
    rig.connect()
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    rig.sides["risk"]["control"][Control.LEASE_UNTIL_NS] = 0
    rig.say(BUY, CANCEL)
    rig.until(lambda: rig.count(Counter.ORDERS_CANCELLED) == 1)
    assert rig.refused(Reason.KILL_SWITCH_GLOBAL) == 1
    rig.turn()
    rig.check()


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_paused_by_its_own_page(rig: Rig, name: str) -> None:
    rig.connect()
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    control = rig.sides[name]["control"]
    control[Control.PAUSED] = 1
    rig.turn()
    rig.say(BUY)
    held: dict[str, Callable[[], int]] = {
        "feed": lambda: rig.feed(Count.TICKS_HELD_BY_PAUSE),
        "signals": lambda: rig.signals(SignalsCounter.INTENTS_MUTED),
        "risk": lambda: int(rig.stage.risk.state.core[Core.REJECTED]),
        "exec": lambda: rig.count(Counter.ORDERS_REFUSED),
    }
    rig.until(lambda: held[name]() == 1)
    assert {other: count() for other, count in held.items() if other != name} == dict.fromkeys(set(held) - {name}, 0)
    control[Control.PAUSED] = 0
    rig.turn()
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 2)
    rig.turn()
    rig.check()


@pytest.mark.parametrize("name", ["risk", "exec"])
def test_cancel_all_takes_back_what_is_open_and_no_more(rig: Rig, name: str) -> None:
    rig.connect()
    rig.say(BUY, BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 2)
    if name == "exec":
        rig.stage.command(Command.CANCEL_ALL, now_ns())
    else:
        seen = command(rig.sides[name], Command.CANCEL_ALL)
        rig.until(lambda: rig.stage.guests[name].page["hot"][Hot.COMMAND_SEEN] == seen)
    rig.until(lambda: rig.count(Counter.ORDERS_CANCELLED) == 2)
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 3)
    rig.turn()
    rig.check()


def test_a_gap_in_the_market_data_stops_trading_until_an_operator_trusts_the_books(rig: Rig) -> None:
    rig.connect()
    rig.next_seq += 5
    rig.say(BUY)
    rig.until(lambda: rig.signals(SignalsCounter.INTENTS_MUTED) == 1)
    assert rig.feed(Count.MESSAGES_LOST) == 5
    command(rig.sides["feed"], Command.START)
    rig.turn()
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    rig.turn()
    rig.check()


def test_drained_means_that_no_order_is_left_at_the_venue(rig: Rig) -> None:
    rig.connect()
    rig.say(BUY, BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 2)
    rig.stage.begin_drain(now_ns())
    assert not rig.stage.drained(now_ns())
    rig.say(BUY, BUY_EIGHT)
    rig.until(lambda: rig.stage.drained(now_ns()))
    rig.turn()
    assert rig.venue.live == {}
    assert rig.count(Counter.ORDERS_SENT) == 2
    assert rig.signals(SignalsCounter.INTENTS_MUTED) + int(rig.stage.risk.state.core[Core.REJECTED]) == 9
    rig.check()


def test_a_side_process_that_comes_later_or_again_is_obeyed(rig: Rig) -> None:
    """Its page is another one: the limits, the lease and the pause of the old one mean nothing any more."""
    rig.connect()
    assert rig.stage.connected(now_ns())
    for name in ("feed", "signals", "risk"):
        rig.sides[name]["control"][Control.PAUSED] = 1
        rig.make_side(name)
    set_limits(rig, max_order_qty_lots=1)
    rig.stage.connected(now_ns())
    rig.turn()
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    assert rig.stage.risk.state.limits["max_order_qty_lots"][FIRST_SYMBOL_ROW] == 1
    set_limits(rig, max_order_qty_lots=0)
    rig.say(BUY)
    rig.until(lambda: rig.refused(Reason.MAX_ORDER_QTY) == 1)
    seen = command(rig.sides["risk"], Command.CANCEL_ALL)
    rig.until(lambda: rig.count(Counter.ORDERS_CANCELLED) == 1)
    assert rig.stage.guests["risk"].page["hot"][Hot.COMMAND_SEEN] == seen
    rig.turn()
    rig.check()


def test_without_side_processes_nothing_is_traded_until_they_are_there(open_rig: Callable[..., Rig]) -> None:
    rig = open_rig()
    rig.stage.close()
    for name in ("feed", "signals", "risk"):
        side_page_path(rig.config.run_dir, name).unlink()
    rig.next_seq = 1
    rig.start()
    rig.connect()
    rig.say(BUY)
    rig.until(lambda: rig.stage.risk.state.core[Core.REJECTED] == 1)
    for name in ("feed", "signals", "risk"):
        rig.make_side(name)
    rig.stage.connected(now_ns())
    rig.turn()
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)


# Failures.


def test_a_line_that_breaks_in_the_middle_leaves_no_doubt_about_any_order(rig: Rig) -> None:
    """One is live, one is filled while the line is down, two never arrive: settled by evidence, none sent again."""
    rig.connect()
    rig.say(BUY, BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 2)
    rig.venue.ignore_orders = True
    rig.say(BUY, BUY)
    live_through(rig)
    assert rig.count(Counter.ORDERS_SENT) == 4
    rig.venue.turn()
    rig.venue.ignore_orders = False
    rig.venue.drop()
    rig.venue.say(executed(2, 1))
    rig.venue.live.pop(2)
    rig.until(lambda: rig.count(Counter.DISCONNECTS) == 1)
    assert rig.count(Counter.IN_DOUBT) == 4
    rig.say(BUY)  # refused: not connected
    rig.connect()
    rig.turn()
    assert (rig.count(Counter.NEVER_ARRIVED), rig.count(Counter.RECONCILED)) == (2, 1)
    journal = rig.journal()
    assert positions_from(journal) == {0: 1}
    assert journal["user_ref"].max() == 4
    assert rig.stage.risk.state.core[Core.N_ORDERS] == rig.stage.exec.orders.open_count == len(rig.venue.live) == 1
    rig.say(BUY)
    rig.until(lambda: len(rig.venue.live) == 2)
    assert len(rig.venue.seen) == 3
    rig.until(lambda: rig.stage.exec.orders.open_count == 2)


def test_the_next_life_begins_with_the_journal_and_repeats_nothing(rig: Rig) -> None:
    rig.connect()
    rig.say(BUY, BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 2)
    rig.venue.say(executed(1, 1))
    rig.venue.live.pop(1)
    gateway = rig.stage.exec.gateway
    assert gateway._socket is not None
    gateway._socket.close()  # no logout, as when it is killed
    gateway._socket = None
    rig.stage.close()
    rig.venue.turn()
    rig.next_seq = 1  # the exchange's session begins anew, and with it everything that may cause the same order
    rig.start()
    assert rig.stage.exec.orders.open_count == 2
    rig.connect()
    rig.turn()
    assert rig.stage.exec.orders.open_count == rig.stage.risk.state.core[Core.N_ORDERS] == 1
    assert rig.stage.risk.state.live["position_lots"][FIRST_SYMBOL_ROW] == 1
    rig.say(BUY, BUY)  # the same causes: the same ids
    rig.until(lambda: rig.stage.risk.counts[RiskCounter.SIGNALS_REPEATED] == 2)
    rig.say(BUY)
    rig.until(lambda: rig.count(Counter.ORDERS_ACKNOWLEDGED) == 1)
    rig.turn()
    rig.check()


def test_a_second_process_of_the_lane_does_not_start(rig: Rig) -> None:
    from tickpath.common.process import StartError

    config = rig.config.model_copy(update={"exec": rig.config.exec.model_copy(update={"drain_timeout_ms": 1})})
    with pytest.raises(StartError, match="feed"):
        make_stage(Fused, config, rig.sides["exec"])


def test_the_pages_of_all_services_say_which_lane_it_is(rig: Rig) -> None:
    pages = {"exec": rig.stage.page} | {name: guest.page for name, guest in rig.stage.guests.items()}
    assert {name: page.meta["lane"] for name, page in pages.items()} == dict.fromkeys(SERVICES, "fused")
    assert pages["risk"].meta["core"] == [scalar.name.lower() for scalar in Core]
    rig.stage.page["hot"][Hot.TURNS] = 77
    rig.stage.tend(now_ns())
    assert {int(page["hot"][Hot.TURNS]) for page in pages.values()} == {77}
