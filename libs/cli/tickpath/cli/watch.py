"""A running system as its pages show it: samples for the demo's report, and the live view of `demo` and `top`.

Nobody is disturbed: pages are read from shared memory, processes from /proc. No endpoint is asked.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from tickpath.cli.figures import quantile
from tickpath.common.histogram import BUCKET_UPPER_NS, BUCKETS, MAX, summary_us
from tickpath.common.instruments import InstrumentTable
from tickpath.common.pages import Control, Hot, HotState, Page, PageError, hot_page_path, side_page_path
from tickpath.risk.limits import FIRST_SYMBOL_ROW, Names, TradingState
from tickpath.risk.reasons import Reason
from tickpath.risk.state import CORE_REASONS, Core

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Ints = npt.NDArray[np.int64]

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

#: Samples that rates and quantiles of the live view look back on.
_WINDOW: Final = 12


@dataclass(slots=True)
class ServiceSample:
    """The hot page of one service at one moment."""

    hot: list[int]
    counters: dict[str, int]
    hist: dict[str, Ints]

    @property
    def state(self) -> str:
        """Name of its state."""
        return HotState(self.hot[Hot.STATE]).name


@dataclass(slots=True)
class ProcessSample:
    """One process at one moment."""

    pid: int
    cpu_s: float
    rss_mb: float
    cores: list[int]


@dataclass(slots=True)
class Sample:
    """Everything at one moment."""

    at_s: float
    services: dict[str, ServiceSample] = field(default_factory=dict)
    processes: dict[str, ProcessSample] = field(default_factory=dict)
    collections: dict[str, int] = field(default_factory=dict)  # of the garbage collector, by process
    risk_core: dict[str, int] = field(default_factory=dict)
    risk_reasons: dict[str, int] = field(default_factory=dict)
    switches: dict[str, str] = field(default_factory=dict)  # kill switches that are tripped: scope -> state
    positions: dict[str, dict[str, int]] = field(default_factory=dict)  # risk, exchange: symbol -> lots, no zeros

    def count(self, service: str, counter: str) -> int:
        """A counter; 0 while the service has no page."""
        sample = self.services.get(service)
        return sample.counters.get(counter, 0) if sample else 0


class Watch:
    """Reads the pages of a run_dir, again when a process was started again."""

    def __init__(self, run_dir: Path, names: Iterable[str], table: Callable[[], InstrumentTable]) -> None:
        self._run_dir = run_dir
        self.names = tuple(names)
        self._table = table
        self._names: Names | None = None
        self._pages: dict[Path, tuple[int, Page]] = {}

    def page(self, path: Path) -> Page | None:
        """The present page of this name, None while there is none."""
        try:
            inode = path.stat().st_ino
        except OSError:
            return None
        known = self._pages.get(path)
        if known is None or known[0] != inode:
            try:
                known = (inode, Page.open(path))
            except PageError:
                return None
            self._pages[path] = known
        return known[1]

    def hot(self, name: str) -> Page | None:
        """Hot page of a service."""
        return self.page(hot_page_path(self._run_dir, name))

    def sample(self) -> Sample:
        """Everything, now."""
        sample = Sample(time.monotonic())
        for name in self.names:
            page = self.hot(name)
            if page is None:
                continue
            hot = page["hot"].tolist()
            counters = dict(zip(page.meta["counters"], page["counters"].tolist(), strict=False))
            hist = dict(zip(page.meta["histograms"], page["hist"].copy(), strict=False))
            sample.services[name] = ServiceSample(hot, counters, hist)
            side = self.page(side_page_path(self._run_dir, name))
            guest = page.meta.get("lane") == "fused" and name != "exec"  # its stage runs in exec's process
            side_pid = int(side["control"][Control.SIDE_PID]) if side else 0
            for kind, pid in (("hot", 0 if guest else hot[Hot.PID]), ("side", side_pid)):
                process = read_process(pid)
                if process is not None:
                    sample.processes[f"{name}.{kind}"] = process
            sample.collections[f"{name}.hot"] = hot[Hot.GC_COUNT]
            sample.collections[f"{name}.side"] = int(side["control"][Control.SIDE_GC_COUNT]) if side else 0
        self._read_risk(sample)
        self._read_switches(sample)
        self._read_exchange(sample)
        return sample

    def _scopes(self) -> Names:
        if self._names is None:
            self._names = Names(self._table())
        return self._names

    def _read_risk(self, sample: Sample) -> None:
        page = self.hot("risk")
        if page is None or "core" not in page or "live" not in page:
            return
        core = page["core"].tolist()
        sample.risk_core = {index.name.lower(): core[index] for index in Core}
        sample.risk_reasons = {reason.name: n for reason in Reason if (n := _reason_count(core, reason))}
        symbols = self._scopes().table.symbols
        lots = page["live"]["position_lots"][FIRST_SYMBOL_ROW:].tolist()
        sample.positions["risk"] = {symbol: n for symbol, n in zip(symbols, lots, strict=False) if n}

    def _read_switches(self, sample: Sample) -> None:
        page = self.page(side_page_path(self._run_dir, "risk")) if "risk" in self.names else None
        if page is None or "limits" not in page:
            return
        states, names = page["limits"]["state"].tolist(), self._scopes()
        sample.switches = {
            names.key_of_row(row): TradingState(state).name
            for row, state in enumerate(states[: FIRST_SYMBOL_ROW + len(names.table)])
            if state != TradingState.ACTIVE
        }

    def _read_exchange(self, sample: Sample) -> None:
        page = self.hot("sim") if "sim" in self.names else None
        if page is not None and "positions" in page:
            lots = page["positions"].tolist()
            sample.positions["exchange"] = {s: n for s, n in zip(page.meta["symbols"], lots, strict=False) if n}


def _reason_count(core: list[int], reason: Reason) -> int:
    index = CORE_REASONS + reason
    return core[index] if reason is not Reason.PASS and index < len(core) else 0


def read_process(pid: int) -> ProcessSample | None:
    """Processor time, resident memory and cores of a process; None when it is gone."""
    if pid <= 0:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()
        cores = sorted(os.sched_getaffinity(pid))
    except (OSError, ValueError):
        return None
    if fields[0] in "ZX":
        return None
    user, system, rss = int(fields[11]), int(fields[12]), int(fields[21])
    return ProcessSample(pid, (user + system) / _TICKS_PER_S, rss * _PAGE_BYTES / 1e6, cores)


# The live view.


class View:
    """Tables of what happened in the last seconds."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._samples: deque[Sample] = deque(maxlen=_WINDOW)

    def add(self, sample: Sample) -> None:
        """The next sample."""
        self._samples.append(sample)

    def rate(self, service: str, *counters: str) -> float:
        """Sum of counters, per second."""
        first, last = self._samples[0], self._samples[-1]
        seconds = last.at_s - first.at_s
        grown = sum(last.count(service, c) - first.count(service, c) for c in counters)
        return grown / seconds if seconds > 0 else 0.0

    def quantiles(self, service: str, name: str) -> Mapping[str, float] | None:
        """Summary of a histogram over the window, None when nothing was recorded in it."""
        first, last = self._samples[0].services.get(service), self._samples[-1].services.get(service)
        if last is None or name not in last.hist:
            return None
        hist = last.hist[name].copy()
        if first is not None and name in first.hist and first is not last:
            hist -= first.hist[name]
            used = np.nonzero(hist[BUCKETS:] > 0)[0]
            hist[MAX] = BUCKET_UPPER_NS[used[-1]] if len(used) else 0
        summary = summary_us(hist)
        return summary if summary["count"] > 0 else None

    def render(self, head: str = "") -> RenderableType:
        """The whole view."""
        from rich.columns import Columns  # noqa: PLC0415 - only where there is a terminal
        from rich.console import Group  # noqa: PLC0415

        if not self._samples:
            return head
        return Group(
            f"[bold]{self.title}[/bold]  {head}",
            Columns([self._rates(), self._hops(), self._orders(), self._positions()], padding=(0, 3)),
            self._processes(),
        )

    def _rates(self) -> Table:
        table = _table("last 3 s", "per second", "in all")
        last = self._samples[-1]
        for label, service, counters in RATES:
            if service in last.services:
                total = sum(last.count(service, c) for c in counters)
                table.add_row(label, f"{self.rate(service, *counters):,.0f}", f"{total:,}")
        return table

    def _hops(self) -> Table:
        table = _table("latency, µs", "p50", "p99", "max")
        for service, name in HOPS:
            found = self.quantiles(service, name)
            if found is not None:
                label = name.replace("_to_", " → ").replace("_", " ")
                style = "bold" if (service, name) == HOPS[0] else None
                table.add_row(label, *(quantile(found, q) for q in ("p50", "p99", "max")), style=style)
        return table

    def _orders(self) -> Table:
        table = _table("orders", "")
        last = self._samples[-1]
        for label, counter in ORDERS:
            table.add_row(label, f"{last.count('exec', counter):,}")
        for reason, n in sorted(last.risk_reasons.items(), key=lambda item: -item[1])[:6]:
            table.add_row(f"[yellow]{reason}[/yellow]", f"{n:,}")
        for scope, state in list(last.switches.items())[:6]:
            table.add_row(f"[red]{scope}[/red]", f"[red]{state}[/red]")
        if len(last.switches) > 6:
            table.add_row(f"[red]and {len(last.switches) - 6} more[/red]", "")
        return table

    def _positions(self) -> Table:
        table = _table("position", "lots")
        found = self._samples[-1].positions.get("risk", {})
        for symbol, lots in sorted(found.items(), key=lambda item: -abs(item[1]))[:8]:
            table.add_row(symbol, f"{lots:+,}")
        if len(found) > 8:
            table.add_row(f"and {len(found) - 8} more", "")
        return table

    def _processes(self) -> Table:
        table = _table("process", "state", "cpu %", "memory MB", "cores", "pauses", "loop")
        first, last = self._samples[0], self._samples[-1]
        seconds = max(1e-9, last.at_s - first.at_s)
        now = time.monotonic_ns()
        for name, process in last.processes.items():
            service, kind = name.split(".")
            before = first.processes.get(name)
            cpu = 100 * (process.cpu_s - before.cpu_s) / seconds if before and before.pid == process.pid else 0.0
            row = [f"{cpu:.0f}", f"{process.rss_mb:.0f}", ",".join(map(str, process.cores))]
            if kind == "hot":
                sample = last.services[service]
                age = (now - sample.hot[Hot.LAST_TURN_NS]) / 1e6
                ready = sample.state == HotState.READY.name
                style = "green" if ready and sample.hot[Hot.CONNECTED] and age < 1000 else "yellow"
                row = [f"[{style}]{sample.state}[/{style}]", *row, str(sample.hot[Hot.GC_COUNT]), f"{age:.0f} ms ago"]
            else:
                row = ["", *row, "", ""]
            table.add_row(name, *row)
        return table


