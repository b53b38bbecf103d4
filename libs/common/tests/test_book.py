"""The books: against a plain Python reference by random operations, and against the oracles of recorded days."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.kernels import book as bk
from tickpath.common.kernels.book import Book, Result
from tickpath.common.kernels.book_audit import Fault, audit
from tickpath.common.kernels.itch import count_frames
from tickpath.common.protocols import itch50
from tickpath.common.records import MAX_QTY_LOTS, NO_PRICE_TICKS, Side

N = 2  # instruments
LOCATES = {10: 0, 20: 1}


def new_book(order_capacity=64, level_capacity=32, n_instruments=N):
    book = Book.create(n_instruments, order_capacity, level_capacity)
    for locate, instrument in LOCATES.items():
        if instrument < n_instruments:
            book.locate[locate] = instrument
    return book


class Reference:
    """The rules of the sheet and of the module's docstring, with dicts."""

    def __init__(self, order_capacity, level_capacity):
        self.orders = {}  # ref -> [instrument, side, price, lots]; the order of insertion is time priority
        self.order_capacity = order_capacity
        self.level_capacity = level_capacity

    def levels(self, instrument, side):
        """[(price, orders, lots)], best first."""
        found = {}
        for i, s, price, lots in self.orders.values():
            if (i, s) == (instrument, side):
                count, total = found.get(price, (0, 0))
                found[price] = (count + 1, total + lots)
        return [(p, *found[p]) for p in sorted(found, reverse=side == Side.BUY)]

    def best(self, instrument):
        return tuple((self.levels(instrument, side) or [None])[0] for side in Side)

    def add(self, instrument, side, ref, price, lots):
        if not 0 <= instrument < N:
            return Result.UNKNOWN_INSTRUMENT
        if side not in (1, 2):
            return Result.BAD_SIDE
        if not 0 < lots <= MAX_QTY_LOTS:
            return Result.BAD_QUANTITY
        if not 0 < price < 2**31:
            return Result.BAD_PRICE
        if ref <= 0:
            return Result.BAD_REF
        if ref in self.orders:
            return Result.DUPLICATE_ORDER
        if len(self.orders) == self.order_capacity:
            return Result.ORDERS_FULL
        prices = {p for p, _, _ in self.levels(instrument, side)}
        if price not in prices and len(prices) == self.level_capacity:
            return Result.LEVELS_FULL
        self.orders[ref] = [instrument, side, price, lots]
        return Result.OK

    def reduce(self, ref, lots):
        if ref not in self.orders:
            return Result.UNKNOWN_ORDER
        if lots <= 0:
            return Result.BAD_QUANTITY
        had = self.orders[ref][3]
        if lots < had:
            self.orders[ref][3] = had - lots
            return Result.OK
        del self.orders[ref]
        return Result.OK if lots == had else Result.OVER_REDUCED

    def remove(self, ref):
        return Result.UNKNOWN_ORDER if self.orders.pop(ref, None) is None else Result.OK

    def replace(self, ref, new_ref, price, lots):
        if ref not in self.orders:
            return Result.UNKNOWN_ORDER
        instrument, side, _, _ = self.orders.pop(ref)
        return self.add(instrument, side, new_ref, price, lots)

    def lots_ahead(self, ref):
        if ref not in self.orders:
            return -1
        ahead = 0
        for other, (i, s, p, lots) in self.orders.items():
            if other == ref:
                break
            ahead += lots if [i, s, p] == self.orders[ref][:3] else 0
        return ahead

    def orders_ahead(self, ref):
        if ref not in self.orders:
            return -1
        before = list(self.orders)[: list(self.orders).index(ref)]
        return sum(self.orders[other][:3] == self.orders[ref][:3] for other in before)


# Few values, so that references collide in every way; with some that lie outside of what is allowed.
REFS = st.sampled_from([*range(-1, 14), 2**40, 2**63 - 1, -(2**63)])
PRICES = st.sampled_from([*range(95, 106), 0, -1, 2**31 - 1, 2**31, 2**32 - 1])
LOTS = st.sampled_from([1, 1, 2, 3, 5, 100, 2**31 - 1, 0, -1, 2**31])
INSTRUMENTS = st.sampled_from([0, 0, 0, 1, -1, 2])
SIDES = st.sampled_from([1, 1, 2, 2, 0, 3])
FEW = (st.integers(1, 6), st.integers(98, 102), st.integers(1, 2))
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.just(0), st.sampled_from([1, 2]), *FEW),
        st.tuples(st.just("replace"), st.integers(1, 6), *FEW),
        st.tuples(st.just("reduce"), st.integers(1, 6), st.just(1)),
        st.tuples(st.just("add"), INSTRUMENTS, SIDES, REFS, PRICES, LOTS),
        st.tuples(st.just("add"), st.just(0), SIDES, st.integers(1, 40), st.integers(90, 120), st.integers(1, 9)),
        st.tuples(st.just("reduce"), REFS, LOTS),
        st.tuples(st.just("remove"), REFS),
        st.tuples(st.just("replace"), REFS, REFS, PRICES, LOTS),
    ),
    max_size=80,
)


