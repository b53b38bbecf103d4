"""One code path: the same data gives the same signals and orders in every lane and in replay, bit for bit."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import zstandard

ROOT: Final = Path(__file__).resolve().parents[1]
FILE: Final = ROOT.parent / "shared" / "data" / "lobster" / "AAPL_2012-06-21_34200000_37800000_message_50.csv.zst"
LANES: Final = ("zmq-ipc", "shm", "fused")
BURST: Final = slice(2000, 6000)
ROWS: Final = 8000

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.skipif(not FILE.is_file(), reason=f"SKIPPED: no recorded market data: {FILE}"),
]

#: What follows the clock of the run, and not the data, must not bind.
UNTIMED: Final = {
    "TICKPATH_SIM__LOOP": "false",
    "TICKPATH_RISK__ORDER_RATE": "unlimited",
    "TICKPATH_RISK__LIMITS__ORDER_RATE": "unlimited",
    "TICKPATH_RISK__LIMITS__MAX_DATA_AGE_MS": "unlimited",
}
METRONOME: Final = {
    "TICKPATH_SIGNALS__STRATEGIES": json.dumps([{"path": f"{ROOT / 'tests' / 'metronome.py'}:metronome", "id": 9}])
}


@pytest.fixture(scope="module")
def bursting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of a recorded hour, told in four seconds; those in the middle come within one millisecond."""
    target = tmp_path_factory.mktemp("data") / FILE.name.removesuffix(".zst")
    with FILE.open("rb") as packed:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), "ascii")
        rows = [row for row, _ in zip(csv.reader(text), range(ROWS), strict=False)]
    begin = float(rows[0][0])
    steps = [5e-7 if BURST.start <= i < BURST.stop else 1e-3 for i in range(ROWS)]
    at = begin
    with target.open("w", newline="", encoding="ascii") as out:
        writer = csv.writer(out)
        for row, step in zip(rows, steps, strict=True):
            at += step
            writer.writerow([f"{at:.9f}", *row[1:]])
    return target


def run(*arguments: str, **environment: str) -> dict[str, Any]:
    """The report of a ``tickpath`` command that must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "tickpath.cli", *arguments, "--json"],
        cwd=ROOT, env={**os.environ, **UNTIMED, **environment}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert report["ok"], done.stderr
    return report


def play(lane: str, data: Path, *more: str, **environment: str) -> dict[str, Any]:
    """A run of the whole data in a lane."""
    report = run(
        "demo", "--lane", lane, "--data", str(data), "--seconds", "100", "--port-base", "0", *more, **environment
    )
    assert report["lane"] == lane
    return report


@pytest.fixture(scope="module")
def replayed(bursting: Path) -> dict[str, Any]:
    """Replay, with the shipped strategies: passive and aggressive orders, fills, cancels."""
    report = run("replay", str(bursting))
    orders = report["orders"]
    assert min(report["signals"], orders["sent"], orders["filled"], orders["cancelled"]) > 0
    return report


def test_replay_decides_the_same_every_time(bursting: Path, replayed: dict[str, Any]) -> None:
    again = run("replay", str(bursting))
    assert again["digests"] == replayed["digests"]
    assert again["pnl"] == replayed["pnl"]


@pytest.mark.parametrize("lane", LANES)
def test_with_the_exchange_in_the_loop_all_lanes_decide_as_replay_does(
    lane: str, bursting: Path, replayed: dict[str, Any]
) -> None:
    """In lockstep, so that every lane gets the exchange's answers at the same place of the data."""
    report = play(lane, bursting, "--speed", "step")
    for what in ("market_data", "ticks", "signals"):
        assert report[what] == replayed[what]
    assert report["orders"] == replayed["orders"]
    assert report["digests"] == replayed["digests"]


@pytest.fixture(scope="module")
def ticked(bursting: Path) -> dict[str, Any]:
    """Replay, with the strategy that decides on ticks alone."""
    report = run("replay", str(bursting), **METRONOME)
    assert report["orders"]["sent"] >= 15
    return report


@pytest.mark.parametrize("lane", LANES)
def test_a_burst_changes_no_decision(lane: str, bursting: Path, ticked: dict[str, Any]) -> None:
    """Played by the clock, with half of the data at once: batches differ from run to run, decisions must not.

    The strategy asks for fewer orders in the burst than can be open before the first is answered.
    """
    report = play(lane, bursting, "--speed", "1", **METRONOME)
    assert report["market_data"] == ticked["market_data"]
    assert report["orders"]["sent"] == ticked["orders"]["sent"]
    assert report["digests"] == ticked["digests"]
