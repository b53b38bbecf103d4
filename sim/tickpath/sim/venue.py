"""The venue without its sockets: OUCH 5.0 messages in, reports appended to each client's sequenced log.

| message | answer |
| --- | --- |
| Enter Order | ``A`` and then ``E`` for what trades at once, ``C`` (``I``) for what may not rest; or ``J`` |
| Replace Order | ``U``, then the same; ``C`` (``U``) of the old order when its details are invalid; nothing if dead |
| Cancel Order | ``C`` (``U``) for the lots taken off; nothing when it is not live or asks for no less than there is |
| Modify Order | ``M``; ``I`` when the change is not allowed; nothing if it is not live |
| Mass Cancel | ``X``, then ``C`` (``U``) for each order |
| Disable, Enable Order Entry | ``G``, ``K``; while disabled every new order is refused |
| Account Query | ``Q`` |

A user reference number that is not above the last one of its channel is ignored silently. Reject codes: 02 after the
end of the day, 03 display, 04 MaxFloor, 07 halted, 08 intermarket sweep, 09 side, 0C order entry is disabled, 0D
MinQty, 0F time in force, capacity, post-only or no free slot, 11 pegged, 13 quantity, 14 cross type, 17 symbol, 1D
price.

Simplified: time in force is day or IOC (``0``, ``3``); hidden orders are treated like displayed ones; market orders
trade like limit orders and what is left of them is always cancelled; firms are not checked. The exchange's clock is
the time of the latest message that was played.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.jit import direct
from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.protocols.ouch50 import Reject, Tag
from tickpath.common.protocols.soupbintcp import SequencedLog
from tickpath.common.protocols.wire import RemoteProtocolError
from tickpath.sim.kernels import matching
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.layout import Counter, OrderStatus
from tickpath.sim.player import Ints, Player, Segment

_CL_ORD_ID_AT: Final = ouch.ENTER_ORDER.offset["cl_ord_id"]
_MARKET_PRICES: Final = (ouch.MARKET_PRICE, 2_000_000_000)  # 214748.3647, and 200000.0000
_DOLLAR: Final = 10_000
_CENT: Final = 100
_DAY, _IOC = "0", "3"

Fields = dict[str, Any]

_played, _enter, _reduce = direct(matching.played), direct(matching.enter), direct(matching.reduce)
_find_live, _measure = direct(matching.find_live), direct(matching.measure)


@dataclass(slots=True)
class Channel:
    """An increasing series of user reference numbers: of a session, or of a UserRefIdx in it."""

    session: int
    ref_idx: int  # 0: none
    last_ref: int = 0

    @property
    def options(self) -> dict[int, Any]:
        """What every reply about this channel's orders carries."""
        return {Tag.USER_REF_IDX: self.ref_idx} if self.ref_idx else {}


@dataclass(slots=True)
class Account:
    """A user of the venue: the log of reports survives its connections."""

    username: str
    log: SequencedLog
    disabled: bool = False


