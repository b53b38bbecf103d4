"""``tickpath demo``: the whole pipeline for some seconds, then a report, then nothing is left running."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tickpath.cli import latency
from tickpath.cli.control import ControlError, Endpoint
from tickpath.cli.launcher import EXIT_FAULT, Interrupted, Launcher, LaunchError, Options, StopRequest
from tickpath.cli.report import Evidence, find_problems, make_report, print_report
from tickpath.cli.watch import Sample, View, Watch
from tickpath.cli.watch import line as progress_line
from tickpath.common.config import SERVICES, SimConfig
from tickpath.common.histogram import summary_us
from tickpath.common.instruments import InstrumentTable, load_instruments
from tickpath.common.pages import Hot, read_text
from tickpath.common.records import REPORT
from tickpath.exec.journal import JournalError, positions_from, read_journal

if TYPE_CHECKING:
    from rich.console import Console

_EXCEPTION: Final = re.compile(r"[A-Za-z_.]+(Error|Exception|Exit|Interrupt): ")
_VIEW_S: Final = 0.25
_LINE_S: Final = 2.0
_QUIET_S: Final = 0.3  # no counter of the pipeline has moved for so long
_SETTLE_S: Final = 10.0
_LINE_B_PORT: Final = 26404

#: Counters that move while anything is under way.
_MOVING: Final = (
    ("sim", "messages_sent"), ("sim", "orders_received"), ("sim", "cancels_received"), ("sim", "fills"),
    ("feed", "messages"), ("feed", "ticks"), ("signals", "ticks"), ("signals", "reports"),
    ("signals", "signals_new"), ("signals", "signals_cancel"),
    ("exec", "orders_received"), ("exec", "journal_entries"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the user asked for."""

    seconds: float
    data: tuple[Path, ...]
    speed: float | str
    rate: float
    seed: int
    as_json: bool
    config: Path | None
    port_base: int | None
    keep: Path | None = None
    lane: str = ""  # empty: as configured
    html: Path | None = None  # where the latency page goes
    live: Mapping[str, Any] | None = None  # settings of section sim: the live market in the place of a tape
    loss: float = 0.0  # share of the packets that each of two lines loses; 0: one line, which loses nothing


def run_demo(options: DemoOptions) -> int:
    """Start, play, drain, report, stop; returns the exit status."""
    from rich.console import Console  # noqa: PLC0415 - not for --help

    stop = StopRequest()
    console = Console(stderr=True)
    say = _sayer(console)
    launch = Options(
        "demo",
        options.config,
        _sections(options),
        port_base=options.port_base,
        data=options.data,
        keep=options.keep,
    )
    try:
        with Launcher(launch, say, stop) as system:
            system.start()
            if (note := left_out(system.tape, options)) is not None:
                say(note)
            play = _Run(system, options, console, stop)
            evidence = play.evidence()
            if options.html is not None:
                latency.write_report(
                    options.html,
                    [play.explained(evidence)],
                    f"Tickpath demo: {evidence.seconds:.1f} s over {evidence.lane}",
                    shlex.join(["tickpath", *sys.argv[1:]]),
                )
                say(f"latency page: {options.html}")
    except Interrupted:
        say("stopped")
        return stop.exit_status
    report, problems = make_report(evidence), find_problems(evidence)
    if options.as_json:
        for problem in problems:
            say(f"not ok: {problem}")
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        print_report(report, problems, evidence.positions.get("journal", {}), Console())
    if stop.asked:
        return stop.exit_status
    return 0 if report["ok"] else EXIT_FAULT


def left_out(tape: Mapping[str, Any], options: DemoOptions) -> str | None:
    """A line that says so when most of the recorded data will not be played."""
    span_s = tape.get("seconds", 0.0)
    if options.rate or isinstance(options.speed, str) or span_s <= 2 * options.seconds * options.speed:
        return None
    played = _span(options.seconds * options.speed)
    return f"{_span(span_s)} of data, of which {played} play at {options.speed:g}x; --rate N or --speed max play more"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} minutes"


def _sayer(console: Console) -> Callable[[str], None]:
    def say(text: str) -> None:
        console.print(f"tickpath: {text}", highlight=False, markup=False, soft_wrap=True)

    return say


def _sections(options: DemoOptions) -> dict[str, Any]:
    """The demo's own settings: the exchange of this machine, and nothing that is the user's is touched."""
    sim: dict[str, Any] = {
        "start": "command",
        "data": [str(path.absolute()) for path in options.data],
        "speed": options.speed,
        "rate": options.rate,
        "seed": options.seed,
        "generate_seconds": _generated_s(options),
    }
    sim |= options.live or {}
    feed: dict[str, Any] = {"host": "127.0.0.1"}
    if options.loss:
        sim |= {"loss_a": options.loss, "loss_b": options.loss, "fault_seed": options.seed}
        feed |= {"line_b_host": "127.0.0.1", "line_b_port": _LINE_B_PORT}
    return {
        "sim": sim,
        "feed": feed,
        "exec": {"host": "127.0.0.1", "journal_dir": "journal"},
        **({"links": {"lane": options.lane}} if options.lane else {}),
    }


