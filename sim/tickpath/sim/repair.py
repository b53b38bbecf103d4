"""What makes loss good: the server of single messages (MoldUDP64 requests over UDP), and that of whole books (TCP).

Retransmissions:

| request | answer |
| --- | --- |
| messages of the session that were sent | ordinary packets with as many of them as `packets` packets hold |
| more than were sent so far | those that were |
| the first one not sent yet, or so old that it is not kept | none; counted |
| another session; not 20 bytes; no message at all | none; counted |
| more requests than can wait | none; counted |

Snapshots, in the manner of GLIMPSE 5.0 over SoupBinTCP:

| situation | behaviour |
| --- | --- |
| login of the right user, any password | the acceptance; the snapshot; end of session; the connection is closed |
| another user, another session | refused, ``A`` or ``S``; the connection is closed |
| a client does not read, or does not log in, for 15 s | it is dropped |

A snapshot is a row of ITCH messages: an ``R`` for each instrument, an ``H`` or ``h`` where it does not trade, an
``A`` for each open order, oldest first, and ``G`` with 20 digits: the number of the first live message that is not
in it.
It is made in one go, between two turns of the tape; it is sent bit by bit.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from tickpath.common.clock import now_ns
from tickpath.common.jit import direct
from tickpath.common.protocols import itch50 as itch
from tickpath.common.protocols.moldudp64 import parse_request
from tickpath.common.protocols.soupbintcp import (
    NOT_AUTHORISED,
    SEQUENCED,
    LoginRequest,
    SequencedLog,
    ServerSession,
    State,
    packet,
)
from tickpath.common.protocols.wire import RemoteProtocolError
from tickpath.sim.history import Ints
from tickpath.sim.kernels import snapshot, wire
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.layout import Counter, Fault
from tickpath.sim.player import Player

#: Requests that may wait, and most work of one turn: about 100 µs.
_REQUESTS: Final = 1024
_REQUESTS_PER_TURN: Final = 16
_DATAGRAMS_PER_TURN: Final = 12

_SLICE_BYTES: Final = 1 << 16
_MOST_CLIENTS: Final = 16
_MOST_SAID: Final = 256  # bytes of a packet: a login has 51
_PATIENCE_NS: Final = 15_000_000_000
_FOREVER: Final = 2**62
_SEQUENCE_DIGITS: Final = 20

_pack, _collect, _fill = direct(wire.pack), direct(snapshot.collect), direct(snapshot.fill)


class RepairError(Exception):
    """A port cannot be opened; the message says which, why, and what to change."""


class _Request:
    """What is still to be answered of a request."""

    def __init__(self, peer: tuple[str, int], sequence: int, end: int, packets: int) -> None:
        self.peer = peer
        self.sequence = sequence
        self.end = end
        self.packets = packets


class Retransmitter:
    """Answers requests for messages that `player` has sent. Its `fileno` is readable when `turn` has work."""

    def __init__(
        self, player: Player, *, host: str, port: int, counters: Ints, faults: Ints, packets: int = 64
    ) -> None:
        """Listens on `host`:`port` (0: a free port); a request gets at most so many `packets`. Raises RepairError."""
        self._player = player
        self._counters = counters
        self._faults = faults
        self._packets = packets
        self._waiting: deque[_Request] = deque()
        self._answers = 0
        self._plan = np.zeros(wire.PLAN_SIZE, np.int64)
        self._plan[wire.DATAGRAM_BYTES], self._plan[wire.UNTIL_TIME] = player.datagram_bytes, _FOREVER
        self._session = np.frombuffer(player.session, np.uint8).copy()
        self._buffer = np.zeros(player.datagram_bytes, np.uint8)
        self._view = memoryview(self._buffer)  # type: ignore[arg-type]
        self._row = np.zeros((1, 4), np.int64)
        self._socket = _bind(socket.SOCK_DGRAM, host, port, "retransmission")
        none = np.zeros(1, np.int64)
        wire.pack(self._buffer[:1], none, none[:0], self._session, self._plan, self._buffer, self._row)  # types

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._socket.getsockname()
        return host, port

    def fileno(self) -> int:
        """Descriptor that is readable when there is something to do."""
        return self._socket.fileno()

    def turn(self) -> bool:
        """Take requests and answer them, a bounded slice; True when some are still to be answered."""
        for _ in range(_REQUESTS_PER_TURN):
            try:
                data, peer = self._socket.recvfrom(64)
            except OSError:  # none is there; or an answer of ours found nobody
                break
            self._take(data, peer)
        for _ in range(_DATAGRAMS_PER_TURN):
            if not self._waiting or not self._answer(self._waiting[0]):
                break
        return bool(self._waiting)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _take(self, data: bytes, peer: tuple[str, int]) -> None:
        counters = self._counters
        try:
            request = parse_request(data)
        except RemoteProtocolError:
            counters[Counter.REQUESTS_MALFORMED] += 1
            return
        sequence, end = request.sequence, request.sequence + request.n_messages
        sent = self._player.next_sequence
        if request.n_messages == 0:
            counters[Counter.REQUESTS_MALFORMED] += 1
        elif request.session != self._player.session:
            counters[Counter.REQUESTS_OTHER_SESSION] += 1
        elif not self._player.history.first_sequence <= sequence < sent:
            counters[Counter.REQUESTS_OUT_OF_RANGE] += 1
        elif len(self._waiting) >= _REQUESTS:
            counters[Counter.REQUESTS_OVERFLOWED] += 1
        else:
            counters[Counter.RETRANSMISSION_REQUESTS] += 1
            self._waiting.append(_Request(peer, sequence, min(end, sent), self._packets))

    def _answer(self, request: _Request) -> bool:
        """Send one packet of an answer; False when the system has no room for it now."""
        piece = self._player.history.find(request.sequence, request.end)
        if piece is None:  # what was kept a moment ago has been given up
            self._counters[Counter.REQUESTS_OUT_OF_RANGE] += 1
            self._waiting.popleft()
            return True
        plan = self._plan
        plan[wire.NEXT], plan[wire.UNTIL_INDEX] = piece.first, piece.last
        plan[wire.NEXT_SEQ], plan[wire.SHIFT_NS] = request.sequence, piece.shift_ns
        _pack(*piece.segment, self._session, plan, self._buffer, self._row)
        faults, number = self._faults, self._answers
        lost = wire.chance(
            int(faults[Fault.LOSS_RETRANSMISSION_PPM]), int(faults[Fault.SEED]), wire.RETRANSMISSION, 0, number
        )
        if lost:
            self._counters[Counter.RETRANSMISSIONS_LOST] += 1
            self._counters[Counter.FAULTS_INJECTED] += 1
        else:
            try:
                self._socket.sendto(self._view[: self._row[0, wire.LENGTH]], request.peer)
            except BlockingIOError:
                return False
            except OSError:
                self._counters[Counter.SEND_ERRORS] += 1
                self._waiting.popleft()
                return True
            self._counters[Counter.RETRANSMITTED_DATAGRAMS] += 1
            self._counters[Counter.RETRANSMITTED_MESSAGES] += self._row[0, wire.COUNT]
        self._answers += 1
        request.sequence = int(plan[wire.NEXT_SEQ])
        request.packets -= 1
        if request.packets == 0 or request.sequence >= request.end:
            self._waiting.popleft()
        return True


class _Client:
    """One connection to the snapshot server."""

    def __init__(self, peer: socket.socket, session: ServerSession, now: int) -> None:
        self.socket = peer
        self.session = session
        self.unsent = memoryview(b"")
        self.leaving = False  # everything has been said but `unsent`
        self.moved_ns = now


class SnapshotServer:
    """Gives the played books to whoever logs in. Its `fileno` is readable when `turn` has work."""

    def __init__(
        self,
        player: Player,
        exchange: Exchange,
        symbols: Sequence[str],
        locates: Mapping[str, int],
        *,
        host: str,
        port: int,
        username: str,
        counters: Ints,
        faults: Ints,
    ) -> None:
        """Listens on `host`:`port` (0: a free port). `exchange` holds what `player` has played; instrument i of it is
        ``symbols[i]`` and listed when it is in `locates`. Raises RepairError."""
        self._player = player
        self._exchange = exchange
        self._username = username.upper()
        self._counters = counters
        self._faults = faults
        self._listed = np.array([i for i, symbol in enumerate(symbols) if symbol in locates], np.int64)
        self._directory = np.zeros((len(symbols), snapshot.DIRECTORY_BYTES), np.uint8)
        for i in self._listed.tolist():
            raw = packet(SEQUENCED, itch.stock_directory(locates[symbols[i]], 0, symbols[i]))
            self._directory[i] = np.frombuffer(raw, np.uint8)
        self._clients: dict[int, _Client] = {}
        self._log = SequencedLog(player.session.decode("ascii").strip())
        snapshot.collect(exchange, np.zeros(0, np.int64))  # types: see `direct`
        snapshot.fill(exchange, self._listed[:0], self._listed[:0], self._directory, np.zeros(0, np.uint8))
        self._listener = _bind(socket.SOCK_STREAM, host, port, "snapshot")
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()
        return host, port

    def fileno(self) -> int:
        """Descriptor that is readable when there is something to do."""
        return self._epoll.fileno()

    def turn(self) -> None:
        """Accept, read and send a slice to each client; at most one snapshot is made."""
        made = False
        for descriptor, event in self._epoll.poll(0, 2 * _MOST_CLIENTS):
            if descriptor == self._listener.fileno():
                self._accept()
                continue
            client = self._clients[descriptor]
            now = now_ns()
            if event & select.EPOLLOUT:
                self._send(client, now)
            elif not made:
                made = self._receive(client, now)

    def tend(self, now: int) -> None:
        """Drop those who neither read nor speak."""
        for client in list(self._clients.values()):
            if now - client.moved_ns > _PATIENCE_NS:
                self._counters[Counter.SLOW_CLIENTS] += 1
                self._drop(client)

    def close(self) -> None:
        """Close all sockets."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._listener.close()
        self._epoll.close()

    def packets(self, before: bytes = b"", after: bytes = b"") -> memoryview:
        """A snapshot of now as SoupBinTCP packets, the last one with the ``G``; between what else is to be sent."""
        began_ns = now_ns()
        exchange = self._exchange
        names = np.empty(exchange.book.live_orders, np.int64)
        n = _collect(exchange, names)
        names = names[:n]
        names.sort()
        per_instrument = snapshot.DIRECTORY_BYTES + snapshot.ACTION_BYTES + snapshot.HALT_BYTES
        end = packet(SEQUENCED, b"G" + b"%*d" % (_SEQUENCE_DIGITS, self._player.next_sequence)) + after
        most = len(before) + len(self._listed) * per_instrument + n * snapshot.ORDER_BYTES
        out = np.empty(most + len(end), np.uint8)
        out[: len(before)] = np.frombuffer(before, np.uint8)
        size = len(before) + int(_fill(exchange, names, self._listed, self._directory, out[len(before) :]))
        out[size : size + len(end)] = np.frombuffer(end, np.uint8)
        counters = self._counters
        counters[Counter.SNAPSHOTS] += 1
        counters[Counter.SNAPSHOT_NS_MAX] = max(int(counters[Counter.SNAPSHOT_NS_MAX]), now_ns() - began_ns)
        return memoryview(out)[: size + len(end)]  # type: ignore[arg-type]

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return  # gone before we came
        if len(self._clients) >= _MOST_CLIENTS:
            peer.close()
            return
        peer.setblocking(False)
        now = now_ns()
        self._clients[peer.fileno()] = _Client(peer, ServerSession(self._log, now, max_payload=_MOST_SAID), now)
        self._counters[Counter.SNAPSHOT_SESSIONS] = len(self._clients)
        self._epoll.register(peer.fileno(), select.EPOLLIN)

    def _receive(self, client: _Client, now: int) -> bool:
        """Read what a client says; True when a snapshot was made because of it."""
        try:
            data = client.socket.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return False
        if client.leaving:
            return False  # heartbeats, or a farewell
        try:
            login = next((e for e in client.session.receive(data, now) if isinstance(e, LoginRequest)), None)
        except RemoteProtocolError:
            self._counters[Counter.MALFORMED] += 1
            self._drop(client)
            return False
        return login is not None and self._login(client, login, now)

    def _login(self, client: _Client, request: LoginRequest, now: int) -> bool:
        session = client.session
        refused = bool(self._faults[Fault.REFUSE_LOGIN])
        if refused or request.username.upper() != self._username:
            answer = session.reject(NOT_AUTHORISED, now)
        else:
            answer = session.accept(now)
        client.leaving = True
        accepted = session.state is State.ACTIVE
        if accepted:
            client.unsent = self.packets(answer, session.end(now))
        else:
            self._counters[Counter.SNAPSHOT_LOGINS_REFUSED] += 1
            self._counters[Counter.FAULTS_INJECTED] += refused
            client.unsent = memoryview(answer)
        self._epoll.modify(client.socket.fileno(), select.EPOLLOUT)
        return accepted

    def _send(self, client: _Client, now: int) -> None:
        """Send a slice; after the last one say so, and wait for the client to close."""
        try:
            sent = client.socket.send(client.unsent[:_SLICE_BYTES])
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        client.unsent = client.unsent[sent:]
        client.moved_ns = now
        if not client.unsent:
            self._counters[Counter.SNAPSHOTS_COMPLETE] += client.session.state is State.ENDED
            # Closing at once would throw away what the client has not read when something of it is unread here.
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_WR)
            self._epoll.modify(client.socket.fileno(), select.EPOLLIN)

    def _drop(self, client: _Client) -> None:
        descriptor = client.socket.fileno()
        del self._clients[descriptor]
        self._epoll.unregister(descriptor)
        client.socket.close()
        self._counters[Counter.SNAPSHOT_SESSIONS] = len(self._clients)


def _bind(kind: socket.SocketKind, host: str, port: int, name: str) -> socket.socket:
    opened = socket.socket(socket.AF_INET, kind)
    if kind is socket.SOCK_STREAM:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        if kind is socket.SOCK_STREAM:
            opened.listen(_MOST_CLIENTS)
    except OSError as error:
        opened.close()
        keys = f"feed.{name}_host or feed.{name}_port"
        msg = f"cannot serve {name}s on {host}:{port}: {error.strerror or error}; choose another {keys}"
        raise RepairError(msg) from None
    opened.setblocking(False)
    return opened
