"""Order entry: an OUCH 5.0 message of a client in, the answers out as SoupBinTCP packets, without Python.

This is the only implementation of what Enter Order and Cancel Order answer, of fills, and of what a cancel of any
origin reports: the live venue (`tickpath.sim.venue`) and replay (`tickpath.sim.offline`) both run it.

A *channel* is an increasing series of user reference numbers: channel ``account * 256 + UserRefIdx``. Answers pile up
in ``Desk.reports``, ready to be sent: packets ``S`` back to back, each 2 bytes of length, the letter ``S``, the OUCH
message. ``Desk.spans`` says for each of them whose it is and where its message lies. Whoever took them sets
``words[N_REPORTS]`` and ``words[N_BYTES]`` to 0.

Layouts: OUCH 5.0 and SoupBinTCP as coded in `tickpath.common.protocols`; the tests hold these kernels against that
codec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.jit import always_inlined, kernel
from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.protocols.ouch50 import Reject, Tag
from tickpath.sim.kernels.matching import (
    CLOSED,
    EXCH_NS,
    EXCHANGE,
    FILL_CAPACITY,
    N_FILLS,
    ORDER_REF,
    REMAINDER,
    SEEN_CAPACITY,
    Exchange,
    enter,
    find_live,
    measure,
    reduce,
)
from tickpath.sim.layout import VENUE_ORDER, Counter

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

MAX_ACCOUNTS: Final = 256

#: ``verdict`` of a message whose options nobody has looked at: it is dealt with only when it has none.
UNREAD: Final = -1

#: Prices that mean a market order: 214748.3647 and 200000.0000.
MARKET_PRICES: Final = (ouch.MARKET_PRICE, 2_000_000_000)

# Fields of ``words``, int64[WORDS].
N_REPORTS, N_BYTES, ANNOUNCED_CLOSED = range(3)
WORDS: Final = 3

# Columns of ``spans``.
ACCOUNT, BEGIN, END = range(3)

_LARGEST = 3 + 62 + 2 + 3  # an acceptance with its only option, in its packet
#: Room for what one message can cause: an acceptance, all executions that the list of fills holds, a cancel.
ANSWER_BYTES: Final = (FILL_CAPACITY + 2) * _LARGEST
ANSWERS: Final = FILL_CAPACITY + 2


class Desk(NamedTuple):
    """What order entry knows beside the `Exchange`."""

    symbols: Ints  # int64[power of two, 2]: symbol as a big-endian number, instrument + 1; open addressing
    last_refs: Ints  # int64[MAX_ACCOUNTS * 256]: last user reference number of each channel
    disabled: Ints  # int64[MAX_ACCOUNTS]: 1 while order entry is switched off for the account
    order_bytes: Bytes  # uint8[orders, VENUE_ORDER.itemsize]: the memory of Exchange.orders
    out_ns: Ints  # int64[power of two]: when each market data message left, see `wire.transmit`
    seen: Ints  # int64[power of two]: client order ids entered so far, see `matching.measure`
    tick_to_order: Ints  # int64[HIST_SIZE], ns
    reports: Bytes  # uint8[>= ANSWER_BYTES]: answers, as packets
    spans: Ints  # int64[>= ANSWERS, 3]: account, first byte of the message, byte behind it
    words: Ints  # int64[WORDS]

    @classmethod
    def create(
        cls,
        exchange: Exchange,
        symbols: Sequence[str],
        listed: Mapping[str, int],
        *,
        tick_to_order: Ints | None = None,
        answers: int = ANSWERS,
    ) -> Desk:
        """Order entry for instruments ``symbols[i]``, those of them that are keys of `listed`.

        `answers` is how many reports may wait to be taken.
        """
        table = np.zeros((1 << (2 * len(symbols)).bit_length(), 2), np.int64)
        mask = len(table) - 1
        for instrument, symbol in enumerate(symbols):
            if symbol in listed:
                key = int.from_bytes(symbol.encode("ascii").ljust(8), "big")
                slot = symbol_home(key, mask)
                while table[slot, 1]:
                    slot = (slot + 1) & mask
                table[slot] = key, instrument + 1
        orders = exchange.orders
        return cls(
            table,
            np.zeros(MAX_ACCOUNTS * 256, np.int64),
            np.zeros(MAX_ACCOUNTS, np.int64),
            orders.view(np.uint8).reshape(len(orders), orders.itemsize),
            np.zeros(1, np.int64),
            np.zeros(SEEN_CAPACITY, np.int64),
            tick_to_order if tick_to_order is not None else np.zeros(HIST_SIZE, np.int64),
            np.zeros(answers * _LARGEST, np.uint8),
            np.zeros((answers, 3), np.int64),
            np.zeros(WORDS, np.int64),
        )


_I64 = numba.int64
_INTS = numba.int64[::1]
_BYTES = numba.uint8[::1]
DESK: Final = numba.types.NamedTuple(
    (
        numba.int64[:, ::1],
        _INTS,
        _INTS,
        numba.uint8[:, ::1],
        _INTS,
        _INTS,
        _INTS,
        _BYTES,
        numba.int64[:, ::1],
        _INTS,
    ),
    Desk,
)

# Offsets in the messages of the client.
_ENTER, _CANCEL = ouch.ENTER_ORDER.offset, ouch.CANCEL_ORDER.offset
_REF, _SIDE, _QTY, _SYMBOL, _PRICE, _TIF, _DISPLAY, _CAPACITY, _ISO, _CROSS, _CL_ORD_ID = (
    _ENTER[name]
    for name in (
        "user_ref_num", "side", "quantity", "symbol", "price", "time_in_force", "display", "capacity", "iso",
        "cross_type", "cl_ord_id",
    )
)  # fmt: skip
_CANCEL_REF, _CANCEL_QTY = _CANCEL["user_ref_num"], _CANCEL["quantity"]
_ENTER_SIZE, _CANCEL_SIZE = ouch.ENTER_ORDER.size, ouch.CANCEL_ORDER.size
_ID_SIZE = ouch.CL_ORD_ID_SIZE

# Sizes of the answers without their appendage, and where their fields behind the user reference number begin.
_ACCEPTED_SIZE, _EXECUTED_SIZE = ouch.ORDER_ACCEPTED.size, ouch.ORDER_EXECUTED.size
_CANCELED_SIZE, _REJECTED_SIZE, _EVENT_SIZE = ouch.ORDER_CANCELED.size, ouch.REJECTED.size, ouch.SYSTEM_EVENT.size
_REST = 13

_TEXT_AT, _TIF_AT, _DISPLAY_AT, _CAPACITY_AT = (
    VENUE_ORDER.fields[name][1]  # type: ignore[index]
    for name in ("cl_ord_id", "tif", "display", "capacity")
)

_GOLDEN = -7046029254386353131
_IDX_TAG = int(Tag.USER_REF_IDX)
_MARKET_PRICE, _MARKET_PRICE_ALSO = MARKET_PRICES
_MAX_LIMIT_PRICE, _MAX_QUANTITY = ouch.MAX_LIMIT_PRICE, ouch.MAX_QUANTITY
_DOLLAR, _CENT = 10_000, 100
_SPACE = ord(" ")
_A, _C, _E, _I, _J, _L, _N, _O, _S, _U, _X = (ord(c) for c in "ACEIJLNOSUX")
_BUY, _DAY, _IOC = ord("B"), ord("0"), ord("3")
_SIDES = tuple(ord(c) for c in "BSTE")
_DISPLAYS = tuple(ord(c) for c in "YNA")
_CAPACITIES = tuple(ord(c) for c in "APRO")

_DESTINATION_CLOSED = int(Reject.DESTINATION_CLOSED)
_FIRM_NOT_AUTHORISED = int(Reject.FIRM_NOT_AUTHORISED)
_INVALID_SIDE = int(Reject.INVALID_SIDE)
_INVALID_SYMBOL = int(Reject.INVALID_SYMBOL)
_HALTED = int(Reject.HALTED)
_INVALID_CROSS_ORDER = int(Reject.INVALID_CROSS_ORDER)
_INVALID_QUANTITY = int(Reject.INVALID_QUANTITY)
_INVALID_PRICE = int(Reject.INVALID_PRICE)
_INVALID_DISPLAY = int(Reject.INVALID_DISPLAY)
_ISO_NOT_ALLOWED = int(Reject.ISO_NOT_ALLOWED)
_OTHER = int(Reject.OTHER)


def symbol_home(key: int, mask: int) -> int:
    """Slot of ``symbols`` at which the search for a symbol begins."""
    return (key ^ key >> 32 ^ key >> 16) & mask


_home = always_inlined(symbol_home)


@always_inlined
def _get(message, at, size):
    """Unsigned big-endian number; one of 8 bytes above 2**63 - 1 comes out negative."""
    value = np.int64(0)
    for i in range(size):
        value = value << 8 | np.int64(message[at + i])
    return value


@always_inlined
def _put(out, at, size, value):
    for i in range(size):
        out[at + i] = value >> 8 * (size - 1 - i) & 0xFF


# --- answers -----------------------------------------------------------------------------------------------------


@always_inlined
def _append(ex, desk, kind, account, size):
    """Begin a report of `size` bytes, the time in it; returns where its message begins."""
    words = desk.words
    at = words[N_BYTES] + 3
    row = words[N_REPORTS]
    out = desk.reports
    _put(out, at - 3, 2, size + 1)
    out[at - 1] = _S
    out[at] = kind
    _put(out, at + 1, 8, ex.state[EXCH_NS])
    desk.spans[row, ACCOUNT] = account
    desk.spans[row, BEGIN] = at
    desk.spans[row, END] = at + size
    words[N_REPORTS] = row + 1
    words[N_BYTES] = at + size
    return at


@always_inlined
def _report(ex, desk, kind, channel, user_ref, size, required):
    """Begin a report about an order of a channel, its appendage included; returns where its message begins.

    `required`: the message has an appendage even if that is empty.
    """
    ref_idx = channel & 0xFF
    extra = 5 if ref_idx else 2 if required else 0
    at = _append(ex, desk, kind, channel >> 8, size + extra)
    out = desk.reports
    _put(out, at + 9, 4, user_ref)
    if extra:
        _put(out, at + size, 2, extra - 2)
    if ref_idx:
        out[at + size + 2] = 2
        out[at + size + 3] = _IDX_TAG
        out[at + size + 4] = ref_idx
    return at


@always_inlined
def _report_cancel(ex, desk, slot, lots, reason):
    order = ex.orders[slot]
    at = _report(ex, desk, _C, np.int64(order.session), order.user_ref, _CANCELED_SIZE, False)
    _put(desk.reports, at + _REST, 4, lots)
    desk.reports[at + _REST + 4] = reason


@always_inlined
def report_fills(ex, desk):
    """Report the fills in the list, and empty it."""
    for i in range(ex.state[N_FILLS]):
        fill = ex.fills[i]
        order = ex.orders[fill.slot]
        at = _report(ex, desk, _E, np.int64(order.session), order.user_ref, _EXECUTED_SIZE, True)
        out = desk.reports
        _put(out, at + _REST, 4, fill.lots)
        _put(out, at + _REST + 4, 8, fill.price4)
        out[at + _REST + 12] = fill.flag
        _put(out, at + _REST + 13, 8, fill.match)
    ex.state[N_FILLS] = 0


@always_inlined
def _report_trades(ex, desk, slot):
    """What an order that was just accepted has traded, and what of it could not rest."""
    remainder = ex.state[REMAINDER]
    report_fills(ex, desk)
    if remainder > 0:
        _report_cancel(ex, desk, slot, remainder, _I)


@always_inlined
def _reject(ex, desk, message, at, channel, user_ref, reason):
    ex.counters[Counter.REJECTED] += 1
    to = _report(ex, desk, _J, channel, user_ref, _REJECTED_SIZE, False)
    out = desk.reports
    _put(out, to + _REST, 2, reason)
    for i in range(_ID_SIZE):
        out[to + _REST + 2 + i] = message[at + _CL_ORD_ID + i]


@always_inlined
def _accept(ex, desk, message, at, channel, user_ref):
    to = _report(ex, desk, _A, channel, user_ref, _ACCEPTED_SIZE, True) + _REST
    out = desk.reports
    begin = at + _SIDE
    for i in range(_CAPACITY - _SIDE):  # side, quantity, symbol, price, time in force, display: as they came
        out[to + i] = message[begin + i]
    to += _CAPACITY - _SIDE
    _put(out, to, 8, ex.state[ORDER_REF])
    out[to + 8] = message[at + _CAPACITY]
    out[to + 9] = message[at + _ISO]
    out[to + 10] = _N
    out[to + 11] = _L
    for i in range(_ID_SIZE):
        out[to + 12 + i] = message[at + _CL_ORD_ID + i]


# --- Enter Order and Cancel Order --------------------------------------------------------------------------------


@always_inlined
def _instrument(desk, message, at):
    """Row of a symbol, -1 when it is not listed."""
    table = desk.symbols
    mask = len(table) - 1
    key = _get(message, at, 8)
    slot = _home(key, mask)
    for _ in range(len(table)):
        if table[slot, 1] == 0:
            break
        if table[slot, 0] == key:
            return table[slot, 1] - 1
        slot = (slot + 1) & mask
    return np.int64(-1)


@always_inlined
def _details(qty, price, step, tif, display, iso):
    if not 1 <= qty <= _MAX_QUANTITY:
        return _INVALID_QUANTITY
    if price not in (_MARKET_PRICE, _MARKET_PRICE_ALSO) and (
        not 1 <= price <= _MAX_LIMIT_PRICE
        or (price % step != 0 if step > 0 else price >= _DOLLAR and price % _CENT != 0)
    ):
        return _INVALID_PRICE
    if tif not in (_DAY, _IOC):
        return _OTHER
    if display not in _DISPLAYS:
        return _INVALID_DISPLAY
    return _ISO_NOT_ALLOWED if iso != _N else 0


@kernel(numba.int64(_I64, _I64, _I64, _I64, _I64, _I64))
def details_fault(qty, price, step, tif, display, iso):
    """What is wrong (`Reject`) with the size, price and kind of an order or of a replacement; 0: nothing.

    `step` is the instrument's `Exchange.price_steps`.
    """
    return _details(qty, price, step, tif, display, iso)


@always_inlined
def _fault(ex, desk, message, at, channel, instrument, price, verdict):
    """Why the order may not be entered, 0: it may."""
    if ex.state[CLOSED]:
        return _DESTINATION_CLOSED
    if desk.disabled[channel >> 8]:
        return _FIRM_NOT_AUTHORISED
    if message[at + _SIDE] not in _SIDES:
        return _INVALID_SIDE
    if instrument < 0:
        return _INVALID_SYMBOL
    if ex.halted[instrument]:
        return _HALTED
    if message[at + _CROSS] != _N:
        return _INVALID_CROSS_ORDER
    if message[at + _CAPACITY] not in _CAPACITIES:
        return _OTHER
    fault = _details(
        _get(message, at + _QTY, 4),
        price,
        ex.price_steps[instrument],
        message[at + _TIF],
        message[at + _DISPLAY],
        message[at + _ISO],
    )
    return fault if fault else max(0, verdict)


@always_inlined
def _enter(ex, desk, message, at, channel, verdict, arrived_ns, next_seq):
    ex.counters[Counter.ORDERS_RECEIVED] += 1
    user_ref = _get(message, at + _REF, 4)
    if user_ref <= desk.last_refs[channel]:
        ex.counters[Counter.IGNORED] += 1
        return
    desk.last_refs[channel] = user_ref
    if next_seq > 0:
        measure(
            ex.counters, message, at + _CL_ORD_ID, arrived_ns, next_seq, desk.out_ns, desk.seen, desk.tick_to_order
        )
    instrument = _instrument(desk, message, at + _SYMBOL)
    price = _get(message, at + _PRICE, 8)
    fault = _fault(ex, desk, message, at, channel, instrument, price, verdict)
    slot = np.int64(-1)
    if fault == 0:
        market = price in (_MARKET_PRICE, _MARKET_PRICE_ALSO)
        side = np.int64(message[at + _SIDE])
        limit = (_MARKET_PRICE if side == _BUY else 0) if market else price
        may_rest = np.int64(message[at + _TIF] == _DAY and not market)
        qty = _get(message, at + _QTY, 4)
        ex.state[N_FILLS] = 0
        slot = enter(ex, channel, user_ref, instrument, side, qty, 0, limit, may_rest, -1, arrived_ns)
        fault = _OTHER
    if slot < 0:
        _reject(ex, desk, message, at, channel, user_ref, fault)
        return
    record = desk.order_bytes
    blank = True  # the page has the id without its padding
    for i in range(_ID_SIZE - 1, -1, -1):
        letter = message[at + _CL_ORD_ID + i]
        blank = blank and letter == _SPACE
        record[slot, _TEXT_AT + i] = 0 if blank else letter
    record[slot, _TIF_AT] = message[at + _TIF]
    record[slot, _DISPLAY_AT] = message[at + _DISPLAY]
    record[slot, _CAPACITY_AT] = message[at + _CAPACITY]
    _accept(ex, desk, message, at, channel, user_ref)
    _report_trades(ex, desk, slot)


@always_inlined
def _cancel(ex, desk, slot, qty, reason):
    gone = reduce(ex, slot, qty)
    if gone > 0:
        _report_cancel(ex, desk, slot, gone, reason)
    return gone


@always_inlined
def request(ex, desk, message, at, size, channel, verdict, arrived_ns, next_seq):
    """See `entry`: this is it, for a kernel that does more."""
    kind = message[at] if size > 0 else 0
    if kind == _O and size >= _ENTER_SIZE + 2:
        if verdict == UNREAD and (size > _ENTER_SIZE + 2 or _get(message, at + _ENTER_SIZE, 2) != 0):
            return 0
        _enter(ex, desk, message, at, channel, verdict, arrived_ns, next_seq)
        return 1
    if kind == _X and size >= _CANCEL_SIZE:
        if verdict == UNREAD and size > _CANCEL_SIZE:
            return 0
        ex.counters[Counter.CANCELS_RECEIVED] += 1
        slot = find_live(ex, channel, _get(message, at + _CANCEL_REF, 4))
        if slot < 0 or _cancel(ex, desk, slot, _get(message, at + _CANCEL_QTY, 4), _U) == 0:
            ex.counters[Counter.IGNORED] += 1
        return 1
    return 0


@kernel(numba.int64(EXCHANGE, DESK, _BYTES, _I64, _I64, _I64, _I64, _I64, _I64))
def entry(ex, desk, message, at, size, channel, verdict, arrived_ns, next_seq):
    """Work on the OUCH message ``message[at : at + size]``; returns 1, or 0 when that is left to the caller.

    Done here: Enter Order (47 bytes and no option) and Cancel Order (9 bytes). With `verdict` not `UNREAD` the
    caller has decoded the options, `channel` is the one that they name, and `verdict` the `Reject` that they cause
    when nothing else does, 0 none. `arrived_ns`: CLOCK_MONOTONIC. `next_seq` is the number of the next market data
    message, for the tick-to-order time of the order; 0: it is not measured.
    """
    return request(ex, desk, message, at, size, channel, verdict, arrived_ns, next_seq)


@kernel(numba.int64(EXCHANGE, DESK, _I64, _I64, _I64))
def cancel(ex, desk, slot, qty, reason):
    """Cancel a live order down to `qty` of its chain and report it, with the letter `reason`; the lots taken off."""
    return _cancel(ex, desk, slot, qty, reason)


@kernel(numba.int64(EXCHANGE, DESK))
def fills(ex, desk):
    """Report the fills in the list, and empty it; returns how many reports wait to be taken."""
    report_fills(ex, desk)
    return desk.words[N_REPORTS]


@kernel(numba.int64(EXCHANGE, DESK, _I64))
def trades(ex, desk, slot):
    """Report what the order in `slot`, just accepted, has traded, and cancel what of it could not rest.

    Returns how many reports wait to be taken.
    """
    _report_trades(ex, desk, slot)
    return desk.words[N_REPORTS]


@always_inlined
def report_event(ex, desk, account, code):
    """System Event: the day of `account` begins (``S``) or ends (``E``)."""
    at = _append(ex, desk, _S, account, _EVENT_SIZE)
    desk.reports[at + _EVENT_SIZE - 1] = code


@kernel(numba.int64(EXCHANGE, DESK, _I64, _I64))
def event(ex, desk, account, code):
    """System Event for an account, `code` ``S`` or ``E``; returns how many reports wait to be taken."""
    report_event(ex, desk, account, code)
    return desk.words[N_REPORTS]