def depth_of(book, instrument, side):
    return [(int(p), int(n), int(lots)) for p, n, lots in book.side(instrument, side)]


def live_refs(book):
    return {int(ref) for ref in book.orders["ref"] if ref}


@settings(max_examples=200, deadline=None)
@given(OPERATIONS, st.sampled_from([(64, 32), (6, 4), (1, 1), (8, 40)]))
def test_book_equals_the_plain_python_reference_after_every_operation(operations, capacity):
    """Results, depth, live orders, queue positions, and what the event says about the best prices."""
    book, reference = new_book(*capacity), Reference(*capacity)
    results = Counter()
    for name, *arguments in operations:
        before = [reference.best(i) for i in range(N)]
        expected = getattr(reference, name)(*arguments)
        got = getattr(bk, name)(book, *arguments)
        assert Result(got) == expected, (name, arguments)
        results[expected] += 1
        after = [reference.best(i) for i in range(N)]
        visible = [[side and (side[0], side[2]) for side in best] for best in (*before, *after)]
        assert bool(book.event[bk.EV_BBO_CHANGED]) == (visible[:N] != visible[N:])
        if name == "add" and expected is Result.OK:
            bid, ask = after[arguments[0]]
            top = visible[:N] != visible[N:]
            assert bool(book.event[bk.EV_CROSSED]) == bool(top and bid and ask and bid[0] >= ask[0])
    for instrument in range(N):
        for side in Side:
            assert depth_of(book, instrument, side) == reference.levels(instrument, side)
    assert live_refs(book) == set(reference.orders)
    assert book.live_orders == len(reference.orders)
    assert book.results() == results
    for ref in (*reference.orders, 999):
        assert bk.lots_ahead(book, ref) == reference.lots_ahead(ref)
        assert bk.orders_ahead(book, ref) == reference.orders_ahead(ref)
    assert audit(book) is Fault.NONE


@pytest.mark.parametrize("spread", [None, 1, 4, 1 << 16, 1 << 32], ids=["random", "dense", "by 4", "2**16", "2**32"])
def test_order_table_finds_everything_while_it_is_churned_at_its_planned_size(spread):
    """Inserts and deletes around full load: no order is lost by shifting back, none comes again."""
    rng = np.random.default_rng(1)
    refs = rng.integers(1, 2**62, size=20_000).tolist() if spread is None else range(spread, 20_000 * spread, spread)
    capacity = 1024
    book = new_book(capacity, 8)
    assert len(book.orders) == 2 * capacity
    live = {}
    for ref in refs:
        price = 100 + ref % 8
        if len(live) == capacity:
            assert bk.add(book, 0, 1, ref, price, 1) == Result.ORDERS_FULL
            for old in list(live)[:: int(rng.integers(1, 4))]:
                assert bk.remove(book, old) == Result.OK
                assert bk.remove(book, old) == Result.UNKNOWN_ORDER
                del live[old]
        else:
            assert bk.add(book, 0, 1, ref, price, 1) == Result.OK
            live[ref] = price
    assert live_refs(book) == set(live)
    assert audit(book) is Fault.NONE
    assert depth_of(book, 0, Side.BUY) == [(p, n, n) for p, n in sorted(Counter(live.values()).items(), reverse=True)]
    for ref in live:
        assert bk.remove(book, ref) == Result.OK
    assert book.live_orders == 0
    assert not book.orders["ref"].any()
    assert book.bbo(0) == (NO_PRICE_TICKS, 0, NO_PRICE_TICKS, 0)
    assert book.stats[bk.ST_MAX_LIVE_ORDERS] == capacity


