"""TotalView-ITCH 5.0: sizes, offsets, encoders and a decoder (layouts from the exchange's specification).

Prices are integers with 4 implied decimals (1503400 is 150.3400; 8 decimals in ``V``), timestamps nanoseconds after
midnight of the exchange. A message has neither length nor number: the carrier gives them, and in a recorded file
a big-endian u16 length stands before each message.

The functions named after messages are the fast encoders, for what the simulated exchange sends; `LAYOUTS` and
`decode` know all 23 types. Nothing here imports Numba; `kernels.itch` uses the same offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from tickpath.common.protocols.wire import (
    Buffer,
    Layout,
    LocalProtocolError,
    RemoteProtocolError,
    alpha,
)

#: First 11 bytes of every message: type, stock_locate, tracking_number, timestamp.
HEADER_SIZE: Final = 11
OFF_LOCATE: Final = 1
OFF_TRACKING: Final = 3
OFF_TIMESTAMP: Final = 5

NS_PER_DAY: Final = 86_400_000_000_000
MAX_PRICE: Final = 0x77359400  # 200000.0000

_HEADER: Final = [("stock_locate", "u16"), ("tracking_number", "u16"), ("timestamp", "u48")]


def _layouts() -> Iterator[Layout]:
    table: dict[tuple[str, str], str] = {
        ("S", "system_event"): "event_code:char",
        ("R", "stock_directory"): (
            "stock:alpha8 market_category:char financial_status:char round_lot_size:u32 round_lots_only:char"
            " issue_classification:char issue_sub_type:alpha2 authenticity:char short_sale_threshold:char"
            " ipo_flag:char luld_tier:char etp_flag:char etp_leverage_factor:u32 inverse_indicator:char"
        ),
        ("H", "stock_trading_action"): "stock:alpha8 trading_state:char reserved:char reason:alpha4",
        ("Y", "reg_sho_restriction"): "stock:alpha8 reg_sho_action:char",
        ("L", "market_participant_position"): (
            "mpid:alpha4 stock:alpha8 primary_market_maker:char market_maker_mode:char participant_state:char"
        ),
        ("V", "mwcb_decline_level"): "level_1:u64 level_2:u64 level_3:u64",
        ("W", "mwcb_status"): "breached_level:char",
        ("K", "ipo_quoting_period"): "stock:alpha8 release_time:u32 release_qualifier:char ipo_price:u32",
        ("J", "luld_auction_collar"): (
            "stock:alpha8 reference_price:u32 upper_price:u32 lower_price:u32 extension:u32"
        ),
        ("h", "operational_halt"): "stock:alpha8 market_code:char action:char",
        ("A", "add_order"): "order_ref:u64 side:char shares:u32 stock:alpha8 price:u32",
        ("F", "add_order_mpid"): "order_ref:u64 side:char shares:u32 stock:alpha8 price:u32 attribution:alpha4",
        ("E", "order_executed"): "order_ref:u64 executed_shares:u32 match_number:u64",
        ("C", "order_executed_with_price"): (
            "order_ref:u64 executed_shares:u32 match_number:u64 printable:char execution_price:u32"
        ),
        ("X", "order_cancel"): "order_ref:u64 cancelled_shares:u32",
        ("D", "order_delete"): "order_ref:u64",
        ("U", "order_replace"): "original_order_ref:u64 new_order_ref:u64 shares:u32 price:u32",
        ("P", "trade"): "order_ref:u64 side:char shares:u32 stock:alpha8 price:u32 match_number:u64",
        ("Q", "cross_trade"): "shares:u64 stock:alpha8 cross_price:u32 match_number:u64 cross_type:char",
        ("B", "broken_trade"): "match_number:u64",
        ("I", "net_order_imbalance"): (
            "paired_shares:u64 imbalance_shares:u64 imbalance_direction:char stock:alpha8 far_price:u32"
            " near_price:u32 current_reference_price:u32 cross_type:char price_variation:char"
        ),
        ("N", "retail_interest"): "stock:alpha8 interest_flag:char",
        ("O", "direct_listing"): (
            "stock:alpha8 open_eligibility:char minimum_price:u32 maximum_price:u32 near_execution_price:u32"
            " near_execution_time:u64 lower_collar:u32 upper_collar:u32"
        ),
    }
    for (code, name), fields in table.items():
        pairs = [(field, kind) for field, kind in (item.split(":") for item in fields.split())]
        yield Layout(code, name, _HEADER + pairs)


#: Layout of each type, by its letter.
LAYOUTS: Final[dict[str, Layout]] = {layout.code: layout for layout in _layouts()}

#: Size in bytes by type byte, 0 for a type that does not exist.
SIZES: Final[tuple[int, ...]] = tuple(LAYOUTS[chr(i)].size if chr(i) in LAYOUTS else 0 for i in range(256))


def decode(message: Buffer) -> dict[str, Any]:
    """All fields of one message by name, with ``type`` (the letter) first.

    More bytes than the type has are tolerated and not read. Raises RemoteProtocolError for a message that is too
    short or of an unknown type.
    """
    if len(message) == 0:
        msg = "an ITCH message of no bytes"
        raise RemoteProtocolError(msg)
    code = chr(message[0])
    layout = LAYOUTS.get(code)
    if layout is None:
        msg = f"unknown ITCH message type {code!r}"
        raise RemoteProtocolError(msg)
    return {"type": code, **layout.decode(message)}


def encode(code: str, **fields: Any) -> bytes:
    """One message of any type from its fields by name (inverse of `decode`). Raises LocalProtocolError."""
    layout = LAYOUTS.get(code)
    if layout is None:
        msg = f"unknown ITCH message type {code!r}"
        raise LocalProtocolError(msg)
    return layout.encode(**fields)


def frames(data: Buffer) -> Iterator[memoryview]:
    """Messages of a recorded file: u16 length and message, repeated.

    Raises RemoteProtocolError, with the position, when the data ends inside a frame.
    """
    view = memoryview(data)
    at = 0
    while at < len(view):
        end = at + 2 + int.from_bytes(view[at : at + 2], "big")
        if at + 2 > len(view) or end > len(view):
            msg = f"the data ends inside the frame that begins at byte {at}"
            raise RemoteProtocolError(msg)
        yield view[at + 2 : end]
        at = end


def frame(message: Buffer) -> bytes:
    """One message with its u16 length in front, as recorded files and MoldUDP64 blocks have it."""
    return len(message).to_bytes(2, "big") + message


# The fast encoders. ts_ns is ns after midnight; the order of arguments is the order of the fields, after what all
# messages have. Each raises LocalProtocolError when a value does not fit its field.

_H: Final = ">BHHHI"  # the header; the timestamp as its upper 16 and lower 32 bits
_S: Final = struct.Struct(_H + "B")
_R: Final = struct.Struct(_H + "8sBBIBB2sBBBBBIB")
_HALT: Final = struct.Struct(_H + "8sBB4s")
_Y: Final = struct.Struct(_H + "8sB")
_L: Final = struct.Struct(_H + "4s8sBBB")
_A: Final = struct.Struct(_H + "QBI8sI")
_F: Final = struct.Struct(_H + "QBI8sI4s")
_E: Final = struct.Struct(_H + "QIQ")
_C: Final = struct.Struct(_H + "QIQBI")
_X: Final = struct.Struct(_H + "QI")
_D: Final = struct.Struct(_H + "Q")
_U: Final = struct.Struct(_H + "QQII")
_P: Final = struct.Struct(_H + "QBI8sIQ")
_Q: Final = struct.Struct(_H + "Q8sIQB")


def _pack(packer: struct.Struct, code: int, locate: int, ts_ns: int, tracking: int, *values: object) -> bytes:
    try:
        return packer.pack(code, locate, tracking, ts_ns >> 32, ts_ns & 0xFFFFFFFF, *values)
    except struct.error as error:
        msg = f"{LAYOUTS[chr(code)].name} ({chr(code)}): a value does not fit its field: {error}"
        raise LocalProtocolError(msg) from error


def system_event(ts_ns: int, event_code: str, tracking: int = 0) -> bytes:
    """``S``: O, S, Q, M, E, C; see the specification. Its locate is 0."""
    return _pack(_S, 0x53, 0, ts_ns, tracking, ord(event_code))


def stock_directory(
    locate: int,
    ts_ns: int,
    stock: str,
    *,
    market_category: str = "Q",
    round_lot_size: int = 100,
    tracking: int = 0,
) -> bytes:
    """``R`` of a common stock in normal standing, marked live."""
    return _pack(
        _R,
        0x52,
        locate,
        ts_ns,
        tracking,
        alpha(stock, 8),
        ord(market_category),
        ord("N"),
        round_lot_size,
        ord("N"),
        ord("C"),
        b"Z ",
        ord("P"),
        ord("N"),
        ord(" "),
        ord("1"),
        ord("N"),
        0,
        ord("N"),
    )


def trading_action(
    locate: int, ts_ns: int, stock: str, trading_state: str, reason: str = "", tracking: int = 0
) -> bytes:
    """``H``: state H halted, P paused, Q quotation only, T trading."""
    return _pack(
        _HALT, 0x48, locate, ts_ns, tracking, alpha(stock, 8), ord(trading_state), ord(" "), alpha(reason, 4)
    )


def reg_sho(locate: int, ts_ns: int, stock: str, action: str = "0", tracking: int = 0) -> bytes:
    """``Y``."""
    return _pack(_Y, 0x59, locate, ts_ns, tracking, alpha(stock, 8), ord(action))


def participant_position(
    locate: int,
    ts_ns: int,
    mpid: str,
    stock: str,
    primary: str = "Y",
    mode: str = "N",
    state: str = "A",
    tracking: int = 0,
) -> bytes:
    """``L``."""
    return _pack(
        _L,
        0x4C,
        locate,
        ts_ns,
        tracking,
        alpha(mpid, 4),
        alpha(stock, 8),
        ord(primary),
        ord(mode),
        ord(state),
    )


def add_order(
    locate: int,
    ts_ns: int,
    order_ref: int,
    side: str,
    shares: int,
    stock: str,
    price: int,
    attribution: str | None = None,
    tracking: int = 0,
) -> bytes:
    """``A``, or ``F`` when there is an attribution (MPID). Side is B or S."""
    symbol = alpha(stock, 8)
    if attribution is None:
        return _pack(_A, 0x41, locate, ts_ns, tracking, order_ref, ord(side), shares, symbol, price)
    mpid = alpha(attribution, 4)
    return _pack(_F, 0x46, locate, ts_ns, tracking, order_ref, ord(side), shares, symbol, price, mpid)


def order_executed(
    locate: int, ts_ns: int, order_ref: int, shares: int, match_number: int, tracking: int = 0
) -> bytes:
    """``E``: at the resting order's price."""
    return _pack(_E, 0x45, locate, ts_ns, tracking, order_ref, shares, match_number)


