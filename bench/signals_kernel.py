"""Nanoseconds per tick in the kernel of the signals service, on a seeded random walk over 24 instruments.

Timed: `Engine.run` over batches of 512 and of 1 ticks (the latter with the call from Python), best of 20 rounds: time
series, histograms, strategies, signals, open orders. Left out: links, reports. Every signal is refused at once, so
that strategies ask again and again: more signals than in a market. Baseline, in the same run: the same ticks copied
by NumPy, and the engine without a strategy, which only keeps the series. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tickpath.common.instruments import make_table
from tickpath.common.records import NO_PRICE_TICKS, SIGNAL, TICK, TickFlag
from tickpath.signals.engine import Engine, Running
from tickpath.signals.strategy import load_strategy

N_TICKS = 20_480
N_INSTRUMENTS = 24
ROUNDS = 20
PACKAGE = "tickpath.signals.strategies"


def make_ticks(seed: int) -> npt.NDArray[np.void]:
    """TICK[N_TICKS]: one tick in five is a trade."""
    rng = np.random.default_rng(seed)
    mid = 1_000_000 + 100 * np.cumsum(rng.integers(-1, 2, N_TICKS))
    trade = rng.random(N_TICKS) < 0.2
    ticks = np.zeros(N_TICKS, TICK)
    ticks["cause_seq"] = np.arange(1, N_TICKS + 1)
    ticks["bid_ticks"], ticks["ask_ticks"] = mid - 100, mid + 100
    ticks["bid_lots"], ticks["ask_lots"] = rng.integers(1, 1000, (2, N_TICKS))
    ticks["last_ticks"] = np.where(trade, mid, NO_PRICE_TICKS)
    ticks["last_lots"] = np.where(trade, rng.integers(1, 500, N_TICKS), 0)
    ticks["flags"] = np.where(trade, int(TickFlag.TRADE | TickFlag.QUOTE), int(TickFlag.QUOTE))
    ticks["instrument"] = rng.integers(0, N_INSTRUMENTS, N_TICKS)
    return ticks


def best_ns(work: Callable[[], object], n: int) -> float:
    """Thread time per tick of the best round."""
    rounds = []
    for _ in range(ROUNDS):
        begin = time.thread_time_ns()
        work()
        rounds.append((time.thread_time_ns() - begin) / n)
    return round(min(rounds), 1)


def main() -> None:
    """Measure and print."""
    ticks = make_ticks(1)
    table = make_table([(f"S{i}", "0.0001", 100, 1, 1, "USD") for i in range(N_INSTRUMENTS)])
    out, copy = np.zeros(8192, SIGNAL), np.zeros(512, TICK)
    batches = [ticks[i : i + 512] for i in range(0, N_TICKS, 512)]
    ones = [ticks[i : i + 1] for i in range(2048)]
    result: dict[str, object] = {
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]},
        "copy_ns_per_tick": best_ns(lambda: [copy.__setitem__(slice(None), b) for b in batches], N_TICKS),
    }
    for names in ((), ("ema_cross",), ("microprice",), ("ema_cross", "microprice")):
        running = [Running(load_strategy(f"{PACKAGE}.{name}:{name}"), i + 1) for i, name in enumerate(names)]
        engine = Engine(running, table)
        signals = 0

        def run(engine: Engine, parts: list[npt.NDArray[np.void]]) -> int:
            made = 0
            for part in parts:
                made += engine.run(part, out, 0)[1]
                engine.acknowledge(engine.signal_seq)
            return made

        signals = run(engine, batches)
        result["+".join(names) or "series only"] = {
            "ns_per_tick": best_ns(lambda e=engine: run(e, batches), N_TICKS),  # type: ignore[misc]
            "ns_per_call_of_one_tick": best_ns(lambda e=engine: run(e, ones), len(ones)),  # type: ignore[misc]
            "signals_per_1000_ticks": round(1000 * signals / N_TICKS, 1),
        }
    print(json.dumps(result, indent=1))  # noqa: T201 - its purpose


if __name__ == "__main__":
    main()
