"""ITCH 5.0 codec: against the sheet's tables, its worked example, recorded packets, and itself."""

from __future__ import annotations

import inspect
import json
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickpath.common.protocols import itch50
from tickpath.common.protocols.moldudp64 import unpack
from tickpath.common.protocols.wire import LocalProtocolError, RemoteProtocolError

WORKED_EXAMPLE = bytes.fromhex("4100050007 1f1aced9f07b 00000000000003e9 42 0000012c 4141504c20202020 0016f0a8")

LETTERS = st.sampled_from("ABNQ $1")
KINDS = {
    "char": LETTERS,
    "u16": st.integers(0, 2**16 - 1),
    "u32": st.integers(0, 2**32 - 1),
    "u48": st.integers(0, 2**48 - 1),
    "u64": st.integers(0, 2**64 - 1),
}


def values_of(kind):
    if kind.startswith("alpha"):
        return st.text("ABCXYZ09", max_size=int(kind[5:]))
    return KINDS[kind]


def messages():
    """Any message of any type, with its fields."""
    return st.sampled_from(sorted(itch50.LAYOUTS)).flatmap(
        lambda code: st.tuples(
            st.just(code),
            st.fixed_dictionaries({f: values_of(k) for f, k in itch50.LAYOUTS[code].kinds.items()}),
        )
    )


def test_every_offset_and_length_is_that_of_the_sheet(sheet_tables):
    """The layouts are typed by hand; the sheet was compared with five other renderings."""
    tables = sheet_tables("itch50.md")
    assert len(tables) == len(itch50.LAYOUTS) == 23
    for heading, rows in tables.items():
        code, size = re.search(r"`(.)` .* - (\d+) bytes", heading).groups()
        layout = itch50.LAYOUTS[code]
        assert layout.size == int(size) == itch50.SIZES[ord(code)], layout
        fields = [(f, layout.offset[f]) for f in layout.kinds if layout.offset[f] >= itch50.HEADER_SIZE]
        assert fields == [(field, offset) for field, offset, _, _, _ in rows], layout
        for field, _, length, kind, _ in rows:
            ours = layout.kinds[field]
            wire = {"price4": "u32", "price8": "u64"}.get(kind, kind)
            assert ours == wire, (layout, field)
            assert length == {"char": 1, "u32": 4, "u64": 8}.get(ours) or ours == f"alpha{length}"


def test_worked_example_decodes_to_what_two_dissectors_said():
    """The sheet's Add Order: locate 5, tracking 7, 09:30:00.000000123, order 1001, buy 300 AAPL at 150.3400."""
    assert itch50.decode(WORKED_EXAMPLE) == {
        "type": "A",
        "stock_locate": 5,
        "tracking_number": 7,
        "timestamp": (9 * 3600 + 30 * 60) * 10**9 + 123,
        "order_ref": 1001,
        "side": "B",
        "shares": 300,
        "stock": "AAPL",
        "price": 1503400,
    }
    assert itch50.add_order(5, 34_200_000_000_123, 1001, "B", 300, "AAPL", 1503400, tracking=7) == WORKED_EXAMPLE


@given(messages())
def test_what_is_encoded_decodes_to_the_same(message):
    """Round trip of all 23 types, with extreme values."""
    code, fields = message
    raw = itch50.encode(code, **fields)
    assert len(raw) == itch50.LAYOUTS[code].size
    assert itch50.decode(raw) == {"type": code, **fields}
    assert itch50.decode(raw + b"later revision") == {"type": code, **fields}


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_the_peers_fault(data):
    """Random bytes: a message of the right shape, or RemoteProtocolError, nothing else."""
    try:
        fields = itch50.decode(data)
    except RemoteProtocolError:
        assert not data or len(data) < (itch50.SIZES[data[0]] or 1000)
    else:
        assert fields["type"] == chr(data[0])


FAST = {
    "S": itch50.system_event(7, "Q", tracking=9),
    "R": itch50.stock_directory(3, 7, "AAPL", round_lot_size=40, tracking=9),
    "H": itch50.trading_action(3, 7, "AAPL", "T", "LUDP", tracking=9),
    "Y": itch50.reg_sho(3, 7, "AAPL", "1", tracking=9),
    "L": itch50.participant_position(3, 7, "LIME", "AAPL", tracking=9),
    "A": itch50.add_order(3, 7, 11, "S", 5, "AAPL", 17, tracking=9),
    "F": itch50.add_order(3, 7, 11, "S", 5, "AAPL", 17, "LIME", tracking=9),
    "E": itch50.order_executed(3, 7, 11, 5, 13, tracking=9),
    "C": itch50.order_executed_with_price(3, 7, 11, 5, 13, True, 17, tracking=9),
    "X": itch50.order_cancel(3, 7, 11, 5, tracking=9),
    "D": itch50.order_delete(3, 7, 11, tracking=9),
    "U": itch50.order_replace(3, 7, 11, 12, 5, 17, tracking=9),
    "P": itch50.trade(3, 7, 5, "AAPL", 17, 13, tracking=9),
    "Q": itch50.cross_trade(3, 7, 5, "AAPL", 17, 13, tracking=9),
}
EXPECTED = {
    "stock_locate": 3,
    "tracking_number": 9,
    "timestamp": 7,
    "stock": "AAPL",
    "round_lot_size": 40,
    "order_ref": 11,
    "original_order_ref": 11,
    "new_order_ref": 12,
    "shares": 5,
    "executed_shares": 5,
    "cancelled_shares": 5,
    "price": 17,
    "execution_price": 17,
    "cross_price": 17,
    "match_number": 13,
    "mpid": "LIME",
    "attribution": "LIME",
    "reason": "LUDP",
    "trading_state": "T",
    "reg_sho_action": "1",
    "event_code": "Q",
    "printable": "Y",
}