@pytest.mark.parametrize("stride", [1, 1 << 12, 1 << 17, 1 << 21, 1 << 40], ids=lambda s: f"every {s:#x}")
def test_runs_of_references_do_not_pile_up_in_the_order_table(stride):
    """Runs of 4,096 orders that live all day, any distance apart: each is found near where the search begins."""
    book = new_book(1 << 16, 8)
    for run in range(16):
        first = 1 + run * max(stride, 1 << 12)
        for ref in range(first, first + 4096):
            assert bk.add(book, 0, 1, ref, 100, 1) == Result.OK
    mask = len(book.orders) - 1
    slots = np.flatnonzero(book.orders["ref"])
    homes = [bk._home(ref, mask) for ref in book.orders["ref"][slots].tolist()]
    away = (slots - np.array(homes)) & mask
    assert away.max() < 4096
    assert away.mean() < 32


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 2**30, 1)])
def test_sizes_that_make_no_book_are_refused(sizes):
    """The message names the size and what is allowed."""
    with pytest.raises(ValueError, match="allowed is 1 to"):
        Book.create(*sizes)


def apply(book, *messages):
    """Apply messages; the Result of the last, with its event."""
    result = None
    for message in messages:
        buf = np.frombuffer(b"\xff" * 3 + message + b"\xff" * 8, dtype=np.uint8).copy()
        result = Result(bk.apply_one(book, buf, 3, len(message)))
    return result, book.event.copy()


ADD = itch50.add_order(10, 1000, 7, "B", 300, "AAPL", 1_000_000)
ASK = itch50.add_order(10, 1001, 8, "S", 200, "AAPL", 1_000_100)


def test_event_of_an_add_describes_the_new_order():
    """Both A and F."""
    for message in (ADD, itch50.add_order(10, 1000, 7, "B", 300, "AAPL", 1_000_000, "LIME")):
        book = new_book()
        result, event = apply(book, message)
        assert result is Result.OK
        assert event[bk.EV_TYPE] == message[0]
        assert event[bk.EV_INSTRUMENT] == 0
        assert (event[bk.EV_LOCATE], event[bk.EV_EXCH_NS]) == (10, 1000)
        assert (event[bk.EV_SIDE], event[bk.EV_REF]) == (Side.BUY, 7)
        assert (event[bk.EV_PRICE_TICKS], event[bk.EV_LOTS], event[bk.EV_LEAVES_LOTS]) == (1_000_000, 300, 300)
        assert (event[bk.EV_ARRIVAL], event[bk.EV_BBO_CHANGED], event[bk.EV_PRINT]) == (1, 1, 0)
        assert book.bbo(0) == (1_000_000, 300, NO_PRICE_TICKS, 0)


def test_event_of_an_execution_has_the_print_and_what_is_left():
    """E prints at the order's price, C at its own and only if printable; at 0 the order is gone without a D."""
    book = new_book()
    result, event = apply(book, ADD, ASK, itch50.order_executed(10, 5, 7, 100, 99))
    assert (result, event[bk.EV_PRINT]) == (Result.OK, 1)
    assert (event[bk.EV_PRICE_TICKS], event[bk.EV_LOTS], event[bk.EV_MATCH]) == (1_000_000, 100, 99)
    assert (event[bk.EV_ORDER_LOTS], event[bk.EV_LEAVES_LOTS], event[bk.EV_SIDE]) == (300, 200, Side.BUY)
    for printable in (True, False):
        result, event = apply(book, itch50.order_executed_with_price(10, 6, 7, 100, 100, printable, 1_000_050))
        assert (event[bk.EV_PRINT], event[bk.EV_PRICE_TICKS]) == (printable, 1_000_050)
        assert event[bk.EV_ORDER_PRICE_TICKS] == 1_000_000
    assert book.bbo(0) == (NO_PRICE_TICKS, 0, 1_000_100, 200)
    assert apply(book, itch50.order_delete(10, 7, 7))[0] is Result.UNKNOWN_ORDER


def test_cancel_keeps_the_place_in_the_queue_and_replace_loses_it():
    """X reduces in place; U puts the new order behind the others of its price, with the old side."""
    book = new_book()
    second = itch50.add_order(10, 2, 9, "B", 50, "AAPL", 1_000_000)
    result, event = apply(book, ADD, second, itch50.order_cancel(10, 3, 7, 100))
    assert (result, event[bk.EV_LEAVES_LOTS], event[bk.EV_PRINT]) == (Result.OK, 200, 0)
    assert (bk.lots_ahead(book, 7), bk.lots_ahead(book, 9)) == (0, 200)
    result, event = apply(book, itch50.order_replace(10, 4, 7, 70, 400, 1_000_000))
    assert (result, event[bk.EV_REF], event[bk.EV_NEW_REF]) == (Result.OK, 7, 70)
    assert (event[bk.EV_ORDER_LOTS], event[bk.EV_ARRIVAL], event[bk.EV_LEAVES_LOTS]) == (200, 1, 400)
    assert (bk.lots_ahead(book, 9), bk.lots_ahead(book, 70)) == (0, 50)
    assert depth_of(book, 0, Side.BUY) == [(1_000_000, 2, 450)]


