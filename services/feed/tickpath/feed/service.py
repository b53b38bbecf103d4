"""feed's side process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, ClassVar, Final

import numpy as np
from fastapi import FastAPI, HTTPException, Query
from prometheus_client.core import GaugeMetricFamily, Metric

from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.instruments import InstrumentError, InstrumentTable, load_instruments
from tickpath.common.pages import Command, Fields, Page, command, read_text
from tickpath.common.process import StartError
from tickpath.common.records import NO_PRICE_TICKS, TickFlag
from tickpath.common.service import Service
from tickpath.feed.layout import (
    DEPTH_LEVELS,
    Channel,
    ChannelState,
    DepthWord,
    Detail,
    InstrumentFlag,
    Line,
    LineWord,
    Suspect,
    Watch,
)

_LETTERS: Final = frozenset(
    {
        Detail.MARKET_CATEGORY, Detail.FINANCIAL_STATUS, Detail.SHORT_SALE_THRESHOLD, Detail.LULD_TIER,
        Detail.IMBALANCE_DIRECTION, Detail.CROSS_TYPE, Detail.RETAIL_INTEREST,
    }
)  # fmt: skip
_LOOK_S: Final = 0.005
_LOOKS: Final = 200


class FeedService(Service):
    """Market data in, ticks out."""

    name: ClassVar[str] = "feed"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.table: InstrumentTable
        self._looking = asyncio.Lock()

    def set_up(self) -> None:
        """Check the instrument table before anything is started."""
        try:
            self.table = load_instruments(self.config.instruments)
        except InstrumentError as error:
            raise StartError(str(error)) from None

    @classmethod
    def side_fields(cls, config: Config) -> Fields:
        """Whose book is to be shown."""
        del config
        return {"watch": ("<i8", (len(Watch),))}

    def channel(self) -> dict[str, Any]:
        """State of the market data channel."""
        page = self.page()
        if page is None or "channel" not in page:
            return {"state": "waiting"}
        channel = page["channel"].tolist()
        age_ns = now_ns() - channel[Channel.LAST_RECV_NS]
        heard = channel[Channel.EXPECTED_SEQ] > 0
        low, high = channel[Channel.SESSION_LOW], channel[Channel.SESSION_HIGH]
        session = low.to_bytes(8, "big", signed=True) + high.to_bytes(2, "big")
        return {
            "state": ChannelState(channel[Channel.STATE]).name.lower(),
            "session": session.decode("ascii", "replace").strip() if heard else None,
            "next_seq": channel[Channel.EXPECTED_SEQ],
            "missing": max(0, channel[Channel.KNOWN_SEQ] - channel[Channel.EXPECTED_SEQ]),
            "packets_waiting": channel[Channel.HELD],
            "age_ms": round(age_ns / 1e6, 1) if heard else None,
            "suspect": [bit.name for bit in Suspect if channel[Channel.SUSPECT] & bit],
            "suspect_instruments": [self.table.symbols[i] for i in np.flatnonzero(page["suspect"])[:20]],
            "last_gap": [channel[Channel.GAP_FROM_SEQ], channel[Channel.GAP_TO_SEQ]],
            "system_event": chr(channel[Channel.EVENT_CODE]) if channel[Channel.EVENT_CODE] else None,
            "circuit_breaker": {
                "levels": [f"{channel[Channel.MWCB_LEVEL_1_E8 + k] / 1e8:.2f}" for k in range(3)],
                "breached": channel[Channel.MWCB_BREACHED] or None,
            },
            "trouble": read_text(page, "trouble") or None,
        }

    def lines(self) -> dict[str, dict[str, int]]:
        """What each line has brought, those that were heard or opened."""
        page = self.page()
        if page is None or "lines" not in page:
            return {}
        rows = page["lines"].tolist()
        return {
            line.name.lower(): {word.name.lower(): rows[line][word] for word in LineWord}
            for line in Line
            if rows[line][LineWord.DATAGRAMS] or rows[line][LineWord.RECEIVE_BUFFER_BYTES]
        }

    def not_ready(self) -> list[str]:
        """Whether the market is not heard any more; before it opens and after its end that is as it should be."""
        page = self.page()
        if page is None or "channel" not in page:
            return []
        channel = page["channel"]
        if channel[Channel.STATE] != ChannelState.STALE or channel[Channel.CLOSED]:
            return []
        return [f"the market data channel is stale: {read_text(page, 'trouble')}"]

    def status(self) -> dict[str, Any]:
        """Channel, lines and instruments."""
        shown: dict[str, Any] = {"channel": self.channel(), "lines": self.lines(), "instruments": len(self.table)}
        page = self.page()
        if self.config.feed.source == "text" and page is not None and "text" in page:
            shown["text"] = {name: int(n) for name, n in zip(page.meta["text"], page["text"], strict=True)}
        return shown

    def metrics(self) -> Iterable[Metric]:
        """Each line's counters, and the state of the channel as a number."""
        for word in LineWord:
            name = f"tickpath_feed_line_{word.name.lower()}"
            metric = GaugeMetricFamily(name, f"{word.name.lower()} of a market data line", labels=["line"])
            for line, values in self.lines().items():
                metric.add_metric([line], values[word.name.lower()])
            yield metric
        page = self.page()
        state = int(page["channel"][Channel.STATE]) if page is not None and "channel" in page else 0
        names = ", ".join(f"{one.value} {one.name.lower()}" for one in ChannelState)
        yield GaugeMetricFamily("tickpath_feed_channel_state", f"state of the channel: {names}", value=state)

    async def _depth(self, page: Page, instrument: int) -> int:
        """Have the hot process show the book of an instrument; the number that its next message will have."""
        async with self._looking:
            watch = self.side["watch"]
            number = int(watch[Watch.NUMBER]) + 1
            watch[Watch.INSTRUMENT] = instrument
            watch[Watch.NUMBER] = number
            words = page["depth_words"]
            for _ in range(_LOOKS):
                if words[DepthWord.ANSWERED] == number:
                    return int(words[DepthWord.NEXT_SEQ])
                await asyncio.sleep(_LOOK_S)
        raise HTTPException(503, f"the hot process did not show the book within {_LOOKS * _LOOK_S:g} s")

    def add_routes(self, app: FastAPI, guard: Any) -> None:
        """Last tick of an instrument; the decision to trust the books after a gap."""

        def look_up(symbol: str) -> tuple[Page, int]:
            page = self.page()
            if symbol not in self.table.ids:
                raise HTTPException(404, f"no instrument {symbol!r}; there are {len(self.table)} in the table")
            if page is None or "marks" not in page:
                raise HTTPException(503, "the hot process is not there yet")
            return page, self.table.id_of(symbol)

        @app.get("/book/{symbol}", tags=["feed"])
        async def book(symbol: str, levels: int = Query(10, ge=1, le=DEPTH_LEVELS)) -> dict[str, Any]:
            """The best levels of a book, prices as decimals; a consistent picture of one moment."""
            page, instrument = look_up(symbol)
            next_seq = await self._depth(page, instrument)
            mark, words, depth = page["marks"][instrument], page["depth_words"], page["depth"]
            sides = {
                name: [
                    {
                        "price": str(self.table.price(instrument, level["price_ticks"])),
                        "lots": int(level["lots"]),
                        "orders": int(level["orders"]),
                    }
                    for level in depth[row, : min(levels, int(words[DepthWord.BIDS + row]))]
                ]
                for row, name in enumerate(("bids", "asks"))
            }
            return {
                "symbol": symbol,
                "channel": self.channel()["state"],
                "flags": [flag.name for flag in TickFlag if mark["flags"] & flag],
                "next_seq": next_seq,
                "volume": int(mark["volume_lots"]),
                **sides,
            }

        @app.get("/instruments/{symbol}", tags=["feed"])
        def instrument(symbol: str) -> dict[str, Any]:
            """What the exchange has said of an instrument beyond its book: halts, limits, imbalance, directory."""
            page, number = look_up(symbol)
            shown: dict[str, Any] = {"symbol": symbol}
            for detail, value in zip(Detail, page["details"][number].tolist(), strict=True):
                name = detail.name.lower()
                if name.endswith("_ticks"):
                    shown[name.removesuffix("_ticks")] = str(self.table.price(number, value)) if value else None
                elif detail in _LETTERS:
                    shown[name] = chr(value) if value else None
                else:
                    shown[name] = value
            shown["halted"] = [flag.name.lower() for flag in InstrumentFlag if page["halted"][number] & flag]
            shown["suspect"] = bool(page["suspect"][number])
            return shown

        @app.get("/ticks/{symbol}", tags=["feed"])
        def tick(symbol: str) -> dict[str, Any]:
            """Last tick of an instrument, prices as decimals."""
            page, instrument = look_up(symbol)
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
