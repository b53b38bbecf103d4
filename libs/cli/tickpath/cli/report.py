"""The demo's report: what was sent, seen, decided, ordered and filled, and whether all of it is accounted for.

`make_report` and `find_problems` are functions of `Evidence` alone: the last counters of every service, the journal,
and positions from three books that were kept apart (risk's, the journal's fills, the exchange's). A run is ok when
nothing was lost or doubled, every signal and order has a known end, and the three books agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.cli.figures import counted, quantile
from tickpath.common.records import FIRST_TERMINAL_STATE, ExecEvent, OrderState

if TYPE_CHECKING:
    from rich.console import Console

Counters = Mapping[str, int]

_POSITIONS: Final = 10  # shown to people

#: Counters that are 0 in a run that went well, and what it means when one is not.
ALARMS: Final[dict[str, dict[str, str]]] = {
    "feed": {
        "datagrams_malformed": "datagrams were malformed",
        "datagrams_other_session": "datagrams came from another session",
        "messages_short": "messages were too short for their type",
        "book_full": "messages found no room in the book: raise feed.order_capacity or feed.level_capacity",
        "ticks_held_by_pause": "ticks were held back because feed was paused",
    },
    "signals": {
        "ticks_lost": "ticks never reached the strategies",
        "frames_bad": "frames were not understood",
        "strategy_faults": "times a strategy raised and was switched off for an instrument",
        "orders_untracked": "open orders found no room in the strategies' memory",
        "intents_invalid": "orders of strategies had an impossible price, quantity, side or time in force",
    },
    "exec": {
        "orders_refused": "orders were refused by exec; the journal has the reason of each",
        "bad_requests": "requests were neither an order nor a cancel",
        "illegal_transitions": "reports did not fit the state of their order",
        "overfills": "fills went beyond what was open",
        "broken_trades": "trades were broken by the venue",
        "unknown_refs": "reports named orders that were never sent",
        "inexact": "prices or quantities of the venue lay between two ticks or lots",
        "venue_unknown_type": "messages of the venue had an unknown type",
        "venue_malformed": "messages of the venue were malformed",
        "mismatches": "contradictions between journal and venue",
        "journal_errors": "segments of the journal could not be made",
        "in_doubt": "orders were open when the session with the venue broke",
    },
    "sim": {
        "malformed": "messages reached the exchange that are not OUCH",
        "slow_clients": "clients were dropped by the exchange because they did not read",
        "unmatched_causes": "orders name no message that the exchange has sent lately",
        "book_overflows": "played messages found no room in the exchange's book",
    },
}
RISK_ALARMS: Final[dict[str, str]] = {
    "overflow": "open orders found no room in risk's table",
    "alarms": "fills were beyond an order's end or size, or reports named an unknown instrument",
    "report_gaps": "gaps in the reports that risk received",
    "ticks_refused": "ticks named an instrument that risk does not have",
}


@dataclass(slots=True)
class Evidence:
    """What is known at the end of a run."""

    seconds: float
    source: str
    counters: Mapping[str, Counters]  # service -> counter -> value; empty for a service that was never there
    risk_core: Counters  # `tickpath.risk.state.Core`
    risk_reasons: Counters  # reason -> refusals, ALREADY_DECIDED among them
    journal: npt.NDArray[np.void]  # REPORT[n], all of it
    positions: Mapping[str, Mapping[str, int]]  # risk, journal, exchange: symbol -> lots, no zeros
    tick_to_order_us: Mapping[str, float] = field(default_factory=dict)
    hops_us: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    processes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    faults: tuple[str, ...] = ()  # what went wrong with the run itself, in words
    lane: str = "zmq-ipc"
    digests: Mapping[str, str] = field(default_factory=dict)  # of the streams of signals and orders
    switched_off: Mapping[str, Sequence[str]] = field(default_factory=dict)  # strategies that raised -> symbols

    def count(self, service: str, counter: str) -> int:
        """A counter; 0 when the service or the counter is missing, which is a fault of its own."""
        return self.counters.get(service, {}).get(counter, 0)


@dataclass(frozen=True, slots=True)
class _Orders:
    """What the journal says of the day's orders."""

    sent: int
    acknowledged: int
    filled: int
    cancelled: int
    rejected: int
    open: int  # not terminal
    unanswered: int  # sent, and neither acknowledged nor rejected
    doubled: int  # client order ids sent more than once
    filled_lots: int
    fills: int

    @classmethod
    def of(cls, journal: npt.NDArray[np.void]) -> _Orders:
        events = journal["event"]
        ids = journal["cl_ord_id"]

        def named(event: ExecEvent) -> npt.NDArray[np.int64]:
            return np.unique(ids[events == event])

        sends = ids[events == ExecEvent.SEND]
        answered = np.union1d(named(ExecEvent.ACKNOWLEDGED), named(ExecEvent.VENUE_REJECT))
        # The last entry of an order is its state: unique() keeps the first of the reversed journal.
        known, last = np.unique(ids[::-1], return_index=True)
        states = journal["state"][::-1][last]
        of_sent = np.isin(known, sends)
        is_fill = events == ExecEvent.FILL
        return cls(
            sent=len(sends),
            acknowledged=len(named(ExecEvent.ACKNOWLEDGED)),
            filled=int(np.sum(of_sent & (states == OrderState.FILLED))),
            cancelled=int(np.sum(of_sent & (states == OrderState.CANCELLED))),
            rejected=len(named(ExecEvent.VENUE_REJECT)),
            open=int(np.sum(states < FIRST_TERMINAL_STATE)),
            unanswered=len(np.setdiff1d(sends, answered)),
            doubled=len(sends) - len(np.unique(sends)),
            filled_lots=int(journal["last_lots"][is_fill].sum()),
            fills=int(is_fill.sum()),
        )


