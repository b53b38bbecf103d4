"""Orders through the kernels: the bytes that go out, what comes back, and that a restart changes nothing."""

from __future__ import annotations

import collections
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.exec.tests.conftest import (
    TABLE,
    Desk,
    accepted,
    broken,
    cancel_order,
    canceled,
    executed,
    new_order,
    rejected,
)
from tickpath.common.histogram import COUNT, SUM
from tickpath.common.protocols import ouch50, soupbintcp
from tickpath.common.records import (
    NO_PRICE_TICKS,
    REPORT,
    ExecEvent,
    OrderState,
    Side,
    Tif,
    format_cl_ord_id,
    pack_cl_ord_id,
)
from tickpath.exec.journal import JournalError, JournalTail, positions_from, read_journal
from tickpath.exec.layout import Counter, Hop, Reg, Stop, Sweep
from tickpath.exec.lifecycle import Refusal


def enter_order(ref: int, order: np.ndarray) -> bytes:
    """What the codec makes of an order."""
    row = order[0]
    per_tick = int(TABLE.array["price_units_per_tick"][row["instrument"]])
    message = ouch50.ENTER_ORDER.encode(
        appendage={}, user_ref_num=ref, side="B" if row["side"] == Side.BUY else "S", quantity=int(row["qty_lots"]),
        symbol=TABLE.symbols[row["instrument"]], price=int(row["price_ticks"]) * per_tick,
        time_in_force="0" if row["tif"] == Tif.DAY else "3", display="Y", capacity="P", iso="N", cross_type="N",
        cl_ord_id=format_cl_ord_id(int(row["cl_ord_id"])),
    )  # fmt: skip
    return soupbintcp.packet(soupbintcp.UNSEQUENCED, message)


