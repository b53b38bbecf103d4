"""What a process asks of the system is read back, and a name belongs to one process at a time."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickpath.common.jit import inlined
from tickpath.common.pages import (
    N_PAUSES,
    Command,
    Hot,
    HotState,
    Page,
    PauseKind,
    command,
    create_hot_page,
    create_side_page,
    hot_page_path,
    read_pauses,
)
from tickpath.common.process import PARENT_ENV, AlreadyRunningError, PauseLog, Setup, Watch, claim, pin, renice


def test_a_name_is_claimed_once_and_free_again_when_its_holder_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tickpath.common.process import claim\n"
        "claim(Path(sys.argv[1]), 'feed.hot'); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunningError, match=r"a process 'feed.hot' runs on .* already"):
            claim(tmp_path, "feed.hot")
        os.close(claim(tmp_path, "signals.hot"))
        threading.Timer(0.2, holder.kill).start()
        os.close(claim(tmp_path, "feed.hot", wait_s=30))


def test_a_process_whose_parent_has_ended_before_it_could_ask_ends_too() -> None:
    """And one whose parent lives goes on: the second line."""
    child = (
        "import sys; sys.stdin.read(); from tickpath.common.process import die_with_parent as d; d(); print('alive')"
    )
    parent = (
        "import os, subprocess, sys\n"
        f"env = {{**os.environ, {PARENT_ENV!r}: str(os.getpid())}}\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], env=env, stdin=int(sys.argv[1]))\n"
        "if sys.argv[2] == 'stay': child.wait()"
    )
    for how, said in (("go", ""), ("stay", "alive\n")):
        waits, goes_on = os.pipe()
        command = [sys.executable, "-c", parent, str(waits), how]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(waits,)) as process:
            os.close(waits)
            if how == "go":
                process.wait(30)
            os.close(goes_on)
            assert process.stdout is not None
            assert process.stdout.read() == said  # until nobody holds the other side any more


def test_cores_that_are_not_there_are_refused_with_those_that_are() -> None:
    setup = Setup()
    pin(setup, (4095,))
    assert setup.cores == tuple(sorted(os.sched_getaffinity(0)))
    assert "allowed here are" in setup.notes[0]


def test_niceness_is_read_back_whatever_the_system_allowed() -> None:
    setup = Setup()
    before = os.getpriority(os.PRIO_PROCESS, 0)
    renice(setup, before)
    assert setup.nice == before
    assert setup.notes == []


class Nothing(IntEnum):
    NOTHING = 0


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return create_hot_page(tmp_path, "feed", Nothing, Nothing)


@pytest.fixture
def watch(page: Page) -> Iterator[Watch]:
    made = Watch(page)
    made.ready()
    yield made
    made.close()


def rows(page: Page, kind: PauseKind) -> Any:
    pauses, _ = read_pauses(page)
    return pauses[pauses["kind"] == kind]


def test_collections_and_usage_are_counted_in_the_page(page: Page, watch: Watch) -> None:
    hot = page["hot"]
    watch.garbage.idle()
    watch.garbage.idle()
    watch.usage.update()
    assert hot[Hot.GC_COUNT] == 2
    assert hot[Hot.GC_PAUSE_NS] >= hot[Hot.GC_PAUSE_MAX_NS] > 0
    assert hot[Hot.RSS_BYTES] > 1_000_000
    assert hot[Hot.RSS_READY_BYTES] > 1_000_000


def test_the_collector_is_frozen_and_off_while_trading_and_as_before_afterwards(page: Page) -> None:
    watch = Watch(page)
    watch.ready()
    try:
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 1000
        kept = [[i] for i in range(100_000)]  # enough to start a collection of a collector that is on
        assert page["hot"][Hot.GC_COUNT] == 0
        del kept
    finally:
        watch.close()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_only_idle_time_is_collected_in_and_only_the_young_generation(page: Page, watch: Watch) -> None:
    seen: list[int] = []

    def see(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            seen.append(info["generation"])

    gc.callbacks.append(see)
    try:
        second = 1_000_000_000
        watch.tend(100 * second, idle=False)
        assert page["hot"][Hot.GC_COUNT] == 0
        for at in (100, 105, 109, 111):
            watch.tend(at * second, idle=True)
    finally:
        gc.callbacks.remove(see)
    assert seen == [0, 0]  # at 100 and 111: once in 10 s


def test_a_collection_is_logged_with_its_begin_and_end(page: Page, watch: Watch) -> None:
    before = time.monotonic_ns()
    gc.collect()
    after = time.monotonic_ns()
    (pause,) = rows(page, PauseKind.COLLECTION)
    assert before <= pause["begin_ns"] < pause["end_ns"] <= after
    assert pause["lost_ns"] == pause["end_ns"] - pause["begin_ns"]
    assert pause["count"] == 1


def test_a_compilation_after_ready_is_counted_once_whatever_it_compiles_on_the_way(page: Page, watch: Watch) -> None:
    @inlined
    def inner(x: int) -> int:
        return x + 1

    @inlined
    def outer(x: int) -> int:
        return int(inner(x) * 2)

    assert outer(1) == 4
    assert outer(2) == 6
    assert page["hot"][Hot.COMPILATIONS] == 1
    (pause,) = rows(page, PauseKind.COMPILATION)
    assert page["hot"][Hot.COMPILE_NS] == pause["lost_ns"] > 0


def test_what_is_compiled_before_ready_or_after_the_end_is_no_pause(page: Page) -> None:
    @inlined
    def early(x: int) -> int:
        return x + 1

    @inlined
    def late(x: int) -> int:
        return x + 2

    watch = Watch(page)
    early(1)
    watch.ready()
    early(2)
    watch.close()
    late(1)
    gc.collect()
    assert page["hot"][Hot.COMPILATIONS] == 0
    assert len(rows(page, PauseKind.COMPILATION)) == 0
    assert len(rows(page, PauseKind.COLLECTION)) == 0


def test_a_thread_that_loses_its_core_finds_it_in_its_log(tmp_path: Path) -> None:
    """Two busy processes on one core: the scheduler must take it away from the watched one now and then."""
    code = (
        "import os, sys, time; from enum import IntEnum; from pathlib import Path\n"
        "from tickpath.common.pages import Hot, create_hot_page; from tickpath.common.process import Watch\n"
        "Nothing = IntEnum('Nothing', [])\n"
        "page = create_hot_page(Path(sys.argv[1]), 'feed', Nothing, Nothing)\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "parent = os.getpid()\n"
        "child = os.fork()\n"
        "while child == 0 and os.getppid() == parent: pass\n"
        "if child == 0: os._exit(0)\n"
        "watch = Watch(page); watch.ready(); until = time.monotonic() + 30\n"
        "while page['hot'][Hot.PAUSES] == 0 and time.monotonic() < until:\n"
        "    for _ in range(200_000): pass\n"
        "    watch.tend(time.monotonic_ns(), idle=False)\n"
        "watch.close(); os.kill(child, 9); os.waitpid(child, 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    page = Page.open(hot_page_path(tmp_path, "feed"))
    pauses, _ = read_pauses(page)
    lost = pauses[np.isin(pauses["kind"], (PauseKind.PREEMPTION, PauseKind.CORE_WAIT))]
    assert len(lost) > 0
    assert np.all(lost["begin_ns"] < lost["end_ns"])
    assert np.all(lost["count"] >= 1)


def test_the_ring_keeps_the_last_pauses_and_says_how_many_are_gone(page: Page) -> None:
    log = PauseLog(page["hot"], page["pauses"])
    pauses, gone = read_pauses(page)
    assert (len(pauses), gone) == (0, 0)
    for i in range(N_PAUSES + 10):
        log.add(PauseKind.COLLECTION, i, i + 1, 1, 1)
    pauses, gone = read_pauses(Page.open(page.path))
    assert gone == 11  # one more than were overwritten: the next row may be under way
    assert pauses["begin_ns"].tolist() == list(range(gone, N_PAUSES + 10))


HOT = """
import gc, os, sys
from enum import IntEnum
from tickpath.common.jit import inlined
from tickpath.common.pages import Command
from tickpath.common.stage import Stage, run_hot

