"""``tickpath book``: the depth of one instrument, live, as feed's endpoint gives it."""

from __future__ import annotations

import contextlib
import http
import json
import sys
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from tickpath.cli.control import ControlError, Endpoint, System
from tickpath.cli.tap import Place, unknown_symbol

if TYPE_CHECKING:
    from rich.table import Table

_EVERY_S: Final = 0.25
_TRIES: Final = 5
_BAR: Final = 24  # characters of the longest bar
_FILLED: Final = "━"


class _UnknownSymbolError(ControlError):
    """Feed has no such instrument."""


def show_book(system: System, symbol: str, *, levels: int, once: bool, as_json: bool) -> int:
    """Print the ladder once, or live on a terminal; with `as_json` one line per look.

    Raises KeyboardInterrupt, ControlError, and InputError when there is no such instrument.
    """
    feed = system["feed"]
    try:
        book = _ask(feed, symbol, levels)
    except _UnknownSymbolError:
        raise unknown_symbol(symbol, Place(system).table) from None
    if as_json:
        with contextlib.suppress(BrokenPipeError):
            while True:
                sys.stdout.write(json.dumps(book) + "\n")
                sys.stdout.flush()
                if once:
                    break
                time.sleep(_EVERY_S)
                book = _ask(feed, symbol, levels)
        return 0
    from rich.console import Console  # noqa: PLC0415 - only for people

    console = Console()
    if once or not console.is_terminal:
        console.print(ladder(book, levels))
        return 0
    from rich.live import Live  # noqa: PLC0415

    with Live(ladder(book, levels), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(_EVERY_S)
            live.update(ladder(_ask(feed, symbol, levels), levels), refresh=True)
    return 0


def _ask(feed: Endpoint, symbol: str, levels: int) -> dict[str, Any]:
    """The book; asked for again while feed is too busy to show it. Raises ControlError, _UnknownSymbolError."""
    path = f"/book/{quote(symbol, safe='')}?levels={levels}"
    status, book = feed.request("GET", path)
    for _ in range(_TRIES):
        if status != http.HTTPStatus.SERVICE_UNAVAILABLE:
            break
        status, book = feed.request("GET", path)
    if status == http.HTTPStatus.NOT_FOUND:
        msg = f"feed has no instrument {symbol!r}"
        raise _UnknownSymbolError(msg)
    if status != http.HTTPStatus.OK:
        book = feed.ask("GET", path)  # which says what is wrong, unless it is not any more
    if not {"symbol", "bids", "asks"} <= book.keys():
        msg = f"feed answers /book/{symbol} with {', '.join(book)}; expected were symbol, bids and asks"
        raise ControlError(msg)
    found: dict[str, Any] = book
    return found


def ladder(book: dict[str, Any], levels: int) -> Table:
    """Offers above bids, the touch in the middle; always `levels` rows on each side, so that nothing jumps."""
    from rich import box  # noqa: PLC0415 - only for people
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    state = book.get("channel", "")
    flags = " ".join(book.get("flags", ()))
    color = {"live": "green", "recovering": "yellow"}.get(state, "red")
    title = Text.assemble((book["symbol"], "bold"), "  ", (state, color), "  ", (flags, "yellow"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", caption=_caption(book))
    for column, justify in (("orders", "right"), ("lots", "right"), ("", "left"), ("price", "right")):
        table.add_column(column, justify=justify, min_width=_BAR if column == "" else 10)  # type: ignore[arg-type]
    asks, bids = book["asks"][:levels], book["bids"][:levels]
    decimals = max((_decimals(level["price"]) for level in (*asks, *bids)), default=2)
    most = max((level["lots"] for level in (*asks, *bids)), default=1)
    for _ in range(levels - len(asks)):
        table.add_row("", "", "", "")
    for side, rows in (("red", reversed(asks)), ("green", bids)):
        if side == "green":
            table.add_section()
        for level in rows:
            price = f"{Decimal(level['price']):.{decimals}f}"
            bar = _FILLED * max(1, round(_BAR * level["lots"] / max(most, 1)))
            shown = Text(bar, style=side), Text(price, style=side)
            table.add_row(f"{level['orders']:,}", f"{level['lots']:,}", *shown)
    for _ in range(levels - len(bids)):
        table.add_row("", "", "", "")
    return table


def _decimals(price: str) -> int:
    """Digits behind the point that say something; two at least."""
    return max(2, len(price.partition(".")[2].rstrip("0")))


def _caption(book: dict[str, Any]) -> str:
    last = book.get("last")
    if isinstance(last, dict):
        last = f"{last.get('lots', '')} @ {last.get('price', '')}"
    return f"last {last}" if last else ""
