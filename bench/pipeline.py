"""Tick-to-order of the whole pipeline, beside the bare chain, and the highest rate without loss.

What is timed: the exchange stamps each datagram as it sends it and each order as it arrives, with one clock, and
matches them by the sequence number of the message that caused the order. So everything between is inside: UDP, four
processes, three ZeroMQ hops, TCP. What is left out: nothing on that path; starting up is not on it.

Pipeline and bare chain (bench/_bare_chain.py) take turns on the same data, so that a noisy machine is noisy to both.
The load is open loop: the exchange never waits. ``tickpath bench pipeline [--json] [--quick] [--lane LANE]``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from tickpath.cli.demo import DemoOptions, _Run, _sections
from tickpath.cli.launcher import Launcher, LaunchError, Options, StopRequest
from tickpath.cli.machine import describe_machine, machine
from tickpath.cli.report import make_report
from tickpath.common.config import SERVICES, Lane
from tickpath.common.histogram import HIST_SIZE, MAX, summary_us
from tickpath.common.instruments import load_instruments
from tickpath.common.pages import Hot, Page, hot_page_path
from tickpath.common.records import ExecEvent

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "lobster"
FILES = (
    DATA / "AAPL_2012-06-21_34200000_37800000_message_50.csv.zst",
    DATA / "AMZN_2012-06-21_34200000_57600000_message_5.csv.zst",
)
TARGET_RATIO = 1.5
TARGET_RATE = 250_000

Say = Callable[[str], None]


class _Bare(Launcher):
    """The exchange alone; the bare chain comes in place of the services."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("sim",)


def _options(seconds: float, speed: float, rate: float, lane: str = "zmq-ipc") -> DemoOptions:
    return DemoOptions(seconds, FILES, speed, rate, 1, True, None, 0, lane=lane)


def _launch(options: DemoOptions, **sections: Any) -> Options:
    merged = {**_sections(options), **sections}
    return Options("bench", None, merged, None, 0, True, options.data)


