"""exec's hot process over rings: a compiled loop from the ring of orders to the venue's socket and back.

In the shm lane as it stands here; `tickpath.exec.hot` puts links behind the rings.
"""

from __future__ import annotations

import select
import sys
import threading
from typing import Any, Final

import numpy as np
import zmq

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.kernels import ring
from tickpath.common.pages import Command, Page
from tickpath.common.records import RecordKind
from tickpath.common.ring import WaitStrategy
from tickpath.common.rings import BELLS, Input, Rings
from tickpath.common.stage import CompiledStage, run_hot
from tickpath.exec.core import ExecCore, ExecPage
from tickpath.exec.kernels.loop import Why, Word, loop, watch
from tickpath.exec.kernels.session import Leave
from tickpath.exec.layout import GatewayState, Reg

_LEAVES: Final = {Why.SYNC: Leave.FLUSH, Why.SEND: Leave.FLUSH, Why.FLUSH: Leave.FLUSH, Why.SESSION: Leave.SESSION,
                  Why.QUERY: Leave.QUERY}  # fmt: skip
_ENTRIES: Final = 4096  # of an older segment that are shipped at once


class Exec(ExecPage, CompiledStage):
    """Journal and send what risk approved; journal what the venue says; ship the journal as reports."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        self.core = ExecCore(config, page, side)
        self.orders, self.gateway = self.core.orders, self.core.gateway
        self.ctx, journal = self.orders.ctx, self.orders.journal
        self.words = w = np.zeros(len(Word) + 1, np.int64)
        self.rings = Rings(config, self.name)
        self.input = Input(self.rings, "orders", RecordKind.ORDER, w, Word.ORDERS_RING)
        # A report's number is that of its journal entry, and the epoch of the log that of the journal: a consumer
        # that was there before goes on where it was, whichever process serves it.
        self.reports = {
            name: self.rings.writer(f"reports.{name}", RecordKind.REPORT, name, log=True)
            for name in ("risk", "signals")
        }
        for writer in self.reports.values():
            writer.set_log(journal.epoch, journal.next_seq)
        w[Word.RISK_REPORTS], w[Word.SIGNALS_REPORTS] = (writer.address for writer in self.reports.values())
        w[Word.LOG_EPOCH], w[Word.LOG_END] = journal.epoch, journal.next_seq
        w[Word.BELLS], w[Word.WAITER] = self.rings.bells, self.rings.waiter
        w[Word.RISK_BELL] = BELLS["risk"]
        w[Word.SYNC], w[Word.SYNCED_SEQ] = config.exec.journal_fsync == "always", journal.next_seq
        w[Word.HOT], w[Word.VENUE_FD] = page["hot"].ctypes.data, -1
        self._epoll = select.epoll()
        self._epoll.register(self.gateway.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
        w[Word.EPOLL], w[Word.ARMED] = self._epoll.fileno(), 1
        self._watcher: threading.Thread | None = None
        if self.rings.strategy in (WaitStrategy.BLOCK, WaitStrategy.ADAPTIVE):
            arguments = (w.ctypes.data, self.rings.bells, BELLS[self.name])
            self._watcher = threading.Thread(target=watch, args=arguments, name="venue", daemon=True)
            self._watcher.start()

    def warm_up(self) -> None:
        """See `ExecCore.warm_up`; then the loop once, with its time already over and no ring to read."""
        self.core.warm_up()
        self.run(0)
        self._open(now_ns())

    def run(self, until_ns: int) -> bool:
        """See `kernels.loop`; what it leaves to Python is done in between."""
        worked = False
        while True:
            self.words[Word.VENUE_FD] = self.gateway.compiled_fd
            why = Why(self._loop(until_ns))
            if why <= Why.TIME:
                return worked or why is Why.TIME
            worked = True
            now = now_ns()
            self._settle(why, now)
            if now >= until_ns:
                return True

    def _loop(self, until_ns: int) -> int:
        why: int = loop(self.words, self.ctx, self.gateway.fileno(), until_ns)
        return why

    def _settle(self, why: Why, now: int) -> None:
        if why is Why.REPORTS:
            self._ship()
        elif why is Why.VENUE:
            self.gateway.receive(now)
        elif why is Why.JOURNAL:
            self.words[Word.HELD] = not self.orders.roll()
        else:
            self._publish()
            self.gateway.resume(_LEAVES[why], now)

    def _publish(self) -> None:
        """Make known what is in the journal; on disk when this returns, if so configured."""
        self.orders.publish()
        self.words[Word.SYNCED_SEQ] = self.ctx[Reg.NEXT_SEQ]

    def _ship(self) -> None:
        """Journal entries of older segments into the rings of reports; those of the present one are the loop's."""
        journal = self.orders.journal
        self._publish()
        for writer in self.reports.values():
            while (first := writer.published + 1) < journal.first_seq and (room := writer.room):
                writer.publish(journal.read(first, min(room, _ENTRIES)))

    def _open(self, now: int) -> None:
        self.input.tend(now)
        for writer in self.reports.values():
            writer.tend()
        w = self.words
        if self.input.ring and not w[Word.ACKED]:
            w[Word.ACKED] = w[Word.ORDERS_NEXT] - 1

    def tend(self, now: int) -> None:
        """Rings that came or were replaced, beats, requests for reports; gateway, journal, page."""
        self.core.follow_pause()
        self._publish()
        self.gateway.note(now)
        self.gateway.tend(now)
        if self.gateway.compiled_fd < 0:
            self.gateway.receive(now)
        self._open(now)
        if self.words[Word.HELD]:
            self._submit_late(now)
        self._show()
        self.rings.say(self.page)

    def _submit_late(self, now: int) -> None:
        """Orders that have waited for room in the journal: of those, new ones are refused."""
        while len(orders := self.input.waiting()):
            done = self.gateway.submit(orders, now, late=True)
            self.input.took(done)
            if done < len(orders):
                return
        self.words[Word.HELD] = 0

    def _unacked(self, now: int) -> int:
        """Reports that the slower of those who are there has not acknowledged."""
        behind = [
            self.orders.journal.next_seq - 1 - int(ring.slowest(writer.address))
            for writer in self.reports.values()
            if self.rings.is_read(writer, now)
        ]
        return max(behind, default=0)

    def _show(self) -> None:
        held = int(ring.published(self.input.ring)) - self.input.next_seq + 1 if self.words[Word.HELD] else 0
        self.core.show(held=held, unacked=self._unacked(now_ns()))

    def command(self, what: Command, now: int) -> None:
        """See `ExecCore.command`."""
        self.core.command(what, now)

    def connected(self, now: int) -> bool:
        """Whether the venue takes orders and risk is there."""
        return self.gateway.state == GatewayState.READY and self.input.connected(now)

    def begin_drain(self, now: int) -> None:
        """See `ExecCore.begin_drain`."""
        self.core.begin_drain(now)

    def drained(self, now: int) -> bool:
        """See `ExecCore.drained`."""
        return self.core.drained(now, unacked=self._unacked(now))

    def close(self) -> None:
        """Log out, leave the rings, write the journal to disk."""
        self._show()
        self.words[Word.STOP] = 1
        if self._watcher is not None:
            self._watcher.join()
        self._epoll.close()
        self.gateway.close()
        self.input.close()
        for writer in self.reports.values():
            writer.close()
        self.orders.journal.close()


if __name__ == "__main__":
    sys.exit(run_hot(Exec))
