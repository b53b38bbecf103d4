"""Coinbase Advanced Trade: level2, market_trades, heartbeats.

``sequence_num`` counts the messages of the connection, whatever their channel: after a jump nobody knows what was
lost, so every book is thrown away and a new connection is asked for. In a recording that may have been split by
product jumps are only counted.

What ``side`` of a trade means is unverified: it is taken for the side of the maker, as the exchange's documentation
of the older feed says. Nothing but the side of a print depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import msgspec

from tickpath.common.crypto.codec import Ask, Codec, decoder
from tickpath.common.crypto.market import ASK, BID, Market

_NOTHING: Final = msgspec.Raw(b"")


class _Message(msgspec.Struct, gc=False):
    channel: str = ""
    sequence_num: int = -1
    events: msgspec.Raw = _NOTHING
    type: str = ""


class _Levels(msgspec.Struct, gc=False):
    type: str
    product_id: str
    updates: msgspec.Raw


class _Trade(msgspec.Struct, gc=False):
    product_id: str
    price: msgspec.Raw
    size: msgspec.Raw
    side: str
    trade_id: str = ""
    time: str = ""


class _Trades(msgspec.Struct, gc=False):
    type: str
    trades: list[_Trade]


class _Kind(msgspec.Struct, gc=False):
    type: str = ""


_decode: Final = decoder(_Message)
_decode_levels: Final = decoder(list[_Levels])
_decode_trades: Final = decoder(list[_Trades])
_decode_kinds: Final = decoder(list[_Kind])


class Coinbase(Codec):
    """The codec."""

    venue: ClassVar[str] = "coinbase"
    quiet: ClassVar[frozenset[str]] = frozenset(
        {"heartbeats", "subscriptions", "ticker", "ticker_batch", "candles", "status"}
    )

    def __init__(self, market: Market, symbols: Sequence[str] = (), *, recorded: bool = False) -> None:
        super().__init__(market, symbols, recorded=recorded)
        self.sequence = -1  # of the last message
        self._live: set[str] = set()

    def _receive(self, frame: bytes) -> None:
        message = _decode(frame)
        if not message.channel:
            self.faults["refused" if message.type == "error" else "unknown"] += 1
            return
        if message.sequence_num != self.sequence + 1 and self.sequence >= 0:
            self.faults["gaps"] += 1
            if not self.recorded:
                self._lost_something()
                return
        self.sequence = message.sequence_num
        if message.channel == "l2_data":
            for levels in _decode_levels(message.events):
                self.counts[f"{message.channel}:{levels.type}"] += 1
                self._levels(levels)
        elif message.channel == "market_trades":
            for event in _decode_trades(message.events):
                self.counts[f"{message.channel}:{event.type}"] += 1
                if event.type == "update":  # a snapshot has trades of before
                    self._trades(event)
        elif message.channel in self.quiet:
            for kind in _decode_kinds(message.events):
                self.counts[f"{message.channel}:{kind.type}"] += 1
        else:
            self.faults["unknown"] += 1

    def _levels(self, levels: _Levels) -> None:
        symbol = levels.product_id
        number = self._number(symbol)
        if number < 0:
            return
        snapshot = levels.type == "snapshot"
        if not snapshot and symbol not in self._live:
            self.faults["without_snapshot"] += 1
            if not self.recorded:
                self._wish(Ask.RECONNECT)
            return
        if self.market.update(number, levels.updates, b"", snapshot=snapshot) < 0:
            self.faults["malformed"] += 1
            self._lost_something()
            return
        self._live.add(symbol)

    def _trades(self, event: _Trades) -> None:
        for trade in reversed(event.trades):  # the newest comes first
            number = self._number(trade.product_id)
            if number < 0:
                continue
            side = BID if trade.side == "BUY" else ASK if trade.side == "SELL" else -1
            if side < 0 or not self.market.trade(number, trade.price, trade.size, side, trade.trade_id, trade.time):
                self.faults["malformed"] += 1

    def _lost_something(self) -> None:
        self.faults["resyncs"] += 1
        self._live.clear()
        for number in range(len(self.market.names)):
            self.market.clear(number)
        self._wish(Ask.RECONNECT)

    def disconnected(self) -> None:
        """Forget all books and where the sequence was."""
        super().disconnected()
        self.sequence = -1
        self._live.clear()

    def ready(self) -> bool:
        """All books have their snapshot."""
        return self._live.issuperset(self.market.names)

    def address(self, base: str) -> str:
        """As it is."""
        return base

    def subscriptions(self) -> list[bytes]:
        """Books, trades, and heartbeats, without which a quiet channel is closed."""
        channels: list[dict[str, object]] = [
            {"type": "subscribe", "channel": channel, "product_ids": list(self.market.names)}
            for channel in ("level2", "market_trades")
        ]
        return [msgspec.json.encode(one) for one in [{"type": "subscribe", "channel": "heartbeats"}, *channels]]
