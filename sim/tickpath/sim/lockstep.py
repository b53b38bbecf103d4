"""When the pipeline has finished with a datagram: read from the counters in the pages of its four hot processes.

A tape that is played in steps (``sim.speed = "step"``) goes like this, whichever lane the records take:

| phase | what the exchange does | it ends when |
| --- | --- | --- |
| JOIN | nothing | all four are READY and CONNECTED |
| DECIDE | sends one datagram, plays it to its book; keeps orders that come, and reports | `Lockstep.decided` |
| REPORT | executes the kept orders in order of arrival, sends all reports | `Lockstep.reported`: next datagram |

So every decision is made on the same market data and the same reports in every run: the pipeline decides as in
replay, with the exchange's answers in the loop.

Counters only grow, and are compared by how much they grew since the run began. For each stage the order of reading
matters: first that it has counted all its input, then that it is not ``Hot.BUSY``, then what it has put out. As BUSY
is set before input is taken and cleared after the output is counted, the last figure is complete.

A strategy learns of a refusal from the acknowledgement of its signal, not from a report. So a step in which risk has
refused something lasts until signals has no signal unanswered: about two heartbeats of the links.

A page whose process is not READY means: not finished. A process that is started anew in the middle of a run has lost
its share of the figures; the run then stands still, and `Lockstep.waiting` says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final

from tickpath.common.pages import Hot, HotState, Page, PageError, hot_page_path

#: What is read of each stage: counters, or scalars of risk.
COUNTED: Final[dict[str, tuple[str, ...]]] = {
    "feed": ("messages", "ticks", "ticks_held_by_pause"),
    "signals": ("ticks", "signals_new", "signals_cancel", "signals_unanswered", "reports"),
    "risk": ("ticks", "signals", "approved", "cancels", "rejected", "reports"),
    "exec": ("orders_received", "orders_sent", "cancels_sent", "venue_messages", "journal_entries"),
}

#: Arrays of counters in a page, named by lists in its meta. Of two counters of one name the later one counts.
_ARRAYS: Final = ("counters", "core")

_ALIVE_NS: Final = 1_000_000_000  # a loop that has not turned for so long is dead: its page is of an earlier run


class Phase(IntEnum):
    """Where a step is."""

    OFF = 0  # not played in steps, or not any more
    JOIN = 1
    DECIDE = 2
    REPORT = 3


class Peer:
    """The page of one hot process, opened again when another process has made a new one."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self.name: Final = name
        self._path = hot_page_path(run_dir, name)
        self._page: Page | None = None
        self._file = (0, 0)
        self._where: dict[str, tuple[str, int]] = {}
        self._base: dict[str, int] = {}
        self.restarted = False  # since `begin`
        self.refresh()

    def refresh(self) -> None:
        """Open the page that is there now, if it is not the one that is open."""
        try:
            found = self._path.stat()
        except OSError:
            self._page, self._file = None, (0, 0)
            return
        if (found.st_dev, found.st_ino) == self._file:
            return
        self.restarted = bool(self._base)
        self._page = None
        with contextlib.suppress(PageError):
            self._page = Page.open(self._path)
            self._file = (found.st_dev, found.st_ino)
            meta = self._page.meta
            self._where = {
                name: (array, index) for array in _ARRAYS for index, name in enumerate(meta.get(array, ()))
            }

    def begin(self) -> None:
        """Count from here on."""
        self._base = {name: self.now(name) for name in self._where}
        self.restarted = False

    def now(self, name: str) -> int:
        """A figure as it is in the page; for one that does not only grow."""
        array, index = self._where[name]
        return 0 if self._page is None else int(self._page[array][index])

    def __getitem__(self, name: str) -> int:
        """How much a counter has grown since `begin`; -1 for one that the page does not have."""
        return self.now(name) - self._base.get(name, 0) if name in self._where else -1

    def missing(self) -> list[str]:
        """What of `COUNTED` the page does not have."""
        return [name for name in COUNTED[self.name] if name not in self._where]

    @property
    def state(self) -> HotState:
        """Of the process; STARTING when there is no page."""
        return HotState.STARTING if self._page is None else HotState(int(self._page["hot"][Hot.STATE]))

    @property
    def idle(self) -> bool:
        """Whether all that it has counted as input has been worked on: READY, and not BUSY."""
        return self._page is not None and bool(
            self._page["hot"][Hot.STATE] == HotState.READY and not self._page["hot"][Hot.BUSY]
        )

    def joined(self, now_ns: int) -> bool:
        """Whether it is READY, turning, and says that everybody whom it needs is there."""
        if self._page is None:
            return False
        hot = self._page["hot"]
        turning = now_ns - int(hot[Hot.LAST_TURN_NS]) < _ALIVE_NS
        return turning and bool(hot[Hot.STATE] == HotState.READY and hot[Hot.CONNECTED])


