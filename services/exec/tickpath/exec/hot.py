"""exec's hot process: approved orders in, the venue's messages in, reports out. The journal stands between them."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.instruments import InstrumentTable, load_instruments
from tickpath.common.links import LogReceiver, LogSender
from tickpath.common.pages import Command, Control, Fields, Page, write_text
from tickpath.common.process import StartError
from tickpath.common.records import ORDER, Action, RecordKind, Side
from tickpath.common.stage import Ready, Stage, run_hot
from tickpath.exec.gateway import Gateway, OuchGateway
from tickpath.exec.journal import Journal, JournalError
from tickpath.exec.layout import Counter, Gate, GatewayState, Hop, Reg
from tickpath.exec.orders import DAY_ORDERS, Orders

_GATEWAY_TEXT_BYTES = 512
_LAST_REPORTS_NS = 1_000_000_000  # how long a drained process waits for its last reports to be acknowledged


def trading_day() -> int:
    """Today as YYYYMMDD, UTC."""
    return int(time.strftime("%Y%m%d", time.gmtime()))


def open_orders(config: Config, table: InstrumentTable, page: Page) -> Orders:
    """Today's journal, verified and replayed. Raises StartError."""
    day = trading_day()
    options = config.exec
    odd = [s for s, ratio in zip(table.symbols, table.array["price4_per_tick"], strict=True) if ratio < 1]
    if odd:
        msg = f"{config.instruments}: the venue's price unit is 0.0001; tick_size is below it for {odd[:5]}"
        raise StartError(msg)
    try:
        journal = Journal.open(
            config.journal_dir() / str(day), day, entries=options.journal_segment_entries, fsync=options.journal_fsync
        )
        return Orders(journal, table.array, page["counters"], page["hist"], capacity=options.order_capacity)
    except JournalError as error:
        raise StartError(str(error)) from None


class Exec(Stage):
    """Journal and send what risk approved; journal what the venue says; ship the journal as reports."""

    name = "exec"
    counters = Counter
    histograms = Hop

    @classmethod
    def extra_fields(cls, config: Config) -> Fields:
        """State of the gateway, as numbers and as text."""
        del config
        return {"gateway": ("<i8", (len(Gate),)), "gateway_text": ("u1", (_GATEWAY_TEXT_BYTES,))}

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        self.table = load_instruments(config.instruments)
        self.orders = open_orders(config, self.table, page)
        self.gateway: Gateway = OuchGateway(self.orders, self.table, config.exec)
        self.receiver = LogReceiver(
            context, config.link_addresses("orders"), RecordKind.ORDER, self.name, config.links
        )
        # The numbers of the reports are those of the journal, so their epoch is the journal's too: a consumer that
        # was there before goes on where it was, whichever process serves it.
        self.sender = LogSender(
            context, config.link_addresses("reports"), RecordKind.REPORT, self.name, self.orders.journal.epoch,
            self.orders.journal, config.links,
        )  # fmt: skip
        self._held: deque[npt.NDArray[np.void]] = deque()  # received, but the journal has no room
        self._page_state = page["gateway"]
        self._page_text = ""
        self._control = side["control"] if side is not None else np.zeros(len(Control), dtype=np.int64)
        self._paused = False
        self._deadline_ns = 0
        self._quiet_ns = 0

    def inputs(self) -> Sequence[Any]:
        """Orders, requests for reports, and the venue."""
        return self.receiver.socket, self.sender.socket, self.gateway.fileno()

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

    def turn(self, now: int, ready: Ready) -> bool:
        """Orders first: their latency is what is measured."""
        worked = False
        if self.receiver.socket in ready and not self._held:
            batches = self.receiver.receive(now)
            for _, records in batches:
                self._submit(records)
            if batches:
                worked = True
                self._acknowledge()
        if self.gateway.fileno() in ready:
            worked = self.gateway.receive(now_ns()) or worked
        if self.sender.socket in ready:
            self.sender.serve(now)
        elif worked:
            self.sender.pump(now)
        return False

    def _submit(self, records: npt.NDArray[np.void]) -> None:
        if not self._held:
            done = self.gateway.submit(records, now_ns())
            records = records[done:]
        if len(records):
            self._held.append(records)

    def _acknowledge(self) -> None:
        """What is journaled need not come again."""
        if not self._held:
            self.receiver.ack(self.receiver.expected_seq - 1)

    def tend(self, now: int) -> None:
        """Links, gateway, journal, page."""
        paused = bool(self._control[Control.PAUSED])
        if paused != self._paused:
            self._paused = paused
            self.gateway.pause(paused)
        self.gateway.tend(now)
        while self._held:
            done = self.gateway.submit(self._held[0], now, late=True)
            if done < len(self._held[0]):
                self._held[0] = self._held[0][done:]
                break
            self._held.popleft()
            self._acknowledge()
        self.receiver.tend(now)
        self.sender.serve(now)
        self._show()

    def _show(self) -> None:
        ctx, shown = self.orders.ctx, self._page_state
        shown[Gate.STATE] = self.gateway.state
        shown[Gate.OPEN_ORDERS] = ctx[Reg.OPEN]
        shown[Gate.NEXT_SEQ] = ctx[Reg.NEXT_SEQ]
        shown[Gate.NEXT_REF] = ctx[Reg.NEXT_REF]
        shown[Gate.VENUE_NEXT] = ctx[Reg.VENUE_NEXT]
        shown[Gate.POOL_FREE] = ctx[Reg.FREE_COUNT]
        shown[Gate.DAY_FREE] = DAY_ORDERS - ctx[Reg.IDS_COUNT]
        shown[Gate.REFUSE] = ctx[Reg.REFUSE]
        shown[Gate.SEND_BACKLOG_BYTES] = ctx[Reg.SEND_TAIL]
        shown[Gate.HELD_ORDERS] = sum(len(records) for records in self._held)
        shown[Gate.REPORTS_UNACKED] = max(self.sender.consumers().values(), default=0)
        shown[Gate.ILLEGAL_REF] = ctx[Reg.ILLEGAL_REF]
        shown[Gate.ILLEGAL_CELL] = ctx[Reg.ILLEGAL_CELL]
        if self.gateway.text != self._page_text:
            self._page_text = self.gateway.text
            write_text(self.page, "gateway_text", self._page_text)

    def command(self, what: Command, argument: int, now: int) -> None:
        """CANCEL_ALL: take back every open order."""
        del argument
        if what == Command.CANCEL_ALL:
            self.gateway.cancel_all(now)

    def connected(self, now: int) -> bool:
        """Whether the venue takes orders and risk is there."""
        return self.gateway.state == GatewayState.READY and self.receiver.connected(now)

    def begin_drain(self, now: int) -> None:
        """Refuse new orders, cancel what is open."""
        self._deadline_ns = now + self.config.exec.drain_timeout_ms * 1_000_000
        self.gateway.drain(now)

    def drained(self, now: int) -> bool:
        """Whether every order is terminal and reported, or the time for that is over."""
        if now >= self._deadline_ns:
            return True
        if self.orders.open_count:
            self._quiet_ns = 0
            return False
        self._quiet_ns = self._quiet_ns or now
        unacked = max(self.sender.consumers().values(), default=0)
        return unacked == 0 or now - self._quiet_ns >= _LAST_REPORTS_NS

    def close(self) -> None:
        """Log out, close the links, write the journal to disk."""
        self._show()
        self.gateway.close()
        self.receiver.close()
        self.sender.close()
        self.orders.journal.close()


if __name__ == "__main__":
    sys.exit(run_hot(Exec))
