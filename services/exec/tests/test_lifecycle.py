"""The transition table, every cell of it, and that the kernel obeys it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.exec.tests.conftest import Desk, accepted, canceled, executed, new_order, rejected
from tickpath.common.protocols import ouch50
from tickpath.common.records import FIRST_TERMINAL_STATE, ExecEvent, OrderState
from tickpath.exec.layout import Counter, Reg
from tickpath.exec.lifecycle import TRANSITIONS, Progress, as_markdown, next_state

# What the table has to say, written down a second time, cell by cell: state -> event -> states by progress
# (unfilled, partly filled, done); "-" is illegal.
EXPECTED = {
    "NONE": {"SEND": "PENDING_NEW PENDING_NEW -", "NOT_SENT": "- - REJECTED"},
    "PENDING_NEW": {
        "ACKNOWLEDGED": "NEW PARTIALLY_FILLED -",
        "FILL": "- PARTIALLY_FILLED FILLED",
        "CANCEL_SENT": "PENDING_CANCEL PENDING_CANCEL -",
        "CANCELLED": "NEW PARTIALLY_FILLED CANCELLED",
        "VENUE_REJECT": "- - REJECTED",
        "DISCONNECT": "UNKNOWN UNKNOWN -",
    },
    "NEW": {
        "FILL": "- PARTIALLY_FILLED FILLED",
        "CANCEL_SENT": "PENDING_CANCEL PENDING_CANCEL -",
        "CANCELLED": "NEW PARTIALLY_FILLED CANCELLED",
        "DISCONNECT": "UNKNOWN UNKNOWN -",
    },
    "PARTIALLY_FILLED": {
        "FILL": "- PARTIALLY_FILLED FILLED",
        "CANCEL_SENT": "PENDING_CANCEL PENDING_CANCEL -",
        "CANCELLED": "NEW PARTIALLY_FILLED CANCELLED",
        "DISCONNECT": "UNKNOWN UNKNOWN -",
    },
    "PENDING_CANCEL": {
        "ACKNOWLEDGED": "PENDING_CANCEL PENDING_CANCEL -",
        "FILL": "- PENDING_CANCEL FILLED",
        "CANCELLED": "PENDING_CANCEL PENDING_CANCEL CANCELLED",
        "VENUE_REJECT": "- - REJECTED",
        "CANCEL_REJECT": "NEW PARTIALLY_FILLED -",
        "DISCONNECT": "UNKNOWN UNKNOWN -",
    },
    "UNKNOWN": {
        "ACKNOWLEDGED": "NEW PARTIALLY_FILLED -",
        "FILL": "- PARTIALLY_FILLED FILLED",
        "CANCEL_SENT": "UNKNOWN UNKNOWN -",
        "CANCELLED": "NEW PARTIALLY_FILLED CANCELLED",
        "VENUE_REJECT": "- - REJECTED",
        "NOT_SENT": "- - REJECTED",
        "CANCEL_REJECT": "NEW PARTIALLY_FILLED -",
        "RECONCILED": "NEW PARTIALLY_FILLED -",
    },
    "FILLED": {},
    "CANCELLED": {},
    "REJECTED": {},
}


@pytest.mark.parametrize("state", list(OrderState))
@pytest.mark.parametrize("event", list(ExecEvent))
def test_every_cell_says_what_is_written_here(state: OrderState, event: ExecEvent) -> None:
    expected = EXPECTED[state.name].get(event.name, "- - -").split()
    actual = [result.name if (result := next_state(state, event, p)) else "-" for p in Progress]
    assert actual == expected


def test_terminal_states_have_no_way_out_and_open_ones_come_first() -> None:
    terminal = [state for state in OrderState if not EXPECTED[state.name]]
    assert all(state >= FIRST_TERMINAL_STATE for state in terminal)
    assert all(state < FIRST_TERMINAL_STATE for state in OrderState if state not in terminal)


def test_nothing_is_open_after_a_terminal_state_and_something_before() -> None:
    done = TRANSITIONS[Progress.DONE]
    assert all(code == 255 or code >= FIRST_TERMINAL_STATE for code in done.ravel())
    assert all(code == 255 or code < FIRST_TERMINAL_STATE for code in TRANSITIONS[: Progress.DONE].ravel())


def test_the_documented_table_is_the_one_in_force() -> None:
    page = Path(__file__).parents[3] / "docs" / "exec.md"
    assert as_markdown() in page.read_text("utf-8")


@pytest.mark.parametrize("state", [s for s in OrderState if 0 < s < FIRST_TERMINAL_STATE])
@pytest.mark.parametrize("letter", "ACEJI")
def test_the_kernel_takes_each_message_as_the_table_says(desk: Desk, state: OrderState, letter: str) -> None:
    """One message of each kind in each open state: state, counter and journal follow the table."""
    desk.accept(new_order(1))
    desk.orders.pool[0]["state"] = state
    message, event, progress = {
        "A": (accepted(1), ExecEvent.ACKNOWLEDGED, Progress.UNFILLED),
        "C": (canceled(1, 40), ExecEvent.CANCELLED, Progress.UNFILLED),
        "E": (executed(1, 40), ExecEvent.FILL, Progress.PARTIAL),
        "J": (rejected(1), ExecEvent.VENUE_REJECT, Progress.DONE),
        "I": (ouch50.CANCEL_REJECT.encode(timestamp=1, user_ref_num=1), ExecEvent.CANCEL_REJECT, Progress.UNFILLED),
    }[letter]
    before = desk.orders.pool[0].copy()
    desk.receive(message)
    after = desk.orders.pool[0]
    expected = next_state(state, event, progress)
    if expected is None:
        assert np.array_equal(before, after)
        assert desk.orders.counters[Counter.ILLEGAL_TRANSITIONS] == 1
        assert divmod(int(desk.ctx[Reg.ILLEGAL_CELL]), 256) == (state, event)
        assert desk.ctx[Reg.NEXT_SEQ] == 2
    else:
        assert after["state"] == expected
        assert desk.orders.counters[Counter.ILLEGAL_TRANSITIONS] == 0
        assert desk.journal.read(2, 1)[0]["event"] == event
