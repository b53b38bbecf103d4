"""The connection to the venue: OUCH 5.0 on SoupBinTCP over one TCP socket, non-blocking.

The hot path (orders out, reports in) is in `kernels.ouch`; this module owns the socket and the session: login,
heartbeats, reconnecting and reconciling. After every login the venue first delivers all its messages that we have
not seen, then answers our Account Query. Only then is it known what became of the orders that were open when the
session broke: one whose UserRefNum the venue never saw was NOT_SENT, every other one either had its report in the
stream or is live. Until that is settled no new order is sent: it is refused with a report, not kept for later.
Nothing is ever sent a second time, except cancels.

| state | what it waits for | new orders |
| --- | --- | --- |
| DOWN | the time to try again (doubling pauses) | NOT_CONNECTED |
| CONNECTING | the TCP connection | NOT_CONNECTED |
| LOGIN | the answer to the login | NOT_CONNECTED |
| RECONCILING | missed messages and the answer to the Account Query | NOT_CONNECTED |
| READY | | sent |
| REFUSED | the time to try again: the venue does not let us in | NOT_CONNECTED |
| HALTED | a person: journal and venue contradict each other; cancels still go out | MISMATCH |
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from tickpath.common.config import ExecConfig
from tickpath.common.instruments import InstrumentTable
from tickpath.common.process import StartError
from tickpath.common.protocols import ouch50, soupbintcp
from tickpath.common.protocols.wire import RemoteProtocolError
from tickpath.exec.journal import JournalError
from tickpath.exec.kernels.session import Leave
from tickpath.exec.layout import ENTER_BYTES, TEMPLATE_BYTES, Counter, GatewayState, Reg, Stop, Sweep
from tickpath.exec.lifecycle import Refusal
from tickpath.exec.orders import Orders

_SEND_BYTES: Final = 1 << 18
_RECEIVE_BYTES: Final = 1 << 18
_RESERVED_BYTES: Final = 256  # of the send buffer, for login, heartbeats and queries
_LOGIN_TIMEOUT_NS: Final = 5_000_000_000
_QUERY_SETTLE_NS: Final = 500_000_000
_CANCEL_REPEAT_NS: Final = 500_000_000
_BACKOFF_FACTOR: Final = 20


class Gateway(Protocol):
    """What the stage needs of a venue; one implementation per protocol. Times are CLOCK_MONOTONIC, ns."""

    @property
    def state(self) -> GatewayState:
        """Where it is."""

    @property
    def text(self) -> str:
        """What people should know about the state."""

    def fileno(self) -> int:
        """A descriptor that stays the same and is readable when `receive` should be called."""

    def submit(self, orders: npt.NDArray[np.void], now_ns: int, *, late: bool = False) -> int:
        """Journal ORDER[n] and send; returns how many were dealt with (see `Orders.accept`).

        `late`: they had to wait for room in the journal, so new orders among them are refused.
        """

    def receive(self, now_ns: int) -> bool:
        """Take what the venue sent; True when there was anything."""

    def tend(self, now_ns: int) -> bool:
        """Connect, keep the session alive, repeat cancels; True when anything was done."""

    def pause(self, paused: bool) -> None:
        """Refuse new orders, or take them again."""

    def cancel_all(self, now_ns: int) -> None:
        """Cancel every open order, repeated until each is terminal."""

    def drain(self, now_ns: int) -> None:
        """Refuse new orders from now on and cancel everything."""

    def close(self) -> None:
        """Log out and let everything go."""


def _resolve(config: ExecConfig) -> tuple[int, Any]:
    """(address family, address) of the venue; once, because looking a name up blocks. Raises StartError."""
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
    except OSError as error:
        msg = f"exec.host = {config.host!r}: {error.strerror}; a host name or an IP address is allowed"
        raise StartError(msg) from None
    return found[0][0], found[0][4]


def order_templates(table: InstrumentTable) -> npt.NDArray[np.uint8]:
    """Enter Order of each instrument in its packet, uint8[n, TEMPLATE_BYTES]; what differs by order is patched in."""
    templates = np.zeros((len(table), TEMPLATE_BYTES), dtype=np.uint8)
    for index, symbol in enumerate(table.symbols):
        message = ouch50.ENTER_ORDER.encode(
            appendage={}, user_ref_num=0, side="B", quantity=0, symbol=symbol, price=0, time_in_force="0",
            display="Y", capacity="P", iso="N", cross_type="N", cl_ord_id=b"T",
        )  # fmt: skip
        raw = soupbintcp.packet(soupbintcp.UNSEQUENCED, message)
        templates[index, :ENTER_BYTES] = np.frombuffer(raw, dtype=np.uint8)
    return templates


class OuchGateway:
    """`Gateway` to a venue that speaks OUCH 5.0. It is the only user of `orders`."""

    def __init__(self, orders: Orders, table: InstrumentTable, config: ExecConfig) -> None:
        self.orders = orders
        self._config = config
        self._counts = orders.counters
        self._send = np.zeros(_SEND_BYTES, dtype=np.uint8)
        self._receive = np.zeros(_RECEIVE_BYTES, dtype=np.uint8)
        self._send_view = self._send.data
        self._receive_view = self._receive.data
        self._templates = order_templates(table)
        ctx = self._ctx = orders.ctx
        ctx[Reg.SEND], ctx[Reg.SEND_SIZE] = self._send.ctypes.data, _SEND_BYTES - _RESERVED_BYTES
        ctx[Reg.RECEIVE], ctx[Reg.RECEIVE_SIZE] = self._receive.ctypes.data, _RECEIVE_BYTES
        ctx[Reg.TEMPLATES], ctx[Reg.INSTRUMENTS] = self._templates.ctypes.data, len(table)
        session, _ = orders.journal.venue_session()
        self._session = soupbintcp.ClientSession(
            config.username, config.secret(), session=session, timeout_ns=config.heartbeat_timeout_ms * 1_000_000
        )
        self._address = _resolve(config)
        self._socket: socket.socket | None = None
        self._epoll = select.epoll()
        self._state = GatewayState.DOWN
        self._text = "not connected yet"
        self._since_ns = 0
        self._attempt = 0
        self._retry_ns = 0
        self._sweeps: list[tuple[Sweep, int]] = []
        # Responses to Account Queries that may still come: of this life, and of an earlier one that we replay.
        self._unanswered = int(orders.journal.next_seq > 1)
        self._answer = 0  # next free UserRefNum in the newest one, 0: none yet
        self._noted_sent_ns = self._noted_heard_ns = 0
        self._repeated_ns = 0
        self._breaks = 0  # connections lost so far
        self._paused = self._draining = False
        if orders.open_count:
            self._sweeps.append((Sweep.DISCONNECT, 0))  # what was open when we died is in doubt

    # Gateway.

    @property
    def state(self) -> GatewayState:
        """Where it is."""
        return self._state

    @property
    def text(self) -> str:
        """What people should know about the state."""
        return self._text

    def fileno(self) -> int:
        """Descriptor of the epoll set that holds whatever socket there is at the moment."""
        return self._epoll.fileno()

    def submit(self, orders: npt.NDArray[np.void], now_ns: int, *, late: bool = False) -> int:
        """Journal, encode and send ORDER[n]; returns how many were dealt with."""
        if late and self._ctx[Reg.REFUSE] == 0:
            self.orders.set_refusal(Refusal.JOURNAL_FULL)
            done = self.orders.accept(orders, now_ns)
            self._set_refusal()
        else:
            done = self.orders.accept(orders, now_ns)
        self._flush(now_ns)
        return done

    def receive(self, now_ns: int) -> bool:
        """Take what the venue sent."""
        if self._state == GatewayState.CONNECTING:
            return self._finish_connecting(now_ns)
        worked = False
        while self._socket is not None:
            filled = int(self._ctx[Reg.FILLED])
            room = _RECEIVE_BYTES - filled
            try:
                size = self._socket.recv_into(self._receive_view[filled:]) if room else 0
            except BlockingIOError:
                break
            except OSError as error:
                self._disconnect(f"connection lost: {error.strerror}", now_ns)
                return True
            if room and size == 0:
                self._disconnect("the venue closed the connection", now_ns)
                return True
            worked = True
            self._ctx[Reg.FILLED] = filled + size
            self._ctx[Reg.HEARD_NS] = now_ns
            if not self._process(now_ns) or size < room:
                break
        if self._ctx[Reg.SEND_TAIL] > self._ctx[Reg.SENT]:
            self._flush(now_ns)
        return worked

    def tend(self, now_ns: int) -> bool:
        """Connect, keep the session alive, finish what waited for room in the journal, repeat cancels."""
        self.orders.tend(now_ns)
        if not self._run_sweeps(now_ns):
            return False
        if self._socket is None:
            if now_ns >= self._retry_ns:
                self._connect(now_ns)
            return self._socket is not None
        if self._ctx[Reg.FILLED] and not self._process(now_ns):
            return True
        if self._state in (GatewayState.CONNECTING, GatewayState.LOGIN):
            if now_ns - self._since_ns > _LOGIN_TIMEOUT_NS:
                self._disconnect(f"no answer to the {self._state.name.lower()} within 5 s", now_ns)
            return False
        if self._session.timed_out(now_ns):
            self._disconnect(f"nothing heard for {self._config.heartbeat_timeout_ms} ms", now_ns)
            return True
        if (
            self._state == GatewayState.RECONCILING
            and self._answer
            and now_ns - self._ctx[Reg.HEARD_NS] > _QUERY_SETTLE_NS
        ):
            self._reconcile(now_ns)
        if now_ns - self._repeated_ns > _CANCEL_REPEAT_NS // 2 and self._is_reconciled():
            self._repeated_ns = now_ns
            self._sweep(Sweep.REPEAT_CANCELS, now_ns - _CANCEL_REPEAT_NS, now_ns)
        beat = self._session.heartbeat(now_ns)
        if beat:
            self._counts[Counter.HEARTBEATS_SENT] += 1
            self._put(beat)
        self._flush(now_ns)
        return False

    def pause(self, paused: bool) -> None:
        """Refuse new orders, or take them again; cancels pass."""
        self._paused = paused
        self._set_refusal()

    def cancel_all(self, now_ns: int) -> None:
        """Cancel every open order; what cannot be sent now is sent when the session is back."""
        self._sweep(Sweep.CANCEL_ALL, 0, now_ns)
        self._flush(now_ns)

    def drain(self, now_ns: int) -> None:
        """Refuse new orders from now on and cancel everything."""
        self._draining = True
        self._set_refusal()
        self.cancel_all(now_ns)

    def close(self) -> None:
        """Log out and let everything go."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                if self._session.state is soupbintcp.State.ACTIVE:
                    self._socket.send(self._session.logout(0))
            self._socket.close()
            self._socket = None
        self._epoll.close()

    # Compiled loops do the plain cases themselves (`kernels.session`) and leave the others to these.

    @property
    def compiled_fd(self) -> int:
        """The venue's socket while a compiled loop may use it: the session stands and nothing is to be settled."""
        ready = self._state == GatewayState.READY and self._socket is not None and not self._sweeps
        return self._socket.fileno() if ready and self._socket is not None else -1

    def resume(self, leave: Leave, now_ns: int) -> None:
        """Go on where a compiled loop has left off."""
        if self._socket is None:
            return
        if leave == Leave.QUERY:
            self._on_answer(int(self._ctx[Reg.STOP_ARG]), now_ns)
        if leave in (Leave.QUERY, Leave.SESSION) and self._process(now_ns):
            self.receive(now_ns)
        self._flush(now_ns)

    def note(self, now_ns: int) -> None:
        """Let the session know what compiled loops have sent and heard."""
        if self._ctx[Reg.SENT_NS] > self._noted_sent_ns:
            self._noted_sent_ns = int(self._ctx[Reg.SENT_NS])
            self._session.sent(self._noted_sent_ns)
        if self._ctx[Reg.HEARD_NS] > self._noted_heard_ns:
            self._noted_heard_ns = int(self._ctx[Reg.HEARD_NS])
            self._session.receive(b"", now_ns)

    @property
    def send_backlog(self) -> int:
        """Bytes that the socket has not taken yet."""
        return int(self._ctx[Reg.SEND_TAIL] - self._ctx[Reg.SENT])

    # The connection.

    def _become(self, state: GatewayState, text: str, now_ns: int) -> None:
        self._state, self._text, self._since_ns = state, text, now_ns
        self._set_refusal()

    def _set_refusal(self) -> None:
        refusal: Refusal | None = None
        if self._state == GatewayState.HALTED:
            refusal = Refusal.MISMATCH
        elif self._draining:
            refusal = Refusal.DRAINING
        elif self._state != GatewayState.READY:
            refusal = Refusal.NOT_CONNECTED
        elif self._paused:
            refusal = Refusal.PAUSED
        elif self._ctx[Reg.DAY_ENDED]:
            refusal = Refusal.VENUE_CLOSED
        self.orders.set_refusal(refusal)

    def _is_reconciled(self) -> bool:
        return self._state in (GatewayState.READY, GatewayState.HALTED)

    def _where(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    def _connect(self, now_ns: int) -> None:
        family, address = self._address
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        result = connection.connect_ex(address)
        if result not in (0, errno.EINPROGRESS):
            connection.close()
            self._failed(errno.errorcode.get(result, str(result)), now_ns)
            return
        self._socket = connection
        self._epoll.register(connection.fileno(), select.EPOLLIN | select.EPOLLOUT)
        self._become(GatewayState.CONNECTING, f"connecting to {self._where()}", now_ns)

    def _failed(self, why: str, now_ns: int) -> None:
        self._counts[Counter.CONNECTION_FAILURES] += 1
        self._retry_later(now_ns)
        self._become(GatewayState.DOWN, f"cannot connect to {self._where()}: {why}", now_ns)

    def _retry_later(self, now_ns: int) -> None:
        pause_ms = min(
            self._config.reconnect_ms << min(self._attempt, 10), self._config.reconnect_ms * _BACKOFF_FACTOR
        )
        self._attempt += 1
        self._retry_ns = now_ns + pause_ms * 1_000_000

    def _finish_connecting(self, now_ns: int) -> bool:
        assert self._socket is not None  # noqa: S101 - CONNECTING has one
        if not self._epoll.poll(0):
            return False
        result = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result:
            self._drop_socket()
            self._failed(errno.errorcode.get(result, str(result)), now_ns)
            return True
        self._counts[Counter.CONNECTS] += 1
        self._epoll.modify(self._socket.fileno(), select.EPOLLIN)
        self._session.next_sequence = int(self._ctx[Reg.VENUE_NEXT])
        self._put(self._session.login(now_ns))
        self._become(GatewayState.LOGIN, f"logging in to {self._where()} as {self._config.username}", now_ns)
        self._flush(now_ns)
        return True

    def _drop_socket(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._ctx[Reg.CONNECTED] = self._ctx[Reg.SEND_TAIL] = 0
        self._ctx[Reg.SENT] = self._ctx[Reg.FILLED] = 0

    def _disconnect(self, why: str, now_ns: int, state: GatewayState = GatewayState.DOWN) -> None:
        logged_in = bool(self._ctx[Reg.CONNECTED])
        self._breaks += 1
        self._drop_socket()
        self._session.connection_lost()
        self._counts[Counter.DISCONNECTS] += 1
        if state == GatewayState.REFUSED:
            self._attempt = max(self._attempt, _BACKOFF_FACTOR)
        self._retry_later(now_ns)
        self._become(state, why, now_ns)
        if logged_in:
            self._sweep(Sweep.DISCONNECT, 0, now_ns)

    # Bytes.

    def _put(self, raw: bytes) -> None:
        """Put bytes of the session into the send buffer; it keeps room for them that orders do not get."""
        tail = int(self._ctx[Reg.SEND_TAIL])
        self._send_view[tail : tail + len(raw)] = raw
        self._ctx[Reg.SEND_TAIL] = tail + len(raw)

    def _flush(self, now_ns: int) -> None:
        """Give the send buffer to the socket."""
        tail, sent = int(self._ctx[Reg.SEND_TAIL]), int(self._ctx[Reg.SENT])
        if tail == sent or self._socket is None or self._state == GatewayState.CONNECTING:
            return
        try:
            sent += self._socket.send(self._send_view[sent:tail])
        except BlockingIOError:
            pass
        except OSError as error:
            self._disconnect(f"connection lost: {error.strerror}", now_ns)
            return
        self._session.sent(now_ns)
        if sent == tail:
            self._ctx[Reg.SEND_TAIL] = self._ctx[Reg.SENT] = 0
        else:
            # The rest goes first at the next chance, 5 ms at most.
            self._counts[Counter.PARTIAL_SENDS] += 1
            rest = bytes(self._send_view[sent:tail])
            self._send_view[: len(rest)] = rest
            self._ctx[Reg.SEND_TAIL], self._ctx[Reg.SENT] = len(rest), 0

    def _process(self, now_ns: int) -> bool:
        """Apply the receive buffer; False when it cannot go on now (no room in the journal, or disconnected)."""
        self._session.receive(b"", now_ns)  # any byte is a sign of life
        at = 0
        going_on = True
        breaks = self._breaks
        while True:
            at = self.orders.decode(at, int(self._ctx[Reg.FILLED]), now_ns)
            stop = int(self._ctx[Reg.STOP])
            if stop == Stop.MORE:
                break
            try:
                after = self._handle(stop, at, now_ns)
            except RemoteProtocolError as error:
                self._disconnect(f"the venue breaks the protocol: {error}", now_ns)
                return False
            except (JournalError, OSError) as error:
                self._text = str(error)
                after = None
            if self._breaks != breaks:
                return False
            if after is None:
                going_on = False
                break
            at = after
        if at:
            filled = int(self._ctx[Reg.FILLED])
            self._receive_view[: filled - at] = bytes(self._receive_view[at:filled])
            self._ctx[Reg.FILLED] = filled - at
        if self._ctx[Reg.DAY_ENDED]:
            self._set_refusal()
        return going_on

    def _handle(self, stop: int, at: int, now_ns: int) -> int | None:
        """What the kernel leaves to us at offset `at`; returns where to go on, None to wait for the journal."""
        if stop == Stop.JOURNAL:
            return at if self.orders.roll() else None
        if stop == Stop.QUERY:
            self._on_answer(int(self._ctx[Reg.STOP_ARG]), now_ns)
            return at
        if stop == Stop.HISTORY:
            self.orders.revive(int(self._ctx[Reg.STOP_ARG]))
            return at
        length = int.from_bytes(self._receive_view[at : at + 2], "big")
        after = at + 2 + length
        raw = bytes(self._receive_view[at:after])
        if stop == Stop.BROKEN:
            self._on_broken_trade(raw[soupbintcp.HEADER_SIZE :], now_ns)
            return after
        if stop == Stop.MALFORMED:
            msg = f"a SoupBinTCP packet of length {length}"
            raise RemoteProtocolError(msg)
        for event in self._session.receive(raw, now_ns):
            self._on_event(event, now_ns)
        return after

    # The session.

    def _on_event(self, event: soupbintcp.Event, now_ns: int) -> None:
        if isinstance(event, soupbintcp.LoginAccepted):
            self._on_login(event, now_ns)
        elif isinstance(event, soupbintcp.LoginRejected):
            self._on_login_rejected(event, now_ns)
        elif isinstance(event, soupbintcp.EndOfSession):
            self._leave_session()
            self._disconnect("the venue ended its session", now_ns)

    def _on_login(self, event: soupbintcp.LoginAccepted, now_ns: int) -> None:
        journal = self.orders.journal
        if self._ctx[Reg.VENUE_NEXT] == 1:  # nothing of this session is in the journal yet
            try:
                journal.set_venue_session(event.session)
            except OSError as error:
                self._disconnect(f"cannot write to {journal.folder}: {error.strerror}", now_ns)
                return
        self._counts[Counter.LOGINS] += 1
        self._ctx[Reg.VENUE_NEXT] = event.sequence
        self._ctx[Reg.CONNECTED] = 1
        self._attempt = 0
        self._answer = 0
        self._unanswered += 1
        self._put(self._session.send(ouch50.ACCOUNT_QUERY.encode(), now_ns))
        self._become(GatewayState.RECONCILING, f"reconciling with session {event.session}", now_ns)

    def _on_login_rejected(self, event: soupbintcp.LoginRejected, now_ns: int) -> None:
        self._counts[Counter.LOGINS_REFUSED] += 1
        meaning = soupbintcp.LOGIN_REJECTS.get(event.code, "unknown code")
        why = f"{self._where()} refuses the login of {self._config.username}: {event.code} ({meaning})"
        wanted = f"session {self._session.session or '(current)'} from message {self._ctx[Reg.VENUE_NEXT]}"
        state = GatewayState.REFUSED
        if event.code != soupbintcp.SESSION_NOT_AVAILABLE:
            why += "; check exec.username and the password"
        elif self.orders.open_count:
            why += (
                f" to {wanted}, with {self.orders.open_count} orders in doubt, whose fate no other session knows; "
                "bring it back, or settle them with the venue and begin with an empty journal_dir"
            )
        elif self._session.session:
            # Nothing is in doubt, so the session that we knew does not matter any more.
            self._leave_session()
            why += f" to {wanted}; trying the current one from its beginning"
            state = GatewayState.DOWN
        self._disconnect(why, now_ns, state)

    def _leave_session(self) -> None:
        """The next login is to the venue's current session, from its beginning."""
        self._session.session = ""
        self._ctx[Reg.VENUE_NEXT] = 1
        self._ctx[Reg.DAY_ENDED] = 0
        self._unanswered = 0

    def _on_answer(self, next_ref: int, now_ns: int) -> None:
        """An Account Query response. Those of earlier queries come first: the last one counts."""
        self._unanswered = max(0, self._unanswered - 1)
        if self._state == GatewayState.RECONCILING:
            self._answer = next_ref
            if self._unanswered <= 0:
                self._reconcile(now_ns)

    def _reconcile(self, now_ns: int) -> None:
        """Settle what became of every order in doubt."""
        known = int(self._ctx[Reg.NEXT_REF])
        fresh = known == 1 and self._counts[Counter.UNKNOWN_REFS] == 0
        if self._answer > known and not fresh:
            self._counts[Counter.MISMATCHES] += 1
            why = (
                f"the venue has seen orders up to UserRefNum {self._answer - 1}, the journal only up to {known - 1}: "
                "some were sent that are not in it; settle them with the venue, then begin with an empty journal_dir"
            )
            self._become(GatewayState.HALTED, why, now_ns)
            return
        before = int(self._counts[Counter.MISMATCHES])
        self._sweep(Sweep.RECONCILE, self._answer, now_ns)
        self._ctx[Reg.NEXT_REF] = max(known, self._answer)
        if self._counts[Counter.MISMATCHES] > before:
            why = "the venue says that it never saw orders which it acknowledged; settle them with it by hand"
            self._become(GatewayState.HALTED, why, now_ns)
        else:
            self._become(GatewayState.READY, f"in session {self._session.session} of {self._where()}", now_ns)
        if self._draining:
            self._sweep(Sweep.CANCEL_ALL, 0, now_ns)
        self._sweep(Sweep.REPEAT_CANCELS, now_ns, now_ns)
        self._flush(now_ns)

    def _on_broken_trade(self, message: bytes, now_ns: int) -> None:
        broken = ouch50.BROKEN_TRADE.decode(message)
        seq = int(self._ctx[Reg.VENUE_NEXT])
        ref, match_number = broken["user_ref_num"], broken["match_number"]
        if not self.orders.break_trade(ref, match_number, ord(broken["reason"]), seq, now_ns):
            self._counts[Counter.MISMATCHES] += 1
        self._ctx[Reg.VENUE_NEXT] = seq + 1
        self._counts[Counter.VENUE_MESSAGES] += 1

    # Sweeps.

    def _sweep(self, what: Sweep, argument: int, now_ns: int) -> None:
        self._sweeps.append((what, argument))
        self._run_sweeps(now_ns)

    def _run_sweeps(self, now_ns: int) -> bool:
        """Do what is to be done to all open orders, in order; False when the journal has no room for it now."""
        while self._sweeps:
            if not self.orders.sweep(*self._sweeps[0], now_ns):
                return False
            self._sweeps.pop(0)
        return True
