"""The four stages bound together: what the compiled chain works on, and what it leaves to Python."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.cli.fused.layout import Reg, Why
from tickpath.common.config import SERVICES
from tickpath.common.pages import Hot
from tickpath.common.records import SIGNAL, TICK
from tickpath.exec.layout import Reg as ExecReg
from tickpath.exec.layout import Stop
from tickpath.exec.orders import Orders
from tickpath.feed.kernels.decode import State
from tickpath.risk.kernels.risk import apply_reports
from tickpath.risk.state import RiskState
from tickpath.signals.engine import Engine

Words = npt.NDArray[np.int64]

#: Messages of one datagram make at most so many ticks: the largest UDP datagram in the shortest messages.
_TICKS: Final = 65507 // 14
_SIGNALS: Final = 1 << 14


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.ctypes.data)


class Chain:
    """State of all stages and the words that bind them.

    `hots` are ``hot`` of the four pages, `feed_hist` is the histogram receive → decoded, `controls` maps feed and
    risk to ``control`` of their side pages, `risk_counters` is int64[risk.layout.Counter].
    """

    def __init__(
        self,
        feed: State,
        engine: Engine,
        risk: RiskState,
        orders: Orders,
        *,
        feed_hist: Words,
        risk_counters: Words,
        controls: dict[str, Words],
        hots: dict[str, Words] | None = None,
    ) -> None:
        self.feed, self.engine, self.risk, self.orders = feed, engine, risk, orders
        self.ticks = np.zeros(_TICKS, TICK)
        self.signals = np.zeros(max(_SIGNALS, engine.room), SIGNAL)
        self.hots = hots or {name: np.zeros(len(Hot), np.int64) for name in SERVICES}
        self._kept = (feed_hist, risk_counters, controls)  # the words hold addresses: the arrays must live as long
        self.words: Words = np.zeros(len(Reg), np.int64)
        w = self.words
        w[Reg.REPORT_NEXT] = 1
        w[Reg.TICKS], w[Reg.TICK_ROOM] = _address(self.ticks), len(self.ticks)
        w[Reg.SIGNALS], w[Reg.SIGNAL_ROOM] = _address(self.signals), len(self.signals)
        w[Reg.ORDERS] = _address(risk.out)
        w[Reg.RUN] = engine.module.run_at.address
        w[Reg.MEMORY], w[Reg.MEMORY_BYTES] = _address(engine.memory.bytes), len(engine.memory.bytes)
        w[Reg.SIGNALS_COUNTERS], w[Reg.SIGNALS_HIST] = _address(engine.counters), _address(engine.hist)
        w[Reg.FEED_HOT], w[Reg.SIGNALS_HOT] = _address(self.hots["feed"]), _address(self.hots["signals"])
        w[Reg.RISK_HOT], w[Reg.EXEC_HOT] = _address(self.hots["risk"]), _address(self.hots["exec"])
        w[Reg.RISK_COUNTERS], w[Reg.RISK_CORE] = _address(risk_counters), _address(risk.core)
        w[Reg.RISK_CONTROL], w[Reg.FEED_CONTROL] = _address(controls["risk"]), _address(controls["feed"])
        w[Reg.FEED_COUNTERS], w[Reg.FEED_HIST] = _address(feed.counters), _address(feed_hist)
        w[Reg.VENUE_FD] = -1

    def follow_journal(self, now_ns: int) -> None:
        """Risk and the strategies apply every journal entry that they have not seen, whatever segment it is in."""
        w, journal = self.words, self.orders.journal
        self.orders.publish()
        while len(entries := journal.read(int(w[Reg.REPORT_NEXT]), 4096)):
            reports = np.frombuffer(entries.tobytes(), entries.dtype)
            apply_reports(self.risk.context, reports, now_ns)
            self.engine.apply(reports)
            w[Reg.REPORT_NEXT] += len(entries)

    def make_room(self, now_ns: int) -> bool:
        """After `Why.JOURNAL`: begin the next segment. False when the disk does not give one."""
        self.follow_journal(now_ns)
        return self.orders.roll()

    def settle(self, why: Why, now_ns: int) -> bool:
        """Deal with what any chain may return; False for what is the caller's own business."""
        if why is Why.REPORTS:
            self.follow_journal(now_ns)
        elif why is Why.JOURNAL or (why is Why.SESSION and self.orders.ctx[ExecReg.STOP] == Stop.JOURNAL):
            return self.make_room(now_ns)
        elif why is Why.SESSION and self.orders.ctx[ExecReg.STOP] == Stop.HISTORY:
            self.orders.revive(int(self.orders.ctx[ExecReg.STOP_ARG]))
        else:
            return False
        return True
