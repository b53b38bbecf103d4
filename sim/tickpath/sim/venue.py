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

Enter Order, Cancel Order and fills are `tickpath.sim.kernels.entry`, which replay runs as well; the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.jit import direct
from tickpath.common.protocols import ouch50 as ouch
from tickpath.common.protocols.ouch50 import Reject, Tag
from tickpath.common.protocols.soupbintcp import SequencedLog
from tickpath.common.protocols.wire import RemoteProtocolError
from tickpath.sim.kernels import entry, matching
from tickpath.sim.kernels.entry import MARKET_PRICES, MAX_ACCOUNTS, N_BYTES, N_REPORTS, UNREAD, Desk
from tickpath.sim.kernels.matching import Exchange
from tickpath.sim.layout import Counter, OrderStatus
from tickpath.sim.player import Ints, Player, Segment

_MESSAGE_BYTES: Final = 256  # longest message that order entry looks at by itself
_ANY_PRICE: Final = 2**62
_DAY = "0"

Fields = dict[str, Any]

_played, _enter, _reduce = direct(matching.played), direct(matching.enter), direct(matching.reduce)
_find_live, _details_fault = direct(matching.find_live), direct(entry.details_fault)
_entry, _cancel = direct(entry.entry), direct(entry.cancel)
_fills, _trades = direct(entry.fills), direct(entry.trades)