def test_replace_by_the_same_top_is_no_change_of_the_best_price():
    """Only price and size count, not who is behind them."""
    book = new_book()
    _, event = apply(book, ADD, itch50.order_replace(10, 4, 7, 70, 300, 1_000_000))
    assert event[bk.EV_BBO_CHANGED] == 0
    assert live_refs(book) == {70}
    for ref, lots, price in ((70, 300, 1_000_001), (71, 301, 1_000_001)):
        _, event = apply(book, itch50.order_replace(10, 4, ref, ref + 1, lots, price))
        assert event[bk.EV_BBO_CHANGED] == 1


def test_replace_may_keep_the_reference_and_loses_the_order_if_the_new_one_is_refused():
    """The old order is gone in any case, as the message says."""
    book = new_book()
    assert apply(book, ADD, itch50.order_replace(10, 4, 7, 7, 10, 900_000))[0] is Result.OK
    assert book.bbo(0)[:2] == (900_000, 10)
    result, event = apply(book, itch50.order_replace(10, 5, 7, 71, 0, 900_000))
    assert (result, event[bk.EV_BBO_CHANGED]) == (Result.BAD_QUANTITY, 1)
    assert book.live_orders == 0


def test_prints_without_an_order_leave_the_book_alone():
    """P and Q are prints, Q with 64 bits of shares; B names a match; H and h carry the state."""
    book = new_book()
    apply(book, ADD, ASK)
    before = book.bbo(0)
    _, event = apply(book, itch50.trade(10, 1, 500, "AAPL", 1_000_050, 77))
    assert [event[i] for i in (bk.EV_PRINT, bk.EV_PRICE_TICKS, bk.EV_LOTS, bk.EV_MATCH)] == [1, 1_000_050, 500, 77]
    _, event = apply(book, itch50.cross_trade(10, 1, 5_000_000_000, "AAPL", 1_000_000, 78, "C"))
    assert (event[bk.EV_PRINT], event[bk.EV_LOTS], event[bk.EV_CODE]) == (1, 5_000_000_000, ord("C"))
    _, event = apply(book, itch50.encode("B", stock_locate=10, tracking_number=0, timestamp=1, match_number=78))
    assert (event[bk.EV_PRINT], event[bk.EV_MATCH]) == (0, 78)
    _, event = apply(book, itch50.trading_action(10, 1, "AAPL", "H"))
    assert event[bk.EV_CODE] == ord("H")
    _, event = apply(book, itch50.system_event(1, "C"))
    assert event[bk.EV_CODE] == ord("C")
    assert book.bbo(0) == before


def test_messages_that_contradict_the_book_are_counted_and_change_nothing():
    """Unknown, duplicate, of another instrument, of a foreign locate, of an unknown type, too short, of no side."""
    book = new_book()
    apply(book, ADD, ASK)
    before = (book.bbo(0), live_refs(book))
    cases = {
        Result.UNKNOWN_ORDER: itch50.order_delete(10, 1, 999),
        Result.DUPLICATE_ORDER: itch50.add_order(20, 1, 7, "S", 1, "MSFT", 1),
        Result.WRONG_INSTRUMENT: itch50.order_delete(20, 1, 7),
        Result.UNKNOWN_INSTRUMENT: itch50.order_delete(30, 1, 7),
        Result.UNKNOWN_TYPE: b"z" + ADD[1:],
        Result.SHORT_MESSAGE: ADD[:-1],
        Result.BAD_SIDE: itch50.add_order(10, 1, 9, "X", 1, "AAPL", 1),
        Result.BAD_QUANTITY: itch50.order_cancel(10, 1, 7, 0),
        Result.BAD_PRICE: itch50.add_order(10, 1, 9, "B", 1, "AAPL", 0),
        Result.BAD_REF: itch50.add_order(10, 1, 2**63, "B", 1, "AAPL", 1),
    }
    for expected, message in cases.items():
        result, event = apply(book, message)
        assert (result, event[bk.EV_BBO_CHANGED]) == (expected, 0)
    assert apply(book, b"")[0] is Result.SHORT_MESSAGE
    assert (book.bbo(0), live_refs(book)) == before
    assert book.results() == {Result.OK: 2, **dict.fromkeys(cases, 1), Result.SHORT_MESSAGE: 2}


