"""Cost of a decision inside risk: nanoseconds per order, approved, and refused by each control in turn.

Timed: `evaluate` on batches of 256 signals over real tables (three instruments, every limit set, the order table up
to half full), and one call per signal from Python, as on a quiet market. Beside it, interleaved in the same run: a
call with an empty batch, which is what the way from Python into the kernel costs. Left out: links, pages, the loop.

    .venv/bin/python bench/risk_kernel.py [--json]
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tickpath.common.histogram import empty
from tickpath.common.instruments import make_table
from tickpath.common.pages import Control
from tickpath.common.records import ORDER, SIGNAL, TICK, Action, Side, TickFlag
from tickpath.risk.kernels.risk import apply_ticks, evaluate
from tickpath.risk.limits import FIRST_SYMBOL_ROW, UNLIMITED, TradingState, new_rows
from tickpath.risk.reasons import Reason
from tickpath.risk.state import Core, RiskState

BATCH = 256
BATCHES = 64
ROUNDS = 9

#: What is wrong with a signal, or what is set, so that this control is the one that refuses.
REFUSALS: dict[str, Callable[[Any, Any], None]] = {
    "INVALID_QTY": lambda desk, s: s.__setitem__("qty_lots", 2**31),
    "KILL_SWITCH_GLOBAL": lambda desk, s: desk.limits["state"].__setitem__(0, TradingState.HALTED),
    "UNKNOWN_SYMBOL": lambda desk, s: s.__setitem__("instrument", 99),
    "INVALID_TICK": lambda desk, s: s.__setitem__("price_ticks", 1_000_001),
    "MARKET_DATA_STALE": lambda desk, s: s.__setitem__("recv_ns", 1),
    "MAX_ORDER_QTY": lambda desk, s: s.__setitem__("qty_lots", 1001),
    "MAX_ORDER_NOTIONAL": lambda desk, s: desk.limits["max_order_notional_e8"].__setitem__(slice(None), 0),
    "PRICE_COLLAR_HIGH": lambda desk, s: s.__setitem__("price_ticks", 1_100_000),
    "MAX_OPEN_ORDERS": lambda desk, s: desk.limits["max_open_orders"].__setitem__(0, 0),
    "POSITION_LIMIT": lambda desk, s: desk.limits["max_long_lots"].__setitem__(slice(None), 0),
    "ORDER_RATE": lambda desk, s: desk.limits["order_rate"].__setitem__(0, 0),
}


class Desk:
    """A risk instance with every limit set, and signals that pass them all."""

    def __init__(self) -> None:
        table = make_table([(name, "0.0001", 100, 1, 1, "USD") for name in "ABC"])
        self.limits = new_rows(table)
        for name in self.limits.dtype.names or ():
            if name not in ("price_step_ticks", "qty_step_lots", "tick_value_e8", "trips_handled"):
                self.limits[name] = UNLIMITED
        symbols = self.limits[FIRST_SYMBOL_ROW:]
        self.limits["state"] = TradingState.ACTIVE
        symbols["max_order_qty_lots"], symbols["max_order_notional_e8"] = 1000, 10**14
        symbols["collar_aggressive_bps"], symbols["collar_passive_bps"], symbols["max_spread_bps"] = 500, 2000, 1000
        symbols["max_long_lots"] = symbols["max_short_lots"] = 10**9
        symbols["max_data_age_ns"] = 10**9
        self.limits["order_rate"], self.limits["order_rate_window_ns"] = 1024, 1
        self.limits["max_open_orders"][0] = 1 << 15
        control = np.zeros(len(Control), dtype=np.int64)
        control[Control.LEASE_UNTIL_NS] = UNLIMITED
        self.out = np.zeros(1 << 15, dtype=ORDER)
        self.state = RiskState(self.limits, 1 << 15, control, self.out, empty(2))
        self.now_ns = 10**12
        self.cause = 0
        ticks = np.zeros(3, dtype=TICK)
        ticks["instrument"], ticks["flags"], ticks["recv_ns"] = range(3), TickFlag.QUOTE, self.now_ns
        apply_ticks(self.state.context, ticks)
        self.begin()

    def begin(self) -> None:
        """No order is open."""
        self.state.forget()
        self.state.core[Core.READY] = 1

    def signals(self, n: int) -> Any:
        """SIGNAL[n] with ids that were never used."""
        signals = np.zeros(n, dtype=SIGNAL)
        signals["cause_seq"] = np.arange(n) + self.cause + 1
        self.cause += n
        signals["recv_ns"] = signals["signalled_ns"] = self.now_ns
        signals["price_ticks"], signals["qty_lots"] = 1_000_000, 10
        signals["bid_ticks"], signals["ask_ticks"] = 999_900, 1_000_100
        signals["instrument"] = np.arange(n) % 3
        signals["strategy"], signals["action"], signals["side"] = 1, Action.NEW, Side.BUY
        return signals


def per_signal_ns(desk: Desk, signals: Any, batch: int) -> float:
    """Nanoseconds per signal, decided in batches."""
    parts = [signals[i : i + batch] for i in range(0, len(signals), batch)]
    context, now_ns = desk.state.context, desk.now_ns
    began = time.perf_counter_ns()
    for part in parts:
        now_ns += 1
        evaluate(context, part, now_ns)
    return (time.perf_counter_ns() - began) / len(signals)


def measure() -> dict[str, float]:
    """Median over the rounds of each figure, in nanoseconds per signal."""
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        desk = Desk()
        none = desk.signals(0)
        began = time.perf_counter_ns()
        for _ in range(1000):
            evaluate(desk.state.context, none, desk.now_ns)
        found.setdefault("empty call from Python", []).append((time.perf_counter_ns() - began) / 1000)
        signals = desk.signals(BATCH * BATCHES)
        found.setdefault("approved, in batches", []).append(per_signal_ns(desk, signals, BATCH))
        approved = int(desk.state.core[Core.APPROVED])
        if approved != len(signals):
            sys.exit(f"only {approved} of {len(signals)} orders were approved: this measures something else")
        desk.begin()
        found.setdefault("approved, one per call", []).append(per_signal_ns(desk, desk.signals(BATCH * BATCHES), 1))
        for name, spoil in REFUSALS.items():
            desk = Desk()
            signals = desk.signals(BATCH * BATCHES)
            spoil(desk, signals)
            found.setdefault(f"refused: {name}", []).append(per_signal_ns(desk, signals, BATCH))
            if desk.state.reason_counts()[Reason[name]] != len(signals):
                sys.exit(f"not every signal was refused with {name}: this measures something else")
    return {name: round(float(np.median(values)), 1) for name, values in found.items()}


def main() -> None:
    """Print the figures and the machine."""
    figures = measure()
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}"
    if "--json" in sys.argv:
        print(json.dumps({"ns_per_signal": figures, "machine": machine}))  # noqa: T201 - this is a command
        return
    for name, value in figures.items():
        print(f"{name:34s} {value:9.1f} ns")  # noqa: T201
    print(machine)  # noqa: T201


if __name__ == "__main__":
    main()
