"""The live path: a real server on this machine, the reader's WebSocket, and what comes out for the exchange."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tickpath.common.config import Config, ConfigError, load_config
from tickpath.common.crypto.codec import Codec
from tickpath.common.crypto.market import Level
from tickpath.common.crypto.reader import FetchError, fetch
from tickpath.common.instruments import make_table, save_instruments
from tickpath.common.kernels.book import Book, Result, apply_blocks
from tickpath.common.records import NO_PRICE_TICKS
from tickpath.sim.live import Live, find_terms, open_live
from tickpath.sim.sources.crypto import Recording, read_recording
from tickpath.sim.sources.tape import DataFileError
from tickpath.sim.websocket import VenueServer

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
FILES = {
    "binance": "binance/spot_btcusdt_20240808.tsjson.zst",
    "binance-usdm": "binance/usdm_btcusdt_20240808.tsjson.zst",
    "binance-coinm": "binance/cm_btcusd_perp_20240808.tsjson.zst",
    "kraken": "crypto_ws/kraken_v1_20210417.tsjson.zst",
    "coinbase": "crypto_ws/coinbase_advanced_20260809_BTC-USD.tsjson.zst",
    "bybit": "crypto_ws/bybit_v5_linear_20260809_BTCUSDT_SOLUSDT.tsjson.zst",
}
WAIT_S = 20.0
LEVELS = 10  # that are compared: what Kraken's checksum proves, and less than a snapshot over HTTP has

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded market data is not here: {DATA}")


def recording_of(venue: str, frames: int) -> Recording:
    """The first frames of a recording."""
    path = DATA / FILES[venue]
    if not path.is_file():
        pytest.skip(f"no recorded market data: {path}")
    whole = read_recording([path])
    return whole._replace(times_ns=whole.times_ns[:frames], frames=whole.frames[:frames])


class Server:
    """The server in a thread of its own, as a user would start it in a process of its own."""

    def __init__(self, recording: Recording, speed: float | str) -> None:
        self.venue = recording.venue
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

        async def start() -> VenueServer:
            made = VenueServer(recording, speed=speed)
            await made.start()
            return made

        self.server: VenueServer = self.run(start())

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)

    def post(self, path: str) -> dict[str, Any]:
        request = Request(f"http://127.0.0.1:{self.server.port}{path}", method="POST")
        with urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def best(self, name: str) -> tuple[Level | None, Level | None]:
        market = self.server._market
        return market.best(market.numbers[name])

    def close(self) -> None:
        self.run(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(WAIT_S)
        self.loop.close()


class Desk:
    """What the exchange would do with a live market: take its messages and keep the books."""

    def __init__(self, server: Server, config: Config) -> None:
        """The table of instruments must be there."""
        self.server = server
        self.live: Live = open_live(config)
        self.codec: Codec = self.live._reader.codec
        self.book = Book.create(len(self.live.symbols), 1 << 16, 2048)
        for row, locate in enumerate(self.live.symbols.values()):
            self.book.locate[locate] = row
        self.times: list[int] = []

    def poll(self) -> bool:
        segment = self.live.poll(time.monotonic_ns())
        if segment is None:
            return False
        apply_blocks(self.book, segment.data, 0, len(segment.time_ns))
        self.times += segment.time_ns.tolist()
        return True

    def until(self, condition: Callable[[], bool]) -> None:
        """Go on until something is so; a test that never gets there fails."""
        end = time.monotonic() + WAIT_S
        while (busy := self.poll()) or not condition():
            assert time.monotonic() < end, (self.live.status(), self.book.results())
            if not busy:
                time.sleep(0.002)
        while self.poll():  # what came between the last look and the condition
            pass

    def told(self, name: str) -> tuple[Level | None, Level | None]:
        """Best bid and ask of the book that was told, in the venue's units."""
        number = self.codec.market.numbers[name]
        terms = self.live.terms[self.codec.market.shorts[number]]
        bid, bid_lots, ask, ask_lots = self.book.bbo(number)
        tick, lot = Decimal(terms.tick_size), Decimal(terms.lot_size)
        sides = [
            None if price == NO_PRICE_TICKS else Level(price * tick, lots * lot)
            for price, lots in ((bid, bid_lots), (ask, ask_lots))
        ]
        return sides[0], sides[1]

    def whole(self) -> bool:
        """Whether the recording is held and all books are there and told."""
        server = self.server.server
        return (
            server.sent == server.hold_at
            and self.live._reader.ready.is_set()
            and all(self.told(name)[0] is not None for name in server.symbols)
        )

    def caught_up(self) -> bool:
        """Whether the whole recording has been sent and all books are those of the server."""
        if not self.server.server.over or not self.live._reader.ready.is_set():
            return False
        ours, theirs = self.codec.market, self.server.server._market
        return all(
            ours.side(ours.numbers[name], side, LEVELS) == theirs.side(theirs.numbers[name], side, LEVELS)
            for name in self.server.server.symbols
            for side in (0, 1)
        )

    def check(self) -> None:
        """The told books fit the venue's, and every message fitted the book."""
        assert set(self.book.results()) == {Result.OK}
        for name in self.server.server.symbols:
            for ours, theirs in zip(self.told(name), self.server.best(name), strict=True):
                assert ours is not None
                assert theirs is not None
                terms = self.live.terms[self.codec.market.shorts[self.codec.market.numbers[name]]]
                assert ours.price == theirs.price
                assert abs(ours.qty - theirs.qty) <= Decimal(terms.lot_size) / 2