@pytest.mark.parametrize("code", sorted(FAST))
def test_fast_encoder_writes_every_field_where_the_layout_has_it(code):
    """The encoders named after messages agree with the table, field by field."""
    fields = itch50.decode(FAST[code])
    assert fields.pop("type") == code
    if code == "S":
        assert fields.pop("stock_locate") == 0
    if code in "AF":
        assert fields["side"] == "S"
    if code == "P":
        assert (fields.pop("side"), fields.pop("order_ref")) == ("B", 0)
    assert len(FAST[code]) == itch50.SIZES[ord(code)]
    assert {k: v for k, v in fields.items() if k in EXPECTED} == {k: EXPECTED[k] for k in fields if k in EXPECTED}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: itch50.add_order(65536, 0, 1, "B", 1, "A", 1),
        lambda: itch50.add_order(1, 1 << 48, 1, "B", 1, "A", 1),
        lambda: itch50.add_order(1, 0, -1, "B", 1, "A", 1),
        lambda: itch50.add_order(1, 0, 1, "B", 1 << 32, "A", 1),
        lambda: itch50.add_order(1, 0, 1, "B", 1, "NINELETTE", 1),
        lambda: itch50.add_order(1, 0, 1, "B", 1, "\u20ac", 1),
        lambda: itch50.encode("z"),
        lambda: itch50.encode("D", stock_locate=1, tracking_number=0, timestamp=0),
        lambda: itch50.encode("D", stock_locate=1, tracking_number=0, timestamp=0, order_ref=1, side="B"),
        lambda: itch50.encode("D", stock_locate=1, tracking_number=0, timestamp=0, order_ref="1"),
    ],
)
def test_a_value_that_does_not_fit_is_our_own_fault(wrong):
    """Encoders raise LocalProtocolError, not struct.error."""
    with pytest.raises(LocalProtocolError):
        wrong()


def test_encoder_names_all_wrong_fields_at_once():
    """The message says each field, its value, and what it should be."""
    with pytest.raises(LocalProtocolError) as caught:
        itch50.encode("X", stock_locate=70000, tracking_number=0, timestamp=0, order_ref=1, quantity=5)
    text = str(caught.value)
    assert "stock_locate=70000 is no u16" in text
    assert "cancelled_shares is missing" in text
    assert "quantity is not a field of it" in text


def test_frames_of_a_file_are_found_and_a_torn_end_is_located():
    """A recorded file that ends inside a frame says where."""
    data = itch50.frame(b"abc") + itch50.frame(b"") + itch50.frame(b"defg")
    assert [bytes(m) for m in itch50.frames(data)] == [b"abc", b"", b"defg"]
    for cut in range(1, 6):
        with pytest.raises(RemoteProtocolError, match="begins at byte 7"):
            list(itch50.frames(data[:-cut]))


def udp_payloads(pcap):
    """UDP payloads of a classic little-endian pcap: Ethernet with any VLAN tags, IPv4, UDP."""
    magic, link = struct.unpack("<I16xI", pcap[:24])
    assert magic in (0xA1B2C3D4, 0xA1B23C4D)
    assert link == 1
    at = 24
    while at < len(pcap):
        (size,) = struct.unpack_from("<I", pcap, at + 8)
        packet = pcap[at + 16 : at + 16 + size]
        at += 16 + size
        ip = 14
        while packet[ip - 2 : ip] == b"\x81\x00":
            ip += 4
        assert packet[ip - 2 : ip] == b"\x08\x00"
        udp = ip + 4 * (packet[ip] & 15)
        yield packet[udp + 8 : udp + int.from_bytes(packet[udp + 4 : udp + 6], "big")]


def test_recorded_packets_of_every_type_decode_as_the_oracle_says(recorded):
    """Real packets of 2023: headers, message bytes, locates and timestamps; and each message encodes back."""
    folder = recorded("itch/moldudp64_pcap")
    seen = set()
    for path in sorted(folder.glob("*.pcap")):
        oracle = json.loads((folder / (path.name + ".oracle.json")).read_text())
        packets = [unpack(payload) for payload in udp_payloads(path.read_bytes())]
        assert len(packets) == oracle["packets"]
        for (header, got), expected in zip(packets, oracle["packet_list"], strict=True):
            assert header.session.decode("latin-1") == expected["session"]
            assert (header.sequence, header.n_messages) == (
                expected["sequence_number"],
                expected["message_count"],
            )
            assert [m.hex() for m in got] == [m["hex"] for m in expected["messages"]]
            for message, facts in zip(got, expected["messages"], strict=True):
                fields = itch50.decode(message)
                seen.add(fields["type"])
                assert (fields["type"], fields["stock_locate"], fields["timestamp"]) == (
                    facts["type"],
                    facts["stock_locate"],
                    facts["timestamp_ns"],
                )
                again = itch50.encode(fields.pop("type"), **fields)
                assert again.hex() == facts["hex"]
    assert seen == set("AFQJLIPXDECUYHS")


def test_codecs_do_not_bring_numba_into_a_side_process():
    """Modules of protocols must not import Numba, directly or through what they import."""
    from tickpath.common.protocols import moldudp64, ouch50, soupbintcp, wire

    for module in (itch50, moldudp64, ouch50, soupbintcp, wire):
        source = inspect.getsource(module)
        imports = set(re.findall(r"^(?:from|import) ([\w.]+)", source, re.M))
        assert not any("numba" in name or "kernels" in name or name.endswith(".jit") for name in imports), module