def _generated_s(options: DemoOptions) -> float:
    """Length of the invented market: no more than will be played, because making it takes time; it is looped."""
    model = SimConfig()
    if options.rate:
        needed = options.seconds * options.rate / model.generate_rate
    else:
        needed = model.generate_seconds if isinstance(options.speed, str) else options.seconds * options.speed
    return min(model.generate_seconds, needed + 1.0)


class _Run:
    """From the start of the play to the evidence of what happened."""

    def __init__(self, system: Launcher, options: DemoOptions, console: Console, stop: StopRequest) -> None:
        self.system = system
        self.options = options
        self.console = console
        self.stop = stop
        self.table: InstrumentTable = load_instruments(system.config.instruments)
        self.watch = Watch(system.run_dir, (*SERVICES, "sim"), lambda: self.table)
        config = system.config
        self.exchange = Endpoint(config.admin.host, config.http_port("sim"), "sim", system.token)
        self.faults: list[str] = []

    def evidence(self) -> Evidence:
        """Play, stop, settle, drain exec; then everything is read while the others still run."""
        system = self.system
        first = self.watch.sample()
        self._command("start")
        began = time.monotonic()
        try:
            self._play(began)
        except Interrupted:
            system.say("stopping; a report of what ran follows")
        self.stop.heeded = 1  # whoever asks once, now or before, is told what ran
        self._command("stop")
        seconds = time.monotonic() - began
        self._settle()
        last = self.watch.sample()
        system.end("exec", within_s=system.drain_s)
        self._catch_up()
        return self._collect(first, last, seconds)

    def _play(self, began: float) -> None:
        """Show what happens until the time or the data is over. Raises Interrupted and LaunchError."""
        told = False
        with self._view(began) as show:
            while (left := began + self.options.seconds - time.monotonic()) > 0:
                self.stop.wait(min(left, _VIEW_S))
                self.system.check()
                sample = self.watch.sample()
                if not told and sample.count("feed", "ticks"):
                    told = True
                    self.system.say(f"first tick {_age_s():.1f} s after the command")
                show(sample)
                if sample.count("sim", "finished"):  # data that does not begin again is over
                    break

    def explained(self, evidence: Evidence) -> latency.Run:
        """The run for the latency page; after `evidence`, while the pages are there."""
        pages = {name: page for name in (*SERVICES, "sim") if (page := self.watch.hot(name)) is not None}
        return latency.Run.read(evidence.lane, pages, evidence.journal, self.table.symbols, evidence.source)

    def _command(self, what: str) -> None:
        try:
            self.exchange.ask("POST", f"/control/{what}")
        except ControlError as error:
            raise LaunchError(str(error)) from None

    @contextlib.contextmanager
    def _view(self, began: float) -> Iterator[Callable[[Sample], None]]:
        """Shows samples: live on a terminal, else as a line now and then."""
        said = began

        def as_line(sample: Sample) -> None:
            nonlocal said
            if sample.at_s - said >= _LINE_S:
                said = sample.at_s
                self.system.say(f"{sample.at_s - began:.0f} s: {progress_line(sample)}")

        if not self.console.is_terminal:
            yield as_line
            return
        from rich.live import Live  # noqa: PLC0415 - only where there is a terminal

        view = View(f"Tickpath demo: {self._source()}")
        with Live(console=self.console, auto_refresh=False, transient=True) as live:

            def as_view(sample: Sample) -> None:
                view.add(sample)
                live.update(view.render(f"{sample.at_s - began:.0f} of {self.options.seconds:.0f} s"), refresh=True)

            yield as_view

    def _source(self) -> str:
        page = self.watch.hot("sim")
        return read_text(page, "source") if page is not None else ""

    def _settle(self) -> None:
        """Wait until nothing is under way: the exchange is heard to the end and no counter moves."""
        until = time.monotonic() + _SETTLE_S
        before: list[int] = []
        quiet_since = time.monotonic()
        while time.monotonic() < until:
            self.stop.wait(0.05)
            sample = self.watch.sample()
            counts = [sample.count(service, counter) for service, counter in _MOVING]
            counts += list(sample.risk_core.values())
            if counts != before:
                before, quiet_since = counts, time.monotonic()
            elif time.monotonic() - quiet_since >= _QUIET_S:
                return
        self.faults.append(f"the pipeline was still busy {_SETTLE_S:.0f} s after the exchange stopped playing")

    def _catch_up(self) -> None:
        """Risk and the exchange have seen the end of every order that the journal has."""
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            sample = self.watch.sample()
            if sample.risk_core.get("next_report", 0) > sample.count("exec", "journal_entries"):
                return
            self.stop.wait(0.02)

    def _collect(self, first: Sample, running: Sample, seconds: float) -> Evidence:
        sample = self.watch.sample()
        faults = [*self.faults]
        for name, service in first.services.items():
            same = service.hot[Hot.PID] == sample.services[name].hot[Hot.PID]
            # exec was told to end; in the fused lane all stages but the exchange have ended with it.
            over = name == "exec" or (name != "sim" and self.system.config.links.lane == "fused")
            if not same or (not over and f"{name}.hot" not in sample.processes):
                faults.append(f"{name}: the hot process died" + _reason(self.system.run_dir / f"{name}.log"))
        faults += [f"{name} did not end in time and was killed" for name in self.system.killed]
        positions = dict(sample.positions)
        journal = np.zeros(0, dtype=REPORT)
        try:
            journal = read_journal(self.system.config.journal_dir())
            symbols = self.table.symbols
            positions["journal"] = {symbols[i]: lots for i, lots in positions_from(journal).items() if lots}
        except JournalError as error:
            faults.append(str(error))
        exchange = sample.services.get("sim")
        gateway = sample.services.get("exec")
        return Evidence(
            seconds=seconds,
            source=self._source(),
            counters={name: service.counters for name, service in sample.services.items()},
            risk_core=sample.risk_core,
            risk_reasons=sample.risk_reasons,
            journal=journal,
            positions=positions,
            tick_to_order_us=summary_us(exchange.hist["tick_to_order"]) if exchange else {},
            hops_us={name: summary_us(hist) for name, hist in gateway.hist.items()} if gateway else {},
            processes=_processes(first, running),
            faults=tuple(faults),
            lane=self.system.config.links.lane,
            digests=digests(sample),
            switched_off=self._switched_off() if sample.count("signals", "strategy_faults") else {},
        )

    def _switched_off(self) -> dict[str, list[str]]:
        """Strategies that raised, and the symbols on which they did."""
        config = self.system.config
        signals = Endpoint(config.admin.host, config.http_port("signals"), "signals")
        with contextlib.suppress(ControlError):
            found = signals.ask("GET", "/strategies")
            return {f"{one['name']} (id {one['id']})": one["switched_off_by_a_fault"] for one in found}
        return {}


