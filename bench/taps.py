# mypy: disable-error-code="call-arg, no-untyped-def, no-untyped-call, misc"
"""Cost of a tap: nanoseconds for each record shown, and for each datagram captured.

Timed: `tap` from compiled code in batches of 1, 10 and 100 ticks; `capture` of datagrams of 1,400 bytes; both also
with the tap off; and `Tap.put_at` from Python, as the fused lane calls it for cancels, once per batch. Beside them,
in the same run: a bare copy of a tick and of a datagram into as much memory. Left out: the observers, who cost the
writer nothing but the cache lines that they read.

    .venv/bin/python bench/taps.py [--json]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tickpath.common.config import load_config
from tickpath.common.jit import kernel
from tickpath.common.kernels.atomics import address_of, copy_bytes
from tickpath.common.kernels.taps import capture, tap
from tickpath.common.records import TICK
from tickpath.common.taps import Tap

ROOT = Path(__file__).resolve().parents[1]
CALLS = 20_000
ROUNDS = 9
DATAGRAM = 1400


@kernel("void(int64, int64, int64, int64)")
def tap_often(ring, source, n, calls):
    """`tap` as a compiled loop calls it."""
    for _ in range(calls):
        tap(ring, source, n)


@kernel("void(int64, uint8[:, ::1], int64[::1], int64)")
def capture_often(ring, buffer, lengths, calls):
    """`capture` of one datagram after the other."""
    for call in range(calls):
        i = call & 63
        capture(ring, buffer, lengths, i, i + 1, call, 0)


@kernel("void(uint8[::1], int64, int64, int64)")
def copy_often(target, source, size, calls):
    """What any copy costs: into the next place of the target, which wraps."""
    places = len(target) // size
    for call in range(calls):
        copy_bytes(address_of(target) + (call % places) * size, source, size)


def best_ns(work: Callable[[], object], units: int) -> float:
    """Best of several rounds, ns for each unit: what is slower was disturbed."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        work()
        rounds.append((time.perf_counter_ns() - began) / units)
    return min(rounds)


def measure(folder: Path) -> dict[str, float]:
    """Nanoseconds by what was done."""
    config = load_config(ROOT / "tickpath.toml", run_dir=folder, taps={"capture": True})
    shown, captured = Tap(config, "ticks", 1), Tap(config, "datagrams", 1)
    ticks = np.zeros(100, TICK)
    at = ticks.ctypes.data
    buffer, lengths = np.zeros((64, 2048), np.uint8), np.full(64, DATAGRAM)
    few = np.zeros(config.taps.records * TICK.itemsize, np.uint8)
    many = np.zeros(config.taps.capture_datagrams * DATAGRAM, np.uint8)

    def from_python() -> None:
        for _ in range(CALLS):
            shown.put_at(at, 10)

    found = {"bare copy of a tick": best_ns(lambda: copy_often(few, at, TICK.itemsize, CALLS), CALLS)}
    for n in (1, 10, 100):
        work = lambda n=n: tap_often(shown.address, at, n, CALLS)  # noqa: E731
        found[f"tap, per tick, batches of {n}"] = best_ns(work, CALLS * n)
    found["tap that is off, per call"] = best_ns(lambda: tap_often(0, at, 10, CALLS), CALLS)
    found["Tap.put_at of 10 ticks from Python, per call"] = best_ns(from_python, CALLS)
    source = buffer.ctypes.data
    found["bare copy of a datagram"] = best_ns(lambda: copy_often(many, source, DATAGRAM, CALLS), CALLS)
    found["capture, per datagram"] = best_ns(lambda: capture_often(captured.address, buffer, lengths, CALLS), CALLS)
    found["capture that is off, per datagram"] = best_ns(lambda: capture_often(0, buffer, lengths, CALLS), CALLS)
    shown.close()
    captured.close()
    return found


def main() -> None:
    """Measure, print."""
    memory = Path("/dev/shm")  # noqa: S108 - where rings are
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        found = measure(Path(name))
    if "--json" in sys.argv:
        print(json.dumps({what: round(ns, 2) for what, ns in found.items()}))  # noqa: T201
        return
    for what, ns in found.items():
        print(f"{what:48} {ns:8.1f} ns")  # noqa: T201


if __name__ == "__main__":
    main()
