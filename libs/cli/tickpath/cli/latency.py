"""Latency that explains itself: one HTML file with percentile curves, waterfalls and the pauses that orders met.

Inputs are what a run leaves behind anyway: histograms and pause logs of the pages, time stamps of the journal. The
file stands alone: inline SVG, no script, nothing loaded.

**Attribution.** The stamps of an order cut its way into hops. In a hop the order is with the process that sends it on
or with the one that receives it, so a pause of either that overlaps the hop is attributed to the order. Collections
and compilations have exact times. Of lost cores the system only tells the sum between two readings: the page says how
much of it must lie in the hop (when it does not fit into the rest of the interval) and how much can.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tickpath.cli.figures import microseconds, quantile
from tickpath.cli.machine import describe_machine, machine
from tickpath.common.histogram import BUCKET_UPPER_NS, BUCKETS, COUNT, MAX, NEGATIVE, empty, summary_us
from tickpath.common.pages import Hot, Page, PauseKind, read_pauses
from tickpath.common.records import ExecEvent, format_cl_ord_id

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.void]
Flags = npt.NDArray[np.bool_]

#: Name of a process that is all four services.
FUSED: Final = "fused"
TICK_TO_ORDER: Final = "tick_to_order"


class Hop(NamedTuple):
    """A part of an order's way: two stamps of `REPORT`, and the services that have the order in between."""

    name: str
    begin: str
    end: str
    services: tuple[str, ...]


HOPS: Final = (
    Hop("recv_to_decode", "recv_ns", "decoded_ns", ("feed",)),
    Hop("decode_to_signal", "decoded_ns", "signalled_ns", ("feed", "signals")),
    Hop("signal_to_approve", "signalled_ns", "approved_ns", ("signals", "risk")),
    Hop("approve_to_send", "approved_ns", "sent_ns", ("risk", "exec")),
)
_WAY: Final = "recv_to_send"

