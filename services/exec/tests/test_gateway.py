"""The gateway against a venue on a real socket: log in, lose the line, know what became of the orders."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from services.exec.tests.conftest import (
    Trader,
    Venue,
    accepted,
    cancel_order,
    canceled,
    executed,
    new_order,
    until,
)
from tickpath.common.clock import now_ns
from tickpath.common.process import StartError
from tickpath.common.protocols import ouch50, soupbintcp
from tickpath.common.records import ExecEvent, OrderState
from tickpath.exec.journal import read_journal
from tickpath.exec.layout import Counter, GatewayState, Reg
from tickpath.exec.lifecycle import Refusal


def ready(trader: Trader) -> bool:
    return trader.gateway.state == GatewayState.READY


def submit(trader: Trader, *numbers: int) -> None:
    for number in numbers:
        assert trader.gateway.submit(new_order(number), now_ns()) == 1


def last_of(trader: Trader, number: int) -> tuple[ExecEvent, OrderState]:
    """Event and state of the last report of an order."""
    entries = read_journal(trader.journal.folder)
    mine = entries[entries["cl_ord_id"] == new_order(number)["cl_ord_id"][0]]
    return ExecEvent(mine[-1]["event"]), OrderState(mine[-1]["state"])


def count(trader: Trader, counter: Counter) -> int:
    return int(trader.orders.counters[counter])


def test_orders_are_sent_and_reports_come_back(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    submit(trader, 1, 2)
    until(lambda: count(trader, Counter.ORDERS_ACKNOWLEDGED) == 2, trader, venue)
    venue.say(executed(1, 100))
    until(lambda: count(trader, Counter.ORDERS_FILLED) == 1, trader, venue)
    assert last_of(trader, 1) == (ExecEvent.FILL, OrderState.FILLED)
    assert [m.fields["user_ref_num"] for m in venue.seen] == [1, 2]
    trader.close()


def test_new_orders_without_a_session_are_refused_and_never_sent_later(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    submit(trader, 1)
    assert last_of(trader, 1) == (ExecEvent.NOT_SENT, OrderState.REJECTED)
    assert read_journal(tmp_path)[0]["reason"] == Refusal.NOT_CONNECTED
    until(lambda: ready(trader), trader, venue)
    submit(trader, 2)
    until(lambda: count(trader, Counter.ORDERS_ACKNOWLEDGED) == 1, trader, venue)
    assert [m.fields["user_ref_num"] for m in venue.seen] == [1]
    assert last_of(trader, 2) == (ExecEvent.ACKNOWLEDGED, OrderState.NEW)
    trader.close()


def test_a_broken_line_leaves_no_doubt_about_any_order(tmp_path: Path, venue: Venue) -> None:
    """One was live, one had its fill on the way, one never arrived: each is settled by evidence, none sent again."""
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    submit(trader, 1, 2)
    until(lambda: count(trader, Counter.ORDERS_ACKNOWLEDGED) == 2, trader, venue)
    venue.ignore_orders = True
    submit(trader, 3)
    venue.turn()
    venue.drop()
    venue.say(executed(2, 100))
    until(lambda: trader.gateway.state != GatewayState.READY, trader)
    assert {last_of(trader, n) for n in (1, 2, 3)} == {(ExecEvent.DISCONNECT, OrderState.UNKNOWN)}
    venue.ignore_orders = False
    until(lambda: ready(trader), trader, venue)
    assert last_of(trader, 1) == (ExecEvent.RECONCILED, OrderState.NEW)
    assert last_of(trader, 2) == (ExecEvent.FILL, OrderState.FILLED)
    assert last_of(trader, 3) == (ExecEvent.NOT_SENT, OrderState.REJECTED)
    assert read_journal(tmp_path)[-1]["reason"] in (0, Refusal.NEVER_ARRIVED)
    assert [m.fields["user_ref_num"] for m in venue.seen] == [1, 2]
    assert venue.logins[-1].sequence == 4, "from the message after the last one seen"
    submit(trader, 4)
    until(lambda: last_of(trader, 4) == (ExecEvent.ACKNOWLEDGED, OrderState.NEW), trader, venue)
    trader.close()


def test_an_order_that_arrived_just_before_the_break_is_found_in_the_stream(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    submit(trader, 1)
    until(lambda: bool(venue.seen), venue)
    venue.drop()
    until(lambda: not ready(trader), trader)
    until(lambda: ready(trader), trader, venue)
    assert last_of(trader, 1)[1] == OrderState.NEW
    assert len(venue.seen) == 1
    trader.close()


def test_a_killed_process_starts_again_from_its_journal(tmp_path: Path, venue: Venue) -> None:
    """Killed with one order live, one whose fill it never saw and one that never left."""
    first = Trader(tmp_path, venue.port)
    until(lambda: ready(first), first, venue)
    submit(first, 1, 2)
    until(lambda: count(first, Counter.ORDERS_ACKNOWLEDGED) == 2, first, venue)
    venue.ignore_orders = True
    submit(first, 3)
    venue.turn()
    venue.ignore_orders = False
    venue.say(executed(2, 40))
    first.kill()
    venue.drop()
    second = Trader(tmp_path, venue.port)
    assert second.orders.open_count == 3
    until(lambda: ready(second), second, venue, turns=400_000)
    assert last_of(second, 1) == (ExecEvent.RECONCILED, OrderState.NEW)
    assert last_of(second, 2) == (ExecEvent.FILL, OrderState.PARTIALLY_FILLED)
    assert last_of(second, 3) == (ExecEvent.NOT_SENT, OrderState.REJECTED)
    submit(second, 1, 2, 3, 4)
    until(lambda: last_of(second, 4)[0] == ExecEvent.ACKNOWLEDGED, second, venue)
    assert count(second, Counter.DUPLICATE_ORDERS) == 3
    assert venue.seen[-1].fields["user_ref_num"] == 4, "numbers are never used twice"
    second.close()


def test_an_answer_to_an_older_query_is_not_taken_for_ours(tmp_path: Path, venue: Venue) -> None:
    """The stream that a restarted process reads again may hold old Account Query responses; the last one counts."""
    first = Trader(tmp_path, venue.port)
    until(lambda: ready(first), first, venue)
    submit(first, 1)
    until(lambda: count(first, Counter.ORDERS_ACKNOWLEDGED) == 1, first, venue)
    submit(first, 2)
    first.kill()
    # An old response that says: 2 is the next free number. Then the acknowledgement of order 2, not journaled.
    venue.say(ouch50.ACCOUNT_QUERY_RESPONSE.encode(timestamp=1, next_user_ref_num=2))
    until(lambda: len(venue.seen) == 2, venue)
    second = Trader(tmp_path, venue.port)
    until(lambda: ready(second), second, venue, turns=400_000)
    assert last_of(second, 2)[1] == OrderState.NEW
    assert count(second, Counter.NEVER_ARRIVED) == 0
    second.close()


def test_a_cancel_that_was_lost_with_the_line_is_sent_again(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    submit(trader, 1)
    until(lambda: count(trader, Counter.ORDERS_ACKNOWLEDGED) == 1, trader, venue)
    venue.ignore_orders = True
    trader.gateway.submit(cancel_order(1), now_ns())
    venue.turn()
    venue.drop()
    until(lambda: not ready(trader), trader)
    venue.ignore_orders = False
    until(lambda: trader.orders.open_count == 0, trader, venue)
    assert last_of(trader, 1) == (ExecEvent.CANCELLED, OrderState.CANCELLED)
    trader.close()


def test_a_cancel_while_the_line_is_down_goes_out_when_it_is_back(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    submit(trader, 1)
    until(lambda: count(trader, Counter.ORDERS_ACKNOWLEDGED) == 1, trader, venue)
    venue.drop()
    until(lambda: not ready(trader), trader)
    trader.gateway.submit(cancel_order(1), now_ns())
    assert last_of(trader, 1) == (ExecEvent.CANCEL_SENT, OrderState.UNKNOWN)
    until(lambda: trader.orders.open_count == 0, trader, venue)
    assert last_of(trader, 1) == (ExecEvent.CANCELLED, OrderState.CANCELLED)
    trader.close()


def test_drain_refuses_new_orders_and_cancels_until_all_are_terminal(tmp_path: Path, venue: Venue) -> None:
    """The first cancels get no answer: they are repeated until they do."""
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    submit(trader, 1, 2, 3)
    until(lambda: count(trader, Counter.ORDERS_ACKNOWLEDGED) == 3, trader, venue)
    venue.ignore_orders = True
    trader.gateway.drain(now_ns())
    submit(trader, 4)
    assert read_journal(tmp_path)[-1]["reason"] == Refusal.DRAINING
    venue.turn()
    venue.ignore_orders = False
    until(lambda: trader.orders.open_count == 0, trader, venue, turns=400_000)
    assert {last_of(trader, n) for n in (1, 2, 3)} == {(ExecEvent.CANCELLED, OrderState.CANCELLED)}
    trader.close()


def test_pause_refuses_new_orders_until_resumed(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    trader.gateway.pause(True)
    submit(trader, 1)
    assert read_journal(tmp_path)[-1]["reason"] == Refusal.PAUSED
    trader.gateway.pause(False)
    submit(trader, 2)
    assert last_of(trader, 2)[0] == ExecEvent.SEND
    trader.close()


def test_a_refused_login_is_shown_and_tried_again(tmp_path: Path, venue: Venue) -> None:
    venue.refuse_with = soupbintcp.NOT_AUTHORISED
    trader = Trader(tmp_path, venue.port)
    until(lambda: trader.gateway.state == GatewayState.REFUSED, trader, venue)
    assert "not authorised" in trader.gateway.text
    assert "check exec.username" in trader.gateway.text
    submit(trader, 1)
    assert last_of(trader, 1)[0] == ExecEvent.NOT_SENT
    venue.refuse_with = ""
    until(lambda: ready(trader), trader, venue, turns=400_000)
    assert count(trader, Counter.LOGINS_REFUSED) >= 1
    trader.close()


def test_nobody_listening_is_shown_and_tried_again(tmp_path: Path) -> None:
    gone = Venue()
    port = gone.port
    gone.close()
    trader = Trader(tmp_path, port)
    until(lambda: count(trader, Counter.CONNECTION_FAILURES) >= 3, trader, turns=400_000)
    until(lambda: trader.gateway.state == GatewayState.DOWN, trader)
    assert f"cannot connect to 127.0.0.1:{port}: ECONNREFUSED" in trader.gateway.text
    trader.close()


def test_a_session_that_is_gone_is_left_when_nothing_is_in_doubt(tmp_path: Path, venue: Venue) -> None:
    """A new day at the venue: the journal's orders are all over, so its session does not matter any more."""
    first = Trader(tmp_path, venue.port)
    until(lambda: ready(first), first, venue)
    submit(first, 1)
    until(lambda: count(first, Counter.ORDERS_ACKNOWLEDGED) == 1, first, venue)
    venue.say(canceled(1, 100))
    until(lambda: first.orders.open_count == 0, first, venue)
    first.close()
    other = Venue("TESTDAY002")
    second = Trader(tmp_path, other.port)
    until(lambda: ready(second), second, other, turns=400_000)
    submit(second, 2)
    until(lambda: count(second, Counter.ORDERS_ACKNOWLEDGED) == 1, second, other)
    second.close()
    third = Trader(tmp_path, other.port)
    assert third.orders.ctx[Reg.VENUE_NEXT] == 3, "one Account Query response and one report of the new session"
    third.close()
    other.close()


