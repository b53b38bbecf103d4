"""Queue passively on the side to which the sizes at the touch and the flow of orders point."""

from __future__ import annotations

from tickpath.common.jit import inlined
from tickpath.signals.strategy import (
    BUY,
    DAY,
    NO_PRICE_TICKS,
    SELL,
    Param,
    buy,
    cancel,
    sell,
    strategy,
)


@inlined
def order_flow(before, after):
    """Order-flow imbalance of two successive books, in lots: what buyers added less what sellers added.

    e_n of Cont, Kukanov and Stoikov, "The Price Impact of Order Book Events" (J. Financial Econometrics 12, 2014),
    section 2.1: with bid P, size q and offer P', size q',
    ``e = 1[P_n >= P_m] q_n - 1[P_n <= P_m] q_m - 1[P'_n <= P'_m] q'_n + 1[P'_n >= P'_m] q'_m``, m = n - 1. 0 when a
    side of either book is empty.
    """
    if min(before.bid_ticks, before.ask_ticks, after.bid_ticks, after.ask_ticks) == NO_PRICE_TICKS:
        return 0
    flow = 0
    if after.bid_ticks >= before.bid_ticks:
        flow += after.bid_lots
    if after.bid_ticks <= before.bid_ticks:
        flow -= before.bid_lots
    if after.ask_ticks <= before.ask_ticks:
        flow -= after.ask_lots
    if after.ask_ticks >= before.ask_ticks:
        flow += before.ask_lots
    return flow


@strategy(
    params={
        "window": Param(50, least=1, most=100_000, about="ticks over which order flow is summed"),
        "min_tilt": Param(0.6, least=0.0, most=1.0, about="microprice's distance from mid, in half spreads"),
        "min_steps": Param(2.0, least=0.0, about="price change that the order flow foretells, in price steps"),
        "order_lots": Param(100, least=1, most=1_000_000, about="lots of an order"),
        "max_lots": Param(
            300, least=1, most=1_000_000, about="lots held at most, long or short, open orders included"
        ),
    },
    state={"ofi": 0, "depth": 0, "ticks": 0, "tilt": 0.0, "steps": 0.0},
    lookback=lambda params: params["window"] + 2,
)
def microprice(tick, series, state, params, own, out):
    """DAY orders at the touch while microprice and order flow agree; taken back when they turn or the touch moves on.

    Microprice: ``(bid * ask_lots + ask * bid_lots) / (bid_lots + ask_lots)``, the mid weighted by the opposite sizes
    (Gatheral and Oomen, "Zero-intelligence realized variance estimation", Finance and Stochastics 14, 2010). `tilt`
    is its distance from the mid in half spreads, which is ``(bid_lots - ask_lots) / (bid_lots + ask_lots)``. Order
    flow is `order_flow` summed over the last `window` ticks; it foretells a price change of ``ofi / (2 depth)`` price
    steps, depth being the mean size at the touch (Cont, Kukanov, Stoikov 2014, section 2.2). The sums are of
    integers, so taking the oldest term out again is exact.
    """
    n = len(series)
    state.depth += tick.bid_lots + tick.ask_lots
    state.ticks += 1
    if n > 1:
        state.ofi += order_flow(series[-2], series[-1])
    if state.ticks > params.window:
        oldest = series[n - 1 - params.window]
        state.depth -= oldest.bid_lots + oldest.ask_lots
        state.ticks -= 1
        if n > params.window + 1:
            state.ofi -= order_flow(series[n - 2 - params.window], oldest)
    state.tilt = 0.0
    state.steps = 0.0
    if NO_PRICE_TICKS not in (tick.bid_ticks, tick.ask_ticks) and state.depth > 0:
        state.tilt = (tick.bid_lots - tick.ask_lots) / (tick.bid_lots + tick.ask_lots)
        state.steps = state.ofi * state.ticks / state.depth
    if own.open_buy_lots > 0 and (tick.bid_ticks > own.buy_ticks or (state.tilt < 0.0 and state.steps < 0.0)):
        cancel(out, BUY)
    if own.open_sell_lots > 0 and (
        (tick.ask_ticks < own.sell_ticks and tick.ask_ticks != NO_PRICE_TICKS)
        or (state.tilt > 0.0 and state.steps > 0.0)
    ):
        cancel(out, SELL)
    if state.ticks < params.window:
        return
    up = state.tilt >= params.min_tilt and state.steps >= params.min_steps
    down = -state.tilt >= params.min_tilt and -state.steps >= params.min_steps
    if up and own.open_buy_lots == 0 and own.position_lots + params.order_lots <= params.max_lots:
        buy(out, params.order_lots, tick.bid_ticks, DAY, state.steps)
    elif down and own.open_sell_lots == 0 and own.position_lots - params.order_lots >= -params.max_lots:
        sell(out, params.order_lots, tick.ask_ticks, DAY, state.steps)