def test_execution_of_an_unknown_order_is_a_print_all_the_same():
    """E without a price, C with its own: volume stays right after a loss."""
    book = new_book()
    result, event = apply(book, itch50.order_executed(10, 1, 999, 100, 5))
    assert (result, event[bk.EV_INSTRUMENT], event[bk.EV_PRINT]) == (Result.UNKNOWN_ORDER, 0, 1)
    assert (event[bk.EV_LOTS], event[bk.EV_PRICE_TICKS]) == (100, NO_PRICE_TICKS)
    _, event = apply(book, itch50.order_executed_with_price(10, 1, 999, 100, 5, True, 123))
    assert (event[bk.EV_PRINT], event[bk.EV_PRICE_TICKS]) == (1, 123)


def test_a_locate_mapped_beyond_the_book_is_no_instrument_of_it():
    """A wrong map must not write outside of the arrays."""
    book = new_book(n_instruments=1)
    book.locate[20] = 1
    assert apply(book, itch50.add_order(20, 1, 9, "B", 1, "MSFT", 1))[0] is Result.UNKNOWN_INSTRUMENT


def test_crossed_and_locked_books_are_detected_and_counted():
    """An add whose price meets the other side."""
    book = new_book()
    apply(book, ADD, ASK)
    for ref, price, crossed in ((20, 1_000_099, 0), (21, 1_000_100, 1), (22, 1_000_200, 1)):
        _, event = apply(book, itch50.add_order(10, 1, ref, "B", 1, "AAPL", price))
        assert event[bk.EV_CROSSED] == crossed
    assert book.stats[bk.ST_CROSSED] == 2


@settings(deadline=None)
@given(st.lists(st.binary(max_size=52) | st.sampled_from([ADD, ASK]), max_size=30), st.data())
def test_any_bytes_leave_a_consistent_book(messages, data):
    """Random and damaged messages: a known Result each, and levels that are the sum of the orders."""
    book = new_book(8, 4)
    for message in messages:
        damaged = bytearray(message)
        if damaged and data.draw(st.booleans()):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        apply(book, bytes(damaged))
    assert audit(book) is Fault.NONE
    assert sum(book.results().values()) == len(messages)
    orders = book.orders[book.orders["ref"] != 0]
    for row in range(2 * N):
        mine = orders[orders["row"] == row]
        depth = book.side(row // 2, Side(row % 2 + 1))
        assert int(depth["lots"].sum()) == int(mine["lots"].sum(dtype=np.int64))
        assert int(depth["orders"].sum()) == len(mine)
        assert sorted(depth["price_ticks"].tolist()) == sorted(set(mine["price_ticks"].tolist()))


# --- the pool of levels, and whole days of messages against the reference ----------------------------------------


def message_of(rng, refs, width, n_instruments):
    """A random message of a type that concerns the book, most of them valid: its bytes, and the reference's call."""
    kind = rng.choice(list("AAAFUUEECXXDDPQBH"))
    ref, new_ref = int(rng.choice(refs)), int(rng.choice(refs))
    instrument = ref % n_instruments  # an order keeps its instrument, so that references of messages fit
    locate, price, lots = 10 * (instrument + 1), 1000 + int(rng.integers(width)), int(rng.integers(1, 90))
    side = int(rng.integers(1, 3))
    match kind:
        case "A" | "F":
            mpid = "LIME" if kind == "F" else None
            message = itch50.add_order(locate, 1, ref, " BS"[side], lots, "AAPL", price, *([mpid] if mpid else []))
            return message, ("add", instrument, side, ref, price, lots)
        case "U":
            new_ref += (ref - new_ref) % n_instruments
            return itch50.order_replace(locate, 1, ref, new_ref, lots, price), ("replace", ref, new_ref, price, lots)
        case "E":
            return itch50.order_executed(locate, 1, ref, lots, 1), ("reduce", ref, lots)
        case "C":
            return itch50.order_executed_with_price(locate, 1, ref, lots, 1, True, price), ("reduce", ref, lots)
        case "X":
            return itch50.order_cancel(locate, 1, ref, lots), ("reduce", ref, lots)
        case "D":
            return itch50.order_delete(locate, 1, ref), ("remove", ref)
        case "P":
            return itch50.trade(locate, 1, lots, "AAPL", price, 7), None
        case "Q":
            return itch50.cross_trade(locate, 1, lots, "AAPL", price, 7, "C"), None
        case "B":
            return itch50.encode("B", stock_locate=locate, tracking_number=0, timestamp=1, match_number=7), None
    return itch50.trading_action(locate, 1, "AAPL", "T"), None


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 30, 400]), st.sampled_from([(512, 1024), (300, 40), (40, 512)]))
def test_messages_of_all_types_make_the_book_of_the_reference_while_rows_grow_and_shrink(seed, width, capacity):
    """Few prices and many, few orders and many, waves of adds and of deletes; the whole book after each wave."""
    rng = np.random.default_rng(seed)
    book, reference = new_book(*capacity), Reference(*capacity)
    results = Counter()
    for _ in range(4):
        messages = [message_of(rng, range(1, 400), width, N) for _ in range(200)]
        refs = list(reference.orders)
        gone = refs[:: int(rng.integers(1, 4))]  # and then a part of what was there before goes
        messages += [(itch50.order_delete(10 * (ref % N + 1), 1, ref), ("remove", ref)) for ref in gone]
        for message, call in messages:
            expected = Result.OK if call is None else getattr(reference, call[0])(*call[1:])
            assert apply(book, message)[0] == expected, call
            results[expected] += 1
        for instrument in range(N):
            for side in Side:
                assert depth_of(book, instrument, side) == reference.levels(instrument, side)
        assert audit(book) is Fault.NONE
    assert book.results() == results
    for ref in reference.orders:
        assert bk.lots_ahead(book, ref) == reference.lots_ahead(ref)


