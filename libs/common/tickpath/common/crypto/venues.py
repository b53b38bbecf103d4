"""The venues by name: their codecs and addresses, and which of them a recording is of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from tickpath.common.crypto.binance import BinanceCoinFutures, BinanceFutures, BinanceSpot
from tickpath.common.crypto.bybit import Bybit
from tickpath.common.crypto.codec import Codec
from tickpath.common.crypto.coinbase import Coinbase
from tickpath.common.crypto.kraken import Kraken


class Venue(NamedTuple):
    """Where a venue is and how it is understood."""

    codec: type[Codec]
    url: str  # of the WebSocket, without a path
    http_url: str  # of snapshots and instruments, without a path; "": there are none or none are needed


VENUES: Final[dict[str, Venue]] = {
    "binance": Venue(BinanceSpot, "wss://stream.binance.com:9443", "https://api.binance.com"),
    "binance-usdm": Venue(BinanceFutures, "wss://fstream.binance.com", "https://fapi.binance.com"),
    "binance-coinm": Venue(BinanceCoinFutures, "wss://dstream.binance.com", "https://dapi.binance.com"),
    "kraken": Venue(Kraken, "wss://ws.kraken.com", ""),
    "coinbase": Venue(Coinbase, "wss://advanced-trade-ws.coinbase.com", ""),
    "bybit": Venue(Bybit, "wss://stream.bybit.com", ""),
}


def recognise(frames: Iterable[bytes]) -> str | None:
    """Name of the venue that sent these frames, None when they do not tell."""
    found: str | None = None
    for frame in frames:
        try:
            message = msgspec.json.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(message, list):
            return "kraken"
        if not isinstance(message, dict):
            continue
        if "topic" in message:
            return "bybit"
        if "channel" in message:
            return "coinbase" if "sequence_num" in message else "kraken"
        if "channelID" in message or message.get("event") == "systemStatus":
            return "kraken"
        kind = _binance(message)
        if kind is not None and (kind != "binance" or _is_difference(message)):
            return kind
        found = found or kind
    return found


def _is_difference(message: dict[str, Any]) -> bool:
    data = message.get("data", message)
    return isinstance(data, dict) and data.get("e") == "depthUpdate"


def _binance(message: dict[str, Any]) -> str | None:
    data = message.get("data", message)
    if not isinstance(data, dict):
        return None
    if "ps" in data or "pair" in data:
        return "binance-coinm"
    if "pu" in data or (data.get("e") == "bookTicker") or ("lastUpdateId" in data and "T" in data):
        return "binance-usdm"
    return "binance" if "e" in data or "lastUpdateId" in data or {"u", "s"} <= data.keys() else None
