"""CME MDP 3.0: feeds arbitrated, levels told as orders, against a plain book of the rules; and damaged captures.

Packets here are written by hand; what the recorded captures say is in `test_oracles`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.tests.test_load_pcap import ethernet, mold, pcap
from tickpath.common.kernels.book import Book, Result, apply_one
from tickpath.common.protocols import itch50
from tickpath.common.records import Side
from tickpath.sim.sources.files import read_data
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.mdp3 import Mdp3, encode_mdp3, read_mdp3
from tickpath.sim.sources.pcap import read_packets
from tickpath.sim.sources.tape import FINDINGS, DataFileError, Tape, write_instruments

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "cme_mdp3"
FILES = sorted(DATA.glob("*.pcapng*.zst"))

DAY = 1_475_020_800_000_000_000  # 2016-09-28 00:00 UTC
P = 7_580 * 10**7
NEW, CHANGE, DELETE, THRU, FROM, OVERLAY = range(6)


def level(
    action: int,
    kind: str,
    place: int,
    price: int,
    size: int,
    *,
    security: int = 7,
    rpt_seq: int = 1,
    more: bytes = b"",
) -> bytes:
    """An entry of template 32; `price` in wire units."""
    head = struct.pack("<qiiIiBBc", price, size, security, rpt_seq, 1, place, action, kind.encode())
    return head + bytes(5) + more


def trade(price: int, size: int, aggressor: int, *, action: int = 0, security: int = 7) -> bytes:
    """An entry of template 42."""
    return struct.pack("<qiiIiBBI2x", price, size, security, 1, 2, aggressor, action, 0)


def message(template: int, root: bytes, after: bytes = b"") -> bytes:
    return struct.pack("<HHHHH", 10 + len(root) + len(after), len(root), template, 1, 8) + root + after


def refresh(*entries: bytes, template: int = 32, appended: bytes = b"", tail: bytes = b"") -> bytes:
    """An incremental refresh; `appended` to its root block, `tail` after its entries."""
    size = len(entries[0]) if entries else 32
    root = struct.pack("<QB2x", DAY + 5, 0x80) + appended
    return message(template, root, struct.pack("<HB", size, len(entries)) + b"".join(entries) + tail)


def packet(seq: int, *messages: bytes, sent: int | None = None) -> bytes:
    return struct.pack("<IQ", seq, DAY + (seq if sent is None else sent)) + b"".join(messages)


def capture(*packets: bytes | tuple[int, bytes]) -> bytes:
    """A pcap file; a packet may say its line."""
    pairs = [one if isinstance(one, tuple) else (1, one) for one in packets]
    return pcap([ethernet(payload, line=line) for line, payload in pairs])


def read(folder: Path, data: bytes) -> tuple[Mdp3, Tape, list[int]]:
    raw = np.frombuffer(data, np.uint8).copy()
    path = folder / "a.pcap"
    found = read_mdp3(raw, *read_packets(path, raw))
    tape, ends = encode_mdp3(path, raw, found, 1)
    assert set(tape.findings) <= set(FINDINGS)
    return found, tape, ends.tolist()


def load(folder: Path, *packets: bytes | tuple[int, bytes]) -> Tape:
    path = folder / "a.pcap"
    path.write_bytes(capture(*packets))
    tape = load_tape([path])
    assert set(tape.findings) <= set(FINDINGS)
    write_instruments(tape, folder / "instruments.csv")
    return tape


_KEYS = ("type", "order_ref", "original_order_ref", "new_order_ref", "side", "shares", "cancelled_shares", "price")


def told(tape: Tape, instruments: int = 1) -> list[tuple[Any, ...]]:
    """What follows the head of a tape: type, references from 1 on, side, size, price, as far as each has it."""
    out = []
    for i in range(2 + 2 * instruments, len(tape)):
        m = itch50.decode(tape.message(i))
        refs = [m[key] & 0xFFFFFFFFFF if "ref" in key else m[key] for key in _KEYS if key in m]
        out.append(tuple(refs))
    return out


def levels_of(book: Book, instrument: int, side: Side) -> dict[int, int]:
    return {int(one["price_ticks"]): int(one["lots"]) for one in book.side(instrument, side)}


def final_books(tape: Tape) -> dict[str, tuple[dict[int, int], dict[int, int]]]:
    """Size by price in ticks of the bids and offers of each symbol, at the end."""
    book = Book.create(len(tape.symbols), 1 << 16, 1 << 12)
    for i, locate in enumerate(tape.symbols.values()):
        book.locate[locate] = i
    for i in range(len(tape)):
        begin = int(tape.offsets[i]) + 2
        assert apply_one(book, tape.data, begin, int(tape.offsets[i + 1]) - begin) == Result.OK
    return {s: (levels_of(book, i, Side.BUY), levels_of(book, i, Side.SELL)) for i, s in enumerate(tape.symbols)}


# --- levels and trades --------------------------------------------------------------------------------------------


def test_every_action_moves_the_levels_as_it_says(tmp_path: Path) -> None:
    book = [
        level(NEW, "0", 1, P, 10),
        level(NEW, "0", 1, P + 10**7, 4),  # before it
        level(NEW, "0", 3, P - 10**7, 7),
        level(CHANGE, "0", 2, P, 6),  # less: it keeps its place in the queue
        level(CHANGE, "0", 2, P, 9),  # more: it loses it
        level(CHANGE, "0", 2, P, 9),  # nothing new
        level(DELETE, "0", 1, P + 10**7, 4),
        level(OVERLAY, "0", 1, P + 10**7 // 2, 3),
        level(NEW, "1", 1, P + 2 * 10**7, 1),
        level(NEW, "1", 2, P + 3 * 10**7, 2),
        level(NEW, "1", 3, P + 4 * 10**7, 3),
        level(NEW, "E", 1, P, 99),
        level(CHANGE, "F", 2, P, 99),
        level(THRU, "1", 2, 0, 0),  # the two best
        level(FROM, "0", 2, 0, 0),  # the second and what is below
        level(NEW, "1", 2, P + 5 * 10**7, 5),
        level(DELETE, "J", 0, 0, 0),
    ]
    tape = load(tmp_path, packet(1, refresh(*book)))
    assert told(tape) == [
        ("A", 1, "B", 10, 758_000),
        ("A", 2, "B", 4, 758_100),
        ("A", 3, "B", 7, 757_900),
        ("X", 1, 4),
        ("U", 1, 5, 9, 758_000),
        ("D", 2),
        ("U", 5, 8, 3, 758_050),
        ("A", 9, "S", 1, 758_200),
        ("A", 10, "S", 2, 758_300),
        ("A", 11, "S", 3, 758_400),
        ("D", 9),
        ("D", 10),
        ("D", 3),
        ("A", 16, "S", 5, 758_500),
        ("D", 8),
        ("D", 11),
        ("D", 16),
    ]
    assert tape.findings == {
        "records": 17, "renamed_symbols": 1, "unchanged_levels": 1, "implied_levels": 2, "cleared_books": 1,
    }  # fmt: skip
    assert tape.symbols == {"7": 1}
    assert tape.terms["7"]._asdict() == {
        "tick_size": "0.01", "price_step_ticks": 1, "lot_size": "1", "multiplier": "1", "currency": "USD",
    }  # fmt: skip


def test_trades_print_on_the_side_that_rested(tmp_path: Path) -> None:
    entries = [trade(P, 3, 1), trade(P, 2, 2), trade(P, 60, 0), trade(P, 60, 0, action=2), trade(-P, 1, 1)]
    orders = struct.pack("<H5xB", 16, 1) + bytes(16)
    tape = load(tmp_path, packet(1, refresh(*entries, template=42, tail=orders)))
    assert told(tape) == [("P", 0, "S", 3, 758_000), ("P", 0, "B", 2, 758_000), ("P", 0, "B", 60, 758_000)]
    assert tape.findings == {"records": 5, "renamed_symbols": 1, "corrected_trades": 1, "bad_records": 1}


def test_what_contradicts_the_book_is_counted_and_the_newer_counts(tmp_path: Path) -> None:
    tape = load(
        tmp_path,
        packet(
            1,
            refresh(
                level(DELETE, "0", 3, P, 1),  # never announced
                level(CHANGE, "0", 2, P, 5),  # never announced
                level(CHANGE, "0", 2, P - 10**7, 5),  # another price
                level(CHANGE, "0", 1, P - 2 * 10**7, 5),  # worse than the second: that is stale
                level(NEW, "1", 1, -P, 5),  # ITCH has no such prices; the place is taken
                level(NEW, "1", 2, P, 0),
                level(CHANGE, "1", 1, P, 4),
                level(NEW, "1", 0, P, 4),
                level(6, "1", 1, P, 4),
                level(NEW, "?", 1, P, 4),
            ),
        ),
    )
    assert told(tape) == [
        ("A", 2, "B", 5, 758_000),
        ("U", 2, 3, 5, 757_900),
        ("D", 3),
        ("A", 4, "B", 5, 757_800),
        ("A", 7, "S", 4, 758_000),
    ]
    assert tape.findings == {
        "records": 10, "renamed_symbols": 1, "bad_records": 5, "unannounced_levels": 2, "unknown_levels": 1,
        "moved_levels": 1, "stale_levels": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("named", "depth"), [(1, 3), (3, 3), (4, 5), (10, 10), (12, 12)])
def test_the_depth_is_the_smallest_of_cmes_that_has_all_named_levels(tmp_path: Path, named: int, depth: int) -> None:
    entries = [level(CHANGE, "0", named, P - 100 * 10**7, 1, security=7)]
    entries += [level(NEW, "0", 1, P + k * 10**7, 1, security=7) for k in range(depth + 3)]
    bids, _ = final_books(load(tmp_path, packet(1, refresh(*entries))))["7"]
    assert sorted(bids) == [758_000 + 100 * k for k in range(3, depth + 3)]


def test_what_later_versions_append_is_skipped(tmp_path: Path) -> None:
    entries = [level(NEW, "0", 1, P, 10, more=b"appended"), level(NEW, "1", 1, P + 10**7, 2, more=b"fields--")]
    odd = [
        refresh(*entries, appended=b"block"),
        message(99, b"unknown", b"with a group"),
        message(12, b""),
        refresh(),
        refresh(trade(P, 3, 1), template=42),
    ]
    found, tape, _ = read(tmp_path, capture(packet(1, *odd)))
    assert [one[0] for one in told(tape)] == ["A", "A", "P"]
    assert found.templates == {32: 2, 99: 1, 12: 1, 42: 1}
    assert found.schemas == {(1, 8)}
    assert tape.findings["other_templates"] == 2


def test_templates_46_and_48_have_prices_with_nine_decimals(tmp_path: Path) -> None:
    book = refresh(level(NEW, "0", 1, 1_125_950_000, 10), template=46)
    tape = load(tmp_path, packet(1, book, refresh(trade(1_125_900_000, 1, 2), template=48)))
    assert told(tape) == [("A", 1, "B", 10, 112_595), ("P", 0, "B", 1, 112_590)]
    assert tape.terms["7"].tick_size == "0.00001"


def definition(security: int, symbol: str, template: int = 27) -> bytes:
    return message(template, bytes(35) + symbol.encode().ljust(20, b"\0") + struct.pack("<i", security) + bytes(157))


def test_instruments_have_the_symbol_of_a_definition_or_their_id(tmp_path: Path) -> None:
    ids = [7, 8, 9, 10, 123_456_789, -3]
    entries = [level(NEW, "0", 1, P, 1, security=security) for security in ids]
    named = [definition(7, "6EZ6"), definition(8, "6EZ6-6EH7", 29), definition(9, "12"), definition(10, "OZE", 41)]
    tape = load(tmp_path, packet(1, *named, message(27, bytes(20)), refresh(*entries)))
    assert tape.symbols == {"#1Z141Z1": 1, "6EZ6": 2, "8": 3, "9": 4, "OZE": 5, "#21I3V9": 6}
    assert tape.findings["renamed_symbols"] == 4
    assert set(tape.terms) == set(tape.symbols)


@pytest.mark.parametrize(
    "bad",
    [
        message(32, b"short", struct.pack("<HB", 32, 0)),
        message(32, bytes(11), b"\x20"),
        message(32, bytes(11), struct.pack("<HB", 32, 2) + bytes(63)),
        message(32, bytes(11), struct.pack("<HB", 26, 1) + bytes(26)),
        message(42, bytes(11), struct.pack("<HB", 25, 1) + bytes(25)),
        message(42, bytes(11)),
    ],
)
def test_a_message_whose_entries_are_not_in_it_is_counted_and_the_others_play(tmp_path: Path, bad: bytes) -> None:
    tape = load(tmp_path, packet(1, bad, refresh(level(NEW, "0", 1, P, 10))))
    assert told(tape) == [("A", 1, "B", 10, 758_000)]
    assert tape.findings["damaged_messages"] == 1


# --- feeds --------------------------------------------------------------------------------------------------------


def add(seq: int, security: int = 7) -> bytes:
    """A packet with a bid below all that were before."""
    return packet(seq, refresh(level(NEW, "0", 1, P + seq * 10**7, seq, security=security)))


def numbers(tape: Tape) -> list[int]:
    """Of the packets of `add`, those that have been played."""
    return [one[3] for one in told(tape) if one[0] == "A"]


def test_each_number_is_played_once_whichever_feed_brings_it_first(tmp_path: Path) -> None:
    lines = [(1, 1), (2, 1), (2, 2), (1, 3), (1, 2), (2, 4), (1, 5), (2, 5)]
    found, tape, _ = read(tmp_path, capture(*((line, add(seq)) for line, seq in lines)))
    assert numbers(tape) == [1, 2, 3, 4, 5]
    a, b = found.feeds["233.54.12.1:26477"], found.feeds["233.54.12.2:26477"]
    assert a._asdict() == {
        "channel": 0, "packets": 4, "first_seq": 1, "last_seq": 5, "gaps": 1, "missing": 1, "first_copies": 3,
    }  # fmt: skip
    assert b._asdict() == {
        "channel": 0, "packets": 4, "first_seq": 1, "last_seq": 5, "gaps": 1, "missing": 1, "first_copies": 2,
    }  # fmt: skip
    assert found.lags_ns.tolist() == [1, 2, 1]
    assert tape.findings["repeated_packets"] == 3
    assert "gaps" not in tape.findings


def test_late_packets_are_put_in_their_place_and_other_bytes_under_a_number_are_counted(tmp_path: Path) -> None:
    other = packet(3, refresh(level(NEW, "0", 1, P, 77)))
    tape = load(tmp_path, (1, add(1)), (2, add(1)), (1, add(3)), (1, add(2)), (2, other), (2, add(2)))
    assert numbers(tape) == [1, 2, 3]
    assert tape.findings["reordered_packets"] == 1
    assert tape.findings["differing_packets"] == 1


def test_packets_that_no_feed_brought_empty_the_books_of_their_channel(tmp_path: Path) -> None:
    other_channel = [(3, add(k, security=9)) for k in range(1, 7)]
    a, b = [(1, add(k)) for k in (1, 2, 5, 6)], [(2, add(k)) for k in (1, 2, 6)]
    beats = [(line, packet(7, message(12, b""))) for line in (1, 2, 3)]  # do not make one channel of all
    found, tape, _ = read(tmp_path, capture(*a, *b, *other_channel, *beats))
    assert [feed.channel for feed in found.feeds.values()] == [0, 0, 2]
    assert [(feed.gaps, feed.missing) for feed in found.feeds.values()] == [(1, 2), (1, 3), (0, 0)]
    assert (tape.findings["gaps"], tape.findings["missing_packets"], tape.findings["cleared_books"]) == (1, 2, 1)
    books = final_books(tape)
    assert books["7"][0] == {758_500: 5, 758_600: 6}
    assert books["9"][0] == {758_000 + 100 * k: k for k in (4, 5, 6)}  # three deep


def test_a_channel_reset_empties_its_books(tmp_path: Path) -> None:
    reset = packet(2, message(4, struct.pack("<QB", DAY, 0), struct.pack("<HB", 2, 1) + bytes(2)))
    tape = load(tmp_path, add(1), reset, add(3))
    assert final_books(tape)["7"] == ({758_300: 3}, {})
    assert tape.findings["cleared_books"] == 1


@settings(max_examples=40, deadline=None)
@given(lost=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_any_mix_of_feeds_gives_the_packets_that_either_had(
    tmp_path_factory: pytest.TempPathFactory, lost: list[tuple[bool, bool]], seed: int
) -> None:
    """The first packet comes on both, which makes them one channel."""
    lost[0] = (False, False)
    sent = [(line, k + 1) for k, one in enumerate(lost) for line in (1, 2) if not one[line - 1]]
    order = np.random.default_rng(seed).normal(np.array([seq for _, seq in sent], float), 2).argsort()
    _, tape, _ = read(tmp_path_factory.getbasetemp(), capture(*((sent[i][0], add(sent[i][1])) for i in order)))
    there = sorted({seq for _, seq in sent})
    assert numbers(tape) == there
    assert tape.findings.get("missing_packets", 0) == there[-1] - len(there)
    assert tape.findings.get("repeated_packets", 0) == len(sent) - len(there)


# --- what is no such capture --------------------------------------------------------------------------------------


def test_messages_of_moldudp64_are_what_is_played_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(pcap([ethernet(add(1)), ethernet(mold(1, 3))]))
    tape = load_tape([tmp_path / "a.pcap"])
    assert (list(tape.symbols), tape.findings) == (["AAPL"], {"other_packets": 1})


def test_a_capture_without_books_and_trades_is_refused_with_what_is_in_it(tmp_path: Path) -> None:
    quiet = packet(1, message(12, b""), message(12, b""), message(30, bytes(30)))
    with pytest.raises(DataFileError, match=r"no book and no trade .*: 2 of template 12, 1 of template 30; allowed"):
        load(tmp_path, quiet)


@pytest.mark.parametrize("payload", [add(1)[:-1], add(1) + b"x", add(1)[:12], add(1)[:20], bytes(60), b"x" * 60])
def test_datagrams_that_are_not_whole_messages_are_not_mdp3(tmp_path: Path, payload: bytes) -> None:
    with pytest.raises(DataFileError, match=r"1 of UDP to 233\.54\.12\.1:26477; allowed: .* or of CME MDP 3\.0"):
        load(tmp_path, payload)
    tape = load(tmp_path, payload, add(2))
    assert (numbers(tape), tape.findings["other_packets"]) == ([2], 1)


def test_a_capture_longer_than_a_day_is_refused(tmp_path: Path) -> None:
    late = packet(2, refresh(level(NEW, "0", 1, P, 1)), sent=90_000 * 10**9)
    with pytest.raises(DataFileError, match="longer than a day"):
        load(tmp_path, add(1), late)


@settings(max_examples=150, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(40, 900), st.integers(0, 255)), max_size=6),
    cut=st.integers(40, 1200),
)
def test_damaged_captures_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int
) -> None:
    pairs = [(line, add(k)) for k in range(1, 5) for line in (1, 2)]
    pairs += [(1, packet(5, refresh(trade(P, 3, 1), template=42), definition(7, "6EZ6")))]
    data = bytearray(capture(*pairs)[:cut])
    for at, byte in flips:
        if at < len(data):
            data[at] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.pcap"
    path.write_bytes(data)
    try:
        tape = load_tape([path])
    except DataFileError as error:
        assert "allowed" in str(error)
    else:
        assert (np.diff(tape.time_ns) >= 0).all()
        assert tape.offsets[-1] == len(tape.data)
        assert set(tape.findings) <= set(FINDINGS)
        final_books(tape)


# --- a plain book of the rules ------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """What a plain reader finds."""

    security: int | None  # None: all
    kind: str
    action: int
    place: int
    price: int
    size: int


class PlainBooks:
    """Levels as lists of (price, size) with None where nothing is known; a price of None is one that cannot play."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.depth: dict[int, int] = {}
        for one in entries:
            if one.security is not None and one.kind in "01":
                self.depth[one.security] = max(self.depth.get(one.security, 0), one.place)
        self.sides: dict[tuple[int, str], list[tuple[int | None, int] | None]] = {}

    def side(self, security: int, kind: str) -> list[tuple[int | None, int] | None]:
        deepest = self.depth.get(security, 0)
        depth = min([depth for depth in (3, 5, 10) if depth >= deepest] or [deepest])
        return self.sides.setdefault((security, kind), [None] * depth)

    def shown(self, security: int, kind: str) -> dict[int, int]:
        return {one[0]: one[1] for one in self.side(security, kind) if one and one[0] is not None}

    def apply(self, one: Entry) -> None:
        if one.kind == "J":
            for (security, _), side in self.sides.items():
                if one.security in (None, security):
                    side[:] = [None] * len(side)
        if one.security is None or one.kind not in "01" or one.place == 0 or one.action > OVERLAY:
            return
        side = self.side(one.security, one.kind)
        depth, i = len(side), one.place - 1
        if one.action == NEW:
            side.insert(i, None)
        if one.action in (NEW, CHANGE, OVERLAY):
            side[i] = (one.price, one.size) if one.price > 0 and one.size > 0 else (None, 0)
            if side[i] != (None, 0):
                sign = 1 if one.kind == "1" else -1
                for k, other in enumerate(side):
                    if k != i and other and other[0] is not None and (k - i) * (other[0] - one.price) * sign <= 0:
                        side[k] = None
        elif one.action == DELETE:
            del side[i]
        elif one.action == THRU:
            del side[: i + 1]
        elif one.action == FROM:
            del side[i:]
        side[:] = (side + [None] * depth)[:depth]