def fill(book, instrument, side, prices, first_ref):
    """One order at each price; the Results."""
    adds = ((first_ref + k, price) for k, price in enumerate(prices))
    return Counter(Result(bk.add(book, instrument, side, ref, price, 1)) for ref, price in adds)


def test_a_row_grows_to_its_limit_in_any_order_of_prices_and_shrinks_back():
    """Rising, falling and shuffled prices on both sides; then all go, and the chunks are small again."""
    shuffled = np.random.default_rng(5).permutation(np.arange(1000, 2000)).tolist()
    for prices in (range(1000, 2000), range(2000, 1000, -1), shuffled):
        for side in Side:
            book = new_book(4096, 1000)
            assert fill(book, 0, side, prices, 1) == {Result.OK: 1000}
            assert audit(book) is Fault.NONE
            assert bk.add(book, 0, side, 5000, 5000, 1) == Result.LEVELS_FULL
            assert book.stats[bk.ST_LEVELS_TAKEN] == 1024 + 3 * bk.MIN_CHUNK
            assert [level[0] for level in depth_of(book, 0, side)] == sorted(prices, reverse=side == Side.BUY)
            for ref in range(1, 1001):
                assert bk.remove(book, ref) == Result.OK
            assert audit(book) is Fault.NONE
            assert book.stats[bk.ST_LEVELS_TAKEN] == 4 * bk.MIN_CHUNK
            assert book.stats[bk.ST_MAX_LEVELS_TAKEN] > 1024


def test_a_pool_that_is_used_up_is_counted_and_nothing_else_happens():
    """Many rows at once with a price for almost every order; room that is given back is used again."""
    book = Book.create(4, 64, 1024)
    assert len(book.levels) == bk.pool_levels(4, 64, 1024) == 192
    for instrument in range(3):
        assert fill(book, instrument, 1, range(100, 116), 100 * instrument + 1) == {Result.OK: 16}
    outcomes = [Result(bk.add(book, instrument, 1, 100 * instrument + 50, 99, 1)) for instrument in range(3)]
    assert outcomes == [Result.OK, Result.OK, Result.LEVELS_FULL]
    assert audit(book) is Fault.NONE
    assert book.live_orders == 50
    assert bk.add(book, 2, 1, 999, 100, 1) == Result.OK  # at a price that is there
    for ref in range(1, 17):
        assert bk.remove(book, ref) == Result.OK
    assert bk.add(book, 2, 1, 250, 99, 1) == Result.OK
    assert audit(book) is Fault.NONE


