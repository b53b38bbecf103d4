"""What a strategy calls to ask for orders; compiled into it."""

from __future__ import annotations

from tickpath.common.jit import inlined
from tickpath.common.records import Action, Side, Tif
from tickpath.signals.layout import MAX_INTENTS

_NEW = int(Action.NEW)
_CANCEL = int(Action.CANCEL)
_BUY = int(Side.BUY)
_SELL = int(Side.SELL)
_DAY = int(Tif.DAY)


@inlined
def order(out, side, qty_lots, price_ticks, tif=_DAY, strength=0.0):
    """Ask for a limit order: `qty_lots` at `price_ticks` or better; `strength` is for people only."""
    if out[0].qty_lots == MAX_INTENTS:
        out[0].side += 1
        return
    out[0].qty_lots += 1
    intent = out[out[0].qty_lots]
    intent.action = _NEW
    intent.side = side
    intent.qty_lots = qty_lots
    intent.price_ticks = price_ticks
    intent.tif = tif
    intent.strength = strength


@inlined
def buy(out, qty_lots, price_ticks, tif=_DAY, strength=0.0):
    """Ask for a limit order to buy."""
    order(out, _BUY, qty_lots, price_ticks, tif, strength)


@inlined
def sell(out, qty_lots, price_ticks, tif=_DAY, strength=0.0):
    """Ask for a limit order to sell."""
    order(out, _SELL, qty_lots, price_ticks, tif, strength)


@inlined
def cancel(out, side=0):
    """Take back all own open orders in this instrument, of one side or (0) of both.

    Without an open order that is not being taken back already it does nothing, so it may be asked on every tick.
    """
    if out[0].qty_lots == MAX_INTENTS:
        out[0].side += 1
        return
    out[0].qty_lots += 1
    intent = out[out[0].qty_lots]
    intent.action = _CANCEL
    intent.side = side
    intent.qty_lots = 0
    intent.price_ticks = 0
    intent.tif = _DAY
    intent.strength = 0.0