def order_executed_with_price(
    locate: int,
    ts_ns: int,
    order_ref: int,
    shares: int,
    match_number: int,
    printable: bool,
    price: int,
    tracking: int = 0,
) -> bytes:
    """``C``: at another price than the displayed one."""
    flag = 0x59 if printable else 0x4E
    return _pack(_C, 0x43, locate, ts_ns, tracking, order_ref, shares, match_number, flag, price)


def order_cancel(locate: int, ts_ns: int, order_ref: int, shares: int, tracking: int = 0) -> bytes:
    """``X``: takes `shares` off the order."""
    return _pack(_X, 0x58, locate, ts_ns, tracking, order_ref, shares)


def order_delete(locate: int, ts_ns: int, order_ref: int, tracking: int = 0) -> bytes:
    """``D``."""
    return _pack(_D, 0x44, locate, ts_ns, tracking, order_ref)


def order_replace(
    locate: int, ts_ns: int, original_ref: int, new_ref: int, shares: int, price: int, tracking: int = 0
) -> bytes:
    """``U``."""
    return _pack(_U, 0x55, locate, ts_ns, tracking, original_ref, new_ref, shares, price)


def trade(
    locate: int,
    ts_ns: int,
    shares: int,
    stock: str,
    price: int,
    match_number: int,
    side: str = "B",
    order_ref: int = 0,
    tracking: int = 0,
) -> bytes:
    """``P``: an execution against hidden interest; the displayed book does not change."""
    symbol = alpha(stock, 8)
    return _pack(_P, 0x50, locate, ts_ns, tracking, order_ref, ord(side), shares, symbol, price, match_number)


def cross_trade(
    locate: int,
    ts_ns: int,
    shares: int,
    stock: str,
    price: int,
    match_number: int,
    cross_type: str = "O",
    tracking: int = 0,
) -> bytes:
    """``Q``: an auction's print; the displayed book does not change."""
    symbol = alpha(stock, 8)
    return _pack(_Q, 0x51, locate, ts_ns, tracking, shares, symbol, price, match_number, ord(cross_type))
