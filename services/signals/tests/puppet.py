# mypy: disable-error-code="no-untyped-def"
"""Strategies for the tests of what surrounds a strategy: they do what the tick says."""

from tickpath.signals.strategy import BUY, DAY, Param, buy, cancel, order, sell, strategy


@strategy(
    params={"lots": Param(10, least=1, most=1000), "factor": 1.0, "loud": False},
    state={"seen": 0, "ring": [0.0] * 4},
    lookback=2,
)
def puppet(tick, series, state, params, own, instrument, out):
    """``volume_lots`` of the tick says what to do, ``last_lots`` how often or how much."""
    state.seen += 1
    state.ring[state.seen & 3] = series[-1].bid_ticks
    what = tick.volume_lots
    if what == 1:
        buy(out, params.lots, tick.bid_ticks, DAY, 0.5)
    elif what == 2:
        sell(out, params.lots, tick.ask_ticks)
    elif what == 3:
        cancel(out)
    elif what == 4:
        cancel(out, BUY)
    elif what == 5:
        for i in range(tick.last_lots):
            buy(out, params.lots, tick.bid_ticks - i * instrument.price_step_ticks)
    elif what == 6:
        state.ring[tick.last_lots] = 1.0
    elif what == 7:
        order(out, tick.last_lots, params.lots, tick.bid_ticks)
    elif what == 8:
        order(out, BUY, tick.last_lots, tick.bid_ticks)
    elif what == 9:
        buy(out, 1, own.position_lots)
        buy(out, 1, own.open_orders)


@strategy()
def bystander(tick, out):
    """Buys one lot on every tick that the puppet is told to fail on."""
    if tick.volume_lots == 6:
        buy(out, 1, tick.bid_ticks)
