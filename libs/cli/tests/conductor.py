# mypy: disable-error-code="no-untyped-def"
"""A strategy for tests of whole chains: the size of the best bid says what to do."""

from tickpath.signals.strategy import IOC, buy, cancel, sell, strategy


@strategy()
def conductor(tick, out):
    """1: buy a lot at the bid, 2: take everything back, 3: eight buys, 4: buy a lot at the ask, 5: sell two at it."""
    what = tick.bid_lots
    if what == 1:
        buy(out, 1, tick.bid_ticks)
    elif what == 2:
        cancel(out)
    elif what == 3:
        for i in range(8):
            buy(out, 1, tick.bid_ticks - 100 * i)
    elif what == 4:
        buy(out, 1, tick.ask_ticks, IOC)
    elif what == 5:
        sell(out, 2, tick.bid_ticks, IOC)
