"""The naive baseline: the pipeline as a competent Python programmer writes it without any of our techniques.

JSON text, objects, NumPy expressions over a window, a database asked by every risk check, text for orders, a blocking
socket that waits for each answer, threads with locks and queues, the collector as Python ships it. Nothing sleeps
and nothing is slow on purpose: where there is a quick way of writing such a thing plainly, it is written that way
(docs/paper.md lists the choices). It imports nothing of tickpath.
"""

from __future__ import annotations

import json
import queue
import socket
import sqlite3
import threading
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NS_PER_S = 1_000_000_000


@dataclass
class Tick:
    """Best bid and offer after a message, and the trade if it was one. Prices in dollars."""

    seq: int
    ts: int
    symbol: str
    bid: float | None
    bid_size: int
    ask: float | None
    ask_size: int
    last: float | None
    last_size: int
    tradable: bool


@dataclass
class Signal:
    """What the strategy wants."""

    seq: int
    ts: int
    symbol: str
    side: str
    qty: int
    price: float
    bid: float
    ask: float


@dataclass
class Order:
    """What risk let through."""

    cl_ord_id: str
    signal: Signal


@dataclass
class Resting:
    """An order in the book."""

    side: str
    price: float
    shares: int


class Book:
    """Orders by reference, sizes by price, prices of each side in a sorted list."""

    def __init__(self) -> None:
        self.orders: dict[int, Resting] = {}
        self.sizes: dict[str, dict[float, int]] = {"B": {}, "S": {}}
        self.prices: dict[str, list[float]] = {"B": [], "S": []}

    def add(self, ref: int, side: str, price: float, shares: int) -> None:
        """A new order."""
        self.orders[ref] = Resting(side, price, shares)
        sizes = self.sizes[side]
        if price in sizes:
            sizes[price] += shares
        else:
            sizes[price] = shares
            insort(self.prices[side], price)

    def reduce(self, ref: int, shares: int | None) -> Resting | None:
        """Take shares off an order, all of them for None; the order, None if there is no such."""
        order = self.orders.get(ref)
        if order is None:
            return None
        taken = order.shares if shares is None else min(shares, order.shares)
        order.shares -= taken
        if order.shares == 0:
            del self.orders[ref]
        sizes = self.sizes[order.side]
        sizes[order.price] -= taken
        if sizes[order.price] == 0:
            del sizes[order.price]
            prices = self.prices[order.side]
            del prices[bisect_left(prices, order.price)]
        return order

    def best(self) -> tuple[float | None, int, float | None, int]:
        """(bid, its size, ask, its size)."""
        bids, asks = self.prices["B"], self.prices["S"]
        bid = bids[-1] if bids else None
        ask = asks[0] if asks else None
        bid_size = self.sizes["B"][bid] if bid is not None else 0
        ask_size = self.sizes["S"][ask] if ask is not None else 0
        return bid, bid_size, ask, ask_size


class FeedHandler:
    """JSON lines to ticks."""

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.book = Book()
        self.halted = False

    def on_line(self, line: bytes) -> Tick | None:
        """Apply one message; a tick if the best bid or offer changed, or if it was a trade."""
        message = json.loads(line)
        kind = message["type"]
        before = self.book.best()
        last, last_size = None, 0
        changed = False
        if kind == "A":
            self.book.add(message["ref"], message["side"], message["price"], message["shares"])
        elif kind in ("X", "D"):
            self.book.reduce(message["ref"], message.get("shares"))
        elif kind == "E":
            order = self.book.reduce(message["ref"], message["shares"])
            if order is not None:
                last, last_size = order.price, message["shares"]
        elif kind == "P":
            last, last_size = message["price"], message["shares"]
        elif kind == "H":
            halted = message["state"] != "T"
            changed, self.halted = halted != self.halted, halted
        else:
            return None
        after = self.book.best()
        if after == before and last is None and not changed:
            return None
        bid, bid_size, ask, ask_size = after
        crossed = bid is not None and ask is not None and bid >= ask
        return Tick(
            message["seq"], message["ts"], self.symbol, bid, bid_size, ask, ask_size, last, last_size,
            not crossed and not self.halted,
        )  # fmt: skip


