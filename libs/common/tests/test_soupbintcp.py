"""SoupBinTCP: the sheet's examples, both ends against each other byte by byte, and every rule of the sheet."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickpath.common.protocols import soupbintcp as soup
from tickpath.common.protocols.soupbintcp import (
    ClientSession,
    Debug,
    EndOfSession,
    LoginAccepted,
    LoginRejected,
    LoginRequest,
    LogoutRequest,
    SequencedData,
    SequencedLog,
    ServerSession,
    State,
    UnsequencedData,
)
from tickpath.common.protocols.wire import LocalProtocolError, RemoteProtocolError

S = soup.SECOND_NS
LOGIN = bytes.fromhex(
    "002f4c5553455220205041535357 4f52442020 20202020202020202020 2020202020202020202020202020202020202031"
)
ACCEPTED = bytes.fromhex("001f41 53455353494f4e303031 2020202020202020202020202020202020202031")


def client_of(**options):
    return ClientSession("USER", "PASSWORD", **options)


def connect(client, log, now_ns=0):
    """Log a client in to a new connection's server; returns the server and the client's events."""
    server = ServerSession(log, now_ns)
    assert list(server.receive(client.login(now_ns), now_ns)) != []
    return server, list(client.receive(server.accept(now_ns), now_ns))


def log_of(*messages):
    log = SequencedLog("SESSION001")
    for message in messages:
        log.append(message)
    return log


def test_examples_of_the_sheet():
    """Login, acceptance, both heartbeats and a client message, byte for byte."""
    client, log = client_of(), SequencedLog("SESSION001")
    server = ServerSession(log, 0)
    assert client.login(0) == LOGIN
    assert list(server.receive(LOGIN, 0)) == [LoginRequest("USER", "PASSWORD", "", 1, 0)]
    assert server.accept(0) == ACCEPTED
    assert list(client.receive(ACCEPTED, 0)) == [LoginAccepted("SESSION001", 1)]
    assert server.heartbeat(S) == bytes.fromhex("000148")
    assert client.heartbeat(S) == bytes.fromhex("000152")
    cancel = bytes.fromhex("5800752e7100000000")
    assert client.send(cancel, S) == bytes.fromhex("000a55") + cancel


def test_login_of_410_carries_the_heartbeat_timeout():
    """52 bytes after the length field, and the server goes by the client's timeout."""
    client, log = client_of(timeout_ms=2500), log_of()
    raw = client.login(0)
    assert raw[:2] == (52).to_bytes(2, "big")
    assert len(raw) == 54
    server = ServerSession(log, 0)
    assert [e.timeout_ns for e in server.receive(raw, 0)] == [2_500_000_000]
    server.accept(0)
    assert not server.timed_out(2_499_999_999)
    assert server.timed_out(2_500_000_000)


def test_fields_padded_on_either_side_are_understood():
    """One known library pads the login the other way round."""
    payload = b"  USER" + b"  PASSWORD" + b"SESSION001" + b"7".ljust(20)
    assert soup.decode_login_request(payload) == LoginRequest("USER", "PASSWORD", "SESSION001", 7, 0)
    assert soup.decode_login_accepted(b"SESS".ljust(10) + b"7".ljust(20)) == LoginAccepted("SESS", 7)
    assert soup.encode_login_accepted("SESS", 7) == soup.packet(ord("A"), b"      SESS" + b"7".rjust(20))


@given(st.lists(st.binary(max_size=30), max_size=20), st.lists(st.integers(1, 50), min_size=1))
def test_events_do_not_depend_on_how_the_bytes_are_cut(messages, cuts):
    """A TCP read may hold part of a packet or many; every message arrives once, in order, numbered from 1."""
    client, log = client_of(), log_of(*messages)
    server = ServerSession(log, 0)
    list(server.receive(client.login(0), 0))
    stream = server.accept(0) + soup.packet(soup.DEBUG, b"hello") + server.end(0)
    events, at = [], 0
    while at < len(stream):
        step = cuts[at % len(cuts)]
        events += client.receive(stream[at : at + step], 0)
        at += step
    assert events == [
        LoginAccepted("SESSION001", 1),
        *(SequencedData(n, m) for n, m in enumerate(messages, 1)),
        Debug("hello"),
        EndOfSession(),
    ]
    assert client.state is State.ENDED


