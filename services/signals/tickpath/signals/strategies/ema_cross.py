"""Two exponential moving averages of the trade prices cross, and the trade that made them cross is a large one."""

from __future__ import annotations

from tickpath.signals.strategy import IOC, NO_PRICE_TICKS, TRADE, Param, buy, sell, strategy


@strategy(
    params={
        "fast": Param(5, least=1, most=100_000, about="span of the fast average, trades"),
        "slow": Param(20, least=2, most=100_000, about="span of the slow average, trades"),
        "volume_span": Param(20, least=1, most=100_000, about="span of the mean trade size, trades"),
        "volume_factor": Param(1.0, least=0.0, about="a cross counts if its trade has this many mean trade sizes"),
        "max_position_lots": Param(100, least=1, most=1_000_000, about="lots held, long or short, after a cross"),
        "through_steps": Param(1, least=0, most=1000, about="price steps beyond the touch that an order may pay"),
    },
    state={"fast": 0.0, "slow": 0.0, "size": 0.0, "trades": 0, "sign": 0},
)
def ema_cross(tick, state, params, own, instrument, out):
    """Long after the fast average rose above the slow one, short after it fell below; IOC at the touch.

    Average over trade prices with span n: ``a += 2 / (n + 1) * (price - a)``, which gives the newest price the weight
    2 / (n + 1), as of an n-trade mean (Roberts 1959, "Control Chart Tests Based on Geometric Moving Averages").
    It begins at the first price, not at 0. A cross is a change of the sign of fast - slow; it is acted upon from
    the `slow`-th trade on, and only if its own trade is at least `volume_factor` times the mean size of the trades
    before it.
    """
    if not tick.flags & TRADE:
        return
    price = float(tick.last_ticks)
    size = float(tick.last_lots)
    state.trades += 1
    if state.trades == 1:
        state.fast = price
        state.slow = price
        state.size = size
        return
    large = size >= params.volume_factor * state.size
    state.fast += 2.0 / (params.fast + 1) * (price - state.fast)
    state.slow += 2.0 / (params.slow + 1) * (price - state.slow)
    state.size += 2.0 / (params.volume_span + 1) * (size - state.size)
    if state.fast == state.slow:
        return
    sign = 1 if state.fast > state.slow else -1
    crossed = state.sign not in (0, sign)
    state.sign = sign
    if not crossed or not large or state.trades < params.slow:
        return
    # What is still open counts as held, so that a second cross in flight does not double the position.
    held = own.position_lots + own.open_buy_lots - own.open_sell_lots
    qty = sign * params.max_position_lots - held
    through = params.through_steps * instrument.price_step_ticks
    if sign > 0 and qty > 0 and tick.ask_ticks != NO_PRICE_TICKS:
        buy(out, qty, tick.ask_ticks + through, IOC, state.fast - state.slow)
    elif sign < 0 and qty < 0 and tick.bid_ticks > through:
        sell(out, -qty, tick.bid_ticks - through, IOC, state.fast - state.slow)