class Holdings:
    """What the strategy holds and has asked for; written by two threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.position = 0
        self.open = 0

    def held(self) -> int:
        """Position as if everything open were filled."""
        with self.lock:
            return self.position + self.open

    def asked(self, qty: int) -> None:
        """A signal left; negative for a sell."""
        with self.lock:
            self.open += qty

    def filled(self, qty: int) -> None:
        """An order was filled; negative for a sell."""
        with self.lock:
            self.open -= qty
            self.position += qty


class EmaCross:
    """Crossing averages of the last trade prices with a filter on volume, by NumPy over a window of trades."""

    WINDOW = 256

    def __init__(self, holdings: Holdings, params: dict[str, Any]) -> None:
        self.holdings = holdings
        self.params = params
        self.prices = np.zeros(self.WINDOW)
        self.sizes = np.zeros(self.WINDOW)
        self.weights = {span: self._weights(span) for span in (params["fast"], params["slow"], params["volume_span"])}
        self.trades = 0
        self.sign = 0
        self.closest = np.inf  # least distance of the averages at a change of sign, dollars

    def _weights(self, span: int) -> npt.NDArray[np.float64]:
        alpha = 2.0 / (span + 1)
        ages = np.arange(self.WINDOW - 1, -1, -1, dtype=np.float64)
        return np.asarray(alpha * (1.0 - alpha) ** ages, np.float64)

    def _ema(self, values: npt.NDArray[np.float64], span: int) -> float:
        """Average of the newest values; it begins at the oldest one."""
        n = min(self.trades, self.WINDOW)
        window = values[-n:]
        weights = self.weights[span][-n:]
        return float(np.dot(weights, window - window[0]) + window[0])

    def on_tick(self, tick: Tick) -> Signal | None:
        """The signal that a trade gives, if it does."""
        if tick.last is None:
            return None
        params = self.params
        large = self.trades > 0 and tick.last_size >= params["volume_factor"] * self._ema(
            self.sizes, params["volume_span"]
        )
        self.trades += 1
        self.prices[:-1] = self.prices[1:]
        self.prices[-1] = tick.last
        self.sizes[:-1] = self.sizes[1:]
        self.sizes[-1] = tick.last_size
        distance = self._ema(self.prices, params["fast"]) - self._ema(self.prices, params["slow"])
        if distance == 0.0:
            return None
        sign = 1 if distance > 0 else -1
        crossed = self.sign not in (0, sign)
        self.sign = sign
        if crossed:
            self.closest = min(self.closest, abs(distance))
        if not crossed or not large or self.trades < params["slow"]:
            return None
        qty = sign * params["max_position_lots"] - self.holdings.held()
        if not tick.tradable or tick.bid is None or tick.ask is None:
            return None
        if sign > 0 and qty > 0:
            price, side = round(tick.ask + 0.01, 4), "B"
        elif sign < 0 and qty < 0:
            price, side = round(tick.bid - 0.01, 4), "S"
        else:
            return None
        self.holdings.asked(qty)
        return Signal(tick.seq, tick.ts, tick.symbol, side, abs(qty), price, tick.bid, tick.ask)


_SCHEMA = """
CREATE TABLE limits (
    symbol TEXT PRIMARY KEY, halted INTEGER, max_order_qty INTEGER, max_order_notional REAL, collar_aggressive REAL,
    collar_passive REAL, max_spread REAL, max_long INTEGER, max_short INTEGER, order_rate INTEGER, window_ns INTEGER,
    max_open INTEGER
);
CREATE TABLE positions (symbol TEXT PRIMARY KEY, qty INTEGER);
CREATE TABLE orders (
    cl_ord_id TEXT PRIMARY KEY, symbol TEXT, side TEXT, qty INTEGER, price REAL, leaves INTEGER, ts INTEGER
);
CREATE INDEX orders_by_time ON orders (ts);
CREATE INDEX orders_open ON orders (leaves) WHERE leaves > 0;
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection with the settings that make SQLite quick: write-ahead log, no waiting for the disk."""
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    return db


def create_database(path: Path, symbol: str, risk: dict[str, Any]) -> None:
    """The tables, with the limits of section [risk] of tickpath.toml."""
    db = connect(path)
    db.executescript(_SCHEMA)
    limits = risk["limits"]
    db.execute(
        "INSERT INTO limits VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        (
            symbol, limits["max_order_qty_lots"], limits["max_order_notional"],
            limits["collar_aggressive_bps"] / 10_000, limits["collar_passive_bps"] / 10_000,
            limits["max_spread_bps"] / 10_000, limits["max_long_lots"], limits["max_short_lots"],
            limits["order_rate"], limits["order_rate_window_ms"] * 1_000_000,
        ),
    )  # fmt: skip
    db.execute(
        "INSERT INTO limits (symbol, halted, order_rate, window_ns, max_open) VALUES ('*', 0, ?, ?, ?)",
        (risk["order_rate"], risk["order_rate_window_ms"] * 1_000_000, risk["max_open_orders"]),
    )
    db.execute("INSERT INTO positions VALUES (?, 0)", (symbol,))
    db.close()


class RiskManager:
    """Limits, positions and orders are in the database; each check asks it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.refused: dict[str, int] = {}

    def check(self, signal: Signal) -> Order | None:
        """The order, entered into the database; None if a limit is in the way."""
        reason = self._reason(signal)
        if reason:
            self.refused[reason] = self.refused.get(reason, 0) + 1
            return None
        order = Order(f"T{signal.symbol}{signal.seq}", signal)
        self.db.execute(
            "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)",
            (order.cl_ord_id, signal.symbol, signal.side, signal.qty, signal.price, signal.qty, signal.ts),
        )
        return order

    def _reason(self, signal: Signal) -> str:
        wide_halted, wide_rate, wide_window, max_open = self.db.execute(
            "SELECT halted, order_rate, window_ns, max_open FROM limits WHERE symbol = '*'"
        ).fetchone()
        row = self.db.execute(
            "SELECT halted, max_order_qty, max_order_notional, collar_aggressive, collar_passive, max_spread,"
            " max_long, max_short, order_rate, window_ns, qty FROM limits JOIN positions USING (symbol)"
            " WHERE symbol = ?",
            (signal.symbol,),
        ).fetchone()
        if row is None:
            return "unknown symbol"
        (
            halted,
            max_qty,
            max_notional,
            aggressive,
            passive,
            max_spread,
            max_long,
            max_short,
            rate,
            window,
            position,
        ) = row
        if halted or wide_halted:
            return "halted"
        if not 0 < signal.qty <= max_qty:
            return "quantity"
        reference = signal.price if signal.side == "B" else max(signal.price, signal.bid)
        if signal.qty * reference > max_notional:
            return "notional"
        mid = (signal.bid + signal.ask) / 2
        if signal.ask - signal.bid > max_spread * mid:
            return "spread"
        above, below = (aggressive, passive) if signal.side == "B" else (passive, aggressive)
        if not mid * (1 - below) <= signal.price <= mid * (1 + above):
            return "collar"
        n_open, buys, sells = self.db.execute(
            "SELECT count(*), coalesce(sum(CASE WHEN side = 'B' AND symbol = ?1 THEN leaves END), 0),"
            " coalesce(sum(CASE WHEN side = 'S' AND symbol = ?1 THEN leaves END), 0) FROM orders WHERE leaves > 0",
            (signal.symbol,),
        ).fetchone()
        if n_open >= max_open:
            return "open orders"
        if signal.side == "B" and position + buys + signal.qty > max_long:
            return "position"
        if signal.side == "S" and position - sells - signal.qty < -max_short:
            return "position"
        wide_sent, sent = self.db.execute(
            "SELECT coalesce(sum(ts > ?2), 0), coalesce(sum(symbol = ?1 AND ts > ?3), 0) FROM orders WHERE ts > ?4",
            (
                signal.symbol, signal.ts - wide_window, signal.ts - window,
                signal.ts - max(wide_window, window),
            ),
        ).fetchone()  # fmt: skip
        return "rate" if sent >= rate or wide_sent >= wide_rate else ""

    def filled(self, cl_ord_id: str, side: str, qty: int) -> None:
        """Book a fill."""
        self.db.execute("BEGIN")
        self.db.execute("UPDATE orders SET leaves = leaves - ? WHERE cl_ord_id = ?", (qty, cl_ord_id))
        self.db.execute(
            "UPDATE positions SET qty = qty + ? WHERE symbol = (SELECT symbol FROM orders WHERE cl_ord_id = ?)",
            (qty if side == "B" else -qty, cl_ord_id),
        )
        self.db.execute("COMMIT")


