"""One desk for all tests of risk: the real kernels over real arrays, orders and reports written by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tickpath.common.histogram import empty
from tickpath.common.instruments import make_table
from tickpath.common.pages import Control
from tickpath.common.records import (
    ORDER,
    REPORT,
    SIGNAL,
    TICK,
    Action,
    ExecEvent,
    OrderState,
    Side,
    Tif,
    pack_cl_ord_id,
)
from tickpath.risk.kernels import risk as kernel
from tickpath.risk.limits import (
    FIRST_SYMBOL_ROW,
    OPEN_SCOPE,
    UNLIMITED_WORD,
    Scope,
    TradingState,
    fields_of,
    fill_row,
    new_rows,
)
from tickpath.risk.reasons import Reason
from tickpath.risk.state import Core, RiskState

NOW_NS = 10**15


class Desk:
    """A risk instance over the instruments A, B and F (futures, multiplier 50), prices in cents, all unlimited."""

    def __init__(self, capacity: int = 256, out: int = 512) -> None:
        self.table = make_table(
            [("A", "0.01", 1, 1, 1, "USD"), ("B", "0.01", 1, 1, 1, "USD"), ("F", "0.01", 1, 1, 50, "USD")]
        )
        self.limits = new_rows(self.table)
        for row in range(FIRST_SYMBOL_ROW):
            fill_row(self.limits, row, Scope.GLOBAL, OPEN_SCOPE)
        for index in range(len(self.table)):
            open_symbol = dict.fromkeys(fields_of(Scope.SYMBOL), UNLIMITED_WORD) | {"order_rate_window_ms": 1000}
            fill_row(self.limits, FIRST_SYMBOL_ROW + index, Scope.SYMBOL, open_symbol)
        self.limits["state"] = TradingState.ACTIVE
        self.control = np.zeros(len(Control), dtype=np.int64)
        self.out = np.zeros(out, dtype=ORDER)
        self.hist = empty(2)
        self.state = RiskState(self.limits, capacity, self.control, self.out, self.hist)
        self.state.core[Core.READY] = 1
        self.control[Control.LEASE_UNTIL_NS] = 2**62
        self.now_ns = NOW_NS
        self.journal: list[np.ndarray] = []
        self._cause = itertools.count(1)
        for instrument in range(len(self.table)):
            self.tick(instrument)

    # -- settings ------------------------------------------------------------------------------------------------

    def row(self, instrument: int = 0) -> Any:
        """Limits of an instrument."""
        return self.limits[FIRST_SYMBOL_ROW + instrument]

    def live(self, instrument: int = 0) -> Any:
        """Exposure of an instrument."""
        return self.state.live[FIRST_SYMBOL_ROW + instrument]

    def tick(self, instrument: int = 0, flags: int = 1, bid: int = 9_999, ask: int = 10_001) -> None:
        ticks = np.zeros(1, dtype=TICK)
        ticks["instrument"], ticks["flags"], ticks["recv_ns"] = instrument, flags, self.now_ns
        ticks["bid_ticks"], ticks["ask_ticks"] = bid, ask
        kernel.apply_ticks(self.state.context, ticks)

    # -- requests ------------------------------------------------------------------------------------------------

    def signal(self, side: Side = Side.BUY, qty: int = 1, price: int = 10_000, **fields: Any) -> np.ndarray:
        """SIGNAL[1], sane unless `fields` say otherwise; every call has a new cause_seq."""
        signal = np.zeros(1, dtype=SIGNAL)
        values = {
            "cause_seq": next(self._cause),
            "recv_ns": self.now_ns,
            "signalled_ns": self.now_ns,
            "price_ticks": price,
            "qty_lots": qty,
            "bid_ticks": 9_999,
            "ask_ticks": 10_001,
            "strategy": 1,
            "action": Action.NEW,
            "side": side,
            "tif": Tif.DAY,
        }
        for name, value in (values | fields).items():
            signal[name] = value
        return signal

    def evaluate(self, signals: np.ndarray) -> tuple[int, np.ndarray]:
        """(signals decided, ORDER records written)."""
        decided, written = kernel.evaluate(self.state.context, signals, self.now_ns)
        return decided, self.out[:written].copy()

    def decide(self, signal: np.ndarray) -> Reason:
        """Decision on one NEW signal."""
        before = self.state.reason_counts().copy()
        decided, orders = self.evaluate(signal)
        assert decided == 1
        (reason,) = np.nonzero(self.state.reason_counts() - before)[0]
        assert len(orders) == (1 if reason == Reason.PASS else 0)
        return Reason(int(reason))

    def send(self, side: Side = Side.BUY, qty: int = 1, price: int = 10_000, **fields: Any) -> Reason:
        """Decision on a new order."""
        return self.decide(self.signal(side, qty, price, **fields))

    def buy(self, qty: int, **fields: Any) -> Reason:
        return self.send(Side.BUY, qty, **fields)

    def sell(self, qty: int, **fields: Any) -> Reason:
        return self.send(Side.SELL, qty, **fields)

    def cancel(self, side: int = 0, instrument: int = 0, strategy: int = 1) -> np.ndarray:
        """Cancels that a CANCEL signal becomes."""
        signal = self.signal(action=Action.CANCEL, qty=0, price=0, instrument=instrument, strategy=strategy)
        signal["side"] = side
        decided, orders = self.evaluate(signal)
        assert decided == 1
        return orders

    def last_id(self) -> int:
        """Client order id of the youngest approved order."""
        return int(self.out[0]["cl_ord_id"])

    # -- reports -------------------------------------------------------------------------------------------------

    def make_report(self, cl_ord_id: int, event: ExecEvent, state: OrderState, **fields: Any) -> np.ndarray:
        """REPORT[1] with the next number of the journal; what is not given is taken from the open order."""
        report = np.zeros(1, dtype=REPORT)
        report["seq"] = len(self.journal) + 1
        report["cl_ord_id"], report["event"], report["state"] = cl_ord_id, event, state
        known = self.state.orders[self.state.orders["cl_ord_id"] == cl_ord_id]
        if len(known):
            for name in ("instrument", "strategy", "shard", "side", "tif", "price_ticks", "qty_lots", "cause_seq"):
                report[name] = known[0][name]
            report["approved_ns"] = known[0]["approved_ns"]
            report["leaves_lots"] = known[0]["leaves_lots"]
            report["last_ticks"] = known[0]["price_ticks"]
        else:
            report["strategy"], report["side"], report["last_ticks"] = 1, Side.BUY, 10_000
        for name, value in fields.items():
            report[name] = value
        return report

    def report(self, cl_ord_id: int, event: ExecEvent, state: OrderState, **fields: Any) -> int:
        """Apply one report and keep it in the journal."""
        report = self.make_report(cl_ord_id, event, state, **fields)
        self.journal.append(report)
        return self.apply(report)

    def apply(self, reports: np.ndarray) -> int:
        return int(kernel.apply_reports(self.state.context, reports, self.now_ns))

    def fill(self, cl_ord_id: int, lots: int, **fields: Any) -> None:
        """Fill `lots` of an open order."""
        known = self.state.orders[self.state.orders["cl_ord_id"] == cl_ord_id]
        left = int(known[0]["leaves_lots"]) - lots if len(known) else 0
        state = OrderState.FILLED if left <= 0 else OrderState.PARTIALLY_FILLED
        self.report(cl_ord_id, ExecEvent.FILL, state, last_lots=lots, leaves_lots=max(0, left), **fields)

    def done(self, cl_ord_id: int, event: ExecEvent = ExecEvent.CANCELLED) -> None:
        """Terminal evidence without a fill."""
        state = OrderState.CANCELLED if event is ExecEvent.CANCELLED else OrderState.REJECTED
        known = self.state.orders[self.state.orders["cl_ord_id"] == cl_ord_id]
        self.report(cl_ord_id, event, state, leaves_lots=0, last_lots=int(known[0]["leaves_lots"]))

    # -- shortcuts to a situation --------------------------------------------------------------------------------

    def set_position(self, lots: int, instrument: int = 0) -> None:
        """Fill an order of another strategy so that the position is `lots`."""
        change = lots - int(self.live(instrument)["position_lots"])
        if change:
            self.open(Side.BUY if change > 0 else Side.SELL, abs(change), instrument=instrument)
            self.fill(self.last_opened, abs(change))

    def open(self, side: Side, qty: int, instrument: int = 0, price: int = 10_000) -> int:
        """Let an open order of strategy 9 in through its SEND report, as a replay of the journal does."""
        cause = 10**9 + len(self.journal)
        self.last_opened = pack_cl_ord_id(9, 0, cause, 0)
        self.report(
            self.last_opened, ExecEvent.SEND, OrderState.PENDING_NEW, instrument=instrument, strategy=9, side=side,
            qty_lots=qty, leaves_lots=qty, price_ticks=price, approved_ns=self.now_ns - 10**12, cause_seq=cause,
        )  # fmt: skip
        return self.last_opened

    def recomputed(self) -> dict[int, tuple[int, ...]]:
        """(position, open buys, open sells, open orders) per instrument, from the journal and the table alone."""
        result: dict[int, tuple[int, ...]] = {}
        for instrument in range(len(self.table)):
            position = 0
            for report in self.journal:
                if report["event"][0] == ExecEvent.FILL and report["instrument"][0] == instrument:
                    sign = 1 if report["side"][0] == Side.BUY else -1
                    position += sign * int(report["last_lots"][0])
            used = self.state.orders[self.state.orders["cl_ord_id"] != 0]
            mine = used[used["instrument"] == instrument]
            buys = int(mine[mine["side"] == Side.BUY]["leaves_lots"].sum())
            sells = int(mine[mine["side"] == Side.SELL]["leaves_lots"].sum())
            result[instrument] = (position, buys, sells, len(mine))
        return result

    def incremental(self) -> dict[int, tuple[int, ...]]:
        """The same figures as the kernels keep them."""
        names = ("position_lots", "open_buy_lots", "open_sell_lots", "open_orders")
        return {i: tuple(int(self.live(i)[name]) for name in names) for i in range(len(self.table))}


@pytest.fixture(scope="session")
def desks() -> type[Desk]:
    """The class of desks; each call makes a new one."""
    return Desk


@pytest.fixture
def desk() -> Desk:
    """A desk where everything is allowed."""
    return Desk()