def make_report(evidence: Evidence) -> dict[str, Any]:
    """The report as one JSON-able object; ``ok`` says whether `find_problems` finds nothing."""
    orders = _Orders.of(evidence.journal)
    sent, received = evidence.count("sim", "messages_sent"), evidence.count("feed", "messages")
    return {
        "ok": not find_problems(evidence),
        "seconds": round(evidence.seconds, 3),
        "source": evidence.source,
        "lane": evidence.lane,
        "market_data": {
            "sent": sent,
            "received": received,
            "lost": max(evidence.count("feed", "messages_lost"), sent - received),
            "repaired": evidence.count("feed", "messages_repaired"),
        },
        "ticks": evidence.count("feed", "ticks"),
        "signals": evidence.count("signals", "signals_new") + evidence.count("signals", "signals_cancel"),
        "signals_new": evidence.count("signals", "signals_new"),
        "signals_cancel": evidence.count("signals", "signals_cancel"),
        "orders": {
            "sent": orders.sent,
            "acknowledged": orders.acknowledged,
            "filled": orders.filled,
            "cancelled": orders.cancelled,
            "rejected_by_venue": orders.rejected,
            "fills": orders.fills,
            "filled_lots": orders.filled_lots,
        },
        "risk_rejects": dict(sorted(evidence.risk_reasons.items())),
        "positions_match": _positions_match(evidence),
        "duplicates": _duplicates(evidence, orders),
        "tick_to_order_us": dict(evidence.tick_to_order_us),
        "digests": dict(evidence.digests),
        "hops_us": {hop: dict(found) for hop, found in evidence.hops_us.items()},
        "processes": {name: dict(found) for name, found in evidence.processes.items()},
    }


def find_problems(evidence: Evidence) -> list[str]:
    """Everything that keeps the run from being ok, one line each; empty when nothing does."""
    return list(_problems(evidence))


def _duplicates(evidence: Evidence, orders: _Orders) -> int:
    return orders.doubled + evidence.count("sim", "duplicates")


def _positions_match(evidence: Evidence) -> bool:
    books = [dict(book) for book in evidence.positions.values()]
    return len(books) == len(("risk", "journal", "exchange")) and all(book == books[0] for book in books)


