"""The exchange's side process: its HTTP endpoints. Imports no Numba."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from tickpath.common.config import Config, SimConfig
from tickpath.common.instruments import InstrumentError, load_instruments
from tickpath.common.pages import Command, Fields, Page, command, read_text
from tickpath.common.process import StartError
from tickpath.common.service import Service
from tickpath.sim.layout import LIVE_STATUS, Counter, Fault, OrderStatus

_EVERY = Field(default=0, ge=0, description="spoil every n-th packet, on both lines; 0: none")
_PPM = Field(default=0, ge=0, le=1_000_000, description="parts per million of the packets, by seed")


class FaultRequest(BaseModel):
    """Faults to inject from now on; what is not named is off. `disconnect` happens once, now."""

    model_config = ConfigDict(extra="forbid")

    drop_every: int = _EVERY
    duplicate_every: int = _EVERY
    reorder_every: int = _EVERY
    truncate_every: int = _EVERY
    garbage_every: int = _EVERY
    loss_a_ppm: int = _PPM
    loss_b_ppm: int = _PPM
    duplicate_a_ppm: int = _PPM
    duplicate_b_ppm: int = _PPM
    reorder_a_ppm: int = _PPM
    reorder_b_ppm: int = _PPM
    delay_a_ppm: int = _PPM
    delay_b_ppm: int = _PPM
    delay_us: int = Field(default=1000, ge=0, le=1_000_000, description="longest delay")
    loss_retransmission_ppm: int = _PPM
    seed: int | None = Field(default=None, ge=0, le=2**62, description="without it that of the configuration")
    refuse_login: bool = False
    disconnect: bool = False


def configured_faults(options: SimConfig) -> npt.NDArray[np.int64]:
    """Faults that are there from the start, int64[len(Fault)]."""
    faults = np.zeros(len(Fault), np.int64)
    faults[Fault.SEED] = options.fault_seed
    faults[Fault.DELAY_US] = options.delay_us
    for share, kinds in (
        (options.loss_a, (Fault.LOSS_A_PPM,)),
        (options.loss_b, (Fault.LOSS_B_PPM,)),
        (options.duplicate, (Fault.DUPLICATE_A_PPM, Fault.DUPLICATE_B_PPM)),
        (options.reorder, (Fault.REORDER_A_PPM, Fault.REORDER_B_PPM)),
        (options.delay, (Fault.DELAY_A_PPM, Fault.DELAY_B_PPM)),
        (options.loss_retransmission, (Fault.LOSS_RETRANSMISSION_PPM,)),
    ):
        faults[list(kinds)] = round(share * 1_000_000)
    return faults


class SimService(Service):
    """A simulated exchange: market data out over MoldUDP64, orders in over OUCH, one clock for both."""

    name: ClassVar[str] = "sim"

    @classmethod
    def side_fields(cls, config: Config) -> Fields:
        """Faults on request."""
        del config
        return {"faults": ("<i8", (len(Fault),))}

    def set_up(self) -> None:
        """Faults of the configuration; check the instrument table and the data files before anything is started."""
        self.side["faults"][:] = configured_faults(self.config.sim)
        try:
            load_instruments(self.config.instruments)
        except InstrumentError as error:
            raise StartError(str(error)) from None
        missing = [str(path) for path in self.config.sim.data if not path.is_file()]
        if missing:
            msg = f"sim.data: there is no such file: {', '.join(missing)}"
            raise StartError(msg)

    def status(self) -> dict[str, Any]:
        """What is played, and the venue's books."""
        page = self._sim_page()
        if page is None:
            return {}
        counters = page["counters"]
        feed = self.config.feed
        state = "finished" if counters[Counter.FINISHED] else "playing" if counters[Counter.PLAYING] else "stopped"
        return {
            "source": read_text(page, "source"),
            "market_data": state,
            "waiting_for": read_text(page, "lockstep"),
            "next_sequence": int(counters[Counter.NEXT_SEQUENCE]),
            "line_a": f"{feed.host}:{feed.port}",
            "line_b": _address(feed.line_b_host, feed.line_b_port),
            "retransmissions": _address(feed.retransmission_host, feed.retransmission_port),
            "snapshots": _address(feed.snapshot_host, feed.snapshot_port),
            "positions": _by_symbol(page, "positions"),
            "open_orders": _by_symbol(page, "open_orders"),
            **_live(self.config),
            "faults": {fault.name.lower(): int(self.side["faults"][fault]) for fault in Fault},
        }

    def add_routes(self, app: FastAPI, guard: Any) -> None:
        """The venue's books, starting and stopping, faults."""

        @app.get("/positions", tags=["sim"])
        def positions() -> dict[str, dict[str, int]]:
            """Lots bought, sold and net per symbol that has traded, over all clients."""
            page = self._needed_page()
            columns = {name: _by_symbol(page, name) for name in ("bought_lots", "sold_lots", "positions")}
            symbols = [s for s in page.meta["symbols"] if s in columns["bought_lots"] or s in columns["sold_lots"]]
            return {s: {name: values.get(s, 0) for name, values in columns.items()} for s in symbols}

        @app.get("/orders", tags=["sim"])
        def orders(
            status: str = Query("live", pattern="^(live|filled|cancelled|replaced|all)$"),
            limit: int = Query(1000, ge=1, le=65536),
        ) -> list[dict[str, Any]]:
            """The venue's view of the orders, newest first; dead ones as far as it remembers them."""
            return _orders(self._needed_page(), status, limit)

        @app.post("/control/start", tags=["control"], dependencies=[guard])
        def start() -> dict[str, Any]:
            """Begin to play, or go on."""
            return {"command": command(self.side, Command.START)}

        @app.post("/control/stop", tags=["control"], dependencies=[guard])
        def stop() -> dict[str, Any]:
            """Send no more market data but heartbeats; orders are still served."""
            return {"command": command(self.side, Command.STOP)}

        @app.post("/control/fault", tags=["control"], dependencies=[guard])
        def fault(request: FaultRequest) -> dict[str, int]:
            """Go wrong, or (empty request) be an honest exchange again."""
            faults = self.side["faults"]
            wanted = request.model_dump()
            if request.seed is None:
                wanted["seed"] = self.config.sim.fault_seed
            for one in Fault:
                if one is not Fault.DISCONNECT:
                    faults[one] = int(wanted[one.name.lower()])
            faults[Fault.DISCONNECT] += request.disconnect
            return {one.name.lower(): int(faults[one]) for one in Fault}

    def _sim_page(self) -> Page | None:
        page = self.page()
        return page if page is not None and "positions" in page else None

    def _needed_page(self) -> Page:
        page = self._sim_page()
        if page is None:
            raise HTTPException(503, "the hot process is not there yet")
        return page


