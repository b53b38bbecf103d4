"""signals' side process."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, ClassVar

import numpy as np
from fastapi import FastAPI, HTTPException, Query

from tickpath.common.config import Config
from tickpath.common.instruments import InstrumentError, InstrumentTable, load_instruments
from tickpath.common.pages import Hot, Page, PageError
from tickpath.common.process import StartError
from tickpath.common.records import NO_PRICE_TICKS, TickFlag
from tickpath.common.service import Service
from tickpath.signals.layout import Memory, memory_page_path, plan_tables
from tickpath.signals.series import Series


class SignalsService(Service):
    """Strategies: what runs, what it owns, what it has seen."""

    name: ClassVar[str] = "signals"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.table: InstrumentTable
        self._memory_page: Page | None = None

    def set_up(self) -> None:
        """Check the instrument table before anything is started."""
        try:
            self.table = load_instruments(self.config.instruments)
        except InstrumentError as error:
            raise StartError(str(error)) from None

    def memory(self) -> tuple[Page, Memory] | None:
        """The memory of the present hot process, None before there is one."""
        page = self.page()
        if page is None:
            return None
        pid = int(page["hot"][Hot.PID])
        if self._memory_page is None or self._memory_page.meta["pid"] != pid:
            self._memory_page = None
            with contextlib.suppress(PageError):
                opened = Page.open(memory_page_path(self.config.run_dir))
                self._memory_page = opened if opened.meta["pid"] == pid else None
        if self._memory_page is None:
            return None
        meta = self._memory_page.meta
        plan, _ = plan_tables(len(self.table), meta["capacity"], len(meta["strategies"]))
        return self._memory_page, Memory(self._memory_page["memory"], plan)

    def strategies(self) -> list[dict[str, Any]]:
        """What runs, with its parameters and what it owns in each instrument where it has anything."""
        found = self.memory()
        if found is None:
            return []
        page, memory = found
        shown = []
        for described, own in zip(page.meta["strategies"], memory["own"].copy(), strict=True):
            owned = {}
            for i in np.flatnonzero((own["position_lots"] != 0) | (own["open_orders"] != 0)).tolist():
                fields = ("position_lots", "open_buy_lots", "open_sell_lots", "open_orders")
                owned[self.table.symbols[i]] = {name: int(own[name][i]) for name in fields}
            switched_off = [self.table.symbols[i] for i in np.flatnonzero(own["enabled"] < 0).tolist()]
            shown.append({**described, "owns": owned, "switched_off_by_a_fault": switched_off})
        return shown

    def status(self) -> dict[str, Any]:
        """Which strategies run and what they own."""
        names = ("id", "name", "owns", "switched_off_by_a_fault")
        return {"strategies": [{name: one[name] for name in names} for one in self.strategies()]}

    def add_routes(self, app: FastAPI, guard: Any) -> None:
        """Strategies and time series."""
        del guard

        @app.get("/strategies", tags=["signals"])
        def strategies() -> list[dict[str, Any]]:
            """Strategies with parameters, size of their state, and what they own."""
            return self.strategies()

        @app.get("/series/{symbol}", tags=["signals"])
        def series(symbol: str, n: Annotated[int, Query(ge=1, le=1 << 20)] = 20) -> dict[str, Any]:
            """The last n ticks that the strategies have seen of an instrument, oldest first, prices as decimals."""
            if symbol not in self.table.ids:
                raise HTTPException(404, f"no instrument {symbol!r}; there are {len(self.table)} in the table")
            found = self.memory()
            if found is None:
                raise HTTPException(503, "the hot process is not there yet")
            _, memory = found
            all_series = Series(memory["counts"], memory["points"])
            instrument = self.table.id_of(symbol)
            points = all_series.last(instrument, n)
            return {
                "symbol": symbol,
                "count": all_series.count(instrument),
                "capacity": all_series.capacity,
                "points": [self._shown(instrument, point) for point in points],
            }

    def _shown(self, instrument: int, point: Any) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for field in point.dtype.names:
            value = int(point[field])
            if field.endswith("_ticks"):
                price = None if value == NO_PRICE_TICKS else str(self.table.price(instrument, value))
                shown[field.removesuffix("_ticks")] = price
            elif field != "flags":
                shown[field] = value
        shown["flags"] = [flag.name for flag in TickFlag if int(point["flags"]) & flag]
        return shown
