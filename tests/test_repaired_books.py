"""Whatever the lines lose, the books at the end are those of the exchange: real servers, real repair."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from libs.common.tests.shm_rig import ROOT, free_port, make_stage
from tickpath.common.clock import now_ns
from tickpath.common.config import load_config
from tickpath.common.histogram import HIST_SIZE
from tickpath.common.pages import create_side_page
from tickpath.common.records import Side
from tickpath.feed.layout import Channel, Count, Line, LineWord
from tickpath.feed.service import FeedService
from tickpath.feed.shm import Feed
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.player import Line as Address
from tickpath.sim.player import Player
from tickpath.sim.repair import Retransmitter, SnapshotServer
from tickpath.sim.sources.generator import generate_tape
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import Tape, write_instruments
from tickpath.sim.venue import Venue

RECORDED = ROOT.parent / "shared" / "data" / "lobster" / "AAPL_2012-06-21_34200000_37800000_message_50.csv.zst"
HOST = "127.0.0.1"
PERCENT = 10_000  # parts per million
LIMIT_S = 100.0


class Market:
    """An exchange with its servers and feed in the shm lane on both lines, all of it in this thread."""

    def __init__(self, folder: Path, tape: Tape, *, requests: bool = True, **faults: int) -> None:
        """`requests`: whether anybody answers them."""
        write_instruments(tape, folder / "instruments.csv")
        names = ("port", "line_b_port", "retransmission_port", "snapshot_port")
        feed: dict[str, Any] = {name: free_port() for name in names}
        feed |= {"request_timeout_ms": 5, "request_attempts": 10 if requests else 1}
        self.config = load_config(
            ROOT / "tickpath.toml", run_dir=folder / "run", instruments=folder / "instruments.csv",
            links={"lane": "shm"}, feed=feed,
        )  # fmt: skip
        symbols = sorted(tape.symbols)
        counters, bad = np.zeros(len(Counter), np.int64), np.zeros(len(Fault), np.int64)
        for name, value in faults.items():
            bad[Fault[name.upper()]] = value
        self.exchange = Exchange.create(len(symbols), 1 << 17, 2048, counters=counters)
        venue = Venue(self.exchange, symbols, tape.symbols)
        options = self.config.feed
        self.closing = contextlib.ExitStack()
        self.player = self._open(
            Player(
                tape, venue, host=HOST, port=options.port, counters=counters, faults=bad, speed="max",
                late_hist=np.zeros(HIST_SIZE, np.int64), line_b=Address(HOST, feed["line_b_port"]),
            )
        )  # fmt: skip
        common = {"host": HOST, "counters": counters, "faults": bad}
        self.servers = [
            self._open(
                SnapshotServer(
                    self.player, self.exchange, symbols, tape.symbols, port=feed["snapshot_port"],
                    username=options.snapshot_username, **common,
                )
            )
        ]  # fmt: skip
        if requests:
            self.servers.append(self._open(Retransmitter(self.player, port=feed["retransmission_port"], **common)))
        self.symbols = symbols

    def _open(self, opened: Any) -> Any:
        self.closing.callback(opened.close)
        return opened

    def listen(self) -> None:
        """feed begins, now."""
        side = create_side_page(self.config.run_dir, "feed", FeedService.side_fields(self.config))
        self.stage: Feed = self._open(make_stage(Feed, self.config, side))
        self.state = self.stage.core.state

    def play(self, until: Callable[[], bool]) -> None:
        """Everybody works in turn until that is so."""
        end = time.monotonic() + LIMIT_S
        while not until():
            assert time.monotonic() < end, (self.state.channel.tolist(), self.stage.core.repair.trouble)
            self.player.turn(now_ns())
            for server in self.servers:
                server.turn()
            if hasattr(self, "stage"):
                self.stage.run(now_ns() + 200_000)
                self.stage.tend(now_ns())

    def is_over(self) -> bool:
        """The tape is through, and feed has all of it."""
        channel = self.state.channel
        return bool(self.player.finished and channel[Channel.EXPECTED_SEQ] >= self.player.next_sequence)

    def count(self, which: Count) -> int:
        return int(self.state.counters[which])

    def assert_books_are_equal(self) -> None:
        """Level by level, price, orders and lots, and as many orders."""
        mine, theirs = self.state.book, self.exchange.book
        levels = 0
        for instrument in range(len(self.symbols)):
            for side in Side:
                got, wanted = mine.side(instrument, side), theirs.side(instrument, side)
                assert got.tolist() == wanted.tolist(), self.symbols[instrument]
                levels += len(wanted)
        assert levels > 0
        assert mine.live_orders == theirs.live_orders > 0


@pytest.fixture
def make_market(tmp_path: Path) -> Iterator[Callable[..., Market]]:
    with contextlib.ExitStack() as stack:

        def make(tape: Tape, **options: Any) -> Market:
            market = Market(tmp_path, tape, **options)
            stack.callback(market.closing.close)
            return market

        yield make


def recorded() -> Tape:
    if not RECORDED.exists():
        pytest.skip(f"the real data set is not beside the project: {RECORDED}")
    return load_tape([RECORDED])


@pytest.mark.parametrize(
    "make_tape", [recorded, lambda: generate_tape(5, seconds=3, rate=20_000)], ids=["real", "made"]
)
def test_with_five_percent_lost_on_both_lines_every_book_is_the_one_without_loss(
    make_market: Any, make_tape: Callable[[], Tape]
) -> None:
    market = make_market(
        make_tape(), loss_a_ppm=5 * PERCENT, loss_b_ppm=5 * PERCENT, loss_retransmission_ppm=5 * PERCENT,
        duplicate_a_ppm=PERCENT, reorder_a_ppm=3 * PERCENT, delay_b_ppm=PERCENT, delay_us=300,
    )  # fmt: skip
    market.listen()
    market.player.start(now_ns())
    market.play(market.is_over)
    market.assert_books_are_equal()
    assert market.count(Count.MESSAGES_LOST) == 0
    assert market.count(Count.MESSAGES_REPAIRED) > 0
    assert (market.state.lines[[Line.A, Line.B], LineWord.LOST] > 0).all()
    assert not market.state.suspect.any()


def test_without_retransmission_the_books_come_from_snapshots(make_market: Any) -> None:
    market = make_market(
        generate_tape(6, seconds=2, rate=20_000), requests=False, loss_a_ppm=10 * PERCENT, loss_b_ppm=10 * PERCENT
    )
    market.listen()
    market.player.start(now_ns())
    market.play(market.is_over)
    market.play(lambda: market.state.channel[Channel.SUSPECT] == 0 and not market.stage.core.repair.wanted)
    market.assert_books_are_equal()
    assert market.count(Count.SNAPSHOTS) > 0


def test_who_begins_in_the_middle_of_the_day_has_the_same_books(make_market: Any) -> None:
    market = make_market(generate_tape(7, seconds=3, rate=20_000))
    market.player.start(now_ns())
    while market.player.next_sequence < 30_000:
        market.player.turn(now_ns())
    market.listen()
    market.play(market.is_over)
    market.assert_books_are_equal()
    assert market.count(Count.SNAPSHOTS) == 1
    assert market.count(Count.MESSAGES_LOST) == 0
