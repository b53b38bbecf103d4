"""A scripted venue with a real socket and the real codec, and a bench for orders without any socket."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickpath.common.clock import now_ns
from tickpath.common.config import ExecConfig
from tickpath.common.instruments import InstrumentTable, make_table
from tickpath.common.protocols import ouch50, soupbintcp
from tickpath.common.records import ORDER, Action, Side, Tif, pack_cl_ord_id
from tickpath.exec.gateway import OuchGateway
from tickpath.exec.journal import Fsync, Journal
from tickpath.exec.layout import Reg
from tickpath.exec.orders import Orders

DAY = 20240102
TABLE = make_table([("AAPL", "0.0001", 100, 1, 1, "USD"), ("MSFT", "0.01", 1, 1, 1, "USD")])


def new_order(number: int, **fields: Any) -> np.ndarray:
    """ORDER[1]: buy 100 AAPL at 1.0000 unless told otherwise; `number` makes its id."""
    order = np.zeros(1, dtype=ORDER)
    values = {
        "cl_ord_id": pack_cl_ord_id(1, 7, number, 0), "cause_seq": number, "price_ticks": 10_000, "qty_lots": 100,
        "instrument": 0, "strategy": 1, "shard": 7, "action": Action.NEW, "side": Side.BUY, "tif": Tif.DAY,
        "recv_ns": 100, "decoded_ns": 200, "signalled_ns": 300, "approved_ns": 400,
    }  # fmt: skip
    for name, value in {**values, **fields}.items():
        order[name] = value
    return order


def cancel_order(number: int) -> np.ndarray:
    """ORDER[1] that takes back the order of the same number."""
    return new_order(number, action=Action.CANCEL)


class Desk:
    """Orders with send and receive buffers but no socket: what leaves and what arrives are bytes."""

    def __init__(self, folder: Path, table: InstrumentTable = TABLE, **options: Any) -> None:
        entries = options.pop("entries", 1024)
        fsync: Fsync = options.pop("fsync", "none")
        self.journal = Journal.open(folder, DAY, entries=entries, fsync=fsync)
        options = {"capacity": 64, "day_orders": 4096, **options}
        self.orders = Orders(self.journal, table.array, **options)
        self.gateway = OuchGateway(self.orders, table, ExecConfig())
        self.ctx = self.orders.ctx
        self.ctx[Reg.CONNECTED] = 1
        self.orders.set_refusal(None)

    def accept(self, *orders: np.ndarray, now_ns: int = 1000) -> bytes:
        """Bytes that would go to the venue for these orders."""
        assert self.orders.accept(np.concatenate(orders), now_ns) == len(orders)
        return self.take_sent()

    def take_sent(self) -> bytes:
        """Bytes in the send buffer, which is then empty."""
        raw = bytes(self.gateway._send[: int(self.ctx[Reg.SEND_TAIL])])
        self.ctx[Reg.SEND_TAIL] = 0
        return raw

    def receive(self, *messages: bytes, now_ns: int = 2000) -> int:
        """Let the kernel read messages of the venue as sequenced packets; returns the Stop."""
        raw = b"".join(soupbintcp.packet(soupbintcp.SEQUENCED, message) for message in messages)
        self.gateway._receive[: len(raw)] = np.frombuffer(raw, dtype=np.uint8)
        self.orders.ctx[Reg.FILLED] = len(raw)
        self.gateway._process(now_ns)
        return int(self.ctx[Reg.STOP])

    def close(self) -> None:
        self.gateway.close()
        self.journal.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "journal")
    yield made
    made.close()


def accepted(ref: int, quantity: int = 100, state: str = "L", venue_order: int = 0) -> bytes:
    return ouch50.ORDER_ACCEPTED.encode(
        appendage={}, timestamp=1, user_ref_num=ref, side="B", quantity=quantity, symbol="AAPL", price=10_000,
        time_in_force="0", display="Y", order_reference_number=venue_order or 1000 + ref, capacity="P", iso="N",
        cross_type="N", order_state=state, cl_ord_id=b"",
    )  # fmt: skip


def executed(ref: int, quantity: int, price: int = 10_000, match: int = 1) -> bytes:
    return ouch50.ORDER_EXECUTED.encode(
        appendage={}, timestamp=1, user_ref_num=ref, quantity=quantity, price=price, liquidity_flag="R",
        match_number=match,
    )  # fmt: skip


def canceled(ref: int, quantity: int, reason: str = "U") -> bytes:
    return ouch50.ORDER_CANCELED.encode(timestamp=1, user_ref_num=ref, quantity=quantity, reason=reason)


def rejected(ref: int, reason: int = 0x17) -> bytes:
    return ouch50.REJECTED.encode(timestamp=1, user_ref_num=ref, reason=reason, cl_ord_id=b"")


def broken(ref: int, match: int) -> bytes:
    return ouch50.BROKEN_TRADE.encode(timestamp=1, user_ref_num=ref, match_number=match, reason="E", cl_ord_id=b"")


class Venue:
    """One end of OUCH over a real socket. `script` answers each message of the client with messages of the venue."""

    def __init__(self, session: str = "TESTDAY001") -> None:
        self.log = soupbintcp.SequencedLog(session)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.connection: socket.socket | None = None
        self.session: soupbintcp.ServerSession | None = None
        self.refuse_with = ""
        self.ignore_orders = False  # they are read and thrown away, as if the line had broken before
        self.next_ref = 1
        self.live: dict[int, int] = {}
        self.seen: list[ouch50.Decoded] = []
        self.logins: list[soupbintcp.LoginRequest] = []
        self.script: Callable[[ouch50.Decoded], list[bytes]] = self.acknowledge

    def acknowledge(self, message: ouch50.Decoded) -> list[bytes]:
        """Accept every order, cancel on request."""
        ref = message.fields.get("user_ref_num", 0)
        if message.message is ouch50.ENTER_ORDER:
            self.live[ref] = message.fields["quantity"]
            return [accepted(ref, message.fields["quantity"])]
        if message.message is ouch50.CANCEL_ORDER and ref in self.live:
            return [canceled(ref, self.live.pop(ref))]
        return []

    def say(self, *messages: bytes) -> None:
        """Send messages on the venue's own account, now or when the client is back."""
        for message in messages:
            self.log.append(message)

    def drop(self) -> None:
        """Cut the line."""
        if self.connection is not None:
            self.connection.close()
            self.connection = self.session = None

    def turn(self) -> None:
        """Accept, read, answer, whatever there is to do."""
        if self.connection is None:
            try:
                self.connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            self.connection.setblocking(False)
            self.session = soupbintcp.ServerSession(self.log, now_ns())
        assert self.session is not None
        try:
            raw = self.connection.recv(65536)
        except BlockingIOError:
            raw = b""
        except ConnectionResetError:
            self.drop()
            return
        else:
            if not raw:
                self.drop()
                return
        for event in list(self.session.receive(raw, now_ns())) if raw else []:
            if isinstance(event, soupbintcp.LoginRequest):
                self.logins.append(event)
                if self.refuse_with:
                    self.connection.send(self.session.reject(self.refuse_with, now_ns()))
                    self.drop()
                    return
                self.connection.send(self.session.accept(now_ns()))
            elif isinstance(event, soupbintcp.UnsequencedData):
                self._take(ouch50.decode_inbound(event.data))
        if self.session.state is soupbintcp.State.ACTIVE:
            out = self.session.pump(now_ns())
            if out:
                with contextlib.suppress(ConnectionError):
                    self.connection.send(out)

    def _take(self, message: ouch50.Decoded) -> None:
        if message.message is ouch50.ACCOUNT_QUERY:
            self.say(ouch50.ACCOUNT_QUERY_RESPONSE.encode(timestamp=1, next_user_ref_num=self.next_ref))
            return
        if self.ignore_orders:
            return
        self.seen.append(message)
        if message.message is ouch50.ENTER_ORDER:
            if message.fields["user_ref_num"] < self.next_ref:
                return  # a repetition, ignored silently
            self.next_ref = message.fields["user_ref_num"] + 1
        self.say(*self.script(message))

    def close(self) -> None:
        self.drop()
        self.listener.close()


