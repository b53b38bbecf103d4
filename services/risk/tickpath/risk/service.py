"""The side process of risk: Redis, the control lease, limits and kill switches over HTTP."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any, ClassVar

from fastapi import FastAPI
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tickpath.common.config import Config
from tickpath.common.instruments import InstrumentError, InstrumentTable, load_instruments
from tickpath.common.pages import Fields
from tickpath.common.process import StartError
from tickpath.common.service import Service
from tickpath.risk.admin import add_routes, positions, reject_counts
from tickpath.risk.limits import FIRST_SYMBOL_ROW, LIMIT, LimitError
from tickpath.risk.state import Core
from tickpath.risk.store import Store, StoreError, connect
from tickpath.risk.sync import Sync, default_limits, names_of


def _instruments(config: Config) -> InstrumentTable:
    try:
        return load_instruments(config.instruments)
    except InstrumentError as error:
        raise StartError(str(error)) from None


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


class RiskService(Service):
    """Pre-trade risk: limits, kill switches, positions."""

    name: ClassVar[str] = "risk"

    @classmethod
    def side_fields(cls, config: Config) -> Fields:
        """Limits and trading states of all scopes, the group under ``Control.VERSION``."""
        return {"limits": (LIMIT, (FIRST_SYMBOL_ROW + len(_instruments(config)),))}

    def set_up(self) -> None:
        """Read limits and states from Redis, so that the hot process begins with them. Raises StartError."""
        self.names = names_of(_instruments(self.config), self.config.signals.strategies)
        try:
            defaults = default_limits(self.config.risk)
        except LimitError as error:
            raise StartError(f"the limits of the configuration cannot be used:\n{error}") from None
        self.sync = Sync(self._store(), self.names, self.side, self.config.risk.control_lease_ms, self.page)

        async def first() -> None:
            try:
                await self.sync.start(defaults)
            finally:
                await self.sync.store.close()

        where = _without_password(self.config.redis.url)
        try:
            asyncio.run(first())
        except StoreError as error:
            msg = f"cannot use Redis at {where}: {error}; start it, or set redis.url (TICKPATH_REDIS__URL)"
            raise StartError(msg) from None
        except LimitError as error:
            raise StartError(f"Redis at {where} holds limits that cannot be used:\n{error}") from None

    def _store(self) -> Store:
        return Store(connect(self.config.redis), self.config.redis.key_prefix)

    async def background(self) -> None:
        """Synchronise every ``redis.sync_ms``."""
        self.sync.store = self._store()  # connections belong to the loop that made them
        pause_s = self.config.redis.sync_ms / 1000
        said: str | None = None
        try:
            while True:
                await self.sync.step()
                if self.sync.fault != said:
                    said = self.sync.fault
                    if said:
                        self.log.error("not synchronised", why=said)
                    else:
                        self.log.info("synchronised again", version=self.sync.shared.version)
                await asyncio.sleep(pause_s)
        finally:
            await self.sync.store.close()

    def add_routes(self, app: FastAPI, guard: Any) -> None:
        """Limits, kill switches, positions, refusals."""
        add_routes(app, guard, self.sync, self.page)

    def status(self) -> dict[str, Any]:
        """Store, switches, positions, refusals."""
        page = self.page()
        return {
            "redis": {
                "fault": self.sync.fault,
                "version": self.sync.shared.version,
                "lease_left_ms": round(self.sync.lease_left_ms, 1),
            },
            "switches": self._switches(),
            "positions_known": bool(
                page is not None and page["core"][Core.READY] and not page["core"][Core.OVERFLOW]
            ),
            "positions": positions(page, self.names.table.symbols),
            "risk_rejects": reject_counts(page),
        }

    def metrics(self) -> Iterable[Metric]:
        """Refusals by reason, positions, the lease."""
        page = self.page()
        rejects = CounterMetricFamily("tickpath_risk_rejects", "orders refused, by reason", labels=["reason"])
        for reason, count in reject_counts(page).items():
            rejects.add_metric([reason], count)
        yield rejects
        held = GaugeMetricFamily("tickpath_risk_position_lots", "signed position", labels=["symbol"])
        for symbol, figures in positions(page, self.names.table.symbols).items():
            held.add_metric([symbol], figures["position_lots"])
        yield held
        tripped = GaugeMetricFamily("tickpath_risk_kill_switch", "1: tripped", labels=["scope", "state"])
        for key, switch in self._switches().items():
            tripped.add_metric([key, switch["state"]], 1)
        yield tripped
        left = self.sync.lease_left_ms / 1000
        yield GaugeMetricFamily("tickpath_risk_lease_left_seconds", "control lease; below 0 nothing is opened", left)

    def _switches(self) -> dict[str, Any]:
        return {key: value for key, value in self.sync.states().items() if value["state"] != "ACTIVE"}

    def warnings(self) -> list[str]:
        """Kill switches that are tripped."""
        return [
            f"kill switch {key} is {switch['state']}" + (f": {switch['reason']}" if switch.get("reason") else "")
            for key, switch in self._switches().items()
        ]

    def not_ready(self) -> list[str]:
        """What keeps orders from being approved."""
        faults = [self.sync.fault] if self.sync.fault else []
        page = self.page()
        if page is not None and page["core"][Core.OVERFLOW]:
            faults.append("the reports of exec contradict what is known: positions are unknown, restart risk")
        elif page is not None and not page["core"][Core.READY]:
            faults.append("the journal of exec was not replayed yet")
        return faults
