"""Counters and histograms of risk's hot page."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Counter(IntEnum):
    """Counters; refusals by reason are in the page's ``core`` array."""

    TICKS = 0
    TICKS_REFUSED = 1  # of an instrument that is not in the table
    TICKS_LOST = 2
    TICK_GAPS = 3
    SIGNALS = 4  # received
    SIGNALS_REPEATED = 5  # decided before: nothing is sent
    ORDERS_APPROVED = 6
    ORDERS_REJECTED = 7
    CANCELS_APPROVED = 8
    REPORTS = 9
    REPORTS_REPEATED = 10
    REPORT_GAPS = 11
    REPORT_EPOCHS = 12  # journals seen; from the second on everything was rebuilt
    FILLS = 13
    ALARMS = 14  # fill after cancel, overfill, fill beyond the limit, report that contradicts its order
    OPEN_ORDERS = 15
    ORDERS_UNANSWERED = 16  # approved, not acknowledged by exec yet
    ORDERS_RESENT = 17
    BACK_PRESSURE = 18  # times that approved orders had to wait for room in the log
    FRAMES_BAD = 19
    LIMITS_TAKEN = 20  # versions of the limits that were copied from the side page


class Hop(IntEnum):
    """Histograms, nanoseconds."""

    SIGNAL_TO_APPROVE = 0  # strategy decided → risk approved
    TICK_TO_APPROVE = 1  # datagram received → risk approved


N_REJECTS: Final = 1024  # refusals kept in the page
