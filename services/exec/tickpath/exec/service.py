"""exec's side process: orders and positions as the journal tells them, and cancel-all."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, HTTPException, status
from prometheus_client.core import GaugeMetricFamily, Metric

from tickpath.common.config import Config
from tickpath.common.instruments import InstrumentError, InstrumentTable, load_instruments
from tickpath.common.pages import Command, command, read_text
from tickpath.common.process import StartError
from tickpath.common.records import (
    ExecEvent,
    OrderState,
    Side,
    Tif,
    format_cl_ord_id,
    parse_cl_ord_id,
    unpack_cl_ord_id,
)
from tickpath.common.service import Service
from tickpath.exec.journal import JournalError, JournalTail, newest_day
from tickpath.exec.layout import Gate, GatewayState
from tickpath.exec.lifecycle import Refusal, is_terminal


class Book:
    """Open orders, positions and last reports, kept up to date from the journal that the hot process writes."""

    def __init__(self, config: Config) -> None:
        self._journal_dir = config.journal_dir()
        self._lock = threading.Lock()
        self._tail: JournalTail | None = None
        self.open: dict[int, Any] = {}  # client order id -> last report
        self.positions: dict[int, int] = {}  # instrument -> lots
        self._last: dict[int, int] = {}  # client order id -> number of its last entry

    def refresh(self) -> None:
        """Take in what was journaled since the last time. Raises JournalError."""
        with self._lock:
            try:
                folder = newest_day(self._journal_dir)
            except JournalError:
                return  # nothing yet
            if self._tail is None or self._tail.folder != folder:
                self._tail = JournalTail(folder)
                self.open, self.positions, self._last = {}, {}, {}
            while len(entries := self._tail.poll()):
                for entry in entries:
                    self._take(entry)

    def _take(self, entry: Any) -> None:
        key = int(entry["cl_ord_id"])
        self._last[key] = int(entry["seq"])
        if is_terminal(int(entry["state"])):
            self.open.pop(key, None)
        else:
            self.open[key] = entry.copy()
        if entry["event"] == ExecEvent.FILL:
            instrument = int(entry["instrument"])
            lots = int(entry["last_lots"]) * (1 if entry["side"] == Side.BUY else -1)
            self.positions[instrument] = self.positions.get(instrument, 0) + lots

    def last(self, cl_ord_id: int) -> Any | None:
        """Last report of an order of today, None when there is none. Raises JournalError."""
        with self._lock:
            seq = self._last.get(cl_ord_id)
            return None if seq is None or self._tail is None else self._tail.entry(seq)


def reason_text(event: int, reason: int) -> str:
    """Reason of a report for people: a Refusal by name, a venue's code as its letter or number."""
    if reason == 0:
        return ""
    if event == ExecEvent.NOT_SENT:
        return Refusal(reason).name
    return f"0x{reason:02X}" if event == ExecEvent.VENUE_REJECT else chr(reason)


