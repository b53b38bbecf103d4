"""exec's hot process: approved orders in, the venue's messages in, reports out. The journal stands between them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.links import LogReceiver, LogSender
from tickpath.common.pages import Command, Page
from tickpath.common.records import RecordKind
from tickpath.common.stage import Ready, Stage, run_hot
from tickpath.exec.core import ExecCore, ExecPage
from tickpath.exec.gateway import Gateway
from tickpath.exec.layout import GatewayState


class Exec(ExecPage, Stage):
    """Journal and send what risk approved; journal what the venue says; ship the journal as reports."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        self.core = ExecCore(config, page, side)
        self.orders = self.core.orders
        self.gateway: Gateway = self.core.gateway
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

    def inputs(self) -> Sequence[Any]:
        """Orders, requests for reports, and the venue."""
        return self.receiver.socket, self.sender.socket, self.gateway.fileno()

    def warm_up(self) -> None:
        """See `ExecCore.warm_up`."""
        self.core.warm_up()

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
            self.receiver.ack(self.receiver.expected_seq - 1, self.orders.journal.next_seq - 1)

    def tend(self, now: int) -> None:
        """Links, gateway, journal, page."""
        self.core.follow_pause()
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
        unacked = max(self.sender.consumers().values(), default=0)
        self.core.show(held=sum(len(records) for records in self._held), unacked=unacked)

    def command(self, what: Command, now: int) -> None:
        """See `ExecCore.command`."""
        self.core.command(what, now)

    def connected(self, now: int) -> bool:
        """Whether the venue takes orders and risk is there."""
        return self.gateway.state == GatewayState.READY and self.receiver.connected(now)

    def begin_drain(self, now: int) -> None:
        """See `ExecCore.begin_drain`."""
        self.core.begin_drain(now)

    def drained(self, now: int) -> bool:
        """See `ExecCore.drained`."""
        return self.core.drained(now, unacked=max(self.sender.consumers().values(), default=0))

    def close(self) -> None:
        """Log out, close the links, write the journal to disk."""
        self._show()
        self.gateway.close()
        self.receiver.close()
        self.sender.close()
        self.orders.journal.close()


if __name__ == "__main__":
    sys.exit(run_hot(Exec))
