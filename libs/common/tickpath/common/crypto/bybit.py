"""Bybit V5, public linear: order book of 200 levels, trades.

The ``u`` of a difference is the one before + 1; after a jump the book is thrown away and subscribed to again. A
snapshot may come at any time (with ``u`` 1 after a restart of the exchange) and replaces the book.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import msgspec

from tickpath.common.crypto.codec import Ask, Codec, decoder
from tickpath.common.crypto.market import ASK, BID, Market

_NOTHING: Final = msgspec.Raw(b"")


class _Message(msgspec.Struct, gc=False):
    topic: str = ""
    type: str = ""
    data: msgspec.Raw = _NOTHING
    op: str = ""
    success: bool | None = None


class _Book(msgspec.Struct, gc=False):
    s: str
    u: int
    b: msgspec.Raw = _NOTHING
    a: msgspec.Raw = _NOTHING


class _Trade(msgspec.Struct, gc=False):
    s: str
    S: str
    v: msgspec.Raw
    p: msgspec.Raw
    T: int = 0
    i: str = ""


_decode: Final = decoder(_Message)
_decode_book: Final = decoder(_Book)
_decode_trades: Final = decoder(list[_Trade])


class Bybit(Codec):
    """The codec."""

    venue: ClassVar[str] = "bybit"
    quiet: ClassVar[frozenset[str]] = frozenset({"tickers", "kline", "allLiquidation", "liquidation"})
    depth: ClassVar[int] = 200

    def __init__(self, market: Market, symbols: Sequence[str] = (), *, recorded: bool = False) -> None:
        super().__init__(market, symbols, recorded=recorded)
        self._last_u: dict[str, int] = {}

    def _receive(self, frame: bytes) -> None:
        message = _decode(frame)
        if not message.topic:
            if message.op:
                self.counts["answers"] += 1
            else:
                self.faults["unknown"] += 1
            if message.success is False:
                self.faults["refused"] += 1
            return
        kind = message.topic.partition(".")[0]
        self.counts[f"{message.topic}:{message.type}" if len(message.topic) < 64 else "long"] += 1
        if kind == "orderbook":
            self._book(_decode_book(message.data), message.type == "snapshot")
        elif kind == "publicTrade":
            for trade in _decode_trades(message.data):
                self._trade(trade)
        elif kind not in self.quiet:
            self.faults["unknown"] += 1

    def _book(self, book: _Book, snapshot: bool) -> None:
        number = self._number(book.s)
        if number < 0:
            return
        if not snapshot:
            last = self._last_u.get(book.s)
            if last is None:
                self.faults["without_snapshot"] += 1
                if not self.recorded:
                    self._wish(Ask.RESUBSCRIBE, book.s)
                return
            if book.u != last + 1:
                self.faults["gaps"] += 1
                self._restart(book.s)
                return
        if self.market.update(number, book.b, book.a, snapshot=snapshot) < 0:
            self.faults["malformed"] += 1
            self._restart(book.s)
            return
        self._last_u[book.s] = book.u

    def _trade(self, trade: _Trade) -> None:
        number = self._number(trade.s)
        if number < 0:
            return
        # S is the side of the taker.
        side = ASK if trade.S == "Buy" else BID if trade.S == "Sell" else -1
        if side < 0 or not self.market.trade(number, trade.p, trade.v, side, trade.i, trade.T):
            self.faults["malformed"] += 1

    def _restart(self, symbol: str) -> None:
        self._last_u.pop(symbol, None)
        self.market.clear(self.market.numbers[symbol])
        self.faults["resyncs"] += 1
        self._wish(Ask.RESUBSCRIBE, symbol)

    def disconnected(self) -> None:
        """Forget all books."""
        super().disconnected()
        self._last_u.clear()

    def last_u(self, symbol: str) -> int:
        """Number of the last change in the book of a symbol, -1 while it has none."""
        return self._last_u.get(symbol, -1)

    def ready(self) -> bool:
        """All books have their snapshot."""
        return all(name in self._last_u for name in self.market.names)

    def address(self, base: str) -> str:
        """Linear contracts."""
        return f"{base}/v5/public/linear"

    def subscriptions(self) -> list[bytes]:
        """Books and trades of all symbols."""
        names = self.market.names
        return self._op("subscribe", [f"orderbook.{self.depth}.{name}" for name in names]) + self._op(
            "subscribe", [f"publicTrade.{name}" for name in names]
        )

    def again(self, symbol: str) -> list[bytes]:
        """The book of one symbol."""
        topics = [f"orderbook.{self.depth}.{symbol}"]
        return self._op("unsubscribe", topics) + self._op("subscribe", topics)

    @staticmethod
    def _op(op: str, topics: list[str]) -> list[bytes]:
        return [msgspec.json.encode({"op": op, "args": topics})]

    def keep_alive(self) -> bytes:
        """Bybit closes a connection that says nothing for 20 s or more."""
        return b'{"op":"ping"}'