@pytest.mark.parametrize("orders", [64, 100, 128])
def test_the_pool_has_room_for_half_as_many_prices_as_orders_however_they_are_spread(orders):
    """All rows grow in turns, price by price: no order is refused."""
    for rows in (1, 2, 3, 5, 8):
        book = Book.create(4, orders, 1 << 20)
        for number in range(orders // 2):
            row = number % rows
            assert bk.add(book, row // 2, row % 2 + 1, number + 1, 1 + number, 1) == Result.OK
        assert audit(book) is Fault.NONE
    book = Book.create(1, orders, 1 << 20)
    assert fill(book, 0, 1, range(1, orders + 1), 1) == {Result.OK: orders}


def test_9000_instruments_take_the_memory_that_was_planned():
    """Not 2 * 9000 * 2048 levels of 16 bytes."""
    book = Book.create(9000, 1 << 16, 2048)
    assert book.levels.nbytes == 16 * (9000 * 16 + (1 << 17))
    assert sum(array.nbytes for array in book) < 10 << 20
    assert bk.add(book, 8999, 2, 1, 500, 3) == Result.OK
    assert book.bbo(8999) == (NO_PRICE_TICKS, 0, 500, 3)


def test_depth_is_copied_best_first_as_far_as_there_is_room():
    """For people who look: levels with price, orders and lots."""
    book = new_book()
    fill(book, 1, 2, range(100, 110), 1)
    out = np.zeros(4, bk.LEVEL)
    assert bk.depth(book, 1, 2, out) == 4
    assert out.tolist() == [(100, 1, 1), (101, 1, 1), (102, 1, 1), (103, 1, 1)]
    assert bk.depth(book, 1, 2, np.zeros(99, bk.LEVEL)) == 10
    assert [bk.depth(book, *where, out) for where in ((1, 1), (2, 1), (-1, 2), (1, 0), (1, 3))] == [0] * 5


def test_clear_empties_the_books_and_leaves_what_was_counted():
    """As before a snapshot: counts of messages and results stay, arrivals go on, everything can be added again."""
    book = new_book()
    apply(book, ADD, ASK)
    fill(book, 1, 1, range(1, 31), 100)
    results, counts = book.results(), book.message_counts()
    bk.clear(book)
    assert audit(book) is Fault.NONE
    assert (book.live_orders, live_refs(book), book.bbo(0)) == (0, set(), (NO_PRICE_TICKS, 0, NO_PRICE_TICKS, 0))
    assert (book.results(), book.message_counts()) == (results, counts)
    assert book.stats[bk.ST_LEVELS_TAKEN] == 2 * N * bk.MIN_CHUNK
    _, event = apply(book, ADD)
    assert event[bk.EV_ARRIVAL] == 33
    assert audit(book) is Fault.NONE


def test_one_instrument_is_cleared_and_the_others_stay():
    """Orders of two instruments side by side in a table that is half full."""
    book, reference = new_book(64, 64), Reference(64, 64)
    for ref in range(1, 65):
        arguments = (ref % 3 % 2, 1 + ref % 2, ref, 100 + ref % 20, ref)
        assert bk.add(book, *arguments) == reference.add(*arguments) == Result.OK
    assert bk.clear_instrument(book, 0) == Result.OK
    assert bk.clear_instrument(book, 2) == Result.UNKNOWN_INSTRUMENT
    assert bk.clear_instrument(book, -1) == Result.UNKNOWN_INSTRUMENT
    assert audit(book) is Fault.NONE
    assert book.bbo(0) == (NO_PRICE_TICKS, 0, NO_PRICE_TICKS, 0)
    for side in Side:
        assert depth_of(book, 1, side) == reference.levels(1, side)
    assert live_refs(book) == {ref for ref, order in reference.orders.items() if order[0] == 1}
    for ref in live_refs(book):
        assert bk.remove(book, ref) == Result.OK
    assert audit(book) is Fault.NONE


# --- recorded days -----------------------------------------------------------------------------------------------


def replay(data, locates):
    """The book of all `locates` after a recording; per message its event, and the best prices of its instrument."""
    buf = np.frombuffer(data, dtype=np.uint8).copy()
    n = count_frames(buf, 0, len(buf))
    assert n > 0
    book, whole = (Book.create(max(len(locates), 1), 8192, 1024) for _ in range(2))
    for instrument, locate in enumerate(locates):
        book.locate[locate] = whole.locate[locate] = instrument
    events, best = np.zeros((n, bk.EVENT_SIZE), dtype=np.int64), np.zeros((n, 4), dtype=np.int64)
    at = 0
    for i in range(n):
        length = int(buf[at]) << 8 | int(buf[at + 1])
        bk.apply_one(book, buf, at + 2, length)
        at += 2 + length
        events[i] = book.event
        if (instrument := int(book.event[bk.EV_INSTRUMENT])) >= 0:
            best[i] = [0 if value == NO_PRICE_TICKS else value for value in book.bbo(instrument)]
    assert bk.apply_blocks(whole, buf, 0, n) == len(buf)
    for one, other in zip(book, whole, strict=True):
        assert np.array_equal(one, other)
    return book, events, best


def shown(price):
    return 0 if price == NO_PRICE_TICKS else price


@pytest.mark.parametrize(
    "name", ["nasdaq_itch50_20200130_AAPL_first10000.itch", "nasdaq_itch50_20190730_0400_orders500.itch"]
)
def test_books_of_recorded_days_equal_the_oracle(name, recorded):
    """Counts, volumes, trades, final books; for AAPL the best prices after every message."""
    path = recorded(f"itch/{name}")
    oracle = json.loads(path.with_name(path.name + ".oracle.json").read_text())
    symbols = {symbol: facts["stock_locate"] for symbol, facts in oracle["per_symbol"].items()}
    book, event, best = replay(path.read_bytes(), list(symbols.values()))
    assert len(event) == oracle["messages"]
    assert book.message_counts() == oracle["count_by_type"]
    assert book.results() == {Result.OK: oracle["messages"]}
    assert book.live_orders == oracle["live_orders_total"]
    assert (event[0, bk.EV_EXCH_NS], event[-1, bk.EV_EXCH_NS]) == (oracle["first_ts_ns"], oracle["last_ts_ns"])
    for instrument, symbol in enumerate(symbols):
        facts = oracle["per_symbol"][symbol]
        final = facts["final_book"]
        bids, asks = book.side(instrument, Side.BUY), book.side(instrument, Side.SELL)
        bid, bid_lots, ask, ask_lots = book.bbo(instrument)
        assert (shown(bid), bid_lots) == (final["best_bid"], final["best_bid_shares"]), symbol
        assert (shown(ask), ask_lots) == (final["best_ask"], final["best_ask_shares"]), symbol
        assert (len(bids), len(asks)) == (final["bid_levels"], final["ask_levels"]), symbol
        assert (bids["lots"].sum(), asks["lots"].sum()) == (final["bid_shares"], final["ask_shares"]), symbol
        assert bids["orders"].sum() + asks["orders"].sum() == final["live_orders"], symbol
        mine = event[event[:, bk.EV_INSTRUMENT] == instrument]
        assert len(mine) == sum(facts["count_by_type"].values()), symbol
        prints = mine[mine[:, bk.EV_PRINT] == 1]
        assert len(prints) == facts["trades"], symbol
        assert prints[:, bk.EV_LOTS].sum() == facts["traded_volume"], symbol
        for trade, row in ((facts["first_trade"], 0), (facts["last_trade"], -1)):
            assert (trade is None) == (len(prints) == 0), symbol
            if trade:
                got = prints[row, [bk.EV_EXCH_NS, bk.EV_PRICE_TICKS, bk.EV_LOTS, bk.EV_TYPE]].tolist()
                assert got == [trade["ts_ns"], trade["price"], trade["shares"], ord(trade["kind"])], symbol
    if "bbo_path_sha256" in oracle:
        lines = "".join(f"{i},{b},{bl},{a},{al}\n" for i, (b, bl, a, al) in enumerate(best.tolist(), 1))
        assert hashlib.sha256(lines.encode()).hexdigest() == oracle["bbo_path_sha256"]
        changed = (np.diff(best, axis=0, prepend=np.zeros((1, 4), dtype=np.int64)) != 0).any(axis=1)
        assert np.array_equal(changed, event[:, bk.EV_BBO_CHANGED] == 1)


def test_directory_burst_of_a_whole_day_is_counted_by_type(recorded):
    """69,515 messages without an order; with no locate mapped all are foreign but the system event."""
    path = recorded("itch/nasdaq_itch50_20200130_head_69515.itch.zst")
    oracle = json.loads(path.with_name(path.name + ".oracle.json").read_text())
    with zstandard.open(io.BytesIO(path.read_bytes())) as file:
        book, event, _ = replay(file.read(), [])
    assert len(event) == oracle["messages"]
    assert book.message_counts() == oracle["count_by_type"]
    assert book.results() == {Result.OK: 1, Result.UNKNOWN_INSTRUMENT: oracle["messages"] - 1}
    assert len(set(event[:, bk.EV_LOCATE].tolist()) - {0}) == oracle["stock_locates_seen"]
    assert event[0, bk.EV_CODE] == ord("O")