@pytest.fixture
def venue() -> Iterator[Venue]:
    made = Venue()
    yield made
    made.close()


class Trader:
    """Orders and gateway as in the hot process, turned by hand."""

    def __init__(self, folder: Path, port: int, **options: Any) -> None:
        self.journal = Journal.open(folder, DAY, entries=options.pop("entries", 1024))
        sizes = {"capacity": options.pop("capacity", 64), "day_orders": options.pop("day_orders", 4096)}
        self.orders = Orders(self.journal, TABLE.array, **sizes)
        self.gateway = OuchGateway(self.orders, TABLE, ExecConfig(port=port, **{"reconnect_ms": 1, **options}))

    def turn(self) -> None:
        self.gateway.receive(now_ns())
        self.gateway.tend(now_ns())

    def kill(self) -> None:
        """Die without a word: nothing is logged out, nothing is written that was not."""
        if self.gateway._socket is not None:
            self.gateway._socket.close()
        self.gateway._epoll.close()

    def close(self) -> None:
        self.gateway.close()
        self.journal.close()


def until(condition: Callable[[], bool], *turners: Any, turns: int = 20_000) -> None:
    """Turn everybody until the condition holds; fail when it never does."""
    for _ in itertools.repeat(None, turns):
        if condition():
            return
        for turner in turners:
            turner.turn()
    pytest.fail("the condition never held")
