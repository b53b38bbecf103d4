"""OUCH 5.0 codec: against the sheet's tables, its recorded examples, and itself."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.protocols.ouch50 import Appendage, Tag
from tickpath.common.protocols.wire import LocalProtocolError, RemoteProtocolError

RECORDED_ENTER = bytes.fromhex(
    "4f 00000071 54 000000e1 43564c5420202020 00000000 00099db8 30 59 41 4e 4e"
    "4838465542384956202020202020 0006 05024c494d45"
)
RECORDED_CANCEL = bytes.fromhex("58 00752e71 00000000")
RECORDED_CANCELED = bytes.fromhex("43 0000289b4d681317 00753a8d 00000028 55")

BOTH = [("inbound", m) for m in ouch.INBOUND.values()] + [("outbound", m) for m in ouch.OUTBOUND.values()]
DECODE = {"inbound": ouch.decode_inbound, "outbound": ouch.decode_outbound}
VALUES = {
    "char": st.sampled_from("ABNY0 "),
    "u16": st.integers(0, 2**16 - 1),
    "u32": st.integers(0, 2**32 - 1),
    "u64": st.integers(0, 2**64 - 1),
}
OPTION_VALUES = {
    "Q": st.integers(0, 2**64 - 1),
    "I": st.integers(0, 2**32 - 1),
    "i": st.integers(-(2**31), 2**31 - 1),
    "H": st.integers(0, 2**16 - 1),
    "B": st.integers(0, 255),
    "c": st.sampled_from("ABN"),
    "4s": st.text("ABC", max_size=4),
}
OPTION_KINDS = {
    "Q": (1, 9, 23),
    "I": (3, 5, 13, 15, 22),
    "i": (7, 11),
    "H": (24, 30),
    "B": (28,),
    "c": (4, 6, 10, 12, 16, 17, 18, 25, 27, 29),
    "4s": (2, 14, 26),
}
KIND_OF = {tag: kind for kind, tags in OPTION_KINDS.items() for tag in tags}


def values_of(kind):
    return st.text("ABC12", max_size=int(kind[5:])) if kind.startswith("alpha") else VALUES[kind]


def options_of(message):
    return st.lists(st.sampled_from(sorted(message.tags)), unique=True, max_size=5).flatmap(
        lambda tags: (
            st.fixed_dictionaries({tag: OPTION_VALUES[KIND_OF[tag]] for tag in tags}) if message.tags else st.just({})
        )
    )


def cases():
    def case(pair):
        direction, message = pair
        fields = st.fixed_dictionaries({f: values_of(k) for f, k in message.kinds.items()})
        options = options_of(message) if message.tags else st.just({})
        return st.tuples(st.just(direction), st.just(message), fields, options)

    return st.sampled_from(BOTH).flatmap(case)


def test_every_offset_length_and_tag_is_that_of_the_sheet(sheet_tables):
    """All 25 messages, field by field."""
    tables = sheet_tables("ouch50.md")
    assert len(tables) == len(BOTH) == 25
    for heading, rows in tables.items():
        direction, code, rest = re.match(r"(\w+) `(.)` (.*)", heading).groups()
        message = {"Inbound": ouch.INBOUND, "Outbound": ouch.OUTBOUND}[direction][code]
        fixed = [row for row in rows if row[0] not in ("appendage_length", "appendage")]
        assert [(f, message.offset[f]) for f in message.kinds] == [(f, at) for f, at, *_ in fixed], message
        for field, _, length, kind, _ in fixed:
            ours = message.kinds[field]
            assert ours == {"price8": "u64", "ts8": "u64"}.get(kind, kind), (message, field)
            assert length == {"char": 1, "u16": 2, "u32": 4, "u64": 8}.get(ours) or ours == f"alpha{length}"
        options = [values for field, *_, values in rows if field == "appendage"]
        assert message.tags == {int(tag) for values in options for tag in re.findall(r"\d+", values)}, message
        size = int(re.search(r"(\d+) bytes", rest)[1])
        if "appendage required" in rest:
            assert (message.appendage, message.size + 2) == (Appendage.REQUIRED, size)
        else:
            expected = Appendage.NEVER if "no appendage" in rest else Appendage.OPTIONAL
            assert (message.appendage, message.size) == (expected, size)


def test_recorded_enter_order_decodes_and_encodes_back():
    """Number 113, sell short 225 CVLT at 63.0200, day, visible, agency, ClOrdID H8FUB8IV, Firm LIME."""
    message, fields, options = ouch.decode_inbound(RECORDED_ENTER)
    assert message is ouch.ENTER_ORDER
    assert fields == {
        "user_ref_num": 113,
        "side": "T",
        "quantity": 225,
        "symbol": "CVLT",
        "price": 630200,
        "time_in_force": "0",
        "display": "Y",
        "capacity": "A",
        "iso": "N",
        "cross_type": "N",
        "cl_ord_id": "H8FUB8IV",
    }
    assert options == {Tag.FIRM: "LIME"}
    assert ouch.ENTER_ORDER.encode(**fields, appendage=options) == RECORDED_ENTER


def test_recorded_cancel_and_canceled():
    """The other examples of the sheet, both without appendage."""
    assert ouch.decode_inbound(RECORDED_CANCEL).fields == {"user_ref_num": 7679601, "quantity": 0}
    assert ouch.CANCEL_ORDER.encode(user_ref_num=7679601, quantity=0) == RECORDED_CANCEL
    message, fields, options = ouch.decode_outbound(RECORDED_CANCELED)
    assert (message, options) == (ouch.ORDER_CANCELED, {})
    assert fields == {
        "timestamp": 0x0000289B4D681317,
        "user_ref_num": 0x00753A8D,
        "quantity": 40,
        "reason": "U",
    }
    assert ouch.CANCEL_REASONS[fields["reason"]] == "asked for"
    assert ouch.ORDER_CANCELED.encode(**fields) == RECORDED_CANCELED


def test_accepted_with_two_options_has_the_recorded_length():
    """64 + 9 bytes of appendage: Firm 4 and BBOWeightIndicator 1."""
    fields = dict.fromkeys((f for f, k in ouch.ORDER_ACCEPTED.kinds.items() if k.startswith("u")), 1)
    fields |= {f: "A" for f in ouch.ORDER_ACCEPTED.kinds if f not in fields}
    options = {Tag.FIRM: "LIME", Tag.BBO_WEIGHT_INDICATOR: "1"}
    assert len(ouch.ORDER_ACCEPTED.encode(**fields, appendage=options)) == 73


@given(cases())
def test_what_is_encoded_decodes_to_the_same(case):
    """Round trip of all messages of both directions with any of their options."""
    direction, message, fields, options = case
    raw = message.encode(**fields, appendage=options)
    decoded = DECODE[direction](raw)
    assert decoded.message is message
    assert decoded.fields == fields
    assert decoded.options == options


@given(st.sampled_from(["inbound", "outbound"]), st.binary(max_size=90), cases(), st.integers(0, 100))
def test_any_bytes_decode_or_are_the_peers_fault(direction, data, case, at):
    """Random bytes, and real messages with random bytes in them."""
    _, message, fields, options = case
    real = message.encode(**fields, appendage=options)
    for raw in (data, real[:at], real[:at] + data, data[:1] + real[1:]):
        with suppress(RemoteProtocolError):
            assert DECODE[direction](raw).message.code == chr(raw[0])


@pytest.mark.parametrize(
    ("appendage", "fault"),
    [
        ("", "no appendage"),
        ("00", "no appendage"),
        ("0100", "no appendage"),
        ("0006 05024c494d", "no appendage"),
        ("0001 00", "length 0"),
        ("0002 0203", "has the length 2"),
        ("0003 0203ff", "MIN_QTY has 4 bytes, got 1"),
    ],
)
def test_broken_appendage_is_refused_with_its_place(appendage, fault):
    """Lengths that lie, missing tags, values of the wrong size, and no appendage where there must be one."""
    with pytest.raises(RemoteProtocolError, match=fault):
        ouch.decode_inbound(RECORDED_ENTER[:45] + bytes.fromhex(appendage))


def test_unknown_tags_are_skipped_by_their_length():
    """Newer revisions add tags: their bytes are kept, the known ones behind them are read."""
    raw = RECORDED_ENTER[:45] + bytes.fromhex("000d 03630102 02ff00 05024c494d45")
    assert ouch.decode_inbound(raw).options == {0x63: b"\1\2", 0xFF: b"\0", Tag.FIRM: "LIME"}


def test_peg_offset_is_signed():
    """-0.0100 survives."""
    assert ouch.decode_appendage(ouch.encode_appendage({Tag.PEG_OFFSET: -100})) == {Tag.PEG_OFFSET: -100}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ouch.CANCEL_ORDER.encode(user_ref_num=1),
        lambda: ouch.CANCEL_ORDER.encode(user_ref_num=1 << 32, quantity=0),
        lambda: ouch.CANCEL_ORDER.encode(user_ref_num=1, quantity=0, appendage={Tag.FIRM: "LIME"}),
        lambda: ouch.CANCEL_ORDER.encode(user_ref_num=1, quantity=0, appendage={Tag.USER_REF_IDX: 256}),
        lambda: ouch.encode_appendage({Tag.FIRM: "FIVEY"}),
        lambda: ouch.encode_appendage({Tag.FIRM: 1}),
        lambda: ouch.encode_appendage({99: "A"}),
    ],
)
def test_a_value_that_does_not_fit_is_our_own_fault(wrong):
    """Encoders raise LocalProtocolError, nothing else."""
    with pytest.raises(LocalProtocolError):
        wrong()


def test_every_reject_has_words():
    """Named reasons, risk checks without a name, and numbers nobody knows."""
    assert ouch.reject_text(0x07) == "halted"
    assert ouch.reject_text(0x17) == "invalid symbol"
    assert ouch.reject_text(0x29) == "risk check 0x29"
    assert ouch.reject_text(0x7F) == "unknown reason 0x7F"