def test_a_session_that_is_gone_with_orders_in_doubt_is_not_traded_over(tmp_path: Path, venue: Venue) -> None:
    first = Trader(tmp_path, venue.port)
    until(lambda: ready(first), first, venue)
    submit(first, 1)
    until(lambda: count(first, Counter.ORDERS_ACKNOWLEDGED) == 1, first, venue)
    first.kill()
    other = Venue("TESTDAY002")
    second = Trader(tmp_path, other.port)
    until(lambda: second.gateway.state == GatewayState.REFUSED, second, other)
    assert "1 orders in doubt" in second.gateway.text
    assert last_of(second, 1)[1] == OrderState.UNKNOWN
    second.close()
    other.close()


def test_orders_at_the_venue_that_are_not_in_the_journal_halt_trading(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    submit(trader, 1)
    until(lambda: count(trader, Counter.ORDERS_ACKNOWLEDGED) == 1, trader, venue)
    venue.next_ref = 10
    venue.drop()
    until(lambda: trader.gateway.state == GatewayState.HALTED, trader, venue)
    assert "UserRefNum 9, the journal only up to 1" in trader.gateway.text
    submit(trader, 2)
    assert read_journal(tmp_path)[-1]["reason"] == Refusal.MISMATCH
    trader.close()


def test_an_acknowledged_order_that_the_venue_denies_halts_trading(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    submit(trader, 1)
    until(lambda: count(trader, Counter.ORDERS_ACKNOWLEDGED) == 1, trader, venue)
    venue.next_ref = 1
    venue.drop()
    until(lambda: trader.gateway.state == GatewayState.HALTED, trader, venue)
    assert last_of(trader, 1)[1] == OrderState.UNKNOWN
    trader.close()


def test_nonsense_on_the_line_ends_the_connection_not_the_process(tmp_path: Path, venue: Venue) -> None:
    # Not connected again before we have read why it ended, on a machine that takes its time.
    trader = Trader(tmp_path, venue.port, reconnect_ms=100)
    until(lambda: ready(trader), trader, venue)
    assert venue.connection is not None
    venue.connection.send(b"\0\0\0\0")
    until(lambda: count(trader, Counter.DISCONNECTS) == 1, trader)
    assert "breaks the protocol" in trader.gateway.text
    venue.drop()
    until(lambda: ready(trader), trader, venue, turns=1_000_000)
    trader.close()


def test_silence_is_a_lost_connection(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    later = now_ns() + 16_000_000_000
    trader.gateway.tend(later)
    assert trader.gateway.state == GatewayState.DOWN
    assert "nothing heard for 15000 ms" in trader.gateway.text
    trader.close()


def test_a_heartbeat_is_sent_after_a_second_of_silence(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    trader.gateway.tend(now_ns() + 1_100_000_000)
    assert count(trader, Counter.HEARTBEATS_SENT) == 1
    trader.close()


def test_a_venue_that_does_not_read_makes_orders_wait_then_be_refused(tmp_path: Path, venue: Venue) -> None:
    """Everything that was journaled as sent arrives, in order, once the venue reads again."""
    venue.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that little is on the way
    wide = Trader(tmp_path, venue.port, entries=1 << 16, capacity=1 << 17, day_orders=1 << 17)
    until(lambda: ready(wide), wide, venue)
    assert wide.gateway._socket is not None
    wide.gateway._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    number = 0
    while count(wide, Counter.ORDERS_REFUSED) == 0:
        number += 1
        submit(wide, number)
        assert number < 100_000
    assert read_journal(tmp_path)[-1]["reason"] == Refusal.SEND_BUFFER_FULL
    assert count(wide, Counter.PARTIAL_SENDS) > 0
    sent = count(wide, Counter.ORDERS_SENT)
    until(lambda: len(venue.seen) == sent, wide, venue, turns=400_000)
    assert [m.fields["user_ref_num"] for m in venue.seen] == list(range(1, sent + 1))
    wide.close()


def test_an_unknown_host_is_a_mistake_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"exec\.host = 'no-such-host\.invalid'"):
        Trader(tmp_path, 1, host="no-such-host.invalid")


def test_a_query_answered_out_of_turn_changes_nothing(tmp_path: Path, venue: Venue) -> None:
    trader = Trader(tmp_path, venue.port)
    until(lambda: ready(trader), trader, venue)
    submit(trader, 1)
    venue.say(ouch50.ACCOUNT_QUERY_RESPONSE.encode(timestamp=1, next_user_ref_num=1), accepted(1))
    until(lambda: count(trader, Counter.ORDERS_ACKNOWLEDGED) >= 1, trader, venue)
    assert ready(trader)
    assert last_of(trader, 1)[1] == OrderState.NEW
    trader.close()