class Nothing(IntEnum):
    NOTHING = 0

@inlined
def not_warm(x):
    return x + 1

class Forced(Stage):
    name, counters, histograms = "feed", Nothing, Nothing

    def inputs(self):
        return (os.pipe()[0],)

    def turn(self, now, ready):
        return False

    def command(self, what, now):
        gc.collect() if what is Command.CANCEL_ALL else not_warm(7)

sys.exit(run_hot(Forced))
"""


def test_a_hot_process_has_its_collections_and_compilations_in_its_page(tmp_path: Path) -> None:
    """A real one: two full collections and a compilation are forced by commands, while it says that it is ready."""
    side = create_side_page(tmp_path, "feed")
    environment = {**os.environ, "TICKPATH_RUN_DIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", HOT], env=environment) as hot_process:
        try:
            until = time.monotonic() + 120

            def wait_for(index: Hot, value: int) -> Page:
                while time.monotonic() < until and hot_process.poll() is None:
                    if hot_page_path(tmp_path, "feed").exists():
                        page = Page.open(hot_page_path(tmp_path, "feed"))
                        if page["hot"][index] >= value:
                            return page
                    time.sleep(0.02)
                pytest.fail(f"{index.name} has not reached {value}")

            page = wait_for(Hot.STATE, HotState.READY)
            assert page["hot"][Hot.COMPILATIONS] == 0
            for what in (Command.CANCEL_ALL, Command.CANCEL_ALL, Command.START):
                wait_for(Hot.COMMAND_SEEN, command(side, what))
        finally:
            hot_process.terminate()
            assert hot_process.wait(60) == 0
    full = rows(page, PauseKind.COLLECTION)
    assert len(full) == page["hot"][Hot.GC_COUNT] >= 2
    assert full["lost_ns"].sum() == page["hot"][Hot.GC_PAUSE_NS]
    assert len(rows(page, PauseKind.COMPILATION)) == page["hot"][Hot.COMPILATIONS] == 1
    pauses, gone = read_pauses(page)
    assert gone == 0
    assert np.all(pauses["begin_ns"] >= page["hot"][Hot.STARTED_NS])
    assert page["hot"][Hot.RSS_BYTES] >= page["hot"][Hot.RSS_READY_BYTES] // 2 > 0
