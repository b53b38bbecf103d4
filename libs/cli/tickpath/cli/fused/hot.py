"""The fused lane's hot process: the four stages in one compiled loop, from the datagram to the order's last byte.

Started by exec's side process in place of exec's own loop. It keeps the pages of all four services, so their side
processes, endpoints and commands are those of the other lanes; the journal is exec's, and risk's limits are risk's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import zmq

from tickpath.cli.fused.chain import Chain
from tickpath.cli.fused.kernels.chain import live
from tickpath.cli.fused.layout import Reg, Why
from tickpath.common import process
from tickpath.common.clock import now_ns
from tickpath.common.config import Config
from tickpath.common.pages import (
    Command,
    Control,
    Hot,
    HotPage,
    HotState,
    Page,
    PageError,
    add_note,
    commands,
    side_page_path,
)
from tickpath.common.process import StartError
from tickpath.common.ring import choose_wait, wait_at_socket
from tickpath.common.stage import CompiledStage, run_hot
from tickpath.common.taps import Tap
from tickpath.exec.core import ExecCore, ExecPage
from tickpath.exec.kernels.session import Leave
from tickpath.exec.layout import GatewayState
from tickpath.feed.core import FeedCore, FeedPage
from tickpath.feed.layout import Count
from tickpath.risk.core import RiskCore, RiskPage
from tickpath.risk.kernels.risk import apply_ticks
from tickpath.risk.state import Core
from tickpath.signals.core import SignalsCore, SignalsPage

_STUCK_S: Final = 0.001  # between two tries to get room in the journal
_OWN_WORDS: Final = (Hot.DIGEST, Hot.DIGESTED, Hot.COMMAND_SEEN, Hot.BUSY)  # of a page that mirrors the process
_LEAVES: Final = {Why.FLUSH: Leave.FLUSH, Why.SEND: Leave.FLUSH, Why.SESSION: Leave.SESSION, Why.QUERY: Leave.QUERY}


class _Guest:
    """A service whose stage runs here, without a process of its own: its page, the commands of its side process."""

    def __init__(self, config: Config, kind: type[HotPage]) -> None:
        self.name = kind.name
        timeout_s = config.exec.drain_timeout_ms / 1000 + 2
        self._claim = process.claim(config.run_dir, f"{self.name}.hot", timeout_s)
        self.page = kind.create_page(config, lane="fused")
        self.side: Page | None = None
        self._side_path = side_page_path(config.run_dir, self.name)
        self._side_inode = self._seen = 0
        self.find_side()

    def find_side(self) -> bool:
        """Open the page of a side process that was not there before or is another one now; True when it was."""
        with contextlib.suppress(OSError, PageError):
            inode = self._side_path.stat().st_ino  # not given to another file while we have this one mapped
            if inode != self._side_inode:
                self.side = Page.open(self._side_path)
                self._side_inode = inode
                self._seen = int(self.side["control"][Control.COMMAND_SEQ])
                return True
        return False

    def mirror(self, hot: Any) -> None:
        """The process is the same: state, turns, memory and pauses stand in every page."""
        mine = self.page["hot"]
        kept = [int(mine[word]) for word in _OWN_WORDS]
        mine[:] = hot
        for word, value in zip(_OWN_WORDS, kept, strict=True):
            mine[word] = value

    def commands(self) -> Iterator[Command]:
        """Those that have come since the last call; each is noted as done when the next one is asked for."""
        if self.side is None or self.side["control"][Control.COMMAND_SEQ] <= self._seen:
            return
        for number, what in commands(self.side["control"], self._seen):
            self._seen = number
            yield what
            self.page["hot"][Hot.COMMAND_SEEN] = number

    def close(self) -> None:
        """The page says that nobody is there any more."""
        self.page["hot"][Hot.STATE] = HotState.STOPPED
        os.close(self._claim)


class Fused(ExecPage, CompiledStage):
    """feed, signals, risk and exec in one loop. Its own page is exec's."""

    @classmethod
    def extra_meta(cls, config: Config) -> dict[str, Any]:
        """Which lane this is."""
        del config
        return {"lane": "fused"}

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        super().__init__(config, context, page, side)
        try:
            self.guests = {kind.name: _Guest(config, kind) for kind in (FeedPage, SignalsPage, RiskPage)}
        except process.AlreadyRunningError as error:
            raise StartError(str(error)) from None
        feed, signals, risk = self.guests.values()
        for guest in self.guests.values():
            guest.mirror(page["hot"])
        self.feed = FeedCore(config, feed.page, feed.side)
        self.signals = SignalsCore(config, signals.page, signals.side)
        self.risk = RiskCore(config, risk.page, risk.side)
        self.exec = ExecCore(config, page, side)
        self.chain = Chain(
            self.feed.state, self.signals.engine, self.risk.state, self.exec.orders,
            feed_hist=self.feed.hop, risk_counters=risk.page["counters"],
            controls={"feed": self.feed.control, "risk": self.risk.control},
            hots={name: guest.page["hot"] for name, guest in self.guests.items()} | {"exec": page["hot"]},
        )  # fmt: skip
        w = self.chain.words
        w[Reg.LINES] = self.feed.lines.words.ctypes.data
        self._taps = {
            stream: Tap(config, stream, int(self.guests[maker].page["hot"][Hot.EPOCH]))
            for stream, maker in (("ticks", "feed"), ("signals", "signals"), ("orders", "risk"))
        }
        for stream, tap in self._taps.items():
            w[Reg[f"TAP_{stream.upper()}"]] = tap.address
        w[Reg.HOLD_SENDING] = config.exec.journal_fsync == "always"
        self._choose_wait(config, w)
        self._held = False  # orders of risk wait for room in the journal

    def _choose_wait(self, config: Config, w: Any) -> None:
        # Pinned, it has a core, and who is not on it has the others that were given; else one is left to everybody.
        given = {core for name in type(config.cores).model_fields for core in getattr(config.cores, name)}
        cores = len(given) if config.cores.exec else len(os.sched_getaffinity(0)) - 1
        strategy, note = choose_wait(config.process.wait, 1, cores)
        w[Reg.SPIN_NS], w[Reg.YIELD] = wait_at_socket(strategy)
        self._wait_note = note

    def warm_up(self) -> None:
        """Every stage's own warm-up, then the journal of the day."""
        for core in (self.feed, self.signals, self.risk, self.exec):
            core.warm_up()
        now = now_ns()
        self.risk.state.core[Core.READY] = 1
        self.chain.follow_journal(now)
        self.signals.mute(caught_up=True)
        self._live(now)  # once, with the time already over: nothing is left to be made at the first tick
        self._mirror()

    def run(self, until_ns: int) -> bool:
        """The loop, until `until_ns` or idle; what it leaves to Python is done in between."""
        worked = False
        while True:
            if self._held and not self._submit_late(now_ns()):
                self.exec.gateway.receive(now_ns())  # its heartbeats
                time.sleep(_STUCK_S)
                return worked
            why = self._live(until_ns)
            now = now_ns()
            wanted = self.feed.repair.wanted
            if wanted:
                self._follow_market(now)
            if why in (Why.IDLE, Why.TIME) and (not wanted or now >= until_ns):
                return worked or why is Why.TIME
            worked = True
            self._settle(why, now)
            if now >= until_ns:
                return True

    def _live(self, until_ns: int) -> Why:
        chain, receiver = self.chain, self.feed.receiver
        chain.words[Reg.VENUE_FD] = self.exec.gateway.compiled_fd
        return Why(
            live(
                chain.words, chain.risk.context, chain.orders.ctx, chain.feed, receiver.buffer, receiver.messages,
                receiver.lengths, until_ns,
            )
        )  # fmt: skip

    def _follow_market(self, now: int) -> None:
        """What the state of the market data channel asks for; the ticks that come of it wait for the strategies."""
        w = self.chain.words
        if w[Reg.TICK_AT] < w[Reg.TICK_END]:
            return
        n = self.feed.follow(now, self.chain.ticks)
        if n and self.feed.control[Control.PAUSED]:
            self.feed.counts[Count.TICKS_HELD_BY_PAUSE] += n
        elif n:
            ticks = self.chain.ticks[:n]
            ticks["decoded_ns"] = now
            apply_ticks(self.risk.state.context, ticks)
            w[Reg.TICK_AT], w[Reg.TICK_END] = 0, n

    def _settle(self, why: Why, now: int) -> None:
        if why in (Why.IDLE, Why.TIME, Why.MARKET):
            return
        if why is Why.LIMITS:
            self._take_limits(now)
        elif why in _LEAVES:
            self.exec.orders.publish()  # on disk, where that is asked for, before the bytes leave
            self.exec.gateway.resume(_LEAVES[why], now)
        elif not self.chain.settle(why, now):
            self._held = True  # no room in the journal

    def _submit_late(self, now: int) -> bool:
        """Orders that have waited for room in the journal: of those, new ones are refused. False while there is none.

        Everything behind them waits too: a tick that comes meanwhile is old when there is room.
        """
        w = self.chain.words
        waiting = self.risk.out[w[Reg.ORDER_AT] : w[Reg.ORDER_END]]
        w[Reg.ORDER_AT] += self.exec.gateway.submit(waiting, now, late=True)
        self._held = bool(w[Reg.ORDER_AT] < w[Reg.ORDER_END])
        return not self._held

    def _show(self) -> None:
        if self._wait_note:  # behind the notes of the process, which stand there once it is READY
            add_note(self.page, self._wait_note)
            self._wait_note = ""
        w = self.chain.words
        self.exec.show(held=int(w[Reg.ORDER_END] - w[Reg.ORDER_AT]) if self._held else 0, unacked=0)
        self._mirror()

    def _take_limits(self, now: int) -> None:
        if self.risk.take_limits():
            self._cancel(now)

    def _cancel(self, now: int) -> None:
        """Cancels of HALTED scopes go to exec at once, behind what waits."""
        w = self.chain.words
        if w[Reg.ORDER_AT] >= w[Reg.ORDER_END] and (n := self.risk.cancel(now)):
            w[Reg.ORDER_AT], w[Reg.ORDER_END] = 0, n
            self._taps["orders"].put_at(w[Reg.ORDERS], n)

    def tend(self, now: int) -> None:
        """Gateway, limits, kill switches, commands of the side processes, pages."""
        self.exec.follow_pause()
        self.exec.orders.publish()
        self.exec.gateway.note(now)
        self.exec.gateway.tend(now)
        if self.exec.gateway.compiled_fd < 0:
            self.exec.gateway.receive(now)  # the session belongs to Python until it stands
        self.chain.follow_journal(now)
        self.risk.state.core[Core.READY] = 1
        self._take_limits(now)
        if self.risk.is_cancelling():
            self._cancel(now)
        self.signals.mute(caught_up=True)
        for guest in self.guests.values():
            self._obey(guest)
        self.feed.tend(now)
        self.risk.count()
        self._show()

    def _obey(self, guest: _Guest) -> None:
        for what in guest.commands():
            if what is Command.DRAIN and not self.signals.draining:
                signal.raise_signal(signal.SIGTERM)  # they share a process: where one drains, all do
            if guest.name == "feed":
                self.feed.command(what)
            elif guest.name == "risk" and what is Command.CANCEL_ALL:
                self.risk.cancel_all = True

    def command(self, what: Command, now: int) -> None:
        """CANCEL_ALL: take back every open order."""
        self.exec.command(what, now)

    def _mirror(self) -> None:
        for guest in self.guests.values():
            guest.mirror(self.page["hot"])

    def connected(self, now: int) -> bool:
        """Whether the venue takes orders. Asked every second: time to look for new side processes."""
        del now
        for guest in self.guests.values():
            if guest.find_side():
                self._follow_side(guest)
        return self.exec.gateway.state == GatewayState.READY

    def _follow_side(self, guest: _Guest) -> None:
        """Obey the side process that keeps this page, and nobody who kept an older one."""
        assert guest.side is not None  # noqa: S101 - it has just been opened
        control = guest.side["control"]
        if guest.name == "signals":
            self.signals.control = control
        elif guest.name == "feed":
            self.feed.obey(guest.side)
            self.chain.words[Reg.FEED_CONTROL] = control.ctypes.data
        else:
            self.risk.follow(guest.side)
            self.chain.words[Reg.RISK_CONTROL] = control.ctypes.data

    def begin_drain(self, now: int) -> None:
        """No new orders from now on; cancel what is open."""
        self.signals.draining = True
        self.chain.words[Reg.RISK_DRAINING] = 1
        self.exec.begin_drain(now)

    def drained(self, now: int) -> bool:
        """Whether every order is terminal, or the time for that is over."""
        return self.exec.drained(now, unacked=0)

    def close(self) -> None:
        """Log out, close the sockets, write the journal to disk."""
        self.chain.follow_journal(now_ns())
        self.risk.count()
        self._show()
        for guest in self.guests.values():
            guest.close()
        self.exec.gateway.close()
        self.feed.close()
        for tap in self._taps.values():
            tap.close()
        self.exec.orders.journal.close()


if __name__ == "__main__":
    sys.exit(run_hot(Fused))
