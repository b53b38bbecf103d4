"""A live crypto market in the place of a tape: what the venue sends, played as it happens.

`find_terms` asks the venue how its symbols are traded (the launcher writes the instrument table from it); `open_live`
takes the units from that table, so that the exchange and everybody else count in the same ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.crypto.binance import BinanceSpot
from tickpath.common.crypto.market import Market, short_names
from tickpath.common.crypto.reader import FetchError, Reader, fetch
from tickpath.common.crypto.venues import VENUES, Venue
from tickpath.common.instruments import InstrumentError, load_instruments
from tickpath.common.records import MAX_PRICE_TICKS, MAX_QTY_LOTS
from tickpath.common.taps import Tap
from tickpath.sim.layout import LIVE_STATUS as STATUS_FILE
from tickpath.sim.player import Segment
from tickpath.sim.sources.crypto import make_terms
from tickpath.sim.sources.tape import DataFileError, Terms

#: Times that a quantity may be larger than the largest of the first books.
_RESERVE: Final = 16
_FIRST_BOOKS_S: Final = 30.0
_MONEY: Final = Decimal("0.00000001")

#: Where Binance says how symbols are traded.
_INSTRUMENTS: Final = {
    "binance": "/api/v3/exchangeInfo?symbol={symbol}",
    "binance-usdm": "/fapi/v1/exchangeInfo",
    "binance-coinm": "/dapi/v1/exchangeInfo",
}


class Live:
    """See `tickpath.sim.player.LiveMarket`."""

    def __init__(self, config: Config, market: Market, terms: dict[str, Terms]) -> None:
        """Connects; the symbols of the market are those that are wanted."""
        venue = _venue(config)
        self.symbols = {short: number + 1 for number, short in enumerate(market.shorts)}
        self.terms = terms
        self.source = f"live {venue.codec.venue}: {', '.join(self.symbols)}"
        self._path = config.run_dir / STATUS_FILE
        self._frames = Tap(config, "frames", time.time_ns())
        self._reader = Reader(
            venue.codec(market, market.names),
            venue.url,
            venue.http_url,
            stale_s=config.sim.live_stale_s,
            report=self._report,
            seen=self._show,
        )
        self._reader.start()

    def inputs(self) -> Sequence[int]:
        """The descriptor that is readable when there is something to poll."""
        return (self._reader.fileno(),)

    def poll(self, now_ns: int) -> Segment | None:
        """The next batch of messages, None when nothing has come."""
        del now_ns
        batch = self._reader.take()
        return None if batch is None else Segment(*batch)

    def tend(self, now_ns: int) -> None:
        """Nothing: the reader has a thread of its own."""

    def status(self) -> dict[str, Any]:
        """What the reader and the codec have counted, for people."""
        reader = self._reader
        return {
            "state": reader.state,
            "books_whole": reader.ready.is_set(),
            "waiting_messages": reader.waiting,
            "last_fault": reader.last_fault,
            "reader": dict(reader.counts),
            "frames": dict(reader.codec.counts),
            "faults": dict(reader.codec.faults),
            "levels": reader.codec.market.counts(),
        }

    def _show(self, frame: bytes) -> None:
        """For `tickpath record`; in the thread of the reader."""
        self._frames.put_message(frame, now_ns())

    def _report(self) -> None:
        """Leave the status where the side process finds it; in the thread of the reader."""
        with contextlib.suppress(OSError):
            fresh = self._path.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode(self.status()))
            fresh.replace(self._path)

    def close(self) -> None:
        """End the connection."""
        self._reader.close()
        self._frames.close()
        self._path.unlink(missing_ok=True)


def open_live(config: Config) -> Live:
    """The live market of the configuration (``sim.live``, ``sim.live_symbols``). Raises DataFileError."""
    names = _wanted(config)[1]
    shorts = short_names(names)
    try:
        table = load_instruments(config.instruments)
    except InstrumentError as error:
        raise DataFileError(str(error)) from None
    missing = [short for short in shorts.values() if short not in table.ids]
    if missing:
        msg = f"{config.instruments} has no row for {', '.join(missing)}; `tickpath up --feed` writes one that has"
        raise DataFileError(msg)
    terms: dict[str, Terms] = {}
    for short in shorts.values():
        row = table.ids[short]
        lot, multiplier, unit = table.texts[row]
        step = int(table.array["price_step_ticks"][row])
        terms[short] = Terms(unit, step, lot, multiplier, table.currencies[row])

    def begin(market: Market, number: int) -> None:
        tick, lot = terms[market.shorts[number]][:3:2]
        market.tell(number, Decimal(tick), Decimal(lot))

    market = Market(begin)
    market.time_ns = time.time_ns() % 86_400_000_000_000
    for symbol in names:
        market.add(symbol, shorts[symbol])
    return Live(config, market, terms)


def find_terms(config: Config) -> dict[str, Terms]:
    """How the live symbols are traded, by their short names. Raises DataFileError."""
    name, names = _wanted(config)
    venue = _venue(config)
    shorts = short_names(names)
    try:
        asked = name in _INSTRUMENTS
        found = asyncio.run(_ask_binance(name, names, venue)) if asked else _watch(name, names, venue)
    except FetchError as error:
        msg = f"{name} does not say how {', '.join(names)} are traded: {error}"
        raise DataFileError(msg) from None
    return {shorts[symbol]: found[symbol] for symbol in names}


def _wanted(config: Config) -> tuple[str, list[str]]:
    """The venue's name and the symbols as it writes them."""
    name = config.sim.live
    names = list(dict.fromkeys(symbol.strip().upper() for symbol in config.sim.live_symbols if symbol.strip()))
    if name is None or not names:
        msg = "sim.live needs sim.live_symbols: the symbols to trade, as the venue writes them"
        raise DataFileError(msg)
    return name, names