class Lockstep:
    """Whether feed, signals, risk and exec on `run_dir` have finished; figures of the exchange are arguments."""

    def __init__(self, run_dir: Path) -> None:
        self._peers = {name: Peer(run_dir, name) for name in COUNTED}
        self.waiting = ""  # for what, at the last look; for people
        self._refused = 0  # by risk, up to the last step

    def refresh(self) -> None:
        """Look for new pages; to be called every few milliseconds."""
        for peer in self._peers.values():
            peer.refresh()

    def begin(self, now_ns: int) -> bool:
        """Count from here on, if all four are there; False if not."""
        for peer in self._peers.values():
            if peer.joined(now_ns) and (missing := peer.missing()):
                self.waiting = f"{peer.name} does not show {', '.join(missing)} in its page"
                return False
            if not peer.joined(now_ns):
                self.waiting = f"{peer.name} is {peer.state.name}, or not connected to all that it needs"
                return False
        for peer in self._peers.values():
            peer.begin()
        self.waiting, self._refused = "", 0
        return True

    @property
    def over(self) -> bool:
        """Whether one of the four is on its way out: it will not take another step."""
        return any(peer.state > HotState.READY for peer in self._peers.values())

    def decided(self, messages: int, requests: int) -> bool:
        """Whether all that follows from `messages` of market data is decided and here.

        `requests`: orders and cancels that have arrived. Both since `begin`.
        """
        return self._holds(self._decisions(messages, requests))

    def reported(self, reports: int) -> bool:
        """Whether the `reports` sent to exec since `begin` are journaled, and signals and risk know the journal."""
        known = self._holds(self._reports(reports))
        if known:
            self._refused = self._peers["risk"]["rejected"]
        return known

    def _decisions(self, messages: int, requests: int) -> Iterator[tuple[Peer, str, int, int]]:
        """(stage, what, how much it has, how much it should have), in the order in which they must be read."""
        feed, signals, risk, execution = (self._peers[name] for name in COUNTED)
        yield feed, "messages", feed["messages"], messages
        ticks = feed["ticks"] - feed["ticks_held_by_pause"]
        yield signals, "ticks", signals["ticks"], ticks
        yield risk, "ticks", risk["ticks"], ticks
        yield risk, "signals", risk["signals"], signals["signals_new"] + signals["signals_cancel"]
        yield execution, "orders", execution["orders_received"], risk["approved"] + risk["cancels"]
        sent = execution["orders_sent"] + execution["cancels_sent"]
        # More than that when exec has repeated a cancel, which it does not count.
        yield execution, "requests at the exchange", max(0, sent - requests), 0

    def _reports(self, reports: int) -> Iterator[tuple[Peer, str, int, int]]:
        _, signals, risk, execution = (self._peers[name] for name in COUNTED)
        yield execution, "messages of the exchange", execution["venue_messages"], reports
        journaled = execution["journal_entries"]
        yield signals, "reports", signals["reports"], journaled
        yield risk, "reports", risk["reports"], journaled
        if risk["rejected"] > self._refused:
            yield signals, "unanswered signals", signals.now("signals_unanswered"), 0

    def _holds(self, figures: Iterator[tuple[Peer, str, int, int]]) -> bool:
        for peer, what, has, wanted in figures:
            if has != wanted:
                again = ": it was started anew, so begin again" if peer.restarted else ""
                self.waiting = f"{peer.name} has {has} of {wanted} {what}{again}"
                return False
            if not peer.idle:
                self.waiting = f"{peer.name} is busy, or not READY"
                return False
        self.waiting = ""
        return True
