"""The memory of the signals service: one array of bytes that holds every table: to be mapped, compared and copied.

Tables, each on a cache line of its own, in the order of `Memory.tables`; who is not named as a writer only reads.

| table | dtype, shape | content |
| --- | --- | --- |
| words | int64[WORDS] | `Word`: sizes, offsets of the tables, watermarks |
| rows | int64[128] | row of each strategy id, -1 if it does not run |
| instruments | INSTRUMENT[n] | the instrument table |
| counts | int64[n] | ticks that each instrument ever had: where its ring stands |
| points | POINT[n, 2, capacity] | the time series, see `tickpath.signals.series` |
| own | OWN[strategies, n] | position and open orders of each strategy |
| orders | OPEN_ORDER[strategies, n, MAX_OPEN_ORDERS] | the open orders one by one |
| intents | INTENT[1 + MAX_INTENTS] | what the strategy that runs now has asked for |
| params_0, states_0, .. | the strategy's own: [1] and [n] | parameters and state of the strategy in row 0, .. |

The hot process writes all of it, through the kernels; a side process may map it and read. No Numba here.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.instruments import INSTRUMENT

Bytes = npt.NDArray[np.uint8]
Plan = dict[str, tuple[np.dtype[Any], tuple[int, ...], int]]  # name → dtype, shape, offset

#: Open orders that one strategy can have in one instrument; one more is not sent, and counted.
MAX_OPEN_ORDERS: Final = 16
#: Orders and cancels that one strategy can ask for on one tick; one more is not sent, and counted.
MAX_INTENTS: Final = 8

_LINE: Final = 64
N_STRATEGY_IDS: Final = 128  # 0 is never one

#: One entry of a time series: exactly one cache line. It has no receive time on purpose: a strategy that looked at
#: it would decide otherwise in a replay.
POINT: Final = np.dtype(
    [
        ("exch_ns", "<i8"),  # exchange time, ns after midnight
        ("bid_ticks", "<i8"),  # NO_PRICE_TICKS if that side of the book is empty
        ("ask_ticks", "<i8"),
        ("bid_lots", "<i8"),
        ("ask_lots", "<i8"),
        ("last_ticks", "<i8"),  # NO_PRICE_TICKS unless TRADE is in the flags
        ("last_lots", "<i8"),
        ("flags", "<i8"),  # TickFlag
    ]
)

#: What a strategy owns in one instrument. An order counts as open from the decision on.
OWN: Final = np.dtype(
    [
        ("position_lots", "<i8"),  # bought minus sold, fills of this strategy only
        ("open_buy_lots", "<i8"),  # unfilled lots of its open buy orders
        ("open_sell_lots", "<i8"),
        ("buy_ticks", "<i8"),  # highest price of an open buy order, NO_PRICE_TICKS if there is none
        ("sell_ticks", "<i8"),  # lowest price of an open sell order, NO_PRICE_TICKS if there is none
        ("open_orders", "<i8"),
        ("in_flight", "<i8"),  # of these: no report yet
        ("cancelling", "<i8"),  # of these: asked to be taken back
        ("enabled", "<i8"),  # 1: runs on this instrument, 0: not configured to, -1: switched off by a fault
    ]
)

OPEN_ORDER: Final = np.dtype(
    [
        ("cl_ord_id", "<i8"),  # 0: this slot is free
        ("price_ticks", "<i8"),
        ("leaves_lots", "<i8"),
        ("signal_seq", "<i8"),  # number of the signal that asked for it, 0 if an earlier process did
        ("cancel_seq", "<i8"),  # number of the signal that asked to take it back, 0 if none
        ("side", "<i8"),
        ("state", "<i8"),  # OrderState; NONE until the first report
    ]
)

#: Row 0 is the head: `qty_lots` counts the intents in rows 1.., `side` those that found no room.
INTENT: Final = np.dtype(
    [
        ("action", "<i8"),
        ("side", "<i8"),
        ("qty_lots", "<i8"),
        ("price_ticks", "<i8"),
        ("tif", "<i8"),
        ("strength", "<f8"),
    ]
)


class Word(IntEnum):
    """Indices into the table ``words``."""

    N_INSTRUMENTS = 0
    CAPACITY = 1  # points of a series, a power of two
    N_STRATEGIES = 2
    SIGNAL_SEQ = 3  # number of the last signal, from 1
    ACKED_SEQ = 4  # every signal up to here is an order at exec, or refused
    REPORT_SEQ = 5  # last report applied
    MUTED = 6  # 1: strategies run, but nothing new is sent; cancels are
    TABLES = 8  # from here on: offset in bytes of each table, in their order, without ``words``


#: Words in all: room for the offsets of the tables of as many strategies as there are ids.
WORDS: Final = int(Word.TABLES) + 8 + 2 * N_STRATEGY_IDS


class Counter(IntEnum):
    """What the service counts."""

    TICKS = 0  # given to the time series
    TICKS_UNKNOWN_INSTRUMENT = 1  # instrument not in the table: dropped
    TICKS_NOT_TRADABLE = 2  # book suspect or halted: strategies see it, but send nothing new on it
    SIGNALS_NEW = 3
    SIGNALS_CANCEL = 4
    INTENTS_INVALID = 5  # quantity, price, side or time in force that no venue takes
    INTENTS_NO_ROOM = 6  # more than MAX_INTENTS on a tick, or MAX_OPEN_ORDERS open
    INTENTS_MUTED = 7  # service paused, or tick not tradable
    ORDERS_REFUSED = 8  # signal answered, but no order came of it: risk said no
    STRATEGY_FAULTS = 9  # strategy raised: switched off for that instrument
    REPORTS = 10
    REPORTS_DUPLICATE = 11
    REPORTS_FOREIGN = 12  # of a strategy or instrument that does not run here
    FILLS = 13
    ORDERS_UNTRACKED = 14  # report of an open order for which no slot was free
    TICKS_LOST = 15
    TICKS_REPAIRED = 16
    TICK_GAPS = 17
    FRAMES_BAD = 18
    TICKS_MISSED_BEFORE_JOINING = 19
    BACK_PRESSURE = 20  # turns in which ticks had to wait, because risk has not answered yet
    SIGNALS_RESENT = 21
    SIGNALS_UNANSWERED = 22  # right now
    REPORT_EPOCHS = 23  # lives of exec seen: each time all that is owned is rebuilt from its journal


class Histogram(IntEnum):
    """What the service times."""

    DECODE_TO_STRATEGY = 0  # each tick: book updated .. strategies begin
    DECODE_TO_SIGNAL = 1  # each signal: book updated .. strategy decided


def memory_page_path(run_dir: Path) -> Path:
    """Where the hot process keeps its memory: a page with the field ``memory``, `plan_tables` says what is in it.

    Meta: ``pid`` of the hot process, ``capacity`` of a series, ``strategies`` (`Running.describe` of each row).
    """
    return run_dir / "signals.memory.page"


class Memory:
    """The tables as live views over `bytes`."""

    def __init__(self, memory: Bytes, plan: Plan) -> None:
        self.bytes = memory
        self.tables: dict[str, npt.NDArray[Any]] = {
            name: np.ndarray(shape, dtype, buffer=memory.data, offset=offset)
            for name, (dtype, shape, offset) in plan.items()
        }

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.tables[name]


def plan_tables(
    n_instruments: int,
    capacity: int,
    rows: int,
    own_dtypes: Sequence[tuple[np.dtype[Any], np.dtype[Any]]] = (),
) -> tuple[Plan, int]:
    """(dtype, shape, offset) of every table for so many strategies, and the bytes that they need.

    `own_dtypes` are the dtypes of parameters and state of each; whoever does not know them reads the tables before.
    Raises ValueError for a capacity that is not a power of two.
    """
    if capacity < 2 or capacity & (capacity - 1):
        msg = f"capacity of a series must be a power of two of at least 2, it is {capacity}"
        raise ValueError(msg)
    n = n_instruments
    int64 = np.dtype("<i8")
    wanted: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "words": (int64, (WORDS,)),
        "rows": (int64, (N_STRATEGY_IDS,)),
        "instruments": (INSTRUMENT, (n,)),
        "counts": (int64, (n,)),
        "points": (POINT, (n, 2, capacity)),
        "own": (OWN, (rows, n)),
        "orders": (OPEN_ORDER, (rows, n, MAX_OPEN_ORDERS)),
        "intents": (INTENT, (1 + MAX_INTENTS,)),
    }
    for row, (params, state) in enumerate(own_dtypes):
        wanted[f"params_{row}"] = (params, (1,))
        wanted[f"states_{row}"] = (state, (n,))
    plan: Plan = {}
    offset = 0
    for name, (dtype, shape) in wanted.items():
        plan[name] = (dtype, shape, offset)
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        offset += (size + _LINE - 1) // _LINE * _LINE
    return plan, offset
