"""The controls, each one function of one shape, in the table `CONTROLS` in the order in which they are evaluated.

A control is ``check(c) -> Reason value``, 0 to pass. `c` is a `Candidate`: the order, its rows, and all arrays. A
control reads and never writes: what an approval reserves is written once, in `tickpath.risk.kernels.risk`, after all
of them passed. To add a control, write its function here and put it into the table at its place; nothing else
changes. Definitions, boundaries and order are those of the risk reference of this project; the conventions:

- integers only; quantities and prices are bounded by the first control, so that no later product can wrap;
- a limit is the largest allowed value; ages and windows are compared as stated at each control;
- a missing input refuses with its own reason, never with the reason of a breach, and never passes.

**Reference price.** Collar and notional are computed from the bid and ask of the *causing* tick, which the signal
carries: what the strategy saw is what its order is judged by, and the decision is the same bit for bit in every lane
and in replay. Freshness is the age of that tick. The instrument's own mark, from the tick stream, adds what the
signal cannot know: that the venue halted the instrument, or that its book has become suspect, in the meantime; and
no order passes on an instrument of which this instance has never seen a tick.
"""

from __future__ import annotations

from collections import namedtuple

from tickpath.common.jit import always_inlined
from tickpath.common.pages import Control
from tickpath.common.records import (
    MAX_PRICE_TICKS,
    MAX_QTY_LOTS,
    N_SHARDS,
    NO_PRICE_TICKS,
    Action,
    Side,
    TickFlag,
    Tif,
)
from tickpath.risk.kernels.orders import find, free_place
from tickpath.risk.limits import (
    ACCOUNT_ROW,
    FIRST_SYMBOL_ROW,
    GLOBAL_ROW,
    N_STRATEGIES,
    SYMBOL_RING,
    UNLIMITED,
    WIDE_RING,
    TradingState,
)
from tickpath.risk.reasons import Reason
from tickpath.risk.state import Core

Candidate = namedtuple(
    "Candidate",
    [
        "cl_ord_id",  # -1 when a part of it is out of range
        "instrument",
        "known",  # True when the instrument is in the table
        "row",  # of the instrument; that of the first one when it is not known
        "strategy",  # 0 when out of range
        "action",
        "side",
        "tif",
        "price",  # ticks
        "qty",  # lots
        "bid",  # ticks, of the causing tick
        "ask",
        "recv_ns",  # of the causing tick
        "now_ns",
        "payload",  # fingerprint of what the order says
        "mark",  # row of the watermark
        "limits",
        "live",
        "orders",
        "index",
        "watermarks",
        "rings",
        "core",
        "control",
    ],
)

BUY = int(Side.BUY)
SELL = int(Side.SELL)
NEW = int(Action.NEW)
DAY = int(Tif.DAY)
IOC = int(Tif.IOC)
ACTIVE = int(TradingState.ACTIVE)
REDUCING = int(TradingState.REDUCING)
HALTED = int(TradingState.HALTED)
TICK_HALTED = int(TickFlag.HALTED)
TICK_SUSPECT = int(TickFlag.SUSPECT)
LEASE_UNTIL_NS = int(Control.LEASE_UNTIL_NS)
READY = int(Core.READY)
OVERFLOW = int(Core.OVERFLOW)
FREE = int(Core.FREE)
REFUSE_NEW = int(Core.REFUSE_NEW)

_CAUSE_BITS = 40
_BPS = 10_000


@always_inlined
def pack_id(strategy, shard, cause_seq, k):
    """Client order id (`tickpath.common.records.pack_cl_ord_id`), -1 when a part is out of range."""
    if not (0 < strategy < N_STRATEGIES and 0 <= shard < N_SHARDS and 0 <= k < 256):
        return -1
    if not 0 <= cause_seq < (1 << _CAUSE_BITS):
        return -1
    return (strategy << 56) | (shard << 48) | (cause_seq << 8) | k


@always_inlined
def fingerprint(action, instrument, side, tif, price, qty):
    """Number that differs when orders with the same id differ."""
    mixed = price * 0x1E3779B97F4A7C15 + qty * 0x42B2AE3D27D4EB4F
    mixed = (mixed ^ (mixed >> 29)) * 0x165667B19E3779F9
    return mixed + (instrument << 16) + (side << 8) + (tif << 4) + action


@always_inlined
def ring_of(row):
    """Where the ring of a row begins."""
    if row < FIRST_SYMBOL_ROW:
        return row * WIDE_RING
    return FIRST_SYMBOL_ROW * WIDE_RING + (row - FIRST_SYMBOL_ROW) * SYMBOL_RING


@always_inlined
def ring_mask(row):
    """Size of the ring of a row, less 1."""
    return WIDE_RING - 1 if row < FIRST_SYMBOL_ROW else SYMBOL_RING - 1


@always_inlined
def state_of_symbol(c):
    """Trading state of the instrument, with alarms that Redis has not taken over yet."""
    state = c.limits[c.row].state
    if c.live[c.row].trips > c.limits[c.row].trips_handled:
        state = max(state, REDUCING)
    return state


