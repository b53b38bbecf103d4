"""Data and a venue for the tests of the signals service."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zstandard

from tickpath.common.instruments import InstrumentTable, make_table
from tickpath.common.records import (
    FIRST_TERMINAL_STATE,
    NO_PRICE_TICKS,
    REPORT,
    TICK,
    Action,
    ExecEvent,
    OrderState,
    Side,
    TickFlag,
    Tif,
    pack_cl_ord_id,
)

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "lobster"
Records = npt.NDArray[Any]
_EMPTY_PRICE = 9_999_999_999


def _read_csv(path: Path) -> Records:
    if not path.exists():
        pytest.skip(f"recorded data is not there: {path}")
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        return np.loadtxt(io.TextIOWrapper(stream, "ascii"), delimiter=",", ndmin=2)


@pytest.fixture(scope="session")
def aapl_day() -> Records:
    """AAPL, 2012-06-21, the whole session as ticks: TICK[n], one where the touch changed or a trade printed."""
    stem = "AAPL_2012-06-21_34200000_57600000"
    messages = _read_csv(DATA / f"{stem}_message_1.csv.zst")
    book = _read_csv(DATA / f"{stem}_orderbook_1.csv.zst").astype(np.int64)
    touch = book[:, :4].copy()
    touch[:, [0, 2]] = np.where(np.abs(book[:, [0, 2]]) == _EMPTY_PRICE, NO_PRICE_TICKS, book[:, [0, 2]])
    kind = messages[:, 1].astype(np.int64)
    trade = (kind == 4) | (kind == 5)
    quote = np.ones(len(book), bool)
    quote[1:] = (touch[1:] != touch[:-1]).any(axis=1)
    ticks = np.zeros(len(book), TICK)
    ticks["cause_seq"] = np.arange(1, len(book) + 1)
    ticks["exch_ns"] = (messages[:, 0] * 1e9).astype(np.int64)
    ticks["ask_ticks"], ticks["ask_lots"], ticks["bid_ticks"], ticks["bid_lots"] = touch.T
    ticks["last_ticks"] = np.where(trade, messages[:, 4].astype(np.int64), NO_PRICE_TICKS)
    ticks["last_lots"] = np.where(trade, messages[:, 3].astype(np.int64), 0)
    aggressor = np.where(messages[:, 5] < 0, TickFlag.AGGRESSOR_BUY, TickFlag.AGGRESSOR_SELL)
    ticks["flags"] = quote * int(TickFlag.QUOTE) + trade * (int(TickFlag.TRADE) + aggressor)
    chosen: Records = ticks[quote | trade]
    return chosen


@pytest.fixture(scope="session")
def two_instruments() -> InstrumentTable:
    return make_table([("AAPL", "0.0001", 100, 1, 1, "USD"), ("MSFT", "0.0001", 100, 1, 1, "USD")])


@pytest.fixture(scope="session")
def random_ticks() -> Callable[..., Records]:
    """`random_ticks(n, seed)`."""
    return _random_ticks


@pytest.fixture(scope="session")
def make_venue() -> type[PaperVenue]:
    """Makes an exchange on paper."""
    return PaperVenue


def _random_ticks(n: int, seed: int, n_instruments: int = 2) -> Records:
    """TICK[n] of a random walk with quotes, trades, and now and then an empty side."""
    rng = np.random.default_rng(seed)
    mid = 1_000_000 + 100 * np.cumsum(rng.integers(-1, 2, n))
    trade = rng.random(n) < 0.4
    ticks = np.zeros(n, TICK)
    ticks["cause_seq"] = np.arange(1, n + 1)
    ticks["exch_ns"] = np.cumsum(rng.integers(0, 1_000_000, n))
    ticks["bid_ticks"] = np.where(rng.random(n) < 0.01, NO_PRICE_TICKS, mid - 100 * rng.integers(1, 3, n))
    ticks["ask_ticks"] = np.where(rng.random(n) < 0.01, NO_PRICE_TICKS, mid + 100 * rng.integers(1, 3, n))
    ticks["bid_lots"] = np.where(ticks["bid_ticks"] == NO_PRICE_TICKS, 0, rng.integers(1, 1000, n))
    ticks["ask_lots"] = np.where(ticks["ask_ticks"] == NO_PRICE_TICKS, 0, rng.integers(1, 1000, n))
    ticks["last_ticks"] = np.where(trade, mid + 100 * rng.integers(-1, 2, n), NO_PRICE_TICKS)
    ticks["last_lots"] = np.where(trade, rng.integers(1, 500, n), 0)
    ticks["instrument"] = rng.integers(0, n_instruments, n)
    ticks["flags"] = np.where(trade, int(TickFlag.TRADE | TickFlag.QUOTE), int(TickFlag.QUOTE))
    return ticks


class PaperVenue:
    """Answers signals with the reports of an exchange: fills at the touch, rests, fills when a trade goes through."""

    def __init__(self) -> None:
        self.reports: list[Any] = []
        self.open: dict[int, Any] = {}

    def take(self, signal: Any) -> Records:
        """REPORT[n] that come of one SIGNAL record."""
        begin = len(self.reports)
        if signal["action"] == Action.CANCEL:
            for order in list(self.open.values()):
                if signal["side"] in (0, order["side"]) and self._same(order, signal):
                    self._report(order, ExecEvent.CANCEL_SENT, OrderState.PENDING_CANCEL)
                    self._report(order, ExecEvent.CANCELLED, OrderState.CANCELLED)
        else:
            order = np.zeros((), REPORT)
            for name in ("cause_seq", "instrument", "strategy", "shard", "side", "tif", "price_ticks", "qty_lots"):
                order[name] = signal[name]
            key = (int(signal[name]) for name in ("strategy", "shard", "cause_seq", "k"))
            order["cl_ord_id"] = pack_cl_ord_id(*key)
            order["leaves_lots"] = signal["qty_lots"]
            self._report(order, ExecEvent.SEND, OrderState.PENDING_NEW)
            self._report(order, ExecEvent.ACKNOWLEDGED, OrderState.NEW)
            touch = signal["ask_ticks"] if signal["side"] == Side.BUY else signal["bid_ticks"]
            if touch != NO_PRICE_TICKS and self._within(order, touch):
                self._fill(order, int(order["leaves_lots"]), touch)
            elif signal["tif"] == Tif.IOC:
                self._report(order, ExecEvent.CANCELLED, OrderState.CANCELLED)
        return np.array(self.reports[begin:], REPORT)

    def on_tick(self, tick: Any) -> Records:
        """REPORT[n] of resting orders that a trade reaches; each gets the lots of the trade."""
        begin = len(self.reports)
        if tick["flags"] & TickFlag.TRADE:
            for order in list(self.open.values()):
                if order["instrument"] == tick["instrument"] and self._within(order, tick["last_ticks"]):
                    lots = min(int(order["leaves_lots"]), int(tick["last_lots"]))
                    self._fill(order, lots, order["price_ticks"])
        return np.array(self.reports[begin:], REPORT)

    @staticmethod
    def _same(order: Any, signal: Any) -> bool:
        return bool(order["strategy"] == signal["strategy"] and order["instrument"] == signal["instrument"])

    @staticmethod
    def _within(order: Any, price: int) -> bool:
        is_buy = order["side"] == Side.BUY
        return bool(price <= order["price_ticks"] if is_buy else price >= order["price_ticks"])

    def _fill(self, order: Any, lots: int, price: int) -> None:
        order["leaves_lots"] -= lots
        order["cum_lots"] += lots
        order["last_lots"], order["last_ticks"] = lots, price
        state = OrderState.PARTIALLY_FILLED if order["leaves_lots"] else OrderState.FILLED
        self._report(order, ExecEvent.FILL, state)

    def _report(self, order: Any, event: ExecEvent, state: OrderState) -> None:
        if state == OrderState.CANCELLED:
            order["last_lots"], order["leaves_lots"] = order["leaves_lots"], 0
        order["event"], order["state"], order["seq"] = event, state, len(self.reports) + 1
        self.reports.append(order.copy())
        if state >= FIRST_TERMINAL_STATE:
            self.open.pop(int(order["cl_ord_id"]), None)
        else:
            self.open[int(order["cl_ord_id"])] = order