#: Rows of the live view: label, service, counters whose sum it is.
RATES: Final = (
    ("market data out", "sim", ("messages_sent",)),
    ("market data in", "feed", ("messages",)),
    ("lost", "feed", ("messages_lost",)),
    ("ticks", "feed", ("ticks",)),
    ("signals", "signals", ("signals_new", "signals_cancel")),
    ("orders", "exec", ("orders_sent",)),
    ("fills", "exec", ("fills",)),
)

#: Latencies of the live view, the exchange's measurement first.
HOPS: Final = (
    ("sim", "tick_to_order"),
    ("exec", "recv_to_decode"),
    ("exec", "decode_to_signal"),
    ("exec", "signal_to_approve"),
    ("exec", "approve_to_send"),
    ("exec", "recv_to_send"),
    ("exec", "send_to_ack"),
)

ORDERS: Final = (
    ("sent", "orders_sent"),
    ("acknowledged", "orders_acknowledged"),
    ("filled", "orders_filled"),
    ("cancelled", "orders_cancelled"),
    ("rejected by venue", "orders_rejected_by_venue"),
    ("refused by exec", "orders_refused"),
)


def _table(title: str, *columns: str) -> Table:
    from rich import box  # noqa: PLC0415 - only where there is a terminal
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def line(sample: Sample) -> str:
    """One line of progress, for output that is not a terminal."""
    found = [f"{label} {sum(sample.count(s, c) for c in counters):,}" for label, s, counters in RATES]
    summary = sample.services["sim"].hist.get("tick_to_order") if "sim" in sample.services else None
    if summary is not None:
        quantiles = summary_us(summary)
        found.append(f"tick to order p50 {quantile(quantiles, 'p50')} µs, p99 {quantile(quantiles, 'p99')} µs")
    return ", ".join(found)


def watch_top(watch: Watch, title: str, stopped: Callable[[], bool], every_s: float = 0.25) -> None:
    """The live view on the terminal until `stopped`."""
    from rich.console import Console  # noqa: PLC0415 - only where there is a terminal
    from rich.live import Live  # noqa: PLC0415

    view = View(title)
    with Live(console=Console(), auto_refresh=False, screen=False) as live, contextlib.suppress(KeyboardInterrupt):
        while not stopped():
            view.add(watch.sample())
            live.update(view.render(time.strftime("%H:%M:%S")), refresh=True)
            time.sleep(every_s)