@settings(max_examples=200, deadline=None)
@given(
    number=st.integers(1, (1 << 40) - 1),
    strategy=st.integers(1, 127),
    k=st.integers(0, 255),
    instrument=st.sampled_from([0, 1]),
    ticks=st.integers(1, 19_999_999),
    lots=st.integers(1, 999_999),
    side=st.sampled_from(Side),
    tif=st.sampled_from(Tif),
    ref=st.integers(1, 4000),
)
def test_enter_order_is_byte_for_byte_what_the_codec_writes(
    number: int, strategy: int, k: int, instrument: int, ticks: int, lots: int, side: Side, tif: Tif, ref: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    desk = Desk(tmp_path_factory.mktemp("journal"))
    desk.ctx[Reg.NEXT_REF] = ref
    order = new_order(
        number, cl_ord_id=pack_cl_ord_id(strategy, 255, number, k), instrument=instrument, price_ticks=ticks,
        qty_lots=lots, side=side, tif=tif,
    )  # fmt: skip
    assert desk.accept(order) == enter_order(ref, order)
    desk.close()


def test_cancel_order_is_byte_for_byte_what_the_codec_writes(desk: Desk) -> None:
    desk.accept(new_order(1), new_order(2))
    message = ouch50.CANCEL_ORDER.encode(user_ref_num=2, quantity=0)
    assert desk.accept(cancel_order(2)) == soupbintcp.packet(soupbintcp.UNSEQUENCED, message)


def test_a_batch_leaves_in_its_order_with_growing_numbers(desk: Desk) -> None:
    orders = [new_order(n) for n in (5, 3, 9)]
    assert desk.accept(*orders) == b"".join(enter_order(ref, order) for ref, order in enumerate(orders, 1))


def test_lots_and_ticks_are_turned_into_the_venues_units_and_back(desk: Desk) -> None:
    """MSFT has ticks of a cent: 100 price units each."""
    desk.accept(new_order(1, instrument=1, price_ticks=41_000))
    desk.receive(accepted(1), executed(1, 100, price=4_099_900))
    assert desk.journal.read(3, 1)[0]["last_ticks"] == 40_999
    assert desk.orders.counters[Counter.INEXACT] == 0


def test_a_price_between_two_ticks_is_counted(desk: Desk) -> None:
    desk.accept(new_order(1, instrument=1, price_ticks=41_000))
    desk.receive(executed(1, 100, price=4_099_950))
    assert desk.journal.read(2, 1)[0]["last_ticks"] == 40_999
    assert desk.orders.counters[Counter.INEXACT] == 1


def test_life_of_an_order_in_the_journal(desk: Desk) -> None:
    """Accepted, filled in part, the rest cancelled on request: each report says what is open and what is filled."""
    desk.accept(new_order(1), now_ns=1000)
    desk.receive(accepted(1, venue_order=77), now_ns=2000)
    desk.receive(executed(1, 30, match=5), now_ns=3000)
    desk.accept(cancel_order(1), now_ns=4000)
    desk.receive(canceled(1, 70), now_ns=5000)
    entries = desk.journal.read(1, 10)
    fields = ["event", "state", "leaves_lots", "cum_lots", "last_lots", "acked_ns", "venue_order", "match_number"]
    assert [tuple(int(e[f]) for f in fields) for e in entries] == [
        (ExecEvent.SEND, OrderState.PENDING_NEW, 100, 0, 0, 0, 0, 0),
        (ExecEvent.ACKNOWLEDGED, OrderState.NEW, 100, 0, 0, 2000, 77, 0),
        (ExecEvent.FILL, OrderState.PARTIALLY_FILLED, 70, 30, 30, 3000, 77, 5),
        (ExecEvent.CANCEL_SENT, OrderState.PENDING_CANCEL, 70, 30, 0, 4000, 77, 0),
        (ExecEvent.CANCELLED, OrderState.CANCELLED, 0, 30, 70, 5000, 77, 0),
    ]
    assert entries["venue_seq"].tolist() == [0, 1, 2, 0, 3]
    assert entries["reason"].tolist() == [0, 0, ord("R"), 0, ord("U")]
    assert set(entries["sent_ns"].tolist()) == {1000}
    assert desk.orders.open_count == 0


def test_hops_are_measured_once_per_order_sent(desk: Desk) -> None:
    desk.accept(new_order(1), now_ns=1000)
    desk.receive(accepted(1), now_ns=4000)
    hist = desk.orders.hist
    assert [int(hist[hop][COUNT]) for hop in Hop] == [1] * len(Hop)
    assert [int(hist[hop][SUM]) for hop in Hop] == [100, 100, 100, 600, 900, 3000]


def test_an_order_accepted_and_dead_is_cancelled(desk: Desk) -> None:
    desk.accept(new_order(1))
    desk.receive(accepted(1, state="D"))
    last = desk.journal.read(2, 1)[0]
    assert (last["event"], last["state"], last["last_lots"]) == (ExecEvent.CANCELLED, OrderState.CANCELLED, 100)
    assert desk.orders.counters[Counter.ORDERS_ACKNOWLEDGED] == 1


def test_a_reject_of_the_venue_carries_its_reason(desk: Desk) -> None:
    desk.accept(new_order(1))
    desk.receive(rejected(1, 0x17))
    last = desk.journal.read(2, 1)[0]
    assert (last["event"], last["state"], last["reason"]) == (ExecEvent.VENUE_REJECT, OrderState.REJECTED, 0x17)
    assert last["leaves_lots"] == 0


def test_an_id_that_is_journaled_is_never_sent_again(desk: Desk) -> None:
    """Open, finished or refused: the same id leaves no second entry and no byte."""
    assert desk.accept(new_order(1))
    assert desk.accept(new_order(1)) == b""
    desk.receive(rejected(1))
    assert desk.accept(new_order(1)) == b""
    desk.orders.set_refusal(Refusal.PAUSED)
    assert desk.accept(new_order(2)) == b""
    desk.orders.set_refusal(None)
    assert desk.accept(new_order(2)) == b""
    assert desk.orders.counters[Counter.DUPLICATE_ORDERS] == 3
    assert desk.journal.next_seq == 4


@pytest.mark.parametrize(
    "fields",
    [
        {"instrument": 2}, {"instrument": -1}, {"side": 0}, {"side": 3}, {"tif": 1}, {"qty_lots": 0},
        {"qty_lots": -5}, {"qty_lots": 1_000_000}, {"qty_lots": 2**62}, {"price_ticks": 0},
        {"price_ticks": NO_PRICE_TICKS},
        {"price_ticks": 1_999_999_901}, {"price_ticks": 2**62}, {"cl_ord_id": 0}, {"cl_ord_id": -1},
        {"instrument": 1, "price_ticks": 20_000_000},
    ],
)  # fmt: skip
def test_what_the_venue_cannot_take_is_refused_with_a_report(desk: Desk, fields: dict[str, int]) -> None:
    assert desk.accept(new_order(1, **fields)) == b""
    last = desk.journal.read(1, 1)[0]
    assert (last["event"], last["state"]) == (ExecEvent.NOT_SENT, OrderState.REJECTED)
    assert (last["reason"], last["leaves_lots"], last["user_ref"]) == (Refusal.BAD_ORDER, 0, 0)


def test_largest_order_the_venue_takes_is_sent(desk: Desk) -> None:
    assert desk.accept(new_order(1, qty_lots=999_999, price_ticks=1_999_999_900))


def test_a_request_that_is_neither_new_nor_cancel_is_counted(desk: Desk) -> None:
    assert desk.accept(new_order(1, action=7)) == b""
    assert desk.orders.counters[Counter.BAD_REQUESTS] == 1
    assert desk.journal.next_seq == 1


def test_a_full_pool_refuses_and_recovers(tmp_path: Path) -> None:
    desk = Desk(tmp_path, capacity=4)
    sent = [bool(desk.accept(new_order(number))) for number in range(1, 6)]
    assert sent == [True, True, True, False, False]
    assert desk.journal.read(5, 1)[0]["reason"] == Refusal.POOL_FULL
    desk.receive(rejected(1))
    assert desk.accept(new_order(9))
    desk.close()


def test_a_day_with_too_many_orders_refuses(tmp_path: Path) -> None:
    desk = Desk(tmp_path, day_orders=8)
    for number in range(1, 12):
        desk.accept(new_order(number))
        desk.receive(rejected(number))
    reasons = [int(e["reason"]) for e in read_journal(tmp_path) if e["event"] == ExecEvent.NOT_SENT]
    assert reasons == [Refusal.DAY_FULL] * 3
    desk.close()


def test_a_full_send_buffer_refuses_but_remembers_cancels(desk: Desk) -> None:
    desk.accept(new_order(1))
    desk.ctx[Reg.SEND_TAIL] = int(desk.ctx[Reg.SEND_SIZE]) - 5
    assert desk.orders.accept(new_order(2), 1000) == 1
    assert desk.journal.read(2, 1)[0]["reason"] == Refusal.SEND_BUFFER_FULL
    assert desk.orders.accept(cancel_order(1), 1000) == 1
    desk.take_sent()
    desk.orders.sweep(Sweep.REPEAT_CANCELS, 2000, 2000)
    assert desk.take_sent() == soupbintcp.packet(
        soupbintcp.UNSEQUENCED, ouch50.CANCEL_ORDER.encode(user_ref_num=1, quantity=0)
    )


def test_cancels_for_orders_that_are_over_unknown_or_under_way_send_nothing(desk: Desk) -> None:
    desk.accept(new_order(1), new_order(2))
    desk.receive(rejected(1))
    assert desk.accept(cancel_order(1)) == b""
    assert desk.accept(cancel_order(77)) == b""
    assert desk.accept(cancel_order(2))
    assert desk.accept(cancel_order(2)) == b""
    counters = desk.orders.counters
    names = (Counter.CANCELS_LATE, Counter.CANCELS_UNKNOWN, Counter.CANCELS_SENT, Counter.CANCELS_REPEATED)
    assert [int(counters[name]) for name in names] == [1, 1, 1, 1]


def test_a_cancel_is_never_refused(desk: Desk) -> None:
    desk.accept(new_order(1))
    desk.orders.set_refusal(Refusal.PAUSED)
    assert desk.accept(cancel_order(1))


def test_a_fill_after_the_end_of_an_order_counts_in_the_position(desk: Desk) -> None:
    """The slot of the order is long given away: its final report comes back from the journal."""
    desk.accept(new_order(1))
    desk.receive(accepted(1), canceled(1, 100))
    desk.accept(new_order(2))
    desk.receive(executed(1, 40))
    last = desk.journal.read(5, 1)[0]
    assert (last["cl_ord_id"], last["event"]) == (new_order(1)["cl_ord_id"][0], ExecEvent.FILL)
    assert (last["state"], last["leaves_lots"], last["cum_lots"]) == (OrderState.CANCELLED, 0, 40)
    assert desk.orders.counters[Counter.OVERFILLS] == 1
    assert desk.orders.counters[Counter.ILLEGAL_TRANSITIONS] == 1
    assert desk.orders.open_count == 1
    assert positions_from(read_journal(desk.journal.folder)) == {0: 40}


def test_a_fill_beyond_the_leaves_counts_whole_and_ends_the_order(desk: Desk) -> None:
    desk.accept(new_order(1))
    desk.receive(executed(1, 130))
    last = desk.journal.read(2, 1)[0]
    assert (last["state"], last["leaves_lots"], last["cum_lots"], last["last_lots"]) == (
        OrderState.FILLED,
        0,
        130,
        130,
    )
    assert desk.orders.counters[Counter.OVERFILLS] == 1


def test_a_late_fill_finds_room_in_a_full_pool(tmp_path: Path) -> None:
    desk = Desk(tmp_path, capacity=2)
    desk.accept(new_order(1))
    desk.receive(canceled(1, 100))
    assert desk.accept(new_order(2))
    assert not desk.accept(new_order(3))
    desk.receive(executed(1, 10))
    assert positions_from(read_journal(tmp_path)) == {0: 10}
    desk.close()


def test_other_late_messages_change_nothing_and_are_counted(desk: Desk) -> None:
    desk.accept(new_order(1))
    desk.receive(canceled(1, 100))
    desk.receive(canceled(1, 100), rejected(1), accepted(1))
    assert desk.journal.next_seq == 3
    assert desk.orders.counters[Counter.ILLEGAL_TRANSITIONS] == 3


@pytest.mark.parametrize("is_over", [False, True])
def test_a_broken_trade_takes_the_position_back(desk: Desk, is_over: bool) -> None:
    desk.accept(new_order(1))
    desk.receive(accepted(1), executed(1, 60, match=8))
    if is_over:
        desk.receive(executed(1, 40, match=9))
    desk.receive(broken(1, 8))
    last = desk.journal.read(desk.journal.next_seq - 1, 1)[0]
    assert (last["event"], last["last_lots"], last["match_number"]) == (ExecEvent.FILL, -60, 8)
    assert positions_from(read_journal(desk.journal.folder)) == {0: 40 if is_over else 0}
    desk.receive(broken(1, 8))
    assert desk.orders.counters[Counter.MISMATCHES] == 1, "it cannot be broken twice"
    assert desk.orders.counters[Counter.BROKEN_TRADES] == 1


def test_messages_about_unknown_orders_are_counted(desk: Desk) -> None:
    desk.receive(accepted(1), executed(4_000_000_000, 5), rejected(0))
    assert desk.orders.counters[Counter.UNKNOWN_REFS] == 3
    assert desk.journal.next_seq == 1


@pytest.mark.parametrize(
    ("message", "counter"),
    [
        (b"A", Counter.VENUE_MALFORMED),
        (accepted(1)[:63], Counter.VENUE_MALFORMED),
        (executed(1, 1)[:35], Counter.VENUE_MALFORMED),
        (b"Q", Counter.VENUE_MALFORMED),
        (b"S", Counter.VENUE_MALFORMED),
        (b"~" + bytes(60), Counter.VENUE_UNKNOWN_TYPE),
        (b"T" + bytes(29), Counter.VENUE_OTHER),
        (b"P" + bytes(12), Counter.VENUE_OTHER),
    ],
)
def test_messages_that_are_odd_are_counted_and_numbered(desk: Desk, message: bytes, counter: Counter) -> None:
    """The next message is still understood: one odd one does not shift the numbers."""
    desk.accept(new_order(1))
    desk.receive(message, accepted(1))
    assert desk.orders.counters[counter] == 1
    assert desk.ctx[Reg.VENUE_NEXT] == 3
    assert desk.journal.read(2, 1)[0]["venue_seq"] == 2


def test_packets_are_understood_however_they_are_cut(desk: Desk) -> None:
    desk.accept(new_order(1))
    raw = b"".join(
        soupbintcp.packet(soupbintcp.SEQUENCED, m) for m in (accepted(1), executed(1, 30), canceled(1, 70))
    )
    for byte in raw:
        desk.gateway._receive[desk.orders.ctx[Reg.FILLED]] = byte
        desk.orders.ctx[Reg.FILLED] += 1
        desk.gateway._process(2000)
    assert desk.orders.ctx[Reg.FILLED] == 0
    assert desk.journal.read(1, 9)["event"].tolist() == [
        ExecEvent.SEND, ExecEvent.ACKNOWLEDGED, ExecEvent.FILL, ExecEvent.CANCELLED,
    ]  # fmt: skip


def test_end_of_day_stops_new_orders_but_not_reports(desk: Desk) -> None:
    desk.accept(new_order(1))
    desk.receive(ouch50.SYSTEM_EVENT.encode(timestamp=1, event_code="E"), executed(1, 100))
    assert desk.ctx[Reg.DAY_ENDED] == 1
    assert positions_from(read_journal(desk.journal.folder)) == {0: 100}


def test_the_kernel_stops_at_nonsense(desk: Desk) -> None:
    desk.gateway._receive[:3] = (0, 0, 65)
    assert desk.orders.decode(0, 3, 1) == 0
    assert desk.ctx[Reg.STOP] == Stop.MALFORMED


# Whatever happens, in whatever order.

Step = tuple[str, int, int]

_KINDS = {
    "new": 30, "cancel": 8, "A": 20, "C": 12, "E": 30, "J": 6, "B": 8, "disconnect": 2, "reconcile": 3,
    "cancel_all": 1,
}  # fmt: skip


def random_step(rng: random.Random, next_ref: int) -> Step:
    """(what, which order, how much): mostly about orders that exist, now and then about one that does not."""
    what = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    if what in ("new", "cancel"):
        return what, rng.randint(1, 60), rng.randint(1, 200)
    if what == "reconcile":
        return what, rng.randint(max(1, next_ref - 3), next_ref), 0
    return what, rng.randint(max(0, next_ref - 8), next_ref), rng.choice([0, 10, 50, 100, 200])


def take_step(desk: Desk, number: int, step: Step) -> None:
    what, which, amount = step
    if what == "new":
        side = Side.BUY if which % 3 else Side.SELL
        desk.accept(new_order(which, qty_lots=amount, side=side, instrument=which % 2, price_ticks=10_000))
    elif what == "cancel":
        desk.accept(cancel_order(which))
    elif what == "A":
        desk.receive(accepted(which, amount))
    elif what == "C":
        desk.receive(canceled(which, amount))
    elif what == "E":
        desk.receive(executed(which, amount, match=number))
    elif what == "J":
        desk.receive(rejected(which))
    elif what == "B":
        desk.receive(broken(which, number))
    elif what == "disconnect":
        desk.orders.sweep(Sweep.DISCONNECT, 0, 1)
    elif what == "reconcile":
        desk.orders.sweep(Sweep.RECONCILE, which, 1)
    else:
        desk.orders.sweep(Sweep.CANCEL_ALL, 0, 1)
    desk.take_sent()


def state_of(desk: Desk) -> dict[str, object]:
    """Everything that has to be the same after a restart."""
    ctx = desk.ctx
    registers = (Reg.NEXT_SEQ, Reg.NEXT_REF, Reg.FREE_COUNT, Reg.HIGH, Reg.OPEN, Reg.IDS_COUNT)
    free = desk.orders.free[: int(ctx[Reg.FREE_COUNT])]
    return {
        "pool": desk.orders.pool[:-1].tobytes(),
        "free": free.tolist(),
        "ids": desk.orders.ids.tobytes(),
        "refs": desk.orders.refs.tobytes(),
        "cancels": (desk.orders.cancel_ns > 0).tolist(),
        "registers": [int(ctx[register]) for register in registers],
    }


def interleave(seed: int, folder: Path) -> collections.Counter[Counter]:
    """A hundred and fifty random steps, checked after each; returns what was counted.

    Position = sum of fills, figures of each order add up, and a replay gives the same bytes.
    """
    rng = random.Random(seed)
    desk = Desk(folder, capacity=16, entries=16)
    tail = JournalTail(folder)
    entries = np.zeros(0, dtype=REPORT)
    expected = {0: 0, 1: 0}
    trades: dict[int, tuple[int, int, int]] = {}  # match number -> UserRefNum, instrument, signed lots
    for number in range(1, 151):
        step = what, which, amount = random_step(rng, int(desk.ctx[Reg.NEXT_REF]))
        mine = entries[(entries["user_ref"] == which) & (entries["user_ref"] > 0)]
        if what == "E" and len(mine):
            sign = 1 if mine[0]["side"] == Side.BUY else -1
            trades[number] = which, int(mine[0]["instrument"]), sign * amount
            expected[int(mine[0]["instrument"])] += sign * amount
        if what == "B" and trades:
            match = rng.choice(list(trades))
            ref, instrument, lots = trades.pop(match)
            expected[instrument] -= lots
            step = "B", ref, 0
            take_step(desk, match, step)
        else:
            take_step(desk, number, step)
        while len(new := tail.poll()):
            entries = np.concatenate((entries, new))
        positions = positions_from(entries)
        assert {i: positions.get(i, 0) for i in expected} == expected, step
        live = desk.orders.open_orders()
        assert (live["leaves_lots"] > 0).all()
        assert len(live) == desk.orders.open_count
    counted = collections.Counter({counter: int(desk.orders.counters[counter]) for counter in Counter})
    before = state_of(desk)
    desk.close()
    again = Desk(folder, capacity=16)
    assert state_of(again) == before
    again.close()
    return counted


def test_any_interleaving_keeps_positions_exact_and_survives_a_restart(tmp_path: Path) -> None:
    """And together they reach everything that can happen to an order: else this could hold because nothing did."""
    reached: collections.Counter[Counter] = collections.Counter()
    for seed in range(12):
        reached += interleave(seed, tmp_path / str(seed))
    never = {
        Counter.BAD_REQUESTS, Counter.INEXACT, Counter.VENUE_OTHER, Counter.VENUE_UNKNOWN_TYPE,
        Counter.VENUE_MALFORMED, Counter.JOURNAL_ERRORS, Counter.JOURNAL_TORN_BYTES, Counter.CONNECTS,
        Counter.CONNECTION_FAILURES, Counter.LOGINS, Counter.LOGINS_REFUSED, Counter.DISCONNECTS,
        Counter.HEARTBEATS_SENT, Counter.HEARTBEATS_RECEIVED, Counter.PARTIAL_SENDS,
    }  # fmt: skip
    assert {counter for counter in Counter if reached[counter] == 0} == never


def test_a_restart_continues_behind_the_last_message_of_the_venue(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.accept(new_order(1))
    desk.receive(accepted(1), b"T" + bytes(29), executed(1, 10))
    desk.close()
    again = Desk(tmp_path)
    assert again.ctx[Reg.VENUE_NEXT] == 4
    again.close()


def test_a_journal_too_large_for_the_pool_says_which_key_to_raise(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for number in range(1, 20):
        desk.accept(new_order(number))
    desk.close()
    with pytest.raises(JournalError, match=r"raise exec\.order_capacity \(now 8\)"):
        Desk(tmp_path, capacity=8)
