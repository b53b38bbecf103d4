"""Binance: spot, USD-M futures and COIN-M futures. Trades, best bid and offer, and depth differences.

Frames are those of ``/stream?streams=`` (``{"stream": .., "data": ..}``) or of ``/ws/``. The book of a symbol:

| state | a difference is | becomes |
| --- | --- | --- |
| WAITING | kept | SYNCED when a snapshot comes that fits what was kept; else another snapshot is asked for |
| FIRST | the first after the snapshot: must reach around it | LIVE, or WAITING with an empty book |
| LIVE | the next: must follow on the last one | LIVE, or WAITING with an empty book |

| | spot | futures |
| --- | --- | --- |
| dropped | ``u <= lastUpdateId`` | ``u < lastUpdateId`` |
| first | ``U <= lastUpdateId + 1 <= u`` | ``U <= lastUpdateId <= u``, or ``pu == lastUpdateId`` |
| next | ``U <= last u + 1``; with ``u <= last u`` it is old and ignored | ``pu == last u`` |
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar, Final

import msgspec
import numpy as np

from tickpath.common.crypto.codec import Ask, Codec, decoder
from tickpath.common.crypto.kernels import binance as scanner
from tickpath.common.crypto.market import ASK, BID, Market
from tickpath.common.jit import direct

#: Differences kept while a snapshot is on its way; beyond them the oldest are dropped.
_MOST_KEPT: Final = 4096


class _Event(msgspec.Struct, gc=False):
    """All messages of all streams: what a kind does not have keeps its default."""

    e: str = ""
    s: str = ""
    U: int = -1
    u: int = -1
    pu: int = -1
    b: msgspec.Raw = msgspec.Raw(b"")
    a: msgspec.Raw = msgspec.Raw(b"")
    T: int = 0
    t: int = -1
    p: msgspec.Raw = msgspec.Raw(b"")
    q: msgspec.Raw = msgspec.Raw(b"")
    m: bool | None = None
    lastUpdateId: int = -1  # noqa: N815 - as on the wire
    symbol: str = ""
    bids: msgspec.Raw = msgspec.Raw(b"")
    asks: msgspec.Raw = msgspec.Raw(b"")
    id: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


class _Frame(msgspec.Struct, gc=False):
    stream: str
    data: _Event


_decode_frame: Final = decoder(_Frame)
_decode: Final = decoder(_Event)
_scan: Final = direct(scanner.scan)
_STREAM: Final = b'{"stream":"'
_TICKER: Final = b'@bookTicker"'


class _State(IntEnum):
    WAITING = 0
    FIRST = 1
    LIVE = 2


class _Book:
    __slots__ = ("kept", "last_trade", "last_u", "number", "state")

    def __init__(self) -> None:
        self.number = -1  # in the market, once something of it was received
        self.state = _State.WAITING
        self.last_u = -1
        self.last_trade = -1
        self.kept: list[_Event] = []


class BinanceSpot(Codec):
    """The codec of spot, and what the futures have in common with it."""

    venue: ClassVar[str] = "binance"
    depth_stream: ClassVar[str] = "depth@100ms"
    depth_path: ClassVar[str] = "/api/v3/depth?symbol={symbol}&limit=5000"

    def __init__(
        self, market: Market, symbols: Sequence[str] = (), *, recorded: bool = False, snapshots: bool = True
    ) -> None:
        """`snapshots` False: the recording has none, so the first difference begins an empty book."""
        super().__init__(market, symbols, recorded=recorded)
        self.snapshots = snapshots
        self._books: dict[str, _Book] = {}
        self._found = np.zeros(scanner.FOUND_SIZE, np.int64)
        scanner.scan(market.text, 0, self._found)  # see `direct`

    def _book(self, symbol: str) -> _Book:
        book = self._books.get(symbol)
        return book if book is not None else self._books.setdefault(symbol, _Book())

    def _receive(self, frame: bytes) -> None:
        stream = ""
        if frame.startswith(_STREAM):
            if self._receive_fast(frame):
                return
            ticker = frame.find(_TICKER, 0, 80)
            if ticker > 0:  # most frames, where it is subscribed; nothing in it is needed
                self.counts[frame[len(_STREAM) : ticker].decode() + "@bookTicker"] += 1
                return
            outer = _decode_frame(frame)
            stream, event = outer.stream, outer.data
        else:
            event = _decode(frame)
        kind = event.e
        if kind == "depthUpdate":
            self.counts[stream or kind] += 1
            self._difference(event)
        elif kind == "trade":
            self.counts[stream or kind] += 1
            self._trade(event)
        elif kind == "bookTicker" or (not kind and event.u >= 0 and event.s):
            self.counts[stream or "bookTicker"] += 1
        elif event.lastUpdateId >= 0:
            self.counts["REST depth snapshot"] += 1
            symbol = event.symbol or self._owner(event.lastUpdateId)
            if symbol:
                self._snapshot(symbol, event)
        elif kind == "serverShutdown":
            self.counts[kind] += 1
            self._wish(Ask.RECONNECT)
        elif event.error:
            self.faults["refused"] += 1
        elif event.id:
            self.counts["answers"] += 1
        else:
            self.faults["unknown"] += 1

    def _receive_fast(self, frame: bytes) -> bool:
        """A trade, or the next difference of a live book, without objects for its fields; False: it is neither."""
        market, found = self.market, self._found
        kind = _scan(market.text, market.put(frame), found)
        if kind == scanner.OTHER:
            return False
        _, stream_end, symbol, symbol_end, first, last, pu, at, maker, left, left_end, right, right_end = (
            found.tolist()
        )
        book = self._books.get(frame[symbol:symbol_end].decode())
        if book is None or book.number < 0:
            return False
        if kind == scanner.DIFFERENCE:
            if book.state != _State.LIVE or not self._follows(first, last, pu, book.last_u):
                return False
            book.last_u = last
            if market.update_at(book.number, left, left_end, right, right_end) < 0:
                self.faults["malformed"] += 1
                self._restart(market.names[book.number], book.number)
        else:
            if first != book.last_trade + 1 and book.last_trade >= 0:
                self.faults["trade_gaps"] += 1
            book.last_trade = first
            side = BID if maker else ASK
            if not market.trade_at(book.number, side, left, left_end, right, right_end, first, at):
                self.faults["malformed"] += 1
        self.counts[frame[len(_STREAM) : stream_end].decode()] += 1
        return True

    def snapshot(self, symbol: str, body: bytes) -> None:
        """The body of the depth snapshot."""
        try:
            event = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            event = None
        if event is None or event.lastUpdateId < 0:
            self.faults["malformed"] += 1
            self._wish(Ask.SNAPSHOT, symbol)
            return
        self.counts["REST depth snapshot"] += 1
        self._snapshot(symbol, event)

    def disconnected(self) -> None:
        """Forget all books."""
        super().disconnected()
        for name in self.market.names:
            self._books[name] = _Book()

    def last_u(self, symbol: str) -> int:
        """Number of the last change in the book of a symbol, -1 while it has none."""
        book = self._book(symbol)
        return -1 if book.state == _State.WAITING else book.last_u

    def ready(self) -> bool:
        """All books have their snapshot."""
        return all(self._book(name).state != _State.WAITING for name in self.market.names)

    def address(self, base: str) -> str:
        """All streams of all symbols in one connection."""
        streams = (f"{name.lower()}@{kind}" for name in self.market.names for kind in (self.depth_stream, "trade"))
        return f"{base}/stream?streams={'/'.join(streams)}"

    def subscriptions(self) -> list[bytes]:
        """None: the address names the streams. The snapshots are wished for."""
        for name in self.market.names:
            self._book(name)
            self._wish(Ask.SNAPSHOT, name)
        return []

    def snapshot_path(self, symbol: str) -> str:
        """Where the book is to be had."""
        return self.depth_path.format(symbol=symbol)

    # Trades.

    def _trade(self, event: _Event) -> None:
        number = self._number(event.s)
        if number < 0:
            return
        book = self._book(event.s)
        book.number = number
        if event.m is None or event.t < 0:
            self.faults["malformed"] += 1
            return
        if book.last_trade >= 0 and event.t != book.last_trade + 1:
            self.faults["trade_gaps"] += 1
        book.last_trade = event.t
        # m: the buyer was the maker, so the resting order was a bid.
        if not self.market.trade(number, event.p, event.q, BID if event.m else ASK, event.t, event.T):
            self.faults["malformed"] += 1

    # Books.

    def _difference(self, event: _Event) -> None:
        number = self._number(event.s)
        if number < 0:
            return
        if event.U < 0 or event.u < event.U:
            self.faults["malformed"] += 1
            self._restart(event.s, number)
            return
        book = self._book(event.s)
        book.number = number
        if book.state == _State.LIVE:
            if self._follows(event.U, event.u, event.pu, book.last_u):
                self._apply(event, number, book)
            elif event.u > book.last_u:
                self._gap(event, number)
            else:
                self.faults["old"] += 1
        elif book.state == _State.FIRST:
            self._first(event, number, book)
        elif not self.snapshots:
            book.last_u = event.u
            book.state = _State.LIVE
            self._apply(event, number, book)
        else:
            book.kept.append(event)
            if len(book.kept) > _MOST_KEPT:
                del book.kept[0]
                self.faults["kept_dropped"] += 1
            self._wish(Ask.SNAPSHOT, event.s)

    def _snapshot(self, symbol: str, event: _Event) -> None:
        number = self._number(symbol)
        if number < 0:
            return
        book = self._book(symbol)
        if book.state == _State.LIVE and event.lastUpdateId <= book.last_u:
            return
        if book.kept and self._is_old(event.lastUpdateId, book.kept[0]):
            self.faults["old_snapshots"] += 1
            self._wish(Ask.SNAPSHOT, symbol)
            return
        if not event.bids or not event.asks or self.market.update(number, event.bids, event.asks, snapshot=True) < 0:
            self.faults["malformed"] += 1
            self._wish(Ask.SNAPSHOT, symbol)
            return
        kept, book.kept = book.kept, []
        book.state = _State.FIRST
        book.last_u = event.lastUpdateId
        for difference in kept:
            self._difference(difference)

    def _first(self, event: _Event, number: int, book: _Book) -> None:
        """The first difference after a snapshot."""
        last = book.last_u
        if event.u <= last:
            self.faults["before_snapshot"] += 1
        elif last + 1 >= event.U:
            book.state = _State.LIVE
            self._apply(event, number, book)
        else:
            self._gap(event, number)

    def _follows(self, first: int, last: int, pu: int, last_u: int) -> bool:
        del pu
        return first <= last_u + 1 and last > last_u

    def _is_old(self, last_update_id: int, first: _Event) -> bool:
        """Whether a snapshot ends before the first difference that was kept begins."""
        return last_update_id + 1 < first.U

    def _apply(self, event: _Event, number: int, book: _Book) -> None:
        book.last_u = event.u
        if self.market.update(number, event.b, event.a) < 0:
            self.faults["malformed"] += 1
            self._restart(event.s, number)

    def _gap(self, event: _Event, number: int) -> None:
        """Something before this difference was lost."""
        self.faults["gaps"] += 1
        self._restart(event.s, number)
        self._difference(event)

    def _restart(self, symbol: str, number: int) -> None:
        """Throw the book away and begin anew."""
        self.market.clear(number)
        last_trade = self._book(symbol).last_trade
        self._books[symbol] = _Book()
        self._books[symbol].last_trade = last_trade
        self.faults["resyncs"] += 1
        self._wish(Ask.SNAPSHOT, symbol)

    def _owner(self, last_update_id: int) -> str:
        """Whose snapshot in a recording this is: the bodies of some venues do not say it."""
        names = self.market.names
        if len(names) == 1:
            return names[0]
        for name in names:
            kept = self._book(name).kept
            if kept and last_update_id + 1 >= kept[0].U and abs(kept[0].U - last_update_id) < 1 << 24:
                return name
        self.faults["unknown"] += 1
        return ""


class BinanceFutures(BinanceSpot):
    """USD-M futures: every difference names the one before it."""

    venue: ClassVar[str] = "binance-usdm"
    depth_stream: ClassVar[str] = "depth@0ms"
    depth_path: ClassVar[str] = "/fapi/v1/depth?symbol={symbol}&limit=1000"

    def _follows(self, first: int, last: int, pu: int, last_u: int) -> bool:
        del first, last
        return pu == last_u

    def _is_old(self, last_update_id: int, first: _Event) -> bool:
        return last_update_id < first.U and first.pu != last_update_id

    def _first(self, event: _Event, number: int, book: _Book) -> None:
        last = book.last_u
        if event.u < last:
            self.faults["before_snapshot"] += 1
        elif last >= event.U or event.pu == last:
            book.state = _State.LIVE
            self._apply(event, number, book)
        else:
            self._gap(event, number)


class BinanceCoinFutures(BinanceFutures):
    """COIN-M futures; quantities are contracts."""

    venue: ClassVar[str] = "binance-coinm"
    depth_path: ClassVar[str] = "/dapi/v1/depth?symbol={symbol}&limit=1000"
