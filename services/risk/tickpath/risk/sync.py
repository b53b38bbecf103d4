"""Between Redis and the hot process: what the side process does every ``redis.sync_ms``.

One round trip asks for the version and stores changed positions; only when the version changed are limits and
states read and the group in the side page rewritten. Each round trip that succeeds renews the control lease; when
none does, the lease ends and the hot process refuses new orders by itself.

| situation | what happens |
| --- | --- |
| Redis not reachable at start | the service says so and does not start |
| Redis empty at start | the limits of the configuration are written; all scopes ACTIVE |
| Redis holds limits or states | they are in force; the configuration only fills what is missing |
| Redis holds nonsense | at start: no start; later: the lease is not renewed, ``/readyz`` says why |
| Redis gone while trading | lease ends: ``KILL_SWITCH_GLOBAL``, cancels pass; trading resumes when it is back |
| kill switch while Redis is gone | in force at once, and over what Redis says until it is stored there |
| Redis back without its data, or with older | what is in force is written back; the worse state wins |
| alarm in the hot process | it reduces by itself at once; stored here, so that it needs a re-arm |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from tickpath.common.clock import now_ns
from tickpath.common.config import RiskConfig, StrategyConfig
from tickpath.common.instruments import InstrumentTable
from tickpath.common.pages import Control, Page, SeqLock
from tickpath.risk.limits import (
    ACCOUNT_NAME,
    ACCOUNT_ROW,
    DEFAULT_NAME,
    FIELDS,
    FIRST_SYMBOL_ROW,
    GLOBAL_ROW,
    OPEN_SCOPE,
    UNLIMITED,
    UNLIMITED_WORD,
    LimitError,
    Limits,
    Names,
    Scope,
    TradingState,
    check_limits,
    fields_of,
    fill_row,
    new_rows,
    split_key,
)
from tickpath.risk.state import Core
from tickpath.risk.store import Shared, Store, StoreError, Switch

POSITION_FIELDS = ("position_lots", "open_buy_lots", "open_sell_lots")
DEFAULT_STRATEGY = f"STRATEGY:{DEFAULT_NAME}"
DEFAULT_SYMBOL = f"SYMBOL:{DEFAULT_NAME}"


def names_of(table: InstrumentTable, strategies: tuple[StrategyConfig, ...]) -> Names:
    """Scopes by name; a strategy is called as its function (with its id behind it where two have the same name)."""
    short = [strategy.path.rpartition(":")[2] for strategy in strategies]
    named = {
        name if short.count(name) == 1 else f"{name}.{strategy.id}": strategy.id
        for name, strategy in zip(short, strategies, strict=True)
    }
    return Names(table, named)


def default_limits(config: RiskConfig) -> dict[str, dict[str, str]]:
    """Limits of the configuration by key, complete. Raises LimitError with every fault, named as in the file."""
    wide = {
        "order_rate": config.order_rate,
        "order_rate_window_ms": config.order_rate_window_ms,
        "max_open_orders": config.max_open_orders,
    }
    faults: list[str] = []
    result: dict[str, dict[str, str]] = {}
    for key, scope, given, where in (
        (Scope.GLOBAL.name, Scope.GLOBAL, wide, "risk"),
        (f"ACCOUNT:{ACCOUNT_NAME}", Scope.ACCOUNT, OPEN_SCOPE, "account"),
        (DEFAULT_STRATEGY, Scope.STRATEGY, OPEN_SCOPE, "strategy"),
        (DEFAULT_SYMBOL, Scope.SYMBOL, config.limits.model_dump(), "risk.limits"),
    ):
        try:
            result[key] = check_limits(scope, given, whole=True, where=where)
        except LimitError as error:
            faults += error.faults
    if faults:
        raise LimitError(faults)
    return result


def rows_of(shared: Shared, names: Names, overlay: Mapping[str, Switch]) -> Limits:
    """The group for the hot process. Raises LimitError with every fault in what Redis holds.

    Limits of symbols and strategies that this deployment does not have are left alone: others may have them.
    """
    faults: list[str] = []

    def whole(key: str, scope: Scope, base: Mapping[str, str]) -> dict[str, str]:
        given = {**base, **shared.limits.get(key, {})}
        try:
            return check_limits(scope, given, whole=True, where=key)
        except LimitError as error:
            faults.extend(error.faults)
            return {}

    rows = new_rows(names.table)
    rows["state"] = TradingState.ACTIVE
    account = f"ACCOUNT:{ACCOUNT_NAME}"
    wide = {GLOBAL_ROW: whole(Scope.GLOBAL.name, Scope.GLOBAL, {}), ACCOUNT_ROW: whole(account, Scope.ACCOUNT, {})}
    strategy_default = whole(DEFAULT_STRATEGY, Scope.STRATEGY, {})
    symbol_default = whole(DEFAULT_SYMBOL, Scope.SYMBOL, {})
    own: dict[int, tuple[Scope, dict[str, str]]] = {}
    for key in shared.limits:
        if key in (Scope.GLOBAL.name, account, DEFAULT_STRATEGY, DEFAULT_SYMBOL):
            continue
        try:
            scope, name = split_key(key)
            row = names.row(scope, name)
        except LimitError:
            continue
        base = symbol_default if scope is Scope.SYMBOL else strategy_default
        own[row] = (scope, whole(key, scope, base))
    if faults:
        raise LimitError(faults)
    for row, limits in wide.items():
        fill_row(rows, row, Scope.GLOBAL, limits)
    fill_row(rows, 1, Scope.STRATEGY, strategy_default)
    _copy_limits(rows, 1, slice(1, ACCOUNT_ROW))
    fill_row(rows, FIRST_SYMBOL_ROW, Scope.SYMBOL, symbol_default)
    _copy_limits(rows, FIRST_SYMBOL_ROW, slice(FIRST_SYMBOL_ROW, None))
    for row, (scope, limits) in own.items():
        fill_row(rows, row, scope, limits)
    for switches in (shared.states, overlay):
        for key, switch in switches.items():
            try:
                row = names.row(*split_key(key))
            except LimitError:
                continue
            rows["state"][row] = max(int(rows["state"][row]), switch.state)
    return rows


def _copy_limits(rows: Limits, source: int, target: slice) -> None:
    for field in FIELDS.values():
        rows[field.column][target] = rows[field.column][source]


class Sync:
    """Keeps the group ``limits`` of a side page equal to what Redis says, and the lease alive."""

    def __init__(
        self,
        store: Store,
        names: Names,
        side: Page,
        lease_ms: int,
        hot_page: Callable[[], Page | None] = lambda: None,
    ) -> None:
        self.store = store
        self.names = names
        self.shared = Shared()
        self.pending: dict[str, Switch] = {}
        self.fault: str | None = "not synchronised yet"
        self._rows = side["limits"]
        self._control = side["control"]
        self._lock = SeqLock(self._control, Control.VERSION)
        self._lease_ns = lease_ms * 1_000_000
        self._hot_page = hot_page
        # What is said to Redis is said by one at a time: a kill must not be undone by a read that began before it.
        self._talking = asyncio.Lock()
        self._handled = np.zeros(len(names.table), dtype=np.int64)
        self._stored_positions: npt.NDArray[np.int64] | None = None

    async def start(self, defaults: Mapping[str, Mapping[str, str]]) -> None:
        """First synchronisation. Raises StoreError or LimitError: trading does not begin on unknown limits."""
        begun = now_ns()
        await self.store.seed(defaults, {}, "limits of the configuration")
        self._take(await self.store.read())
        self._renew(begun)

    async def step(self) -> None:
        """One round; what goes wrong is in `fault` afterwards and the lease is not renewed."""
        begun = now_ns()
        try:
            async with self._talking:
                await self._alarms()
                await self._push_pending()
                changed, now = self._changed_positions()
                version = await self.store.poll(changed)
                self._stored_positions = now
                if version is None or version < self.shared.version:
                    await self._restore()
                elif version > self.shared.version:
                    self._take(await self.store.read())
        except StoreError as error:
            self.fault = f"Redis: {error}"
        except LimitError as error:
            self.fault = f"Redis holds limits that cannot be used: {'; '.join(error.faults)}"
        else:
            self._renew(begun)

    def _renew(self, begun_ns: int) -> None:
        # Counted from before the question: an answer that took long is as old as its question.
        self._control[Control.LEASE_UNTIL_NS] = begun_ns + self._lease_ns
        self.fault = None

    @property
    def lease_left_ms(self) -> float:
        """How long the hot process goes on without another round trip; negative when it refuses already."""
        return (int(self._control[Control.LEASE_UNTIL_NS]) - now_ns()) / 1e6

    def _take(self, shared: Shared) -> None:
        rows = rows_of(shared, self.names, self.pending)
        self.shared = shared
        self._publish(rows)

    def _publish(self, rows: Limits) -> None:
        rows["trips_handled"][FIRST_SYMBOL_ROW:] = self._handled
        if rows.tobytes() != self._rows.tobytes():
            with self._lock:
                self._rows[:] = rows

    async def _restore(self) -> None:
        """Redis came back without what it had: what is in force here is written back before anything is read."""
        await self.store.raise_version(self.shared.version)
        await self.store.seed(self.shared.limits, self.shared.states, "Redis lost its data", overwrite=True)
        self._stored_positions = None
        self._take(await self.store.read())

    async def _push_pending(self) -> None:
        for key, switch in list(self.pending.items()):
            stored = await self.store.set_state(key, switch)
            # In force from both sides until the store is read again.
            self.shared.states[key] = stored
            self.pending.pop(key)

    async def _alarms(self) -> None:
        page = self._hot_page()
        if page is None:
            return
        trips = page["live"]["trips"][FIRST_SYMBOL_ROW:].copy()
        for index in np.nonzero(trips > self._handled)[0]:
            key = f"SYMBOL:{self.names.table.symbols[index]}"
            reason = "fill after its cancel, of more than was open, or beyond its limit"
            self._trip(key, Switch(TradingState.REDUCING, reason, "risk"))
            await self._push_pending()
            self._handled[index] = trips[index]
            self._publish(self._rows.copy())

    def _changed_positions(self) -> tuple[dict[str, str], npt.NDArray[np.int64] | None]:
        """(What differs from what Redis has, as stored there; figures that Redis has then)."""
        page = self._hot_page()
        if page is None or not page["core"][Core.READY]:
            return {}, self._stored_positions
        live = page["live"][FIRST_SYMBOL_ROW:]
        now = np.stack([live[name] for name in POSITION_FIELDS], axis=1)
        before = self._stored_positions
        changed = range(len(now)) if before is None else np.nonzero((now != before).any(axis=1))[0]
        at = {"at": datetime.now(UTC).isoformat(timespec="milliseconds")}
        return {
            self.names.table.symbols[i]: json.dumps(dict(zip(POSITION_FIELDS, now[i].tolist(), strict=True)) | at)
            for i in changed
        }, now

    def _trip(self, key: str, switch: Switch) -> None:
        """Put a state in force here and now, and keep it until Redis has it."""
        row = self.names.row(*split_key(key))
        if self._rows["state"][row] < switch.state:
            with self._lock:
                self._rows["state"][row] = switch.state
        if key not in self.pending or self.pending[key].state < switch.state:
            self.pending[key] = switch

    async def kill(self, key: str, state: TradingState, reason: str, who: str) -> tuple[Switch, bool]:
        """Trip a kill switch: in force before Redis is asked. Returns the switch in force and whether it is stored.

        Raises LimitError when there is no such scope.
        """
        switch = Switch(state, reason, who)
        self._trip(key, switch)
        try:
            async with self._talking:
                await self._push_pending()
        except StoreError:
            return self.pending.get(key, switch), False
        return self.shared.states[key], True

    async def rearm(self, key: str, state: TradingState, reason: str, who: str) -> Switch:
        """Lift a kill switch. Raises StoreError when Redis is away: nothing is lifted then."""
        async with self._talking:
            await self._push_pending()
            switch = await self.store.set_state(key, Switch(state, reason, who), rearm=True)
            self._take(await self.store.read())
        return switch

    async def set_limits(
        self, scope: Scope, name: str, given: Mapping[str, Any], reason: str, who: str
    ) -> dict[str, str]:
        """Change limits; in force when this returns. Raises LimitError with every fault, StoreError."""
        key = self.names.key(scope, name)
        clean = check_limits(scope, given, whole=False, where=key)
        if not clean:
            raise LimitError([f"{key}: no limit is given; there are {', '.join(fields_of(scope))}"])
        async with self._talking:
            await self.store.set_limits(key, clean, who, reason)
            self._take(await self.store.read())
        return self.shared.limits[key]

    def effective(self, row: int) -> dict[str, str]:
        """Limits of a row as the hot process has them, in the unit of people."""
        scope = split_key(self.names.key_of_row(row))[0]
        result: dict[str, str] = {}
        for name in fields_of(scope):
            field = FIELDS[name]
            value = int(self._rows[row][field.column])
            number = format((Decimal(value) / field.scale).normalize(), "f")
            result[name] = UNLIMITED_WORD if value >= UNLIMITED else number
        return result

    def states(self) -> dict[str, dict[str, Any]]:
        """Every trading state that was ever set, with who set it, and whether Redis has it."""
        merged: dict[str, tuple[Switch, bool]] = {key: (switch, True) for key, switch in self.shared.states.items()}
        for key, switch in self.pending.items():
            if key not in merged or merged[key][0].state < switch.state:
                merged[key] = (switch, False)
        return {
            key: {
                "state": switch.state.name,
                "reason": switch.reason,
                "who": switch.who,
                "at": switch.at,
                "stored": stored,
            }
            for key, (switch, stored) in sorted(merged.items())
        }