@always_inlined
def bounds(c):
    """Form; and quantity and price within +-(2^31 - 1), before anything is multiplied."""
    if c.cl_ord_id < 0 or c.action != NEW:
        return Reason.MALFORMED.value
    if c.side not in (BUY, SELL) or c.tif not in (DAY, IOC):
        return Reason.MALFORMED.value
    if not -MAX_QTY_LOTS <= c.qty <= MAX_QTY_LOTS:
        return Reason.INVALID_QTY.value
    if not -MAX_PRICE_TICKS <= c.price <= MAX_PRICE_TICKS:
        return Reason.INVALID_PRICE.value
    return 0


@always_inlined
def kill_switch(c):
    """HALTED in any scope of the order, or the control lease expired by our own clock, or paused or draining."""
    if c.core[REFUSE_NEW] != 0 or not c.now_ns <= c.control[LEASE_UNTIL_NS]:
        return Reason.KILL_SWITCH_GLOBAL.value
    if c.limits[GLOBAL_ROW].state >= HALTED:
        return Reason.KILL_SWITCH_GLOBAL.value
    if c.limits[ACCOUNT_ROW].state >= HALTED:
        return Reason.KILL_SWITCH_ACCOUNT.value
    if c.limits[c.strategy].state >= HALTED:
        return Reason.KILL_SWITCH_STRATEGY.value
    if c.known and c.limits[c.row].state >= HALTED:
        return Reason.KILL_SWITCH_SYMBOL.value
    return 0


@always_inlined
def reduce_only(c):
    """REDUCING in any scope: a sell may not exceed the long position less the open sells; a buy mirrors."""
    state = max(c.limits[GLOBAL_ROW].state, c.limits[ACCOUNT_ROW].state)
    state = max(state, c.limits[c.strategy].state)
    if c.known:
        state = max(state, state_of_symbol(c))
    if state == ACTIVE or not c.known:
        return 0
    if c.core[READY] != 1 or c.core[OVERFLOW] != 0:
        return Reason.POSITION_UNKNOWN.value
    scope = c.live[c.row]
    if c.side == SELL:
        room = scope.position_lots - scope.open_sell_lots
    else:
        room = -scope.position_lots - scope.open_buy_lots
    return 0 if c.qty <= room else Reason.REDUCE_ONLY.value


@always_inlined
def identity(c):
    """The instrument is in the table."""
    return 0 if c.known else Reason.UNKNOWN_SYMBOL.value


@always_inlined
def idempotency(c):
    """Only an id above the watermark of its (strategy, shard) is new; the same id may not say something else."""
    entry = find(c.orders, c.index, c.cl_ord_id)
    if entry >= 0:
        order = c.orders[entry]
        if (
            order.price_ticks != c.price
            or order.qty_lots != c.qty
            or order.instrument != c.instrument
            or order.side != c.side
            or order.tif != c.tif
        ):
            return Reason.DUPLICATE_ID.value
        return Reason.ALREADY_DECIDED.value
    if c.cl_ord_id > c.watermarks[c.mark, 0]:
        return 0
    if c.cl_ord_id == c.watermarks[c.mark, 0] and c.payload != c.watermarks[c.mark, 1]:
        return Reason.DUPLICATE_ID.value
    return Reason.ALREADY_DECIDED.value


@always_inlined
def session(c):
    """The venue trades the instrument."""
    return Reason.HALTED_INSTRUMENT.value if c.live[c.row].mark_flags & TICK_HALTED else 0


@always_inlined
def sanity(c):
    """Quantity from 1 on and in steps, price above 0 and on tick."""
    limit = c.limits[c.row]
    if c.qty < 1:
        return Reason.INVALID_QTY.value
    if c.price < 1:
        return Reason.INVALID_PRICE.value
    if limit.price_step_ticks < 1 or c.price % limit.price_step_ticks != 0:
        return Reason.INVALID_TICK.value
    if limit.qty_step_lots < 1 or c.qty % limit.qty_step_lots != 0:
        return Reason.INVALID_LOT.value
    return 0


@always_inlined
def in_book(price):
    """A side of the book holds a usable price."""
    return 0 < price <= MAX_PRICE_TICKS


@always_inlined
def market_data(c):
    """Causing tick seen, not from the future, of a sound book, and not older than allowed (age == limit passes)."""
    if c.recv_ns <= 0 or c.live[c.row].mark_recv_ns <= 0:
        return Reason.REFERENCE_PRICE_UNAVAILABLE.value
    if c.recv_ns > c.now_ns or c.live[c.row].mark_flags & TICK_SUSPECT:
        return Reason.MARKET_DATA_INVALID.value
    if not (in_book(c.bid) or c.bid == NO_PRICE_TICKS) or not (in_book(c.ask) or c.ask == NO_PRICE_TICKS):
        return Reason.MARKET_DATA_INVALID.value
    if in_book(c.bid) and in_book(c.ask) and c.bid >= c.ask:
        return Reason.MARKET_DATA_INVALID.value
    if not c.now_ns - c.recv_ns <= c.limits[c.row].max_data_age_ns:
        return Reason.MARKET_DATA_STALE.value
    return 0


