"""Tick-to-order of every lane beside the bare echo, and the highest rate of the fused lane beside the bare receiver.

What is timed: from the exchange's stamp on the datagram to its stamp on the order, one clock; so UDP, the lane's
processes and hops, and TCP are inside. The bare echo (bench/_bare_echo.py) is one compiled loop between the same two
sockets that does nothing with the data, and sends an order at the same messages. All take turns on the same recorded
data, open loop. ``tickpath bench lanes [--json] [--quick] [--html FILE] [--lanes fused,shm] [--skip-rate]``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pipeline
from rich.console import Console
from rich.table import Table

from tickpath.cli.latency import Run, write_report
from tickpath.cli.launcher import LaunchError, StopRequest
from tickpath.cli.machine import describe_machine, machine
from tickpath.common.histogram import summary_us
from tickpath.common.instruments import load_instruments
from tickpath.common.pages import Page, hot_page_path
from tickpath.exec.journal import read_journal

ROOT: Final = Path(__file__).parents[1]
LANES: Final = ("zmq-ipc", "shm", "fused")
TARGETS: Final = {"fused": (1.25, 1.5), "shm": (2.5, None)}  # of the bare echo: p50, p99
SPIN_NS: Final = {"spin": -1, "block": 0}
TARGET_RATE: Final = 1_000_000


def run_echo(
    seconds: float, speed: float, rate: float, wait: str, causes: np.ndarray, stop: StopRequest
) -> tuple[np.ndarray, dict[str, int]]:
    """(tick-to-order histogram, datagrams sent and received) of the bare echo."""
    options = pipeline._options(seconds, speed, rate)
    with pipeline._Bare(pipeline._launch(options), lambda _: None, stop) as system:
        system.start()
        config, run_dir = system.config, system.run_dir
        np.save(run_dir / "causes.npy", causes)
        symbol = load_instruments(config.instruments).symbols[0]
        command = [
            sys.executable, str(ROOT / "bench" / "_bare_echo.py"), str(run_dir), str(config.feed.port),
            str(config.exec.port), "", str(run_dir / "causes.npy"), symbol, str(SPIN_NS[wait]),
        ]  # fmt: skip
        echo = subprocess.Popen(command)
        try:
            pipeline._wait_for(run_dir / "bare.echo", echo, stop)
            exchange = pipeline._exchange(system)
            exchange("start")
            stop.wait(seconds)
            exchange("stop")
            stop.wait(1.5)
            page = Page.open(hot_page_path(run_dir, "sim"))
            counters = dict(zip(page.meta["counters"], page["counters"].tolist(), strict=True))
            received = int((run_dir / "bare.received").read_text("ascii"))
            found = {
                "messages": counters["messages_sent"],
                "sent": counters["datagrams_sent"],
                "received": received,
            }
            return pipeline._tick_to_order(run_dir), found
        finally:
            echo.terminate()
            echo.wait(5)


def compare(
    speed: float,
    seconds: float,
    turns: int,
    wait: str,
    lanes: list[str],
    stop: StopRequest,
    say: Any,
    pages: list[Run],
) -> dict[str, Any]:
    """Every lane and the bare echo in turns."""
    hists: dict[str, list[np.ndarray]] = {name: [] for name in (*lanes, "bare echo")}
    all_ok = True
    for turn in range(turns):
        causes = np.zeros(0, np.int64)
        for lane in lanes:
            say(f"{speed:g}x {wait}, turn {turn + 1} of {turns}: {lane}")

            def collect(run: Any, label: str = f"{lane} {speed:g}x {wait}", last: bool = turn == turns - 1) -> None:
                if last:
                    made = {n: p for n in (*pipeline.SERVICES, "sim") if (p := run.watch.hot(n)) is not None}
                    journal = read_journal(run.system.config.journal_dir())
                    pages.append(Run.read(label, made, journal, run.table.symbols))

            report, hist, sent = pipeline.run_pipeline(
                seconds, speed, 0.0, stop, lambda _: None, lane, collect, process={"wait": wait}
            )
            hists[lane].append(hist)
            all_ok = all_ok and report["ok"]
            causes = sent if lane == lanes[-1] else causes
        say(f"{speed:g}x {wait}, turn {turn + 1} of {turns}: bare echo, {len(causes)} orders")
        hists["bare echo"].append(run_echo(seconds, speed, 0.0, wait, causes, stop)[0])
    found = {name: summary_us(pipeline._sum(parts)) for name, parts in hists.items()}
    bare = found["bare echo"]
    return {
        "speed": speed,
        "wait": wait,
        "seconds": seconds * turns,
        "us": found,
        "ratio": {
            lane: {q: round(found[lane][q] / bare[q], 2) if bare[q] else None for q in ("p50", "p99")}
            for lane in lanes
        },
        "all_ok": all_ok,
    }


def highest_rate(seconds: float, stop: StopRequest, say: Any) -> dict[str, Any]:
    """Fused lane and bare receiver at rising rates, until the lane loses something."""
    tried = []
    best = 0
    for rate in (500_000, 750_000, 1_000_000, 1_250_000, 1_500_000, 2_000_000, 2_500_000):
        report, _, _ = pipeline.run_pipeline(seconds, 1.0, rate, stop, lambda _: None, "fused")
        _, bare = run_echo(seconds, 1.0, rate, "block", np.zeros(0, np.int64), stop)
        found = pipeline._load(rate, report)
        found["bare_datagrams_lost"] = bare["sent"] - bare["received"]
        found["bare_sent_per_s"] = bare["messages"] / seconds
        tried.append(found)
        say(
            f"{rate:,} messages/s asked: fused {found['sent_per_s']:,.0f} sent, {found['lost']:,} lost; "
            f"bare receiver {found['bare_sent_per_s']:,.0f} sent, {found['bare_datagrams_lost']:,} datagrams lost"
        )
        if found["lost"] or not report["ok"] or found["sent_per_s"] < 0.9 * rate:
            break
        best = int(found["sent_per_s"])
    return {"messages_per_s": best, "target": TARGET_RATE, "tried": tried}


def show(result: dict[str, Any], console: Console) -> None:
    """Tables for people."""
    console.print(describe_machine(result["machine"]))
    for case in result["latency"]:
        table = Table(title=f"Tick to order, µs, {case['speed']:g}x, waiting: {case['wait']}", title_justify="left")
        for column in ("", "p50", "p90", "p99", "p99.9", "max", "orders", "p50 / echo", "p99 / echo", "target"):
            table.add_column(column, justify="right" if column else "left")
        for name, us in case["us"].items():
            ratio = case["ratio"].get(name, {})
            p50, p99 = TARGETS.get(name, (None, None))
            wanted = " ".join(f"≤ {t}" for t in (p50, p99) if t is not None)
            row = [f"{us[q]:,.1f}" for q in ("p50", "p90", "p99", "p99_9", "max")]
            ratios = [str(ratio.get(q, "")) for q in ("p50", "p99")]
            table.add_row(name, *row, f"{us['count']:,}", *ratios, wanted)
        console.print(table)
    if rate := result.get("sustained"):
        console.print(
            f"fused, highest rate without loss: {rate['messages_per_s']:,} messages/s (target {TARGET_RATE:,})"
        )


def main() -> int:
    """Run everything; exit status 1 when a run lost, doubled or left something unexplained."""
    parser = argparse.ArgumentParser(prog="tickpath bench lanes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="short runs: for a look, not for a claim")
    parser.add_argument("--skip-rate", action="store_true", help="only the latency")
    parser.add_argument("--skip-latency", action="store_true", help="only the rate")
    parser.add_argument("--lanes", default=",".join(LANES), help=f"which of {', '.join(LANES)}")
    parser.add_argument("--html", type=Path, help="also write the latency page")
    arguments = parser.parse_args()
    lanes = arguments.lanes.split(",")
    if unknown := [lane for lane in lanes if lane not in LANES]:
        print(f"--lanes {','.join(unknown)}: allowed are {', '.join(LANES)}", file=sys.stderr)  # noqa: T201
        return 2
    missing = [str(path) for path in pipeline.FILES if not path.exists()]
    if missing:
        print(f"the recorded data is not there: {', '.join(missing)}", file=sys.stderr)  # noqa: T201
        return 3
    stop, console = StopRequest(), Console(stderr=True)
    seconds, turns = (6.0, 1) if arguments.quick else (15.0, 3)

    def say(text: str) -> None:
        console.print(f"bench: {text}", highlight=False, markup=False)

    result: dict[str, Any] = {"machine": machine(), "latency": []}
    pages: list[Run] = []
    try:
        if not arguments.skip_latency:
            for wait in ("block", "spin"):
                # Spinning wants a core for each loop: four of them and an exchange do not fit on two.
                of_wait = [lane for lane in lanes if wait == "block" or lane == "fused"]
                if of_wait:
                    result["latency"] += [
                        compare(speed, seconds, turns, wait, of_wait, stop, say, pages) for speed in (1.0, 8.0)
                    ]
        if not arguments.skip_rate:
            result["sustained"] = highest_rate(4.0 if arguments.quick else 8.0, stop, say)
    except LaunchError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.status
    if arguments.html:
        write_report(arguments.html, pages, "Tickpath lanes", " ".join(("tickpath bench lanes", *sys.argv[1:])))
    if arguments.json:
        print(json.dumps(result))  # noqa: T201
    else:
        show(result, Console())
    return 0 if all(case["all_ok"] for case in result["latency"]) else 1


if __name__ == "__main__":
    sys.exit(main())