class Venue:
    """Order entry and matching. Orders and reports of all users; no sockets, and time is an argument."""

    def __init__(
        self,
        exchange: Exchange,
        symbols: Sequence[str],
        locates: Mapping[str, int],
        *,
        session: str = "TICKPATH01",
        tick_to_order: Ints | None = None,
        clock_ns: int = 0,
    ) -> None:
        """Instrument i is ``symbols[i]``; it is listed when `locates` knows its stock locate in the market data.

        `tick_to_order` is the histogram to fill once the venue follows a player, `clock_ns` the exchange's time
        before anything was played.
        """
        self.exchange: Final = exchange
        self.symbols: Final = tuple(symbols)
        self.accounts: Final[list[Account]] = []
        self.changed: Final[set[int]] = set()  # accounts whose log has grown since the owner cleared this
        self._player: Player | None = None
        self._session = session
        self._hist = tick_to_order if tick_to_order is not None else np.zeros(HIST_SIZE, np.int64)
        self._id_bytes = bytearray(ouch.CL_ORD_ID_SIZE)
        self._id_array = np.frombuffer(self._id_bytes, np.uint8)
        self._seen = np.zeros(matching.SEEN_CAPACITY, np.int64)
        self._ids = {symbol: index for index, symbol in enumerate(symbols) if symbol in locates}
        self._locates = np.array([locates.get(symbol, 0) for symbol in symbols], np.int64)
        padded = b"".join(symbol.encode("ascii").ljust(8) for symbol in symbols)
        self._symbol_bytes = np.frombuffer(padded, np.uint8).reshape(len(symbols), 8).copy()
        self._channels: list[Channel] = []
        self._channel_ids: dict[tuple[int, int], int] = {}
        self._counters = exchange.counters
        self._state = exchange.state
        self.closed = False
        self._texts: npt.NDArray[Any] = exchange.orders["cl_ord_id"]
        self._displays: npt.NDArray[Any] = exchange.orders["display"]
        self._capacities: npt.NDArray[Any] = exchange.orders["capacity"]
        self._tifs: npt.NDArray[Any] = exchange.orders["tif"]
        self._sessions: npt.NDArray[Any] = exchange.orders["session"]
        self._user_refs: npt.NDArray[Any] = exchange.orders["user_ref"]
        self._handlers: Final[dict[str, Callable[[int, Fields, dict[int, Any], int], None]]] = {
            "O": self._enter,
            "U": self._replace,
            "X": self._cancel,
            "M": self._modify,
            "C": self._mass_cancel,
            "D": self._disable,
            "E": self._enable,
            "Q": self._query,
        }
        for symbol, index in self._ids.items():
            exchange.book.locate[locates[symbol]] = index
        self._state[matching.EXCH_NS] = clock_ns
        self._check_types()

    def account(self, username: str) -> int:
        """Number of a user, made when it is new."""
        for number, account in enumerate(self.accounts):
            if account.username == username.upper():
                return number
        self.accounts.append(Account(username.upper(), SequencedLog(self._session)))
        number = len(self.accounts) - 1
        self._report(number, ouch.SYSTEM_EVENT.encode(timestamp=self._now, event_code="S"))
        return number

    def follow(self, player: Player) -> None:
        """Measure tick-to-order times against what `player` sends."""
        self._player = player

    # --- market data -------------------------------------------------------------------------------------------

    def played(self, segment: Segment, first: int, last: int, shift_ns: int) -> None:
        """Messages `first` to `last` of the segment have been published."""
        while first < last:
            first = _played(self.exchange, segment.data, segment.offsets, first, last, shift_ns)
            self._report_fills()
        if bool(self._state[matching.CLOSED]) != self.closed:
            self.set_closed(closed=not self.closed)

    def clearing(self, time_ns: int, spacing_ns: int) -> Segment:
        """Messages that empty the played book, the first at `time_ns`, `spacing_ns` apart; a closed day opens."""
        if self.closed:
            self.set_closed(closed=False)
        live = self.exchange.book.live_orders
        n = len(self.symbols)
        data = np.zeros(21 * live + 50 * n, np.uint8)
        offsets = np.zeros(live + 2 * n + 1, np.int64)
        times = np.zeros(live + 2 * n + 1, np.int64)
        made = matching.clearing(
            self.exchange, self._locates, self._symbol_bytes, time_ns, spacing_ns, data, offsets, times
        )
        return Segment(data[: offsets[made]], offsets[: made + 1], times[:made])

    def set_closed(self, *, closed: bool) -> None:
        """Begin or end the day: tell everybody, and refuse new orders after the end."""
        self._state[matching.CLOSED] = closed
        self.closed = closed
        for number in range(len(self.accounts)):
            self._report(number, ouch.SYSTEM_EVENT.encode(timestamp=self._now, event_code="E" if closed else "S"))

    # --- clients -----------------------------------------------------------------------------------------------

    def receive(self, account: int, message: bytes, arrived_ns: int) -> None:
        """One OUCH message of a user that arrived at `arrived_ns` (CLOCK_MONOTONIC)."""
        try:
            decoded = ouch.decode_inbound(message)
        except RemoteProtocolError:
            self._counters[Counter.MALFORMED] += 1
            return
        code = decoded.message.code
        channel = self._channel(account, decoded.options.get(Tag.USER_REF_IDX, 0))
        if code == "O":
            self._counters[Counter.ORDERS_RECEIVED] += 1
            if self._player is not None and decoded.fields["user_ref_num"] > self._channels[channel].last_ref:
                self._id_bytes[:] = message[_CL_ORD_ID_AT : _CL_ORD_ID_AT + ouch.CL_ORD_ID_SIZE]
                _measure(
                    self._counters,
                    self._id_array,
                    arrived_ns,
                    self._player.next_sequence,
                    self._player.out_ns,
                    self._seen,
                    self._hist,
                )
        elif code == "U":
            self._counters[Counter.REPLACES_RECEIVED] += 1
        elif code == "X":
            self._counters[Counter.CANCELS_RECEIVED] += 1
        else:
            self._counters[Counter.OTHER_RECEIVED] += 1
        self._handlers[code](channel, decoded.fields, decoded.options, arrived_ns)

    def cancel_all(self, account: int, reason: str = "Z") -> None:
        """Cancel every open order of a user, for example because its connection is gone."""
        for slot in self._open_slots(account):
            self._cancel_to(slot, 0, reason)

    def _enter(self, number: int, fields: Fields, options: dict[int, Any], arrived_ns: int) -> None:
        channel = self._channels[number]
        user_ref = fields["user_ref_num"]
        if user_ref <= channel.last_ref:
            self._counters[Counter.IGNORED] += 1
            return
        channel.last_ref = user_ref
        instrument = self._ids.get(fields["symbol"], -1)
        fault = self._entry_fault(channel, fields, instrument) or _details_fault(fields, options)
        slot = -1
        if fault is None:
            slot = self._place(number, fields, instrument, fields["side"], 0, -1, arrived_ns)
            fault = Reject.OTHER if slot < 0 else None
        if fault is not None:
            self._reject(channel, user_ref, fault, fields["cl_ord_id"])
            return
        self._displays[slot] = ord(fields["display"])
        self._capacities[slot] = ord(fields["capacity"])
        self._accepted(channel, slot, fields, {**fields, "executed": 0})

    def _replace(self, number: int, fields: Fields, options: dict[int, Any], arrived_ns: int) -> None:
        channel = self._channels[number]
        old = _find_live(self.exchange, number, fields["orig_user_ref_num"])
        user_ref = fields["user_ref_num"]
        if old < 0 or user_ref <= channel.last_ref:
            self._counters[Counter.IGNORED] += 1
            return
        order = self.exchange.orders[old]
        executed = int(order["executed_lots"])
        if _details_fault(fields, options) is not None or fields["quantity"] <= executed:
            self._cancel_to(old, 0, "U")
            return
        instrument, side = int(order["instrument"]), chr(order["side"])
        slot = self._place(number, fields, instrument, side, executed, old, arrived_ns)
        if slot < 0:
            channel.last_ref = user_ref
            self._reject(channel, user_ref, Reject.OTHER, fields["cl_ord_id"])
            return
        channel.last_ref = user_ref
        self._displays[slot] = ord(fields["display"])
        self._capacities[slot] = self._capacities[old]
        kept = {
            "side": side,
            "symbol": self.symbols[instrument],
            "capacity": chr(self._capacities[old]),
            "executed": executed,
        }
        self._accepted(channel, slot, fields, kept)

    def _cancel(self, number: int, fields: Fields, _options: dict[int, Any], _arrived_ns: int) -> None:
        slot = _find_live(self.exchange, number, fields["user_ref_num"])
        if slot < 0 or not self._cancel_to(slot, fields["quantity"], "U"):
            self._counters[Counter.IGNORED] += 1

    def _modify(self, number: int, fields: Fields, _options: dict[int, Any], _arrived_ns: int) -> None:
        slot = _find_live(self.exchange, number, fields["user_ref_num"])
        if slot < 0:
            self._counters[Counter.IGNORED] += 1
            return
        channel = self._channels[number]
        order = self.exchange.orders[slot]
        old, new = chr(order["side"]), fields["side"]
        allowed = new == old or (old, new) in (("S", "E"), ("S", "T"), ("E", "T"))
        if not allowed or not order["executed_lots"] < fields["quantity"] <= order["qty_lots"]:
            self._report(
                channel.session,
                ouch.CANCEL_REJECT.encode(channel.options, timestamp=self._now, user_ref_num=fields["user_ref_num"]),
            )
            return
        _reduce(self.exchange, slot, fields["quantity"])
        order["side"] = ord(new)
        self._report(
            channel.session,
            ouch.ORDER_MODIFIED.encode(
                channel.options,
                timestamp=self._now,
                user_ref_num=fields["user_ref_num"],
                side=new,
                quantity=int(order["leaves_lots"]),
            ),
        )

    def _mass_cancel(self, number: int, fields: Fields, options: dict[int, Any], _arrived_ns: int) -> None:
        channel = self._channels[number]
        if not self._consume(channel, fields["user_ref_num"]):
            return
        echo: dict[int, Any] = {tag: options[tag] for tag in (Tag.GROUP_ID, Tag.SIDE) if tag in options}
        self._report(
            channel.session,
            ouch.MASS_CANCEL_RESPONSE.encode({**echo, **channel.options}, timestamp=self._now, **fields),
        )
        symbol, side = fields["symbol"], options.get(Tag.SIDE, "")
        for slot in self._open_slots(channel.session):
            order = self.exchange.orders[slot]
            if symbol in ("", self.symbols[order["instrument"]]) and side in ("", chr(order["side"])):
                self._cancel_to(slot, 0, "U")

    def _disable(self, number: int, fields: Fields, _options: dict[int, Any], _arrived_ns: int) -> None:
        self._switch(self._channels[number], fields, ouch.DISABLE_ORDER_ENTRY_RESPONSE, disabled=True)

    def _enable(self, number: int, fields: Fields, _options: dict[int, Any], _arrived_ns: int) -> None:
        self._switch(self._channels[number], fields, ouch.ENABLE_ORDER_ENTRY_RESPONSE, disabled=False)

    def _switch(self, channel: Channel, fields: Fields, response: ouch.Message, *, disabled: bool) -> None:
        if self._consume(channel, fields["user_ref_num"]):
            self.accounts[channel.session].disabled = disabled
            self._report(channel.session, response.encode(channel.options, timestamp=self._now, **fields))

    def _query(self, number: int, _fields: Fields, _options: dict[int, Any], _arrived_ns: int) -> None:
        channel = self._channels[number]
        self._report(
            channel.session,
            ouch.ACCOUNT_QUERY_RESPONSE.encode(
                channel.options, timestamp=self._now, next_user_ref_num=channel.last_ref + 1
            ),
        )

    # --- helpers -----------------------------------------------------------------------------------------------

    def _check_types(self) -> None:
        """See `direct`: TypeError when the arrays are not what the kernels were compiled for."""
        none = np.zeros(1, np.int64)
        matching.played(self.exchange, np.zeros(1, np.uint8), none, 0, 0, 0)
        matching.find_live(self.exchange, 0, 0)
        scratch = np.zeros(len(Counter), np.int64)
        matching.measure(scratch, self._id_array, 0, 1, none, self._seen[:1].copy(), self._hist)

    @property
    def _now(self) -> int:
        return int(self._state[matching.EXCH_NS])

    def _channel(self, account: int, ref_idx: int) -> int:
        number = self._channel_ids.get((account, ref_idx))
        if number is None:
            number = self._channel_ids[account, ref_idx] = len(self._channels)
            self._channels.append(Channel(account, ref_idx))
        return number

    def _consume(self, channel: Channel, user_ref: int) -> bool:
        if user_ref <= channel.last_ref:
            self._counters[Counter.IGNORED] += 1
            return False
        channel.last_ref = user_ref
        return True

    def _entry_fault(self, channel: Channel, fields: Fields, instrument: int) -> Reject | None:
        """Why no order may be entered now, or by this user, or in this symbol."""
        if self.closed:
            return Reject.DESTINATION_CLOSED
        if self.accounts[channel.session].disabled:
            return Reject.FIRM_NOT_AUTHORISED
        if fields["side"] not in ("B", "S", "T", "E"):
            return Reject.INVALID_SIDE
        if instrument < 0:
            return Reject.INVALID_SYMBOL
        if self.exchange.halted[instrument]:
            return Reject.HALTED
        if fields["cross_type"] != "N":
            return Reject.INVALID_CROSS_ORDER
        return Reject.OTHER if fields["capacity"] not in ("A", "P", "R", "O") else None

    def _place(
        self, number: int, fields: Fields, instrument: int, side: str, executed: int, replaces: int, arrived_ns: int
    ) -> int:
        price = fields["price"]
        market = price in _MARKET_PRICES
        buy = side == "B"
        limit = (ouch.MARKET_PRICE if buy else 0) if market else price
        may_rest = fields["time_in_force"] == _DAY and not market
        self._state[matching.N_FILLS] = 0
        slot: int = _enter(
            self.exchange,
            number,
            fields["user_ref_num"],
            instrument,
            ord(side),
            fields["quantity"],
            executed,
            limit,
            may_rest,
            replaces,
            arrived_ns,
        )
        if slot >= 0:
            self._texts[slot] = fields["cl_ord_id"].encode("latin-1")
            self._tifs[slot] = ord(fields["time_in_force"])
        return slot

    def _accepted(self, channel: Channel, slot: int, fields: Fields, kept: Fields) -> None:
        """Report a new order or replacement, what it traded, and what could not rest.

        `kept` is what a replacement does not state: side, symbol, capacity, and the lots executed before.
        """
        remainder = int(self._state[matching.REMAINDER])
        report = ouch.ORDER_REPLACED if "orig_user_ref_num" in fields else ouch.ORDER_ACCEPTED
        more = {"orig_user_ref_num": fields["orig_user_ref_num"]} if report is ouch.ORDER_REPLACED else {}
        message = report.encode(
            channel.options,
            timestamp=self._now,
            user_ref_num=fields["user_ref_num"],
            side=kept["side"],
            quantity=fields["quantity"] - kept["executed"],
            symbol=kept["symbol"],
            price=fields["price"],
            time_in_force=fields["time_in_force"],
            display=fields["display"],
            order_reference_number=int(self._state[matching.ORDER_REF]),
            capacity=kept["capacity"],
            iso=fields["iso"],
            cross_type="N",
            order_state="L",
            cl_ord_id=fields["cl_ord_id"],
            **more,
        )
        self._report(channel.session, message)
        self._report_fills()
        if remainder:
            self._report_cancel(slot, remainder, "I")

    def _report_fills(self) -> None:
        n = int(self._state[matching.N_FILLS])
        if n == 0:
            return
        self._state[matching.N_FILLS] = 0
        now = self._now
        for slot, lots, price, match, flag in self.exchange.fills[:n].tolist():
            channel = self._channels[self._sessions[slot]]
            message = ouch.ORDER_EXECUTED.encode(
                channel.options,
                timestamp=now,
                user_ref_num=int(self._user_refs[slot]),
                quantity=lots,
                price=price,
                liquidity_flag=chr(flag),
                match_number=match,
            )
            self._report(channel.session, message)

    def _cancel_to(self, slot: int, qty: int, reason: str) -> bool:
        """Cancel down to `qty` of the chain; False when that takes nothing off."""
        gone: int = _reduce(self.exchange, slot, qty)
        if gone:
            self._report_cancel(slot, gone, reason)
        return gone > 0

    def _report_cancel(self, slot: int, lots: int, reason: str) -> None:
        channel = self._channels[self._sessions[slot]]
        self._report(
            channel.session,
            ouch.ORDER_CANCELED.encode(
                channel.options,
                timestamp=self._now,
                user_ref_num=int(self._user_refs[slot]),
                quantity=lots,
                reason=reason,
            ),
        )

    def _reject(self, channel: Channel, user_ref: int, reason: Reject, cl_ord_id: str) -> None:
        self._counters[Counter.REJECTED] += 1
        self._report(
            channel.session,
            ouch.REJECTED.encode(
                channel.options, timestamp=self._now, user_ref_num=user_ref, reason=reason, cl_ord_id=cl_ord_id
            ),
        )

    def _report(self, account: int, message: bytes) -> None:
        self.accounts[account].log.append(message)
        self.changed.add(account)

    def _open_slots(self, account: int) -> list[int]:
        """Live orders of a user, oldest first."""
        orders = self.exchange.orders
        live = np.flatnonzero(orders["status"] == int(OrderStatus.LIVE))
        mine = [slot for slot in live.tolist() if self._channels[orders["session"][slot]].session == account]
        return sorted(mine, key=lambda slot: int(orders["order_ref"][slot]))


def _details_fault(fields: Fields, options: dict[int, Any]) -> Reject | None:
    """What is wrong with the size, price and kind of an order or of a replacement."""
    price = fields["price"]
    if not 1 <= fields["quantity"] <= ouch.MAX_QUANTITY:
        return Reject.INVALID_QUANTITY
    whole_cents = price < _DOLLAR or price % _CENT == 0
    if price not in _MARKET_PRICES and not (1 <= price <= ouch.MAX_LIMIT_PRICE and whole_cents):
        return Reject.INVALID_PRICE
    if fields["time_in_force"] not in (_DAY, _IOC):
        return Reject.OTHER
    if fields["display"] not in ("Y", "N", "A"):
        return Reject.INVALID_DISPLAY
    if fields["iso"] != "N":
        return Reject.ISO_NOT_ALLOWED
    if options.get(Tag.PRICE_TYPE, "L") != "L":
        return Reject.PEGGING_NOT_ALLOWED
    if options.get(Tag.MIN_QTY, 0):
        return Reject.INVALID_MIN_QUANTITY
    if options.get(Tag.MAX_FLOOR, 0):
        return Reject.INVALID_MAX_FLOOR
    return Reject.OTHER if options.get(Tag.POST_ONLY, "N") == "P" else None
