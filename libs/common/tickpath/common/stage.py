"""The hot process of a service: one thread that receives, runs the kernel and sends, in three phases.

Start-up: claim the name, place the process, warm up (every kernel runs once with real types), lock the memory,
freeze the collector; only then READY. Main loop: wait for input, `Stage.turn`. Shut-down: SIGTERM means drain —
take nothing new, finish what is open, exit 0; a second SIGTERM means leave now. The loop speaks to nobody but its
links and its pages: no HTTP, no Redis, no logs (what must be said before READY goes to stderr, for the side process).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import zmq

from tickpath.common import process
from tickpath.common.clock import now_ns
from tickpath.common.config import Config, ConfigError, load_config
from tickpath.common.instruments import InstrumentError
from tickpath.common.jit import direct
from tickpath.common.kernels.zeromq import POLL_ITEM, wait
from tickpath.common.links import LinkError, make_context
from tickpath.common.pages import (
    Command,
    Control,
    Hot,
    HotPage,
    HotState,
    Page,
    PageError,
    commands,
    side_page_path,
    write_text,
)
from tickpath.common.process import EXIT_USAGE, StartError

_TEND_NS = 25_000_000  # links are tended this often while busy, and whenever nothing came for `process.poll_ms`
_CONNECTED_NS = 1_000_000_000
_NOTE_NS = 5_000_000  # pauses are attributed with this precision while busy; a reading costs 3 µs

_wait = direct(wait)
_BUSY, _LAST_WORK_NS = int(Hot.BUSY), int(Hot.LAST_WORK_NS)  # looking up a name of an enumeration takes 0.3 µs
_TURNS, _LAST_TURN_NS = int(Hot.TURNS), int(Hot.LAST_TURN_NS)

#: Those of `Stage.inputs` that can be read.
Ready = tuple[Any, ...]


class Stage(HotPage):
    """What a service adds to the loop. Subclasses set the class attributes and implement `turn`."""

    def __init__(self, config: Config, context: zmq.Context[Any], page: Page, side: Page | None) -> None:
        self.config = config
        self.context = context
        self.page = page
        self.side = side
        self.counts = page["counters"]
        self.hist = page["hist"]
        self.epoch = int(page["hot"][Hot.EPOCH])

    def inputs(self) -> Sequence[Any]:
        """Sockets and file descriptors whose readability wakes the loop."""
        return ()

    def warm_up(self) -> None:
        """Run every kernel once with real types, touch all memory. Raises StartError."""

    def turn(self, now: int, ready: Ready) -> bool:
        """Take what is there from the inputs that are `ready` and pass it on; True to be called again at once.

        Without any input it is called every `process.poll_ms`.
        """
        raise StartError(f"stage {self.name} does nothing")

    def tend(self, now: int) -> None:
        """Acknowledge, ask again, heartbeat: what need not be done in the same moment."""

    def command(self, what: Command, now: int) -> None:
        """Act on a command of the side process other than DRAIN."""

    def connected(self, now: int) -> bool:
        """Whether every peer that this stage needs is there."""
        del now
        return True

    def begin_drain(self, now: int) -> None:
        """Take nothing new from now on."""

    def drained(self, now: int) -> bool:
        """Whether nothing is open any more and the process may exit."""
        del now
        return True

    def close(self) -> None:
        """Close what was opened."""


class CompiledStage(Stage):
    """A stage whose loop is compiled: it leaves nopython code only for what `tend` and `command` do."""

    def run(self, until_ns: int) -> bool:
        """Work until `until_ns` (CLOCK_MONOTONIC), or return earlier when nothing comes; True when there was work.

        A signal must end a sleep: Python sees it when this returns.
        """
        raise StartError(f"stage {self.name} has no loop")


class _Polled:
    """The loop of a stage whose inputs are sockets: wait, then one turn."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._sources = tuple(stage.inputs())
        self._items = np.zeros(len(self._sources), dtype=POLL_ITEM)
        for item, source in zip(self._items, self._sources, strict=True):
            item["events"] = zmq.POLLIN
            if isinstance(source, int):
                item["fd"] = source
            else:
                item["socket"] = source.underlying
        self._revents = self._items["revents"]
        self._seen: dict[bytes, Ready] = {}
        wait(self._items, 0)  # types are checked here, once
        self._hot = stage.page["hot"]
        self._poll_ms = stage.config.process.poll_ms
        self._again = False

    def run(self, until_ns: int) -> bool:
        """One turn; True when an input was ready."""
        del until_ns
        n_ready = _wait(self._items, 0 if self._again else self._poll_ms)
        ready = self._ready() if n_ready else ()
        self._hot[_BUSY] = 1
        now = now_ns()
        self._again = self._stage.turn(now, ready)
        return bool(ready)

    def _ready(self) -> Ready:
        flags = self._revents.tobytes()
        if flags not in self._seen:
            self._seen[flags] = tuple(s for s, flag in zip(self._sources, self._revents, strict=True) if flag)
        return self._seen[flags]


