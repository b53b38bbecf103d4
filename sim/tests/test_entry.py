"""The kernel of order entry, byte for byte against the codec; and the exchange offline against the live one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickpath.common.protocols import itch50 as itch
from tickpath.common.protocols import moldudp64 as mold
from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.protocols.ouch50 import Reject
from tickpath.common.protocols.soupbintcp import SEQUENCED, UNSEQUENCED, packet
from tickpath.sim.kernels import entry, matching
from tickpath.sim.kernels.entry import N_BYTES, N_REPORTS, UNREAD, Desk
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.layout import VENUE_ORDER, Counter
from tickpath.sim.offline import OfflineExchange
from tickpath.sim.player import QUANTUM_NS, Segment
from tickpath.sim.sources.generator import generate_tape
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import Tape
from tickpath.sim.venue import Venue

T = 34_200_000_000_000
P10 = 100_000
DATA = Path(__file__).parents[3] / "shared" / "data" / "lobster"
AAPL = DATA / "AAPL_2012-06-21_34200000_37800000_message_50.csv.zst"

ORDER: dict[str, Any] = {
    "user_ref_num": 1, "side": "B", "quantity": 100, "symbol": "ABC", "price": P10, "time_in_force": "0",
    "display": "Y", "capacity": "P", "iso": "N", "cross_type": "N", "cl_ord_id": "T000000000000A",
}  # fmt: skip


class Counterpart:
    """An exchange with one instrument, and its order entry; answers come back as the bytes that they are."""

    def __init__(self, *, orders: int = 1 << 10) -> None:
        self.exchange = Exchange.create(1, 1024, 64, orders=np.zeros(orders, VENUE_ORDER))
        self.exchange.book.locate[7] = 0
        self.exchange.state[matching.EXCH_NS] = T
        self.desk = Desk.create(self.exchange, ("ABC",), {"ABC": 7})

    def play(self, *messages: bytes) -> None:
        data = b"".join(len(message).to_bytes(2, "big") + message for message in messages)
        offsets = np.cumsum([0, *(len(message) + 2 for message in messages)], dtype=np.int64)
        matching.played(self.exchange, np.frombuffer(data, np.uint8).copy(), offsets, 0, len(messages), 0)

    def add(self, ref: int, side: str, shares: int, price: int = P10) -> None:
        self.play(itch.add_order(7, T, ref, side, shares, "ABC", price))

    def say(self, message: bytes, *, channel: int = 0, verdict: int = UNREAD) -> list[bytes]:
        """Let the kernel work on a message that stands somewhere in a buffer; its answers."""
        buffer = np.frombuffer(b"\xff" * 5 + message + b"\xff" * 5, np.uint8).copy()
        assert entry.entry(self.exchange, self.desk, buffer, 5, len(message), channel, verdict, 0, 0) == 1
        return self.taken()

    def enter(self, **changed: Any) -> list[bytes]:
        return self.say(ouch.ENTER_ORDER.encode(**{**ORDER, **changed}))

    def taken(self) -> list[bytes]:
        """All waiting reports, cut by their spans; the packets are what SoupBinTCP makes of them."""
        words, desk = self.desk.words, self.desk
        spans = desk.spans[: words[N_REPORTS]].tolist()
        found = [desk.reports[begin:end].tobytes() for _, begin, end in spans]
        assert desk.reports[: words[N_BYTES]].tobytes() == b"".join(packet(SEQUENCED, one) for one in found)
        words[[N_REPORTS, N_BYTES]] = 0
        return found


@pytest.fixture
def market() -> Counterpart:
    return Counterpart()


def accepted(order_ref: int = 1, **changed: Any) -> bytes:
    return ouch.ORDER_ACCEPTED.encode(
        **{**ORDER, **changed}, timestamp=T, order_reference_number=order_ref, order_state="L"
    )


def executed(quantity: int, match: int, flag: str = "R", user_ref: int = 1, price: int = P10) -> bytes:
    return ouch.ORDER_EXECUTED.encode(
        timestamp=T, user_ref_num=user_ref, quantity=quantity, price=price, liquidity_flag=flag, match_number=match
    )


def canceled(quantity: int, reason: str, user_ref: int = 1) -> bytes:
    return ouch.ORDER_CANCELED.encode(timestamp=T, user_ref_num=user_ref, quantity=quantity, reason=reason)


def rejected(reason: Reject, user_ref: int = 1) -> bytes:
    return ouch.REJECTED.encode(timestamp=T, user_ref_num=user_ref, reason=reason, cl_ord_id=ORDER["cl_ord_id"])


def test_an_order_that_rests_is_accepted_and_filled_later(market: Counterpart) -> None:
    assert market.enter() == [accepted()]
    market.add(1, "S", 30)
    assert entry.fills(market.exchange, market.desk) == 1
    assert market.taken() == [executed(30, 1, "A")]
    market.add(2, "S", 100)
    entry.fills(market.exchange, market.desk)
    assert market.taken() == [executed(70, 2, "A")]
    assert entry.fills(market.exchange, market.desk) == 0


def test_what_an_ioc_order_does_not_trade_is_cancelled(market: Counterpart) -> None:
    market.add(1, "S", 40)
    market.add(2, "S", 30, P10 - 100)
    assert market.enter(time_in_force="3") == [
        accepted(time_in_force="3"), executed(30, 1, price=P10 - 100), executed(40, 2), canceled(30, "I"),
    ]  # fmt: skip


def test_a_partial_fill_leaves_the_rest_in_the_market(market: Counterpart) -> None:
    market.add(1, "S", 40)
    assert market.enter() == [accepted(), executed(40, 1)]
    assert market.exchange.counters[Counter.OPEN_LOTS] == 60


@pytest.mark.parametrize("price", entry.MARKET_PRICES)
def test_a_market_order_trades_at_any_price_and_never_rests(market: Counterpart, price: int) -> None:
    market.add(1, "S", 40, 9_000_000)
    assert market.enter(price=price) == [
        accepted(price=price), executed(40, 1, price=9_000_000), canceled(60, "I"),
    ]  # fmt: skip


def test_a_cancel_takes_down_to_the_size_that_it_states(market: Counterpart) -> None:
    market.enter()
    cancel = ouch.CANCEL_ORDER.encode
    assert market.say(cancel(user_ref_num=1, quantity=30)) == [canceled(70, "U")]
    assert market.say(cancel(user_ref_num=1, quantity=30)) == []
    assert market.say(cancel(user_ref_num=1, quantity=0)) == [canceled(30, "U")]
    assert market.say(cancel(user_ref_num=1, quantity=0)) == []
    assert market.exchange.counters[Counter.IGNORED] == 2


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"side": "X"}, Reject.INVALID_SIDE),
        ({"symbol": "NONE"}, Reject.INVALID_SYMBOL),
        ({"symbol": "\0" * 8}, Reject.INVALID_SYMBOL),
        ({"symbol": "\xff" * 8}, Reject.INVALID_SYMBOL),
        ({"cross_type": "O"}, Reject.INVALID_CROSS_ORDER),
        ({"capacity": "X"}, Reject.OTHER),
        ({"quantity": 0}, Reject.INVALID_QUANTITY),
        ({"quantity": 2**32 - 1}, Reject.INVALID_QUANTITY),
        ({"price": 0}, Reject.INVALID_PRICE),
        ({"price": P10 + 1}, Reject.INVALID_PRICE),
        ({"price": 2**64 - 1}, Reject.INVALID_PRICE),
        ({"time_in_force": "6"}, Reject.OTHER),
        ({"display": "Q"}, Reject.INVALID_DISPLAY),
        ({"iso": "Y"}, Reject.ISO_NOT_ALLOWED),
    ],
)
def test_a_wrong_order_is_rejected_with_its_reason(
    market: Counterpart, wrong: dict[str, Any], reason: Reject
) -> None:
    assert market.enter(**wrong) == [rejected(reason)]
    assert market.enter() == []  # its number is used up


def test_the_state_of_the_market_and_of_the_account_rejects_orders(market: Counterpart) -> None:
    market.play(itch.trading_action(7, T, "ABC", "H"))
    assert market.enter() == [rejected(Reject.HALTED)]
    market.desk.disabled[0] = 1
    assert market.enter(user_ref_num=2) == [rejected(Reject.FIRM_NOT_AUTHORISED, 2)]
    market.exchange.state[matching.CLOSED] = 1
    assert market.enter(user_ref_num=3) == [rejected(Reject.DESTINATION_CLOSED, 3)]


def test_an_order_that_finds_no_slot_is_rejected() -> None:
    market = Counterpart(orders=4)
    for ref in range(1, 5):
        assert len(market.enter(user_ref_num=ref)) == 1
    assert market.enter(user_ref_num=5) == [rejected(Reject.OTHER, 5)]


def test_the_verdict_on_options_comes_last_and_every_answer_names_the_index(market: Counterpart) -> None:
    enter = ouch.ENTER_ORDER.encode
    names: dict[int, Any] = {ouch.Tag.USER_REF_IDX: 9}
    market.add(1, "S", 40)
    assert market.say(enter(**ORDER), channel=3 << 8 | 9, verdict=0) == [
        ouch.ORDER_ACCEPTED.encode(names, **ORDER, timestamp=T, order_reference_number=1, order_state="L"),
        ouch.ORDER_EXECUTED.encode(
            names, timestamp=T, user_ref_num=1, quantity=40, price=P10, liquidity_flag="R", match_number=1
        ),
    ]
    cancel = ouch.CANCEL_ORDER.encode(user_ref_num=1, quantity=0)
    assert market.say(cancel, channel=3 << 8 | 9) == [
        ouch.ORDER_CANCELED.encode(names, timestamp=T, user_ref_num=1, quantity=60, reason="U")
    ]
    verdict = int(Reject.PEGGING_NOT_ALLOWED)
    assert market.say(enter(**{**ORDER, "quantity": 0}), verdict=verdict) == [rejected(Reject.INVALID_QUANTITY)]
    assert market.say(enter(**{**ORDER, "user_ref_num": 2}), verdict=verdict) == [
        rejected(Reject.PEGGING_NOT_ALLOWED, 2)
    ]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"O" * 46,
        ouch.ENTER_ORDER.encode({ouch.Tag.MIN_QTY: 5}, **ORDER),
        ouch.CANCEL_ORDER.encode({ouch.Tag.USER_REF_IDX: 1}, user_ref_num=1, quantity=0),
        ouch.CANCEL_ORDER.encode(user_ref_num=1, quantity=0)[:8],
        ouch.ACCOUNT_QUERY.encode(),
    ],
)
def test_everything_else_is_left_to_the_caller_and_changes_nothing(market: Counterpart, message: bytes) -> None:
    buffer = np.frombuffer(message + b"\0" * 64, np.uint8).copy()
    assert entry.entry(market.exchange, market.desk, buffer, 0, len(message), 0, UNREAD, 0, 0) == 0
    assert market.taken() == []
    assert not market.exchange.counters.any()


def test_many_symbols_are_all_found() -> None:
    symbols = tuple(f"S{i}" for i in range(500))
    exchange = Exchange.create(len(symbols), 16, 8)
    listed = {symbol: i + 1 for i, symbol in enumerate(symbols) if i % 5}
    desk = Desk.create(exchange, symbols, listed)
    for i, symbol in enumerate(symbols):
        message = ouch.ENTER_ORDER.encode(**{**ORDER, "symbol": symbol, "user_ref_num": i + 1})
        buffer = np.frombuffer(message, np.uint8).copy()
        entry.entry(exchange, desk, buffer, 0, len(message), 0, UNREAD, 0, 0)
        assert exchange.open_orders[i] == (1 if symbol in listed else 0)


# --- offline -----------------------------------------------------------------------------------------------------


def groups(tape: Tape, datagram_bytes: int) -> Iterator[tuple[int, int]]:
    """(first, last) of each datagram by the rule as it is written down, without the kernel."""
    first = 0
    while first < len(tape):
        last = first + 1
        while (
            last < len(tape)
            and tape.time_ns[last] - tape.time_ns[first] <= QUANTUM_NS
            and 20 + tape.offsets[last + 1] - tape.offsets[first] <= datagram_bytes
        ):
            last += 1
        yield first, last
        first = last


def flow(tape: Tape, seed: int) -> Iterator[list[bytes]]:
    """For each datagram what a client sends because of it: mostly nothing, else orders and cancels."""
    dice = random.Random(seed)
    symbols = sorted(tape.symbols)
    ref = 0
    while True:
        sent = []
        for _ in range(dice.choice((0, 0, 0, 0, 1, 3))):
            symbol = dice.choice(symbols)
            if ref and dice.random() < 0.3:
                sent.append(
                    ouch.CANCEL_ORDER.encode(
                        user_ref_num=dice.randint(max(1, ref - 20), ref), quantity=dice.choice((0, 0, 10))
                    )
                )
                continue
            ref += 1
            price = dice.choice((ouch.MARKET_PRICE, 5_850_000, 5_860_000, 1_000_000, 200_000, 50))
            sent.append(
                ouch.ENTER_ORDER.encode(
                    **{
                        **ORDER,
                        "user_ref_num": ref,
                        "side": dice.choice("BS"),
                        "quantity": dice.choice((10, 100, 5000, 0)),
                        "symbol": symbol,
                        "price": price,
                        "time_in_force": dice.choice("003"),
                    }
                )
            )
        yield sent


def live_reports(tape: Tape, seed: int, datagram_bytes: int) -> list[bytes]:
    """What the live venue answers: the tape played datagram by datagram, orders after each."""
    symbols = tuple(sorted(tape.symbols))
    exchange = Exchange.create(len(symbols), 1 << 16, 1024)
    venue = Venue(exchange, symbols, tape.symbols, clock_ns=int(tape.time_ns[0]))
    user = venue.account("TICKPT")
    segment = Segment(tape.data, tape.offsets, tape.time_ns)
    for (first, last), sent in zip(groups(tape, datagram_bytes), flow(tape, seed), strict=False):
        venue.played(segment, first, last, 0)
        for message in sent:
            venue.receive(user, message, 0)
    if not venue.closed:
        venue.set_closed(closed=True)
    log = venue.accounts[user].log
    return [log[number] for number in range(1, log.next_sequence)]


def offline_reports(tape: Tape, seed: int, datagram_bytes: int) -> tuple[bytes, list[bytes]]:
    """(reports, datagrams) of the exchange offline."""
    exchange = OfflineExchange(
        tape, tuple(sorted(tape.symbols)), datagram_bytes=datagram_bytes, order_capacity=1 << 16, level_capacity=1024
    )
    reports, datagrams = [exchange.take_reports()], []
    clients = flow(tape, seed)
    while datagram := exchange.next_datagram():
        datagrams.append(datagram)
        packets = b"".join(packet(UNSEQUENCED, message) for message in next(clients))
        raw = np.frombuffer(packets, np.uint8)
        assert exchange.take_orders(raw) == len(packets)
        reports.append(exchange.take_reports())
    exchange.end_of_day()
    return b"".join([*reports, exchange.take_reports()]), datagrams


@pytest.mark.parametrize("datagram_bytes", [120, 1400])
def test_offline_every_byte_is_that_of_the_live_exchange(datagram_bytes: int) -> None:
    """A generated market with orders in every third datagram: same datagrams, same reports."""
    tape = generate_tape(5, seconds=1, rate=20_000)
    expected = live_reports(tape, 11, datagram_bytes)
    reports, datagrams = offline_reports(tape, 11, datagram_bytes)
    kinds = {chr(report[0]) for report in expected}
    assert kinds == {"S", "A", "E", "C", "J"}
    assert reports == b"".join(packet(SEQUENCED, report) for report in expected)
    blocks = [[bytes(block) for block in mold.unpack(datagram)[1]] for datagram in datagrams]
    assert blocks == [[tape.message(i) for i in range(a, b)] for a, b in groups(tape, datagram_bytes)]


@pytest.mark.skipif(not AAPL.is_file(), reason=f"no recorded data at {AAPL}")
def test_offline_on_a_recorded_hour_is_the_live_exchange() -> None:
    """An hour of Apple in LOBSTER's recording: 91,929 messages."""
    tape = load_tape([AAPL])
    expected = live_reports(tape, 3, 1400)
    reports, datagrams = offline_reports(tape, 3, 1400)
    assert reports == b"".join(packet(SEQUENCED, report) for report in expected)
    assert sum(len(mold.unpack(datagram)[1]) for datagram in datagrams) == len(tape)
    assert sum(report[:1] == b"E" for report in expected) > 100


