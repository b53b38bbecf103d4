"""What risk knows: positions, marks, open orders, send times and the ids that were decided. Arrays only.

| array | dtype and shape | what |
| --- | --- | --- |
| limits | LIMIT[129 + n] | copy of the side page's group, see `tickpath.risk.limits` |
| live | LIVE[129 + n] | exposure and marks per scope, in the same rows |
| orders | OPEN_ORDER[capacity] | open orders; free entries are chained by `next` |
| index | int64[4 * capacity] | open addressing by cl_ord_id: entry + 1, 0 when empty |
| watermarks | int64[128 * 256, 2] | per (strategy, shard): last decided cl_ord_id, fingerprint of its payload |
| rings | int64[129 * WIDE_RING + n * SYMBOL_RING] | times of the last approvals per row, ns |
| core | int64[CORE_SIZE] | scalars (`Core`), then one counter per reason |
| rejects | REJECT[power of two] | last refusals with the inputs that they were decided on |

`live`, `core` and `rejects` are placed in the hot page by the stage, so people can read them. Nothing of it needs to
be stored: it is rebuilt from the journal. This module must not import Numba.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.records import N_SHARDS
from tickpath.risk.limits import FIRST_SYMBOL_ROW, N_STRATEGIES, SYMBOL_RING, WIDE_RING
from tickpath.risk.reasons import N_REASONS

LIVE: Final = np.dtype(
    [
        ("position_lots", "<i8"),  # signed sum of all fills
        ("open_buy_lots", "<i8"),  # leaves of open buys
        ("open_sell_lots", "<i8"),
        ("open_orders", "<i8"),  # orders that are not terminal
        ("sent", "<i8"),  # orders approved: position in the ring of this row
        ("head", "<i8"),  # oldest open order of the instrument: entry + 1, 0 if none
        ("tail", "<i8"),
        ("trips", "<i8"),  # alarms (fill after cancel, overfill); REDUCING until LIMIT.trips_handled reaches it
        ("bought_lots", "<i8"),
        ("sold_lots", "<i8"),
        ("bid_ticks", "<i8"),  # marks: last tick of the instrument
        ("ask_ticks", "<i8"),
        ("last_ticks", "<i8"),  # last print
        ("mark_recv_ns", "<i8"),  # 0: no tick was seen
        ("mark_seq", "<i8"),
        ("mark_flags", "<i8"),  # TickFlag, SUSPECT and HALTED only
    ]
)

OPEN_ORDER: Final = np.dtype(
    [
        ("cl_ord_id", "<i8"),  # 0: free entry
        ("cause_seq", "<i8"),
        ("price_ticks", "<i8"),
        ("qty_lots", "<i8"),
        ("leaves_lots", "<i8"),
        ("approved_ns", "<i8"),
        ("cancel_ns", "<i8"),  # when a cancel was last approved, 0: none in flight
        ("next", "<i8"),  # younger open order of the instrument, or next free entry: entry + 1
        ("prev", "<i8"),
        ("instrument", "<i4"),
        ("strategy", "<u2"),
        ("shard", "<u2"),
        ("side", "u1"),
        ("tif", "u1"),
        ("state", "u1"),  # OrderState as last reported
        ("k", "u1"),
        ("pad", "<u4"),
    ]
)

REJECT: Final = np.dtype(
    [
        ("number", "<i8"),  # running number of the refusal
        ("now_ns", "<i8"),
        ("cl_ord_id", "<i8"),  # 0 when the parts of the id are out of range
        ("cause_seq", "<i8"),
        ("recv_ns", "<i8"),
        ("signalled_ns", "<i8"),
        ("price_ticks", "<i8"),
        ("qty_lots", "<i8"),
        ("bid_ticks", "<i8"),
        ("ask_ticks", "<i8"),
        ("position_lots", "<i8"),
        ("open_buy_lots", "<i8"),
        ("open_sell_lots", "<i8"),
        ("open_orders", "<i8"),  # in all scopes together
        ("limits_version", "<i8"),  # of the side page's group
        ("instrument", "<i4"),
        ("strategy", "<u2"),
        ("reason", "<u2"),
        ("side", "u1"),
        ("tif", "u1"),
        ("shard", "<u2"),
        ("pad", "<u4"),
    ]
)


class Core(IntEnum):
    """Indices into ``core``."""

    FREE = 0  # first free order entry + 1, 0: the table is full
    N_ORDERS = 1  # entries in use
    NEXT_REPORT = 2  # number of the report that comes next
    READY = 3  # 1 when the journal was replayed: positions are known
    OVERFLOW = 4  # reports of open orders that the table had no room for: positions stay unknown
    LIMITS_VERSION = 5  # Control.VERSION that `limits` was copied at
    CANCEL_REPEAT_NS = 6  # a cancel in flight is not asked for again before
    APPROVED = 7
    REJECTED = 8  # refusals, ALREADY_DECIDED not among them
    CANCELS = 9  # cancels approved
    CANCEL_SIGNALS = 10
    FILLS = 11
    ALARMS = 12  # fill after cancel, overfill, report of an unknown instrument
    REPORTS = 13
    REPORTS_REPEATED = 14
    REPORT_GAPS = 15
    TICKS = 16
    TICKS_REFUSED = 17  # ticks of an instrument that does not exist
    REFUSE_NEW = 18  # 1: paused or draining; as HALTED, but nothing is cancelled


class At(IntEnum):
    """Indices into ``context``: addresses of the arrays, and how long they are.

    A kernel gets this one array instead of eleven: converting an argument costs as much as some of the controls.
    """

    LIMITS = 0
    LIVE = 1
    ORDERS = 2
    INDEX = 3
    WATERMARKS = 4
    RINGS = 5
    CORE = 6
    CONTROL = 7
    OUT = 8
    REJECTS = 9
    HIST = 10
    N_ROWS = 11  # of limits and live
    N_ORDERS = 12
    N_RINGS = 13
    N_OUT = 14
    N_REJECTS = 15


#: First counter per reason in ``core``.
CORE_REASONS: Final = 32
CORE_SIZE: Final = CORE_REASONS + N_REASONS

#: Longest walk through the index; the table is at most a quarter full, so a walk is nearly always 1 or 2.
MAX_PROBES: Final = 64

_MARKS: Final = ("bid_ticks", "ask_ticks", "last_ticks", "mark_recv_ns", "mark_seq", "mark_flags")

Array = npt.NDArray[Any]


class RiskState:
    """All arrays of one risk instance; `capacity` open orders at most (a power of two).

    `control` is the array of that name of the side page, `out` (ORDER[n]) takes what the kernels write, `hist`
    (int64[2, HIST_SIZE]) how long it took. The arrays stay where they are: `context` holds their addresses.
    """

    def __init__(
        self,
        limits: Array,
        capacity: int,
        control: Array,
        out: Array,
        hist: Array,
        *,
        cancel_repeat_ns: int = 500_000_000,
        live: Array | None = None,
        core: Array | None = None,
        rejects: Array | None = None,
    ) -> None:
        if capacity & (capacity - 1) or capacity < 2:
            msg = f"the order table needs a power of two of entries, not {capacity}"
            raise ValueError(msg)
        rows = len(limits)
        self.limits = limits
        self.live = np.zeros(rows, dtype=LIVE) if live is None else live
        self.orders = np.zeros(capacity, dtype=OPEN_ORDER)
        self.index = np.zeros(4 * capacity, dtype=np.int64)
        self.watermarks = np.zeros((N_STRATEGIES * N_SHARDS, 2), dtype=np.int64)
        self.rings = np.zeros(ring_size(rows - FIRST_SYMBOL_ROW), dtype=np.int64)
        self.core = np.zeros(CORE_SIZE, dtype=np.int64) if core is None else core
        self.rejects = np.zeros(1024, dtype=REJECT) if rejects is None else rejects
        self.control, self.out, self.hist = control, out, hist
        self.core[Core.CANCEL_REPEAT_NS] = cancel_repeat_ns
        self.context = np.zeros(len(At), dtype=np.int64)
        for at, array in (
            (At.LIMITS, limits), (At.LIVE, self.live), (At.ORDERS, self.orders), (At.INDEX, self.index),
            (At.WATERMARKS, self.watermarks), (At.RINGS, self.rings), (At.CORE, self.core), (At.CONTROL, control),
            (At.OUT, out), (At.REJECTS, self.rejects), (At.HIST, hist),
        ):  # fmt: skip
            if not array.flags.c_contiguous:
                msg = f"the array of {at.name} is not contiguous"
                raise ValueError(msg)
            self.context[at] = array.ctypes.data
        sizes = (rows, capacity, len(self.rings), len(out), len(self.rejects))
        self.context[At.N_ROWS :] = sizes
        self.forget()

    def forget(self) -> None:
        """Nothing is known any more of orders, positions and rates; the ids that were decided and the marks stay."""
        for name in LIVE.names or ():
            if name not in _MARKS:
                self.live[name] = 0
        self.orders[:] = np.zeros(1, dtype=OPEN_ORDER)
        self.orders["next"][:-1] = np.arange(2, len(self.orders) + 1)
        self.index[:] = 0
        self.core[[Core.N_ORDERS, Core.READY, Core.OVERFLOW]] = 0
        self.core[[Core.FREE, Core.NEXT_REPORT]] = 1

    def digest(self) -> str:
        """Hash of all that a decision depends on: not the audit (counters, rejects) and not the ids decided."""
        digest = hashlib.sha256()
        scalars = [Core.FREE, Core.N_ORDERS, Core.NEXT_REPORT, Core.READY, Core.OVERFLOW]
        for part in (self.live, self.orders, self.index, self.rings, self.core[scalars]):
            digest.update(part.tobytes())
        return digest.hexdigest()

    def reason_counts(self) -> Array:
        """Counter per reason, int64[N_REASONS]."""
        return self.core[CORE_REASONS : CORE_REASONS + N_REASONS]


def ring_size(n_instruments: int) -> int:
    """Length of ``rings``."""
    return FIRST_SYMBOL_ROW * WIDE_RING + n_instruments * SYMBOL_RING
