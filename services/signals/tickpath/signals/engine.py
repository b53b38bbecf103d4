"""Strategies, compiled into one kernel with all that surrounds them, over one memory.

Numba cannot cache a kernel that closes over functions which it is given at run time. So the kernel is written out as
a module of its own, which imports the users' functions by name, into a folder named after the hash of everything
that it is made of. A changed strategy is another module: it never meets the machine code of the old one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import types as pytypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core.errors import NumbaError

from tickpath.common.histogram import empty
from tickpath.common.instruments import InstrumentTable
from tickpath.common.jit import cache_root, fingerprint
from tickpath.common.records import NO_PRICE_TICKS
from tickpath.signals.kernels import core
from tickpath.signals.layout import MAX_INTENTS, Bytes, Counter, Histogram, Memory, Plan, Word, plan_tables
from tickpath.signals.series import Series
from tickpath.signals.strategy import Strategy

Records = npt.NDArray[np.void]

_HEAD = """# Written by tickpath.signals.engine; a change here is lost. Made of: {made_of}

from numba import types

from tickpath.common.histogram import HIST_SIZE
from tickpath.common.jit import callback, inlined, kernel
from tickpath.common.kernels.memory import bytes_at, rows_at, signals_at, ticks_at, words_at
from tickpath.signals.kernels.core import (
    COUNTERS_TYPE, HIST_TYPE, MEMORY_TYPE, SIGNALS_TYPE, TICKS_TYPE,
    admit, forget_refused, open_tables, series_of, settle, spliced, switch_off,
)
from tickpath.signals.layout import MAX_INTENTS, Counter, Histogram, Word

_COUNTERS, _HISTOGRAMS = len(Counter), len(Histogram)
_N = int(Word.N_INSTRUMENTS)
_TABLES = int(Word.TABLES)
ROOM = MAX_INTENTS * {rows}
"""

_IMPORT = """
from {module} import {name} as _strategy_{row}
_call_{row} = _strategy_{row}.compiled
_PARAMS_{row} = _strategy_{row}.params_dtype
_PARAMS_SIZE_{row} = _PARAMS_{row}.itemsize
_STATE_{row} = _strategy_{row}.state_dtype
_STATE_SIZE_{row} = _STATE_{row}.itemsize
"""

_OPEN = """

@spliced
def open_strategies(memory, words):
    n = words[_N]
"""

_OPEN_ROW = """    at = words[_TABLES + {params_at}]
    params_{row} = memory[at : at + _PARAMS_SIZE_{row}].view(_PARAMS_{row})
    at = words[_TABLES + {states_at}]
    states_{row} = memory[at : at + n * _STATE_SIZE_{row}].view(_STATE_{row})
"""

# `out` must have room for ROOM more signals.
_STEP = """    return ({own_tables})


@inlined
def step(tables, own_tables, counters, hist, tick, out, n_out, now_ns):
    words, _, instruments, counts, points, owns, orders, intents = tables
    {unpack}
    if not admit(words, counters, hist, counts, points, tick, now_ns):
        return n_out
    i = tick.instrument
    instrument = instruments[i]
    shard = instrument.shard
    series = series_of(words, counts, points, i)
"""

_STEP_ROW = """
    at = {row} * words[_N] + i
    own = owns[at]
    if own.enabled == 1:
        intents[0].qty_lots = 0
        intents[0].side = 0
        if own.in_flight:
            forget_refused(words, counters, own, orders, at)
        state = states_{row}[i]
        params = params_{row}[0]
        try:
            _call_{row}({arguments})
        except Exception:
            switch_off(counters, own, intents)
        if intents[0].qty_lots or intents[0].side:
            n_out = settle(
                words, counters, hist, tick, own, orders, at, intents, out, n_out, {strategy_id}, shard, now_ns
            )
"""

_RUN = """    return n_out


@kernel(types.UniTuple(types.int64, 2)(
    MEMORY_TYPE, COUNTERS_TYPE, HIST_TYPE, TICKS_TYPE, SIGNALS_TYPE, types.int64
))
def run(memory, counters, hist, ticks, out, now_ns):
    tables = open_tables(memory)
    own_tables = open_strategies(memory, tables[0])
    n_out = 0
    for t in range(len(ticks)):
        if n_out + ROOM > len(out):
            return t, n_out
        n_out = step(tables, own_tables, counters, hist, ticks[t], out, n_out, now_ns)
    return len(ticks), n_out