def small_exchange() -> OfflineExchange:
    return OfflineExchange(generate_tape(5, seconds=1, rate=100), ("ABC",))


def test_offline_a_packet_that_is_not_complete_waits_for_its_rest() -> None:
    exchange = small_exchange()
    raw = packet(UNSEQUENCED, ouch.ENTER_ORDER.encode(**ORDER))
    stream = np.frombuffer(raw + raw[:-1], np.uint8)
    exchange.take_reports()
    assert exchange.take_orders(stream) == len(raw)
    assert exchange.take_orders(stream[len(raw) :]) == 0
    assert exchange.take_reports()[3:4] == b"J"  # ABC is not in that market


def test_offline_what_it_does_not_answer_is_counted() -> None:
    exchange = small_exchange()
    exchange.take_reports()
    raw = packet(ord("R")) + packet(UNSEQUENCED, ouch.ACCOUNT_QUERY.encode())
    assert exchange.take_orders(np.frombuffer(raw, np.uint8)) == len(raw)
    assert exchange.take_reports() == b""
    assert exchange.replay.exchange.counters[Counter.OTHER_RECEIVED] == 1


def test_offline_reports_that_nobody_takes_stop_the_tape() -> None:
    exchange = small_exchange()
    exchange.replay.desk.words[N_REPORTS] = entry.ANSWERS + 1
    with pytest.raises(BufferError, match="reports wait"):
        exchange.next_datagram()