@always_inlined
def max_order_qty(c):
    """Lots of one order."""
    return 0 if c.qty <= c.limits[c.row].max_order_qty_lots else Reason.MAX_ORDER_QTY.value


@always_inlined
def max_order_notional(c):
    """Money of one order: a buy at its limit, a sell at the better of its limit and the best bid.

    ``qty * price <= floor(limit / tick value)`` is exactly ``qty * price * tick value <= limit``, and cannot wrap.
    """
    limit = c.limits[c.row]
    if limit.max_order_notional_e8 >= UNLIMITED:
        return 0
    price = c.price
    if c.side == SELL:
        if not in_book(c.bid):
            return Reason.REFERENCE_PRICE_UNAVAILABLE.value
        price = max(price, c.bid)
    if limit.tick_value_e8 < 1 or not c.qty * price <= limit.max_order_notional_e8 // limit.tick_value_e8:
        return Reason.MAX_ORDER_NOTIONAL.value
    return 0


@always_inlined
def price_collar(c):
    """Distance from the mid of the causing tick, in basis points of it, on the aggressive and on the passive side.

    Twice the mid is ``bid + ask``, so everything is doubled instead of rounding a half tick away.
    """
    limit = c.limits[c.row]
    aggressive = limit.collar_aggressive_bps
    passive = limit.collar_passive_bps
    if aggressive >= UNLIMITED and passive >= UNLIMITED:
        return 0
    if not in_book(c.bid) or not in_book(c.ask):
        return Reason.REFERENCE_PRICE_UNAVAILABLE.value
    twice_mid = c.bid + c.ask
    spread_bps = limit.max_spread_bps
    if spread_bps < UNLIMITED and not 2 * (c.ask - c.bid) * _BPS <= twice_mid * spread_bps:
        return Reason.REFERENCE_PRICE_UNAVAILABLE.value
    above = aggressive if c.side == BUY else passive
    below = passive if c.side == BUY else aggressive
    scaled = 2 * c.price * _BPS
    if above < UNLIMITED and not scaled <= twice_mid * (_BPS + above):
        return Reason.PRICE_COLLAR_HIGH.value
    if below < UNLIMITED and not scaled >= twice_mid * (_BPS - below):
        return Reason.PRICE_COLLAR_LOW.value
    return 0


@always_inlined
def open_orders(c):
    """Orders that are not terminal, in every scope, and room in the table."""
    if c.core[FREE] == 0 or free_place(c.index, c.cl_ord_id) < 0:
        return Reason.MAX_OPEN_ORDERS.value
    for row in (GLOBAL_ROW, ACCOUNT_ROW, c.strategy, c.row):
        if not c.live[row].open_orders < c.limits[row].max_open_orders:
            return Reason.MAX_OPEN_ORDERS.value
    return 0


@always_inlined
def position(c):
    """Position if every open order of the side fills. Sides are not netted: both could fill."""
    if c.core[READY] != 1 or c.core[OVERFLOW] != 0:
        return Reason.POSITION_UNKNOWN.value
    scope = c.live[c.row]
    limit = c.limits[c.row]
    if c.side == BUY:
        within = scope.position_lots + scope.open_buy_lots + c.qty <= limit.max_long_lots
    else:
        within = scope.position_lots - scope.open_sell_lots - c.qty >= -limit.max_short_lots
    return 0 if within else Reason.POSITION_LIMIT.value


@always_inlined
def order_rate(c):
    """Exact sliding log: the N-th last approval is at least a window old (a send exactly a window ago has left)."""
    for row in (GLOBAL_ROW, ACCOUNT_ROW, c.strategy, c.row):
        count = c.limits[row].order_rate
        if count >= UNLIMITED:
            continue
        if count < 1 or count > ring_mask(row) + 1:
            return Reason.ORDER_RATE.value
        sent = c.live[row].sent
        if sent >= count:
            oldest = c.rings[ring_of(row) + ((sent - count) & ring_mask(row))]
            if not c.now_ns - oldest >= c.limits[row].order_rate_window_ns:
                return Reason.ORDER_RATE.value
    return 0


#: All controls in the order of evaluation. Between them belong, when they are built: permissions after `identity`;
#: ingress rate and restricted list after `idempotency`; economic duplicates after `price_collar`; self-trade and
#: short sale before `position`; exposure, buying power and loss after it; the lease debit after `order_rate`.
CONTROLS = (
    bounds,
    kill_switch,
    reduce_only,
    identity,
    idempotency,
    session,
    sanity,
    market_data,
    max_order_qty,
    max_order_notional,
    price_collar,
    open_orders,
    position,
    order_rate,
)


def unrolled(controls):
    """One function that runs `controls` in order and returns the first reason that is not 0."""
    first = controls[0]
    if len(controls) == 1:
        return first
    others = unrolled(controls[1:])

    @always_inlined
    def run(c):
        reason = first(c)
        if reason != 0:
            return reason
        return others(c)

    return run