def _problems(evidence: Evidence) -> Iterator[str]:
    yield from evidence.faults
    orders = _Orders.of(evidence.journal)
    yield from _pipeline_problems(evidence)
    yield from _order_problems(evidence, orders)
    if not _positions_match(evidence):
        yield _explain_positions(evidence)
    for service, alarms in ALARMS.items():
        for counter, meaning in alarms.items():
            if n := evidence.count(service, counter):
                which = _who_raised(evidence) if counter == "strategy_faults" else ""
                yield f"{service}: {n} {meaning} ({counter}){which}"
    for counter, meaning in RISK_ALARMS.items():
        if n := evidence.risk_core.get(counter, 0):
            yield f"risk: {n} {meaning} ({counter})"


def _pipeline_problems(evidence: Evidence) -> Iterator[str]:
    """From the exchange's messages to risk's decisions."""
    core = evidence.risk_core
    for service in ("sim", "feed", "signals", "exec"):
        if not evidence.counters.get(service):
            yield f"{service}: it has left no counters"
    if not core:
        yield "risk: it has left no counters"
    sent, received = evidence.count("sim", "messages_sent"), evidence.count("feed", "messages")
    lost = evidence.count("feed", "messages_lost")
    if lost or sent != received:
        yield f"market data: {sent} messages sent, {received} received, feed counts {lost} lost"
    ticks = evidence.count("feed", "ticks")
    at_signals = evidence.count("signals", "ticks") + evidence.count("signals", "ticks_unknown_instrument")
    if at_signals != ticks:
        yield f"ticks: feed published {ticks}, signals received {at_signals}"
    at_risk = core.get("ticks", 0)
    if at_risk != ticks:
        yield f"ticks: feed published {ticks}, risk received {at_risk}"
    decided = core.get("approved", 0) + core.get("rejected", 0) + evidence.risk_reasons.get("ALREADY_DECIDED", 0)
    if (new := evidence.count("signals", "signals_new")) != decided:
        yield f"signals: {new} for new orders, risk decided on {decided}"
    cancels, asked = core.get("cancel_signals", 0), evidence.count("signals", "signals_cancel")
    if asked != cancels:
        yield f"signals: {asked} to cancel, risk received {cancels}"


def _order_problems(evidence: Evidence, orders: _Orders) -> Iterator[str]:
    """From risk's decisions to the end of every order."""
    core = evidence.risk_core
    received = evidence.count("exec", "orders_received")
    if (passed := core.get("approved", 0) + core.get("cancels", 0)) != received:
        yield f"orders: risk passed {passed} orders and cancels, exec received {received}"
    accounted = (
        evidence.count("exec", "orders_sent")
        + evidence.count("exec", "orders_refused")
        + evidence.count("exec", "duplicate_orders")
    )
    if core.get("approved", 0) != accounted:
        yield f"orders: risk approved {core.get('approved', 0)}, exec accounts for {accounted}"
    if (sent := evidence.count("exec", "orders_sent")) != orders.sent:
        yield f"orders: exec counts {sent} sent, the journal has {orders.sent}"
    if (entered := evidence.count("sim", "orders_received")) != orders.sent:
        yield f"orders: the journal has {orders.sent} sent, the exchange received {entered}"
    if orders.unanswered:
        yield f"orders: {orders.unanswered} were neither acknowledged nor rejected"
    if orders.open:
        yield f"orders: {orders.open} have no known end in the journal"
    if left := evidence.count("sim", "open_orders"):
        yield f"orders: {left} are still open at the exchange"
    if (doubled := _duplicates(evidence, orders)) != 0:
        yield f"orders: {doubled} were sent more than once"
    for what, ours, theirs in (
        ("accepted", orders.acknowledged, evidence.count("sim", "accepted")),
        ("rejected", orders.rejected, evidence.count("sim", "rejected")),
        ("fills", orders.fills, evidence.count("sim", "fills")),
        ("filled lots", orders.filled_lots, evidence.count("sim", "filled_lots")),
    ):
        if ours != theirs:
            yield f"orders: {what}: {ours} in the journal, {theirs} at the exchange"


def _who_raised(evidence: Evidence) -> str:
    """Strategies and instruments, as an addition to a sentence."""
    shown = [f"{name} on {_few(symbols)}" for name, symbols in evidence.switched_off.items() if symbols]
    return f": {'; '.join(shown)}" if shown else ""


