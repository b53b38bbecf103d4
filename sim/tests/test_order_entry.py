"""Order entry over real loopback sockets: logins, reconnections, silence, clients that do not read, faults."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tickpath.common.protocols import itch50 as itch
from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.protocols.soupbintcp import (
    ClientSession,
    EndOfSession,
    LoginAccepted,
    LoginRejected,
    SequencedData,
    packet,
)
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.order_entry import OrderEntry, OrderEntryError

P10 = 100_000
WORD = "SECRET"
SECOND = 1_000_000_000


class Client:
    """A small OUCH client."""

    def __init__(self, house: House, username: str = "alice", password: str = "", **options: Any) -> None:
        self.house = house
        self.session = ClientSession(username, password, **options)
        self.events: list[Any] = []
        self.user_ref = 0
        self.connect()

    def connect(self) -> None:
        """Connect and send the login."""
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.socket.connect(self.house.entry.address)
        self.socket.setblocking(False)
        self.socket.sendall(self.session.login(self.house.now))
        self.open = True

    def read(self) -> None:
        """Take what is there."""
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.open = False
            self.session.connection_lost()
            self.socket.close()
            return
        self.events += self.session.receive(data, self.house.now)

    def say(self, message: bytes) -> None:
        """Send one OUCH message."""
        self.socket.sendall(self.session.send(message, self.house.now))

    def enter(self, **more: Any) -> None:
        """Enter a day order that rests."""
        self.user_ref += 1
        fields: dict[str, Any] = {
            "user_ref_num": self.user_ref, "side": "B", "quantity": 100, "symbol": "ABC", "price": P10,
            "time_in_force": "0", "display": "Y", "capacity": "P", "iso": "N", "cross_type": "N", "cl_ord_id": "",
        }  # fmt: skip
        self.say(ouch.ENTER_ORDER.encode(**{**fields, **more}))

    def reports(self) -> str:
        """Types of all reports so far."""
        return "".join(chr(event.data[0]) for event in self.events if isinstance(event, SequencedData))


class House:
    """A venue with its door open, and the clock that both sides go by."""

    def __init__(self, market: Any, **options: Any) -> None:
        self.market = market
        self.now = 100 * SECOND
        self.counters = market.exchange.counters
        self.faults = np.zeros(len(Fault), np.int64)
        self.entry = OrderEntry(
            market.venue, host="127.0.0.1", port=0, counters=self.counters, faults=self.faults,
            clock=lambda: self.now, **options,
        )  # fmt: skip
        self.clients: list[Client] = []

    def client(self, *arguments: Any, **options: Any) -> Client:
        self.clients.append(Client(self, *arguments, **options))
        return self.clients[-1]

    def run(self, until: Callable[[], bool]) -> None:
        """Let everybody work until something is so; give up after ten seconds."""
        give_up = time.monotonic() + 10
        while not until():
            assert time.monotonic() < give_up, "it did not happen"
            self.entry.turn()
            self.entry.tend(self.now)
            for client in self.clients:
                if client.open:
                    client.read()

    def trade(self, client: Client, expect: str) -> None:
        """Run until the client has had exactly these reports."""
        self.run(lambda: client.reports() == expect)

    def count(self, counter: Counter) -> int:
        return int(self.counters[counter])

    def close(self) -> None:
        self.entry.close()
        for client in self.clients:
            client.socket.close()


@pytest.fixture
def open_house(new_market: Any) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(**options: Any) -> House:
        houses.append(House(new_market(), **options))
        return houses[-1]

    yield make
    for house in houses:
        house.close()


@pytest.fixture
def house(open_house: Callable[..., House]) -> House:
    return open_house()


def test_an_order_goes_in_and_its_reports_come_out(house: House) -> None:
    client = house.client()
    house.trade(client, "S")
    assert client.events[0] == LoginAccepted("TICKPATH01", 1)
    client.enter()
    house.trade(client, "SA")
    house.market.venue.played(*_played(house, itch.add_order(7, 1, 1, "S", 30, "ABC", P10)))
    house.trade(client, "SAE")
    client.say(ouch.CANCEL_ORDER.encode(user_ref_num=1, quantity=0))
    house.trade(client, "SAEC")
    assert house.count(Counter.SESSIONS) == 1


def _played(house: House, message: bytes) -> tuple[Any, int, int, int]:
    data = len(message).to_bytes(2, "big") + message
    offsets = np.array([0, len(data)], np.int64)
    return (_Segment(np.frombuffer(data, np.uint8).copy(), offsets), 0, 1, 0)


class _Segment:
    def __init__(self, data: Any, offsets: Any) -> None:
        self.data = data
        self.offsets = offsets


def test_on_login_is_called_once_the_client_is_in(open_house: Callable[..., House]) -> None:
    logins: list[int] = []
    house = open_house(password=WORD, on_login=lambda: logins.append(1))
    refused, let_in = house.client(password=WORD[1:]), house.client(password=WORD.lower())
    house.run(lambda: bool(let_in.events) and not refused.open)
    assert logins == [1]


def test_a_wrong_password_is_refused_and_the_connection_closed(open_house: Callable[..., House]) -> None:
    house = open_house(password=WORD)
    client = house.client(password=WORD[:-1])
    house.run(lambda: not client.open)
    assert client.events == [LoginRejected("A")]
    assert house.count(Counter.LOGINS_REFUSED) == 1


@pytest.mark.parametrize("wanted", [{"session": "YESTERDAY"}, {"next_sequence": 9}])
def test_a_session_or_number_that_is_not_there_is_refused(house: House, wanted: dict[str, Any]) -> None:
    client = house.client(**wanted)
    house.run(lambda: not client.open)
    assert client.events == [LoginRejected("S")]


def test_a_client_that_comes_back_gets_what_it_missed_and_its_orders_live_on(house: House) -> None:
    client = house.client()
    house.trade(client, "S")
    client.enter()
    house.trade(client, "SA")
    client.socket.close()
    client.session.connection_lost()
    client.open = False
    house.run(lambda: house.entry.sessions == 0)
    house.market.venue.played(*_played(house, itch.add_order(7, 1, 1, "S", 30, "ABC", P10)))
    house.entry.flush()
    client.connect()
    house.trade(client, "SAE")
    assert client.events[-2] == LoginAccepted("TICKPATH01", 3)


def test_users_have_streams_of_their_own(house: House) -> None:
    alice, bob = house.client("alice"), house.client("bob")
    house.trade(alice, "S")
    house.trade(bob, "S")
    alice.enter()
    house.trade(alice, "SA")
    bob.enter(symbol="NONE")
    house.trade(bob, "SJ")
    assert alice.reports() == "SA"


def test_a_second_login_of_a_user_takes_over(open_house: Callable[..., House]) -> None:
    house = open_house(cancel_on_disconnect=True)
    old = house.client()
    house.trade(old, "S")
    old.enter()
    house.trade(old, "SA")
    new = house.client()
    house.trade(new, "SA")
    house.run(lambda: not old.open)
    assert house.count(Counter.OPEN_ORDERS) == 1
    assert house.entry.sessions == 1


def test_cancel_on_disconnect_takes_the_orders_back(open_house: Callable[..., House]) -> None:
    house = open_house(cancel_on_disconnect=True)
    client = house.client()
    house.trade(client, "S")
    client.enter()
    house.trade(client, "SA")
    client.socket.sendall(client.session.logout(house.now))
    house.run(lambda: not client.open)
    assert house.count(Counter.OPEN_ORDERS) == 0


def test_heartbeats_pass_when_nothing_else_does_and_keep_the_connection(house: House) -> None:
    client = house.client()
    house.trade(client, "S")
    for _ in range(20):
        house.now += SECOND
        client.socket.sendall(client.session.heartbeat(house.now))
        heard = client.session._heard_ns
        house.run(lambda heard=heard: client.session._heard_ns > heard)  # type: ignore[misc]
    assert client.open


def test_a_silent_client_is_dropped(house: House) -> None:
    client = house.client()
    house.trade(client, "S")
    house.now += 15 * SECOND
    house.run(lambda: not client.open)
    assert house.count(Counter.DISCONNECTS) == 1


def test_a_connection_that_never_logs_in_is_dropped(house: House) -> None:
    stranger = socket.create_connection(house.entry.address)
    house.run(lambda: len(house.entry._connections) == 1)
    house.now += 31 * SECOND
    house.run(lambda: not house.entry._connections)
    stranger.close()


def test_bytes_that_are_not_soupbintcp_end_the_connection(house: House) -> None:
    stranger = socket.create_connection(house.entry.address)
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 3000)
    house.run(lambda: house.count(Counter.MALFORMED) == 1)
    assert not house.entry._connections
    stranger.close()


def test_what_is_not_ouch_is_counted_and_the_session_goes_on(house: House) -> None:
    client = house.client()
    house.trade(client, "S")
    client.say(b"?????")
    client.enter()
    house.trade(client, "SA")
    assert house.count(Counter.MALFORMED) == 1


def test_messages_cut_anywhere_are_put_together(house: House) -> None:
    client = house.client()
    house.trade(client, "S")
    client.user_ref = 1
    raw = client.session.send(
        ouch.ENTER_ORDER.encode(
            user_ref_num=1, side="B", quantity=100, symbol="ABC", price=P10, time_in_force="0", display="Y",
            capacity="P", iso="N", cross_type="N", cl_ord_id="",
        ),
        house.now,
    )  # fmt: skip
    for byte in raw:
        client.socket.sendall(bytes([byte]))
        house.entry.turn()
    house.trade(client, "SA")


def test_a_client_that_does_not_read_delays_nobody_and_gets_everything_later(house: House) -> None:
    """Its reports wait in the log, not in memory of the connection, and the other client is served."""
    slow, quick = house.client("slow"), house.client("quick")
    house.trade(slow, "S")
    house.trade(quick, "S")
    slow.open = False  # stops reading
    n = 3000
    for _ in range(n):
        _report(house, "SLOW")
    connection = house.entry._by_account[_account(house, "SLOW")]
    assert 0 < len(connection.unsent) < 1 << 19
    quick.enter()
    house.trade(quick, "SA")
    slow.open = True
    house.trade(slow, "S" + "R" * n)


def test_a_client_that_never_reads_is_dropped(house: House) -> None:
    client = house.client("slow")
    house.trade(client, "S")
    client.open = False
    connection = house.entry._by_account[_account(house, "SLOW")]
    while not connection.unsent:
        _report(house, "SLOW")
    for _ in range(16):
        house.now += SECOND
        client.socket.sendall(packet(ord("R")))
        house.entry.turn()
        house.entry.tend(house.now)
    assert house.count(Counter.SLOW_CLIENTS) == 1
    assert house.entry.sessions == 0


def _report(house: House, username: str) -> None:
    """A report of a kilobyte."""
    account = _account(house, username)
    house.market.venue.accounts[account].log.append(b"R" * 1000)
    house.market.venue.changed.add(account)
    house.entry.flush()


def _account(house: House, username: str) -> int:
    return [account.username for account in house.market.venue.accounts].index(username)


def test_on_request_every_connection_is_dropped_once(house: House) -> None:
    client = house.client()
    house.trade(client, "S")
    house.faults[Fault.DISCONNECT] += 1
    house.run(lambda: not client.open)
    client.connect()
    house.run(lambda: house.entry.sessions == 1)
    house.entry.tend(house.now)
    assert house.entry.sessions == 1


def test_on_request_logins_are_refused(house: House) -> None:
    house.faults[Fault.REFUSE_LOGIN] = 1
    client = house.client()
    house.run(lambda: not client.open)
    assert client.events == [LoginRejected("A")]
    house.faults[Fault.REFUSE_LOGIN] = 0
    client.connect()
    house.trade(client, "S")


def test_the_end_is_said_to_everybody(house: House) -> None:
    client = house.client()
    house.trade(client, "S")
    house.entry.end()
    house.run(lambda: isinstance(client.events[-1], EndOfSession))


def test_a_port_in_use_is_said_plainly(house: House, new_market: Any) -> None:
    host, port = house.entry.address
    with pytest.raises(OrderEntryError, match=rf"cannot take orders on {host}:{port}: .*; choose another"):
        OrderEntry(
            new_market().venue, host=host, port=port, counters=house.counters, faults=np.zeros(len(Fault), np.int64)
        )


def test_what_is_held_is_counted_but_not_answered_until_it_is_released(house: House) -> None:
    """Orders that come while a datagram is played wait, and so do the reports of those that it fills."""
    market = house.market
    alice, bob = house.client(), house.client("bob")
    house.run(lambda: alice.reports() == bob.reports() == "S")
    alice.enter()
    house.trade(alice, "SA")
    requests = house.entry.requests
    account = market.venue.find("alice")
    assert requests[account] == 1

    house.entry.hold()
    market.play(itch.add_order(7, 34_200_000_000_000, 1, "S", 100, "ABC", P10))
    bob.enter()
    alice.say(ouch.ACCOUNT_QUERY.encode())
    alice.say(ouch.CANCEL_ORDER.encode(user_ref_num=1, quantity=0))
    house.run(lambda: requests[account] == 2 and requests[market.venue.find("bob")] == 1)
    house.entry.flush()
    turns = iter(range(5))
    house.run(lambda: next(turns) == 4)
    assert (alice.reports(), bob.reports()) == ("SA", "S")
    assert house.counters[Counter.ACCEPTED] == 1

    house.entry.release()
    house.run(lambda: alice.reports() == "SAEQ" and bob.reports() == "SA")
    assert house.counters[Counter.IGNORED] == 1  # the cancel came too late
