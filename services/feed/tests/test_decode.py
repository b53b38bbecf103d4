"""The decode kernel: sequence, books and ticks, against real recordings and hand-made packets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.histogram import summary_us
from tickpath.common.instruments import InstrumentTable, make_table
from tickpath.common.protocols import itch50, moldudp64
from tickpath.common.records import NO_PRICE_TICKS, TICK, TickFlag
from tickpath.feed.kernels.decode import State, announce, decode, give_up, make_state
from tickpath.feed.layout import Channel, Count, Detail, Line, LineWord, Suspect

DATA = Path(__file__).parents[4] / "shared" / "data"
SESSION = moldudp64.session_id("TEST")
SLOT = 2048


def table_of(*symbols: str) -> InstrumentTable:
    return make_table([(symbol, "0.0001", 100, 1, 1, "USD") for symbol in symbols])


class Decoder:
    """The kernel with its state, fed with packets as bytes."""

    def __init__(self, *symbols: str) -> None:
        table = table_of(*(symbols or ("AAPL", "MSFT")))
        n = len(table)
        self.state: State = make_state(
            table,
            1 << 14,
            512,
            np.zeros(len(Count), dtype=np.int64),
            np.zeros(len(Channel), dtype=np.int64),
            np.zeros(n, dtype=TICK),
            np.zeros(n, dtype=np.int64),
        )
        self.out = np.zeros(1 << 14, dtype=TICK)

    def take(self, *packets: bytes, recv_ns: int = 1, line: Line = Line.A) -> np.ndarray:
        buffer = np.zeros((len(packets), SLOT), dtype=np.uint8)
        lengths = np.zeros(len(packets), dtype=np.int64)
        for i, packet in enumerate(packets):
            kept = packet[:SLOT]
            buffer[i, : len(kept)] = list(kept)
            lengths[i] = len(packet) if len(packet) <= SLOT else -SLOT
        n = decode(self.state, buffer, lengths, 0, len(packets), recv_ns, line, self.out)
        return self.out[:n].copy()

    def go_on(self) -> np.ndarray:
        """Give the present gap up, and take what waited behind it."""
        give_up(self.state, 1)
        return self.take()

    def line(self, line: Line, which: LineWord) -> int:
        return int(self.state.lines[line, which])

    def count(self, which: Count) -> int:
        return int(self.state.counters[which])


def packet(first: int, *messages: bytes) -> bytes:
    body = b"".join(itch50.frame(message) for message in messages)
    return moldudp64.pack_header(SESSION, first, len(messages)) + body


def add(ref: int, side: str, shares: int, price: int, locate: int = 1, stock: str = "AAPL", ts: int = 5) -> bytes:
    return itch50.encode(
        "A", stock_locate=locate, tracking_number=0, timestamp=ts, order_ref=ref, side=side, shares=shares,
        stock=stock, price=price,
    )  # fmt: skip


def execute(ref: int, shares: int, locate: int = 1) -> bytes:
    return itch50.encode(
        "E",
        stock_locate=locate,
        tracking_number=0,
        timestamp=6,
        order_ref=ref,
        executed_shares=shares,
        match_number=1,
    )


BID, ASK = add(1, "B", 100, 1_000_000), add(2, "S", 200, 1_000_200)


def test_a_tick_carries_bbo_cause_and_stamps() -> None:
    feed = Decoder()
    ticks = feed.take(packet(1, BID, ASK), recv_ns=77)
    assert ticks["cause_seq"].tolist() == [1, 2]
    last = ticks[1]
    assert (last["bid_ticks"], last["ask_ticks"], last["bid_lots"], last["ask_lots"]) == (
        1_000_000,
        1_000_200,
        100,
        200,
    )
    assert (last["recv_ns"], last["exch_ns"], last["instrument"]) == (77, 5, 0)
    assert last["flags"] == TickFlag.QUOTE
    assert ticks[0]["ask_ticks"] == NO_PRICE_TICKS


def test_an_execution_is_a_print_with_its_aggressor_and_adds_to_the_volume() -> None:
    feed = Decoder()
    feed.take(packet(1, BID, ASK))
    (tick,) = feed.take(packet(3, execute(2, 50)))
    assert tick["flags"] == TickFlag.QUOTE | TickFlag.TRADE | TickFlag.AGGRESSOR_BUY
    assert (tick["last_ticks"], tick["last_lots"], tick["volume_lots"], tick["ask_lots"]) == (1_000_200, 50, 50, 150)


def test_a_change_behind_the_best_price_makes_no_tick() -> None:
    feed = Decoder()
    feed.take(packet(1, BID, ASK))
    assert len(feed.take(packet(3, add(3, "B", 10, 999_900)))) == 0
    assert feed.count(Count.MESSAGES) == 3


def test_a_duplicate_packet_changes_nothing_and_is_counted() -> None:
    feed = Decoder()
    feed.take(packet(1, BID, ASK))
    assert len(feed.take(packet(1, BID, ASK))) == 0
    assert feed.count(Count.MESSAGES_DUPLICATE) == 2
    assert feed.count(Count.BOOK_DUPLICATE_ORDER) == 0


def test_of_a_packet_that_overlaps_only_the_new_messages_count() -> None:
    feed = Decoder()
    feed.take(packet(1, BID))
    assert feed.take(packet(1, BID, ASK))["cause_seq"].tolist() == [2]
    assert feed.count(Count.MESSAGES) == 2


def test_a_gap_is_counted_with_its_numbers_and_every_tick_behind_it_is_suspect() -> None:
    feed = Decoder()
    feed.take(packet(1, BID))
    assert len(feed.take(packet(5, ASK))) == 0
    (tick,) = feed.go_on()
    assert (feed.count(Count.GAPS), feed.count(Count.MESSAGES_LOST)) == (1, 3)
    assert feed.state.channel[[Channel.GAP_FROM_SEQ, Channel.GAP_TO_SEQ]].tolist() == [2, 5]
    assert tick["flags"] & TickFlag.SUSPECT


def test_packets_out_of_order_are_put_in_order() -> None:
    feed = Decoder()
    ticks = feed.take(
        packet(1, BID), packet(5, execute(2, 20)), packet(3, execute(1, 10)), packet(4, execute(2, 5)), packet(2, ASK)
    )
    assert ticks["cause_seq"].tolist() == [1, 2, 3, 4, 5]
    assert not (ticks["flags"] & TickFlag.SUSPECT).any()
    assert (feed.count(Count.GAPS), feed.count(Count.DATAGRAMS_HELD), feed.count(Count.MESSAGES_LOST)) == (1, 3, 0)
    assert feed.state.channel[[Channel.GAP_SINCE_NS, Channel.HELD]].tolist() == [0, 0]


def test_the_first_copy_counts_whichever_line_brings_it() -> None:
    feed = Decoder()
    feed.take(packet(1, BID), recv_ns=10, line=Line.A)
    feed.take(packet(1, BID), recv_ns=25, line=Line.B)
    feed.take(packet(2, ASK), recv_ns=30, line=Line.B)
    feed.take(packet(3, execute(2, 50)), packet(3, execute(2, 50)), recv_ns=40, line=Line.A)
    assert feed.count(Count.MESSAGES) == 3
    assert [feed.line(Line.A, which) for which in (LineWord.FIRST, LineWord.SECOND, LineWord.LOST)] == [2, 1, 1]
    assert [feed.line(Line.B, which) for which in (LineWord.FIRST, LineWord.SECOND, LineWord.LOST)] == [1, 1, 0]
    assert feed.count(Count.MESSAGES_LOST) == 0
    assert summary_us(feed.state.behind[Line.B])["count"] == 1


def test_what_was_asked_for_again_is_counted_as_repaired() -> None:
    feed = Decoder()
    feed.take(packet(1, BID), packet(3, execute(1, 10)))
    ticks = feed.take(packet(2, ASK), line=Line.REPAIR)
    assert ticks["cause_seq"].tolist() == [2, 3]
    assert (feed.count(Count.MESSAGES_REPAIRED), feed.count(Count.MESSAGES_LOST)) == (1, 0)


def test_a_full_window_drops_the_newest_and_asks_for_it_later() -> None:
    feed = Decoder()
    size = len(feed.state.window.order)
    feed.take(packet(1, BID), *(packet(3 + i, execute(1, 1)) for i in range(size + 2)))
    assert (feed.count(Count.DATAGRAMS_HELD), feed.count(Count.WINDOW_FULL)) == (size, 2)
    assert len(feed.take(packet(2, ASK))) == 1 + size
    assert feed.state.channel[Channel.EXPECTED_SEQ] == 3 + size
    assert feed.state.channel[Channel.KNOWN_SEQ] == 5 + size


def test_what_has_no_room_in_the_output_comes_with_the_next_call() -> None:
    feed = Decoder()
    feed.out = np.zeros(2 * (SLOT // 14), dtype=TICK)
    many = [add(10 + i, "B", 1, 1_000_000 + 100 * i) for i in range(30)]
    feed.take(*(packet(2 + 30 * k, *many) for k in range(16)))
    seen = feed.take(packet(1, BID))["cause_seq"].tolist()
    while len(more := feed.take()):
        seen += more["cause_seq"].tolist()
    assert feed.state.channel[Channel.EXPECTED_SEQ] == 2 + 30 * 16
    assert seen == sorted(set(seen))


def test_an_instrument_whose_book_is_contradicted_is_suspect_until_the_book_is_empty() -> None:
    feed = Decoder()
    msft = add(50, "B", 1, 500_000, locate=2, stock="MSFT")
    ticks = feed.take(packet(1, BID, msft, execute(99, 1), add(3, "B", 5, 1_000_100), execute(3, 5), execute(1, 100)))
    assert [bool(t["flags"] & TickFlag.SUSPECT) for t in ticks] == [False, False, True, True, True, False]
    assert feed.state.suspect.tolist() == [0, 0]


def itch(code: str, locate: int = 1, **fields: Any) -> bytes:
    return itch50.encode(code, stock_locate=locate, tracking_number=0, timestamp=9, **fields)


def test_every_message_that_is_no_order_and_no_print_is_kept_with_its_instrument() -> None:
    feed = Decoder()
    feed.take(
        packet(
            1,
            itch50.stock_directory(1, 1, "AAPL", round_lot_size=40),
            itch("Y", stock="AAPL", reg_sho_action="2"),
            itch("J", stock="AAPL", reference_price=5, upper_price=6, lower_price=4, extension=3),
            itch("K", locate=0, stock="AAPL", release_time=34200, release_qualifier="A", ipo_price=170_000),
            itch("N", stock="AAPL", interest_flag="S"),
            itch("B", match_number=77),
            itch(
                "I", paired_shares=1 << 40, imbalance_shares=300, imbalance_direction="B", stock="AAPL", far_price=1,
                near_price=2, current_reference_price=3, cross_type="O", price_variation="L",
            ),
            itch(
                "O", stock="AAPL", open_eligibility="Y", minimum_price=8, maximum_price=9, near_execution_price=0,
                near_execution_time=0, lower_collar=0, upper_collar=0,
            ),
            itch(
                "L", mpid="LIME", stock="AAPL", primary_market_maker="Y", market_maker_mode="N", participant_state="A"
            ),
            itch("V", locate=0, level_1=7 * 10**8, level_2=8 * 10**8, level_3=9 * 10**8),
            itch("W", locate=0, breached_level="2"),
        )
    )  # fmt: skip
    details = {detail: int(value) for detail, value in zip(Detail, feed.state.details[0], strict=True)}
    wanted = {
        Detail.ROUND_LOT_LOTS: 40, Detail.REG_SHO: 2, Detail.LULD_REFERENCE_TICKS: 5, Detail.LULD_UPPER_TICKS: 6,
        Detail.LULD_LOWER_TICKS: 4, Detail.LULD_EXTENSIONS: 3, Detail.IPO_RELEASE_S: 34200,
        Detail.IPO_PRICE_TICKS: 170_000, Detail.RETAIL_INTEREST: ord("S"), Detail.BROKEN_TRADES: 1,
        Detail.BROKEN_MATCH: 77, Detail.PAIRED_LOTS: 1 << 40, Detail.IMBALANCE_LOTS: 300,
        Detail.IMBALANCE_DIRECTION: ord("B"), Detail.FAR_TICKS: 1, Detail.NEAR_TICKS: 2, Detail.REFERENCE_TICKS: 3,
        Detail.CROSS_TYPE: ord("O"), Detail.DLCR_MIN_TICKS: 8, Detail.DLCR_MAX_TICKS: 9,
    }  # fmt: skip
    assert {detail: details[detail] for detail in wanted} == wanted
    breaker = feed.state.channel[[Channel.MWCB_LEVEL_1_E8, Channel.MWCB_LEVEL_3_E8, Channel.MWCB_BREACHED]]
    assert breaker.tolist() == [7 * 10**8, 9 * 10**8, 2]
    assert feed.state.book.message_counts() == dict.fromkeys("RYJKNBIOLVW", 1)
    assert not feed.state.details[1].any()
    assert feed.state.suspect.tolist() == [0, 0]


def test_an_instrument_of_the_directory_is_halted_until_it_is_said_to_trade() -> None:
    feed = Decoder()
    trading = itch50.trading_action(1, 9, "AAPL", "T")
    ticks = feed.take(packet(1, itch50.stock_directory(1, 1, "AAPL"), BID, trading, ASK))
    assert [bool(t["flags"] & TickFlag.HALTED) for t in ticks] == [True, False, False]


def test_an_operational_halt_counts_for_its_own_market_only() -> None:
    feed = Decoder()
    halt = {market: itch("h", stock="AAPL", market_code=market, action="H") for market in "BQ"}
    ticks = feed.take(packet(1, BID, halt["B"], ASK, halt["Q"], itch("h", stock="AAPL", market_code="Q", action="T")))
    assert [bool(t["flags"] & TickFlag.HALTED) for t in ticks] == [False, False, True, False]


def test_after_the_end_of_system_hours_every_tick_says_halted() -> None:
    feed = Decoder()
    ticks = feed.take(packet(1, BID, itch50.system_event(9, "E"), ASK))
    assert [bool(t["flags"] & TickFlag.HALTED) for t in ticks] == [False, True]


def test_an_announcement_has_all_instruments_as_they_are_now() -> None:
    feed = Decoder()
    feed.take(packet(1, BID, ASK))
    feed.state.channel[Channel.SUSPECT] = Suspect.RECOVERING
    out = np.zeros(8, TICK)
    assert announce(feed.state, 0, 99, out) == 2
    assert out["instrument"][:2].tolist() == [0, 1]
    assert out["cause_seq"][0] == 2
    assert (out["flags"][:2] == TickFlag.SUSPECT | TickFlag.CHANNEL).all()  # nothing has happened in the market
    assert (out["bid_ticks"][0], out["ask_ticks"][0]) == (1_000_000, 1_000_200)
    assert announce(feed.state, 1, 99, out[:1]) == 1
    assert out["instrument"][0] == 1


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_two_lossy_disordered_lines_and_their_repair_make_the_stream_without_loss(data: st.DataObject) -> None:
    """Whatever is lost, doubled and overtaken: with the answers, the ticks are those of the whole stream in order."""
    messages = [add(1 + i, "BS"[i % 2], 1 + i, 1_000_000 + (100 * i if i % 2 else -100 * i)) for i in range(24)]
    cuts = data.draw(st.lists(st.integers(1, 5), min_size=5, max_size=24))
    packets, at = [], 0
    for size in cuts:
        if part := messages[at : at + size]:
            packets.append(packet(1 + at, *part))
        at += size
    whole = Decoder()
    wanted = whole.take(*packets)
    feed = Decoder()
    feed.state.channel[Channel.CAN_REPAIR] = 1
    ticks = []
    for _ in range(2):
        line = data.draw(st.sampled_from((Line.A, Line.B)))
        some = data.draw(st.permutations(packets))[: data.draw(st.integers(0, len(packets)))]
        ticks += [feed.take(one, line=line) for one in some]
    ticks += [feed.take(one, line=Line.REPAIR) for one in packets]
    got = np.concatenate(ticks)
    names = [name for name in TICK.names or () if not name.endswith("_ns")]
    assert (got[names] == wanted[names]).all()
    assert feed.count(Count.MESSAGES_LOST) == 0


def test_a_listener_that_comes_late_knows_what_it_missed() -> None:
    feed = Decoder()
    (tick,) = feed.take(packet(11, BID))
    assert feed.count(Count.MESSAGES_LOST) == 10
    assert feed.state.channel[Channel.EXPECTED_SEQ] == 12
    assert tick["flags"] & TickFlag.SUSPECT


def test_where_it_can_be_repaired_a_late_listener_begins_at_the_beginning() -> None:
    feed = Decoder()
    feed.state.channel[Channel.CAN_REPAIR] = 1
    assert len(feed.take(packet(2, ASK))) == 0
    ticks = feed.take(packet(1, BID), line=Line.REPAIR)
    assert ticks["cause_seq"].tolist() == [1, 2]
    assert not (ticks["flags"] & TickFlag.SUSPECT).any()


def test_a_heartbeat_that_is_ahead_shows_a_loss_at_the_end_of_the_stream() -> None:
    feed = Decoder()
    feed.take(packet(1, BID), moldudp64.heartbeat(SESSION, 4))
    assert feed.count(Count.GAPS) == 1
    feed.go_on()
    assert feed.count(Count.MESSAGES_LOST) == 2
    assert feed.count(Count.HEARTBEATS) == 1
    feed.take(moldudp64.end_of_session(SESSION, 4))
    assert feed.count(Count.END_OF_SESSION) == 1


@pytest.mark.parametrize(
    ("bad", "which"),
    [
        (b"", Count.DATAGRAMS_MALFORMED),
        (b"short", Count.DATAGRAMS_MALFORMED),
        (packet(2, ASK)[:-1], Count.DATAGRAMS_MALFORMED),
        (packet(2, ASK) [: moldudp64.HEADER_SIZE + 1], Count.DATAGRAMS_MALFORMED),
        (packet(2, *[ASK] * 60), Count.DATAGRAMS_MALFORMED),  # larger than a slot: cut off
        (moldudp64.pack_header(SESSION, 1 << 40, 0), Count.DATAGRAMS_MALFORMED),
        (moldudp64.pack_header(moldudp64.session_id("OTHER"), 2, 0), Count.DATAGRAMS_OTHER_SESSION),
        (packet(2, b"z" + bytes(20)), Count.MESSAGES_UNKNOWN_TYPE),
        (packet(2, ASK[:-1]), Count.MESSAGES_SHORT),
        (packet(2, b""), Count.MESSAGES_SHORT),
        (packet(2, execute(99, 1)), Count.BOOK_UNKNOWN_ORDER),
        (packet(2, BID), Count.BOOK_DUPLICATE_ORDER),
        (packet(2, add(9, "B", 0, 1)), Count.BOOK_BAD_INPUT),
        (packet(2, add(9, "?", 1, 1)), Count.BOOK_BAD_INPUT),
        (packet(2, execute(1, 101)), Count.BOOK_OVER_REDUCED),
        (packet(2, add(9, "B", 1, 1, locate=7, stock="NOTOURS")), Count.MESSAGES_OTHER_INSTRUMENT),
    ],
)  # fmt: skip
def test_each_kind_of_bad_input_has_its_counter(bad: bytes, which: Count) -> None:
    feed = Decoder()
    feed.take(packet(1, BID))
    feed.take(bad)
    assert feed.count(which) == 1
    faults = [c for c in Count if c.name.startswith(("BOOK", "DATAGRAMS_", "MESSAGES_")) and feed.count(c)]
    assert faults == [which]


def test_a_crossed_book_is_suspect_until_it_is_not() -> None:
    feed = Decoder()
    ticks = feed.take(packet(1, BID, add(2, "S", 5, 999_000), execute(2, 5)))
    assert [bool(t["flags"] & TickFlag.SUSPECT) for t in ticks] == [False, True, False]


def test_a_halt_is_told_at_once_and_stays_until_trading_resumes() -> None:
    feed = Decoder()
    halt = itch50.trading_action(1, 9, "AAPL", "H")
    resume = itch50.trading_action(1, 9, "AAPL", "T")
    ticks = feed.take(packet(1, BID, halt, ASK, resume))
    assert [bool(t["flags"] & TickFlag.HALTED) for t in ticks] == [False, True, True, False]


def test_instruments_are_found_by_symbol_with_and_without_a_directory() -> None:
    feed = Decoder("MSFT", "AAPL")
    directory = itch50.stock_directory(40, 1, "AAPL")
    ticks = feed.take(
        packet(1, directory, add(1, "B", 1, 10_000, locate=40, stock="IGNORED")),
        packet(3, add(2, "B", 1, 10_000, locate=41, stock="MSFT")),
    )
    assert ticks["instrument"].tolist() == [1, 0]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=120), max_size=6), st.integers(0, 3))
def test_random_bytes_never_crash_and_every_datagram_is_accounted_for(noise: list[bytes], cut: int) -> None:
    feed = Decoder()
    feed.take(packet(1, BID, ASK))
    good = packet(3, execute(2, 1))
    packets = [*noise, good[: len(good) - cut], *[SESSION + n for n in noise]]
    before = feed.count(Count.DATAGRAMS)
    feed.take(*packets)
    assert feed.count(Count.DATAGRAMS) == before + len(packets)
    live = [r for r in feed.state.book.orders["ref"] if r]
    assert len(live) == feed.state.book.live_orders


def real_file(name: str) -> tuple[bytes, dict[str, Any]]:
    path = DATA / "itch" / name
    if not path.exists():
        pytest.skip(f"the real data set is not beside the project: {path}")
    return path.read_bytes(), json.loads(path.with_name(path.name + ".oracle.json").read_text())


@pytest.mark.parametrize("per_packet", [1, 7, 30])
def test_a_real_file_gives_the_oracles_counts_volume_and_book_however_it_is_cut(per_packet: int) -> None:
    content, oracle = real_file("nasdaq_itch50_20200130_AAPL_first10000.itch")
    messages = [bytes(m) for m in itch50.frames(content)]
    feed = Decoder("AAPL")
    ticks = np.concatenate(
        [
            feed.take(packet(1 + i, *messages[i : i + per_packet]))
            for i in range(0, len(messages), per_packet)
        ]
    )  # fmt: skip
    assert feed.count(Count.MESSAGES) == len(messages) == 10_000
    assert feed.state.book.message_counts() == oracle["count_by_type"]
    assert int(ticks[-1]["volume_lots"]) == oracle["per_symbol"]["AAPL"]["traded_volume"]
    assert feed.count(Count.BOOK_UNKNOWN_ORDER) == 0
    assert bbo_path_sha256(ticks, len(messages)) == oracle["bbo_path_sha256"]


def bbo_path_sha256(ticks: np.ndarray, n_messages: int) -> str:
    """The oracle's hash over the best bid and offer after every message, from ticks alone."""
    digest = hashlib.sha256()
    bbo, at = (0, 0, 0, 0), 0
    for number in range(1, n_messages + 1):
        if at < len(ticks) and ticks[at]["cause_seq"] == number:
            tick = ticks[at]
            bid, ask = (int(tick[name]) for name in ("bid_ticks", "ask_ticks"))
            bbo = (max(bid, 0), int(tick["bid_lots"]), max(ask, 0), int(tick["ask_lots"]))
            at += 1
        digest.update(f"{number},{bbo[0]},{bbo[1]},{bbo[2]},{bbo[3]}\n".encode())
    assert at == len(ticks)
    return digest.hexdigest()