def _few(words: Sequence[str], most: int = 5) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _explain_positions(evidence: Evidence) -> str:
    missing = [name for name in ("risk", "journal", "exchange") if name not in evidence.positions]
    if missing:
        return f"positions: there are none of {', '.join(missing)}"
    symbols = sorted({symbol for book in evidence.positions.values() for symbol in book})
    apart = []
    for symbol in symbols:
        lots = {name: book.get(symbol, 0) for name, book in evidence.positions.items()}
        if len(set(lots.values())) > 1:
            apart.append(f"{symbol} " + " ".join(f"{name} {n:+d}" for name, n in lots.items()))
    more = f" and {len(apart) - 5} more" if len(apart) > 5 else ""
    return f"positions differ: {'; '.join(apart[:5])}{more}"


def print_report(
    report: Mapping[str, Any], problems: list[str], positions: Mapping[str, int], console: Console
) -> None:
    """The report as tables for people."""
    from rich import box  # noqa: PLC0415 - only for people
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        rows = list(rows)
        if not rows:
            return
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(columns):
            made.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            made.add_row(*row)
        console.print(title, style="bold", highlight=False, soft_wrap=True)
        console.print(made)

    data, orders, seconds = report["market_data"], report["orders"], max(report["seconds"], 1e-9)
    flow = {
        "market data sent": data["sent"],
        "received": data["received"],
        "lost": data["lost"],
        "ticks": report["ticks"],
        "signals: new orders": report["signals_new"],
        "signals: cancels": report["signals_cancel"],
        "refused by risk": sum(report["risk_rejects"].values()),
        "orders sent": orders["sent"],
        "acknowledged": orders["acknowledged"],
        "completely filled": orders["filled"],
        "cancelled": orders["cancelled"],
        "rejected by venue": orders["rejected_by_venue"],
        "fills": orders["fills"],
        "filled lots": orders["filled_lots"],
        "duplicates": report["duplicates"],
    }
    show(
        f"{report['source']}; {report['seconds']:.1f} s over {report['lane']}",
        ("", "in all", "per second"),
        [(label, f"{n:,}", f"{n / seconds:,.1f}") for label, n in flow.items()],
    )
    if report["risk_rejects"]:
        by_count = sorted(report["risk_rejects"].items(), key=lambda item: -item[1])
        show("Refused by risk", ("reason", "orders"), [(reason, f"{n:,}") for reason, n in by_count])
    hops = {"tick to order": report["tick_to_order_us"], **report["hops_us"]}
    show(
        "Latency, µs; tick to order by the exchange, the others by the stamps of each order",
        ("", "p50", "p90", "p99", "p99.9", "max", "count"),
        [
            (
                name.replace("_to_", " → "),
                *(quantile(found, q) for q in ("p50", "p90", "p99", "p99_9", "max")),
                f"{found['count']:,.0f}",
            )
            for name, found in hops.items()
            if found.get("count")
        ],
    )
    show(
        "Processes",
        ("", "cpu %", "memory MB", "since ready", "collections", "cores"),
        [
            (
                name,
                f"{found['cpu_percent']:.1f}",
                f"{found['rss_mb']:.1f}",
                f"{growth:+.1f}" if (growth := found.get("rss_growth_mb")) is not None else "",
                str(found["gc_pauses"]),
                ",".join(map(str, found["cores"])),
            )
            for name, found in report["processes"].items()
        ],
    )
    if positions:
        largest = sorted(positions.items(), key=lambda item: -abs(item[1]))
        same = "the same in risk, journal and exchange" if report["positions_match"] else "by the journal"
        shown = f", the largest {_POSITIONS} of {len(largest)}" if len(largest) > _POSITIONS else ""
        show(
            f"Positions, {same}{shown}",
            ("symbol", "lots"),
            [(symbol, f"{lots:+,}") for symbol, lots in largest[:_POSITIONS]],
        )
    for problem in problems:
        console.print(Text.assemble(("not ok: ", "red"), problem), soft_wrap=True)
    if report["ok"]:
        agree = f"{counted(len(positions), 'position')} {'matches' if len(positions) == 1 else 'match'}"
        said = f"nothing lost, nothing doubled, every signal and order has its end; {agree}"
        console.print(Text.assemble(("ok: ", "green"), said), soft_wrap=True)