def fix_message(fields: str) -> bytes:
    """FIX text with its length and checksum."""
    head = f"8=FIX.4.4\x019={len(fields)}\x01"
    raw = (head + fields).encode("ascii")
    return raw + f"10={sum(raw) % 256:03d}\x01".encode("ascii")


class OrderWriter:
    """Orders to FIX text."""

    def __init__(self) -> None:
        self.number = 0

    def write(self, order: Order) -> bytes:
        """New Order Single, immediate or cancel."""
        self.number += 1
        signal = order.signal
        now = datetime.now(UTC).strftime("%Y%m%d-%H:%M:%S.%f")
        return fix_message(
            f"35=D\x0149=TICKPT\x0156=VENUE\x0134={self.number}\x0152={now}\x0111={order.cl_ord_id}\x01"
            f"55={signal.symbol}\x0154={1 if signal.side == 'B' else 2}\x0138={signal.qty}\x0140=2\x01"
            f"44={signal.price:.4f}\x0159=3\x0160={now}\x01"
        )


@dataclass
class Fill:
    """What the venue answered."""

    cl_ord_id: str
    side: str
    qty: int
    price: float


class Session:
    """A blocking connection to the venue; Nagle's algorithm is on, as in every socket that nobody set otherwise."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.received = b""

    def send(self, raw: bytes) -> Fill:
        """Send an order and wait for the answer."""
        self.socket.sendall(raw)
        while b"\x0110=" not in self.received:
            self.received += self.socket.recv(4096)
        end = self.received.index(b"\x0110=") + 8
        message, self.received = self.received[:end], self.received[end:]
        fields = dict(item.split("=", 1) for item in message.decode("ascii").rstrip("\x01").split("\x01"))
        return Fill(fields["11"], "B" if fields["54"] == "1" else "S", int(fields["32"]), float(fields["31"]))

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


class Baseline:
    """The four stages as objects, for one symbol, with a database in `folder` that did not exist before."""

    def __init__(self, folder: Path, symbol: str, params: dict[str, Any], risk: dict[str, Any]) -> None:
        self.path = folder / "risk.db"
        create_database(self.path, symbol, risk)
        self.feed = FeedHandler(symbol)
        self.holdings = Holdings()
        self.strategy = EmaCross(self.holdings, params)
        self.writer = OrderWriter()
        self._db: sqlite3.Connection | None = None

    def risk_here(self) -> RiskManager:
        """Risk with a connection of its own, for the thread that asks."""
        return RiskManager(connect(self.path))

    def decide(self, lines: Iterable[bytes]) -> list[Order]:
        """All stages one after the other in this thread, on paper: every order is filled at once."""
        if self._db is None:
            self._db = connect(self.path)
        risk = RiskManager(self._db)
        orders = []
        for text in lines:
            for line in text.splitlines():
                tick = self.feed.on_line(line)
                signal = self.strategy.on_tick(tick) if tick is not None else None
                if signal is None:
                    continue
                order = risk.check(signal)
                signed = signal.qty if signal.side == "B" else -signal.qty
                if order is None:
                    self.holdings.asked(-signed)
                    continue
                self.writer.write(order)
                orders.append(order)
                risk.filled(order.cl_ord_id, signal.side, signal.qty)
                self.holdings.filled(signed)
        return orders

    def close(self) -> None:
        """Close the database."""
        if self._db is not None:
            self._db.close()


class Pipeline:
    """Four threads with queues between them: market data from a TCP socket, orders to the venue."""

    def __init__(self, stages: Baseline, market_data: socket.socket, venue: tuple[str, int]) -> None:
        self.stages = stages
        self.market_data = market_data
        self.session = Session(venue)
        self.ticks: queue.Queue[Tick | None] = queue.Queue()
        self.signals: queue.Queue[Signal | None] = queue.Queue()
        self.orders: queue.Queue[Order | None] = queue.Queue()
        self.lock = threading.Lock()
        self.done = {"messages": 0, "ticks": 0, "refused": 0, "orders": 0}
        self.ticks_made = self.signals_made = 0
        self.sent: list[Order] = []
        self.faults: list[BaseException] = []
        works = (self._run_feed, self._run_strategy, self._run_risk, self._run_orders)
        self.threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in works]
        for thread in self.threads:
            thread.start()

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the thread that waits for us raises it
            self.faults.append(error)

    def _count(self, name: str, n: int = 1) -> None:
        with self.lock:
            self.done[name] += n

    def _run_feed(self) -> None:
        left = b""
        while data := self.market_data.recv(65536):
            lines = (left + data).split(b"\n")
            left = lines.pop()
            for line in lines:
                tick = self.stages.feed.on_line(line)
                if tick is not None:
                    self.ticks_made += 1
                    self.ticks.put(tick)
            self._count("messages", len(lines))
        self.ticks.put(None)

    def _run_strategy(self) -> None:
        while (tick := self.ticks.get()) is not None:
            signal = self.stages.strategy.on_tick(tick)
            if signal is not None:
                self.signals_made += 1
                self.signals.put(signal)
            self._count("ticks")
        self.signals.put(None)

    def _run_risk(self) -> None:
        risk = self.stages.risk_here()
        while (signal := self.signals.get()) is not None:
            order = risk.check(signal)
            if order is not None:
                self.orders.put(order)
            else:
                self.stages.holdings.asked(-signal.qty if signal.side == "B" else signal.qty)
                self._count("refused")
        self.orders.put(None)
        risk.db.close()

    def _run_orders(self) -> None:
        risk = self.stages.risk_here()
        while (order := self.orders.get()) is not None:
            fill = self.session.send(self.stages.writer.write(order))
            risk.filled(fill.cl_ord_id, fill.side, fill.qty)
            self.stages.holdings.filled(fill.qty if fill.side == "B" else -fill.qty)
            self.sent.append(order)
            self._count("orders")
        risk.db.close()

    def is_idle(self, messages: int) -> bool:
        """Whether so many messages are dealt with, and all that came of them. Raises what a thread died of."""
        self.check()
        done = self.done
        return (
            done["messages"] >= messages
            and done["ticks"] >= self.ticks_made
            and done["orders"] + done["refused"] >= self.signals_made
        )

    def check(self) -> None:
        """Raise what a thread died of."""
        if self.faults:
            raise self.faults[0]

    def close(self) -> None:
        """After the end of the market data: let every stage finish, then hang up. Raises what a thread died of."""
        for thread in self.threads:
            thread.join(30)
        self.session.close()
        self.market_data.close()
        self.check()