@dataclass(slots=True)
class Account:
    """A user of the venue: the log of reports survives its connections."""

    username: str
    log: SequencedLog


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
        self._message_bytes = bytearray(_MESSAGE_BYTES)
        self._message = np.frombuffer(self._message_bytes, np.uint8)
        self._desk = Desk.create(exchange, symbols, locates, tick_to_order=tick_to_order)
        self._reports = self._desk.reports.data
        self._spans = self._desk.spans
        self._words = self._desk.words
        self._last_refs = self._desk.last_refs
        self._locates = np.array([locates.get(symbol, 0) for symbol in symbols], np.int64)
        padded = b"".join(symbol.encode("ascii").ljust(8) for symbol in symbols)
        self._symbol_bytes = np.frombuffer(padded, np.uint8).reshape(len(symbols), 8).copy()
        self._counters = exchange.counters
        self._state = exchange.state
        self.closed = False
        self._texts: npt.NDArray[Any] = exchange.orders["cl_ord_id"]
        self._displays: npt.NDArray[Any] = exchange.orders["display"]
        self._capacities: npt.NDArray[Any] = exchange.orders["capacity"]
        self._tifs: npt.NDArray[Any] = exchange.orders["tif"]
        self._handlers: Final[dict[str, Callable[[int, Fields, dict[int, Any], int], None]]] = {
            "U": self._replace,
            "M": self._modify,
            "C": self._mass_cancel,
            "D": self._disable,
            "E": self._enable,
            "Q": self._query,
        }
        for index, symbol in enumerate(symbols):
            if symbol in locates:
                exchange.book.locate[locates[symbol]] = index
        self._state[matching.EXCH_NS] = clock_ns
        self._check_types()

    def find(self, username: str) -> int:
        """Number of a user, -1 if it has never logged in."""
        name = username.upper()
        return next((n for n, account in enumerate(self.accounts) if account.username == name), -1)

    def account(self, username: str) -> int:
        """Number of a user, made when it is new. Raises ValueError beyond `MAX_ACCOUNTS`."""
        number = self.find(username)
        if number >= 0:
            return number
        if len(self.accounts) >= MAX_ACCOUNTS:
            msg = f"no account {username!r}: there are {MAX_ACCOUNTS} already, more are not allowed"
            raise ValueError(msg)
        self.accounts.append(Account(username.upper(), SequencedLog(self._session)))
        number = len(self.accounts) - 1
        self._log(entry.event(self.exchange, self._desk, number, ord("S")))
        return number

    def follow(self, player: Player) -> None:
        """Measure tick-to-order times against what `player` sends."""
        self._player = player
        self._desk = self._desk._replace(out_ns=player.out_ns)
        self._check_types()

    # --- market data -------------------------------------------------------------------------------------------

    def played(self, segment: Segment, first: int, last: int, shift_ns: int) -> None:
        """Messages `first` to `last` of the segment have been published."""
        while first < last:
            first = _played(self.exchange, segment.data, segment.offsets, first, last, shift_ns)
            if self._state[matching.N_FILLS]:
                self._log(_fills(self.exchange, self._desk))
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
            self._log(entry.event(self.exchange, self._desk, number, ord("E" if closed else "S")))

    # --- clients -----------------------------------------------------------------------------------------------

    def receive(self, account: int, message: bytes, arrived_ns: int) -> None:
        """One OUCH message of a user that arrived at `arrived_ns` (CLOCK_MONOTONIC)."""
        if not self._request(message, account << 8, UNREAD, arrived_ns):
            self._receive_other(account, message, arrived_ns)

    def _request(self, message: bytes, channel: int, verdict: int, arrived_ns: int) -> bool:
        """Let the kernel answer a message; False when it does not: see `entry.entry`."""
        size = len(message)
        if size > _MESSAGE_BYTES:
            return False
        self._message_bytes[:size] = message
        next_seq = self._player.next_sequence if self._player is not None else 0
        if not _entry(
            self.exchange, self._desk, self._message, 0, size, channel, verdict, arrived_ns, next_seq
        ):  # fmt: skip
            return False
        self._log(int(self._words[N_REPORTS]))
        return True

    def _receive_other(self, account: int, message: bytes, arrived_ns: int) -> None:
        """A message with options, or of a type that is rare."""
        try:
            decoded = ouch.decode_inbound(message)
        except RemoteProtocolError:
            self._counters[Counter.MALFORMED] += 1
            return
        code, options = decoded.message.code, decoded.options
        channel = account << 8 | options.get(Tag.USER_REF_IDX, 0)
        if code in "OX":
            # The kernel reads the fixed part; whatever the options are, they are in `channel` and in the verdict.
            fixed = message[: decoded.message.size] + b"\0\0"
            self._request(fixed, channel, _options_fault(options), arrived_ns)
            return
        self._counters[Counter.REPLACES_RECEIVED if code == "U" else Counter.OTHER_RECEIVED] += 1
        self._handlers[code](channel, decoded.fields, options, arrived_ns)

    def cancel_all(self, account: int, reason: str = "Z") -> None:
        """Cancel every open order of a user, for example because its connection is gone."""
        for slot in self._open_slots(account):
            self._cancel_to(slot, 0, reason)

    def _replace(self, channel: int, fields: Fields, options: dict[int, Any], arrived_ns: int) -> None:
        old = _find_live(self.exchange, channel, fields["orig_user_ref_num"])
        user_ref, price = fields["user_ref_num"], fields["price"]
        if old < 0 or user_ref <= self._last_refs[channel]:
            self._counters[Counter.IGNORED] += 1
            return
        order = self.exchange.orders[old]
        executed = int(order["executed_lots"])
        kind = (ord(fields[name]) for name in ("time_in_force", "display", "iso"))
        step = int(self.exchange.price_steps[order["instrument"]])
        fault = _details_fault(fields["quantity"], min(price, _ANY_PRICE), step, *kind) or _options_fault(options)
        if fault or fields["quantity"] <= executed:
            self._cancel_to(old, 0, "U")
            return
        instrument, side, capacity = int(order["instrument"]), chr(order["side"]), chr(order["capacity"])
        self._last_refs[channel] = user_ref
        market = price in MARKET_PRICES
        self._state[matching.N_FILLS] = 0
        slot: int = _enter(
            self.exchange,
            channel,
            user_ref,
            instrument,
            ord(side),
            fields["quantity"],
            executed,
            (ouch.MARKET_PRICE if side == "B" else 0) if market else price,
            fields["time_in_force"] == _DAY and not market,
            old,
            arrived_ns,
        )
        if slot < 0:
            self._counters[Counter.REJECTED] += 1
            self._report(
                channel, ouch.REJECTED, user_ref_num=user_ref, reason=Reject.OTHER, cl_ord_id=fields["cl_ord_id"]
            )
            return
        self._texts[slot] = fields["cl_ord_id"].encode("latin-1")
        self._tifs[slot] = ord(fields["time_in_force"])
        self._displays[slot] = ord(fields["display"])
        self._capacities[slot] = ord(capacity)
        self._report(
            channel,
            ouch.ORDER_REPLACED,
            **{
                **fields,
                "side": side,
                "quantity": fields["quantity"] - executed,
                "symbol": self.symbols[instrument],
                "order_reference_number": int(self._state[matching.ORDER_REF]),
                "capacity": capacity,
                "cross_type": "N",
                "order_state": "L",
            },
        )
        self._log(_trades(self.exchange, self._desk, slot))

    def _modify(self, channel: int, fields: Fields, _options: dict[int, Any], _arrived_ns: int) -> None:
        slot = _find_live(self.exchange, channel, fields["user_ref_num"])
        if slot < 0:
            self._counters[Counter.IGNORED] += 1
            return
        order = self.exchange.orders[slot]
        old, new = chr(order["side"]), fields["side"]
        allowed = new == old or (old, new) in (("S", "E"), ("S", "T"), ("E", "T"))
        if not allowed or not order["executed_lots"] < fields["quantity"] <= order["qty_lots"]:
            self._report(channel, ouch.CANCEL_REJECT, user_ref_num=fields["user_ref_num"])
            return
        _reduce(self.exchange, slot, fields["quantity"])
        order["side"] = ord(new)
        self._report(channel, ouch.ORDER_MODIFIED, **{**fields, "quantity": int(order["leaves_lots"])})

    def _mass_cancel(self, channel: int, fields: Fields, options: dict[int, Any], _arrived_ns: int) -> None:
        if not self._consume(channel, fields["user_ref_num"]):
            return
        echo: dict[int, Any] = {tag: options[tag] for tag in (Tag.GROUP_ID, Tag.SIDE) if tag in options}
        self._report(channel, ouch.MASS_CANCEL_RESPONSE, echo, **fields)
        symbol, side = fields["symbol"], options.get(Tag.SIDE, "")
        for slot in self._open_slots(channel >> 8):
            order = self.exchange.orders[slot]
            if symbol in ("", self.symbols[order["instrument"]]) and side in ("", chr(order["side"])):
                self._cancel_to(slot, 0, "U")

    def _disable(self, channel: int, fields: Fields, _options: dict[int, Any], _arrived_ns: int) -> None:
        self._switch(channel, fields, ouch.DISABLE_ORDER_ENTRY_RESPONSE, disabled=True)

    def _enable(self, channel: int, fields: Fields, _options: dict[int, Any], _arrived_ns: int) -> None:
        self._switch(channel, fields, ouch.ENABLE_ORDER_ENTRY_RESPONSE, disabled=False)

    def _switch(self, channel: int, fields: Fields, response: ouch.Message, *, disabled: bool) -> None:
        if self._consume(channel, fields["user_ref_num"]):
            self._desk.disabled[channel >> 8] = disabled
            self._report(channel, response, **fields)

    def _query(self, channel: int, _fields: Fields, _options: dict[int, Any], _arrived_ns: int) -> None:
        next_ref = int(self._last_refs[channel]) + 1
        self._report(channel, ouch.ACCOUNT_QUERY_RESPONSE, next_user_ref_num=next_ref)

    # --- helpers -----------------------------------------------------------------------------------------------

    def _check_types(self) -> None:
        """See `direct`: TypeError when the arrays are not what the kernels were compiled for."""
        none = np.zeros(1, np.int64)
        matching.played(self.exchange, np.zeros(1, np.uint8), none, 0, 0, 0)
        entry.entry(self.exchange, self._desk, self._message, 0, 0, 0, UNREAD, 0, 0)
        entry.fills(self.exchange, self._desk)

    def _consume(self, channel: int, user_ref: int) -> bool:
        if user_ref <= self._last_refs[channel]:
            self._counters[Counter.IGNORED] += 1
            return False
        self._last_refs[channel] = user_ref
        return True

    def _cancel_to(self, slot: int, qty: int, reason: str) -> None:
        """Cancel down to `qty` of the chain, and report it."""
        _cancel(self.exchange, self._desk, slot, qty, ord(reason))
        self._log(int(self._words[N_REPORTS]))

    def _report(self, channel: int, report: ouch.Message, options: ouch.Options | None = None, **fields: Any) -> None:
        """One report that no kernel makes; every one about a channel's orders names its index."""
        ref_idx: dict[int, Any] = {Tag.USER_REF_IDX: channel & 0xFF} if channel & 0xFF else {}
        now = int(self._state[matching.EXCH_NS])
        account = channel >> 8
        self.accounts[account].log.append(report.encode({**(options or {}), **ref_idx}, timestamp=now, **fields))
        self.changed.add(account)

    def _log(self, n: int) -> None:
        """Take the first `n` reports of the kernels, which are all of them, into the logs."""
        if n == 0:
            return
        words, reports = self._words, self._reports
        for account, begin, end in self._spans[:n].tolist():
            self.accounts[account].log.append(reports[begin:end])
            self.changed.add(account)
        words[N_REPORTS] = words[N_BYTES] = 0

    def _open_slots(self, account: int) -> list[int]:
        """Live orders of a user, oldest first."""
        orders = self.exchange.orders
        mine = np.flatnonzero((orders["status"] == int(OrderStatus.LIVE)) & (orders["session"] >> 8 == account))
        return sorted(mine.tolist(), key=lambda slot: int(orders["order_ref"][slot]))


def _options_fault(options: dict[int, Any]) -> int:
    """What the options of an order or of a replacement ask for that is not done (`Reject`), 0: nothing."""
    if options.get(Tag.PRICE_TYPE, "L") != "L":
        return int(Reject.PEGGING_NOT_ALLOWED)
    if options.get(Tag.MIN_QTY, 0):
        return int(Reject.INVALID_MIN_QUANTITY)
    if options.get(Tag.MAX_FLOOR, 0):
        return int(Reject.INVALID_MAX_FLOOR)
    return int(Reject.OTHER) if options.get(Tag.POST_ONLY, "N") == "P" else 0
