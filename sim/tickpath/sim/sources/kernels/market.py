"""The invented market: order flow and matching, told as `MESSAGE` records.

Prices here are whole cents. ``orders`` is int64[slots, 7] (columns below); the orders of a price are a doubly linked
queue whose ends are ``queues[level]``, int32[levels, 2], -1 when empty; level = ``market[i, FLOOR] + price``.
``market`` is int64[instruments, 8] and ``belief`` float64[instruments, 6] (columns below). ``live``
int32[instruments, LIVE_MAX] lists the slots of an instrument's orders. ``made`` int64[2] counts messages and order
references.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from tickpath.common.jit import inlined, kernel
from tickpath.sim.sources.kernels.encode import (
    ADD,
    BUY,
    CANCEL,
    DELETE,
    DIRECTORY,
    EXECUTED,
    MESSAGES_TYPE,
    REPLACE,
    SELL,
    SYSTEM,
    TRADE,
    TRADING,
    note,
)

# Columns of orders. RANK: place in live.
PRICE, SHARES, SIDE, PREV, NEXT, REF, RANK = range(7)
ORDER_COLUMNS = 7

# Columns of market. LIVE and the two after it: orders in all, bids, offers. FLOOR: level of price 0.
BID, ASK, LIVE, BIDS, ASKS, FLOOR, LOWEST, HIGHEST = range(8)
MARKET_COLUMNS = 8

# Columns of belief: fair price and its momentum per event (cents), first price, typical half spread and volatility
# per event (cents), and the events per second that start by themselves.
FAIR, MOMENTUM, START, HALF_SPREAD, VOLATILITY, BASE_RATE = range(6)
BELIEF_COLUMNS = 6

# Columns of made.
MESSAGES, REFS = range(2)

#: Orders of one instrument at most, about how many there are, and how many of them the opening book has.
LIVE_MAX = 512
LIVE_TYPICAL = 160
LIVE_OPENING = 40

#: Most messages that one event makes: what a taker takes, and what rests of it.
EVENT_MAX = 34
_TAKES_MAX = EVENT_MAX - 2

#: A side with this many orders or fewer is not thinned out further, so that there is always a market.
_FEW = 4

_CENT = 100  # in price units of ITCH


_RNG = numba.typeof(np.random.Generator(np.random.PCG64(0)))
_TABLE, _SLOTS = numba.int64[:, ::1], numba.int32[:, ::1]


@kernel(numba.void(MESSAGES_TYPE, numba.int64[::1], *[numba.int64] * 8))
def _say(messages, made, now, i, kind, ref, other, side, shares, price):
    made[MESSAGES] = note(messages, made[MESSAGES], now, i, kind, ref, other, side, shares, price * _CENT)


@inlined
def _link(orders, queues, market, live, i, slot):
    """Put an order at the tail of its price and into the list of live orders; move the best price."""
    price, side = orders[slot, PRICE], orders[slot, SIDE]
    level = market[i, FLOOR] + price
    tail = queues[level, 1]
    orders[slot, PREV] = tail
    orders[slot, NEXT] = -1
    if tail < 0:
        queues[level, 0] = slot
    else:
        orders[tail, NEXT] = slot
    queues[level, 1] = slot
    orders[slot, RANK] = market[i, LIVE]
    live[i, market[i, LIVE]] = slot
    market[i, LIVE] += 1
    if side == BUY:
        market[i, BIDS] += 1
        market[i, BID] = max(market[i, BID], price)
    else:
        market[i, ASKS] += 1
        market[i, ASK] = min(market[i, ASK], price)


@inlined
def _unlink(orders, queues, market, live, i, slot):
    """Inverse of `_link`; the slot stays reserved."""
    price, side = orders[slot, PRICE], orders[slot, SIDE]
    level = market[i, FLOOR] + price
    before, after = orders[slot, PREV], orders[slot, NEXT]
    if before < 0:
        queues[level, 0] = after
    else:
        orders[before, NEXT] = after
    if after < 0:
        queues[level, 1] = before
    else:
        orders[after, PREV] = before
    market[i, LIVE] -= 1
    rank = orders[slot, RANK]
    last = live[i, market[i, LIVE]]
    live[i, rank] = last
    orders[last, RANK] = rank
    if side == BUY:
        market[i, BIDS] -= 1
        while market[i, BID] >= market[i, LOWEST] and queues[market[i, FLOOR] + market[i, BID], 0] < 0:
            market[i, BID] -= 1
    else:
        market[i, ASKS] -= 1
        while market[i, ASK] <= market[i, HIGHEST] and queues[market[i, FLOOR] + market[i, ASK], 0] < 0:
            market[i, ASK] += 1


@inlined
def _release(orders, queues, market, live, free, i, slot):
    _unlink(orders, queues, market, live, i, slot)
    free[0] += 1
    free[free[0]] = slot


@inlined
def _rest(orders, queues, market, live, free, i, side, price, shares, messages, made, now):
    """A new order joins the book, behind what it would cross: A. Not when the book is full."""
    price = min(price, market[i, ASK] - 1) if side == BUY else max(price, market[i, BID] + 1)
    if market[i, LIVE] >= LIVE_MAX or not market[i, LOWEST] <= price <= market[i, HIGHEST]:
        return
    slot = free[free[0]]
    free[0] -= 1
    made[REFS] += 1
    orders[slot, PRICE] = price
    orders[slot, SHARES] = shares
    orders[slot, SIDE] = side
    orders[slot, REF] = made[REFS]
    _link(orders, queues, market, live, i, slot)
    _say(messages, made, now, i, ADD, made[REFS], 0, side, shares, price)


@inlined
def _take(orders, queues, market, live, free, i, side, limit, shares, messages, made, now):
    """An order of `side` executes against the book up to its limit price: Es. Returns the shares left."""
    for _ in range(_TAKES_MAX):
        if shares <= 0 or market[i, ASKS if side == BUY else BIDS] <= _FEW:
            break
        price = market[i, ASK if side == BUY else BID]
        if price > limit if side == BUY else price < limit:
            break
        slot = queues[market[i, FLOOR] + price, 0]
        filled = min(shares, orders[slot, SHARES])
        _say(messages, made, now, i, EXECUTED, orders[slot, REF], 0, side, filled, price)
        shares -= filled
        orders[slot, SHARES] -= filled
        if orders[slot, SHARES] == 0:
            _release(orders, queues, market, live, free, i, slot)
    return shares


@inlined
def _exponential(rng):
    return -math.log(1.0 - rng.random())


@inlined
def _about_normal(rng):
    """Mean 0, variance 1, never above 3: enough for a price, and quicker to compile than the real one."""
    return 2.0 * (rng.random() + rng.random() + rng.random() - 1.5)


@inlined
def _size(rng):
    """Shares of an order: round lots mostly, odd lots, now and then a large one."""
    u = rng.random()
    if u < 0.5:
        return 100
    if u < 0.7:
        return 100 * (2 + int(rng.random() * 4))
    if u < 0.95:
        return 1 + int(rng.random() * 99)
    return 100 * (5 + int(rng.random() * 30))


@inlined
def _passive_price(rng, market, belief, i, side):
    """Price of an order that wants to rest: around the fair price less half a spread, thinning out with depth.

    A few are bold and pay up to two half spreads more; those may cross the book.
    """
    half = belief[i, HALF_SPREAD]
    u = rng.random()
    exponential = _exponential(rng)
    if u < 0.03:
        away = -min(exponential, 2.0) * half
    elif u < 0.75:
        away = half * (0.6 + 1.5 * exponential)
    else:
        away = half * (2.0 + 12.0 * exponential)
    price = math.floor(belief[i, FAIR] - away) if side == BUY else math.ceil(belief[i, FAIR] + away)
    return min(max(price, market[i, LOWEST]), market[i, HIGHEST])


@inlined
def _drift(rng, belief, i):
    """Move the fair price: noise, and momentum that lasts 2,000 events; turned around at 25 % from the first."""
    volatility = belief[i, VOLATILITY]
    momentum = 0.9995 * belief[i, MOMENTUM] + 0.00025 * volatility * _about_normal(rng)
    fair = belief[i, FAIR] + momentum + 0.03 * volatility * _about_normal(rng)
    if fair > 1.25 * belief[i, START]:
        momentum = -abs(momentum)
    elif fair < 0.75 * belief[i, START]:
        momentum = abs(momentum)
    belief[i, MOMENTUM] = momentum
    belief[i, FAIR] = min(max(fair, 0.7 * belief[i, START]), 1.3 * belief[i, START])


@inlined
def _exposed(orders, belief, i, slot):
    """How far the fair price has come towards an order, the larger the more its owner minds."""
    gap = belief[i, FAIR] - orders[slot, PRICE]
    return -gap if orders[slot, SIDE] == BUY else gap


@inlined
def _cancel(rng, orders, queues, market, live, free, belief, i, messages, made, now):
    """The owner of an order takes it back (D), reduces it (X) or moves it to where the market is (U).

    Of two orders taken at random it is the one that the market has come closer to: quotes flicker near the top.
    """
    slot = live[i, int(rng.random() * market[i, LIVE])]
    second = live[i, int(rng.random() * market[i, LIVE])]
    if _exposed(orders, belief, i, second) > _exposed(orders, belief, i, slot):
        slot = second
    side, ref = orders[slot, SIDE], orders[slot, REF]
    u = rng.random()
    if u < 0.06 and orders[slot, SHARES] > 1:
        less = 1 + int(rng.random() * (orders[slot, SHARES] - 1))
        orders[slot, SHARES] -= less
        _say(messages, made, now, i, CANCEL, ref, 0, side, less, 0)
    elif u < 0.22:
        price = _passive_price(rng, market, belief, i, side)
        _unlink(orders, queues, market, live, i, slot)
        price = min(price, market[i, ASK] - 1) if side == BUY else max(price, market[i, BID] + 1)
        orders[slot, PRICE] = min(max(price, market[i, LOWEST]), market[i, HIGHEST])
        orders[slot, SHARES] = _size(rng)
        made[REFS] += 1
        orders[slot, REF] = made[REFS]
        _link(orders, queues, market, live, i, slot)
        _say(messages, made, now, i, REPLACE, ref, made[REFS], side, orders[slot, SHARES], orders[slot, PRICE])
    elif market[i, BIDS if side == BUY else ASKS] > _FEW:
        _release(orders, queues, market, live, free, i, slot)
        _say(messages, made, now, i, DELETE, ref, 0, side, 0, 0)


@inlined
def _event(rng, orders, queues, market, live, free, belief, i, messages, made, now):
    """One thing that somebody does in instrument i."""
    _drift(rng, belief, i)
    bid, ask = market[i, BID], market[i, ASK]
    u = rng.random()
    if u < 0.01:
        # Against hidden interest, at the midpoint mostly: half a cent is possible there.
        half_cents = bid + ask
        if rng.random() > 0.6:
            half_cents = 2 * (ask if rng.random() < 0.5 else bid)
        made[MESSAGES] = note(
            messages, made[MESSAGES], now, i, TRADE, 0, 0, BUY, _size(rng), half_cents * _CENT // 2
        )  # fmt: skip
        return
    if u >= 0.035 and rng.random() < min(0.5 * market[i, LIVE] / LIVE_TYPICAL, 0.95):
        _cancel(rng, orders, queues, market, live, free, belief, i, messages, made, now)
        return
    shares = _size(rng)
    if u < 0.035:  # a market order, rather in the direction of the fair price
        lean = (belief[i, FAIR] - 0.5 * (bid + ask)) / (4.0 * belief[i, HALF_SPREAD])
        side = BUY if rng.random() < 0.5 + min(max(lean, -0.4), 0.4) else SELL
        reach = int(2.0 + 4.0 * belief[i, HALF_SPREAD])
        limit = ask + reach if side == BUY else bid - reach
        shares *= 1 + int(1.2 * _exponential(rng))
    else:
        side = BUY if rng.random() < 0.5 else SELL
        limit = _passive_price(rng, market, belief, i, side)
    if u < 0.035 or rng.random() < 0.6:  # the others do not want to take: they step back behind the other side
        shares = _take(orders, queues, market, live, free, i, side, limit, shares, messages, made, now)
    if u >= 0.035 and shares > 0:
        _rest(orders, queues, market, live, free, i, side, limit, shares, messages, made, now)


@kernel(
    numba.void(
        _RNG, _TABLE, _SLOTS, _TABLE, _SLOTS, numba.int32[::1], numba.float64[:, ::1], numba.float64[::1],
        numba.float64[::1], numba.int64, MESSAGES_TYPE, numba.int64[::1],
    )
)  # fmt: skip
def play(rng, orders, queues, market, live, free, belief, heat, flow, wanted, messages, made):
    """Make messages until there are `wanted` of them, or up to EVENT_MAX - 1 more; MESSAGE[wanted] keeps the first.

    When something happens is a self-exciting (Hawkes) process, simulated exactly: each instrument starts events at
    its BASE_RATE, every event excites its instrument, and now and then news excite all; excitement decays
    exponentially with one rate. `flow` float64[5]: decay per second, events that one event causes, news per second,
    excitement of one piece of news (events per second), seconds over which the opening book is told of. `heat`
    float64[instruments] is zeroed. `free` int32[slots + 1]: index of the last free slot, then the free slots.
    Times count from 0.
    """
    n = len(market)
    decay, children, news_rate, news_kick, opening = flow
    for i in range(n):
        heat[i] = 0.0
    _say(messages, made, 0, 0, SYSTEM, 0, 79, 0, 0, 0)  # O: start of messages
    for i in range(n):
        _say(messages, made, 0, i, DIRECTORY, 0, 0, 0, 0, 0)
    for i in range(n):
        _say(messages, made, 0, i, TRADING, 0, 84, 0, 0, 0)  # T: trading
    _say(messages, made, 0, 0, SYSTEM, 0, 81, 0, 0, 0)  # Q: start of market hours

    step_ns = opening * 1e9 / (n * LIVE_OPENING)
    for k in range(n * LIVE_OPENING):
        i, rank = k // 2 % n, k // (2 * n)
        side = BUY if k % 2 == 0 else SELL
        away = belief[i, HALF_SPREAD] * (0.3 + 0.8 * rank)
        price = math.floor(belief[i, FAIR] - away) if side == BUY else math.ceil(belief[i, FAIR] + away)
        price = min(max(price, market[i, LOWEST]), market[i, HIGHEST])
        _rest(orders, queues, market, live, free, i, side, price, _size(rng), messages, made, int(k * step_ns))

    base = 0.0
    for i in range(n):
        base += belief[i, BASE_RATE]
    now = opening
    news_at = now + _exponential(rng) / news_rate
    hot, scale = 0.0, 1.0  # excitement of all, and of one instrument per unit of heat
    while made[MESSAGES] < wanted:
        # The next event is the earlier one of the two kinds: started by itself, or caused by the heat there is.
        by_itself = _exponential(rng) / base
        caused = math.inf
        if hot > 0.0:
            spent = 1.0 - decay * _exponential(rng) / hot
            if spent > 0.0:
                caused = -math.log(spent) / decay
        wait = min(by_itself, caused)
        is_news = now + wait >= news_at
        if is_news:
            wait = max(news_at - now, 0.0)
        now += wait
        cooling = math.exp(-decay * wait)
        hot *= cooling
        scale *= cooling
        if scale < 1e-9:  # now and then, all at once, instead of every instrument at every event
            hot = 0.0
            for i in range(n):
                heat[i] *= scale
                hot += heat[i]
            scale = 1.0
        if is_news:
            news_at = now + _exponential(rng) / news_rate
            for i in range(n):
                heat[i] += news_kick * belief[i, BASE_RATE] / base / scale
            hot += news_kick
            continue
        i = 0
        if by_itself < caused:
            left = rng.random() * base
            while i < n - 1 and left >= belief[i, BASE_RATE]:
                left -= belief[i, BASE_RATE]
                i += 1
        else:
            left = rng.random() * hot / scale
            while i < n - 1 and left >= heat[i]:
                left -= heat[i]
                i += 1
        heat[i] += children * decay / scale
        hot += children * decay
        _event(rng, orders, queues, market, live, free, belief, i, messages, made, int(now * 1e9))