@callback(types.int64(*(types.int64,) * 9))
def run_at(memory, size, counters, hist, ticks, n_ticks, out, room, now_ns):
    done, n_out = run(
        bytes_at(memory, size), words_at(counters, _COUNTERS), rows_at(hist, _HISTOGRAMS, HIST_SIZE),
        ticks_at(ticks, n_ticks), signals_at(out, room), now_ns,
    )
    return done << 32 | n_out
"""

#: Index of the first strategy's parameters among the tables, without ``words``.
_FIRST_OWN_TABLE = 7


@dataclass(frozen=True)
class Running:
    """A strategy as configured: which, under which id (1..127), with which parameters, on which symbols.

    Parameters that are not given have their defaults; no symbols are all symbols.
    """

    strategy: Strategy
    id: int
    params: Mapping[str, object] = field(default_factory=dict)
    symbols: Sequence[str] = ()

    def describe(self) -> dict[str, Any]:
        """What people want to know of it, JSON-able. `symbols` is empty for all."""
        values = self.strategy.make_params(self.params)
        return {
            "id": self.id,
            "name": self.strategy.name,
            "about": self.strategy.about,
            "file": self.strategy.path.name,
            "params": {
                key: {
                    "value": values[key][0].item(),
                    "default": param.default,
                    "least": param.least,
                    "most": param.most,
                    "about": param.about,
                }
                for key, param in self.strategy.params.items()
            },
            "state": [name for name in self.strategy.state_dtype.names or () if name != "_"],
            "state_bytes": self.strategy.state_dtype.itemsize,
            "symbols": list(self.symbols),
        }


def compile_strategies(running: Sequence[Running]) -> pytypes.ModuleType:
    """The module with the kernel of these strategies, from the cache if nothing that it is made of has changed.

    It has `run(memory, counters, hist, ticks, out, now_ns)`, and `run_at`, the same as a C function for compiled
    loops: addresses and counts in, ``ticks done << 32 | signals written`` out.
    Raises StrategyError if a function does not compile.
    """
    made_of = [f"{r.id}:{r.strategy.name}:{r.strategy.digest()}" for r in running]
    source = _HEAD.format(made_of=" ".join(made_of) or "no strategy", rows=len(running))
    rows = range(len(running))
    for row in rows:
        function = running[row].strategy.function
        source += _IMPORT.format(module=function.__module__, name=function.__name__, row=row)
    source += _OPEN
    for row in rows:
        params_at = _FIRST_OWN_TABLE + 2 * row
        source += _OPEN_ROW.format(row=row, params_at=params_at, states_at=params_at + 1)
    own_tables = "".join(f"params_{row}, states_{row}, " for row in rows)
    source += _STEP.format(own_tables=own_tables, unpack=f"{own_tables} = own_tables" if running else "pass")
    for row, item in enumerate(running):
        arguments = ("intents" if name == "out" else name for name in item.strategy.arguments)
        source += _STEP_ROW.format(row=row, arguments=", ".join(arguments), strategy_id=item.id)
    source += _RUN
    digest = hashlib.sha256(source.encode() + fingerprint(Path(core.__file__)).encode()).hexdigest()[:16]
    path = cache_root() / f"strategies_{digest}" / f"tickpath_strategies_{digest}.py"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(source, "utf-8")
        draft.replace(path)
    if path.stem in sys.modules:
        return sys.modules[path.stem]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: S101 - a .py file has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[path.stem]
        if isinstance(error, (NumbaError, KeyError)):  # KeyError: Numba's way to say that a record has no such field
            for item in running:
                item.strategy.check()
        raise
    return module


class Engine:
    """Strategies over their memory: ticks and reports in, signals out.

    `memory`, uint8[memory_size], `counters`, int64[Counter] and `hist`, int64[Histogram, HIST_SIZE], may lie in a
    page; without them the engine makes its own. Raises StrategyError for parameters and symbols that do not exist.
    """

    def __init__(
        self,
        running: Sequence[Running],
        instruments: InstrumentTable,
        capacity: int = 1024,
        *,
        memory: Bytes | None = None,
        counters: npt.NDArray[np.int64] | None = None,
        hist: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.running = tuple(running)
        self.instruments = instruments
        plan, size = _plan(running, len(instruments), capacity)
        self.memory = Memory(np.zeros(size, np.uint8) if memory is None else memory, plan)
        self.counters = np.zeros(len(Counter), np.int64) if counters is None else counters
        self.hist = empty(len(Histogram)) if hist is None else hist
        self.series = Series(self.memory["counts"], self.memory["points"])
        self.room = max(1, MAX_INTENTS * len(running))  # signals that one tick may make
        self._words = self.memory["words"]
        self.reset()
        self.module = compile_strategies(running)
        self._run = self.module.run

    @staticmethod
    def memory_size(running: Sequence[Running], n_instruments: int, capacity: int) -> int:
        """Bytes of memory that these strategies need."""
        return _plan(running, n_instruments, capacity)[1]

    def reset(self) -> None:
        """Back to the beginning: no tick seen, nothing owned, nothing counted."""
        tables = self.memory.tables
        self.memory.bytes[:] = 0
        self.counters[:] = 0
        self.hist[:] = 0
        words = self._words
        words[Word.N_INSTRUMENTS] = len(self.instruments)
        words[Word.CAPACITY] = self.series.capacity
        words[Word.N_STRATEGIES] = len(self.running)
        base = self.memory.bytes.ctypes.data
        for index, (name, table) in enumerate(tables.items()):
            if name != "words":
                words[Word.TABLES + index - 1] = table.ctypes.data - base
        tables["instruments"][:] = self.instruments.array
        tables["rows"][:] = -1
        for row, item in enumerate(self.running):
            tables["rows"][item.id] = row
            tables[f"params_{row}"][:] = item.strategy.make_params(item.params)
            tables[f"states_{row}"][:] = item.strategy.make_state(len(self.instruments))
            lookback = item.strategy.lookback(item.params)
            if lookback > self.series.capacity:
                why = f"looks back {lookback} ticks; signals.series_capacity keeps {self.series.capacity}"
                raise item.strategy.error(why)
            unknown = [symbol for symbol in item.symbols if symbol not in self.instruments.ids]
            if unknown:
                known = ", ".join(self.instruments.symbols[:10]) + (", .." if len(self.instruments) > 10 else "")
                raise item.strategy.error(f"there is no instrument {', '.join(unknown)}; there are {known}")
            chosen = [self.instruments.ids[symbol] for symbol in item.symbols] or slice(None)
            tables["own"]["enabled"][row, chosen] = 1
        self.forget_reports()

    def run(self, ticks: Records, out: Records, now_ns: int) -> tuple[int, int]:
        """TICK[n] in, SIGNAL[m] out: (ticks done, signals written).

        Fewer ticks are done than given when `out` has less than `room` left: call again with the others.
        """
        done: tuple[int, int] = self._run(self.memory.bytes, self.counters, self.hist, ticks, out, now_ns)
        return done

    def apply(self, reports: Records) -> int:
        """REPORT[n] in: positions and open orders follow; returns how many were new."""
        applied: int = core.apply_reports(self.memory.bytes, self.counters, reports)
        return applied

    def forget_reports(self) -> None:
        """Own nothing, until all reports of the day are applied again from the first one on."""
        own = self.memory["own"]
        for name in own.dtype.names or ():
            if name != "enabled":
                own[name] = 0
        own["buy_ticks"] = own["sell_ticks"] = NO_PRICE_TICKS
        self.memory["orders"][:] = 0
        self._words[Word.REPORT_SEQ] = 0

    def acknowledge(self, signal_seq: int) -> None:
        """Every signal up to this number, counted from 1 since `reset`, is an order at exec or was refused."""
        self._words[Word.ACKED_SEQ] = signal_seq

    @property
    def signal_seq(self) -> int:
        """Number of the last signal."""
        return int(self._words[Word.SIGNAL_SEQ])

    @property
    def report_seq(self) -> int:
        """Number of the last report that was applied."""
        return int(self._words[Word.REPORT_SEQ])

    def mute(self, muted: bool) -> None:
        """While muted, strategies see every tick and may cancel, but no new order leaves; those are counted."""
        self._words[Word.MUTED] = int(muted)


def _plan(running: Sequence[Running], n: int, capacity: int) -> tuple[Plan, int]:
    dtypes = [(item.strategy.params_dtype, item.strategy.state_dtype) for item in running]
    return plan_tables(n, capacity, len(running), dtypes)
