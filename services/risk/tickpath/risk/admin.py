"""The HTTP endpoints that risk adds: limits, kill switches, positions, refusals. Every POST needs the bearer token.

A scope is written ``GLOBAL``, ``ACCOUNT``, ``STRATEGY:name`` or ``SYMBOL:name``, or in two parts as ``scope`` and ``name``;
``*`` in place of a name is the default for all symbols or strategies (limits only).
"""  # noqa: E501 - one sentence

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Query, status
from pydantic import BaseModel, ConfigDict, Field

from tickpath.common.pages import Page
from tickpath.common.records import NO_PRICE_TICKS, Side
from tickpath.risk.limits import (
    ACCOUNT_ROW,
    FIRST_SYMBOL_ROW,
    GLOBAL_ROW,
    LimitError,
    Scope,
    TradingState,
    split_key,
)
from tickpath.risk.reasons import MEANINGS, N_REASONS, Reason
from tickpath.risk.state import CORE_REASONS, Core
from tickpath.risk.store import StoreError
from tickpath.risk.sync import Sync

Text = Annotated[str, Field(min_length=1, max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    scope: Text
    name: str = ""
    who: Text
    reason: Text

    def parts(self) -> tuple[Scope, str]:
        """Scope and name, however they were written. Raises LimitError."""
        scope, name = split_key(self.scope)
        return scope, name or self.name


class LimitsBody(_Body):
    """A change of some limits of one scope."""

    limits: dict[str, str | int | float]


class KillBody(_Body):
    """A kill switch to trip."""

    state: Literal["HALTED", "REDUCING"] = "HALTED"


class RearmBody(_Body):
    """A kill switch to lift."""

    state: Literal["ACTIVE", "REDUCING"] = "ACTIVE"


def positions(page: Page | None, symbols: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Exposure of every symbol that has, or had, any, in lots."""
    if page is None:
        return {}
    live = page["live"][FIRST_SYMBOL_ROW:].copy()
    names = ("position_lots", "open_buy_lots", "open_sell_lots", "open_orders", "bought_lots", "sold_lots")
    used = np.nonzero(np.any([live[name] != 0 for name in names], axis=0))[0]
    return {symbols[i]: {name: int(live[name][i]) for name in names} for i in used}


def positions_known(page: Page | None) -> bool:
    """Whether the journal was replayed and nothing contradicts it."""
    return page is not None and bool(page["core"][Core.READY]) and not page["core"][Core.OVERFLOW]


def reject_counts(page: Page | None) -> dict[str, int]:
    """Refusals by reason, those that happened. ALREADY_DECIDED is none: the first decision stands."""
    if page is None:
        return {}
    counts = page["core"][CORE_REASONS : CORE_REASONS + N_REASONS].tolist()
    return {
        reason.name: counts[reason]
        for reason in MEANINGS
        if counts[reason] and reason not in (Reason.PASS, Reason.ALREADY_DECIDED)
    }


def last_rejects(page: Page | None, symbols: tuple[str, ...], n: int) -> list[dict[str, Any]]:
    """The last `n` refusals with the inputs that they were decided on, newest first."""
    if page is None:
        return []
    ring = page["rejects"].copy()
    total = int(page["core"][Core.REJECTED])
    result = []
    for number in range(total - 1, max(-1, total - 1 - min(n, len(ring))), -1):
        row = ring[number % len(ring)]
        if row["number"] != number:
            continue  # overwritten while it was read
        record: dict[str, Any] = {name: row[name].item() for name in ring.dtype.names or () if name != "pad"}
        index = record.pop("instrument")
        record["symbol"] = symbols[index] if 0 <= index < len(symbols) else f"#{index}"
        record["side"] = Side(record["side"]).name if record["side"] in tuple(Side) else str(record["side"])
        reason = Reason(record["reason"])
        record["reason"] = reason.name
        for name in ("bid_ticks", "ask_ticks"):
            record[name] = None if record[name] == NO_PRICE_TICKS else record[name]
        shown = ("side", "qty_lots", "price_ticks", "bid_ticks", "ask_ticks", "position_lots")
        inputs = " ".join(f"{name}={record[name]}" for name in shown)
        record["text"] = f"{reason.name}: symbol={record['symbol']} {inputs}"
        result.append(record)
    return result


def add_routes(app: FastAPI, guard: Any, sync: Sync, page: Callable[[], Page | None]) -> None:
    """Mount the endpoints; `guard` is the dependency of every POST, `page` the hot page if there is one."""
    names = sync.names
    symbols = names.table.symbols

    @app.get("/limits", tags=["risk"])
    def get_limits() -> dict[str, Any]:
        """Limits as stored, by scope; ``*`` stands for all symbols or strategies that have none of their own."""
        return {"version": sync.shared.version, "limits": dict(sorted(sync.shared.limits.items()))}

    @app.get("/limits/{symbol}", tags=["risk"])
    def get_limits_of(symbol: str) -> dict[str, Any]:
        """Limits in force for a symbol, beside those of the wider scopes that apply too."""
        with _explained():
            row = names.row(Scope.SYMBOL, symbol)
        wide = {names.key_of_row(r): sync.effective(r) for r in (GLOBAL_ROW, ACCOUNT_ROW)}
        return {
            "symbol": symbol,
            "version": sync.shared.version,
            "limits": sync.effective(row),
            "own": sorted(sync.shared.limits.get(f"SYMBOL:{symbol}", {})),
            "wider": wide,
        }

    @app.post("/control/limits", tags=["control"], dependencies=[guard])
    async def post_limits(body: LimitsBody) -> dict[str, Any]:
        """Change limits; they hold for the next order."""
        with _explained():
            scope, name = body.parts()
            limits = await sync.set_limits(scope, name, body.limits, body.reason, body.who)
        return {"scope": names.key(scope, name), "limits": limits, "version": sync.shared.version}

    @app.get("/kill", tags=["risk"])
    def get_kill() -> dict[str, Any]:
        """Trading states that were ever set, and how long the control lease lasts without Redis."""
        return {"states": sync.states(), "lease_left_ms": round(sync.lease_left_ms, 1), "fault": sync.fault}

    @app.post("/control/kill", tags=["control"], dependencies=[guard])
    async def post_kill(body: KillBody) -> dict[str, Any]:
        """Trip a kill switch: nothing new from the next order on; HALTED also cancels what is open."""
        with _explained():
            key = names.key_of_row(names.row(*body.parts()))
            switch, stored = await sync.kill(key, TradingState[body.state], body.reason, body.who)
        return {"scope": key, "state": switch.state.name, "who": switch.who, "at": switch.at, "stored": stored}

    @app.post("/control/rearm", tags=["control"], dependencies=[guard])
    async def post_rearm(body: RearmBody) -> dict[str, Any]:
        """Lift a kill switch."""
        with _explained():
            key = names.key_of_row(names.row(*body.parts()))
            switch = await sync.rearm(key, TradingState[body.state], body.reason, body.who)
        return {"scope": key, "state": switch.state.name, "who": switch.who, "at": switch.at, "stored": True}

    @app.get("/positions", tags=["risk"])
    def get_positions() -> dict[str, Any]:
        """Positions and open lots per symbol, and whether they are known to be complete."""
        hot = page()
        return {"known": positions_known(hot), "positions": positions(hot, symbols)}

    @app.get("/rejects", tags=["risk"])
    def get_rejects(n: Annotated[int, Query(ge=1, le=1024)] = 100) -> dict[str, Any]:
        """Refusals by reason, and the last ones with the inputs used."""
        return {"counts": reject_counts(page()), "last": last_rejects(page(), symbols, n)}

    @app.get("/audit", tags=["risk"])
    async def get_audit(n: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """Who changed limits and states, newest first."""
        with _explained():
            return {"changes": await sync.store.audit(n)}


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what went wrong into an answer: 422 with every fault, 503 when Redis is away."""
    try:
        yield
    except LimitError as error:
        raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, {"faults": error.faults}) from None
    except StoreError as error:
        raise HTTPException(status.HTTP_503_SERVICE_UNAVAILABLE, f"Redis: {error}; nothing was changed") from None