def _venue(config: Config) -> Venue:
    """The venue, at the addresses of the configuration."""
    options = config.sim
    venue = VENUES[options.live or ""]
    url = (options.live_url or venue.url).rstrip("/")
    http_url = options.live_http_url or (url.replace("ws", "http", 1) if options.live_url else venue.http_url)
    return venue._replace(url=url, http_url=http_url.rstrip("/"))


async def _ask_binance(name: str, names: Sequence[str], venue: Venue) -> dict[str, Terms]:
    """Tick and step sizes as the venue says them, larger where a first book shows that they would not fit."""
    found: dict[str, Terms] = {}
    for symbol in names:
        body = await fetch(venue.http_url + _INSTRUMENTS[name].format(symbol=symbol))
        market = Market(Market.rehearse)
        codec = venue.codec(market, [symbol])
        codec.snapshot(symbol, await fetch(venue.http_url + codec.snapshot_path(symbol)))
        try:
            listed = {item["symbol"]: item for item in msgspec.json.decode(body)["symbols"]}
            if symbol not in listed:
                msg = f"{name} has no symbol {symbol}"
                raise DataFileError(msg)
            item = listed[symbol]
            sizes = {rule["filterType"]: rule for rule in item["filters"]}
            tick = Decimal(sizes["PRICE_FILTER"]["tickSize"])
            lot = Decimal(sizes["LOT_SIZE"]["stepSize"])
            contract = Decimal(item["contractSize"]) if "contractSize" in item else None
        except (msgspec.DecodeError, KeyError, TypeError, InvalidOperation) as error:
            msg = f"{name}: the description of {symbol} cannot be understood: {error!r}"
            raise DataFileError(msg) from None
        if not isinstance(codec, BinanceSpot) or codec.last_u(symbol) < 0:
            msg = f"{name} gives no book of {symbol}"
            raise DataFileError(msg)
        price, qty = market.largest(0)
        wide_tick, wide_lot = market.units(0, _RESERVE)
        if tick <= 0 or tick % _MONEY or 4 * price / tick > MAX_PRICE_TICKS:
            tick = wide_tick
        if lot <= 0 or _RESERVE * qty / lot > MAX_QTY_LOTS or (tick * lot) % _MONEY:
            lot = wide_lot
        found[symbol] = make_terms(name, symbol, tick, lot, price, contract)
    return found


def _watch(name: str, names: Sequence[str], venue: Venue) -> dict[str, Terms]:
    """Units out of the first books that come."""
    market = Market(Market.rehearse)
    reader = Reader(venue.codec(market, names), venue.url, venue.http_url)
    reader.start()
    whole = reader.ready.wait(_FIRST_BOOKS_S)
    reader.close()
    if not whole:
        said = reader.last_fault or f"{reader.counts['frames']} frames came; are the symbols written as {name} does?"
        msg = f"{name} sent no whole book of {', '.join(names)} within {_FIRST_BOOKS_S:.0f} s: {said}"
        raise DataFileError(msg)
    return {
        symbol: make_terms(name, symbol, *market.units(number, _RESERVE), market.largest(number)[0])
        for number, symbol in enumerate(names)
    }