def check_books(entries: Sequence[Entry], tape: Tape, ends: Sequence[int], unit: Mapping[int, int]) -> None:
    """After every entry the book of its security, built of the tape, is that of the plain rules."""
    plain = PlainBooks(entries)
    ids = sorted({one.security for one in entries if one.security is not None and one.kind in "012"})
    book = Book.create(len(ids), 1 << 14, 1 << 10)
    for i, locate in enumerate(tape.symbols.values()):
        book.locate[locate] = i
    at = 0
    for one, end in zip(entries, ends, strict=True):
        plain.apply(one)
        for i in range(at, end):
            begin = int(tape.offsets[i]) + 2
            assert apply_one(book, tape.data, begin, int(tape.offsets[i + 1]) - begin) == Result.OK
        at = end
        if one.security is not None and one.security in ids:
            i = ids.index(one.security)
            for kind, which in (("0", Side.BUY), ("1", Side.SELL)):
                ticks = unit[one.security]
                assert levels_of(book, i, which) == {
                    p // ticks: n for p, n in plain.shown(one.security, kind).items()
                }
    assert at == len(tape)
    for i, security in enumerate(ids):
        for kind, which in (("0", Side.BUY), ("1", Side.SELL)):
            wanted = {p // unit[security]: n for p, n in plain.shown(security, kind).items()}
            assert levels_of(book, i, which) == wanted


_ENTRY = st.builds(
    Entry,
    security=st.sampled_from([7, 7, 8]),
    kind=st.sampled_from("0000111EFJ"),
    action=st.sampled_from([NEW, NEW, NEW, CHANGE, CHANGE, DELETE, DELETE, THRU, FROM, OVERLAY, 6]),
    place=st.integers(0, 6),
    price=st.integers(-1, 12).map(lambda k: k * 10**7),
    size=st.integers(0, 4),
)


@settings(max_examples=200, deadline=None)
@given(entries=st.lists(_ENTRY, min_size=1, max_size=60))
def test_any_sequence_of_entries_keeps_the_plain_book(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]
) -> None:
    first = [Entry(security, "0", NEW, 1, 5 * 10**7, 1) for security in (7, 8)]  # so that both are instruments
    entries = first + entries
    packets = [
        packet(
            k + 1, refresh(level(one.action, one.kind, one.place, one.price, one.size, security=one.security or 7))
        )
        for k, one in enumerate(entries)
    ]
    _, tape, ends = read(tmp_path_factory.getbasetemp(), capture(*packets))
    check_books(entries, tape, ends, {7: 10**5, 8: 10**5})


