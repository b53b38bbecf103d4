"""OUCH 5.0, Nasdaq's order entry: every message of both directions, the appendage, and the tables of codes.

Type letters are per direction, so there are two sets of layouts: `INBOUND` from client to exchange (in SoupBinTCP
``U`` packets) and `OUTBOUND` from exchange to client (in ``S`` packets). Each message is a `Message` with named
layout, for example ``ENTER_ORDER.encode(user_ref_num=1, ..., appendage={Tag.FIRM: "LIME"})``; offsets for patching
a template in place are ``ENTER_ORDER.offset["quantity"]``. Prices are integers with 4 implied decimals, timestamps
nanoseconds after midnight.

The appendage is a dict tag -> value. Known tags have typed values; unknown ones keep their bytes when decoded, so
that newer revisions pass through. How a message without appendage looks differs: see `Appendage`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum
from typing import Any, Final, NamedTuple

from tickpath.common.protocols.wire import Buffer, Layout, LocalProtocolError, RemoteProtocolError, alpha, text

MARKET_PRICE: Final = 0x7FFFFFFF  # "price" of a market order
MAX_LIMIT_PRICE: Final = 0x7735939C  # 199999.9900
MAX_QUANTITY: Final = 999_999
CL_ORD_ID_SIZE: Final = 14


class Tag(IntEnum):
    """Options of the appendage."""

    SECONDARY_ORD_REF_NUM = 1
    FIRM = 2
    MIN_QTY = 3
    CUSTOMER_TYPE = 4
    MAX_FLOOR = 5
    PRICE_TYPE = 6
    PEG_OFFSET = 7
    DISCRETION_PRICE = 9
    DISCRETION_PRICE_TYPE = 10
    DISCRETION_PEG_OFFSET = 11
    POST_ONLY = 12
    RANDOM_RESERVES = 13
    ROUTE = 14
    EXPIRE_TIME = 15
    TRADE_NOW = 16
    HANDLE_INST = 17
    BBO_WEIGHT_INDICATOR = 18
    DISPLAY_QUANTITY = 22
    DISPLAY_PRICE = 23
    GROUP_ID = 24
    SHARES_LOCATED = 25
    LOCATE_BROKER = 26
    SIDE = 27
    USER_REF_IDX = 28
    AIQ_STRATEGY = 29
    AIQ_GROUP_ID = 30


_KINDS: Final[dict[int, str]] = {
    1: "Q",
    2: "4s",
    3: "I",
    4: "c",
    5: "I",
    6: "c",
    7: "i",
    9: "Q",
    10: "c",
    11: "i",
    12: "c",
    13: "I",
    14: "4s",
    15: "I",
    16: "c",
    17: "c",
    18: "c",
    22: "I",
    23: "Q",
    24: "H",
    25: "c",
    26: "4s",
    27: "c",
    28: "B",
    29: "c",
    30: "H",
}
_VALUES: Final = {tag: struct.Struct(">" + kind) for tag, kind in _KINDS.items()}

Options = Mapping[int, Any]


class Appendage(Enum):
    """Whether a message carries an appendage."""

    NEVER = 0
    OPTIONAL = 1  # when empty, its two length bytes are missing as well
    REQUIRED = 2  # when empty, its length 0 is there


def encode_appendage(options: Options) -> bytes:
    """Elements of the appendage, without the length in front. Raises LocalProtocolError."""
    out = bytearray()
    for tag, value in options.items():
        packer = _VALUES.get(tag)
        if packer is None:
            msg = f"OUCH option: unknown tag {tag}"
            raise LocalProtocolError(msg)
        try:
            raw = alpha(value, packer.size) if packer.format.endswith(("s", "c")) else packer.pack(value)
        except (struct.error, AttributeError, TypeError, LocalProtocolError) as error:
            msg = f"OUCH option {Tag(tag).name}: {value!r} does not fit"
            raise LocalProtocolError(msg) from error
        out += bytes((1 + len(raw), tag)) + raw
    return bytes(out)


def decode_appendage(data: Buffer) -> dict[int, Any]:
    """Options by tag; of a repeated tag the last. Raises RemoteProtocolError."""
    options: dict[int, Any] = {}
    at = 0
    while at < len(data):
        length = data[at]
        end = at + 1 + length
        if length == 0 or end > len(data):
            msg = f"OUCH appendage: the element at byte {at} of {len(data)} has the length {length}"
            raise RemoteProtocolError(msg)
        tag = data[at + 1]
        raw = bytes(data[at + 2 : end])
        packer = _VALUES.get(tag)
        if packer is None:
            options[tag] = raw
        elif packer.size != len(raw):
            msg = f"OUCH option {Tag(tag).name} has {packer.size} bytes, got {len(raw)}"
            raise RemoteProtocolError(msg)
        elif packer.format.endswith(("s", "c")):
            options[tag] = text(raw)
        else:
            (options[tag],) = packer.unpack(raw)
        at = end
    return options


class Decoded(NamedTuple):
    """A received message: its layout, fields by name, options by tag."""

    message: Message
    fields: dict[str, Any]
    options: dict[int, Any]


class Message(Layout):
    """Layout of one OUCH message; `size` is without the appendage and without its length."""

    def __init__(self, code: str, name: str, fields: str, appendage: Appendage, tags: Sequence[int]) -> None:
        pairs = [(field, kind) for field, kind in (item.split(":") for item in fields.split())]
        super().__init__(code, name, pairs)
        self.appendage: Final = appendage
        self.tags: Final = frozenset(tags)

    def encode(self, appendage: Options | None = None, **values: Any) -> bytes:
        """The message with every field given by name, and its options. Raises LocalProtocolError."""
        fixed = super().encode(**values)
        if not appendage:
            return fixed + b"\0\0" if self.appendage is Appendage.REQUIRED else fixed
        if wrong := sorted(set(appendage) - self.tags):
            msg = f"{self.name} ({self.code}) does not take the options {wrong}; it takes {sorted(self.tags)}"
            raise LocalProtocolError(msg)
        options = encode_appendage(appendage)
        return fixed + len(options).to_bytes(2, "big") + options

    def decode_options(self, data: Buffer) -> dict[int, Any]:
        """Options of a whole message. Raises RemoteProtocolError."""
        rest = memoryview(data)[self.size :]
        if len(rest) == 0 and self.appendage is not Appendage.REQUIRED:
            return {}
        length = int.from_bytes(rest[:2], "big")
        if self.appendage is Appendage.NEVER or len(rest) < 2 or length != len(rest) - 2:
            msg = f"{self.name} ({self.code}): {len(rest)} bytes after the {self.size} fixed ones are no appendage"
            raise RemoteProtocolError(msg)
        return decode_appendage(rest[2:])


_AIQ: Final = (29, 30)
_NEVER, _OPTIONAL, _REQUIRED = Appendage.NEVER, Appendage.OPTIONAL, Appendage.REQUIRED

# Inbound: client to exchange.
ENTER_ORDER: Final = Message(
    "O",
    "enter_order",
    "user_ref_num:u32 side:char quantity:u32 symbol:alpha8 price:u64 time_in_force:char display:char capacity:char"
    " iso:char cross_type:char cl_ord_id:alpha14",
    _REQUIRED,
    (2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 15, 16, 17, 24, 25, 26, 28, *_AIQ),
)
REPLACE_ORDER: Final = Message(
    "U",
    "replace_order",
    "orig_user_ref_num:u32 user_ref_num:u32 quantity:u32 price:u64 time_in_force:char display:char iso:char"
    " cl_ord_id:alpha14",
    _REQUIRED,
    (3, 5, 6, 7, 9, 10, 11, 12, 13, 15, 16, 17, 25, 26, 27, 28, *_AIQ),
)
CANCEL_ORDER: Final = Message("X", "cancel_order", "user_ref_num:u32 quantity:u32", _OPTIONAL, (28,))
MODIFY_ORDER: Final = Message("M", "modify_order", "user_ref_num:u32 side:char quantity:u32", _OPTIONAL, (25, 26, 28))
MASS_CANCEL: Final = Message(
    "C", "mass_cancel", "user_ref_num:u32 firm:alpha4 symbol:alpha8", _REQUIRED, (24, 27, 28)
)
DISABLE_ORDER_ENTRY: Final = Message("D", "disable_order_entry", "user_ref_num:u32 firm:alpha4", _REQUIRED, (28,))
ENABLE_ORDER_ENTRY: Final = Message("E", "enable_order_entry", "user_ref_num:u32 firm:alpha4", _REQUIRED, (28,))
ACCOUNT_QUERY: Final = Message("Q", "account_query", "", _OPTIONAL, (28,))

# Outbound: exchange to client.
SYSTEM_EVENT: Final = Message("S", "system_event", "timestamp:u64 event_code:char", _NEVER, ())
ORDER_ACCEPTED: Final = Message(
    "A",
    "order_accepted",
    "timestamp:u64 user_ref_num:u32 side:char quantity:u32 symbol:alpha8 price:u64 time_in_force:char display:char"
    " order_reference_number:u64 capacity:char iso:char cross_type:char order_state:char cl_ord_id:alpha14",
    _REQUIRED,
    (2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 24, 25, 28, *_AIQ),
)
ORDER_REPLACED: Final = Message(
    "U",
    "order_replaced",
    "timestamp:u64 orig_user_ref_num:u32 user_ref_num:u32 side:char quantity:u32 symbol:alpha8 price:u64"
    " time_in_force:char display:char order_reference_number:u64 capacity:char iso:char cross_type:char"
    " order_state:char cl_ord_id:alpha14",
    _REQUIRED,
    (2, 3, 5, 6, 12, 15, 16, 17, 18, 28, *_AIQ),
)
ORDER_CANCELED: Final = Message(
    "C", "order_canceled", "timestamp:u64 user_ref_num:u32 quantity:u32 reason:char", _OPTIONAL, (28,)
)
AIQ_CANCELED: Final = Message(
    "D",
    "aiq_canceled",
    "timestamp:u64 user_ref_num:u32 decrement_shares:u32 reason:char quantity_prevented:u32 execution_price:u64"
    " liquidity_flag:char aiq_strategy:char",
    _OPTIONAL,
    (28,),
)
ORDER_EXECUTED: Final = Message(
    "E",
    "order_executed",
    "timestamp:u64 user_ref_num:u32 quantity:u32 price:u64 liquidity_flag:char match_number:u64",
    _REQUIRED,
    (28,),
)
BROKEN_TRADE: Final = Message(
    "B",
    "broken_trade",
    "timestamp:u64 user_ref_num:u32 match_number:u64 reason:char cl_ord_id:alpha14",
    _OPTIONAL,
    (28,),
)
REJECTED: Final = Message(
    "J", "rejected", "timestamp:u64 user_ref_num:u32 reason:u16 cl_ord_id:alpha14", _OPTIONAL, (28,)
)
CANCEL_PENDING: Final = Message("P", "cancel_pending", "timestamp:u64 user_ref_num:u32", _OPTIONAL, (28,))
CANCEL_REJECT: Final = Message("I", "cancel_reject", "timestamp:u64 user_ref_num:u32", _OPTIONAL, (28,))
ORDER_PRIORITY_UPDATE: Final = Message(
    "T",
    "order_priority_update",
    "timestamp:u64 user_ref_num:u32 price:u64 display:char order_reference_number:u64",
    _OPTIONAL,
    (28,),
)
ORDER_MODIFIED: Final = Message(
    "M", "order_modified", "timestamp:u64 user_ref_num:u32 side:char quantity:u32", _OPTIONAL, (25, 26, 28)
)
ORDER_RESTATED: Final = Message(
    "R", "order_restated", "timestamp:u64 user_ref_num:u32 reason:char", _REQUIRED, (1, 22, 23, 28)
)
MASS_CANCEL_RESPONSE: Final = Message(
    "X",
    "mass_cancel_response",
    "timestamp:u64 user_ref_num:u32 firm:alpha4 symbol:alpha8",
    _REQUIRED,
    (24, 27, 28),
)
DISABLE_ORDER_ENTRY_RESPONSE: Final = Message(
    "G", "disable_order_entry_response", "timestamp:u64 user_ref_num:u32 firm:alpha4", _REQUIRED, (28,)
)
ENABLE_ORDER_ENTRY_RESPONSE: Final = Message(
    "K", "enable_order_entry_response", "timestamp:u64 user_ref_num:u32 firm:alpha4", _REQUIRED, (28,)
)
ACCOUNT_QUERY_RESPONSE: Final = Message(
    "Q", "account_query_response", "timestamp:u64 next_user_ref_num:u32", _OPTIONAL, (28,)
)

INBOUND: Final[dict[str, Message]] = {
    message.code: message
    for message in (
        ENTER_ORDER,
        REPLACE_ORDER,
        CANCEL_ORDER,
        MODIFY_ORDER,
        MASS_CANCEL,
        DISABLE_ORDER_ENTRY,
        ENABLE_ORDER_ENTRY,
        ACCOUNT_QUERY,
    )
}
OUTBOUND: Final[dict[str, Message]] = {
    message.code: message
    for message in (
        SYSTEM_EVENT,
        ORDER_ACCEPTED,
        ORDER_REPLACED,
        ORDER_CANCELED,
        AIQ_CANCELED,
        ORDER_EXECUTED,
        BROKEN_TRADE,
        REJECTED,
        CANCEL_PENDING,
        CANCEL_REJECT,
        ORDER_PRIORITY_UPDATE,
        ORDER_MODIFIED,
        ORDER_RESTATED,
        MASS_CANCEL_RESPONSE,
        DISABLE_ORDER_ENTRY_RESPONSE,
        ENABLE_ORDER_ENTRY_RESPONSE,
        ACCOUNT_QUERY_RESPONSE,
    )
}


def _decode(messages: dict[str, Message], direction: str, data: Buffer) -> Decoded:
    if len(data) == 0:
        msg = f"an {direction} OUCH message of no bytes"
        raise RemoteProtocolError(msg)
    message = messages.get(chr(data[0]))
    if message is None:
        msg = f"unknown {direction} OUCH message type {chr(data[0])!r}"
        raise RemoteProtocolError(msg)
    return Decoded(message, message.decode(data), message.decode_options(data))


def decode_inbound(data: Buffer) -> Decoded:
    """A message of the client. Raises RemoteProtocolError."""
    return _decode(INBOUND, "inbound", data)


def decode_outbound(data: Buffer) -> Decoded:
    """A message of the exchange. Raises RemoteProtocolError."""
    return _decode(OUTBOUND, "outbound", data)


class Reject(IntEnum):
    """Reason of a `REJECTED` (u16). Numbers from 0x20 on are risk checks of the venue."""

    QUOTE_UNAVAILABLE = 0x01
    DESTINATION_CLOSED = 0x02
    INVALID_DISPLAY = 0x03
    INVALID_MAX_FLOOR = 0x04
    INVALID_PEG_TYPE = 0x05
    FAT_FINGER = 0x06
    HALTED = 0x07
    ISO_NOT_ALLOWED = 0x08
    INVALID_SIDE = 0x09
    PROCESSING_ERROR = 0x0A
    CANCEL_PENDING = 0x0B
    FIRM_NOT_AUTHORISED = 0x0C
    INVALID_MIN_QUANTITY = 0x0D
    NO_CLOSING_REFERENCE_PRICE = 0x0E
    OTHER = 0x0F
    CANCEL_NOT_ALLOWED = 0x10
    PEGGING_NOT_ALLOWED = 0x11
    CROSSED_MARKET = 0x12
    INVALID_QUANTITY = 0x13
    INVALID_CROSS_ORDER = 0x14
    REPLACE_NOT_ALLOWED = 0x15
    ROUTING_NOT_ALLOWED = 0x16
    INVALID_SYMBOL = 0x17
    TEST = 0x18
    LATE_LOC_TOO_AGGRESSIVE = 0x19
    RETAIL_NOT_ALLOWED = 0x1A
    INVALID_MIDPOINT_POST_ONLY_PRICE = 0x1B
    INVALID_DESTINATION = 0x1C
    INVALID_PRICE = 0x1D
    SHARES_EXCEED_THRESHOLD = 0x1E
    MAXIMUM_NOTIONAL_EXCEEDED = 0x1F
    RISK_AGGREGATE_EXPOSURE = 0x20
    RISK_RESTRICTED_STOCK = 0x22
    RISK_ADV_LIMIT = 0x25
    RISK_FAT_FINGER = 0x26
    RISK_MARKET_ORDERS = 0x2C
    RISK_ORDER_NOTIONAL = 0x30
    RISK_QUANTITY = 0x31


def reject_text(reason: int) -> str:
    """Words for the reason of a `REJECTED`, also for numbers that have no name here."""
    try:
        return Reject(reason).name.lower().replace("_", " ")
    except ValueError:
        kind = "risk check" if 0x20 <= reason <= 0x33 else "unknown reason"
        return f"{kind} 0x{reason:02X}"


#: Reason of an `ORDER_CANCELED` or `AIQ_CANCELED`.
CANCEL_REASONS: Final = {
    "U": "asked for",
    "I": "immediate or cancel",
    "T": "time-out",
    "S": "supervisory",
    "D": "regulatory",
    "Q": "self match prevention",
    "Z": "system",
    "C": "cross cancelled",
    "K": "market collars",
    "H": "halted",
    "X": "open protection",
    "E": "closed",
    "F": "post only would slide",
    "G": "post only would slide, displayed contra order",
    "e": "direct listing limit",
}

#: Most used liquidity flags of an `ORDER_EXECUTED`.
LIQUIDITY_FLAGS: Final = {
    "A": "added",
    "R": "removed",
    "m": "removed at midpoint",
    "k": "added by a midpoint order",
    "J": "added hidden",
    "O": "opening cross",
    "C": "closing cross",
    "H": "halt or IPO cross",
}