#: Kinds whose times are their own; of the others only the interval between two readings is known.
_EXACT: Final = (PauseKind.COLLECTION, PauseKind.COMPILATION)
_KINDS: Final = {
    PauseKind.COLLECTION: "garbage collection",
    PauseKind.COMPILATION: "JIT compilation",
    PauseKind.MAJOR_FAULT: "major page fault",
    PauseKind.PREEMPTION: "preemption",
    PauseKind.CORE_WAIT: "wait for a core",
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run: a lane, a setting, or simply the demo."""

    label: str
    tick_to_order: Ints  # int64[HIST_SIZE], as the exchange measured it
    hops: Mapping[str, Ints]  # name of the hop -> int64[HIST_SIZE], from the stamps of the orders
    orders: Rows  # REPORT[n]: the journal; its SEND entries are the orders
    pauses: Mapping[str, Rows] = field(default_factory=dict)  # process -> PAUSE[n]; FUSED has every hop
    symbols: Sequence[str] = ()  # by instrument
    about: str = ""  # what was played, for people
    overwritten: Mapping[str, int] = field(default_factory=dict)  # process -> pauses that its ring has lost

    @classmethod
    def read(
        cls, label: str, pages: Mapping[str, Page], journal: Rows, symbols: Sequence[str] = (), about: str = ""
    ) -> Run:
        """A run from the hot pages by service (``sim`` for tick to order, ``exec`` for the hops) and the journal.

        Pages with one process id belong to one process: its pauses are under `FUSED`.
        """
        pids = [int(page["hot"][Hot.PID]) for page in pages.values()]
        rows: dict[str, list[Rows]] = {}
        overwritten: dict[str, int] = {}
        for (service, page), pid in zip(pages.items(), pids, strict=True):
            process = FUSED if pids.count(pid) > 1 else service
            found, gone = read_pauses(page)
            rows.setdefault(process, []).append(found)
            overwritten[process] = overwritten.get(process, 0) + gone
        sim, gateway = _histograms(pages.get("sim")), _histograms(pages.get("exec"))
        return cls(
            label,
            sim.get(TICK_TO_ORDER, empty(1)[0]),
            {name: hist for name, hist in gateway.items() if name in (*(hop.name for hop in HOPS), _WAY)},
            journal,
            {process: np.concatenate(parts) for process, parts in rows.items()},
            symbols,
            about,
            overwritten,
        )

    def sent(self) -> Rows:
        """The orders with all stamps of this run in their order, REPORT[n]."""
        orders = self.orders[self.orders["event"] == ExecEvent.SEND]
        good = orders["recv_ns"] > 0
        for hop in HOPS:
            good &= orders[hop.end] >= orders[hop.begin]
        sent: Rows = orders[good]
        return sent

    def processes_of(self, hop: Hop) -> list[str]:
        """Processes of this run that have an order during `hop`."""
        return [process for process in self.pauses if process == FUSED or process in hop.services]


def _histograms(page: Page | None) -> dict[str, Ints]:
    if page is None:
        return {}
    return dict(zip(page.meta["histograms"], page["hist"].copy(), strict=False))


class Hit(NamedTuple):
    """A pause that overlaps a hop of an order."""

    hop: int  # index into HOPS
    process: str
    kind: PauseKind
    begin_ns: int
    end_ns: int
    events: int
    lost_ns: int  # in the whole of the pause's interval; 0: not known
    at_least_ns: int  # lost in this hop for certain
    at_most_ns: int


def meetings(orders: Rows, hop: Hop, pauses: Rows) -> tuple[Ints, Ints]:
    """Which of `orders` (REPORT[n]) have which of `pauses` (PAUSE[m]) in their `hop`: indices of both, int64[k] each.

    Intervals that only touch do not overlap.
    """
    by_begin = np.argsort(pauses["begin_ns"], kind="stable")
    begins, ends = pauses["begin_ns"][by_begin], pauses["end_ns"][by_begin]
    # Before `first` every pause has ended, from `after` on none has begun; some between may have ended too.
    first = np.searchsorted(np.maximum.accumulate(ends), orders[hop.begin], side="right")
    after = np.searchsorted(begins, orders[hop.end], side="left")
    count = np.maximum(after - first, 0)
    order = np.repeat(np.arange(len(orders)), count)
    pause = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    real = ends[pause] > orders[hop.begin][order]
    return order[real], by_begin[pause[real]]


def bounds(orders: Rows, hop: Hop, pauses: Rows) -> tuple[Ints, Ints]:
    """Time that each pause took from the hop of its order, at least and at most, ns, int64[k] each.

    `orders` (REPORT[k]) and `pauses` (PAUSE[k]) are pairs that overlap. What a pause lost cannot all lie outside of
    the overlap when it is more than there is room outside.
    """
    overlap = np.minimum(orders[hop.end], pauses["end_ns"]) - np.maximum(orders[hop.begin], pauses["begin_ns"])
    outside = pauses["end_ns"] - pauses["begin_ns"] - overlap
    lost = pauses["lost_ns"]
    at_least = np.clip(lost - outside, 0, overlap)
    return at_least, np.where(lost > 0, np.minimum(lost, overlap), overlap)


def hits_of(run: Run, order: np.void) -> list[Hit]:
    """The pauses that one order (REPORT) met, in the order of its hops, the costliest of each hop first."""
    found = []
    for index, hop in enumerate(HOPS):
        for process in run.processes_of(hop):
            orders = np.array([order])
            _, met = meetings(orders, hop, run.pauses[process])
            rows = run.pauses[process][met]
            for row, at_least, at_most in zip(rows, *bounds(np.repeat(orders, len(rows)), hop, rows), strict=True):
                kind, begin_ns, end_ns, events, lost_ns = row.tolist()
                pause = (PauseKind(kind), begin_ns, end_ns, events, lost_ns)
                found.append(Hit(index, process, *pause, int(at_least), int(at_most)))
    return sorted(found, key=lambda hit: (hit.hop, -hit.at_least_ns, -hit.at_most_ns))


def explained_ns(hits: Iterable[Hit]) -> int:
    """How much of an order's time its pauses explain for certain, ns.

    Two processes may have stood still at the same time, and so may a collection and a lost core: of those that may
    overlap the largest counts, of those that cannot the sum.
    """
    sums: dict[int, dict[tuple[str, bool], int]] = {}
    for hit in hits:
        of_hop = sums.setdefault(hit.hop, {})
        key = (hit.process, hit.kind in _EXACT)
        of_hop[key] = of_hop.get(key, 0) + hit.at_least_ns
    return sum(max(of_hop.values()) for of_hop in sums.values())


class PauseLine(NamedTuple):
    """What one kind of pause did to one process."""

    process: str
    kind: PauseKind
    events: int
    lost_ns: int  # in all; 0: not known
    longest_ns: int
    hit: int  # orders that lost time to it for certain
    maybe: int  # orders that may have
    slow_hit: int  # the same, among the slowest
    slow_maybe: int


def pause_lines(run: Run) -> list[PauseLine]:
    """Pauses by process and kind, those that hit most of the slowest orders first."""
    orders = run.sent()
    slow = slowest(orders)
    lines = []
    for process, rows in run.pauses.items():
        for kind in PauseKind:
            of_kind = rows[rows["kind"] == kind]
            if not len(of_kind):
                continue
            hit, maybe = orders_hit(run, orders, {process: of_kind})
            lost = of_kind["lost_ns"]
            lines.append(
                PauseLine(
                    process, kind, int(of_kind["count"].sum()), int(lost.sum()), int(lost.max()),
                    int(hit.sum()), int(maybe.sum()), int((hit & slow).sum()), int((maybe & slow).sum()),
                )
            )  # fmt: skip
    return sorted(lines, key=lambda line: (-line.slow_hit, -line.hit, -line.lost_ns))


def orders_hit(run: Run, orders: Rows, pauses: Mapping[str, Rows]) -> tuple[Flags, Flags]:
    """Which of `orders` (REPORT[n]) lost time to `pauses` for certain, and which others may have, bool[n] each."""
    hit, met = np.zeros(len(orders), dtype=bool), np.zeros(len(orders), dtype=bool)
    for hop in HOPS:
        for process in run.processes_of(hop):
            if process in pauses:
                of_order, of_pause = meetings(orders, hop, pauses[process])
                at_least, _ = bounds(orders[of_order], hop, pauses[process][of_pause])
                met[of_order] = True
                hit[of_order[at_least > 0]] = True
    return hit, met & ~hit


def slowest(orders: Rows) -> Flags:
    """Which of `orders` (REPORT[n]) are the slowest hundredth, at least one, bool[n]."""
    chosen = np.zeros(len(orders), dtype=bool)
    if len(orders):
        took = orders["sent_ns"] - orders["recv_ns"]
        chosen[np.argsort(took, kind="stable")[-max(1, len(orders) // 100) :]] = True
    return chosen


def percentile_curve(hist: Ints) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points of a percentile curve: x = -log10(1 - p) in 0..4 and the value in µs, float64[n] each.

    The curve ends where the number of values does: at 1 - 1/count, with the largest of them. No values, no points.
    """
    buckets = hist[BUCKETS:]
    total = int(buckets.sum())
    if total == 0:
        return np.zeros(0), np.zeros(0)
    end = min(_X_MAX, np.log10(total))
    x = np.linspace(0.0, end, 1 if end == 0 else 241)
    rank = np.clip(np.ceil((1 - 10.0**-x) * total - 1e-9), 1, total)
    values = np.minimum(BUCKET_UPPER_NS[np.searchsorted(np.cumsum(buckets), rank)], hist[MAX])
    if total <= 10**_X_MAX:
        values[-1] = hist[MAX]
    return x, np.maximum(values, 1) / 1000


def write_report(path: Path, runs: Sequence[Run], title: str, command: str) -> None:
    """Write the page to `path`. Raises OSError."""
    path.write_text("\n".join(_page(runs, title, command)) + "\n", "utf-8")


# What follows draws.

_X_MAX: Final = 4.0  # 99.99 %
_COLOURS: Final = ("#1d4ed8", "#c2410c", "#047857", "#7e22ce", "#be123c", "#0e7490", "#a16207", "#4b5563")
_PERCENTILES: Final = ((0.0, "0"), (50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99"))
_NONE: Final = "&ndash;"
_MOST_HITS: Final = 8  # of one order: more would hide what they explain

_STYLE: Final = """
:root { --ink: #18212f; --soft: #5b6675; --line: #dfe4ea; --grid: #edf0f4; --bar: #9db7e8; --lost: #d9480f; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: var(--ink); font: 14px/1.45 system-ui, "Segoe UI", "DejaVu Sans",
  sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 25px; margin: 0 0 6px; } h2 { font-size: 17px; margin: 0 0 2px; } h3 { font-size: 14px; margin: 0; }
p { margin: 4px 0 10px; } .soft { color: var(--soft); } .mono { font-family: ui-monospace, "DejaVu Sans Mono",
  monospace; font-size: 12.5px; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 18px 20px; margin-top: 18px; }
.tiles { display: grid; grid-template-columns: repeat(6, auto); gap: 24px; line-height: 1.3; }
.tile b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 20px; }
svg { display: block; width: 100%; height: auto; } svg text { font: 12px system-ui, "DejaVu Sans", sans-serif;
  fill: var(--ink); } svg text.soft { fill: var(--soft); } svg text.small { font-size: 11px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: 8px 0 4px; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.left, th.left { text-align: left; }
.swatch { display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin-right: 8px;
  vertical-align: middle; }
.order { margin-top: 16px; } ol { margin: 4px 0 0; padding-left: 26px; } code { font-size: 12.5px; }
"""


_HATCH: Final = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs><pattern id="within" width="6" '
    'height="6" patternTransform="rotate(45)" patternUnits="userSpaceOnUse">'
    '<rect width="6" height="6" fill="#fff1e8"/><path d="M0 0V6" stroke="#e8590c" stroke-width="3"/>'
    "</pattern></defs></svg>"
)


def _e(text: object) -> str:
    return html.escape(str(text))


def _page(runs: Sequence[Run], title: str, command: str) -> Iterator[str]:
    yield f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_e(title)}</title>'
    yield f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>'
    yield _HATCH
    yield f"<h1>{_e(title)}</h1>"
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    yield f'<p class="soft">{_e(describe_machine(machine()))}; {when}</p>'
    yield f'<p class="mono">{_e(command)}</p>'
    for about in dict.fromkeys(run.about for run in runs if run.about):
        yield f'<p class="soft">{_e(about)}</p>'
    if any(run.tick_to_order[COUNT] or len(run.sent()) for run in runs):
        yield from _tiles(runs)
        yield from _curves(runs)
    else:
        yield "<section><h2>No orders</h2><p>No order was sent, so there is no latency to show.</p></section>"
    for run in runs:
        if len(run.sent()):
            yield from _waterfalls(run, several=len(runs) > 1)
    for run in runs:
        yield from _pauses(run, several=len(runs) > 1)
    yield "</main>\n</body>\n</html>"


def _tiles(runs: Sequence[Run]) -> Iterator[str]:
    if len(runs) != 1:
        return
    run = runs[0]
    found = summary_us(run.tick_to_order)
    orders = run.sent()
    slow = slowest(orders)
    hit, maybe = orders_hit(run, orders, run.pauses)
    tiles = [
        ("tick to order, median", f"{quantile(found, 'p50')} µs"),
        ("99th percentile", f"{quantile(found, 'p99')} µs"),
        ("worst", f"{quantile(found, 'max')} µs"),
        ("orders", f"{len(orders):,}"),
        (f"surely hit by a pause, {int(maybe.sum()):,} more perhaps", f"{int(hit.sum()):,}"),
        ("of the slowest surely hit", f"{int((hit & slow).sum())} of {int(slow.sum())}"),
    ]
    yield '<section><div class="tiles">'
    for name, value in tiles:
        yield f'<div class="tile"><b>{value}</b><span class="soft">{name}</span></div>'
    yield "</div></section>"


def _curves(runs: Sequence[Run]) -> Iterator[str]:
    names = [hop.name for hop in HOPS] + [_WAY]
    yield "<section><h2>Tick to order</h2>"
    yield (
        '<p class="soft">Measured by the exchange with one clock: the causing datagram handed to the network until '
        "the order has arrived. A curve ends at its largest value.</p>"
    )
    yield _chart([(run.label, run.tick_to_order) for run in runs], 1160, 380)
    yield _summary([(run.label, run.tick_to_order) for run in runs])
    yield "</section><section><h2>Hops</h2>"
    yield (
        '<p class="soft">From the stamps that every order carries. Receive to send is the whole way through our '
        "processes; what tick to order has more is network, and the exchange itself.</p>"
    )
    if len(runs) == 1:
        curves = [(_words(name), runs[0].hops[name]) for name in names if name in runs[0].hops]
        yield _chart(curves, 1160, 380)
        yield _summary(curves)
    else:
        yield '<div class="charts">'
        for name in names:
            curves = [(run.label, run.hops.get(name, empty(1)[0])) for run in runs]
            yield f"<div><h3>{_e(_words(name))}</h3>{_chart(curves, 370, 260)}</div>"
        yield "</div>"
        yield _hop_table(runs, names)
    yield "</section>"


def _words(name: str) -> str:
    return name.replace("_to_", " → ").replace("recv", "receive").replace("_", " ")


def _swatch(index: int) -> str:
    return f'<span class="swatch" style="background:{_COLOURS[index % len(_COLOURS)]}"></span>'


#: Names as in `summary_us`, and what people read.
_QUANTILES: Final = {"p50": "p50", "p90": "p90", "p99": "p99", "p99_9": "p99.9", "max": "max"}


def _summary(curves: Sequence[tuple[str, Ints]]) -> str:
    """The figures below a chart, which are its legend too."""
    heads = "".join(f"<th>{label} µs</th>" for label in _QUANTILES.values())
    lines = [f"<table><tr><th></th>{heads}<th>orders</th></tr>"]
    for index, (label, hist) in enumerate(curves):
        found = summary_us(hist)
        cells = "".join(f"<td>{quantile(found, name)}</td>" for name in _QUANTILES)
        backwards = f"; {int(hist[NEGATIVE])} below 0" if hist[NEGATIVE] else ""
        lines.append(f"<tr><td>{_swatch(index)}{_e(label)}{backwards}</td>{cells}<td>{found['count']:,.0f}</td></tr>")
    return "\n".join([*lines, "</table>"])


def _hop_table(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Median and 99th percentile of every hop, a line for each run."""
    heads = "".join(f'<th colspan="2">{_e(_words(name))}</th>' for name in names)
    units = "<th>p50 µs</th><th>p99 µs</th>" * len(names)
    lines = [f"<table><tr><th></th>{heads}</tr><tr><th></th>{units}</tr>"]
    for index, run in enumerate(runs):
        cells = []
        for name in names:
            found = summary_us(run.hops.get(name, empty(1)[0]))
            cells += [f"<td>{quantile(found, 'p50')}</td><td>{quantile(found, 'p99')}</td>"]
        lines.append(f"<tr><td>{_swatch(index)}{_e(run.label)}</td>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])


def _chart(curves: Sequence[tuple[str, Ints]], width: int, height: int) -> str:
    """Percentile curves: x is -log10(1 - p), y is log µs."""
    points = [(label, *percentile_curve(hist)) for label, hist in curves]
    values = np.concatenate([y for _, _, y in points]) if points else np.zeros(0)
    if not len(values):
        return '<p class="soft">Nothing was recorded.</p>'
    low, high = np.log10(values.min()), np.log10(values.max())
    low, high = np.floor(low * 4 - 0.3) / 4, np.ceil(high * 4 + 0.3) / 4
    left, right, top, bottom = 66, width - 18, 10, height - 44

    def at_x(x: float) -> float:
        return float(left + (right - left) * x / _X_MAX)

    def at_y(us: float) -> float:
        return float(bottom - (bottom - top) * (np.log10(us) - low) / (high - low))

    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="percentile curves, µs">']
    steps = (1, 2, 5) if high - low <= 2.6 else (1,)
    for us in (step * 10.0**e for e in range(int(np.floor(low)), int(np.ceil(high)) + 1) for step in steps):
        if low <= np.log10(us) <= high:
            y = at_y(us)
            out.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#e6eaef"/>')
            out.append(f'<text class="soft" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{us:,.10g}</text>')
    for percent, label in _PERCENTILES:
        x = at_x(0.0 if percent == 0 else -np.log10(1 - percent / 100))
        out.append(f'<path d="M{x:.1f} {top}V{bottom}" stroke="#e6eaef"/>')
        anchor = "end" if percent == _PERCENTILES[-1][0] else "middle"
        out.append(f'<text class="soft" x="{x:.1f}" y="{bottom + 18}" text-anchor="{anchor}">{label}</text>')
    out.append(f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#9aa5b1"/>')
    out.append(f'<text class="soft" x="{(left + right) / 2}" y="{height - 6}" text-anchor="middle">percentile</text>')
    out.append(
        f'<text class="soft" transform="translate(14 {(top + bottom) / 2}) rotate(-90)" '
        'text-anchor="middle">µs</text>'
    )
    for index, (label, xs, ys) in enumerate(points):
        if not len(xs):
            continue
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(f"{at_x(a):.1f},{at_y(b):.1f}" for a, b in zip(xs, ys, strict=True))
        out.append(
            f'<polyline class="curve" points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-linejoin="round"><title>{_e(label)}</title></polyline>'
        )
        end = f'cx="{at_x(xs[-1]):.1f}" cy="{at_y(ys[-1]):.1f}"'
        out.append(f'<circle {end} r="3.5" fill="{colour}"><title>{_e(label)}: {ys[-1]:,.1f} µs</title></circle>')
    return "\n".join([*out, "</svg>"])


def _waterfalls(run: Run, *, several: bool) -> Iterator[str]:
    orders = run.sent()
    orders = orders[np.argsort(orders["sent_ns"] - orders["recv_ns"], kind="stable")]
    yield f"<section><h2>Waterfall{': ' + _e(run.label) if several else ''}</h2>"
    yield (
        '<p class="soft">The way of two orders through the hops, µs since the datagram was received. Orange marks '
        "are pauses: solid where their times are known, hatched where they lie somewhere within the mark.</p>"
    )
    yield from _waterfall(run, "Median order", orders[(len(orders) - 1) // 2])
    yield from _waterfall(run, "Worst order", orders[-1])
    yield "</section>"


def _waterfall(run: Run, head: str, order: np.void) -> Iterator[str]:
    start, total = int(order["recv_ns"]), max(1, int(order["sent_ns"] - order["recv_ns"]))
    hits = hits_of(run, order)
    worst = sorted(hits, key=lambda hit: (-hit.at_least_ns, -hit.at_most_ns))[:_MOST_HITS]
    worst = [hit for hit in worst if hit.kind in _EXACT or hit.at_most_ns >= total / 100]
    shown = [hit for hit in hits if hit in worst]
    cl_ord_id, instrument = int(order["cl_ord_id"]), int(order["instrument"])
    symbol = run.symbols[instrument] if 0 <= instrument < len(run.symbols) else f"instrument {instrument}"
    yield f'<div class="order"><h3>{head}: {microseconds(total / 1000)} µs</h3>'
    yield (
        f'<p class="soft">{_e(symbol)}, client order id <code>{format_cl_ord_id(cl_ord_id).decode()}</code> '
        f"({cl_ord_id}), caused by message {int(order['cause_seq']):,}</p>"
    )
    left, width, right = 190, 1160, 1040
    body: list[str] = []
    y = 8

    def at_x(ns: int) -> float:
        return left + (right - left) * (ns - start) / total

    for index, hop in enumerate(HOPS):
        begin, end = int(order[hop.begin]), int(order[hop.end])
        a, b = at_x(begin), at_x(end)
        body.append(f'<text x="0" y="{y + 13}">{_e(_words(hop.name))}</text>')
        body.append(
            f'<rect class="bar" x="{a:.1f}" y="{y}" width="{max(1.5, b - a):.1f}" height="18" rx="2" fill="#9db7e8">'
            f"<title>{_e(_words(hop.name))}: {(end - begin) / 1000:,.1f} µs</title></rect>"
        )
        share = 100 * (end - begin) / total
        body.append(
            f'<text x="{width}" y="{y + 13}" text-anchor="end">{microseconds((end - begin) / 1000)} µs'
            f'<tspan class="soft"> · {share:.0f} %</tspan></text>'
        )
        y += 22
        for mark, hit in enumerate(shown, 1):
            if hit.hop != index:
                continue
            a, b = at_x(max(begin, hit.begin_ns)), at_x(min(end, hit.end_ns))
            fill = "#d9480f" if hit.kind in _EXACT else "url(#within)"
            body.append(
                f'<rect class="pause" x="{a:.1f}" y="{y}" width="{max(3, b - a):.1f}" height="9" rx="1" '
                f'fill="{fill}" stroke="#d9480f" stroke-width="0.7"><title>{_e(_sentence(hit))}</title></rect>'
            )
            body.append(
                f'<text class="small" x="{a - 5:.1f}" y="{y + 9}" text-anchor="end" '
                f'style="fill:#b03a0b">{mark}</text>'
            )
            y += 13
        y += 6
    grid = []
    step = _step(total / 1000)
    for k in range(int(total / 1000 / step) + 1):
        x = at_x(start + int(k * step * 1000))
        grid.append(f'<path d="M{x:.1f} 2V{y}" stroke="#e6eaef"/>')
        grid.append(f'<text class="soft" x="{x:.1f}" y="{y + 15}" text-anchor="middle">{k * step:,.10g}</text>')
    grid.append(f'<text class="soft" x="{left - 16}" y="{y + 15}" text-anchor="end">µs</text>')
    yield f'<svg viewBox="0 0 {width} {y + 20}" role="img" aria-label="waterfall of the {head.lower()}, µs">'
    yield from grid
    yield from body
    yield "</svg>"
    if shown:
        yield "<ol>"
        yield from (f"<li>{_e(_sentence(hit))}</li>" for hit in shown)
        yield "</ol>"
        if len(hits) > len(shown):
            yield f'<p class="soft">and {len(hits) - len(shown)} lesser ones</p>'
        if explained := explained_ns(hits):
            part = 100 * explained / total
            yield f"<p>Pauses took at least <b>{_time(explained)}</b> ({part:.0f} %) of its {_time(total)}.</p>"
        else:
            yield "<p>Pauses may have taken part of it; the readings prove none.</p>"
    elif hits:
        yield '<p class="soft">No pause took more than a hundredth of it.</p>'
    else:
        yield '<p class="soft">No pause of any process on its way overlaps it.</p>'
    yield "</div>"


def _step(total_us: float) -> float:
    """Distance of the marks on an axis from 0 to `total_us`: 1, 2 or 5 times a power of ten, four to ten marks."""
    rough = 10.0 ** np.floor(np.log10(max(total_us, 1e-3)))
    return float(next(rough * k for k in (0.1, 0.2, 0.5, 1.0) if total_us / (rough * k) <= 10))


def _sentence(hit: Hit) -> str:
    """A pause in words."""
    if hit.kind in _EXACT:
        return f"{hit.process}: {_KINDS[hit.kind]}, {_time(hit.lost_ns)}"
    times = f"{hit.events:,} times" if hit.events > 1 else "once"
    what = {
        PauseKind.PREEMPTION: f"was preempted {times}",
        PauseKind.CORE_WAIT: "was woken up and waited for a core",
        PauseKind.MAJOR_FAULT: f"read memory from disk {times}",
    }[hit.kind]
    within = _time(hit.end_ns - hit.begin_ns)
    if not hit.lost_ns:
        return f"{hit.process} {what} within {within}"
    if hit.at_least_ns == hit.lost_ns:
        here = "all"
    elif hit.at_least_ns:
        here = f"{_time(hit.at_least_ns)} to {_time(hit.at_most_ns)}"
    else:
        here = f"at most {_time(hit.at_most_ns)}"
    return f"{hit.process} {what}: {_time(hit.lost_ns)} without a core within {within}, {here} of it here"


def _time(ns: int) -> str:
    return f"{ns / 1e6:,.1f} ms" if ns >= 1_000_000 else f"{ns / 1000:,.1f} µs"


def _pauses(run: Run, *, several: bool) -> Iterator[str]:
    lines = pause_lines(run)
    orders = run.sent()
    slow = int(slowest(orders).sum())
    yield f"<section><h2>Pauses{': ' + _e(run.label) if several else ''}</h2>"
    yield (
        '<p class="soft">What stopped the loops of the processes since they were ready. An order is hit when part of '
        "a pause must lie in its time with the process, perhaps hit when it can; it may count in several rows.</p>"
    )
    if lines:
        yield (
            '<table><tr><th>process</th><th class="left">what</th><th>count</th><th>lost in all</th><th>longest</th>'
            f"<th>of {len(orders):,} orders hit</th><th>perhaps</th>"
            f"<th>of the slowest {slow:,} hit</th><th>perhaps</th></tr>"
        )
        yield from _rows(run, lines)
        yield "</table>"
    present = {line.kind for line in lines}
    if absent := [name for kind, name in _KINDS.items() if kind not in present]:
        yield f"<p>None in any process: {_e(', '.join(absent))}.</p>"
    for process, gone in run.overwritten.items():
        if gone:
            yield f"<p>{_e(process)}: {gone:,} older pauses are no longer in its log and not in this table.</p>"
    if "sim" in run.pauses:
        yield (
            '<p class="soft">sim is the exchange, the clock of tick to order: what stops it is in that figure, and '
            "in none of our hops.</p>"
        )
    yield "</section>"


def _rows(run: Run, lines: Iterable[PauseLine]) -> Iterator[str]:
    ours = {process for hop in HOPS for process in run.processes_of(hop)}
    for line in lines:
        cells: list[Any] = [
            f"{line.events:,}",
            _time(line.lost_ns) if line.lost_ns else _NONE,
            _time(line.longest_ns) if line.longest_ns else _NONE,
            *(f"{n:,}" if line.process in ours else _NONE for n in line[5:]),
        ]
        yield (
            f'<tr><td>{_e(line.process)}</td><td class="left">{_KINDS[line.kind]}</td>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