def plain_packets(data: bytes) -> dict[int, bytes]:
    """Payload by MsgSeqNum of a little-endian pcapng file of Ethernet frames without tags; the first copy of each."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == 6:
            (captured,) = struct.unpack_from("<I", data, at + 20)
            frame = data[at + 28 : at + 28 + captured]
            udp = 14 + 4 * (frame[14] & 15)
            (length,) = struct.unpack_from(">H", frame, udp + 4)
            payload = frame[udp + 8 : udp + length]
            found.setdefault(struct.unpack_from("<I", payload)[0], payload)
        at += size
    return found


def plain_entries(payload: bytes) -> list[Entry]:
    entries = []
    at = 12
    while at < len(payload):
        size, block, template = struct.unpack_from("<HHH", payload, at)
        if template in (32, 42):
            length, count = struct.unpack_from("<HB", payload, at + 10 + block)
            for k in range(count):
                values = struct.unpack_from("<qiiIiBBc", payload, at + 13 + block + k * length)
                price, lots, security, _, _, place, action, kind = values
                is_book = template == 32
                kind = kind.decode("latin-1") if is_book else "2"
                entries.append(Entry(security, kind, action, place if is_book else 0, price, lots))
        at += size
    return entries


@pytest.mark.parametrize("path", FILES or [Path("none")], ids=lambda path: path.name)
def test_the_books_of_recorded_captures_are_those_of_plain_rules_after_every_entry(path: Path) -> None:
    if not FILES:
        pytest.skip(f"the recorded market data is not here: {DATA}")
    data = read_data(path)
    raw = plain_packets(data.tobytes())
    entries: list[Entry] = []
    for seq in sorted(raw):
        if seq - 1 not in raw and seq != min(raw):
            entries.append(Entry(None, "J", DELETE, 0, 0, 0))
        entries += plain_entries(raw[seq])
    tape, ends = encode_mdp3(path, data, read_mdp3(data, *read_packets(path, data)), 1)
    assert tape.data.tobytes() == load_tape([path]).data.tobytes()
    ids = sorted({one.security for one in entries if one.security is not None and one.kind in "012"})
    ticks = [round(float(tape.terms[symbol].tick_size) * 10**7) for symbol in tape.symbols]
    unit = dict(zip(ids, ticks, strict=True))
    check_books(entries, tape, ends.tolist(), unit)
