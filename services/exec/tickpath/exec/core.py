"""exec without its links: the journal and the orders of the day, the venue's gateway, and what people see of both."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.instruments import InstrumentTable, load_instruments
from tickpath.common.pages import Command, Control, Fields, HotPage, Page, write_text
from tickpath.common.process import StartError
from tickpath.common.records import ORDER, Action, Side
from tickpath.exec.gateway import OuchGateway
from tickpath.exec.journal import Journal, JournalError
from tickpath.exec.layout import Counter, Gate, Hop, Reg
from tickpath.exec.orders import DAY_ORDERS, Orders

_GATEWAY_TEXT_BYTES: Final = 512
_LAST_REPORTS_NS: Final = 1_000_000_000  # how long a drained process waits for its last reports to be acknowledged


def trading_day() -> int:
    """Today as YYYYMMDD, UTC."""
    return int(time.strftime("%Y%m%d", time.gmtime()))


def open_orders(config: Config, table: InstrumentTable, page: Page) -> Orders:
    """Today's journal, verified and replayed. Raises StartError."""
    day = trading_day()
    options = config.exec
    odd = [s for s, ratio in zip(table.symbols, table.array["price_units_per_tick"], strict=True) if ratio < 1]
    if odd:
        msg = (
            f"{config.instruments}: tick_size must be a multiple of price_unit (0.0001 where that column is missing);"
            f" it is not for {odd[:5]}"
        )
        raise StartError(msg)
    try:
        journal = Journal.open(
            config.journal_dir() / str(day), day, entries=options.journal_segment_entries, fsync=options.journal_fsync
        )
        return Orders(journal, table.array, page["counters"], page["hist"], capacity=options.order_capacity)
    except JournalError as error:
        raise StartError(str(error)) from None


class ExecPage(HotPage):
    """Exec's page: with the state of the gateway, as numbers and as text."""

    name = "exec"
    counters = Counter
    histograms = Hop

    @classmethod
    def extra_fields(cls, config: Config) -> Fields:
        """Gateway, gateway_text."""
        del config
        return {"gateway": ("<i8", (len(Gate),)), "gateway_text": ("u1", (_GATEWAY_TEXT_BYTES,))}


class ExecCore:
    """Orders of the day and gateway; `page` and `side` are the pages of the service."""

    def __init__(self, config: Config, page: Page, side: Page | None) -> None:
        """Raises StartError."""
        self.config, self.page = config, page
        self.table = load_instruments(config.instruments)
        self.orders = open_orders(config, self.table, page)
        self.gateway = OuchGateway(self.orders, self.table, config.exec)
        self.control: npt.NDArray[np.int64] = (
            side["control"] if side is not None else np.zeros(len(Control), dtype=np.int64)
        )
        self._shown: npt.NDArray[Any] = page["gateway"]
        self._text = ""
        self._paused = False
        self._deadline_ns = self._quiet_ns = 0

    def warm_up(self) -> None:
        """Send an order through the kernels of a scratch journal; the real one sees nothing."""
        with tempfile.TemporaryDirectory(dir=self.config.run_dir, prefix="warm-up-") as folder:
            journal = Journal.open(Path(folder), 1, entries=1024)
            scratch = Orders(journal, self.table.array, capacity=16, day_orders=64)
            gateway = OuchGateway(scratch, self.table, self.config.exec)
            scratch.set_refusal(None)
            order = np.zeros(1, dtype=ORDER)
            order["cl_ord_id"], order["price_ticks"], order["qty_lots"] = 1, 1, 1
            order["action"], order["side"] = Action.NEW, Side.BUY
            scratch.accept(order, now_ns())
            scratch.decode(0, 0, now_ns())
            gateway.cancel_all(now_ns())
            gateway.close()
            journal.close()
        self.orders.prepare_segment()

    def follow_pause(self) -> None:
        """Refuse new orders while the service is paused."""
        paused = bool(self.control[Control.PAUSED])
        if paused != self._paused:
            self._paused = paused
            self.gateway.pause(paused)

    def show(self, *, held: int, unacked: int) -> None:
        """Bring the page up to date; `held` orders wait for the journal, `unacked` reports for their consumer."""
        ctx, shown = self.orders.ctx, self._shown
        shown[Gate.STATE] = self.gateway.state
        shown[Gate.OPEN_ORDERS] = ctx[Reg.OPEN]
        shown[Gate.NEXT_SEQ] = ctx[Reg.NEXT_SEQ]
        shown[Gate.NEXT_REF] = ctx[Reg.NEXT_REF]
        shown[Gate.VENUE_NEXT] = ctx[Reg.VENUE_NEXT]
        shown[Gate.POOL_FREE] = ctx[Reg.FREE_COUNT]
        shown[Gate.DAY_FREE] = DAY_ORDERS - ctx[Reg.IDS_COUNT]
        shown[Gate.REFUSE] = ctx[Reg.REFUSE]
        shown[Gate.SEND_BACKLOG_BYTES] = ctx[Reg.SEND_TAIL]
        shown[Gate.HELD_ORDERS] = held
        shown[Gate.REPORTS_UNACKED] = unacked
        shown[Gate.ILLEGAL_REF] = ctx[Reg.ILLEGAL_REF]
        shown[Gate.ILLEGAL_CELL] = ctx[Reg.ILLEGAL_CELL]
        if self.gateway.text != self._text:
            self._text = self.gateway.text
            write_text(self.page, "gateway_text", self._text)

    def command(self, what: Command, now: int) -> None:
        """CANCEL_ALL: take back every open order."""
        if what == Command.CANCEL_ALL:
            self.gateway.cancel_all(now)

    def begin_drain(self, now: int) -> None:
        """Refuse new orders, cancel what is open."""
        self._deadline_ns = now + self.config.exec.drain_timeout_ms * 1_000_000
        self.gateway.drain(now)

    def drained(self, now: int, *, unacked: int) -> bool:
        """Whether every order is terminal and its reports are taken, or the time for that is over."""
        if now >= self._deadline_ns:
            return True
        if self.orders.open_count:
            self._quiet_ns = 0
            return False
        self._quiet_ns = self._quiet_ns or now
        return unacked <= 0 or now - self._quiet_ns >= _LAST_REPORTS_NS
