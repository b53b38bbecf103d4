"""A strategy that decides on ticks alone: however late its orders are answered, and whatever becomes of them."""

from tickpath.signals.strategy import IOC, NO_PRICE_TICKS, Param, buy, sell, strategy


@strategy(
    params={"every": Param(199, least=1, most=1_000_000, about="ticks from one order to the next")},
    state={"seen": 0, "sign": 0},
)
def metronome(tick, state, params, out):
    """Buys and sells one lot in turn at the other side of the book; immediate or cancel, so that no order stays."""
    state.seen += 1
    if state.seen < params.every or NO_PRICE_TICKS in (tick.bid_ticks, tick.ask_ticks):
        return
    state.seen = 0
    state.sign = 1 if state.sign <= 0 else -1
    if state.sign > 0:
        buy(out, 1, tick.ask_ticks, IOC)
    else:
        sell(out, 1, tick.bid_ticks, IOC)