def _address(host: str, port: int | None) -> str:
    return "" if port is None else f"{host}:{port}"


def _live(config: Config) -> dict[str, Any]:
    """What the reader of a live market has counted, once it has."""
    if config.sim.live is None:
        return {}
    try:
        return {"live": json.loads((config.run_dir / LIVE_STATUS).read_bytes())}
    except (OSError, ValueError):
        return {"live": {}}


def _by_symbol(page: Page, field: str) -> dict[str, int]:
    """An array per instrument without its zeroes."""
    return {s: n for s, n in zip(page.meta["symbols"], page[field].tolist(), strict=True) if n}


def _orders(page: Page, status: str, limit: int) -> list[dict[str, Any]]:
    table = page["orders"].copy()
    wanted = (
        table["status"] != OrderStatus.FREE if status == "all" else table["status"] == OrderStatus[status.upper()]
    )
    chosen = table[wanted]
    chosen = chosen[chosen["order_ref"].argsort()[::-1][:limit]]
    symbols = page.meta["symbols"]
    return [
        {
            "order_ref": int(order["order_ref"]),
            "cl_ord_id": order["cl_ord_id"].decode("latin-1").strip(),
            "user_ref": int(order["user_ref"]),
            "symbol": symbols[order["instrument"]],
            "side": chr(order["side"]),
            "tif": chr(order["tif"]),
            "price": f"{int(order['price4']) / 10_000:.4f}",
            "qty_lots": int(order["qty_lots"]),
            "executed_lots": int(order["executed_lots"]),
            "leaves_lots": int(order["leaves_lots"]),
            "ahead_lots": int(order["ahead_lots"]),
            "status": OrderStatus(int(order["status"])).name.lower(),
        }
        for order in chosen
    ]
