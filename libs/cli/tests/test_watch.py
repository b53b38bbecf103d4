"""What `top` and the live view of `demo` read from the pages of a system."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from tickpath.cli.watch import View, Watch
from tickpath.common.instruments import make_table
from tickpath.common.pages import create_side_page
from tickpath.risk.limits import FIRST_SYMBOL_ROW, GLOBAL_ROW, LIMIT, TradingState, new_rows

TABLE = make_table([(f"S{n}", "0.01", 1, 1, 1, "USD") for n in range(9)])


def text_of(view: View) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(view.render())
    return out.getvalue()


def test_kill_switches_that_are_tripped_are_seen(tmp_path: Path) -> None:
    rows = new_rows(TABLE)
    rows["state"] = TradingState.ACTIVE
    page = create_side_page(tmp_path, "risk", {"limits": (LIMIT, (len(rows),))})
    page["limits"][:] = rows
    watch, view = Watch(tmp_path, ("risk",), lambda: TABLE), View("test")

    view.add(watch.sample())
    assert "cpu %" in text_of(view)
    assert "HALTED" not in text_of(view)
    page["limits"]["state"][GLOBAL_ROW] = TradingState.REDUCING
    page["limits"]["state"][[7, FIRST_SYMBOL_ROW + 2]] = TradingState.HALTED
    view.add(watch.sample())
    assert watch.sample().switches == {"GLOBAL": "REDUCING", "STRATEGY:7": "HALTED", "SYMBOL:S2": "HALTED"}
    text = text_of(view)
    assert all(word in text for word in ("GLOBAL", "REDUCING", "STRATEGY:7", "SYMBOL:S2"))

    page["limits"]["state"][FIRST_SYMBOL_ROW:] = TradingState.HALTED
    view.add(watch.sample())
    assert "and 5 more" in text_of(view)
