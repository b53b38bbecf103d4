"""feed's side process."""

from __future__ import annotations

from typing import Any, ClassVar

from fastapi import FastAPI, HTTPException

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.instruments import InstrumentError, InstrumentTable, load_instruments
from tickpath.common.pages import Command, command
from tickpath.common.process import StartError
from tickpath.common.records import NO_PRICE_TICKS, TickFlag
from tickpath.common.service import Service
from tickpath.feed.layout import Channel

_STALE_NS = 3_000_000_000


class FeedService(Service):
    """Market data in, ticks out."""

    name: ClassVar[str] = "feed"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.table: InstrumentTable

    def set_up(self) -> None:
        """Check the instrument table before anything is started."""
        try:
            self.table = load_instruments(self.config.instruments)
        except InstrumentError as error:
            raise StartError(str(error)) from None

    def channel(self) -> dict[str, Any]:
        """State of the market data channel."""
        page = self.page()
        if page is None or "channel" not in page:
            return {"state": "waiting"}
        channel = page["channel"].tolist()
        age_ns = now_ns() - channel[Channel.LAST_RECV_NS]
        heard = channel[Channel.EXPECTED_SEQ] > 0
        session = channel[Channel.SESSION_LOW].to_bytes(8, "big") + channel[Channel.SESSION_HIGH].to_bytes(2, "big")
        return {
            "state": "waiting" if not heard else "stale" if age_ns > _STALE_NS else "live",
            "session": session.decode("ascii", "replace").strip() if heard else None,
            "next_seq": channel[Channel.EXPECTED_SEQ],
            "age_ms": round(age_ns / 1e6, 1) if heard else None,
            "suspect": bool(channel[Channel.SUSPECT]),
            "last_gap": [channel[Channel.GAP_FROM_SEQ], channel[Channel.GAP_TO_SEQ]],
        }

    def status(self) -> dict[str, Any]:
        """Channel and instruments."""
        return {"channel": self.channel(), "instruments": len(self.table)}

    def add_routes(self, app: FastAPI, guard: Any) -> None:
        """Last tick of an instrument; the decision to trust the books after a gap."""

        @app.get("/ticks/{symbol}", tags=["feed"])
        def tick(symbol: str) -> dict[str, Any]:
            """Last tick of an instrument, prices as decimals."""
            page = self.page()
            if symbol not in self.table.ids:
                raise HTTPException(404, f"no instrument {symbol!r}; there are {len(self.table)} in the table")
            if page is None or "marks" not in page:
                raise HTTPException(503, "the hot process is not there yet")
            instrument = self.table.id_of(symbol)
            mark = page["marks"][instrument].copy()
            shown: dict[str, Any] = {"symbol": symbol}
            for field in mark.dtype.names or ():
                value = int(mark[field])
                if field.endswith("_ticks"):
                    price = None if value == NO_PRICE_TICKS else str(self.table.price(instrument, value))
                    shown[field.removesuffix("_ticks")] = price
                elif field != "flags":
                    shown[field] = value
            shown["flags"] = [flag.name for flag in TickFlag if mark["flags"] & flag]
            return shown

        @app.post("/control/trust-books", tags=["control"], dependencies=[guard])
        def trust_books() -> dict[str, Any]:
            """Take SUSPECT off after a gap that was not repaired: a decision that a person makes."""
            return {"command": command(self.side, Command.START)}