@pytest.fixture
def desks(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    """Makes desks at servers, and closes them."""
    closing: list[Any] = []

    def make(venue: str, frames: int, hold_at: int | None = None, **more: Any) -> Desk:
        recording = recording_of(venue, frames)
        write_table(recording, tmp_path)
        server = Server(recording, "max")
        server.server.hold_at = hold_at
        closing.append(server)
        desk = Desk(server, config_of(tmp_path, server, **more))
        closing.append(desk.live)
        return desk

    yield make
    for item in reversed(closing):
        item.close()


def write_table(recording: Recording, folder: Path) -> None:
    """As the launcher does it: from what the venue says. The recording begins at its beginning again afterwards."""
    server = Server(recording, "max")
    try:
        config = config_of(folder, server)
        terms = find_terms(config)
    finally:
        server.close()
    rows = [(symbol, *one, one.tick_size) for symbol, one in sorted(terms.items())]
    save_instruments(make_table(rows), config.instruments)


def config_of(folder: Path, server: Server, **more: Any) -> Config:
    sim = {
        "live": server.venue,
        "live_symbols": [name.lower() for name in server.server.symbols],
        "live_url": f"ws://127.0.0.1:{server.server.port}",
        **more,
    }
    return load_config(ROOT / "tickpath.toml", sim=sim, instruments=str(folder / "instruments.csv"))


@pytest.mark.parametrize("venue", FILES)
def test_a_played_recording_arrives_as_the_book_of_the_venue(venue: str, desks: Callable[..., Desk]) -> None:
    """All frames at full speed, through the socket, the codec and the exchange's messages."""
    desk = desks(venue, 3000)
    desk.until(desk.caught_up)
    desk.check()
    assert desk.times == sorted(desk.times)
    assert desk.book.message_counts()["P"] > 0
    status = desk.live.status()
    assert status["state"] == "live"
    assert status["reader"]["connections"] == 1
    assert status["reader"]["frames"] > 100
    assert "gaps" not in status["faults"]
    assert "checksums_wrong" not in status["faults"]


@pytest.mark.parametrize("venue", FILES)
def test_a_cut_connection_comes_back_with_the_same_book(venue: str, desks: Callable[..., Desk]) -> None:
    """The books are emptied at once, and whole again after the reconnect."""
    desk = desks(venue, 2000, hold_at=300)
    desk.until(desk.whole)
    assert desk.server.post("/control/cut")["clients"] <= 1
    desk.until(lambda: desk.live._reader.counts["connections"] > 1)
    desk.server.post("/control/go")
    desk.until(desk.caught_up)
    desk.check()
    assert desk.book.message_counts()["D"] > 0
    assert desk.live.status()["reader"]["connections"] == 2


@pytest.mark.parametrize("venue", FILES)
def test_a_dropped_change_is_noticed_and_made_good(venue: str, desks: Callable[..., Desk]) -> None:
    """A gap in the numbers, or a checksum that is wrong, throws the book away and fetches it anew."""
    desk = desks(venue, 3000, hold_at=300)
    desk.until(desk.whole)
    desk.server.post(
        f"/control/drop?frames={100 if venue == 'kraken' else 3}"
    )  # a checksum sees only the best levels
    desk.server.post("/control/go")
    wrong = "checksums_wrong" if venue == "kraken" else "gaps"
    desk.until(lambda: desk.codec.faults[wrong] > 0)
    desk.until(desk.caught_up)
    desk.check()
    assert desk.codec.faults["resyncs"] > 0


def test_silence_is_taken_for_a_dead_connection(desks: Callable[..., Desk]) -> None:
    """No frame for so long: the books are emptied and a new connection is made."""
    desk = desks("bybit", 60, live_stale_s=1.0)
    desk.until(lambda: desk.live._reader.counts["stale"] > 0)
    desk.until(lambda: desk.live._reader.counts["connections"] > 1)
    desk.until(desk.caught_up)
    assert desk.book.message_counts()["D"] > 0


def test_a_venue_that_is_away_is_waited_for(desks: Callable[..., Desk]) -> None:
    """Connecting again, with longer and longer waits, and what is wrong is said."""
    desk = desks("kraken", 200)
    desk.server.run(desk.server.server.stop())
    desk.until(lambda: desk.live._reader.counts["connect_failures"] > 1)
    assert str(desk.server.server.port) in desk.live.status()["last_fault"]
    assert not desk.live.status()["books_whole"]
    assert desk.book.live_orders == 0


def test_a_connection_that_ends_before_the_venue_has_answered_is_none(
    desks: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a proxy accepts and has nobody behind it; the venue comes back later."""
    attend, hung_up = VenueServer._attend, 0

    async def hang_up_twice(self: VenueServer, reader: Any, writer: Any) -> None:
        nonlocal hung_up
        if hung_up == 2:
            await attend(self, reader, writer)
            return
        hung_up += 1
        self._writers.discard(writer)
        writer.transport.abort()

    async def cut() -> None:
        desk.server.server.cut()

    desk = desks("kraken", 200)
    desk.until(desk.caught_up)
    monkeypatch.setattr(VenueServer, "_attend", hang_up_twice)
    desk.server.run(cut())
    desk.until(lambda: desk.live._reader.counts["connect_failures"] == 2)
    assert "closed before it had answered" in desk.live.status()["last_fault"]
    desk.until(desk.caught_up)


def test_a_user_who_mistypes_is_told_what_is_wrong(tmp_path: Path) -> None:
    """Unknown symbols, no symbols, unknown venues, and nobody at the address."""
    server = Server(recording_of("binance", 200), "max")
    try:
        with pytest.raises(DataFileError, match="NOSUCH"):
            find_terms(config_of(tmp_path, server, live_symbols=["nosuch"]))
        with pytest.raises(DataFileError, match=r"sim\.live_symbols"):
            find_terms(config_of(tmp_path, server, live_symbols=[" "]))
        with pytest.raises(DataFileError, match=r"instruments\.csv"):
            open_live(config_of(tmp_path, server))
        with pytest.raises(ConfigError, match=r"sim\.live"):
            config_of(tmp_path, server, live="nyse")
    finally:
        server.close()
    with pytest.raises(DataFileError, match=r"127\.0\.0\.1"):
        find_terms(config_of(tmp_path, server))


def test_what_is_not_there_is_said_with_its_address() -> None:
    """HTTP errors carry the address and what the server said."""
    server = Server(recording_of("binance", 200), "max")
    try:
        with pytest.raises(FetchError, match="404"):
            asyncio.run(fetch(f"http://127.0.0.1:{server.server.port}/nothing"))
    finally:
        server.close()
