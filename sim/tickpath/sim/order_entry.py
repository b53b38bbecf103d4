"""Orders in: OUCH over SoupBinTCP over TCP, any number of connections in one thread.

| situation | behaviour |
| --- | --- |
| wrong password, when one is configured | login refused, ``A``; the connection is closed |
| a session or message number that does not exist | login refused, ``S``; the connection is closed |
| a user logs in again | the newest connection counts; the older one is closed |
| a connection is lost | the user's reports wait in its log; with `cancel_on_disconnect` its orders are cancelled |
| a client is silent for 15 s (or what its 4.10 login asks for) | it is dropped |
| a connection does not log in: 15 s of silence, 30 s in all | it is dropped |
| a client does not read | its reports wait in its log; dropped when nothing could be sent to it for 15 s |
| bytes that are not SoupBinTCP | counted as malformed; it is dropped |
| a `U` packet that is not OUCH | counted as malformed; nothing else |

Order is kept: what one connection sends is worked on as it arrived. A turn takes a bounded number of bytes from each
connection, so that market data never waits long. Between `hold` and `release` messages are read and kept, and no
report leaves.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Callable
from typing import Final

from tickpath.common.clock import now_ns
from tickpath.common.protocols.soupbintcp import (
    NOT_AUTHORISED,
    SESSION_NOT_AVAILABLE,
    LoginRequest,
    LogoutRequest,
    SequencedLog,
    ServerSession,
    State,
    UnsequencedData,
)
from tickpath.common.protocols.wire import RemoteProtocolError
from tickpath.sim.kernels.entry import MAX_ACCOUNTS
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.player import Ints
from tickpath.sim.venue import Venue

#: Bytes taken from a connection in one turn: about 35 orders, a millisecond of work.
_RECEIVE_BYTES: Final = 2048
#: A connection with so many unsent bytes gets no more reports until they are gone.
_BACKLOG_BYTES: Final = 1 << 18
_STUCK_NS: Final = 15_000_000_000
_LOGIN_NS: Final = 30_000_000_000
_MAX_CONNECTIONS: Final = 512


class OrderEntryError(Exception):
    """The port cannot be opened; the message says which, why, and what to change."""


class _Connection:
    """One TCP connection; `account` is -1 until it has logged in."""

    def __init__(self, peer: socket.socket, session: ServerSession, now: int) -> None:
        self.socket = peer
        self.session = session
        self.account = -1
        self.unsent = bytearray()
        self.opened_ns = now
        self.moved_ns = now  # when the last unsent byte could be sent
        self.writing = False  # waits for room


class OrderEntry:
    """The TCP side of `venue`. Its `fileno` is readable when `turn` has work."""

    def __init__(
        self,
        venue: Venue,
        *,
        host: str,
        port: int,
        counters: Ints,
        faults: Ints,
        password: str = "",
        cancel_on_disconnect: bool = False,
        on_login: Callable[[], None] | None = None,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        """Listens on `host`:`port` (0: a free port). Raises OrderEntryError."""
        self._venue = venue
        self._counters = counters
        self._faults = faults
        self._password = password.strip().upper()
        self._cancel_on_disconnect = cancel_on_disconnect
        self._on_login = on_login
        self._clock = clock
        self._connections: dict[int, _Connection] = {}
        self._by_account: dict[int, _Connection] = {}
        self._nobody = SequencedLog("")
        self._holding = False
        self._held: list[tuple[int, bytes, int]] = []  # account, message, when it arrived
        self.requests: Final = [0] * MAX_ACCOUNTS  # orders and cancels that arrived, per account
        self._disconnects_asked = int(faults[Fault.DISCONNECT])
        self._listener = _listen(host, port)
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()
        return host, port

    @property
    def sessions(self) -> int:
        """Connections that are logged in."""
        return len(self._by_account)

    def fileno(self) -> int:
        """Descriptor that is readable when there is something to do."""
        return self._epoll.fileno()

    def turn(self) -> bool:
        """Accept, receive, answer; True when anything was done."""
        events = self._epoll.poll(0, 64)
        for descriptor, event in events:
            if descriptor == self._listener.fileno():
                self._accept()
                continue
            connection = self._connections.get(descriptor)
            if connection is None:
                continue
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._receive(connection)
            if event & select.EPOLLOUT and descriptor in self._connections:
                self._send(connection, b"", self._clock())
        self.flush()
        return bool(events)

    def flush(self) -> None:
        """Send the reports that the venue has made to those who are there."""
        changed = self._venue.changed
        if not changed or self._holding:
            return
        now = self._clock()
        for account in changed:
            connection = self._by_account.get(account)
            if connection is not None:
                self._pump(connection, now)
        changed.clear()

    def hold(self) -> None:
        """From now on keep what arrives, and all reports."""
        self._holding = True

    def release(self) -> None:
        """Work on what was kept, in order of arrival; send all reports."""
        self._holding = False
        held, self._held = self._held, []
        for account, message, arrived_ns in held:
            self._venue.receive(account, message, arrived_ns)
        self.flush()

    def tend(self, now: int) -> None:
        """Heartbeats, time-outs and requested faults; to be called every few milliseconds."""
        asked = int(self._faults[Fault.DISCONNECT])
        if asked != self._disconnects_asked:
            self._disconnects_asked = asked
            self._counters[Counter.FAULTS_INJECTED] += 1
            for connection in list(self._connections.values()):
                self._drop(connection)
        for connection in list(self._connections.values()):
            if connection.account < 0 and now - connection.opened_ns > _LOGIN_NS:
                self._drop(connection)
            elif connection.unsent and now - connection.moved_ns > _STUCK_NS:
                self._counters[Counter.SLOW_CLIENTS] += 1
                self._drop(connection)
            elif connection.session.timed_out(now):
                self._drop(connection)
            elif (beat := connection.session.heartbeat(now)) and not connection.unsent:
                self._send(connection, beat, now)

    def end(self) -> None:
        """Tell everybody that the session is over: no report will follow, ever."""
        now = self._clock()
        for connection in list(self._by_account.values()):
            if connection.session.state is State.ACTIVE:
                self._send(connection, connection.session.end(now), now)

    def close(self) -> None:
        """Close all sockets."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._listener.close()
        self._epoll.close()

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return  # gone before we came
        if len(self._connections) >= _MAX_CONNECTIONS:
            peer.close()
            return
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BACKLOG_BYTES)
        now = self._clock()
        self._connections[peer.fileno()] = _Connection(peer, ServerSession(self._nobody, now), now)
        self._epoll.register(peer.fileno(), select.EPOLLIN)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        arrived_ns = self._clock()
        if not data:
            self._drop(connection)
            return
        try:
            for event in connection.session.receive(data, arrived_ns):
                if isinstance(event, UnsequencedData):
                    self._take(connection.account, event.data, arrived_ns)
                elif isinstance(event, LoginRequest):
                    if not self._login(connection, event, arrived_ns):
                        return
                elif isinstance(event, LogoutRequest):
                    self.flush()
                    self._drop(connection)
                    return
        except RemoteProtocolError:
            self._counters[Counter.MALFORMED] += 1
            self._drop(connection)

    def _take(self, account: int, message: bytes, arrived_ns: int) -> None:
        self.requests[account] += message[:1] in (b"O", b"X")
        if self._holding:
            self._held.append((account, message, arrived_ns))
        else:
            self._venue.receive(account, message, arrived_ns)

    def _login(self, connection: _Connection, request: LoginRequest, now: int) -> bool:
        """Answer a login; False when the connection is closed because of it."""
        session = connection.session
        known = {account.username for account in self._venue.accounts}
        refused = bool(self._faults[Fault.REFUSE_LOGIN])
        if refused or (self._password and request.password.upper() != self._password):
            raw = session.reject(NOT_AUTHORISED, now)
        elif request.username.upper() not in known and len(known) >= MAX_ACCOUNTS:
            raw = session.reject(SESSION_NOT_AVAILABLE, now)
        else:
            account = self._venue.account(request.username)
            session.log = self._venue.accounts[account].log
            raw = session.accept(now)
        if session.state is not State.ACTIVE:
            self._counters[Counter.LOGINS_REFUSED] += 1
            self._counters[Counter.FAULTS_INJECTED] += refused
            self._send(connection, raw, now)
            self._drop(connection)
            return False
        older = self._by_account.get(account)
        if older is not None:
            older.account = -1  # the user is not gone: its orders stay
            self._drop(older)
        connection.account = account
        self._by_account[account] = connection
        self._counters[Counter.LOGINS] += 1
        self._counters[Counter.SESSIONS] = len(self._by_account)
        self._send(connection, raw, now)
        if self._on_login is not None:
            self._on_login()
        return True

    def _pump(self, connection: _Connection, now: int) -> None:
        """Send the reports that are new, unless too many old ones still wait: the log keeps them."""
        if len(connection.unsent) < _BACKLOG_BYTES and not self._holding:
            raw = connection.session.pump(now)
            if raw:
                self._send(connection, raw, now)

    def _send(self, connection: _Connection, raw: bytes, now: int) -> None:
        """Send what fits, keep the rest, and ask to be woken when there is room."""
        unsent = connection.unsent
        if not unsent:
            connection.moved_ns = now
        try:
            if unsent:
                unsent += raw
                sent = connection.socket.send(unsent)
                del unsent[:sent]
            else:
                sent = connection.socket.send(raw)
                unsent += raw[sent:]
            if sent:
                connection.moved_ns = now
        except BlockingIOError:
            if not unsent:
                unsent += raw
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                self._counters[Counter.SEND_ERRORS] += 1
            self._drop(connection)
            return
        if connection.writing != bool(unsent):
            connection.writing = bool(unsent)
            wanted = select.EPOLLIN | (select.EPOLLOUT if unsent else 0)
            self._epoll.modify(connection.socket.fileno(), wanted)
            if not unsent and connection.account >= 0:
                self._pump(connection, now)

    def _drop(self, connection: _Connection) -> None:
        descriptor = connection.socket.fileno()
        if self._connections.pop(descriptor, None) is None:
            return
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)
        connection.socket.close()
        self._counters[Counter.DISCONNECTS] += 1
        if self._by_account.get(connection.account) is connection:
            del self._by_account[connection.account]
            self._counters[Counter.SESSIONS] = len(self._by_account)
            if self._cancel_on_disconnect:
                self._venue.cancel_all(connection.account)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        msg = f"cannot take orders on {host}:{port}: {error.strerror or error}; choose another exec.host or exec.port"
        raise OrderEntryError(msg) from None
    listener.setblocking(False)
    return listener
