"""risk without its links: limits, state and kernels, and what is counted."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.histogram import empty
from tickpath.common.instruments import load_instruments
from tickpath.common.kernels.digest import add_to_digest, words_mask
from tickpath.common.pages import Control, Fields, HotPage, Page
from tickpath.common.records import ORDER, REPORT, SIGNAL, TICK, Action, Side
from tickpath.risk.kernels.risk import apply_reports, apply_ticks, cancel_halted, evaluate
from tickpath.risk.layout import N_REJECTS, Counter, Hop
from tickpath.risk.limits import FIRST_SYMBOL_ROW, Limits, TradingState, new_rows
from tickpath.risk.reasons import Reason
from tickpath.risk.state import CORE_REASONS, CORE_SIZE, LIVE, REJECT, At, Core, RiskState

_DIGESTED: Final = words_mask(ORDER)
DRAIN_NS: Final = 2_000_000_000  # how long a stopping process waits for exec to acknowledge
_OUT_SPARE: Final = 1024


class RiskPage(HotPage):
    """Risk's page: with exposure and marks, scalars and counts by reason, and the last refusals."""

    name = "risk"
    counters = Counter
    histograms = Hop

    @classmethod
    def extra_fields(cls, config: Config) -> Fields:
        """Live, core, rejects."""
        rows = FIRST_SYMBOL_ROW + len(load_instruments(config.instruments))
        return {"live": (LIVE, (rows,)), "core": ("<i8", (CORE_SIZE,)), "rejects": (REJECT, (N_REJECTS,))}

    @classmethod
    def extra_meta(cls, config: Config) -> dict[str, Any]:
        """Names of the scalars in ``core``: unlike the counters these are always up to date."""
        del config
        return {"core": [scalar.name.lower() for scalar in Core]}


class RiskCore:
    """Limits, state, output; `page` and `side` are the pages of the service."""

    def __init__(self, config: Config, page: Page, side: Page | None) -> None:
        self.config = config
        capacity = config.risk.order_capacity
        self.table = load_instruments(config.instruments)
        self.counts: npt.NDArray[np.int64] = page["counters"]
        self.hot: npt.NDArray[np.int64] = page["hot"]
        # Without a side page all scopes stay HALTED and the lease is over.
        self.control: npt.NDArray[np.int64] = (
            side["control"] if side is not None else np.zeros(len(Control), dtype=np.int64)
        )
        self.shared_limits: Limits = side["limits"] if side is not None else new_rows(self.table)
        # A CANCEL signal can ask for as many cancels as there are open orders.
        self.out: npt.NDArray[Any] = np.zeros(capacity + _OUT_SPARE, dtype=ORDER)
        self.out_words = self.out.view(np.int64).reshape(len(self.out), -1)
        self.state = RiskState(
            new_rows(self.table), capacity, self.control, self.out, page["hist"],
            cancel_repeat_ns=config.risk.cancel_repeat_ms * 1_000_000,
            live=page["live"], core=page["core"], rejects=page["rejects"],
        )  # fmt: skip
        self.state.core[Core.LIMITS_VERSION] = -1
        self.halted = self.cancel_all = False

    def warm_up(self) -> None:
        """Run every kernel once on a scratch state, with records as they come out of a frame; take the limits."""
        now = now_ns()
        limits = new_rows(self.table)
        limits["state"] = TradingState.ACTIVE
        control = np.zeros(len(Control), dtype=np.int64)
        scratch = RiskState(limits, 16, control, np.zeros(16, dtype=ORDER), empty(len(Hop)))
        context = scratch.context
        signal, tick, report = np.zeros(1, dtype=SIGNAL), np.zeros(1, dtype=TICK), np.zeros(1, dtype=REPORT)
        signal["strategy"], signal["action"], signal["side"] = 1, Action.NEW, Side.BUY
        tick["recv_ns"], report["seq"] = now, 1
        apply_ticks(context, np.frombuffer(tick.tobytes(), dtype=TICK))
        evaluate(context, np.frombuffer(signal.tobytes(), dtype=SIGNAL), now)
        apply_reports(context, np.frombuffer(report.tobytes(), dtype=REPORT), now)
        cancel_halted(context, now, 1)
        self.digest(0)
        self.out[:] = np.zeros(1, dtype=ORDER)  # touch every page of it
        self.take_limits()

    def follow(self, side: Page) -> None:
        """Take limits, commands and the lease from this page of a side process from now on."""
        self.control, self.shared_limits = side["control"], side["limits"]
        self.state.control = self.control
        self.state.context[At.CONTROL] = self.control.ctypes.data
        self.state.core[Core.LIMITS_VERSION] = -1

    def take_limits(self) -> bool:
        """Copy the limits when the side process changed them; what it is writing just now waits for the next look.

        True when they were copied and a scope is HALTED: what is open in it is to be cancelled now.
        """
        version = int(self.control[Control.VERSION])
        if version == self.state.core[Core.LIMITS_VERSION] or version & 1:
            return False
        fresh = self.shared_limits.copy()
        if int(self.control[Control.VERSION]) != version:
            return False
        self.state.limits[:] = fresh
        self.state.core[Core.LIMITS_VERSION] = version
        self.counts[Counter.LIMITS_TAKEN] += 1
        self.halted = bool((fresh["state"] >= TradingState.HALTED).any())
        return self.halted

    def cancel(self, now: int) -> int:
        """Cancels of what is open in HALTED scopes (or everywhere, if so commanded) into ``out``; their number.

        To be called again until nothing is open: what was cancelled a moment ago is left out.
        """
        n = 0
        if self.state.core[Core.N_ORDERS]:
            n = int(cancel_halted(self.state.context, now, int(self.cancel_all)))
            self.digest(n)
        return n

    def is_cancelling(self) -> bool:
        """Whether `cancel` is to be called now and then."""
        self.cancel_all = self.cancel_all and self.state.core[Core.N_ORDERS] > 0
        return self.halted or self.cancel_all

    def digest(self, n: int) -> None:
        """The first `n` orders of ``out`` belong to the stream of decisions."""
        add_to_digest(self.hot, self.out_words, n, _DIGESTED)

    def count(self) -> None:
        """Bring the counters of the page up to date with the state."""
        counts, core = self.counts, self.state.core
        for counter, index in _COPIED:
            counts[counter] = core[index]
        counts[Counter.SIGNALS_REPEATED] = core[CORE_REASONS + Reason.ALREADY_DECIDED]


_COPIED: Final = (
    (Counter.TICKS, Core.TICKS),
    (Counter.TICKS_REFUSED, Core.TICKS_REFUSED),
    (Counter.ORDERS_APPROVED, Core.APPROVED),
    (Counter.ORDERS_REJECTED, Core.REJECTED),
    (Counter.CANCELS_APPROVED, Core.CANCELS),
    (Counter.REPORTS, Core.REPORTS),
    (Counter.REPORTS_REPEATED, Core.REPORTS_REPEATED),
    (Counter.REPORT_GAPS, Core.REPORT_GAPS),
    (Counter.FILLS, Core.FILLS),
    (Counter.ALARMS, Core.ALARMS),
    (Counter.OPEN_ORDERS, Core.N_ORDERS),
)
