"""What the codecs of crypto venues have in common: frames in, books changed, wishes out. No sockets, no clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple

import msgspec

from tickpath.common.crypto.market import Market


class Ask(StrEnum):
    """What a codec cannot do by itself."""

    SNAPSHOT = "snapshot"  # fetch the book of a symbol over HTTP and give it to `Codec.snapshot`
    RESUBSCRIBE = "resubscribe"  # unsubscribe a symbol's book and subscribe again: a snapshot comes with it
    RECONNECT = "reconnect"  # begin a new connection


class Wish(NamedTuple):
    """One thing to do, for the reader."""

    ask: Ask
    symbol: str = ""  # at the venue; "": none


class Codec(ABC):
    """One connection to a venue. `receive` never raises, whatever the bytes are.

    A book that may have missed something is cleared at once and stays empty until it is whole again.
    """

    venue: ClassVar[str]
    #: Kinds of messages that are known and need nothing done; they are counted.
    quiet: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, market: Market, symbols: Sequence[str] = (), *, recorded: bool = False) -> None:
        """`symbols` are those that are wanted; none: all that come. `recorded`: the frames are a recording, in
        which nothing can be asked for and frames may have been left out on purpose.
        """
        self.market = market
        self.recorded = recorded
        self.counts: Counter[str] = Counter()  # messages by stream, as the venue names it
        self.faults: Counter[str] = Counter()  # see docs/crypto.md
        self.wishes: list[Wish] = []
        self._wanted = frozenset(symbols)
        for symbol in symbols:
            market.add(symbol)

    # Frames.

    def receive(self, frame: bytes) -> None:
        """One frame of the connection; the time is the market's."""
        try:
            self._receive(frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.faults["malformed"] += 1
            self._lost_something()

    @abstractmethod
    def _receive(self, frame: bytes) -> None:
        """One frame; may raise what `receive` catches."""

    def _lost_something(self) -> None:  # noqa: B027 - where books are numbered, the next change shows it
        """A frame could not be read: what it was is not known."""

    def snapshot(self, symbol: str, body: bytes) -> None:  # noqa: B027 - most venues are never asked for one
        """The answer to a wish for a snapshot."""

    def disconnected(self) -> None:
        """The connection is over: no book can be trusted."""
        self.wishes.clear()
        for number in range(len(self.market.names)):
            self.market.clear(number)

    @abstractmethod
    def ready(self) -> bool:
        """Whether the books of all symbols wanted are whole."""

    # The connection, for a reader.

    @abstractmethod
    def address(self, base: str) -> str:
        """URL of the connection, `base` without a path: scheme, host, port."""

    @abstractmethod
    def subscriptions(self) -> list[bytes]:
        """Frames to send when the connection is there."""

    def again(self, symbol: str) -> list[bytes]:
        """Frames to send for `Ask.RESUBSCRIBE`."""
        del symbol
        return []

    def snapshot_path(self, symbol: str) -> str:
        """Path and query for `Ask.SNAPSHOT`, to be put behind the address of the HTTP server."""
        del symbol
        return ""

    def keep_alive(self) -> bytes | None:
        """A frame to send every 15 seconds; None when the protocol's own pings are enough."""
        return None

    # For the venues.

    def _number(self, symbol: str) -> int:
        """Number of a symbol in the market, -1 when it is not wanted."""
        number = self.market.numbers.get(symbol, -1)
        if number >= 0:
            return number
        if symbol and symbol.isascii() and symbol.isprintable() and len(symbol) <= 32 and not self._wanted:
            return self.market.add(symbol)
        self.faults["foreign"] += 1
        return -1

    def _wish(self, ask: Ask, symbol: str = "") -> None:
        wish = Wish(ask, symbol)
        if wish not in self.wishes:
            self.wishes.append(wish)


def decoder(kind: Any) -> Any:
    """A decoder that is made once: bytes to `kind`."""
    return msgspec.json.Decoder(kind).decode
