"""SoupBinTCP 3.00 and 4.x: the codec and both ends of a session, without sockets.

Bytes in, events out; what is to be sent comes back as bytes. Time is an argument (``now_ns``, monotonic). A session
object lives over any number of connections and counts the sequenced messages, so a client that logs in again asks
for the next one that it has not seen.

Client, state by state:

| state | what happens | next |
| --- | --- | --- |
| CLOSED | `ClientSession.login` | LOGIN_SENT |
| LOGIN_SENT | ``A`` | ACTIVE |
| LOGIN_SENT | ``J`` | CLOSED |
| ACTIVE, LOGOUT_SENT | ``S``, ``U``, ``H`` | the same |
| ACTIVE, LOGOUT_SENT | ``Z`` | ENDED |
| ACTIVE | `ClientSession.logout` | LOGOUT_SENT |
| ENDED | ``H`` | ENDED |
| any but ENDED | `ClientSession.connection_lost`, or silence longer than the time-out | CLOSED |
| any | any other packet: an error of the peer | CLOSED |

Server, state by state:

| state | what happens | next |
| --- | --- | --- |
| AWAIT_LOGIN | ``L`` | LOGIN_RECEIVED |
| LOGIN_RECEIVED | ``R`` | LOGIN_RECEIVED |
| LOGIN_RECEIVED | `ServerSession.accept` | ACTIVE |
| LOGIN_RECEIVED | `ServerSession.reject` | CLOSED |
| ACTIVE | ``U``, ``R`` | ACTIVE |
| ACTIVE | ``O`` | CLOSED |
| ACTIVE | `ServerSession.end` | ENDED |
| ENDED | ``U``, ``R``, ``O`` | ENDED |
| any but ENDED | silence longer than the time-out | CLOSED |
| any | any other packet: an error of the peer | CLOSED |

Debug packets (``+``) are allowed in every state and change nothing. An error of the peer raises RemoteProtocolError
and closes the session: close the connection. Asking for what the state does not allow raises LocalProtocolError
and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from tickpath.common.protocols.wire import Buffer, LocalProtocolError, RemoteProtocolError, alpha, text

HEADER_SIZE: Final = 3  # length and type
MAX_PAYLOAD: Final = 65534

SECOND_NS: Final = 1_000_000_000
#: After so long without sending anything, either side sends its heartbeat.
HEARTBEAT_NS: Final = SECOND_NS
#: After so long without receiving anything, the link is dead.
TIMEOUT_NS: Final = 15 * SECOND_NS

LOGIN_ACCEPTED: Final = ord("A")
LOGIN_REJECTED: Final = ord("J")
SEQUENCED: Final = ord("S")
UNSEQUENCED: Final = ord("U")
SERVER_HEARTBEAT: Final = ord("H")
END_OF_SESSION: Final = ord("Z")
DEBUG: Final = ord("+")
LOGIN_REQUEST: Final = ord("L")
CLIENT_HEARTBEAT: Final = ord("R")
LOGOUT_REQUEST: Final = ord("O")

#: Codes of a login reject.
NOT_AUTHORISED: Final = "A"
SESSION_NOT_AVAILABLE: Final = "S"
LOGIN_REJECTS: Final = {NOT_AUTHORISED: "not authorised", SESSION_NOT_AVAILABLE: "session not available"}


class State(Enum):
    """Where a session is; the tables above are the only moves."""

    CLOSED = "closed"
    LOGIN_SENT = "login sent"
    AWAIT_LOGIN = "awaiting the login"
    LOGIN_RECEIVED = "login received"
    ACTIVE = "active"
    LOGOUT_SENT = "logging out"
    ENDED = "ended"


class LoginAccepted(NamedTuple):
    """To the client: logged in to `session`; the next sequenced message is `sequence`."""

    session: str
    sequence: int


class LoginRejected(NamedTuple):
    """To the client: refused, with a code of `LOGIN_REJECTS`."""

    code: str


class SequencedData(NamedTuple):
    """To the client: message number `sequence`."""

    sequence: int
    data: bytes


class UnsequencedData(NamedTuple):
    """A message that is not numbered; the client's orders come this way."""

    data: bytes


