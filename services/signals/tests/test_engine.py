"""What surrounds a strategy: signals, open orders, reports, back-pressure, faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.instruments import InstrumentTable, shard_of
from tickpath.common.records import (
    NO_PRICE_TICKS,
    REPORT,
    SIGNAL,
    TICK,
    Action,
    ExecEvent,
    OrderState,
    Side,
    TickFlag,
    Tif,
    pack_cl_ord_id,
)
from tickpath.signals.engine import Engine, Running
from tickpath.signals.layout import MAX_INTENTS, MAX_OPEN_ORDERS, OWN, Counter, Histogram
from tickpath.signals.strategy import StrategyError, load_strategy

BUY_IT, SELL_IT, CANCEL_ALL, CANCEL_BUYS, BUY_OFTEN, FAIL, ORDER_SIDE, ORDER_QTY, TELL = range(1, 10)
Records = npt.NDArray[np.void]
PUPPET = f"{Path(__file__).parent / 'puppet.py'}"


@pytest.fixture(scope="module")
def puppets(two_instruments: InstrumentTable) -> Engine:
    """The puppet under id 5 and, after it, the bystander under id 9."""
    running = [Running(load_strategy(f"{PUPPET}:{name}"), i) for name, i in (("puppet", 5), ("bystander", 9))]
    return Engine(running, two_instruments, capacity=4)


@pytest.fixture
def engine(puppets: Engine) -> Engine:
    puppets.reset()
    return puppets


@pytest.fixture(scope="module")
def both(two_instruments: InstrumentTable) -> Engine:
    """The two strategies that the service comes with."""
    names = ("ema_cross", "microprice")
    loaded = [load_strategy(f"tickpath.signals.strategies.{name}:{name}") for name in names]
    params = [{"volume_factor": 0.0}, {"window": 20, "min_tilt": 0.1, "min_steps": 0.1}]
    running = [Running(s, i + 1, p) for i, (s, p) in enumerate(zip(loaded, params, strict=True))]
    return Engine(running, two_instruments, capacity=64)


def tick(
    what: int = 0,
    much: int = 0,
    *,
    seq: int = 7,
    instrument: int = 0,
    flags: int = TickFlag.QUOTE,
    bid: int = 1_000_000,
    ask: int = 1_000_100,
) -> Records:
    """TICK[1] that tells the puppet what to do."""
    one = np.zeros(1, TICK)
    one["cause_seq"], one["exch_ns"], one["recv_ns"], one["decoded_ns"] = seq, 11, 22, 33
    one["bid_ticks"], one["ask_ticks"], one["bid_lots"], one["ask_lots"] = bid, ask, 5, 6
    one["volume_lots"], one["last_lots"], one["instrument"], one["flags"] = what, much, instrument, flags
    return one


def run(engine: Engine, ticks: Records, now_ns: int = 100) -> Records:
    out = np.zeros(64, SIGNAL)
    done, n = engine.run(ticks, out, now_ns)
    assert done == len(ticks)
    return out[:n]


def report(signal: Any, event: ExecEvent, state: OrderState, seq: int, **fields: int) -> Records:
    """REPORT[1] on the order of a signal."""
    one = np.zeros(1, REPORT)
    one["cl_ord_id"] = pack_cl_ord_id(*(int(signal[key]) for key in ("strategy", "shard", "cause_seq", "k")))
    for name in ("instrument", "strategy", "shard", "side", "tif", "price_ticks", "qty_lots"):
        one[name] = signal[name]
    one["leaves_lots"] = signal["qty_lots"]
    one["event"], one["state"], one["seq"] = event, state, seq
    for name, value in fields.items():
        one[name] = value
    return one


def own(engine: Engine, row: int = 0, instrument: int = 0) -> dict[str, int]:
    return {name: int(engine.memory["own"][row, instrument][name]) for name in OWN.names or ()}


def test_the_framework_fills_in_all_that_is_not_the_strategys_business(engine: Engine) -> None:
    (signal,) = run(engine, tick(BUY_IT, seq=42, instrument=1))
    assert {name: signal[name].item() for name in SIGNAL.names or ()} == {
        "cause_seq": 42, "exch_ns": 11, "recv_ns": 22, "decoded_ns": 33, "signalled_ns": 100,
        "price_ticks": 1_000_000, "qty_lots": 10, "bid_ticks": 1_000_000, "ask_ticks": 1_000_100, "strength": 0.5,
        "instrument": 1, "strategy": 5, "shard": shard_of("MSFT"), "action": Action.NEW, "side": Side.BUY,
        "tif": Tif.DAY, "k": 0, "pad": 0,
    }  # fmt: skip


def test_signals_of_one_tick_are_numbered_from_zero_for_each_strategy(engine: Engine) -> None:
    signals = run(engine, np.concatenate([tick(BUY_OFTEN, 3, seq=1), tick(BUY_OFTEN, 2, seq=2)]))
    assert list(zip(signals["cause_seq"], signals["k"], strict=True)) == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]


def test_an_order_is_open_from_the_decision_on_and_known_by_the_id_that_the_venue_will_see(engine: Engine) -> None:
    (signal,) = run(engine, tick(BUY_IT))
    assert own(engine) == {
        "position_lots": 0, "open_buy_lots": 10, "open_sell_lots": 0, "buy_ticks": 1_000_000,
        "sell_ticks": NO_PRICE_TICKS, "open_orders": 1, "in_flight": 1, "cancelling": 0, "enabled": 1,
    }  # fmt: skip
    assert engine.memory["orders"][0, 0, 0]["cl_ord_id"] == pack_cl_ord_id(5, int(signal["shard"]), 7, 0)


def test_a_strategy_reads_its_own_position_and_open_orders(engine: Engine) -> None:
    (signal,) = run(engine, tick(SELL_IT))
    filled = report(signal, ExecEvent.FILL, OrderState.PARTIALLY_FILLED, 1, last_lots=4, leaves_lots=6)
    assert engine.apply(filled) == 1
    told = run(engine, tick(TELL))
    assert list(told["price_ticks"]) == [-4, 1]


def test_reports_move_an_order_through_its_life(engine: Engine) -> None:
    (signal,) = run(engine, tick(BUY_IT))
    for seq, (event, state, last, leaves, position, open_lots) in enumerate(
        [
            (ExecEvent.SEND, OrderState.PENDING_NEW, 0, 10, 0, 10),
            (ExecEvent.ACKNOWLEDGED, OrderState.NEW, 0, 10, 0, 10),
            (ExecEvent.FILL, OrderState.PARTIALLY_FILLED, 3, 7, 3, 7),
            (ExecEvent.CANCEL_SENT, OrderState.PENDING_CANCEL, 0, 7, 3, 7),
            (ExecEvent.CANCELLED, OrderState.CANCELLED, 7, 0, 3, 0),
        ],
        start=1,
    ):
        engine.apply(report(signal, event, state, seq, last_lots=last, leaves_lots=leaves))
        now = own(engine)
        assert (now["position_lots"], now["open_buy_lots"]) == (position, open_lots)
        assert now["in_flight"] == 0
        assert now["cancelling"] == (state == OrderState.PENDING_CANCEL)
    assert own(engine)["open_orders"] == 0


def test_a_report_is_applied_once(engine: Engine) -> None:
    (signal,) = run(engine, tick(BUY_IT))
    fill = report(signal, ExecEvent.FILL, OrderState.FILLED, 3, last_lots=10, leaves_lots=0)
    assert [engine.apply(fill), engine.apply(fill)] == [1, 0]
    assert own(engine)["position_lots"] == 10
    assert engine.counters[Counter.REPORTS_DUPLICATE] == 1


def test_reports_of_others_change_nothing(engine: Engine) -> None:
    (signal,) = run(engine, tick(BUY_IT))
    before = own(engine)
    fields = [{"strategy": 6}, {"strategy": 200}, {"instrument": 2}, {"instrument": -1}]
    for seq, foreign in enumerate(fields, start=1):
        engine.apply(report(signal, ExecEvent.FILL, OrderState.FILLED, seq, last_lots=10, **foreign))
    assert own(engine) == before
    assert engine.counters[Counter.REPORTS_FOREIGN] == 4


def test_a_signal_that_was_answered_without_an_order_is_forgotten_at_the_next_tick(engine: Engine) -> None:
    """Risk refused it: no report will ever come."""
    run(engine, tick(BUY_IT))
    engine.acknowledge(engine.signal_seq)
    run(engine, tick())
    assert own(engine)["open_orders"] == 0
    assert engine.counters[Counter.ORDERS_REFUSED] == 1


def test_a_signal_that_became_an_order_is_not_forgotten_when_it_is_answered(engine: Engine) -> None:
    (signal,) = run(engine, tick(BUY_IT))
    engine.apply(report(signal, ExecEvent.SEND, OrderState.PENDING_NEW, 1))
    engine.acknowledge(engine.signal_seq)
    run(engine, tick())
    assert own(engine)["open_orders"] == 1


def test_a_report_that_comes_after_the_answer_brings_the_order_back(engine: Engine) -> None:
    (signal,) = run(engine, tick(BUY_IT))
    engine.acknowledge(engine.signal_seq)
    run(engine, tick())
    engine.apply(report(signal, ExecEvent.ACKNOWLEDGED, OrderState.NEW, 1))
    assert own(engine)["open_buy_lots"] == 10


def test_a_cancel_is_sent_once_and_only_if_there_is_something_to_take_back(engine: Engine) -> None:
    assert len(run(engine, tick(CANCEL_ALL))) == 0
    (buy,) = run(engine, tick(BUY_IT))
    engine.apply(report(buy, ExecEvent.ACKNOWLEDGED, OrderState.NEW, 1))
    (cancel,) = run(engine, tick(CANCEL_ALL))
    assert (cancel["action"], cancel["side"], cancel["qty_lots"]) == (Action.CANCEL, 0, 0)
    assert len(run(engine, tick(CANCEL_ALL))) == 0
    assert own(engine)["cancelling"] == 1


def test_a_cancel_of_one_side_leaves_the_other_side(engine: Engine) -> None:
    run(engine, tick(SELL_IT))
    assert len(run(engine, tick(CANCEL_BUYS))) == 0
    run(engine, tick(BUY_IT))
    (cancel,) = run(engine, tick(CANCEL_BUYS))
    assert cancel["side"] == Side.BUY
    assert own(engine)["cancelling"] == 1


@pytest.mark.parametrize("how", ["rejected by the venue", "answered without effect"])
def test_a_cancel_that_did_nothing_can_be_sent_again(engine: Engine, how: str) -> None:
    (buy,) = run(engine, tick(BUY_IT))
    engine.apply(report(buy, ExecEvent.ACKNOWLEDGED, OrderState.NEW, 1))
    run(engine, tick(CANCEL_ALL))
    if how == "rejected by the venue":
        engine.apply(report(buy, ExecEvent.CANCEL_REJECT, OrderState.NEW, 2))
    else:
        engine.acknowledge(engine.signal_seq)
    assert len(run(engine, tick(CANCEL_ALL))) == 1


@pytest.mark.parametrize(
    ("what", "much"),
    [(ORDER_SIDE, 0), (ORDER_SIDE, 3), (ORDER_SIDE, -1), (ORDER_QTY, 0), (ORDER_QTY, -5), (ORDER_QTY, 2**31)],
)
def test_an_order_that_no_venue_takes_is_not_sent_but_counted(engine: Engine, what: int, much: int) -> None:
    assert len(run(engine, tick(what, much))) == 0
    assert engine.counters[Counter.INTENTS_INVALID] == 1
    assert own(engine)["open_orders"] == 0


def test_a_price_out_of_range_is_not_sent_but_counted(engine: Engine) -> None:
    assert len(run(engine, tick(BUY_IT, bid=NO_PRICE_TICKS))) == 0
    assert engine.counters[Counter.INTENTS_INVALID] == 1


def test_more_orders_on_a_tick_than_there_is_room_for_are_counted(engine: Engine) -> None:
    assert len(run(engine, tick(BUY_OFTEN, MAX_INTENTS + 3))) == MAX_INTENTS
    assert engine.counters[Counter.INTENTS_NO_ROOM] == 3


def test_more_open_orders_than_there_is_room_for_are_counted_and_not_sent(engine: Engine) -> None:
    run(engine, tick(BUY_OFTEN, MAX_INTENTS, seq=1))
    run(engine, tick(BUY_OFTEN, MAX_INTENTS, seq=2))
    assert own(engine)["open_orders"] == MAX_OPEN_ORDERS == 2 * MAX_INTENTS
    assert len(run(engine, tick(BUY_IT, seq=3))) == 0
    assert engine.counters[Counter.INTENTS_NO_ROOM] == 1


def test_a_report_for_which_no_slot_is_free_still_moves_the_position_and_is_counted(engine: Engine) -> None:
    run(engine, tick(BUY_OFTEN, MAX_INTENTS, seq=1))
    (*_, last) = run(engine, tick(BUY_OFTEN, MAX_INTENTS, seq=2))
    last["cause_seq"] = 3
    engine.apply(report(last, ExecEvent.FILL, OrderState.PARTIALLY_FILLED, 1, last_lots=2, leaves_lots=8))
    assert own(engine)["position_lots"] == 2
    assert engine.counters[Counter.ORDERS_UNTRACKED] == 1


@pytest.mark.parametrize("why", ["service paused", TickFlag.HALTED, TickFlag.SUSPECT])
def test_nothing_new_is_sent_when_paused_or_not_tradable_but_cancels_are(engine: Engine, why: Any) -> None:
    flags = TickFlag.QUOTE if isinstance(why, str) else TickFlag.QUOTE | why
    (buy,) = run(engine, tick(BUY_IT))
    engine.mute(isinstance(why, str))
    assert len(run(engine, tick(BUY_IT, flags=flags))) == 0
    (cancel,) = run(engine, tick(CANCEL_ALL, flags=flags))
    assert cancel["action"] == Action.CANCEL
    assert engine.memory["states_0"][0]["seen"] == 3
    engine.mute(False)
    assert len(run(engine, tick(BUY_IT))) == 1
    assert buy["action"] == Action.NEW


def test_ticks_of_unknown_instruments_are_dropped_and_counted(engine: Engine) -> None:
    assert len(run(engine, np.concatenate([tick(BUY_IT, instrument=i) for i in (-1, 2, 2**31 - 1)]))) == 0
    assert engine.counters[Counter.TICKS_UNKNOWN_INSTRUMENT] == 3
    assert engine.counters[Counter.TICKS] == 0


def test_a_strategy_that_fails_is_switched_off_where_it_failed_and_its_orders_are_taken_back(engine: Engine) -> None:
    run(engine, tick(BUY_IT, seq=1))
    signals = run(engine, tick(FAIL, 4, seq=2))
    assert [(s["strategy"], s["action"]) for s in signals] == [(5, Action.CANCEL), (9, Action.NEW)]
    assert own(engine)["enabled"] == -1
    assert engine.counters[Counter.STRATEGY_FAULTS] == 1
    assert len(run(engine, tick(BUY_IT, seq=3))) == 0
    assert len(run(engine, tick(BUY_IT, seq=4, instrument=1))) == 1


def test_ticks_wait_when_there_is_no_room_and_nothing_is_lost_or_sent_twice(engine: Engine) -> None:
    """Room for the worst case of one tick and no more: each call does what surely fits."""
    ticks = np.concatenate([tick(BUY_OFTEN, 3, seq=seq) for seq in range(1, 6)])
    out = np.zeros(engine.room, SIGNAL)
    got, calls = [], 0
    while len(ticks):
        done, n = engine.run(ticks, out, 100)
        assert done == 1
        got += [(int(s["cause_seq"]), int(s["k"])) for s in out[:n]]
        ticks, calls = ticks[done:], calls + 1
    assert got == [(seq, k) for seq in range(1, 6) for k in range(3)]
    assert engine.run(tick(), out[: engine.room - 1], 100) == (0, 0)


def test_hops_are_timed_for_ticks_and_signals(engine: Engine) -> None:
    run(engine, np.concatenate([tick(), tick(BUY_IT)]), now_ns=133)
    count, total = engine.hist[Histogram.DECODE_TO_STRATEGY, :2]
    assert (count, total) == (2, 200)
    assert list(engine.hist[Histogram.DECODE_TO_SIGNAL, :2]) == [1, 100]


def test_only_the_chosen_symbols_are_traded(two_instruments: InstrumentTable) -> None:
    chosen = [
        Running(load_strategy(f"{PUPPET}:puppet"), 5, {"lots": 3}, ["MSFT"]),
        Running(load_strategy(f"{PUPPET}:bystander"), 9),
    ]
    engine = Engine(chosen, two_instruments, capacity=4)
    signals = run(engine, np.concatenate([tick(BUY_IT, instrument=0), tick(BUY_IT, instrument=1)]))
    assert [(s["instrument"], s["qty_lots"]) for s in signals] == [(1, 3)]


def test_an_unknown_symbol_stops_the_start_and_says_what_there_is(two_instruments: InstrumentTable) -> None:
    with pytest.raises(StrategyError, match=r"strategy puppet \(puppet.py, line \d+\): .*GOOG; there are AAPL, MSFT"):
        Engine([Running(load_strategy(f"{PUPPET}:puppet"), 5, {}, ["GOOG"])], two_instruments)


def test_a_strategy_that_looks_back_further_than_the_series_reaches_stops_the_start(
    two_instruments: InstrumentTable,
) -> None:
    micro = load_strategy("tickpath.signals.strategies.microprice:microprice")
    with pytest.raises(StrategyError, match=r"looks back 65 ticks; signals\.series_capacity keeps 64"):
        Engine([Running(micro, 1, {"window": 63})], two_instruments, capacity=64)


def _one_by_one(engine: Engine, ticks: Records, venue: Any) -> tuple[Records, list[Any]]:
    """Run tick by tick against a venue: (signals, [(tick index, reports, acknowledged)])."""
    engine.reset()
    out, signals, inputs = np.zeros(engine.room, SIGNAL), [], []
    for index in range(len(ticks)):
        done, n = engine.run(ticks[index : index + 1], out, 100)
        assert done == 1
        signals.append(out[:n].copy())
        answers = np.concatenate([venue.on_tick(ticks[index]), *(venue.take(signal) for signal in out[:n])])
        if len(answers):
            engine.apply(answers)
            engine.acknowledge(engine.signal_seq)
            inputs.append((index + 1, answers, engine.signal_seq))
    return np.concatenate(signals), inputs


@pytest.fixture(scope="module")
def reference(
    both: Engine, random_ticks: Callable[..., Records], make_venue: Callable[[], Any]
) -> tuple[Records, Records, list[Any], npt.NDArray[np.uint8]]:
    """A run, tick by tick, of both strategies: (ticks, signals, inputs, memory at the end)."""
    ticks = random_ticks(1500, seed=3)
    signals, inputs = _one_by_one(both, ticks, make_venue())
    return ticks, signals, inputs, both.memory.bytes.copy()


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(1, 300), min_size=1, max_size=20), spare=st.integers(0, 40))
def test_the_same_ticks_give_the_same_signals_and_state_however_they_are_cut_into_batches(
    both: Engine, reference: Any, cuts: list[int], spare: int
) -> None:
    """Bit for bit, with reports arriving between the same ticks, and with `out` too small for a batch."""
    ticks, signals, inputs, memory = reference
    assert {1, 2} == set(signals["strategy"].tolist())
    both.reset()
    out, got, at, turn = np.zeros(both.room + spare, SIGNAL), [], 0, 0
    waiting = list(inputs)
    while at < len(ticks):
        end = min(at + cuts[turn % len(cuts)], waiting[0][0] if waiting else len(ticks), len(ticks))
        done, n = both.run(ticks[at:end], out, 100)
        got.append(out[:n].copy())
        at, turn = at + done, turn + 1
        if waiting and waiting[0][0] == at:
            _, answers, acknowledged = waiting.pop(0)
            both.apply(answers)
            both.acknowledge(acknowledged)
    assert np.concatenate(got).tobytes() == signals.tobytes()
    assert both.memory.bytes.tobytes() == memory.tobytes()


def test_position_is_the_sum_of_fills_and_open_lots_are_those_of_the_venue_after_every_report(
    both: Engine, random_ticks: Callable[..., Records], make_venue: Callable[[], Any]
) -> None:
    both.reset()
    paper_venue = make_venue()
    out, told = np.zeros(both.room, SIGNAL), 0
    held: dict[tuple[int, int], int] = {}
    for one in random_ticks(1500, seed=4):
        _, n = both.run(np.array([one], TICK), out, 100)
        for answers in (paper_venue.on_tick(one), *(paper_venue.take(signal) for signal in out[:n])):
            both.apply(answers)
        for r in paper_venue.reports[told:]:
            if r["event"] == ExecEvent.FILL:
                key = (int(r["strategy"]), int(r["instrument"]))
                held[key] = held.get(key, 0) + int(r["last_lots"]) * (1 if r["side"] == Side.BUY else -1)
        told = len(paper_venue.reports)
        for row, strategy in enumerate((1, 2)):
            for instrument in range(2):
                key = (strategy, instrument)
                resting = [o for o in paper_venue.open.values() if (o["strategy"], o["instrument"]) == key]
                mine = own(both, row, instrument)
                assert mine["position_lots"] == held.get(key, 0)
                assert mine["open_orders"] == len(resting)
                assert mine["open_buy_lots"] + mine["open_sell_lots"] == sum(int(o["leaves_lots"]) for o in resting)
    assert sum(r["event"] == ExecEvent.FILL for r in paper_venue.reports) > 50


def test_a_restarted_service_rebuilds_what_it_owns_from_the_reports_of_the_day(
    both: Engine, reference: Any, two_instruments: InstrumentTable
) -> None:
    _, _, inputs, memory = reference
    both.reset()
    for _, answers, _ in inputs:
        both.apply(answers)
    rebuilt = {name: both.memory["own"][name].copy() for name in OWN.names or ()}
    both.memory.bytes[:] = memory
    for name, values in rebuilt.items():
        if name not in ("in_flight", "cancelling"):
            np.testing.assert_array_equal(values, both.memory["own"][name], err_msg=name)