class _Stop:
    """SIGTERM counted: one asks to drain, a second one asks to leave.

    A signal to the whole process group comes once from there and once from the side process, which passes its own
    on: what comes within half a second is the same request.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._first_ns = 0
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the side process, which decides

    def _on_signal(self, *_: object) -> None:
        if self.asked and now_ns() - self._first_ns > 500_000_000:
            os._exit(1)
        if not self.asked:
            self.asked, self._first_ns = 1, now_ns()


def run_hot(stage_type: type[Stage]) -> int:
    """Life of a hot process; returns its exit status. The side process is its parent."""
    process.die_with_parent()
    process.widen()
    stop = _Stop()
    try:
        config = load_config()
        # When a side process was killed, its hot one is still draining.
        claimed = process.claim(config.run_dir, f"{stage_type.name}.hot", config.exec.drain_timeout_ms / 1000 + 2)
    except (ConfigError, process.AlreadyRunningError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - before the loop, for the side process
        return EXIT_USAGE
    setup = process.Setup()
    process.renice(setup, config.process.nice)
    # The I/O thread inherits niceness and cores of whoever starts it: it comes after the one and before the other.
    context = make_context(config.links.io_cores)
    try:
        page = stage_type.create_page(config)
    except InstrumentError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before the loop, for the side process
        context.destroy(linger=0)
        return EXIT_USAGE
    hot = page["hot"]
    hot[Hot.PID], hot[Hot.EPOCH], hot[Hot.STARTED_NS] = os.getpid(), time.time_ns(), now_ns()
    hot[Hot.STATE] = HotState.WARMING
    try:
        stage = _start(stage_type, config, context, page, setup)
    except (StartError, LinkError, InstrumentError, ConfigError, PageError) as error:
        write_text(page, "error", str(error))
        hot[Hot.STATE] = HotState.FAILED
        print(error, file=sys.stderr)  # noqa: T201 - before the loop, for the side process
        context.destroy(linger=0)
        return EXIT_USAGE
    try:
        _loop(stage, stop, hot)
    finally:
        stage.close()
        context.destroy(linger=200)
        hot[Hot.STATE] = HotState.STOPPED
        os.close(claimed)
    return 0


def _start(
    stage_type: type[Stage], config: Config, context: zmq.Context[Any], page: Page, setup: process.Setup
) -> Stage:
    side = None
    with contextlib.suppress(PageError):
        side = Page.open(side_page_path(config.run_dir, stage_type.name))
    process.pin(setup, getattr(config.cores, stage_type.name))
    stage = stage_type(config, context, page, side)
    stage.warm_up()
    if config.process.lock_memory:
        process.lock_memory(setup)
    hot = page["hot"]
    hot[Hot.CORES_MASK] = sum(1 << core for core in setup.cores)
    hot[Hot.NICE], hot[Hot.LOCKED_BYTES] = setup.nice, setup.locked_bytes
    write_text(page, "notes", "; ".join(setup.notes))
    return stage


def _loop(stage: Stage, stop: _Stop, hot: Any) -> None:
    run = stage.run if isinstance(stage, CompiledStage) else _Polled(stage).run
    watch = process.Watch(stage.page)
    control = stage.side["control"] if stage.side is not None else None
    seen = int(control[Control.COMMAND_SEQ]) if control is not None else 0
    poll_ns = stage.config.process.poll_ms * 1_000_000
    draining = False
    tended = asked = noted = 0
    watch.ready()
    hot[Hot.READY_NS], hot[Hot.STATE] = now_ns(), HotState.READY
    turns = 0
    now = now_ns()
    try:
        while True:
            worked = run(now + poll_ns)
            now = now_ns()
            if worked:
                hot[_LAST_WORK_NS] = now
            turns += 1
            hot[_TURNS], hot[_LAST_TURN_NS] = turns, now
            if now - noted >= _NOTE_NS:
                noted = now
                watch.note()
            # Not right behind a turn: what one input has begun, the next one usually goes on with.
            if not worked or now - tended >= _TEND_NS:
                tended = now
                stage.tend(now)
                if control is not None and control[Control.COMMAND_SEQ] > seen:
                    for number, what in commands(control, seen):
                        if what is Command.DRAIN:
                            stop.asked = max(stop.asked, 1)
                        else:
                            stage.command(what, now)
                        hot[Hot.COMMAND_SEEN] = seen = number
                if stop.asked and not draining:
                    draining = True
                    hot[Hot.STATE] = HotState.DRAINING
                    stage.begin_drain(now)
                if draining and stage.drained(now):
                    break
                if now - asked >= _CONNECTED_NS:
                    asked = now
                    hot[Hot.CONNECTED] = stage.connected(now)
                watch.tend(now, idle=not worked)
            hot[_BUSY] = 0
    finally:
        watch.close()
