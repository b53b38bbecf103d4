"""The life cycle of an order: one transition table, from which the kernels, the checks and the docs are made.

What an event does depends on the state of the order and on what is left of it *after* the event (`Progress`). An
illegal transition leaves the state as it is and is counted. One event has an effect even then: a fill is a trade
that the venue made, so its lots count in the position whatever the order's state is.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from tickpath.common.records import FIRST_TERMINAL_STATE, ExecEvent, OrderState

ILLEGAL: Final = 255


class Progress(IntEnum):
    """What is left of an order after an event."""

    UNFILLED = 0  # lots are open, none is filled
    PARTIAL = 1  # lots are open, some are filled
    DONE = 2  # nothing is open


class Refusal(IntEnum):
    """Why an order was never sent: ``reason`` of a NOT_SENT report. The venue's own codes are below 0x8000."""

    NOT_CONNECTED = 0x8001  # no session with the venue, or it is not reconciled yet
    DRAINING = 0x8002  # the service is about to stop
    PAUSED = 0x8003  # by the operator
    VENUE_CLOSED = 0x8004  # the venue announced the end of its day
    MISMATCH = 0x8005  # journal and venue contradict each other: a person has to look
    BAD_ORDER = 0x8006  # unknown instrument, side or time in force; quantity or price outside of the venue's range
    POOL_FULL = 0x8007  # too many open orders
    DAY_FULL = 0x8008  # too many orders today
    JOURNAL_FULL = 0x8009  # no room to journal it (disk full)
    SEND_BUFFER_FULL = 0x800A  # the venue does not read what is sent
    NEVER_ARRIVED = 0x800B  # the session broke, and the venue says that it never saw the order


#: The state of an open order as its fills say.
_OPEN: Final = -1

_S = OrderState
_E = ExecEvent

#: (state, event) -> (state while lots are open, state when nothing is open); None: illegal.
_RULES: Final[dict[tuple[OrderState, ExecEvent], tuple[int | None, int | None]]] = {
    (_S.NONE, _E.SEND): (_S.PENDING_NEW, None),
    (_S.NONE, _E.NOT_SENT): (None, _S.REJECTED),
    (_S.PENDING_NEW, _E.ACKNOWLEDGED): (_OPEN, None),
    (_S.PENDING_NEW, _E.FILL): (_OPEN, _S.FILLED),
    (_S.PENDING_NEW, _E.CANCEL_SENT): (_S.PENDING_CANCEL, None),
    (_S.PENDING_NEW, _E.CANCELLED): (_OPEN, _S.CANCELLED),
    (_S.PENDING_NEW, _E.VENUE_REJECT): (None, _S.REJECTED),
    (_S.PENDING_NEW, _E.DISCONNECT): (_S.UNKNOWN, None),
    (_S.NEW, _E.FILL): (_OPEN, _S.FILLED),
    (_S.NEW, _E.CANCEL_SENT): (_S.PENDING_CANCEL, None),
    (_S.NEW, _E.CANCELLED): (_OPEN, _S.CANCELLED),
    (_S.NEW, _E.DISCONNECT): (_S.UNKNOWN, None),
    (_S.PARTIALLY_FILLED, _E.FILL): (_OPEN, _S.FILLED),
    (_S.PARTIALLY_FILLED, _E.CANCEL_SENT): (_S.PENDING_CANCEL, None),
    (_S.PARTIALLY_FILLED, _E.CANCELLED): (_OPEN, _S.CANCELLED),
    (_S.PARTIALLY_FILLED, _E.DISCONNECT): (_S.UNKNOWN, None),
    (_S.PENDING_CANCEL, _E.ACKNOWLEDGED): (_S.PENDING_CANCEL, None),
    (_S.PENDING_CANCEL, _E.FILL): (_S.PENDING_CANCEL, _S.FILLED),
    (_S.PENDING_CANCEL, _E.CANCELLED): (_S.PENDING_CANCEL, _S.CANCELLED),
    (_S.PENDING_CANCEL, _E.VENUE_REJECT): (None, _S.REJECTED),
    (_S.PENDING_CANCEL, _E.CANCEL_REJECT): (_OPEN, None),
    (_S.PENDING_CANCEL, _E.DISCONNECT): (_S.UNKNOWN, None),
    (_S.UNKNOWN, _E.ACKNOWLEDGED): (_OPEN, None),
    (_S.UNKNOWN, _E.FILL): (_OPEN, _S.FILLED),
    (_S.UNKNOWN, _E.CANCEL_SENT): (_S.UNKNOWN, None),  # wanted now, sent when the session is back
    (_S.UNKNOWN, _E.CANCELLED): (_OPEN, _S.CANCELLED),
    (_S.UNKNOWN, _E.VENUE_REJECT): (None, _S.REJECTED),
    (_S.UNKNOWN, _E.NOT_SENT): (None, _S.REJECTED),
    (_S.UNKNOWN, _E.CANCEL_REJECT): (_OPEN, None),
    (_S.UNKNOWN, _E.RECONCILED): (_OPEN, None),
}


def _table() -> npt.NDArray[np.uint8]:
    table = np.full((len(Progress), len(OrderState), len(ExecEvent) + 1), ILLEGAL, dtype=np.uint8)
    of_open = {Progress.UNFILLED: OrderState.NEW, Progress.PARTIAL: OrderState.PARTIALLY_FILLED}
    for (state, event), (while_open, when_done) in _RULES.items():
        for progress, by_fills in of_open.items():
            unfilled_fill = event == ExecEvent.FILL and progress == Progress.UNFILLED
            if while_open is not None and not unfilled_fill:
                table[progress, state, event] = by_fills if while_open == _OPEN else while_open
        if when_done is not None:
            table[Progress.DONE, state, event] = when_done
    table.flags.writeable = False
    return table


#: uint8[Progress, OrderState, ExecEvent] -> OrderState or ILLEGAL. The only statement of the life cycle there is.
TRANSITIONS: Final = _table()


def next_state(state: int, event: int, progress: int) -> OrderState | None:
    """State after `event`, None when it is illegal."""
    code = int(TRANSITIONS[progress, state, event])
    return None if code == ILLEGAL else OrderState(code)


def is_terminal(state: int) -> bool:
    """Whether nothing can be open any more."""
    return state >= FIRST_TERMINAL_STATE


def as_markdown() -> str:
    """The table as it stands in docs/exec.md: states down, events across; several results by `Progress`."""
    events = list(ExecEvent)
    lines = [
        "| state | " + " | ".join(event.name for event in events) + " |",
        "| --- |" + " --- |" * len(events),
    ]
    for state in OrderState:
        cells = []
        for event in events:
            by_progress = [next_state(state, event, progress) for progress in Progress]
            names = list(dict.fromkeys(result.name for result in by_progress if result is not None))
            cells.append(" / ".join(names))
        lines.append(f"| {state.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