def run_pipeline(
    seconds: float,
    speed: float,
    rate: float,
    stop: StopRequest,
    say: Say,
    lane: str = "zmq-ipc",
    collect: Callable[[_Run], None] = lambda _: None,
    **sections: Any,
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """(report, tick-to-order histogram, causes of the orders that were sent).

    `sections` of the configuration win; `collect` sees the run before its folder is removed.
    """
    options = _options(seconds, speed, rate, lane)
    with Launcher(_launch(options, **sections), say, stop) as system:
        system.start()
        run = _Run(system, options, Console(stderr=True, force_terminal=False), stop)
        evidence = run.evidence()
        collect(run)
        hist = _tick_to_order(system.run_dir)
        growth = _memory_growth(system.run_dir)
    sends = evidence.journal[evidence.journal["event"] == ExecEvent.SEND]
    return {**make_report(evidence), "rss_growth_mb": growth}, hist, np.unique(sends["cause_seq"])


def _memory_growth(run_dir: Path) -> dict[str, float]:
    """Resident memory of each hot process at the end, less that at the moment when it was ready."""
    hot = {name: Page.open(hot_page_path(run_dir, name))["hot"] for name in (*SERVICES, "sim")}
    return {name: round(float(h[Hot.RSS_BYTES] - h[Hot.RSS_READY_BYTES]) / 1e6, 1) for name, h in hot.items()}


def _tick_to_order(run_dir: Path) -> np.ndarray:
    page = Page.open(hot_page_path(run_dir, "sim"))
    return np.array(page["hist"][page.meta["histograms"].index("tick_to_order")])


def run_bare(
    seconds: float, speed: float, rate: float, causes: np.ndarray, stop: StopRequest, say: Say
) -> np.ndarray:
    """Tick-to-order histogram of the bare chain on the same data, with orders at the same messages."""
    options = _options(seconds, speed, rate)
    with _Bare(_launch(options), say, stop) as system:
        system.start()
        config, run_dir = system.config, system.run_dir
        np.save(run_dir / "causes.npy", causes)
        symbol = load_instruments(config.instruments).symbols[0]
        chain = []
        try:
            for stage, ready in (("feed", "feed"), ("signals", "signals.up"), ("risk", "risk"), ("exec", "exec")):
                cores = ",".join(map(str, getattr(config.cores, stage)))
                command = [
                    sys.executable, str(ROOT / "bench" / "_bare_chain.py"), stage, str(run_dir),
                    str(config.feed.port), str(config.exec.port), cores, str(run_dir / "causes.npy"), symbol,
                ]  # fmt: skip
                chain.append(subprocess.Popen(command))
                _wait_for(run_dir / f"bare.{ready}", chain[-1], stop)
            stop.wait(0.5)  # subscriptions reach their publishers
            system_exchange = _exchange(system)
            system_exchange("start")
            stop.wait(seconds)
            system_exchange("stop")
            stop.wait(0.5)
            return _tick_to_order(run_dir)
        finally:
            for process in chain:
                process.terminate()
            for process in chain:
                process.wait(5)


def _exchange(system: Launcher) -> Callable[[str], None]:
    from tickpath.cli.control import Endpoint  # noqa: PLC0415 - only here

    config = system.config
    endpoint = Endpoint(config.admin.host, config.http_port("sim"), "sim", system.token)
    return lambda what: endpoint.ask("POST", f"/control/{what}")


def _wait_for(path: Path, process: subprocess.Popen[bytes], stop: StopRequest) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        if process.poll() is not None or time.monotonic() > until:
            msg = f"the bare chain did not start: {path.name} (status {process.poll()})"
            raise LaunchError(msg)
        stop.wait(0.02)


def _sum(histograms: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(HIST_SIZE, dtype=np.int64)
    for hist in histograms:
        total += hist
    total[MAX] = max((int(hist[MAX]) for hist in histograms), default=0)
    return total


def compare(
    speed: float, seconds: float, turns: int, stop: StopRequest, say: Say, lane: str = "zmq-ipc"
) -> dict[str, Any]:
    """Pipeline and bare chain in turns at `speed` times the recorded rate."""
    ours, bare, reports = [], [], []
    for turn in range(turns):
        say(f"{speed:g}x, turn {turn + 1} of {turns}: pipeline")
        report, hist, causes = run_pipeline(seconds, speed, 0.0, stop, lambda _: None, lane)
        ours.append(hist)
        reports.append(report)
        say(f"{speed:g}x, turn {turn + 1} of {turns}: bare chain, {len(causes)} orders")
        bare.append(run_bare(seconds, speed, 0.0, causes, stop, lambda _: None))
    a, b = summary_us(_sum(ours)), summary_us(_sum(bare))
    return {
        "speed": speed,
        "seconds": seconds * turns,
        "pipeline_us": a,
        "bare_chain_us": b,
        "ratio_p50": round(a["p50"] / b["p50"], 2) if b["p50"] else None,
        "ratio_p99": round(a["p99"] / b["p99"], 2) if b["p99"] else None,
        "all_ok": all(report["ok"] for report in reports),
        "hops_us": reports[-1]["hops_us"],
    }


def highest_rate(seconds: float, stop: StopRequest, say: Say, lane: str = "zmq-ipc") -> dict[str, Any]:
    """Raise the rate until something is lost; the last rate at which nothing was is confirmed by a longer run."""
    tried: list[dict[str, Any]] = []
    best = 0
    rate = 150_000
    while True:
        report, _, _ = run_pipeline(seconds, 1.0, rate, stop, lambda _: None, lane)
        tried.append(_load(rate, report))
        say(f"{rate:,} messages/s asked, {tried[-1]['sent_per_s']:,.0f} sent, {tried[-1]['lost']:,} lost")
        if tried[-1]["lost"] or not report["positions_match"] or tried[-1]["sent_per_s"] < 0.95 * rate:
            break
        best, rate = rate, int(rate * 1.25)
    while best:
        report, _, _ = run_pipeline(3 * seconds, 1.0, best, stop, lambda _: None, lane)
        confirmed = _load(best, report)
        say(f"{best:,} messages/s for {3 * seconds:.0f} s: {confirmed['lost']:,} lost")
        if not confirmed["lost"] and report["positions_match"]:
            return {"messages_per_s": best, **confirmed, "tried": tried}
        best = int(best / 1.25)
        if best < 50_000:
            best = 0
    return {"messages_per_s": 0, "tried": tried}


def _load(rate: int, report: dict[str, Any]) -> dict[str, Any]:
    processes = report["processes"]
    return {
        "asked_per_s": rate,
        "sent_per_s": report["market_data"]["sent"] / max(report["seconds"], 1e-9),
        "lost": report["market_data"]["lost"],
        "ok": report["ok"],
        "ticks": report["ticks"],
        "orders": report["orders"]["sent"],
        "tick_to_order_us": report["tick_to_order_us"],
        "cpu_percent": {name: found["cpu_percent"] for name, found in processes.items() if name.endswith(".hot")},
        "rss_mb": {name: found["rss_mb"] for name, found in processes.items() if name.endswith(".hot")},
        "rss_growth_mb": report["rss_growth_mb"],
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Tables for people."""
    console.print(describe_machine(result["machine"]))
    table = Table(title="Tick to order, µs, stamped by the exchange", title_justify="left")
    for column in ("", "p50", "p90", "p99", "p99.9", "max", "orders"):
        table.add_column(column, justify="right" if column else "left")
    for case in result["latency"]:
        for name, key in (("pipeline", "pipeline_us"), ("bare chain", "bare_chain_us")):
            found = case[key]
            row = [f"{found[q]:,.1f}" for q in ("p50", "p90", "p99", "p99_9", "max")]
            table.add_row(f"{case['speed']:g}x {name}", *row, f"{found['count']:,}")
        table.add_row(f"{case['speed']:g}x ratio", str(case["ratio_p50"]), "", str(case["ratio_p99"]), "", "", "")
    console.print(table)
    rate = result.get("sustained")
    if rate:
        console.print(f"highest rate without loss: {rate['messages_per_s']:,} messages/s (target {TARGET_RATE:,})")
        if rate["messages_per_s"]:
            grown = ", ".join(f"{name} {mb:+.1f}" for name, mb in rate["rss_growth_mb"].items())
            console.print(f"resident memory since ready, MB: {grown}")


def main() -> int:
    """Run everything; exit status 1 when a run lost, doubled or left something unexplained."""
    parser = argparse.ArgumentParser(prog="tickpath bench pipeline", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="short runs: for a look, not for a claim")
    parser.add_argument("--skip-rate", action="store_true", help="only the latency")
    parser.add_argument("--lane", default="zmq-ipc", choices=get_args(Lane), help="how records move (docs/lanes.md)")
    arguments = parser.parse_args()
    missing = [str(path) for path in FILES if not path.exists()]
    if missing:
        print(f"the recorded data is not there: {', '.join(missing)}", file=sys.stderr)  # noqa: T201
        return 3
    stop, console = StopRequest(), Console(stderr=True)
    seconds, turns = (6.0, 1) if arguments.quick else (15.0, 3)

    def say(text: str) -> None:
        console.print(f"bench: {text}", highlight=False, markup=False)

    result: dict[str, Any] = {"machine": machine(), "lane": arguments.lane}
    result["latency"] = [compare(speed, seconds, turns, stop, say, arguments.lane) for speed in (1.0, 8.0)]
    if not arguments.skip_rate:
        result["sustained"] = highest_rate(4.0 if arguments.quick else 8.0, stop, say, arguments.lane)
    if arguments.json:
        print(json.dumps(result))  # noqa: T201
    else:
        show(result, Console())
    return 0 if all(case["all_ok"] for case in result["latency"]) else 1


if __name__ == "__main__":
    sys.exit(main())