class ExecService(Service):
    """Orders out: the journal, the venue session and what is open."""

    name = "exec"

    def set_up(self) -> None:
        """Read the instrument table, for symbols and decimals."""
        try:
            self.table: InstrumentTable = load_instruments(self.config.instruments)
        except InstrumentError as error:
            raise StartError(str(error)) from None
        self.book = Book(self.config)

    def add_routes(self, app: FastAPI, guard: Any) -> None:
        """Orders, positions, cancel-all."""

        @app.get("/orders", tags=["exec"])
        def orders() -> dict[str, Any]:
            """All open orders, oldest first."""
            self._refresh()
            return {"orders": [self._order(report) for report in list(self.book.open.values())]}

        @app.get("/orders/{cl_ord_id}", tags=["exec"])
        def order(cl_ord_id: str) -> dict[str, Any]:
            """The last report of one order of today; the id as a number or as the 14 characters the venue sees."""
            self._refresh()
            try:
                key = int(cl_ord_id) if cl_ord_id.isdigit() else parse_cl_ord_id(cl_ord_id.encode())
            except ValueError as error:
                raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, str(error)) from None
            try:
                report = self.book.last(key)
            except (JournalError, OSError) as error:
                raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, str(error)) from None
            if report is None:
                raise HTTPException(status.HTTP_404_NOT_FOUND, f"no order {cl_ord_id} today")
            return self._order(report)

        @app.get("/positions", tags=["exec"])
        def positions() -> dict[str, Any]:
            """Signed position in lots by symbol: the sum of today's fills in the journal."""
            self._refresh()
            return {"positions": self._positions()}

        @app.post("/control/cancel-all", tags=["control"], dependencies=[guard], status_code=202)
        def cancel_all() -> dict[str, Any]:
            """Cancel every open order, repeated until each is terminal; new orders are not blocked by this."""
            return {"cancelling": len(self.book.open), "command": command(self.side, Command.CANCEL_ALL)}

    def _refresh(self) -> None:
        try:
            self.book.refresh()
        except (JournalError, OSError) as error:
            raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, str(error)) from None

    def _symbol(self, instrument: int) -> str:
        return self.table.symbols[instrument] if 0 <= instrument < len(self.table) else f"#{instrument}"

    def _positions(self) -> dict[str, int]:
        return {self._symbol(instrument): lots for instrument, lots in sorted(self.book.positions.items())}

    def _order(self, report: Any) -> dict[str, Any]:
        key, instrument = int(report["cl_ord_id"]), int(report["instrument"])
        strategy, shard, cause_seq, k = unpack_cl_ord_id(key)
        known = 0 <= instrument < len(self.table)
        return {
            "cl_ord_id": str(key),
            "venue_cl_ord_id": format_cl_ord_id(key).decode(),
            "strategy": strategy,
            "shard": shard,
            "cause_seq": cause_seq,
            "k": k,
            "symbol": self._symbol(instrument),
            "side": Side(int(report["side"])).name if report["side"] in (1, 2) else int(report["side"]),
            "tif": Tif(int(report["tif"])).name if report["tif"] in (0, 3) else int(report["tif"]),
            "price": str(self.table.price(instrument, int(report["price_ticks"]))) if known else None,
            "qty_lots": int(report["qty_lots"]),
            "leaves_lots": int(report["leaves_lots"]),
            "cum_lots": int(report["cum_lots"]),
            "state": OrderState(int(report["state"])).name,
            "event": ExecEvent(int(report["event"])).name,
            "reason": reason_text(int(report["event"]), int(report["reason"])),
            "user_ref": int(report["user_ref"]),
            "venue_order": int(report["venue_order"]),
            "seq": int(report["seq"]),
        }

    def _gateway(self) -> dict[str, Any]:
        page = self.page()
        if page is None:
            return {}
        numbers = {member.name.lower(): int(page["gateway"][member]) for member in Gate}
        refusal = numbers.pop("refuse")
        return {
            **numbers,
            "state": GatewayState(numbers["state"]).name,
            "refusing": Refusal(refusal).name if refusal else None,
            "text": read_text(page, "gateway_text"),
        }

    def status(self) -> dict[str, Any]:
        """Gateway and positions."""
        fault = None
        try:
            self.book.refresh()
        except (JournalError, OSError) as error:
            fault = str(error)
        return {"gateway": self._gateway(), "positions": self._positions(), "journal_fault": fault}

    def metrics(self) -> Iterable[Metric]:
        """The gateway's figures."""
        page = self.page()
        if page is not None:
            for member in Gate:
                name = f"tickpath_exec_gateway_{member.name.lower()}"
                yield GaugeMetricFamily(name, f"gateway: {member.name.lower()}", float(page["gateway"][member]))

    def not_ready(self) -> list[str]:
        """Why no new order would be sent."""
        gateway = self._gateway()
        return [f"gateway {gateway['state']}: {gateway['text']}"] if gateway.get("refusing") else []