class EndOfSession(NamedTuple):
    """To the client: no more messages, ever, in this session."""


class LoginRequest(NamedTuple):
    """To the server: answer it with `ServerSession.accept` or `ServerSession.reject`."""

    username: str
    password: str
    session: str  # empty: the current one
    sequence: int  # first wanted; 0: only what is new
    timeout_ns: int  # heartbeat timeout of 4.10; 0 when the login has none


class LogoutRequest(NamedTuple):
    """To the server: the client is going; close the connection."""


class Debug(NamedTuple):
    """Text for people; to be ignored."""

    text: str


Event = (
    LoginAccepted
    | LoginRejected
    | SequencedData
    | UnsequencedData
    | EndOfSession
    | LoginRequest
    | LogoutRequest
    | Debug
)


def packet(kind: int, payload: Buffer = b"") -> bytes:
    """One packet. Raises LocalProtocolError when the payload is longer than `MAX_PAYLOAD`."""
    if len(payload) > MAX_PAYLOAD:
        msg = f"a SoupBinTCP packet takes {MAX_PAYLOAD} bytes, got {len(payload)}"
        raise LocalProtocolError(msg)
    return (len(payload) + 1).to_bytes(2, "big") + bytes((kind,)) + payload


class PacketReader:
    """Cuts a byte stream into packets, however the bytes arrive."""

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self.max_payload: Final = max_payload
        self._buffer = bytearray()

    def feed(self, data: Buffer) -> None:
        """Take what has arrived."""
        self._buffer += data

    def next(self) -> tuple[int, bytes] | None:
        """(type, payload) of the next complete packet, None when there is none. Raises RemoteProtocolError."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length = buffer[0] << 8 | buffer[1]
        if length == 0 or length - 1 > self.max_payload:
            msg = f"a SoupBinTCP packet of length {length}; allowed is 1 to {self.max_payload + 1}"
            raise RemoteProtocolError(msg)
        end = 2 + length
        if end > len(buffer):
            return None
        found = buffer[2], bytes(buffer[3:end])
        del buffer[:end]  # moves an offset, not the bytes: CPython's bytearray drops its head for free
        return found

    def clear(self) -> None:
        """Forget what was begun: a new connection starts."""
        self._buffer.clear()


def _number(raw: bytes, field: str) -> int:
    digits = raw.strip()
    if not digits.isdigit():
        msg = f"SoupBinTCP {field}: {raw!r} is no number"
        raise RemoteProtocolError(msg)
    return int(digits)


def _digits(value: int, size: int, field: str) -> bytes:
    raw = str(value).encode()
    if value < 0 or len(raw) > size:
        msg = f"SoupBinTCP {field}: {value} does not fit {size} digits"
        raise LocalProtocolError(msg)
    return raw.rjust(size)


def encode_login_request(
    username: str, password: str, session: str = "", sequence: int = 1, timeout_ms: int | None = None
) -> bytes:
    """``L``; with a heartbeat timeout it is the longer one of 4.10."""
    payload = alpha(username, 6) + alpha(password, 10) + alpha(session, 10) + _digits(sequence, 20, "sequence")
    if timeout_ms is not None:
        payload += _digits(timeout_ms, 5, "heartbeat timeout")
    return packet(LOGIN_REQUEST, payload)


def decode_login_request(payload: bytes) -> LoginRequest:
    """Payload of ``L``. Raises RemoteProtocolError."""
    if len(payload) not in (46, 51):
        msg = f"a SoupBinTCP login request has 46 or 51 bytes, got {len(payload)}"
        raise RemoteProtocolError(msg)
    timeout_ms = _number(payload[46:], "heartbeat timeout") if len(payload) == 51 else 0
    return LoginRequest(
        text(payload[:6]).strip(),
        text(payload[6:16]).strip(),
        text(payload[16:26]).strip(),
        _number(payload[26:46], "sequence"),
        timeout_ms * 1_000_000,
    )


def encode_login_accepted(session: str, sequence: int) -> bytes:
    """``A``; `sequence` is the number of the next ``S``."""
    name = alpha(session, 10).strip().rjust(10)
    return packet(LOGIN_ACCEPTED, name + _digits(sequence, 20, "sequence"))


def decode_login_accepted(payload: bytes) -> LoginAccepted:
    """Payload of ``A``. Raises RemoteProtocolError."""
    if len(payload) != 30:
        msg = f"a SoupBinTCP login acceptance has 30 bytes, got {len(payload)}"
        raise RemoteProtocolError(msg)
    return LoginAccepted(text(payload[:10]).strip(), _number(payload[10:], "sequence"))


_HEARTBEATS: Final = frozenset({State.ACTIVE, State.LOGIN_SENT})  # the client's begin with the login


class _Session:
    """What both ends share: reading packets, and knowing who was last heard."""

    _heartbeat: bytes

    def __init__(self, state: State, heartbeat_ns: int, timeout_ns: int, max_payload: int) -> None:
        self.state = state
        self.heartbeat_ns: Final = heartbeat_ns
        self.timeout_ns = timeout_ns
        self._reader = PacketReader(max_payload)
        self._sent_ns = 0
        self._heard_ns = 0

    def receive(self, data: Buffer, now_ns: int) -> Iterator[Event]:
        """Events of the bytes that arrived: iterate to the end, each step moves the session on by one packet.

        The iteration raises RemoteProtocolError at a fault, after the events before it; the session is then CLOSED.
        """
        self._heard_ns = now_ns
        self._reader.feed(data)
        return self._events()

    def _events(self) -> Iterator[Event]:
        try:
            while (found := self._reader.next()) is not None:
                kind, payload = found
                event = Debug(text(payload)) if kind == DEBUG else self._on_packet(kind, payload)
                if event is not None:
                    yield event
        except RemoteProtocolError:
            self.state = State.CLOSED
            raise

    def _on_packet(self, kind: int, payload: bytes) -> Event | None:
        raise RemoteProtocolError(self._unexpected(kind))

    def _unexpected(self, kind: int) -> str:
        return f"SoupBinTCP packet {chr(kind)!r} while the session is {self.state.value}"

    def _require(self, *states: State) -> None:
        if self.state not in states:
            allowed = " or ".join(state.value for state in states)
            msg = f"the SoupBinTCP session is {self.state.value}; this needs {allowed}"
            raise LocalProtocolError(msg)

    def _send(self, kind: int, payload: Buffer, now_ns: int) -> bytes:
        raw = packet(kind, payload)
        self._sent_ns = now_ns
        return raw

    def sent(self, now_ns: int) -> None:
        """Something was sent that this object did not frame (a template with its header in it)."""
        self._sent_ns = now_ns

    def heartbeat(self, now_ns: int) -> bytes:
        """The heartbeat when one is due, else nothing. Call it about every 100 ms, or on every idle turn."""
        if self.state not in _HEARTBEATS or now_ns - self._sent_ns < self.heartbeat_ns:
            return b""
        self._sent_ns = now_ns
        return self._heartbeat

    def timed_out(self, now_ns: int) -> bool:
        """Whether the peer was silent for too long; the session is then CLOSED: drop the connection."""
        if self.state in (State.CLOSED, State.ENDED) or now_ns - self._heard_ns < self.timeout_ns:
            return False
        self.state = State.CLOSED
        return True


class ClientSession(_Session):
    """The client's end. `session` and `next_sequence` survive a reconnect; start them from what was kept, if any."""

    _heartbeat = packet(CLIENT_HEARTBEAT)

    def __init__(
        self,
        username: str,
        password: str,
        *,
        session: str = "",
        next_sequence: int = 1,
        timeout_ms: int | None = None,
        heartbeat_ns: int = HEARTBEAT_NS,
        timeout_ns: int = TIMEOUT_NS,
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        super().__init__(State.CLOSED, heartbeat_ns, timeout_ns, max_payload)
        self.username: Final = username
        self.session = session
        self.next_sequence = next_sequence
        self._password = password
        self._timeout_ms = timeout_ms  # None: log in as 3.00 and 4.00 do

    def login(self, now_ns: int) -> bytes:
        """First bytes of a new connection."""
        self._require(State.CLOSED, State.ENDED)
        if self.state is State.ENDED:
            self.session, self.next_sequence = "", 1
        raw = encode_login_request(self.username, self._password, self.session, self.next_sequence, self._timeout_ms)
        self._reader.clear()
        self.state = State.LOGIN_SENT
        self._sent_ns = self._heard_ns = now_ns
        return raw

    def send(self, message: Buffer, now_ns: int) -> bytes:
        """One message to the server (unsequenced: nobody keeps it for us)."""
        self._require(State.ACTIVE)
        return self._send(UNSEQUENCED, message, now_ns)

    def logout(self, now_ns: int) -> bytes:
        """Say goodbye. What the server had already sent is still delivered, until it closes."""
        self._require(State.ACTIVE)
        raw = self._send(LOGOUT_REQUEST, b"", now_ns)
        self.state = State.LOGOUT_SENT
        return raw

    def connection_lost(self) -> None:
        """The connection is gone; `login` again when there is a new one."""
        if self.state is not State.ENDED:
            self.state = State.CLOSED

    def _on_packet(self, kind: int, payload: bytes) -> Event | None:
        if self.state in (State.ACTIVE, State.LOGOUT_SENT):
            if kind == SEQUENCED:
                self.next_sequence += 1
                return SequencedData(self.next_sequence - 1, payload)
            if kind == SERVER_HEARTBEAT:
                return None
            if kind == UNSEQUENCED:
                return UnsequencedData(payload)
            if kind == END_OF_SESSION:
                self.state = State.ENDED
                return EndOfSession()
        elif self.state is State.LOGIN_SENT:
            if kind == LOGIN_ACCEPTED:
                accepted = decode_login_accepted(payload)
                self._check_accepted(accepted)
                self.session, self.next_sequence = accepted
                self.state = State.ACTIVE
                return accepted
            if kind == LOGIN_REJECTED:
                if len(payload) != 1:
                    msg = f"a SoupBinTCP login reject has 1 byte, got {len(payload)}"
                    raise RemoteProtocolError(msg)
                self.state = State.CLOSED
                return LoginRejected(chr(payload[0]))
        elif self.state is State.ENDED and kind == SERVER_HEARTBEAT:
            return None
        raise RemoteProtocolError(self._unexpected(kind))

    def _check_accepted(self, accepted: LoginAccepted) -> None:
        """A server that skips messages, or answers for another session, would make us miss some: refuse that."""
        if self.session and accepted.session != self.session:
            msg = f"asked to log in to session {self.session!r}, was let in to {accepted.session!r}"
            raise RemoteProtocolError(msg)
        if self.next_sequence > 0 and accepted.sequence != self.next_sequence:
            msg = f"asked for the messages from {self.next_sequence} on, the server begins with {accepted.sequence}"
            raise RemoteProtocolError(msg)


class SequencedLog:
    """All sequenced messages of one session, kept by the server for those who come back; shared by connections."""

    def __init__(self, session: str) -> None:
        alpha(session, 10)
        self.session: Final = session
        self._messages: list[bytes] = []

    @property
    def next_sequence(self) -> int:
        """Number of the next message."""
        return len(self._messages) + 1

    def append(self, message: Buffer) -> int:
        """Keep one message; returns its number."""
        self._messages.append(bytes(message))
        return len(self._messages)

    def __getitem__(self, sequence: int) -> bytes:
        if not 0 < sequence <= len(self._messages):
            msg = f"message {sequence} of session {self.session!r}: there are 1 to {len(self._messages)}"
            raise IndexError(msg)
        return self._messages[sequence - 1]


class ServerSession(_Session):
    """The server's end of one connection.

    Messages for the client are appended to the log; `pump` frames those that this connection has not sent yet. A
    login for another session than the log's, or beyond its next message, is refused by `accept`.
    """

    _heartbeat = packet(SERVER_HEARTBEAT)

    def __init__(
        self,
        log: SequencedLog,
        now_ns: int,
        *,
        heartbeat_ns: int = HEARTBEAT_NS,
        timeout_ns: int = TIMEOUT_NS,
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        super().__init__(State.AWAIT_LOGIN, heartbeat_ns, timeout_ns, max_payload)
        self.log = log  # until the login is accepted the owner may set another one: the login says whose it is
        self.next_sequence = 0  # next to be sent on this connection
        self._request = LoginRequest("", "", "", 0, 0)
        self._sent_ns = self._heard_ns = now_ns

    def accept(self, now_ns: int) -> bytes:
        """Let the client in: the acceptance and everything that it has missed, or the refusal of what it asked."""
        self._require(State.LOGIN_RECEIVED)
        first = self._request.sequence or self.log.next_sequence
        if self._request.session not in ("", self.log.session) or first > self.log.next_sequence:
            return self.reject(SESSION_NOT_AVAILABLE, now_ns)
        self.state = State.ACTIVE
        self.next_sequence = first
        if self._request.timeout_ns:
            self.timeout_ns = self._request.timeout_ns
        self._sent_ns = now_ns
        return encode_login_accepted(self.log.session, first) + self.pump(now_ns)

    def reject(self, code: str, now_ns: int) -> bytes:
        """Refuse the login; close the connection after these bytes."""
        self._require(State.LOGIN_RECEIVED)
        if code not in LOGIN_REJECTS:
            msg = f"no SoupBinTCP login reject {code!r}; there are {sorted(LOGIN_REJECTS)}"
            raise LocalProtocolError(msg)
        raw = self._send(LOGIN_REJECTED, code.encode(), now_ns)
        self.state = State.CLOSED
        return raw

    def pump(self, now_ns: int) -> bytes:
        """Packets of all messages in the log that this connection has not sent yet; nothing unless ACTIVE."""
        last = self.log.next_sequence
        if self.state is not State.ACTIVE or self.next_sequence == last:
            return b""
        raw = b"".join(packet(SEQUENCED, self.log[n]) for n in range(self.next_sequence, last))
        self.next_sequence = last
        self._sent_ns = now_ns
        return raw

    def end(self, now_ns: int) -> bytes:
        """End of the session, after all messages; close the connection soon."""
        self._require(State.ACTIVE)
        raw = self.pump(now_ns) + self._send(END_OF_SESSION, b"", now_ns)
        self.state = State.ENDED
        return raw

    def _on_packet(self, kind: int, payload: bytes) -> Event | None:
        if self.state is State.ACTIVE:
            if kind == UNSEQUENCED:
                return UnsequencedData(payload)
            if kind == CLIENT_HEARTBEAT:
                return None
            if kind == LOGOUT_REQUEST:
                self.state = State.CLOSED
                return LogoutRequest()
        elif self.state is State.AWAIT_LOGIN and kind == LOGIN_REQUEST:
            self._request = decode_login_request(payload)
            self.state = State.LOGIN_RECEIVED
            return self._request
        elif self.state is State.LOGIN_RECEIVED and kind == CLIENT_HEARTBEAT:
            return None
        elif self.state is State.ENDED and kind in (UNSEQUENCED, CLIENT_HEARTBEAT, LOGOUT_REQUEST):
            return None  # on its way when the session ended
        raise RemoteProtocolError(self._unexpected(kind))