def digests(sample: Sample) -> dict[str, str]:
    """Hash of the stream of signals and of orders, without their time stamps: equal when the decisions were."""
    streams = {"signals": "signals", "orders": "risk"}
    hot = {stream: sample.services[name].hot for stream, name in streams.items() if name in sample.services}
    return {stream: f"{words[Hot.DIGEST] & (1 << 64) - 1:016x}" for stream, words in hot.items()}


def _reason(log: Path) -> str:
    """The last exception in a log, as an addition to a sentence."""
    with contextlib.suppress(OSError):
        for line in reversed(log.read_text("utf-8", errors="replace").splitlines()):
            if _EXCEPTION.match(line):
                return f": {line}"
    return ""


def _processes(first: Sample, last: Sample) -> dict[str, dict[str, Any]]:
    seconds = max(1e-9, last.at_s - first.at_s)
    found: dict[str, dict[str, Any]] = {}
    for name, process in last.processes.items():
        before = first.processes.get(name)
        cpu_s = process.cpu_s - (before.cpu_s if before and before.pid == process.pid else 0.0)
        found[name] = {
            "cpu_percent": round(100 * cpu_s / seconds, 1),
            "rss_mb": round(process.rss_mb, 1),
            "rss_growth_mb": _growth_mb(last, name),
            "gc_pauses": last.collections[name] - (0 if name.endswith(".hot") else first.collections.get(name, 0)),
            "cores": process.cores,
        }
    return found


def _growth_mb(sample: Sample, name: str) -> float | None:
    """Resident memory of a hot process beyond that at the moment when it was ready; None for a side process."""
    service, kind = name.split(".")
    if kind != "hot":
        return None
    hot = sample.services[service].hot
    return round((hot[Hot.RSS_BYTES] - hot[Hot.RSS_READY_BYTES]) / 1e6, 1)


def _age_s() -> float:
    """Time since this command was started, interpreter and imports included."""
    fields = Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()
    started_s = int(fields[19]) / 100
    return float(Path("/proc/uptime").read_text("ascii").split()[0]) - started_s
