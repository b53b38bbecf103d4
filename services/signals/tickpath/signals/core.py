"""signals without its links: the strategies, their memory, and what they may do at the moment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.common.clock import now_ns
from tickpath.common.config import Config, config_path
from tickpath.common.instruments import load_instruments
from tickpath.common.pages import Control, HotPage, Page
from tickpath.common.process import StartError
from tickpath.common.records import REPORT, SIGNAL, TICK
from tickpath.signals.engine import Engine, Running
from tickpath.signals.layout import Counter, Histogram, memory_page_path
from tickpath.signals.strategy import StrategyError, load_strategy

DRAIN_NS: Final = 2_000_000_000  # how long a stopping process waits for the answers to its last signals


def configured_strategies(config: Config, base: Path) -> list[Running]:
    """The strategies of [signals]; files are relative to `base`. Raises StrategyError that lists every fault."""
    running, faults = [], []
    for item in config.signals.strategies:
        try:
            strategy = load_strategy(item.path, base)
            strategy.make_params(item.params)
            running.append(Running(strategy, item.id, item.params, item.instruments))
        except StrategyError as error:
            faults.append(f"signals.strategies, id {item.id}: {error}")
    if faults:
        raise StrategyError("\n".join(faults))
    return running


class SignalsPage(HotPage):
    """Signals' page: the common arrays; the strategies' memory has a page of its own."""

    name = "signals"
    counters = Counter
    histograms = Histogram


class SignalsCore:
    """Engine and output of the strategies; `page` and `side` are the pages of the service."""

    def __init__(self, config: Config, page: Page, side: Page | None) -> None:
        """Raises StartError."""
        self.config = config
        self.counts: npt.NDArray[np.int64] = page["counters"]
        self.hist: npt.NDArray[np.int64] = page["hist"]
        self.control: npt.NDArray[np.int64] = (
            side["control"] if side is not None else np.zeros(len(Control), dtype=np.int64)
        )
        try:
            self.engine = self._make_engine()
        except StrategyError as error:
            raise StartError(str(error)) from None
        self.out: npt.NDArray[Any] = np.zeros(max(4096, self.engine.room), dtype=SIGNAL)
        self.paused = 0
        self.draining = False

    def _make_engine(self) -> Engine:
        config, capacity = self.config, self.config.signals.series_capacity
        instruments = load_instruments(config.instruments)
        running = configured_strategies(config, config_path().resolve().parent)
        size = Engine.memory_size(running, len(instruments), capacity)
        meta = {"pid": os.getpid(), "capacity": capacity, "strategies": [item.describe() for item in running]}
        path = memory_page_path(config.run_dir)
        try:
            self.memory_page = Page.create(path, {"memory": ("u1", (size,))}, meta)
        except OSError as error:
            why = f"{error.strerror}; lower signals.series_capacity, now {capacity}"
            msg = f"cannot make {path} of {size >> 20} MiB: {why}"
            raise StartError(msg) from None
        return Engine(
            running, instruments, capacity,
            memory=self.memory_page["memory"], counters=self.counts, hist=self.hist,
        )  # fmt: skip

    def warm_up(self) -> None:
        """Run everything once on every instrument, with records as they come out of a frame; then forget it."""
        ticks = np.zeros(len(self.engine.instruments), dtype=TICK)
        ticks["instrument"] = np.arange(len(ticks))
        self.engine.run(np.frombuffer(ticks.tobytes(), TICK), self.out, now_ns())
        self.engine.apply(np.frombuffer(np.zeros(1, REPORT).tobytes(), REPORT))
        self.out[:] = np.zeros(1, SIGNAL)
        self.engine.reset()
        self.mute(caught_up=False)

    def mute(self, *, caught_up: bool) -> None:
        """Let new orders out or not; `caught_up`: all reports of the day are applied.

        Without them a strategy does not know what it owns, and must not add to it.
        """
        self.paused = int(self.control[Control.PAUSED])
        self.engine.mute(bool(self.paused or self.draining or not caught_up))
