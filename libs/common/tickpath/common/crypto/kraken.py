"""Kraken: WebSocket v2, and v1 as recordings have it. The book with its checksum, trades.

A book comes as a snapshot, then changes; after each message both sides are cut to the depth that was subscribed, and
the CRC-32 of the ten best levels of each side must be the one that the message carries. If it is not, the book is
thrown away and subscribed to again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import msgspec

from tickpath.common.crypto.codec import Ask, Codec, decoder
from tickpath.common.crypto.market import ASK, BID, Market

DEPTH: Final = 1000

_NOTHING: Final = msgspec.Raw(b"")


class _Book2(msgspec.Struct, gc=False):
    symbol: str
    bids: msgspec.Raw = _NOTHING
    asks: msgspec.Raw = _NOTHING
    checksum: int = -1


class _Trade2(msgspec.Struct, gc=False):
    symbol: str
    side: str
    price: msgspec.Raw
    qty: msgspec.Raw
    trade_id: int = 0
    timestamp: str = ""


class _Message2(msgspec.Struct, gc=False):
    """Version 2, and what version 1 sends as objects: ``event``."""

    channel: str = ""
    type: str = ""
    data: msgspec.Raw = _NOTHING
    method: str = ""
    success: bool | None = None
    event: str = ""
    status: str = ""


class _Book1(msgspec.Struct, gc=False):
    snapshot_asks: msgspec.Raw = msgspec.field(name="as", default=_NOTHING)
    snapshot_bids: msgspec.Raw = msgspec.field(name="bs", default=_NOTHING)
    a: msgspec.Raw = _NOTHING
    b: msgspec.Raw = _NOTHING
    c: str = ""


_decode: Final = decoder(_Message2)
_decode_books2: Final = decoder(list[_Book2])
_decode_trades2: Final = decoder(list[_Trade2])
_decode_parts: Final = decoder(list[msgspec.Raw])
_decode_book1: Final = decoder(_Book1)
_decode_text: Final = decoder(str)
_decode_trades1: Final = decoder(list[tuple[msgspec.Raw, msgspec.Raw, str, str, str, str]])


class Kraken(Codec):
    """The codec."""

    venue: ClassVar[str] = "kraken"
    quiet: ClassVar[frozenset[str]] = frozenset({"heartbeat", "status", "ticker", "ohlc", "instrument", "spread"})

    def __init__(
        self, market: Market, symbols: Sequence[str] = (), *, recorded: bool = False, depth: int = DEPTH
    ) -> None:
        """`depth` is what the books are subscribed with; a recording of version 1 says it itself."""
        super().__init__(market, symbols, recorded=recorded)
        self._depth = depth
        self._live: set[str] = set()
        self.checksums = 0  # compared

    def _receive(self, frame: bytes) -> None:
        if frame[:1] == b"[":
            self._receive1(frame)
            return
        message = _decode(frame)
        if message.channel == "book":
            self.counts[message.channel] += 1
            for book in _decode_books2(message.data):
                self._book(book.symbol, book.bids, book.asks, message.type == "snapshot", self._depth, book.checksum)
        elif message.channel == "trade":
            self.counts[message.channel] += 1
            if message.type == "snapshot":  # trades of before the subscription
                return
            for trade in _decode_trades2(message.data):
                self._trade(
                    trade.symbol,
                    trade.price,
                    trade.qty,
                    trade.side,
                    trade.trade_id,
                    trade.timestamp,
                )
        elif message.channel in self.quiet:
            self.counts[message.channel] += 1
        elif message.method:
            self.counts["answers"] += 1
            if message.success is False:
                self.faults["refused"] += 1
        elif message.event:
            self.counts[message.event] += 1
            if "error" in (message.event, message.status):
                self.faults["refused"] += 1
        else:
            self.faults["unknown"] += 1

    def _receive1(self, frame: bytes) -> None:
        """``[channel, {..}, "book-1000", "XBT/USD"]``, where the changes of the two sides may be two objects."""
        parts = _decode_parts(frame)
        if len(parts) < 4:
            self.faults["unknown"] += 1
            return
        channel, pair = _decode_text(parts[-2]), _decode_text(parts[-1])
        self.counts[channel] += 1
        name, _, depth = channel.partition("-")
        if name == "book" and depth.isascii() and depth.isdigit():
            books = [_decode_book1(part) for part in parts[1:-2]]
            bids, asks, checksum, whole = _NOTHING, _NOTHING, -1, False
            for book in books:
                whole = whole or bool(book.snapshot_asks) or bool(book.snapshot_bids)
                bids = book.snapshot_bids or book.b or bids
                asks = book.snapshot_asks or book.a or asks
                if book.c:
                    checksum = int(book.c) if book.c.isascii() and book.c.isdigit() else -2
            self._book(pair, bids, asks, whole, min(int(depth[:6]), DEPTH), checksum)
        elif name == "trade":
            for price, qty, at, side, _, _ in _decode_trades1(parts[1]):
                self._trade(pair, price, qty, side, "", at)
        elif name not in self.quiet:
            self.faults["unknown"] += 1

    def _trade(
        self, symbol: str, price: msgspec.Raw, qty: msgspec.Raw, taker: str, trade_id: int | str, at: str
    ) -> None:
        number = self._number(symbol)
        if number < 0:
            return
        side = ASK if taker[:1] == "b" else BID if taker[:1] == "s" else -1
        if side < 0 or not self.market.trade(number, price, qty, side, trade_id, at):
            self.faults["malformed"] += 1

    def _book(
        self, symbol: str, bids: msgspec.Raw, asks: msgspec.Raw, snapshot: bool, depth: int, checksum: int
    ) -> None:
        number = self._number(symbol)
        if number < 0:
            return
        if not snapshot and symbol not in self._live:
            self.faults["without_snapshot"] += 1
            if not self.recorded:
                self._wish(Ask.RESUBSCRIBE, symbol)
            return
        self.market.limit(number, depth)
        if self.market.update(number, bids, asks, snapshot=snapshot) < 0:
            self.faults["malformed"] += 1
            self._restart(symbol)
            return
        self._live.add(symbol)
        if checksum != -1:
            self.checksums += 1
            if checksum != self.market.checksum(number):
                self.faults["checksums_wrong"] += 1
                self._restart(symbol)

    def _restart(self, symbol: str) -> None:
        self._live.discard(symbol)
        self.market.clear(self.market.numbers[symbol])
        self.faults["resyncs"] += 1
        self._wish(Ask.RESUBSCRIBE, symbol)

    def _lost_something(self) -> None:
        """There is no sequence, and a checksum sees only ten levels: no book can be trusted."""
        for symbol in list(self._live):
            self._restart(symbol)

    def disconnected(self) -> None:
        """Forget all books."""
        super().disconnected()
        self._live.clear()

    def ready(self) -> bool:
        """All books have their snapshot."""
        return self._live.issuperset(self.market.names)

    def address(self, base: str) -> str:
        """Version 2."""
        return f"{base}/v2"

    def subscriptions(self) -> list[bytes]:
        """Books and trades of all symbols."""
        names = list(self.market.names)
        trades = {"method": "subscribe", "params": {"channel": "trade", "symbol": names, "snapshot": False}}
        return [*self._method("subscribe", names), msgspec.json.encode(trades)]

    def again(self, symbol: str) -> list[bytes]:
        """The book of one symbol."""
        return self._method("unsubscribe", [symbol]) + self._method("subscribe", [symbol])

    def _method(self, method: str, symbols: list[str]) -> list[bytes]:
        params = {"channel": "book", "symbol": symbols, "depth": self._depth}
        if method == "subscribe":
            params["snapshot"] = True
        return [msgspec.json.encode({"method": method, "params": params})]

    def keep_alive(self) -> bytes:
        """Kraken answers with a pong and counts the connection as alive."""
        return b'{"method":"ping"}'
