"""Commands that ask a running system, and how they show the answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tickpath.cli.control import ControlError, Risk, System
from tickpath.cli.figures import counted
from tickpath.common.instruments import InstrumentTable, make_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_DEFAULT = "default"
_ACTIVE = "ACTIVE"
_SCOPES = ("GLOBAL", "ACCOUNT", "STRATEGY", "SYMBOL")


def _put(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


def _table(*columns: str) -> Table:
    from rich import box  # noqa: PLC0415 - only for people
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, vertical="bottom")
    return table


def _print(*parts: Any) -> None:
    from rich.console import Console  # noqa: PLC0415 - only for people

    console = Console()
    for part in parts:
        console.print(part, highlight=False)


def key_of(scope: str) -> str:
    """Canonical ``SCOPE`` or ``SCOPE:NAME``; a bare name is a symbol, ``default`` all symbols without own limits."""
    if scope == _DEFAULT:
        return "SYMBOL:*"
    head = scope.partition(":")[0].upper()
    if head in _SCOPES:
        return head + scope[len(head) :]
    return f"SYMBOL:{scope}"


def show_status(system: System, *, as_json: bool) -> int:
    """Table or JSON; 1 when a service cannot be reached."""
    found = system.status()
    if as_json:
        _put(found)
    else:
        table = _table("service", "state", "connected", "up", "memory", "pauses", "note")
        for name, status in found.items():
            if "unreachable" in status:
                table.add_row(name, "[red]not reachable[/red]", "", "", "", "", status["unreachable"])
                continue
            process = status.get("process", {})
            restarts = status.get("restarts")
            notes = [
                status.get("error") or status.get("notes"),
                restarts and counted(restarts, "restart"),
                *status.get("not_ready", ()),
                *status.get("warnings", ()),
            ]
            table.add_row(
                name,
                status.get("state", "") + (" (paused)" if status.get("paused") else ""),
                "yes" if status.get("connected") else "no",
                f"{status.get('uptime_s', 0):,.0f} s",
                f"{process.get('rss_mb', 0):,.0f} MB",
                str(process.get("gc_collections", "")),
                "; ".join(filter(None, notes)),
            )
        _print(f"system: {system.where}", table)
    return 1 if any("unreachable" in status for status in found.values()) else 0


def show_top(system: System) -> int:
    """The live view until Ctrl-C."""
    from tickpath.cli.launcher import StopRequest  # noqa: PLC0415 - signals are only handled here
    from tickpath.cli.watch import Watch, watch_top  # noqa: PLC0415

    names = tuple(system.endpoints)
    watch = Watch(system.run_dir, names, lambda: _symbols(system))
    if not any(watch.hot(name) for name in names):
        msg = f"there are no pages in {system.run_dir}: nothing runs there, or elsewhere (--run-dir)"
        raise ControlError(msg)
    stop = StopRequest()
    watch_top(watch, f"Tickpath {system.where}", lambda: stop.asked > 0)
    return 0


def _symbols(system: System) -> InstrumentTable:
    """The instrument table of a running system, as its configuration names it."""
    from pathlib import Path  # noqa: PLC0415 - only here

    from tickpath.common.instruments import load_instruments  # noqa: PLC0415

    try:
        return load_instruments(Path(system["feed"].ask("GET", "/config")["instruments"]))
    except ControlError:
        return make_table([("?", "0.0001", 1, 1, 1, "")])


def show_limits(system: System, *, as_json: bool) -> int:
    """All limits."""
    answer = Risk(system["risk"]).limits()
    if as_json:
        _put(answer)
        return 0
    from rich.console import Console  # noqa: PLC0415 - only for people

    print_limits(answer["limits"], Console())
    return 0


def print_limits(scopes: Mapping[str, Mapping[str, str]], console: Console) -> None:
    """A row for each scope; where the terminal is too narrow for that, a row for each limit."""
    tables = _limit_tables(scopes)
    unbounded = console.options.update_width(10_000)
    if any(console.measure(table, options=unbounded).minimum > console.width for table in tables):
        long = _table("scope", "limit", "value")
        for key, limits in scopes.items():
            for name, value in limits.items():
                long.add_row(key, name, str(value))
        tables = [long]
    for table in tables:
        console.print(table, highlight=False)


def _limit_tables(scopes: Mapping[str, Mapping[str, str]]) -> list[Table]:
    tables = []
    by_fields: dict[tuple[str, ...], Table] = {}
    for key, limits in scopes.items():
        fields = tuple(limits)
        if fields not in by_fields:
            by_fields[fields] = _table("scope", *(field.replace("_", " ") for field in fields))
            tables.append(by_fields[fields])
        by_fields[fields].add_row(key, *(str(limits[field]) for field in fields))
    return tables


def set_limits(system: System, scope: str, values: Mapping[str, str], reason: str, *, as_json: bool) -> int:
    """Change limits of one scope."""
    answer = Risk(system["risk"]).set_limits(key_of(scope), values, reason)
    if as_json:
        _put(answer)
    else:
        _print(f"{key_of(scope)}: " + ", ".join(f"{name} is {value}" for name, value in values.items()))
    return 0


def trip(system: System, scope: str, reason: str, state: str, *, as_json: bool) -> int:
    """Trip a kill switch."""
    answer = Risk(system["risk"]).trip(key_of(scope), reason, state)
    if as_json:
        _put(answer)
    else:
        _print(f"{key_of(scope)} is {state}: {reason}")
    return 0


def rearm(system: System, scope: str, reason: str, *, as_json: bool) -> int:
    """Re-arm a kill switch."""
    risk, key = Risk(system["risk"]), key_of(scope)
    before = risk.switches()["states"]
    answer = risk.rearm(key, reason)
    if as_json:
        _put(answer)
    else:
        _print(rearmed(key, before, reason))
    return 0


def rearmed(key: str, before: Mapping[str, Mapping[str, str]], reason: str) -> str:
    """What re-arming has changed; `before`: the switches until then."""
    if before.get(key, {}).get("state", _ACTIVE) != _ACTIVE:
        return f"{key} is ACTIVE again: {reason}"
    tripped = [f"{other} is {switch['state']}" for other, switch in before.items() if switch["state"] != _ACTIVE]
    return f"{key} was not tripped; it is ACTIVE" + (f" ({', '.join(tripped)})" if tripped else "")


def show_switches(system: System, *, as_json: bool) -> int:
    """Kill switches."""
    answer = Risk(system["risk"]).switches()
    if as_json:
        _put(answer)
        return 0
    table = _table("scope", "state", "reason", "who", "at")
    for key, item in answer["states"].items():
        table.add_row(key, item["state"], item["reason"], item["who"], item["at"])
    _print(table if answer["states"] else "all scopes are ACTIVE, and always were")
    if answer["fault"]:
        _print(f"risk is not synchronised with Redis: {answer['fault']}")
    return 0