def test_reconnecting_client_gets_what_it_has_not_seen_and_nothing_twice():
    """The numbering of S packets survives the connection; heartbeats, debug and U packets do not count."""
    client, log = client_of(), log_of(b"one", b"two")
    server, events = connect(client, log)
    log.append(b"three")
    noise = soup.packet(soup.DEBUG, b"x") + soup.packet(soup.UNSEQUENCED, b"u") + server.heartbeat(S)
    events += client.receive(noise, 0)
    assert client.next_sequence == 3
    torn = server.pump(0)
    events += client.receive(torn[:-1], 0)  # the connection breaks inside message 3
    client.connection_lost()
    assert client.state is State.CLOSED
    log.append(b"four")
    _, more = connect(client, log)
    assert more == [LoginAccepted("SESSION001", 3), SequencedData(3, b"three"), SequencedData(4, b"four")]
    assert events[1:] == [SequencedData(1, b"one"), SequencedData(2, b"two"), Debug("x"), UnsequencedData(b"u")]


def test_sequence_zero_asks_for_new_messages_only():
    """The acceptance tells the number of the first message that will come."""
    client, log = client_of(next_sequence=0), log_of(b"old", b"older")
    server, events = connect(client, log)
    log.append(b"new")
    events += client.receive(server.pump(0), 0)
    assert events == [LoginAccepted("SESSION001", 3), SequencedData(3, b"new")]


@pytest.mark.parametrize("options", [{"session": "OTHER"}, {"next_sequence": 4}])
def test_login_for_what_is_not_there_is_refused(options):
    """Another session, or a number beyond the next one: J with S, and nothing else."""
    client, log = client_of(**options), log_of(b"one", b"two")
    server, events = connect(client, log)
    assert events == [LoginRejected(soup.SESSION_NOT_AVAILABLE)]
    assert client.state is server.state is State.CLOSED


def test_server_can_refuse_the_user():
    """J with A; a code that does not exist is our own fault and leaves the session waiting."""
    client, server = client_of(), ServerSession(log_of(), 0)
    list(server.receive(client.login(0), 0))
    with pytest.raises(LocalProtocolError):
        server.reject("X", 0)
    assert list(client.receive(server.reject(soup.NOT_AUTHORISED, 0), 0)) == [LoginRejected("A")]
    assert client.state is State.CLOSED


@pytest.mark.parametrize(
    "answer",
    [soup.encode_login_accepted("SESSION001", 2), soup.encode_login_accepted("OTHER", 3)],
    ids=["skips or repeats messages", "another session"],
)
def test_client_refuses_an_acceptance_that_is_not_what_it_asked_for(answer):
    """Else it would miss or repeat executions without noticing."""
    client = client_of(session="SESSION001", next_sequence=3)
    client.login(0)
    with pytest.raises(RemoteProtocolError):
        list(client.receive(answer, 0))
    assert (client.state, client.next_sequence) == (State.CLOSED, 3)


def test_heartbeats_are_due_one_second_after_the_last_thing_sent():
    """Anything sent counts, also what a template sent past the session."""
    client, log = client_of(), log_of()
    server, _ = connect(client, log)
    assert client.heartbeat(S - 1) == b""
    client.send(b"order", S - 1)
    assert client.heartbeat(2 * S - 2) == b""
    client.sent(2 * S - 2)
    assert client.heartbeat(3 * S - 3) == b""
    assert client.heartbeat(3 * S - 2) == soup.packet(soup.CLIENT_HEARTBEAT)
    assert client.heartbeat(3 * S - 2) == b""
    log.append(b"fill")
    server.pump(S)
    assert server.heartbeat(2 * S - 1) == b""
    assert server.heartbeat(2 * S) == soup.packet(soup.SERVER_HEARTBEAT)


def test_heartbeat_before_the_answer_to_the_login_is_no_fault():
    """The client heartbeats from its login on, and a server that is slow to answer bears it."""
    client, server = client_of(), ServerSession(log_of(), 0)
    list(server.receive(client.login(0), 0))
    assert list(server.receive(client.heartbeat(S), S)) == []
    assert list(client.receive(server.accept(S), S)) == [LoginAccepted("SESSION001", 1)]


def test_silence_kills_the_link_and_any_byte_keeps_it():
    """15 s without a byte; a part of a packet is a sign of life."""
    client, log = client_of(), log_of()
    connect(client, log)
    list(client.receive(b"\0", 10 * S))
    assert not client.timed_out(25 * S - 1)
    assert client.timed_out(25 * S)
    assert client.state is State.CLOSED
    assert not client.timed_out(50 * S)
    waiting = ServerSession(log, 0)
    assert waiting.timed_out(15 * S)


def test_messages_already_sent_are_delivered_after_a_logout():
    """A fill that crosses the logout on the wire is not lost; the server stops after it."""
    client, log = client_of(), log_of()
    server, _ = connect(client, log)
    goodbye = client.logout(0)
    with pytest.raises(LocalProtocolError):
        client.send(b"order", 0)
    log.append(b"fill")
    assert list(client.receive(server.pump(0), 0)) == [SequencedData(1, b"fill")]
    assert list(server.receive(goodbye, 0)) == [LogoutRequest()]
    assert server.state is State.CLOSED
    log.append(b"later")
    assert server.pump(0) == b""


