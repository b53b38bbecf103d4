"""What the tests of the exchange share: tapes written by hand, and a venue that is driven message by message."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.protocols import itch50 as itch
from tickpath.common.protocols import ouch50 as ouch
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.player import Line, Player, Segment
from tickpath.sim.sources.tape import Tape
from tickpath.sim.venue import Venue

SYMBOLS = ("ABC", "XYZ")
LOCATES = {"ABC": 7, "XYZ": 9}
OPENING_NS = 34_200_000_000_000


def make_tape(messages: Sequence[bytes], times: Sequence[int] | None = None) -> Tape:
    """A tape of these messages, one microsecond apart or at `times`."""
    data = b"".join(len(message).to_bytes(2, "big") + message for message in messages)
    sizes = [0, *(len(message) + 2 for message in messages)]
    stamps = times if times is not None else range(OPENING_NS, OPENING_NS + 1000 * len(messages), 1000)
    return Tape(
        data=np.frombuffer(data, np.uint8).copy(),
        offsets=np.cumsum(sizes, dtype=np.int64),
        time_ns=np.array(list(stamps), np.int64),
        symbols=dict(LOCATES),
        source="written by hand",
        counts={},
    )


class Market:
    """A venue with one user, played message by message; answers come back decoded."""

    def __init__(self) -> None:
        self.exchange = Exchange.create(2, 10_000, 256)
        self.venue = Venue(self.exchange, SYMBOLS, LOCATES, clock_ns=OPENING_NS)
        self.user = self.venue.account("alice")
        self._seen: dict[int, int] = {}
        self.user_ref = 0
        self.answers()

    def play(self, *messages: bytes) -> list[tuple[str, dict[str, Any]]]:
        """Publish market data; what the user is told because of it."""
        tape = make_tape(messages)
        self.venue.played(Segment(tape.data, tape.offsets, tape.time_ns), 0, len(tape), 0)
        return self.answers()

    def add(self, ref: int, side: str, shares: int, price: int, symbol: str = "ABC") -> list[Any]:
        """Play one Add Order."""
        return self.play(itch.add_order(LOCATES[symbol], OPENING_NS, ref, side, shares, symbol, price))

    def say(self, message: bytes, user: int | None = None) -> list[tuple[str, dict[str, Any]]]:
        """One OUCH message of the user, and the answers."""
        self.venue.receive(self.user if user is None else user, message, 0)
        return self.answers(user)

    def enter(self, side: str, quantity: int, price: int, tif: str = "3", /, **more: Any) -> list[Any]:
        """Enter an order; the answers. `more` overrides any field, `options` is the appendage."""
        self.user_ref += 1
        options = more.pop("options", None)
        user = more.pop("user", None)
        fields: dict[str, Any] = {
            "user_ref_num": self.user_ref, "side": side, "quantity": quantity, "symbol": "ABC", "price": price,
            "time_in_force": tif, "display": "Y", "capacity": "P", "iso": "N", "cross_type": "N", "cl_ord_id": "",
        }  # fmt: skip
        return self.say(ouch.ENTER_ORDER.encode(options, **{**fields, **more}), user)

    def replace(self, orig: int, quantity: int, price: int, tif: str = "0", **more: Any) -> list[Any]:
        """Replace an order; the answers."""
        self.user_ref += 1
        fields: dict[str, Any] = {
            "orig_user_ref_num": orig, "user_ref_num": self.user_ref, "quantity": quantity, "price": price,
            "time_in_force": tif, "display": "Y", "iso": "N", "cl_ord_id": "",
        }  # fmt: skip
        return self.say(ouch.REPLACE_ORDER.encode(**{**fields, **more}))

    def cancel(self, user_ref: int, quantity: int = 0) -> list[Any]:
        """Cancel an order; the answers."""
        return self.say(ouch.CANCEL_ORDER.encode(user_ref_num=user_ref, quantity=quantity))

    def answers(self, user: int | None = None) -> list[tuple[str, dict[str, Any]]]:
        """(type, fields) of every report since the last call."""
        account = self.user if user is None else user
        log = self.venue.accounts[account].log
        first = self._seen.get(account, 1)
        self._seen[account] = log.next_sequence
        decoded = [ouch.decode_outbound(log[number]) for number in range(first, log.next_sequence)]
        more = [{"options": one.options} if one.options else {} for one in decoded]
        return [(one.message.code, {**one.fields, **extra}) for one, extra in zip(decoded, more, strict=True)]

    def count(self, counter: Counter) -> int:
        """Value of a counter."""
        return int(self.exchange.counters[counter])

    def position(self, symbol: str = "ABC") -> int:
        """Net lots of all users."""
        return int(self.exchange.positions[SYMBOLS.index(symbol)])


@pytest.fixture
def market() -> Market:
    """An empty venue with the symbols ABC and XYZ."""
    return Market()


@pytest.fixture(scope="session")
def new_market() -> type[Market]:
    """Makes an empty venue with the symbols ABC and XYZ, for tests that need many."""
    return Market


@pytest.fixture
def tape() -> Any:
    """Function that makes a tape of messages."""
    return make_tape


class Site:
    """An exchange without order entry: a player, its venue, and a listener on each line. Time is the caller's."""

    def __init__(self) -> None:
        self.lines = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "AB"]
        for line in self.lines:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            line.bind(("127.0.0.1", 0))
            line.setblocking(False)
        self.counters = np.zeros(len(Counter), np.int64)
        self.faults = np.zeros(len(Fault), np.int64)
        self._opened: list[Any] = [*self.lines]
        self.player: Player
        self.exchange: Exchange
        self.symbols: tuple[str, ...] = ()
        self.locates: dict[str, int] = {}

    def play(self, tape: Tape, *, lines: int = 2, **options: Any) -> Player:
        """A player of `tape`, started at 0 and as fast as it goes unless told otherwise."""
        self.symbols, self.locates = tuple(tape.symbols), tape.symbols
        self.counters[:] = 0
        self.exchange = Exchange.create(len(self.symbols), 1 << 17, 1024, counters=self.counters)
        venue = Venue(self.exchange, self.symbols, self.locates)
        port_a, port_b = (line.getsockname()[1] for line in self.lines)
        self.player = Player(
            tape, venue, host="127.0.0.1", port=port_a, counters=self.counters,
            late_hist=np.zeros(HIST_SIZE, np.int64), faults=self.faults,
            **{"speed": "max", "line_b": Line("127.0.0.1", port_b) if lines == 2 else None, **options},
        )  # fmt: skip
        self._opened.append(self.player)
        self.player.start(0)
        return self.player

    def through(self) -> None:
        """Play to the end of the tape."""
        while not self.player.finished:
            self.player.turn(0)

    def arrived(self, line: int) -> list[bytes]:
        """Datagrams that have arrived on a line since the last call."""
        return drain(self.lines[line])

    def open(self, server: Any) -> Any:
        """Close it at the end."""
        self._opened.append(server)
        return server

    def close(self) -> None:
        """Close everything."""
        for one in self._opened:
            one.close()


def drain(udp: socket.socket) -> list[bytes]:
    """Datagrams that are there; loopback delivers within the call that sends."""
    found = []
    while True:
        try:
            found.append(udp.recv(65536))
        except BlockingIOError:
            return found


@pytest.fixture
def site() -> Iterator[Site]:
    """An exchange with two lines."""
    made = Site()
    yield made
    made.close()