def test_after_the_end_of_session_the_client_asks_for_the_next_one():
    """A new session starts from 1 with a blank name; what is on its way at the end is no fault."""
    client, log = client_of(), log_of(b"one")
    server, _ = connect(client, log)
    order = client.send(b"order", 0)
    end = server.end(0)
    assert list(server.receive(order + soup.packet(soup.CLIENT_HEARTBEAT), 0)) == []
    assert list(client.receive(end + soup.packet(soup.SERVER_HEARTBEAT), 0)) == [EndOfSession()]
    client.connection_lost()
    assert client.state is State.ENDED
    _, events = connect(client, SequencedLog("SESSION002"))
    assert events == [LoginAccepted("SESSION002", 1)]


def test_events_before_a_fault_are_delivered_and_counted():
    """A fault in the stream does not swallow the executions before it."""
    client, log = client_of(), log_of(b"one", b"two")
    server = ServerSession(log, 0)
    list(server.receive(client.login(0), 0))
    seen = []
    with pytest.raises(RemoteProtocolError, match="length 0"):
        for event in client.receive(server.accept(0) + b"\0\0", 0):
            seen.append(event)  # noqa: PERF402 - the events before the exception are the point
    assert seen[1:] == [SequencedData(1, b"one"), SequencedData(2, b"two")]
    assert (client.state, client.next_sequence) == (State.CLOSED, 3)


@pytest.mark.parametrize("kind", "SUHZLROX")
def test_packet_out_of_place_is_the_peers_fault(kind):
    """Before the login only A and J are for the client, and only L for the server."""
    client, server = client_of(), ServerSession(log_of(), 0)
    client.login(0)
    for session in (client, server):
        if session is server and kind == "L":
            continue
        with pytest.raises(RemoteProtocolError, match=f"packet '{kind}' while"):
            list(session.receive(soup.packet(ord(kind)), 0))
        assert session.state is State.CLOSED


@pytest.mark.parametrize(
    "ask",
    [
        lambda c, s: c.send(b"", 0),
        lambda c, s: c.logout(0),
        lambda c, s: s.accept(0),
        lambda c, s: s.reject("A", 0),
        lambda c, s: s.end(0),
    ],
)
def test_asking_too_early_is_our_own_fault_and_changes_nothing(ask):
    """LocalProtocolError names the state; the session goes on."""
    client, server = client_of(), ServerSession(log_of(), 0)
    with pytest.raises(LocalProtocolError, match="session is"):
        ask(client, server)
    assert (client.state, server.state) == (State.CLOSED, State.AWAIT_LOGIN)


def test_limits_are_kept_on_both_sides():
    """A payload too long to frame is ours; one beyond the limit that we set is the peer's."""
    with pytest.raises(LocalProtocolError):
        soup.packet(soup.UNSEQUENCED, bytes(65535))
    reader = soup.PacketReader(max_payload=10)
    reader.feed(soup.packet(1, bytes(10)) + soup.packet(1, bytes(11)))
    assert reader.next() == (1, bytes(10))
    with pytest.raises(RemoteProtocolError, match="allowed is 1 to 11"):
        reader.next()
    with pytest.raises(LocalProtocolError):
        client_of(session="ELEVENBYTES").login(0)
    with pytest.raises(LocalProtocolError):
        client_of(next_sequence=10**20).login(0)


@given(st.booleans(), st.integers(0, 2), st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_from_the_peer_raise_nothing_but_its_own_fault(is_server, stage, chunks):
    """Random bytes in every state: events or RemoteProtocolError, and then the session is CLOSED."""
    client, log = client_of(), log_of(b"one")
    server = ServerSession(log, 0)
    if stage:
        list(server.receive(client.login(0), 0))
    if stage == 2:
        list(client.receive(server.accept(0), 0))
    session = server if is_server else client
    for chunk in chunks:
        try:
            list(session.receive(chunk, 0))
        except RemoteProtocolError:
            assert session.state is State.CLOSED
            break


@given(st.binary(min_size=44, max_size=53), st.binary(min_size=28, max_size=32))
def test_login_payloads_of_any_bytes_are_understood_or_refused(request_payload, accepted_payload):
    """The ASCII numbers may hold anything."""
    for decode, payload in (
        (soup.decode_login_request, request_payload),
        (soup.decode_login_accepted, accepted_payload),
    ):
        with suppress(RemoteProtocolError):
            assert decode(payload).sequence >= 0


def test_the_log_says_what_it_has():
    """Numbers are from 1 to the last."""
    log = log_of(b"one")
    assert (log[1], log.next_sequence) == (b"one", 2)
    for number in (0, 2, -1):
        with pytest.raises(IndexError, match="there are 1 to 1"):
            log[number]
